//! `repairity generate`: text from a model.

use std::io::Write;
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
use repairity::tokenizer::Tokenizer;
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
    /// What the user says; a chat model answers it, another goes on from it
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
            (None, prompt) => vec![Map::from_iter([("prompt".to_string(), json!(prompt))])],
        };
        let answers = on!(self.device.open()?, device => self.generate(&device, lines))?;
        match (&self.output, &self.input) {
            (Some(path), _) => write_jsonl(path, &answers)?,
            (None, Some(_)) => print_lines(answers.iter().map(|line| json!(line).to_string()))?,
            (None, None) => {
                let text = answers.first().and_then(|line| line["text"].as_str()).unwrap_or_default();
                writeln!(std::io::stdout(), "{text}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
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
        let progress = Progress::new("generate", (requests.len() * self.max_new_tokens) as u64).rated("tokens");
        let mut written = 0;
        let mut on_token = |_: usize, _: u32| {
            written += 1;
            progress.set(written, "");
            interrupt::check()
        };
        let samples = generate::generate(device, &decoder, adapter.as_ref(), &requests, &settings, &mut on_token)?;
        progress.finish(&format!("{written} tokens"));
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
