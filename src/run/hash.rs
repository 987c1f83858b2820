//! SHA-256 of files and folders, remembered while a file keeps its size, times and inode.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::Hashed;
use crate::digest;
use crate::error::{Error, Result};
use crate::record::write_atomic;

/// A file younger than this may change again without its times showing it, so its hash is not remembered.
const SETTLED_NS: i128 = 2_000_000_000;

/// Hashes already computed. A model of 65 GB is read once, not at each start.
pub(super) struct Hashes {
    path: PathBuf,
    known: BTreeMap<PathBuf, Entry>,
    changed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    sha256: String,
}

/// What changes when a file's content does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    len: u64,
    inode: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl Stamp {
    fn of(data: &Metadata) -> Stamp {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Stamp {
            len: data.len(),
            inode: data.ino(),
            mtime_ns: ns(data.mtime(), data.mtime_nsec()),
            ctime_ns: ns(data.ctime(), data.ctime_nsec()),
        }
    }
}

impl Hashes {
    /// What an earlier process left. A cache that cannot be read is an empty one.
    pub fn open(path: &Path) -> Hashes {
        let known = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Hashes { path: path.into(), known, changed: false }
    }

    /// Writes the cache where it changed.
    pub fn save(&mut self) -> Result<()> {
        if std::mem::take(&mut self.changed) {
            let text = serde_json::to_vec(&self.known).map_err(|e| Error::io(&self.path, e.into()))?;
            write_atomic(&self.path, &text)?;
        }
        Ok(())
    }

    /// The hash of each path. A folder's is that of its sorted list of files with their hashes; hidden files do not count.
    pub fn of_all(&mut self, paths: &[PathBuf]) -> Result<Hashed> {
        paths.iter().map(|path| Ok((path.display().to_string(), self.of(path)?))).collect()
    }

    fn of(&mut self, path: &Path) -> Result<String> {
        if !path.is_dir() {
            return Ok(self.of_files(&[path.to_path_buf()])?.remove(0));
        }
        let mut files = Vec::new();
        list(path, &mut files)?;
        files.sort();
        let hashes = self.of_files(&files)?;
        let mut whole = Sha256::new();
        for (file, hash) in files.iter().zip(hashes) {
            let name = file.strip_prefix(path).expect("listed below it");
            whole.update(name.as_os_str().as_encoded_bytes());
            whole.update([0]);
            whole.update(hash);
            whole.update([b'\n']);
        }
        Ok(digest::hex(&whole.finalize()))
    }

    fn of_files(&mut self, files: &[PathBuf]) -> Result<Vec<String>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
        let entries: Vec<(Entry, bool)> = files
            .par_iter()
            .map(|file| {
                let stamp = Stamp::of(&fs::metadata(file).map_err(|e| Error::io(file, e))?);
                match self.known.get(file).filter(|entry| entry.stamp == stamp) {
                    Some(entry) => Ok((entry.clone(), false)),
                    None => Ok((Entry { stamp, sha256: digest::of_file(file).map_err(|e| Error::io(file, e))? }, true)),
                }
            })
            .collect::<Result<_>>()?;
        for (file, (entry, new)) in files.iter().zip(&entries) {
            if *new && now - entry.stamp.mtime_ns.max(entry.stamp.ctime_ns) > SETTLED_NS {
                self.known.insert(file.clone(), entry.clone());
                self.changed = true;
            }
        }
        Ok(entries.into_iter().map(|(entry, _)| entry.sha256).collect())
    }
}

/// Every file below a folder, through links: a snapshot of the Hugging Face cache is a folder of links.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("model");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/x"), "1").unwrap();
        fs::write(root.join("y"), "2").unwrap();
        let mut hashes = Hashes::open(&folder.path().join("cache"));
        let first = hashes.of(&root).unwrap();
        fs::write(root.join(".partial"), "3").unwrap();
        assert_eq!(hashes.of(&root).unwrap(), first);
        fs::rename(root.join("y"), root.join("z")).unwrap();
        let renamed = hashes.of(&root).unwrap();
        assert_ne!(renamed, first);
        fs::write(root.join("z"), "4").unwrap();
        assert_ne!(hashes.of(&root).unwrap(), renamed);
    }

    #[test]
    fn a_remembered_hash_needs_the_same_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (file, cache) = (folder.path().join("f"), folder.path().join("cache"));
        fs::write(&file, "abc").unwrap();
        let stamp = Stamp::of(&fs::metadata(&file).unwrap());
        let mut hashes = Hashes::open(&cache);
        hashes.known.insert(file.clone(), Entry { stamp, sha256: "remembered".into() });
        hashes.changed = true;
        hashes.save().unwrap();
        let mut hashes = Hashes::open(&cache);
        assert_eq!(hashes.of(&file).unwrap(), "remembered");
        fs::write(&file, "abcd").unwrap();
        assert_eq!(hashes.of(&file).unwrap(), "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589");
        // Just written: it could change again within the clock's grain.
        assert!(!hashes.changed);
    }
}
