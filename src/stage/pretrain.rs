//! Trains a small base model, from nothing with a tokenizer of its own or from an earlier phase, on what the `micro` suite writes:
//! programs, buggy programs, and repairs of which many are wrong. The bundled models were made by it.
//!
//! `repairity run recipes/micro-base.toml`. Out: `pretrain.out`, a folder in the Hugging Face layout.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::sft::Supervised;
use super::train::{self, Fitted, Plan};
use super::{Files, copy_tokenizer, fingerprint, instruction};
use crate::batch::Order;
use crate::checkpoint::Storage;
use crate::comm::Shared;
use crate::device::{Device, Heads};
use crate::error::{Error, Result};
use crate::model::{self, Config, Decoder};
use crate::optim::Hyper;
use crate::problem::micro::{self, Document, Mixture};
use crate::prompt::{self, Example};
use crate::recipe::{Architecture, Dtype, Pretrain, Recipe, Recompute, Schedule, Train};
use crate::record::Message;
use crate::telemetry::note;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::train::{FolderConfig, save_folder, train_byte_fallback, train_byte_level};

/// ChatML without a default system turn.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + \
                      '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const END_OF_TEXT: &str = "<|endoftext|>";
const END_OF_TURN: &str = "<|im_end|>";

/// Documents that the tokenizer is trained on; more change nothing but the time.
const TOKENIZER_DOCUMENTS: usize = 4000;
/// Documents whose loss is reported after each epoch.
const VALIDATION_DOCUMENTS: usize = 256;
/// Tokens of one forward and backward pass.
const MICRO_TOKENS: usize = 4096;

/// A document as turns, or as plain text.
fn turns(document: &Document, instruction: &str) -> Vec<Message> {
    match document {
        Document::Text(text) => vec![Message::assistant(text.as_str())],
        Document::Repair { problem, answer } => {
            vec![Message::user(prompt::user_text(problem, instruction)), Message::assistant(answer.as_str())]
        }
    }
}

/// Trains the tokenizer and writes its files.
fn make_tokenizer(settings: &Pretrain, texts: Vec<String>, folder: &Path) -> Result<()> {
    match settings.architecture {
        Architecture::Qwen2 => {
            let special = [END_OF_TEXT, "<|im_start|>", END_OF_TURN];
            let trained = train_byte_level(texts.into_iter(), settings.vocab, &special)?;
            let config = FolderConfig { chat_template: Some(CHATML), eos: END_OF_TURN, bos: None, pad: Some(END_OF_TEXT) };
            save_folder(&trained, folder, &config)
        }
        Architecture::Llama => {
            let trained = train_byte_fallback(texts.into_iter(), settings.vocab)?;
            save_folder(&trained, folder, &FolderConfig { chat_template: None, eos: "</s>", bos: Some("<s>"), pad: None })
        }
    }
}

fn tokens(tokenizer: &Tokenizer, document: &Document, instruction: &str) -> Result<Example> {
    let mut example = match document {
        Document::Text(text) => {
            let mut tokens = tokenizer.encode(text, true)?;
            tokens.push(tokenizer.id(END_OF_TEXT).unwrap_or(tokenizer.eos()));
            Example { mask: vec![true; tokens.len()], tokens }
        }
        Document::Repair { .. } => prompt::conversation(tokenizer, &turns(document, instruction), usize::MAX)?
            .ok_or_else(|| Error::input("corpus", "a document without an answer"))?,
    };
    // A base model learns the prompts too.
    example.mask.fill(true);
    Ok(example)
}

fn config(settings: &Pretrain, tokenizer: &Tokenizer) -> Config {
    Config {
        architecture: match settings.architecture {
            Architecture::Qwen2 => model::Architecture::Qwen2,
            Architecture::Llama => model::Architecture::Llama,
        },
        vocab: tokenizer.vocab_size(),
        hidden: settings.hidden,
        intermediate: settings.intermediate,
        layers: settings.layers,
        heads: Heads { q: settings.heads, kv: settings.kv_heads, dim: settings.head_dim },
        rope_theta: 10_000.0,
        eps: 1e-6,
        qkv_bias: settings.architecture == Architecture::Qwen2,
        tied: settings.tied,
        max_positions: 2048,
        classifier: false,
        eos: vec![tokenizer.eos()],
        bos: tokenizer.bos(),
    }
}

/// What a recipe's model reads: the documents that it trains on, then those that it validates on. No program of a held-out set is in
/// any. Errors: a recipe without a section `pretrain`.
pub fn documents(recipe: &Recipe) -> Result<Vec<Document>> {
    let settings = section(recipe)?;
    let held_out: HashSet<String> = settings
        .held_out
        .iter()
        .flat_map(|set| micro::generate(set.seed, set.count))
        .flat_map(|problem| [problem.buggy, problem.reference])
        .flatten()
        .collect();
    let mixture = Mixture {
        plain: settings.programs,
        traced: 1.0 - settings.direct,
        direct_right: settings.right_direct,
        traced_right: settings.right_trace,
        ..Mixture::default()
    };
    note(&format!("pretrain: writing {} documents; {} programs are held out", settings.documents, held_out.len()));
    let seed = settings.seed.unwrap_or(recipe.seed);
    Ok(micro::corpus(seed, settings.documents + VALIDATION_DOCUMENTS, &mixture, &held_out))
}

fn section(recipe: &Recipe) -> Result<&Pretrain> {
    recipe.pretrain.as_ref().ok_or_else(|| Error::input("pretrain", "a section [pretrain] expected"))
}

/// Runs the stage.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<Fitted> {
    let group = comm.group();
    let settings = section(recipe)?;
    let seed = settings.seed.unwrap_or(recipe.seed);
    let instruction = instruction(recipe);
    let documents = documents(recipe)?;
    let text = |document: &Document| {
        turns(document, instruction).into_iter().map(|message| message.content).collect::<Vec<_>>().join("\n")
    };
    if group.is_first() {
        match &settings.start {
            Some(start) => {
                fs::create_dir_all(&settings.out).map_err(|e| Error::io(&settings.out, e))?;
                copy_tokenizer(start, &settings.out)?;
            }
            None => make_tokenizer(settings, documents.iter().take(TOKENIZER_DOCUMENTS).map(text).collect(), &settings.out)?,
        }
    }
    group.any("tokenizer", false)?;
    let tokenizer = Tokenizer::load(&settings.out)?;
    let mut examples = documents.iter().map(|document| tokens(&tokenizer, document, instruction)).collect::<Result<Vec<_>>>()?;
    let validation = examples.split_off(settings.documents);
    let total: usize = examples.iter().map(|example| example.tokens.len()).sum();
    let mean = (total / examples.len()).max(1);
    note(&format!("pretrain: {total} tokens, {mean} a document, {} ids", tokenizer.vocab_size()));

    let decoder = match &settings.start {
        Some(start) => Decoder::load(device, start)?,
        None => Decoder::random(device, config(settings, &tokenizer), seed)?,
    };
    let micro = (MICRO_TOKENS.min(settings.batch_tokens) / mean).max(1);
    let order = Order {
        count: examples.len(),
        per_micro: micro,
        accumulation: (settings.batch_tokens / (micro * mean)).max(1),
        epochs: settings.epochs,
        seed,
        shuffle: true,
    };
    let files = Files::of(recipe);
    let plan = Plan {
        name: "pretrain",
        order,
        schedule: Schedule::Cosine,
        learning_rate: settings.learning_rate,
        warmup_ratio: settings.warmup_ratio,
        hyper: Hyper {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
        },
        train: Train::Full,
        checkpoint_every: 200,
        keep: recipe.keep_checkpoints,
        patience: None,
        seed,
        result: settings.out.clone(),
        folder: files.out.join("pretrain"),
        metrics: files.metrics(),
        identity: fingerprint(&json!({"seed": seed, "pretrain": settings}), examples.iter().map(|example| &example.tokens)),
    };
    note(&format!("pretrain: {} parameters, {} steps", decoder.config.parameters(), plan.order.steps()));
    let ids = (0..examples.len()).map(|index| format!("document {index}")).collect();
    let storage = match settings.dtype {
        Dtype::Bf16 => Storage::Bf16,
        Dtype::F32 => Storage::F32,
    };
    let base = String::new();
    let mut task = Supervised { decoder, adapter: None, examples, ids, validation, recompute: Recompute::None, base, storage };
    train::fit(device, comm, &mut task, &plan)
}
