//! Training data from elsewhere (`sft.data`, `reward.data`): read in whatever form it has, without what duplicates and what overlaps the
//! run's test problems.

use std::path::Path;

use super::Files;
use crate::convert::{self, Record};
use crate::error::{Error, Result};
use crate::hygiene::{self, Dropped, Evaluation};
use crate::recipe::Recipe;
use crate::record::{Conversation, Preference, Problem, read_jsonl};
use crate::telemetry::note;

/// Records with their lines, and those that were dropped.
type Clean<T> = (Vec<(usize, T)>, Vec<Dropped>);

/// The conversations of a file. Answers that its `label` calls bad are left out.
pub(super) fn conversations(recipe: &Recipe, path: &Path) -> Result<Clean<Conversation>> {
    let conversation = |(line, record)| match record {
        Record::Conversation(conversation) => Ok((line, conversation)),
        Record::Preference(_) => Err(Error::line(path, line, "a conversation is expected, a preference was found")),
    };
    let (_, records) = convert::load(path, None)?;
    let all: Vec<(usize, Conversation)> = records.into_iter().map(conversation).collect::<Result<_>>()?;
    let count = all.len();
    let good: Vec<_> = all.into_iter().filter(|(_, one)| one.extra.get("label") != Some(&false.into())).collect();
    if good.len() < count {
        note(&format!("sft: {} of {count} records are labelled as bad answers and left out", count - good.len()));
    }
    clean(recipe, path, "sft", good, hygiene::Record::conversation)
}

/// The preferences of a file.
pub(super) fn preferences(recipe: &Recipe, path: &Path) -> Result<Clean<Preference>> {
    let preference = |(line, record)| match record {
        Record::Preference(preference) => Ok((line, preference)),
        Record::Conversation(_) => Err(Error::line(path, line, "a preference is expected, a conversation was found")),
    };
    let (_, records) = convert::load(path, None)?;
    let all = records.into_iter().map(preference).collect::<Result<_>>()?;
    clean(recipe, path, "reward", all, hygiene::Record::preference)
}

fn clean<T>(
    recipe: &Recipe,
    path: &Path,
    stage: &str,
    all: Vec<(usize, T)>,
    compared: impl Fn(&T, &str) -> hygiene::Record,
) -> Result<Clean<T>> {
    if !recipe.hygiene.enabled {
        return Ok((all, Vec::new()));
    }
    let problems = Files::of(recipe).problems();
    let problems: Vec<Problem> = if problems.exists() { read_jsonl(&problems)? } else { Vec::new() };
    if problems.is_empty() {
        note(&format!("{stage}: there is no problems.jsonl, so overlap with test problems was not looked for"));
    }
    let evaluation = Evaluation::new(&problems, &recipe.hygiene);
    let records: Vec<hygiene::Record> = all.iter().map(|(line, one)| compared(one, &format!("line {line}"))).collect();
    let found = hygiene::records(&records, &evaluation, &recipe.hygiene);
    let count = all.len();
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (record, found) in all.into_iter().zip(found) {
        match found {
            Some(found) => dropped.push(found),
            None => kept.push(record),
        }
    }
    let overlapping = dropped.iter().filter(|one| one.reason.starts_with("it holds")).count();
    if !dropped.is_empty() {
        let duplicates = dropped.len() - overlapping;
        note(&format!(
            "{stage}: of {count} records of {}, {duplicates} duplicates and {overlapping} that hold a test problem were dropped",
            path.display()
        ));
    }
    Ok((kept, dropped))
}
