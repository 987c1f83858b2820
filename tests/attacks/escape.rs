//! Attacks on everything around a program: the network, secrets, other processes, files, the kernel.

use super::*;

/// Each a function body that must end in an OSError, by name.
pub fn attempts() -> Vec<(&'static str, String)> {
    let home = std::env::var("HOME").unwrap_or("/root".into());
    let me = std::process::id();
    vec![
        ("TCP", "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)\nreturn 'connected'".to_owned()),
        (
            "UDP",
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))\nreturn 'sent'".into(),
        ),
        (
            "listening",
            format!("import socket\ns = socket.socket()\ns.bind(('127.0.0.1', {}))\ns.listen()\nreturn 'listening'", clean::PORT),
        ),
        ("DNS", "import socket\nsocket.gethostbyname('example.com')\nreturn 'resolved'".into()),
        ("abstract socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0attack-mark')\nreturn 'bound'".into()),
        (
            "connecting to an abstract socket",
            "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0attack-mark')\nreturn 'connected'".into(),
        ),
        ("raw socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn 'open'".into()),
        ("the host's environment", format!("return open('/proc/{me}/environ').read()")),
        ("the parent's environment", "return open('/proc/%d/environ' % os.getppid()).read()".into()),
        ("the first process", "return open('/proc/1/environ').read()".into()),
        ("the host's memory", format!("return open('/proc/{me}/mem', 'rb').read(1)")),
        ("the host's memory map", format!("return open('/proc/{me}/maps').read()")),
        ("the parent's descriptors", "return os.listdir('/proc/%d/fd' % os.getppid())".into()),
        ("the host's descriptors", format!("return os.listdir('/proc/{me}/fd')")),
        ("its own descriptors", "return os.listdir('/proc/self/fd')".into()),
        ("the home folder", format!("return os.listdir({home:?})")),
        ("keys", format!("return open({home:?} + '/.ssh/id_rsa').read()")),
        ("the shadow file", "return open('/etc/shadow').read()".into()),
        ("the password file", "return open('/etc/passwd').read()".into()),
        ("the root folder", "return os.listdir('/')".into()),
        ("a test's own source", format!("return open({:?}).read()", file!())),
        ("the history of this repository", format!("return os.listdir({:?})", concat!(env!("CARGO_MANIFEST_DIR"), "/.git"))),
        ("this repository", format!("return os.listdir({:?})", env!("CARGO_MANIFEST_DIR"))),
        ("the data", format!("return os.listdir({:?})", concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data"))),
        ("writing elsewhere", "open('/usr/attack-mark', 'w')\nreturn 'written'".into()),
        ("writing upwards", "open('../attack-mark', 'w')\nreturn 'written'".into()),
        ("writing above its folder by /proc", "open('/proc/self/cwd/../attack-mark', 'w')\nreturn 'written'".into()),
        ("writing through a link", "os.symlink('/etc/passwd', 'link')\nopen('link', 'a')\nreturn 'written'".into()),
        ("reading through a link", "os.symlink('/etc/shadow', 'link')\nreturn open('link').read()".into()),
        ("a hard link", "os.link(sys.executable, 'link')\nreturn 'linked'".into()),
        ("a hard link out", "open('x', 'w').close()\nos.link('x', '/var/tmp/attack-mark')\nreturn 'linked'".into()),
        ("a hard link to a secret", "os.link('/etc/shadow', 'link')\nreturn 'linked'".into()),
        ("renaming out", "open('x', 'w').close()\nos.rename('x', '/var/attack-mark')\nreturn 'renamed'".into()),
        ("the interpreter", "open(sys.executable, 'r+b')\nreturn 'open'".into()),
        (
            "cached byte code",
            "import importlib.util\nopen(importlib.util.cache_from_source(os.__file__), 'r+b')\nreturn 'open'".into(),
        ),
        (
            "new byte code",
            "import importlib.util\npath = importlib.util.cache_from_source(os.__file__)\nopen(path + '.attack-mark', 'wb')\nreturn 'open'".into(),
        ),
        ("the standard library", "open(os.__file__, 'a')\nreturn 'open'".into()),
        ("modes", "os.chmod('/etc/passwd', 0o644)\nreturn 'changed'".into()),
        ("owners", "os.chown('/etc/passwd', 0, 0)\nreturn 'changed'".into()),
        ("times", "os.utime('/etc/passwd')\nreturn 'changed'".into()),
        ("a FIFO", "os.mkfifo('pipe')\nreturn 'made'".into()),
        ("a socket left as a file", "import socket\nsocket.socket(socket.AF_UNIX).bind('result')\nreturn 'bound'".into()),
        ("a device", "os.mknod('device', 0o20666, os.makedev(1, 1))\nreturn 'made'".into()),
        ("kill everything", "os.kill(-1, 9)\nreturn 'killed'".into()),
        ("kill the parent", format!("os.kill({me}, 9)\nreturn 'killed'")),
        ("kill itself", "os.kill(os.getpid(), 15)\nreturn 'killed'".into()),
        ("fork", "os.fork()\nreturn 'forked'".into()),
        ("a daemon", "os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 99'], {})\nreturn 'spawned'".into()),
        ("a shell", "return 'ran' if os.system('true') == 0 else os.open('/', os.O_WRONLY)".into()),
        ("a daemon by two forks", "if os.fork() == 0:\n    os.setsid()\n    os.fork()\nreturn 'forked'".into()),
        ("another root", "os.chroot('/tmp')\nreturn 'changed'".into()),
        ("another user", "os.setuid(12345)\nreturn 'changed'".into()),
        ("the terminal", "return os.open('/dev/tty', os.O_RDWR)".into()),
        (
            "words put into the terminal",
            "import fcntl\ntry:\n    fcntl.ioctl(0, 0x5412, b'x')\nexcept OSError as e:\n    if e.errno != 1: return 'the terminal was asked'\n    raise\nreturn 'typed'".into(),
        ),
        ("shared memory by name", "from multiprocessing import shared_memory\nshared_memory.SharedMemory('attack-mark', True, 4096)\nreturn 'made'".into()),
        ("memory that no limit counts", "return os.memfd_create('x')".into()),
    ]
}

/// System calls that must all fail, by name: numbers of x86-64 and arguments.
const CALLS: &[(&str, &str)] = &[
    ("tracing another process", "(101, (16, PARENT, 0, 0)), (101, (16, 1, 0, 0)), (101, (0, 0, 0, 0))"),
    ("reading another process's memory", "(310, (PARENT, 0, 0, 0, 0, 0)), (310, (1, 0, 0, 0, 0, 0)), (434, (1, 0))"),
    ("mounting", "(165, (0, b'/', 0, 32, 0)), (165, (b'tmpfs', b'/tmp', b'tmpfs', 0, 0)), (428, (-100, b'/', 1))"),
    ("a user namespace", "(272, (0x10000000,)), (272, (0x10020000,)), (308, (0, 0)), (56, (0x10000011, 0)), (435, (0, 0))"),
    ("the kernel's own languages", "(321, (0, 0, 0)), (298, (0, 0, -1, -1, 0)), (425, (1, 0)), (323, (0,))"),
    ("the keyring", "(250, (0, -3)), (248, (b'user', b'attack-mark', b'y', 1, -3)), (249, (b'user', b'attack-mark', 0, 0))"),
    ("System V shared memory", "(29, (KEY, 4096, 0o1600)), (30, (0, 0, 0))"),
    ("System V semaphores and messages", "(64, (KEY, 1, 0o1600)), (68, (KEY, 0o1600))"),
    ("a message queue", "(240, (b'attack-mark', 0o102, 0o600, 0))"),
    ("another kernel", "(246, (0, 0, 0, 0)), (320, (0, 0, 0, 0, 0)), (169, (0, 0, 0, 0))"),
    ("a call by its x32 number", "(0x40000029, (2, 1, 0))"),
    ("fork by its own number", "(57, ()), (58, ())"),
];

fn call(name: &str, calls: &str) {
    let calls = calls.replace("KEY", &clean::KEY.to_string()).replace("PARENT", "os.getppid()");
    let attempt = format!(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor number, args in [{calls}]:\n    if libc.syscall(number, *args) != -1: return 'call %d worked' % number\nraise OSError"
    );
    denied(name, &attempt);
}

pub fn attempt(name: &str) {
    match attempts().into_iter().find(|(other, _)| *other == name) {
        Some((_, attempt)) => denied(name, &attempt),
        None => match CALLS.iter().find(|(other, _)| *other == name) {
            Some((_, calls)) if cfg!(target_arch = "x86_64") => call(name, calls),
            Some(_) => println!("skipped: {name}: the numbers are x86-64's"),
            None => panic!("no attack is called {name}"),
        },
    }
}

#[test]
fn nothing_gets_out() {
    let turn = Turn::take();
    // Programs of the host that an attack would change stay what they are.
    let python = checker().python().executable.clone();
    let before = std::fs::metadata(&python).unwrap();
    for (name, attempt) in attempts() {
        denied(name, &attempt);
    }
    for (name, _) in CALLS {
        attempt(name);
    }
    // What is run in the place of the program ends it, which a check calls a failure.
    never_passes("a setuid program", &format!("import os\nos.execv('/bin/su', ['su', '-c', 'true'])\n{HONEST}"));
    // A variable of the host's that must not cross over.
    let secret = std::env::vars()
        .map(|(name, _)| name)
        .find(|n| !["PATH", "LANG", "LC_ALL", "TZ", "PYTHONHASHSEED"].contains(&n.as_str()));
    if let Some(secret) = secret {
        denied("a secret of the environment", &format!("if {secret:?} in os.environ: return 'there'\nraise OSError"));
    }
    use std::os::unix::fs::MetadataExt;
    let after = std::fs::metadata(&python).unwrap();
    assert_eq!((after.mode(), after.mtime(), after.len()), (before.mode(), before.mtime(), before.len()));
    turn.clean();
}

/// The attacks are what they say: where nothing confines them, they get through.
#[test]
fn attacks_work_where_nothing_confines_them() {
    let turn = Turn::take();
    let open = Checker::new(Mode::None, 1).unwrap();
    let harmless = [
        "the parent's environment",
        "the host's memory map",
        "its own descriptors",
        "the root folder",
        "the password file",
        "this repository",
        "listening",
        "abstract socket",
        "a hard link out",
        "a FIFO",
        "a socket left as a file",
        "kill itself",
        "fork",
        "memory that no limit counts",
    ];
    for (name, attempt) in attempts().into_iter().filter(|(name, _)| harmless.contains(name)) {
        let verdict = open.check(&problem(&["assert f() == 'denied'"]), &confessing(&attempt)).unwrap();
        assert_ne!(verdict.verdict, Outcome::Pass, "{name} is denied by something else");
    }
    std::fs::remove_file(format!("/var/tmp/{}", mark())).unwrap();
    turn.clean();
}

#[test]
fn a_program_has_its_own_folder_and_environment() {
    let turn = Turn::take();
    let kept = "assert f() == ['LANG', 'LC_ALL', 'PATH', 'PYTHONHASHSEED', 'TZ']";
    let verdict = check(&problem(&[kept]), "import os\ndef f():\n    return sorted(os.environ)");
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    let works = "import threading\ndef f():\n    open('x', 'w').write('kept')\n    out = []\n    t = threading.Thread(target=lambda: out.append(open('x').read()))\n    t.start()\n    t.join()\n    return out";
    let verdict = check(&problem(&["assert f() == ['kept']"]), works);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    turn.clean();
}

#[test]
fn a_time_bomb_goes_off_alone() {
    let turn = Turn::take();
    // Right while the tests run, harmful once they are over: nobody is there any more.
    let later = "import threading, time, os\ndef harm():\n    time.sleep(0.3)\n    open('/tmp/attack-mark', 'w')\n    os.fork()\nthreading.Thread(target=harm).start()";
    for problem in [split(), beside()] {
        let verdict = check(&problem, &format!("{later}\n{HONEST}"));
        assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    }
    contained("harm after the tests", "the answer is right, its process is gone");
    let calls =
        "calls = 0\ndef f(n):\n    global calls\n    calls += 1\n    if calls > 1: return HARM\n    return [n * n, 'nine']";
    never_passes("wrong after the first call", &calls.replace("HARM", "None"));
    never_passes("an exit after the first call", &calls.replace("HARM", "__import__('os')._exit(0)"));
    turn.clean();
}
