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

/// Denied whatever the arguments. What depends on the program comes below.
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
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    463, // setxattrat
    466, // removexattrat
    libc::SYS_mknodat,
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
    // Landlock does not guard who watches a file.
    libc::SYS_inotify_init1,
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
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_kexec_file_load,
    libc::SYS_inotify_init,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Signals to other processes.
const SIGNALS: &[libc::c_long] =
    &[libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];

/// Ways out of a process group.
const GROUPS: &[libc::c_long] = &[libc::SYS_setsid, libc::SYS_setpgid];

const FCHMODAT2: libc::c_long = 452; // one number on every architecture

/// Calls that change modes, each with the argument that holds the mode.
const MODES: &[(libc::c_long, u8)] = &[(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2)];
#[cfg(target_arch = "x86_64")]
const MODES_HERE: &[(libc::c_long, u8)] = &[(libc::SYS_chmod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const MODES_HERE: &[(libc::c_long, u8)] = &[];

/// Calls that make a file, each with the argument that holds its mode.
const MAKING: &[(libc::c_long, u8)] = &[(libc::SYS_openat, 3)];
#[cfg(target_arch = "x86_64")]
const MAKING_HERE: &[(libc::c_long, u8)] = &[(libc::SYS_open, 2), (libc::SYS_creat, 1)];
#[cfg(not(target_arch = "x86_64"))]
const MAKING_HERE: &[(libc::c_long, u8)] = &[];

/// Calls that open a file, each with the argument that holds the flags.
const OPENING: &[(libc::c_long, u8)] = &[(libc::SYS_openat, 2)];
#[cfg(target_arch = "x86_64")]
const OPENING_HERE: &[(libc::c_long, u8)] = &[(libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENING_HERE: &[(libc::c_long, u8)] = &[];

/// Calls that change times.
const TIMES: &[libc::c_long] = &[libc::SYS_utimensat];
#[cfg(target_arch = "x86_64")]
const TIMES_HERE: &[libc::c_long] = &[libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const TIMES_HERE: &[libc::c_long] = &[];

/// Calls that start a process and nothing else.
#[cfg(target_arch = "x86_64")]
const FORKS: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[libc::c_long] = &[];

/// Terminal calls that put words into somebody's mouth: TIOCSTI and TIOCLINUX.
const TERMINAL: [u64; 2] = [0x5412, 0x541C];

/// Set-user-id and set-group-id: a file that has one of them acts for its owner wherever the host runs it.
const SET_ID: [u64; 2] = [0o4000, 0o2000];

/// Flags of clone that make a namespace, or a process that is no child of its maker.
const CLONE_OUT: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_PARENT,
];

/// Rules by system call; a call with an empty list matches whatever its arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn wrong(error: &dyn std::fmt::Display) -> Error {
    Error::Machine(format!("the system-call filter cannot be made: {error}"))
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(|e| wrong(&e))?;
    SeccompRule::new(vec![condition]).map_err(|e| wrong(&e))
}

/// What every program is denied.
fn denied() -> Result<Rules> {
    let mut rules: Rules = DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_prlimit64, vec![rule(0, SeccompCmpOp::Ne, 0)?]);
    let terminal = TERMINAL.iter().map(|request| rule(1, SeccompCmpOp::Eq, *request)).collect::<Result<_>>()?;
    rules.insert(libc::SYS_ioctl, terminal);
    Ok(rules)
}

/// What is safe to leave open on this machine, because something else guards it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// Process groups and sessions: a pid namespace ends with its first process.
    pub groups: bool,
    /// Signals: they stay inside.
    pub signals: bool,
    /// Modes and times of files: only a program's own folder can be changed.
    pub metadata: bool,
    /// Truncation of files that may be read.
    pub truncation: bool,
}

/// Truncation without a descriptor to write to.
fn deny_truncation(rules: &mut Rules) -> Result<()> {
    rules.insert(libc::SYS_truncate, Vec::new());
    // Opened to read, or for neither, and truncated.
    let truncate = libc::O_TRUNC as u64;
    let mask = SeccompCmpOp::MaskedEq(truncate | 3);
    for (call, argument) in OPENING.iter().chain(OPENING_HERE) {
        for value in [truncate, truncate | 3] {
            rules.entry(*call).or_default().push(rule(*argument, mask.clone(), value)?);
        }
    }
    Ok(())
}

impl Filter {
    /// For a program that may start threads only.
    pub(super) fn threads(open: Open) -> Result<Filter> {
        let mut rules = denied()?;
        // A thread is welcome, a process is not.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
        let modes = MODES.iter().chain(MODES_HERE).map(|(call, _)| call);
        let calls = FORKS.iter().chain(SIGNALS).chain(modes).chain(TIMES).chain(TIMES_HERE).chain(&[libc::SYS_flock]);
        rules.extend(calls.map(|call| (*call, Vec::new())));
        if !open.truncation {
            deny_truncation(&mut rules)?;
        }
        Filter::compile(&[(rules, libc::EPERM), (hidden(), libc::ENOSYS)])
    }

    /// For a program that may start processes.
    pub(super) fn tree(open: Open) -> Result<Filter> {
        let mut rules = denied()?;
        let out = CLONE_OUT.iter().map(|flag| rule(0, SeccompCmpOp::MaskedEq(*flag as u64), *flag as u64));
        rules.insert(libc::SYS_clone, out.collect::<Result<_>>()?);
        if !open.groups {
            // The group is what the host kills.
            rules.extend(GROUPS.iter().map(|call| (*call, Vec::new())));
        }
        if !open.signals {
            rules.extend(SIGNALS.iter().map(|call| (*call, Vec::new())));
        }
        let set_id = |argument| {
            SET_ID.iter().map(move |bit| rule(argument, SeccompCmpOp::MaskedEq(*bit), *bit)).collect::<Result<Vec<_>>>()
        };
        for (call, argument) in MAKING.iter().chain(MAKING_HERE) {
            rules.insert(*call, set_id(*argument)?);
        }
        // Tools want to set modes and times, and some give up when they cannot.
        let mut quiet = Rules::new();
        if open.metadata {
            for (call, argument) in MODES.iter().chain(MODES_HERE) {
                rules.insert(*call, set_id(*argument)?);
            }
        } else {
            let calls = MODES.iter().chain(MODES_HERE).map(|(call, _)| call).chain(TIMES).chain(TIMES_HERE);
            quiet.extend(calls.map(|call| (*call, Vec::new())));
        }
        if !open.truncation {
            deny_truncation(&mut rules)?;
        }
        Filter::compile(&[(rules, libc::EPERM), (hidden(), libc::ENOSYS), (quiet, 0)])
    }

    /// One program per errno.
    fn compile(rules: &[(Rules, i32)]) -> Result<Filter> {
        let arch = std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| wrong(&e))?;
        let mut programs = Vec::new();
        for (rules, errno) in rules.iter().filter(|(rules, _)| !rules.is_empty()) {
            let filter = SeccompFilter::new(rules.clone(), SeccompAction::Allow, SeccompAction::Errno(*errno as u32), arch);
            programs.push(filter.and_then(BpfProgram::try_from).map_err(|e| wrong(&e))?);
        }
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

/// clone3 and openat2 hide their flags in memory; without them the C library falls back to clone and openat.
fn hidden() -> Rules {
    Rules::from([(libc::SYS_clone3, Vec::new()), (libc::SYS_openat2, Vec::new())])
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
