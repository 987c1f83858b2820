//! What would make a stage fit: each change is planned, and those that fit are named.

use super::Question;
use crate::error::Result;
use crate::recipe::{Recompute, RewardMemory, Train};

/// Ways that are named at most.
const MOST: usize = 6;

/// A change of a question, and how a recipe or the command line says it.
struct Change {
    said: String,
    make: Box<dyn Fn(&mut Question)>,
}

fn change(said: impl Into<String>, make: impl Fn(&mut Question) + 'static) -> Change {
    Change { said: said.into(), make: Box::new(make) }
}

/// Halves of a number, down to 1.
fn halves(n: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(n / 2), |n| Some(n / 2)).take_while(|n| *n >= 1)
}

/// Changes that take less memory in a stage: alternatives of one key stand together, the gentlest first.
fn changes(question: &Question, stage: &'static str) -> Vec<Vec<Change>> {
    let recipe = &question.recipe;
    let mut all: Vec<Vec<Change>> = Vec::new();
    let recompute = match stage {
        "sft" => Some(recipe.sft.recompute),
        "reward" => Some(recipe.reward.recompute),
        "ppo" => Some(recipe.ppo.recompute),
        _ => None,
    };
    let set = move |kind: Recompute| {
        move |question: &mut Question| match stage {
            "sft" => question.recipe.sft.recompute = kind,
            "reward" => question.recipe.reward.recompute = kind,
            _ => question.recipe.ppo.recompute = kind,
        }
    };
    let kinds = [("mlp", Recompute::Mlp), ("block", Recompute::Block)];
    if let Some(now) = recompute {
        let from = kinds.iter().position(|(_, kind)| *kind == now).map_or(0, |at| at + 1);
        let say = |(name, kind): &(&str, Recompute)| change(format!("{stage}.recompute = \"{name}\""), set(*kind));
        all.push(kinds[from..].iter().map(say).collect());
    }
    let of_batch = |key: &str, now: usize, make: fn(&mut Question, usize)| {
        halves(now).map(|n| change(format!("{key} = {n}"), move |question| make(question, n))).collect::<Vec<_>>()
    };
    match stage {
        "sft" => all.push(of_batch("sft.sequences_per_device", recipe.sft.sequences_per_device, |q, n| {
            q.recipe.sft.sequences_per_device = n;
        })),
        "candidates" => all.push(of_batch("candidates.batch", recipe.candidates.batch, |q, n| q.recipe.candidates.batch = n)),
        "reward" => {
            all.push(of_batch("reward.sequences_per_device", recipe.reward.sequences_per_device, |q, n| {
                q.recipe.reward.sequences_per_device = n;
            }));
            if recipe.reward.train == Train::Full {
                all.push(vec![change("reward.train = \"lora\"", |q| q.recipe.reward.train = Train::Lora)]);
            }
        }
        "ppo" => {
            let place = |name: &str, memory| {
                change(format!("ppo.reward_memory = \"{name}\""), move |q| q.recipe.ppo.reward_memory = memory)
            };
            let mut places = Vec::new();
            if recipe.ppo.reward_memory == RewardMemory::Resident {
                if question.machine.ranks() > 1 {
                    places.push(place("sharded", RewardMemory::Sharded));
                }
                places.push(place("host", RewardMemory::Host));
            }
            all.push(places);
            all.push(of_batch("ppo.sequences_per_device", recipe.ppo.sequences_per_device, |q, n| {
                q.recipe.ppo.sequences_per_device = n;
            }));
            all.push(of_batch("ppo.batch", recipe.ppo.batch, |q, n| q.recipe.ppo.batch = n));
        }
        _ => all.push(of_batch("evaluate.batch", recipe.evaluate.batch, |q, n| q.recipe.evaluate.batch = n)),
    }
    if !recipe.shard_frozen && question.machine.ranks() > 1 {
        all.push(vec![change("shard_frozen = true", |q| q.recipe.shard_frozen = true)]);
    }
    let more = [2, 4, 8].into_iter().filter(|gpus| *gpus > question.machine.gpus);
    let more = |spread: bool| {
        let more = more.clone();
        more.map(move |gpus| {
            let said = if spread { format!("gpus = {gpus} and shard_frozen = true") } else { format!("gpus = {gpus}") };
            change(said, move |q| {
                q.machine.gpus = gpus;
                q.recipe.shard_frozen |= spread;
            })
        })
    };
    all.push(more(false).chain(more(true).filter(|_| !recipe.shard_frozen)).collect());
    all.retain(|group| !group.is_empty());
    all
}

fn fits(question: &Question, stage: &'static str) -> Result<bool> {
    Ok(question.meter(stage, false)?.needed() <= question.machine.card.capacity())
}

/// Changes that make a stage fit: single ones, or, where there are none, pairs.
pub(super) fn of(question: &Question, stage: &'static str) -> Result<Vec<String>> {
    let groups = changes(question, stage);
    let mut found = Vec::new();
    for group in &groups {
        if let Some(change) = first(question, stage, group)? {
            found.push(change.said.clone());
        }
    }
    if found.is_empty() {
        for (at, group) in groups.iter().enumerate() {
            // The strongest of one key beside the gentlest of another.
            let Some(strongest) = group.last() else { continue };
            let mut changed = question.clone();
            (strongest.make)(&mut changed);
            for other in &groups[at + 1..] {
                if let Some(change) = first(&changed, stage, other)? {
                    found.push(format!("{} and {}", strongest.said, change.said));
                }
            }
        }
    }
    found.truncate(MOST);
    Ok(found)
}

/// The gentlest change of a group with which the stage fits.
fn first<'a>(question: &Question, stage: &'static str, group: &'a [Change]) -> Result<Option<&'a Change>> {
    for change in group {
        let mut changed = question.clone();
        (change.make)(&mut changed);
        if fits(&changed, stage)? {
            return Ok(Some(change));
        }
    }
    Ok(None)
}
