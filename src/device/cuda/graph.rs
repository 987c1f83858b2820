//! Steps that are launched as one: what a body launches is recorded as a CUDA graph, and then repeated.
//!
//! A recorded launch knows its buffers by their addresses. Those that the body makes for itself therefore lie in a range that is kept
//! for as long as the graph: how long it has to be shows at the body's first run, which is made plainly. That run also loads what is
//! loaded at its first use, and lets cuBLASLt choose its algorithms, so that recording meets launches and nothing else. Graphs run one
//! after the other in the one stream, so all of them share a range that is long enough for the largest.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::driver::Driver;
use super::{Act, Buf, Cuda, scratch};
use crate::device::Device;
use crate::error::Result;

/// Recorded steps by number.
#[derive(Default)]
pub struct Graphs {
    /// Before the ranges, which they use.
    steps: HashMap<usize, Step>,
    ranges: Vec<Buf<u32>>,
}

/// How far a step is.
enum Step {
    /// It ran plainly; its buffers take so many bytes.
    Rehearsed(usize),
    /// It is recorded.
    Recorded(Recording),
}

/// A recording of a driver's.
struct Recording {
    number: u64,
    driver: Arc<dyn Driver>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.driver.forget(self.number);
    }
}

pub(super) fn replay<A: Act>(
    cuda: &Cuda<A>,
    graphs: &mut Graphs,
    key: usize,
    body: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let driver = cuda.driver();
    if !driver.records() {
        return body();
    }
    let bytes = match graphs.steps.get(&key) {
        Some(Step::Recorded(recording)) => return driver.replay(recording.number),
        Some(Step::Rehearsed(bytes)) => *bytes,
        None => {
            let _turn = cuda.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = cuda.memory.rehearse(body)?;
            graphs.steps.insert(key, Step::Rehearsed(bytes));
            return Ok(());
        }
    };
    let range = match graphs.ranges.iter().position(|range| range.bytes() >= bytes) {
        Some(found) => &graphs.ranges[found],
        None => {
            graphs.ranges.push(cuda.empty(scratch::arena(bytes))?);
            &graphs.ranges[graphs.ranges.len() - 1]
        }
    };
    let recording = {
        let _turn = cuda.turn.lock().unwrap_or_else(PoisonError::into_inner);
        driver.record()?;
        let done = cuda.memory.aside(range, body);
        // Recording ends whatever the body said, and what it said comes first.
        let recorded = driver.recorded().map(|number| Recording { number, driver: driver.clone() });
        done.and(recorded)?
    };
    driver.replay(recording.number)?;
    graphs.steps.insert(key, Step::Recorded(recording));
    Ok(())
}
