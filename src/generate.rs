//! Batched sampling with a key-value cache. A finished sequence's place is taken by the next prompt; each request draws from a
//! stream of its own, so what it draws does not depend on who shares its batch.
//!
//! The host does not wait for a token to ask for the next one. Tokens, positions and draws stay on the device, which moves them along
//! itself; where a device computes by itself, the host launches a step and only then looks at the results of the step before. What it
//! does not know then is whether a sequence has just written an end token: such a sequence takes part in one step more, whose result
//! is dropped. When a sequence has reached its last token by number is known before.
//!
//! A step is the same launches on the same buffers for as long as the number of rows is the same, so a device that can records it and
//! repeats it as one launch. Rows are filled up to one of a few numbers ([`rounded`]) with rows of no sequence, which cache nothing and
//! attend to nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use crate::device::{Cursor, Device, Real, Sampling, Standing};
use crate::error::{Error, Result};
use crate::model::{Adapter, Cache, Decoder, Packed};

/// A prompt to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// The key of its random stream.
    pub key: u64,
}

/// How a batch of requests is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Tokens written at most.
    pub max_new_tokens: usize,
    /// A token of these ends a sequence, and is kept as its last.
    pub eos: Vec<u32>,
    /// Sequences decoded together.
    pub batch: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The tokens, the end token included.
    pub tokens: Vec<u32>,
    /// The sampler's log-prob of each, at the sampling temperature and before top-k and top-p.
    pub logprobs: Vec<f64>,
    /// Whether it ended by itself.
    pub ended: bool,
}

/// Samples every request; results come in the requests' order. `on_token` is told of each token by request, once it is known here.
pub fn generate<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    adapter: Option<&Adapter<D>>,
    requests: &[Request],
    settings: &Settings,
    on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
) -> Result<Vec<Sample>> {
    let samples = sample_all(device, decoder, adapter, requests, settings, on_token);
    // Other ranks may still be writing, and need this one's share of the weights.
    if matches!(samples, Ok(_) | Err(Error::Interrupted)) {
        decoder.keep_up(device)?;
    }
    samples
}

fn sample_all<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    adapter: Option<&Adapter<D>>,
    requests: &[Request],
    settings: &Settings,
    on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
) -> Result<Vec<Sample>> {
    if let Some(empty) = requests.iter().position(|request| request.prompt.is_empty()) {
        return Err(Error::input(format!("request {empty}"), "a prompt of at least one token expected"));
    }
    let mut samples: Vec<Sample> =
        requests.iter().map(|_| Sample { tokens: Vec::new(), logprobs: Vec::new(), ended: false }).collect();
    if settings.max_new_tokens == 0 || requests.is_empty() {
        return Ok(samples);
    }
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
    let slots = settings.batch.clamp(1, requests.len());
    // Prompts are cheaper together: places are filled again once a quarter of them is free.
    let limits = Limits { slots, capacity: longest + settings.max_new_tokens, refill: slots.div_ceil(4), prefill: usize::MAX };
    let mut engine = Engine::new(device, decoder, adapter, limits, &settings.eos)?;
    for request in requests {
        engine.submit(request.clone(), settings.sampling, settings.max_new_tokens)?;
    }
    let mut take = |token: Token| {
        let sample = &mut samples[token.request];
        sample.tokens.push(token.id);
        sample.logprobs.push(token.logprob);
        sample.ended = token.end == Some(End::Token);
        on_token(token.request, token.id)
    };
    while engine.step(&mut take)? {}
    drop(engine);
    Ok(samples)
}

/// What an [`Engine`] has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences decoded together.
    pub slots: usize,
    /// Tokens that a prompt and its answer may have together.
    pub capacity: usize,
    /// Prompts are read once so many places are free: 1 lets none wait longer than it has to.
    pub refill: usize,
    /// Tokens of prompts that are read together, at most; a longer prompt is read alone.
    pub prefill: usize,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its last token is an end token.
    Token,
    /// It has as many tokens as it may have.
    Length,
}

/// A token that was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token {
    /// Whose it is: the number that [`Engine::submit`] gave.
    pub request: usize,
    /// Which.
    pub id: u32,
    /// Its log-prob, as in [`Sample::logprobs`].
    pub logprob: f64,
    /// Whether it is the last, and why.
    pub end: Option<End>,
}

/// A running batch that requests join and leave at the boundaries of its steps.
pub struct Engine<'a, D: Device> {
    writer: Writer<'a, D>,
    limits: Limits,
    eos: Vec<u32>,
    /// Those that have no place yet, in the order they came.
    waiting: VecDeque<Row>,
    prompts: BTreeMap<usize, Vec<u32>>,
    /// Tokens that are known here of each sequence that has not ended.
    known: BTreeMap<usize, usize>,
    /// Results that were asked for and not looked at yet, the oldest first.
    coming: VecDeque<Coming<D>>,
    next: usize,
}

impl<'a, D: Device> Engine<'a, D> {
    /// An empty batch. `eos` are the tokens that end a sequence.
    pub fn new(
        device: &'a D,
        decoder: &'a Decoder<D>,
        adapter: Option<&'a Adapter<D>>,
        limits: Limits,
        eos: &[u32],
    ) -> Result<Self> {
        Ok(Engine {
            writer: Writer::new(device, decoder, adapter, limits)?,
            limits,
            eos: eos.to_vec(),
            waiting: VecDeque::new(),
            prompts: BTreeMap::new(),
            known: BTreeMap::new(),
            coming: VecDeque::new(),
            next: 0,
        })
    }

    /// Takes a request, and gives its number: 0, 1, ... What it draws depends on its key alone. Errors: an empty prompt, no token to
    /// write, more tokens than there is room for.
    pub fn submit(&mut self, request: Request, sampling: Sampling, max_new_tokens: usize) -> Result<usize> {
        let Request { prompt, key } = request;
        let (number, room) = (self.next, self.limits.capacity);
        if prompt.is_empty() || max_new_tokens == 0 || prompt.len() + max_new_tokens > room {
            let what =
                format!("a prompt and an answer of 1 to {room} tokens expected, {} and {max_new_tokens} found", prompt.len());
            return Err(Error::input(format!("request {number}"), what));
        }
        self.next += 1;
        let row = Row { request: number, slot: 0, prompt: prompt.len(), key, sampling, written: 0, limit: max_new_tokens };
        self.waiting.push_back(row);
        self.prompts.insert(number, prompt);
        self.known.insert(number, 0);
        Ok(number)
    }

    /// Forgets a request: no token of it is told any more, and its place comes free. One that has ended is no error.
    pub fn cancel(&mut self, request: usize) {
        self.known.remove(&request);
        self.prompts.remove(&request);
        self.waiting.retain(|row| row.request != request);
    }

    /// Requests that have no place yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that are being written.
    pub fn running(&self) -> usize {
        self.known.len() - self.waiting.len()
    }

    /// Whether there is nothing left to do or to tell.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writer.rows.is_empty() && self.coming.is_empty()
    }

    /// Launches one step more, and tells of the tokens that became known before it. Whether there was anything to do.
    pub fn step(&mut self, on_token: &mut dyn FnMut(Token) -> Result<()>) -> Result<bool> {
        while self.coming.len() > self.writer.device.ahead() {
            let oldest = self.coming.pop_front().expect("there is one at least");
            self.take_in(oldest, on_token)?;
        }
        let known = &self.known;
        self.writer.rows.retain(|row| known.contains_key(&row.request) && row.written < row.limit);
        let started = self.seat();
        let next = if !started.is_empty() {
            self.writer.start(started)?
        } else if !self.writer.rows.is_empty() {
            self.writer.step()?
        } else {
            let Some(oldest) = self.coming.pop_front() else { return Ok(false) };
            self.take_in(oldest, on_token)?;
            return Ok(true);
        };
        self.coming.push_back(next);
        Ok(true)
    }

    /// Those that wait and get a place now, with their prompts.
    fn seat(&mut self) -> Vec<(Row, Vec<u32>)> {
        let rows = &self.writer.rows;
        let free: Vec<usize> = (0..self.limits.slots).filter(|slot| rows.iter().all(|row| row.slot != *slot)).collect();
        let mut started = Vec::new();
        if free.len() < self.limits.refill {
            return started;
        }
        let mut tokens = 0usize;
        for slot in free {
            let fits = |row: &&Row| started.is_empty() || tokens.saturating_add(row.prompt) <= self.limits.prefill;
            if self.waiting.front().filter(fits).is_none() {
                break;
            }
            let row = self.waiting.pop_front().expect("one is in front");
            tokens = tokens.saturating_add(row.prompt);
            let prompt = self.prompts.remove(&row.request).expect("a request that waits has its prompt here");
            started.push((Row { slot, ..row }, prompt));
        }
        started
    }

    /// Tells of the tokens of a step, except those of sequences that had ended before it.
    fn take_in(&mut self, coming: Coming<D>, on_token: &mut dyn FnMut(Token) -> Result<()>) -> Result<()> {
        let (tokens, logprobs) = self.writer.device.finish_download(coming.pending)?;
        for (((request, limit), id), logprob) in coming.requests.into_iter().zip(tokens).zip(logprobs) {
            let Some(count) = self.known.get_mut(&request) else { continue };
            *count += 1;
            let end = match self.eos.contains(&id) {
                true => Some(End::Token),
                false => (*count == limit).then_some(End::Length),
            };
            if end.is_some() {
                self.known.remove(&request);
            }
            on_token(Token { request, id, logprob: logprob.f64(), end })?;
        }
        Ok(())
    }
}

/// Tokens and log-probs on their way to the host, and whose they are.
struct Coming<D: Device> {
    pending: D::Pending<u32, D::Acc>,
    /// The requests, and how many tokens each may have.
    requests: Vec<(usize, usize)>,
}

/// A sequence that is being written.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    request: usize,
    slot: usize,
    /// Tokens of its prompt.
    prompt: usize,
    key: u64,
    sampling: Sampling,
    /// Tokens that were asked for.
    written: usize,
    /// Tokens that it may have.
    limit: usize,
}

impl Row {
    /// Where its last token stands.
    fn standing(&self) -> Standing {
        let position = (self.prompt + self.written - 1) as u32;
        Standing { slot: self.slot as u32, position, count: self.written as u32, key: self.key }
    }
}

/// What the step of so many rows reads and writes.
struct Batch<D: Device> {
    /// The last token of each row; a step reads it and leaves the next.
    ids: D::Buf<u32>,
    logprobs: D::Buf<D::Acc>,
    cursor: Cursor<D>,
}

impl<D: Device> Batch<D> {
    fn empty(device: &D, rows: usize) -> Result<Self> {
        Ok(Batch { ids: device.empty(rows)?, logprobs: device.empty(rows)?, cursor: Cursor::empty(device, rows)? })
    }
}

/// The sequences that are being written, and what is on the device for them.
struct Writer<'a, D: Device> {
    device: &'a D,
    decoder: &'a Decoder<D>,
    adapter: Option<&'a Adapter<D>>,
    /// Recorded steps, which use the buffers below, by their sampling; the one that was used last is the last.
    recorded: Vec<(Sampling, D::Graphs)>,
    /// By number of rows: a recorded step knows its buffers by their addresses.
    batches: BTreeMap<usize, Batch<D>>,
    cache: Cache<D>,
    /// The last token of each slot, where the device keeps it for the host.
    last: D::Buf<u32>,
    /// In the order of their slots.
    rows: Vec<Row>,
    /// Requests and slots of the last step, whose cursor stands where the next step of the same rows begins.
    stepped: Vec<(usize, usize)>,
}

impl<'a, D: Device> Writer<'a, D> {
    fn new(device: &'a D, decoder: &'a Decoder<D>, adapter: Option<&'a Adapter<D>>, limits: Limits) -> Result<Self> {
        Ok(Writer {
            device,
            decoder,
            adapter,
            recorded: Vec::new(),
            batches: BTreeMap::new(),
            cache: decoder.cache(device, limits.slots, limits.capacity)?,
            last: device.zeros(limits.slots)?,
            rows: Vec::new(),
            stepped: Vec::new(),
        })
    }

    /// Reads the prompts of requests into free slots, and chooses the first token of each.
    fn start(&mut self, started: Vec<(Row, Vec<u32>)>) -> Result<Coming<D>> {
        let device = self.device;
        let prompts: Vec<&[u32]> = started.iter().map(|(_, prompt)| prompt.as_slice()).collect();
        let packed = Packed::new(device, &prompts)?;
        let mut rows: Vec<Row> = started.iter().map(|(row, _)| *row).collect();
        let slots: Vec<u32> = rows.iter().map(|row| row.slot as u32).collect();
        let hidden = self.decoder.prefill(device, &packed, &slots, &mut self.cache, self.adapter)?;
        let ends: Vec<u32> = packed.bounds.host[1..].iter().map(|end| end - 1).collect();
        let c = self.decoder.config.hidden;
        let mut last = device.empty(ends.len() * c)?;
        device.gather_rows(&mut last, &hidden, &device.upload(&ends)?, c)?;
        drop(hidden);
        let mut batch = Batch::empty(device, rows.len())?;
        batch.cursor.set(device, &rows.iter().map(Row::standing).collect::<Vec<_>>())?;
        let samplings: Vec<Sampling> = rows.iter().map(|row| row.sampling).collect();
        choose(device, self.decoder, &last, &mut batch, &mut self.last, &samplings)?;
        let requests = rows.iter().map(|row| (row.request, row.limit)).collect();
        rows.iter_mut().for_each(|row| row.written = 1);
        self.rows.extend(rows);
        self.rows.sort_unstable_by_key(|row| row.slot);
        Ok(Coming { pending: device.begin_download(&batch.ids, &batch.logprobs)?, requests })
    }

    /// Writes one more token of every row.
    fn step(&mut self) -> Result<Coming<D>> {
        let Writer { device, decoder, adapter, .. } = *self;
        let samplings: Vec<Sampling> = self.rows.iter().map(|row| row.sampling).collect();
        // Weights that are brought together for each pass are never in the same place.
        let repeats = device.replays() && !decoder.is_shared();
        let count = if repeats { rounded(self.rows.len(), self.cache.slots) } else { self.rows.len() };
        let batch = match self.batches.entry(count) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Batch::empty(device, count)?),
        };
        let identity: Vec<(usize, usize)> = self.rows.iter().map(|row| (row.request, row.slot)).collect();
        if identity != self.stepped {
            let standings: Vec<Standing> = self.rows.iter().map(Row::standing).collect();
            batch.cursor.set(device, &standings)?;
            // A row of no sequence reads some token, it does not matter which.
            let mut from = vec![0u32; count];
            from.iter_mut().zip(&standings).for_each(|(from, standing)| *from = standing.slot);
            device.gather_rows(&mut batch.ids, &self.last, &device.upload(&from)?, 1)?;
        }
        let recordings = if repeats { recordings(&mut self.recorded, &samplings) } else { None };
        let (cache, last) = (&mut self.cache, &mut self.last);
        let mut body = || {
            let hidden = decoder.decode(device, &batch.ids, &batch.cursor, cache, adapter)?;
            choose(device, decoder, &hidden, batch, last, &samplings)
        };
        match recordings {
            Some(graphs) => device.replay(graphs, count, &mut body)?,
            None => body()?,
        }
        self.rows.iter_mut().for_each(|row| row.written += 1);
        let requests = self.rows.iter().map(|row| (row.request, row.limit)).collect();
        self.stepped = identity;
        Ok(Coming { pending: device.begin_download(&batch.ids, &batch.logprobs)?, requests })
    }
}

/// The recordings for the one sampling that these rows have: what a recording samples with is part of it. Rows of several samplings are
/// launched as they come. Where too many are recorded, those of the sampling that was not used for longest are forgotten.
fn recordings<'a, G: Default>(recorded: &'a mut Vec<(Sampling, G)>, samplings: &[Sampling]) -> Option<&'a mut G> {
    let first = *samplings.first()?;
    if samplings.iter().any(|sampling| *sampling != first) {
        return None;
    }
    match recorded.iter().position(|(sampling, _)| *sampling == first) {
        Some(known) => recorded[known..].rotate_left(1),
        None => {
            if recorded.len() == RECORDED {
                recorded.remove(0);
            }
            recorded.push((first, G::default()));
        }
    }
    recorded.last_mut().map(|(_, graphs)| graphs)
}

/// Samplings that steps are recorded for, at most: each has its own recordings, which keep memory.
const RECORDED: usize = 4;

/// The next token of each row, drawn from its request's stream at the number of the token, and the cursor moved past it. Rows past the
/// last of `samplings` belong to no sequence.
fn choose<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    hidden: &D::Buf<D::Act>,
    batch: &mut Batch<D>,
    last: &mut D::Buf<u32>,
    samplings: &[Sampling],
) -> Result<()> {
    let (rows, c, v) = (D::len(&batch.ids), decoder.config.hidden, decoder.config.vocab);
    let mut logits = device.empty(rows * v)?;
    device.logits(&mut logits, hidden, &decoder.head().value, (rows, c, v))?;
    device.sample(&mut batch.ids, &mut batch.logprobs, &logits, &batch.cursor.draws, samplings[0], v)?;
    // The operator samples all rows alike: of each further kind, its rows are taken over.
    for (row, sampling) in samplings.iter().enumerate() {
        if row == 0 || samplings[..row].contains(sampling) {
            continue;
        }
        let (mut ids, mut logprobs) = (device.empty(rows)?, device.empty(rows)?);
        device.sample(&mut ids, &mut logprobs, &logits, &batch.cursor.draws, *sampling, v)?;
        for own in (row..samplings.len()).filter(|own| samplings[*own] == *sampling) {
            device.copy(&mut batch.ids, own, &ids, own, 1)?;
            device.copy(&mut batch.logprobs, own, &logprobs, own, 1)?;
        }
    }
    device.advance(last, &mut batch.cursor, &batch.ids)
}

/// Rows that a recorded step has for so many sequences: powers of two and the middles between them, from 8 on multiples of 8, so that
/// few steps are recorded and few rows are of no sequence; no more than there are slots.
fn rounded(rows: usize, slots: usize) -> usize {
    let step = match rows {
        0..8 => rows.next_power_of_two(),
        _ => (rows.next_power_of_two() / 4).max(8),
    };
    rows.next_multiple_of(step).min(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_of_rows_are_recorded() {
        let distinct: std::collections::BTreeSet<usize> = (1..=128).map(|rows| rounded(rows, 128)).collect();
        assert_eq!(Vec::from_iter(distinct), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]);
        assert!((1..=128).all(|rows| (rows..=2 * rows).contains(&rounded(rows, 128))));
        assert_eq!([rounded(3, 3), rounded(17, 20), rounded(20, 20)], [3, 20, 20]);
    }

    #[test]
    fn the_sampling_that_was_not_used_for_longest_is_forgotten() {
        let at = |temperature: f32| Sampling { temperature, top_k: 0, top_p: 1.0 };
        let mut recorded: Vec<(Sampling, Vec<f32>)> = Vec::new();
        // Each leaves its name: whoever comes back finds it, unless it was forgotten.
        let mut found = |temperature: f32| {
            let own = recordings(&mut recorded, &[at(temperature); 2]).unwrap();
            let known = own.clone();
            *own = vec![temperature];
            known
        };
        assert!([0.1, 0.2, 0.3, 0.4].into_iter().all(|new| found(new).is_empty()));
        assert_eq!((found(0.1), found(0.5), found(0.1)), (vec![0.1], vec![], vec![0.1]));
        assert_eq!((found(0.3), found(0.2), found(0.3)), (vec![0.3], vec![], vec![0.3]));
        assert_eq!((found(0.1), found(0.4)), (vec![0.1], vec![]));
        assert_eq!(recorded.len(), RECORDED);
        assert!(recordings(&mut recorded, &[at(0.1), at(0.2)]).is_none() && recordings(&mut recorded, &[]).is_none());
    }
}
