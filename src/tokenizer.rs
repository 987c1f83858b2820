//! `tokenizer.json` and what belongs to it: special tokens, end tokens, the chat template.
//!
//! The algorithm itself is the `tokenizers` crate's; this module reads the files around it the way Transformers does. How a
//! conversation becomes text, and which tokens are trained on, is [`crate::prompt`]'s.

mod stream;
pub mod train;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

pub use stream::Stream;

/// A tokenizer with the special tokens and the chat template of its model's folder.
pub struct Tokenizer {
    pipeline: tokenizers::Tokenizer,
    /// The same pipeline, reading special tokens in the text as plain text. Most runs never need it.
    plain: OnceLock<tokenizers::Tokenizer>,
    /// Where it was read from, for errors.
    at: String,
    bos: Option<u32>,
    bos_token: String,
    eos: u32,
    eos_token: String,
    eos_ids: Vec<u32>,
    chat_template: Option<String>,
    vocab_size: usize,
    /// Whether the pipeline puts a space before every text (Llama), which a continuation must not have.
    prefixes_space: bool,
    hash: String,
}

impl Tokenizer {
    /// Reads a Hugging Face folder: `tokenizer.json`, which must be there, and `tokenizer_config.json`, `chat_template.jinja`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json` where they are. Errors name the file and the key.
    pub fn load(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let mut pipeline = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::input(path.display(), format!("not a tokenizer: {e}")))?;
        // Files often carry the padding and the truncation of the run that saved them; neither is ours.
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(|e| Error::input(path.display(), e))?;

        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let map = read_json(&folder.join("special_tokens_map.json"))?;
        let generation = read_json(&folder.join("generation_config.json"))?;
        let model = read_json(&folder.join("config.json"))?;

        let token = |key: &str| -> Result<Option<(u32, String)>> {
            let Some(text) = token_text(&config[key]).or_else(|| token_text(&map[key])) else { return Ok(None) };
            let id = pipeline.token_to_id(&text).ok_or_else(|| {
                let at = folder.join("tokenizer_config.json");
                Error::input(at.display(), format!("{key}: a token of the vocabulary expected, {text:?} found"))
            })?;
            Ok(Some((id, text)))
        };
        let listed: Vec<u32> = [(&generation, "generation_config.json"), (&model, "config.json")]
            .iter()
            .map(|(value, name)| ids(&value["eos_token_id"]).map_err(|what| Error::input(folder.join(name).display(), what)))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let (eos, eos_token) = match (token("eos_token")?, listed.first()) {
            (Some(found), _) => found,
            (None, Some(&id)) => {
                let text = pipeline.id_to_token(id).ok_or_else(|| {
                    Error::input(folder.display(), format!("eos_token_id: an id of the vocabulary expected, {id} found"))
                })?;
                (id, text)
            }
            (None, None) => {
                let what = "no end token: neither tokenizer_config.json's eos_token nor an eos_token_id was found";
                return Err(Error::input(folder.display(), what));
            }
        };
        let eos_ids = BTreeSet::from_iter(listed.into_iter().chain([eos])).into_iter().collect();

        let named = token("bos_token")?;
        let bos_token = named.as_ref().map(|(_, text)| text.clone()).unwrap_or_default();
        let bos = match config["add_bos_token"].as_bool() {
            Some(true) => named.map(|(id, _)| id),
            Some(false) => None,
            // What tokenizer.json's own post-processor does.
            None => {
                let with = encode(&pipeline, "a", true).map_err(|e| Error::input(path.display(), e))?;
                named.map(|(id, _)| id).filter(|id| with.first() == Some(id))
            }
        };

        let vocab_size = pipeline.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let chat_template = chat_template(folder, &config)?;
        let mut hash = Sha256::new();
        hash.update(&bytes);
        hash.update(format!("\0{bos:?}\0{eos}\0{eos_ids:?}\0{}", chat_template.as_deref().unwrap_or_default()));
        let mut tokenizer = Tokenizer {
            pipeline,
            plain: OnceLock::new(),
            at: path.display().to_string(),
            bos,
            bos_token,
            eos,
            eos_token,
            eos_ids,
            chat_template,
            vocab_size,
            prefixes_space: true,
            hash: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        tokenizer.prefixes_space = tokenizer.encode_continuation("a")? != tokenizer.encode("a", false)?;
        Ok(tokenizer)
    }

    /// The ids of `text`. Special tokens written in the text (`<|im_end|>`) are read as such. With `add_special`, the begin
    /// token is put first where the tokenizer adds one; nothing is ever added at the end.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let mut ids = encode(&self.pipeline, text, false).map_err(|e| Error::input(&self.at, e))?;
        if let (true, Some(bos)) = (add_special, self.bos) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The ids of `text` as it goes on after other text: without the space that tokenizers of the Llama family put before every
    /// text. With a byte-level tokenizer this is [`encode`](Tokenizer::encode).
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if self.prefixes_space {
            // What stands before is encoded too and taken off again. The first anchor that does not fuse with the text serves.
            for anchor in ["\n", "]"] {
                let before = self.encode(anchor, false)?;
                let both = self.encode(&format!("{anchor}{text}"), false)?;
                if let Some(rest) = both.strip_prefix(before.as_slice()) {
                    return Ok(rest.to_vec());
                }
            }
        }
        self.encode(text, false)
    }

    /// The ids of text that nobody vouches for: special tokens written in it are read as plain characters, so it cannot end a
    /// turn or open one.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.pipeline.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        encode(plain, text, false).map_err(|e| Error::input(&self.at, e))
    }

    /// The text of `ids`; with `skip_special`, without special tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.pipeline.decode(ids, skip_special).map_err(|e| Error::input(&self.at, e))
    }

    /// The token of an id, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.pipeline.id_to_token(id)
    }

    /// The id of a token, as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// Whether decoding can skip a token: `<|im_end|>` and its like.
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| self.pipeline.get_added_vocabulary().is_special_token(&token))
    }

    /// Every id at which generation stops, ascending: the tokenizer's end token, and the `eos_token_id` of
    /// `generation_config.json` and of `config.json`.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The tokenizer's own end token; without one in `tokenizer_config.json`, the first of the listed ids.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The end token's text, which templates call `eos_token`.
    pub fn eos_token(&self) -> &str {
        &self.eos_token
    }

    /// The begin token, only if the tokenizer puts one before a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The begin token's text, which templates call `bos_token`; empty when there is none.
    pub fn bos_token(&self) -> &str {
        &self.bos_token
    }

    /// The chat template: `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` (the one named `default` where it
    /// is a list).
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// One more than the largest id: the rows that an embedding must have at least.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// SHA-256, in hexadecimal, of everything that decides about tokens: `tokenizer.json`, the begin and end tokens, the chat
    /// template.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

fn encode(pipeline: &tokenizers::Tokenizer, text: &str, add_special: bool) -> tokenizers::Result<Vec<u32>> {
    Ok(pipeline.encode_fast(text, add_special)?.get_ids().to_vec())
}

/// The object in a JSON file, or null where there is no such file.
fn read_json(path: &Path) -> Result<Value> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::input(path.display(), e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// A special token is a string, or an object with its text under `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(String::from)
}

/// An `eos_token_id` is a number, a list of numbers, or null.
fn ids(value: &Value) -> std::result::Result<Vec<u32>, String> {
    let number = |value: &Value| -> std::result::Result<u32, String> {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| format!("eos_token_id: a token id or a list of them expected, {value} found"))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(number).collect(),
        one => Ok(vec![number(one)?]),
    }
}

fn chat_template(folder: &Path, config: &Value) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    match fs::read_to_string(&path) {
        Ok(text) => return Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(path, e)),
    }
    match &config["chat_template"] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(list) => {
            let found = list.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str());
            Ok(found.map(String::from))
        }
        other => {
            let at = folder.join("tokenizer_config.json");
            Err(Error::input(at.display(), format!("chat_template: a string or a list expected, {other} found")))
        }
    }
}
