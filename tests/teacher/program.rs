//! The program itself, with a key that is easy to find again: it must not be found.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repairity::checkpoint::read_json;
use repairity::record::{Candidate, Conversation, Outcome, Preference, Problem, Split, Trace, Verdict, read_jsonl, write_jsonl};
use serde_json::{Value, json};

use crate::batch::{Shared, provider};
use crate::server::{Answer, Request, Server, message, whole};

const NAME: &str = "REPAIRITY_TEST_KEY";
const SECRET: &str = "sk-canary-Zq8v/Lw+3Yt7Hn5Kc2Rb9Xd4Mf6";
/// By `base64`.
const BASE64: &str = "c2stY2FuYXJ5LVpxOHYvTHcrM1l0N0huNUtjMlJiOVhkNE1mNg";
/// After this a program is taken for hanging: a bound for the test's run, not what it judges.
const HANGS: Duration = Duration::from_secs(300);

/// What a server may say back: the key, its halves, encoded.
fn said_back() -> String {
    let (first, second) = SECRET.split_at(SECRET.len() / 2);
    format!("{SECRET} {first} and {second} or {BASE64} or \"{}\"", SECRET.replace('/', "\\/"))
}

/// A run of a few problems of the micro suite.
struct Place {
    root: tempfile::TempDir,
    recipe: PathBuf,
}

impl Place {
    fn new(more: &[&str]) -> Place {
        let root = tempfile::tempdir().unwrap();
        let recipe = root.path().join("recipe.toml");
        let out = root.path().join("run");
        let mut text = format!("out = {out:?}\nteacher.key_env = \"{NAME}\"\n");
        let common = [
            "device = \"cpu\"",
            "jobs = 2",
            "problems.suite = \"micro\"",
            "problems.count = 10",
            "problems.split = [0.7, 0.3, 0.0]",
            "teacher.provider = \"anthropic\"",
            "teacher.model = \"m-1\"",
            "teacher.concurrency = 1",
        ];
        common.iter().chain(more).for_each(|line| text += &format!("{line}\n"));
        fs::write(&recipe, text).unwrap();
        Place { root, recipe }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("run").join(name)
    }

    fn command(&self, stage: &str, url: &str, sets: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.arg(stage).arg(&self.recipe).args(["--set", &format!("teacher.base_url={url}")]);
        command.args(sets.iter().flat_map(|set| ["--set", set]));
        command.env(NAME, SECRET).stdin(Stdio::null());
        command
    }

    fn run(&self, stage: &str, url: &str, sets: &[&str]) -> Output {
        let output = self.command(stage, url, sets).output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            clean(&String::from_utf8_lossy(stream), stage);
        }
        output
    }

    /// Every file of the run without the key.
    fn clean(&self) {
        let mut folders = vec![self.root.path().to_path_buf()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    clean(&String::from_utf8_lossy(&fs::read(&path).unwrap()), &path.display().to_string());
                    files += 1;
                }
            }
        }
        assert!(files > 3);
    }
}

fn clean(text: &str, at: &str) {
    let (first, second) = SECRET.split_at(SECRET.len() / 2);
    for part in [SECRET, first, second, &BASE64[..24], &BASE64[24..], &SECRET.replace('/', "\\/")[4..]] {
        assert!(!text.contains(part), "{at} holds {part}: {text}");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An answer that is right only where the program that runs it cannot see the key, in its own environment or in another's.
fn suspicious(problem: &Problem) -> String {
    let look = "import os\n\ndef _seen():\n    texts = [repr(dict(os.environ))]\n    for pid in ['self', str(os.getppid()), '1']:\n        \
                try:\n            texts.append(open('/proc/' + pid + '/environ', 'rb').read().decode('latin-1'))\n        except \
                OSError:\n            pass\n    return any('sk-' + 'canary' in text for text in texts)\n\nif _seen():\n    raise \
                SystemExit('the key is here')\n\n";
    format!("The sign is wrong.\n\n```python\n{look}{}\n```", problem.reference.as_deref().unwrap())
}

/// The problem that a prompt is about, of the run's own file, which is there before the first question.
fn asked(file: &Path, prompt: &str) -> Problem {
    let problems: Vec<Problem> = read_jsonl(file).unwrap();
    problems.into_iter().find(|problem| prompt.contains(problem.buggy.as_deref().unwrap().trim_end())).unwrap()
}

fn prompt(request: &Request) -> String {
    request.body["messages"][0]["content"].as_str().unwrap().to_string()
}

#[test]
fn the_key_appears_nowhere_and_what_was_broken_off_is_not_trained_on() {
    let place = Place::new(&["filter.enabled = false", "filter.cap = 1.0", "judge.at_once = 3", "judge.orders = 2"]);
    let echo = |status| {
        let headers = vec![("request-id", said_back().replace('"', "")), ("retry-after", "0".into())];
        Answer::Whole(status, headers, json!({"error": {"type": "authentication_error", "message": said_back()}}).to_string())
    };

    // Errors that say the key back, in JSON and as they are.
    let server = Server::start(vec![echo(401)]);
    let output = place.run("collect", &server.url, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("status 401: authentication_error: [key] [key] and [key] or [key]"), "{}", stderr(&output));
    server.finish();
    let server = Server::start(vec![Answer::Whole(400, Vec::new(), format!("{}{}", "-".repeat(280), said_back()))]);
    assert_eq!(place.run("collect", &server.url, &[]).status.code(), Some(1));
    server.finish();

    // A redirect is not followed.
    let other = Server::telling(|_| whole(200, json!({})));
    let elsewhere = format!("{}/?{SECRET}", other.url);
    let server = Server::start(vec![Answer::Whole(302, vec![("location", elsewhere)], said_back())]);
    assert_eq!(place.run("collect", &server.url, &[]).status.code(), Some(1));
    server.finish();
    assert_eq!(other.requests().len(), 0);

    // Answers: first trouble that says the key back, then texts that do. Three are broken off, whatever they hold.
    let file = place.file("problems.jsonl");
    let stops: Arc<Mutex<HashMap<String, &str>>> = Arc::default();
    let (kept, mut count) = (Arc::clone(&stops), 0);
    let server = Server::telling(move |request| {
        count += 1;
        if count < 3 {
            return echo([500, 429][count - 1]);
        }
        let problem = asked(&file, &prompt(request));
        let stop = ["max_tokens", "refusal", "pause_turn", "end_turn"][(count - 3).min(3)];
        kept.lock().unwrap().insert(problem.id.clone(), stop);
        let mut reply = message(&format!("{}\n\n{}", said_back(), suspicious(&problem)), stop);
        reply["content"][0]["thinking"] = json!(format!("secret thoughts of {}", said_back()));
        whole(200, reply)
    });
    let output = place.run("collect", &server.url, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for line in ["collect: m-1: 10 requests, about ", "; 1 cut by the token limit, 1 refused, 1 ended for another reason"] {
        assert!(stderr(&output).contains(line), "{}", stderr(&output));
    }
    let traces: Vec<Trace> = read_jsonl(&place.file("traces.jsonl")).unwrap();
    let stops = stops.lock().unwrap();
    assert_eq!(traces.len(), 10);
    for trace in &traces {
        let (word, outcome) = match stops[&trace.id] {
            "end_turn" => ("end", Outcome::Pass),
            "max_tokens" => ("length", Outcome::Refused),
            "refusal" => ("refusal", Outcome::Refused),
            _ => ("other", Outcome::Refused),
        };
        assert_eq!((&trace.extra["stop"], trace.verdict.as_ref().unwrap().verdict), (&json!(word), outcome), "{trace:?}");
        assert!(trace.raw.starts_with("[key] [key] and [key]"), "{}", trace.raw);
        assert!(trace.extra["thinking"].as_str().unwrap().starts_with("secret thoughts of [key]"));
    }

    // Without the filter, every fix is trained on that the teacher finished, and nothing that it thought.
    let output = place.run("filter", "http://127.0.0.1:9", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let trained: Vec<Conversation> = ["sft.jsonl", "sft.validation.jsonl"]
        .into_iter()
        .flat_map(|name| read_jsonl::<Conversation>(&place.file(name)).unwrap())
        .collect();
    assert_eq!(trained.len(), 7);
    assert!(trained.iter().all(|conversation| stops[&conversation.id] == "end_turn"));
    assert!(trained.iter().all(|conversation| !conversation.messages[1].content.contains("secret thoughts")));
    place.clean();

    // Rankings: of three answers the last is best, the others are alike, in whichever order they are shown; the judge of one problem
    // declines, and that of another always prefers the first.
    let problems: Vec<Problem> = read_jsonl(&place.file("problems.jsonl")).unwrap();
    let held: Vec<&Problem> = problems.iter().filter(|problem| problem.split == Some(Split::Validation)).collect();
    assert_eq!(held.len(), 3);
    let candidates: Vec<Candidate> = held.iter().flat_map(|problem| (0..3).map(|index| candidate(problem, index))).collect();
    write_jsonl(&place.file("candidates.jsonl"), &candidates).unwrap();
    let bodies: Vec<String> = held.iter().map(|problem| problem.buggy.clone().unwrap()).collect();
    let server = Server::telling(move |request| {
        let text = prompt(request);
        let place = |word: &str| text.find(word).unwrap();
        let forward = place("answer 0") < place("answer 2");
        match bodies.iter().position(|body| text.contains(body.trim_end())).unwrap() {
            0 => whole(
                200,
                message(&format!("{}\nRanking: {}", said_back(), if forward { "C > A = B" } else { "A > B = C" }), "end_turn"),
            ),
            1 => whole(200, message("I would rather not.", "refusal")),
            _ => whole(200, message("Ranking: A > B > C", "end_turn")),
        }
    });
    let output = place.run("judge", &server.url, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said =
        "2 of 9 pairs labelled, agreement of orders 0.50, Kendall's tau 0.00, first place wins 0.75 (p 0.11), 2 unreadable";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let preferences: Vec<Preference> = read_jsonl(&place.file("preferences.jsonl")).unwrap();
    let indices: Vec<&Value> = preferences.iter().map(|preference| &preference.extra["indices"]).collect();
    assert_eq!(indices, [&json!([2, 0]), &json!([2, 1])]);
    assert!(preferences.iter().all(|preference| preference.id == held[0].id && preference.label == 1.0));
    let mut judging = read_json(&place.file("judging.json")).unwrap();
    // Three wins of four at even chances of a third, or four: 4 * 2 / 81 + 1 / 81; none and one and two are likelier.
    let p = judging.as_object_mut().unwrap().remove("first_place_p").unwrap().as_f64().unwrap();
    assert!((p - 9.0 / 81.0).abs() < 1e-12, "{p}");
    let expected = json!({
        "pairs": 9, "labelled": 2, "rankings": 6, "at_once": 3, "orders": 2, "agreement": 0.5, "kendall_tau": 0.0,
        "first_place": 0.75, "unreadable": 2, "refused": 2, "cut": 0
    });
    assert_eq!(judging, expected);
    place.clean();
}

fn candidate(problem: &Problem, index: usize) -> Candidate {
    Candidate {
        id: problem.id.clone(),
        index,
        model: "sft".into(),
        temperature: 0.7,
        text: format!("answer {index}"),
        answer: String::new(),
        verdict: Some(Verdict { verdict: Outcome::Refused, reason: String::new(), compiled: None, seconds: 0.0 }),
        extra: Default::default(),
    }
}

/// Waits until the provider has seen this.
fn until(seen: &Receiver<&'static str>, what: &str) {
    while seen.recv_timeout(HANGS).expect("the program does what is waited for") != what {}
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_batch_outlives_the_program_and_is_paid_for_once() {
    let place = Place::new(&["teacher.batch = true"]);
    let (tell, seen) = channel();
    let shared = Shared::default();
    {
        let mut state = shared.lock().unwrap();
        (state.hanging, state.busy, state.seen) = (1, usize::MAX, Some(tell));
    }
    let file = place.file("problems.jsonl");
    let server = provider(
        &shared,
        move |prompt, _| json!({"type": "succeeded", "message": message(&suspicious(&asked(&file, prompt)), "end_turn")}),
    );

    // Killed while the order is on its way, before its name is known.
    let mut child = start(place.command("collect", &server.url, &[]));
    until(&seen, "created");
    child.kill().unwrap();
    child.wait().unwrap();

    // Killed while it waits.
    let mut child = start(place.command("collect", &server.url, &[]));
    until(&seen, "looked");
    child.kill().unwrap();
    child.wait().unwrap();

    // Asked to stop while it waits.
    let child = start(place.command("collect", &server.url, &[]));
    until(&seen, "looked");
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let said = "collect: teacher: batch msgbatch_0 goes on at the provider; the next run fetches its answers";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    assert!(!place.file("traces.jsonl").exists());

    shared.lock().unwrap().busy = 0;
    let output = place.run("collect", &server.url, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let traces: Vec<Trace> = read_jsonl(&place.file("traces.jsonl")).unwrap();
    assert_eq!(traces.len(), 10);
    assert!(traces.iter().all(|trace| trace.verdict.as_ref().unwrap().verdict == Outcome::Pass));
    assert_eq!(shared.lock().unwrap().batches.len(), 1);
    place.clean();
}

#[test]
fn what_is_too_dear_is_not_begun() {
    let place = Place::new(&["teacher.budget_usd = 0.01"]);
    let output = place.run("collect", "http://127.0.0.1:9", &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("collect: m-1: 10 requests, about ") && text.contains(" out (the paper's averages), 0.1"), "{text}");
    assert!(text.contains("error: teacher.budget_usd: 0.01 USD would not do: 0.00 are spent, 0.1"), "{text}");
    assert!(text.contains("set teacher.start_anyway = true"), "{text}");
    let output = place.run("collect", "http://127.0.0.1:9", &["teacher.budget_usd=50.0", "teacher.budget_tokens=100"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("error: teacher.budget_tokens: 100 tokens would not do"), "{}", stderr(&output));
}

#[test]
fn keys_that_cannot_go_together_are_refused() {
    let place = Place::new(&[]);
    let cases: [(&[&str], &str); 6] = [
        (&["judge.at_once=27"], "judge.at_once: expected 2 to 26, found 27"),
        (&["judge.at_once=3", "judge.orders=7"], "judge.orders: expected 1 to 6, twice judge.at_once, found 7"),
        (&["teacher.batch=true", "teacher.provider=openai"], "teacher.batch: needs teacher.provider = \"anthropic\""),
        (
            &["teacher.thinking_tokens=1000"],
            "teacher.thinking_tokens: expected at least 1024 and less than teacher.max_tokens, 4096, found 1000",
        ),
        (
            &["teacher.thinking_tokens=4096"],
            "teacher.thinking_tokens: expected at least 1024 and less than teacher.max_tokens, 4096, found 4096",
        ),
        (&["teacher.thinking_tokens=2048"], "teacher.temperature: expected 1, because a model thinks at no other; found 0"),
    ];
    for (sets, expected) in cases {
        let output = place.run("collect", "http://127.0.0.1:9", sets);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}
