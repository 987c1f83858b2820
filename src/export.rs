//! A trained model as a folder that other programs load: the base's files with the adapter merged into them, and a model card.
//!
//! The folder grows beside its place, under a hidden name, and gets its own when all of it is on the disk.

mod card;
mod merge;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checkpoint::{self, INDEX, Storage};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::record::{TEMPORARY, write_atomic};
use crate::run::Manifest;
use crate::telemetry::Progress;
use crate::tokenizer::Tokenizer;
use merge::Changes;

/// What is exported, and where to.
#[derive(Debug, Clone)]
pub struct Options {
    /// The base model's folder.
    pub model: PathBuf,
    /// The PEFT folder that is merged into it; without one, the model is taken as it is.
    pub adapter: Option<PathBuf>,
    /// The folder to write; it must not exist, or be empty.
    pub out: PathBuf,
    /// The run folder that the card tells of; without one, the folder that the adapter lies in, if that is a run.
    pub run: Option<PathBuf>,
    /// The type of the weights; without one, the base's own.
    pub dtype: Option<Storage>,
}

/// What an export came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Files of weights.
    pub shards: usize,
    /// Bytes of their tensors.
    pub bytes: u64,
    /// Tensors that the adapter changed.
    pub merged: usize,
    /// The run that the card tells of.
    pub run: Option<PathBuf>,
}

/// Files that belong to a model beside its weights and its configuration.
const BESIDE: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "score_scale.json",
];

/// Names that licences begin with.
const LICENSES: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];

/// Writes the folder. Errors: a folder that is there already and holds something; an adapter that does not fit, by its tensor; a
/// number that the type does not hold; a full disk. After an error, or an interrupt, there is no folder.
pub fn export(options: &Options) -> Result<Exported> {
    let Options { model, adapter, .. } = options;
    let out = &place(&options.out)?;
    let config = Config::load(model)?;
    let (files, listed) = checkpoint::files_of(model)?;
    // Each of the files is looked at before anything is written.
    checkpoint::Tensors::open_folder(model)?;
    let changes = match adapter {
        Some(folder) => Changes::load(&config, folder)?,
        None => Changes::default(),
    };
    let converted = match options.dtype {
        Some(wanted) => files.iter().map(|file| merge::differs(file, wanted)).collect::<Result<Vec<bool>>>()?.contains(&true),
        None => false,
    };
    let run = match &options.run {
        Some(folder) if !folder.join(MANIFEST).is_file() => {
            return Err(Error::input(folder.display(), format!("a run folder expected: {MANIFEST} is missing")));
        }
        Some(folder) => Some(folder.clone()),
        None => run_above(adapter.as_ref().unwrap_or(model)),
    };
    let card = card::write(options, &config, run.as_deref())?;

    let growing = Growing::beside(out)?;
    let progress = Progress::new("export", files.len() as u64);
    let mut exported = Exported { shards: files.len(), bytes: 0, merged: 0, run };
    for (done, file) in files.iter().enumerate() {
        let place = out.join(file.file_name().unwrap_or_default());
        let written = merge::write_file(file, &growing.at(file), &place, &changes, options.dtype)?;
        exported.bytes += written.bytes;
        exported.merged += written.merged;
        progress.set(done as u64 + 1, "");
    }
    progress.finish(&format!("{} tensors merged", exported.merged));
    if exported.merged != changes.len() {
        let what = format!("{} tensors changed where the adapter has {}", exported.merged, changes.len());
        return Err(Error::input(model.display(), what));
    }
    if !listed.is_empty() {
        let mut index = checkpoint::read_json(&model.join(INDEX))?;
        match converted {
            true => {
                index["metadata"]["total_size"] = json!(exported.bytes);
                checkpoint::write_json(&growing.folder.join(INDEX), &index)?;
            }
            false => growing.copy(&model.join(INDEX))?,
        }
    }
    let named = model.join("config.json");
    match options.dtype.filter(|_| converted) {
        Some(wanted) => {
            let mut config = checkpoint::read_json(&named)?;
            set_dtype(&mut config, wanted);
            checkpoint::write_json(&growing.folder.join("config.json"), &config)?;
        }
        None => growing.copy(&named)?,
    }
    for file in beside(model)? {
        growing.copy(&file)?;
    }
    write_atomic(&growing.folder.join("README.md"), card.as_bytes())?;
    growing.publish(out)?;
    Ok(exported)
}

const MANIFEST: &str = "manifest.json";

/// Where the folder is written: at the end of a link. An [`Error::Input`] where a rename to it would fail.
fn place(out: &Path) -> Result<PathBuf> {
    let wrong = |what: &str| Err(Error::input(out.display(), what));
    if out.file_name().is_none() {
        return wrong("not a folder's name");
    }
    if fs::symlink_metadata(out).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(out.to_path_buf());
    }
    let place = fs::canonicalize(out).map_err(|e| Error::io(out, e))?;
    if !fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_none()) {
        return wrong("a folder that does not exist or is empty expected; nothing is written over");
    }
    let device = |folder: &Path| fs::metadata(folder).map(|data| data.dev()).map_err(|e| Error::io(folder, e));
    match place.parent() {
        Some(parent) if device(parent)? == device(&place)? => Ok(place),
        _ => wrong("a file system is mounted there, which no folder can replace; name one below it"),
    }
}

/// The run folder that a path lies in: the nearest folder above it with a manifest of ours.
fn run_above(path: &Path) -> Option<PathBuf> {
    let whole = fs::canonicalize(path).ok()?;
    let is_run = |folder: &&Path| {
        folder.join(MANIFEST).is_file()
            && Manifest::read(&folder.join(MANIFEST)).is_ok_and(|manifest| !manifest.recipe.is_empty())
    };
    whole.ancestors().skip(1).take(3).find(is_run).map(Path::to_path_buf)
}

/// The type in a configuration, under the name that it has there: Transformers 5 writes `dtype`, those before it `torch_dtype`.
fn set_dtype(config: &mut Value, wanted: Storage) {
    let has_new = config.get("dtype").is_some();
    if has_new {
        config["dtype"] = json!(wanted.torch_name());
    }
    if !has_new || config.get("torch_dtype").is_some() {
        config["torch_dtype"] = json!(wanted.torch_name());
    }
}

/// The files of a model's folder that go along.
fn beside(model: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(model).map_err(|e| Error::io(model, e))? {
        let path = entry.map_err(|e| Error::io(model, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let license = LICENSES.iter().any(|start| name.to_uppercase().starts_with(start));
        if path.is_file() && (license || BESIDE.contains(&name.as_str())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A folder on its way; dropped before it is published, it is removed.
struct Growing {
    folder: PathBuf,
}

impl Growing {
    fn beside(out: &Path) -> Result<Growing> {
        let name = out.file_name().ok_or_else(|| Error::input(out.display(), "not a folder's name"))?;
        let folder = out.with_file_name(format!(".{}.{}{TEMPORARY}", name.to_string_lossy(), std::process::id()));
        // A process with this number may have been killed over it.
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(&folder, e)),
            _ => fs::create_dir_all(&folder).map_err(|e| Error::io(out, e))?,
        }
        Ok(Growing { folder })
    }

    /// Where a file of this name lies in it.
    fn at(&self, file: &Path) -> PathBuf {
        self.folder.join(file.file_name().unwrap_or_default())
    }

    fn copy(&self, file: &Path) -> Result<()> {
        let bytes = fs::read(file).map_err(|e| Error::io(file, e))?;
        write_atomic(&self.at(file), &bytes)
    }

    fn publish(self, out: &Path) -> Result<()> {
        let io = |e| Error::io(out, e);
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        // An empty folder in its place is replaced.
        fs::rename(&self.folder, out).map_err(io)?;
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // After it was published there is nothing of this name.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether a model's folder can be asked in turns: it has a tokenizer with a chat template.
fn is_chat(model: &Path) -> bool {
    Tokenizer::load(model).is_ok_and(|tokenizer| tokenizer.chat_template().is_some())
}
