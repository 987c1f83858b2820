//! How the stages of a run folder stand. Nothing is run, and nothing is written.

use std::path::Path;

use super::hash::Hashes;
use super::{Manifest, StageSpec, State};
use crate::error::Result;

/// How a stage stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It never ran.
    New,
    /// It is done, and nothing that it depends on has changed.
    Done,
    /// It ended early, and goes on from its checkpoint.
    Unfinished,
    /// It is done or ended early, and would run again from its start.
    Again {
        /// What changed.
        why: String,
    },
}

/// How each stage stands in `folder`. Files whose hash is not remembered are read.
pub fn standing(folder: &Path, specs: &[StageSpec]) -> Result<Vec<Standing>> {
    let manifest = Manifest::read(&folder.join("manifest.json"))?;
    let mut hashes = Hashes::open(&folder.join(".hashes.json"));
    specs.iter().map(|spec| of(&manifest, &mut hashes, spec)).collect()
}

fn of(manifest: &Manifest, hashes: &mut Hashes, spec: &StageSpec) -> Result<Standing> {
    let again = |why: String| Ok(Standing::Again { why });
    let Some(record) = manifest.stage(spec.name) else { return Ok(Standing::New) };
    if record.settings != spec.settings {
        return again("its settings have changed".into());
    }
    if let Some(path) = spec.inputs.iter().find(|path| !path.exists()) {
        return again(format!("{} is gone", path.display()));
    }
    let inputs = hashes.of_all(&spec.inputs)?;
    if inputs != record.inputs {
        let changed = inputs.iter().find(|(path, hash)| record.inputs.get(*path) != Some(hash));
        return again(changed.map_or("it reads other files".into(), |(path, _)| format!("{path} has changed")));
    }
    if record.state != State::Done {
        return Ok(Standing::Unfinished);
    }
    match spec.outputs.iter().find(|path| !path.exists()) {
        Some(path) => again(format!("{} is gone", path.display())),
        None if hashes.of_all(&spec.outputs)? != record.outputs => again("what it wrote has changed".into()),
        None => Ok(Standing::Done),
    }
}
