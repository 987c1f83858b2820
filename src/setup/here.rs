//! What computes on this machine, and how much room it has.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::device::cuda::gpu::{self, Properties};
use crate::error::{Error, Result};
use crate::plan::cards::{Card, Machine};
use crate::plan::{Models, Question};
use crate::recipe::Recipe;

/// The machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Here {
    /// GPUs that this program can use, by driver's name and bytes of memory; empty where there is none.
    pub gpus: Vec<(String, usize)>,
    /// Why there is none.
    pub lacks: Option<String>,
    /// Bytes of main memory that programs can still have.
    pub memory: usize,
}

impl Here {
    /// Looks at this machine. No memory of a GPU is taken.
    pub fn look() -> Result<Here> {
        let lacks = gpu::missing();
        let usable = |gpu: Properties| (gpu.name, gpu.memory);
        let gpus = if lacks.is_none() { gpu::list()?.into_iter().map(usable).collect() } else { Vec::new() };
        let path = Path::new("/proc/meminfo");
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        let kib: usize = kib.ok_or_else(|| Error::Machine("/proc/meminfo names no MemAvailable".into()))?;
        Ok(Here { gpus, lacks, memory: kib * 1024 })
    }

    /// Bytes that tensors can have: on each GPU, or on the CPU.
    pub fn room(&self, on_gpu: bool) -> usize {
        match self.gpus.first().filter(|_| on_gpu) {
            // The limits of a card that is known are those of its data sheet; of another, what its driver says.
            Some((name, memory)) => Card::of_driver(name).map_or_else(|| gpu::capacity(*memory), |card| card.capacity()),
            None => self.memory,
        }
    }

    /// One line about what will compute.
    pub fn describe(&self) -> String {
        match self.gpus.first() {
            Some((name, memory)) => format!("{} x {name}, {:.0} GB each", self.gpus.len(), *memory as f64 / 1e9),
            None => format!("the CPU, {:.0} GB of memory free", self.memory as f64 / 1e9),
        }
    }
}

/// The question of [`crate::plan`] for a recipe on `gpus` devices of one machine. Only its memory is asked for, which no card's speed
/// changes.
pub(super) fn question(recipe: &Recipe, models: &Models, gpus: usize) -> Question {
    let machine = Machine { card: crate::plan::cards::CARDS[0], gpus, nodes: 1 };
    Question { recipe: recipe.clone(), models: models.clone(), machine, prompt: None }
}

/// Bytes that a user may still write where `path` is, or will be.
pub(super) fn disk(path: &Path) -> Result<u64> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io(path, e))?;
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let name = std::ffi::CString::new(there.as_os_str().as_bytes()).map_err(|e| Error::input(there.display(), e))?;
    // SAFETY: all bytes of the structure may be zero, and the call fills it.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends with a zero byte and `found` lives through the call.
    if unsafe { libc::statvfs(name.as_ptr(), &mut found) } != 0 {
        return Err(Error::io(there, std::io::Error::last_os_error()));
    }
    Ok(found.f_bavail * found.f_frsize)
}
