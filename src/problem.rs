//! Problems and their check: suites, vetting, mutants, the split, the cap.
//!
//! What is run, and how an answer is judged, is in `check`; what a benchmark's rows look like, in one file per suite.

mod bigcodebench;
pub mod check;
pub mod defects4j;
mod evalplus;
mod folder;
mod humaneval_fix;
mod java;
mod literal;
mod mbpp;
pub mod micro;
mod mutate;
pub mod own;
mod quixbugs;
mod row;
pub mod swebench;
pub mod toolchain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::record::{Outcome, Problem, Split};
use crate::rng::Rng;

pub use check::Checker;
pub use check::command::replaced;
pub use folder::definition;
pub use mutate::mutate;
pub use row::objects;

/// The suites that [`load`] knows.
pub const SUITES: [&str; 12] = [
    "mbpp",
    "mbpp_plus",
    "humaneval_fix",
    "humaneval_plus",
    "humaneval_java",
    "quixbugs",
    "quixbugs_java",
    "bigcodebench",
    "micro",
    "folder",
    "swebench",
    "defects4j",
];

/// What may be said about a suite besides where it lies. A suite takes some of them; see [`Options::of`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Which of a benchmark's prompts: `complete` or `instruct`.
    pub variant: Option<String>,
    /// Which part of a benchmark: `full` or `hard`.
    pub subset: Option<String>,
    /// The published version whose corrections the rows get.
    pub version: Option<String>,
    /// A file of ids, one a line: only these problems are taken.
    pub ids: Option<PathBuf>,
    /// EvalPlus' file for the benchmark: its inputs are tests too.
    pub extra_inputs: Option<PathBuf>,
    /// A folder with a clone of each project, named `owner__name`.
    pub repos: Option<PathBuf>,
    /// What runs the tests in a checkout.
    pub test_command: Option<String>,
    /// Folders outside that this command may read; the `bin` of each is on its PATH.
    pub reads: Vec<PathBuf>,
}

impl Options {
    /// The options that a suite takes.
    pub fn of(suite: &str) -> &'static [&'static str] {
        match suite {
            "mbpp" | "humaneval_fix" => &["extra_inputs"],
            "bigcodebench" => &["variant", "subset", "version", "ids"],
            "swebench" => &["repos", "test_command", "reads"],
            _ => &[],
        }
    }

    /// An [`Error::Input`] that names the first option given that `suite` does not take.
    pub fn check(&self, suite: &str) -> Result<()> {
        let given = [
            ("variant", self.variant.is_some()),
            ("subset", self.subset.is_some()),
            ("version", self.version.is_some()),
            ("ids", self.ids.is_some()),
            ("extra_inputs", self.extra_inputs.is_some()),
            ("repos", self.repos.is_some()),
            ("test_command", self.test_command.is_some()),
            ("reads", !self.reads.is_empty()),
        ];
        let known = Options::of(suite);
        let Some((name, _)) = given.iter().find(|(name, given)| *given && !known.contains(name)) else { return Ok(()) };
        let takers: Vec<&str> = SUITES.into_iter().filter(|suite| Options::of(suite).contains(name)).collect();
        let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::input(*name, format!("suite `{suite}` takes no such option (it takes {takes}); {} does", takers.join(", "))))
    }
}

/// Reads a suite from its published file, or makes it (`micro`, from `seed` and `count`). `count` bounds the problems of
/// every suite; 0 takes all that a file has. Rows that are not what they must be, and options that the suite does not take,
/// are [`Error::Input`] with file, line and field, or the option's name.
pub fn load(suite: &str, path: Option<&Path>, seed: u64, count: usize, options: &Options) -> Result<Vec<Problem>> {
    if !SUITES.contains(&suite) {
        let nearest = SUITES.iter().min_by_key(|s| strsim::levenshtein(s, suite)).copied().unwrap_or_default();
        let what = format!("`{suite}` is no suite; there are {}; did you mean `{nearest}`?", SUITES.join(", "));
        return Err(Error::input("suite", what));
    }
    options.check(suite)?;
    if suite == "micro" {
        return Ok(micro::generate(seed, count));
    }
    let path = path.ok_or_else(|| Error::input("path", format!("suite `{suite}` is read from a file, and none was named")))?;
    let mut problems = match suite {
        "mbpp" => mbpp::read(path)?,
        "mbpp_plus" => evalplus::read(path, evalplus::Set::Mbpp)?,
        "humaneval_fix" => humaneval_fix::read(path)?,
        "humaneval_plus" => evalplus::read(path, evalplus::Set::HumanEval)?,
        "humaneval_java" => java::humaneval(path)?,
        "quixbugs" => quixbugs::read(path)?,
        "quixbugs_java" => java::quixbugs(path)?,
        "folder" => folder::read(path)?,
        "defects4j" => defects4j::load(path, &defects4j::Settings::default())?,
        "swebench" => swebench::read(path, count, &swebench::Settings::of(path, options))?,
        _ => bigcodebench::read(path, options)?,
    };
    if problems.is_empty() {
        return Err(Error::input(path.display(), "no problems in it"));
    }
    if let Some(extra) = &options.extra_inputs {
        evalplus::extend(&mut problems, extra, if suite == "mbpp" { evalplus::Set::Mbpp } else { evalplus::Set::HumanEval })?;
    }
    if count > 0 {
        problems.truncate(count);
    }
    Ok(problems)
}

/// A problem that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The problem's id.
    pub id: String,
    /// Why, in one line.
    pub reason: String,
}

/// Keeps the problems whose reference passes and whose buggy code fails, with the checker that will judge answers. A problem
/// whose toolchain lacks is dropped with that reason. `done` is called after each check, with how many are done so far.
pub fn vet(checker: &Checker, problems: Vec<Problem>, done: &(dyn Fn(usize) + Sync)) -> Result<(Vec<Problem>, Vec<Dropped>)> {
    let mut items: Vec<(&Problem, &str)> = Vec::new();
    let mut owners: Vec<(usize, bool)> = Vec::new();
    let mut reasons: Vec<Option<String>> = vec![None; problems.len()];
    for (index, problem) in problems.iter().enumerate() {
        reasons[index] = checker.lacks(problem);
        if reasons[index].is_some() {
            continue;
        }
        for (code, is_reference) in [(&problem.reference, true), (&problem.buggy, false)] {
            if let Some(code) = code {
                items.push((problem, code));
                owners.push((index, is_reference));
            }
        }
    }
    let verdicts = checker.check_all(&items, done)?;
    for ((index, is_reference), verdict) in owners.into_iter().zip(verdicts) {
        let wrong = match (is_reference, verdict.verdict == Outcome::Pass) {
            (true, false) => format!("its reference does not pass: {}", verdict.reason),
            (false, true) => "its buggy code passes every test".to_owned(),
            _ => continue,
        };
        reasons[index].get_or_insert(wrong);
    }
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (problem, reason) in problems.into_iter().zip(reasons) {
        match reason {
            None => kept.push(problem),
            Some(reason) => dropped.push(Dropped { id: problem.id, reason }),
        }
    }
    Ok((kept, dropped))
}

/// Deals problems to train, validation and test by `ratios`; the order of `problems` stays. Problems of one id go together.
pub fn split(problems: &mut [Problem], ratios: [f64; 3], seed: u64) -> Result<()> {
    if ratios.iter().any(|r| !(0.0..=1.0).contains(r)) || (ratios.iter().sum::<f64>() - 1.0).abs() > 1e-9 {
        return Err(Error::input("split", format!("three shares that sum to 1 are expected, {ratios:?} was given")));
    }
    let mut ids: Vec<(String, String)> = problems.iter().map(|p| (p.suite.clone(), p.id.clone())).collect();
    ids.sort_unstable();
    ids.dedup();
    Rng::new(seed, "split", 0).shuffle(&mut ids);
    let count = ids.len() as f64;
    let train = (ratios[0] * count).round() as usize;
    let validation = ((ratios[0] + ratios[1]) * count).round() as usize;
    let part = |place: usize| match place {
        place if place < train => Split::Train,
        place if place < validation => Split::Validation,
        _ => Split::Test,
    };
    let places: BTreeMap<(String, String), usize> = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
    for problem in problems {
        problem.split = Some(part(places[&(problem.suite.clone(), problem.id.clone())]));
    }
    Ok(())
}

/// Chooses at most `limit` problems, balanced over (kind, difficulty): the groups give one each in turn until the limit is
/// reached or all are empty. Returns their indices in ascending order.
pub fn cap(problems: &[&Problem], limit: usize, seed: u64) -> Vec<usize> {
    let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, problem) in problems.iter().enumerate() {
        groups.entry((&problem.kind, &problem.difficulty)).or_default().push(index);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    let mut rng = Rng::new(seed, "cap", 0);
    // Which groups give one more when the limit falls inside a round is drawn too.
    rng.shuffle(&mut groups);
    groups.iter_mut().for_each(|group| rng.shuffle(group));
    let mut chosen = Vec::new();
    while chosen.len() < limit && groups.iter().any(|group| !group.is_empty()) {
        for group in &mut groups {
            if chosen.len() < limit {
                chosen.extend(group.pop());
            }
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Names difficulty by the length of the code, a third of the problems each: published sets carry no other measure.
fn grade(problems: &mut [Problem]) {
    let length = |problem: &Problem| problem.reference.as_ref().map_or(0, |code| code.split_whitespace().count());
    let mut lengths: Vec<usize> = problems.iter().map(length).collect();
    lengths.sort_unstable();
    let (Some(easy), Some(medium)) = (lengths.get(lengths.len() / 3), lengths.get(lengths.len() * 2 / 3)) else { return };
    for problem in problems {
        let words = length(problem);
        let name = if words < *easy {
            "easy"
        } else if words < *medium {
            "medium"
        } else {
            "hard"
        };
        problem.difficulty = name.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Check, Extra};

    fn problem(id: usize, kind: &str, difficulty: &str) -> Problem {
        Problem {
            id: id.to_string(),
            suite: "test".into(),
            kind: kind.into(),
            difficulty: difficulty.into(),
            prompt: String::new(),
            buggy: None,
            reference: None,
            language: "python".into(),
            check: Check::statements(Vec::new(), 1.0),
            split: None,
            extra: Extra::new(),
        }
    }

    #[test]
    fn the_split_is_exact_disjoint_and_repeatable() {
        let mut problems: Vec<Problem> = (0..974).map(|i| problem(i, "a", "easy")).collect();
        split(&mut problems, [0.70, 0.15, 0.15], 17).unwrap();
        let count = |part| problems.iter().filter(|p| p.split == Some(part)).count();
        // 681.8, 827.9 and 974 are where the parts end.
        assert_eq!((count(Split::Train), count(Split::Validation), count(Split::Test)), (682, 146, 146));
        let mut again: Vec<Problem> = problems.iter().rev().cloned().collect();
        split(&mut again, [0.70, 0.15, 0.15], 17).unwrap();
        again.reverse();
        assert_eq!(problems, again);
        split(&mut again, [0.70, 0.15, 0.15], 18).unwrap();
        assert_ne!(problems, again);
        assert_eq!(split(&mut again, [0.7, 0.7, 0.15], 18).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_cap_is_balanced_over_kind_and_difficulty() {
        let mut problems: Vec<Problem> = (0..90).map(|i| problem(i, "common", "easy")).collect();
        problems.extend((90..95).map(|i| problem(i, "rare", "easy")));
        problems.extend((95..97).map(|i| problem(i, "rare", "hard")));
        let all: Vec<&Problem> = problems.iter().collect();
        let chosen = cap(&all, 18, 3);
        let count = |kind: &str, difficulty: &str| {
            chosen.iter().filter(|i| all[**i].kind == kind && all[**i].difficulty == difficulty).count()
        };
        assert_eq!((count("common", "easy"), count("rare", "easy"), count("rare", "hard")), (11, 5, 2));
        assert_eq!(chosen, cap(&all, 18, 3));
        assert_eq!(cap(&all, 1000, 3), (0..97).collect::<Vec<_>>());
        assert_eq!(cap(&all, 0, 3), Vec::<usize>::new());
    }

    #[test]
    fn an_unknown_suite_names_the_valid_ones() {
        let error = load("mbp", None, 0, 0, &Options::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains(
                "mbpp, mbpp_plus, humaneval_fix, humaneval_plus, humaneval_java, quixbugs, quixbugs_java, bigcodebench, micro, folder, swebench, defects4j"
            ) && text.ends_with("did you mean `mbpp`?"),
            "{text}"
        );
    }
}
