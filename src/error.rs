//! What can go wrong, sorted by what the caller can do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong. [`Error::exit_code`] turns it into the program's exit code.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A recipe, a record, a checkpoint or an argument is not what it must be. Nothing was done. `at` says where: a file with
    /// its line, a tensor, a key.
    Input {
        /// Where: `recipe.toml:12`, `model.safetensors: model.norm.weight`, ...
        at: String,
        /// What was expected and what was found.
        what: String,
    },
    /// The operating system refused a file operation.
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The machine lacks something the work needs (a kernel feature, an interpreter, a GPU).
    Machine(String),
    /// The teacher did not answer, and asking again would not help.
    Teacher(String),
    /// A loss, a gradient or a weight stopped being a number.
    NonFinite {
        /// The stage and the step: `sft step 120`.
        at: String,
        /// The quantity: a layer, a tensor.
        what: String,
        /// Ids of the records in the batch.
        records: Vec<String>,
    },
    /// A device operator was called with buffers that do not fit its extents.
    Extent {
        /// The operator and the argument: `rmsnorm_fwd: weight`.
        what: String,
        /// Elements the extents ask for.
        want: usize,
        /// Elements the buffer has.
        got: usize,
    },
    /// The GPU, its driver or one of its libraries failed. Memory that ran out says what was asked for and what there was.
    Device {
        /// The kernel or the call: `attention_fwd_d128`, `cuMemAlloc`.
        what: String,
        /// What the driver said.
        cause: String,
    },
    /// Another rank failed, and this one ended with it.
    Rank {
        /// The rank that failed.
        rank: usize,
        /// Its error.
        what: String,
    },
    /// The user asked to stop; state was saved.
    Interrupted,
}

impl Error {
    /// Bad input at `at`; `what` says what was expected and what was found.
    pub fn input(at: impl fmt::Display, what: impl fmt::Display) -> Error {
        Error::Input { at: at.to_string(), what: what.to_string() }
    }

    /// Bad input at a line (from 1) of a file.
    pub fn line(path: &Path, line: usize, what: impl fmt::Display) -> Error {
        Error::input(format!("{}:{line}", path.display()), what)
    }

    /// A failed file operation on `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        Error::Io { path: path.into(), source }
    }

    /// 2 for bad input, 130 for an interrupt, 1 for everything else. A path that is not there, that is a folder where a file
    /// belongs (or a file where a folder does), or that may not be used is bad input.
    pub fn exit_code(&self) -> u8 {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Error::Input { .. } => 2,
            Error::Io { source, .. } => match source.kind() {
                NotFound | IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem => 2,
                _ => 1,
            },
            Error::Interrupted => 130,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input { at, what } => write!(f, "{at}: {what}"),
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Machine(what) | Error::Teacher(what) => f.write_str(what),
            Error::NonFinite { at, what, records } => {
                write!(f, "{at}: {what} is not finite; the batch held {}", records.join(", "))
            }
            Error::Extent { what, want, got } => write!(f, "{what}: {want} elements expected, {got} given"),
            Error::Device { what, cause } => write!(f, "{what}: {cause}"),
            Error::Rank { rank, what } => write!(f, "rank {rank}: {what}"),
            Error::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
