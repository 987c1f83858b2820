//! The Python interpreter on PATH, and what of the disk it needs.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};

/// A Python 3 interpreter.
#[derive(Debug, Clone)]
pub struct Python {
    /// The real executable: neither a link nor a version manager's script.
    pub executable: PathBuf,
    /// What it reads of the disk: itself, its standard library, its shared library.
    pub reads: Vec<PathBuf>,
    /// Its version, as `3.11.7`.
    pub version: String,
}

/// The arguments before the program: isolated, without site packages, without writing byte code.
pub const ISOLATED: [&str; 3] = ["-I", "-S", "-B"];

/// `symtable` is one of the modules that packages with a minimal Python leave out.
const ASK: &str = "import sys, os, sysconfig, symtable
base = getattr(sys, '_base_executable', None) or sys.executable
print(os.path.realpath(base))
print('.'.join(map(str, sys.version_info[:3])))
for path in (sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'), sysconfig.get_config_var('LIBDIR')):
    if path: print(os.path.realpath(path))
";

impl Python {
    /// Asks `python3` on PATH where it really lives. An [`Error::Machine`] says so where there is none.
    pub fn find() -> Result<Python> {
        let lacking = |what: String| Error::Machine(format!("python3 is needed to check answers: {what}"));
        let output = Command::new("python3")
            .args(ISOLATED)
            .args(["-c", ASK])
            .output()
            .map_err(|e| lacking(format!("it cannot be run from PATH: {e}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let (Some(executable), Some(version)) = (lines.next(), lines.next()) else {
            let error = String::from_utf8_lossy(&output.stderr);
            let said = error.lines().last().unwrap_or("it printed nothing");
            let hint = if said.contains("No module named") { ", and its whole standard library is needed" } else { "" };
            return Err(lacking(format!("{said}{hint}")));
        };
        let executable = PathBuf::from(executable);
        // A folder like / or the home must never be opened by a strange LIBDIR.
        let narrow = |path: &PathBuf| path.components().count() > 2;
        let mut reads: Vec<PathBuf> = lines.map(PathBuf::from).filter(narrow).collect();
        reads.push(executable.clone());
        Ok(Python { executable, reads, version: version.to_owned() })
    }
}
