//! `metrics.jsonl`: one object a line, `{"stage","step",...}`.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::record::write_atomic;

/// The metrics of one stage, appended to the run's file.
pub struct Metrics {
    path: PathBuf,
    stage: String,
    file: File,
    at: u64,
}

impl Metrics {
    /// Opens `path` for `stage`. With `keep`, a [`Metrics::position`] that a checkpoint stored, everything after that byte is
    /// cut off: the steps since the checkpoint come again. Without it the stage starts anew, and what it wrote before goes.
    /// A file shorter than `keep` is taken as it is: metrics are read by people, and no stage depends on them.
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
        let end = match keep {
            Some(keep) => whole.min(usize::try_from(keep).unwrap_or(usize::MAX)),
            None => {
                let others: Vec<u8> = text[..whole]
                    .split_inclusive(|&b| b == b'\n')
                    .filter(|line| !is_of(line, stage))
                    .flatten()
                    .copied()
                    .collect();
                if others.len() < whole {
                    write_atomic(path, &others)?;
                }
                others.len()
            }
        };
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(fail)?;
        file.set_len(end as u64).map_err(fail)?;
        let at = file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Metrics { path: path.into(), stage: stage.into(), file, at })
    }

    /// Appends `{"stage","step"}` and the fields, in their order. A number that is not finite is written as null.
    pub fn write(&mut self, step: u64, fields: &[(&str, Value)]) -> Result<()> {
        let mut object = Map::new();
        object.insert("stage".into(), self.stage.as_str().into());
        object.insert("step".into(), step.into());
        object.extend(fields.iter().map(|(name, value)| (name.to_string(), value.clone())));
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))?;
        self.at += line.len() as u64;
        Ok(())
    }

    /// The file's length in bytes, on disk when this returns: what a checkpoint stores for [`Metrics::open`].
    pub fn position(&mut self) -> Result<u64> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.at)
    }
}

fn is_of(line: &[u8], stage: &str) -> bool {
    serde_json::from_slice::<Value>(line).is_ok_and(|value| value["stage"] == stage)
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
        let position = metrics.position().unwrap();
        metrics.write(2, &[("loss", 0.25.into())]).unwrap();
        drop(metrics);
        // As a killed process leaves it.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"stage\":\"sf").unwrap();
        let mut metrics = Metrics::open(&path, "sft", Some(position)).unwrap();
        metrics.write(2, &[("loss", 0.125.into())]).unwrap();
        let expected = "{\"stage\":\"sft\",\"step\":1,\"loss\":0.5,\"lr\":null}\n{\"stage\":\"sft\",\"step\":2,\"loss\":0.125}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(metrics.position().unwrap(), expected.len() as u64);
    }

    #[test]
    fn a_stage_that_starts_anew_drops_its_own_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        Metrics::open(&path, "sft", None).unwrap().write(1, &[]).unwrap();
        Metrics::open(&path, "ppo", None).unwrap().write(1, &[]).unwrap();
        Metrics::open(&path, "sft", None).unwrap().write(5, &[]).unwrap();
        let expected = "{\"stage\":\"ppo\",\"step\":1}\n{\"stage\":\"sft\",\"step\":5}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        // A position beyond the file is no reason to fill it with zeros.
        Metrics::open(&path, "ppo", Some(10_000)).unwrap().write(2, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{expected}{{\"stage\":\"ppo\",\"step\":2}}\n"));
    }
}
