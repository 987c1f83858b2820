//! How far some work is: a bar on a terminal, plain lines elsewhere, both with the same words.
//!
//! A terminal is a standard error that is one and knows how to move its cursor (`TERM` is neither unset nor `dumb`). Bars have no
//! colours, and never hide the cursor: there is nothing to restore, however the program ends.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{note, silent, words};

/// Everything that is drawn. Nothing else may write to the terminal while it is.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)));

/// Bars that are drawn now.
static DRAWN: AtomicUsize = AtomicUsize::new(0);

const DRAWS_PER_SECOND: u8 = 10;

/// How long work without a number goes on before a plain line tells of it.
const PATIENCE: Duration = Duration::from_secs(2);

fn terminal() -> bool {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| {
        let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        able && std::io::stderr().is_terminal()
    });
    *TERMINAL
}

/// Writes a line above the bars, if there are any. A closed standard error is no reason to end a run.
pub(super) fn write_line(line: &str) {
    let write = || drop(writeln!(std::io::stderr(), "{line}"));
    if DRAWN.load(Ordering::Relaxed) > 0 { BARS.suspend(write) } else { write() }
}

/// Leaves what is drawn above whatever is written next: for an end that drops nothing. Takes no lock.
pub(super) fn leave() {
    if DRAWN.load(Ordering::Relaxed) > 0 {
        let _ = std::io::stderr().write_all(b"\n");
    }
}

/// Columns of the terminal.
fn columns() -> usize {
    // SAFETY: all zeros is a valid `winsize`, and the call writes no further than one.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size);
        size
    };
    // A terminal that does not know its width is taken for one of the usual width.
    if size.ws_col == 0 { 80 } else { size.ws_col.into() }
}

/// A bar that is drawn until it is dropped.
struct Bar(ProgressBar);

impl Bar {
    fn new(template: &str) -> Bar {
        let bar = BARS.add(ProgressBar::no_length());
        bar.set_style(ProgressStyle::with_template(template).expect("the template is ours"));
        DRAWN.fetch_add(1, Ordering::Relaxed);
        Bar(bar)
    }
}

impl Drop for Bar {
    /// Work that ended early leaves its last line, and the error is read below it.
    fn drop(&mut self) {
        let early = !self.0.is_finished();
        self.0.finish_and_clear();
        DRAWN.fetch_sub(1, Ordering::Relaxed);
        if early {
            write_line(&self.0.message());
        }
    }
}

/// How far some work is. Several threads may report.
///
/// A line has the work's name, how many of its parts are done, the time left (by the mean speed so far), the rate in the parts'
/// unit where that matters, and what the work itself says: `sft: 12/300 steps, 3 min 20 s left, 1234 tokens/s, loss 0.7123`. On a
/// terminal one line is drawn again and again, never wider than the terminal, and is gone when the work is done. Elsewhere lines
/// are written: at most one a second in the first minute, one in ten seconds in the first ten minutes, one a minute then; and
/// always the last.
pub struct Progress {
    label: String,
    /// What the parts are called; empty where they have no name.
    unit: &'static str,
    /// Whether the parts' own rate is told.
    rated: bool,
    total: u64,
    /// Parts that were done before the start.
    before: u64,
    start: Instant,
    at: Mutex<At>,
    form: Form,
}

enum Form {
    Quiet,
    Bar(Bar),
    Lines(Mutex<Box<dyn Write + Send>>),
}

/// Where the work is, and what was told of it.
struct At {
    done: u64,
    message: String,
    /// When a line was last written or drawn.
    told: Instant,
    /// Whether that was of an earlier state than this one.
    news: bool,
}

impl Progress {
    /// Work of `total` parts; 0 where that is not known.
    pub fn new(label: &str, total: u64) -> Progress {
        let form = if silent() {
            Form::Quiet
        } else if terminal() {
            let bar = Bar::new("{wide_msg}");
            bar.0.set_message(label.to_string());
            Form::Bar(bar)
        } else {
            Form::Lines(Mutex::new(Box::new(std::io::stderr())))
        };
        Progress::of(label, total, form, Instant::now())
    }

    fn of(label: &str, total: u64, form: Form, start: Instant) -> Progress {
        let at = Mutex::new(At { done: 0, message: String::new(), told: start, news: false });
        Progress { label: label.into(), unit: "", rated: false, total, before: 0, start, at, form }
    }

    /// The same with a name for the parts: `steps`.
    pub fn counting(mut self, unit: &'static str) -> Progress {
        self.unit = unit;
        self
    }

    /// The same with a name for the parts, and with their rate in each line: `answers`.
    pub fn rated(self, unit: &'static str) -> Progress {
        Progress { rated: true, ..self }.counting(unit)
    }

    /// The same with so many parts done before: they took none of the time.
    pub fn going_on_from(mut self, done: u64) -> Progress {
        self.before = done;
        self.lock().done = done;
        self
    }

    /// `done` parts of the total are done; `message` is what else is worth a glance (`loss 0.71`), or empty.
    pub fn set(&self, done: u64, message: &str) {
        self.update(Instant::now(), Some(done), message);
    }

    /// The same part goes on; `message` is what it does now (`scoring`).
    pub fn tell(&self, message: &str) {
        self.update(Instant::now(), None, message);
    }

    /// The work is done: the bar goes, or the last line is written. `message`, where it is not empty, is what came out of it, and
    /// stays in either form.
    pub fn finish(&self, message: &str) {
        match &self.form {
            Form::Quiet => return,
            Form::Bar(Bar(bar)) => bar.finish_and_clear(),
            Form::Lines(out) => {
                let mut at = self.lock();
                if at.news {
                    self.write(out, &mut at, Instant::now());
                }
            }
        }
        if !message.is_empty() {
            note(&format!("{}: {message}", self.label));
        }
    }

    fn lock(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn update(&self, now: Instant, done: Option<u64>, message: &str) {
        if matches!(self.form, Form::Quiet) {
            return;
        }
        let mut at = self.lock();
        // Threads may come late with what is old.
        let done = done.map_or(at.done, |done| done.max(at.done));
        let last = done != at.done && self.total > 0 && done >= self.total;
        if at.done != done || at.message != message {
            (at.done, at.news) = (done, true);
            message.clone_into(&mut at.message);
        }
        let since = now.saturating_duration_since(at.told);
        match &self.form {
            Form::Quiet => {}
            Form::Bar(Bar(bar)) => {
                if last || since >= Duration::from_secs(1) / u32::from(DRAWS_PER_SECOND) {
                    at.told = now;
                    bar.set_message(self.drawn(&at, now, columns()));
                }
            }
            Form::Lines(out) => {
                if at.news && (last || since >= between(now.saturating_duration_since(self.start))) {
                    self.write(out, &mut at, now);
                }
            }
        }
    }

    fn write(&self, out: &Mutex<Box<dyn Write + Send>>, at: &mut At, now: Instant) {
        let line = format!("{}: {}", self.label, self.words(at, now));
        let _ = writeln!(out.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), "{line}");
        (at.told, at.news) = (now, false);
    }

    /// `12/300 steps, 3 min 20 s left, 1234 tokens/s, loss 0.7123`.
    fn words(&self, at: &At, now: Instant) -> String {
        let mut words = match self.total {
            0 => at.done.to_string(),
            total => format!("{}/{total}", at.done),
        };
        if !self.unit.is_empty() {
            words += &format!(" {}", self.unit);
        }
        let (seconds, done) = (now.saturating_duration_since(self.start).as_secs_f64(), at.done.saturating_sub(self.before));
        // The first second tells little, and so do the first few of many parts.
        if done > 0 && seconds >= 1.0 && (100 * done >= self.total || seconds >= 10.0) {
            if at.done < self.total {
                words += &format!(", {} left", words::duration(seconds / done as f64 * (self.total - at.done) as f64));
            }
            if self.rated {
                words += &format!(", {}", words::rate(done as f64 / seconds, self.unit));
            }
        }
        if !at.message.is_empty() {
            words += &format!(", {}", at.message);
        }
        words
    }

    /// The line with its bar, as wide as fits: what comes last is cut first, and a narrow terminal has no bar.
    fn drawn(&self, at: &At, now: Instant, columns: usize) -> String {
        let words = self.words(at, now);
        let room = columns.saturating_sub(1);
        let line = match (self.total, columns) {
            (0, _) | (_, ..60) => format!("{} {words}", self.label),
            (total, _) => {
                let width = if columns < 100 { 12 } else { 24 };
                let filled = (at.done.min(total) as f64 / total as f64 * width as f64) as usize;
                let head = if filled == width { "" } else { ">" };
                format!(
                    "{} [{head:=>filled$}{:rest$}] {words}",
                    self.label,
                    "",
                    filled = filled + head.len(),
                    rest = width - filled - head.len()
                )
            }
        };
        line.chars().take(room).collect()
    }
}

/// Time between plain lines of work that goes on for so long already.
fn between(age: Duration) -> Duration {
    Duration::from_secs(match age.as_secs() {
        0..60 => 1,
        60..600 => 10,
        _ => 60,
    })
}

/// Does work that cannot tell how far it is. A terminal shows `what` while it lasts; elsewhere a line says it, where it lasts long.
pub fn busy<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if silent() {
        return work();
    }
    if terminal() {
        let bar = Bar::new("{spinner} {wide_msg}");
        bar.0.set_message(what.to_string());
        bar.0.enable_steady_tick(Duration::from_millis(100));
        let made = work();
        bar.0.finish_and_clear();
        return made;
    }
    let (done, waits) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                write_line(what);
            }
        });
        // Dropped when the work is done, or panics.
        let _done = done;
        work()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

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
        (Progress::of("sft", total, Form::Lines(Mutex::new(Box::new(page.clone()))), Instant::now()), page)
    }

    fn after(progress: &Progress, seconds: f64) -> Instant {
        progress.start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn plain_lines_come_once_a_second_and_at_the_end() {
        let (progress, page) = lines(10);
        let progress = progress.counting("steps");
        for (seconds, done) in [(0.1, 1), (0.999, 2), (1.0, 3), (1.5, 4), (2.5, 5), (2.6, 10), (2.7, 10)] {
            progress.update(after(&progress, seconds), Some(done), "loss 1.0");
        }
        progress.finish("");
        // After one second three are done, so seven take 7/3 s; after two and a half five, as many as are left.
        let expected =
            "sft: 3/10 steps, 2.3 s left, loss 1.0\nsft: 5/10 steps, 2.5 s left, loss 1.0\nsft: 10/10 steps, loss 1.0\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn the_first_of_many_parts_is_no_measure_of_the_rest() {
        let (progress, page) = lines(2000);
        let progress = progress.rated("checks");
        for (seconds, done) in [(1.1, 1), (2.2, 20), (3.3, 22), (14.0, 100)] {
            progress.update(after(&progress, seconds), Some(done), "");
        }
        let expected = [
            "sft: 1/2000 checks",
            // 2.2 s for 20 leave 217.8 s for 1980.
            "sft: 20/2000 checks, 3 min 38 s left, 9.1 checks/s",
            "sft: 22/2000 checks, 4 min 57 s left, 6.7 checks/s",
            "sft: 100/2000 checks, 4 min 26 s left, 7.1 checks/s",
        ];
        assert_eq!(page.text().lines().collect::<Vec<_>>(), expected);
    }

    /// Three days with a step a second: a line in each of the seconds 1 to 59, in 69, 79, ... 599, and in 659, 719, ... 259199.
    #[test]
    fn plain_lines_become_rare() {
        let (progress, page) = lines(1_000_000);
        let seconds = 3 * 24 * 3600;
        (1..=seconds).for_each(|second| progress.update(after(&progress, second as f64), Some(second), ""));
        assert_eq!(page.text().lines().count(), 59 + 54 + (259_199 - 599) / 60);
        progress.update(after(&progress, seconds as f64 + 0.5), Some(1_000_000), "");
        assert_eq!(page.text().lines().last().unwrap(), "sft: 1000000/1000000");
    }

    #[test]
    fn what_was_not_told_is_told_at_the_end() {
        let (progress, page) = lines(0);
        progress.update(after(&progress, 0.5), Some(7), "");
        progress.finish("");
        progress.finish("");
        assert_eq!(page.text(), "sft: 7\n");
    }

    #[test]
    fn a_message_takes_the_place_of_the_one_before_it() {
        let (progress, page) = lines(4);
        progress.update(after(&progress, 1.0), Some(1), "loss 1.0");
        progress.update(after(&progress, 2.5), None, "validating");
        progress.update(after(&progress, 4.0), None, "validating");
        assert_eq!(page.text(), "sft: 1/4, 3.0 s left, loss 1.0\nsft: 1/4, 7.5 s left, validating\n");
    }

    #[test]
    fn a_thread_that_comes_late_does_not_turn_back() {
        let (progress, page) = lines(4);
        progress.update(after(&progress, 1.0), Some(3), "");
        progress.update(after(&progress, 2.0), Some(2), "");
        progress.update(after(&progress, 3.0), Some(4), "");
        assert_eq!(page.text(), "sft: 3/4, 0.3 s left\nsft: 4/4\n");
    }

    #[test]
    fn what_was_done_before_the_start_took_no_time() {
        let (progress, page) = lines(10);
        let progress = progress.rated("answers").going_on_from(6);
        progress.update(after(&progress, 4.0), Some(8), "");
        assert_eq!(page.text(), "sft: 8/10 answers, 4.0 s left, 30 answers/min\n");
    }

    #[test]
    fn a_bar_fits_its_terminal() {
        let (progress, _) = lines(300);
        let progress = progress.counting("steps");
        let at = At { done: 75, message: "1234 tokens/s, loss 0.7123".into(), told: progress.start, news: true };
        let now = after(&progress, 25.0);
        let words = "75/300 steps, 1 min 15 s left, 1234 tokens/s, loss 0.7123";
        assert_eq!(progress.drawn(&at, now, 120), format!("sft [======>                 ] {words}"));
        assert_eq!(progress.drawn(&at, now, 90), format!("sft [===>        ] {words}"));
        assert_eq!(progress.drawn(&at, now, 40), "sft 75/300 steps, 1 min 15 s left, 1234");
        for columns in 0..130 {
            assert!(progress.drawn(&at, now, columns).chars().count() <= columns.saturating_sub(1), "{columns}");
        }
        let at = At { done: 300, ..at };
        assert_eq!(progress.drawn(&at, now, 90), "sft [============] 300/300 steps, 1234 tokens/s, loss 0.7123");
    }

    #[test]
    fn the_answer_of_work_is_handed_on() {
        assert_eq!(busy("counting", || 2 + 2), 4);
    }
}
