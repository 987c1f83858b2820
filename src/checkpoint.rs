//! Folders in the Hugging Face layout: `config.json`, `model.safetensors` or its shards, in bf16, f16 or f32. Reading maps the
//! files; a missing, truncated, wrongly shaped or non-finite tensor is named. Writing is atomic.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::device::Real;
use crate::error::{Error, Result};
use crate::record::write_atomic;

/// How floats are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// 32-bit.
    F32,
    /// 16-bit with the exponent of f32.
    Bf16,
    /// 16-bit, IEEE half.
    F16,
}

impl Storage {
    /// Transformers' name of it: `bfloat16`, ...
    pub fn torch_name(self) -> &'static str {
        match self {
            Storage::F32 => "float32",
            Storage::Bf16 => "bfloat16",
            Storage::F16 => "float16",
        }
    }
}

/// A named tensor on the host, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The tensor's name.
    pub name: String,
    /// Its extent.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
}

/// The tensors of a folder or of one file, mapped into memory.
pub struct Tensors {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
}

impl Tensors {
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open_folder(folder: &Path) -> Result<Tensors> {
        let single = folder.join("model.safetensors");
        if single.exists() {
            return Tensors::open_files(&[single]);
        }
        let index_path = folder.join("model.safetensors.index.json");
        if !index_path.exists() {
            return Err(Error::input(
                folder.display(),
                "no checkpoint here: model.safetensors or model.safetensors.index.json expected",
            ));
        }
        let index = read_json(&index_path)?;
        let map = index
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| Error::input(index_path.display(), "an object `weight_map` expected"))?;
        let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        let tensors = Tensors::open_files(&shards.iter().map(|shard| folder.join(shard)).collect::<Vec<_>>())?;
        for name in map.keys() {
            if !tensors.entries.contains_key(name) {
                return Err(Error::input(index_path.display(), format!("tensor {name} is listed, but no shard holds it")));
            }
        }
        Ok(tensors)
    }

    /// The tensors of these files together.
    pub fn open_files(paths: &[PathBuf]) -> Result<Tensors> {
        let mut tensors = Tensors { files: Vec::new(), entries: HashMap::new() };
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            // A folder can be opened too, and mapping it fails with words that help nobody.
            if path.is_dir() {
                return Err(Error::io(path, std::io::ErrorKind::IsADirectory.into()));
            }
            // SAFETY: the map is only read. Another process truncating the file while it is mapped would raise SIGBUS; checkpoints
            // are replaced by renaming, never rewritten in place.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
            let bad = |e| Error::input(path.display(), format!("not a whole safetensors file: {e}"));
            SafeTensors::deserialize(&map).map_err(bad)?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(bad)?;
            let start = header + 8;
            for (name, info) in metadata.tensors() {
                let entry = Entry {
                    file: tensors.files.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes: start + info.data_offsets.0..start + info.data_offsets.1,
                };
                tensors.entries.insert(name, entry);
            }
            tensors.files.push((path.clone(), map));
        }
        Ok(tensors)
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The extent of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    fn describe(&self) -> String {
        self.files.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Appends a tensor's elements to `out`; it must exist, have this extent and be finite.
    pub fn read_into<T: Real>(&self, name: &str, shape: &[usize], out: &mut Vec<T>) -> Result<()> {
        let entry = self.entries.get(name).ok_or_else(|| Error::input(self.describe(), format!("tensor {name} is missing")))?;
        let at = || format!("{}: {name}", self.files[entry.file].0.display());
        if entry.shape != shape {
            return Err(Error::input(at(), format!("shape {shape:?} expected, {:?} found", entry.shape)));
        }
        let bytes = &self.files[entry.file].1[entry.bytes.clone()];
        let start = out.len();
        match entry.dtype {
            Dtype::F32 => out.extend(bytes.chunks_exact(4).map(|b| T::of(f32::from_le_bytes([b[0], b[1], b[2], b[3]]).f64()))),
            Dtype::BF16 => out.extend(bytes.chunks_exact(2).map(|b| T::of(half::bf16::from_le_bytes([b[0], b[1]]).to_f64()))),
            Dtype::F16 => out.extend(bytes.chunks_exact(2).map(|b| T::of(half::f16::from_le_bytes([b[0], b[1]]).to_f64()))),
            Dtype::F64 => {
                out.extend(bytes.chunks_exact(8).map(|b| T::of(f64::from_le_bytes(b.try_into().expect("eight bytes")))))
            }
            other => return Err(Error::input(at(), format!("type F32, BF16, F16 or F64 expected, {other:?} found"))),
        }
        match out[start..].iter().position(|x| !x.f64().is_finite()) {
            Some(element) => Err(Error::input(at(), format!("element {element} is {}", out[start + element].f64()))),
            None => Ok(()),
        }
    }

    /// A tensor's elements.
    pub fn read<T: Real>(&self, name: &str, shape: &[usize]) -> Result<Vec<T>> {
        let mut values = Vec::new();
        self.read_into(name, shape, &mut values)?;
        Ok(values)
    }
}

/// Writes a safetensors file, atomically. Its header says `format = pt`, which readers of PyTorch want.
pub fn write_tensors(path: &Path, tensors: &[Named], storage: Storage) -> Result<()> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let values = tensor.values.iter();
        let data: Vec<u8> = match storage {
            Storage::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            Storage::Bf16 => values.flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            Storage::F16 => values.flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        };
        bytes.push(data);
    }
    let dtype = match storage {
        Storage::F32 => Dtype::F32,
        Storage::Bf16 => Dtype::BF16,
        Storage::F16 => Dtype::F16,
    };
    let mut views = Vec::new();
    for (tensor, data) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(dtype, tensor.shape.clone(), data)
            .map_err(|e| Error::input(format!("{}: {}", path.display(), tensor.name), e))?;
        views.push((tensor.name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::input(path.display(), e))?;
    write_atomic(path, &file)
}

/// Reads a JSON file; errors name file, line and column.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), e))
}

/// Writes a JSON file, indented, atomically.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::io(path, e.into()))?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}
