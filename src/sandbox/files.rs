//! What a sandboxed program sees of the file system: Landlock rules and the work folder.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};

use crate::error::{Error, Result};

/// Read and execute: programs, libraries, the linker's cache, time zones. Nothing here is a secret.
const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"];

/// Rights of a program below its work folder: ordinary files and folders, no devices, sockets, FIFOs or executables.
fn work_rights() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSym
        | AccessFs::Refer
        | AccessFs::Truncate
}

/// The kernel's Landlock version, 0 or less where there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no attributes and only returns a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) as i32 }
}

/// The same rights as a raw mask, less those that a kernel of this Landlock version does not know.
pub(super) fn work_access(version: i32) -> u64 {
    let mut rights = work_rights();
    if version < 2 {
        rights &= !BitFlags::from(AccessFs::Refer);
    }
    if version < 3 {
        rights &= !BitFlags::from(AccessFs::Truncate);
    }
    rights.bits()
}

/// A ruleset that denies everything but reading the system and `reads`, the harmless devices, and, where it is a folder
/// on disk, writing below `work`.
pub(super) fn ruleset(reads: &[PathBuf], work: Option<&Path>) -> Result<OwnedFd> {
    let wrong = |e: &dyn std::fmt::Display| Error::Machine(format!("landlock: {e}"));
    let abi = ABI::V6;
    let read = AccessFs::from_read(abi);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(|r| r.scope(Scope::from_all(abi)))
        .and_then(|r| r.create())
        .map_err(|e| wrong(&e))?;
    let devices = [
        ("/dev/null", AccessFs::ReadFile | AccessFs::WriteFile),
        ("/dev/zero", AccessFs::ReadFile.into()),
        ("/dev/urandom", AccessFs::ReadFile.into()),
    ];
    let paths = SYSTEM.iter().map(|p| (Path::new(p), read)).chain(reads.iter().map(|p| (p.as_path(), read)));
    let paths = paths.chain(devices.iter().map(|(p, rights)| (Path::new(*p), *rights)));
    for (path, rights) in paths.chain(work.map(|w| (w, work_rights()))) {
        // What a machine lacks needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(abi) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, rights)).map_err(|e| wrong(&e))?;
    }
    Option::<OwnedFd>::from(ruleset).ok_or_else(|| Error::Machine("landlock: the kernel gave no ruleset".into()))
}

/// Where the tmpfs of a program with a mount namespace goes: a folder that every system has and the program need not see.
pub(super) fn mount_point(reads: &[PathBuf]) -> PathBuf {
    let free = |folder: &&&str| Path::new(folder).is_dir() && !reads.iter().any(|read| read.starts_with(folder));
    PathBuf::from(["/tmp", "/var/tmp", "/mnt"].iter().find(free).unwrap_or(&"/tmp"))
}

/// A fresh folder on disk for a program without a mount namespace; removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Work(PathBuf);

impl Work {
    pub(super) fn new() -> Result<Work> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("repairity-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Work(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes that the folder takes; links are not followed.
    pub(super) fn bytes(&self) -> u64 {
        fn sum(folder: &Path) -> u64 {
            let Ok(entries) = fs::read_dir(folder) else { return 0 };
            let size = |entry: fs::DirEntry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => 4096 + sum(&entry.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            };
            entries.flatten().map(size).sum()
        }
        sum(&self.0)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // remove_dir_all does not follow links.
        let _ = fs::remove_dir_all(&self.0);
    }
}
