//! Reasoning-trace learning: cross-entropy on trace and answer (the paper's Eq 7), or on the answer alone (Eq 8).
//!
//! `repairity sft RECIPE`. In: `sft.jsonl`, or `sft.data`. Out: `sft/adapter` (PEFT), or `sft/model` with `train = "full"`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::checkpoints::Piece;
use super::train::{self, Fitted, Plan, Task};
use super::{Files, copy_tokenizer, fingerprint, imported, load, spread};
use crate::batch::{NextTokens, Order};
use crate::checkpoint::Storage;
use crate::comm::{Group, Shared};
use crate::device::record::{Kind, span};
use crate::device::{Device, Dropout};
use crate::error::{Error, Result};
use crate::hygiene::Dropped;
use crate::loss::{self, Pending};
use crate::model::lora::LoraConfig;
use crate::model::{Adapter, Decoder, OnLayer, Packed, Pass};
use crate::optim::Hyper;
use crate::prompt::{self, Example};
use crate::recipe::{Recipe, Recompute, Train};
use crate::record::{Conversation, read_jsonl, write_jsonl};
use crate::telemetry::{detail, note};
use crate::tokenizer::Tokenizer;
use crate::weights::{Grads, Param, Trained};

/// Tokens of one forward pass in validation.
pub const VALIDATION_TOKENS: usize = 4096;

/// Language-model training on examples with masks: an adapter on a frozen decoder, or the whole decoder.
pub struct Supervised<D: Device> {
    /// The model.
    pub decoder: Decoder<D>,
    /// What is trained; none trains the decoder itself.
    pub adapter: Option<Adapter<D>>,
    /// Training data.
    pub examples: Vec<Example>,
    /// The examples' ids.
    pub ids: Vec<String>,
    /// Held-out data.
    pub validation: Vec<Example>,
    /// What backward computes again.
    pub recompute: Recompute,
    /// What the adapter's config calls its base.
    pub base: String,
    /// How a whole decoder is stored.
    pub storage: Storage,
}

impl<D: Device> Task<D> for Supervised<D> {
    fn params(&mut self) -> Vec<&mut Param<D>> {
        match &mut self.adapter {
            Some(adapter) => adapter.params_mut(),
            None => self.decoder.params_mut(),
        }
    }

    fn weight(&self, record: usize) -> f64 {
        self.examples[record].mask.iter().skip(1).filter(|trained| **trained).count() as f64
    }

    fn tokens(&self, record: usize) -> usize {
        self.examples[record].tokens.len()
    }

    fn products(&self, record: usize) -> Option<f64> {
        let train = if self.adapter.is_some() { Train::Lora } else { Train::Full };
        Some(train::products(&self.decoder.config, self.tokens(record), self.weight(record) as usize, train))
    }

    fn id(&self, record: usize) -> String {
        self.ids[record].clone()
    }

    fn micro(
        &mut self,
        device: &D,
        records: &[usize],
        norm: f64,
        dropout_key: u64,
        grads: &mut Grads<D>,
        on_layer: OnLayer<'_, D>,
    ) -> Result<Pending<D, f64>> {
        let examples: Vec<&Example> = records.iter().map(|record| &self.examples[*record]).collect();
        let sequences: Vec<&[u32]> = examples.iter().map(|example| example.tokens.as_slice()).collect();
        let batch = Packed::new(device, &sequences)?;
        let next = NextTokens::masked(examples);
        let p = self.adapter.as_ref().map_or(0.0, |adapter| adapter.config.dropout as f32);
        let dropout = if p > 0.0 { Some(Dropout { p, key: dropout_key }) } else { None };
        let pass = Pass { recompute: self.recompute, dropout };
        let forward = span(device, Kind::Phase, "forward");
        let (hidden, saved) = self.decoder.forward(device, &batch, self.adapter.as_ref(), pass)?;
        drop(forward);
        let head = span(device, Kind::Phase, "loss");
        let (sum, dhidden) = loss::sft::sum_and_gradient(device, &self.decoder, &hidden, &next, norm, grads)?;
        drop(head);
        let _backward = span(device, Kind::Phase, "backward");
        self.decoder.backward(device, &batch, self.adapter.as_ref(), saved, &dhidden, grads, on_layer)?;
        Ok(sum)
    }

    fn idle(&mut self, device: &D, grads: &mut Grads<D>, on_layer: OnLayer<'_, D>) -> Result<()> {
        self.decoder.idle(device, grads, on_layer)
    }

    fn validate(&mut self, device: &D, group: &Group) -> Result<Option<Vec<(&'static str, f64)>>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let chunks = by_tokens(&self.validation, VALIDATION_TOKENS);
        let sum = |index: usize| {
            let sequences: Vec<&[u32]> = chunks[index].iter().map(|example| example.tokens.as_slice()).collect();
            let batch = Packed::new(device, &sequences)?;
            let hidden = self.decoder.infer(device, &batch, self.adapter.as_ref())?;
            Ok(vec![loss::sft::sum(device, &self.decoder, &hidden, &NextTokens::masked(chunks[index]))?])
        };
        let sums = spread(device, (group, &self.decoder), "validate", chunks.len(), sum)?.concat();
        let count: usize = self.validation.iter().map(|example| NextTokens::masked([example]).rows.len()).sum();
        Ok(Some(vec![("validation_loss", sums.iter().sum::<f64>() / count as f64)]))
    }

    fn files(&self, device: &D, trained: &Trained) -> Result<Vec<Piece>> {
        let folder = match &self.adapter {
            Some(adapter) => Piece::adapter(adapter.peft(device, &self.base, None, Some(trained))?),
            None => {
                let config = self.decoder.config.to_json(self.storage);
                Piece::model(self.decoder.named(device, Some(trained))?, config, self.storage)
            }
        };
        Ok(folder.into())
    }
}

/// Consecutive examples of at most this many tokens together, and at least one each.
fn by_tokens(examples: &[Example], limit: usize) -> Vec<&[Example]> {
    let mut chunks = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, example) in examples.iter().enumerate() {
        if i > start && tokens + example.tokens.len() > limit {
            chunks.push(&examples[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += example.tokens.len();
    }
    chunks.push(&examples[start..]);
    chunks
}

/// The recipe's adapter shape.
pub fn lora_config(recipe: &Recipe) -> LoraConfig {
    let lora = &recipe.lora;
    let targets = lora.targets.iter().filter_map(|name| crate::model::lora::Target::parse(name)).collect();
    LoraConfig { rank: lora.rank, alpha: lora.alpha, dropout: lora.dropout, targets }
}

/// Conversations as examples with their ids; those longer than `max_tokens` or without anything to train on are counted and
/// left out.
fn examples(
    tokenizer: &Tokenizer,
    conversations: Vec<(usize, Conversation)>,
    max_tokens: usize,
) -> Result<(Vec<Example>, Vec<String>)> {
    let (mut examples, mut ids, mut left_out) = (Vec::new(), Vec::new(), 0);
    for (line, conversation) in conversations {
        match prompt::conversation(tokenizer, &conversation.messages, usize::MAX)? {
            Some(example) if example.tokens.len() <= max_tokens => {
                examples.push(example);
                ids.push(if conversation.id.is_empty() { format!("line {line}") } else { conversation.id });
            }
            _ => left_out += 1,
        }
    }
    if left_out > 0 {
        note(&format!("sft: {left_out} of {} records are longer than {max_tokens} tokens and left out", left_out + ids.len()));
    }
    Ok((examples, ids))
}

/// What the stage trains and validates on.
pub struct Data {
    /// To train on.
    pub examples: Vec<Example>,
    /// Their ids.
    pub ids: Vec<String>,
    /// Held out.
    pub validation: Vec<Example>,
    /// Records of `sft.data` that duplicate another or overlap a test problem.
    pub dropped: Vec<Dropped>,
}

/// The conversations of a file of the run, with their lines.
fn own(path: &Path) -> Result<Vec<(usize, Conversation)>> {
    Ok(read_jsonl(path)?.into_iter().enumerate().map(|(index, conversation)| (index + 1, conversation)).collect())
}

/// Where the training data is.
pub fn data_file(recipe: &Recipe) -> PathBuf {
    recipe.sft.data.clone().unwrap_or_else(|| Files::of(recipe).sft())
}

/// Reads the data of a recipe.
pub fn read(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Data> {
    let (sft, data) = (&recipe.sft, data_file(recipe));
    let (conversations, dropped) = match sft.data {
        Some(_) => imported::conversations(recipe, &data)?,
        None => (own(&data)?, Vec::new()),
    };
    let (examples, ids) = examples(tokenizer, conversations, sft.max_tokens)?;
    if examples.is_empty() {
        return Err(Error::input(data.display(), "no record to train on"));
    }
    let held_out = Files::of(recipe).sft_validation();
    let validation = match sft.validate && sft.data.is_none() && held_out.exists() {
        true => self::examples(tokenizer, own(&held_out)?, sft.max_tokens)?.0,
        false => Vec::new(),
    };
    Ok(Data { examples, ids, validation, dropped })
}

/// The recipe's model on the device with what it is trained on, and how.
pub fn prepare<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe, data: Data) -> Result<(Supervised<D>, Plan)> {
    let (files, sft) = (Files::of(recipe), &recipe.sft);
    let Data { examples, ids, validation, .. } = data;
    let decoder = load("sft", &recipe.policy.model, || match sft.train {
        Train::Lora if recipe.shard_frozen => Decoder::load_shared(device, comm, &recipe.policy.model, true),
        _ => Decoder::load(device, &recipe.policy.model),
    })?;
    detail(|| format!("sft: {} parameters", decoder.config.parameters()));
    let adapter = match (sft.train, &sft.adapter) {
        (Train::Full, _) => None,
        (Train::Lora, Some(folder)) => Some(Adapter::load(device, &decoder.config, folder)?),
        (Train::Lora, None) => Some(Adapter::new(device, lora_config(recipe), &decoder.config, recipe.seed)?),
    };
    let order = Order {
        count: examples.len(),
        per_micro: sft.sequences_per_device,
        accumulation: train::micros(sft.global_batch, sft.sequences_per_device, sft.accumulation, comm.group().ranks()),
        epochs: sft.epochs,
        seed: recipe.seed,
        shuffle: sft.shuffle,
    };
    let plan = Plan {
        name: "sft",
        order,
        schedule: sft.schedule,
        learning_rate: sft.learning_rate,
        warmup_ratio: sft.warmup_ratio,
        hyper: Hyper {
            beta1: sft.beta1,
            beta2: sft.beta2,
            eps: sft.eps,
            weight_decay: sft.weight_decay,
            max_grad_norm: sft.max_grad_norm,
        },
        train: sft.train,
        checkpoint_every: sft.checkpoint_every,
        keep: recipe.keep_checkpoints,
        patience: sft.patience,
        seed: recipe.seed,
        result: files.sft_result(sft.train),
        folder: files.out.join("sft").join("state"),
        metrics: files.metrics(),
        identity: fingerprint(
            &json!({"seed": recipe.seed, "sft": sft, "lora": recipe.lora, "policy": recipe.policy}),
            examples.iter().map(|example| &example.tokens),
        ),
    };
    let base = recipe.policy.model.display().to_string();
    let recompute = sft.recompute;
    let task = Supervised { decoder, adapter, examples, ids, validation, recompute, base, storage: Storage::F32 };
    Ok((task, plan))
}

/// Runs the stage.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<Fitted> {
    let tokenizer = Tokenizer::load(&recipe.policy.model)?;
    let data = read(recipe, &tokenizer)?;
    if recipe.sft.data.is_some() && comm.group().is_first() {
        write_jsonl(&Files::of(recipe).sft_data_dropped(), &data.dropped)?;
    }
    let (mut task, plan) = prepare(device, comm, recipe, data)?;
    check_vocabulary(&tokenizer, task.decoder.config.vocab, &recipe.policy.model)?;
    let fitted = train::fit(device, comm, &mut task, &plan)?;
    if recipe.sft.train == Train::Full && comm.group().is_first() {
        copy_tokenizer(&recipe.policy.model, &plan.result)?;
    }
    Ok(fitted)
}

/// A tokenizer with more ids than the embedding has rows belongs to another model.
pub fn check_vocabulary(tokenizer: &Tokenizer, vocab: usize, model: &Path) -> Result<()> {
    let size = tokenizer.vocab_size();
    if size > vocab {
        let what = format!("the tokenizer has {size} ids, but the embedding only {vocab} rows");
        return Err(Error::input(model.display(), what));
    }
    Ok(())
}
