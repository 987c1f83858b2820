//! Reinforcement learning from the reward model: PPO with a critic (the paper's Eq 14 to 17).
//!
//! `repairity ppo RECIPE`. In: `problems.jsonl` (training split), the SFT adapter, `reward/model`. Out: `ppo/adapter` (PEFT).
//!
//! Policy, reference and critic share one frozen base: the policy is an adapter that starts as the SFT adapter, the reference is
//! the SFT adapter itself, the critic is a third adapter with a scalar head (or only a head on the reference's states). The
//! micro-batches of an iteration stay the same through its epochs, so the first ratio is exactly 1.

mod rollout;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use rollout::{Prompt, Reading, Trajectory};
use rollout::{prompts, rollout};

use super::checkpoints::{Checkpoints, Content, Piece};
use super::{Files, load, sft, spread, train};
use crate::batch::{NextTokens, Order};
use crate::checkpoint;
use crate::comm::{Group, Shared};
use crate::device::Device;
use crate::device::record::{Kind, span, timed};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::loss::ppo::{self, PolicyStats};
use crate::model::head::{LogProbs, Scores};
use crate::model::{Adapter, Decoder, Packed, Pass, ScalarHead};
use crate::optim::{Hyper, LearningRate, Optimizer, Sum, deal};
use crate::recipe::{Critic, Ppo, Recipe, RewardMemory, Train};
use crate::rng::Rng;
use crate::score::RewardModel;
use crate::telemetry::{Metrics, Progress, detail, interrupt, note, words};
use crate::tokenizer::Tokenizer;
use crate::weights::{Grads, Param};

struct ValueFunction<D: Device> {
    /// Trained with the head, or none with `critic = "head"`.
    adapter: Option<Adapter<D>>,
    head: ScalarHead<D>,
}

impl<D: Device> ValueFunction<D> {
    fn params(&mut self) -> Vec<&mut Param<D>> {
        let mut params = self.adapter.as_mut().map_or(Vec::new(), Adapter::params_mut);
        params.push(&mut self.head.weight);
        params
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    identity: String,
    iteration: usize,
    /// Ranks that saved it.
    ranks: usize,
    policy_steps: u64,
    critic_steps: u64,
}

/// Policy, reference and critic on one base, with the policy's and the critic's optimizers.
pub struct Learner<'a, D: Device> {
    device: &'a D,
    group: &'a Group,
    settings: &'a Ppo,
    decoder: Decoder<D>,
    policy: Adapter<D>,
    reference: Option<Adapter<D>>,
    critic: ValueFunction<D>,
    policy_grads: Grads<D>,
    critic_grads: Grads<D>,
    policy_optimizer: Optimizer<D>,
    critic_optimizer: Optimizer<D>,
    policy_rate: LearningRate,
    critic_rate: LearningRate,
}

/// A packed micro-batch of trajectories.
struct Micro<D: Device> {
    batch: Packed<D>,
    next: NextTokens,
    lengths: Vec<usize>,
}

impl<D: Device> Micro<D> {
    fn new(device: &D, trajectories: &[Trajectory]) -> Result<Self> {
        let sequences: Vec<&[u32]> = trajectories.iter().map(|trajectory| trajectory.tokens.as_slice()).collect();
        let starts = trajectories.iter().map(|trajectory| (trajectory.tokens.as_slice(), trajectory.start));
        let lengths = trajectories.iter().map(|trajectory| trajectory.tokens.len() - trajectory.start).collect();
        Ok(Micro { batch: Packed::new(device, &sequences)?, next: NextTokens::after(starts), lengths })
    }
}

/// What an iteration's epochs summed up to.
#[derive(Default)]
struct Epoch {
    policy: PolicyStats,
    value_loss: f64,
    grad_norm: f64,
    critic_grad_norm: f64,
    steps: usize,
}

impl<'a, D: Device> Learner<'a, D> {
    /// From the adapter that the policy starts as, which is the reference; without one the base is both.
    pub fn new(
        device: &'a D,
        comm: &'a Shared<D>,
        recipe: &'a Recipe,
        decoder: Decoder<D>,
        start: Option<Adapter<D>>,
    ) -> Result<Self> {
        let settings = &recipe.ppo;
        let fresh = || Adapter::new(device, sft::lora_config(recipe), &decoder.config, recipe.seed);
        let copy = |start: &Option<Adapter<D>>| match start {
            Some(start) => start.duplicate(device, &decoder.config),
            None => fresh(),
        };
        let mut policy = copy(&start)?;
        let adapter = match settings.critic {
            Critic::Adapter => Some(copy(&start)?),
            Critic::Head => None,
        };
        let mut critic = ValueFunction { adapter, head: ScalarHead::zeros(device, decoder.config.hidden)? };
        let hyper = Hyper {
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
        };
        let (policy_optimizer, policy_grads) = Optimizer::new(device, comm, &mut policy.params_mut(), hyper, Sum::Whole)?;
        let (critic_optimizer, critic_grads) = Optimizer::new(device, comm, &mut critic.params(), hyper, Sum::Whole)?;
        let rate = |peak| {
            let total = settings.iterations * settings.epochs * settings.minibatches;
            LearningRate::new(settings.schedule, peak, settings.warmup_ratio, total)
        };
        Ok(Learner {
            policy_rate: rate(settings.learning_rate),
            critic_rate: rate(settings.critic_learning_rate),
            device,
            group: comm.group(),
            settings,
            decoder,
            policy,
            reference: start,
            critic,
            policy_grads,
            critic_grads,
            policy_optimizer,
            critic_optimizer,
        })
    }

    fn temperature_scale(&self) -> f32 {
        if self.settings.temperature > 0.0 { (1.0 / self.settings.temperature) as f32 } else { 1.0 }
    }

    fn logprobs(&self, micro: &Micro<D>, adapter: Option<&Adapter<D>>) -> Result<Vec<Vec<f64>>> {
        let hidden = self.decoder.infer(self.device, &micro.batch, adapter)?;
        let (rows, targets) = (&micro.next.rows, &micro.next.targets);
        let head = LogProbs::new(self.device, &self.decoder, &hidden, rows, targets, self.temperature_scale())?;
        ppo::unpack(self.device, &head.logprob, &micro.lengths)
    }

    fn values(&self, micro: &Micro<D>) -> Result<Vec<Vec<f64>>> {
        let adapter = self.critic.adapter.as_ref().or(self.reference.as_ref());
        let hidden = self.decoder.infer(self.device, &micro.batch, adapter)?;
        let scores = Scores::new(self.device, &self.critic.head, &hidden, &micro.next.rows)?;
        ppo::unpack(self.device, &scores.score, &micro.lengths)
    }

    /// Fills in the log-probs and values that the iteration starts from. Micro-batches are those of the epochs, each on one rank.
    fn measure(&self, trajectories: &mut [Trajectory], tell: &dyn Fn(&str)) -> Result<()> {
        let (size, count) = (self.settings.sequences_per_device, trajectories.len());
        let chunks: Vec<&[Trajectory]> = trajectories.chunks(size).collect();
        let rows = spread(self.device, (self.group, &self.decoder), "measure rollouts", chunks.len(), |index| {
            tell(&format!("measuring {} of {} responses", (index * size).min(count), count));
            let micro = Micro::new(self.device, chunks[index])?;
            let old = self.logprobs(&micro, Some(&self.policy))?;
            let reference = self.logprobs(&micro, self.reference.as_ref())?;
            Ok([old, reference, self.values(&micro)?].into_iter().flatten().flatten().collect())
        })?;
        for (chunk, row) in trajectories.chunks_mut(size).zip(rows) {
            let mut numbers = row.into_iter();
            let mut take =
                |trajectory: &Trajectory| numbers.by_ref().take(trajectory.tokens.len() - trajectory.start).collect::<Vec<f64>>();
            chunk.iter_mut().for_each(|trajectory| trajectory.old = take(trajectory));
            chunk.iter_mut().for_each(|trajectory| trajectory.reference = take(trajectory));
            chunk.iter_mut().for_each(|trajectory| trajectory.value = take(trajectory));
        }
        Ok(())
    }

    /// Forward and backward of the policy on a micro-batch.
    fn policy_micro(
        &mut self,
        chunk: &[Trajectory],
        advantage: &[Vec<f64>],
        norm: f64,
        last: bool,
    ) -> Result<Pending<D, PolicyStats>> {
        let (device, settings) = (self.device, self.settings);
        let micro = Micro::new(device, chunk)?;
        let old: Vec<Vec<f64>> = chunk.iter().map(|trajectory| trajectory.old.clone()).collect();
        let pass = Pass { recompute: settings.recompute, dropout: None };
        let _policy = span(device, Kind::Phase, "policy");
        let (hidden, saved) = self.decoder.forward(device, &micro.batch, Some(&self.policy), pass)?;
        let (rows, targets) = (&micro.next.rows, &micro.next.targets);
        let head = LogProbs::new(device, &self.decoder, &hidden, rows, targets, self.temperature_scale())?;
        let (sums, dlogprob) = ppo::policy(device, &head.logprob, &old, advantage, settings.clip as f32, norm)?;
        self.policy_optimizer.backward(device, &mut self.policy_grads, last, |grads, on_layer| {
            let dhidden = head.backward(device, &self.decoder, &dlogprob, grads)?;
            self.decoder.backward(device, &micro.batch, Some(&self.policy), saved, &dhidden, grads, on_layer)
        })?;
        Ok(ppo::policy_stats(sums, head.entropy))
    }

    /// Forward and backward of the critic on a micro-batch; returns the sum of the loss.
    fn critic_micro(&mut self, chunk: &[Trajectory], returns: &[Vec<f64>], norm: f64, last: bool) -> Result<Pending<D, f64>> {
        let (device, settings) = (self.device, self.settings);
        let _critic = span(device, Kind::Phase, "critic");
        let micro = Micro::new(device, chunk)?;
        let old: Vec<Vec<f64>> = chunk.iter().map(|trajectory| trajectory.value.clone()).collect();
        let (critic, grads) = (&self.critic, &mut self.critic_grads);
        let Some(adapter) = &critic.adapter else {
            let hidden = self.decoder.infer(device, &micro.batch, self.reference.as_ref())?;
            let scores = Scores::new(device, &critic.head, &hidden, &micro.next.rows)?;
            let (sum, dvalue) = ppo::value(device, &scores.score, &old, returns, settings.value_clip as f32, norm)?;
            self.critic_optimizer
                .backward(device, grads, last, |grads, _| scores.backward(device, &critic.head, &dvalue, grads))?;
            return Ok(sum);
        };
        let pass = Pass { recompute: settings.recompute, dropout: None };
        let (hidden, saved) = self.decoder.forward(device, &micro.batch, Some(adapter), pass)?;
        let scores = Scores::new(device, &critic.head, &hidden, &micro.next.rows)?;
        let (sum, dvalue) = ppo::value(device, &scores.score, &old, returns, settings.value_clip as f32, norm)?;
        self.critic_optimizer.backward(device, grads, last, |grads, on_layer| {
            let dhidden = scores.backward(device, &critic.head, &dvalue, grads)?;
            self.decoder.backward(device, &micro.batch, Some(adapter), saved, &dhidden, grads, on_layer)
        })?;
        Ok(sum)
    }

    /// A round of micro-batches in which this rank has none.
    fn idle(&mut self, learn_policy: bool, last: bool) -> Result<()> {
        let (device, decoder) = (self.device, &self.decoder);
        if learn_policy {
            let grads = &mut self.policy_grads;
            self.policy_optimizer.backward(device, grads, last, |grads, on_layer| decoder.idle(device, grads, on_layer))?;
        }
        let (grads, has_adapter) = (&mut self.critic_grads, self.critic.adapter.is_some());
        self.critic_optimizer.backward(device, grads, last, |grads, on_layer| match has_adapter {
            true => decoder.idle(device, grads, on_layer),
            false => decoder.idle_infer(device),
        })
    }

    /// One pass over the iteration's trajectories in minibatches of whole micro-batches, in an order drawn for this epoch.
    fn epoch(
        &mut self,
        trajectories: &[Trajectory],
        advantages: &[Vec<f64>],
        returns: &[Vec<f64>],
        (iteration, epoch): (usize, usize),
        seed: u64,
    ) -> Result<Epoch> {
        let settings = self.settings;
        let size = settings.sequences_per_device;
        let mut micros: Vec<usize> = (0..trajectories.len().div_ceil(size)).collect();
        let index = (iteration * settings.epochs + epoch) as u64;
        Rng::new(seed, "ppo minibatches", index).shuffle(&mut micros);
        let mut sums = Epoch::default();
        for minibatch in micros.chunks(micros.len().div_ceil(settings.minibatches)) {
            let range = |micro: &usize| micro * size..((micro + 1) * size).min(trajectories.len());
            let tokens: usize = minibatch.iter().flat_map(range).map(|i| advantages[i].len()).sum();
            let norm = 1.0 / tokens as f64;
            let learn_policy = iteration >= settings.critic_warmup;
            self.policy_optimizer.clear(self.device, &mut self.policy_grads)?;
            self.critic_optimizer.clear(self.device, &mut self.critic_grads)?;
            let (mut policy, mut critic) = (Vec::new(), Vec::new());
            let (ranks, rank) = (self.group.ranks(), self.group.rank());
            let own: Vec<usize> = deal(minibatch.len(), ranks, rank).collect();
            let rounds = minibatch.len().div_ceil(ranks);
            for round in 0..rounds {
                let last = round + 1 == rounds;
                let Some(&index) = own.get(round) else {
                    self.idle(learn_policy, last)?;
                    continue;
                };
                let range = range(&minibatch[index]);
                let chunk = &trajectories[range.clone()];
                if learn_policy {
                    policy.push(self.policy_micro(chunk, &advantages[range.clone()], norm, last)?);
                }
                critic.push(self.critic_micro(chunk, &returns[range], norm, last)?);
            }
            let not_finite = |what: String| {
                let records = minibatch.iter().flat_map(range).map(|i| trajectories[i].id.clone()).collect();
                Error::NonFinite { at: format!("ppo iteration {}", iteration + 1), what, records }
            };
            let named = |error| match error {
                Error::NonFinite { what, .. } => not_finite(what),
                other => other,
            };
            let (squares, policy) = self.policy_optimizer.measure(self.device, &self.policy_grads, &policy)?;
            let (critic_squares, critic) = self.critic_optimizer.measure(self.device, &self.critic_grads, &critic)?;
            policy.iter().for_each(|stats| sums.policy.add(stats));
            sums.value_loss += critic.iter().sum::<f64>();
            if !(sums.policy.loss + sums.value_loss).is_finite() {
                return Err(not_finite("the loss".into()));
            }
            let step = (iteration * settings.epochs + epoch) * settings.minibatches + sums.steps;
            let (grad_norm, critic_grad_norm) =
                (squares.norm(&self.policy_grads).map_err(named)?, critic_squares.norm(&self.critic_grads).map_err(named)?);
            if learn_policy {
                let mut params = self.policy.params_mut();
                let lr = self.policy_rate.at(step);
                self.policy_optimizer.update(self.device, &mut params, &self.policy_grads, grad_norm, lr)?;
                sums.grad_norm += grad_norm;
            }
            let lr = self.critic_rate.at(step);
            let mut params = self.critic.params();
            self.critic_optimizer.update(self.device, &mut params, &self.critic_grads, critic_grad_norm, lr)?;
            sums.critic_grad_norm += critic_grad_norm;
            sums.steps += 1;
        }
        Ok(sums)
    }

    /// Starts a checkpoint: this rank's share of both optimizers' states, and from the first rank the two adapters as PEFT folders
    /// and where training is.
    fn store(&mut self, checkpoints: &mut Checkpoints, base: &str, state: &State) -> Result<()> {
        let device = self.device;
        let mut tensors = self.policy_optimizer.save(device, &self.policy.params_mut(), "policy.")?;
        tensors.extend(self.critic_optimizer.save(device, &self.critic.params(), "critic.")?);
        let mut pieces = vec![train::state_piece(self.group, tensors)];
        let policy = self.policy_optimizer.masters(device, &self.policy.params_mut())?;
        let critic = self.critic_optimizer.masters(device, &self.critic.params())?;
        if let (Some(policy), Some(critic)) = (policy, critic) {
            pieces
                .extend(Piece::adapter(self.policy.peft(device, base, None, Some(&policy))?).map(|piece| piece.under("policy")));
            if let Some(adapter) = &self.critic.adapter {
                let peft = adapter.peft(device, base, Some(&self.critic.head), Some(&critic))?;
                pieces.extend(Piece::adapter(peft).map(|piece| piece.under("critic")));
            }
            pieces.push(Piece { name: "state.json".into(), content: Content::Json(json!(state)) });
        }
        checkpoints.start(self.group, state.iteration, pieces)
    }

    fn restore(&mut self, folder: &Path, state: &State) -> Result<()> {
        let saved = train::open_states(folder, state.ranks)?;
        let (device, mut policy) = (self.device, self.policy.params_mut());
        self.policy_optimizer.restore(device, &mut policy, state.policy_steps, "policy.", &saved)?;
        self.critic_optimizer.restore(device, &mut self.critic.params(), state.critic_steps, "critic.", &saved)
    }
}

/// Runs the stage. Returns what came of it.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<String> {
    let (files, settings, group) = (Files::of(recipe), &recipe.ppo, comm.group());
    let adapter_folder: Option<PathBuf> = match (&settings.adapter, recipe.sft.train) {
        (Some(folder), _) => Some(folder.clone()),
        (None, Train::Lora) => Some(files.sft_result(Train::Lora)),
        (None, Train::Full) => None,
    };
    let model = match (&adapter_folder, recipe.sft.train) {
        (None, Train::Full) => files.sft_result(Train::Full),
        _ => recipe.policy.model.clone(),
    };
    let tokenizer = Tokenizer::load(&model)?;
    // First, so that what is parked is away before the policy comes.
    let reward_folder = settings.reward_model.clone().unwrap_or_else(|| files.reward_model());
    let mut reward = load("ppo", &reward_folder, || match settings.reward_memory {
        RewardMemory::Sharded => RewardModel::load_shared(device, comm, &reward_folder),
        RewardMemory::Resident | RewardMemory::Host => RewardModel::load(device, &reward_folder),
    })?;
    if settings.reward_memory == RewardMemory::Host {
        reward.decoder.park(device)?;
    }
    let decoder = load("ppo", &model, || match recipe.shard_frozen {
        true => Decoder::load_shared(device, comm, &model, true),
        false => Decoder::load(device, &model),
    })?;
    detail(|| {
        let [policy, judge] = [&decoder, &reward.decoder].map(|decoder| decoder.config.parameters());
        format!("ppo: {policy} parameters in the policy, {judge} in the reward model, {} rank(s)", group.ranks())
    });
    let start = adapter_folder.as_ref().map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
    let prompts = prompts(recipe, &tokenizer, &files.problems())?;
    let mut learner = Learner::new(device, comm, recipe, decoder, start)?;

    let folder = files.out.join("ppo").join("state");
    let settings_json = json!({"seed": recipe.seed, "ppo": recipe.ppo, "policy": recipe.policy, "lora": recipe.lora});
    let identity = super::fingerprint(&settings_json, []);
    let mut state = State { identity, iteration: 0, ranks: group.ranks(), policy_steps: 0, critic_steps: 0 };
    let mut keep = None;
    let mut checkpoints = Checkpoints::open(&folder, recipe.keep_checkpoints);
    if let Some((_, found)) = checkpoints.latest(group)? {
        let path = found.join("state.json");
        let saved: State = serde_json::from_value(checkpoint::read_json(&path)?).map_err(|e| Error::input(path.display(), e))?;
        if saved.identity == state.identity {
            learner.restore(&found, &saved)?;
            note(&format!("ppo: going on from iteration {} of {}", saved.iteration, settings.iterations));
            keep = Some(saved.iteration as u64);
            state = State { ranks: group.ranks(), ..saved };
        } else {
            note(&format!("ppo: {} belongs to other settings; starting anew", found.display()));
            checkpoints.clear(group)?;
        }
    }
    let mut metrics = if group.is_first() { Some(Metrics::open(&files.metrics(), "ppo", keep)?) } else { None };
    // Prompts are drawn as an endless sequence of epochs over the training split.
    let per_iteration = settings.prompts_per_iteration;
    let total = settings.iterations * per_iteration;
    let order = Order {
        count: prompts.len(),
        per_micro: 1,
        accumulation: 1,
        epochs: total.div_ceil(prompts.len()),
        seed: recipe.seed,
        shuffle: true,
    };
    let sequence: Vec<usize> = (0..order.epochs).flat_map(|epoch| order.epoch(epoch)).collect();
    detail(|| format!("ppo: {} prompts, {per_iteration} of them in each of {} iterations", prompts.len(), settings.iterations));
    let progress = Progress::new("ppo", settings.iterations as u64).counting("iterations").going_on_from(state.iteration as u64);
    let mut last = String::new();
    let base = model.display().to_string();
    let reading = Reading::Text(&tokenizer);
    while state.iteration < settings.iterations {
        let chosen: Vec<&Prompt> =
            sequence[state.iteration * per_iteration..][..per_iteration].iter().map(|i| &prompts[*i]).collect();
        let done = iterate(&mut learner, recipe, (&reading, &mut reward), &chosen, state.iteration, &mut metrics, &|phase| {
            progress.tell(phase)
        });
        match done {
            Ok(iterated) => last = iterated.line,
            Err(error) => {
                if matches!(error, Error::Interrupted) {
                    // The iteration under way left no trace; it comes again as a whole.
                    train::sync(&mut metrics)?;
                    learner.store(&mut checkpoints, &base, &state)?;
                }
                // Ranks that come out for a reason that all of them share finish what is under way.
                if matches!(error, Error::Interrupted | Error::NonFinite { .. }) || group.ranks() == 1 {
                    checkpoints.finish(group)?;
                }
                return Err(error);
            }
        }
        state.iteration += 1;
        state.policy_steps = learner.policy_optimizer.steps;
        state.critic_steps = learner.critic_optimizer.steps;
        progress.set(state.iteration as u64, &last);
        if checkpoints.under_way() {
            checkpoints.finish(group)?;
        }
        if settings.checkpoint_every > 0 && state.iteration.is_multiple_of(settings.checkpoint_every) {
            train::sync(&mut metrics)?;
            learner.store(&mut checkpoints, &base, &state)?;
        }
    }
    checkpoints.finish(group)?;
    progress.finish("");
    if let Some(trained) = learner.policy_optimizer.masters(device, &learner.policy.params_mut())? {
        train::write(&files.ppo_adapter(), &Piece::adapter(learner.policy.peft(device, &base, None, Some(&trained))?))?;
    }
    let last = if last.is_empty() { last } else { format!(", at the last {last}") };
    Ok(format!("{} iterations{last}", settings.iterations))
}

/// What an iteration did.
pub struct Iterated {
    /// For the progress bar.
    pub line: String,
    /// Seconds of its parts in order: `rollout`, `scoring`, `measuring`, `epochs`.
    pub seconds: Vec<(&'static str, f64)>,
    /// Tokens of the responses.
    pub tokens: usize,
}

/// One iteration: rollouts, advantages, epochs. Interrupts are heeded until the first update. `tell` hears what goes on.
pub fn iterate<D: Device>(
    learner: &mut Learner<'_, D>,
    recipe: &Recipe,
    models: (&Reading<'_>, &mut RewardModel<D>),
    chosen: &[&Prompt],
    iteration: usize,
    metrics: &mut Option<Metrics>,
    tell: &dyn Fn(&str),
) -> Result<Iterated> {
    let (settings, device, started) = (&recipe.ppo, learner.device, Instant::now());
    let _step = span(device, Kind::Step, "iteration");
    let mut parts = Vec::new();
    let trajectories = rollout(learner, recipe, models, chosen, iteration, &mut parts, tell)?;
    let asked = if interrupt::requested() { Err(Error::Interrupted) } else { Ok(()) };
    learner.group.together(asked)?;
    let sampled = started.elapsed().as_secs_f64();
    let rewards: Vec<Vec<f64>> = trajectories.iter().map(|trajectory| trajectory.rewards(settings.kl)).collect();
    let values: Vec<Vec<f64>> = trajectories.iter().map(|trajectory| trajectory.value.clone()).collect();
    let (gamma, lambda) = (settings.gamma as f32, settings.lambda as f32);
    let (advantages, returns) = ppo::advantages(learner.device, &rewards, &values, gamma, lambda, settings.whiten)?;

    let count = trajectories.len() as f64;
    let tokens: usize = advantages.iter().map(Vec::len).sum();
    let mean = |f: &dyn Fn(&Trajectory) -> f64| trajectories.iter().map(f).sum::<f64>() / count;
    let kl = mean(&|t| t.old.iter().zip(&t.reference).map(|(old, reference)| old - reference).sum());
    let drift = trajectories.iter().flat_map(|t| t.old.iter().zip(&t.sampled)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let score = mean(&|t| t.raw_score);
    let mut epochs = Vec::new();
    let mut ended_early = false;
    timed(device, "epochs", &mut parts, || {
        for epoch in 0..settings.epochs {
            tell(&format!("epoch {} of {}", epoch + 1, settings.epochs));
            let sums = learner.epoch(&trajectories, &advantages, &returns, (iteration, epoch), recipe.seed)?;
            let policy = &sums.policy;
            let per = |x: f64| if policy.tokens > 0.0 { x / policy.tokens } else { 0.0 };
            let k3 = per(policy.k3);
            epochs.push(json!({
                "policy_loss": per(policy.loss),
                "ratio": per(policy.ratio),
                "kl_old": k3,
                "clip_fraction": per(policy.clipped),
                "entropy": per(policy.entropy),
                "value_loss": sums.value_loss / tokens as f64,
                "grad_norm": sums.grad_norm / sums.steps as f64,
                "critic_grad_norm": sums.critic_grad_norm / sums.steps as f64,
            }));
            if settings.kl_bound.is_some_and(|bound| k3 > bound) {
                ended_early = true;
                break;
            }
        }
        Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let ended = mean(&|t| f64::from(u8::from(t.ended)));
    let length = tokens as f64 / count;
    let rate = tokens as f64 / seconds;
    let line = format!("{}, score {score:.3}, kl {kl:.3}, length {length:.0}", words::rate(rate, "tokens"));
    let iterated = Iterated { line, seconds: parts, tokens };
    let Some(metrics) = metrics else { return Ok(iterated) };
    let first = iteration * settings.epochs * settings.minibatches;
    metrics.write(
        iteration as u64 + 1,
        &[
            ("tokens", json!(tokens)),
            ("score", json!(score)),
            ("reward", json!(mean(&|t| t.score))),
            ("kl", json!(kl)),
            ("length", json!(length)),
            ("ended", json!(ended)),
            ("explained_variance", json!(ppo::explained_variance(&values, &returns))),
            ("sampler_drift", json!(drift)),
            ("lr", json!(if iteration < settings.critic_warmup { 0.0 } else { learner.policy_rate.at(first) })),
            ("critic_lr", json!(learner.critic_rate.at(first))),
            ("epochs", json!(epochs)),
            ("ended_early", json!(ended_early)),
            ("rollout_seconds", json!(sampled)),
            ("seconds", json!(seconds)),
            ("tokens_per_s", json!(rate)),
        ],
    )?;
    Ok(iterated)
}
