//! What a GPU keeps for steps that it repeats: `cuda/graph.rs` without a GPU.

use std::collections::BTreeMap;

use super::ledger::{Book, Buf};
use crate::device::cuda::scratch;
use crate::error::Result;

/// Steps that are repeated, and the memory that their buffers have.
#[derive(Default)]
pub struct Graphs {
    /// Bytes of the buffers of a step, once it ran plainly.
    rehearsed: BTreeMap<usize, usize>,
    arenas: Vec<Buf<u32>>,
}

impl Graphs {
    /// Every call runs the body, since it is its operators that are counted; from the second on its buffers lie in memory that was set
    /// aside for them.
    pub(super) fn run(&mut self, book: &Book, key: usize, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let Some(bytes) = self.rehearsed.get(&key) else {
            self.rehearsed.insert(key, book.body(false, body)?);
            return Ok(());
        };
        if self.arenas.iter().all(|arena| arena.bytes() < *bytes) {
            self.arenas.push(book.allocate(scratch::arena(*bytes), 0));
        }
        book.body(true, body).map(drop)
    }
}
