//! The benchmark as the run uses it: loaded, given bugs where it has none, vetted (each reference passes, each bug fails), and split
//! into training, validation and test. Duplicates are dropped, a test problem never.
//!
//! `repairity problems RECIPE`. Out: `problems.jsonl`, and `dropped.jsonl` with the reason for each problem left out.

use serde_json::json;

use super::{Files, checker};
use crate::error::Result;
use crate::hygiene;
use crate::problem::{self, Options};
use crate::recipe::{Problems, Recipe};
use crate::record::write_jsonl;
use crate::telemetry::Progress;

/// How a recipe's benchmark is read.
pub fn options(settings: &Problems) -> Options {
    Options {
        variant: settings.variant.clone(),
        subset: settings.subset.clone(),
        version: settings.version.clone(),
        ids: settings.ids.clone(),
        extra_inputs: settings.extra_inputs.clone(),
        repos: settings.repos.clone(),
        test_command: settings.test_command.clone(),
        reads: settings.reads.clone(),
    }
}

/// Runs the stage. Returns what came of it.
pub fn run(recipe: &Recipe) -> Result<String> {
    let (files, settings) = (Files::of(recipe), &recipe.problems);
    let seed = settings.seed.unwrap_or(recipe.seed);
    let options = options(settings);
    let mut problems = problem::load(&settings.suite, settings.path.as_deref(), seed, settings.count, &options)?;
    let checker = checker(recipe)?;
    let mut dropped = Vec::new();
    if settings.mutate && problems.iter().any(|problem| problem.buggy.is_none()) {
        let progress = Progress::new("problems: mutate", problems.len() as u64).rated("problems");
        dropped = problem::mutate(&checker, &mut problems, seed, &|done| progress.set(done as u64, ""))?;
        progress.finish("");
        // What no mutant could be made for was dropped with the reason; it is not a repair problem.
        problems.retain(|problem| problem.buggy.is_some());
    }
    if settings.vet {
        let checks = problems.iter().map(|p| usize::from(p.reference.is_some()) + usize::from(p.buggy.is_some())).sum::<usize>();
        let progress = Progress::new("problems: vet", checks as u64).rated("checks");
        let (kept, refused) = problem::vet(&checker, problems, &|done| progress.set(done as u64, ""))?;
        progress.finish("");
        problems = kept;
        dropped.extend(refused);
    }
    problem::split(&mut problems, settings.split, seed)?;
    // After the split, which is the benchmark's: a test problem stays where it is, and what resembles it goes.
    let (problems, duplicates) = hygiene::problems(problems, &recipe.hygiene);
    let mut dropped: Vec<_> = dropped.iter().map(|one| json!({"id": one.id, "reason": one.reason})).collect();
    dropped.extend(duplicates.iter().map(|one| json!(one)));
    write_jsonl(&files.dropped(), &dropped)?;
    write_jsonl(&files.problems(), &problems)?;
    let left_out = match dropped.len() {
        0 => String::new(),
        count => format!(", {count} left out ({} of them duplicates)", duplicates.len()),
    };
    Ok(format!("{} problems of {}{left_out}", problems.len(), settings.suite))
}
