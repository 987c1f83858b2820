//! What happens between clone and exec, and what is prepared before.
//!
//! The child shares our memory until it execs (CLONE_VM and CLONE_VFORK: no page table of a large host is copied), so it
//! may only make system calls: everything it needs lies ready in a [`Plan`].

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use crate::error::{Error, Result};

use super::Limits;
use super::filter::Filter;

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
    /// Whether `folder` gets a tmpfs of its own.
    pub mount: bool,
    /// The tmpfs' options.
    pub mount_options: CString,
    /// Namespaces to make.
    pub namespaces: Namespaces,
    /// uid_map and gid_map of the user namespace.
    pub maps: [CString; 2],
    /// The Landlock ruleset, or -1.
    pub ruleset: RawFd,
    /// Landlock rights below the work folder.
    pub work_access: u64,
    /// The system-call filter.
    pub filter: Option<&'a Filter>,
    /// What becomes descriptors 0, 1, 2, 3, ...
    pub fds: Vec<RawFd>,
    /// Resource limits.
    pub limits: Limits,
    /// End with code 0 instead of running the program.
    pub probe: bool,
}

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
        if plan.mount {
            let none = std::ptr::null();
            if libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) != 0 {
                return "private mounts";
            }
            // Read-only and no setuid, below Landlock's own rules; kernels before 5.12 have no such call.
            let attr = MountAttr { set: 0x1 | 0x2, clear: 0, propagation: 0, userns: 0 };
            const AT_RECURSIVE: i32 = 0x8000;
            libc::syscall(libc::SYS_mount_setattr, -1, c"/".as_ptr(), AT_RECURSIVE, &attr, size_of::<MountAttr>());
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let options = plan.mount_options.as_ptr().cast();
            if libc::mount(c"tmpfs".as_ptr(), plan.folder.as_ptr(), c"tmpfs".as_ptr(), flags, options) != 0 {
                return "work folder";
            }
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

        // Processes need no limit of their own: the filter denies forking, and threads take address space.
        let limits = plan.limits;
        let seconds = limits.wall.as_secs() + 2;
        let set = limit(libc::RLIMIT_AS, limits.memory)
            && limit(libc::RLIMIT_CPU, seconds)
            && limit(libc::RLIMIT_FSIZE, limits.disk)
            && limit(libc::RLIMIT_NOFILE, 64)
            && limit(libc::RLIMIT_CORE, 0)
            && limit(libc::RLIMIT_STACK, 16 << 20)
            && limit(libc::RLIMIT_MSGQUEUE, 0)
            && limit(libc::RLIMIT_MEMLOCK, 0);
        if !set {
            return "resource limits";
        }
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return "no new privileges";
        }
        if ruleset >= 0 {
            if plan.mount {
                let parent = libc::open(plan.folder.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
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
            libc::_exit(0);
        }
        libc::execve(shared.argv[0], shared.argv.as_ptr(), shared.envp.as_ptr());
        "exec"
    }
}
