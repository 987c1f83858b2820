//! What a sandboxed program sees of the file system: Landlock rules and the work folder.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
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

/// What compilers and run times read besides: links to the chosen version, settings of libraries.
const TOOLS: [&str; 2] = ["/etc/alternatives", "/etc/ssl/openssl.cnf"];

/// The first Landlock version that guards truncation.
pub(super) const GUARDS_TRUNCATION: i32 = 3;

/// The first Landlock version that keeps signals inside a sandbox.
pub(super) const SCOPES_SIGNALS: i32 = 6;

/// What a program may do below a folder of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    /// The kernel's Landlock version.
    pub landlock: i32,
    /// Whether it may run what it finds there.
    pub execute: bool,
}

impl Rights {
    /// Ordinary files and folders: no devices, sockets or FIFOs.
    fn flags(self) -> BitFlags<AccessFs> {
        let rights = AccessFs::ReadFile
            | AccessFs::ReadDir
            | AccessFs::WriteFile
            | AccessFs::RemoveDir
            | AccessFs::RemoveFile
            | AccessFs::MakeDir
            | AccessFs::MakeReg
            | AccessFs::MakeSym
            | AccessFs::Refer
            | AccessFs::Truncate;
        if self.execute { rights | AccessFs::Execute } else { rights }
    }

    /// The same as a raw mask, less what a kernel of this version does not know.
    pub(super) fn bits(self) -> u64 {
        let mut rights = self.flags();
        if self.landlock < 2 {
            rights &= !BitFlags::from(AccessFs::Refer);
        }
        if self.landlock < GUARDS_TRUNCATION {
            rights &= !BitFlags::from(AccessFs::Truncate);
        }
        rights.bits()
    }
}

/// The kernel's Landlock version, 0 or less where there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no attributes and only returns a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) as i32 }
}

/// A ruleset that denies everything but reading the system and `reads`, the harmless devices, and writing below `writes`.
pub(super) fn ruleset(reads: &[PathBuf], writes: &[(&Path, Rights)], tools: bool) -> Result<OwnedFd> {
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
    let tools = if tools { tool_settings() } else { Vec::new() };
    let paths = SYSTEM.iter().map(Path::new).chain(tools.iter().chain(reads).map(PathBuf::as_path)).map(|p| (p, read));
    let paths = paths.chain(devices.iter().map(|(p, rights)| (Path::new(*p), *rights)));
    for (path, rights) in paths.chain(writes.iter().map(|(path, rights)| (*path, rights.flags()))) {
        // What a machine lacks needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(abi) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, rights)).map_err(|e| wrong(&e))?;
    }
    Option::<OwnedFd>::from(ruleset).ok_or_else(|| Error::Machine("landlock: the kernel gave no ruleset".into()))
}

/// The folders of [`TOOLS`] that are there, and /etc/java-17-openjdk and its like.
fn tool_settings() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten().map(|entry| entry.path());
    let java = entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("java-")));
    java.chain(TOOLS.map(PathBuf::from)).collect()
}

/// Gives a program below `kept` the executable bit that a linker could not give it where modes cannot be changed.
pub(super) fn make_executable(program: &Path, kept: &Path) -> Result<()> {
    let Ok(real) = program.canonicalize() else { return Ok(()) };
    if !real.starts_with(kept) {
        return Ok(());
    }
    let wrong = |e| Error::io(&real, e);
    let file = fs::File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&real).map_err(wrong)?;
    let meta = file.metadata().map_err(wrong)?;
    let mode = meta.permissions().mode();
    if meta.is_file() && mode & 0o100 == 0 {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o777 | 0o100)).map_err(wrong)?;
    }
    Ok(())
}

/// Where the tmpfs of a program with a mount namespace goes: a folder that every system has and the program need not see.
pub(super) fn mount_point(reads: &[PathBuf], kept: Option<&Path>) -> PathBuf {
    let seen = || reads.iter().map(PathBuf::as_path).chain(kept);
    let free = |folder: &&&str| Path::new(folder).is_dir() && !seen().any(|path| path.starts_with(folder));
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
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Work(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// How deep folders may lie: deeper ones are an attack on whoever has to look into them.
const DEEPEST: usize = 128;
/// What the smallest file or folder costs: a block, or as good as one.
const BLOCK: u64 = 4096;

/// Bytes that a folder takes; links are not followed, and nobody looks on once there are more than `most`. What cannot be
/// looked into, for its depth or its mode, counts as endless.
pub(super) fn bytes(folder: &Path, most: u64) -> u64 {
    let (mut sum, mut folders) = (0u64, vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) if depth < DEEPEST => entries,
            // It was removed since it was listed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            _ => return u64::MAX,
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            sum = sum.saturating_add(meta.len().max(BLOCK));
            if sum > most {
                return sum;
            }
            if meta.is_dir() {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    sum
}

/// Removes a folder that a program worked in, whatever depth and modes it gave to what is below. Links are not followed.
/// The program has to be dead.
pub fn remove(folder: &Path) -> Result<()> {
    let wrong = |e| Error::io(folder, e);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(wrong);
    let mut moved = 0u64;
    open(folder)?;
    loop {
        let mut folders = false;
        for entry in fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            if !path.symlink_metadata().map_err(wrong)?.is_dir() {
                fs::remove_file(&path).map_err(wrong)?;
                continue;
            }
            folders = true;
            open(&path)?;
            // What lies deeper comes up: no path grows, and no descriptor is held per level.
            for inner in fs::read_dir(&path).map_err(wrong)? {
                let inner = inner.map_err(wrong)?.path();
                if inner.symlink_metadata().map_err(wrong)?.is_dir() {
                    open(&inner)?;
                    let mut fresh = folder.join(format!("removed-{moved}"));
                    while fresh.symlink_metadata().is_ok() {
                        moved += 1;
                        fresh = folder.join(format!("removed-{moved}"));
                    }
                    fs::rename(&inner, fresh).map_err(wrong)?;
                } else {
                    fs::remove_file(&inner).map_err(wrong)?;
                }
            }
            fs::remove_dir(&path).map_err(wrong)?;
        }
        if !folders {
            return fs::remove_dir(folder).map_err(wrong);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}
