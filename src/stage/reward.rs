//! The reward model: a decoder with a scalar head, trained on preferences (the paper's Eq 12, 13). It reads text through its own
//! tokenizer; its score is the head's value at the last token.
//!
//! `repairity reward RECIPE`. In: `preferences.jsonl`, or `reward.data`, and `candidates.jsonl` for the scale. Out:
//! `reward/model`, a `...ForSequenceClassification` folder with `score.weight` (or, with `train = "lora"`, a PEFT folder), and in it
//! `score_scale.json`; `reward/validation.jsonl`, what that model makes of the held-out pairs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::checkpoints::Piece;
use super::train::{self, Fitted, Plan, Task};
use super::{Files, copy_tokenizer, fingerprint, imported, load, sft, spread};
use crate::batch::Order;
use crate::checkpoint::{self, Storage, Tensors};
use crate::comm::{Group, Shared};
use crate::device::record::{Kind, span};
use crate::device::{Device, Dropout};
use crate::error::{Error, Result};
use crate::hygiene::Dropped;
use crate::loss::Pending;
use crate::loss::ppo::ScoreScale;
use crate::loss::reward::{Stats, pairs};
use crate::model::{Adapter, Config, Decoder, OnLayer, Packed, Pass, ScalarHead};
use crate::optim::Hyper;
use crate::prompt;
use crate::recipe::{Recipe, Recompute, Train};
use crate::record::{Candidate, HeldOut, Preference, Problem, read_jsonl, write_jsonl};
use crate::rng::Rng;
use crate::score::{PASS, RewardModel, last_tokens};
use crate::telemetry::{Progress, detail, note};
use crate::tokenizer::Tokenizer;
use crate::weights::{Grads, Param, Trained};

/// A labelled pair as tokens.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The problem's id.
    pub id: String,
    /// The answer that the label is of.
    pub first: Vec<u32>,
    /// The other one.
    pub second: Vec<u32>,
    /// 1 where the first is better, 0 where the second is.
    pub label: f64,
}

/// A reward model being trained on pairs.
pub struct Preferences<'a, D: Device> {
    model: RewardModel<D>,
    pairs: Vec<Pair>,
    held_out: Vec<Pair>,
    recompute: Recompute,
    base: &'a Path,
}

impl<D: Device> Preferences<'_, D> {
    fn pass(
        &self,
        device: &D,
        chosen: &[&Pair],
        train: Option<(f64, u64, &mut Grads<D>, OnLayer<'_, D>)>,
    ) -> Result<Pending<D, Stats>> {
        let sequences: Vec<&[u32]> = chosen.iter().flat_map(|pair| [pair.first.as_slice(), &pair.second]).collect();
        let labels: Vec<f64> = chosen.iter().map(|pair| pair.label).collect();
        let batch = Packed::new(device, &sequences)?;
        let rows = last_tokens(&batch);
        let (model, adapter) = (&self.model, self.model.adapter.as_ref());
        let Some((norm, key, grads, on_layer)) = train else {
            let hidden = model.decoder.infer(device, &batch, adapter)?;
            return Ok(pairs(device, &model.head, &hidden, &rows, &labels, None)?.0);
        };
        let p = adapter.map_or(0.0, |adapter| adapter.config.dropout as f32);
        let dropout = if p > 0.0 { Some(Dropout { p, key }) } else { None };
        let forward = span(device, Kind::Phase, "forward");
        let (hidden, saved) = model.decoder.forward(device, &batch, adapter, Pass { recompute: self.recompute, dropout })?;
        drop(forward);
        let head = span(device, Kind::Phase, "loss");
        let (stats, dhidden) = pairs(device, &model.head, &hidden, &rows, &labels, Some((norm, &mut *grads)))?;
        let dhidden = dhidden.expect("training asks for a gradient");
        drop(head);
        let _backward = span(device, Kind::Phase, "backward");
        model.decoder.backward(device, &batch, adapter, saved, &dhidden, grads, on_layer)?;
        Ok(stats)
    }
}

impl<D: Device> Task<D> for Preferences<'_, D> {
    fn params(&mut self) -> Vec<&mut Param<D>> {
        let mut params = match &mut self.model.adapter {
            Some(adapter) => adapter.params_mut(),
            None => self.model.decoder.params_mut(),
        };
        params.push(&mut self.model.head.weight);
        params
    }

    fn weight(&self, _: usize) -> f64 {
        1.0
    }

    fn tokens(&self, record: usize) -> usize {
        self.pairs[record].first.len() + self.pairs[record].second.len()
    }

    fn products(&self, record: usize) -> Option<f64> {
        let train = if self.model.adapter.is_some() { Train::Lora } else { Train::Full };
        let of = |tokens: &[u32]| train::products(&self.model.decoder.config, tokens.len(), 0, train);
        Some(of(&self.pairs[record].first) + of(&self.pairs[record].second))
    }

    fn id(&self, record: usize) -> String {
        self.pairs[record].id.clone()
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
        let chosen: Vec<&Pair> = records.iter().map(|record| &self.pairs[*record]).collect();
        Ok(self.pass(device, &chosen, Some((norm, dropout_key, grads, on_layer)))?.map(|stats| stats.loss))
    }

    fn idle(&mut self, device: &D, grads: &mut Grads<D>, on_layer: OnLayer<'_, D>) -> Result<()> {
        self.model.decoder.idle(device, grads, on_layer)
    }

    fn validate(&mut self, device: &D, group: &Group) -> Result<Option<Vec<(&'static str, f64)>>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let chunks: Vec<&[Pair]> = self.held_out.chunks(PASS / 2).collect();
        let measure = |index: usize| {
            let stats = self.pass(device, &chunks[index].iter().collect::<Vec<_>>(), None)?.read(device)?;
            Ok(vec![stats.loss, stats.correct, stats.margin])
        };
        let measured = spread(device, (group, &self.model.decoder), "validate", chunks.len(), measure)?;
        let [loss, correct, margin] = [0, 1, 2].map(|which| measured.iter().map(|sums| sums[which]).sum::<f64>());
        let decided = self.held_out.iter().filter(|pair| pair.label != 0.5).count() as f64;
        let count = self.held_out.len() as f64;
        let accuracy = correct / f64::max(decided, 1.0);
        Ok(Some(vec![("validation_loss", loss / count), ("accuracy", accuracy), ("margin", margin / count)]))
    }

    fn files(&self, device: &D, trained: &Trained) -> Result<Vec<Piece>> {
        let (model, head) = (&self.model, &self.model.head);
        let folder = match &model.adapter {
            Some(adapter) => Piece::adapter(adapter.peft(device, &self.base.display().to_string(), Some(head), Some(trained))?),
            None => {
                let mut tensors = model.decoder.named(device, Some(trained))?;
                tensors.extend(head.weight.named(device, Some(trained))?);
                Piece::model(tensors, model.decoder.config.to_json(Storage::F32), Storage::F32)
            }
        };
        Ok(folder.into())
    }
}

/// Splits pairs by problem, so that no problem is on both sides.
fn hold_out(all: Vec<Pair>, share: f64, seed: u64) -> (Vec<Pair>, Vec<Pair>) {
    let mut ids: Vec<String> = all.iter().map(|pair| pair.id.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    Rng::new(seed, "reward validation", 0).shuffle(&mut ids);
    ids.truncate((share * ids.len() as f64).round() as usize);
    let held: BTreeSet<String> = ids.into_iter().collect();
    all.into_iter().partition(|pair| !held.contains(&pair.id))
}

/// Where the preferences are.
pub fn data_file(recipe: &Recipe) -> PathBuf {
    recipe.reward.data.clone().unwrap_or_else(|| Files::of(recipe).preferences())
}

/// What the stage trains and validates on.
pub struct Data {
    /// To train on.
    pub training: Vec<Pair>,
    /// Held out.
    pub held_out: Vec<Pair>,
    /// Records of `reward.data` that duplicate another or overlap a test problem.
    pub dropped: Vec<Dropped>,
}

/// Reads the pairs of a recipe.
pub fn read(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Data> {
    let (reward, data) = (&recipe.reward, data_file(recipe));
    let (mut all, mut left_out) = (Vec::new(), 0);
    let (preferences, dropped) = match reward.data {
        Some(_) => imported::preferences(recipe, &data)?,
        None => {
            let own = read_jsonl::<Preference>(&data)?.into_iter().enumerate();
            (own.map(|(index, preference)| (index + 1, preference)).collect(), Vec::new())
        }
    };
    for (line, preference) in preferences {
        if !(0.0..=1.0).contains(&preference.label) {
            return Err(Error::line(&data, line, format!("label: 0 to 1 expected, {} found", preference.label)));
        }
        let read = |answer: &str| prompt::reward_tokens(tokenizer, &preference.prompt, answer, usize::MAX);
        let (first, second) = (read(&preference.chosen)?, read(&preference.rejected)?);
        if first.len().max(second.len()) > reward.max_tokens {
            left_out += 1;
            continue;
        }
        // Records from elsewhere may have no id; each is then a problem of its own.
        let id = if preference.id.is_empty() { format!("line {line}") } else { preference.id };
        all.push(Pair { id, first, second, label: preference.label });
    }
    if left_out > 0 {
        note(&format!("reward: {left_out} pairs are longer than {} tokens and left out", reward.max_tokens));
    }
    let (training, held_out) = hold_out(all, reward.validation, recipe.seed);
    if training.is_empty() {
        return Err(Error::input(data.display(), "no pair to train on"));
    }
    Ok(Data { training, held_out, dropped })
}

/// The recipe's reward model on the device with the pairs that it is trained on, and how.
pub fn prepare<'a, D: Device>(
    device: &D,
    comm: &Shared<D>,
    recipe: &'a Recipe,
    tokenizer: Option<Tokenizer>,
    data: Data,
) -> Result<(Preferences<'a, D>, Plan)> {
    let (files, reward, group) = (Files::of(recipe), &recipe.reward, comm.group());
    let Data { training, held_out, .. } = data;
    let decoder = load("reward", &reward.model, || match reward.train {
        Train::Lora if recipe.shard_frozen => Decoder::load_shared(device, comm, &reward.model, false),
        _ => Decoder::load_body(device, &reward.model),
    })?;
    detail(|| format!("reward: {} parameters", decoder.config.parameters()));
    let tensors = Tensors::open_folder(&reward.model)?;
    let head = match ScalarHead::from_tensors(device, &tensors, ScalarHead::<D>::NAME, decoder.config.hidden)? {
        Some(head) => head,
        None => ScalarHead::random(device, decoder.config.hidden, recipe.seed)?,
    };
    let adapter = match reward.train {
        Train::Full => None,
        Train::Lora => Some(Adapter::new(device, sft::lora_config(recipe), &decoder.config, recipe.seed)?),
    };
    let order = Order {
        count: training.len(),
        per_micro: reward.sequences_per_device,
        accumulation: train::micros(reward.global_batch, reward.sequences_per_device, reward.accumulation, group.ranks()),
        epochs: reward.epochs,
        seed: recipe.seed,
        shuffle: reward.shuffle,
    };
    let tokens = training.iter().flat_map(|pair| [&pair.first, &pair.second]);
    let settings = json!({"seed": recipe.seed, "reward": reward, "lora": recipe.lora});
    let result = files.reward_model();
    let plan = Plan {
        name: "reward",
        order,
        schedule: reward.schedule,
        learning_rate: reward.learning_rate,
        warmup_ratio: reward.warmup_ratio,
        hyper: Hyper {
            beta1: reward.beta1,
            beta2: reward.beta2,
            eps: reward.eps,
            weight_decay: reward.weight_decay,
            max_grad_norm: reward.max_grad_norm,
        },
        train: reward.train,
        checkpoint_every: reward.checkpoint_every,
        keep: recipe.keep_checkpoints,
        patience: reward.patience,
        seed: recipe.seed,
        result: result.clone(),
        folder: files.out.join("reward").join("state"),
        metrics: files.metrics(),
        identity: fingerprint(&settings, tokens),
    };
    let mut decoder = decoder;
    decoder.config.classifier = true;
    let scale = ScoreScale { mean: 0.0, deviation: 1.0 };
    let task = Preferences {
        model: RewardModel { decoder, adapter, head, tokenizer, scale },
        pairs: training,
        held_out,
        recompute: reward.recompute,
        base: &reward.model,
    };
    Ok((task, plan))
}

/// Runs the stage.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<Fitted> {
    let (files, reward, group) = (Files::of(recipe), &recipe.reward, comm.group());
    let tokenizer = Tokenizer::load(&reward.model)?;
    let data = read(recipe, &tokenizer)?;
    if reward.data.is_some() && group.is_first() {
        write_jsonl(&files.reward_data_dropped(), &data.dropped)?;
    }
    sft::check_vocabulary(&tokenizer, Config::load(&reward.model)?.vocab, &reward.model)?;
    let held_out = data.held_out.clone();
    let (mut task, plan) = prepare(device, comm, recipe, Some(tokenizer), data)?;
    let result = plan.result.clone();
    let fitted = train::fit(device, comm, &mut task, &plan)?;
    drop(task);
    if reward.train == Train::Full {
        if group.is_first() {
            copy_tokenizer(&reward.model, &result)?;
        }
        group.any("tokenizer", false)?;
    }
    // Not what training ended with: what was kept of it may be an earlier epoch's.
    let (scaled, mut margins) = (files.candidates().exists() && files.problems().exists(), Vec::new());
    if scaled || !held_out.is_empty() {
        let model = RewardModel::load(device, &result)?;
        if scaled {
            measure_scale(device, group, recipe, &files, &model)?;
        }
        margins = self::margins(device, group, &model, &held_out)?;
    }
    if group.is_first() {
        let record = |(pair, margin): (&Pair, f64)| HeldOut { id: pair.id.clone(), label: pair.label, margin };
        write_jsonl(&files.reward_validation(), &held_out.iter().zip(margins).map(record).collect::<Vec<_>>())?;
    }
    Ok(fitted)
}

/// Scores the SFT samples and stores their mean and deviation with the model.
fn measure_scale<D: Device>(device: &D, group: &Group, recipe: &Recipe, files: &Files, model: &RewardModel<D>) -> Result<()> {
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let candidates: Vec<Candidate> = read_jsonl(&files.candidates())?;
    let prompt = |id: &str| {
        let problem = problems.iter().find(|problem| problem.id == id)?;
        Some(prompt::user_text(problem, super::instruction(recipe)))
    };
    let texts: Vec<(String, &str)> =
        candidates.iter().filter_map(|candidate| Some((prompt(&candidate.id)?, candidate.text.as_str()))).collect();
    let chunks: Vec<_> = texts.chunks(PASS).collect();
    let progress = Progress::new("reward: scale", texts.len() as u64).rated("scores");
    let score = |index: usize| {
        progress.set((index * PASS) as u64, "");
        let views: Vec<(&str, &str)> = chunks[index].iter().map(|(prompt, text)| (prompt.as_str(), *text)).collect();
        model.score_texts(device, &views, recipe.reward.max_tokens)
    };
    let scores = spread(device, (group, &model.decoder), "scale", chunks.len(), score)?;
    progress.finish("");
    if group.is_first() {
        let scale = ScoreScale::of(&scores.concat());
        checkpoint::write_json(&files.reward_model().join("score_scale.json"), &json!(scale))?;
    }
    Ok(())
}

/// How far apart the model scores the answers of each pair: the first's score less the second's.
fn margins<D: Device>(device: &D, group: &Group, model: &RewardModel<D>, pairs: &[Pair]) -> Result<Vec<f64>> {
    let chunks: Vec<&[Pair]> = pairs.chunks(PASS / 2).collect();
    let measure = |index: usize| {
        let sequences: Vec<Vec<u32>> = chunks[index].iter().flat_map(|pair| [pair.first.clone(), pair.second.clone()]).collect();
        let scores = model.score_tokens(device, &sequences)?;
        Ok(scores.chunks_exact(2).map(|pair| pair[0] - pair[1]).collect())
    };
    Ok(spread(device, (group, &model.decoder), "held-out pairs", chunks.len(), measure)?.concat())
}
