//! The stages that compute, run once by the engine's own code on a [`Meter`]: a training step, a batch of answers, an iteration of
//! PPO. What a recipe does not say is taken at its most: every sequence is as long as it may be, and every token is trained on.

use std::sync::Arc;

use super::rollouts;
use crate::comm::{Group, Moved, Pretend, Shared};
use crate::device::meter::{Class, Held, Work};
use crate::device::{Device, Meter, Real, Sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Request};
use crate::loss::Pending;
use crate::loss::reward::pairs;
use crate::model::{Adapter, Config, Decoder, OnLayer, Packed, Pass, ScalarHead};
use crate::optim::{Hyper, Optimizer, Sum};
use crate::prompt::Example;
use crate::recipe::{Recipe, Recompute, Train};
use crate::score::{PASS, last_tokens};
use crate::stage::sft::{Supervised, VALIDATION_TOKENS, lora_config};
use crate::stage::train::{Task, micros, sum};
use crate::weights::{Grads, Param};

/// A buffer of activations.
type Acts<A> = <Meter<A> as Device>::Buf<A>;

/// A part of a stage, as one rank computes it.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// `step`, `rollout`, `epochs`.
    pub name: &'static str,
    /// The operators it calls.
    pub work: Work,
    /// Bytes of whole tensors that collectives move.
    pub network: u64,
    /// Bytes that come from the host.
    pub host: u64,
    /// Tokens that all ranks train on, write or read.
    pub tokens: u64,
}

/// Whose share of a stage is metered, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// One of so many ranks.
    pub ranks: usize,
    /// Otherwise only as much as shows the memory: of what is written, the first two tokens.
    pub whole: bool,
}

impl From<usize> for View {
    fn from(ranks: usize) -> View {
        View { ranks, whole: true }
    }
}

/// What a stage takes of one rank.
#[derive(Debug, Clone)]
pub struct Metered {
    /// Bytes by class at the moment when they are most.
    pub held: Held,
    /// Bytes that the pool needs beyond them.
    pub gaps: usize,
    /// Its parts in order.
    pub parts: Vec<Part>,
}

impl Metered {
    /// Bytes of the pool that it needs.
    pub fn needed(&self) -> usize {
        self.held.total() + self.gaps
    }
}

/// A stage being metered.
pub(super) struct Session<'a, A: Real> {
    pub meter: &'a Meter<A>,
    pub ranks: usize,
    pub comm: Shared<Meter<A>>,
    moved: Arc<Pretend>,
    whole: bool,
    loading: Held,
    parts: Vec<Part>,
}

impl<'a, A: Real> Session<'a, A> {
    pub fn new(meter: &'a Meter<A>, View { ranks, whole }: View) -> Self {
        meter.class(Class::Frozen);
        let moved = Arc::new(Pretend::new(ranks));
        Session { meter, ranks, comm: moved.clone(), moved, whole, loading: Held::default(), parts: Vec::new() }
    }

    /// Models are on the device.
    pub fn loaded(&mut self) {
        self.loading = self.meter.peak();
    }

    /// All that lives as long as the stage is there: from here on its work is counted.
    pub fn begin(&mut self) {
        self.meter.restart_peak();
        self.take();
        self.meter.class(Class::Workspace);
    }

    /// What was called, and the bytes of whole tensors that collectives moved, since the last time.
    pub fn take(&mut self) -> (Work, u64) {
        let Moved { reduced, gathered } = self.moved.take();
        (self.meter.take_work(), reduced + gathered)
    }

    /// Ends a part: what was called since the last one, `times` over.
    pub fn part(&mut self, name: &'static str, times: u64, tokens: u64) -> &mut Part {
        let (once, network) = self.take();
        let mut work = Work::default();
        work.add(&once, times);
        self.parts.push(Part { name, work, network: network * times, host: 0, tokens: tokens * times });
        self.parts.last_mut().expect("a part was just added")
    }

    /// The stage's memory and parts.
    pub fn end(self) -> Metered {
        let mut held = self.meter.peak();
        if self.loading.total() > held.total() {
            held = self.loading;
        }
        Metered { held, gaps: self.meter.gaps(), parts: self.parts }
    }

    /// Says what parameters are held for.
    pub fn tag(&self, params: &[&mut Param<Meter<A>>], value: Class, master: Class) {
        for param in params {
            self.meter.tag(&param.value, value);
            if let Some(buf) = &param.master {
                self.meter.tag(buf, master);
            }
        }
    }
}

/// Gradients and optimizer of some parameters: the one place of the plan that trains.
pub(super) struct Trainer<A: Real> {
    grads: Grads<Meter<A>>,
    optimizer: Optimizer<Meter<A>>,
}

impl<A: Real> Trainer<A> {
    pub fn new(session: &Session<'_, A>, params: &mut [&mut Param<Meter<A>>], sum: Sum) -> Result<Self> {
        let meter = session.meter;
        meter.class(Class::Gradients);
        let (optimizer, grads) = Optimizer::new(meter, &session.comm, params, HYPER, sum)?;
        session.tag(params, Class::Trained, Class::Masters);
        optimizer.moments().for_each(|moment| meter.tag(moment, Class::Moments));
        meter.class(Class::Workspace);
        Ok(Trainer { grads, optimizer })
    }

    /// Begins a step.
    pub fn clear(&mut self, meter: &Meter<A>) -> Result<()> {
        self.optimizer.clear(meter, &mut self.grads)
    }

    /// The backward pass of a micro-batch.
    pub fn backward<T>(
        &mut self,
        meter: &Meter<A>,
        last: bool,
        backward: impl FnOnce(&mut Grads<Meter<A>>, OnLayer<'_, Meter<A>>) -> Result<T>,
    ) -> Result<T> {
        self.optimizer.backward(meter, &mut self.grads, last, backward)
    }

    /// The end of a step: statistics, then the update.
    pub fn update<T: bytemuck::Pod>(
        &mut self,
        meter: &Meter<A>,
        params: &mut [&mut Param<Meter<A>>],
        pending: &[Pending<Meter<A>, T>],
    ) -> Result<()> {
        meter.class(Class::Workspace);
        self.optimizer.measure(meter, &self.grads, pending)?;
        self.optimizer.update(meter, params, &self.grads, 0.0, 0.0)
    }
}

/// Numbers that no memory and no time depends on.
const HYPER: Hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 };

/// A model that is trained on micro-batches.
trait Learn<A: Real> {
    fn params(&mut self) -> Vec<&mut Param<Meter<A>>>;
    fn micro(
        &mut self,
        meter: &Meter<A>,
        grads: &mut Grads<Meter<A>>,
        on_layer: OnLayer<'_, Meter<A>>,
    ) -> Result<Pending<Meter<A>, f64>>;
    fn validate(&mut self, meter: &Meter<A>, group: &Group) -> Result<()>;
}

/// A step of so many micro-batches on this rank, and the validation that may follow it.
fn train<A: Real>(
    session: &mut Session<'_, A>,
    learner: &mut dyn Learn<A>,
    kind: Train,
    micros: usize,
    tokens: usize,
) -> Result<()> {
    let meter = session.meter;
    session.loaded();
    let mut trainer = Trainer::new(session, &mut learner.params(), sum(kind))?;
    session.begin();
    trainer.clear(meter)?;
    let mut pending = Vec::new();
    for micro in 1..=micros {
        meter.class(Class::Activations);
        pending.push(trainer.backward(meter, micro == micros, |grads, on_layer| learner.micro(meter, grads, on_layer))?);
    }
    trainer.update(meter, &mut learner.params(), &pending)?;
    drop(pending);
    session.part("step", 1, (session.ranks * micros * tokens) as u64);
    learner.validate(meter, session.comm.group())?;
    session.take();
    Ok(())
}

/// With whom frozen blocks are shared out, where a recipe says so.
pub(super) fn shares<A: Real>(comm: &Shared<Meter<A>>, so: bool) -> Option<&Shared<Meter<A>>> {
    Some(comm).filter(|_| so)
}

struct Sft<A: Real> {
    task: Supervised<Meter<A>>,
    records: Vec<usize>,
    validate: bool,
}

impl<A: Real> Learn<A> for Sft<A> {
    fn params(&mut self) -> Vec<&mut Param<Meter<A>>> {
        self.task.params()
    }

    fn micro(
        &mut self,
        meter: &Meter<A>,
        grads: &mut Grads<Meter<A>>,
        on_layer: OnLayer<'_, Meter<A>>,
    ) -> Result<Pending<Meter<A>, f64>> {
        self.task.micro(meter, &self.records, 1.0, 0, grads, on_layer)
    }

    fn validate(&mut self, meter: &Meter<A>, group: &Group) -> Result<()> {
        if self.validate { self.task.validate(meter, group).map(drop) } else { Ok(()) }
    }
}

/// A step of supervised fine-tuning.
pub fn sft<A: Real>(meter: &Meter<A>, recipe: &Recipe, policy: &Config, view: impl Into<View>) -> Result<Metered> {
    let view = view.into();
    let ranks = view.ranks;
    let settings = &recipe.sft;
    let mut session = Session::new(meter, view);
    let shared = recipe.shard_frozen && settings.train == Train::Lora;
    let decoder = Decoder::shaped(meter, shares(&session.comm, shared), policy.clone(), true)?;
    let adapter = match settings.train {
        Train::Full => None,
        Train::Lora => Some(Adapter::shaped(meter, lora_config(recipe), policy)?),
    };
    let example = || Example { tokens: vec![0; settings.max_tokens], mask: vec![true; settings.max_tokens] };
    let examples: Vec<Example> = (0..settings.sequences_per_device).map(|_| example()).collect();
    let task = Supervised {
        decoder,
        adapter,
        ids: vec![String::new(); examples.len()],
        validation: (0..(VALIDATION_TOKENS / settings.max_tokens).max(1)).map(|_| example()).collect(),
        examples,
        recompute: settings.recompute,
        base: String::new(),
        storage: crate::checkpoint::Storage::F32,
    };
    let micros = micros(settings.global_batch, settings.sequences_per_device, settings.accumulation, ranks);
    let records = (0..settings.sequences_per_device).collect();
    let mut learner = Sft { task, records, validate: settings.validate };
    let tokens = settings.sequences_per_device * settings.max_tokens;
    train(&mut session, &mut learner, settings.train, micros.div_ceil(ranks), tokens)?;
    Ok(session.end())
}

/// A reward model's parts, as [`crate::score::RewardModel`] has them.
pub(super) struct Scorer<A: Real> {
    pub decoder: Decoder<Meter<A>>,
    pub adapter: Option<Adapter<Meter<A>>>,
    pub head: ScalarHead<Meter<A>>,
}

impl<A: Real> Scorer<A> {
    pub fn shaped(session: &Session<'_, A>, recipe: &Recipe, config: &Config, shared: bool) -> Result<Self> {
        let meter = session.meter;
        let decoder = Decoder::shaped(meter, shares(&session.comm, shared), config.clone(), false)?;
        let head = ScalarHead::zeros(meter, config.hidden)?;
        let adapter = match recipe.reward.train {
            Train::Full => None,
            Train::Lora => Some(Adapter::shaped(meter, lora_config(recipe), config)?),
        };
        Ok(Scorer { decoder, adapter, head })
    }
}

struct Preferences<A: Real> {
    model: Scorer<A>,
    recompute: Recompute,
    pairs: usize,
    length: usize,
    validate: bool,
}

impl<A: Real> Preferences<A> {
    fn batch(&self, meter: &Meter<A>, pairs: usize) -> Result<(Packed<Meter<A>>, Vec<f64>)> {
        let sequence = vec![0u32; self.length];
        Ok((Packed::new(meter, &vec![&sequence[..]; 2 * pairs])?, vec![1.0; pairs]))
    }
}

impl<A: Real> Learn<A> for Preferences<A> {
    fn params(&mut self) -> Vec<&mut Param<Meter<A>>> {
        let mut params = match &mut self.model.adapter {
            Some(adapter) => adapter.params_mut(),
            None => self.model.decoder.params_mut(),
        };
        params.push(&mut self.model.head.weight);
        params
    }

    fn micro(
        &mut self,
        meter: &Meter<A>,
        grads: &mut Grads<Meter<A>>,
        on_layer: OnLayer<'_, Meter<A>>,
    ) -> Result<Pending<Meter<A>, f64>> {
        let (batch, labels) = self.batch(meter, self.pairs)?;
        let (model, adapter) = (&self.model, self.model.adapter.as_ref());
        let how = Pass { recompute: self.recompute, dropout: None };
        let (hidden, saved) = model.decoder.forward(meter, &batch, adapter, how)?;
        let (stats, dhidden) = pairs(meter, &model.head, &hidden, &last_tokens(&batch), &labels, Some((1.0, &mut *grads)))?;
        let dhidden: Acts<A> = dhidden.expect("training asks for a gradient");
        model.decoder.backward(meter, &batch, adapter, saved, &dhidden, grads, on_layer)?;
        Ok(stats.map(|stats| stats.loss))
    }

    fn validate(&mut self, meter: &Meter<A>, _: &Group) -> Result<()> {
        if !self.validate {
            return Ok(());
        }
        let (batch, labels) = self.batch(meter, PASS / 2)?;
        let hidden = self.model.decoder.infer(meter, &batch, self.model.adapter.as_ref())?;
        pairs(meter, &self.model.head, &hidden, &last_tokens(&batch), &labels, None).map(drop)
    }
}

/// A step of the reward model.
pub fn reward<A: Real>(meter: &Meter<A>, recipe: &Recipe, config: &Config, view: impl Into<View>) -> Result<Metered> {
    let view = view.into();
    let ranks = view.ranks;
    let settings = &recipe.reward;
    let mut session = Session::new(meter, view);
    let model = Scorer::shaped(&session, recipe, config, recipe.shard_frozen && settings.train == Train::Lora)?;
    let micros = micros(settings.global_batch, settings.sequences_per_device, settings.accumulation, ranks);
    let (pairs, length) = (settings.sequences_per_device, settings.max_tokens);
    let validate = settings.validation > 0.0;
    let mut learner = Preferences { model, recompute: settings.recompute, pairs, length, validate };
    train(&mut session, &mut learner, settings.train, micros.div_ceil(ranks), 2 * pairs * length)?;
    Ok(session.end())
}

/// Writes answers to `requests` prompts of `prompt` tokens, `batch` at a time, none ending by itself. Waves of a full batch are all
/// alike, so one is run and counted as often as they come. All ranks write `tokens`.
pub(super) fn write<A: Real>(
    session: &mut Session<'_, A>,
    name: &'static str,
    (decoder, adapter): (&Decoder<Meter<A>>, Option<&Adapter<Meter<A>>>),
    (requests, batch): (usize, usize),
    (prompt, max_new_tokens): (usize, usize),
    tokens: usize,
) -> Result<()> {
    let (waves, rest) = (requests / batch, requests % batch);
    let mut total = Part { name, tokens: tokens as u64, ..Part::default() };
    for (count, times) in [(batch, waves), (rest, usize::from(rest > 0))] {
        if times == 0 {
            continue;
        }
        let asked = vec![Request { prompt: vec![0; prompt], key: 0 }; count];
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let settings = generate::Settings { sampling, max_new_tokens, eos: Vec::new(), batch: count };
        let mut seen = 0;
        let mut on_token = |_: usize, _: u32| {
            seen += 1;
            if session.whole || seen < 2 * count { Ok(()) } else { Err(Error::Interrupted) }
        };
        match generate::generate(session.meter, decoder, adapter, &asked, &settings, &mut on_token) {
            Err(Error::Interrupted) if !session.whole => {}
            done => drop(done?),
        }
        session.part(name, times as u64, 0);
        let part = session.parts.pop().expect("a part was just added");
        total.work.add(&part.work, 1);
        total.network += part.network;
    }
    session.parts.push(total);
    Ok(())
}

/// A batch of answers of the trained policy.
pub fn answers<A: Real>(
    meter: &Meter<A>,
    recipe: &Recipe,
    policy: &Config,
    (batch, prompt, max_new_tokens): (usize, usize, usize),
    view: impl Into<View>,
) -> Result<Metered> {
    let view = view.into();
    let ranks = view.ranks;
    let mut session = Session::new(meter, view);
    let decoder = Decoder::shaped(meter, shares(&session.comm, recipe.shard_frozen), policy.clone(), true)?;
    let adapter = match recipe.sft.train {
        Train::Full => None,
        Train::Lora => Some(Adapter::shaped(meter, lora_config(recipe), policy)?),
    };
    session.loaded();
    session.begin();
    write(
        &mut session,
        "answers",
        (&decoder, adapter.as_ref()),
        (batch, batch),
        (prompt, max_new_tokens),
        ranks * batch * max_new_tokens,
    )?;
    Ok(session.end())
}

/// An iteration of PPO, after the critic's warm-up.
pub fn ppo<A: Real>(
    meter: &Meter<A>,
    recipe: &Recipe,
    (policy, reward): (&Config, &Config),
    prompt: usize,
    view: impl Into<View>,
) -> Result<Metered> {
    let mut session = Session::new(meter, view.into());
    rollouts::iteration(&mut session, recipe, (policy, reward), prompt)?;
    Ok(session.end())
}
