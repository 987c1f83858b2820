//! `serve` as a real process, over real HTTP: what it answers is what `generate` writes, whoever shares the batch; errors, stop strings,
//! clients that go away, and the end.

#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::model::Architecture;
use repairity::prompt::prompt_tokens;
use repairity::record::Message;
use repairity::tokenizer::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The folder, and so the name, of the models.
const MODEL: &str = "tiny";

/// A running server of a model of random weights. Dropped, it is killed, and its model deleted.
struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    fn start(more: &[&str], env: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(MODEL);
        checkpoint(&model, Architecture::Qwen2);
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.args(["serve", "--model", arg(&model), "--device", "cpu", "--port", "0"]).args(more);
        command.envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end().strip_prefix("listening on http://127.0.0.1:").and_then(|rest| rest.strip_suffix("/v1"));
        let port = port.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        Server { child, port, folder }
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join(MODEL)
    }

    /// Sends a request, and gives the connection back.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let host = headers.iter().any(|(name, _)| *name == "Host");
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !host {
            text += &format!("Host: 127.0.0.1:{}\r\n", self.port);
        }
        headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).unwrap();
        stream
    }

    /// Status, headers and body.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        let mut bytes = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, head.to_string(), if chunked { joined(body) } else { body.to_string() })
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, text) = self.ask("POST", path, &[("Content-Type", "application/json")], &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    /// The events of a streamed answer.
    fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let (status, head, text) = self.ask("POST", path, &[("Content-Type", "application/json")], &body.to_string());
        assert!(status == 200 && head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}\n{text}");
        text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(String::from).collect()
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.ask("GET", "/metrics", &[], "").2;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("repairity_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A chunked body in one piece.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Looks until something holds; the deadline is only there to end a test that fails.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `repairity generate` writes.
fn generated(model: &Path, prompt: &str, temperature: f64, seed: u64, tokens: usize) -> String {
    let (temperature, seed, tokens) = (temperature.to_string(), seed.to_string(), tokens.to_string());
    let flags = ["--temperature", &temperature, "--seed", &seed, "--max-new-tokens", &tokens, "--device", "cpu"];
    let output = repairity(&[&["generate", "--model", arg(model), "--prompt", prompt][..], &flags].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    out(&output).strip_suffix('\n').unwrap().to_string()
}

fn chat(prompt: &str, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn concurrent_streams_are_what_generate_writes_alone() {
    let server = Server::start(&["--batch", "3"], &[]);
    let asked: Vec<(String, f64, u64, usize)> = (0..7)
        .map(|i| (format!("def f{i}(x): return {}", "x + ".repeat(i)), [0.0, 0.8, 0.8, 1.3][i % 4], 40 + i as u64, 9 + 5 * i))
        .collect();
    let texts: Vec<String> = std::thread::scope(|scope| {
        let one = |(prompt, temperature, seed, tokens): &(String, f64, u64, usize)| {
            let more = json!({"temperature": temperature, "seed": seed, "max_tokens": tokens, "stream": true});
            let events = server.events("/v1/chat/completions", &chat(prompt, more));
            assert_eq!(events.last().unwrap(), "[DONE]");
            let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
            let content = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_string();
            chunks.iter().map(content).collect::<String>()
        };
        let threads: Vec<_> = asked.iter().map(|ask| scope.spawn(move || one(ask))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((prompt, temperature, seed, tokens), text) in asked.iter().zip(&texts) {
        assert_eq!(*text, generated(&server.model(), prompt, *temperature, *seed, *tokens), "{prompt}");
    }
    assert_ne!(texts[1], texts[2]);
    assert_eq!((server.metric("sequences_finished_total"), server.metric("sequences_running")), (7.0, 0.0));
}

#[test]
fn chunks_come_in_order_and_usage_counts_every_token() {
    let server = Server::start(&[], &[]);
    let tokenizer = Tokenizer::load(&server.model()).unwrap();
    let messages = [Message { role: "system".into(), content: "Fix it.".into() }, Message::user("def f(x):")];
    let read = prompt_tokens(&tokenizer, &messages).unwrap().len();
    let body = |stream: bool| {
        json!({"model": "tiny", "stream": stream, "stream_options": {"include_usage": true}, "temperature": 0, "n": 2, "unknown": [1],
            "max_completion_tokens": 12, "messages": [{"role": "system", "content": "Fix it."},
            {"role": "user", "content": [{"type": "text", "text": "def f"}, {"type": "text", "text": "(x):"}]}]})
    };
    let usage = json!({"prompt_tokens": read, "completion_tokens": 24, "total_tokens": read + 24});
    let (status, whole) = server.post("/v1/chat/completions", &body(false));
    assert_eq!((status, &whole["usage"], &whole["object"]), (200, &usage, &json!("chat.completion")));
    let events = server.events("/v1/chat/completions", &body(true));
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let own: Vec<&Value> =
            chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()).filter(|c| c["index"] == index).collect();
        assert_eq!(own[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = own.iter().filter_map(|part| part["delta"]["content"].as_str()).collect();
        assert_eq!(choice["message"], json!({"role": "assistant", "content": text, "refusal": null}));
        let reasons: Vec<&Value> = own.iter().map(|part| &part["finish_reason"]).collect();
        assert!(reasons[..reasons.len() - 1].iter().all(|reason| reason.is_null()));
        assert_eq!((reasons[reasons.len() - 1], &choice["finish_reason"]), (&json!("length"), &json!("length")));
    }
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
    assert!(
        chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null() && chunk["object"] == "chat.completion.chunk")
    );

    // Text and its tokens are the same prompt.
    let ids = tokenizer.encode("def f(x):", true).unwrap();
    let ask = |prompt: Value| server.post("/v1/completions", &json!({"model": "tiny", "prompt": prompt, "temperature": 0})).1;
    let (text, tokens) = (ask(json!("def f(x):")), ask(json!(ids)));
    assert_eq!((&text["choices"], &text["usage"]), (&tokens["choices"], &tokens["usage"]));
    assert_eq!(text["usage"]["completion_tokens"], 16);
    let list = ask(json!(["def f(x):", "class A"]));
    assert_eq!((&list["choices"][0], list["choices"][1]["index"].as_u64()), (&text["choices"][0], Some(1)));
    let (status, models) = server.post("/v1/models", &json!({}));
    assert_eq!((status, models["error"]["type"].as_str()), (405, Some("invalid_request_error")));
    let models: Value = serde_json::from_str(&server.ask("GET", "/v1/models", &[], "").2).unwrap();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("tiny")));
    assert_eq!(server.ask("GET", "/health", &[], "").0, 200);
}

#[test]
fn a_stop_string_ends_the_text_before_it_wherever_its_tokens_end() {
    let server = Server::start(&[], &[]);
    let ask = |more: Value| server.post("/v1/chat/completions", &chat("def f(x):", more)).1["choices"][0].clone();
    let whole = ask(json!({"temperature": 1, "seed": 5, "max_tokens": 40}));
    let text = whole["message"]["content"].as_str().unwrap();
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    for (start, length) in [(0, 1), (2, 3), (5, 6), (11, 9), (20, 2)] {
        let stop = &text[ends[start]..ends[start + length]];
        let found = ask(json!({"temperature": 1, "seed": 5, "max_tokens": 40, "stop": ["never in it", stop]}));
        let before = &text[..text.find(stop).unwrap()];
        assert_eq!(
            (found["message"]["content"].as_str(), found["finish_reason"].as_str()),
            (Some(before), Some("stop")),
            "{stop:?}"
        );
    }
    let held =
        ask(json!({"temperature": 1, "seed": 5, "max_tokens": 40, "stop": format!("{}!no", &text[ends[ends.len() - 3]..])}));
    assert_eq!(held["message"]["content"], whole["message"]["content"], "what was held back is told at the end");
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::start(&["--batch", "1"], &[]);
    // There is one place, and what each of the two asks for is eight times the most likely answer, which repeats itself to the end of
    // the context: the first is far from done, and the second waits, when both go away.
    let body = chat("x", json!({"stream": true, "temperature": 0, "n": 8})).to_string();
    let ask = || server.send("POST", "/v1/chat/completions", &[("Content-Type", "application/json")], &body);
    let (mut first, second) = (ask(), ask());
    first.read_exact(&mut [0; 64]).unwrap();
    until("all wait but one", || (server.metric("sequences_running"), server.metric("sequences_waiting")) == (1.0, 15.0));
    drop((first, second));
    until("all are forgotten", || {
        server.metric("sequences_cancelled_total") == 16.0 && server.metric("sequences_running") == 0.0
    });
    let (status, answer) = server.post("/v1/chat/completions", &chat("x", json!({"max_tokens": 3})));
    assert_eq!((status, answer["usage"]["completion_tokens"].as_u64()), (200, Some(3)));
}

#[test]
fn more_than_may_wait_are_told_to_come_later() {
    // One place and sixteen that wait for it.
    let server = Server::start(&["--batch", "1"], &[]);
    let headers = [("Content-Type", "application/json")];
    let body = chat("x", json!({"stream": true, "temperature": 0, "n": 17})).to_string();
    let mut first = server.send("POST", "/v1/chat/completions", &headers, &body);
    first.read_exact(&mut [0; 64]).unwrap();
    let (status, head, text) = server.ask("POST", "/v1/chat/completions", &headers, &body);
    assert!(status == 429 && head.to_ascii_lowercase().contains("\r\nretry-after: 1"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["code"], "overloaded");
    drop(first);
    until("there is room again", || server.post("/v1/chat/completions", &chat("x", json!({"n": 17, "max_tokens": 1}))).0 == 200);
}

#[test]
fn errors_have_openai_s_form() {
    let server = Server::start(&["--batch", "1", "--max-context", "64"], &[]);
    let refusal = |path: &str, body: Value| {
        let (status, answer) = server.post(path, &body);
        let error = &answer["error"];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()) && error["type"].is_string(), "{answer}");
        (status, error["param"].as_str().unwrap_or("").to_string(), error["code"].as_str().unwrap_or("").to_string())
    };
    let is = |status: u16, param: &str, code: &str| (status, param.to_string(), code.to_string());
    let chats = "/v1/chat/completions";
    assert_eq!(refusal(chats, chat(&"word ".repeat(64), json!({}))), is(400, "messages", "context_length_exceeded"));
    assert_eq!(refusal(chats, chat("x", json!({"max_tokens": 64}))), is(400, "messages", "context_length_exceeded"));
    assert_eq!(refusal(chats, chat("x", json!({"model": "gpt-4"}))), is(404, "model", "model_not_found"));
    for (key, value) in [
        ("temperature", json!(-1)),
        ("top_p", json!(0)),
        ("n", json!(0)),
        ("max_tokens", json!("many")),
        ("stop", json!([""])),
        ("seed", json!(1.5)),
        ("stream", json!("yes")),
        ("messages", json!([])),
        ("messages", json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])),
        ("messages", json!([{"role": "robot", "content": "x"}])),
        ("tools", json!([{"type": "function"}])),
        ("logprobs", json!(true)),
        ("response_format", json!({"type": "json_object"})),
        ("presence_penalty", json!(0.5)),
    ] {
        assert_eq!(refusal(chats, chat("x", json!({key: value}))), is(400, key, ""), "{key}");
    }
    assert_eq!(refusal("/v1/completions", json!({"prompt": "x", "echo": true})), is(400, "echo", ""));
    assert_eq!(refusal("/v1/completions", json!({"prompt": [1, 100_000]})), is(400, "prompt", ""));
    assert_eq!(refusal("/v1/embeddings", json!({})), is(404, "", "unknown_url"));
    // OpenAI's flag for a chat is its number of alternatives for a text; of none of them, the token's own is still asked for.
    assert_eq!(refusal("/v1/completions", json!({"prompt": "x", "logprobs": 0})), is(400, "logprobs", ""));
    // One place and sixteen that wait for it: more never fit, whoever else is there.
    assert_eq!(refusal(chats, chat("x", json!({"n": 18}))), is(400, "n", ""));
    assert_eq!(refusal("/v1/completions", json!({"prompt": vec!["x"; 9], "n": 2})), is(400, "n", ""));
    let message = server.post(chats, &chat("x", json!({"n": 18}))).1["error"]["message"].to_string();
    assert!(message.contains("from 1 to 17 expected, 18 found"), "{message}");
    let json_type = [("Content-Type", "application/json")];
    let raw = |headers: &[(&str, &str)], body: &str| server.ask("POST", chats, headers, body).0;
    assert_eq!((raw(&json_type, "{"), raw(&json_type, "[]"), raw(&[("Content-Type", "text/plain")], "{}")), (400, 400, 415));
    // The limit is told before the body is read: only its announced length is sent.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 4194305\r\n\r\n";
    stream.write_all(format!("POST {chats} HTTP/1.1\r\n{head}").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 413 "), "{line}");
}

#[test]
fn pages_from_elsewhere_and_requests_without_the_key_are_refused() {
    let open = Server::start(&["--allow-origin", "https://ide.example"], &[]);
    let ask = |headers: &[(&str, &str)]| open.ask("GET", "/v1/models", headers, "");
    assert_eq!(ask(&[("Origin", "https://evil.example")]).0, 403);
    assert_eq!(ask(&[("Host", "evil.example")]).0, 403);
    assert_eq!(ask(&[("Origin", "http://localhost:3000")]).0, 200);
    let (status, head, _) = ask(&[("Origin", "https://ide.example")]);
    assert!(status == 200 && head.to_ascii_lowercase().contains("access-control-allow-origin: https://ide.example"), "{head}");
    // The openai package for JavaScript sends headers of its own.
    let (status, head, _) = open.ask("OPTIONS", "/v1/chat/completions", &[("Origin", "https://ide.example")], "");
    let wanted = "access-control-allow-headers: authorization, content-type, *";
    assert!(status == 204 && head.to_ascii_lowercase().contains(wanted), "{head}");

    let keyed = Server::start(&["--api-key-env", "SERVE_TEST_KEY"], &[("SERVE_TEST_KEY", "sk-test-1")]);
    let ask = |path: &str, key: &str| keyed.ask("GET", path, &[("Authorization", key)], "").0;
    assert_eq!(
        (ask("/v1/models", "Bearer sk-test-1"), ask("/v1/models", "Bearer sk-test-2"), ask("/health", "")),
        (200, 401, 200)
    );

    let error = refused(&["serve", "--model", arg(&open.model()), "--api-key-env", "SERVE_TEST_UNSET"]);
    assert!(error.contains("--api-key-env: the variable SERVE_TEST_UNSET is not set"), "{error}");
    let port = open.port.to_string();
    let output = repairity(&["serve", "--model", arg(&open.model()), "--port", &port, "--device", "cpu"]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));
    assert!(err(&output).contains(&format!("127.0.0.1:{port}: in use")), "{}", err(&output));
}

#[test]
fn an_interrupt_lets_what_runs_end_and_takes_nothing_new() {
    let mut server = Server::start(&[], &[]);
    let body = chat("x", json!({"stream": true, "temperature": 1, "seed": 1, "max_tokens": 400})).to_string();
    let mut stream = server.send("POST", "/v1/chat/completions", &[("Content-Type", "application/json")], &body);
    until("it runs, or ran", || server.metric("sequences_running") == 1.0 || server.metric("sequences_finished_total") == 1.0);
    // SAFETY: the process is ours and was not waited for, so its number is not another's.
    assert_eq!(unsafe { libc::kill(server.child.id() as i32, libc::SIGINT) }, 0);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    // It ended by itself within the time it is given, or was told why not.
    assert!(text.contains("data: [DONE]") || text.contains("the server is shutting down"), "{text}");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
    assert!(TcpStream::connect(("127.0.0.1", server.port)).is_err());
}
