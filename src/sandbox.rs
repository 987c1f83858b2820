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
mod run;
mod watch;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

pub use files::remove;
pub use python::{ISOLATED, Python};
pub use run::Output;

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
    /// Memory.
    pub memory: Memory,
    /// Bytes per written file, and of the work folder in all; of a [`Folder::Kept`], what it may grow by.
    pub disk: u64,
    /// Bytes read back from each pipe of the program; what comes after them is thrown away.
    pub output: usize,
}

impl Limits {
    /// 1 GiB of memory, 16 MiB of disk, 4 MiB of output, and `wall`.
    pub fn of(wall: Duration) -> Limits {
        Limits { wall, memory: Memory::Address(1 << 30), disk: 16 << 20, output: 4 << 20 }
    }
}

/// How memory is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Bytes of address space of each process: exact, and the program meets the bound as a failed allocation.
    Address(u64),
    /// Resident bytes of the whole tree, looked at now and then; the program is killed above them. For run times (JVM, node,
    /// Go) that reserve far more address space than they use.
    Resident(u64),
}

/// Where a program works.
#[derive(Debug, Clone, Copy)]
pub enum Folder<'a> {
    /// A tmpfs, or a temporary folder where there are no mount namespaces. It is gone afterwards.
    Fresh,
    /// A folder of the host's: the program may read, write and execute below it, and it stays as the program left it.
    /// Nothing that the host trusts may lie there.
    Kept(&'a Path),
}

/// What a program may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Threads only.
    Threads,
    /// It may fork and exec: compilers, build tools, test commands. At most this many processes at once; above them the whole
    /// tree is killed. They end with the program, whatever sessions they moved to. TMPDIR names a folder that ends too.
    ///
    /// Where there is no pid namespace, they cannot leave the program's process group, and may send signals only where
    /// Landlock keeps these inside the sandbox (Linux 6.12 or newer). Where there is no read-only view of the disk, changes of
    /// modes and times seem to work and do nothing: Landlock does not guard them.
    Tree(usize),
}

/// A program to run. With [`Sandbox::spawn`] its standard input is empty, its standard output and error go nowhere, and what it
/// has to say comes through `pipes`; [`Sandbox::run`] collects both.
#[derive(Debug, Clone, Copy)]
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
    /// Variables besides the sandbox' own (PATH, LANG, LC_ALL, PYTHONHASHSEED, TZ; for [`Processes::Tree`] TMPDIR and
    /// GIT_CONFIG_NOSYSTEM), which they may override.
    pub environment: &'a [(&'a str, &'a str)],
    /// Where it works.
    pub folder: Folder<'a>,
    /// What it may start.
    pub processes: Processes,
}

impl<'a> Program<'a> {
    /// A program without anything more to read, pipes or variables, in a fresh folder, that starts threads only.
    pub fn new(executable: &'a Path, args: &'a [&'a str], limits: Limits) -> Program<'a> {
        Program {
            executable,
            args,
            reads: &[],
            pipes: &[],
            limits,
            environment: &[],
            folder: Folder::Fresh,
            processes: Processes::Threads,
        }
    }
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
    /// Whether a program's own mounts make the whole disk read-only for it.
    read_only: bool,
    filter: filter::Filter,
    tree_filter: filter::Filter,
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
    /// Whether what it leaves behind becomes our child.
    orphans: bool,
    ended: Option<Ended>,
    work: Option<files::Work>,
    watch: watch::Watch,
    excess: Option<watch::Excess>,
}

impl Sandbox {
    /// A sandbox of this mode. `Strict` is an [`Error::Machine`] that names what lacks where the kernel has no Landlock or no
    /// seccomp.
    pub fn new(mode: Mode) -> Result<Sandbox> {
        let landlock = if mode == Mode::Strict { files::landlock_version() } else { 0 };
        if mode == Mode::Strict && landlock < 1 {
            return Err(Error::Machine(
                "this kernel has no Landlock (Linux 5.13 or newer, `landlock` in /sys/kernel/security/lsm), so programs that \
                 nobody trusts cannot be confined; sandbox = \"none\" runs them unconfined"
                    .into(),
            ));
        }
        let mut sandbox = Sandbox::with(mode, child::Namespaces::None, landlock, false)?;
        if mode == Mode::None {
            return Ok(sandbox);
        }
        for namespaces in [child::Namespaces::User, child::Namespaces::Root] {
            sandbox.namespaces = namespaces;
            if let Ok(read_only) = sandbox.probe() {
                return Sandbox::with(mode, namespaces, landlock, read_only);
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

    /// A sandbox whose layers are known.
    fn with(mode: Mode, namespaces: child::Namespaces, landlock: i32, read_only: bool) -> Result<Sandbox> {
        let apart = namespaces != child::Namespaces::None;
        let open = filter::Open {
            groups: apart,
            signals: apart || landlock >= files::SCOPES_SIGNALS,
            metadata: read_only,
            truncation: read_only || landlock >= files::GUARDS_TRUNCATION,
        };
        let (filter, tree_filter) = (filter::Filter::threads(open)?, filter::Filter::tree(open)?);
        Ok(Sandbox { mode, namespaces, landlock, read_only, filter, tree_filter })
    }

    /// The layers that are really active, in words, for logs and `doctor`.
    pub fn layers(&self) -> Vec<&'static str> {
        let mut layers = Vec::new();
        match self.namespaces {
            child::Namespaces::None => {}
            child::Namespaces::User => layers.extend(["user namespace", "pid, network, ipc, mount and uts namespaces"]),
            child::Namespaces::Root => layers.push("pid, network, ipc, mount and uts namespaces"),
        }
        if self.read_only {
            layers.push("read-only mounts");
        }
        if self.mode == Mode::Strict {
            layers.extend(["landlock", "seccomp", "no capabilities"]);
        }
        layers.extend(["no new privileges", "resource limits", "empty environment"]);
        layers
    }

    /// What this machine lacks for [`Processes::Tree`], and what that means, in words; empty where nothing does.
    pub fn lacks(&self) -> Vec<&'static str> {
        let mut lacks = Vec::new();
        if self.mode == Mode::Strict && self.namespaces == child::Namespaces::None {
            lacks.push("no pid namespace: compilers and test commands cannot start sessions of their own");
            if self.landlock < files::SCOPES_SIGNALS {
                lacks.push("Landlock below version 6: they cannot send signals");
            }
        }
        if self.mode == Mode::Strict && !self.read_only {
            lacks.push("no read-only mounts: they cannot change modes, so that what they link runs in a later step only");
        }
        lacks
    }

    /// Goes through every step but the last, which would be the program itself. Returns whether the disk was read-only.
    fn probe(&self) -> Result<bool> {
        let program = Program::new(Path::new("/"), &[], Limits::of(Duration::from_secs(10)));
        let mut running = self.start(&program, None, true)?;
        match running.wait() {
            Ended::Exit(0) => Ok(true),
            Ended::Exit(child::PROBE_WRITABLE) => Ok(false),
            ended => Err(Error::Machine(format!("a sandboxed process ended with {ended:?} before it ran"))),
        }
    }

    /// Starts a program. An [`Error::Machine`] names the step that the kernel refused.
    pub fn spawn(&self, program: &Program<'_>) -> Result<Running> {
        self.start(program, None, false)
    }

    /// Starts a program, with `standard` as its standard input, output and error.
    fn start(&self, program: &Program<'_>, standard: Option<[&OwnedFd; 3]>, probe: bool) -> Result<Running> {
        let text = |s: &str| CString::new(s).map_err(|_| Error::input("a program's arguments", "a NUL byte in them"));
        let path = |p: &Path| text(p.to_str().ok_or_else(|| Error::input(p.display(), "the path is not UTF-8"))?);
        let mut args = vec![path(program.executable)?];
        for arg in program.args {
            args.push(text(arg)?);
        }
        let kept = match program.folder {
            Folder::Fresh => None,
            Folder::Kept(folder) => Some(folder.canonicalize().map_err(|e| Error::io(folder, e))?),
        };
        let tree = match program.processes {
            Processes::Threads => None,
            Processes::Tree(most) => Some(most),
        };

        // Where a mount namespace gives the program a private tmpfs, nothing of it ever reaches a disk.
        let apart = self.namespaces != child::Namespaces::None;
        let temporary = kept.is_none() || tree.is_some();
        let mount = (apart && temporary).then(|| files::mount_point(program.reads, kept.as_deref()));
        let work = if !apart && temporary { Some(files::Work::new()?) } else { None };
        let scratch = mount.as_deref().or(work.as_ref().map(files::Work::path));
        let folder = kept.as_deref().or(scratch).expect("a program without a folder of the host's gets a temporary one");
        let rights = files::Rights { landlock: self.landlock, execute: tree.is_some() };
        let mut writes: Vec<(&Path, files::Rights)> = work.iter().map(|w| (w.path(), rights)).collect();
        writes.extend(kept.iter().map(|k| (k.as_path(), files::Rights { execute: true, ..rights })));
        let ruleset = match self.mode {
            Mode::Strict => Some(files::ruleset(program.reads, &writes, tree.is_some())?),
            Mode::None => None,
        };
        if let (Some(kept), Mode::Strict, false) = (&kept, self.mode, self.read_only) {
            files::make_executable(program.executable, kept)?;
        }

        let mut environment =
            vec![("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("PYTHONHASHSEED", "0"), ("TZ", "UTC")];
        if let (Some(scratch), Some(_)) = (scratch.and_then(Path::to_str), tree) {
            // The machine's own settings of git may hold somebody's name, or worse.
            environment.extend([("TMPDIR", scratch), ("GIT_CONFIG_NOSYSTEM", "1")]);
        }
        environment.retain(|(name, _)| !program.environment.iter().any(|(other, _)| other == name));
        environment.extend(program.environment);
        let environment = environment.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect::<Result<_>>()?;

        let null =
            OwnedFd::from(File::options().read(true).write(true).open("/dev/null").map_err(|e| Error::io("/dev/null", e))?);
        let standard = standard.unwrap_or([&null; 3]);
        let fds = standard.iter().chain(program.pipes).map(|p| p.as_raw_fd()).collect();
        let inodes = if tree.is_some() { 1 << 14 } else { 1 << 10 };
        let disk = program.limits.disk;
        let plan = child::Plan {
            args,
            environment,
            folder: path(folder)?,
            kept: if kept.is_some() && apart { Some(path(folder)?) } else { None },
            mount: mount.as_deref().map(path).transpose()?,
            mount_options: CString::new(format!("size={disk},nr_inodes={inodes},mode=0700")).expect("digits"),
            namespaces: self.namespaces,
            maps: child::identity_maps(),
            ruleset: ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            work_access: rights.bits(),
            filter: match self.mode {
                Mode::Strict if tree.is_some() => Some(&self.tree_filter),
                Mode::Strict => Some(&self.filter),
                Mode::None => None,
            },
            fds,
            limits: program.limits,
            tree,
            probe,
        };
        let disks = kept.iter().map(PathBuf::as_path).chain(work.as_ref().map(files::Work::path));
        let watch = watch::Watch::new(disks, &program.limits, tree);
        let orphans = tree.is_some() && !apart;
        if orphans {
            // What loses its parent comes to us, and is waited for.
            // SAFETY: the call concerns this process' own attribute and no memory.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        }
        let (pid, handle) = plan.start()?;
        // SAFETY: clone made this descriptor for us, and nobody else knows it.
        let handle = unsafe { OwnedFd::from_raw_fd(handle) };
        let (start, wall) = (Instant::now(), program.limits.wall);
        let deadline = start + wall;
        Ok(Running { pid, handle, start, deadline, wall, partner: None, orphans, ended: None, work, watch, excess: None })
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
            let slice = left.min(self.watch.slice());
            let mut poll = [libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: `poll` is one entry, alive during the call.
            let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, slice.as_millis() as i32 + 1) };
            match self.look() {
                None => {}
                Some(watch::Excess::Disk) => return Heard::Flood,
                Some(_) => return Heard::End,
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
            if self.look().is_some() {
                return Ended::Killed;
            }
            let left = self.left();
            let mut poll = [libc::pollfd { fd: self.handle.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: `poll` is one entry, alive during the call.
            let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, left.min(self.watch.slice()).as_millis() as i32 + 1) };
            if ready > 0 {
                return self.reap(false);
            }
            if left.is_zero() {
                return self.kill();
            }
        }
        self.ended.unwrap_or(Ended::Killed)
    }

    /// Whether it was killed because its tree took more memory than [`Memory::Resident`] says.
    pub fn over_memory(&self) -> bool {
        self.excess == Some(watch::Excess::Memory)
    }

    /// Kills the program when it has too much of something that the kernel does not bound.
    fn look(&mut self) -> Option<watch::Excess> {
        if self.ended.is_none() && self.excess.is_none() {
            self.excess = self.watch.look(self.pid);
            if self.excess.is_some() {
                self.kill();
            }
        }
        self.excess
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
        let used = self.watch.processor_time(self.pid) + self.partner.map_or(Duration::ZERO, watch::processor_time);
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
        if self.orphans {
            // All are in the group, which keeps its number as long as it has a process, and all are dying.
            // SAFETY: concerns children of ours in a group that only they can be in; no memory is written.
            while unsafe { libc::waitpid(-self.pid, std::ptr::null_mut(), libc::__WALL) } > 0 {}
        }
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
        let pipes = [&theirs];
        let program = Program { reads: &python.reads, pipes: &pipes, ..Program::new(&python.executable, &args, limits) };
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
    pub(super) fn without_namespaces() -> Sandbox {
        Sandbox::with(Mode::Strict, child::Namespaces::None, files::landlock_version(), false).unwrap()
    }

    /// Tests that look at the work folders take turns.
    fn turn() -> std::sync::MutexGuard<'static, ()> {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Work folders that stay. Those of other tests, which run meanwhile, come and go.
    fn folders() -> usize {
        let mark = format!("repairity-{}-", std::process::id());
        let count = || {
            let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
            entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&mark)).count()
        };
        let until = Instant::now() + Duration::from_secs(60);
        while count() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        count()
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
    fn an_older_landlock_leaves_truncation_to_the_filter() {
        let sandbox = Sandbox::with(Mode::Strict, child::Namespaces::None, 2, false).unwrap();
        let code = "
import os
def errno(attempt):
    try: attempt()
    except OSError as e: return e.errno
    return 0
got = [errno(lambda: os.truncate(os.__file__, 0)), errno(lambda: os.open(os.__file__, os.O_RDONLY | os.O_TRUNC))]
open('x', 'w').write('mine')
os.write(3, repr((got, open('x', 'r+').truncate(2))).encode())
";
        // EPERM is the filter's, EACCES would be Landlock's.
        assert_eq!(run(&sandbox, code, 10.0), ("([1, 1], 2)".into(), Ended::Exit(0)));
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
        let program = Program::new(Path::new("/no/such/program"), &[], limits);
        let text = sandbox.spawn(&program).unwrap_err().to_string();
        assert!(text.contains("exec: No such file"), "{text}");
    }
}
