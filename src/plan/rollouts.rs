//! An iteration of PPO on a meter: the calls of `stage/ppo.rs`, in its order.

use super::stages::{Scorer, Session, Trainer, shares, write};
use crate::batch::NextTokens;
use crate::device::meter::Class;
use crate::device::{Meter, Real};
use crate::error::Result;
use crate::loss::Pending;
use crate::loss::ppo::{self, PolicyStats, ScoreScale};
use crate::model::head::{LogProbs, Scores};
use crate::model::{Adapter, Config, Decoder, Packed, Pass, ScalarHead};
use crate::optim::Sum;
use crate::recipe::{Critic, Recipe, RewardMemory, Train};
use crate::score::RewardModel;
use crate::stage::sft::lora_config;
use crate::weights::Param;

/// The models of an iteration.
struct Models<A: Real> {
    decoder: Decoder<Meter<A>>,
    policy: Adapter<Meter<A>>,
    reference: Option<Adapter<Meter<A>>>,
    critic: Option<Adapter<Meter<A>>>,
    value: ScalarHead<Meter<A>>,
}

impl<A: Real> Models<A> {
    fn critic_params(&mut self) -> Vec<&mut Param<Meter<A>>> {
        let mut params = self.critic.as_mut().map_or(Vec::new(), Adapter::params_mut);
        params.push(&mut self.value.weight);
        params
    }
}

/// Responses that all have the same length.
struct Batch {
    prompt: usize,
    response: usize,
}

impl Batch {
    fn pack<A: Real>(&self, meter: &Meter<A>, count: usize) -> Result<(Packed<Meter<A>>, NextTokens)> {
        let tokens = vec![0u32; self.prompt + self.response];
        let sequences = vec![&tokens[..]; count];
        Ok((Packed::new(meter, &sequences)?, NextTokens::after(sequences.iter().map(|tokens| (*tokens, self.prompt)))))
    }

    /// A number for every token of so many responses.
    fn numbers(&self, count: usize) -> Vec<Vec<f64>> {
        vec![vec![0.0; self.response]; count]
    }
}

/// Runs an iteration.
pub(super) fn iteration<A: Real>(
    session: &mut Session<'_, A>,
    recipe: &Recipe,
    (policy, reward): (&Config, &Config),
    prompt: usize,
) -> Result<()> {
    let (meter, settings, ranks) = (session.meter, &recipe.ppo, session.ranks);
    let Scorer { decoder, adapter, head } =
        Scorer::shaped(session, recipe, reward, settings.reward_memory == RewardMemory::Sharded)?;
    let scale = ScoreScale { mean: 0.0, deviation: 1.0 };
    let mut scorer = RewardModel { decoder, adapter, head, tokenizer: None, scale };
    let away = settings.reward_memory == RewardMemory::Host;
    if away {
        scorer.decoder.park(meter)?;
    }
    let decoder = Decoder::shaped(meter, shares(&session.comm, recipe.shard_frozen), policy.clone(), true)?;
    let fresh = || Adapter::shaped(meter, lora_config(recipe), policy);
    let start = if settings.adapter.is_some() || recipe.sft.train == Train::Lora { Some(fresh()?) } else { None };
    let copy = || match &start {
        Some(start) => start.duplicate(meter, policy),
        None => fresh(),
    };
    let learned = copy()?;
    let critic = if settings.critic == Critic::Adapter { Some(copy()?) } else { None };
    let value = ScalarHead::zeros(meter, policy.hidden)?;
    let mut models = Models { decoder, policy: learned, reference: start, critic, value };
    session.loaded();
    let mut of_policy = Trainer::new(session, &mut models.policy.params_mut(), Sum::Whole)?;
    let mut of_critic = Trainer::new(session, &mut models.critic_params(), Sum::Whole)?;
    session.begin();

    let all = settings.prompts_per_iteration;
    let count = all.div_ceil(ranks);
    let batch = Batch { prompt, response: settings.max_new_tokens };
    let written = all * batch.response;
    let together = (count, settings.batch.min(count));
    write(session, "rollout", (&models.decoder, Some(&models.policy)), together, (prompt, batch.response), written)?;

    meter.class(Class::Frozen);
    let before = meter.live().total();
    scorer.decoder.unpark(meter)?;
    let moved = meter.live().total() - before;
    meter.class(Class::Workspace);
    let length = (prompt + batch.response).min(recipe.reward.max_tokens);
    scorer.score_tokens(meter, &vec![vec![0; length]; count])?;
    session.part("scoring", 1, (all * length) as u64).host = moved as u64;
    if away {
        scorer.decoder.park(meter)?;
    }

    // Micro-batches are cut from all responses, and then dealt.
    let micros = all.div_ceil(settings.sequences_per_device);
    let size = settings.sequences_per_device.min(all);
    measure(meter, &models, &batch, micros.div_ceil(ranks), size)?;
    let (rewards, values) = (batch.numbers(all), batch.numbers(all));
    ppo::advantages(meter, &rewards, &values, settings.gamma as f32, settings.lambda as f32, settings.whiten)?;
    session.part("measuring", 1, written as u64);

    let minibatches: Vec<usize> = (0..micros).collect();
    for minibatch in minibatches.chunks(micros.div_ceil(settings.minibatches)) {
        of_policy.clear(meter)?;
        of_critic.clear(meter)?;
        let (mut policy, mut critic) = (Vec::new(), Vec::new());
        let rounds = minibatch.len().div_ceil(ranks);
        for round in 1..=rounds {
            policy.push(policy_micro(meter, recipe, &models, (&batch, size), &mut of_policy, round == rounds)?);
            critic.push(critic_micro(meter, recipe, &models, (&batch, size), &mut of_critic, round == rounds)?);
        }
        of_policy.update(meter, &mut models.policy.params_mut(), &policy)?;
        of_critic.update(meter, &mut models.critic_params(), &critic)?;
    }
    session.part("epochs", settings.epochs as u64, written as u64);
    Ok(())
}

/// Log-probs of policy and reference, and values, of the responses of so many micro-batches.
fn measure<A: Real>(meter: &Meter<A>, models: &Models<A>, batch: &Batch, micros: usize, size: usize) -> Result<()> {
    for _ in 0..micros {
        let (packed, next) = batch.pack(meter, size)?;
        for adapter in [Some(&models.policy), models.reference.as_ref()] {
            let hidden = models.decoder.infer(meter, &packed, adapter)?;
            LogProbs::new(meter, &models.decoder, &hidden, &next.rows, &next.targets, 1.0)?;
        }
        let hidden = models.decoder.infer(meter, &packed, models.critic.as_ref().or(models.reference.as_ref()))?;
        Scores::new(meter, &models.value, &hidden, &next.rows)?;
    }
    Ok(())
}

fn policy_micro<A: Real>(
    meter: &Meter<A>,
    recipe: &Recipe,
    models: &Models<A>,
    (batch, count): (&Batch, usize),
    trainer: &mut Trainer<A>,
    last: bool,
) -> Result<Pending<Meter<A>, PolicyStats>> {
    meter.class(Class::Activations);
    let (packed, next) = batch.pack(meter, count)?;
    let pass = Pass { recompute: recipe.ppo.recompute, dropout: None };
    let (hidden, saved) = models.decoder.forward(meter, &packed, Some(&models.policy), pass)?;
    let head = LogProbs::new(meter, &models.decoder, &hidden, &next.rows, &next.targets, 1.0)?;
    let numbers = batch.numbers(count);
    let (sums, dlogprob) = ppo::policy(meter, &head.logprob, &numbers, &numbers, 0.2, 1.0)?;
    trainer.backward(meter, last, |grads, on_layer| {
        let dhidden = head.backward(meter, &models.decoder, &dlogprob, grads)?;
        models.decoder.backward(meter, &packed, Some(&models.policy), saved, &dhidden, grads, on_layer)
    })?;
    Ok(ppo::policy_stats(sums, head.entropy))
}

fn critic_micro<A: Real>(
    meter: &Meter<A>,
    recipe: &Recipe,
    models: &Models<A>,
    (batch, count): (&Batch, usize),
    trainer: &mut Trainer<A>,
    last: bool,
) -> Result<Pending<Meter<A>, f64>> {
    meter.class(if models.critic.is_some() { Class::Activations } else { Class::Workspace });
    let (packed, next) = batch.pack(meter, count)?;
    let numbers = batch.numbers(count);
    let Some(adapter) = &models.critic else {
        let hidden = models.decoder.infer(meter, &packed, models.reference.as_ref())?;
        let scores = Scores::new(meter, &models.value, &hidden, &next.rows)?;
        let (sum, dvalue) = ppo::value(meter, &scores.score, &numbers, &numbers, 0.2, 1.0)?;
        trainer.backward(meter, last, |grads, _| scores.backward(meter, &models.value, &dvalue, grads))?;
        return Ok(sum);
    };
    let pass = Pass { recompute: recipe.ppo.recompute, dropout: None };
    let (hidden, saved) = models.decoder.forward(meter, &packed, Some(adapter), pass)?;
    let scores = Scores::new(meter, &models.value, &hidden, &next.rows)?;
    let (sum, dvalue) = ppo::value(meter, &scores.score, &numbers, &numbers, 0.2, 1.0)?;
    trainer.backward(meter, last, |grads, on_layer| {
        let dhidden = scores.backward(meter, &models.value, &dvalue, grads)?;
        models.decoder.backward(meter, &packed, Some(adapter), saved, &dhidden, grads, on_layer)
    })?;
    Ok(sum)
}
