//! What tests of the whole program share: running it, and checkpoints with random weights to run it on.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use repairity::checkpoint::Storage;
use repairity::device::{Cpu, Heads};
use repairity::model::{Architecture, Config, Decoder};
use repairity::problem::micro;
use repairity::prompt::{P_TRACE, user_text};
use repairity::tokenizer::Tokenizer;
use repairity::tokenizer::train::{FolderConfig, save_folder, train_byte_fallback, train_byte_level};

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + \
                      '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Runs the program.
pub fn repairity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_repairity")).args(args).output().unwrap()
}

/// Standard output.
pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error.
pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts exit code 2, nothing on standard output, and on standard error one line `error: ...`, before it that a stage started at
/// most; returns that line.
pub fn refused(args: &[&str]) -> String {
    let output = repairity(args);
    let text = err(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(out(&output), "", "{args:?}");
    let (before, line) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    assert!(line.starts_with("error: ") && before.lines().all(|line| line.contains(": starts")), "{args:?}: {text}");
    line.into()
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a checkpoint of two layers and width 16 with random weights into `folder`, as it might be downloaded: Qwen2 with a
/// byte-level tokenizer and ChatML, or Llama with a byte-fallback tokenizer and no template.
pub fn checkpoint(folder: &Path, architecture: Architecture) -> Config {
    fs::create_dir_all(folder).unwrap();
    let texts = micro::generate(5, 40).into_iter().map(|problem| user_text(&problem, P_TRACE));
    match architecture {
        Architecture::Qwen2 => {
            let trained = train_byte_level(texts, 512, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]).unwrap();
            let config = FolderConfig { chat_template: Some(CHATML), eos: "<|im_end|>", bos: None, pad: Some("<|endoftext|>") };
            save_folder(&trained, folder, &config).unwrap();
        }
        Architecture::Llama => {
            let trained = train_byte_fallback(texts, 512).unwrap();
            let config = FolderConfig { chat_template: None, eos: "</s>", bos: Some("<s>"), pad: None };
            save_folder(&trained, folder, &config).unwrap();
        }
    }
    fs::write(folder.join("config.json"), "{}").unwrap();
    let tokenizer = Tokenizer::load(folder).unwrap();
    let config = Config {
        architecture,
        vocab: tokenizer.vocab_size(),
        hidden: 16,
        intermediate: 24,
        layers: 2,
        heads: Heads { q: 2, kv: 1, dim: 8 },
        rope_theta: 10_000.0,
        eps: 1e-6,
        qkv_bias: architecture == Architecture::Qwen2,
        tied: false,
        max_positions: 8192,
        classifier: false,
        eos: vec![tokenizer.eos()],
        bos: tokenizer.bos(),
    };
    let device = Cpu::<f32>::new();
    Decoder::random(&device, config.clone(), 3).unwrap().save(&device, folder, Storage::F32, Vec::new()).unwrap();
    config
}
