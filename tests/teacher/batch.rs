//! Message batches, served by a provider of our own.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use repairity::error::{Error, Result};
use repairity::record::Problem;
use repairity::teacher::recorded::Journal;
use repairity::teacher::{Provider, Query, Reply, Settings, Teacher, open_journaled};
use serde_json::{Value, json};

use crate::server::{Answer, Request, Server, message, whole};
use crate::{Waits, key, noting, problem, settings, trace};

/// What the provider has.
#[derive(Default)]
pub struct Provided {
    /// Each batch: its requests.
    pub batches: Vec<Vec<Value>>,
    /// Looks at a batch that has not ended, still to come.
    pub busy: usize,
    /// Creations whose answer is lost, still to come.
    pub lost: usize,
    /// Results files that break off, still to come.
    pub cut: usize,
    /// Creations that are not answered before the client is gone, still to come.
    pub hanging: usize,
    /// Told of each creation and each look.
    pub seen: Option<Sender<&'static str>>,
    /// What `results_url` begins with instead of this server's address.
    pub elsewhere: Option<String>,
}

pub type Shared = Arc<Mutex<Provided>>;

/// A provider of batches. `result` makes the result of a request: from its prompt, and how many batches there are.
pub fn provider(shared: &Shared, mut result: impl FnMut(&str, usize) -> Value + Send + 'static) -> Server {
    let shared = Arc::clone(shared);
    Server::telling(move |request| {
        let mut state = shared.lock().unwrap();
        let host = request.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_string();
        let path = request.line();
        if path == "post /v1/messages/batches" {
            state.batches.push(request.body["requests"].as_array().unwrap().clone());
            tell(&state, "created");
            if state.hanging > 0 {
                state.hanging -= 1;
                return Answer::Silence;
            }
            if state.lost > 0 {
                state.lost -= 1;
                return Answer::Close;
            }
            return whole(200, described(&state, state.batches.len() - 1, &host));
        }
        if path == "get /v1/messages/batches?limit=100" {
            let all: Vec<Value> = (0..state.batches.len()).rev().map(|index| described(&state, index, &host)).collect();
            return whole(200, json!({"data": all, "has_more": false}));
        }
        let rest = path.strip_prefix("get /v1/messages/batches/msgbatch_").unwrap();
        if let Some(index) = rest.strip_suffix("/results") {
            let count = state.batches.len();
            // Last first: order is not kept.
            let lines: String = state.batches[index.parse::<usize>().unwrap()]
                .iter()
                .rev()
                .map(|request| {
                    let prompt = request["params"]["messages"][0]["content"].as_str().unwrap();
                    format!("{}\n", json!({"custom_id": request["custom_id"], "result": result(prompt, count)}))
                })
                .collect();
            if state.cut > 0 {
                state.cut -= 1;
                return Answer::Cut(lines[..lines.len() * 2 / 3].to_string());
            }
            return Answer::Whole(200, Vec::new(), lines);
        }
        let described = described(&state, rest.parse().unwrap(), &host);
        state.busy = state.busy.saturating_sub(1);
        tell(&state, "looked");
        whole(200, described)
    })
}

fn tell(state: &Provided, what: &'static str) {
    if let Some(seen) = &state.seen {
        // Who does not listen any more does not want to know.
        let _ = seen.send(what);
    }
}

fn described(state: &Provided, index: usize, host: &str) -> Value {
    let count = state.batches[index].len();
    let base = state.elsewhere.clone().unwrap_or(format!("http://{host}"));
    let ended = state.busy == 0;
    json!({
        "id": format!("msgbatch_{index}"), "type": "message_batch",
        "processing_status": if ended { "ended" } else { "in_progress" },
        "request_counts": {
            "processing": if ended { 0 } else { count }, "succeeded": if ended { count } else { 0 }, "errored": 0, "canceled": 0,
            "expired": 0
        },
        "results_url": if ended { json!(format!("{base}/v1/messages/batches/msgbatch_{index}/results")) } else { Value::Null },
    })
}

/// The text says what was asked.
pub fn succeeded(prompt: &str) -> Value {
    json!({"type": "succeeded", "message": message(&format!("to {prompt}"), "end_turn")})
}

fn errored(kind: &str) -> Value {
    json!({"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": "so it is"}}})
}

fn batching(url: &str) -> Settings {
    Settings { batch: true, ..settings(Provider::Anthropic, url) }
}

/// Asks for the traces of problems 0 to `count`, each with its id as the prompt, as a run does: together, then one by one.
fn collect(settings: &Settings, path: &Path, count: usize) -> (Result<Vec<Reply>>, Vec<String>, Vec<f64>) {
    let waits = Waits::default();
    let journal = open_journaled(settings, path, noting(Arc::clone(&waits))).unwrap();
    let (replies, said) = collect_from(&journal, count);
    let waits = waits.lock().unwrap().clone();
    (replies, said, waits)
}

fn collect_from(journal: &Journal, count: usize) -> (Result<Vec<Reply>>, Vec<String>) {
    let problems: Vec<Problem> = (0..count).map(|id| problem(&id.to_string())).collect();
    let queries: Vec<Query<'_>> = problems.iter().map(|problem| Query::Trace { problem, prompt: &problem.id }).collect();
    let said = RefCell::new(Vec::new());
    let prepared = journal.prepare(&queries, &|line| said.borrow_mut().push(line.to_string()));
    let replies = prepared.and_then(|()| queries.iter().map(|query| journal.ask(query)).collect());
    (replies, said.into_inner())
}

fn texts(replies: &[Reply]) -> Vec<&str> {
    replies.iter().map(|reply| reply.text.as_str()).collect()
}

fn posts(requests: &[Request]) -> usize {
    requests.iter().filter(|request| request.head.starts_with("post")).count()
}

#[test]
fn results_come_in_any_order_and_what_was_not_answered_is_ordered_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().busy = 3;
    let server = provider(&shared, |prompt, batches| match (prompt, batches) {
        ("1", 1) => json!({"type": "expired"}),
        ("2", 1) => errored("api_error"),
        ("3", 1 | 2) => json!({"type": "canceled"}),
        _ => succeeded(prompt),
    });
    let (replies, said, waits) = collect(&batching(&server.url), &path, 5);
    assert_eq!(texts(&replies.unwrap()), ["to 0", "to 1", "to 2", "to 3", "to 4"]);
    // Each look waits half as long again. The first batch is looked at while it is busy, the others have ended.
    assert_eq!(waits, [5.0, 7.5, 11.25]);
    let batches = &shared.lock().unwrap().batches;
    let names = |index: usize| batches[index].iter().map(|request| request["custom_id"].as_str().unwrap().to_string());
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [5, 3, 1]);
    assert!(names(0).all(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_eq!(names(0).collect::<HashSet<_>>().len(), 5);
    assert_eq!((names(1).collect::<Vec<_>>(), names(2).next()), (names(0).skip(1).take(3).collect(), names(0).nth(3)));
    let params = json!({"model": "m-1", "max_tokens": 1000, "temperature": 0.5, "messages": [{"role": "user", "content": "0"}]});
    assert_eq!(batches[0][0]["params"], params);
    assert!(said.contains(&"teacher: batch msgbatch_0, 5 requests left".to_string()), "{said:?}");
    // Everything is stored, at half the price; nothing is open in the ledger.
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!((lines.lines().count(), lines.matches("\"batch\":true").count()), (5, 5));
    let again = collect(&batching("http://127.0.0.1:9"), &path, 5);
    assert_eq!((again.0.unwrap().len(), again.1.len()), (5, 0));
    // 5 answers of 50 tokens at half of 0.001 USD.
    let priced = Settings { budget_usd: 0.5, output_usd_per_mtok: 1000.0, batch: false, ..batching(&server.url) };
    let journal = open_journaled(&priced, &path, noting(Waits::default())).unwrap();
    let error = trace(&journal, "9").unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 0.1250 of 0.5000 USD are spent, and the next call could cost 1.0000");
}

#[test]
fn a_request_is_not_ordered_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    let server = provider(&shared, |prompt, _| match prompt {
        "1" => json!({"type": "expired"}),
        "2" => errored("invalid_request_error"),
        _ => succeeded(prompt),
    });
    let error = collect(&batching(&server.url), &path, 4).0.unwrap_err();
    let url = format!("{}/v1/messages/batches", server.url);
    let expected = "2 of 4 requests got no answer, the others are stored; the first: problem 2: invalid_request_error: so it is";
    assert_eq!((error.to_string(), error.exit_code()), (format!("{url}: {expected}"), 1));
    assert_eq!(shared.lock().unwrap().batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1, 1]);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[test]
fn an_interrupted_run_leaves_the_batch_and_the_next_fetches_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().busy = usize::MAX;
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    let journal = open_journaled(&batching(&server.url), &path, Box::new(|_| false)).unwrap();
    let (replies, said) = collect_from(&journal, 3);
    assert!(matches!(replies, Err(Error::Interrupted)));
    assert_eq!(said.last().unwrap(), "teacher: batch msgbatch_0 goes on at the provider; the next run fetches its answers");
    // A later run that asks more, and even one question less, gets what was ordered, and orders only the rest.
    shared.lock().unwrap().busy = 1;
    let (replies, said, _) = collect(&batching(&server.url), &path, 5);
    assert_eq!(texts(&replies.unwrap()), ["to 0", "to 1", "to 2", "to 3", "to 4"]);
    assert!(said.contains(&"teacher: batch msgbatch_0, 3 requests, was ordered before and is fetched".to_string()), "{said:?}");
    assert_eq!(shared.lock().unwrap().batches.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    assert!(collect(&batching(&server.url), &path, 5).0.is_ok());
    assert_eq!(posts(&server.requests()), 2);
}

#[test]
fn a_run_without_batches_fetches_what_was_ordered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().busy = usize::MAX;
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    let journal = open_journaled(&batching(&server.url), &path, Box::new(|_| false)).unwrap();
    assert!(collect_from(&journal, 3).0.is_err());
    shared.lock().unwrap().busy = 0;
    let (replies, said, _) = collect(&Settings { batch: false, ..batching(&server.url) }, &path, 3);
    assert_eq!(texts(&replies.unwrap()), ["to 0", "to 1", "to 2"]);
    // Nothing is left to ask, so nothing is estimated either.
    assert_eq!(said, ["teacher: batch msgbatch_0, 3 requests, was ordered before and is fetched"]);
    assert_eq!(posts(&server.requests()), 1);
}

#[test]
fn an_order_whose_answer_was_lost_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().lost = 1;
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    assert_eq!(collect(&batching(&server.url), &path, 3).0.unwrap().len(), 3);
    assert_eq!(posts(&server.requests()), 1);

    // A run that died between the order and its name.
    let ledger = path.with_extension("batches.jsonl");
    let lines = fs::read_to_string(&ledger).unwrap();
    let kinds: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((kinds.len(), &kinds[1], &kinds[2]), (3, &json!({"created": "msgbatch_0"}), &json!({"ended": "msgbatch_0"})));
    fs::write(&ledger, format!("{}\n{{\"crea", lines.lines().next().unwrap())).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(collect(&batching(&server.url), &path, 3).0.unwrap().len(), 3);
    assert_eq!(posts(&server.requests()), 1);

    // And one that died before the order: the list knows none of that size.
    fs::write(&ledger, lines.lines().next().unwrap().to_string() + "\n").unwrap();
    fs::remove_file(&path).unwrap();
    shared.lock().unwrap().batches.clear();
    assert_eq!(collect(&batching(&server.url), &path, 3).0.unwrap().len(), 3);
    assert_eq!(posts(&server.requests()), 2);
}

#[test]
fn a_batch_that_was_guessed_wrongly_costs_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().lost = usize::MAX;
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    // The run dies within its order, which never arrived; another's batch has as many requests.
    let journal = open_journaled(&batching(&server.url), &path, Box::new(|_| false)).unwrap();
    assert!(matches!(collect_from(&journal, 2).0, Err(Error::Interrupted)));
    {
        let mut state = shared.lock().unwrap();
        state.lost = 0;
        state.batches[0].iter_mut().for_each(|request| request["custom_id"] = json!("another's"));
    }
    let (replies, said, _) = collect(&batching(&server.url), &path, 2);
    assert_eq!(texts(&replies.unwrap()), ["to 0", "to 1"]);
    assert_eq!(said[0], "teacher: batch msgbatch_0, 2 requests, was ordered before and is fetched");
    assert_eq!(shared.lock().unwrap().batches.len(), 2);
}

#[test]
fn a_broken_file_of_results_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    shared.lock().unwrap().cut = 1;
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    assert_eq!(collect(&batching(&server.url), &path, 6).0.unwrap().len(), 6);
    assert_eq!((posts(&server.requests()), fs::read_to_string(&path).unwrap().lines().count()), (1, 6));
}

#[test]
fn results_elsewhere_do_not_get_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let other = Server::telling(|_| whole(200, json!({})));
    let shared = Shared::default();
    shared.lock().unwrap().elsewhere = Some(other.url.clone());
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    assert_eq!(collect(&batching(&server.url), &path, 2).0.unwrap().len(), 2);
    assert_eq!(other.requests().len(), 0);
    let own = server.requests();
    let sent = format!("x-api-key: {}", key().to_ascii_lowercase());
    assert!(own.iter().all(|request| request.head.contains(&sent)));
    assert_eq!(own.last().unwrap().line(), "get /v1/messages/batches/msgbatch_0/results");
}

#[test]
fn a_batch_is_no_larger_than_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.jsonl");
    let shared = Shared::default();
    let server = provider(&shared, |prompt, _| succeeded(prompt));
    // A request may cost 0.5 USD and costs 0.025: two fit at first, one beside what they cost.
    let priced = Settings { budget_usd: 1.02, output_usd_per_mtok: 1000.0, start_anyway: true, ..batching(&server.url) };
    let (replies, ..) = collect(&priced, &path, 3);
    assert_eq!(replies.unwrap().len(), 3);
    assert_eq!(shared.lock().unwrap().batches.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    let poor = Settings { budget_usd: 0.3, ..priced };
    let error = collect(&poor, &path, 4).0.unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 0.0750 of 0.3000 USD are spent, and the next call could cost 0.5000");
}
