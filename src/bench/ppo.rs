//! Iterations of PPO on random prompts: the stage's own rollouts, scoring, log-probs, values and epochs.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::{About, Extents, Measured, recipe, tokens};
use crate::checkpoint::Tensors;
use crate::comm::{self, Shared};
use crate::device::meter::{Style, Work};
use crate::device::{Device, Meter};
use crate::error::Result;
use crate::loss::ppo::ScoreScale;
use crate::model::{Adapter, Config, Decoder, ScalarHead};
use crate::plan::stages;
use crate::recipe::Recipe;
use crate::rng::Rng;
use crate::score::RewardModel;
use crate::stage::ppo::{Iterated, Learner, Prompt, Reading, iterate};
use crate::stage::sft::lora_config;

/// What an iteration is made of.
#[derive(Debug, Clone, Serialize)]
pub struct Iteration {
    /// The reward model.
    pub reward_model: Extents,
    /// Tokens of a response.
    pub new_tokens: usize,
    /// Passes over the responses.
    pub epochs: usize,
    /// Updates of a pass.
    pub minibatches: usize,
    /// Sequences of a micro-batch.
    pub sequences_per_device: usize,
    /// Seconds of each part, in every iteration.
    pub phases: Vec<Phase>,
}

/// A part of an iteration.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// `rollout`, `scoring`, `measuring` or `epochs`.
    pub name: &'static str,
    /// Its seconds in every iteration.
    pub samples: Vec<f64>,
}

/// The models of an iteration on a device, and random prompts.
pub struct Iterations<'a, D: Device> {
    recipe: &'a Recipe,
    learner: Learner<'a, D>,
    reward: RewardModel<D>,
    prompts: Vec<Prompt>,
}

impl<'a, D: Device> Iterations<'a, D> {
    /// The policy of this folder with the recipe's adapter, or a fresh one, which is also the reference; the reward model of another
    /// folder, whose head is fresh where it has none; as many prompts of `prompt` tokens as the recipe takes in an iteration.
    pub fn new(
        device: &'a D,
        comm: &'a Shared<D>,
        recipe: &'a Recipe,
        (policy, reward): (&Path, &Path),
        prompt: usize,
    ) -> Result<Self> {
        let reward = reward_model(device, reward, recipe.seed)?;
        let decoder = Decoder::load(device, policy)?;
        let start = match &recipe.ppo.adapter {
            Some(folder) => Adapter::load(device, &decoder.config, folder)?,
            None => Adapter::new(device, lora_config(recipe), &decoder.config, recipe.seed)?,
        };
        let mut rng = Rng::new(recipe.seed, "bench prompts", 0);
        let vocab = decoder.config.vocab;
        let made = |index: usize| Prompt { id: index.to_string(), text: String::new(), tokens: tokens(&mut rng, prompt, vocab) };
        let prompts = (0..recipe.ppo.prompts_per_iteration).map(made).collect();
        let learner = Learner::new(device, comm, recipe, decoder, Some(start))?;
        Ok(Iterations { recipe, learner, reward, prompts })
    }

    /// The iteration of this number.
    pub fn run(&mut self, iteration: usize) -> Result<Iterated> {
        let chosen: Vec<&Prompt> = self.prompts.iter().collect();
        let models = (&Reading::Tokens, &mut self.reward);
        iterate(&mut self.learner, self.recipe, models, &chosen, iteration, &mut None, &|_| ())
    }
}

/// A reward model, or a decoder with a fresh head.
fn reward_model<D: Device>(device: &D, folder: &Path, seed: u64) -> Result<RewardModel<D>> {
    let adapted = folder.join("adapter_config.json").exists();
    if adapted || Tensors::open_folder(folder)?.shape(ScalarHead::<D>::NAME).is_some() {
        return RewardModel::load(device, folder);
    }
    let decoder = Decoder::load_body(device, folder)?;
    let head = ScalarHead::random(device, decoder.config.hidden, seed)?;
    let scale = ScoreScale { mean: 0.0, deviation: 1.0 };
    Ok(RewardModel { decoder, adapter: None, head, tokenizer: None, scale })
}

/// What is benchmarked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The policy's folder.
    pub model: &'a Path,
    /// The reward model's; one without a scalar head gets a fresh one.
    pub reward_model: &'a Path,
    /// Prompts of an iteration.
    pub batch: usize,
    /// Tokens of a prompt.
    pub seq: usize,
    /// Tokens of a response.
    pub new_tokens: usize,
    /// Iterations that are timed.
    pub steps: usize,
}

/// Iterations of PPO, one outside the time: a response of `new_tokens` tokens to each of `batch` random prompts, its score, log-probs
/// of policy and reference and values, and a recipe's default of 5 epochs in 4 minibatches on adapters of rank 4. The reward model
/// reads the tokens as they are: random tokens are no text.
pub fn ppo<D: Device>(device: &D, asked: Question<'_>) -> Result<Measured> {
    let Question { batch, seq, new_tokens, steps, .. } = asked;
    let mut recipe = recipe();
    recipe.reward.max_tokens = seq + new_tokens;
    let settings = &mut recipe.ppo;
    (settings.iterations, settings.prompts_per_iteration, settings.batch) = (steps + 1, batch, batch);
    (settings.max_new_tokens, settings.critic_warmup) = (new_tokens, 0);
    settings.minibatches = settings.minibatches.min(batch);
    let settings = &recipe.ppo;
    let comm = comm::solo();
    let mut iterations = Iterations::new(device, &comm, &recipe, (asked.model, asked.reward_model), seq)?;
    let mut phases: Vec<Phase> = iterations.run(0)?.seconds.iter().map(|(name, _)| Phase { name, samples: Vec::new() }).collect();
    let mut samples = Vec::with_capacity(steps);
    for iteration in 1..=steps {
        let started = Instant::now();
        let done = iterations.run(iteration)?;
        samples.push(started.elapsed().as_secs_f64());
        phases.iter_mut().zip(done.seconds).for_each(|(phase, (_, seconds))| phase.samples.push(seconds));
    }
    let (config, of_reward) = (Config::load(asked.model)?, Config::load(asked.reward_model)?);
    let mut metered = recipe.clone();
    metered.ppo.adapter = Some(asked.model.into());
    let metered = stages::ppo(&Meter::<D::Act>::new(Style::Cuda), &metered, (&config, &of_reward), seq, 1)?;
    let mut work = Work::default();
    metered.parts.iter().for_each(|part| work.add(&part.work, steps as u64));
    let about = About { what: "ppo", config: &config, batch, seq, steps };
    let seconds = samples.iter().sum();
    let measured = about.measured(device, batch * new_tokens * steps, seconds, samples, &work);
    let iteration = Iteration {
        reward_model: Extents::from(&of_reward),
        new_tokens,
        epochs: settings.epochs,
        minibatches: settings.minibatches,
        sequences_per_device: settings.sequences_per_device,
        phases,
    };
    Ok(Measured { ppo: Some(iteration), ..measured })
}
