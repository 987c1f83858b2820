//! The same for an ordinary user, and where the kernel makes no namespaces, as in many containers.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::*;

/// Set where this program was started to run the chosen attacks.
const AGAIN: &str = "ATTACKS_AGAIN";

/// The user without rights.
const NOBODY: u32 = 65534;

#[test]
fn chosen_attacks_are_contained() {
    let turn = Turn::take();
    if std::env::var_os(AGAIN).is_none() {
        println!("skipped: where every attack runs, there is nothing to choose");
        return;
    }
    assert_eq!(check(&split(), HONEST).verdict, Outcome::Pass);
    for name in
        ["fork bomb", "thread bomb", "small objects", "disk fill", "inode flood", "folders without end", "shared memory fill"]
    {
        resource::run(name, resource::body(name));
    }
    resource::locked();
    for name in [
        "TCP",
        "the host's environment",
        "the parent's environment",
        "the home folder",
        "the host's memory",
        "this repository",
        "writing elsewhere",
        "writing upwards",
        "reading through a link",
        "modes",
        "kill everything",
        "kill the parent",
        "a daemon by two forks",
        "tracing another process",
        "a user namespace",
        "System V shared memory",
    ] {
        escape::attempt(name);
    }
    for name in ["os._exit in the call", "always equal", "the grader's frames", "files that a test runner obeys"] {
        reward::answer(name);
    }
    reward::search();
    turn.clean();
    for attack in [tree::bombs, tree::daemons, tree::memory, tree::forbidden, tree::links, tree::disk, tree::hooks] {
        attack();
        turn.clean();
    }
}

/// Runs the chosen attacks again in a process of their own, as `user`, and returns what it printed.
fn again(user: Option<u32>, namespaces: bool) -> String {
    // An ordinary user may not be able to read where this program lies.
    let folder = std::env::temp_dir().join(format!("attacks-again-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("attacks");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", "places::chosen_attacks_are_contained", "--nocapture"]).current_dir("/").env(AGAIN, "1");
    if let Some(user) = user {
        command.uid(user).gid(user).env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").env_remove("TMPDIR");
    }
    if !namespaces {
        let filter = no_namespaces();
        // SAFETY: between fork and exec only two system calls are made, on memory that is ready.
        unsafe {
            command.pre_exec(move || {
                let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr() as *mut libc::sock_filter };
                let installed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0;
                if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
    }
    let output = command.output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

/// What a container's own filter does: no process of it makes a namespace or a mount.
fn no_namespaces() -> BpfProgram {
    let flags = [libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWIPC];
    let rule = |flag: i32| {
        let operator = SeccompCmpOp::MaskedEq(flag as u64);
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, flag as u64).unwrap()]).unwrap()
    };
    let mut rules = std::collections::BTreeMap::from([(libc::SYS_clone, flags.map(rule).to_vec())]);
    rules.extend([libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount].map(|call| (call, Vec::new())));
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into().unwrap())
        .unwrap()
        .try_into()
        .unwrap()
}

fn layers(text: &str) -> &str {
    text.lines().find_map(|line| line.split_once("layers: ")).map_or("", |(_, layers)| layers)
}

fn show(place: &str, text: &str) {
    println!("{place}: {}", layers(text));
    text.lines().filter_map(|line| line.strip_prefix("contained: ")).for_each(|line| println!("contained: {place}: {line}"));
}

/// Whether this process may become somebody else, and that one has a Python.
fn may_change_user() -> bool {
    // SAFETY: the call cannot fail and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: only root can become an ordinary user; the other tests of this file ran as one");
    } else if !std::path::Path::new("/usr/bin/python3").exists() {
        println!("skipped: no /usr/bin/python3 that an ordinary user could run");
    }
    root && std::path::Path::new("/usr/bin/python3").exists()
}

#[test]
fn an_ordinary_user_is_as_safe() {
    let turn = Turn::take();
    if may_change_user() {
        show("an ordinary user", &again(Some(NOBODY), true));
    }
    turn.clean();
}

#[test]
fn an_ordinary_user_is_as_safe_without_namespaces() {
    let turn = Turn::take();
    if may_change_user() {
        let text = again(Some(NOBODY), false);
        assert!(!layers(&text).contains("namespace") && layers(&text).contains("landlock, seccomp"), "{text}");
        show("an ordinary user without namespaces", &text);
    }
    turn.clean();
}

#[test]
fn whoever_runs_it_is_as_safe_without_namespaces() {
    let turn = Turn::take();
    let text = again(None, false);
    assert!(!layers(&text).contains("namespace") && layers(&text).contains("landlock, seccomp"), "{text}");
    show("without namespaces", &text);
    turn.clean();
}
