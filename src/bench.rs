//! How fast a machine trains and decodes: the same code that the stages run, on random tokens. And how fast each operator is.

pub mod kernels;
mod measure;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::Storage;
use crate::comm;
use crate::device::{Device, Sampling};
use crate::error::Result;
use crate::generate::{self, Request};
use crate::model::lora::{LoraConfig, Target};
use crate::model::{Adapter, Decoder, OnLayer};
use crate::optim::{Hyper, Optimizer, Sum};
use crate::prompt::Example;
use crate::recipe::Recompute;
use crate::rng::{Rng, key};
use crate::stage::sft::Supervised;
use crate::stage::train::Task;
use crate::weights::Grads;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `sft` or `decode`.
    pub what: &'static str,
    /// The device's name.
    pub device: String,
    /// Parameters of the model.
    pub parameters: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of a sequence, or of a prompt.
    pub seq: usize,
    /// Steps, or tokens a sequence, that were timed.
    pub steps: usize,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Tokens trained on, or written, in a second.
    pub tokens_per_s: f64,
    /// The most bytes that tensors held.
    pub peak_bytes: usize,
}

fn tokens(rng: &mut Rng, count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|_| rng.below(vocab) as u32).collect()
}

/// Training steps of LoRA of rank 4 on q, k, v, o, loss on every token, one step outside the time.
pub fn sft<D: Device>(device: &D, folder: &Path, batch: usize, seq: usize, steps: usize) -> Result<Measured> {
    let decoder = Decoder::load(device, folder)?;
    let parameters = decoder.config.parameters();
    let targets = vec![Target::Q, Target::K, Target::V, Target::O];
    let config = LoraConfig { rank: 4, alpha: 16.0, dropout: 0.0, targets };
    let adapter = Adapter::new(device, config, &decoder.config, 17)?;
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
    (1..=steps as u64).try_for_each(&mut step)?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens_per_s = (batch * seq * steps) as f64 / seconds;
    let peak_bytes = device.memory().1;
    Ok(Measured { what: "sft", device: device.name(), parameters, batch, seq, steps, seconds, tokens_per_s, peak_bytes })
}

/// Sampling at temperature 1 from random prompts of `seq` tokens, `steps` tokens each, reading the prompts included.
pub fn decode<D: Device>(device: &D, folder: &Path, batch: usize, seq: usize, steps: usize) -> Result<Measured> {
    let decoder = Decoder::load(device, folder)?;
    let parameters = decoder.config.parameters();
    let mut rng = Rng::new(17, "bench", 0);
    let request = |index| Request { prompt: tokens(&mut rng, seq.max(1), decoder.config.vocab), key: key(17, "bench", index) };
    let requests: Vec<Request> = (0..batch as u64).map(request).collect();
    let run = |max_new_tokens| {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        // No end token: every sequence is written to the full length.
        let settings = generate::Settings { sampling, max_new_tokens, eos: Vec::new(), batch };
        generate::generate(device, &decoder, None, &requests, &settings, &mut |_, _| Ok(()))
    };
    run(steps.min(2))?;
    let started = Instant::now();
    run(steps)?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens_per_s = (batch * steps) as f64 / seconds;
    let peak_bytes = device.memory().1;
    Ok(Measured { what: "decode", device: device.name(), parameters, batch, seq, steps, seconds, tokens_per_s, peak_bytes })
}
