//! Answers in files.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use repairity::error::Result;
use repairity::record::Usage;
use repairity::teacher::recorded::{Journal, Recorded};
use repairity::teacher::{Provider, Query, Reply, Settings, Stop, Teacher, open, open_journaled};
use serde_json::Value;

use crate::server::{Server, message, whole};
use crate::{Waits, candidate, compare, key, noting, problem, settings, trace};

#[test]
fn recorded_answers_are_found_by_problem_and_by_candidates_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let lines = [
        r#"{"id":"7","purpose":"trace","text":"old"}"#,
        r#"{"key":"7","purpose":"trace","text":"t","stop":"length","usage":{"input_tokens":3,"output_tokens":4}}"#,
        r#"{"id":"7","purpose":"compare","first":0,"second":1,"text":"Ranking: A > B","model":"c-2"}"#,
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let teacher = open(&Settings { provider: Provider::Recorded, path: Some(path.clone()), ..Settings::default() }).unwrap();
    assert_eq!(teacher.model(), "c-2");
    let usage = Usage { input_tokens: 3, output_tokens: 4 };
    assert_eq!(
        trace(teacher.as_ref(), "7").unwrap(),
        Reply { text: "t".into(), reasoning: String::new(), stop: Stop::Length, usage }
    );
    let judged = |first, second| {
        let (first, second) = (candidate(first, "a"), candidate(second, "b"));
        teacher.ask(&compare(&problem("7"), &first, &second))
    };
    assert_eq!(judged(0, 1).unwrap().text, "Ranking: A > B");
    let at = path.display();
    assert_eq!(judged(1, 0).unwrap_err().to_string(), format!("{at}: no comparison of candidates 1 and 0 for problem 7"));
    assert_eq!(trace(teacher.as_ref(), "8").unwrap_err().to_string(), format!("{at}: no trace for problem 8"));
    fs::write(&path, "{\"id\":\"7\"}\n").unwrap();
    let error = Recorded::open(&path).err().unwrap().to_string();
    assert!(error.starts_with(&format!("{at}:1: missing field")), "{error}");
}

/// Answers each question with the number of questions so far.
struct Counting {
    calls: Arc<AtomicUsize>,
    model: &'static str,
}

impl Teacher for Counting {
    fn model(&self) -> &str {
        self.model
    }

    fn ask(&self, _: &Query<'_>) -> Result<Reply> {
        let text = self.calls.fetch_add(1, Ordering::SeqCst).to_string();
        Ok(Reply { text, usage: Usage { input_tokens: 10, output_tokens: 1 }, ..Reply::default() })
    }
}

fn journal(path: &std::path::Path, model: &'static str) -> (Journal, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    (Journal::open(path, Box::new(Counting { calls: Arc::clone(&calls), model })).unwrap(), calls)
}

#[test]
fn a_journal_pays_once_also_across_threads_and_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/teacher.jsonl");
    let (first, calls) = journal(&path, "m");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|id| drop(trace(&first, &id.to_string()).unwrap())));
        }
    });
    assert_eq!(calls.load(Ordering::SeqCst), 10);
    let three = trace(&first, "3").unwrap();
    drop(first);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), 10);

    // The last line is half-written: it is asked for again, and the file is whole afterwards.
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let (second, calls) = journal(&path, "m");
    assert_eq!(trace(&second, "3").unwrap(), three);
    (0..10).for_each(|id| drop(trace(&second, &id.to_string()).unwrap()));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    drop(second);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(), 10);
    assert_eq!(trace(&Recorded::open(&path).unwrap(), "3").unwrap(), three);

    // Another model, and another prompt for the same problem, are other questions.
    let (other, calls) = journal(&path, "n");
    trace(&other, "3").unwrap();
    other.ask(&Query::Trace { problem: &problem("3"), prompt: "Please fix it." }).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);

    fs::write(&path, "{}\n").unwrap();
    let error = Journal::open(&path, Box::new(Counting { calls, model: "m" })).err().unwrap().to_string();
    assert!(error.contains("teacher.jsonl:1: missing field"), "{error}");
}

#[test]
fn a_journal_counts_against_the_budget_and_holds_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let server = Server::start(vec![whole(200, message("x", "end_turn"))]);
    let priced = Settings { budget_usd: 1.04, output_usd_per_mtok: 1000.0, ..settings(Provider::Anthropic, &server.url) };
    trace(&open_journaled(&priced, &path, noting(Waits::default())).unwrap(), "7").unwrap();
    server.finish();
    let again = open_journaled(&priced, &path, noting(Waits::default())).unwrap();
    assert_eq!(trace(&again, "7").unwrap().text, "x");
    let error = trace(&again, "8").unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 0.0500 of 1.0400 USD are spent, and the next call could cost 1.0000");
    assert!(!fs::read_to_string(&path).unwrap().contains(&key()));
}

#[test]
fn lines_of_a_journal_are_as_they_always_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let (first, _) = journal(&path, "m");
    let (task, one, two) = (problem("7"), candidate(0, "a"), candidate(2, "b"));
    first.ask(&compare(&task, &one, &two)).unwrap();
    first.ask(&Query::Rank { problem: &task, instruction: "Rank.", shown: &[&two, &one] }).unwrap();
    trace(&first, "7").unwrap();
    let lines = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    let tail = r#""stop":"end","usage":{"input_tokens":10,"output_tokens":1}}"#;
    let head = r#"{"id":"7","purpose":"compare","first":0,"second":2,"model":"m","prompt_sha256":""#;
    assert!(lines[0].starts_with(head) && lines[0].ends_with(&format!(r#"","text":"0",{tail}"#)), "{}", lines[0]);
    assert!(lines[1].starts_with(r#"{"id":"7","purpose":"rank","shown":[2,0],"model":"m","prompt_sha256":""#), "{}", lines[1]);
    // The hash of "Fix it.", by sha256sum.
    let hash = "690cc521261686d9e468ac60d31aefbfa60ecc5774647f8ff7a65a9d4ed3162c";
    let expected = format!(r#"{{"id":"7","purpose":"trace","model":"m","prompt_sha256":"{hash}","text":"2",{tail}"#);
    assert_eq!(lines[2], expected);
}

#[test]
fn what_is_stored_is_not_estimated_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let server = Server::start(vec![whole(200, message("x", "end_turn"))]);
    // 756 tokens a trace at 0.001 USD each: one trace is expected to cost 0.756, two are too dear.
    let priced = Settings { budget_usd: 1.2, output_usd_per_mtok: 1000.0, ..settings(Provider::Anthropic, &server.url) };
    let (one, two) = (problem("1"), problem("2"));
    let queries = [Query::Trace { problem: &one, prompt: "Fix it." }, Query::Trace { problem: &two, prompt: "Fix it." }];
    let said = std::cell::RefCell::new(Vec::new());
    let report = |line: &str| said.borrow_mut().push(line.to_string());
    let open = |settings: &Settings| open_journaled(settings, &path, noting(Waits::default())).unwrap();
    let error = open(&priced).prepare(&queries, &report).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let expected = "teacher.budget_usd: 1.20 USD would not do: 0.00 are spent, 1.51 more are expected; raise it, ask for less, or set \
                    teacher.start_anyway = true to ask until it is spent (teacher.batch = true halves Anthropic's price)";
    assert_eq!(error.to_string(), expected);
    let bytes = r#"{"model":"m-1","max_tokens":1000,"temperature":0.5,"messages":[{"role":"user","content":"Fix it."}]}"#.len();
    let estimate = |count: usize, usd: &str, most: &str| {
        format!(
            "m-1: {count} requests, about {} tokens in (3 bytes each) and {} out (the paper's averages), {usd} USD; at most {} in and \
             {} out, {most} USD",
            count * bytes.div_ceil(3),
            count * 756,
            count * (bytes + 256),
            count * 1000
        )
    };
    assert_eq!(*said.borrow(), [estimate(2, "1.51", "2.00")]);
    let anyway = Settings { start_anyway: true, ..priced.clone() };
    open(&anyway).prepare(&queries, &report).unwrap();
    // Half the price in batches.
    let batch = Settings { batch: true, ..priced.clone() };
    assert!(open(&batch).estimate(&[&queries[0], &queries[1]]).unwrap().refusal.is_none());
    let journal = open(&priced);
    journal.ask(&queries[0]).unwrap();
    said.borrow_mut().clear();
    open(&priced).prepare(&queries, &report).unwrap();
    assert_eq!(*said.borrow(), [estimate(1, "0.76", "1.00")]);
    server.finish();
}

#[test]
fn a_cut_answer_is_asked_for_again_once_the_limit_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let server = Server::start(vec![whole(200, message("Beca", "max_tokens")), whole(200, message("Because.", "end_turn"))]);
    let asked = |max_tokens| {
        let settings = Settings { max_tokens, ..settings(Provider::Anthropic, &server.url) };
        trace(&open_journaled(&settings, &path, noting(Waits::default())).unwrap(), "7").unwrap()
    };
    assert_eq!((asked(50).stop, asked(50).stop, asked(40).stop), (Stop::Length, Stop::Length, Stop::Length));
    assert_eq!((asked(60).text, asked(50).text, asked(70).text), ("Because.".into(), "Because.".into(), "Because.".to_string()));
    assert_eq!(server.finish().len(), 2);
}
