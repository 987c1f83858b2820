//! `repairity score`: per-token log-probabilities, or rewards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use repairity::device::Device;
use repairity::error::{Error, Result};
use repairity::loss::ppo::ScoreScale;
use repairity::model::{Adapter, Config, Decoder};
use repairity::prompt;
use repairity::record::{read_jsonl, write_jsonl};
use repairity::score::{self, RewardModel};
use repairity::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::device::{DeviceArgs, on};
use super::print_lines;

/// The arguments of `score`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, a folder in the Hugging Face layout; a scalar head gives rewards
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder; one with a head gives rewards
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// JSONL: {"tokens": [...]}, {"text": "..."} or {"prompt": "...", "completion": "..."} a line
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the scored lines go; left out, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

type Line = Map<String, Value>;

/// What a line asks to be scored.
enum Asked {
    Tokens(Vec<u32>),
    Text(String),
    Pair(String, String),
}

impl Asked {
    fn read(path: &Path, number: usize, line: &Line) -> Result<Asked> {
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(String::from);
        if let Some(tokens) = line.get("tokens") {
            return serde_json::from_value(tokens.clone())
                .map(Asked::Tokens)
                .map_err(|e| Error::input(path.display(), format!("record {number}: tokens: {e}")));
        }
        match (text("text"), text("prompt"), text("completion")) {
            (Some(text), ..) => Ok(Asked::Text(text)),
            (None, Some(prompt), Some(completion)) => Ok(Asked::Pair(prompt, completion)),
            _ => {
                let what = format!("record {number}: `tokens`, `text`, or `prompt` and `completion` expected");
                Err(Error::input(path.display(), what))
            }
        }
    }

    fn tokens(&self, tokenizer: Option<&Tokenizer>, model: &Path, reward: bool) -> Result<Vec<u32>> {
        if let Asked::Tokens(tokens) = self {
            return Ok(tokens.clone());
        }
        let tokenizer =
            tokenizer.ok_or_else(|| Error::input(model.display(), "no readable tokenizer.json, which scoring text needs"))?;
        match self {
            Asked::Pair(prompt, answer) if reward => prompt::reward_tokens(tokenizer, prompt, answer, usize::MAX),
            Asked::Pair(prompt, answer) => Ok([tokenizer.encode(prompt, true)?, tokenizer.encode_continuation(answer)?].concat()),
            Asked::Text(text) => tokenizer.encode(text, true),
            Asked::Tokens(tokens) => Ok(tokens.clone()),
        }
    }
}

impl Args {
    /// Writes each line with its `tokens` and `logprobs`, or its `reward`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut lines: Vec<Line> = read_jsonl(&self.input)?;
        let asked =
            lines.iter().enumerate().map(|(i, line)| Asked::read(&self.input, i + 1, line)).collect::<Result<Vec<_>>>()?;
        on!(self.device.open()?, device => self.score(&device, &asked, &mut lines))?;
        match &self.output {
            Some(path) => write_jsonl(path, &lines)?,
            None => print_lines(lines.iter().map(|line| json!(line).to_string()))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn score<D: Device>(&self, device: &D, asked: &[Asked], lines: &mut [Line]) -> Result<()> {
        if let Some(model) = self.reward_model(device)? {
            let tokens = self.tokens(asked, model.tokenizer.as_ref(), model.decoder.config.vocab, true)?;
            for (line, (reward, tokens)) in lines.iter_mut().zip(model.score_tokens(device, &tokens)?.into_iter().zip(tokens)) {
                line.insert("tokens".into(), json!(tokens));
                line.insert("reward".into(), json!(reward as f32));
            }
            return Ok(());
        }
        let decoder = Decoder::load(device, &self.model)?;
        let adapter = self.adapter.as_ref().map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
        let tokenizer = Tokenizer::load(&self.model).ok();
        let tokens = self.tokens(asked, tokenizer.as_ref(), decoder.config.vocab, false)?;
        let logprobs = score::logprobs(device, &decoder, adapter.as_ref(), &tokens)?;
        for (line, (logprobs, tokens)) in lines.iter_mut().zip(logprobs.into_iter().zip(tokens)) {
            line.insert("tokens".into(), json!(tokens));
            line.insert("logprobs".into(), json!(logprobs.into_iter().map(|x| x as f32).collect::<Vec<f32>>()));
        }
        Ok(())
    }

    /// The model as a reward model, if it or its adapter has a scalar head.
    fn reward_model<D: Device>(&self, device: &D) -> Result<Option<RewardModel<D>>> {
        let config = Config::load(&self.model)?;
        if let Some(folder) = &self.adapter {
            return match Adapter::load_head(device, &config, folder)? {
                Some(_) => {
                    let scale = ScoreScale { mean: 0.0, deviation: 1.0 };
                    RewardModel::with_adapter(device, &self.model, folder, scale).map(Some)
                }
                None => Ok(None),
            };
        }
        if config.classifier { RewardModel::load(device, &self.model).map(Some) } else { Ok(None) }
    }

    fn tokens(&self, asked: &[Asked], tokenizer: Option<&Tokenizer>, vocab: usize, reward: bool) -> Result<Vec<Vec<u32>>> {
        let mut all = Vec::with_capacity(asked.len());
        for (index, asked) in asked.iter().enumerate() {
            let tokens = asked.tokens(tokenizer, &self.model, reward)?;
            if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
                let what = format!("record {}: token {id} where the model knows {vocab}", index + 1);
                return Err(Error::input(self.input.display(), what));
            }
            all.push(tokens);
        }
        Ok(all)
    }
}
