//! `metrics.jsonl`: one object a line, `{"stage","step",...}`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::record::write_atomic;

/// The metrics of one stage, appended to the run's file.
pub struct Metrics {
    path: PathBuf,
    stage: String,
    file: File,
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
        let kept: Vec<u8> = text[..whole]
            .split_inclusive(|&b| b == b'\n')
            .filter(|line| step(line, stage).is_none_or(|step| keep.is_some_and(|keep| step <= keep)))
            .flatten()
            .copied()
            .collect();
        if kept.len() < text.len() {
            write_atomic(path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        Ok(Metrics { path: path.into(), stage: stage.into(), file })
    }

    /// Appends `{"stage","step"}` and the fields, in their order. A number that is not finite is written as null.
    pub fn write(&mut self, step: u64, fields: &[(&str, Value)]) -> Result<()> {
        let mut object = Map::new();
        object.insert("stage".into(), self.stage.as_str().into());
        object.insert("step".into(), step.into());
        object.extend(fields.iter().map(|(name, value)| (name.to_string(), value.clone())));
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }

    /// What was written is on disk when this returns: to be called before a checkpoint is stored.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// The step of a line of this stage; none for other lines.
fn step(line: &[u8], stage: &str) -> Option<u64> {
    let value: Value = serde_json::from_slice(line).ok()?;
    if value["stage"] == stage { value["step"].as_u64() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/metrics.jsonl");
        let mut metrics = Metrics::open(&path, "sft", None).unwrap();
        metrics.write(1, &[("loss", 0.5.into()), ("lr", f64::NAN.into())]).unwrap();
        metrics.sync().unwrap();
        metrics.write(2, &[("loss", 0.25.into())]).unwrap();
        drop(metrics);
        // As a killed process leaves it.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"stage\":\"sf").unwrap();
        let mut metrics = Metrics::open(&path, "sft", Some(1)).unwrap();
        metrics.write(2, &[("loss", 0.125.into())]).unwrap();
        let expected = "{\"stage\":\"sft\",\"step\":1,\"loss\":0.5,\"lr\":null}\n{\"stage\":\"sft\",\"step\":2,\"loss\":0.125}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_stage_drops_its_own_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        Metrics::open(&path, "sft", None).unwrap().write(1, &[]).unwrap();
        Metrics::open(&path, "ppo", None).unwrap().write(1, &[]).unwrap();
        Metrics::open(&path, "sft", None).unwrap().write(5, &[]).unwrap();
        let expected = "{\"stage\":\"ppo\",\"step\":1}\n{\"stage\":\"sft\",\"step\":5}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        // One that goes on drops only what it will write again, wherever that stands.
        Metrics::open(&path, "ppo", Some(1)).unwrap().write(2, &[]).unwrap();
        Metrics::open(&path, "sft", Some(4)).unwrap();
        let expected = "{\"stage\":\"ppo\",\"step\":1}\n{\"stage\":\"ppo\",\"step\":2}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}
