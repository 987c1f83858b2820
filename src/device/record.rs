//! Where the time of a run goes: spans of stages, steps, phases and operators on the host's clock, and of kernels on the device's.
//!
//! A device carries a recorder only where one was asked for (`Cpu::recording`, `Cuda::recording`); without one an operator asks
//! whether there is one, and that is all. Spans are opened by one thread, the one that drives the device.
//!
//! A kernel's time is that between two marks in the order of launches, one before it and one behind it. Where the device waits for the
//! host, the mark before a kernel is reached before its launch is: the kernel then seems longer by what a launch takes on its way.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::Device;
use super::cost::Cost;
use super::cuda::driver::{Driver, Mark};
use crate::error::Result;

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A stage.
    Stage,
    /// An optimizer step, or an iteration of PPO.
    Step,
    /// A part of a step.
    Phase,
    /// A call of an operator.
    Operator,
    /// The host waits for the device, to read what it has.
    Wait,
    /// A kernel, a plain product, a copy: what the device itself ran.
    Kernel,
}

impl Kind {
    /// As a trace says it.
    pub fn name(self) -> &'static str {
        ["stage", "step", "phase", "operator", "wait", "kernel"][self as usize]
    }
}

/// A stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its name: `sft`, `forward`, `rmsnorm_fwd`.
    pub name: Cow<'static, str>,
    /// What it is of.
    pub kind: Kind,
    /// Seconds from the recorder's start to its own.
    pub begin: f64,
    /// And to its end.
    pub end: f64,
    /// The span that it lies in, by its place; of a kernel the one that launched it.
    pub parent: Option<usize>,
    /// What it costs at least, where that is known.
    pub cost: Option<Cost>,
}

impl Span {
    /// How long it took.
    pub fn seconds(&self) -> f64 {
        self.end - self.begin
    }
}

/// A kernel between two marks.
struct Launch {
    name: Cow<'static, str>,
    parent: Option<usize>,
    cost: Option<Cost>,
    marks: [Mark; 2],
}

/// The device's clock, and when on the host's it stood at its first mark.
struct Source {
    driver: Arc<dyn Driver>,
    first: Mark,
    at: f64,
}

#[derive(Default)]
struct Log {
    spans: Vec<Span>,
    /// Spans that have not ended, innermost last.
    open: Vec<usize>,
    launches: Vec<Launch>,
    source: Option<Source>,
}

/// Writes spans down.
pub struct Recorder {
    clock: Box<dyn Fn() -> f64 + Send + Sync>,
    log: Mutex<Log>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("spans", &self.log().spans.len()).finish_non_exhaustive()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        let start = Instant::now();
        Recorder::with_clock(move || start.elapsed().as_secs_f64())
    }
}

impl Recorder {
    /// A recorder that reads the time in seconds from `clock`.
    pub fn with_clock(clock: impl Fn() -> f64 + Send + Sync + 'static) -> Recorder {
        Recorder { clock: Box::new(clock), log: Mutex::default() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Seconds since the recorder's start.
    pub fn now(&self) -> f64 {
        (self.clock)()
    }

    /// Begins a span inside the innermost one that is open. It ends when what is returned is dropped.
    pub fn open(&self, kind: Kind, name: impl Into<Cow<'static, str>>, cost: Option<Cost>) -> Open<'_> {
        let begin = self.now();
        let mut log = self.log();
        let span = Span { name: name.into(), kind, begin, end: begin, parent: log.open.last().copied(), cost };
        let index = log.spans.len();
        log.open.push(index);
        log.spans.push(span);
        Open { recorder: self, index }
    }

    /// Begins a call of an operator. Operators that another one calls are a part of it, and not written down.
    pub(super) fn operator(&self, name: &'static str, cost: Option<Cost>) -> Option<Open<'_>> {
        let log = self.log();
        let inside = log.open.last().is_some_and(|index| log.spans[*index].kind == Kind::Operator);
        drop(log);
        (!inside).then(|| self.open(Kind::Operator, name, cost))
    }

    fn close(&self, index: usize) {
        let end = self.now();
        let mut log = self.log();
        log.spans[index].end = end;
        log.open.retain(|open| *open < index);
    }

    /// Takes the device's clock: nothing was launched into `driver` that is not done.
    pub(super) fn attach(&self, driver: &Arc<dyn Driver>) -> Result<()> {
        let first = driver.mark()?;
        let at = self.now();
        self.log().source = first.map(|first| Source { driver: driver.clone(), first, at });
        Ok(())
    }

    /// A kernel was launched between two marks.
    pub(super) fn launched(&self, name: Cow<'static, str>, cost: Option<Cost>, marks: [Mark; 2]) {
        let mut log = self.log();
        let parent = log.open.last().copied();
        log.launches.push(Launch { name, parent, cost, marks });
    }

    /// Everything since the start or since the last time, which is then forgotten; waits for the device. Spans come in the order of
    /// their begins, the kernels after all others. No span may be open.
    pub fn take(&self) -> Result<Vec<Span>> {
        let mut log = self.log();
        let (mut spans, launches) = (std::mem::take(&mut log.spans), std::mem::take(&mut log.launches));
        let Some(source) = log.source.as_mut().filter(|_| !launches.is_empty()) else { return Ok(spans) };
        let all = [source.first].into_iter().chain(launches.iter().flat_map(|launch| launch.marks)).collect();
        let times = source.driver.read_marks(all)?;
        let at = source.at;
        // The first mark was given up with the rest.
        if let Some(first) = source.driver.mark()? {
            (source.first, source.at) = (first, self.now());
        }
        for (launch, times) in launches.into_iter().zip(times[1..].chunks_exact(2)) {
            let Launch { name, parent, cost, .. } = launch;
            let (begin, end) = (at + times[0], at + times[1]);
            spans.push(Span { name, kind: Kind::Kernel, begin, end, parent, cost });
        }
        Ok(spans)
    }
}

/// A span that has begun.
#[must_use = "it ends when it is dropped"]
pub struct Open<'a> {
    recorder: &'a Recorder,
    index: usize,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.recorder.close(self.index);
    }
}

/// Begins a span where the device has a recorder.
pub fn span<'a, D: Device>(device: &'a D, kind: Kind, name: &'static str) -> Option<Open<'a>> {
    device.recorder().map(|recorder| recorder.open(kind, name, None))
}

/// Does a part of a step: a phase where the device has a recorder. Its seconds are added to `seconds` in any case.
pub fn timed<D: Device, T>(
    device: &D,
    name: &'static str,
    seconds: &mut Vec<(&'static str, f64)>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let _phase = span(device, Kind::Phase, name);
    let started = Instant::now();
    let done = work()?;
    seconds.push((name, started.elapsed().as_secs_f64()));
    Ok(done)
}
