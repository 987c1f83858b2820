//! How many requests are under way at once, and when none may start: shared by all threads.
//!
//! The ceiling is the recipe's. A server that says it is asked too much halves the number, once for all the requests that were
//! under way then; each answer widens it again, by one for every round of answers (additive increase, multiplicative decrease).
//! And it pauses everybody together: one thread sleeps, the others wait for it, so that a refusal is not answered by a herd.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Sleep;
use crate::error::{Error, Result};

pub(super) struct Pace {
    ceiling: f64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Requests that may be under way; whole ones count.
    allowed: f64,
    under_way: usize,
    /// How often `allowed` was halved. A request that started before the last time does not halve it again.
    cuts: u64,
    /// Seconds that this pause has in all; 0 without one.
    pause: f64,
    /// Whether a thread sleeps the pause out.
    slept: bool,
}

/// A request under way.
pub(super) struct Permit<'a> {
    pace: &'a Pace,
    cuts: u64,
}

impl Pace {
    pub(super) fn new(ceiling: usize) -> Pace {
        let ceiling = ceiling.max(1) as f64;
        let state = State { allowed: ceiling, under_way: 0, cuts: 0, pause: 0.0, slept: false };
        Pace { ceiling, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may start. The first to come to a pause sleeps it out for all. Interrupted where the sleep is.
    pub(super) fn enter(&self, sleep: &Sleep) -> Result<Permit<'_>> {
        let mut state = self.state();
        loop {
            if state.pause > 0.0 && !state.slept {
                state.slept = true;
                let mut passed = 0.0;
                let mut whole = true;
                // Others may lengthen the pause while this thread sleeps.
                while whole && state.pause > passed {
                    let wait = Duration::from_secs_f64(state.pause - passed);
                    passed = state.pause;
                    drop(state);
                    whole = sleep(wait);
                    state = self.state();
                }
                (state.pause, state.slept) = (0.0, false);
                self.changed.notify_all();
                if !whole {
                    return Err(Error::Interrupted);
                }
            } else if !state.slept && state.under_way < state.allowed as usize {
                state.under_way += 1;
                return Ok(Permit { pace: self, cuts: state.cuts });
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Nobody starts before this many seconds are over.
    pub(super) fn pause(&self, seconds: f64) {
        let mut state = self.state();
        state.pause = state.pause.max(seconds);
    }
}

impl Permit<'_> {
    /// The request was answered.
    pub(super) fn answered(self) {
        let mut state = self.pace.state();
        state.allowed = (state.allowed + 1.0 / state.allowed).min(self.pace.ceiling);
    }

    /// The server is asked too much, and wants everybody to wait for this many seconds.
    pub(super) fn throttled(self, seconds: f64) {
        let mut state = self.pace.state();
        if self.cuts == state.cuts {
            state.allowed = (state.allowed / 2.0).max(1.0);
            state.cuts += 1;
        }
        state.pause = state.pause.max(seconds);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.pace.state().under_way -= 1;
        self.pace.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn noted() -> (Sleep, Arc<Mutex<Vec<f64>>>) {
        let waits = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&waits);
        let sleep = move |wait: Duration| {
            kept.lock().unwrap().push(wait.as_secs_f64());
            true
        };
        (Box::new(sleep), waits)
    }

    #[test]
    fn one_refusal_of_many_halves_once_and_pauses_once() {
        let (sleep, waits) = noted();
        let pace = Pace::new(8);
        let permits: Vec<Permit<'_>> = (0..8).map(|_| pace.enter(&sleep).unwrap()).collect();
        for (permit, seconds) in permits.into_iter().zip([3.0, 1.0, 3.0, 2.0, 3.0, 3.0, 3.0, 3.0]) {
            permit.throttled(seconds);
        }
        let standing = |pace: &Pace| {
            let state = pace.state();
            (state.allowed, state.under_way)
        };
        assert_eq!(standing(&pace), (4.0, 0));
        let next: Vec<Permit<'_>> = (0..4).map(|_| pace.enter(&sleep).unwrap()).collect();
        assert_eq!(*waits.lock().unwrap(), [3.0]);
        // Four answers widen it to about five: 4 + 1/4 + 1/4.25 + ...
        next.into_iter().for_each(Permit::answered);
        let (allowed, _) = standing(&pace);
        assert!((4.9..5.0).contains(&allowed), "{allowed}");
        // The next refusal is another one.
        pace.enter(&sleep).unwrap().throttled(0.5);
        assert_eq!(standing(&pace), (allowed / 2.0, 0));
    }

    #[test]
    fn it_never_falls_below_one_nor_rises_above_the_ceiling() {
        let (sleep, _) = noted();
        let pace = Pace::new(2);
        (0..5).for_each(|_| pace.enter(&sleep).unwrap().throttled(0.1));
        assert_eq!(pace.state().allowed, 1.0);
        (0..9).for_each(|_| pace.enter(&sleep).unwrap().answered());
        assert_eq!(pace.state().allowed, 2.0);
    }

    #[test]
    fn a_pause_that_grows_while_it_is_slept_is_slept_to_its_end() {
        let pace = Arc::new(Pace::new(1));
        let waits = Arc::new(Mutex::new(Vec::new()));
        let (inside, kept) = (Arc::clone(&pace), Arc::clone(&waits));
        let sleep: Sleep = Box::new(move |wait| {
            kept.lock().unwrap().push(wait.as_secs_f64());
            inside.pause(5.0);
            true
        });
        pace.pause(2.0);
        drop(pace.enter(&sleep).unwrap());
        assert_eq!(*waits.lock().unwrap(), [2.0, 3.0]);
        drop(pace.enter(&sleep).unwrap());
        assert_eq!(waits.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_pause_that_is_interrupted_ends_in_an_error() {
        let pace = Pace::new(1);
        pace.pause(2.0);
        let sleep: Sleep = Box::new(|_| false);
        assert!(matches!(pace.enter(&sleep).err(), Some(Error::Interrupted)));
    }
}
