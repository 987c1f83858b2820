//! `metrics.jsonl`: one object a line, for each step of a stage that trains.
//!
//! Every line has
//!
//! * `stage`: `pretrain`, `sft`, `reward` or `ppo`
//! * `step`: the optimizer step, from 1; of `ppo` the iteration
//! * `tokens`: tokens that the step computed, over all ranks; of `ppo` those of the responses
//! * `seconds`: what the step took, validation and checkpoints left out
//! * `tokens_per_s`: tokens by seconds
//! * `time`: when the line was written, in seconds since 1970; the last field
//!
//! The lines of `pretrain`, `sft` and `reward` have besides
//!
//! * `epoch`: epochs that are done, with their fraction
//! * `loss`: the step's mean loss, in nats: by trained token, or by pair
//! * `lr`: the learning rate that the step was taken with
//! * `grad_norm`: the gradient's 2-norm before it was clipped
//! * `mfu`: model FLOPs utilisation: the share of the GPUs' peak on dense bf16 that the products of the model's forward and backward
//!   pass took, each counted once. Only where the peak is known
//! * `validation_loss`, and of `reward` `accuracy` and `margin`: on held-out data, in the last line of an epoch
//!
//! The lines of `ppo` have besides
//!
//! * `score`, `reward`: the means of the reward model's raw score, and of what the last token was given
//! * `kl`: the mean over responses of `log p - log p_ref`, summed over their tokens, in nats
//! * `length`, `ended`: the responses' mean tokens, and the share of them that ended by themselves
//! * `explained_variance`: of the returns by the critic's values, before the epochs
//! * `sampler_drift`: the greatest difference between the sampler's log-probs and the training kernels'
//! * `lr`, `critic_lr`: the learning rates of policy and critic at the iteration's first update; the policy's is 0 while it waits for
//!   the critic
//! * `epochs`: a list with an object for each epoch over the batch: `policy_loss`, `ratio` (the mean of `p / p_old`), `kl_old` (the k3
//!   estimate of KL from the policy before the iteration), `clip_fraction`, `entropy`, `value_loss`, `grad_norm`, `critic_grad_norm`
//! * `ended_early`: whether the KL bound ended the epochs
//! * `rollout_seconds`: the part of `seconds` before the epochs
//!
//! A number that is not finite is null. A run that goes on from a checkpoint cuts the file back to it, so that no step is there twice.
//! The same numbers are in TensorBoard's event files, in the folder `tensorboard` beside the file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::tensorboard::Events;
use super::{detail, note, unix_time};
use crate::error::{Error, Result};
use crate::record::write_atomic;

/// The metrics of one stage, appended to the run's file and to TensorBoard's.
pub struct Metrics {
    path: PathBuf,
    stage: String,
    file: File,
    /// None once it could not be written: the numbers are in `metrics.jsonl`, and the next start writes it anew.
    events: Option<Events>,
}

impl Metrics {
    /// Opens `path` for `stage`. With `keep`, the step of the checkpoint that the stage goes on from, the lines of later steps are
    /// dropped: these steps come again. Without it the stage starts anew, and all that it wrote before goes. The lines of other
    /// stages always stay, wherever they are.
    pub fn open(path: &Path, stage: &str, keep: Option<u64>) -> Result<Metrics> {
        let fail = |e| Error::io(path, e);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(fail(e)),
        };
        // A killed process may have left half a line; nothing can be appended to that.
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let (mut kept, mut own) = (Vec::with_capacity(whole), Vec::new());
        for line in text[..whole].split_inclusive(|&b| b == b'\n') {
            match of_stage(line, stage) {
                None => kept.extend_from_slice(line),
                Some((step, fields)) if keep.is_some_and(|keep| step <= keep) => {
                    kept.extend_from_slice(line);
                    own.push(fields);
                }
                Some(_) => {}
            }
        }
        if kept.len() < text.len() {
            write_atomic(path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        let folder = path.with_file_name("tensorboard").join(stage);
        let events = Events::open(&folder, &own).inspect_err(|e| lost(&folder, stage, e)).ok();
        Ok(Metrics { path: path.into(), stage: stage.into(), file, events })
    }

    /// Appends `{"stage","step"}`, the fields in their order, and `time`. A number that is not finite is written as null.
    pub fn write(&mut self, step: u64, fields: &[(&str, Value)]) -> Result<()> {
        self.write_at(unix_time(), step, fields)
    }

    fn write_at(&mut self, time: f64, step: u64, fields: &[(&str, Value)]) -> Result<()> {
        let mut object = Map::new();
        object.insert("stage".into(), self.stage.as_str().into());
        object.insert("step".into(), step.into());
        object.extend(fields.iter().map(|(name, value)| (name.to_string(), value.clone())));
        object.insert("time".into(), time.into());
        let line = Value::Object(object);
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, e))?;
        if let (Some(events), Value::Object(object)) = (&mut self.events, &line)
            && let Err(e) = events.write(object)
        {
            lost(&self.path.with_file_name("tensorboard").join(&self.stage), &self.stage, &e);
            self.events = None;
        }
        detail(|| format!("{}: {}", self.stage, text.trim_end()));
        Ok(())
    }

    /// What was written is on disk when this returns: to be called before a checkpoint is stored.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// Says that there is no event file from now on. The run does not end for it.
fn lost(folder: &Path, stage: &str, error: &std::io::Error) {
    note(&format!("{stage}: {}: {error}; going on without TensorBoard's event file", folder.display()));
}

/// The step and the fields of a line of this stage; none for other lines.
fn of_stage(line: &[u8], stage: &str) -> Option<(u64, Map<String, Value>)> {
    match serde_json::from_slice(line).ok()? {
        Value::Object(fields) if fields.get("stage")? == stage => Some((fields.get("step")?.as_u64()?, fields)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/metrics.jsonl");
        let mut metrics = Metrics::open(&path, "sft", None).unwrap();
        metrics.write_at(7.5, 1, &[("loss", 0.5.into()), ("lr", f64::NAN.into())]).unwrap();
        metrics.sync().unwrap();
        metrics.write_at(8.0, 2, &[("loss", 0.25.into())]).unwrap();
        drop(metrics);
        // As a killed process leaves it.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"stage\":\"sf").unwrap();
        let mut metrics = Metrics::open(&path, "sft", Some(1)).unwrap();
        metrics.write_at(9.0, 2, &[("loss", 0.125.into())]).unwrap();
        let expected = "{\"stage\":\"sft\",\"step\":1,\"loss\":0.5,\"lr\":null,\"time\":7.5}\n{\"stage\":\"sft\",\"step\":2,\"loss\":0.125,\"time\":9.0}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_stage_drops_its_own_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        Metrics::open(&path, "sft", None).unwrap().write_at(0.0, 1, &[]).unwrap();
        Metrics::open(&path, "ppo", None).unwrap().write_at(0.0, 1, &[]).unwrap();
        Metrics::open(&path, "sft", None).unwrap().write_at(0.0, 5, &[]).unwrap();
        let expected = "{\"stage\":\"ppo\",\"step\":1,\"time\":0.0}\n{\"stage\":\"sft\",\"step\":5,\"time\":0.0}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        // One that goes on drops only what it will write again, wherever that stands.
        Metrics::open(&path, "ppo", Some(1)).unwrap().write_at(0.0, 2, &[]).unwrap();
        Metrics::open(&path, "sft", Some(4)).unwrap();
        let expected = "{\"stage\":\"ppo\",\"step\":1,\"time\":0.0}\n{\"stage\":\"ppo\",\"step\":2,\"time\":0.0}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn an_event_file_that_cannot_be_written_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(folder.path().join("tensorboard"), "in the way").unwrap();
        Metrics::open(&path, "sft", None).unwrap().write_at(0.0, 1, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"stage\":\"sft\",\"step\":1,\"time\":0.0}\n");
    }
}
