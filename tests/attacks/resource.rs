//! Attacks on what a machine has: processes, memory, disk, descriptors, time.

use super::*;

/// Python before an answer that would be right, if it were ever reached.
const BODIES: &[(&str, &str)] = &[
    ("fork bomb", "import os\nwhile True:\n    os.fork()"),
    (
        "process bomb",
        "import subprocess, sys\nwhile True:\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])",
    ),
    ("memory bomb", "x = [0]\nwhile True:\n    x += x"),
    ("small objects", "x = []\nwhile True:\n    x.append(bytearray(1 << 20))"),
    ("thread bomb", "import _thread, time\nwhile True:\n    _thread.start_new_thread(time.sleep, (99,))"),
    ("disk fill", "n = 0\nwhile True:\n    n += 1\n    open('attack-mark-%d' % n, 'wb').write(bytes(1 << 22))"),
    ("inode flood", "n = 0\nwhile True:\n    n += 1\n    open('attack-mark-%d' % n, 'w').close()"),
    ("sparse file", "open('attack-mark', 'wb').truncate(1 << 40)"),
    ("shared memory fill", "open('/dev/shm/attack-mark', 'wb').write(bytes(1 << 30))"),
    ("descriptors", "import os\nx = []\nwhile True:\n    x.append(os.pipe())"),
    ("endless output", "while True:\n    print('x' * 100000)"),
    ("one huge line", "import sys\nwhile True:\n    sys.stdout.buffer.write(b'\\xff' * (1 << 20))"),
    ("standard input", "input()"),
    ("busy loop", "while True:\n    pass"),
    ("sleep loop", "import time\nwhile True:\n    time.sleep(1)"),
    ("deep recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef g(): return [g()]\ng()"),
    ("regular expression", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
    ("a number without end", "x = 10 ** 10 ** 9"),
    (
        "tmpfs fill",
        "import os\nfd = os.open('attack-mark', os.O_CREAT | os.O_WRONLY)\nwhile True:\n    os.posix_fallocate(fd, 0, 1 << 40)",
    ),
    ("invalid UTF-8", "import os, sys\nos.write(1, b'\\xff' * 65536)\nprint('\\udcff')\nos.write(4, b'\\xff' * 65536)"),
    ("core dump", "import os\nos.abort()"),
    ("core dump by a bad pointer", "import ctypes\nctypes.string_at(0)"),
    ("pipe that nobody reads", "import os\nr, w = os.pipe()\nwhile True:\n    os.write(w, bytes(65536))"),
    ("folders without end", "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')"),
    ("locks", "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()"),
];

pub fn run(name: &str, body: &str) {
    let verdict = check(&split(), &format!("{body}\n{HONEST}"));
    assert_ne!(verdict.verdict, Outcome::Pass, "{name}");
    contained(name, word(&verdict));
}

pub fn body(name: &str) -> &'static str {
    BODIES.iter().find(|(other, _)| *other == name).map(|(_, body)| *body).unwrap()
}

#[test]
fn resources_are_bounded() {
    let turn = Turn::take();
    for (name, body) in BODIES {
        run(name, body);
    }
    locked();
    let flood = "def f(n):\n    import os\n    while True:\n        os.write(4, b'0fffffff' + bytes(1 << 20))";
    never_passes("a flood on the channel", flood);
    never_passes(
        "SIGTERM and SIGXCPU ignored",
        "import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT):\n    signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    );
    turn.clean();
}

/// A folder that its owner cannot open is removed all the same.
pub fn locked() {
    let verdict = check(&split(), &format!("import os\nos.mkdir('locked', 0)\n{HONEST}"));
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    contained("a folder that cannot be opened", "removed");
}
