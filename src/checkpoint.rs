//! Folders in the Hugging Face layout: `config.json`, `model.safetensors` or its shards, in bf16, f16 or f32. Reading maps the
//! files; a missing, truncated, wrongly shaped or non-finite tensor is named. Writing is atomic.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde_json::Value;

use crate::device::Real;
use crate::error::{Error, Result};
use crate::record::write_atomic_with;

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

    /// The file format's name of it.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Storage::F32 => Dtype::F32,
            Storage::Bf16 => Dtype::BF16,
            Storage::F16 => Dtype::F16,
        }
    }

    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        if self == Storage::F32 { 4 } else { 2 }
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

/// The list of a sharded checkpoint's tensors.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files of a folder's checkpoint, sorted, and the tensors that its index lists; without an index, none.
pub(crate) fn files_of(folder: &Path) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok((vec![single], Vec::new()));
    }
    let path = folder.join(INDEX);
    if !path.exists() {
        let what = format!("no checkpoint here: model.safetensors or {INDEX} expected");
        return Err(Error::input(folder.display(), what));
    }
    let index = read_json(&path)?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::input(path.display(), "an object `weight_map` expected"))?;
    let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    Ok((shards.into_iter().map(|shard| folder.join(shard)).collect(), map.keys().cloned().collect()))
}

/// Maps a safetensors file: its bytes, where its tensors begin, and what its header says.
pub(crate) fn map_file(path: &Path) -> Result<(Mmap, usize, Metadata)> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // A folder can be opened too, and mapping it fails with words that help nobody.
    if path.is_dir() {
        return Err(Error::io(path, std::io::ErrorKind::IsADirectory.into()));
    }
    // SAFETY: the map is only read. Another process truncating the file while it is mapped would raise SIGBUS; checkpoints are
    // replaced by renaming, never rewritten in place.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    let bad = |e| Error::input(path.display(), format!("not a whole safetensors file: {e}"));
    SafeTensors::deserialize(&map).map_err(bad)?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(bad)?;
    Ok((map, header + 8, metadata))
}

/// The tensors of a folder or of one file, mapped into memory.
pub struct Tensors {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
}

impl Tensors {
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open_folder(folder: &Path) -> Result<Tensors> {
        let (shards, names) = files_of(folder)?;
        let tensors = Tensors::open_files(&shards)?;
        match names.iter().find(|name| !tensors.entries.contains_key(*name)) {
            Some(name) => {
                let index = folder.join(INDEX);
                Err(Error::input(index.display(), format!("tensor {name} is listed, but no shard holds it")))
            }
            None => Ok(tensors),
        }
    }

    /// The tensors of these files together.
    pub fn open_files(paths: &[PathBuf]) -> Result<Tensors> {
        let mut tensors = Tensors { files: Vec::new(), entries: HashMap::new() };
        for path in paths {
            let (map, start, metadata) = map_file(path)?;
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
        let start = out.len();
        decode(&self.files[entry.file].1[entry.bytes.clone()], entry.dtype, out).map_err(|what| Error::input(at(), what))?;
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

/// Appends the numbers that `bytes` hold. The error is in words: a type that is no float.
pub(crate) fn decode<T: Real>(bytes: &[u8], dtype: Dtype, out: &mut Vec<T>) -> std::result::Result<(), String> {
    match dtype {
        Dtype::F32 => out.extend(bytes.chunks_exact(4).map(|b| T::of(f32::from_le_bytes([b[0], b[1], b[2], b[3]]).f64()))),
        Dtype::BF16 => out.extend(bytes.chunks_exact(2).map(|b| T::of(half::bf16::from_le_bytes([b[0], b[1]]).to_f64()))),
        Dtype::F16 => out.extend(bytes.chunks_exact(2).map(|b| T::of(half::f16::from_le_bytes([b[0], b[1]]).to_f64()))),
        Dtype::F64 => out.extend(bytes.chunks_exact(8).map(|b| T::of(f64::from_le_bytes(b.try_into().expect("eight bytes"))))),
        other => return Err(format!("type F32, BF16, F16 or F64 expected, {other:?} found")),
    }
    Ok(())
}

/// Appends `values` as a file stores them, each rounded to the nearest, ties to even.
pub(crate) fn encode(values: &[f32], storage: Storage, out: &mut Vec<u8>) {
    match storage {
        Storage::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Storage::Bf16 => out.extend(values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())),
        Storage::F16 => out.extend(values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes())),
    }
}

/// Writes a safetensors file, atomically. Its header says `format = pt`, which readers of PyTorch want.
pub fn write_tensors(path: &Path, tensors: &[Named], storage: Storage) -> Result<()> {
    write_atomic_with(path, |file| write_tensors_into(file, path, tensors, storage))
}

/// Writes what a safetensors file holds into `out`, tensor by tensor: there is no second copy of them in memory. Errors name `path`.
pub fn write_tensors_into(out: &mut impl Write, path: &Path, tensors: &[Named], storage: Storage) -> Result<()> {
    let (dtype, bytes) = (storage.dtype(), storage.bytes());
    let mut sorted: Vec<&Named> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut infos, mut start) = (Vec::new(), 0);
    for tensor in &sorted {
        let (given, end) = (tensor.values.len(), start + tensor.values.len() * bytes);
        if tensor.shape.iter().product::<usize>() != given {
            let what = format!("shape {:?} does not have the {given} elements that are given", tensor.shape);
            return Err(Error::input(format!("{}: {}", path.display(), tensor.name), what));
        }
        infos.push((tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) }));
        start = end;
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| Error::input(path.display(), e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| Error::io(path, e.into()))?;
    // The tensors begin at a multiple of eight, as the format's own library has it.
    header.resize(header.len().next_multiple_of(8), b' ');
    let io = |e| Error::io(path, e);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    let mut buffer = Vec::new();
    for chunk in sorted.iter().flat_map(|tensor| tensor.values.chunks(1 << 16)) {
        buffer.clear();
        encode(chunk, storage, &mut buffer);
        out.write_all(&buffer).map_err(io)?;
    }
    Ok(())
}

/// Reads a JSON file; errors name file, line and column.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), e))
}

/// Writes a JSON file, indented, atomically.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomic_with(path, |file| write_json_into(file, path, value))
}

/// Writes what [`write_json`] does into `out`. Errors name `path`.
pub fn write_json_into(out: &mut impl Write, path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::io(path, e.into()))?;
    text.push('\n');
    out.write_all(text.as_bytes()).map_err(|e| Error::io(path, e))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn what_is_written_is_what_the_format_s_own_library_writes() {
        let named = |name: &str, shape: &[usize], values: &[f32]| Named {
            name: name.into(),
            shape: shape.to_vec(),
            values: values.to_vec(),
        };
        let long: Vec<f32> = (0..70_000).map(|i| i as f32 * 0.37 - 9.0).collect();
        let tensors = [
            named("b", &[2, 3], &[1.0, -2.5, f32::MIN_POSITIVE, 3.1, 0.0, -0.0]),
            named("a.long", &[70, 1000], &long),
            named("empty", &[0, 4], &[]),
            named("a", &[], &[7.0]),
        ];
        for storage in [Storage::F32, Storage::Bf16, Storage::F16] {
            let mut written = Vec::new();
            write_tensors_into(&mut written, Path::new("x"), &tensors, storage).unwrap();
            let bytes = |tensor: &Named| -> Vec<u8> {
                let values = tensor.values.iter();
                match storage {
                    Storage::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
                    Storage::Bf16 => values.flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                    Storage::F16 => values.flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                }
            };
            let data: Vec<Vec<u8>> = tensors.iter().map(bytes).collect();
            let dtype = match storage {
                Storage::F32 => Dtype::F32,
                Storage::Bf16 => Dtype::BF16,
                Storage::F16 => Dtype::F16,
            };
            let view = |i: usize| (&tensors[i].name, TensorView::new(dtype, tensors[i].shape.clone(), &data[i]).unwrap());
            let views = (0..tensors.len()).map(view);
            let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
            assert!(written == safetensors::serialize(views, Some(metadata)).unwrap(), "{storage:?}");
        }
    }

    #[test]
    fn a_tensor_that_does_not_fill_its_shape_is_named() {
        let tensor = Named { name: "w".into(), shape: vec![2, 2], values: vec![1.0; 3] };
        let error = write_tensors_into(&mut Vec::new(), Path::new("a/b"), &[tensor], Storage::F32).unwrap_err();
        assert_eq!(error.to_string(), "a/b: w: shape [2, 2] does not have the 3 elements that are given");
    }
}
