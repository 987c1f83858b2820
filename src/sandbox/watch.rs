//! What the kernel does not bound for us: processes and resident memory of a tree, bytes of a folder on a real disk.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Limits, Memory, files};

/// The time between two looks at least; one that takes long is taken less often.
const PAUSE: Duration = Duration::from_millis(10);

/// What a program has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Disk,
    Memory,
    Processes,
}

/// What is looked at while a program runs.
#[derive(Debug)]
pub(super) struct Watch {
    /// Folders on a real disk, each with the bytes that it had before.
    folders: Vec<(PathBuf, u64)>,
    disk: u64,
    resident: Option<u64>,
    processes: Option<usize>,
    /// Whether the last look found too much memory.
    over: bool,
    next: Instant,
    next_disk: Instant,
}

impl Watch {
    pub(super) fn new<'a>(folders: impl Iterator<Item = &'a Path>, limits: &Limits, processes: Option<usize>) -> Watch {
        let folders = folders.map(|folder| (folder.to_owned(), files::bytes(folder, u64::MAX))).collect();
        let resident = match limits.memory {
            Memory::Address(_) => None,
            Memory::Resident(bytes) => Some(bytes),
        };
        let now = Instant::now();
        Watch { folders, disk: limits.disk, resident, processes, over: false, next: now, next_disk: now }
    }

    /// How long the host may wait before the next look.
    pub(super) fn slice(&self) -> Duration {
        let idle = self.folders.is_empty() && self.resident.is_none() && self.processes.is_none();
        if idle { Duration::from_secs(3600) } else { self.next.saturating_duration_since(Instant::now()) }
    }

    /// Looks, when it is time to.
    pub(super) fn look(&mut self, pid: libc::pid_t) -> Option<Excess> {
        let start = Instant::now();
        if start < self.next {
            return None;
        }
        let mut excess = None;
        if self.resident.is_some() || self.processes.is_some() {
            let most = self.processes.unwrap_or(1);
            let tree = tree(pid, most + 1);
            if tree.len() > most {
                return Some(Excess::Processes);
            }
            if let Some(most) = self.resident {
                let bytes: u64 = tree.iter().map(|pid| resident(*pid)).sum();
                // Between fork and exec two processes show the same memory: only twice in a row, or much too much, counts.
                if bytes > most && (self.over || bytes > most.saturating_mul(2)) {
                    excess = Some(Excess::Memory);
                }
                self.over = bytes > most;
            }
        }
        if !self.folders.is_empty() && start >= self.next_disk {
            let grown = |(folder, before): &(PathBuf, u64)| {
                files::bytes(folder, before.saturating_add(self.disk)).saturating_sub(*before)
            };
            let bytes =
                self.folders.iter().map(grown).fold(unlinked(&tree(pid, self.processes.unwrap_or(1))), u64::saturating_add);
            if bytes > self.disk {
                excess = Some(Excess::Disk);
            }
            self.next_disk = Instant::now() + (start.elapsed() * 20).max(PAUSE * 5);
        }
        self.next = Instant::now() + (start.elapsed() * 5).max(PAUSE);
        excess
    }

    /// What the program and what it started have used of the processors.
    pub(super) fn processor_time(&self, pid: libc::pid_t) -> Duration {
        match self.processes {
            None => processor_time(pid),
            Some(most) => tree(pid, most).into_iter().map(tree_time).sum(),
        }
    }
}

/// What a process, not yet waited for, has used of the processors.
pub(super) fn processor_time(pid: libc::pid_t) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill what they are given; a process that is gone has no clock.
    let known = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
    if known { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) } else { Duration::ZERO }
}

/// The processor time of a process and of what it waited for.
fn tree_time(pid: libc::pid_t) -> Duration {
    // Fields 14 to 17 of proc_pid_stat(5).
    let ticks: u64 = stat(pid).iter().skip(11).take(4).sum();
    // SAFETY: the call reads a constant of the system.
    let second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_millis(ticks * 1000 / second)
}

/// The fields of /proc/PID/stat after the name, which may hold anything: from field 3 on, 0 for what is no number.
fn stat(pid: libc::pid_t) -> Vec<u64> {
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

/// Resident bytes that are not a file's.
fn resident(pid: libc::pid_t) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |line: &str| {
        let value = line.strip_prefix("RssAnon:").or(line.strip_prefix("RssShmem:"))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    text.lines().filter_map(field).sum::<u64>() << 10
}

/// Bytes of files that have no name any more and are still open.
fn unlinked(pids: &[libc::pid_t]) -> u64 {
    let mut sizes = HashMap::new();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if let Ok(meta) = fs::metadata(entry.path())
                && meta.is_file()
                && meta.nlink() == 0
            {
                sizes.insert((meta.dev(), meta.ino()), meta.len());
            }
        }
    }
    sizes.values().sum()
}

/// The process and its descendants, `most` of them at most. Orphans count: they are children of the first process.
fn tree(pid: libc::pid_t, most: usize) -> Vec<libc::pid_t> {
    // Many kernels keep lists of children; the others are asked for every process's parent.
    static LISTED: OnceLock<bool> = OnceLock::new();
    let listed = *LISTED.get_or_init(|| Path::new(&format!("/proc/self/task/{}/children", std::process::id())).exists());
    let scanned = if listed { HashMap::new() } else { families() };
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() && found.len() < most {
        if listed {
            found.extend(children(found[next]));
        } else {
            found.extend(scanned.get(&found[next]).into_iter().flatten());
        }
        next += 1;
    }
    found.truncate(most);
    found
}

/// The children of a process, which are the children of its threads.
fn children(pid: libc::pid_t) -> Vec<libc::pid_t> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}

/// All processes by their parents.
fn families() -> HashMap<libc::pid_t, Vec<libc::pid_t>> {
    let mut families: HashMap<libc::pid_t, Vec<libc::pid_t>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Field 4 is the parent.
        if let Some(parent) = stat(pid).get(1) {
            families.entry(*parent as libc::pid_t).or_default().push(pid);
        }
    }
    families
}
