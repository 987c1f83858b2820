//! `repairity generate`: text from a model.

use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use repairity::device::{Device, Sampling};
use repairity::error::{Error, Result};
use repairity::generate::{self, Request, Settings};
use repairity::model::{Adapter, Decoder};
use repairity::prompt;
use repairity::record::{Message, read_jsonl, write_jsonl};
use repairity::rng::key;
use repairity::telemetry::{Progress, interrupt};
use repairity::tokenizer::{Stream, Tokenizer};
use serde_json::{Map, Value, json};

use super::device::{DeviceArgs, on};
use super::print_lines;

/// The arguments of `generate`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["prompt", "input"]))]
pub struct Args {
    /// The model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What the user says, or - to read it from standard input; a chat model answers it, another goes on from it. Without --output,
    /// the text is printed as it is written
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Many prompts, JSONL: {"prompt": "..."}, {"messages": [...]} or {"tokens": [...]} a line
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the answers go; left out, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tokens to write at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Sampling temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Samples from the smallest set of most likely tokens whose probability reaches this
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Samples from this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sequences decoded together
    #[arg(long, value_name = "B", default_value_t = 16)]
    batch: usize,
    /// The random stream
    #[arg(long, value_name = "S", default_value_t = 17)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

type Line = Map<String, Value>;

impl Args {
    /// Writes what the model answers: the text itself for `--prompt`, a record with `text` and `tokens` for each line of
    /// `--input`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let bad = |flag: &str, what: &str| Error::input(flag, what);
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(bad("--temperature", "a number of at least 0 expected").into());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(bad("--top-p", "a number above 0, at most 1, expected").into());
        }
        let lines: Vec<Line> = match (&self.input, &self.prompt) {
            (Some(path), _) => read_jsonl(path)?,
            (None, prompt) => vec![Map::from_iter([("prompt".to_string(), json!(said(prompt.as_deref())?))])],
        };
        let answers = on!(self.device.open()?, device => self.generate(&device, lines))?;
        match (&self.output, &self.input) {
            (Some(path), _) => write_jsonl(path, &answers)?,
            (None, Some(_)) => print_lines(answers.iter().map(|line| json!(line).to_string()))?,
            // It was printed as it was written.
            (None, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the text is printed as it is written.
    fn streams(&self) -> bool {
        self.output.is_none() && self.input.is_none()
    }

    fn prompt_tokens(&self, number: usize, line: &Line, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        let source = self.input.as_ref().map_or("--prompt".to_string(), |path| path.display().to_string());
        let bad = |what: String| Error::input(&source, format!("record {number}: {what}"));
        if let Some(tokens) = line.get("tokens") {
            return serde_json::from_value(tokens.clone()).map_err(|e| bad(format!("tokens: {e}")));
        }
        let messages: Vec<Message> = match (line.get("messages"), line.get("prompt").and_then(Value::as_str)) {
            (Some(messages), _) => serde_json::from_value(messages.clone()).map_err(|e| bad(format!("messages: {e}")))?,
            (None, Some(prompt)) => vec![Message::user(prompt)],
            (None, None) => return Err(bad("`prompt`, `messages` or `tokens` expected".into())),
        };
        let tokenizer = tokenizer.ok_or_else(|| Error::input(self.model.display(), "no readable tokenizer.json"))?;
        match tokenizer.chat_template() {
            Some(_) => prompt::prompt_tokens(tokenizer, &messages),
            // Without turns to close, text is gone on from as it stands.
            None => tokenizer.encode(&messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n\n"), true),
        }
    }

    fn generate<D: Device>(&self, device: &D, lines: Vec<Line>) -> Result<Vec<Line>> {
        let decoder = Decoder::load(device, &self.model)?;
        let adapter = self.adapter.as_ref().map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
        let tokenizer = Tokenizer::load(&self.model).ok();
        let mut requests = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let prompt = self.prompt_tokens(index + 1, line, tokenizer.as_ref())?;
            if let Some(id) = prompt.iter().find(|id| **id as usize >= decoder.config.vocab) {
                let at = self.input.as_ref().map_or("--prompt".to_string(), |path| path.display().to_string());
                let what = format!("record {}: token {id} where the model knows {}", index + 1, decoder.config.vocab);
                return Err(Error::input(at, what));
            }
            requests.push(Request { prompt, key: key(self.seed, "generate", index as u64) });
        }
        let settings = Settings {
            sampling: Sampling { temperature: self.temperature as f32, top_k: self.top_k, top_p: self.top_p as f32 },
            max_new_tokens: self.max_new_tokens,
            eos: tokenizer.as_ref().map_or(decoder.config.eos.clone(), |tokenizer| tokenizer.eos_ids().to_vec()),
            batch: self.batch,
        };
        let adapter = adapter.as_ref();
        let samples = match &tokenizer {
            Some(tokenizer) if self.streams() => stream(tokenizer, &mut std::io::stdout().lock(), |on_token| {
                generate::generate(device, &decoder, adapter, &requests, &settings, on_token)
            })?,
            _ => {
                let progress = Progress::new("generate", (requests.len() * self.max_new_tokens) as u64).rated("tokens");
                let mut written = 0;
                let mut on_token = |_: usize, _: u32| {
                    written += 1;
                    progress.set(written, "");
                    interrupt::check()
                };
                let samples = generate::generate(device, &decoder, adapter, &requests, &settings, &mut on_token)?;
                progress.finish(&format!("{written} tokens"));
                samples
            }
        };
        lines
            .into_iter()
            .zip(samples)
            .map(|(mut line, sample)| {
                if let Some(tokenizer) = &tokenizer {
                    line.insert("text".into(), json!(tokenizer.decode(&sample.tokens, true)?));
                }
                line.insert("output_tokens".into(), json!(sample.tokens));
                line.insert("ended".into(), json!(sample.ended));
                Ok(line)
            })
            .collect()
    }
}

/// A prompt of the command line: itself, or standard input for `-`.
fn said(prompt: Option<&str>) -> Result<String> {
    let mut text = String::new();
    match prompt {
        Some("-") => std::io::stdin().read_to_string(&mut text).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => Error::input("standard input", e),
            _ => Error::io("standard input", e),
        })?,
        prompt => {
            text.push_str(prompt.unwrap_or_default());
            0
        }
    };
    Ok(text)
}

/// Writes the tokens that `sample` tells of to `out` as text, each piece as soon as it is certain, and a line's end after the last.
/// There is no progress beside it: the text is its own.
fn stream<T>(
    tokenizer: &Tokenizer,
    out: &mut dyn Write,
    sample: impl FnOnce(&mut dyn FnMut(usize, u32) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let mut pieces = Stream::new(tokenizer, true);
    let mut put =
        |piece: &str| out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e));
    let sampled = sample(&mut |_, token| {
        pieces.push(token)?.map_or(Ok(()), |piece| put(&piece))?;
        interrupt::check()
    });
    // Interrupted, what was written is ended all the same: the prompt of a shell comes on a line of its own.
    if matches!(sampled, Ok(_) | Err(Error::Interrupted)) {
        let rest = pieces.finish()?.unwrap_or_default();
        put(&format!("{rest}\n"))?;
    }
    sampled
}
