//! Teachers against a real HTTP server on this machine, and answers in files.

mod batch;
mod journal;
mod live;
mod program;
mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use repairity::error::Result;
use repairity::prompt::P_COMPARE;
use repairity::record::{Candidate, Check, Problem};
use repairity::teacher::{Provider, Query, Reply, Settings, Sleep, Spent, Teacher, open_with};

/// A variable that cargo sets for every test; its value plays the key.
const KEY_ENV: &str = "CARGO_MANIFEST_DIR";

fn key() -> String {
    std::env::var(KEY_ENV).unwrap()
}

fn settings(provider: Provider, url: &str) -> Settings {
    Settings {
        provider,
        model: "m-1".into(),
        base_url: Some(url.into()),
        key_env: Some(KEY_ENV.into()),
        max_tokens: 1000,
        temperature: 0.5,
        timeout_s: 20.0,
        seed: 5,
        ..Settings::default()
    }
}

type Waits = Arc<Mutex<Vec<f64>>>;

/// A teacher that takes note of its waits instead of waiting.
fn patient(settings: &Settings) -> (Box<dyn Teacher>, Waits) {
    let waits = Waits::default();
    let kept = Arc::clone(&waits);
    (open_with(settings, Spent::default(), noting(kept)).unwrap(), waits)
}

fn noting(waits: Waits) -> Sleep {
    Box::new(move |wait: Duration| {
        waits.lock().unwrap().push(wait.as_secs_f64());
        true
    })
}

fn problem(id: &str) -> Problem {
    Problem {
        id: id.into(),
        suite: "s".into(),
        kind: "k".into(),
        difficulty: "easy".into(),
        prompt: "Add two numbers.".into(),
        buggy: Some("def add(a, b):\n    return a - b".into()),
        reference: None,
        language: "python".into(),
        check: Check::statements(Vec::new(), 1.0),
        split: None,
        extra: Default::default(),
    }
}

fn candidate(index: usize, answer: &str) -> Candidate {
    Candidate {
        id: "7".into(),
        index,
        model: "sft".into(),
        temperature: 0.7,
        text: format!("I think {index}"),
        answer: answer.into(),
        verdict: None,
        extra: Default::default(),
    }
}

fn trace(teacher: &dyn Teacher, id: &str) -> Result<Reply> {
    teacher.ask(&Query::Trace { problem: &problem(id), prompt: "Fix it." })
}

fn compare<'a>(problem: &'a Problem, first: &'a Candidate, second: &'a Candidate) -> Query<'a> {
    Query::Compare { problem, instruction: P_COMPARE, first, second }
}
