//! What `/metrics` tells, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters and gauges of the endpoint.
#[derive(Default)]
pub(super) struct Counters {
    /// HTTP answers by status.
    answers: Mutex<BTreeMap<u16, u64>>,
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Tokens that were written.
    pub written_tokens: AtomicU64,
    /// Sequences that ended by themselves.
    pub finished: AtomicU64,
    /// Sequences whose client went away.
    pub cancelled: AtomicU64,
    /// Sequences that are being written.
    pub running: AtomicU64,
    /// Sequences that wait for a place.
    pub waiting: AtomicU64,
    /// Steps of the batch.
    pub steps: AtomicU64,
    /// Rows of all those steps together.
    pub rows: AtomicU64,
    /// Microseconds between a sequence's arrival and its end, summed over those that ended by themselves.
    pub micros: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Counters {
    /// An answer of this status was given.
    pub fn answered(&self, status: u16) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }

    /// The text, with the batch's places.
    pub fn text(&self, places: usize) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
            let _ = writeln!(text, "# HELP repairity_{name} {help}\n# TYPE repairity_{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "repairity_{name}{labels} {value}");
            }
        };
        let one = |value: f64| [(String::new(), value)];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let by_status: Vec<_> = answers.iter().map(|(status, n)| (format!("{{status=\"{status}\"}}"), *n as f64)).collect();
        metric("http_answers_total", "counter", "HTTP answers by status.", &by_status);
        let counters = [
            ("prompt_tokens_total", "Tokens of prompts.", &self.prompt_tokens),
            ("written_tokens_total", "Tokens written.", &self.written_tokens),
            ("sequences_finished_total", "Sequences that ended by themselves.", &self.finished),
            ("sequences_cancelled_total", "Sequences whose client went away.", &self.cancelled),
            ("steps_total", "Steps of the batch.", &self.steps),
            ("step_rows_total", "Sequences in all those steps together.", &self.rows),
        ];
        for (name, help, counter) in counters {
            metric(name, "counter", help, &one(read(counter)));
        }
        let seconds = "Seconds from the arrival to the end of the finished sequences.";
        metric("sequence_seconds_total", "counter", seconds, &one(read(&self.micros) / 1e6));
        metric("sequences_running", "gauge", "Sequences being written.", &one(read(&self.running)));
        metric("sequences_waiting", "gauge", "Sequences that wait for a place.", &one(read(&self.waiting)));
        metric("places", "gauge", "Sequences that are written together at most.", &one(places as f64));
        text
    }
}
