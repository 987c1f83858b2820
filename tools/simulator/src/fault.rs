//! What a launch can end with.

use crate::Build;
use std::{ffi::CStr, ffi::c_char, fmt};

/// A kernel did what it must not: where, and what was expected and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// Which of its builds.
    pub build: Build,
    /// The block, where one is to blame.
    pub block: Option<[u32; 3]>,
    /// The thread's index in its block, where one is to blame.
    pub thread: Option<u32>,
    /// `file:line` of the kernel's source, where it is known.
    pub place: Option<String>,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kernel, self.build)?;
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some(thread) = self.thread {
            write!(f, ", thread {thread}")?;
        }
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Fault {}

/// A line of a kernel's source, as the host's compiler handed it over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub file: *const c_char,
    pub line: i32,
}

impl Place {
    pub const NONE: Place = Place { file: std::ptr::null(), line: 0 };

    /// The file's name without its folders.
    fn name(&self) -> &str {
        if self.file.is_null() {
            return "";
        }
        // SAFETY: `__FILE__` of a compiled kernel lives as long as the program.
        let path = unsafe { CStr::from_ptr(self.file) }.to_str().unwrap_or("");
        path.rsplit('/').next().unwrap_or(path)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.line == other.line && (self.file == other.file || self.name() == other.name())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name(), self.line)
    }
}
