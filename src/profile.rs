//! Where a stage's time goes: steps of a recipe on a device that records, and what each operator and each kernel of them took.

pub mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::bench::{card, ppo};
use crate::comm;
use crate::device::Device;
use crate::device::cost::Cost;
use crate::device::record::{Kind, Recorder, Span};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::plan::cards::Card;
use crate::plan::time;
use crate::prompt::Example;
use crate::recipe::Recipe;
use crate::rng::Rng;
use crate::stage::train::{self, Plan, Task};
use crate::stage::{reward, sft};
use crate::telemetry::{interrupt, note};
use crate::tokenizer::Tokenizer;

/// The stages that can be profiled.
pub const STAGES: [&str; 3] = ["sft", "reward", "ppo"];

/// What calls of one name took together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The operator, or the kernel.
    pub name: String,
    /// Its calls.
    pub calls: usize,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Of the steps' time.
    pub share: f64,
    /// Operations of matrix products in a second, divided by 10^12. None where nobody knows what the calls had to do.
    pub tflops: Option<f64>,
    /// Bytes that the calls have to move, in a second, divided by 10^9.
    pub gbytes_per_s: Option<f64>,
    /// The least time that the device's arithmetic and memory allow, over the time taken. None for a device whose limits are not known.
    pub roof: Option<f64>,
}

/// An operator and the kernels that it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operator {
    /// The operator; on a GPU its seconds are those of its kernels.
    pub row: Row,
    /// What it ran on the device, the longest first; none on a CPU.
    pub kernels: Vec<Row>,
}

/// Time between kernels in which the device had nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// How many there are.
    pub count: usize,
    /// All of them in seconds.
    pub seconds: f64,
    /// The longest.
    pub longest: f64,
}

/// Where the time of some steps went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// The stage.
    pub stage: String,
    /// The device's name.
    pub device: String,
    /// Seconds of each step.
    pub steps: Vec<f64>,
    /// Seconds of each kind of phase in all steps. Phases lie in phases: the seconds of one are also those of the one around it.
    pub phases: Vec<(String, f64)>,
    /// Every operator, the longest first. What the device ran outside any operator is the row `(no operator)`.
    pub operators: Vec<Operator>,
    /// Seconds in which the device ran something; on a CPU those of its operators.
    pub busy: f64,
    /// Between the kernels of a GPU; none on a CPU.
    pub gaps: Option<Gaps>,
    /// Seconds in which the host waited for the device.
    pub waits: f64,
    /// Seconds of the host inside operators: of a GPU the launches.
    pub in_operators: f64,
    /// Seconds of the host that are neither.
    pub outside: f64,
}

/// Runs `steps` steps of a stage of the recipe after one that is not recorded, and gives the spans of those. The recorder is the
/// device's. Data that the recipe's run has not made yet are replaced by random tokens of the recipe's greatest lengths.
pub fn run<D: Device>(device: &D, recorder: &Recorder, recipe: &Recipe, stage: &str, steps: usize) -> Result<Vec<Span>> {
    let begin = |recorder: &Recorder| recorder.take().map(drop);
    if stage == "ppo" {
        let mut recipe = recipe.clone();
        recipe.ppo.critic_warmup = 0;
        recipe.ppo.iterations = recipe.ppo.iterations.max(steps + 1);
        let prompt = recipe.sft.max_tokens.saturating_sub(recipe.ppo.max_new_tokens).max(1);
        recipe.reward.max_tokens = recipe.reward.max_tokens.max(prompt + recipe.ppo.max_new_tokens);
        note(&format!("profile: {} prompts of {prompt} random tokens an iteration", recipe.ppo.prompts_per_iteration));
        let reward = recipe.ppo.reward_model.clone().filter(|folder| folder.exists()).unwrap_or(recipe.reward.model.clone());
        let comm = comm::solo();
        let mut iterations = ppo::Iterations::new(device, &comm, &recipe, (&recipe.policy.model, &reward), prompt)?;
        iterations.run(0)?;
        begin(recorder)?;
        let whole = recorder.open(Kind::Stage, "ppo", None);
        for iteration in 1..=steps {
            iterations.run(iteration)?;
        }
        drop(whole);
        return recorder.take();
    }
    let comm = comm::solo();
    match stage {
        "sft" => {
            let (mut task, plan) = sft::prepare(device, &comm, recipe, sft_data(recipe)?)?;
            train_steps(device, recorder, &mut task, plan, steps)
        }
        "reward" => {
            let (tokenizer, pairs) = reward_data(recipe)?;
            let (mut task, plan) = reward::prepare(device, &comm, recipe, tokenizer, pairs)?;
            train_steps(device, recorder, &mut task, plan, steps)
        }
        other => Err(Error::input("--stage", format!("one of {} expected, {other} found", STAGES.join(", ")))),
    }
}

fn train_steps<D: Device>(
    device: &D,
    recorder: &Recorder,
    task: &mut dyn Task<D>,
    mut plan: Plan,
    steps: usize,
) -> Result<Vec<Span>> {
    // An epoch has a step at least.
    plan.order.epochs = plan.order.epochs.max(steps + 1);
    let mut whole = None;
    let mut after = |step: usize| -> Result<()> {
        if step == 0 {
            recorder.take()?;
            whole = Some(recorder.open(Kind::Stage, plan.name, None));
        }
        interrupt::check()
    };
    train::first_steps(device, &comm::solo(), task, &plan, steps + 1, &mut after)?;
    drop(whole);
    recorder.take()
}

fn missing(what: &Path) {
    note(&format!("profile: {} is not there: random tokens in its place", what.display()));
}

fn random(rng: &mut Rng, count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|_| rng.below(vocab) as u32).collect()
}

fn sft_data(recipe: &Recipe) -> Result<sft::Data> {
    let (settings, file) = (&recipe.sft, sft::data_file(recipe));
    if file.exists() {
        return sft::read(recipe, &Tokenizer::load(&recipe.policy.model)?);
    }
    missing(&file);
    let vocab = Config::load(&recipe.policy.model)?.vocab;
    let mut rng = Rng::new(recipe.seed, "profile", 0);
    let count = train::micros(settings.global_batch, settings.sequences_per_device, settings.accumulation, 1)
        * settings.sequences_per_device;
    let example = |_| Example { tokens: random(&mut rng, settings.max_tokens, vocab), mask: vec![true; settings.max_tokens] };
    let ids = (0..count).map(|index| index.to_string()).collect();
    Ok(sft::Data { examples: (0..count).map(example).collect(), ids, validation: Vec::new(), dropped: Vec::new() })
}

fn reward_data(recipe: &Recipe) -> Result<(Option<Tokenizer>, reward::Data)> {
    let (settings, file) = (&recipe.reward, reward::data_file(recipe));
    if file.exists() {
        let tokenizer = Tokenizer::load(&settings.model)?;
        let pairs = reward::read(recipe, &tokenizer)?;
        return Ok((Some(tokenizer), pairs));
    }
    missing(&file);
    let vocab = Config::load(&settings.model)?.vocab;
    let mut rng = Rng::new(recipe.seed, "profile", 1);
    let count = train::micros(settings.global_batch, settings.sequences_per_device, settings.accumulation, 1)
        * settings.sequences_per_device;
    let mut answer = || random(&mut rng, settings.max_tokens, vocab);
    let pair = |index: usize| reward::Pair { id: index.to_string(), first: answer(), second: answer(), label: 1.0 };
    let data = reward::Data { training: (0..count).map(pair).collect(), held_out: Vec::new(), dropped: Vec::new() };
    Ok((None, data))
}

/// Calls of one name while they are added up.
#[derive(Default, Clone)]
struct Sum {
    calls: usize,
    seconds: f64,
    cost: Cost,
    floor: f64,
    unknown: bool,
}

impl Sum {
    fn add(&mut self, card: Option<&Card>, cost: Option<Cost>) {
        self.calls += 1;
        match cost {
            Some(cost) => {
                self.cost = self.cost.plus(cost);
                self.floor += card.map_or(0.0, |card| time::of_call(card, &cost));
            }
            None => self.unknown = true,
        }
    }

    fn row(&self, name: &str, total: f64, card: Option<&Card>) -> Row {
        let known = !self.unknown && self.seconds > 0.0;
        let per_s = |amount: u64| known.then(|| amount as f64 / self.seconds);
        Row {
            name: name.to_string(),
            calls: self.calls,
            seconds: self.seconds,
            share: if total > 0.0 { self.seconds / total } else { 0.0 },
            tflops: per_s(self.cost.products).map(|rate| rate / 1e12),
            gbytes_per_s: per_s(self.cost.bytes).map(|rate| rate / 1e9),
            roof: card.filter(|_| known).map(|_| self.floor / self.seconds),
        }
    }
}

/// The innermost span around `index`, itself included, that is of this kind.
fn around(spans: &[Span], mut index: Option<usize>, kind: Kind) -> Option<usize> {
    while let Some(at) = index {
        if spans[at].kind == kind {
            return Some(at);
        }
        index = spans[at].parent;
    }
    None
}

/// What launched outside of operators is called.
const NO_OPERATOR: &str = "(no operator)";

/// Sums spans up, as [`Recorder::take`] gave them.
pub fn of_spans<D: Device>(device: &D, stage: &str, spans: &[Span]) -> Profile {
    summed(&device.name(), card(device).as_ref(), stage, spans)
}

fn summed(device: &str, card: Option<&Card>, stage: &str, spans: &[Span]) -> Profile {
    let of = |kind: Kind| spans.iter().enumerate().filter(move |(_, span)| span.kind == kind);
    let seconds = |kind: Kind| of(kind).map(|(_, span)| span.seconds()).sum::<f64>();
    let steps: Vec<f64> = of(Kind::Step).map(|(_, span)| span.seconds()).collect();
    let total: f64 = steps.iter().sum();
    let on_device = of(Kind::Kernel).next().is_some();

    let mut operators: BTreeMap<&str, (Sum, BTreeMap<&str, Sum>)> = BTreeMap::new();
    for (_, span) in of(Kind::Operator) {
        let (sum, _) = operators.entry(&span.name).or_default();
        sum.add(card, span.cost);
        sum.seconds += if on_device { 0.0 } else { span.seconds() };
    }
    let (mut gaps, mut reached, mut busy) = (Gaps::default(), None::<f64>, 0.0);
    for (_, kernel) in of(Kind::Kernel) {
        let operator = around(spans, kernel.parent, Kind::Operator).map_or(NO_OPERATOR, |at| &spans[at].name);
        let (sum, kernels) = operators.entry(operator).or_default();
        if operator == NO_OPERATOR {
            sum.add(card, kernel.cost);
        }
        sum.seconds += kernel.seconds();
        let own = kernels.entry(&kernel.name).or_default();
        own.add(card, kernel.cost);
        own.seconds += kernel.seconds();
        let gap = reached.map_or(0.0, |end| kernel.begin - end);
        if gap > 0.0 {
            gaps = Gaps { count: gaps.count + 1, seconds: gaps.seconds + gap, longest: gaps.longest.max(gap) };
        }
        reached = Some(reached.map_or(kernel.end, |end| end.max(kernel.end)));
        busy += kernel.seconds();
    }
    let longest_first = |a: &Row, b: &Row| b.seconds.total_cmp(&a.seconds);
    let mut rows: Vec<Operator> = operators
        .iter()
        .map(|(name, (sum, kernels))| {
            let mut kernels: Vec<Row> = kernels.iter().map(|(name, sum)| sum.row(name, total, card)).collect();
            kernels.sort_by(longest_first);
            Operator { row: sum.row(name, total, card), kernels }
        })
        .collect();
    rows.sort_by(|a, b| longest_first(&a.row, &b.row));

    let mut phases: Vec<(String, f64)> = Vec::new();
    for (_, phase) in of(Kind::Phase) {
        match phases.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, sum)) => *sum += phase.seconds(),
            None => phases.push((phase.name.to_string(), phase.seconds())),
        }
    }
    let waits = seconds(Kind::Wait);
    // Waits inside operators are waits.
    let inside = of(Kind::Wait).filter(|(_, wait)| around(spans, wait.parent, Kind::Operator).is_some());
    let in_operators = seconds(Kind::Operator) - inside.map(|(_, wait)| wait.seconds()).sum::<f64>();
    Profile {
        stage: stage.to_string(),
        device: device.to_string(),
        steps,
        phases,
        operators: rows,
        busy: if on_device { busy } else { in_operators },
        gaps: on_device.then_some(gaps),
        waits,
        in_operators,
        outside: total - waits - in_operators,
    }
}
