//! Checkpoints of a stage: written beside the training, checksummed, the newest few kept. A damaged one is noticed, and the one
//! before it is gone on from.
//!
//! A checkpoint is a folder `checkpoint-<step>` with the files of every rank and `SHA256SUMS`, which `sha256sum -c` reads. It grows
//! as `.checkpoint-<step>` beside it and gets its name when all of it is on the disk, so a folder with that name was once whole.
//! All ranks see the same folder; rank 0 makes, renames and removes, the others only write their own files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{self, Named, Storage};
use crate::comm::Group;
use crate::digest::{self, Summing};
use crate::error::{Error, Result};
use crate::telemetry::{detail, note, words};

const SUMS: &str = "SHA256SUMS";

/// A file of a checkpoint, all of it in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its name in the checkpoint's folder; `a/b` lies in a folder of its own. Every rank has its own names.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// What a file of a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A safetensors file.
    Tensors(Vec<Named>, Storage),
    /// A JSON file.
    Json(Value),
}

/// The checkpoints of a stage, as one rank sees them.
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    writing: Option<Writing>,
}

/// A checkpoint under way: at most one, since all of it is in memory.
struct Writing {
    step: usize,
    started: Instant,
    thread: std::io::Result<JoinHandle<Result<Vec<Written>>>>,
}

/// A file that a rank has written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    name: String,
    sha256: String,
    length: u64,
}

impl Checkpoints {
    /// Those in `folder`, which need not exist, of which the newest `keep` (one at least) stay.
    pub fn open(folder: &Path, keep: usize) -> Checkpoints {
        Checkpoints { folder: folder.into(), keep: keep.max(1), writing: None }
    }

    /// The newest whole checkpoint: its step and its folder. Collective. Damaged ones that are newer are removed with a note of what
    /// was found, and so is what interrupted writes have left. A checkpoint that cannot be read for another reason than damage is an
    /// error, and stays.
    pub fn latest(&self, group: &Group) -> Result<Option<(usize, PathBuf)>> {
        let (whole, notes) = self.find(group)?;
        if group.is_first() {
            notes.iter().for_each(|line| note(line));
        }
        Ok(whole.map(|step| (step, self.whole(step))))
    }

    /// Starts to write this rank's pieces on a thread of its own. Collective. One under way is finished first; one of this step that
    /// is there and whole is not written again.
    pub fn start(&mut self, group: &Group, step: usize, pieces: Vec<Piece>) -> Result<()> {
        self.begin(group, step, move |folder| pieces.into_iter().map(|piece| write(folder, piece)).collect())
    }

    /// Whether this rank's part of the one under way is written, or failed; true where none is under way.
    pub fn written(&self) -> bool {
        self.writing.as_ref().and_then(|writing| writing.thread.as_ref().ok()).is_none_or(JoinHandle::is_finished)
    }

    /// Whether one is under way: started and not finished.
    pub fn under_way(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits for every rank's part, gives the checkpoint its name, and removes those that are older than the newest `keep`.
    /// Collective; nothing is done where none is under way. After an error the older ones are as they were, and the rank where it
    /// arose has it as its own, the others as [`Error::Rank`].
    pub fn finish(&mut self, group: &Group) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let (step, started) = (writing.step, writing.started);
        let published = settle(group, "checkpoint: written", writing.wait())
            .and_then(|parts| from_first(group, "checkpoint: publish", || self.publish(step, &parts)));
        if published.is_err() && group.is_first() {
            // What could not be written can sometimes not be removed either; the next start removes it then.
            let _ = remove(&self.partial(step));
        }
        if published.is_ok() {
            let (whole, seconds) = (self.whole(step), started.elapsed().as_secs_f64());
            detail(|| {
                let (path, size) = (whole.display(), words::bytes(words::size(&whole)));
                format!("{}: wrote {path} ({size}), {} after its begin", self.stage(), words::duration(seconds))
            });
        }
        published
    }

    /// Removes every checkpoint: they belong to other settings or data. Collective.
    pub fn clear(&self, group: &Group) -> Result<()> {
        from_first(group, "checkpoint: clear", || {
            self.sweep()?;
            self.steps()?.into_iter().try_for_each(|step| self.discard(step))
        })
    }

    fn whole(&self, step: usize) -> PathBuf {
        self.folder.join(format!("checkpoint-{step}"))
    }

    fn partial(&self, step: usize) -> PathBuf {
        self.folder.join(format!(".checkpoint-{step}"))
    }

    /// The stage, for messages: checkpoints lie in `<stage>/state`.
    fn stage(&self) -> String {
        let name = self.folder.parent().and_then(Path::file_name);
        name.map_or_else(|| self.folder.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    fn begin<W>(&mut self, group: &Group, step: usize, write: W) -> Result<()>
    where
        W: FnOnce(&Path) -> Result<Vec<Written>> + Send + 'static,
    {
        self.finish(group)?;
        let (whole, partial) = (self.whole(step), self.partial(step));
        let damage = match from_first(group, "checkpoint: there", || Ok(whole.exists()))? {
            false => None,
            true => match self.damage(group, step)? {
                None => return Ok(()),
                damage => damage,
            },
        };
        // Nobody may write before the folder is there and empty, hence the exchange.
        from_first(group, "checkpoint: folder", || {
            if let Some(what) = damage {
                note(&format!("{}: checkpoint-{step} is damaged: {what}; it is written again", self.stage()));
                self.discard(step)?;
            }
            remove(&partial)?;
            fs::create_dir_all(&partial).map_err(|e| Error::io(&partial, e))
        })?;
        let thread = thread::Builder::new().name(format!("checkpoint {step}")).spawn(move || write(&partial));
        self.writing = Some(Writing { step, started: Instant::now(), thread });
        Ok(())
    }

    /// The step of the newest whole checkpoint, and what is to be said about the newer ones, which are gone then.
    fn find(&self, group: &Group) -> Result<(Option<usize>, Vec<String>)> {
        let steps = from_first(group, "checkpoint: list", || {
            self.sweep()?;
            self.steps()
        })?;
        let (mut whole, mut damaged) = (None, Vec::new());
        for step in steps.into_iter().rev() {
            match self.damage(group, step)? {
                Some(what) => damaged.push((step, what)),
                None => {
                    whole = Some(step);
                    break;
                }
            }
        }
        from_first(group, "checkpoint: discard", || damaged.iter().try_for_each(|(step, _)| self.discard(*step)))?;
        let then = whole.map_or("starting anew".into(), |step| format!("checkpoint-{step} is gone on from"));
        let line = |(step, what): &(usize, String)| format!("{}: checkpoint-{step} is damaged: {what}; {then}", self.stage());
        Ok((whole, damaged.iter().map(line).collect()))
    }

    /// What is wrong with a checkpoint, if anything is. Collective: each rank reads its share of the files.
    fn damage(&self, group: &Group, step: usize) -> Result<Option<String>> {
        let folder = self.whole(step);
        let sums = match from_first(group, "checkpoint: sums", || read_sums(&folder))? {
            Ok(sums) => sums,
            Err(what) => return Ok(Some(what)),
        };
        let mine: Vec<usize> = (group.rank()..sums.len()).step_by(group.ranks()).collect();
        let check = |i: &usize| Ok(check(&folder, &sums[*i].0, &sums[*i].1)?.map(|what| (*i, what)));
        let found: Result<Vec<Option<(usize, String)>>> = mine.par_iter().map(check).collect();
        let mut found: Vec<(usize, String)> =
            settle(group, "checkpoint: verified", found)?.into_iter().flatten().flatten().collect();
        found.sort();
        let Some((_, first)) = found.first() else { return Ok(None) };
        Ok(Some(match found.len() - 1 {
            0 => first.clone(),
            1 => format!("{first}, and one more file is not what was written"),
            more => format!("{first}, and {more} more files are not what was written"),
        }))
    }

    /// Rank 0's part of [`Checkpoints::finish`].
    fn publish(&self, step: usize, parts: &[Vec<Written>]) -> Result<()> {
        let (partial, whole) = (self.partial(step), self.whole(step));
        let mut lines = Vec::new();
        let mut folders = BTreeSet::from([partial.clone()]);
        for (rank, file) in parts.iter().enumerate().flat_map(|(rank, part)| part.iter().map(move |file| (rank, file))) {
            let path = partial.join(&file.name);
            let found = fs::metadata(&path).map(|data| data.len());
            if found.as_ref().ok() != Some(&file.length) {
                let found = found.map_or_else(|e| e.to_string(), |length| format!("{length} bytes"));
                let what =
                    format!("rank {rank} wrote {} bytes, rank 0 finds: {found}; all ranks need the same folder", file.length);
                return Err(Error::Machine(format!("{}: {what}", path.display())));
            }
            folders.extend(path.ancestors().skip(1).take_while(|at| at.starts_with(&partial)).map(Path::to_path_buf));
            lines.push(format!("{}  {}\n", file.sha256, file.name));
        }
        lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
        let path = partial.join(SUMS);
        let io = |e| Error::io(&path, e);
        let mut file = File::create(&path).map_err(io)?;
        file.write_all(format!("{}{}", head(lines.len()), lines.concat()).as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        folders.iter().try_for_each(|folder| sync(folder))?;
        fs::rename(&partial, &whole).map_err(|e| Error::io(&whole, e))?;
        sync(&self.folder)?;
        let steps = self.steps()?;
        steps[..steps.len().saturating_sub(self.keep)].iter().try_for_each(|step| self.discard(*step))
    }

    /// The steps of the checkpoints that are there, the newest last.
    fn steps(&self) -> Result<Vec<usize>> {
        let parse = |name: String| {
            let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
            (name == format!("checkpoint-{step}")).then_some(step)
        };
        let mut steps: Vec<usize> = names(&self.folder)?.into_iter().filter_map(parse).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes what interrupted writes and removals have left.
    fn sweep(&self) -> Result<()> {
        let under_way = self.writing.as_ref().map(|writing| self.partial(writing.step));
        let left = names(&self.folder)?.into_iter().filter(|name| name.starts_with(".checkpoint-"));
        left.map(|name| self.folder.join(name)).filter(|path| under_way.as_ref() != Some(path)).try_for_each(|path| remove(&path))
    }

    /// Removes a checkpoint. It loses its name first: a removal that is interrupted must not look like damage.
    fn discard(&self, step: usize) -> Result<()> {
        let (whole, hidden) = (self.whole(step), self.partial(step));
        remove(&hidden)?;
        fs::rename(&whole, &hidden).map_err(|e| Error::io(&whole, e))?;
        remove(&hidden)
    }
}

impl Drop for Checkpoints {
    /// Lets the thread end: what it writes is of no use any more, but must not get in the way of whoever opens the folder next.
    fn drop(&mut self) {
        if let Some(Ok(thread)) = self.writing.take().map(|writing| writing.thread) {
            let _ = thread.join();
        }
    }
}

impl Writing {
    fn wait(self) -> Result<Vec<Written>> {
        let refused = |e| Error::Machine(format!("the thread that writes a checkpoint could not be started: {e}"));
        self.thread.map_err(refused)?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What every rank made, in the order of ranks. If one failed, its own error there, and [`Error::Rank`] on the others.
fn settle<T: Serialize + DeserializeOwned>(group: &Group, tag: &'static str, here: Result<T>) -> Result<Vec<T>> {
    let (here, own) = match here {
        Ok(value) => (Ok(value), None),
        Err(error) => (Err(error.to_string()), Some(error)),
    };
    let all: Vec<std::result::Result<T, String>> = group.exchange_json(tag, &here)?;
    if let Some(error) = own {
        return Err(error);
    }
    all.into_iter().enumerate().map(|(rank, made)| made.map_err(|what| Error::Rank { rank, what })).collect()
}

/// What rank 0 makes of `work`, for every rank.
fn from_first<T>(group: &Group, tag: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    // A list of one, since in JSON `Some(())` and `None` are the same.
    let here = if group.is_first() { work().map(|made| vec![made]) } else { Ok(Vec::new()) };
    Ok(settle(group, tag, here)?.swap_remove(0).pop().expect("rank 0 brought it"))
}

/// Writes a file of a checkpoint and waits until the disk has it. The hash is that of the bytes that were meant to be written.
fn write(folder: &Path, piece: Piece) -> Result<Written> {
    let path = folder.join(&piece.name);
    let io = |e| Error::io(&path, e);
    assert!(plain(&piece.name), "`{}` cannot name a file of a checkpoint", piece.name);
    fs::create_dir_all(path.parent().expect("it is below the checkpoint's folder")).map_err(io)?;
    // Two pieces of one name would be a loss that nobody notices.
    let file = File::create_new(&path).map_err(io)?;
    let (file, sha256, length) = write_content(file, &path, &piece.content)?;
    file.sync_all().map_err(io)?;
    Ok(Written { name: piece.name, sha256, length })
}

fn write_content(file: File, path: &Path, content: &Content) -> Result<(File, String, u64)> {
    let mut out = Summing::new(file);
    match content {
        Content::Tensors(tensors, storage) => checkpoint::write_tensors_into(&mut out, path, tensors, *storage)?,
        Content::Json(value) => checkpoint::write_json_into(&mut out, path, value)?,
    }
    Ok(out.finish())
}

/// Whether a name stays below the folder and on its line of SHA256SUMS.
fn plain(name: &str) -> bool {
    let normal = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    normal && !name.is_empty() && name != SUMS && !name.contains(['\n', '\r', '\\'])
}

/// The first line of SHA256SUMS, a comment to `sha256sum`: a list that lost its end would otherwise look whole.
fn head(files: usize) -> String {
    format!("# files: {files}\n")
}

/// The names and hashes that SHA256SUMS lists, or what is wrong with it.
fn read_sums(folder: &Path) -> Result<std::result::Result<Vec<(String, String)>, String>> {
    let path = folder.join(SUMS);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return damaged(&path, SUMS, error).map(Err),
    };
    let parse = |line: &str| {
        let (sum, name) = line.split_once("  ")?;
        let digits = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        (digits && plain(name)).then(|| (name.to_string(), sum.to_string()))
    };
    let sums: Option<Vec<(String, String)>> = text.lines().skip(1).map(parse).collect();
    Ok(match sums {
        Some(sums) if !sums.is_empty() && text.starts_with(&head(sums.len())) && text.ends_with('\n') => Ok(sums),
        _ => Err(format!("{SUMS} is not what was written")),
    })
}

/// What is wrong with a file of a checkpoint, if anything is.
fn check(folder: &Path, name: &str, sha256: &str) -> Result<Option<String>> {
    let path = folder.join(name);
    match digest::of_file(&path) {
        Ok(found) if found == sha256 => Ok(None),
        Ok(_) => Ok(Some(format!("{name} has not the SHA-256 that was written"))),
        Err(error) => damaged(&path, name, error).map(Some),
    }
}

/// A file that cannot be read, as damage where it is: it is not there, or the disk cannot give it back. Everything else may pass
/// (permissions, a full table of open files), and what is damaged is removed, so it is an error.
fn damaged(path: &Path, name: &str, error: std::io::Error) -> Result<String> {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(format!("{name} is missing")),
        ErrorKind::IsADirectory => Ok(format!("{name} is a folder")),
        _ if error.raw_os_error() == Some(libc::EIO) => Ok(format!("{name} cannot be read: {error}")),
        _ => Err(Error::io(path, error)),
    }
}

/// The names in a folder; none where it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let io = |e| Error::io(folder, e);
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
            entries.map_err(io)?.map(|entry| name(entry).map_err(io)).collect()
        }
    }
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Waits until the disk has a folder's entries.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(folder, e))
}

#[cfg(test)]
mod tests;
