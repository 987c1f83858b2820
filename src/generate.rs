//! Batched sampling with a key-value cache. A finished sequence's place is taken by the next prompt; each request draws from a
//! stream of its own, so what it draws does not depend on who shares its batch.

use crate::device::{Device, Real, Sampling};
use crate::error::{Error, Result};
use crate::model::{Adapter, Decoder, Packed};
use crate::rng::{philox, unit};

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

struct Active {
    request: usize,
    position: u32,
    last: u32,
}

/// Samples every request; results come in the requests' order. `on_token` is told of each token as it is chosen, by request.
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
    let mut cache = decoder.cache(device, slots, longest + settings.max_new_tokens)?;
    let mut active: Vec<Option<Active>> = (0..slots).map(|_| None).collect();
    let mut waiting = 0..requests.len();

    loop {
        let free: Vec<usize> = (0..slots).filter(|slot| active[*slot].is_none()).collect();
        // Prompts are cheaper together: places are filled again once a quarter of them is free.
        if !waiting.is_empty() && (4 * free.len() >= slots || free.len() == slots) {
            let started: Vec<(usize, usize)> = free.into_iter().zip(waiting.by_ref()).collect();
            let prompts: Vec<&[u32]> = started.iter().map(|(_, request)| requests[*request].prompt.as_slice()).collect();
            let batch = Packed::new(device, &prompts)?;
            let places: Vec<u32> = started.iter().map(|(slot, _)| *slot as u32).collect();
            let hidden = decoder.prefill(device, &batch, &places, &mut cache, adapter)?;
            let last: Vec<u32> = batch.bounds.host[1..].iter().map(|end| end - 1).collect();
            let mut rows = device.empty(last.len() * decoder.config.hidden)?;
            device.gather_rows(&mut rows, &hidden, &device.upload(&last)?, decoder.config.hidden)?;
            let ids: Vec<usize> = started.iter().map(|(_, request)| *request).collect();
            let chosen = choose(device, decoder, &rows, &ids, requests, &samples, settings.sampling)?;
            for ((slot, request), (token, logprob)) in started.into_iter().zip(chosen) {
                let position = requests[request].prompt.len() as u32;
                let next = Active { request, position, last: token };
                active[slot] = accept(next, token, logprob, &mut samples, settings, on_token)?;
            }
            continue;
        }
        let running: Vec<usize> = (0..slots).filter(|slot| active[*slot].is_some()).collect();
        if running.is_empty() {
            return Ok(samples);
        }
        let taken: Vec<Active> = running.iter().filter_map(|slot| active[*slot].take()).collect();
        let tokens: Vec<u32> = taken.iter().map(|a| a.last).collect();
        let positions: Vec<u32> = taken.iter().map(|a| a.position).collect();
        let places: Vec<u32> = running.iter().map(|slot| *slot as u32).collect();
        let hidden = decoder.decode(device, &tokens, &positions, &places, &mut cache, adapter)?;
        let ids: Vec<usize> = taken.iter().map(|a| a.request).collect();
        let chosen = choose(device, decoder, &hidden, &ids, requests, &samples, settings.sampling)?;
        for ((slot, state), (token, logprob)) in running.into_iter().zip(taken).zip(chosen) {
            let next = Active { position: state.position + 1, last: token, ..state };
            active[slot] = accept(next, token, logprob, &mut samples, settings, on_token)?;
        }
    }
}

/// Records a token; returns the sequence's state unless it has ended.
fn accept(
    state: Active,
    token: u32,
    logprob: f64,
    samples: &mut [Sample],
    settings: &Settings,
    on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
) -> Result<Option<Active>> {
    let sample = &mut samples[state.request];
    sample.tokens.push(token);
    sample.logprobs.push(logprob);
    sample.ended = settings.eos.contains(&token);
    on_token(state.request, token)?;
    let done = sample.ended || sample.tokens.len() == settings.max_new_tokens;
    Ok(if done { None } else { Some(state) })
}

/// The next token of each row, drawn from its request's stream at the position of the token.
fn choose<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    hidden: &D::Buf<D::Act>,
    ids: &[usize],
    requests: &[Request],
    samples: &[Sample],
    sampling: Sampling,
) -> Result<Vec<(u32, f64)>> {
    let (c, v) = (decoder.config.hidden, decoder.config.vocab);
    let draw = |id: &usize| unit(philox([samples[*id].tokens.len() as u32, 0, 0, 0], requests[*id].key)[0]);
    let draws = device.upload(&ids.iter().map(draw).collect::<Vec<_>>())?;
    let mut logits = device.empty(ids.len() * v)?;
    device.logits(&mut logits, hidden, &decoder.head().value, (ids.len(), c, v))?;
    let (mut tokens, mut logprobs) = (device.empty(ids.len())?, device.empty(ids.len())?);
    device.sample(&mut tokens, &mut logprobs, &logits, &draws, sampling, v)?;
    let (tokens, logprobs) = device.download_both(&tokens, &logprobs)?;
    Ok(tokens.into_iter().zip(logprobs.iter().map(|x| x.f64())).collect())
}
