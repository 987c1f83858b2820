//! `manifest.json`: what a run folder holds and where it came from.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::STAGES;
use crate::error::{Error, Result};
use crate::record::write_atomic;

/// Paths and the SHA-256 of each.
pub type Hashed = BTreeMap<String, String>;

/// The manifest of a run folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version at the last start.
    pub version: String,
    /// The recipe at the last start, as TOML with every key.
    pub recipe: String,
    /// The device of the last start.
    pub device: String,
    /// The stages that were started, in the order they run.
    pub stages: Vec<Record>,
}

/// How a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs, or its process was killed.
    Running,
    /// Its outputs are complete.
    Done,
    /// It ended with an error.
    Failed,
    /// The user stopped it; it goes on from its checkpoint.
    Interrupted,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// One of [`STAGES`].
    pub name: String,
    /// How it stands.
    pub state: State,
    /// Wall-clock seconds, over all the attempts that led here.
    pub seconds: f64,
    /// Where it ran.
    pub device: String,
    /// The program that ran it.
    pub version: String,
    /// What it read.
    pub inputs: Hashed,
    /// What it wrote; empty until it is done.
    pub outputs: Hashed,
    /// The recipe's sections that it depends on.
    pub settings: Value,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Manifest {
    /// Reads a manifest; one that does not exist is empty.
    pub fn read(path: &Path) -> Result<Manifest> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| Error::line(path, e.line(), format!("not a manifest: {e}; move the file away to start anew"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::default()),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    /// What is known of a stage.
    pub fn stage(&self, name: &str) -> Option<&Record> {
        self.stages.iter().find(|record| record.name == name)
    }

    /// Adds a stage's record, or replaces it.
    pub(super) fn put(&mut self, record: Record) {
        self.stages.retain(|other| other.name != record.name);
        self.stages.push(record);
        self.stages.sort_by_key(|record| STAGES.iter().position(|name| *name == record.name));
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::io(path, e.into()))?;
        text.push(b'\n');
        write_atomic(path, &text)
    }
}
