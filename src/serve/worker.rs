//! The engine's thread: takes what is asked, writes all of it as one batch, and tells each client its text as it comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::counters::add;
use super::stop::Stops;
use super::{GRACE, Shared};
use crate::device::{Device, Sampling};
use crate::error::Result;
use crate::generate::{End, Engine, Limits, Request, Token};
use crate::model::{Adapter, Decoder};
use crate::tokenizer::{Stream, Tokenizer};

/// Tokens of prompts that are read in one go, unless one alone is longer: what others wait for between two of their tokens.
const PREFILL: usize = 4096;

/// How long the worker sleeps at most before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// One sequence to write.
pub(super) struct Job {
    /// The prompt and the random stream.
    pub request: Request,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    /// Strings that end it.
    pub stop: Vec<String>,
    /// Its number in the answer.
    pub choice: usize,
    /// Where its text goes. Closed once the client is gone.
    pub events: UnboundedSender<Event>,
    /// Counted among those that are open as long as this lives.
    pub open: Open,
}

/// One of the open sequences.
pub(super) struct Open(Arc<Shared>);

impl Open {
    /// Takes room for so many; none if too many are open already.
    pub fn take(shared: &Arc<Shared>, count: usize, limit: usize) -> Option<Vec<Open>> {
        let more = |open: usize| (open + count <= limit).then_some(open + count);
        shared.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some((0..count).map(|_| Open(shared.clone())).collect())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a client is told.
pub(super) enum Event {
    /// More text of a choice.
    Text(usize, String),
    /// A choice's end.
    End {
        choice: usize,
        /// `stop` or `length`.
        reason: &'static str,
        /// Tokens that it took, the end token included.
        tokens: usize,
    },
    /// The model failed.
    Failed(String),
}

/// A sequence that is being written.
struct Active {
    choice: usize,
    events: UnboundedSender<Event>,
    stream: Stream<Arc<Tokenizer>>,
    stops: Stops,
    tokens: usize,
    since: Instant,
    _open: Open,
}

/// The batch and its clients.
pub(super) struct Worker<'a, D: Device> {
    engine: Engine<'a, D>,
    shared: &'a Arc<Shared>,
    jobs: Receiver<Job>,
    active: BTreeMap<usize, Active>,
}

impl<'a, D: Device> Worker<'a, D> {
    /// Makes the cache. Jobs come from `jobs`.
    pub fn new(
        device: &'a D,
        decoder: &'a Decoder<D>,
        adapter: Option<&'a Adapter<D>>,
        shared: &'a Arc<Shared>,
        jobs: Receiver<Job>,
    ) -> Result<Self> {
        let options = &shared.options;
        let limits = Limits { slots: options.batch, capacity: options.context, refill: 1, prefill: PREFILL };
        let engine = Engine::new(device, decoder, adapter, limits, shared.tokenizer.eos_ids())?;
        Ok(Worker { engine, shared, jobs, active: BTreeMap::new() })
    }

    /// Works until the server closes. Errors: the device's; every client was told.
    pub fn run(mut self) -> Result<()> {
        let result = self.work();
        if let Err(error) = &result {
            self.active.values().for_each(|active| drop(active.events.send(Event::Failed(error.to_string()))));
        }
        result
    }

    fn work(&mut self) -> Result<()> {
        let mut until = None;
        loop {
            if !self.take_jobs()? {
                return Ok(());
            }
            if self.shared.is_closing() {
                let until = *until.get_or_insert_with(|| Instant::now() + GRACE);
                if self.active.is_empty() || Instant::now() >= until {
                    return Ok(());
                }
            }
            self.forget_gone();
            self.step()?;
        }
    }

    /// One step of the batch. Clients are told within it: before the next token is computed, where the device computes at once.
    fn step(&mut self) -> Result<()> {
        let Worker { engine, shared, active, .. } = self;
        let counters = &shared.counters;
        let waiting = engine.waiting();
        let (mut rows, mut stopped) = (0, Vec::new());
        engine.step(&mut |token| {
            add(&counters.steps, usize::from(rows == 0));
            add(&counters.rows, 1);
            rows += 1;
            if tell(active, shared, waiting, token)? {
                stopped.push(token.request);
            }
            Ok(())
        })?;
        stopped.into_iter().for_each(|request| engine.cancel(request));
        counters.waiting.store(engine.waiting() as u64, Ordering::Relaxed);
        counters.running.store(engine.running() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes what was asked meanwhile; waits a moment where there is nothing else to do. Whether anybody can ask any more.
    fn take_jobs(&mut self) -> Result<bool> {
        if self.engine.is_idle() {
            match self.jobs.recv_timeout(LOOK) {
                Ok(job) => self.take(job)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
        while let Ok(job) = self.jobs.try_recv() {
            self.take(job)?;
        }
        Ok(true)
    }

    fn take(&mut self, job: Job) -> Result<()> {
        let Job { request, sampling, max_new_tokens, stop, choice, events, open } = job;
        let number = self.engine.submit(request, sampling, max_new_tokens)?;
        let stream = Stream::new(self.shared.tokenizer.clone(), true);
        let (stops, since) = (Stops::new(stop), Instant::now());
        self.active.insert(number, Active { choice, events, stream, stops, tokens: 0, since, _open: open });
        Ok(())
    }

    /// Ends the sequences whose clients went away.
    fn forget_gone(&mut self) {
        let gone: Vec<usize> =
            self.active.iter().filter(|(_, active)| active.events.is_closed()).map(|(number, _)| *number).collect();
        for number in gone {
            self.engine.cancel(number);
            self.active.remove(&number);
            add(&self.shared.counters.cancelled, 1);
        }
    }
}

/// Tells a client of a token. Whether a stop string ended its sequence, which the engine does not know. `waiting` of the active ones
/// have no place.
fn tell(active: &mut BTreeMap<usize, Active>, shared: &Shared, waiting: usize, token: Token) -> Result<bool> {
    let Some(own) = active.get_mut(&token.request) else { return Ok(false) };
    own.tokens += 1;
    add(&shared.counters.written_tokens, 1);
    // An end token is no text, even where the tokenizer takes it for an ordinary one.
    let piece = if token.end == Some(End::Token) { None } else { own.stream.push(token.id)? };
    let (text, stopped) = own.stops.push(&piece.unwrap_or_default());
    own.say(text);
    if token.end.is_none() && !stopped {
        return Ok(false);
    }
    let Some(mut own) = active.remove(&token.request) else { return Ok(false) };
    let mut reason = if stopped || token.end == Some(End::Token) { "stop" } else { "length" };
    if !stopped {
        let (text, stopped) = own.stops.push(&own.stream.finish()?.unwrap_or_default());
        let rest = if stopped { text } else { text + &own.stops.finish() };
        if stopped {
            reason = "stop";
        }
        if !rest.is_empty() {
            let _ = own.events.send(Event::Text(own.choice, rest));
        }
    }
    let counters = &shared.counters;
    add(&counters.finished, 1);
    add(&counters.micros, own.since.elapsed().as_micros() as usize);
    // Whoever reads the answer may read the metrics next.
    counters.running.store((active.len() - waiting) as u64, Ordering::Relaxed);
    let _ = own.events.send(Event::End { choice: own.choice, reason, tokens: own.tokens });
    Ok(stopped && token.end.is_none())
}

impl Active {
    /// Sends text, if it is any. A client that is gone is noticed at the next step.
    fn say(&self, text: String) {
        if !text.is_empty() {
            let _ = self.events.send(Event::Text(self.choice, text));
        }
    }
}
