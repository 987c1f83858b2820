//! Scores of given text: the log-prob of each token under a model, or a reward model's value at the last one.

use std::path::Path;

use serde_json::Value;

use crate::batch::NextTokens;
use crate::checkpoint::{self, Tensors};
use crate::comm::Shared;
use crate::device::{Device, Real};
use crate::error::{Error, Result};
use crate::loss::ppo::ScoreScale;
use crate::model::head::{LogProbs, Scores};
use crate::model::{Adapter, Decoder, Packed, ScalarHead};
use crate::prompt;
use crate::tokenizer::Tokenizer;

/// Sequences scored in one pass.
pub const PASS: usize = 16;

/// `log P(token | those before it)` of every token after the first, for each sequence.
pub fn logprobs<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    adapter: Option<&Adapter<D>>,
    sequences: &[Vec<u32>],
) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::with_capacity(sequences.len());
    for chunk in sequences.chunks(PASS) {
        let views: Vec<&[u32]> = chunk.iter().map(Vec::as_slice).collect();
        let batch = Packed::new(device, &views)?;
        let next = NextTokens::after(views.iter().map(|view| (*view, 1)));
        let hidden = decoder.infer(device, &batch, adapter)?;
        let head = LogProbs::new(device, decoder, &hidden, &next.rows, &next.targets, 1.0)?;
        let mut flat = device.download(&head.logprob)?.into_iter().map(|x| x.f64());
        all.extend(chunk.iter().map(|sequence| flat.by_ref().take(sequence.len().saturating_sub(1)).collect::<Vec<f64>>()));
    }
    Ok(all)
}

/// A reward model with its tokenizer.
pub struct RewardModel<D: Device> {
    /// The decoder.
    pub decoder: Decoder<D>,
    /// Its adapter, where it was trained with one.
    pub adapter: Option<Adapter<D>>,
    /// The scalar head.
    pub head: ScalarHead<D>,
    /// Its own tokenizer; none where the folder has none, and only tokens can be scored.
    pub tokenizer: Option<Tokenizer>,
    /// What its scores are brought to mean 0 and deviation 1 by.
    pub scale: ScoreScale,
}

impl<D: Device> RewardModel<D> {
    /// Reads a `...ForSequenceClassification` folder, or a PEFT folder with a head, whose config names its base. Without
    /// `score_scale.json` the scale is (0, 1).
    pub fn load(device: &D, folder: &Path) -> Result<Self> {
        Self::read(device, folder, &|base| Decoder::load_body(device, base))
    }

    /// The same with the decoder's blocks shared out over the ranks: [`Decoder::load_shared`].
    pub fn load_shared(device: &D, comm: &Shared<D>, folder: &Path) -> Result<Self> {
        Self::read(device, folder, &|base| Decoder::load_shared(device, comm, base, false))
    }

    fn read(device: &D, folder: &Path, decoder: &dyn Fn(&Path) -> Result<Decoder<D>>) -> Result<Self> {
        let scale_path = folder.join("score_scale.json");
        let scale = match scale_path.exists() {
            true => {
                serde_json::from_value(checkpoint::read_json(&scale_path)?).map_err(|e| Error::input(scale_path.display(), e))?
            }
            false => ScoreScale { mean: 0.0, deviation: 1.0 },
        };
        let config = folder.join("adapter_config.json");
        if config.exists() {
            let json = checkpoint::read_json(&config)?;
            let base = json.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
            return Self::on_base(device, decoder(Path::new(base))?, Path::new(base), folder, scale);
        }
        let decoder = decoder(folder)?;
        let tensors = Tensors::open_folder(folder)?;
        let head = ScalarHead::from_tensors(device, &tensors, ScalarHead::<D>::NAME, decoder.config.hidden)?;
        let head = head.ok_or_else(|| Error::input(folder.display(), "tensor score.weight is missing: not a reward model"))?;
        Ok(RewardModel { decoder, adapter: None, head, tokenizer: Tokenizer::load(folder).ok(), scale })
    }

    /// Reads a PEFT folder with a head, on this base.
    pub fn with_adapter(device: &D, base: &Path, folder: &Path, scale: ScoreScale) -> Result<Self> {
        Self::on_base(device, Decoder::load_body(device, base)?, base, folder, scale)
    }

    fn on_base(device: &D, decoder: Decoder<D>, base: &Path, folder: &Path, scale: ScoreScale) -> Result<Self> {
        let adapter = Adapter::load(device, &decoder.config, folder)?;
        let head = Adapter::load_head(device, &decoder.config, folder)?;
        let head = head.ok_or_else(|| Error::input(folder.display(), "tensor base_model.model.score.weight is missing"))?;
        Ok(RewardModel { decoder, adapter: Some(adapter), head, tokenizer: Tokenizer::load(base).ok(), scale })
    }

    /// The raw score of each token sequence.
    pub fn score_tokens(&self, device: &D, sequences: &[Vec<u32>]) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(sequences.len());
        for chunk in sequences.chunks(PASS) {
            if let Some(empty) = chunk.iter().position(Vec::is_empty) {
                return Err(Error::input(format!("sequence {}", scores.len() + empty), "at least one token expected"));
            }
            let views: Vec<&[u32]> = chunk.iter().map(Vec::as_slice).collect();
            let batch = Packed::new(device, &views)?;
            let hidden = self.decoder.infer(device, &batch, self.adapter.as_ref())?;
            let head = Scores::new(device, &self.head, &hidden, &last_tokens(&batch))?;
            scores.extend(device.download(&head.score)?.iter().map(|score| score.f64()));
        }
        Ok(scores)
    }

    /// The raw score of each (prompt, answer).
    pub fn score_texts(&self, device: &D, texts: &[(&str, &str)], max_tokens: usize) -> Result<Vec<f64>> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| Error::input("reward model", "it has no tokenizer.json"))?;
        let read = |(prompt, answer): &(&str, &str)| prompt::reward_tokens(tokenizer, prompt, answer, max_tokens);
        self.score_tokens(device, &texts.iter().map(read).collect::<Result<Vec<_>>>()?)
    }
}

/// The index of each packed sequence's last token.
pub fn last_tokens<D: Device>(batch: &Packed<D>) -> Vec<u32> {
    batch.bounds.host[1..].iter().map(|end| end - 1).collect()
}
