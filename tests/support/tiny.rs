//! Tiny models, tokenizers, records and folders that the tests make for themselves.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::Path;

use repairity::checkpoint::Storage;
use repairity::device::{Device, Heads};
use repairity::model::config::Architecture;
use repairity::model::lora::{LoraConfig, Target};
use repairity::model::{Adapter, Config, Decoder, ScalarHead};
use repairity::record::{Check, Conversation, Message, Problem, Split};
use repairity::rng::Rng;
use repairity::tokenizer::Tokenizer;
use repairity::tokenizer::train::{FolderConfig, save_folder, train_byte_level};
use repairity::weights::Param;

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Two blocks; Qwen2's with tied tables and biases, Llama's without either.
pub fn config(architecture: Architecture, vocab: usize) -> Config {
    let qwen = architecture == Architecture::Qwen2;
    Config {
        architecture,
        vocab,
        hidden: 16,
        intermediate: 24,
        layers: 2,
        heads: Heads { q: 4, kv: 2, dim: 6 },
        rope_theta: 10_000.0,
        eps: 1e-6,
        qkv_bias: qwen,
        tied: qwen,
        max_positions: 512,
        classifier: false,
        eos: Vec::new(),
        bos: None,
    }
}

/// Sets every element to `mean + deviation * N(0, 1)`.
pub fn fill<D: Device>(device: &D, param: &mut Param<D>, rng: &mut Rng, mean: f64, deviation: f64) {
    let values: Vec<f32> = (0..param.elements()).map(|_| (mean + deviation * rng.normal()) as f32).collect();
    param.write(device, &values).unwrap();
}

/// A decoder whose every weight matters: matrices that keep the size of what they multiply, biases and norms off their usual
/// start, so that attention looks at some tokens more than at others.
pub fn decoder<D: Device>(device: &D, config: Config, seed: u64) -> Decoder<D> {
    let mut decoder = Decoder::random(device, config, seed).unwrap();
    for (index, param) in decoder.params_mut().into_iter().enumerate() {
        let mut rng = Rng::new(seed, "tiny decoder", index as u64);
        let shape = param.parts[0].shape.clone();
        match shape.len() {
            1 if param.parts[0].name.ends_with("norm.weight") => fill(device, param, &mut rng, 1.0, 0.1),
            1 => fill(device, param, &mut rng, 0.0, 0.1),
            _ => fill(device, param, &mut rng, 0.0, 1.0 / (shape[1] as f64).sqrt()),
        }
    }
    decoder
}

/// An adapter on every linear map, its `b` drawn too: one that was trained. With `spread` 0 it is a fresh one.
pub fn adapter<D: Device>(device: &D, model: &Config, dropout: f64, spread: f64, seed: u64) -> Adapter<D> {
    let config = LoraConfig { rank: 2, alpha: 4.0, dropout, targets: Target::ALL.to_vec() };
    let mut adapter = Adapter::new(device, config, model, seed).unwrap();
    if spread > 0.0 {
        for (index, param) in adapter.params_mut().into_iter().skip(1).step_by(2).enumerate() {
            fill(device, param, &mut Rng::new(seed, "tiny adapter", index as u64), 0.0, spread);
        }
    }
    adapter
}

/// Writes a byte-level tokenizer with a chat template, and gives it back.
pub fn tokenizer(folder: &Path) -> Tokenizer {
    let texts = ["def f(x):\n    return x + 1\n", "Please fix the bug in this code."].map(String::from);
    let trained = train_byte_level(texts.into_iter(), 270, &["<|im_start|>", "<|im_end|>"]).unwrap();
    let config = FolderConfig { chat_template: Some(TEMPLATE), eos: "<|im_end|>", ..FolderConfig::default() };
    save_folder(&trained, folder, &config).unwrap();
    Tokenizer::load(folder).unwrap()
}

/// Writes a whole model folder, and gives the model back.
pub fn policy<D: Device>(device: &D, folder: &Path, seed: u64) -> Decoder<D> {
    let tokenizer = tokenizer(folder);
    let decoder = decoder(device, config(Architecture::Qwen2, tokenizer.vocab_size()), seed);
    decoder.save(device, folder, Storage::F32, Vec::new()).unwrap();
    decoder
}

/// Writes a reward model's folder: this decoder, this head and a tokenizer.
pub fn reward_model<D: Device>(device: &D, folder: &Path, mut decoder: Decoder<D>, head: &ScalarHead<D>) {
    tokenizer(folder);
    decoder.config.classifier = true;
    let score = head.named(device, ScalarHead::<D>::NAME).unwrap();
    decoder.save(device, folder, Storage::F32, vec![score]).unwrap();
}

/// A problem of the training split, whose prompt is one of a kind.
pub fn problem(i: usize) -> Problem {
    Problem {
        id: i.to_string(),
        suite: "tiny".into(),
        kind: "operator".into(),
        difficulty: "easy".into(),
        prompt: format!("Add {i}."),
        buggy: None,
        reference: None,
        language: "python".into(),
        check: Check::statements(Vec::new(), 1.0),
        split: Some(Split::Train),
        extra: Default::default(),
    }
}

/// A question and its answer, of which there are five.
pub fn conversation(say: &str, i: usize) -> Conversation {
    let messages = vec![Message::user(format!("{say} {i}")), Message::assistant(format!("x + {}", i % 5))];
    Conversation { id: i.to_string(), messages, extra: Default::default() }
}
