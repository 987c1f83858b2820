//! The loop that every supervised stage shares: micro-batches, accumulation, clipping, AdamW, validation and early stopping,
//! checkpoints to go on from. What differs is a [`Task`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch::Order;
use crate::checkpoint::{self, Named, Storage, Tensors};
use crate::device::{Device, Real};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::optim::{Hyper, LearningRate, Optimizer};
use crate::rng;
use crate::telemetry::{Metrics, Progress, interrupt, note};
use crate::weights::{Grads, Param};

/// What a stage trains.
pub trait Task<D: Device> {
    /// The trained parameters, always in the same order.
    fn params(&mut self) -> Vec<&mut Param<D>>;
    /// What a record counts in the loss's denominator: its trained tokens, or 1 for a pair.
    fn weight(&self, record: usize) -> f64;
    /// Tokens of a record that are computed.
    fn tokens(&self, record: usize) -> usize;
    /// The record's id.
    fn id(&self, record: usize) -> String;
    /// Forward and backward of a micro-batch: adds the gradient of `norm * sum of losses` and returns the sum, to be read later. `dropout_key` is
    /// this micro-batch's own.
    fn micro(
        &mut self,
        device: &D,
        records: &[usize],
        norm: f64,
        dropout_key: u64,
        grads: &mut Grads<D>,
    ) -> Result<Pending<D, f64>>;
    /// Measures held-out data: the first number is the loss that early stopping watches. None where there is nothing to measure.
    fn validate(&mut self, device: &D) -> Result<Option<Vec<(&'static str, f64)>>>;
    /// Writes the result as it stands.
    fn save(&self, device: &D, folder: &Path) -> Result<()>;
}

/// How a task is trained.
pub struct Plan {
    /// The stage's name in metrics and messages.
    pub name: &'static str,
    /// Which records make which step.
    pub order: Order,
    /// The learning rate of each step.
    pub rate: LearningRate,
    /// AdamW's constants.
    pub hyper: Hyper,
    /// Steps between checkpoints; 0 saves only at an interrupt.
    pub checkpoint_every: usize,
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

/// How training went.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Steps taken.
    pub steps: usize,
    /// The mean loss of the last step.
    pub loss: f64,
    /// The best validation loss and its epoch, from 1.
    pub best: Option<(usize, f64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    identity: String,
    step: usize,
    best: Option<(usize, f64)>,
    loss: f64,
}

/// Trains to the end, or to an interrupt, after which the same call goes on with the same bits. The last checkpoint stays, since
/// the stage may have more to do that can fail; the runner removes it when the stage is done.
pub fn fit<D: Device>(device: &D, task: &mut dyn Task<D>, plan: &Plan) -> Result<Fitted> {
    let order = &plan.order;
    let mut grads = Grads::new(device, &mut task.params())?;
    let mut optimizer = Optimizer::new(device, &grads, plan.hyper)?;
    let resumed = resume(device, task, &mut optimizer, plan)?;
    if let Some(state) = &resumed {
        note(&format!("{}: going on from step {} of {}", plan.name, state.step, order.steps()));
    }
    let mut metrics = Metrics::open(&plan.metrics, plan.name, resumed.as_ref().map(|state| state.step as u64))?;
    // The loss is a number even before the first step: that is when an interrupt may save it, and JSON has no NaN.
    let mut state = resumed.unwrap_or_else(|| State { identity: plan.identity.clone(), step: 0, best: None, loss: 0.0 });
    let progress = Progress::new(plan.name, order.steps() as u64);
    while state.step < order.steps() {
        if interrupt::requested() {
            metrics.sync()?;
            store(device, task, &optimizer, plan, &state)?;
            return Err(Error::Interrupted);
        }
        let started = Instant::now();
        let micros = order.step(state.step);
        let records: Vec<usize> = micros.iter().flatten().copied().collect();
        let weight: f64 = records.iter().map(|record| task.weight(*record)).sum();
        let named = |task: &dyn Task<D>| records.iter().map(|record| task.id(*record)).collect::<Vec<_>>();
        grads.clear(device)?;
        let mut losses = Vec::with_capacity(micros.len());
        for (index, micro) in micros.iter().enumerate() {
            let key = rng::key(plan.seed, "dropout", (state.step * order.accumulation + index) as u64);
            losses.push(task.micro(device, micro, 1.0 / weight, key, &mut grads)?);
        }
        let at = || format!("{} step {}", plan.name, state.step + 1);
        let (squares, losses) = optimizer.measure(device, &grads, &losses)?;
        let sum: f64 = losses.iter().sum();
        if !sum.is_finite() {
            return Err(Error::NonFinite { at: at(), what: "the loss".into(), records: named(task) });
        }
        let grad_norm = squares.norm(&grads).map_err(|error| match error {
            Error::NonFinite { what, .. } => Error::NonFinite { at: at(), what, records: named(task) },
            other => other,
        })?;
        let lr = plan.rate.at(state.step);
        optimizer.update(device, &mut task.params(), &grads, grad_norm, lr)?;
        state.step += 1;
        state.loss = sum / weight;
        let tokens: usize = records.iter().map(|record| task.tokens(*record)).sum();
        let seconds = started.elapsed().as_secs_f64();
        let rate = tokens as f64 / seconds;
        let mut fields = vec![
            ("epoch", json!(state.step as f64 / order.steps_per_epoch() as f64)),
            ("tokens", json!(tokens)),
            ("loss", json!(state.loss)),
            ("lr", json!(lr)),
            ("grad_norm", json!(grad_norm)),
            ("seconds", json!(seconds)),
            ("tokens_per_s", json!(rate)),
        ];
        let mut enough = false;
        if state.step.is_multiple_of(order.steps_per_epoch()) {
            enough = end_epoch(device, task, plan, &mut state, &mut fields)?;
        }
        metrics.write(state.step as u64, &fields)?;
        progress.set(state.step as u64, &format!("loss {:.4} lr {lr:.2e} {rate:.0} tokens/s", state.loss));
        if enough {
            break;
        }
        if plan.checkpoint_every > 0 && state.step.is_multiple_of(plan.checkpoint_every) && state.step < order.steps() {
            metrics.sync()?;
            store(device, task, &optimizer, plan, &state)?;
        }
    }
    progress.finish(&format!("loss {:.4}", state.loss));
    if state.best.is_none() {
        task.save(device, &plan.result)?;
    }
    Ok(Fitted { steps: state.step, loss: state.loss, best: state.best })
}

/// Validates; keeps the result if it is the best so far; says whether patience has run out.
fn end_epoch<D: Device>(
    device: &D,
    task: &mut dyn Task<D>,
    plan: &Plan,
    state: &mut State,
    fields: &mut Vec<(&'static str, Value)>,
) -> Result<bool> {
    let epoch = state.step / plan.order.steps_per_epoch();
    let Some(measured) = task.validate(device)? else { return Ok(false) };
    fields.extend(measured.iter().map(|(name, value)| (*name, json!(value))));
    let loss = measured[0].1;
    let shown: Vec<String> = measured.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    note(&format!("{}: epoch {epoch}: {}", plan.name, shown.join(", ")));
    if loss.is_finite() && state.best.is_none_or(|(_, best)| loss < best) {
        state.best = Some((epoch, loss));
        task.save(device, &plan.result)?;
    }
    let since = epoch - state.best.map_or(0, |(best, _)| best);
    Ok(plan.patience.is_some_and(|patience| since >= patience.max(1)))
}

/// Checkpoints of a folder by step, the newest last.
pub(super) fn checkpoints(folder: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let parse = |entry: fs::DirEntry| {
        let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        Some((step, entry.path()))
    };
    let mut found: Vec<(usize, PathBuf)> = entries.filter_map(parse).collect();
    found.sort();
    found
}

fn store<D: Device>(device: &D, task: &mut dyn Task<D>, optimizer: &Optimizer<D>, plan: &Plan, state: &State) -> Result<()> {
    let name = format!("checkpoint-{}", state.step);
    let (partial, whole) = (plan.folder.join(format!(".{name}")), plan.folder.join(&name));
    if whole.exists() {
        return Ok(());
    }
    save_state(device, &partial, &task.params(), optimizer)?;
    checkpoint::write_json(&partial.join("state.json"), &json!(state))?;
    publish(&plan.folder, &partial, &whole)
}

/// Removes every checkpoint: they belong to other settings or data.
pub(super) fn clear(folder: &Path) -> Result<()> {
    for (_, checkpoint) in checkpoints(folder) {
        fs::remove_dir_all(&checkpoint).map_err(|e| Error::io(checkpoint, e))?;
    }
    Ok(())
}

/// Makes a written checkpoint the current one, and removes the older ones.
pub(super) fn publish(folder: &Path, partial: &Path, whole: &Path) -> Result<()> {
    let older = checkpoints(folder);
    fs::rename(partial, whole).map_err(|e| Error::io(whole, e))?;
    for (_, folder) in older {
        fs::remove_dir_all(&folder).map_err(|e| Error::io(folder, e))?;
    }
    Ok(())
}

fn resume<D: Device>(device: &D, task: &mut dyn Task<D>, optimizer: &mut Optimizer<D>, plan: &Plan) -> Result<Option<State>> {
    let Some((_, folder)) = checkpoints(&plan.folder).pop() else { return Ok(None) };
    let path = folder.join("state.json");
    let state: State = serde_json::from_value(checkpoint::read_json(&path)?).map_err(|e| Error::input(path.display(), e))?;
    if state.identity != plan.identity {
        note(&format!("{}: {} belongs to other settings or data; starting anew", plan.name, folder.display()));
        clear(&plan.folder)?;
        return Ok(None);
    }
    load_state(device, &folder, &mut task.params(), optimizer, state.step as u64)?;
    Ok(Some(state))
}

/// Writes masters and moments, exactly, as `<slot>.master`, `<slot>.m`, `<slot>.v`.
pub fn save_state<D: Device>(device: &D, folder: &Path, params: &[&mut Param<D>], optimizer: &Optimizer<D>) -> Result<()> {
    let mut tensors = Vec::new();
    let floats = |values: Vec<D::Acc>| values.iter().map(|x| x.f64() as f32).collect::<Vec<f32>>();
    for (slot, (param, [m, v])) in params.iter().zip(optimizer.moments(device)?).enumerate() {
        let master = param.master.as_ref().expect("a trained parameter has a master");
        for (name, values) in [("master", device.download(master)?), ("m", m), ("v", v)] {
            tensors.push(Named { name: format!("{slot}.{name}"), shape: vec![values.len()], values: floats(values) });
        }
    }
    checkpoint::write_tensors(&folder.join("state.safetensors"), &tensors, Storage::F32)
}

/// Reads what [`save_state`] wrote, after `steps` optimizer steps.
pub fn load_state<D: Device>(
    device: &D,
    folder: &Path,
    params: &mut [&mut Param<D>],
    optimizer: &mut Optimizer<D>,
    steps: u64,
) -> Result<()> {
    let tensors = Tensors::open_files(&[folder.join("state.safetensors")])?;
    let mut moments = Vec::new();
    for (slot, param) in params.iter_mut().enumerate() {
        let read = |name: &str| tensors.read::<D::Acc>(&format!("{slot}.{name}"), &[param.elements()]);
        let (master, m, v) = (read("master")?, read("m")?, read("v")?);
        param.write(device, &master)?;
        moments.push([m, v]);
    }
    optimizer.restore(device, steps, &moments)
}
