//! Runs a program that nobody trusts, and says what happened.
//!
//! A program gets namespaces of its own (user, pid, network, IPC, mount, UTS) where the kernel gives them, a Landlock view
//! of the file system (system paths and the interpreter read-only, one fresh work folder), a seccomp filter, resource
//! limits, no capabilities and an empty environment. It talks to the host over pipes that are passed to it, and its whole
//! process tree dies with it. What the program is, and what its output means, is left to the caller.

mod child;
mod files;
mod filter;
pub mod python;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

pub use python::{ISOLATED, Python};

/// How much protection a program runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Landlock and seccomp at least, namespaces where the kernel gives them; a machine without them is refused.
    Strict,
    /// Only limits, a time-out and an empty environment: for machines that cannot do better, at the user's own risk.
    None,
}

/// What one run may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Time; the program is killed when it is over. On a loaded machine the clock runs faster than a program can: one that
    /// kept working for a quarter of the time at least may go on until it has had this much processor time, so that the
    /// load does not decide a verdict. One that sleeps may not.
    pub wall: Duration,
    /// Bytes of address space.
    pub memory: u64,
    /// Bytes per written file, and of the work folder in all.
    pub disk: u64,
    /// Bytes read back from each pipe of the program; what comes after them is thrown away.
    pub output: usize,
}

impl Limits {
    /// 1 GiB of memory, 16 MiB of disk, 4 MiB of output, and `wall`.
    pub fn of(wall: Duration) -> Limits {
        Limits { wall, memory: 1 << 30, disk: 16 << 20, output: 4 << 20 }
    }
}

/// A program to run. Its standard input is empty, its standard output and error go nowhere; what it has to say comes
/// through `pipes`.
#[derive(Debug)]
pub struct Program<'a> {
    /// The executable, absolute.
    pub executable: &'a Path,
    /// Its arguments, without the name of the program.
    pub args: &'a [&'a str],
    /// Files and folders it may read and execute, besides the system's own.
    pub reads: &'a [PathBuf],
    /// Open descriptors it gets, as 3, 4, 5, ... in this order.
    pub pipes: &'a [&'a OwnedFd],
    /// What it may use.
    pub limits: Limits,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed, by its time limit or because the host had seen enough.
    Killed,
}

/// What one pipe of a program brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// This many new bytes.
    More(usize),
    /// The program closed its end, or died.
    End,
    /// The time limit passed.
    Timeout,
    /// The program wrote more than its limit.
    Flood,
}

/// Runs programs under one [`Mode`]. Several threads may use one sandbox at once.
#[derive(Debug)]
pub struct Sandbox {
    mode: Mode,
    namespaces: child::Namespaces,
    landlock: i32,
    filter: filter::Filter,
}

/// A running program; dropped, it is killed with everything it started.
#[derive(Debug)]
pub struct Running {
    pid: libc::pid_t,
    handle: OwnedFd,
    start: Instant,
    deadline: Instant,
    wall: Duration,
    /// A program that this one waits for; its processor time counts too.
    partner: Option<libc::pid_t>,
    ended: Option<Ended>,
    work: Option<files::Work>,
    disk: u64,
}

impl Sandbox {
    /// A sandbox of this mode. `Strict` is an [`Error::Machine`] that names what lacks where the kernel has no Landlock or no
    /// seccomp.
    pub fn new(mode: Mode) -> Result<Sandbox> {
        let filter = filter::Filter::new()?;
        if mode == Mode::None {
            return Ok(Sandbox { mode, namespaces: child::Namespaces::None, landlock: 0, filter });
        }
        let landlock = files::landlock_version();
        if landlock < 1 {
            return Err(Error::Machine(
                "this kernel has no Landlock (Linux 5.13 or newer, `landlock` in /sys/kernel/security/lsm), so programs that \
                 nobody trusts cannot be confined; sandbox = \"none\" runs them unconfined"
                    .into(),
            ));
        }
        let mut sandbox = Sandbox { mode, namespaces: child::Namespaces::None, landlock, filter };
        for namespaces in [child::Namespaces::User, child::Namespaces::Root] {
            sandbox.namespaces = namespaces;
            if sandbox.probe().is_ok() {
                return Ok(sandbox);
            }
        }
        sandbox.namespaces = child::Namespaces::None;
        sandbox.probe().map_err(|e| {
            Error::Machine(format!(
                "{e}; programs that nobody trusts cannot be confined; sandbox = \"none\" runs them unconfined"
            ))
        })?;
        Ok(sandbox)
    }

    /// The layers that are really active, in words, for logs and `doctor`.
    pub fn layers(&self) -> Vec<&'static str> {
        let mut layers = Vec::new();
        match self.namespaces {
            child::Namespaces::None => {}
            child::Namespaces::User => layers.extend(["user namespace", "pid, network, ipc, mount and uts namespaces"]),
            child::Namespaces::Root => layers.push("pid, network, ipc, mount and uts namespaces"),
        }
        if self.mode == Mode::Strict {
            layers.extend(["landlock", "seccomp", "no capabilities"]);
        }
        layers.extend(["no new privileges", "resource limits", "empty environment"]);
        layers
    }

    /// Goes through every step but the last, which would be the program itself.
    fn probe(&self) -> Result<()> {
        let limits = Limits::of(Duration::from_secs(10));
        let program = Program { executable: Path::new("/"), args: &[], reads: &[], pipes: &[], limits };
        let mut running = self.start(&program, true)?;
        match running.wait() {
            Ended::Exit(0) => Ok(()),
            ended => Err(Error::Machine(format!("a sandboxed process ended with {ended:?} before it ran"))),
        }
    }

    /// Starts a program. An [`Error::Machine`] names the step that the kernel refused.
    pub fn spawn(&self, program: &Program<'_>) -> Result<Running> {
        self.start(program, false)
    }

    fn start(&self, program: &Program<'_>, probe: bool) -> Result<Running> {
        let text = |s: &str| CString::new(s).map_err(|_| Error::input("a program's arguments", "a NUL byte in them"));
        let path = |p: &Path| text(p.to_str().ok_or_else(|| Error::input(p.display(), "the path is not UTF-8"))?);
        let mut args = vec![path(program.executable)?];
        for arg in program.args {
            args.push(text(arg)?);
        }
        let environment = ["PATH=/usr/bin:/bin", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "PYTHONHASHSEED=0", "TZ=UTC"]
            .map(|s| CString::new(s).expect("no NUL in our own text"));

        // Where a mount namespace gives the program a private tmpfs, nothing of it ever reaches a disk.
        let mount = (self.namespaces != child::Namespaces::None).then(|| files::mount_point(program.reads));
        let work = if mount.is_none() { Some(files::Work::new()?) } else { None };
        let folder = match (&mount, &work) {
            (Some(mount), _) => path(mount)?,
            (None, Some(work)) => path(work.path())?,
            (None, None) => unreachable!("either a mount point or a folder"),
        };
        let ruleset = match self.mode {
            Mode::Strict => Some(files::ruleset(program.reads, work.as_ref().map(|w| w.path()))?),
            Mode::None => None,
        };
        let null = File::options().read(true).write(true).open("/dev/null").map_err(|e| Error::io("/dev/null", e))?;
        let mut fds = vec![null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
        fds.extend(program.pipes.iter().map(|p| p.as_raw_fd()));

        let plan = child::Plan {
            args,
            environment: environment.to_vec(),
            folder,
            mount: mount.is_some(),
            mount_options: CString::new(format!("size={},nr_inodes=1024,mode=0700", program.limits.disk)).expect("digits"),
            namespaces: self.namespaces,
            maps: child::identity_maps(),
            ruleset: ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            work_access: files::work_access(self.landlock),
            filter: if self.mode == Mode::Strict { Some(&self.filter) } else { None },
            fds,
            limits: program.limits,
            probe,
        };
        let (pid, handle) = plan.start()?;
        // SAFETY: clone made this descriptor for us, and nobody else knows it.
        let handle = unsafe { OwnedFd::from_raw_fd(handle) };
        let (start, wall) = (Instant::now(), program.limits.wall);
        let deadline = start + wall;
        Ok(Running { pid, handle, start, deadline, wall, partner: None, ended: None, work, disk: program.limits.disk })
    }
}

impl Running {
    /// Reads what the program wrote to `pipe` (our end) and appends it to `bytes`; waits for something until the program's
    /// time is over. `limit` bounds `bytes`.
    pub fn hear(&mut self, pipe: &mut File, bytes: &mut Vec<u8>, limit: usize) -> Heard {
        loop {
            let left = self.left();
            if left.is_zero() {
                return Heard::Timeout;
            }
            // A work folder on a real disk has no size of its own: it is looked at now and then.
            let slice = if self.work.is_some() { left.min(Duration::from_millis(50)) } else { left };
            let mut poll = [libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: `poll` is one entry, alive during the call.
            let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, slice.as_millis() as i32 + 1) };
            if self.work.as_ref().is_some_and(|work| work.bytes() > self.disk) {
                return Heard::Flood;
            }
            if ready <= 0 {
                continue;
            }
            let mut block = [0; 65536];
            match pipe.read(&mut block) {
                Ok(0) => return Heard::End,
                Ok(n) => {
                    if bytes.len() + n > limit {
                        return Heard::Flood;
                    }
                    bytes.extend_from_slice(&block[..n]);
                    return Heard::More(n);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::End,
            }
        }
    }

    /// Waits until the program ends by itself, at most until its time is over; then kills what is left of it.
    pub fn wait(&mut self) -> Ended {
        while self.ended.is_none() {
            let left = self.left();
            let mut poll = [libc::pollfd { fd: self.handle.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: `poll` is one entry, alive during the call.
            let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, left.as_millis() as i32) };
            if ready > 0 {
                return self.reap(false);
            }
            if left.is_zero() {
                return self.kill();
            }
        }
        self.ended.unwrap_or(Ended::Killed)
    }

    /// Counts the processor time of `other`, which this program waits for, as its own.
    pub fn waits_for(&mut self, other: &Running) {
        self.partner = Some(other.pid);
    }

    /// Waits for its end for at most `grace`, then kills it; tells a program that ended from one that was stopped.
    pub fn settle(&mut self, grace: Duration) -> Ended {
        (self.wall, self.deadline) = (Duration::ZERO, self.deadline.min(Instant::now() + grace));
        self.wait()
    }

    /// The time until the program is late.
    fn left(&mut self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return left;
        }
        let used = processor_time(self.pid) + self.partner.map_or(Duration::ZERO, processor_time);
        let more = self.wall.saturating_sub(used);
        if more.is_zero() || used * 4 < self.start.elapsed() {
            return Duration::ZERO;
        }
        self.deadline = Instant::now() + more;
        more
    }

    /// Kills the program and everything it started, and waits until it is gone.
    pub fn kill(&mut self) -> Ended {
        if self.ended.is_none() {
            return self.reap(true);
        }
        Ended::Killed
    }

    fn reap(&mut self, kill: bool) -> Ended {
        // The group goes too: without a pid namespace its first process does not take the others with it. The leader has
        // not been waited for, so its number still means this group.
        // SAFETY: signals and waits concern a child of ours that was not waited for yet.
        unsafe {
            libc::kill(-self.pid, libc::SIGKILL);
            if kill {
                libc::kill(self.pid, libc::SIGKILL);
            }
        }
        let mut status = 0;
        while unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
        let ended = match status {
            _ if kill => Ended::Killed,
            s if libc::WIFEXITED(s) => Ended::Exit(libc::WEXITSTATUS(s)),
            s => Ended::Signal(libc::WTERMSIG(s)),
        };
        self.ended = Some(ended);
        self.work = None;
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process, not yet waited for, has used of the processors.
fn processor_time(pid: libc::pid_t) -> Duration {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls only fill what they are given.
    let known = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
    if known { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) } else { Duration::ZERO }
}

/// A pipe: our end to read from, the program's end to write to. Both close on exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the call fills two numbers, which become owned once it has succeeded.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(Error::Machine(format!("a pipe could not be made: {}", std::io::Error::last_os_error())));
    }
    unsafe { Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))) }
}

/// Writes all of `bytes` to a program that may stop reading or die at any time: `false` when it did.
pub fn feed(pipe: &mut File, bytes: &[u8]) -> bool {
    pipe.write_all(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs Python code and returns what it wrote to descriptor 3, and how it ended.
    fn run(sandbox: &Sandbox, code: &str, seconds: f64) -> (String, Ended) {
        let python = Python::find().unwrap();
        let (ours, theirs) = pipe().unwrap();
        let args = [ISOLATED.as_slice(), &["-c", code]].concat();
        let limits = Limits { disk: 1 << 20, output: 1 << 16, ..Limits::of(Duration::from_secs_f64(seconds)) };
        let program = Program { executable: &python.executable, args: &args, reads: &python.reads, pipes: &[&theirs], limits };
        let mut running = sandbox.spawn(&program).unwrap();
        drop(theirs);
        let (mut file, mut bytes) = (File::from(ours), Vec::new());
        let ended = loop {
            match running.hear(&mut file, &mut bytes, limits.output) {
                Heard::More(_) => {}
                Heard::Flood => break running.kill(),
                Heard::End | Heard::Timeout => break running.wait(),
            }
        };
        (String::from_utf8_lossy(&bytes).into_owned(), ended)
    }

    /// What an ordinary user has in a container that gives no namespaces.
    fn without_namespaces() -> Sandbox {
        let sandbox = Sandbox::new(Mode::Strict).unwrap();
        Sandbox { namespaces: child::Namespaces::None, ..sandbox }
    }

    /// Tests that look at the work folders take turns.
    fn turn() -> std::sync::MutexGuard<'static, ()> {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn folders() -> usize {
        let mark = format!("repairity-{}-", std::process::id());
        let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&mark)).count()
    }

    const ESCAPES: &str = "
import os, sys, socket, ctypes
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    'home': lambda: os.listdir(os.path.expanduser('~root')), 'shadow': lambda: open('/etc/shadow'),
    'above': lambda: os.listdir('..'), 'proc': lambda: os.listdir('/proc/self/fd'), 'tmp': lambda: open('/var/tmp/x', 'w'),
    'kill': lambda: os.kill(-1, 9), 'parent': lambda: os.kill(os.getppid(), 9), 'fork': os.fork,
    'socket': lambda: socket.socket(), 'chmod': lambda: os.chmod('/tmp', 0o777),
    'unshare': lambda: libc.unshare(0x10000000) == 0 or os.listdir('/'),
    'limit': lambda: __import__('resource').prlimit(1, 7),
}
got = []
for name, attempt in tries.items():
    try: attempt(); got.append(name)
    except OSError: pass
open('x', 'w').write('mine')
os.write(3, repr((got, open('x').read(), os.listdir('.'))).encode())
";

    #[test]
    fn landlock_and_seccomp_hold_without_namespaces() {
        let _turn = turn();
        let sandbox = without_namespaces();
        let (said, ended) = run(&sandbox, ESCAPES, 10.0);
        assert_eq!((said.as_str(), ended), ("([], 'mine', ['x'])", Ended::Exit(0)));
        // A folder on a real disk has its bound too, and nothing of it stays.
        let fill = "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'wb').write(bytes(1 << 19))\n";
        let (_, ended) = run(&sandbox, fill, 10.0);
        assert_eq!((ended, folders()), (Ended::Killed, 0));
    }

    #[test]
    fn namespaces_change_nothing_that_a_program_can_count_on() {
        let sandbox = Sandbox::new(Mode::Strict).unwrap();
        let (said, ended) = run(&sandbox, ESCAPES, 10.0);
        assert_eq!((said.as_str(), ended), ("([], 'mine', ['x'])", Ended::Exit(0)));
        assert!(sandbox.layers().contains(&"landlock") && sandbox.layers().contains(&"seccomp"));
    }

    #[test]
    fn without_a_sandbox_limits_and_the_environment_still_hold() {
        let _turn = turn();
        let sandbox = Sandbox::new(Mode::None).unwrap();
        assert!(!sandbox.layers().contains(&"landlock"));
        let (said, ended) = run(&sandbox, "import os\nos.write(3, repr(sorted(os.environ)).encode())", 10.0);
        assert_eq!((said.as_str(), ended), ("['LANG', 'LC_ALL', 'PATH', 'PYTHONHASHSEED', 'TZ']", Ended::Exit(0)));
        let child = "import os, time\nif os.fork() == 0: os.write(3, b'child')\nos.close(3)\ntime.sleep(60)";
        let start = Instant::now();
        let (said, ended) = run(&sandbox, child, 0.5);
        assert_eq!((said.as_str(), ended), ("child", Ended::Killed));
        assert!(start.elapsed() < Duration::from_secs(30));
        let (_, ended) = run(&sandbox, "x = bytes(1 << 31)", 10.0);
        assert_eq!((ended, folders()), (Ended::Exit(1), 0));
    }

    #[test]
    fn a_refused_program_is_named() {
        let sandbox = Sandbox::new(Mode::Strict).unwrap();
        let limits = Limits::of(Duration::from_secs(5));
        let program = Program { executable: Path::new("/no/such/program"), args: &[], reads: &[], pipes: &[], limits };
        let text = sandbox.spawn(&program).unwrap_err().to_string();
        assert!(text.contains("exec: No such file"), "{text}");
    }
}
