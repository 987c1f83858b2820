//! What a person and a file see of a run: progress on standard error, `metrics.jsonl` and TensorBoard's event files, traces, what
//! GPUs say of themselves, and the wish to stop.
//!
//! Results on standard output are left to the command line.

pub mod gpus;
pub mod interrupt;
mod metrics;
pub mod nvml;
mod progress;
pub mod tensorboard;
pub mod trace;
pub mod words;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub use metrics::Metrics;
pub use progress::{Progress, busy};

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicBool = AtomicBool::new(false);

thread_local! {
    static MUTED: Cell<bool> = const { Cell::new(false) };
}

/// Leaves progress and notes of this thread to another: of several ranks, one speaks.
pub fn mute() {
    MUTED.set(true);
}

fn silent() -> bool {
    QUIET.load(Ordering::Relaxed) || MUTED.get()
}

/// Whether progress and notes are left out. Errors and results are not concerned.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether details are told.
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// One line for a person, on standard error, above what is drawn there.
pub fn note(line: &str) {
    if !silent() {
        progress::write_line(line);
    }
}

/// A line that answers what a person asks when something is slow or odd. It is made only where details are told.
pub fn detail(line: impl FnOnce() -> String) {
    if VERBOSE.load(Ordering::Relaxed) && !silent() {
        progress::write_line(&line());
    }
}

/// Seconds since 1970 by the machine's clock, which may be set back.
fn unix_time() -> f64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
