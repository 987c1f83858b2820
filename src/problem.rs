//! Problems and their check: suites, vetting, mutants, the split, the cap.
//!
//! What is run, and how an answer is judged, is in `check`; what a benchmark's rows look like, in one file per suite.

pub mod check;
mod humaneval_fix;
mod java;
mod mbpp;
pub mod micro;
mod mutate;
mod quixbugs;
mod row;
pub mod toolchain;

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::record::{Outcome, Problem, Split};
use crate::rng::Rng;

pub use check::Checker;
pub use mutate::mutate;

/// The suites that [`load`] knows.
pub const SUITES: [&str; 6] = ["mbpp", "humaneval_fix", "quixbugs", "humaneval_java", "quixbugs_java", "micro"];

/// Reads a suite from its published file, or makes it (`micro`, from `seed` and `count`). `count` bounds the problems of
/// every suite; 0 takes all that a file has. Rows that are not what they must be are [`Error::Input`] with file, line and
/// field.
pub fn load(suite: &str, path: Option<&Path>, seed: u64, count: usize) -> Result<Vec<Problem>> {
    let read: fn(&Path) -> Result<Vec<Problem>> = match suite {
        "mbpp" => mbpp::read,
        "humaneval_fix" => humaneval_fix::read,
        "quixbugs" => quixbugs::read,
        "humaneval_java" => java::humaneval,
        "quixbugs_java" => java::quixbugs,
        "micro" => return Ok(micro::generate(seed, count)),
        other => {
            let nearest = SUITES.iter().min_by_key(|s| strsim::levenshtein(s, other)).copied().unwrap_or_default();
            let what = format!("`{other}` is no suite; there are {}; did you mean `{nearest}`?", SUITES.join(", "));
            return Err(Error::input("suite", what));
        }
    };
    let path = path.ok_or_else(|| Error::input("path", format!("suite `{suite}` is read from a file, and none was named")))?;
    let mut problems = read(path)?;
    if problems.is_empty() {
        return Err(Error::input(path.display(), "no problems in it"));
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
        let error = load("mbp", None, 0, 0).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("mbpp, humaneval_fix, quixbugs, humaneval_java, quixbugs_java, micro")
                && text.ends_with("did you mean `mbpp`?"),
            "{text}"
        );
    }
}
