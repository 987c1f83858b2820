//! The stage runner: the order of the stages, which of them are still good, and what is left of one that ended early.
//!
//! A stage is skipped when its inputs and its settings are what they were and its outputs are what it wrote, all by SHA-256.
//! What a stage does is left to its body; what it saves within itself is left to its checkpoints.

mod hash;
mod manifest;
mod standing;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::record::remove_temporaries;
use crate::telemetry::{note, words};
use hash::Hashes;
pub use manifest::{Manifest, Record, State};
pub use standing::{Standing, standing};

/// Every stage, in the order they run.
pub const STAGES: [&str; 11] =
    ["pretrain", "problems", "collect", "filter", "sft", "candidates", "judge", "reward", "ppo", "evaluate", "report"];

/// What a stage reads, writes and depends on.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// One of [`STAGES`].
    pub name: &'static str,
    /// Files and folders that it reads. They must exist.
    pub inputs: Vec<PathBuf>,
    /// Files and folders that exist when it is done.
    pub outputs: Vec<PathBuf>,
    /// Checkpoints that it goes on from when it ended early. The runner removes them when it is done, and before it starts
    /// when they belong to other inputs or settings. Only paths in the run folder.
    pub state: Vec<PathBuf>,
    /// The recipe's sections that change what it writes.
    pub settings: Value,
}

/// What became of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Its body ran, from the start or from its own checkpoint.
    Ran,
    /// Nothing it depends on has changed.
    Unchanged,
    /// It is before `--from` or after `--until`, and was not looked at.
    Outside,
}

/// Runs stages in a run folder, one process at a time.
pub struct Runner {
    folder: PathBuf,
    manifest: Manifest,
    hashes: Hashes,
    fresh: bool,
    from: usize,
    until: usize,
    _lock: File,
}

impl Runner {
    /// Opens (or makes) the folder `recipe.out` and takes its lock. `fresh` runs every stage again, from its start.
    /// Errors: the folder is in use by another process; a manifest that cannot be read.
    pub fn open(recipe: &Recipe, fresh: bool) -> Result<Runner> {
        let folder = recipe.out.clone();
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let lock = lock(&folder)?;
        remove_temporaries(&folder)?;
        let mut manifest = Manifest::read(&folder.join("manifest.json"))?;
        manifest.version = env!("CARGO_PKG_VERSION").into();
        manifest.recipe = recipe.to_toml();
        let hashes = Hashes::open(&folder.join(".hashes.json"));
        Ok(Runner { folder, manifest, hashes, fresh, from: 0, until: STAGES.len() - 1, _lock: lock })
    }

    /// Limits the run to the stages from `from` to `until`, both included; those outside are taken as they are.
    pub fn between(mut self, from: Option<&str>, until: Option<&str>) -> Result<Runner> {
        (self.from, self.until) = between(from, until)?.into_inner();
        Ok(self)
    }

    /// What the manifest calls the device of the stages to come: [`Device::name`](crate::device::Device::name).
    pub fn set_device(&mut self, name: String) {
        self.manifest.device = name;
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells what a run of these stages will do, in two lines: `what`, then which of them ended well the last time. Whether those are
    /// still good is looked at when their turn comes.
    pub fn announce(&self, what: &str, names: &[&str]) {
        note(&format!("run: {what} -> {}, on {}", self.folder.display(), self.manifest.device));
        let is_done = |name: &&str| self.manifest.stage(name).is_some_and(|record| record.state == State::Done);
        let (done, to_do): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| !self.fresh && is_done(name));
        let list = |names: &[&str]| if names.is_empty() { "nothing".into() } else { names.join(", ") };
        match done.is_empty() {
            true => note(&format!("run: to do: {}", list(&to_do))),
            false => note(&format!("run: done before: {}; to do: {}", list(&done), list(&to_do))),
        }
    }

    /// Runs a stage unless it is unchanged or outside of the range. How the body ended is written into the manifest before this
    /// returns. What the body returns is told a person, with the outputs: `300 steps, loss 0.3123`, or nothing. Errors: the body's; an
    /// input that is missing; an output that the body did not write.
    pub fn stage(&mut self, spec: &StageSpec, body: impl FnOnce() -> Result<String>) -> Result<Done> {
        let at = position("stage", spec.name)?;
        if at < self.from || at > self.until {
            return Ok(Done::Outside);
        }
        for input in &spec.inputs {
            if !input.exists() {
                let what =
                    format!("{} is missing: the recipe has to name it, or an earlier stage has to write it", input.display());
                return Err(Error::input(format!("stage {}", spec.name), what));
            }
        }
        let inputs = self.hashes.of_all(&spec.inputs)?;
        let before = self.manifest.stage(spec.name).filter(|record| record.inputs == inputs && record.settings == spec.settings);
        let before = before.filter(|_| !self.fresh).cloned();
        if let Some(record) = &before
            && record.state == State::Done
            && self.still_there(spec, record)?
        {
            // Left by a process that was killed when it had noted that the stage was done.
            self.remove_state(spec)?;
            note(&format!("{}: unchanged, skipped", spec.name));
            return Ok(Done::Unchanged);
        }
        let resumed = before.filter(|record| record.state != State::Done);
        let unfinished = |record: &&Record| record.state != State::Done && resumed.is_none() && !self.fresh;
        let earlier = self.manifest.stage(spec.name).filter(unfinished).cloned();
        match (&resumed, &earlier) {
            (Some(_), _) => {}
            // An input that turns out to be damaged must not cost what was reached with the one before it.
            (None, Some(_)) => self.set_aside(spec)?,
            (None, None) => self.remove_state(spec)?,
        }

        let mut record = Record {
            name: spec.name.into(),
            state: State::Running,
            seconds: resumed.map_or(0.0, |record| record.seconds),
            device: self.manifest.device.clone(),
            version: self.manifest.version.clone(),
            inputs,
            outputs: Default::default(),
            settings: spec.settings.clone(),
            error: None,
        };
        self.save(&record)?;
        note(&started(spec));
        let start = Instant::now();
        let result = body().and_then(|summary| Ok((summary, self.outputs_of(spec)?)));
        record.seconds += start.elapsed().as_secs_f64();
        match result {
            Ok((summary, outputs)) => {
                record.state = State::Done;
                record.outputs = outputs;
                self.save(&record)?;
                // After the record: a crash between the two leaves a checkpoint too many, never one too few.
                self.remove_state(spec)?;
                self.remove_aside(spec)?;
                note(&ended(spec, record.seconds, &summary));
                Ok(Done::Ran)
            }
            Err(error) => {
                if let Some(earlier) = earlier.filter(|_| error.exit_code() == 2) {
                    self.remove_state(spec)?;
                    self.put_back(spec)?;
                    self.save(&earlier)?;
                    return Err(error);
                }
                record.state = if matches!(error, Error::Interrupted) { State::Interrupted } else { State::Failed };
                if record.state == State::Interrupted {
                    note(&format!("{}: what was done is saved; the same command goes on from there", spec.name));
                }
                record.error = Some(error.to_string());
                // A disk that is full takes no manifest either; what is to be told is the error that came first.
                let _ = self.save(&record);
                Err(error)
            }
        }
    }

    fn still_there(&mut self, spec: &StageSpec, record: &Record) -> Result<bool> {
        if spec.outputs.iter().any(|path| !path.exists()) {
            return Ok(false);
        }
        Ok(self.hashes.of_all(&spec.outputs)? == record.outputs)
    }

    fn outputs_of(&mut self, spec: &StageSpec) -> Result<manifest::Hashed> {
        match spec.outputs.iter().find(|path| !path.exists()) {
            Some(path) => Err(Error::Machine(format!("stage {}: ended without writing {}", spec.name, path.display()))),
            None => self.hashes.of_all(&spec.outputs),
        }
    }

    fn remove_state(&self, spec: &StageSpec) -> Result<()> {
        spec.state.iter().try_for_each(|path| self.remove(path))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        assert!(path.starts_with(&self.folder), "{} is not in the run folder", path.display());
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
            _ => Ok(()),
        }
    }

    /// Moves a stage's checkpoints out of its way, until its end shows whether they are needed again.
    fn set_aside(&self, spec: &StageSpec) -> Result<()> {
        self.remove_aside(spec)?;
        spec.state.iter().try_for_each(|path| rename(path, &aside(path)))
    }

    fn put_back(&self, spec: &StageSpec) -> Result<()> {
        spec.state.iter().try_for_each(|path| rename(&aside(path), path))
    }

    fn remove_aside(&self, spec: &StageSpec) -> Result<()> {
        spec.state.iter().try_for_each(|path| self.remove(&aside(path)))
    }

    fn save(&mut self, record: &Record) -> Result<()> {
        self.manifest.put(record.clone());
        self.hashes.save()?;
        self.manifest.write(&self.folder.join("manifest.json"))
    }
}

/// `sft: starts, reads models/tiny (1.2 MB), runs/x/sft.jsonl (81 kB)`.
fn started(spec: &StageSpec) -> String {
    let sized = |path: &PathBuf| format!("{} ({})", path.display(), words::bytes(words::size(path)));
    let inputs: Vec<String> = spec.inputs.iter().map(sized).collect();
    match inputs.is_empty() {
        true => format!("{}: starts", spec.name),
        false => format!("{}: starts, reads {}", spec.name, inputs.join(", ")),
    }
}

/// `sft: done in 1 min 12 s, 300 steps, loss 0.3123 -> runs/x/sft/adapter (84 kB)`. The time is that of all the attempts. Outputs
/// beside the first have their name alone, and those that are empty are left out.
fn ended(spec: &StageSpec, seconds: f64, summary: &str) -> String {
    let summary = if summary.is_empty() { String::new() } else { format!(", {summary}") };
    let mut outputs = Vec::new();
    for path in &spec.outputs {
        let beside = path.parent() == spec.outputs[0].parent() && !outputs.is_empty();
        let name = path.file_name().filter(|_| beside).map_or(path.as_os_str(), |name| name);
        let size = words::size(path);
        if size > 0 || spec.outputs.len() == 1 {
            outputs.push(format!("{} ({})", name.display(), words::bytes(size)));
        }
    }
    format!("{}: done in {}{summary} -> {}", spec.name, words::duration(seconds), outputs.join(", "))
}

/// Where checkpoints are put that another attempt may not need.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
    path.with_file_name(format!(".before-{name}"))
}

/// Renames what is there.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(from, e)),
        _ => Ok(()),
    }
}

/// The places in [`STAGES`] of the first and the last stage of a run; left out, of all. Errors: a name that is no stage; a last stage
/// that comes before the first.
pub fn between(from: Option<&str>, until: Option<&str>) -> Result<RangeInclusive<usize>> {
    let first = from.map_or(Ok(0), |name| position("--from", name))?;
    let last = until.map_or(Ok(STAGES.len() - 1), |name| position("--until", name))?;
    if first > last {
        let what = format!("{} comes after {}", STAGES[first], STAGES[last]);
        return Err(Error::input("--from, --until", what));
    }
    Ok(first..=last)
}

/// A stage's place in [`STAGES`].
fn position(at: &str, name: &str) -> Result<usize> {
    STAGES
        .iter()
        .position(|stage| *stage == name)
        .ok_or_else(|| Error::input(at, format!("`{name}` is not a stage; the stages are {}", STAGES.join(", "))))
}

/// The run folder's lock, held while the file is open. The kernel drops it with the process, however that ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
    // SAFETY: the descriptor is open for the whole call.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::WouldBlock {
            return Err(Error::io(path, error));
        }
        let mut holder = String::new();
        // The number only helps the reader; the lock is the kernel's.
        let _ = file.read_to_string(&mut holder);
        let what = format!("process {} is running in this folder; wait for it, or set another `out`", holder.trim());
        return Err(Error::input(folder.display(), what));
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|e| Error::io(&path, e))?;
    Ok(file)
}
