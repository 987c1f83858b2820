//! `repairity check` on a benchmark of two problems: what it writes, what it prints, how it exits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A benchmark in MBPP's form.
fn benchmark(folder: &Path) -> PathBuf {
    let row = |id: u32, code: &str, test: &str| json!({ "text": "A function.", "code": code, "task_id": id, "test_setup_code": "", "test_list": [test], "challenge_test_list": [] });
    let rows = [
        row(1, "def double(x):\n    return 2 * x\n", "assert double(3) == 6"),
        row(2, "def half(x):\n    return x // 2\n", "assert half(7) == 3"),
    ];
    let path = folder.join("mbpp.jsonl");
    fs::write(&path, rows.map(|row| row.to_string() + "\n").concat()).unwrap();
    path
}

fn check(folder: &Path, more: &[&str]) -> Output {
    let path = benchmark(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
    command.args(["check", "--no-sandbox", "--suite", "mbpp", "--path"]).arg(path).args(more).output().unwrap()
}

/// (id, verdict) of each line.
fn verdicts(jsonl: &[u8]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let lines = std::str::from_utf8(jsonl).unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            assert!(line["seconds"].as_f64().unwrap() >= 0.0 && line["reason"].is_string(), "{line}");
            (text(&line["id"]), text(&line["verdict"]))
        })
        .collect()
}

fn pair(id: &str, verdict: &str) -> (String, String) {
    (id.into(), verdict.into())
}

#[test]
fn references_that_all_pass_exit_0() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), &["--reference"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(verdicts(&output.stdout), [pair("1", "pass"), pair("2", "pass")]);
    let counts = "2 of 2 pass: 0 fail, 0 timeout, 0 memory, 0 error, 0 refused\n";
    assert!(String::from_utf8(output.stderr).unwrap().ends_with(counts));
    assert_eq!(verdicts(&check(folder.path(), &["--reference", "--limit", "1"]).stdout), [pair("1", "pass")]);
}

#[test]
fn answers_are_judged_in_their_order_and_one_that_fails_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let (answers, verdict_file) = (folder.path().join("answers.jsonl"), folder.path().join("verdicts.jsonl"));
    let wrong = json!({ "id": "2", "answer": "def half(x):\n    return x / 2\n", "model": "any" });
    let right = json!({ "id": "1", "answer": "def double(x):\n    return x + x\n" });
    fs::write(&answers, format!("{wrong}\n{right}\n")).unwrap();
    let (answers, verdict_file) = (answers.to_str().unwrap(), verdict_file.to_str().unwrap());
    let output = check(folder.path(), &["--answers", answers, "--output", verdict_file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(verdicts(&fs::read(verdict_file).unwrap()), [pair("2", "fail"), pair("1", "pass")]);
    let counts = "1 of 2 pass: 1 fail, 0 timeout, 0 memory, 0 error, 0 refused\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), counts);
}

#[test]
fn an_answer_to_no_problem_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers.jsonl");
    fs::write(&answers, "{\"id\":\"1\",\"answer\":\"x\"}\n{\"id\":\"9\",\"answer\":\"x\"}\n").unwrap();
    let output = check(folder.path(), &["--answers", answers.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, format!("error: {}: record 2: the benchmark has no problem `9`\n", answers.display()));
}
