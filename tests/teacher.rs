//! Teachers against a real HTTP server on this machine, and answers in files.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use repairity::error::Result;
use repairity::record::{Candidate, Check, Problem, Usage};
use repairity::teacher::recorded::{Journal, Recorded};
use repairity::teacher::{Provider, Query, Reply, Settings, Stop, Teacher, compare_text, open, open_journaled, open_with};
use serde_json::{Value, json};

/// A variable that cargo sets for every test; its value plays the key.
const KEY_ENV: &str = "CARGO_MANIFEST_DIR";

fn key() -> String {
    std::env::var(KEY_ENV).unwrap()
}

/// What the server does with one connection.
#[derive(Clone)]
enum Answer {
    /// A whole response: status, headers, body.
    Whole(u16, Vec<(&'static str, String)>, String),
    /// A response that promises more bytes than it sends.
    Cut(String),
    /// Nothing: the connection closes after the request.
    Close,
    /// Nothing, until the client gives up, which it may do before its request is whole.
    Silence,
}

fn whole(status: u16, body: Value) -> Answer {
    Answer::Whole(status, Vec::new(), body.to_string())
}

struct Request {
    head: String,
    body: Value,
}

/// Serves the answers in order, one a connection, and keeps the requests.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(answers: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let thread = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                if matches!(answer, Answer::Silence) {
                    drop(stream.read_to_end(&mut Vec::new()));
                    continue;
                }
                kept.lock().unwrap().push(read_request(&mut stream));
                match answer {
                    Answer::Whole(status, headers, body) => {
                        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                        let length = body.len();
                        let head =
                            format!("HTTP/1.1 {status} X\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
                        stream.write_all((head + &body).as_bytes()).unwrap();
                    }
                    Answer::Cut(body) => {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 100);
                        stream.write_all((head + &body).as_bytes()).unwrap();
                    }
                    Answer::Close | Answer::Silence => {}
                }
            }
        });
        Server { url, requests, thread }
    }

    /// The requests, once every answer was fetched.
    fn finish(self) -> Vec<Request> {
        self.thread.join().unwrap();
        Arc::into_inner(self.requests).unwrap().into_inner().unwrap()
    }
}

fn read_request(stream: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
            if bytes.len() >= end + 4 + length {
                return Request { head, body: serde_json::from_slice(&bytes[end + 4..]).unwrap() };
            }
        }
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the client closed within its request");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

fn message(text: &str, stop: &str) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": stop,
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        "usage": {"input_tokens": 100, "output_tokens": 50}})
}

fn completion(message: Value, finish: &str) -> Value {
    json!({"choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
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
    let sleep = Box::new(move |wait: Duration| kept.lock().unwrap().push(wait.as_secs_f64()));
    (open_with(settings, Usage::default(), sleep).unwrap(), waits)
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

#[test]
fn a_message_is_asked_for_and_read() {
    let server = Server::start(vec![whole(200, message("Because.", "end_turn"))]);
    let (teacher, waits) = patient(&settings(Provider::Anthropic, &server.url));
    let reply = trace(teacher.as_ref(), "7").unwrap();
    let usage = Usage { input_tokens: 100, output_tokens: 50 };
    assert_eq!(reply, Reply { text: "Because.".into(), stop: Stop::End, usage });
    assert_eq!((teacher.model(), waits.lock().unwrap().len()), ("m-1", 0));
    let [request] = &server.finish()[..] else { panic!("one request expected") };
    let lines: Vec<&str> = request.head.lines().collect();
    assert_eq!(lines[0], "post /v1/messages http/1.1");
    let key = format!("x-api-key: {}", key().to_ascii_lowercase());
    for header in ["anthropic-version: 2023-06-01", "content-type: application/json", &key] {
        assert!(lines.contains(&header), "{header} in {lines:?}");
    }
    let messages = json!([{"role": "user", "content": "Fix it."}]);
    assert_eq!(request.body, json!({"model": "m-1", "max_tokens": 1000, "temperature": 0.5, "messages": messages}));
}

#[test]
fn a_completion_is_asked_for_and_read() {
    let cases = [
        (json!({"content": "Because."}), "stop", "Because.", Stop::End),
        (json!({"content": "Beca", "reasoning_content": "hm"}), "length", "Beca", Stop::Length),
        (json!({"content": null, "reasoning_content": "hm"}), "stop", "hm", Stop::End),
        (json!({"content": "", "reasoning": "hm"}), "stop", "hm", Stop::End),
        (json!({"content": null, "refusal": "No."}), "stop", "No.", Stop::Refusal),
        (json!({"content": "x"}), "content_filter", "x", Stop::Refusal),
        (json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "stop", "ab", Stop::End),
    ];
    let answers = cases.iter().map(|(message, finish, ..)| whole(200, completion(message.clone(), finish))).collect();
    let server = Server::start(answers);
    let (teacher, _) = patient(&settings(Provider::Openai, &format!("{}/v1/", server.url)));
    for (_, _, text, stop) in &cases {
        let usage = Usage { input_tokens: 11, output_tokens: 7 };
        assert_eq!(trace(teacher.as_ref(), "7").unwrap(), Reply { text: text.to_string(), stop: *stop, usage });
    }
    let requests = server.finish();
    assert!(requests[0].head.starts_with("post /v1/chat/completions http/1.1\r\n"));
    assert!(requests[0].head.contains(&format!("authorization: bearer {}", key().to_ascii_lowercase())));
    let messages = json!([{"role": "user", "content": "Fix it."}]);
    assert_eq!(requests[0].body, json!({"model": "m-1", "max_tokens": 1000, "temperature": 0.5, "messages": messages}));
}

#[test]
fn trouble_is_sat_out() {
    let half = message("Because.", "end_turn").to_string()[..40].to_string();
    let server = Server::start(vec![
        Answer::Whole(429, vec![("retry-after", "7".into())], "{}".into()),
        whole(529, json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})),
        whole(500, json!({})),
        Answer::Close,
        Answer::Cut(half.clone()),
        Answer::Whole(200, Vec::new(), half),
        Answer::Whole(429, vec![("retry-after-ms", "1500".into())], String::new()),
        whole(200, message("Because.", "end_turn")),
    ]);
    let (teacher, waits) = patient(&settings(Provider::Anthropic, &server.url));
    assert_eq!(trace(teacher.as_ref(), "7").unwrap().text, "Because.");
    let requests = server.finish();
    assert_eq!(requests.len(), 8);
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    let waits = waits.lock().unwrap().clone();
    assert_eq!((waits.len(), waits[0], waits[6]), (7, 7.0, 1.5));
    // 0.5 s, doubled with each attempt, less up to a quarter.
    for (attempt, wait) in waits.iter().enumerate().take(6).skip(1) {
        let longest = (0.5 * f64::from(1 << attempt)).min(30.0);
        assert!(*wait <= longest && *wait > 0.75 * longest - 1e-9, "{attempt}: {wait}");
    }
}

#[test]
fn waits_are_the_same_for_the_same_seed() {
    let waits = |seed| {
        let server = Server::start(vec![whole(500, json!({})), whole(500, json!({})), whole(200, message("x", "end_turn"))]);
        let (teacher, waits) = patient(&Settings { seed, ..settings(Provider::Anthropic, &server.url) });
        trace(teacher.as_ref(), "7").unwrap();
        server.finish();
        waits.lock().unwrap().clone()
    };
    assert_eq!(waits(1), waits(1));
    assert_ne!(waits(1), waits(2));
}

#[test]
fn a_silent_server_is_left() {
    let server = Server::start(vec![Answer::Silence; 8]);
    let (teacher, waits) = patient(&Settings { timeout_s: 0.05, ..settings(Provider::Anthropic, &server.url) });
    let error = trace(teacher.as_ref(), "7").unwrap_err().to_string();
    assert!(error.contains("no answer in 8 attempts; the last: timeout"), "{error}");
    assert_eq!(waits.lock().unwrap().len(), 7);
}

#[test]
fn trouble_without_end_is_an_error_that_says_so() {
    let server = Server::start(vec![whole(503, json!({"error": {"message": "down for\nrepairs"}})); 8]);
    let (teacher, waits) = patient(&settings(Provider::Openai, &server.url));
    let error = trace(teacher.as_ref(), "7").unwrap_err();
    let url = server.url.clone();
    let expected = format!("{url}/v1/chat/completions: no answer in 8 attempts; the last: status 503: down for repairs");
    assert_eq!((error.to_string(), error.exit_code()), (expected, 1));
    assert_eq!((server.finish().len(), waits.lock().unwrap().len()), (8, 7));
}

#[test]
fn what_asking_again_cannot_mend_stops_at_once_and_hides_the_key() {
    let body = json!({"type": "error", "error": {"type": "authentication_error", "message": format!("bad key {}", key())}});
    let spent = json!({"error": {"message": "spent", "code": "insufficient_quota"}});
    let cases = [
        (
            Answer::Whole(401, vec![("request-id", "req_9".into())], body.to_string()),
            "status 401: authentication_error: bad key [key] (request req_9)",
        ),
        (
            whole(400, json!({"error": {"type": "invalid_request_error", "message": "no"}})),
            "status 400: invalid_request_error: no",
        ),
        (whole(403, json!({"message": "not yours"})), "status 403: not yours"),
        (whole(404, json!({"error": "no such model"})), "status 404: no such model"),
        (Answer::Whole(302, vec![("location", "http://127.0.0.1:1/".into())], String::new()), "status 302: "),
        (whole(429, spent), "status 429: spent"),
        (
            Answer::Whole(429, vec![("retry-after", "86400".into())], String::new()),
            "status 429: ; it asks to wait 86400 s, more than 600 s",
        ),
        (Answer::Whole(500, vec![("x-should-retry", "false".into())], String::new()), "status 500: "),
        (whole(200, json!({"content": 1})), "a message with a list of content blocks expected"),
    ];
    for (answer, expected) in cases {
        let server = Server::start(vec![answer]);
        let (teacher, waits) = patient(&settings(Provider::Anthropic, &server.url));
        let error = trace(teacher.as_ref(), "7").unwrap_err();
        assert_eq!(error.to_string(), format!("{}/v1/messages: {expected}", server.url));
        assert!(!format!("{error:?}").contains(&key()));
        assert!(waits.lock().unwrap().is_empty());
        server.finish();
    }
}

#[test]
fn a_refusal_and_a_cut_are_told_apart() {
    let stops = [
        ("refusal", Stop::Refusal),
        ("max_tokens", Stop::Length),
        ("model_context_window_exceeded", Stop::Length),
        ("stop_sequence", Stop::End),
    ];
    let server = Server::start(stops.iter().map(|(reason, _)| whole(200, message("x", reason))).collect());
    let (teacher, _) = patient(&settings(Provider::Anthropic, &server.url));
    for (_, stop) in stops {
        assert_eq!(trace(teacher.as_ref(), "7").unwrap().stop, stop);
    }
    server.finish();
}

#[test]
fn the_budget_stops_before_the_call_that_could_exceed_it() {
    // A call costs 50 tokens at 0.001 USD and may cost 1000, 1.00 USD; prompts are free here. After two calls 0.10 is spent.
    let priced = |url: &str| Settings { budget_usd: 1.08, output_usd_per_mtok: 1000.0, ..settings(Provider::Anthropic, url) };
    let server = Server::start(vec![whole(200, message("x", "end_turn")); 2]);
    let (teacher, _) = patient(&priced(&server.url));
    trace(teacher.as_ref(), "7").unwrap();
    trace(teacher.as_ref(), "8").unwrap();
    let error = trace(teacher.as_ref(), "9").unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 0.1000 of 1.0800 USD are spent, and the next call could cost 1.0000");
    assert_eq!(server.finish().len(), 2);

    // An answer that is lost on the way may have been billed, so it counts as dear as it can have been.
    let server = Server::start(vec![Answer::Close]);
    let (teacher, _) = patient(&priced(&server.url));
    let error = trace(teacher.as_ref(), "7").unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 1.0000 of 1.0800 USD are spent, and the next call could cost 1.0000");
    server.finish();
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_asked() {
    let good = settings(Provider::Anthropic, "http://127.0.0.1:9");
    let cases = [
        (
            Settings { key_env: Some("REPAIRITY_NO_SUCH_KEY".into()), ..good.clone() },
            "teacher.key_env: the environment variable \
          REPAIRITY_NO_SUCH_KEY with the key expected; it is not set",
        ),
        (
            Settings { base_url: Some("http://10.0.0.1:8000".into()), ..good.clone() },
            "teacher.base_url: https expected, since a key \
          is sent; set teacher.key_env = \"\" to send none",
        ),
        (
            Settings { base_url: Some("https://me:secret@example.com".into()), ..good.clone() },
            "teacher.base_url: https://HOST or \
          http://HOST expected, without a user or a password",
        ),
        (Settings { budget_usd: -1.0, ..good.clone() }, "teacher.budget_usd: a number of 0 or more expected, -1 found"),
        (
            Settings { budget_usd: 5.0, base_url: None, ..good.clone() },
            "teacher.budget_usd: input_usd_per_mtok and \
          output_usd_per_mtok expected with it: without prices it limits nothing",
        ),
        (Settings { timeout_s: 0.0, ..good.clone() }, "teacher.timeout_s: a positive number expected, 0 found"),
        (
            Settings { provider: Provider::Recorded, ..good.clone() },
            "teacher.path: the file of recorded answers expected, nothing \
          given",
        ),
    ];
    for (settings, expected) in cases {
        let error = open(&settings).err().unwrap();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2));
    }
    assert!(open(&Settings { key_env: Some(String::new()), base_url: Some("http://10.0.0.1:8000".into()), ..good }).is_ok());
}

#[test]
fn a_comparison_shows_the_task_and_both_solutions() {
    let text = compare_text(&problem("7"), &candidate(0, "x = 1\n"), &candidate(1, ""));
    let expected = "I'll show you a programming task and multiple solution attempts. Your job is to evaluate each solution \
                    carefully, then rank them from best to worst.\n\nTask:\n\nAdd two numbers.\n\n```python\ndef add(a, b):\n    \
                    return a - b\n```\n\nSolution A:\n\n```python\nx = 1\n```\n\nSolution B:\n\nI think 1\n\nEvaluate by these \
                    criteria, the most important first:\n1. Correctness: does it fix the bug and do what the task asks?\n2. \
                    Efficiency: time and memory.\n3. Readability: clarity and style.\n4. Minimal change: nothing is altered that \
                    need not be.\n\nEnd with one line: Ranking: A > B, Ranking: B > A or Ranking: A = B.";
    assert_eq!(text, expected);
}

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
    assert_eq!(trace(teacher.as_ref(), "7").unwrap(), Reply { text: "t".into(), stop: Stop::Length, usage });
    let compare = |first, second| {
        let (first, second) = (candidate(first, "a"), candidate(second, "b"));
        teacher.ask(&Query::Compare { problem: &problem("7"), first: &first, second: &second })
    };
    assert_eq!(compare(0, 1).unwrap().text, "Ranking: A > B");
    let at = path.display();
    assert_eq!(compare(1, 0).unwrap_err().to_string(), format!("{at}: no comparison of candidates 1 and 0 for problem 7"));
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
        Ok(Reply { text, stop: Stop::End, usage: Usage { input_tokens: 10, output_tokens: 1 } })
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
    trace(&open_journaled(&priced, &path).unwrap(), "7").unwrap();
    server.finish();
    let again = open_journaled(&priced, &path).unwrap();
    assert_eq!(trace(&again, "7").unwrap().text, "x");
    let error = trace(&again, "8").unwrap_err().to_string();
    assert_eq!(error, "teacher.budget_usd: 0.0500 of 1.0400 USD are spent, and the next call could cost 1.0000");
    assert!(!fs::read_to_string(&path).unwrap().contains(&key()));
}
