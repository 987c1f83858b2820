//! Duplicates, and overlap with what a model is measured on: found before training, dropped with the reason.
//!
//! - Exact duplicates, after normalising ([`text::prose`], [`text::code`]).
//! - Near duplicates: Jaccard similarity of token 5-grams of at least 0.8, the measure and the numbers of Lee et al. 2021
//!   (arXiv 2107.06499), computed exactly and not estimated by MinHash. Of two problems, codes are compared so; descriptions have to
//!   have all n-grams in common.
//! - Contamination: a record that holds at least half of the token 13-grams of a test problem's description, buggy code or reference.
//!   13 is GPT-3's (Brown et al. 2020, appendix C). Half, of one and the same test problem, is Tülu 3's (Lambert et al. 2024): with
//!   single signs as tokens, 13 in a row are a line of code that many programs share, so that one n-gram alone says nothing.
//!
//! Descriptions are looked for in records of other suites only: within one, problems that are left are different ones.
//!
//! A test problem is never dropped: what resembles it goes. Suites made from templates ([`GENERATED`]) resemble themselves on
//! purpose, and their maker keeps programs apart; they are left as they are.

pub mod near;
pub mod overlap;
pub mod text;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::recipe::Hygiene;
use crate::record::{Conversation, Extra, Preference, Problem, Split};
use near::Near;
pub use overlap::Evaluation;

/// Suites whose problems are made from templates.
pub const GENERATED: [&str; 1] = ["micro"];

/// A record that is not used, and why: a line of `dropped.jsonl` and of its like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The record's id.
    pub id: String,
    /// Why, in one line.
    pub reason: String,
    /// The record or problem that it resembles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// How much, from 0 to 1: the Jaccard similarity, or the share of the test problem's n-grams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
}

impl Dropped {
    fn like(id: &str, reason: String, of: &str, similarity: f64) -> Dropped {
        // Four digits, so that a file reads well.
        Dropped { id: id.into(), reason, of: Some(of.into()), similarity: Some((similarity * 1e4).round() / 1e4) }
    }
}

/// Something that may duplicate another.
struct Item<'a> {
    id: &'a str,
    /// Never dropped.
    fixed: bool,
    /// Equal keys are exact duplicates; an empty one equals none.
    key: String,
}

/// A side of items by which they are compared.
struct View<'a> {
    /// As a reason says it.
    name: &'a str,
    /// The n-grams of every item.
    texts: Vec<Vec<u64>>,
    /// The similarity from which two are duplicates; 0 does not look.
    near: f64,
}

/// For each item, what it duplicates among those before it that are kept.
fn duplicates(items: &[Item<'_>], views: Vec<View<'_>>) -> Vec<Option<Dropped>> {
    let looked = views.into_iter().filter(|view| view.near > 0.0);
    let mut views: Vec<(&str, Near)> = looked.map(|view| (view.name, Near::new(view.texts, view.near))).collect();
    let mut keys: HashMap<&str, usize> = HashMap::new();
    let mut dropped = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let found = match keys.get(item.key.as_str()) {
            _ if item.fixed => None,
            Some(&first) => Some(Dropped::like(item.id, format!("the same as {}", items[first].id), items[first].id, 1.0)),
            None => {
                let mut best: Option<(&str, usize, f64)> = None;
                for (name, view) in &mut views {
                    if let Some((of, similarity)) = view.find(index)
                        && best.is_none_or(|(_, _, most)| similarity > most)
                    {
                        best = Some((name, of, similarity));
                    }
                }
                best.map(|(name, of, similarity)| {
                    let of = items[of].id;
                    Dropped::like(item.id, format!("{name} of {of}"), of, similarity)
                })
            }
        };
        if found.is_none() {
            if !item.key.is_empty() {
                keys.entry(&item.key).or_insert(index);
            }
            views.iter_mut().for_each(|(_, view)| view.add(index));
        }
        dropped.push(found);
    }
    dropped
}

/// Code as it is compared.
fn code_text(code: &str, problem: &Problem) -> String {
    text::code(code, &problem.language)
}

/// What a problem's description says besides its tests, which some suites quote in it.
fn description(problem: &Problem) -> String {
    let mut description = problem.prompt.replace("\r\n", "\n");
    for test in &problem.check.tests {
        description = description.replace(test.as_str(), "");
    }
    text::prose(&description)
}

/// The n-grams of the problems' descriptions. N-grams that more than three and more than a hundredth of them have are a formula of the
/// suite ("Write a function to ...", "Your code should pass these tests"), tell nothing of the task and are left out.
fn descriptions(problems: &[&Problem], n: usize) -> Vec<Vec<u64>> {
    let grams = |problem: &&Problem| {
        let tokens = text::tokens(&description(problem));
        if tokens.len() < n { Vec::new() } else { text::shingles(&tokens, n) }
    };
    let mut all: Vec<Vec<u64>> = problems.iter().map(grams).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    all.iter().flatten().for_each(|gram| *counts.entry(*gram).or_default() += 1);
    let formula = 3.max(problems.len() / 100);
    all.iter_mut().for_each(|grams| grams.retain(|gram| counts[gram] <= formula));
    all
}

/// Drops problems that duplicate another, by what their description says or by their code. A test problem stays whatever it
/// resembles; of the others, a training problem goes for a validation problem's sake, and else the later one. The order stays.
pub fn problems(all: Vec<Problem>, settings: &Hygiene) -> (Vec<Problem>, Vec<Dropped>) {
    if !settings.enabled || !settings.duplicates {
        return (all, Vec::new());
    }
    let rank = |problem: &Problem| match problem.split {
        Some(Split::Test) => 0,
        Some(Split::Validation) => 1,
        _ => 2,
    };
    let mut order: Vec<usize> = (0..all.len()).filter(|i| !GENERATED.contains(&all[*i].suite.as_str())).collect();
    order.sort_by_key(|index| (rank(&all[*index]), *index));
    let chosen: Vec<&Problem> = order.iter().map(|index| &all[*index]).collect();
    let code = |problem: &&Problem| {
        let code = problem.reference.as_ref().or(problem.buggy.as_ref());
        code.map(|code| code_text(code, problem)).unwrap_or_default()
    };
    let codes: Vec<String> = chosen.iter().map(code).collect();
    let item = |(problem, code): (&&'_ Problem, &String)| Item {
        id: "",
        fixed: problem.split == Some(Split::Test),
        // One solution can have several bugs: only all together is the same problem.
        key: format!(
            "{}\0{}\0{code}",
            description(problem),
            problem.buggy.as_ref().map_or(String::new(), |buggy| code_text(buggy, problem))
        ),
    };
    let mut items: Vec<Item<'_>> = chosen.iter().zip(&codes).map(item).collect();
    items.iter_mut().zip(&chosen).for_each(|(item, problem)| item.id = &problem.id);
    let grams = codes.iter().map(|code| text::shingles(&text::tokens(code), settings.ngram)).collect();
    // A word in a description changes the task: depth and breadth first are two.
    let whole = if settings.near > 0.0 { 1.0 } else { 0.0 };
    let views = vec![
        View { name: "its description is that", texts: descriptions(&chosen, settings.ngram), near: whole },
        View { name: "its code is nearly that", texts: grams, near: settings.near },
    ];
    let found = duplicates(&items, views);
    let gone: HashMap<usize, Dropped> = order.iter().copied().zip(found).filter_map(|(i, one)| Some((i, one?))).collect();
    let mut dropped: Vec<(usize, Dropped)> = gone.into_iter().collect();
    dropped.sort_by_key(|(index, _)| *index);
    let mut next = dropped.iter().map(|(index, _)| *index).peekable();
    let kept = all.into_iter().enumerate().filter(|(index, _)| next.next_if_eq(index).is_none()).map(|(_, p)| p).collect();
    (kept, dropped.into_iter().map(|(_, one)| one).collect())
}

/// A record as it is compared.
pub struct Record {
    /// Its id, or its place in its file.
    pub id: String,
    /// Everything it says, in turns.
    pub text: String,
    /// The suite of its problem, if it names one.
    pub suite: Option<String>,
}

impl Record {
    /// A conversation; `place` names one without an id.
    pub fn conversation(conversation: &Conversation, place: &str) -> Record {
        let turns: Vec<String> =
            conversation.messages.iter().filter(|m| m.role != "system").map(|m| text::prose(&m.content)).collect();
        let id = if conversation.id.is_empty() { place } else { &conversation.id };
        Record { id: id.into(), text: turns.join("\0"), suite: suite(&conversation.extra) }
    }

    /// A preference: a prompt and both answers.
    pub fn preference(preference: &Preference, place: &str) -> Record {
        let turns = [&preference.prompt, &preference.chosen, &preference.rejected].map(|text| text::prose(text));
        let id = if preference.id.is_empty() { place } else { &preference.id };
        Record { id: id.into(), text: turns.join("\0"), suite: suite(&preference.extra) }
    }
}

fn suite(extra: &Extra) -> Option<String> {
    extra.get("suite")?.as_str().map(str::to_owned)
}

/// For each record, why it is not to be trained on: it overlaps a test problem, or it duplicates a record before it that stays.
pub fn records(all: &[Record], evaluation: &Evaluation, settings: &Hygiene) -> Vec<Option<Dropped>> {
    let mut dropped: Vec<Option<Dropped>> = all.iter().map(|_| None).collect();
    if !settings.enabled {
        return dropped;
    }
    let looked: Vec<usize> =
        (0..all.len()).filter(|i| !all[*i].suite.as_deref().is_some_and(|suite| GENERATED.contains(&suite))).collect();
    let mut left: Vec<(usize, Vec<u64>)> = Vec::new();
    for index in looked {
        let tokens = text::tokens(&all[index].text);
        match evaluation.find(&tokens, all[index].suite.as_deref()) {
            Some((of, share)) => {
                let reason = format!("it holds the test problem {of}");
                dropped[index] = Some(Dropped::like(&all[index].id, reason, of, share));
            }
            None => left.push((index, if settings.duplicates { text::shingles(&tokens, settings.ngram) } else { Vec::new() })),
        }
    }
    if settings.duplicates {
        let (places, grams): (Vec<usize>, Vec<Vec<u64>>) = left.into_iter().unzip();
        let item = |index: &usize| Item { id: &all[*index].id, fixed: false, key: all[*index].text.clone() };
        let view = View { name: "its text is nearly that", texts: grams, near: settings.near };
        let items: Vec<Item<'_>> = places.iter().map(item).collect();
        for (index, found) in places.iter().zip(duplicates(&items, vec![view])) {
            dropped[*index] = found;
        }
    }
    dropped
}
