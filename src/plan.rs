//! What a recipe needs of a machine, before it runs: memory by what it is held for, and the least time that its operators take.
//!
//! The engine's own code runs on a [`Meter`], so memory is what the engine allocates. Time is a floor (a roofline: Williams,
//! Waterman & Patterson 2009) that no implementation of these operators can beat; how close one comes, `repairity bench` measures.

mod rollouts;
pub mod shapes;
pub mod stages;
pub mod table;
pub mod time;
mod ways;

use half::bf16;
use serde::Serialize;

pub use crate::device::cards;
use crate::device::meter::{Class, Style};
use crate::device::{Meter, Real};
use crate::error::Result;
use crate::model::Config;
use crate::recipe::Recipe;

use cards::Machine;
use stages::{Metered, View};
use time::Seconds;

/// The stages that compute, in order.
pub const STAGES: [&str; 5] = ["sft", "candidates", "reward", "ppo", "evaluate"];

/// The models of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Models {
    /// `policy.model`.
    pub policy: Config,
    /// `reward.model`.
    pub reward: Config,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The recipe.
    pub recipe: Recipe,
    /// Its models.
    pub models: Models,
    /// Where it is to run.
    pub machine: Machine,
    /// Tokens of a prompt that is answered; left out, what `sft.max_tokens` leaves beside the answer.
    pub prompt: Option<usize>,
}

/// Bytes of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// `frozen weights`, ...
    pub class: &'static str,
    /// On each GPU.
    pub bytes: usize,
}

/// A part of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// `step`, `rollout`, `scoring`, `measuring`, `epochs`, `answers`.
    pub name: &'static str,
    /// At least.
    pub seconds: Seconds,
    /// `seconds` as a whole.
    pub floor_s: f64,
    /// `arithmetic`, `memory`, `network` or `host`.
    pub limit: &'static str,
    /// Tokens trained on, written or read, of all GPUs.
    pub tokens: u64,
    /// Those in a second, at the floor.
    pub tokens_per_s: f64,
    /// Operations of matrix products, of one GPU.
    pub products: u64,
    /// Bytes that its memory moves.
    pub bytes: u64,
    /// Bytes of whole tensors that collectives move.
    pub network_bytes: u64,
    /// Kernels launched.
    pub launches: u64,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Whether it fits.
    pub fits: bool,
    /// Bytes on each GPU when they are most.
    pub bytes: usize,
    /// The same by class.
    pub memory: Vec<Share>,
    /// Its parts.
    pub phases: Vec<Phase>,
    /// Changes that make it fit, where it does not.
    pub ways: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The machine.
    pub machine: Machine,
    /// Bytes that tensors can have on each GPU.
    pub capacity: usize,
    /// Its stages.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// One line about what does not fit: the stage, what takes the memory, what would help. None where everything fits.
    pub fn refusal(&self) -> Option<String> {
        let tight: Vec<&Stage> = self.stages.iter().filter(|stage| !stage.fits).collect();
        let first = tight.first()?;
        let mut largest: Vec<&Share> = first.memory.iter().collect();
        largest.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        let takes: Vec<String> =
            largest.iter().take(2).map(|share| format!("{} {}", share.class, table::gigabytes(share.bytes))).collect();
        let (needs, has) = (table::gigabytes(first.bytes), table::gigabytes(self.capacity));
        let ways = match first.ways.as_slice() {
            [] => "no change of one or two keys makes it fit".to_string(),
            ways => format!("it fits with {}", ways.join(", or with ")),
        };
        let others: Vec<&str> = tight[1..].iter().map(|stage| stage.name).collect();
        let others = if others.is_empty() { String::new() } else { format!("; nor do {} fit", others.join(", ")) };
        let name = first.name;
        Some(format!("{name} needs {needs} of a GPU's {has} ({}); {ways}{others}", takes.join(", ")))
    }
}

impl Question {
    /// Tokens of a prompt beside an answer of so many.
    fn prompt(&self, answer: usize) -> usize {
        let longest = self.recipe.sft.max_tokens;
        self.prompt.unwrap_or(if longest > answer { longest - answer } else { longest })
    }

    /// Meters a stage for one of the machine's ranks, or only its memory.
    fn meter(&self, stage: &str, whole: bool) -> Result<Metered> {
        self.meter_on(&Meter::<bf16>::new(Style::Cuda), stage, whole)
    }

    /// What a stage holds on each rank: on a GPU in bf16, or on the CPU in f32, whose time no data sheet tells. The parts are not whole.
    pub fn memory(&self, stage: &str, style: Style) -> Result<Metered> {
        match style {
            Style::Cuda => self.meter(stage, false),
            Style::Cpu => self.meter_on(&Meter::<f32>::new(Style::Cpu), stage, false),
        }
    }

    fn meter_on<A: Real>(&self, meter: &Meter<A>, stage: &str, whole: bool) -> Result<Metered> {
        let (recipe, view) = (&self.recipe, View { ranks: self.machine.ranks(), whole });
        let (policy, reward) = (&self.models.policy, &self.models.reward);
        let answers = |batch, answer| stages::answers(meter, recipe, policy, (batch, self.prompt(answer), answer), view);
        match stage {
            "sft" => stages::sft(meter, recipe, policy, view),
            "candidates" => answers(recipe.candidates.batch, recipe.candidates.max_new_tokens),
            "reward" => stages::reward(meter, recipe, reward, view),
            "ppo" => stages::ppo(meter, recipe, (policy, reward), self.prompt(recipe.ppo.max_new_tokens), view),
            _ => answers(recipe.evaluate.batch, recipe.evaluate.max_new_tokens),
        }
    }

    fn stage(&self, name: &'static str) -> Result<Stage> {
        let metered = self.meter(name, true)?;
        let bytes = metered.needed();
        let fits = bytes <= self.machine.card.capacity();
        let share = |class: Class| Share { class: class.name(), bytes: metered.held.of(class) };
        let gaps = Share { class: "the pool's gaps", bytes: metered.gaps };
        let memory = Class::ALL.into_iter().map(share).chain([gaps]).filter(|share| share.bytes > 0).collect();
        let phases = metered.parts.iter().map(|part| self.phase(part)).collect();
        let ways = if fits { Vec::new() } else { ways::of(self, name)? };
        Ok(Stage { name, fits, bytes, memory, phases, ways })
    }

    fn phase(&self, part: &stages::Part) -> Phase {
        let seconds = time::of_part(&self.machine, part);
        let (total, floor_s) = (part.work.total().0, seconds.floor());
        let tokens = part.tokens;
        Phase {
            name: part.name,
            seconds,
            floor_s,
            limit: seconds.limit(),
            tokens,
            tokens_per_s: tokens as f64 / floor_s,
            products: total.products,
            bytes: total.bytes,
            network_bytes: part.network,
            launches: total.launches,
        }
    }

    /// Plans these stages.
    pub fn answer(&self, names: &[&'static str]) -> Result<Plan> {
        let stages = names.iter().map(|name| self.stage(name)).collect::<Result<_>>()?;
        Ok(Plan { machine: self.machine, capacity: self.machine.card.capacity(), stages })
    }
}
