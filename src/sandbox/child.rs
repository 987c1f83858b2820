//! What happens between clone and exec, and what is prepared before.
//!
//! The child shares our memory until it execs (CLONE_VM and CLONE_VFORK: no page table of a large host is copied), so it
//! may only make system calls: everything it needs lies ready in a [`Plan`].

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use crate::error::{Error, Result};

use super::filter::Filter;
use super::{Limits, Memory};

/// Which namespaces a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// None: the kernel or the container does not allow them.
    None,
    /// All, below a user namespace.
    User,
    /// All but a user namespace, which takes a privileged host.
    Root,
}

/// Everything the child does, as data.
pub(super) struct Plan<'a> {
    /// argv; the first is the executable.
    pub args: Vec<CString>,
    /// The whole environment.
    pub environment: Vec<CString>,
    /// The work folder.
    pub folder: CString,
    /// A folder that stays writable when everything else becomes read-only.
    pub kept: Option<CString>,
    /// Where a tmpfs goes.
    pub mount: Option<CString>,
    /// The tmpfs' options.
    pub mount_options: CString,
    /// Namespaces to make.
    pub namespaces: Namespaces,
    /// uid_map and gid_map of the user namespace.
    pub maps: [CString; 2],
    /// The Landlock ruleset, or -1.
    pub ruleset: RawFd,
    /// Landlock rights below the tmpfs.
    pub work_access: u64,
    /// The system-call filter.
    pub filter: Option<&'a Filter>,
    /// What becomes descriptors 0, 1, 2, 3, ...
    pub fds: Vec<RawFd>,
    /// Resource limits.
    pub limits: Limits,
    /// How many processes it may have, if it may start any.
    pub tree: Option<usize>,
    /// End with code 0, or [`PROBE_WRITABLE`], instead of running the program.
    pub probe: bool,
}

/// How a probe ends where the program's view of the disk could not be made read-only.
pub(super) const PROBE_WRITABLE: i32 = 3;

/// The user and group alone, mapped to themselves: the only map that an ordinary user may write.
pub(super) fn identity_maps() -> [CString; 2] {
    // SAFETY: neither call can fail or touches memory.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    [format!("{user} {user} 1"), format!("{group} {group} 1")].map(|s| CString::new(s).expect("digits"))
}

/// What the child reads and what it says when a step fails. Both sides share this memory.
struct Shared<'a> {
    plan: &'a Plan<'a>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    failed: Option<(&'static str, i32)>,
}

/// Where the C library keeps named semaphores and shared memory; a tree gets a tmpfs of its own there.
const SHARED: &CStr = c"/dev/shm";
const STACK: usize = 256 << 10;
const MOST_FDS: usize = 16;

impl Plan<'_> {
    /// Starts the child and returns its pid and pidfd.
    pub(super) fn start(&self) -> Result<(libc::pid_t, RawFd)> {
        let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        let mut shared = Shared { plan: self, argv: pointers(&self.args), envp: pointers(&self.environment), failed: None };
        assert!(self.fds.len() <= MOST_FDS, "at most {MOST_FDS} descriptors");
        let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let spaces = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
        flags |= match self.namespaces {
            Namespaces::None => 0,
            Namespaces::User => spaces | libc::CLONE_NEWUSER,
            Namespaces::Root => spaces,
        };
        let mut stack = vec![0u8; STACK];
        let mut pidfd: RawFd = -1;
        // SAFETY: the child runs `run` on a stack of its own and makes system calls only; CLONE_VFORK keeps this thread, and
        // with it `stack`, `shared` and everything they point to, in place until the child has exec'd or ended.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(STACK & !15) as usize & !15;
            // A signal handler of ours must not run in the child, whose memory is ours.
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut old);
            let pid = libc::clone(
                run,
                top as *mut libc::c_void,
                flags,
                &mut shared as *mut Shared<'_> as *mut libc::c_void,
                &mut pidfd as *mut RawFd,
            );
            let error = std::io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut());
            if pid < 0 {
                return Err(Error::Machine(format!("a sandboxed process could not be started: {error}")));
            }
            pid
        };
        if let Some((step, errno)) = std::hint::black_box(&shared).failed {
            // SAFETY: the child is ours, has ended and is waited for once; the descriptor is ours and not used again.
            unsafe {
                libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
                libc::close(pidfd);
            }
            let error = std::io::Error::from_raw_os_error(errno);
            return Err(Error::Machine(format!("a sandboxed process could not be set up: {step}: {error}")));
        }
        Ok((pid, pidfd))
    }
}

extern "C" fn run(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a `Shared` that outlives this function; its thread waits, so nothing else looks at it.
    let shared = unsafe { &mut *(argument as *mut Shared<'_>) };
    let step = unsafe { steps(shared) };
    shared.failed = Some((step, unsafe { *libc::__errno_location() }));
    unsafe { libc::_exit(127) }
}

/// Writes `text` in one call, as the maps of a namespace must be. Only system calls.
unsafe fn write_file(path: &CStr, text: &CStr) -> bool {
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return false;
        }
        let length = text.to_bytes().len();
        let done = libc::write(fd, text.as_ptr().cast(), length) == length as isize;
        libc::close(fd);
        done
    }
}

/// Sets both limits of `resource`, never above what the host itself has. Only system calls.
unsafe fn limit(resource: libc::__rlimit_resource_t, value: u64) -> bool {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe {
        libc::getrlimit(resource, &mut old);
        let value = value.min(old.rlim_max);
        libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value }) == 0
    }
}

/// `__user_cap_header_struct` of capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const READ_ONLY: u64 = 1;
const NO_SETUID: u64 = 2;

/// `landlock_path_beneath_attr` of landlock_add_rule(2).
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    parent: i32,
}

/// Everything between clone and exec. Returns the name of the step that failed; does not return when all went well. Only
/// system calls: no allocation, no lock, no unwinding.
unsafe fn steps(shared: &Shared<'_>) -> &'static str {
    let plan = shared.plan;
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        // The host dies, the program dies: nothing is left running after a kill -9.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return "parent-death signal";
        }
        if libc::setsid() < 0 {
            return "session";
        }
        if plan.namespaces == Namespaces::User {
            write_file(c"/proc/self/setgroups", c"deny");
            if !write_file(c"/proc/self/uid_map", &plan.maps[0]) || !write_file(c"/proc/self/gid_map", &plan.maps[1]) {
                return "user map";
            }
        }
        let mut own_shared = false;
        let mut read_only = false;
        if plan.namespaces != Namespaces::None {
            let none = std::ptr::null();
            if libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) != 0 {
                return "private mounts";
            }
            if let Some(kept) = &plan.kept
                && libc::mount(kept.as_ptr(), kept.as_ptr(), none, libc::MS_BIND | libc::MS_REC, none.cast()) != 0
            {
                return "kept folder";
            }
            // Read-only and no setuid, below Landlock's own rules; kernels before 5.12 have no such call.
            let attr = MountAttr { set: READ_ONLY | NO_SETUID, clear: 0, propagation: 0, userns: 0 };
            let size = size_of::<MountAttr>();
            const AT_RECURSIVE: i32 = 0x8000;
            read_only = libc::syscall(libc::SYS_mount_setattr, -1, c"/".as_ptr(), AT_RECURSIVE, &attr, size) == 0;
            if let Some(kept) = &plan.kept
                && read_only
            {
                let attr = MountAttr { set: 0, clear: READ_ONLY, propagation: 0, userns: 0 };
                if libc::syscall(libc::SYS_mount_setattr, -1, kept.as_ptr(), 0, &attr, size) != 0 {
                    return "kept folder";
                }
            }
        }
        if let Some(mount) = &plan.mount {
            let execute = if plan.tree.is_some() { 0 } else { libc::MS_NOEXEC };
            let flags = libc::MS_NOSUID | libc::MS_NODEV | execute;
            if libc::mount(c"tmpfs".as_ptr(), mount.as_ptr(), c"tmpfs".as_ptr(), flags, plan.mount_options.as_ptr().cast()) != 0 {
                return "temporary folder";
            }
            // Semaphores of a tree's processes are files here. A machine without the folder has no use for it.
            let shared =
                |options| libc::mount(c"tmpfs".as_ptr(), SHARED.as_ptr(), c"tmpfs".as_ptr(), flags | libc::MS_NOEXEC, options);
            own_shared = plan.tree.is_some() && shared(plan.mount_options.as_ptr().cast()) == 0;
        }
        if libc::chdir(plan.folder.as_ptr()) != 0 {
            return "work folder";
        }

        // Descriptors are moved out of the way first, so that none is overwritten before it is in place.
        let mut high = [-1; MOST_FDS];
        for (fd, high) in plan.fds.iter().zip(&mut high) {
            *high = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 64);
        }
        let ruleset = if plan.ruleset < 0 { -1 } else { libc::fcntl(plan.ruleset, libc::F_DUPFD_CLOEXEC, 64) };
        for (want, high) in high[..plan.fds.len()].iter().enumerate() {
            if libc::dup2(*high, want as RawFd) < 0 {
                return "descriptors";
            }
        }

        let limits = plan.limits;
        let address = match limits.memory {
            Memory::Address(bytes) => bytes,
            Memory::Resident(_) => libc::RLIM_INFINITY,
        };
        // The processor time of a tree is spread over processes and processors: its bound is the wall clock.
        let (seconds, descriptors) = match plan.tree {
            None => (limits.wall.as_secs() + 2, 64),
            Some(_) => (libc::RLIM_INFINITY, 1024),
        };
        let mut set = limit(libc::RLIMIT_AS, address)
            && limit(libc::RLIMIT_CPU, seconds)
            && limit(libc::RLIMIT_FSIZE, limits.disk)
            && limit(libc::RLIMIT_NOFILE, descriptors)
            && limit(libc::RLIMIT_CORE, 0)
            && limit(libc::RLIMIT_STACK, 16 << 20)
            && limit(libc::RLIMIT_MSGQUEUE, 0)
            && limit(libc::RLIMIT_MEMLOCK, 0);
        // Where only threads may start, the filter denies forking and threads take address space. A tree is counted by the
        // host; below a user namespace the kernel counts too, threads included, for everyone but root.
        if let (Some(most), Namespaces::User) = (plan.tree, plan.namespaces) {
            set = set && limit(libc::RLIMIT_NPROC, 1024 + 64 * most as u64);
        }
        if !set {
            return "resource limits";
        }
        // While the program lives, what loses its parent in the tree becomes its child, where the host can see it.
        if plan.tree.is_some() && libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 {
            return "orphans";
        }
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return "no new privileges";
        }
        if ruleset >= 0 {
            for folder in plan.mount.as_deref().into_iter().chain(own_shared.then_some(SHARED)) {
                let parent = libc::open(folder.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
                let rule = PathBeneath { access: plan.work_access, parent };
                if libc::syscall(libc::SYS_landlock_add_rule, ruleset, 1, &rule, 0) != 0 {
                    return "landlock rule";
                }
            }
            if libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) != 0 {
                return "landlock";
            }
        }
        if plan.filter.is_some() {
            // NOROOT and NO_SETUID_FIXUP with their locks: an exec as uid 0 gives nothing back. Both calls need a
            // privilege that an ordinary user lacks together with everything they would drop.
            libc::prctl(libc::PR_SET_SECUREBITS, 0b1111);
            for capability in 0..64 {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            let header = Header { version: 0x2008_0522, pid: 0 };
            let nothing = [0u32; 6];
            if libc::syscall(libc::SYS_capset, &header, nothing.as_ptr()) != 0 {
                return "capabilities";
            }
        }
        // Ours all close on exec; this is for what a library of the host may have left open.
        if libc::syscall(libc::SYS_close_range, plan.fds.len(), u32::MAX, 0) != 0 && plan.filter.is_some() {
            return "closing descriptors";
        }
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        if let Some(filter) = plan.filter {
            for program in filter.programs() {
                if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, program as *const libc::sock_fprog) != 0 {
                    return "seccomp";
                }
            }
        }
        if plan.probe {
            libc::_exit(if read_only || plan.namespaces == Namespaces::None { 0 } else { PROBE_WRITABLE });
        }
        libc::execve(shared.argv[0], shared.argv.as_ptr(), shared.envp.as_ptr());
        "exec"
    }
}
