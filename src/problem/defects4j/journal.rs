//! Results by (bug, SHA-256 of the patch), one a line, appended as they come: an interrupted run goes on where it was, and
//! no patch is run twice.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::Outcome;

/// The results of a work folder.
#[derive(Debug)]
pub(in crate::problem) struct Journal {
    path: PathBuf,
    file: File,
    known: HashMap<(String, String), (Outcome, String)>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    bug: String,
    sha256: String,
    verdict: Outcome,
    reason: String,
    seconds: f64,
}

impl Journal {
    /// Reads what there is. A last line that an interrupt has cut is dropped; any other that is no result is an error.
    pub fn open(path: &Path) -> Result<Journal> {
        let io = |e| Error::io(path, e);
        let mut text = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io(e)),
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = File::options().create(true).append(true).open(path).map_err(io)?;
        if whole < text.len() {
            text.truncate(whole);
            file.set_len(whole as u64).map_err(io)?;
        }
        let mut known = HashMap::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|e| Error::line(path, index + 1, e))?;
            known.insert((line.bug, line.sha256), (line.verdict, line.reason));
        }
        Ok(Journal { path: path.to_owned(), file, known })
    }

    /// What a patch of a bug came to.
    pub fn get(&self, bug: &str, sha256: &str) -> Option<(Outcome, String)> {
        self.known.get(&(bug.to_owned(), sha256.to_owned())).cloned()
    }

    /// Keeps what a patch came to.
    pub fn add(&mut self, bug: &str, sha256: &str, judged: &(Outcome, String), seconds: f64) -> Result<()> {
        let (verdict, reason) = judged.clone();
        let line = Line { bug: bug.to_owned(), sha256: sha256.to_owned(), verdict, reason, seconds };
        let io = |e| Error::io(&self.path, e);
        let mut bytes = serde_json::to_vec(&line).map_err(|e| io(e.into()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(io)?;
        self.known.insert((line.bug, line.sha256), judged.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_dropped_and_the_next_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let pass = (Outcome::Pass, String::new());
        Journal::open(&path).unwrap().add("Lang-1", "aa", &pass, 1.0).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [whole.as_slice(), b"{\"bug\":\"La"].concat()).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let fail = (Outcome::Fail, "trigger test".to_owned());
        journal.add("Lang-1", "bb", &fail, 1.0).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!((journal.get("Lang-1", "aa"), journal.get("Lang-1", "bb")), (Some(pass), Some(fail)));
        assert_eq!(journal.get("Lang-2", "aa"), None);
        fs::write(&path, b"{}\n").unwrap();
        let text = Journal::open(&path).unwrap_err().to_string();
        assert!(text.contains("journal.jsonl:1: missing field `bug`"), "{text}");
    }
}
