//! A checkpoint's `config.json`: the extents of the decoder and what differs between architectures.

use std::path::Path;

use serde_json::{Value, json};

use super::{llama, qwen2};
use crate::checkpoint::{self, Storage};
use crate::device::Heads;
use crate::error::{Error, Result};

/// Whose checkpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Qwen2, Qwen2.5, Qwen2.5-Coder.
    Qwen2,
    /// Llama, CodeLlama.
    Llama,
}

/// The decoder's extents and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose checkpoint it is.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Model width.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention's heads.
    pub heads: Heads,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// RMSNorm's epsilon.
    pub eps: f64,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest sequence that the checkpoint was made for.
    pub max_positions: usize,
    /// A `...ForSequenceClassification` checkpoint: `score.weight` instead of a language-model head.
    pub classifier: bool,
    /// The end tokens that config.json names.
    pub eos: Vec<u32>,
    /// The begin token that config.json names.
    pub bos: Option<u32>,
}

/// The fields of a config.json, with errors that name file and key.
pub(super) struct Fields<'a> {
    at: String,
    json: &'a Value,
}

impl Fields<'_> {
    fn bad(&self, key: &str, expected: &str) -> Error {
        let found = self.json.get(key).map_or("nothing".to_string(), Value::to_string);
        Error::input(&self.at, format!("{key}: {expected} expected, {found} found"))
    }

    /// A whole number above 0.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        self.json.get(key).and_then(Value::as_u64).filter(|n| *n > 0).map(|n| n as usize).ok_or_else(|| self.bad(key, "a count"))
    }

    /// A whole number above 0, or a default where the key is absent or null.
    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.is_null(key) { Ok(default) } else { self.count(key) }
    }

    /// A number, or a default.
    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.is_null(key) {
            return Ok(default);
        }
        self.json[key].as_f64().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| self.bad(key, "a number above 0"))
    }

    /// true or false, or a default.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        if self.is_null(key) { Ok(default) } else { self.json[key].as_bool().ok_or_else(|| self.bad(key, "true or false")) }
    }

    fn is_null(&self, key: &str) -> bool {
        self.json.get(key).is_none_or(Value::is_null)
    }

    /// A feature of the architecture that this decoder does not have.
    pub(super) fn refuse(&self, key: &str, what: &str) -> Error {
        Error::input(&self.at, format!("{key}: {what} is not supported"))
    }

    /// Token ids: a number, a list, or nothing.
    fn ids(&self, key: &str) -> Vec<u32> {
        match self.json.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            Some(id) => id.as_u64().map(|id| id as u32).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

impl Config {
    /// Reads `config.json` of a folder.
    pub fn load(folder: &Path) -> Result<Config> {
        let path = folder.join("config.json");
        Config::from_json(&path.display().to_string(), &checkpoint::read_json(&path)?)
    }

    /// From the parsed file; `at` names it in errors.
    pub fn from_json(at: &str, json: &Value) -> Result<Config> {
        let fields = Fields { at: at.to_string(), json };
        let architecture = match json.get("model_type").and_then(Value::as_str) {
            Some("qwen2") => Architecture::Qwen2,
            Some("llama") => Architecture::Llama,
            _ => return Err(fields.bad("model_type", "\"qwen2\" or \"llama\"")),
        };
        let hidden = fields.count("hidden_size")?;
        let q = fields.count("num_attention_heads")?;
        let kv = fields.count_or("num_key_value_heads", q)?;
        let dim = fields.count_or("head_dim", hidden / q)?;
        if q % kv != 0 {
            return Err(fields.bad("num_key_value_heads", &format!("a divisor of num_attention_heads ({q})")));
        }
        if dim % 2 != 0 {
            return Err(fields.bad("head_dim", "an even number"));
        }
        if json.get("hidden_act").and_then(Value::as_str).is_some_and(|act| act != "silu") {
            return Err(fields.bad("hidden_act", "\"silu\""));
        }
        // Transformers 5 nests the angles' base, and names the kind there.
        let rope = ["rope_parameters", "rope_scaling"].iter().find_map(|key| json.get(*key).filter(|v| !v.is_null()));
        if let Some(rope) = rope {
            let kind = rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default");
            if kind != "default" {
                return Err(fields.refuse("rope_scaling", &format!("rope type {kind:?}")));
            }
        }
        let nested = rope.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
        let listed = json.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("");
        let mut config = Config {
            architecture,
            vocab: fields.count("vocab_size")?,
            hidden,
            intermediate: fields.count("intermediate_size")?,
            layers: fields.count("num_hidden_layers")?,
            heads: Heads { q, kv, dim },
            rope_theta: fields.number_or("rope_theta", nested.unwrap_or(10_000.0))?,
            eps: fields.number_or("rms_norm_eps", 1e-6)?,
            qkv_bias: false,
            tied: fields.flag_or("tie_word_embeddings", false)?,
            max_positions: fields.count_or("max_position_embeddings", 32_768)?,
            classifier: listed.ends_with("ForSequenceClassification"),
            eos: fields.ids("eos_token_id"),
            bos: fields.ids("bos_token_id").first().copied(),
        };
        match architecture {
            Architecture::Qwen2 => qwen2::read(&fields, &mut config)?,
            Architecture::Llama => llama::read(&fields, &mut config)?,
        }
        Ok(config)
    }

    /// As `config.json`, the way Transformers reads it.
    pub fn to_json(&self, storage: Storage) -> Value {
        let (stem, model_type) = match self.architecture {
            Architecture::Qwen2 => (qwen2::STEM, "qwen2"),
            Architecture::Llama => (llama::STEM, "llama"),
        };
        let task = if self.classifier { "ForSequenceClassification" } else { "ForCausalLM" };
        let mut json = json!({
            "architectures": [format!("{stem}{task}")],
            "model_type": model_type,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads.q,
            "num_key_value_heads": self.heads.kv,
            "head_dim": self.heads.dim,
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_positions,
            "torch_dtype": storage.torch_name(),
        });
        match self.eos.as_slice() {
            [] => {}
            [id] => json["eos_token_id"] = json!(id),
            ids => json["eos_token_id"] = json!(ids),
        }
        if let Some(bos) = self.bos {
            json["bos_token_id"] = json!(bos);
        }
        if self.classifier {
            json["num_labels"] = json!(1);
            json["id2label"] = json!({"0": "LABEL_0"});
            json["label2id"] = json!({"LABEL_0": 0});
        }
        if self.architecture == Architecture::Llama {
            json["attention_bias"] = json!(self.qkv_bias);
        }
        json
    }

    /// Parameters of the decoder, without a scalar head.
    pub fn parameters(&self) -> usize {
        let c = self.hidden;
        let attention = c * (self.heads.qkv_width() + self.heads.q_width());
        let bias = if self.qkv_bias { self.heads.qkv_width() } else { 0 };
        let block = attention + bias + 3 * c * self.intermediate + 2 * c;
        let tables = if self.tied || self.classifier { 1 } else { 2 };
        self.layers * block + c + tables * self.vocab * c
    }
}
