//! What a person and a file see of a run: progress on standard error, `metrics.jsonl`, traces, what a GPU says of itself, and the wish
//! to stop.
//!
//! Results on standard output are left to the command line.

pub mod interrupt;
mod metrics;
pub mod nvml;
pub mod trace;

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use metrics::Metrics;

static QUIET: AtomicBool = AtomicBool::new(false);

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

/// One line for a person, on standard error.
pub fn note(line: &str) {
    if !silent() {
        // A closed standard error is no reason to end a run.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// How far some work is: a bar on a terminal, plain lines elsewhere, at most one a second and always the last.
/// Several threads may report.
pub struct Progress {
    label: String,
    total: u64,
    form: Form,
}

enum Form {
    Quiet,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    out: Box<dyn Write + Send>,
    /// When a line was last written, and what it said.
    last: Option<(Instant, String)>,
}

/// Time between plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

impl Progress {
    /// Work of `total` parts; 0 where that is not known.
    pub fn new(label: &str, total: u64) -> Progress {
        let form = if silent() {
            Form::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = if total == 0 { "{prefix:12} {pos} {msg}" } else { "{prefix:12} {bar:24} {pos}/{len} {eta:>4} {msg}" };
            bar.set_style(ProgressStyle::with_template(template).expect("the template is ours"));
            bar.set_prefix(label.to_string());
            Form::Bar(bar)
        } else {
            Form::Lines(Mutex::new(Lines { out: Box::new(std::io::stderr()), last: None }))
        };
        Progress { label: label.into(), total, form }
    }

    /// `done` parts of the total are done; `message` is what else is worth a glance (`loss 0.71`), or empty.
    pub fn set(&self, done: u64, message: &str) {
        self.set_at(Instant::now(), done, message);
    }

    /// The work is done. The last line stays.
    pub fn finish(&self, message: &str) {
        match &self.form {
            Form::Quiet => {}
            Form::Bar(bar) => bar.finish_with_message(message.to_string()),
            Form::Lines(lines) => lines.lock().unwrap_or_else(|e| e.into_inner()).write(Instant::now(), self.line(None, message)),
        }
    }

    fn set_at(&self, now: Instant, done: u64, message: &str) {
        match &self.form {
            Form::Quiet => {}
            Form::Bar(bar) => {
                bar.set_message(message.to_string());
                bar.set_position(done);
            }
            Form::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(|e| e.into_inner());
                let due = lines.last.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= BETWEEN_LINES);
                if due || (self.total > 0 && done >= self.total) {
                    lines.write(now, self.line(Some(done), message));
                }
            }
        }
    }

    fn line(&self, done: Option<u64>, message: &str) -> String {
        let mut line = format!("{}:", self.label);
        match (done, self.total) {
            (None, _) => line += " done",
            (Some(done), 0) => line += &format!(" {done}"),
            (Some(done), total) => line += &format!(" {done}/{total}"),
        }
        if !message.is_empty() {
            line += &format!(", {message}");
        }
        line
    }
}

impl Drop for Progress {
    /// Work that ended early leaves its bar as it stood, so that the error is read below it.
    fn drop(&mut self) {
        if let Form::Bar(bar) = &self.form
            && !bar.is_finished()
        {
            bar.abandon();
        }
    }
}

impl Lines {
    fn write(&mut self, now: Instant, line: String) {
        if self.last.as_ref().is_none_or(|(_, before)| *before != line) {
            let _ = writeln!(self.out, "{line}");
        }
        self.last = Some((now, line));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(total: u64) -> (Progress, Page) {
        let page = Page::default();
        let form = Form::Lines(Mutex::new(Lines { out: Box::new(page.clone()), last: None }));
        (Progress { label: "sft".into(), total, form }, page)
    }

    #[test]
    fn plain_lines_come_once_a_second_and_at_the_end() {
        let (progress, page) = lines(10);
        let start = Instant::now();
        for (ms, done) in [(0, 1), (400, 2), (999, 3), (1000, 4), (1500, 5), (2100, 6), (2200, 10), (2300, 10)] {
            progress.set_at(start + Duration::from_millis(ms), done, "loss 1.0");
        }
        progress.finish("8 kept");
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let expected = "sft: 1/10, loss 1.0\nsft: 4/10, loss 1.0\nsft: 6/10, loss 1.0\nsft: 10/10, loss 1.0\nsft: done, 8 kept\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_unknown_total_is_counted_up() {
        let (progress, page) = lines(0);
        progress.set(7, "");
        progress.finish("");
        assert_eq!(String::from_utf8(page.0.lock().unwrap().clone()).unwrap(), "sft: 7\nsft: done\n");
    }
}
