//! The reward model: a decoder with a scalar head, trained on preferences (the paper's Eq 12, 13). It reads text through its own
//! tokenizer; its score is the head's value at the last token.
//!
//! `repairity reward RECIPE`. In: `preferences.jsonl`, or `reward.data`, and `candidates.jsonl` for the scale. Out:
//! `reward/model`, a `...ForSequenceClassification` folder with `score.weight` (or, with `train = "lora"`, a PEFT folder), and in it
//! `score_scale.json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::train::{self, Fitted, Plan, Task};
use super::{Files, copy_tokenizer, fingerprint, sft};
use crate::batch::Order;
use crate::checkpoint::{self, Storage, Tensors};
use crate::device::{Device, Dropout};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::loss::ppo::ScoreScale;
use crate::loss::reward::{Stats, pairs};
use crate::model::{Adapter, Decoder, Packed, Pass, ScalarHead};
use crate::optim::{Hyper, LearningRate};
use crate::prompt;
use crate::recipe::{Recipe, Recompute, Train};
use crate::record::{Candidate, Preference, Problem, read_jsonl};
use crate::rng::Rng;
use crate::score::{PASS, RewardModel, last_tokens};
use crate::telemetry::note;
use crate::tokenizer::Tokenizer;
use crate::weights::{Grads, Param};

/// A labelled pair as tokens.
struct Pair {
    id: String,
    first: Vec<u32>,
    second: Vec<u32>,
    label: f64,
}

struct Preferences<'a, D: Device> {
    model: RewardModel<D>,
    pairs: Vec<Pair>,
    held_out: Vec<Pair>,
    recompute: Recompute,
    base: &'a Path,
}

impl<D: Device> Preferences<'_, D> {
    fn pass(&self, device: &D, chosen: &[&Pair], train: Option<(f64, u64, &mut Grads<D>)>) -> Result<Pending<D, Stats>> {
        let sequences: Vec<&[u32]> = chosen.iter().flat_map(|pair| [pair.first.as_slice(), &pair.second]).collect();
        let labels: Vec<f64> = chosen.iter().map(|pair| pair.label).collect();
        let batch = Packed::new(device, &sequences)?;
        let rows = last_tokens(&batch);
        let (model, adapter) = (&self.model, self.model.adapter.as_ref());
        let Some((norm, key, grads)) = train else {
            let hidden = model.decoder.infer(device, &batch, adapter)?;
            return Ok(pairs(device, &model.head, &hidden, &rows, &labels, None)?.0);
        };
        let p = adapter.map_or(0.0, |adapter| adapter.config.dropout as f32);
        let dropout = if p > 0.0 { Some(Dropout { p, key }) } else { None };
        let (hidden, saved) = model.decoder.forward(device, &batch, adapter, Pass { recompute: self.recompute, dropout })?;
        let (stats, dhidden) = pairs(device, &model.head, &hidden, &rows, &labels, Some((norm, &mut *grads)))?;
        let dhidden = dhidden.expect("training asks for a gradient");
        model.decoder.backward(device, &batch, adapter, saved, &dhidden, grads, &mut |_, _| Ok(()))?;
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
    ) -> Result<Pending<D, f64>> {
        let chosen: Vec<&Pair> = records.iter().map(|record| &self.pairs[*record]).collect();
        Ok(self.pass(device, &chosen, Some((norm, dropout_key, grads)))?.map(|stats| stats.loss))
    }

    fn validate(&mut self, device: &D) -> Result<Option<Vec<(&'static str, f64)>>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let mut sum = Stats::default();
        let mut decided = 0.0;
        for chunk in self.held_out.chunks(PASS / 2) {
            let stats = self.pass(device, &chunk.iter().collect::<Vec<_>>(), None)?.read(device)?;
            sum.loss += stats.loss;
            sum.correct += stats.correct;
            sum.margin += stats.margin;
            decided += chunk.iter().filter(|pair| pair.label != 0.5).count() as f64;
        }
        let count = self.held_out.len() as f64;
        let accuracy = sum.correct / f64::max(decided, 1.0);
        Ok(Some(vec![("validation_loss", sum.loss / count), ("accuracy", accuracy), ("margin", sum.margin / count)]))
    }

    fn save(&self, device: &D, folder: &Path) -> Result<()> {
        let head = &self.model.head;
        match &self.model.adapter {
            Some(adapter) => adapter.save(device, folder, &self.base.display().to_string(), Some(head)),
            None => {
                let score = head.named(device, ScalarHead::<D>::NAME)?;
                self.model.decoder.save(device, folder, Storage::F32, vec![score])?;
                copy_tokenizer(self.base, folder)
            }
        }
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

/// Runs the stage.
pub fn run<D: Device>(device: &D, recipe: &Recipe) -> Result<Fitted> {
    let (files, reward) = (Files::of(recipe), &recipe.reward);
    let tokenizer = Tokenizer::load(&reward.model)?;
    let data = reward.data.clone().unwrap_or_else(|| files.preferences());
    let (mut all, mut left_out) = (Vec::new(), 0);
    for (line, preference) in read_jsonl::<Preference>(&data)?.into_iter().enumerate() {
        if !(0.0..=1.0).contains(&preference.label) {
            return Err(Error::line(&data, line + 1, format!("label: 0 to 1 expected, {} found", preference.label)));
        }
        let read = |answer: &str| prompt::reward_tokens(&tokenizer, &preference.prompt, answer, usize::MAX);
        let (first, second) = (read(&preference.chosen)?, read(&preference.rejected)?);
        if first.len().max(second.len()) > reward.max_tokens {
            left_out += 1;
            continue;
        }
        // Records from elsewhere may have no id; each is then a problem of its own.
        let id = if preference.id.is_empty() { format!("line {}", line + 1) } else { preference.id };
        all.push(Pair { id, first, second, label: preference.label });
    }
    if left_out > 0 {
        note(&format!("reward: {left_out} pairs are longer than {} tokens and left out", reward.max_tokens));
    }
    let (training, held_out) = hold_out(all, reward.validation, recipe.seed);
    if training.is_empty() {
        return Err(Error::input(data.display(), "no pair to train on"));
    }
    let decoder = Decoder::load_body(device, &reward.model)?;
    sft::check_vocabulary(&tokenizer, decoder.config.vocab, &reward.model)?;
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
        accumulation: reward.accumulation,
        epochs: reward.epochs,
        seed: recipe.seed,
        shuffle: reward.shuffle,
    };
    let tokens = training.iter().flat_map(|pair| [&pair.first, &pair.second]);
    let settings = json!({"seed": recipe.seed, "reward": reward, "lora": recipe.lora});
    let result = files.reward_model();
    let plan = Plan {
        name: "reward",
        rate: LearningRate::new(reward.schedule, reward.learning_rate, reward.warmup_ratio, order.steps()),
        order,
        hyper: Hyper {
            beta1: reward.beta1,
            beta2: reward.beta2,
            eps: reward.eps,
            weight_decay: reward.weight_decay,
            max_grad_norm: reward.max_grad_norm,
        },
        checkpoint_every: reward.checkpoint_every,
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
    let mut task = Preferences {
        model: RewardModel { decoder, adapter, head, tokenizer: Some(tokenizer), scale },
        pairs: training,
        held_out,
        recompute: reward.recompute,
        base: &reward.model,
    };
    let fitted = train::fit(device, &mut task, &plan)?;
    drop(task);
    measure_scale(device, recipe, &files)?;
    note(&format!("reward: {} steps, wrote {}", fitted.steps, result.display()));
    Ok(fitted)
}

/// Scores the SFT samples and stores their mean and deviation with the model.
fn measure_scale<D: Device>(device: &D, recipe: &Recipe, files: &Files) -> Result<()> {
    if !files.candidates().exists() || !files.problems().exists() {
        return Ok(());
    }
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let candidates: Vec<Candidate> = read_jsonl(&files.candidates())?;
    let model = RewardModel::load(device, &files.reward_model())?;
    let prompt = |id: &str| {
        let problem = problems.iter().find(|problem| problem.id == id)?;
        Some(prompt::user_text(problem, super::instruction(recipe)))
    };
    let texts: Vec<(String, &str)> =
        candidates.iter().filter_map(|candidate| Some((prompt(&candidate.id)?, candidate.text.as_str()))).collect();
    let views: Vec<(&str, &str)> = texts.iter().map(|(prompt, text)| (prompt.as_str(), *text)).collect();
    let scale = ScoreScale::of(&model.score_texts(device, &views, recipe.reward.max_tokens)?);
    checkpoint::write_json(&files.reward_model().join("score_scale.json"), &json!(scale))
}
