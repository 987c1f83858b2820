//! The published benchmarks through the checker: every reference passes, no bug does.

use std::path::PathBuf;
use std::time::Instant;

use repairity::problem::{self, Checker};
use repairity::record::{Outcome, Problem};
use repairity::sandbox::Mode;

fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn checker() -> Checker {
    Checker::new(Mode::Strict, 2).unwrap()
}

/// Ids of the items that pass, and the other outcomes with their reasons.
fn outcomes(items: &[(&Problem, &str)]) -> (usize, Vec<String>) {
    let checker = checker();
    let start = Instant::now();
    let verdicts = checker.check_all(items, &|_| {}).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} checks, {:.1} ms each on 2 jobs", items.len(), 1e3 * seconds / items.len() as f64);
    let passed = verdicts.iter().filter(|v| v.verdict == Outcome::Pass).count();
    let line = |((p, _), v): (&(&Problem, &str), &repairity::record::Verdict)| format!("{} {:?} {}", p.id, v.verdict, v.reason);
    (passed, items.iter().zip(&verdicts).filter(|(_, v)| v.verdict != Outcome::Pass).map(line).collect())
}

fn references(problems: &[Problem]) -> Vec<(&Problem, &str)> {
    problems.iter().map(|p| (p, p.reference.as_deref().unwrap())).collect()
}

fn bugs(problems: &mut [Problem]) -> Vec<(&Problem, &str)> {
    // The few that loop for ever need not loop for long.
    problems.iter_mut().for_each(|p| p.check.timeout_s = 1.5);
    problems.iter().map(|p| (p, p.buggy.as_deref().unwrap())).collect()
}

#[test]
fn mbpp_references_pass() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let problems = problem::load("mbpp", Some(&path), 0, 0).unwrap();
    assert_eq!(problems.len(), 974);
    assert!(problems.iter().all(|p| p.check.tests.len() == 3 && p.buggy.is_none() && !p.reference.as_ref().unwrap().contains('\r')));
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 974, "{failures:#?}");
}

#[test]
fn humaneval_fix_references_pass_and_bugs_fail() {
    let Some(path) = data("humanevalpack/python.jsonl") else { return };
    let mut problems = problem::load("humaneval_fix", Some(&path), 0, 0).unwrap();
    assert_eq!(problems.len(), 164);
    assert_eq!(problems.iter().filter(|p| p.kind == "value misuse").count(), 44);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 164, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 164), "{failures:#?}");
    println!("{failures:#?}");
}

#[test]
fn quixbugs_solutions_pass_and_bugs_fail() {
    let Some(path) = data("quixbugs/quixbugs_python.jsonl") else { return };
    let mut problems = problem::load("quixbugs", Some(&path), 0, 0).unwrap();
    assert_eq!(problems.len(), 40);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 40, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 40), "{failures:#?}");
    println!("{failures:#?}");
}
