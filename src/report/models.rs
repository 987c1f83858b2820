//! The models that a report compares: the run's own, and those of other runs that were evaluated on the same problems.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::metric::comparison::{Comparison, pairwise};
use crate::metric::scores::Scores;
use crate::recipe::{Objective, Recipe};
use crate::record::{Candidate, Outcome, Problem, Split, read_jsonl};
use crate::run::Manifest;
use crate::stage::{Files, evaluate};

/// The paper's name of a model of a run.
pub(super) fn title(name: &str, recipe: &Recipe) -> String {
    let traces = match (recipe.sft.objective, recipe.filter.enabled) {
        (Objective::Reasoning, true) => "+RT",
        (Objective::Reasoning, false) => "+RT, no filter",
        (Objective::Direct, true) => "+direct output",
        (Objective::Direct, false) => "+direct output, no filter",
    };
    match name {
        "sft" => traces.to_string(),
        "ppo" => format!("{traces}+RLLF"),
        other => other.to_string(),
    }
}

/// A row of the tables.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    /// What comparisons call it: `base`, `sft`, `ppo`, or the title of another run's.
    pub key: String,
    /// What readers call it.
    pub title: String,
    /// Its metrics, as the evaluation wrote them.
    pub measured: Value,
    /// Its answers, by problem and then by index; none where the file is not there.
    pub answers: Vec<Candidate>,
    /// Whether it is of this run.
    pub own: bool,
}

/// Models on the same problems, and the tests between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Compared {
    /// This run's first.
    pub models: Vec<Model>,
    /// What they were asked.
    pub problems: Vec<Problem>,
    /// Each later model against each earlier one.
    pub comparisons: Vec<Comparison>,
    /// What is different about other runs' evaluations, a sentence each.
    pub notes: Vec<String>,
}

impl Compared {
    /// Reads the evaluations. Errors: another run's is of other problems; a file that cannot be read.
    pub fn read(recipe: &Recipe) -> Result<Compared> {
        let (files, beside) = (Files::of(recipe), &recipe.report.beside);
        let path = files.summary();
        let summary = read_json(&path)?;
        let problems = part(&files, evaluate::split(recipe)?, !beside.is_empty())?;
        let mut models = Vec::new();
        for name in recipe.evaluate.in_order() {
            let answers = optional(&files.evaluation(name))?;
            let measured = summary["models"][name].clone();
            models.push(Model { key: name.to_string(), title: title(name, recipe), measured, answers, own: true });
        }
        let comparisons = serde_json::from_value(summary["comparisons"].clone())
            .map_err(|e| Error::input(path.display(), format!("comparisons: {e}")))?;
        let mut compared = Compared { models, problems, comparisons, notes: Vec::new() };
        for folder in beside {
            compared.add(recipe, folder)?;
        }
        if !beside.is_empty() {
            compared.compare(recipe)?;
        }
        Ok(compared)
    }

    /// The model that gains are counted from.
    pub fn base(&self) -> Option<&Model> {
        self.models.iter().find(|model| model.own && model.key == "base")
    }

    /// The run's last trained model.
    pub fn last(&self) -> Option<&Model> {
        self.models.iter().rfind(|model| model.own && model.key != "base")
    }

    /// A model's title by its key.
    pub fn title<'a>(&'a self, key: &'a str) -> &'a str {
        self.models.iter().find(|model| model.key == key).map_or(key, |model| &model.title)
    }

    /// Adds another run's models, except those that gave the very answers of one that is there already: bases, most of all.
    fn add(&mut self, recipe: &Recipe, folder: &Path) -> Result<()> {
        let files = Files { out: folder.into() };
        let at = || format!("report.beside: {}", folder.display());
        let manifest = Manifest::read(&files.manifest())?;
        if manifest.recipe.is_empty() {
            return Err(Error::input(at(), "expected a run folder, found no manifest.json in it"));
        }
        let other = Recipe::of_manifest(&files.manifest(), &manifest.recipe)?;
        let summary = read_json(&files.summary())?;
        for (what, key, own) in [("suite", "suite", &recipe.problems.suite), ("split", "split", &recipe.evaluate.split)] {
            if summary[key] != **own {
                return Err(Error::input(at(), format!("expected an evaluation on the {what} {own}, found {}", summary[key])));
            }
        }
        let found = part(&files, evaluate::split(recipe)?, true)?;
        if let Some(what) = difference(&self.problems, &found) {
            return Err(Error::input(at(), format!("expected an evaluation on the same problems, but {what}")));
        }
        let settings = |recipe: &Recipe| (recipe.evaluate.samples, recipe.evaluate.temperature);
        if settings(&other) != settings(recipe) {
            let (samples, temperature) = settings(&other);
            let note = format!("{} gave {samples} answer(s) each at temperature {temperature}.", folder.display());
            self.notes.push(note);
        }
        for name in other.evaluate.in_order() {
            let answers: Vec<Candidate> = read_jsonl(&files.evaluation(name))?;
            let same = |model: &&Model| {
                let texts = |answers: &[Candidate]| answers.iter().map(|a| (a.id.clone(), a.text.clone())).collect::<Vec<_>>();
                texts(&model.answers) == texts(&answers)
            };
            if self.models.iter().find(same).is_some() {
                continue;
            }
            let mut title = title(name, &other);
            if self.models.iter().any(|model| model.title == title) {
                title = format!("{title} ({})", folder.display());
            }
            let measured = summary["models"][name].clone();
            self.models.push(Model { key: title.clone(), title, measured, answers, own: false });
        }
        Ok(())
    }

    fn compare(&mut self, recipe: &Recipe) -> Result<()> {
        let (problems, config) = (self.problems.iter().collect::<Vec<_>>(), evaluate::variant(recipe)?);
        let scored = |model: &Model| (model.key.clone(), evaluate::scores(&problems, &model.answers, config));
        self.comparisons = pairwise(&self.models.iter().map(scored).collect::<Vec<_>>(), recipe.seed)?;
        Ok(())
    }
}

/// The records of a file that may not be there.
pub(super) fn optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if path.exists() { read_jsonl(path) } else { Ok(Vec::new()) }
}

/// The problems of a part of a run.
fn part(files: &Files, split: Split, needed: bool) -> Result<Vec<Problem>> {
    let all: Vec<Problem> = if needed { read_jsonl(&files.problems())? } else { optional(&files.problems())? };
    Ok(all.into_iter().filter(|problem| problem.split == Some(split)).collect())
}

/// What is different about two lists of problems, whatever their order; none where nothing is.
fn difference(own: &[Problem], other: &[Problem]) -> Option<String> {
    let found: BTreeMap<&str, &Problem> = other.iter().map(|problem| (problem.id.as_str(), problem)).collect();
    for problem in own {
        match found.get(problem.id.as_str()) {
            None => return Some(format!("it lacks problem {}", problem.id)),
            Some(other) => {
                let asked = |p: &Problem| (p.prompt.clone(), p.buggy.clone(), p.check.clone(), p.language.clone());
                if asked(other) != asked(problem) {
                    return Some(format!("its problem {} is another one", problem.id));
                }
            }
        }
    }
    let known: BTreeMap<&str, ()> = own.iter().map(|problem| (problem.id.as_str(), ())).collect();
    let more = other.iter().find(|problem| !known.contains_key(problem.id.as_str()))?;
    Some(format!("it has problem {} too", more.id))
}

/// Whether an answer passes every test.
pub(super) fn passes(answer: &Candidate) -> bool {
    answer.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Outcome::Pass)
}

/// Answers and those that pass of each problem, as scores without texts.
pub(super) fn verdicts<'a>(problems: impl Iterator<Item = &'a Problem>, answers: &[Candidate]) -> Scores {
    let mut counts: BTreeMap<&str, (usize, usize, bool)> = BTreeMap::new();
    for answer in answers {
        let count = counts.entry(&answer.id).or_insert((0, 0, passes(answer)));
        (count.0, count.1) = (count.0 + 1, count.1 + usize::from(passes(answer)));
    }
    let (mut all, mut first) = (Vec::new(), Vec::new());
    for problem in problems {
        let (answers, passed, begins) = counts.get(problem.id.as_str()).copied().unwrap_or_default();
        all.push((answers, passed));
        first.push(begins);
    }
    Scores { passes: all, first, compiled: (0, 0), texts: None }
}
