//! The recipes of recipes/: each is run from end to end, as it is but for what makes it small, and has to write what it says. Then
//! `recipe new` and `recipe check`, completions and the manual.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::Command;

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::Tensors;
use repairity::error::Result;
use repairity::model::Architecture;
use repairity::recipe::{Provider, Recipe, RewardMemory, Train};
use repairity::record::{Conversation, Preference, Problem, Split, read_jsonl};
use repairity::run::{Manifest, STAGES, State};
use repairity::setup::{Answers, Dialogue, Given, Goal, Here, SUITES, ask, write};
use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn recipe(name: &str) -> String {
    format!("{ROOT}/recipes/{name}.toml")
}

fn asset(name: &str) -> String {
    format!("{ROOT}/assets/{name}")
}

/// Runs a command on a recipe with these keys set, and asserts that it was done.
fn done(command: &str, recipe: &str, sets: &[String]) -> String {
    let mut args = vec![command, recipe];
    sets.iter().for_each(|set| args.extend(["--set", set.as_str()]));
    let output = repairity(&args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
    out(&output)
}

/// The stages that are done in a run folder.
fn stages(run: &Path) -> Vec<String> {
    let manifest = Manifest::read(&run.join("manifest.json")).unwrap();
    manifest.stages.iter().filter(|stage| stage.state == State::Done).map(|stage| stage.name.clone()).collect()
}

fn words(sets: &[&str]) -> Vec<String> {
    sets.iter().map(|set| set.to_string()).collect()
}

/// What makes any recipe small: few steps, few tokens, the bundled models on two threads of the CPU.
fn small(run: &Path) -> Vec<String> {
    let mut sets = words(&[
        "device=cpu",
        "sft.epochs=1",
        "sft.validate=false",
        "candidates.max_new_tokens=8",
        "reward.epochs=1",
        "reward.sequences_per_device=2",
        "reward.validation=0.0",
        "ppo.iterations=1",
        "ppo.prompts_per_iteration=2",
        "ppo.minibatches=1",
        "ppo.epochs=2",
        "ppo.max_new_tokens=4",
        "evaluate.samples=1",
        "evaluate.max_new_tokens=4",
    ]);
    sets.push(format!("out={}", run.display()));
    sets.push(format!("policy.model={}", asset("micro-base")));
    sets.push(format!("reward.model={}", asset("micro-reward")));
    sets
}

/// A teacher's stored answers: the right program for every problem, and the first of two candidates preferred, whatever the order.
fn teacher(path: &Path, solutions: &[(String, String)]) {
    let mut lines = String::new();
    for (id, code) in solutions {
        let text = format!("One line is wrong, and I correct it.\n\n```python\n{code}```\n");
        lines += &format!(
            "{}\n",
            json!({"id": id, "purpose": "trace", "text": text, "usage": {"input_tokens": 1, "output_tokens": 1}})
        );
        for (first, second) in [(0, 1), (0, 2), (1, 2)] {
            for (first, second, ranking) in [(first, second, "Ranking: A > B"), (second, first, "Ranking: B > A")] {
                let line = json!({"id": id, "purpose": "compare", "first": first, "second": second, "text": ranking});
                lines += &format!("{line}\n");
            }
        }
    }
    fs::write(path, lines).unwrap();
}

/// Models with random weights, which answer each time differently, as candidates that are to be compared have to.
fn random_models(folder: &Path) -> [String; 2] {
    [("policy", Architecture::Qwen2), ("reward", Architecture::Llama)].map(|(name, architecture)| {
        checkpoint(&folder.join(name), architecture);
        format!("{name}.model={}", folder.join(name).display())
    })
}

/// A benchmark in MBPP's form, of programs that differ in more than a number, and the teacher's answers to it.
fn mbpp(folder: &Path) -> Vec<String> {
    let programs = [
        ("def double(x):\n    return 2 * x\n", "double(3) == 6"),
        ("def larger(a, b):\n    if a > b:\n        return a\n    return b\n", "larger(2, 5) == 5"),
        ("def total(xs):\n    s = 0\n    for x in xs:\n        s = s + x\n    return s\n", "total([1, 2, 4]) == 7"),
        ("def last(words):\n    return words[len(words) - 1]\n", "last(['a', 'b', 'c']) == 'c'"),
        ("def even(n):\n    return n % 2 == 0\n", "(even(4), even(7)) == (True, False)"),
        ("def count(text, letter):\n    return sum(1 for c in text if c == letter)\n", "count('banana', 'a') == 3"),
        ("def power(b, e):\n    r = 1\n    while e > 0:\n        r, e = r * b, e - 1\n    return r\n", "power(2, 5) == 32"),
        ("def back(text):\n    return text[::-1]\n", "back('abc') == 'cba'"),
        ("def mean(xs):\n    return sum(xs) / len(xs)\n", "mean([1, 2, 6]) == 3.0"),
        ("def inside(x, low, high):\n    return low <= x and x <= high\n", "(inside(2, 2, 3), inside(4, 2, 3)) == (True, False)"),
    ];
    let row = |(i, (code, test)): (usize, &(&str, &str))| {
        let row = json!({"task_id": i, "text": "A function.", "code": code, "test_setup_code": "", "challenge_test_list": [],
                         "test_list": [format!("assert {test}")]});
        format!("{row}\n")
    };
    let data = folder.join("mbpp.jsonl");
    fs::write(&data, programs.iter().enumerate().map(row).collect::<String>()).unwrap();
    let answers = folder.join("answers.jsonl");
    let solutions = programs.iter().enumerate().map(|(i, (code, _))| (i.to_string(), code.to_string()));
    teacher(&answers, &solutions.collect::<Vec<_>>());
    vec![
        format!("problems.path={}", data.display()),
        "teacher.provider=recorded".into(),
        format!("teacher.path={}", answers.display()),
    ]
}

/// Every stage but pretraining.
fn whole() -> Vec<String> {
    STAGES[1..].iter().map(|stage| stage.to_string()).collect()
}

/// What a whole run has to leave, whatever its recipe.
fn left(run: &Path, report: &str) {
    assert_eq!(stages(run), whole());
    let problems: Vec<Problem> = read_jsonl(&run.join("problems.jsonl")).unwrap();
    let held = |part| problems.iter().filter(|problem| problem.split == Some(part)).count();
    assert!(held(Split::Train) > 0 && held(Split::Validation) > 0 && held(Split::Test) > 0);
    let conversations: Vec<Conversation> = read_jsonl(&run.join("sft.jsonl")).unwrap();
    assert!(!conversations.is_empty(), "something is trained on");
    let pairs: Vec<Preference> = read_jsonl(&run.join("preferences.jsonl")).unwrap();
    assert!(!pairs.is_empty() && pairs.iter().all(|pair| pair.chosen != pair.rejected));
    for adapter in ["sft/adapter", "ppo/adapter"] {
        let tensors = Tensors::open_files(&[run.join(adapter).join("adapter_model.safetensors")]).unwrap();
        assert!(tensors.names().iter().any(|name| name.contains("layers.0.self_attn.q_proj.lora_A")), "{adapter}");
    }
    for model in ["base", "sft", "ppo"] {
        let answers: Vec<Value> = read_jsonl(&run.join(format!("evaluation/{model}.jsonl"))).unwrap();
        assert_eq!(answers.len(), held(Split::Test), "{model}");
        assert!(report.contains(model), "{report}");
    }
}

#[test]
fn every_recipe_is_run_by_a_test_here() {
    let mut found: Vec<String> = fs::read_dir(format!("{ROOT}/recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    found.sort();
    let own = fs::read_to_string(format!("{ROOT}/tests/recipes.rs")).unwrap();
    for name in &found {
        assert!(own.contains(&format!("recipe(\"{name}\")")), "no test runs recipes/{name}.toml");
    }
    assert!(found.len() >= 9, "{found:?}");
}

#[test]
fn the_bundled_models_recipes_pretrain() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let common = |name: &str, documents: usize| {
        let mut sets = vec![format!("out={}", at(&format!("run-{name}")).display())];
        sets.push(format!("pretrain.out={}", at(name).display()));
        sets.push(format!("pretrain.documents={documents}"));
        sets.extend(words(&["device=cpu", "pretrain.epochs=1", "pretrain.held_out=[]", "pretrain.vocab=400"]));
        sets
    };
    done("run", &recipe("micro-base-skills"), &common("skills", 24));
    let mut second = common("base", 8);
    second.push(format!("pretrain.start={}", at("skills").display()));
    done("run", &recipe("micro-base"), &second);
    done("run", &recipe("micro-reward"), &common("reward", 24));
    for (name, layers) in [("skills", 4), ("base", 4), ("reward", 3)] {
        let names = Tensors::open_folder(&at(name)).unwrap();
        let last = format!("model.layers.{}.mlp.down_proj.weight", layers - 1);
        let after = format!("model.layers.{layers}.mlp.down_proj.weight");
        assert!(names.shape(&last).is_some() && names.shape(&after).is_none(), "{name}");
    }
}

#[test]
fn the_quickstart_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut sets = small(folder.path());
    sets.push("problems.count=40".into());
    let report = done("run", &recipe("quickstart"), &sets);
    left(folder.path(), &report);
}

/// The recipes of MBPP on two threads that stand for GPUs, so that the paper's way of sharing out memory is taken too.
fn on_mbpp(recipe: &str, gpus: usize) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut sets = small(&run);
    sets.extend(mbpp(folder.path()));
    sets.extend(random_models(folder.path()));
    sets.push(format!("gpus={gpus}"));
    let report = done("run", recipe, &sets);
    left(&run, &report);
}

#[test]
fn one_gpu_with_mbpp_runs() {
    on_mbpp(&recipe("mbpp-7b"), 1);
}

#[test]
fn the_paper_s_first_reading_runs() {
    on_mbpp(&recipe("paper-8xh100"), 2);
}

#[test]
fn the_paper_s_second_reading_runs() {
    on_mbpp(&recipe("paper-section-3.3"), 2);
}

#[test]
fn quixbugs_is_measured_with_an_adapter_and_without() {
    let data = Path::new(ROOT).join("../shared/data/quixbugs/quixbugs_python.jsonl");
    if !data.exists() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = format!("problems.path={}", data.display());
    // An adapter from elsewhere.
    let trained = folder.path().join("trained");
    let mut sets = small(&trained);
    sets.extend(words(&["problems.count=20"]));
    for stage in ["problems", "collect", "filter", "sft"] {
        done(stage, &recipe("quickstart"), &sets);
    }
    for (name, models, sets) in [
        ("laptop", &["base"][..], vec![]),
        ("gpu", &["base", "sft"], vec![format!("evaluate.adapter={}", trained.join("sft/adapter").display())]),
    ] {
        let run = folder.path().join(name);
        let sets: Vec<String> = small(&run).into_iter().chain([path.clone(), "problems.count=3".into()]).chain(sets).collect();
        let recipe = if name == "laptop" { recipe("quixbugs-laptop") } else { recipe("quixbugs") };
        done("evaluate", &recipe, &sets);
        assert!(done("report", &recipe, &sets).contains("base"));
        assert_eq!(stages(&run), ["problems", "evaluate", "report"]);
        for model in models {
            let answers: Vec<Value> = read_jsonl(&run.join(format!("evaluation/{model}.jsonl"))).unwrap();
            assert_eq!(answers.len(), 3, "{name} {model}");
        }
    }
}

#[test]
fn a_folder_of_one_s_own_is_checked_trained_on_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let code = folder.path().join("code");
    fs::create_dir(&code).unwrap();
    let programs = [
        ("add", "a, b", "a - b", "a + b", "add(2, 3), 5"),
        ("area", "w, h", "w + h", "w * h", "area(2, 5), 10"),
        ("first", "xs", "xs[1]", "xs[0]", "first([7, 8]), 7"),
        ("shout", "text", "text.lower()", "text.upper()", "shout('a'), 'A'"),
        ("small", "x", "x > 10", "x < 10", "small(3), True"),
        ("join", "words", "'-'.join(words)", "' '.join(words)", "join(['a', 'b']), 'a b'"),
    ];
    let (mut list, mut solutions) = (String::new(), Vec::new());
    for (name, arguments, wrong, right, expected) in programs {
        let function = |body: &str| format!("def {name}({arguments}):\n    return {body}\n");
        fs::write(code.join(format!("{name}_.py")), function(wrong)).unwrap();
        let test = format!(
            "import unittest\nfrom {name}_ import {name}\n\n\nclass T(unittest.TestCase):\n    def test(self):\n        \
             self.assertEqual({expected})\n"
        );
        fs::write(code.join(format!("test_{name}.py")), test).unwrap();
        list += &format!(
            "[[problem]]\nid = \"{name}\"\nroot = \"code\"\nfile = \"{name}_.py\"\nfunction = \"{name}\"\n\
             tests = [\"test_{name}.py\"]\ncommand = \"python3 -m unittest -q test_{name}\"\n\n"
        );
        solutions.push((name.to_string(), function(right)));
    }
    let problems = folder.path().join("problems.toml");
    fs::write(&problems, list).unwrap();
    let checked = repairity(&["check", "--suite", "folder", "--path", arg(&problems), "--buggy"]);
    assert_eq!(checked.status.code(), Some(0), "{}", err(&checked));
    let answers = folder.path().join("answers.jsonl");
    teacher(&answers, &solutions);
    let run = folder.path().join("run");
    let mut sets = small(&run);
    sets.extend(random_models(folder.path()));
    sets.push(format!("problems.path={}", problems.display()));
    sets.extend(["teacher.provider=recorded".into(), format!("teacher.path={}", answers.display())]);
    let report = done("run", &recipe("own-folder"), &sets);
    left(&run, &report);
    let traces: Vec<Value> = read_jsonl(&run.join("traces.jsonl")).unwrap();
    assert!(traces.iter().all(|trace| trace["verdict"]["verdict"] == "pass"), "{traces:?}");
}

/// Runs `recipe check`: its exit code, and (standing, what, found) of each line.
fn checked(recipe: &str, sets: &[&str]) -> (Option<i32>, Vec<(String, String, String)>) {
    let mut args = vec!["recipe", "check", recipe];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    let output = Command::new(env!("CARGO_BIN_EXE_repairity")).args(&args).env_remove("ANTHROPIC_API_KEY").output().unwrap();
    let line = |line: &str| {
        let (standing, rest) = line.split_once(' ').unwrap();
        let (what, found) = rest.trim_start().split_once("  ").unwrap();
        (standing.to_string(), what.to_string(), found.trim_start().to_string())
    };
    (output.status.code(), out(&output).lines().map(line).collect())
}

fn of<'a>(found: &'a [(String, String, String)], what: &str) -> (&'a str, &'a str) {
    let one = found.iter().find(|one| one.1 == what).unwrap_or_else(|| panic!("no line about {what} in {found:?}"));
    (&one.0, &one.2)
}

#[test]
fn check_says_what_is_here_and_what_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let (run_set, policy, reward) = (
        format!("out={}", run.display()),
        format!("policy.model={}", asset("micro-base")),
        format!("reward.model={}", asset("micro-reward")),
    );
    let sets = ["device=cpu", &run_set, &policy, &reward, "problems.count=40"];
    let (code, found) = checked(&recipe("quickstart"), &sets);
    assert_eq!(code, Some(0), "{found:?}");
    assert!(found.iter().all(|one| one.0 != "missing"));
    assert_eq!(of(&found, "stages").1, whole().join(", "));
    assert_eq!(of(&found, "problems"), ("ok", "40 problems of micro: about 28 training, 6 validation, 6 test"));
    let (standing, text) = of(&found, "policy.model");
    assert!(
        standing == "ok" && text.ends_with("Qwen2, 1.8 million parameters, 4 layers, sequences of up to 2048 tokens"),
        "{text}"
    );
    assert_eq!(of(&found, "out").1, format!("{}: nothing has run there yet", run.display()));
    assert!(!run.exists(), "nothing was written");
    assert_eq!(of(&found, "memory sft").0, "ok");

    // Another machine's recipe: each thing that lacks has a line, and what is computed does not depend on it.
    let (code, found) = checked(&recipe("mbpp-7b"), &[&run_set]);
    assert_eq!(code, Some(1));
    assert!(of(&found, "problems").1.starts_with("data/mbpp.jsonl: "));
    let (standing, text) = of(&found, "policy.model");
    assert!(standing == "missing" && text.contains("7.62 billion parameters"), "{text}");
    let (standing, text) = of(&found, "teacher");
    assert!(standing == "missing" && text.contains("ANTHROPIC_API_KEY"), "{text}");

    // What a done stage would do again, and what would not.
    let mut trained = small(&run);
    trained.push("problems.count=40".into());
    done("problems", &recipe("quickstart"), &trained);
    let trained: Vec<&str> = trained.iter().map(String::as_str).collect();
    let (code, found) = checked(&recipe("quickstart"), &trained);
    assert_eq!((code, of(&found, "out").1.ends_with("while what they read stays: problems")), (Some(0), true), "{found:?}");
    let (_, found) = checked(&recipe("quickstart"), &[trained.as_slice(), &["problems.count=41"]].concat());
    assert_eq!(of(&found, "stage problems"), ("warn", "would run again: its settings have changed"));
}

#[test]
fn check_finds_a_tensor_that_lacks_or_has_another_shape_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(asset("micro-base")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let out_set = format!("out={}", folder.path().join("run").display());
    let (policy, reward) = (format!("policy.model={}", model.display()), format!("reward.model={}", asset("micro-reward")));
    let sets = ["device=cpu", &out_set, &policy, &reward, "problems.count=20"];
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    for (from, to, what) in [
        ("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", "tensor model.layers.4.input_layernorm.weight is missing"),
        ("\"intermediate_size\": 512", "\"intermediate_size\": 500", "shape [500, 192] expected, [512, 192] found"),
    ] {
        assert!(config.contains(from), "{config}");
        fs::write(model.join("config.json"), config.replace(from, to)).unwrap();
        let (code, found) = checked(&recipe("quickstart"), &sets);
        let (standing, text) = of(&found, "policy.model");
        assert!(code == Some(1) && standing == "missing" && text.contains(what), "{text}");
    }
    fs::write(model.join("config.json"), config).unwrap();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    let (code, found) = checked(&recipe("quickstart"), &sets);
    assert!(code == Some(1) && of(&found, "policy.model").1.contains("tokenizer.json"), "{found:?}");
    assert!(refused(&["recipe", "check", &recipe("quickstart"), "--set", "sft.epochs=0"]).contains("sft.epochs"));
}

#[test]
fn new_without_a_terminal_names_what_it_has_to_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    let text = refused(&["recipe", "new", arg(&path)]);
    assert!(text.ends_with("so --suite, --model, --teacher must be given"), "{text}");
    let text =
        refused(&["recipe", "new", arg(&path), "--suite", "mbpp", "--model", &asset("micro-base"), "--teacher", "recorded"]);
    assert!(text.ends_with("so --path, --teacher-file must be given"), "{text}");
    assert!(!path.exists());
    let (base, reward) = (asset("micro-base"), asset("micro-reward"));
    let args =
        ["recipe", "new", arg(&path), "--suite", "micro", "--model", &base, "--reward-model", &reward, "--teacher", "scripted"];
    let output = repairity(&args);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let next = format!("  repairity recipe check {}", path.display());
    assert!(out(&output).lines().any(|line| line == next), "{}", out(&output));
    assert!(refused(&args).ends_with("it is there already; --force replaces it"));
    assert_eq!(repairity(&[&args[..], &["--force"]].concat()).status.code(), Some(0));

    // And it does what it was written for.
    let run = folder.path().join("run");
    let mut sets = small(&run);
    sets.push("problems.count=40".into());
    let mut check = vec!["recipe", "check", arg(&path)];
    sets.iter().for_each(|set| check.extend(["--set", set.as_str()]));
    assert_eq!(repairity(&check).status.code(), Some(0));
    let report = done("run", arg(&path), &sets);
    left(&run, &report);
    let written = Recipe::load(&path, &[]).unwrap();
    assert_eq!((written.sft.learning_rate, written.sft.max_tokens, written.problems.count), (1e-3, 512, 1000));
}

/// A machine with 64 GB of memory and these GPUs.
fn machine(gpus: &[&str]) -> Here {
    let gpus: Vec<(String, usize)> = gpus.iter().map(|name| (name.to_string(), 85_000_000_000)).collect();
    let lacks = if gpus.is_empty() { Some("no NVIDIA driver".into()) } else { None };
    Here { gpus, lacks, memory: 64_000_000_000 }
}

/// Answers `lines`, one by one, and returns what came of it with all that was asked.
fn interview(given: &Given, here: &Here, lines: &str) -> (Result<Answers>, String) {
    let (mut asked, mut lines) = (Vec::new(), lines.lines().map(String::from));
    let mut next = || Ok(lines.next());
    let answers = ask(given, here, Some(&mut Dialogue { next: &mut next, out: &mut asked }));
    (answers, String::from_utf8(asked).unwrap())
}

#[test]
fn questions_have_defaults_refuse_what_is_wrong_and_end_when_the_answers_do() {
    let here = machine(&["NVIDIA H100 80GB HBM3"; 2]);
    let lines = "quixbug\nmbpp\n\nmodels/none\nmodels/Qwen2.5-Coder-7B-Instruct\n\nscripted\n\n\n3\n";
    let (answers, asked) = interview(&Given::default(), &here, lines);
    let answers = answers.unwrap();
    assert_eq!((answers.suite.name, answers.goal, answers.gpus), ("mbpp", Goal::All, 3));
    assert_eq!(answers.path.as_deref(), Some(Path::new("data/mbpp.jsonl")));
    assert_eq!((&answers.model, answers.teacher.provider), (&answers.reward_model, Provider::Anthropic));
    for text in [
        "did you mean `quixbugs`?",
        "models/none: a folder with a config.json expected",
        "Qwen2, 7.62 billion parameters, 28 layers",
        "the scripted teacher knows the solutions of micro alone",
        "How many of this machine's 2 GPUs?",
    ] {
        assert!(asked.contains(text), "{text} is not in\n{asked}");
    }
    assert!(SUITES.iter().all(|suite| asked.contains(suite.what)));
    // What is given is not asked.
    let given = Given { suite: Some("quixbugs".into()), path: Some("q.jsonl".into()), ..Given::default() };
    let (answers, asked) = interview(&given, &machine(&[]), "models/CodeLlama-7b-hf\n\n");
    assert_eq!((answers.unwrap().goal, asked.contains("suite"), asked.contains("teacher")), (Goal::Evaluate, false, false));
    let (answers, _) = interview(&Given::default(), &here, "mbpp\n");
    let error = answers.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(error.to_string(), "standard input: it ended before this was answered: path; nothing was written");
}

#[test]
fn what_is_written_fits_the_model_and_the_machine() {
    let h100 = "NVIDIA H100 80GB HBM3";
    for (model, gpus, machine, check) in [
        // 7 billion on one GPU: a reward model of 7 billion trains there by an adapter only.
        (
            "Qwen2.5-Coder-7B-Instruct",
            1,
            machine(&[h100]),
            (|r: &Recipe| {
                r.reward.train == Train::Lora && r.sft.learning_rate == 1e-5 && r.ppo.reward_memory == RewardMemory::Resident
            }) as fn(&Recipe) -> bool,
        ),
        // 32 billion on eight: what paper-8xh100.toml says of batches and of the reward model's place.
        ("Qwen2.5-Coder-32B-Instruct", 8, machine(&[h100; 8]), |r| {
            r.gpus == 8
                && r.candidates.batch <= 16
                && r.ppo.reward_memory == RewardMemory::Sharded
                && r.reward.train == Train::Full
        }),
        // Half a billion on a CPU, and what is too large for one is written for a GPU.
        ("Qwen2.5-Coder-0.5B-Instruct", 1, machine(&[]), |r| r.sft.learning_rate == 1e-4 && r.sft.max_tokens == 1024),
        ("Qwen2.5-Coder-14B-Instruct", 1, machine(&[]), |r| r.device == repairity::recipe::DeviceChoice::Cuda),
    ] {
        for goal in [Goal::All, Goal::Sft, Goal::Evaluate] {
            let answers = Answers {
                suite: SUITES[0],
                path: Some("data/mbpp.jsonl".into()),
                model: Path::new("models").join(model),
                reward_model: "models/CodeLlama-7b-hf".into(),
                teacher: repairity::setup::TeacherChoice { provider: Provider::Anthropic, file: None },
                gpus,
                goal,
            };
            let path = Path::new("r.toml");
            let text = write(&answers, &machine, path).unwrap();
            let recipe = Recipe::parse(path, &text, &[]).unwrap();
            let sections = [("[ppo]", goal == Goal::All), ("[sft]", goal != Goal::Evaluate), ("[evaluate]", true)];
            assert!(sections.iter().all(|(section, there)| text.contains(section) == *there), "{model}: {text}");
            assert!(goal != Goal::All || check(&recipe), "{model} on {gpus}:\n{text}");
            assert!(!text.contains("does not fit there"), "{model}: {text}");
        }
    }
}

#[test]
fn bash_completes_commands_stages_suites_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completion.bash");
    fs::write(&script, out(&repairity(&["completions", "bash"]))).unwrap();
    let complete = |words: &[&str]| -> Vec<String> {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (last, before) = (quoted.last().unwrap(), &quoted[quoted.len() - 2]);
        let text = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _repairity repairity {last} {before}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            quoted.join(" "),
            words.len() - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &text]).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        let mut found: Vec<String> = out(&output).lines().map(String::from).collect();
        found.sort();
        found
    };
    assert_eq!(complete(&["repairity", "com"]), ["compare", "completions"]);
    assert_eq!(complete(&["repairity", "recipe", "c"]), ["check"]);
    assert_eq!(complete(&["repairity", "run", "--until", "s"]), ["sft"]);
    assert_eq!(complete(&["repairity", "check", "--suite", "qu"]), ["quixbugs", "quixbugs_java"]);
    assert_eq!(complete(&["repairity", "convert", "--to", "trl"]), ["trl", "trl-prompt"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = out(&repairity(&["completions", shell]));
        assert!(script.contains("quixbugs_java") && script.contains("until"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_subcommand() {
    let help = out(&repairity(&["--help"]));
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> =
        listed.lines().take_while(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(repairity(&["man", "--out", arg(folder.path())]).status.code(), Some(0));
    let main = out(&repairity(&["man"]));
    assert_eq!(main, fs::read_to_string(folder.path().join("repairity.1")).unwrap());
    for name in commands.iter().filter(|name| **name != "help") {
        // In a page a hyphen is escaped.
        assert!(main.contains(&format!("repairity\\-{name}(1)")), "{name} is not in the main page");
        let page = fs::read_to_string(folder.path().join(format!("repairity-{name}.1"))).unwrap();
        assert!(page.contains("Examples:"), "{name}: no examples in its page");
    }
    assert!(folder.path().join("repairity-recipe-new.1").exists());
}
