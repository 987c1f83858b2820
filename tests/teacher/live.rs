//! One request at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use repairity::record::Usage;
use repairity::teacher::{Provider, Query, Reply, Settings, Spent, Stop, open, open_with};
use serde_json::json;

use crate::server::{Answer, Server, completion, message, whole};
use crate::{Waits, candidate, compare, key, patient, problem, settings, trace};

#[test]
fn a_message_is_asked_for_and_read() {
    let server = Server::start(vec![whole(200, message("Because.", "end_turn"))]);
    let (teacher, waits) = patient(&settings(Provider::Anthropic, &server.url));
    let reply = trace(teacher.as_ref(), "7").unwrap();
    let usage = Usage { input_tokens: 100, output_tokens: 50 };
    assert_eq!(reply, Reply { text: "Because.".into(), reasoning: "hm".into(), stop: Stop::End, usage });
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
        (json!({"content": "Because."}), "stop", "Because.", "", Stop::End),
        (json!({"content": "Beca", "reasoning_content": "hm"}), "length", "Beca", "hm", Stop::Length),
        (json!({"content": null, "reasoning_content": "hm"}), "stop", "", "hm", Stop::End),
        (json!({"content": "", "reasoning": "hm"}), "stop", "", "hm", Stop::End),
        (json!({"content": "<think>\nhm\n</think>\n\nSo."}), "stop", "So.", "hm", Stop::End),
        (json!({"content": "<think>hm"}), "length", "", "hm", Stop::Length),
        (json!({"content": "x = '<think>'"}), "stop", "x = '<think>'", "", Stop::End),
        (json!({"content": null, "refusal": "No."}), "stop", "No.", "", Stop::Refusal),
        (json!({"content": "x"}), "content_filter", "x", "", Stop::Refusal),
        (json!({"content": "x"}), "tool_calls", "x", "", Stop::Other),
        (json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "stop", "ab", "", Stop::End),
    ];
    let answers = cases.iter().map(|(message, finish, ..)| whole(200, completion(message.clone(), finish))).collect();
    let server = Server::start(answers);
    let (teacher, _) = patient(&settings(Provider::Openai, &format!("{}/v1/", server.url)));
    for (_, _, text, reasoning, stop) in &cases {
        let usage = Usage { input_tokens: 11, output_tokens: 7 };
        let expected = Reply { text: text.to_string(), reasoning: reasoning.to_string(), stop: *stop, usage };
        assert_eq!(trace(teacher.as_ref(), "7").unwrap(), expected);
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
        ("pause_turn", Stop::Other),
        ("tool_use", Stop::Other),
        ("something_new", Stop::Other),
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
        (
            Settings { base_url: Some("https://example.com/?key=x".into()), ..good.clone() },
            "teacher.base_url: https://HOST or http://HOST expected, without a user or a password",
        ),
        (
            Settings { key_env: Some("sk-ant-1".into()), ..good.clone() },
            "teacher.key_env: the name of an environment variable expected, letters, digits and _; something else found",
        ),
        (
            Settings { thinking_tokens: Some(1000), max_tokens: 4096, ..good.clone() },
            "teacher.thinking_tokens: at least 1024 and less than teacher.max_tokens, 4096, expected, 1000 found",
        ),
        (
            Settings { thinking_tokens: Some(4096), max_tokens: 4096, ..good.clone() },
            "teacher.thinking_tokens: at least 1024 and less than teacher.max_tokens, 4096, expected, 4096 found",
        ),
        (
            Settings { thinking_tokens: Some(1024), max_tokens: 4096, ..good.clone() },
            "teacher.temperature: 1 expected, since the API thinks at no other; 0.5 found",
        ),
        (
            Settings { batch: true, provider: Provider::Openai, ..good.clone() },
            "teacher.batch: teacher.provider = \"anthropic\" expected with it",
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
    let (task, one, two) = (problem("7"), candidate(0, "x = 1\n"), candidate(1, ""));
    let text = compare(&task, &one, &two).text();
    let expected = "I'll show you a programming task and multiple solution attempts. Your job is to evaluate each solution \
                    carefully, then rank them from best to worst.\n\nTask:\n\nAdd two numbers.\n\n```python\ndef add(a, b):\n    \
                    return a - b\n```\n\nSolution A:\n\n```python\nx = 1\n```\n\nSolution B:\n\nI think 1\n\nEvaluate by these \
                    criteria, the most important first:\n1. Correctness: does it fix the bug and do what the task asks?\n2. \
                    Efficiency: time and memory.\n3. Readability: clarity and style.\n4. Minimal change: nothing is altered that \
                    need not be.\n\nEnd with one line: Ranking: A > B, Ranking: B > A or Ranking: A = B.";
    assert_eq!(text, expected);
    let rank = Query::Rank { problem: &task, instruction: "Rank them.", shown: &[&one, &two, &one] }.text();
    assert!(rank.starts_with("Rank them.\n\nTask:\n\nAdd two numbers."), "{rank}");
    for (letter, text) in [("A", "```python\nx = 1\n```"), ("B", "I think 1"), ("C", "```python\nx = 1\n```")] {
        assert!(rank.contains(&format!("\n\nSolution {letter}:\n\n{text}\n\n")), "{rank}");
    }
    let end = "End with one line that names each solution once, the best first, with = between equals, such as Ranking: C > A > B or \
               Ranking: A = B = C.";
    assert!(rank.ends_with(end), "{rank}");
}

#[test]
fn thinking_is_asked_for_and_kept_apart() {
    let server = Server::start(vec![whole(200, message("Because.", "end_turn"))]);
    let thinking = Settings {
        thinking_tokens: Some(1024),
        max_tokens: 2048,
        temperature: 1.0,
        ..settings(Provider::Anthropic, &server.url)
    };
    let reply = trace(patient(&thinking).0.as_ref(), "7").unwrap();
    assert_eq!((reply.text.as_str(), reply.reasoning.as_str()), ("Because.", "hm"));
    let request = &server.finish()[0];
    assert_eq!(request.body["thinking"], json!({"type": "enabled", "budget_tokens": 1024}));
    assert_eq!(request.body["temperature"], json!(1.0));
}

#[test]
fn one_pause_serves_all_threads() {
    // Sixteen questions from eight threads. The server is busy until the pause is over; that is one pause, however many ran into it.
    let over = Arc::new(AtomicBool::new(false));
    let (seen, set) = (Arc::clone(&over), Arc::clone(&over));
    let server = Server::telling(move |_| match seen.load(Ordering::SeqCst) {
        true => whole(200, message("x", "end_turn")),
        false => Answer::Whole(429, vec![("retry-after", "3".into())], "{}".into()),
    });
    let waits = Waits::default();
    let kept = Arc::clone(&waits);
    let sleep = Box::new(move |wait: Duration| {
        kept.lock().unwrap().push(wait.as_secs_f64());
        set.store(true, Ordering::SeqCst);
        true
    });
    let teacher = open_with(&settings(Provider::Anthropic, &server.url), Spent::default(), sleep).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let teacher = &teacher;
            scope.spawn(move || (0..2).for_each(|n| drop(trace(teacher.as_ref(), &format!("{thread} {n}")).unwrap())));
        }
    });
    // A refusal that was under way when the pause ended brings another; each thread was refused once at most.
    let waits = waits.lock().unwrap();
    assert!(!waits.is_empty() && waits.len() <= 8 && waits.iter().all(|wait| *wait == 3.0), "{waits:?}");
    let refused = server.finish().len() - 16;
    assert!(waits.len() <= refused && refused <= 8, "{waits:?} {refused}");
}

#[test]
fn a_used_up_allowance_holds_the_next_request_back() {
    let headers = vec![
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT".to_string()),
        ("anthropic-ratelimit-requests-remaining", "0".to_string()),
        ("anthropic-ratelimit-requests-reset", "1994-11-06T08:49:49Z".to_string()),
    ];
    let body = message("x", "end_turn");
    let server = Server::start(vec![Answer::Whole(200, headers, body.to_string()), whole(200, body)]);
    let (teacher, waits) = patient(&settings(Provider::Anthropic, &server.url));
    trace(teacher.as_ref(), "7").unwrap();
    assert_eq!(waits.lock().unwrap().len(), 0);
    trace(teacher.as_ref(), "8").unwrap();
    assert_eq!(*waits.lock().unwrap(), [12.0]);
    server.finish();
}

#[test]
fn an_answer_that_says_the_key_back_comes_without_it() {
    let encoded = format!("{:?} {}", key(), key());
    let answers = [
        whole(200, message(&format!("the key is {encoded}"), "end_turn")),
        Answer::Whole(
            500,
            vec![("x-should-retry", "false".into()), ("request-id", key())],
            format!("{}{}", "x".repeat(290), key()),
        ),
    ];
    let server = Server::start(answers.to_vec());
    let (teacher, _) = patient(&settings(Provider::Anthropic, &server.url));
    assert_eq!(trace(teacher.as_ref(), "7").unwrap().text, "the key is \"[key]\" [key]");
    let error = trace(teacher.as_ref(), "7").unwrap_err().to_string();
    // The words are cut after 300 characters, but never within a key.
    assert_eq!(error, format!("{}/v1/messages: status 500: {}[key] (request [key])", server.url, "x".repeat(290)));
    server.finish();
}
