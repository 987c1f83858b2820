//! Training of small tokenizers, for base models of our own: one in Qwen's style (byte level), one in Llama's (bytes only where
//! characters are unknown). The same texts in the same order give the same file.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Trainer,
};

use crate::error::{Error, Result};
use crate::record::write_atomic;

/// Qwen2's split: contractions, words with one leading character, digits one by one, punctuation, line ends, spaces.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// What a merge may not cross while a Llama-style vocabulary is trained; when it encodes there is no split, as in Llama.
const WORDS_AFTER_METASPACE: &str = r"\p{N}|\n+|▁*\p{L}+|▁*[^▁\n\p{L}\p{N}]+|▁+";

/// Trains a byte-level BPE in Qwen's style: no normaliser, every byte has a token, `special` tokens come last. `vocab` counts
/// all tokens; few texts can give fewer. Errors if `vocab` has no room for 256 bytes and the special tokens.
pub fn train_byte_level(texts: impl Iterator<Item = String>, vocab: usize, special: &[&str]) -> Result<tokenizers::Tokenizer> {
    if vocab < 256 + special.len() {
        return Err(Error::input("vocab", format!("at least {} expected, {vocab} found", 256 + special.len())));
    }
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
    ]});
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab - special.len())
        .initial_alphabet(HashSet::from_iter(ByteLevel::alphabet()));
    let model = train(BPE::builder(), trainer.build(), texts, None, &split)?;
    let first = model["vocab"].as_object().map_or(0, |vocab| vocab.len());
    let special = special.iter().enumerate().map(|(index, text)| (first + index, *text));
    assemble(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.map(|(id, text)| added_token(id, text)).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": split,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": model,
    }))
}

/// Trains a BPE in the style of Llama and CodeLlama: spaces as `▁`, one put first, `<unk>`, `<s>` and `</s>` as 0, 1 and 2, then
/// a token for each byte, `<s>` before every text. Characters outside ASCII are spelled as bytes. `vocab` counts all tokens; few
/// texts can give fewer. Errors if `vocab` has no room for the 259 fixed tokens and ASCII.
pub fn train_byte_fallback(texts: impl Iterator<Item = String>, vocab: usize) -> Result<tokenizers::Tokenizer> {
    let alphabet: HashSet<char> = (' '..='~').filter(|c| *c != ' ').chain(['\n', '\t', '▁']).collect();
    let fixed: Vec<String> =
        ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain((0..256).map(|byte| format!("<0x{byte:02X}>"))).collect();
    let least = fixed.len() + alphabet.len();
    if vocab < least {
        return Err(Error::input("vocab", format!("at least {least} expected, {vocab} found")));
    }
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    let split = json!({
        "type": "Split", "pattern": {"Regex": WORDS_AFTER_METASPACE}, "behavior": "Isolated", "invert": false,
    });
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .special_tokens(fixed.into_iter().map(|text| AddedToken::from(text, true)).collect())
        .limit_alphabet(alphabet.len())
        .initial_alphabet(alphabet);
    let model = BPE::builder().unk_token("<unk>".into()).fuse_unk(true).byte_fallback(true);
    let model = train(model, trainer.build(), texts, Some(&normalizer), &split)?;
    assemble(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added_token(0, "<unk>"), added_token(1, "<s>"), added_token(2, "</s>")],
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": model,
    }))
}

/// What `tokenizer_config.json` says besides the vocabulary.
#[derive(Debug, Clone, Copy, Default)]
pub struct FolderConfig<'a> {
    /// The chat template, in Jinja.
    pub chat_template: Option<&'a str>,
    /// The end token's text.
    pub eos: &'a str,
    /// The begin token's text.
    pub bos: Option<&'a str>,
    /// The padding token's text; nothing here pads, other programs do.
    pub pad: Option<&'a str>,
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into `folder` as Transformers' `AutoTokenizer` reads them. Errors if a named
/// token is not in the vocabulary.
pub fn save_folder(tokenizer: &tokenizers::Tokenizer, folder: &Path, config: &FolderConfig<'_>) -> Result<()> {
    let at = folder.join("tokenizer_config.json");
    for (key, text) in [("eos_token", Some(config.eos)), ("bos_token", config.bos), ("pad_token", config.pad)] {
        if let Some(text) = text.filter(|text| tokenizer.token_to_id(text).is_none()) {
            return Err(Error::input(at.display(), format!("{key}: a token of the vocabulary expected, {text:?} found")));
        }
    }
    let mut fields = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": config.bos,
        "eos_token": config.eos,
        "pad_token": config.pad,
        "unk_token": tokenizer.token_to_id("<unk>").map(|_| "<unk>"),
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1_000_000_000,
    });
    if let Some(template) = config.chat_template {
        fields["chat_template"] = template.into();
    }
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join("tokenizer.json");
    let text = tokenizer.to_string(true).map_err(|e| Error::input(path.display(), e))?;
    write_atomic(&path, text.as_bytes())?;
    write_atomic(&at, format!("{fields:#}\n").as_bytes())
}

fn added_token(id: usize, text: &str) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    })
}

/// Runs the trainer over the pieces that `normalizer` and `split` leave, and gives the model as `tokenizer.json` writes it.
fn train(
    model: tokenizers::models::bpe::BpeBuilder,
    mut trainer: BpeTrainer,
    texts: impl Iterator<Item = String>,
    normalizer: Option<&Value>,
    split: &Value,
) -> Result<Value> {
    let failed = |e: &dyn std::fmt::Display| Error::input("tokenizer training", e);
    let normalizer: Option<NormalizerWrapper> =
        normalizer.map(|value| serde_json::from_value(value.clone())).transpose().map_err(|e| failed(&e))?;
    let split: PreTokenizerWrapper = serde_json::from_value(split.clone()).map_err(|e| failed(&e))?;
    let mut model = model.build().map_err(|e| failed(&e))?;
    let texts: Vec<String> = texts.collect();
    trainer
        .feed(texts.iter(), |text| {
            let mut text = NormalizedString::from(text);
            if let Some(normalizer) = &normalizer {
                normalizer.normalize(&mut text)?;
            }
            let mut pieces = PreTokenizedString::from(text);
            split.pre_tokenize(&mut pieces)?;
            let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
            Ok(pieces.into_iter().map(|(piece, ..)| piece.to_string()).collect())
        })
        .map_err(|e| failed(&e))?;
    trainer.train(&mut model).map_err(|e| failed(&e))?;
    serde_json::to_value(&model).map_err(|e| failed(&e))
}

fn assemble(file: Value) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(file.to_string()).map_err(|e| Error::input("tokenizer training", e))
}
