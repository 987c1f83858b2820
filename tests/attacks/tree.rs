//! Attacks that take processes: what build tools and test commands may do, and a bomb or a daemon too.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use repairity::sandbox::{self, Ended, Folder, Limits, Memory, Output, Processes, Program};

use super::*;

/// A folder of the host's that a program works in.
pub struct Kept(PathBuf);

impl Kept {
    pub fn new() -> Kept {
        let folder = std::env::temp_dir().join(format!("{}-kept", mark()));
        fs::create_dir(&folder).unwrap();
        Kept(folder)
    }

    fn entries(&self) -> Vec<fs::DirEntry> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap()).collect()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        sandbox::remove(&self.0).unwrap();
    }
}

/// Runs Python that may start 16 processes of 256 MiB in all.
fn python(folder: Folder<'_>, code: &str, seconds: f64) -> Output {
    let found = checker().python();
    let code = code.replace("attack-mark", &mark()).replace("HOST", &std::process::id().to_string());
    let args = ["-I", "-S", "-B", "-c", &code];
    run(folder, &found.executable, &args, &found.reads, seconds)
}

fn run(folder: Folder<'_>, executable: &Path, args: &[&str], reads: &[PathBuf], seconds: f64) -> Output {
    let limits = Limits {
        memory: Memory::Resident(256 << 20),
        disk: 8 << 20,
        output: 1 << 16,
        ..Limits::of(Duration::from_secs_f64(seconds))
    };
    let environment = [("MARK", &*mark()), ("HOME", ".")];
    let program = Program {
        reads,
        folder,
        environment: &environment,
        processes: Processes::Tree(16),
        ..Program::new(executable, args, limits)
    };
    super::sandbox().run(&program, b"").unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const BOMBS: &[(&str, &str)] = &[
    ("fork bomb of processes", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    (
        "fork bomb of idle processes",
        "import os, time\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(99)\n    except OSError: pass",
    ),
    (
        "fork bomb of orphans",
        "import os, time\nwhile True:\n    try:\n        if os.fork() == 0:\n            if os.fork(): os._exit(0)\n            time.sleep(99)\n        os.wait()\n    except OSError: pass",
    ),
];

pub fn bombs() {
    for (name, code) in BOMBS {
        let output = python(Folder::Fresh, code, 20.0);
        assert_eq!((output.ended, output.over_processes), (Ended::Killed, true), "{name}: {output:?}");
        contained(name, "killed, more processes than it may have");
    }
    // Each is gone before it can be counted; so is the first, and with it all.
    let output = python(Folder::Fresh, "import os\nwhile True:\n    if os.fork(): os._exit(0)", 20.0);
    assert!(matches!(output.ended, Ended::Exit(0) | Ended::Killed), "{output:?}");
    contained("a chain of forks", format!("{:?}", output.ended));
}

pub fn daemons() {
    let daemon = "
import os, time
r, w = os.pipe()
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork(): os._exit(0)
    os.close(1); os.close(2)
    os.write(w, b'up')
    time.sleep(999)
os.write(1, os.read(r, 2))
";
    let output = python(Folder::Fresh, daemon, 20.0);
    assert_eq!((output.ended, &*said(&output)), (Ended::Exit(0), "up"));
    contained("a daemon by two forks, when its maker ends", "gone with its maker");
    let output = python(Folder::Fresh, &format!("{daemon}\ntime.sleep(99)"), 0.5);
    assert_eq!((output.ended, output.timed_out), (Ended::Killed, true));
    contained("a daemon by two forks, when time is over", "gone with its maker");
    let deaf = "import os, signal, time\nfor _ in range(4): os.fork()\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: time.sleep(1)";
    let output = python(Folder::Fresh, &deaf.replace("range(4)", "range(3)"), 0.5);
    assert_eq!((output.ended, output.timed_out), (Ended::Killed, true));
    contained("every signal ignored by every process", "killed when time is over");
}

pub fn memory() {
    // Each process alone would do.
    let code = "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(100 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(99)";
    let output = python(Folder::Fresh, code, 20.0);
    assert_eq!((output.ended, output.over_memory), (Ended::Killed, true), "{output:?}");
    contained("a memory bomb of many processes", "killed, over its memory");
    let shared = "import mmap, time\nx = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1\ntime.sleep(99)";
    let output = python(Folder::Fresh, shared, 20.0);
    assert_eq!((output.ended, output.over_memory), (Ended::Killed, true), "{output:?}");
    contained("a bomb of shared memory", "killed, over its memory");
}

/// What it may not do, though it may start processes.
const FORBIDDEN: &str = "
import os, sys, ctypes, signal, time, socket
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    time.sleep(99)
def call(*args):
    # The numbers are x86-64's.
    if os.uname().machine != 'x86_64' or libc.syscall(*args) == -1: raise OSError
def kill(pid):
    os.kill(pid, 0)
tries = {
    'kill the host': lambda: kill(HOST), 'stop the host': lambda: os.kill(HOST, signal.SIGSTOP),
    'read the host': lambda: open('/proc/HOST/environ').read(), 'socket': socket.socket,
    'trace a sibling': lambda: call(101, 16, child, 0, 0), 'read a sibling': lambda: call(310, child, 0, 0, 0, 0, 0),
    'namespace': lambda: call(272, 0x10000000), 'namespace by clone': lambda: call(56, 0x10000011, 0, 0, 0, 0),
    'mount': lambda: call(165, b'tmpfs', b'/tmp', b'tmpfs', 0, 0), 'shared memory': lambda: call(29, 12345, 4096, 0o1600),
    'home': lambda: os.listdir('/root'), 'shadow': lambda: open('/etc/shadow'),
    'write elsewhere': lambda: open('/usr/attack-mark', 'w'), 'write above': lambda: open('../attack-mark', 'w'),
    'own': lambda: os.chown('x', 1234, 1234), 'FIFO': lambda: os.mkfifo('fifo'), 'hard link': lambda: os.link('/etc/hostname', 'hard'),
    'device': lambda: os.mknod('device', 0o20666, os.makedev(1, 1)), 'set-user-id': lambda: os.chmod('x', 0o4755) or held('x'),
    'set-user-id file': lambda: os.open('y', os.O_CREAT | os.O_WRONLY, 0o4755),
    'set-group-id file': lambda: os.open('y', os.O_CREAT | os.O_WRONLY, 0o2755),
    'limits of another': lambda: __import__('resource').prlimit(child, 7), 'keyring': lambda: call(248, b'user', b'attack-mark', b'y', 1, -3),
}
def held(path):
    if not os.stat(path).st_mode & 0o6000: raise OSError
open('x', 'w').close()
os.symlink('/etc/shadow', 'result')
for name, attempt in tries.items():
    try:
        attempt()
        print('got', name)
    except OSError: pass
try: os.chmod('/etc/passwd', 0o666)
except OSError: pass
try: os.utime('/etc/passwd', (1, 1))
except OSError: pass
try: os.kill(-1, signal.SIGTERM)
except OSError: pass
";

pub fn forbidden() {
    let kept = Kept::new();
    let before = fs::metadata("/etc/passwd").unwrap();
    let output = python(Folder::Kept(&kept.0), FORBIDDEN, 20.0);
    // A signal to everyone may have hit itself, and nobody else.
    assert!(matches!(output.ended, Ended::Exit(0) | Ended::Signal(libc::SIGTERM)), "{output:?}");
    assert_eq!(said(&output), "");
    let after = fs::metadata("/etc/passwd").unwrap();
    assert_eq!((after.permissions(), after.modified().unwrap()), (before.permissions(), before.modified().unwrap()));
    for entry in kept.entries() {
        let kind = entry.file_type().unwrap();
        let odd = kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert!(!odd && (kind.is_symlink() || mode & 0o6000 == 0), "{:?} {mode:o}", entry.path());
    }
    contained("the host, its files and other processes, out of a tree", "denied");
}

/// Links that a program leaves lead the host nowhere.
pub fn links() {
    let (kept, outside) = (Kept::new(), std::env::temp_dir().join(format!("{}-outside", mark())));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "whole").unwrap();
    let code = format!(
        "import os\nos.symlink({outside:?}, 'folder')\nos.symlink({:?}, 'file')\nfor path in ('file', 'folder/precious', 'folder/new'):\n    for mode in 'wra':\n        try: print(path, mode, open(path, mode))\n        except OSError: pass\nos.mkdir('locked', 0)",
        outside.join("precious")
    );
    let output = python(Folder::Kept(&kept.0), &code, 20.0);
    // Where the host cannot look into the locked folder, it may have been killed for that.
    assert!(matches!(output.ended, Ended::Exit(0)) || output.flooded, "{output:?}");
    assert_eq!(said(&output), "");
    drop(kept);
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "whole");
    fs::remove_dir_all(outside).unwrap();
    contained("links out of a kept folder", "denied, and removed as links");
}

pub fn disk() {
    let kept = Kept::new();
    let code = "n = 0\nwhile True:\n    n += 1\n    try: open(str(n), 'wb').write(bytes(1 << 20))\n    except OSError: pass";
    let output = python(Folder::Kept(&kept.0), code, 20.0);
    assert_eq!((output.ended, output.flooded), (Ended::Killed, true), "{output:?}");
    contained("a kept folder filled", "killed, over its disk");
    drop(kept);
    let kept = Kept::new();
    let code = "import os\nn = 0\nfds = []\nwhile True:\n    n += 1\n    try:\n        fds.append(os.open(str(n), os.O_CREAT | os.O_WRONLY))\n        os.unlink(str(n))\n        os.write(fds[-1], bytes(1 << 20))\n    except OSError: pass";
    let output = python(Folder::Kept(&kept.0), code, 20.0);
    assert_eq!((output.ended, output.flooded), (Ended::Killed, true), "{output:?}");
    contained("deleted files held open", "killed, over its disk");
    let code = "import os\nwhile True:\n    try:\n        os.mkdir('d' * 200)\n        os.chdir('d' * 200)\n        open('x', 'wb').write(bytes(4096))\n    except OSError: pass";
    let output = python(Folder::Kept(&kept.0), code, 20.0);
    assert_eq!((output.ended, output.flooded), (Ended::Killed, true), "{output:?}");
    contained("folders deeper than any path", "killed, over its disk; removed");
    let output = python(Folder::Kept(&kept.0), "import os\nos.abort()", 20.0);
    assert!(matches!(output.ended, Ended::Signal(_)), "{output:?}");
    assert!(kept.entries().iter().all(|entry| !entry.file_name().to_string_lossy().contains("core")));
    contained("a core in a kept folder", "none is written");
}

pub fn hooks() {
    let Some(git) = ["/usr/bin/git", "/usr/local/bin/git"].into_iter().find(|path| Path::new(path).is_file()) else {
        println!("skipped: there is no git on this machine");
        return;
    };
    let kept = Kept::new();
    let script = format!(
        "set -e; git() {{ {git} -c user.name=a -c user.email=a@b \"$@\"; }}; git init -q .; printf '%s\\n' '#!/bin/bash' '(setsid sleep 999 || sleep 999) >/dev/null 2>&1 &' 'echo $$ > ran' 'echo x > ../attack-mark; echo x > /var/tmp/attack-mark; cat /etc/shadow > stolen' 'exec 3<>/dev/tcp/127.0.0.1/22 && echo connected > stolen' > hook; {HOOK} echo a > a; git add a; git commit -qm a || true; test -s ran; test ! -s stolen"
    )
    .replace("attack-mark", &mark());
    let output = run(Folder::Kept(&kept.0), Path::new("/bin/bash"), &["-c", &script], &[], 20.0);
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    contained("a git hook", "ran inside, got nothing");
}

/// A hook has to be executable; where modes cannot be changed, it is run by hand.
const HOOK: &str = "mv hook .git/hooks/post-commit; chmod +x .git/hooks/post-commit; test -x .git/hooks/post-commit || bash .git/hooks/post-commit 2>/dev/null || true;";

#[test]
fn a_tree_of_processes_is_contained_as_one() {
    let turn = Turn::take();
    for attack in [bombs, daemons, memory, forbidden, links, disk, hooks] {
        attack();
        turn.clean();
    }
}
