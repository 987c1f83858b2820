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

/// What compilers and run times read besides: links to the chosen version, settings of libraries.
const TOOLS: [&str; 2] = ["/etc/alternatives", "/etc/ssl/openssl.cnf"];

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
        if self.landlock < 3 {
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
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Work(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Bytes that a folder takes; links are not followed.
pub(super) fn bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => 4096 + bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

impl Drop for Work {
    fn drop(&mut self) {
        // remove_dir_all does not follow links.
        let _ = fs::remove_dir_all(&self.0);
    }
}
