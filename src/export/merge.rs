//! The merged weights: `W + scale * B A`, summed in f32 and rounded once, written in the base's own files.
//!
//! A file is mapped and written a few rows at a time, so memory holds the adapter and one block of rows, however large the model is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::{Map, Value, json};

use crate::checkpoint::{self, Storage};
use crate::device::Cpu;
use crate::error::{Error, Result};
use crate::model::{Adapter, Config, ScalarHead};
use crate::telemetry::interrupt;

/// Elements that are computed before they are written.
const BLOCK: usize = 1 << 22;

/// What becomes of a tensor.
enum Change {
    /// `scale * b[n, r] a[r, k]` is added.
    Add { a: Vec<f32>, b: Vec<f32>, rank: usize, scale: f32 },
    /// Other values take its place.
    Replace(Vec<f32>),
}

/// The tensors of a model that an adapter changes, by their names.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<String, (Vec<usize>, Change)>);

/// What a file came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Tensors that the adapter changed.
    pub merged: usize,
}

impl Changes {
    /// Those of a PEFT folder on a model. Errors: an adapter of another shape, or for another model, by its tensor; a scalar head on
    /// a model that has none.
    pub fn load(model: &Config, folder: &Path) -> Result<Changes> {
        let device = Cpu::<f32>::new();
        let adapter = Adapter::load(&device, model, folder)?;
        let mut changes = BTreeMap::new();
        let scale = (adapter.config.alpha / adapter.config.rank as f64) as f32;
        for pair in adapter.params().chunks_exact(2) {
            let (part, a) = pair[0].read::<f32>(&device)?.remove(0);
            let (outputs, b) = pair[1].read::<f32>(&device)?.remove(0);
            let name = part.name.replace(".lora_A.weight", ".weight");
            let rank = adapter.config.rank;
            changes.insert(name, (vec![outputs.shape[0], part.shape[1]], Change::Add { a, b, rank, scale }));
        }
        if let Some(head) = Adapter::load_head(&device, model, folder)? {
            if !model.classifier {
                let what = format!("carries a scalar head, {}; --model has to be the classifier it was trained on", HEAD);
                return Err(Error::input(folder.display(), what));
            }
            let head = head.named(&device, HEAD)?;
            changes.insert(head.name, (head.shape, Change::Replace(head.values)));
        }
        Ok(Changes(changes))
    }

    /// How many tensors change.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

const HEAD: &str = ScalarHead::<Cpu<f32>>::NAME;

/// The types that `dtype` is written in place of: any float.
fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F64)
}

/// A type that this module writes; f64 is not one.
fn storage(dtype: Dtype) -> Option<Storage> {
    [Storage::F32, Storage::Bf16, Storage::F16].into_iter().find(|storage| storage.dtype() == dtype)
}

/// Whether a file has a float of another type than this.
pub(super) fn differs(path: &Path, wanted: Storage) -> Result<bool> {
    let (_, _, metadata) = checkpoint::map_file(path)?;
    Ok(metadata.tensors().values().any(|info| is_float(info.dtype) && info.dtype != wanted.dtype()))
}

/// Writes the file `from` with its changes as `to`: the same tensors in the same order, under the same header as far as no type
/// changes. Errors name tensors in `from`, and `place`, where the file is going to lie.
pub(super) fn write_file(from: &Path, to: &Path, place: &Path, changes: &Changes, wanted: Option<Storage>) -> Result<Written> {
    let (map, start, metadata) = checkpoint::map_file(from)?;
    let io = |e| Error::io(place, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to).map_err(io)?);
    let target = |dtype: Dtype| wanted.filter(|_| is_float(dtype)).map_or(dtype, Storage::dtype);
    match header(&map[8..start], &metadata, &target).map_err(|e| Error::input(from.display(), e))? {
        None => out.write_all(&map[..start]).map_err(io)?,
        Some(header) => {
            out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
            out.write_all(&header).map_err(io)?;
        }
    }
    let mut written = Written::default();
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("a name out of the same header");
        let bytes = &map[start + info.data_offsets.0..start + info.data_offsets.1];
        let at = || format!("{}: {name}", from.display());
        let change = changes.0.get(&name);
        let dtype = target(info.dtype);
        written.bytes += (info.shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64;
        if change.is_none() && dtype == info.dtype {
            for block in bytes.chunks(BLOCK) {
                interrupt::check()?;
                out.write_all(block).map_err(io)?;
            }
            continue;
        }
        if let Some((shape, _)) = change {
            written.merged += 1;
            if *shape != info.shape {
                return Err(Error::input(at(), format!("shape {shape:?} expected by the adapter, {:?} found", info.shape)));
            }
        }
        let Some(storage) = storage(dtype) else {
            let what = format!("type F32, BF16 or F16 expected for a tensor that changes, {dtype:?} found");
            return Err(Error::input(at(), what));
        };
        let width = info.shape.last().copied().unwrap_or(1).max(1);
        let rows = (BLOCK / width).max(1);
        let size = info.dtype.bitsize() / 8;
        for (block, bytes) in bytes.chunks(rows * width * size).enumerate() {
            interrupt::check()?;
            let mut values: Vec<f32> = Vec::with_capacity(bytes.len() / size);
            checkpoint::decode(bytes, info.dtype, &mut values).map_err(|what| Error::input(at(), what))?;
            if let Some((_, change)) = change {
                change.apply(&mut values, block * rows, width);
            }
            let mut rounded = Vec::with_capacity(values.len() * storage.bytes());
            checkpoint::encode(&values, storage, &mut rounded);
            if let Some(element) = overflow(&rounded, storage) {
                let (index, value) = (block * rows * width + element, values[element]);
                return Err(Error::input(
                    at(),
                    format!("element {index} is {value}, which {} does not hold", storage.torch_name()),
                ));
            }
            out.write_all(&rounded).map_err(io)?;
        }
    }
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(written)
}

impl Change {
    /// Changes whole rows of `width`, of which the first is row `first` of the tensor.
    fn apply(&self, values: &mut [f32], first: usize, width: usize) {
        match self {
            Change::Replace(own) => values.copy_from_slice(&own[first * width..first * width + values.len()]),
            Change::Add { a, b, rank, scale } => values.par_chunks_mut(width).enumerate().for_each(|(row, w)| {
                let mut delta = vec![0.0f32; width];
                let b = &b[(first + row) * rank..(first + row + 1) * rank];
                for (b, a) in b.iter().zip(a.chunks_exact(width)) {
                    delta.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
                }
                w.iter_mut().zip(delta).for_each(|(w, delta)| *w += scale * delta);
            }),
        }
    }
}

/// The first number that is none, or became one too large for its type.
fn overflow(bytes: &[u8], storage: Storage) -> Option<usize> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match storage {
        Storage::F32 => bytes.chunks_exact(4).position(|b| !f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        Storage::Bf16 => bytes.chunks_exact(2).position(|b| !half::bf16::from_le_bytes(pair(b)).is_finite()),
        Storage::F16 => bytes.chunks_exact(2).position(|b| !half::f16::from_le_bytes(pair(b)).is_finite()),
    }
}

/// A file's header with the types that are to be; none where the one that it has stays.
fn header(
    json: &[u8],
    metadata: &Metadata,
    target: &dyn Fn(Dtype) -> Dtype,
) -> std::result::Result<Option<Vec<u8>>, serde_json::Error> {
    let mut header: Map<String, Value> = serde_json::from_slice(json)?;
    let says_pt = header.get("__metadata__").is_some_and(|told| told["format"] == "pt");
    if says_pt && metadata.tensors().values().all(|info| target(info.dtype) == info.dtype) {
        return Ok(None);
    }
    if !says_pt {
        // Readers of PyTorch ask for it.
        let mut told = header.get("__metadata__").and_then(Value::as_object).cloned().unwrap_or_default();
        told.insert("format".into(), json!("pt"));
        header.insert("__metadata__".into(), told.into());
    }
    let mut start = 0;
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("a name out of the same header");
        let dtype = target(info.dtype);
        let end = start + info.shape.iter().product::<usize>() * dtype.bitsize() / 8;
        header.insert(name, json!({"dtype": dtype, "shape": info.shape, "data_offsets": [start, end]}));
        start = end;
    }
    let mut bytes = serde_json::to_vec(&header)?;
    // The tensors begin at a multiple of eight, as the format's own library has it.
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(Some(bytes))
}
