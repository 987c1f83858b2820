//! What an iteration of PPO learns from: responses to prompts, scored by the reward model and measured by policy, reference and critic.

use std::path::Path;

use super::Learner;
use crate::device::record::timed;
use crate::device::{Device, Sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Request, Sample};
use crate::loss::ppo;
use crate::optim::deal;
use crate::prompt;
use crate::recipe::{Recipe, RewardMemory};
use crate::record::{Message, Problem, Split, read_jsonl};
use crate::rng::key;
use crate::score::RewardModel;
use crate::stage::{instruction, spread};
use crate::telemetry::interrupt;
use crate::tokenizer::Tokenizer;

/// A response being learned from. Per-token numbers are those of the response's tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The problem's id.
    pub id: String,
    /// Prompt and response.
    pub tokens: Vec<u32>,
    /// Where the response begins.
    pub start: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// The sampler's log-probs.
    pub sampled: Vec<f64>,
    /// The policy's before the iteration, by the training kernels.
    pub old: Vec<f64>,
    /// The reference's.
    pub reference: Vec<f64>,
    /// The critic's values before each token.
    pub value: Vec<f64>,
    /// The reward model's raw score.
    pub raw_score: f64,
    /// What the last token is given: normalised, clamped, less the penalty of a missing end.
    pub score: f64,
}

impl Trajectory {
    pub(super) fn rewards(&self, kl: f64) -> Vec<f64> {
        ppo::token_rewards(&self.old, &self.reference, self.score, kl)
    }
}

/// A prompt of the training split.
pub struct Prompt {
    /// The problem's id.
    pub id: String,
    /// What the reward model reads.
    pub text: String,
    /// What the policy reads.
    pub tokens: Vec<u32>,
}

/// How responses end, and how the reward model reads them.
pub enum Reading<'a> {
    /// As text, by a tokenizer of its own. The policy's tokenizer says what ends a response.
    Text(&'a Tokenizer),
    /// Token by token, the ids taken modulo its vocabulary: for random tokens, which are no text. No token ends a response.
    Tokens,
}

impl Reading<'_> {
    fn eos(&self) -> Vec<u32> {
        match self {
            Reading::Text(tokenizer) => tokenizer.eos_ids().to_vec(),
            Reading::Tokens => Vec::new(),
        }
    }

    fn score<D: Device>(
        &self,
        device: &D,
        reward: &RewardModel<D>,
        max_tokens: usize,
        answered: &[(&Prompt, &Sample)],
    ) -> Result<Vec<f64>> {
        match self {
            Reading::Text(tokenizer) => {
                let decode = |(_, sample): &(&Prompt, &Sample)| tokenizer.decode(&sample.tokens, true);
                let texts = answered.iter().map(decode).collect::<Result<Vec<_>>>()?;
                let pairs = answered.iter().zip(&texts).map(|((prompt, _), text)| (prompt.text.as_str(), text.as_str()));
                reward.score_texts(device, &pairs.collect::<Vec<_>>(), max_tokens)
            }
            Reading::Tokens => {
                let vocab = reward.decoder.config.vocab as u32;
                let read = |(prompt, sample): &(&Prompt, &Sample)| {
                    let tokens = prompt.tokens.iter().chain(&sample.tokens);
                    tokens.take(max_tokens).map(|token| token % vocab).collect()
                };
                reward.score_tokens(device, &answered.iter().map(read).collect::<Vec<_>>())
            }
        }
    }
}

/// The prompts of a run's training split.
pub(super) fn prompts(recipe: &Recipe, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<Prompt>> {
    let problems: Vec<Problem> = read_jsonl(path)?;
    let training = problems.iter().filter(|problem| problem.split == Some(Split::Train));
    let render = |problem: &Problem| {
        let text = prompt::user_text(problem, instruction(recipe));
        let tokens = prompt::prompt_tokens(tokenizer, &[Message::user(text.as_str())])?;
        Ok(Prompt { id: problem.id.clone(), text, tokens })
    };
    let prompts = training.map(render).collect::<Result<Vec<_>>>()?;
    match prompts.is_empty() {
        true => Err(Error::input(path.display(), "no problem of the training split to draw prompts from")),
        false => Ok(prompts),
    }
}

/// Samples one response to each prompt of an iteration and has it scored.
pub(super) fn rollout<D: Device>(
    learner: &Learner<'_, D>,
    recipe: &Recipe,
    (reading, reward): (&Reading<'_>, &mut RewardModel<D>),
    prompts: &[&Prompt],
    iteration: usize,
    seconds: &mut Vec<(&'static str, f64)>,
    tell: &dyn Fn(&str),
) -> Result<Vec<Trajectory>> {
    let (device, settings) = (learner.device, &recipe.ppo);
    let request = |(index, prompt): (usize, &&Prompt)| Request {
        prompt: prompt.tokens.clone(),
        key: key(recipe.seed, "rollout", (iteration * settings.prompts_per_iteration + index) as u64),
    };
    let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
    let group = learner.group;
    let own: Vec<usize> = deal(requests.len(), group.ranks(), group.rank()).collect();
    let own_requests: Vec<Request> = own.iter().map(|index| requests[*index].clone()).collect();
    let sampling = generate::Settings {
        // The checkpoint's own generation settings would make the samples off-policy.
        sampling: Sampling { temperature: settings.temperature as f32, top_k: 0, top_p: 1.0 },
        max_new_tokens: settings.max_new_tokens,
        eos: reading.eos(),
        batch: settings.batch,
    };
    let mut written = 0;
    let mut on_token = |_: usize, _: u32| {
        written += 1;
        tell(&format!("rollout, {written} tokens of {} responses", own_requests.len()));
        if interrupt::requested() { Err(Error::Interrupted) } else { group.check() }
    };
    let policy = Some(&learner.policy);
    let samples = timed(device, "rollout", seconds, || {
        group.together(generate::generate(device, &learner.decoder, policy, &own_requests, &sampling, &mut on_token))
    })?;
    let scores = timed(device, "scoring", seconds, || {
        let answered: Vec<(&Prompt, &Sample)> = own.iter().map(|i| prompts[*i]).zip(&samples).collect();
        tell(&format!("scoring {} responses", answered.len()));
        reward.decoder.unpark(device)?;
        let scores = reading.score(device, reward, recipe.reward.max_tokens, &answered)?;
        reward.decoder.keep_up(device)?;
        if settings.reward_memory == RewardMemory::Host {
            reward.decoder.park(device)?;
        }
        Ok(scores)
    })?;
    let mut own = samples.into_iter().zip(scores);
    // Every rank gets every response: what follows is computed by all of them, or dealt anew.
    let rows = spread(device, (group, &learner.decoder), "rollouts", requests.len(), |_| {
        let (sample, score) = own.next().expect("each rank is asked for what it was dealt");
        let tokens = sample.tokens.iter().map(|token| f64::from(*token));
        Ok([score, f64::from(u8::from(sample.ended))].into_iter().chain(tokens).chain(sample.logprobs).collect())
    })?;
    let samples = rows.into_iter().map(|row| {
        let (tokens, logprobs) = row[2..].split_at((row.len() - 2) / 2);
        let tokens = tokens.iter().map(|token| *token as u32).collect();
        (Sample { tokens, logprobs: logprobs.to_vec(), ended: row[1] == 1.0 }, row[0])
    });
    let trajectory = |((prompt, request), (sample, raw_score)): ((&&Prompt, Request), (Sample, f64))| {
        let penalty = if sample.ended { 0.0 } else { settings.missing_eos_penalty };
        Trajectory {
            id: prompt.id.clone(),
            start: request.prompt.len(),
            tokens: [request.prompt, sample.tokens].concat(),
            ended: sample.ended,
            sampled: sample.logprobs,
            old: Vec::new(),
            reference: Vec::new(),
            value: Vec::new(),
            raw_score,
            score: reward.scale.apply(raw_score, settings.score_clip) - penalty,
        }
    };
    let mut trajectories: Vec<Trajectory> = prompts.iter().zip(requests).zip(samples).map(trajectory).collect();
    timed(device, "measuring", seconds, || learner.measure(&mut trajectories, tell))?;
    Ok(trajectories)
}
