//! What a run folder holds, as far as it has come: a report reads all of it and needs none of it.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::models::{Compared, optional};
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::record::{Candidate, HeldOut, Problem, Trace, Usage};
use crate::run::Manifest;
use crate::stage::Files;

/// An answer of the teacher, of `teacher.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Paid {
    /// `trace`, `compare` or `rank`.
    pub purpose: String,
    #[serde(default)]
    pub usage: Usage,
    /// Whether it came in a batch, at half the price.
    #[serde(default)]
    pub batch: bool,
}

/// A reading of a GPU, of `gpu.jsonl`. What the GPU does not tell is left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Reading {
    /// Unix seconds.
    pub time: f64,
    /// Which of the machine's.
    #[serde(default)]
    pub gpu: usize,
    /// Share of the time in which a kernel ran.
    #[serde(default)]
    pub utilization: Option<f64>,
    #[serde(default)]
    pub memory_bytes: Option<f64>,
    #[serde(default)]
    pub power_w: Option<f64>,
}

/// The records of a file that grows line by line. A process that was killed, or a full disk, leaves half a line, and others may have
/// been appended to it since: what is no record is left out.
fn appended<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// A run folder's files.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub manifest: Manifest,
    pub problems: Vec<Problem>,
    /// Problems that were left out.
    pub dropped: usize,
    pub traces: Vec<Trace>,
    /// Conversations to train on, if they were chosen.
    pub trained: Option<usize>,
    pub candidates: Vec<Candidate>,
    pub judging: Option<Value>,
    pub held_out: Vec<HeldOut>,
    pub metrics: Vec<Value>,
    pub paid: Vec<Paid>,
    pub gpu: Vec<Reading>,
    pub compared: Option<Compared>,
}

impl Folder {
    /// Reads what is there. Errors: nothing is; a file that is no such file.
    pub fn read(recipe: &Recipe) -> Result<Folder> {
        let files = Files::of(recipe);
        let count = |path| Ok::<usize, Error>(optional::<Value>(path)?.len());
        let folder = Folder {
            manifest: Manifest::read(&files.manifest())?,
            problems: optional(&files.problems())?,
            dropped: count(&files.dropped())?,
            traces: optional(&files.traces())?,
            trained: if files.sft().exists() { Some(count(&files.sft())?) } else { None },
            candidates: optional(&files.candidates())?,
            judging: if files.judging().exists() { Some(read_json(&files.judging())?) } else { None },
            held_out: optional(&files.reward_validation())?,
            metrics: appended(&files.metrics())?,
            paid: appended(&files.journal())?,
            gpu: appended(&files.gpu())?,
            // Other runs' models have to be compared with something.
            compared: match files.summary().exists() || !recipe.report.beside.is_empty() {
                true => Some(Compared::read(recipe)?),
                false => None,
            },
        };
        let nothing = folder.problems.is_empty() && folder.metrics.is_empty() && folder.compared.is_none();
        if nothing {
            return Err(Error::input(recipe.out.display(), "nothing to report yet: no stage has written here"));
        }
        Ok(folder)
    }

    /// The lines that a stage wrote into `metrics.jsonl`, in order.
    pub fn metrics_of<'a>(&'a self, stage: &'a str) -> impl DoubleEndedIterator<Item = &'a Value> {
        self.metrics.iter().filter(move |line| line["stage"] == stage)
    }

    /// A field of a stage's lines over its steps. Where no line has it, there is no point; where a line lacks a number, a gap. With
    /// `sparse`, lines without the field are left out instead.
    pub fn curve(&self, stage: &str, field: &str, sparse: bool) -> Vec<(f64, Option<f64>)> {
        let point = |line: &Value| (line["step"].as_f64().unwrap_or(f64::NAN), line[field].as_f64());
        let points: Vec<(f64, Option<f64>)> =
            self.metrics_of(stage).filter(|line| !sparse || line[field].is_number()).map(point).collect();
        if points.iter().all(|(_, value)| value.is_none()) { Vec::new() } else { points }
    }

    /// A field of PPO's epochs: its mean in each iteration, and each epoch's value, spread over the step before the iteration's end.
    /// While the policy waits for the critic, what is measured on it is a gap: those epochs have a ratio of 0 and no entropy either.
    pub fn epochs(&self, field: &str) -> [Vec<(f64, Option<f64>)>; 2] {
        let (mut means, mut each) = (Vec::new(), Vec::new());
        for line in self.metrics_of("ppo") {
            let (step, epochs) = (line["step"].as_f64().unwrap_or(f64::NAN), line["epochs"].as_array());
            let waits = |epoch: &Value| field != "value_loss" && epoch["ratio"].as_f64() == Some(0.0);
            let value = |epoch: &Value| epoch[field].as_f64().filter(|_| !waits(epoch));
            let values: Vec<Option<f64>> = epochs.into_iter().flatten().map(value).collect();
            let known: Vec<f64> = values.iter().copied().flatten().collect();
            means.push((step, (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)));
            let place = |index: usize| step - 1.0 + (index + 1) as f64 / values.len() as f64;
            each.extend(values.iter().enumerate().map(|(index, value)| (place(index), *value)));
        }
        [means, each]
    }
}
