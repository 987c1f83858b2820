//! The seccomp filter: which system calls a program that nobody trusts may make.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, sock_filter,
};

use crate::error::{Error, Result};

/// The compiled filter. A denied call returns EPERM, so that an interpreter turns it into an exception.
pub(super) struct Filter {
    programs: Vec<BpfProgram>,
    headers: Vec<libc::sock_fprog>,
}

// SAFETY: the headers point into `programs`, which live as long and never change.
unsafe impl Send for Filter {}
unsafe impl Sync for Filter {}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} programs)", self.programs.len())
    }
}

/// Denied whatever the arguments. `clone3` is treated apart.
const DENIED: &[libc::c_long] = &[
    // The network. A socketpair leads nowhere but to its other end, and event loops need one.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Metadata, which Landlock does not guard: they would work on any file of the same user.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    452, // fchmodat2, one number on every architecture
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    463, // setxattrat
    466, // removexattrat
    libc::SYS_mknodat,
    libc::SYS_flock,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Memory that outlives a process or that no limit counts.
    libc::SYS_memfd_create,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
];

/// Calls that only this architecture still has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_mknod,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Terminal calls that put words into somebody's mouth: TIOCSTI and TIOCLINUX.
const TERMINAL: [u64; 2] = [0x5412, 0x541C];

impl Filter {
    /// Compiles the filter for this machine.
    pub(super) fn new() -> Result<Filter> {
        let wrong = |e: &dyn std::fmt::Display| Error::Machine(format!("the system-call filter cannot be made: {e}"));
        let arch = std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| wrong(&e))?;
        let rule = |argument, operator, value| -> Result<SeccompRule> {
            let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(|e| wrong(&e))?;
            SeccompRule::new(vec![condition]).map_err(|e| wrong(&e))
        };
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
        // A thread is welcome, a process is not.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
        rules.insert(libc::SYS_prlimit64, vec![rule(0, SeccompCmpOp::Ne, 0)?]);
        let mut terminal = Vec::new();
        for request in TERMINAL {
            terminal.push(rule(1, SeccompCmpOp::Eq, request)?);
        }
        rules.insert(libc::SYS_ioctl, terminal);

        // clone3 hides its flags in memory; without it the C library falls back to clone.
        let newer = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let compile = |rules, errno: i32| -> Result<BpfProgram> {
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
                .and_then(BpfProgram::try_from)
                .map_err(|e| wrong(&e))
        };
        let mut programs = vec![compile(newer, libc::ENOSYS)?, compile(rules, libc::EPERM)?];
        if cfg!(target_arch = "x86_64") {
            programs.push(no_x32());
        }
        let headers = programs
            .iter()
            .map(|p| libc::sock_fprog { len: p.len() as u16, filter: p.as_ptr() as *mut libc::sock_filter })
            .collect();
        Ok(Filter { programs, headers })
    }

    /// The programs to install, in this order.
    pub(super) fn programs(&self) -> &[libc::sock_fprog] {
        &self.headers
    }
}

/// The x32 calls have numbers of their own above bit 30, which a list of numbers would miss.
fn no_x32() -> BpfProgram {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(0x20, 0, 0, 0),           // load the call's number
        instruction(0x35, 0, 1, 0x4000_0000), // at or above the x32 bit?
        instruction(0x06, 0, 0, 0x0005_0000 | libc::ENOSYS as u32),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
}
