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
    let mut writer = Writer::new(device, decoder, adapter, requests, settings)?;
    let slots = writer.cache.slots;
    let mut waiting = 0..requests.len();
    // Results that were asked for and not looked at yet, the oldest first.
    let mut coming: VecDeque<Coming<D>> = VecDeque::new();
    loop {
        while coming.len() > device.ahead() {
            let oldest = coming.pop_front().expect("there is one at least");
            take_in(device, oldest, &mut samples, settings, on_token)?;
        }
        writer.rows.retain(|row| !samples[row.request].ended && row.written < settings.max_new_tokens);
        let free: Vec<usize> = (0..slots).filter(|slot| writer.rows.iter().all(|row| row.slot != *slot)).collect();
        // Prompts are cheaper together: places are filled again once a quarter of them is free.
        let next = if !waiting.is_empty() && (4 * free.len() >= slots || free.len() == slots) {
            writer.start(free.into_iter().zip(waiting.by_ref()).collect())?
        } else if !writer.rows.is_empty() {
            writer.step()?
        } else {
            match coming.pop_front() {
                Some(oldest) => take_in(device, oldest, &mut samples, settings, on_token)?,
                None => return Ok(samples),
            }
            continue;
        };
        coming.push_back(next);
    }
}

/// Tokens and log-probs on their way to the host, and whose they are.
struct Coming<D: Device> {
    pending: D::Pending<u32, D::Acc>,
    requests: Vec<usize>,
}

/// Records the tokens of a step, except those of sequences that had ended before it.
fn take_in<D: Device>(
    device: &D,
    coming: Coming<D>,
    samples: &mut [Sample],
    settings: &Settings,
    on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
) -> Result<()> {
    let (tokens, logprobs) = device.finish_download(coming.pending)?;
    for ((request, token), logprob) in coming.requests.into_iter().zip(tokens).zip(logprobs) {
        let sample = &mut samples[request];
        if sample.ended {
            continue;
        }
        sample.tokens.push(token);
        sample.logprobs.push(logprob.f64());
        sample.ended = settings.eos.contains(&token);
        on_token(request, token)?;
    }
    Ok(())
}

/// A sequence that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    request: usize,
    slot: usize,
    /// Tokens that were asked for.
    written: usize,
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
    requests: &'a [Request],
    sampling: Sampling,
    /// Recorded steps, which use the buffers below.
    graphs: D::Graphs,
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
    fn new(
        device: &'a D,
        decoder: &'a Decoder<D>,
        adapter: Option<&'a Adapter<D>>,
        requests: &'a [Request],
        settings: &Settings,
    ) -> Result<Self> {
        let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
        let slots = settings.batch.clamp(1, requests.len());
        Ok(Writer {
            device,
            decoder,
            adapter,
            requests,
            sampling: settings.sampling,
            graphs: D::Graphs::default(),
            batches: BTreeMap::new(),
            cache: decoder.cache(device, slots, longest + settings.max_new_tokens)?,
            last: device.zeros(slots)?,
            rows: Vec::new(),
            stepped: Vec::new(),
        })
    }

    /// Reads the prompts of requests into free slots, and chooses the first token of each.
    fn start(&mut self, started: Vec<(usize, usize)>) -> Result<Coming<D>> {
        let device = self.device;
        let prompts: Vec<&[u32]> = started.iter().map(|(_, request)| self.requests[*request].prompt.as_slice()).collect();
        let packed = Packed::new(device, &prompts)?;
        let slots: Vec<u32> = started.iter().map(|(slot, _)| *slot as u32).collect();
        let hidden = self.decoder.prefill(device, &packed, &slots, &mut self.cache, self.adapter)?;
        let ends: Vec<u32> = packed.bounds.host[1..].iter().map(|end| end - 1).collect();
        let c = self.decoder.config.hidden;
        let mut rows = device.empty(ends.len() * c)?;
        device.gather_rows(&mut rows, &hidden, &device.upload(&ends)?, c)?;
        drop(hidden);
        let mut batch = Batch::empty(device, started.len())?;
        let standing = |(slot, request): &(usize, usize)| {
            let Request { prompt, key } = &self.requests[*request];
            Standing { slot: *slot as u32, position: prompt.len() as u32 - 1, count: 0, key: *key }
        };
        batch.cursor.set(device, &started.iter().map(standing).collect::<Vec<_>>())?;
        choose(device, self.decoder, &rows, &mut batch, &mut self.last, self.sampling)?;
        let requests = started.iter().map(|(_, request)| *request).collect();
        self.rows.extend(started.into_iter().map(|(slot, request)| Row { request, slot, written: 1 }));
        self.rows.sort_unstable_by_key(|row| row.slot);
        Ok(Coming { pending: device.begin_download(&batch.ids, &batch.logprobs)?, requests })
    }

    /// Writes one more token of every row.
    fn step(&mut self) -> Result<Coming<D>> {
        let Writer { device, decoder, adapter, sampling, .. } = *self;
        // Weights that are brought together for each pass are never in the same place.
        let repeats = device.replays() && !decoder.is_shared();
        let count = if repeats { rounded(self.rows.len(), self.cache.slots) } else { self.rows.len() };
        let batch = match self.batches.entry(count) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Batch::empty(device, count)?),
        };
        let identity: Vec<(usize, usize)> = self.rows.iter().map(|row| (row.request, row.slot)).collect();
        if identity != self.stepped {
            let standing = |row: &Row| {
                let Request { prompt, key } = &self.requests[row.request];
                let position = (prompt.len() + row.written - 1) as u32;
                Standing { slot: row.slot as u32, position, count: row.written as u32, key: *key }
            };
            let standings: Vec<Standing> = self.rows.iter().map(standing).collect();
            batch.cursor.set(device, &standings)?;
            // A row of no sequence reads some token, it does not matter which.
            let mut from = vec![0u32; count];
            from.iter_mut().zip(&standings).for_each(|(from, standing)| *from = standing.slot);
            device.gather_rows(&mut batch.ids, &self.last, &device.upload(&from)?, 1)?;
        }
        let (cache, last) = (&mut self.cache, &mut self.last);
        let mut body = || {
            let hidden = decoder.decode(device, &batch.ids, &batch.cursor, cache, adapter)?;
            choose(device, decoder, &hidden, batch, last, sampling)
        };
        match repeats {
            true => device.replay(&mut self.graphs, count, &mut body)?,
            false => body()?,
        }
        self.rows.iter_mut().for_each(|row| row.written += 1);
        let requests = self.rows.iter().map(|row| row.request).collect();
        self.stepped = identity;
        Ok(Coming { pending: device.begin_download(&batch.ids, &batch.logprobs)?, requests })
    }
}

/// The next token of each row, drawn from its request's stream at the number of the token, and the cursor moved past it.
fn choose<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    hidden: &D::Buf<D::Act>,
    batch: &mut Batch<D>,
    last: &mut D::Buf<u32>,
    sampling: Sampling,
) -> Result<()> {
    let (rows, c, v) = (D::len(&batch.ids), decoder.config.hidden, decoder.config.vocab);
    let mut logits = device.empty(rows * v)?;
    device.logits(&mut logits, hidden, &decoder.head().value, (rows, c, v))?;
    device.sample(&mut batch.ids, &mut batch.logprobs, &logits, &batch.cursor.draws, sampling, v)?;
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
}
