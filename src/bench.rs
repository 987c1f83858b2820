//! How fast a machine trains, decodes and learns by PPO: the same code that the stages run, on random tokens. And how fast each
//! operator is.

pub mod against;
pub mod kernels;
mod measure;
pub mod ppo;
mod shape;
pub mod work;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::Storage;
use crate::comm;
use crate::device::meter::{Cost, Style, Work};
use crate::device::{Device, Meter, Sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Request};
use crate::metric::timing::{median, spread};
use crate::model::{Adapter, Config, Decoder, OnLayer};
use crate::optim::{Hyper, Optimizer, Sum};
use crate::plan::cards::Card;
use crate::plan::{stages, time};
use crate::prompt::Example;
use crate::recipe::{Lora, Recipe, Recompute, Train};
use crate::rng::{Rng, key};
use crate::stage::sft::{Supervised, lora_config};
use crate::stage::train::Task;
use crate::weights::Grads;

/// Extents of a model: what has to be the same where times are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extents {
    /// Model width.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Query heads, key-value heads, and the width of each.
    pub heads: [usize; 3],
}

impl From<&Config> for Extents {
    fn from(config: &Config) -> Extents {
        let heads = [config.heads.q, config.heads.kv, config.heads.dim];
        Extents { hidden: config.hidden, intermediate: config.intermediate, layers: config.layers, vocab: config.vocab, heads }
    }
}

/// What was measured of a training step, of decoding, or of an iteration of PPO.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `sft`, `decode` or `ppo`.
    pub what: &'static str,
    /// The device's name.
    pub device: String,
    /// The model.
    pub model: Extents,
    /// Parameters of the model.
    pub parameters: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of a sequence, or of a prompt.
    pub seq: usize,
    /// Steps, tokens a sequence, or iterations, that were timed.
    pub steps: usize,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Tokens trained on, or written, in a second.
    pub tokens_per_s: f64,
    /// The most bytes that tensors held.
    pub peak_bytes: usize,
    /// Seconds of each step; of decoding, of each token of all sequences after the first.
    pub samples: Vec<f64>,
    /// The median of the samples; none without samples.
    pub median: Option<f64>,
    /// Their interquartile range.
    pub spread: Option<f64>,
    /// Operations of matrix products in a second, divided by 10^12, over the samples.
    pub tflops: f64,
    /// Bytes that the operators have to move, in a second, divided by 10^9.
    pub gbytes_per_s: f64,
    /// The share of the device's operations a second that these products are. None for a device whose limits are not known here.
    pub mfu: Option<f64>,
    /// The least time that the device's arithmetic and memory allow, over the time that it took.
    pub roof: Option<f64>,
    /// Decoding: seconds until every sequence had its first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_seconds: Option<f64>,
    /// PPO: what an iteration is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<ppo::Iteration>,
}

/// The limits of a device that is known, at its type of activations: the f32 build uses no tensor cores.
pub fn card<D: Device>(device: &D) -> Option<Card> {
    card_of(&device.name(), size_of::<D::Act>())
}

fn card_of(name: &str, act_bytes: usize) -> Option<Card> {
    let card = Card::of_driver(name)?;
    Some(if act_bytes == 2 { card } else { Card { tensor_flops: card.vector_flops, ..card } })
}

/// How well a device does, given the seconds that some work took.
struct Rates {
    tflops: f64,
    gbytes_per_s: f64,
    mfu: Option<f64>,
    roof: Option<f64>,
}

impl Rates {
    fn of<D: Device>(device: &D, work: &Work, seconds: f64) -> Rates {
        let (Cost { products, bytes, .. }, card) = (work.total().0, card(device));
        let per_s = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        Rates {
            tflops: per_s(products) / 1e12,
            gbytes_per_s: per_s(bytes) / 1e9,
            mfu: card.map(|card| per_s(products) / card.tensor_flops),
            roof: card.filter(|_| seconds > 0.0).map(|card| time::of_work(&card, work).floor() / seconds),
        }
    }
}

/// What a benchmark is about, for the record.
struct About<'a> {
    what: &'static str,
    config: &'a Config,
    batch: usize,
    seq: usize,
    steps: usize,
}

impl About<'_> {
    /// `tokens` were computed in `seconds`; the samples are parts of these, in which `work` was done.
    fn measured<D: Device>(&self, device: &D, tokens: usize, seconds: f64, samples: Vec<f64>, work: &Work) -> Measured {
        let Rates { tflops, gbytes_per_s, mfu, roof } = Rates::of(device, work, samples.iter().sum());
        Measured {
            what: self.what,
            device: device.name(),
            model: Extents::from(self.config),
            parameters: self.config.parameters(),
            batch: self.batch,
            seq: self.seq,
            steps: self.steps,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            peak_bytes: device.memory().1,
            median: median(&samples),
            spread: spread(&samples),
            samples,
            tflops,
            gbytes_per_s,
            mfu,
            roof,
            prefill_seconds: None,
            ppo: None,
        }
    }
}

fn tokens(rng: &mut Rng, count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|_| rng.below(vocab) as u32).collect()
}

/// A recipe of what benchmarks train: LoRA of rank 4 on q, k, v, o, without dropout.
fn recipe() -> Recipe {
    Recipe { lora: Lora { dropout: 0.0, ..Lora::default() }, seed: 17, ..Recipe::default() }
}

/// Training steps of LoRA of rank 4 on q, k, v, o, loss on every token, one step outside the time. A step's time is that between the
/// reads of two losses, for which the host waits once a step.
pub fn sft<D: Device>(device: &D, folder: &Path, batch: usize, seq: usize, steps: usize) -> Result<Measured> {
    let decoder = Decoder::load(device, folder)?;
    let model = decoder.config.clone();
    let mut recipe = recipe();
    let adapter = Adapter::new(device, lora_config(&recipe), &decoder.config, recipe.seed)?;
    let mut rng = Rng::new(17, "bench", 0);
    let example = |_| Example { tokens: tokens(&mut rng, seq, decoder.config.vocab), mask: vec![true; seq] };
    let examples: Vec<Example> = (0..batch).map(example).collect();
    let mut task = Supervised {
        decoder,
        adapter: Some(adapter),
        examples,
        ids: vec![String::new(); batch],
        validation: Vec::new(),
        recompute: Recompute::None,
        base: String::new(),
        storage: Storage::F32,
    };
    let hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 };
    let (mut optimizer, mut grads) = Optimizer::new(device, &comm::solo(), &mut task.params(), hyper, Sum::Whole)?;
    let records: Vec<usize> = (0..batch).collect();
    let norm = 1.0 / (batch * seq.saturating_sub(1)).max(1) as f64;
    let mut step = |index| -> Result<()> {
        optimizer.clear(device, &mut grads)?;
        let micro = |grads: &mut Grads<D>, on_layer: OnLayer<'_, D>| task.micro(device, &records, norm, index, grads, on_layer);
        let loss = optimizer.backward(device, &mut grads, true, micro)?;
        let (squares, _) = optimizer.measure(device, &grads, &[loss])?;
        optimizer.update(device, &mut task.params(), &grads, squares.norm(&grads)?, 1e-5)
    };
    step(0)?;
    let started = Instant::now();
    let samples = (1..=steps as u64).map(|index| timed(|| step(index))).collect::<Result<Vec<f64>>>()?;
    let seconds = started.elapsed().as_secs_f64();
    (recipe.sft.max_tokens, recipe.sft.sequences_per_device, recipe.sft.accumulation) = (seq, batch, 1);
    (recipe.sft.recompute, recipe.sft.validate) = (Recompute::None, false);
    let metered = stages::sft(&Meter::<D::Act>::new(Style::Cuda), &recipe, &model, 1)?;
    let mut work = Work::default();
    metered.parts.iter().for_each(|part| work.add(&part.work, steps as u64));
    let about = About { what: "sft", config: &model, batch, seq, steps };
    Ok(about.measured(device, batch * seq * steps, seconds, samples, &work))
}

/// Seconds that something took.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Sampling at temperature 1 from random prompts of `seq` tokens, `steps` tokens each, reading the prompts included.
pub fn decode<D: Device>(device: &D, folder: &Path, batch: usize, seq: usize, steps: usize) -> Result<Measured> {
    let decoder = Decoder::load(device, folder)?;
    let mut rng = Rng::new(17, "bench", 0);
    let request = |index| Request { prompt: tokens(&mut rng, seq.max(1), decoder.config.vocab), key: key(17, "bench", index) };
    let requests: Vec<Request> = (0..batch as u64).map(request).collect();
    let run = |max_new_tokens: usize| {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        // No end token: every sequence is written to the full length, and all of them get a token at a time.
        let settings = generate::Settings { sampling, max_new_tokens, eos: Vec::new(), batch };
        let (started, mut seen, mut at) = (Instant::now(), 0, Vec::with_capacity(max_new_tokens));
        let mut on_token = |_: usize, _: u32| {
            seen += 1;
            if seen % batch == 0 {
                at.push(started.elapsed().as_secs_f64());
            }
            Ok(())
        };
        generate::generate(device, &decoder, None, &requests, &settings, &mut on_token)?;
        Ok::<_, Error>((started.elapsed().as_secs_f64(), at))
    };
    run(steps.min(2))?;
    let (seconds, at) = run(steps)?;
    let samples: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // What the tokens after the first cost: all of them, less what the first does.
    let meter = Meter::<D::Act>::new(Style::Cuda);
    let work = |tokens: usize| -> Result<Work> {
        // The whole model, for an adapter would be counted too.
        let mut recipe = recipe();
        recipe.sft.train = Train::Full;
        let metered = stages::answers(&meter, &recipe, &decoder.config, (batch, seq.max(1), tokens), 1)?;
        let mut work = Work::default();
        metered.parts.iter().for_each(|part| work.add(&part.work, 1));
        Ok(work)
    };
    let work = work(steps)?.less(&work(1)?);
    let about = About { what: "decode", config: &decoder.config, batch, seq, steps };
    let measured = about.measured(device, batch * steps, seconds, samples, &work);
    Ok(Measured { prefill_seconds: at.first().copied(), ..measured })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_boards_with_a_data_sheet() {
        let limits = |name, bytes| card_of(name, bytes).map(|card| (card.tensor_flops, card.bandwidth));
        assert_eq!(limits("cuda (NVIDIA H100 80GB HBM3, bf16)", 2), Some((989.4e12, 3.35e12)));
        assert_eq!(limits("cuda (NVIDIA H200, f32)", 4), Some((66.9e12, 4.8e12)));
        assert_eq!(limits("cuda (NVIDIA H200 NVL, bf16)", 2), None);
        assert_eq!(limits("cpu (2 threads, f32)", 4), None);
    }
}
