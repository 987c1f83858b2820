//! The published benchmarks through the checker: every reference passes, no bug does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use repairity::problem::{self, Checker, Options};
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
    let problems = problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 974);
    assert!(
        problems.iter().all(|p| p.check.tests.len() == 3 && p.buggy.is_none() && !p.reference.as_ref().unwrap().contains('\r'))
    );
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 974, "{failures:#?}");
}

#[test]
fn mutants_of_references_fail_and_are_vetted() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let mut problems = problem::load("mbpp", Some(&path), 0, 60, &Options::default()).unwrap();
    let checker = checker();
    let before = problems.clone();
    let without = problem::mutate(&checker, &mut problems, 17, &|_| {}).unwrap();
    println!("{} of {} without a mutant: {without:?}", without.len(), problems.len());
    assert!(without.len() <= 3, "{without:?}");
    let bugs = ["operator misuse", "value misuse", "variable misuse", "missing logic", "excess logic", "function misuse"];
    for (old, new) in before.iter().zip(&problems).filter(|(_, p)| p.buggy.is_some()) {
        let (reference, buggy) = (new.reference.as_ref().unwrap(), new.buggy.as_ref().unwrap());
        assert!(bugs.contains(&new.kind.as_str()) && reference != buggy && old.reference == new.reference, "{}", new.id);
        // One place changed: what stands before and after it is the reference's own text.
        let (a, b) = (reference.as_bytes(), buggy.as_bytes());
        let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
        assert!(head + tail > 0 && head + tail + 200 > a.len().max(b.len()), "{}", new.id);
    }
    let mut again = before.clone();
    problem::mutate(&checker, &mut again, 17, &|_| {}).unwrap();
    assert_eq!(problems, again);
    problem::mutate(&checker, &mut again, 18, &|_| {}).unwrap();
    assert_eq!(problems, again, "buggy code that is there stays");

    // A reference that fails and a bug that passes are dropped, with the reason.
    let mut bad = problems.iter().filter(|p| p.buggy.is_some()).take(4).cloned().collect::<Vec<_>>();
    bad[1].reference = bad[1].buggy.clone();
    bad[2].buggy = bad[2].reference.clone();
    let ids: Vec<String> = bad.iter().map(|p| p.id.clone()).collect();
    let (kept, dropped) = problem::vet(&checker, bad, &|_| {}).unwrap();
    assert_eq!(kept.iter().map(|p| &p.id).collect::<Vec<_>>(), [&ids[0], &ids[3]]);
    assert_eq!(dropped.iter().map(|d| &d.id).collect::<Vec<_>>(), [&ids[1], &ids[2]]);
    assert!(dropped[0].reason.starts_with("its reference does not pass: test "), "{dropped:?}");
    assert_eq!(dropped[1].reason, "its buggy code passes every test");
}

#[test]
fn a_stop_ends_a_run_early() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let problems = problem::load("mbpp", Some(&path), 0, 40, &Options::default()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let checker = checker().with_stop(Arc::clone(&stop));
    let seen = AtomicUsize::new(0);
    let done = |n: usize| {
        seen.fetch_max(n, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    };
    let error = checker.check_all(&references(&problems), &done).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert!((1..=2).contains(&seen.load(Ordering::Relaxed)));
}

#[test]
fn a_malformed_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mbpp.jsonl");
    let good = r#"{"text":"t","code":"c","task_id":1,"test_setup_code":"","test_list":["assert True"],"challenge_test_list":[]}"#;
    let cases = [
        (good.replace("\"c\"", "7"), "`code`: a text is expected, a number was found"),
        (good.replace("\"task_id\"", "\"id\""), "`task_id`: a whole number is expected, nothing was found"),
        (good.replace("[\"assert True\"]", "[1]"), "`test_list`: a list of texts is expected, a list was found"),
        (good.replace("[\"assert True\"]", "[]"), "`test_list`: at least one test is expected"),
        ("[1]".into(), "an object is expected"),
        (good[..20].to_owned(), "EOF"),
    ];
    for (row, message) in cases {
        std::fs::write(&path, format!("{good}\n\n{row}\n")).unwrap();
        let error = problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("mbpp.jsonl:3: ") && text.contains(message), "{text}");
    }
    std::fs::write(&path, "").unwrap();
    assert_eq!(problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap_err().exit_code(), 2);
    assert_eq!(
        problem::load("quixbugs", Some(&folder.path().join("none")), 0, 0, &Options::default()).unwrap_err().exit_code(),
        2
    );
    assert_eq!(problem::load("quixbugs", None, 0, 0, &Options::default()).unwrap_err().exit_code(), 2);
}

#[test]
fn humaneval_fix_references_pass_and_bugs_fail() {
    let Some(path) = data("humanevalpack/python.jsonl") else { return };
    let mut problems = problem::load("humaneval_fix", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 164);
    assert_eq!(problems.iter().filter(|p| p.kind == "value misuse").count(), 44);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 164, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 164), "{failures:#?}");
}

#[test]
fn quixbugs_solutions_pass_and_bugs_fail() {
    let Some(path) = data("quixbugs/quixbugs_python.jsonl") else { return };
    let mut problems = problem::load("quixbugs", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 40);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 40, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 40), "{failures:#?}");
}

/// Modules of the standard library, as this Python names them.
fn standard() -> Vec<String> {
    let output =
        std::process::Command::new("python3").args(["-c", "import sys; print(*sys.stdlib_module_names)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

/// BigCodeBench's tasks that name only the standard library.
fn bigcodebench(path: &std::path::Path, options: &Options) -> Vec<Problem> {
    let standard = standard();
    let mut problems = problem::load("bigcodebench", Some(path), 0, 0, options).unwrap();
    assert_eq!(problems.len(), 1140);
    let own = |library: &serde_json::Value| standard.iter().any(|s| s == library.as_str().unwrap().split('.').next().unwrap());
    problems.retain(|p| p.extra["libraries"].as_array().unwrap().iter().all(own));
    problems
}

#[test]
fn bigcodebench_references_pass_but_for_those_that_say_why() {
    let Some(path) = data("bigcodebench/BigCodeBench-v0.1.0_hf.jsonl.gz") else { return };
    let problems = bigcodebench(&path, &Options::default());
    assert_eq!(problems.len(), 327);
    let (passed, failures) = outcomes(&references(&problems));
    assert!(passed >= 290, "{passed} pass: {failures:#?}");
    println!("{passed} pass; {failures:#?}");
}
