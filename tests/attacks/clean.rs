//! Whether the machine is as it was. Other programs run on it too: only what is ours is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{checker, mark, sandbox};

/// The key of every System V object that an attack makes, and the port of every socket.
pub const KEY: u32 = 0x41_77_ac_4b;
pub const PORT: u16 = 47_113;

/// One test's turn, and how the machine was when it came.
pub struct Turn {
    _guard: MutexGuard<'static, ()>,
    before: BTreeSet<String>,
}

impl Turn {
    pub fn take() -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Both keep what they open.
        checker();
        sandbox();
        Turn { _guard: guard, before: ours() }
    }

    /// Nothing is left that was not there before.
    pub fn clean(&self) {
        let after = ours();
        let left: Vec<_> = after.difference(&self.before).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// Everything of ours on this machine, in words.
fn ours() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    processes(&mut found);
    files(&mut found);
    mounts(&mut found);
    sockets(&mut found);
    shared(&mut found);
    descriptors(&mut found);
    found
}

fn read(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Our children, whatever they are, and processes that carry the mark in their arguments or environment.
fn processes(found: &mut BTreeSet<String>) {
    let me = std::process::id();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = read(entry.path().join("stat"));
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        let marked = |file| read(entry.path().join(file)).contains(&mark());
        if parent == Some(me) || (pid != me && marked("environ")) {
            found.insert(format!("process {pid}: {}", read(entry.path().join("cmdline")).replace('\0', " ")));
        }
    }
}

/// Files with the mark, work folders of this process, and cores.
fn files(found: &mut BTreeSet<String>) {
    let work = format!("repairity-{}-", std::process::id());
    for folder in ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/mnt", "/", "/usr", "/var", "/etc", "."] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(&mark()) || name.starts_with(&work) || name == "core" || name.starts_with("core.") {
                found.insert(format!("file {folder}/{name}"));
            }
        }
    }
}

/// Mounts that look like the sandbox' or an attack's.
fn mounts(found: &mut BTreeSet<String>) {
    let mounts = read("/proc/self/mountinfo");
    let ours = |line: &&str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        line.contains(&mark()) || ["/tmp", "/var/tmp", "/mnt", "/proc", "/etc", "/"].contains(&point)
    };
    found.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
}

fn sockets(found: &mut BTreeSet<String>) {
    let unix = read("/proc/net/unix");
    found.extend(unix.lines().filter(|line| line.contains(&mark())).map(|line| format!("socket {line}")));
    let port = format!(":{PORT:04X}");
    for table in ["tcp", "tcp6", "udp", "udp6", "raw"] {
        let text = read(format!("/proc/net/{table}"));
        found.extend(text.lines().filter(|line| line.contains(&port)).map(|line| format!("socket {table} {line}")));
    }
}

/// System V objects with our key, which are numbers in decimal.
fn shared(found: &mut BTreeSet<String>) {
    for table in ["shm", "sem", "msg"] {
        let text = read(format!("/proc/sysvipc/{table}"));
        let ours = |line: &&str| line.split_whitespace().next() == Some(KEY.to_string().as_str());
        found.extend(text.lines().filter(ours).map(|line| format!("{table} {line}")));
    }
    found.extend(read("/proc/keys").lines().filter(|line| line.contains(&mark())).map(|line| format!("key {line}")));
}

/// Our own open descriptors, but for the one that reads the list.
fn descriptors(found: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if let Ok(target) = fs::read_link(entry.path())
            && !target.starts_with("/proc")
        {
            found.insert(format!("descriptor {} {}", entry.file_name().to_string_lossy(), target.display()));
        }
    }
}

/// The look itself finds what it should: a check that sees nothing would always be content.
#[test]
fn what_is_left_is_seen() {
    let turn = Turn::take();
    let left = |what: &str| ours().difference(&turn.before).filter(|line| line.starts_with(what)).count();
    let mut child = std::process::Command::new("sleep").arg("99").spawn().unwrap();
    let file = std::env::temp_dir().join(mark());
    let open = fs::File::create(&file).unwrap();
    let name = SocketAddr::from_abstract_name(mark()).unwrap();
    let listener = UnixListener::bind_addr(&name).unwrap();
    let counts = ["process", "file", "descriptor", "socket"].map(left);
    drop((open, listener));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(file).unwrap();
    assert_eq!(counts, [1, 1, 2, 1]);
    turn.clean();
}
