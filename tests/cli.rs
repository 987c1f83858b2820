//! The program itself: exit codes, where its words go, what its help lists, and the commands that need a model only.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::{Named, Storage};
use repairity::device::Cpu;
use repairity::model::{Architecture, Decoder};
use repairity::tokenizer::Tokenizer;
use serde_json::{Value, json};

#[test]
fn help_lists_what_there_is() {
    let output = repairity(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = out(&output);
    let listed: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    for name in [
        "run",
        "collect",
        "filter",
        "sft",
        "candidates",
        "judge",
        "reward",
        "ppo",
        "evaluate",
        "report",
        "repair",
        "serve",
        "export",
        "recipe",
        "completions",
        "generate",
        "score",
        "plan",
        "profile",
    ] {
        assert!(listed.contains(&name), "{name} is not in\n{help}");
    }
}

#[test]
fn a_gpu_that_is_asked_for_and_is_not_there_is_one_clear_line() {
    if repairity::device::cuda::gpu::missing().is_none() {
        println!("skipped: there is a GPU");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out_key = format!("out={}", run.display());
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/quickstart.toml");
    for args in [
        &["run", recipe, "--set", "device=cuda", "--set", &out_key][..],
        &["generate", "--model", "assets/micro-base", "--prompt", "x", "--device", "cuda"],
    ] {
        let output = repairity(args);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""), "{args:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
        assert!(error.contains("NVIDIA driver") || error.contains("built without nvcc"), "{error}");
    }
    assert!(!run.exists(), "nothing was done");
}

#[test]
fn doctor_names_what_is_there_and_never_a_key() {
    let secret = "sk-not-to-be-seen";
    let output = Command::new(env!("CARGO_BIN_EXE_repairity"))
        .arg("doctor")
        .env("ANTHROPIC_API_KEY", secret)
        .env_remove("OPENAI_API_KEY")
        .output()
        .unwrap();
    let (report, error) = (out(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(!report.contains(secret) && !error.contains(secret));
    let line = |what: &str| {
        let found = report.lines().find(|line| line.split_whitespace().nth(1) == Some(what));
        found.unwrap_or_else(|| panic!("no line of {what} in\n{report}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("ANTHROPIC_API_KEY"), "yes ANTHROPIC_API_KEY set");
    assert_eq!(line("OPENAI_API_KEY"), "no OPENAI_API_KEY not set");
    assert!(line("python").starts_with("yes python /") && line("python").contains("(3."), "{}", line("python"));
    for what in ["gpu", "driver", "cublaslt", "kernels", "nvcc", "sandbox"] {
        assert!(line(what).len() > what.len() + 4, "{}", line(what));
    }
}

#[test]
fn bad_usage_is_2_and_version_is_0() {
    for args in [&[][..], &["fly"], &["run"], &["run", "r.toml", "--from", "stf"], &["score", "--model", "m"]] {
        let output = repairity(args);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""), "{args:?}");
    }
    let output = repairity(&["--version"]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), format!("repairity {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_bad_recipe_ends_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("r.toml");
    let run = folder.path().join("run");
    let path = recipe.to_str().unwrap();

    assert_eq!(refused(&["run", path]), format!("error: {path}: No such file or directory (os error 2)"));

    fs::write(&recipe, format!("out = {:?}\n[sft]\nlearning_rat = 1e-5\n", run)).unwrap();
    for stage in ["run", "sft", "evaluate"] {
        let text = refused(&[stage, path]);
        let expected = format!("error: {path}:3: sft: unknown key `learning_rat`; did you mean `learning_rate`?");
        assert!(text.starts_with(&expected), "{text}");
    }
    fs::write(&recipe, format!("out = {:?}\n", run)).unwrap();
    let text = refused(&["sft", path, "--set", "sft.epochs=two"]);
    let expected = "error: --set sft.epochs=two: sft.epochs: invalid type: string \"two\", expected a whole number of at least 0";
    assert_eq!(text, expected);
    assert!(!Path::new(&run).exists());
}

/// Runs `score` or another command that reads `lines` and answers each of them, and returns the answers.
fn answers(folder: &Path, command: &[&str], lines: &[Value]) -> Vec<Value> {
    let input = folder.join("input.jsonl");
    fs::write(&input, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let output = repairity(&[command, &["--input", arg(&input)]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(line: &Value, key: &str) -> Vec<f64> {
    line[key].as_array().unwrap_or_else(|| panic!("no {key} in {line}")).iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The same model as a classifier, with `score.weight`; Llama's tokenizer files lie beside it if `tokenizer`.
fn classifier(from: &Path, to: &Path, tokenizer: bool) {
    let device = Cpu::<f32>::new();
    let mut decoder = Decoder::load_body(&device, from).unwrap();
    decoder.config.classifier = true;
    let score = Named { name: "score.weight".into(), shape: vec![1, 16], values: (0..16).map(|i| i as f32 * 0.1).collect() };
    decoder.save(&device, to, Storage::F32, vec![score]).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"].iter().filter(|_| tokenizer) {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn score_gives_a_log_prob_for_each_token_after_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let config = checkpoint(&model, Architecture::Qwen2);
    let score = ["score", "--model", arg(&model)];

    // After one token, the probabilities of all that can follow sum to 1 (f32: each log-prob is good to about 1e-6).
    let every: Vec<Value> = (0..config.vocab).map(|id| json!({"tokens": [5, id], "mine": id})).collect();
    let scored = answers(folder.path(), &score, &every);
    let sum: f64 = scored.iter().map(|line| numbers(line, "logprobs")[0].exp()).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    assert_eq!((&scored[7]["mine"], &scored[7]["tokens"]), (&json!(7), &json!([5, 7])));

    // Greedy decoding takes the token whose log-prob is the highest.
    let generate = ["generate", "--model", arg(&model), "--max-new-tokens", "1"];
    let written = answers(folder.path(), &generate, &[json!({"tokens": [5]})]);
    let best = scored.iter().max_by(|a, b| numbers(a, "logprobs")[0].total_cmp(&numbers(b, "logprobs")[0])).unwrap();
    assert_eq!(written[0]["output_tokens"][0], best["tokens"][1]);

    // Text is its tokens; a prompt and its completion are tokenised apart; who shares the batch does not matter.
    let tokenizer = Tokenizer::load(&model).unwrap();
    let (prompt, completion) = ("def double(x):\n    ", "return 2 * x");
    let apart = [tokenizer.encode(prompt, true).unwrap(), tokenizer.encode_continuation(completion).unwrap()].concat();
    let text = "a text of some length";
    let asked = [
        json!({"text": text}),
        json!({"prompt": prompt, "completion": completion}),
        json!({"tokens": tokenizer.encode(text, true).unwrap()}),
        json!({"tokens": apart}),
        json!({"tokens": [3]}),
    ];
    let scored = answers(folder.path(), &score, &asked);
    assert_eq!(scored.len(), 5);
    for (a, b) in [(0, 2), (1, 3)] {
        assert_eq!(scored[a]["tokens"], asked[b]["tokens"]);
        let (a, b) = (numbers(&scored[a], "logprobs"), numbers(&scored[b], "logprobs"));
        assert!(a.len() > 2 && a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-5 && *x < 0.0), "{a:?} {b:?}");
    }
    assert_eq!(numbers(&scored[1], "logprobs").len() + 1, apart.len());
    assert_eq!(scored[4]["logprobs"], json!([]));

    // To a file the same lines go.
    let (input, file) = (folder.path().join("input.jsonl"), folder.path().join("scored.jsonl"));
    let output = repairity(&[&score[..], &["--input", arg(&input), "--output", arg(&file)]].concat());
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), ""));
    let lines: Vec<Value> = fs::read_to_string(&file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, scored);
}

#[test]
fn score_gives_a_reward_where_the_model_is_a_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let [base, model, bare] = ["base", "model", "bare"].map(|name| folder.path().join(name));
    checkpoint(&base, Architecture::Llama);
    classifier(&base, &model, true);
    classifier(&base, &bare, false);
    let scored = answers(
        folder.path(),
        &["score", "--model", arg(&model)],
        &[json!({"prompt": "Fix it.", "completion": "Fixed."}), json!({"tokens": [1, 70, 80]})],
    );
    assert!(scored.iter().all(|line| line["reward"].is_number() && line.get("logprobs").is_none()), "{scored:?}");
    // The pair is read as the reward stage reads it, with the end token last; its tokens alone give the same reward, also from a
    // folder without a tokenizer.
    let tokens = scored[0]["tokens"].clone();
    assert_eq!(tokens.as_array().unwrap().last(), Some(&json!(2)));
    let again = answers(folder.path(), &["score", "--model", arg(&bare)], &[json!({"tokens": tokens})]);
    assert!((again[0]["reward"].as_f64().unwrap() - scored[0]["reward"].as_f64().unwrap()).abs() < 1e-5);

    let input = folder.path().join("text.jsonl");
    fs::write(&input, "{\"text\":\"a\"}\n").unwrap();
    let text = refused(&["score", "--model", arg(&bare), "--input", arg(&input)]);
    assert_eq!(text, format!("error: {}: no readable tokenizer.json, which scoring text needs", bare.display()));
}

/// `generate` once handed an unknown id to the embedding, which failed with code 1 and no word about the record.
#[test]
fn a_token_that_the_model_does_not_know_is_named_with_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let vocab = checkpoint(&model, Architecture::Qwen2).vocab;
    let input = folder.path().join("input.jsonl");
    fs::write(&input, format!("{}\n{}\n", json!({"tokens": [1, 2]}), json!({"tokens": [1, vocab]}))).unwrap();
    for command in ["score", "generate"] {
        let text = refused(&[command, "--model", arg(&model), "--input", arg(&input)]);
        let what = format!("record 2: token {vocab} where the model knows {vocab}");
        assert_eq!(text, format!("error: {}: {what}", input.display()));
    }
    for (line, what) in [
        (json!({"tokens": [1, -2]}), "record 1: tokens: "),
        (json!({"words": "x"}), "record 1: `"),
        (json!({"tokens": "1 2"}), "record 1: tokens: "),
    ] {
        fs::write(&input, line.to_string()).unwrap();
        for command in ["score", "generate"] {
            let text = refused(&[command, "--model", arg(&model), "--input", arg(&input)]);
            assert!(text.starts_with(&format!("error: {}: {what}", input.display())), "{text}");
        }
    }
}

#[test]
fn generate_is_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    checkpoint(&model, Architecture::Qwen2);
    let base = ["generate", "--model", arg(&model), "--max-new-tokens", "12"];
    let greedy = |more: &[&str]| {
        let output = repairity(&[&base[..], &["--prompt", "Fix the bug."], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output)
    };
    assert_eq!(greedy(&[]), greedy(&["--seed", "3"]));
    let sampled = ["--temperature", "1", "--seed", "3"];
    assert_eq!(greedy(&sampled), greedy(&sampled));
    assert_ne!(greedy(&sampled), greedy(&["--temperature", "1", "--seed", "4"]));

    // What a line carries stays; a prompt is the user's turn; who shares the batch does not matter.
    let lines = [
        json!({"prompt": "Fix the bug.", "id": "a"}),
        json!({"messages": [{"role": "user", "content": "Fix the bug."}]}),
        json!({"tokens": [9, 8, 7], "id": "c"}),
    ];
    let together = answers(folder.path(), &base, &lines);
    let alone = answers(folder.path(), &[&base[..], &["--batch", "1"]].concat(), &lines);
    assert_eq!(together, alone);
    assert_eq!((&together[0]["id"], &together[2]["id"]), (&json!("a"), &json!("c")));
    assert_eq!(together[0]["output_tokens"], together[1]["output_tokens"]);
    assert_eq!(format!("{}\n", together[0]["text"].as_str().unwrap()), greedy(&[]));
    for line in &together {
        let count = line["output_tokens"].as_array().unwrap().len();
        assert!(line["ended"] == true && count <= 12 || line["ended"] == false && count == 12, "{line}");
    }

    for (flag, value) in [("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "0"), ("--top-p", "1.5")] {
        let value = format!("{flag}={value}");
        let text = refused(&["generate", "--model", arg(&model), "--prompt", "x", &value]);
        assert!(text.starts_with(&format!("error: {flag}: a number ")), "{text}");
    }
}

#[test]
fn bench_prints_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let model: PathBuf = folder.path().join("model");
    checkpoint(&model, Architecture::Llama);
    for what in ["sft", "decode"] {
        let args = ["bench", what, "--model", arg(&model), "--batch", "2", "--seq", "8", "--steps", "3", "--json"];
        let output = repairity(&args);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(out(&output).lines().count(), 1);
        let measured: Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!((&measured["what"], &measured["batch"], &measured["seq"]), (&json!(what), &json!(2), &json!(8)));
        let name = measured["device"].as_str().unwrap();
        assert!(!name.is_empty(), "{measured}");
        // Tokens of a step: batch · seq in training, batch in decoding.
        let tokens = 3.0 * if what == "sft" { 16.0 } else { 2.0 };
        let seconds = measured["seconds"].as_f64().unwrap();
        let rate = measured["tokens_per_s"].as_f64().unwrap();
        assert!((rate * seconds - tokens).abs() < 1e-6 * tokens, "{measured}");
        // Of decoding the first token, which comes with the prompts, is no sample.
        let samples = measured["samples"].as_array().unwrap();
        assert_eq!(samples.len(), if what == "sft" { 3 } else { 2 }, "{measured}");
        let mut sorted: Vec<f64> = samples.iter().map(|x| x.as_f64().unwrap()).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = if what == "sft" { sorted[1] } else { 0.5 * (sorted[0] + sorted[1]) };
        assert!((measured["median"].as_f64().unwrap() - middle).abs() < 1e-12, "{measured}");
        assert!(measured["tflops"].as_f64().unwrap() > 0.0 && measured["gbytes_per_s"].as_f64().unwrap() > 0.0, "{measured}");
        // The weights alone are that much.
        let parameters = measured["parameters"].as_u64().unwrap();
        assert!(measured["peak_bytes"].as_u64().unwrap() >= 4 * parameters, "{measured}");
        let text = refused(&["bench", what]);
        assert_eq!(text, "error: --model: a model's folder expected");
    }
    let text = refused(&["bench", "sft", "--model", arg(&model), "--seq", "0"]);
    assert_eq!(text, "error: --seq: a number of at least 1 expected");
}

/// Whether two runs differ beyond noise is up to the machine; that only like is compared with like is not.
#[test]
fn bench_compares_with_an_earlier_result() {
    let folder = tempfile::tempdir().unwrap();
    let (model, before) = (folder.path().join("model"), folder.path().join("before.json"));
    checkpoint(&model, Architecture::Llama);
    let args = ["bench", "ppo", "--model", arg(&model), "--batch", "2", "--seq", "6", "--max-new-tokens", "4", "--steps", "2"];
    let output = repairity(&[&args[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    std::fs::write(&before, out(&output)).unwrap();
    let measured: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&measured["what"], &measured["ppo"]["new_tokens"]), (&json!("ppo"), &json!(4)));
    let phases = measured["ppo"]["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rollout", "scoring", "measuring", "epochs"]);
    for iteration in 0..2 {
        let parts: f64 = phases.iter().map(|phase| phase["samples"][iteration].as_f64().unwrap()).sum();
        assert!(parts <= measured["samples"][iteration].as_f64().unwrap(), "{measured}");
    }

    let against = [&args[..], &["--against", arg(&before)]].concat();
    let output = repairity(&[&against[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let compared: Value = serde_json::from_str(&out(&output)).unwrap();
    let lines = compared["against"]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 5, "{compared}");
    // Two samples a side cannot show anything.
    assert!(lines.iter().all(|line| line["verdict"] == "too_few_samples" && line["ratio"].as_f64().unwrap() > 0.0), "{compared}");
    let output = repairity(&against);
    assert!(out(&output).lines().any(|line| line.starts_with("rollout ") && line.ends_with("too few samples to tell")));

    let other = ["bench", "ppo", "--model", arg(&model), "--batch", "3", "--seq", "6", "--against", arg(&before)];
    assert!(refused(&other).ends_with("batch: 2 there and 3 here; only like can be compared with like"));
    let other = ["bench", "sft", "--model", arg(&model), "--against", arg(&before)];
    assert!(refused(&other).ends_with("a line with a result of bench sft expected"));
    let none = folder.path().join("none.json");
    assert!(refused(&["bench", "sft", "--model", arg(&model), "--against", arg(&none)]).contains("none.json"));
}

#[test]
fn bench_kernels_times_every_operator_at_a_model_s_extents() {
    let folder = tempfile::tempdir().unwrap();
    let model: PathBuf = folder.path().join("model");
    checkpoint(&model, Architecture::Qwen2);
    let args = ["bench", "kernels", "--model", arg(&model), "--batch", "2", "--seq", "4", "--steps", "1"];
    let output = repairity(&[&args[..], &["--only", "swiglu_fwd", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let measured: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&measured["what"], &measured["batch"], &measured["seq"]), (&json!("kernels"), &json!(2), &json!(4)));
    let operators = measured["operators"].as_array().unwrap();
    let [swiglu] = &operators[..] else { panic!("{measured}") };
    assert_eq!((&swiglu["operator"], &swiglu["kernels"]), (&json!("swiglu_fwd"), &json!(["swiglu_fwd"])));
    let rate = measured["tokens_per_s"].as_f64().unwrap();
    assert!((rate * swiglu["seconds"].as_f64().unwrap() - 8.0).abs() < 1e-6, "{measured}");
    let output = repairity(&args);
    let text = out(&output);
    assert!(text.lines().nth(1).unwrap().starts_with("operator "), "{text}");
    assert!(text.lines().count() > 35 && text.lines().all(|line| line == line.trim_end()), "{text}");
    let text = refused(&[&args[..], &["--only", "swiglu"]].concat());
    assert!(text.starts_with("error: --only: one of cast, ") && text.ends_with("expected, swiglu found"), "{text}");
}
