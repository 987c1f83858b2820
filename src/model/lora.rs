//! LoRA adapters: which linear maps carry a low-rank branch, their initialisation, and PEFT's folders.
//!
//! Hu et al. 2021; initialisation, scaling and file names as PEFT 0.17 (`peft/tuners/lora/layer.py`, `save_and_load.py`).

use std::path::Path;

use serde_json::{Value, json};

use super::{Config, ScalarHead};
use crate::checkpoint::{self, Named, Storage, Tensors};
use crate::device::{Branch, Device};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::weights::{Param, Part, Trained};

/// A linear map that can carry a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Target {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The feed-forward layer's gate.
    Gate,
    /// Its other input.
    Up,
    /// Its output.
    Down,
}

impl Target {
    /// Every target, in order.
    pub const ALL: [Target; 7] = [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// PEFT's name: `q_proj`.
    pub fn name(self) -> &'static str {
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][self as usize]
    }

    /// The target of this name.
    pub fn parse(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|target| target.name() == name)
    }

    fn module(self) -> &'static str {
        if (self as usize) < 4 { "self_attn" } else { "mlp" }
    }

    /// (outputs, inputs) of the linear map.
    fn extents(self, config: &Config) -> (usize, usize) {
        let (c, f) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads.q_width(), config.heads.kv_width());
        match self {
            Target::Q => (q, c),
            Target::K | Target::V => (kv, c),
            Target::O => (c, q),
            Target::Gate | Target::Up => (f, c),
            Target::Down => (c, f),
        }
    }
}

/// An adapter's shape.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub rank: usize,
    /// The branch is multiplied by alpha / rank.
    pub alpha: f64,
    /// Probability of dropping an input of a branch, in SFT.
    pub dropout: f64,
    /// Where branches are.
    pub targets: Vec<Target>,
}

struct Module<D: Device> {
    target: Target,
    /// `a[r, k]`.
    a: Param<D>,
    /// `b[n, r]`.
    b: Param<D>,
}

/// The branches of one layer.
pub struct LayerAdapter<D: Device> {
    modules: Vec<Module<D>>,
    layer: usize,
    rank: usize,
    scale: f32,
}

/// A LoRA adapter.
pub struct Adapter<D: Device> {
    /// Its shape.
    pub config: LoraConfig,
    pub(super) layers: Vec<LayerAdapter<D>>,
}

/// The branches of `side` that belong to a linear map, in the order of its targets.
pub(super) fn branches<'a, D: Device>(
    side: Option<&'a LayerAdapter<D>>,
    targets: &[(Target, usize, usize)],
) -> Vec<Branch<'a, D>> {
    let Some(side) = side else { return Vec::new() };
    let find = |&(target, column, n): &(Target, usize, usize)| {
        let module = side.modules.iter().find(|module| module.target == target)?;
        let stream = (side.layer * Target::ALL.len() + target as usize) as u32;
        Some(Branch { a: &module.a.value, b: &module.b.value, column, n, r: side.rank, scale: side.scale, stream })
    };
    targets.iter().filter_map(find).collect()
}

/// The gradient slots of the same branches, `a, b` in turn; empty while the adapter is frozen.
pub(super) fn slots<D: Device>(side: Option<&LayerAdapter<D>>, targets: &[(Target, usize, usize)]) -> Vec<usize> {
    let Some(side) = side else { return Vec::new() };
    let find = |(target, ..): &(Target, usize, usize)| side.modules.iter().find(|module| module.target == *target);
    targets.iter().filter_map(find).flat_map(|module| [module.a.slot, module.b.slot]).flatten().collect()
}

impl<D: Device> Adapter<D> {
    fn build(config: LoraConfig, model: &Config, make: &mut dyn FnMut(Part, bool) -> Result<Param<D>>) -> Result<Self> {
        let mut layers = Vec::with_capacity(model.layers);
        for layer in 0..model.layers {
            let mut modules = Vec::new();
            for target in Target::ALL.into_iter().filter(|target| config.targets.contains(target)) {
                let (n, k) = target.extents(model);
                let at = |half: &str| format!("model.layers.{layer}.{}.{}.{half}.weight", target.module(), target.name());
                let a = make(Part::new(at("lora_A"), &[config.rank, k]), true)?;
                let b = make(Part::new(at("lora_B"), &[n, config.rank]), false)?;
                modules.push(Module { target, a, b });
            }
            let scale = (config.alpha / config.rank as f64) as f32;
            layers.push(LayerAdapter { modules, layer, rank: config.rank, scale });
        }
        Ok(Adapter { config, layers })
    }

    /// A new adapter, which changes nothing yet: `a` uniform in ±1/sqrt(inputs), `b` zero.
    pub fn new(device: &D, config: LoraConfig, model: &Config, seed: u64) -> Result<Self> {
        let mut index = 0;
        Self::build(config, model, &mut |part, is_a| {
            let mut rng = Rng::new(seed, "lora", index);
            index += 1;
            let bound = 1.0 / (part.shape[1] as f32).sqrt();
            let values: Vec<f32> =
                (0..part.elements()).map(|_| if is_a { (2.0 * rng.unit() - 1.0) * bound } else { 0.0 }).collect();
            Param::master(device, vec![part], &values)
        })
    }

    /// An adapter of which only the extents matter, for a device that only counts.
    pub fn shaped(device: &D, config: LoraConfig, model: &Config) -> Result<Self> {
        Self::build(config, model, &mut |part, _| Param::shaped(device, vec![part], true))
    }

    /// A copy with parameters of its own: PPO's policy and critic start from the SFT adapter.
    pub fn duplicate(&self, device: &D, model: &Config) -> Result<Self> {
        let sources: Vec<&Param<D>> = self.params();
        let mut index = 0;
        Self::build(self.config.clone(), model, &mut |part, _| {
            let (_, values) = sources[index].read::<f64>(device)?.remove(0);
            index += 1;
            Param::master(device, vec![part], &values)
        })
    }

    /// Every parameter, `a` before `b`, in the order of layers and targets.
    pub fn params(&self) -> Vec<&Param<D>> {
        self.layers.iter().flat_map(|layer| &layer.modules).flat_map(|module| [&module.a, &module.b]).collect()
    }

    /// Every parameter, in the same order.
    pub fn params_mut(&mut self) -> Vec<&mut Param<D>> {
        let modules = self.layers.iter_mut().flat_map(|layer| &mut layer.modules);
        modules.flat_map(|module| [&mut module.a, &mut module.b]).collect()
    }

    /// Reads a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
    pub fn load(device: &D, model: &Config, folder: &Path) -> Result<Self> {
        let path = folder.join("adapter_config.json");
        let config = LoraConfig::from_json(&path, &checkpoint::read_json(&path)?)?;
        let tensors = Tensors::open_files(&[folder.join("adapter_model.safetensors")])?;
        let adapter = Self::build(config, model, &mut |part, _| {
            let values: Vec<f32> = tensors.read(&peft_name(&part.name), &part.shape)?;
            Param::master(device, vec![part], &values)
        })?;
        let known: Vec<String> = adapter.params().iter().map(|param| peft_name(&param.parts[0].name)).collect();
        let head = peft_name(ScalarHead::<D>::NAME);
        match tensors.names().into_iter().find(|name| *name != head && !known.iter().any(|k| k == name)) {
            Some(stray) => Err(Error::input(folder.display(), format!("tensor {stray} has no place in this model"))),
            None => Ok(adapter),
        }
    }

    /// The scalar head that a PEFT folder carries, if it does.
    pub fn load_head(device: &D, model: &Config, folder: &Path) -> Result<Option<ScalarHead<D>>> {
        let tensors = Tensors::open_files(&[folder.join("adapter_model.safetensors")])?;
        ScalarHead::from_tensors(device, &tensors, &peft_name(ScalarHead::<D>::NAME), model.hidden)
    }

    /// The tensors and the configuration of a PEFT folder. `base` is the model that it belongs to; what is trained takes its values
    /// from `trained`, where that is given.
    pub fn peft(
        &self,
        device: &D,
        base: &str,
        head: Option<&ScalarHead<D>>,
        trained: Option<&Trained>,
    ) -> Result<(Vec<Named>, Value)> {
        let mut tensors = Vec::new();
        for param in self.params().into_iter().chain(head.map(|head| &head.weight)) {
            tensors
                .extend(param.named(device, trained)?.into_iter().map(|named| Named { name: peft_name(&named.name), ..named }));
        }
        Ok((tensors, self.config.to_json(base, head.is_some())))
    }

    /// Writes a PEFT folder. `base` is the model that it belongs to.
    pub fn save(&self, device: &D, folder: &Path, base: &str, head: Option<&ScalarHead<D>>) -> Result<()> {
        let (tensors, config) = self.peft(device, base, head, None)?;
        checkpoint::write_tensors(&folder.join("adapter_model.safetensors"), &tensors, Storage::F32)?;
        checkpoint::write_json(&folder.join("adapter_config.json"), &config)
    }
}

fn peft_name(name: &str) -> String {
    format!("base_model.model.{name}")
}

impl LoraConfig {
    fn from_json(path: &Path, json: &Value) -> Result<LoraConfig> {
        let bad = |key: &str, expected: &str| {
            let found = json.get(key).map_or("nothing".to_string(), Value::to_string);
            Error::input(path.display(), format!("{key}: {expected} expected, {found} found"))
        };
        if json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(bad("peft_type", "\"LORA\""));
        }
        for key in ["use_dora", "fan_in_fan_out"] {
            if json.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(bad(key, "false"));
            }
        }
        if json.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none") {
            return Err(bad("bias", "\"none\""));
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if json.get(key).and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
                return Err(bad(key, "an empty object"));
            }
        }
        if json.get("layers_to_transform").is_some_and(|layers| !layers.is_null()) {
            return Err(bad("layers_to_transform", "null"));
        }
        let rank = json.get("r").and_then(Value::as_u64).filter(|r| *r > 0).ok_or_else(|| bad("r", "a rank above 0"))? as usize;
        let alpha = json.get("lora_alpha").and_then(Value::as_f64).unwrap_or(8.0);
        // rsLoRA divides by sqrt(r) (Kalajdzievski 2023): the same branch with another alpha.
        let rslora = json.get("use_rslora").and_then(Value::as_bool) == Some(true);
        let alpha = if rslora { alpha * (rank as f64).sqrt() } else { alpha };
        let names = match json.get("target_modules") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(name)) => vec![name.as_str()],
            _ => Vec::new(),
        };
        let targets: Option<Vec<Target>> = names.iter().map(|name| Target::parse(name)).collect();
        let expected = "a list out of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";
        let targets = targets.filter(|targets| !targets.is_empty()).ok_or_else(|| bad("target_modules", expected))?;
        let dropout = json.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
        Ok(LoraConfig { rank, alpha, dropout, targets })
    }

    fn to_json(&self, base: &str, head: bool) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": if head { "SEQ_CLS" } else { "CAUSAL_LM" },
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": self.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": if head { json!(["score"]) } else { Value::Null },
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_dora": false,
            "use_rslora": false,
            "layers_to_transform": Value::Null,
            "layers_pattern": Value::Null,
            "revision": Value::Null,
        })
    }
}
