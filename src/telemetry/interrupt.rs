//! SIGINT, SIGTERM and SIGHUP become a flag that long work reads at the end of each step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::error::{Error, Result};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Handles the signals from now on: the first sets the flag, the second ends the process at once with exit code 130 (files are
/// written atomically, so nothing is left half-written). Fails when another handler is installed.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            super::progress::leave();
            std::process::exit(130);
        }
        super::note("interrupt: stopping at the next safe point; once more ends at once");
    })
    .map_err(|e| Error::Machine(format!("the interrupt handler cannot be installed: {e}")))
}

/// The flag itself, for modules that know nothing of this one.
pub fn flag() -> Arc<AtomicBool> {
    REQUESTED.clone()
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// [`Error::Interrupted`] once the user asked to stop: `interrupt::check()?` between steps, after state was saved.
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Sleeps for `wait`, or until the user asks to stop; whether it slept to the end.
pub fn sleep(wait: Duration) -> bool {
    const LOOK: Duration = Duration::from_millis(200);
    let mut left = wait;
    while !left.is_zero() && !requested() {
        let step = left.min(LOOK);
        std::thread::sleep(step);
        left -= step;
    }
    !requested()
}
