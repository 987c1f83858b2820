//! Programs that attack the sandbox, the machine or the checker: each is contained, and none is ever a pass.
//!
//! An answer that tries to get out says itself what it met: its test passes only where every attempt was denied. The tests
//! of this file take turns, so that each can look whether the machine is as clean as before.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use repairity::problem::Checker;
use repairity::record::{Check, Extra, Outcome, Problem, Verdict};
use repairity::sandbox::Mode;

const LIMIT: f64 = 1.5;

fn checker() -> &'static Checker {
    static CHECKER: OnceLock<Checker> = OnceLock::new();
    CHECKER.get_or_init(|| {
        let checker = Checker::new(Mode::Strict, 2).unwrap();
        println!("layers: {}", checker.layers().join(", "));
        checker
    })
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn problem(tests: &[&str]) -> Problem {
    Problem {
        id: "attack".into(),
        suite: "attack".into(),
        kind: "attack".into(),
        difficulty: "hard".into(),
        prompt: String::new(),
        buggy: None,
        reference: None,
        language: "python".into(),
        check: Check::statements(tests.iter().map(|t| t.to_string()).collect(), LIMIT),
        split: None,
        extra: Extra::new(),
    }
}

/// Tests that are compared here, value by value.
fn split() -> Problem {
    problem(&["assert f(3) == [9, 'nine']", "assert f(4) == [16, 'sixteen']"])
}

/// Tests that run in a process of their own.
fn beside() -> Problem {
    problem(&["for n, w in ((3, 'nine'), (4, 'sixteen')):\n    assert f(n) == [n * n, w]", "assert abs(f(5)[0] - 25) < 1e-9"])
}

const HONEST: &str = "def f(n):\n    return [n * n, {3: 'nine', 4: 'sixteen', 5: ''}[n]]";

fn check(problem: &Problem, answer: &str) -> Verdict {
    let start = Instant::now();
    let verdict = checker().check(problem, answer).unwrap();
    // Reading the tests, starting and killing take their time on a loaded machine; hanging takes for ever.
    assert!(start.elapsed() < Duration::from_secs_f64(LIMIT + 20.0), "{verdict:?}");
    verdict
}

/// No process of ours is left, and nothing with our mark is on disk.
fn clean() {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let children = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        assert_eq!(children, "", "processes left running");
    }
    for folder in ["/tmp", "/dev/shm", "/var/tmp", "."] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let left: Vec<_> =
            entries.flatten().map(|e| e.file_name()).filter(|n| n.to_string_lossy().contains("attack-mark")).collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

fn never_passes(name: &str, answer: &str) {
    for problem in [split(), beside()] {
        let verdict = check(&problem, answer);
        assert_ne!(verdict.verdict, Outcome::Pass, "{name}");
        assert!(!verdict.reason.is_empty() && !verdict.reason.contains('\n'), "{name}: {verdict:?}");
    }
}

/// `attempt` is a function body that must raise; what it returns is what it got.
fn denied(name: &str, attempt: &str) {
    let body = attempt.replace('\n', "\n        ");
    let answer =
        format!("import os, sys\ndef f():\n    try:\n        {body}\n    except OSError as e:\n        return 'denied'\n");
    let verdict = check(&problem(&["assert f() == 'denied'"]), &answer);
    assert_eq!(verdict.verdict, Outcome::Pass, "{name}: {}", verdict.reason);
}

#[test]
fn an_honest_answer_passes_either_way() {
    let _turn = turn();
    assert_eq!(check(&split(), HONEST).verdict, Outcome::Pass);
    let verdict = check(&beside(), HONEST);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    clean();
}

#[test]
fn verdicts_say_what_happened() {
    let _turn = turn();
    let cases = [
        ("", Outcome::Refused, "no code"),
        (
            "def f(n):\n    return [n * n, 'nine']",
            Outcome::Fail,
            "test 2 of 2: assert f(4) == [16, 'sixteen']: got [16, \"nine\"]",
        ),
        ("def f(n:\n    return", Outcome::Error, "SyntaxError"),
        ("import nothing_of_that_name", Outcome::Error, "ModuleNotFoundError"),
        ("def g(n):\n    return n", Outcome::Fail, "NameError"),
        ("def f(n):\n    return 1 / 0", Outcome::Fail, "ZeroDivisionError"),
        ("def f(n):\n    return 'x' * (1 << 34)", Outcome::Memory, "MemoryError"),
        ("def f(n):\n    while True: pass", Outcome::Timeout, "1.5 s"),
        ("import ctypes\nctypes.string_at(0)", Outcome::Error, "signal 11"),
    ];
    for (answer, outcome, reason) in cases {
        let verdict = check(&split(), answer);
        assert_eq!(verdict.verdict, outcome, "{answer}: {verdict:?}");
        assert!(verdict.reason.contains(reason), "{answer}: {}", verdict.reason);
    }
    assert_eq!(check(&problem(&["assert f("]), HONEST).verdict, Outcome::Error);
    assert_eq!(check(&problem(&[]), HONEST).verdict, Outcome::Fail);
    clean();
}

#[test]
fn resources_are_bounded() {
    let _turn = turn();
    let bodies = [
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
    ];
    for (name, body) in bodies {
        let verdict = check(&split(), &format!("{body}\n{HONEST}"));
        assert_ne!(verdict.verdict, Outcome::Pass, "{name}");
        println!("{name}: {:?} {}", verdict.verdict, verdict.reason);
    }
    let flood = "def f(n):\n    import os\n    while True:\n        os.write(4, b'0fffffff' + bytes(1 << 20))";
    never_passes("a flood on the channel", flood);
    never_passes(
        "SIGTERM and SIGXCPU ignored",
        "import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT):\n    signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    );
    clean();
}

#[test]
fn nothing_gets_out() {
    let _turn = turn();
    // A variable of the host's that must not cross over.
    let secret = std::env::vars()
        .map(|(name, _)| name)
        .find(|n| !["PATH", "LANG", "LC_ALL", "TZ", "PYTHONHASHSEED"].contains(&n.as_str()));
    let home = std::env::var("HOME").unwrap_or("/root".into());
    let me = std::process::id();
    let attempts = [
        ("TCP", "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)\nreturn 'connected'".to_owned()),
        (
            "UDP",
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))\nreturn 'sent'".into(),
        ),
        ("DNS", "import socket\nsocket.gethostbyname('example.com')\nreturn 'resolved'".into()),
        ("abstract socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0attack-mark')\nreturn 'bound'".into()),
        ("raw socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn 'open'".into()),
        ("the host's environment", format!("return open('/proc/{me}/environ').read()")),
        ("the parent's environment", "return open('/proc/%d/environ' % os.getppid()).read()".into()),
        ("the first process", "return open('/proc/1/environ').read()".into()),
        ("the host's memory", format!("return open('/proc/{me}/mem', 'rb').read(1)")),
        ("the host's descriptors", format!("return os.listdir('/proc/{me}/fd')")),
        ("its own descriptors", "return os.listdir('/proc/self/fd')".into()),
        ("the home folder", format!("return os.listdir({home:?})")),
        ("keys", format!("return open({home:?} + '/.ssh/id_rsa').read()")),
        ("the shadow file", "return open('/etc/shadow').read()".into()),
        ("the password file", "return open('/etc/passwd').read()".into()),
        ("the root folder", "return os.listdir('/')".into()),
        ("a test's own source", format!("return open({:?}).read()", file!())),
        ("this repository", format!("return os.listdir({:?})", env!("CARGO_MANIFEST_DIR"))),
        ("the data", format!("return os.listdir({:?})", concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data"))),
        ("writing elsewhere", "open('/usr/attack-mark', 'w')\nreturn 'written'".into()),
        ("writing upwards", "open('../attack-mark', 'w')\nreturn 'written'".into()),
        ("writing through a link", "os.symlink('/etc/passwd', 'link')\nopen('link', 'a')\nreturn 'written'".into()),
        ("reading through a link", "os.symlink('/etc/shadow', 'link')\nreturn open('link').read()".into()),
        ("a hard link", "os.link(sys.executable, 'link')\nreturn 'linked'".into()),
        ("renaming out", "open('x', 'w').close()\nos.rename('x', '/var/attack-mark')\nreturn 'renamed'".into()),
        ("the interpreter", "open(sys.executable, 'r+b')\nreturn 'open'".into()),
        ("the standard library", "open(os.__file__, 'a')\nreturn 'open'".into()),
        ("modes", "os.chmod('/etc/passwd', 0o644)\nreturn 'changed'".into()),
        ("owners", "os.chown('/etc/passwd', 0, 0)\nreturn 'changed'".into()),
        ("times", "os.utime('/etc/passwd')\nreturn 'changed'".into()),
        ("a FIFO", "os.mkfifo('pipe')\nreturn 'made'".into()),
        ("a device", "os.mknod('device', 0o20666, os.makedev(1, 1))\nreturn 'made'".into()),
        ("kill everything", "os.kill(-1, 9)\nreturn 'killed'".into()),
        ("kill the parent", format!("os.kill({me}, 9)\nreturn 'killed'")),
        ("kill itself", "os.kill(os.getpid(), 15)\nreturn 'killed'".into()),
        ("fork", "os.fork()\nreturn 'forked'".into()),
        ("a daemon", "os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 99'], {})\nreturn 'spawned'".into()),
        ("a shell", "return 'ran' if os.system('true') == 0 else os.open('/', os.O_WRONLY)".into()),
        ("another root", "os.chroot('/tmp')\nreturn 'changed'".into()),
        ("another user", "os.setuid(12345)\nreturn 'changed'".into()),
        ("the terminal", "return os.open('/dev/tty', os.O_RDWR)".into()),
        ("memory that no limit counts", "return os.memfd_create('x')".into()),
        ("a setuid program", "os.execv('/bin/su', ['su'])".into()),
    ];
    for (name, attempt) in &attempts {
        // What is run in the place of the program ends it, which a check calls a failure: tried on its own below.
        if *name != "a setuid program" {
            denied(name, attempt);
        }
    }
    never_passes("a setuid program", &format!("import os\nos.execv('/bin/su', ['su', '-c', 'true'])\n{HONEST}"));
    let calls = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor number, args in CALLS:\n    ctypes.set_errno(0)\n    \
                 if libc.syscall(number, *args) != -1: return 'call %d worked' % number\nraise OSError";
    if cfg!(target_arch = "x86_64") {
        // ptrace, process_vm_readv, mount, unshare(user), setns, bpf, keyctl, add_key, perf_event_open, io_uring_setup,
        // shmget, kexec_load, socket by its x32 number, clone3, vfork, pidfd_open of the first process.
        let list = "[(101, (16, 1, 0, 0)), (310, (1, 0, 0, 0, 0, 0)), (165, (0, b'/', 0, 32, 0)), (272, (0x10000000,)), (308, (0, 0)), (321, (0, 0, 0)), (250, (0, 0)), (248, (b'user', b'x', b'y', 1, -3)), (298, (0, 0, -1, -1, 0)), (425, (1, 0)), (29, (0, 4096, 0o1600)), (246, (0, 0, 0, 0)), (0x40000029, (2, 1, 0)), (435, (0, 0)), (58, ()), (434, (1, 0))]";
        denied("system calls", &calls.replace("CALLS", list));
    }
    if let Some(secret) = secret {
        denied("a secret of the environment", &format!("if {secret:?} in os.environ: return 'there'\nraise OSError"));
    }
    let kept = "assert f() == ['LANG', 'LC_ALL', 'PATH', 'PYTHONHASHSEED', 'TZ']";
    let verdict = check(&problem(&[kept]), "import os\ndef f():\n    return sorted(os.environ)");
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    // It has its own folder, and a thread.
    let works = "import threading\ndef f():\n    open('x', 'w').write('kept')\n    out = []\n    t = threading.Thread(target=lambda: out.append(open('x').read()))\n    t.start()\n    t.join()\n    return out";
    let verdict = check(&problem(&["assert f() == ['kept']"]), works);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    clean();
}

#[test]
fn no_trick_makes_a_pass() {
    let _turn = turn();
    let equal = "class E:\n    __hash__ = None\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    def __sub__(s, o): return 0\n    def __rsub__(s, o): return 0\n    def __abs__(s): return 0\n    def __lt__(s, o): return True\n    def __le__(s, o): return True\n    def __getitem__(s, i): return E()\n    def __len__(s): return 2\n    def __iter__(s): return iter([E(), E()])\n";
    let answers = [
        ("exit at import", "import sys\nsys.exit(0)".to_owned()),
        ("exit in the call", "def f(n):\n    raise SystemExit(0)".into()),
        ("os._exit at import", "import os\nos._exit(0)".into()),
        ("os._exit in the call", "def f(n):\n    import os\n    os._exit(0)".into()),
        ("posix._exit", "import posix\nposix._exit(0)".into()),
        ("atexit", "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit(1)".into()),
        ("excepthook", "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n1/0".into()),
        ("quit", "quit = exit\ndef f(n):\n    raise KeyboardInterrupt".into()),
        ("always equal", format!("{equal}def f(n):\n    return E()")),
        ("always equal, inside", format!("{equal}def f(n):\n    return [E(), E()]")),
        ("an int that equals everything", "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n    def __sub__(s, o): return 0\ndef f(n):\n    return [I(0), I(1)]".into()),
        ("a list that equals everything", "class L(list):\n    def __eq__(s, o): return True\ndef f(n):\n    return L([0, 0])".into()),
        ("a text that equals everything", "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef f(n):\n    return [n * n, S('x')]".into()),
        ("patched equality", "import builtins, operator\nbuiltins.all = builtins.any = lambda *a: True\noperator.eq = lambda a, b: True\nbuiltins.isinstance = lambda *a: True\nbuiltins.repr = builtins.type = lambda *a: 1\ndef f(n):\n    return None".into()),
        ("no asserts", "import sys\nsys.flags\n__debug__\ndef f(n):\n    return None\nimport builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})".into()),
        ("a module in the way", "open('json.py', 'w').write('x')\nopen('ast.py', 'w').write('raise SystemExit(0)')\nimport sys\nsys.path.insert(0, '.')\ndef f(n):\n    return None".into()),
        ("skipping", "import unittest\ndef f(n):\n    raise unittest.SkipTest('no')".into()),
        ("NaN", "def f(n):\n    return [float('nan'), float('nan')]".into()),
        ("infinity", "def f(n):\n    return [float('inf'), 'nine']".into()),
        ("a thread that goes on", "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start()\ndef f(n):\n    time.sleep(9)".into()),
    ];
    for (name, answer) in &answers {
        never_passes(name, answer);
    }
    // Tests that would let an answer judge, or stop, themselves.
    let judged = [
        ("assert all(map(lambda n: f(n) == n * n, (3, 4)))", "def f(n):\n    raise StopIteration"),
        ("assert all(f(n) == n * n for n in (3, 4))", "def f(n):\n    raise StopIteration"),
        (
            "assert 9 in f(3)",
            "class C:\n    def __contains__(s, x): return True\n    def __iter__(s): return iter(())\ndef f(n):\n    return C()",
        ),
        ("assert f(3) > 8", "class C:\n    def __gt__(s, x): return True\ndef f(n):\n    return C()"),
        ("assert f(3) in (9,)", "class C:\n    def __eq__(s, x): return True\ndef f(n):\n    return C()"),
        ("assert f(3) != 8", "class C:\n    def __ne__(s, x): return True\ndef f(n):\n    return C()"),
        ("assert not f(3)", "class C:\n    def __bool__(s): return False\ndef f(n):\n    return C()"),
        (
            "import math\nassert math.isclose(f(3), 9)",
            "class C(float):\n    def __float__(s): return 9.0\ndef f(n):\n    return C(1)",
        ),
        ("assert (f(3) == 9) is True", "class C:\n    def __eq__(s, x): return True\ndef f(n):\n    return C()"),
        ("x = [1, 2]\nassert f(x) == [1, 2] + [3]", "def f(x):\n    x.append(3)\n    return 0"),
    ];
    for (test, answer) in judged {
        let verdict = check(&problem(&[test]), answer);
        assert_eq!(verdict.verdict, Outcome::Fail, "{test}: {verdict:?}");
    }
    // What the answer should give is nowhere in its process: not in a frame, an object, a descriptor or its own memory.
    let secret = [problem(&["assert f() == 'xyzzy-417'"]), problem(&["for w in ('xyzzy-417',):\n    assert f() == w"])];
    let seek = "import re, sys, os, gc\npattern = re.compile('xyzzy-[0-9]+')\ndef look(x):\n    found = pattern.search(repr(x))\n    return found and found.group()\n";
    let searches = [
        "frame = sys._getframe()\n    while frame:\n        for x in (frame.f_locals, frame.f_globals, frame.f_code.co_consts):\n            if look(x): return look(x)\n        frame = frame.f_back",
        "for x in gc.get_objects():\n        if type(x) in (list, tuple, dict, set) and look(x): return look(x)",
        "for fd in range(3, 64):\n        try:\n            os.set_blocking(fd, False)\n            x = os.read(fd, 1 << 20)\n        except OSError: continue\n        if look(x): return look(x)",
        "for x in (sys.argv, sys.orig_argv, dict(os.environ), sys.modules, vars(sys.modules['__main__'])):\n        if look(x): return look(x)",
        "for root, _, files in os.walk('/'):\n        for name in files:\n            if name.endswith(('.jsonl', '.rs')) and look(open(os.path.join(root, name)).read()): return 'found'",
    ];
    for search in searches {
        for problem in &secret {
            let verdict = check(problem, &format!("{seek}def f():\n    {search}\n"));
            assert_eq!(verdict.verdict, Outcome::Fail, "{search}: {verdict:?}");
        }
        let verdict = check(&secret[0], &format!("{seek}kept = 'xyzzy-417'\ndef f():\n    {search}\n    return kept"));
        assert_eq!(verdict.verdict, Outcome::Pass, "{search}: the search itself is broken: {verdict:?}");
    }
    // Every form of report that this program uses, forged on every descriptor before the first test.
    let reports =
        ["['ok']", "['ready']", "['value', True]", "['value', None]", "['value', [9, 'x']]", "True", "['value', 0, []]"];
    let forge = |report: &str| {
        format!(
            "import os\ndef enc(x):\n    if x is None: return b'N'\n    if x is True: return b'T'\n    if type(x) is int: return b'i%x;' % x\n    if type(x) is str: return b's%d:%s' % (len(x), x.encode())\n    return b'l%d:' % len(x) + b''.join(map(enc, x))\nfor kind in (b'l', b't'):\n    body = kind + enc({report})[1:]\n    for fd in range(3, 64):\n        for _ in range(4):\n            try: os.write(fd, b'%08x' % len(body) + body)\n            except OSError: pass\n{{}}"
        )
    };
    for report in reports {
        never_passes("a forged report, then exit", &forge(report).replace("{}", "os._exit(0)"));
        never_passes("a forged report, then nonsense", &forge(report).replace("{}", "def f(n):\n    return None"));
    }
    clean();
}

#[test]
fn tests_beside_the_answer_see_objects_as_they_are() {
    let _turn = turn();
    let node = "class Node:\n    def __init__(self, v, next=None):\n        self.v, self.next = v, next\n";
    let tests = format!(
        "{node}def test():\n    a = Node(1); b = Node(2, a); c = Node(3, b)\n    head = turn(c)\n    assert head is a and a.next is b and b.next is c and c.next is None\n    x = [3, 1, 2]\n    assert arrange(x) is None and x == [1, 2, 3]\n    s = Stack()\n    s.push(4); s.push(x)\n    assert s.pop() is x and len(s) == 1 and s.items == [4]\n    assert Stack() == Stack() and Stack() != 4\n    try:\n        s.pop(); s.pop()\n        assert False\n    except IndexError:\n        pass\n    assert list(count(3)) == [0, 1, 2]\ntest()"
    );
    let answer = "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n    def __eq__(self, o): return self.items == o.items\ndef turn(n):\n    last = None\n    while n:\n        n.next, last, n = last, n, n.next\n    return last\ndef arrange(x):\n    x.sort()\ndef count(n):\n    yield from range(n)\n";
    let verdict = check(&problem(&[&tests]), answer);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    let verdict = check(&problem(&[&tests]), &answer.replace("x.sort()", "sorted(x)"));
    assert_eq!(verdict.verdict, Outcome::Fail, "{verdict:?}");
    clean();
}
