//! The loop that every supervised stage shares: micro-batches dealt to the ranks, accumulation, clipping, AdamW, validation and early
//! stopping, checkpoints to go on from. What differs is a [`Task`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checkpoints::{Checkpoints, Content, Piece};
use crate::batch::Order;
use crate::checkpoint::{self, Named, Storage, Tensors};
use crate::comm::{Group, Shared};
use crate::device::Device;
use crate::device::cards::Card;
use crate::device::record::{Kind, span};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::model::{Config, OnLayer};
use crate::optim::{Hyper, LearningRate, Optimizer, Sum, deal};
use crate::recipe::{Schedule, Train};
use crate::rng;
use crate::telemetry::{Metrics, Progress, detail, interrupt, note, words};
use crate::weights::{Grads, Param, Trained};

/// What a stage trains.
pub trait Task<D: Device> {
    /// The trained parameters, always in the same order.
    fn params(&mut self) -> Vec<&mut Param<D>>;
    /// What a record counts in the loss's denominator: its trained tokens, or 1 for a pair.
    fn weight(&self, record: usize) -> f64;
    /// Tokens of a record that are computed.
    fn tokens(&self, record: usize) -> usize;
    /// Operations of the matrix products that a model's forward and backward pass need for a record ([`products`]), where that is
    /// known.
    fn products(&self, _record: usize) -> Option<f64> {
        None
    }
    /// The record's id.
    fn id(&self, record: usize) -> String;
    /// Forward and backward of a micro-batch: adds the gradient of `norm * sum of losses`, tells `on_layer` of each block that is
    /// finished, and returns the sum, to be read later. `dropout_key` is this micro-batch's own.
    fn micro(
        &mut self,
        device: &D,
        records: &[usize],
        norm: f64,
        dropout_key: u64,
        grads: &mut Grads<D>,
        on_layer: OnLayer<'_, D>,
    ) -> Result<Pending<D, f64>>;
    /// What a rank does that has no micro-batch while others have one: its part in bringing shared weights together.
    fn idle(&mut self, device: &D, grads: &mut Grads<D>, on_layer: OnLayer<'_, D>) -> Result<()>;
    /// Measures held-out data, spread over the ranks: the first number is the loss that early stopping watches. None where there is
    /// nothing to measure.
    fn validate(&mut self, device: &D, group: &Group) -> Result<Option<Vec<(&'static str, f64)>>>;
    /// The files of the result as it stands: an adapter's folder, or a model's. What is trained takes its values from `trained`.
    fn files(&self, device: &D, trained: &Trained) -> Result<Vec<Piece>>;
}

/// How a task is trained.
pub struct Plan {
    /// The stage's name in metrics and messages.
    pub name: &'static str,
    /// Which records make which step; its `accumulation` counts the micro-batches of a step over all ranks.
    pub order: Order,
    /// The learning rate after warm-up.
    pub schedule: Schedule,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of the steps that are warm-up.
    pub warmup_ratio: f64,
    /// AdamW's constants.
    pub hyper: Hyper,
    /// What is trained.
    pub train: Train,
    /// Steps between checkpoints; 0 saves only at an interrupt.
    pub checkpoint_every: usize,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// Epochs without a better validation before training stops.
    pub patience: Option<usize>,
    /// Seed of dropout.
    pub seed: u64,
    /// Where the result goes.
    pub result: PathBuf,
    /// Where checkpoints go.
    pub folder: PathBuf,
    /// `metrics.jsonl` of the run.
    pub metrics: PathBuf,
    /// What a checkpoint must agree with to be gone on from: settings and data.
    pub identity: String,
}

/// How training went. Shown as `300 steps, loss 0.3123`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Steps taken.
    pub steps: usize,
    /// The mean loss of the last step.
    pub loss: f64,
    /// The best validation loss and its epoch, from 1.
    pub best: Option<(usize, f64)>,
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, loss {:.4}", self.steps, self.loss)?;
        match self.best {
            Some((epoch, loss)) => write!(f, ", best validation loss {loss:.4} (epoch {epoch}, which is kept)"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    identity: String,
    step: usize,
    /// Ranks that saved it.
    ranks: usize,
    /// Micro-batches of a step: a run goes on with the steps that it began with, on however many ranks.
    micros: usize,
    best: Option<(usize, f64)>,
    loss: f64,
}

/// Micro-batches of a step over all ranks: what `global_batch` says, else so many on each.
pub fn micros(global_batch: Option<usize>, per_micro: usize, accumulation: usize, ranks: usize) -> usize {
    global_batch.map_or(accumulation * ranks, |sequences| sequences / per_micro)
}

/// Where the gradients of what is trained are summed up.
pub fn sum(train: Train) -> Sum {
    match train {
        Train::Lora => Sum::Whole,
        Train::Full => Sum::Shares,
    }
}

/// What one step did.
struct Step {
    loss: f64,
    grad_norm: f64,
    tokens: usize,
    /// Operations of the model's matrix products.
    products: Option<f64>,
}

/// Operations of the matrix products that a model's forward and backward pass need for a sequence of `tokens`, of which the
/// language-model head predicts `predicted`: two for each weight of the blocks and token, as many for the gradient at the inputs, and
/// where the weights are trained for theirs; attention's four for each pair of tokens and column, and eight backward. Nothing that is
/// computed again is counted, and no adapter: what the PaLM paper (appendix B) calls the model's FLOPs.
pub fn products(config: &Config, tokens: usize, predicted: usize, train: Train) -> f64 {
    let (heads, hidden) = (config.heads, config.hidden);
    let block = hidden * (heads.qkv_width() + heads.q_width() + 3 * config.intermediate);
    let maps = (config.layers * block) as f64 * tokens as f64 + (hidden * config.vocab) as f64 * predicted as f64;
    let pairs = tokens as f64 * (tokens + 1) as f64 / 2.0;
    let passes = match train {
        Train::Lora => 2.0,
        Train::Full => 3.0,
    };
    2.0 * passes * maps + 12.0 * (config.layers * heads.q_width()) as f64 * pairs
}

/// A task with its gradients and its optimizer.
struct Fit<'a, D: Device> {
    device: &'a D,
    task: &'a mut dyn Task<D>,
    plan: &'a Plan,
    order: Order,
    rate: LearningRate,
    grads: Grads<D>,
    optimizer: Optimizer<D>,
    checkpoints: Checkpoints,
    state: State,
}

/// Trains to the end, or to an interrupt, after which the same call goes on with the same bits. The last checkpoints stay, since
/// the stage may have more to do that can fail; the runner removes them when the stage is done.
pub fn fit<D: Device>(device: &D, comm: &Shared<D>, task: &mut dyn Task<D>, plan: &Plan) -> Result<Fitted> {
    let group = comm.group();
    let mut fit = Fit::new(device, comm, task, plan)?;
    let keep = fit.resume(group)?;
    let trained = fit.run(group, keep);
    // Ranks that come out for a reason that all of them share finish what is under way; a rank that fails alone cannot.
    let together = matches!(trained, Ok(_) | Err(Error::Interrupted | Error::NonFinite { .. })) || group.ranks() == 1;
    let finished = if together { fit.checkpoints.finish(group) } else { Ok(()) };
    let fitted = trained?;
    finished?;
    if fit.state.best.is_none() {
        fit.save(group)?;
    }
    // Whoever reads the result next finds it whole.
    group.any("saved", false)?;
    Ok(fitted)
}

/// The first steps of [`fit`], as many as there are up to `steps`, without any file: `after` is told of each.
pub fn first_steps<D: Device>(
    device: &D,
    comm: &Shared<D>,
    task: &mut dyn Task<D>,
    plan: &Plan,
    steps: usize,
    after: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut fit = Fit::new(device, comm, task, plan)?;
    for step in 0..steps.min(fit.order.steps()) {
        let lr = fit.rate.at(step);
        fit.step(comm.group(), lr)?;
        after(step)?;
    }
    Ok(())
}

impl<'a, D: Device> Fit<'a, D> {
    fn new(device: &'a D, comm: &Shared<D>, task: &'a mut dyn Task<D>, plan: &'a Plan) -> Result<Self> {
        let (optimizer, grads) = Optimizer::new(device, comm, &mut task.params(), plan.hyper, sum(plan.train))?;
        let checkpoints = Checkpoints::open(&plan.folder, plan.keep);
        let order = plan.order.clone();
        // The loss is a number even before the first step: that is when an interrupt may save it, and JSON has no NaN.
        let (identity, ranks, micros) = (plan.identity.clone(), comm.group().ranks(), order.accumulation);
        let state = State { identity, step: 0, ranks, micros, best: None, loss: 0.0 };
        let rate = LearningRate::new(plan.schedule, plan.learning_rate, plan.warmup_ratio, order.steps());
        Ok(Fit { device, task, plan, order, rate, grads, optimizer, checkpoints, state })
    }

    /// Goes on from the newest whole checkpoint of these settings and data, if there is one; returns its step.
    fn resume(&mut self, group: &Group) -> Result<Option<u64>> {
        let Some((_, folder)) = self.checkpoints.latest(group)? else { return Ok(None) };
        let (name, path) = (self.plan.name, folder.join("state.json"));
        let state: State = serde_json::from_value(checkpoint::read_json(&path)?).map_err(|e| Error::input(path.display(), e))?;
        if state.identity != self.plan.identity {
            note(&format!("{name}: {} belongs to other settings or data; starting anew", folder.display()));
            self.checkpoints.clear(group)?;
            return Ok(None);
        }
        let saved = open_states(&folder, state.ranks)?;
        self.optimizer.restore(self.device, &mut self.task.params(), state.step as u64, "", &saved)?;
        self.order.accumulation = state.micros;
        let (plan, steps) = (self.plan, self.order.steps());
        self.rate = LearningRate::new(plan.schedule, plan.learning_rate, plan.warmup_ratio, steps);
        note(&format!("{name}: going on from step {} of {steps}", state.step));
        self.state = State { ranks: group.ranks(), ..state };
        Ok(Some(self.state.step as u64))
    }

    fn run(&mut self, group: &Group, keep: Option<u64>) -> Result<Fitted> {
        let plan = self.plan;
        let mut metrics = if group.is_first() { Some(Metrics::open(&plan.metrics, plan.name, keep)?) } else { None };
        self.describe(group);
        // Cards are known by their rates in bf16.
        let card = Card::of_driver(&self.device.name()).filter(|_| size_of::<D::Act>() == 2);
        let peak = card.map(|card| card.tensor_flops * group.ranks() as f64);
        let progress = Progress::new(plan.name, self.order.steps() as u64).counting("steps");
        let progress = progress.going_on_from(self.state.step as u64);
        while self.state.step < self.order.steps() {
            let [stop, written] = self.agree(group)?;
            if stop {
                sync(&mut metrics)?;
                self.store(group)?;
                return Err(Error::Interrupted);
            }
            if written && self.checkpoints.under_way() {
                self.checkpoints.finish(group)?;
            }
            let started = Instant::now();
            let lr = self.rate.at(self.state.step);
            let Step { loss, grad_norm, tokens, products } = self.step(group, lr)?;
            let seconds = started.elapsed().as_secs_f64();
            let rate = tokens as f64 / seconds;
            let mut fields = vec![
                ("epoch", json!(self.state.step as f64 / self.order.steps_per_epoch() as f64)),
                ("tokens", json!(tokens)),
                ("loss", json!(loss)),
                ("lr", json!(lr)),
                ("grad_norm", json!(grad_norm)),
                ("seconds", json!(seconds)),
                ("tokens_per_s", json!(rate)),
            ];
            if let (Some(products), Some(peak)) = (products, peak) {
                fields.push(("mfu", json!(products / (seconds * peak))));
            }
            let mut enough = false;
            if self.state.step.is_multiple_of(self.order.steps_per_epoch()) {
                enough = self.end_epoch(group, &progress, &mut fields)?;
            }
            if let Some(metrics) = &mut metrics {
                metrics.write(self.state.step as u64, &fields)?;
            }
            let speed = words::rate(rate, "tokens");
            progress.set(self.state.step as u64, &format!("{speed}, loss {loss:.4}, lr {lr:.2e}"));
            if enough {
                break;
            }
            let due = plan.checkpoint_every > 0 && self.state.step.is_multiple_of(plan.checkpoint_every);
            if due && self.state.step < self.order.steps() {
                sync(&mut metrics)?;
                self.store(group)?;
            }
        }
        progress.finish("");
        Ok(Fitted { steps: self.state.step, loss: self.state.loss, best: self.state.best })
    }

    /// Tells what is trained on what.
    fn describe(&mut self, group: &Group) {
        let name = self.plan.name;
        let order = &self.order;
        let tokens: Vec<usize> = (0..order.count).map(|record| self.task.tokens(record)).collect();
        detail(|| {
            let trained: usize = self.task.params().iter().map(|param| param.elements()).sum();
            format!("{name}: {trained} parameters are trained, on {} rank(s)", group.ranks())
        });
        detail(|| {
            let (all, longest) = (tokens.iter().sum::<usize>(), tokens.iter().max().copied().unwrap_or(0));
            format!("{name}: {} records, {all} tokens, the longest {longest}", order.count)
        });
        detail(|| {
            let (per_micro, micros, epochs) = (order.per_micro, order.accumulation, order.epochs);
            format!(
                "{name}: {} steps in {epochs} epoch(s), each of {micros} packed batch(es) of {per_micro} record(s)",
                order.steps()
            )
        });
    }

    /// What all ranks have to see alike before a step: whether one was asked to stop, and whether all parts of the checkpoint under
    /// way are written.
    fn agree(&self, group: &Group) -> Result<[bool; 2]> {
        let here = vec![u8::from(interrupt::requested()), u8::from(self.checkpoints.written())];
        let all = group.exchange("step", here)?;
        Ok([all.iter().any(|bytes| bytes[0] == 1), all.iter().all(|bytes| bytes[1] == 1)])
    }

    /// One optimizer step.
    fn step(&mut self, group: &Group, lr: f64) -> Result<Step> {
        let (device, plan) = (self.device, self.plan);
        let _step = span(device, Kind::Step, "step");
        let micros = self.order.step(self.state.step);
        let records: Vec<usize> = micros.iter().flatten().copied().collect();
        let weight: f64 = records.iter().map(|record| self.task.weight(*record)).sum();
        self.optimizer.clear(device, &mut self.grads)?;
        let own: Vec<usize> = deal(micros.len(), group.ranks(), group.rank()).collect();
        let rounds = micros.len().div_ceil(group.ranks());
        let mut losses = Vec::with_capacity(own.len());
        for round in 0..rounds {
            let (task, last) = (&mut *self.task, round + 1 == rounds);
            let Some(&index) = own.get(round) else {
                self.optimizer.backward(device, &mut self.grads, last, |grads, on_layer| task.idle(device, grads, on_layer))?;
                continue;
            };
            let key = rng::key(plan.seed, "dropout", (self.state.step * self.order.accumulation + index) as u64);
            losses.push(self.optimizer.backward(device, &mut self.grads, last, |grads, on_layer| {
                task.micro(device, &micros[index], 1.0 / weight, key, grads, on_layer)
            })?);
        }
        let not_finite = |what: String| {
            let records = records.iter().map(|record| self.task.id(*record)).collect();
            Error::NonFinite { at: format!("{} step {}", plan.name, self.state.step + 1), what, records }
        };
        let measuring = span(device, Kind::Phase, "measure");
        let (squares, losses) = self.optimizer.measure(device, &self.grads, &losses)?;
        drop(measuring);
        let sum: f64 = losses.iter().sum();
        if !sum.is_finite() {
            return Err(not_finite("the loss".into()));
        }
        let grad_norm = squares.norm(&self.grads).map_err(|error| match error {
            Error::NonFinite { what, .. } => not_finite(what),
            other => other,
        })?;
        let updating = span(device, Kind::Phase, "update");
        self.optimizer.update(device, &mut self.task.params(), &self.grads, grad_norm, lr)?;
        drop(updating);
        self.state.step += 1;
        self.state.loss = sum / weight;
        let tokens = records.iter().map(|record| self.task.tokens(*record)).sum();
        let products = records.iter().map(|record| self.task.products(*record)).sum();
        Ok(Step { loss: self.state.loss, grad_norm, tokens, products })
    }

    /// Validates; keeps the result if it is the best so far; says whether patience has run out.
    fn end_epoch(&mut self, group: &Group, progress: &Progress, fields: &mut Vec<(&'static str, Value)>) -> Result<bool> {
        let epoch = self.state.step / self.order.steps_per_epoch();
        progress.tell("validating");
        let Some(measured) = self.task.validate(self.device, group)? else { return Ok(false) };
        fields.extend(measured.iter().map(|(name, value)| (*name, json!(value))));
        let loss = measured[0].1;
        let shown: Vec<String> = measured.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        note(&format!("{}: epoch {epoch}: {}", self.plan.name, shown.join(", ")));
        if loss.is_finite() && self.state.best.is_none_or(|(_, best)| loss < best) {
            self.state.best = Some((epoch, loss));
            self.save(group)?;
        }
        let since = epoch - self.state.best.map_or(0, |(best, _)| best);
        Ok(self.plan.patience.is_some_and(|patience| since >= patience.max(1)))
    }

    /// Writes the result as it stands.
    fn save(&mut self, group: &Group) -> Result<()> {
        match self.optimizer.masters(self.device, &self.task.params())? {
            Some(trained) if group.is_first() => write(&self.plan.result, &self.task.files(self.device, &trained)?),
            _ => Ok(()),
        }
    }

    /// Starts a checkpoint: this rank's share of the optimizer's state, and from the first rank the adapter and where training is.
    fn store(&mut self, group: &Group) -> Result<()> {
        let mut pieces = vec![state_piece(group, self.optimizer.save(self.device, &self.task.params(), "")?)];
        if self.plan.train == Train::Lora
            && let Some(trained) = self.optimizer.masters(self.device, &self.task.params())?
        {
            pieces.extend(self.task.files(self.device, &trained)?);
        }
        if group.is_first() {
            pieces.push(Piece { name: "state.json".into(), content: Content::Json(json!(self.state)) });
        }
        self.checkpoints.start(group, self.state.step, pieces)
    }
}

/// Metrics are on disk before a checkpoint that counts on them.
pub(super) fn sync(metrics: &mut Option<Metrics>) -> Result<()> {
    metrics.as_mut().map_or(Ok(()), Metrics::sync)
}

impl Piece {
    /// An adapter's folder, of [`Adapter::peft`](crate::model::Adapter::peft).
    pub(super) fn adapter((tensors, config): (Vec<Named>, Value)) -> [Piece; 2] {
        let tensors = Content::Tensors(tensors, Storage::F32);
        [("adapter_model.safetensors", tensors), ("adapter_config.json", Content::Json(config))]
            .map(|(name, content)| Piece { name: name.into(), content })
    }

    /// A model's folder.
    pub(super) fn model(tensors: Vec<Named>, config: Value, storage: Storage) -> [Piece; 2] {
        let tensors = Content::Tensors(tensors, storage);
        [("model.safetensors", tensors), ("config.json", Content::Json(config))]
            .map(|(name, content)| Piece { name: name.into(), content })
    }

    /// The same in a folder of this name.
    pub(super) fn under(self, folder: &str) -> Piece {
        Piece { name: format!("{folder}/{}", self.name), ..self }
    }
}

/// Writes files into a folder, each atomically.
pub(super) fn write(folder: &Path, pieces: &[Piece]) -> Result<()> {
    for Piece { name, content } in pieces {
        let path = folder.join(name);
        match content {
            Content::Tensors(tensors, storage) => checkpoint::write_tensors(&path, tensors, *storage)?,
            Content::Json(value) => checkpoint::write_json(&path, value)?,
        }
    }
    Ok(())
}

fn state_name(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

/// A rank's share of optimizers' states as a file.
pub(super) fn state_piece(group: &Group, tensors: Vec<Named>) -> Piece {
    Piece { name: state_name(group.rank(), group.ranks()), content: Content::Tensors(tensors, Storage::F32) }
}

/// The shares that `ranks` ranks saved.
pub(super) fn open_states(folder: &Path, ranks: usize) -> Result<Vec<Tensors>> {
    (0..ranks).map(|rank| Tensors::open_files(&[folder.join(state_name(rank, ranks))])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Heads;
    use crate::model::Architecture;

    /// One layer of width 2 with one head of 2, an MLP of 5 and 7 ids. Maps: 2 (6 + 2 + 15) = 46 weights, and 14 of the head.
    #[test]
    fn products_are_those_of_the_model() {
        let config = Config {
            architecture: Architecture::Llama,
            vocab: 7,
            hidden: 2,
            intermediate: 5,
            layers: 1,
            heads: Heads { q: 1, kv: 1, dim: 2 },
            rope_theta: 1e4,
            eps: 1e-6,
            qkv_bias: false,
            tied: false,
            max_positions: 16,
            classifier: false,
            eos: Vec::new(),
            bos: None,
        };
        // Three tokens are six pairs. Forward 2 * (46 * 3 + 14) + 4 * 2 * 6, and backward as much and 8 * 2 * 6.
        assert_eq!(products(&config, 3, 1, Train::Lora), (304 + 48 + 304 + 96) as f64);
        assert_eq!(products(&config, 3, 1, Train::Full), (304 + 48 + 608 + 96) as f64);
    }
}
