//! `repairity repair`, as it is used: files and their tests in, patches out.

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod program;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::{Named, Storage};
use repairity::device::{Cpu, Sampling};
use repairity::model::{Architecture, Decoder};
use repairity::problem::Checker;
use repairity::problem::own::Own;
use repairity::record::{Outcome, Runner, Verdict};
use repairity::repair::{Models, Part, Sample, Settings, Task, unified, with_answer};
use repairity::sandbox::Mode;
use repairity::telemetry;
use serde_json::Value;

const BUGGY: &str = "def plan(items):\n    return min(items) - min(items)\n";
const TESTS: &str =
    "from calc import plan\n\nassert plan([3, 3, 7, 5]) == 4\nassert plan([4, 1, 7]) == 6\nassert plan([-2, -2]) == 0\n";
const UNITTEST: &str = "import unittest\nimport calc\n\n\nclass Plan(unittest.TestCase):\n    def test_plan(self):\n        \
                        self.assertEqual(calc.plan([4, 1, 7]), 6)\n\n    def test_same(self):\n        \
                        self.assertEqual(calc.plan([2, 2]), 0)\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(code: &str, tests: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("calc.py"), code).unwrap();
        fs::write(folder.path().join("test_calc.py"), tests).unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("calc.py")).unwrap()
    }

    /// `repair calc.py --tests test_calc.py` with a model, from the folder.
    fn repair(&self, model: &Path, more: &[&str]) -> Output {
        let base = ["--quiet", "repair", "calc.py", "--model", arg(model), "--device", "cpu"];
        let tests: &[&str] = if more.contains(&"--test-command") { &[] } else { &["--tests", "test_calc.py"] };
        Command::new(env!("CARGO_BIN_EXE_repairity"))
            .args(base)
            .args(tests)
            .args(more)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    fn own(&self) -> Own {
        Own { file: self.path("calc.py"), tests: Some(self.path("test_calc.py")), ..Own::default() }
    }

    fn open(&self) -> Task {
        Task::open(&checker(), &self.own(), &Part::Whole).unwrap()
    }
}

fn checker() -> Checker {
    Checker::new(Mode::Strict, 2).unwrap()
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/micro-base")
}

/// What a model might have answered.
fn sample(task: &Task, answer: &str) -> Sample {
    let text = with_answer(&task.text, task.lines, answer);
    Sample {
        rank: 1,
        index: 0,
        verdict: Verdict { verdict: Outcome::Pass, reason: String::new(), compiled: None, seconds: 0.0 },
        tests_passed: None,
        reward: None,
        same_as: None,
        unchanged: false,
        tokens: 1,
        ended: true,
        reasoning: String::new(),
        answer: answer.into(),
        diff: unified(&task.file, &task.text, &text),
        text,
    }
}

/// The bundled model alone solved this problem in eight answers of eight where it was tried; that three of them all fail is not to be
/// expected of any machine's arithmetic.
#[test]
fn a_bug_is_fixed_and_written() {
    let buggy = "def grow(values):\n    res = 0\n    for p in range(len(values)):\n        if p % 2 == 0:\n            res = values[p]\n        \
                 else:\n            res -= values[p]\n    return res\n";
    let tests = "assert grow([6, -3, 4]) == 13\nassert grow([8, 4, 0, 2]) == 2\nassert grow([8, 5, -2, -2, 1]) == 4\n";
    let place = Place::new(buggy, tests);
    fs::set_permissions(place.path("calc.py"), fs::Permissions::from_mode(0o750)).unwrap();
    let asked = [
        "--description",
        "grow should return the sum of values with items at odd indices subtracted.",
        "--instruction",
        "Fix the bug in this code.",
        "--samples",
        "3",
        "--temperature",
        "0.4",
        "--max-new-tokens",
        "96",
        "--json",
        "--write",
    ];
    let output = place.repair(&bundled(), &asked);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    let samples = report["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &report["written"], &report["already_passing"]), (3, &true.into(), &false.into()));
    assert_eq!(report["before"]["verdict"], "fail");
    assert_eq!(report["best"], samples[0]["index"]);
    let passing = samples.iter().filter(|sample| sample["verdict"]["verdict"] == "pass").count();
    assert_eq!(report["passing"], passing);
    for (place, sample) in samples.iter().enumerate() {
        assert_eq!(sample["rank"], place + 1);
        // Those that pass stand first.
        assert_eq!(sample["verdict"]["verdict"] == "pass", place < passing);
        let twin = |other: &Value| other["index"] == sample["same_as"] && other["diff"] == sample["diff"];
        assert!(sample["same_as"].is_null() || samples.iter().any(twin), "{sample}");
    }
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "file",
        "language",
        "model",
        "adapter",
        "reward_model",
        "before",
        "already_passing",
        "passing",
        "best",
        "written",
        "samples",
    ];
    assert_eq!(keys, expected);
    let keys: Vec<&String> = samples[0].as_object().unwrap().keys().collect();
    let expected = [
        "rank",
        "index",
        "verdict",
        "tests_passed",
        "reward",
        "same_as",
        "unchanged",
        "tokens",
        "ended",
        "reasoning",
        "answer",
        "diff",
    ];
    assert_eq!(keys, expected);
    // The file holds the fix, keeps its permissions, and passes now.
    let text = format!("{}\n", samples[0]["answer"].as_str().unwrap().trim_end());
    assert_eq!(place.text(), text);
    assert_eq!(samples[0]["diff"].as_str().unwrap(), unified(Path::new("calc.py"), buggy, &text));
    assert_eq!(fs::metadata(place.path("calc.py")).unwrap().permissions().mode() & 0o777, 0o750);
    let again = place.repair(Path::new("no-model"), &["--write"]);
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(out(&again), "calc.py: nothing to fix, its tests pass already\n");
    let again: Value = serde_json::from_str(&out(&place.repair(Path::new("no-model"), &["--json"]))).unwrap();
    let told = (&again["already_passing"], &again["before"]["verdict"], &again["best"], &again["samples"]);
    assert_eq!(told, (&true.into(), &"pass".into(), &Value::Null, &Value::Array(Vec::new())));
}

#[test]
fn a_model_that_knows_nothing_writes_nothing() {
    let place = Place::new(BUGGY, UNITTEST);
    let model = place.path("model");
    checkpoint(&model, Architecture::Qwen2);
    let few = ["--samples", "3", "--max-new-tokens", "8", "--write"];
    let output = place.repair(&model, &few);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("no sample passes; the best of them, sample "), "{text}");
    assert!(text.contains(": refused: the answer ") && text.ends_with("0 of 3 samples pass\ncalc.py is as it was\n"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(place.text(), BUGGY);
    let diff = place.repair(&model, &["--samples", "2", "--max-new-tokens", "4", "--diff"]);
    assert_eq!((diff.status.code(), out(&diff)), (Some(1), String::new()));
}

#[test]
fn tests_that_cannot_be_run_are_refused_before_a_model_is_read() {
    let place = Place::new(BUGGY, TESTS);
    let file = place.path("calc.py");
    let said = |tests: &str| {
        fs::write(place.path("test_calc.py"), tests).unwrap();
        refused(&["--quiet", "repair", arg(&file), "--tests", arg(&place.path("test_calc.py")), "--model", "no-model"])
    };
    for (tests, what) in [
        ("assert plan([1]) ==\n", "the tests cannot be read: SyntaxError"),
        ("x = 1\n", "no test is in it"),
        ("from calc import plan\ndef check():\n    assert plan([1]) == 0\n", "no test is in it"),
        (
            "from calc import plan\ndef main():\n    print(plan([1]))\nif __name__ == '__main__':\n    main()\n",
            "no test is in it",
        ),
        ("import calc\nassert calc.plan([1]) == 0\n", "`from calc import ...` is expected"),
        ("from calc import plan as p\nassert p([1]) == 0\n", "renames them"),
        ("import unittest\nclass A(unittest.TestCase):\n    pass\n", "the tests cannot be run: "),
    ] {
        let line = said(tests);
        assert!(line.contains("test_calc.py: ") && line.contains(what), "{line}");
    }
    let command = |command: &str| refused(&["-q", "repair", arg(&file), "--test-command", command, "--model", "no-model"]);
    let line = command("true");
    assert!(line.contains("the tests cannot be run: the command's report is of no runner"), "{line}");
    assert!(line.contains("; --runner NAME says whose it is, --runner exit_code trusts its exit code alone"), "{line}");
    let line = command("python3 -m unittest -h");
    assert!(line.contains("the tests cannot be run: exit code 0, but no report of the tests; --runner NAME says"), "{line}");
    let tests = arg(&file);
    let line = refused(&["-q", "repair", tests, "--tests", tests, "--model", "no-model"]);
    assert!(line.contains("cannot be its own tests"), "{line}");
    fs::write(place.path("test_calc.py"), TESTS).unwrap();
    let test_file = place.path("test_calc.py");
    let function = ["--tests", arg(&test_file), "--function", "plam", "--model", "no-model"];
    let line = refused(&[&["-q", "repair", tests], &function[..]].concat());
    assert!(line.contains("one definition of `plam` is expected"), "{line}");
    fs::write(&file, [0xff, 0xfe]).unwrap();
    let line = refused(&["-q", "repair", tests, "--tests", arg(&place.path("test_calc.py")), "--model", "no-model"]);
    assert!(line.contains("a text in UTF-8 is expected"), "{line}");
}

#[test]
fn every_kind_of_test_says_why_the_file_fails() {
    let place = Place::new(BUGGY, TESTS);
    let reason = |own: &Own| Task::open(&checker(), own, &Part::Whole).unwrap().before.reason;
    assert_eq!(reason(&place.own()), "test 1 of 3: assert plan([3, 3, 7, 5]) == 4: got 0");
    fs::write(place.path("test_calc.py"), UNITTEST).unwrap();
    let unittest = reason(&place.own());
    assert!(unittest.starts_with("1 of 2 tests failed (exit code 1): FAIL: test_plan"), "{unittest}");
    let own = Own { tests: None, command: Some("python3 -m unittest -q".into()), ..place.own() };
    assert_eq!(reason(&own), unittest);
    // Functions that are called where the file is run.
    let run = |code: &str, main: &str| {
        let body = "    assert plan([4, 1, 7]) == 6\n    print('ok')\n";
        let tests =
            format!("\"\"\"Tests.\"\"\"\nfrom calc import plan\n\n\ndef {main}():\n{body}\n\nif __name__ == '__main__':\n");
        let call = if main == "main" { "    import sys\n    sys.exit(main())\n".into() } else { format!("    {main}()\n") };
        fs::write(place.path("test_calc.py"), tests + &call).unwrap();
        fs::write(place.path("calc.py"), code).unwrap();
        place.open().before
    };
    for main in ["test_plan", "main"] {
        let verdict = run(BUGGY, main);
        assert_eq!(verdict.verdict, Outcome::Fail);
        assert!(verdict.reason.starts_with("test 1 of 1: ") && verdict.reason.contains("AssertionError"), "{verdict:?}");
        let right = run("def plan(items):\n    return max(items) - min(items)\n", main);
        assert_eq!(right.verdict, Outcome::Pass, "{right:?}");
    }
    // A command whose runner does not get to report.
    fs::write(place.path("test_calc.py"), UNITTEST).unwrap();
    fs::write(place.path("calc.py"), "while True:\n    pass\n").unwrap();
    let ended =
        |own: Own| Task::open(&checker(), &Own { tests: None, timeout_s: Some(0.5), ..own }, &Part::Whole).unwrap().before;
    let loops = ended(Own { command: Some("python3 -m unittest -q".into()), ..place.own() });
    assert_eq!(loops.verdict, Outcome::Timeout, "{loops:?}");
    let trusted = ended(Own { command: Some("exit 3".into()), runner: Some(Runner::ExitCode), ..place.own() });
    assert!(trusted.reason.starts_with("exit code 3"), "{trusted:?}");
    // A project: the file imports its neighbour, and its tests lie in a folder of their own.
    fs::create_dir_all(place.path("app/tests")).unwrap();
    fs::write(place.path("app/low.py"), "low = min\n").unwrap();
    fs::write(place.path("app/calc.py"), "from low import low\n\n\ndef plan(items):\n    return low(items) - low(items)\n")
        .unwrap();
    fs::write(place.path("app/tests/test_calc.py"), UNITTEST).unwrap();
    let own = Own {
        file: place.path("app/calc.py"),
        tests: Some(place.path("app/tests/test_calc.py")),
        root: Some(place.path("app")),
        ..Own::default()
    };
    let project = reason(&own);
    assert!(project.starts_with("1 of 2 tests failed (exit code 1): FAIL: test_plan"), "{project}");
}

#[test]
fn a_function_alone_is_shown() {
    let place = Place::new("def helper():\r\n    pass\r\n\r\n\r\ndef plan(items):\r\n    return 0\r\n", TESTS);
    let task = Task::open(&checker(), &place.own(), &Part::Function("plan".into())).unwrap();
    assert_eq!(task.lines, Some([5, 6]));
    let prompt = task.prompt("Fix it.");
    assert_eq!(prompt, "Fix it.\n\n```python\ndef plan(items):\n    return 0\n```");
}

#[test]
fn a_byte_order_mark_is_read_past_and_kept() {
    let place = Place::new(&format!("\u{feff}{BUGGY}"), &format!("\u{feff}{TESTS}"));
    let task = Task::open(&checker(), &place.own(), &Part::Function("plan".into())).unwrap();
    assert_eq!((task.before.reason.as_str(), task.lines), ("test 1 of 3: assert plan([3, 3, 7, 5]) == 4: got 0", Some([1, 2])));
    task.write(&sample(&task, "def plan(items):\n    return max(items) - min(items)")).unwrap();
    assert_eq!(place.text(), "\u{feff}def plan(items):\n    return max(items) - min(items)\n");
    assert!(place.open().passes());
}

#[test]
fn a_write_is_whole_keeps_permissions_and_follows_links() {
    let place = Place::new("def plan(items):\r\n    return 0", "assert plan([1, 2]) == 1\n");
    fs::set_permissions(place.path("calc.py"), fs::Permissions::from_mode(0o604)).unwrap();
    symlink("calc.py", place.path("link.py")).unwrap();
    let own = Own { file: place.path("link.py"), ..place.own() };
    let task = Task::open(&checker(), &own, &Part::Whole).unwrap();
    let fix = sample(&task, "def plan(items):\n    return max(items) - min(items)\n");
    task.write(&fix).unwrap();
    assert_eq!(place.text(), "def plan(items):\r\n    return max(items) - min(items)");
    assert!(fs::symlink_metadata(place.path("link.py")).unwrap().is_symlink());
    assert_eq!(fs::metadata(place.path("calc.py")).unwrap().permissions().mode() & 0o777, 0o604);
    // The file is not what the task read any more.
    let error = task.write(&fix).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().ends_with("the file has changed since it was read; nothing was written"), "{error}");
    // A folder that takes no new files: the old text stays, whole. The system's administrator may write everywhere.
    let place = Place::new(BUGGY, TESTS);
    let task = place.open();
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let failed = fs::write(place.path("probe"), "").is_err().then(|| task.write(&sample(&task, "x = 1")));
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    match failed {
        Some(result) => {
            assert_eq!(result.unwrap_err().exit_code(), 2);
            assert_eq!(place.text(), BUGGY);
        }
        None => println!("skipped: this user may write to every folder"),
    }
}

#[test]
fn samples_are_the_same_again_and_ranked() {
    let place = Place::new(BUGGY, TESTS);
    let task = place.open();
    let model = place.path("model");
    checkpoint(&model, Architecture::Qwen2);
    let models = Models { model, adapter: None, reward_model: None };
    telemetry::set_quiet(true);
    let settings = Settings {
        instruction: "Fix the bug in this code.".into(),
        samples: 3,
        sampling: Sampling { temperature: 0.9, top_k: 0, top_p: 1.0 },
        max_new_tokens: 40,
        batch: 2,
        seed: 5,
    };
    let solve = |settings: &Settings| {
        let mut samples = task.solve(&Cpu::<f32>::new(), &models, settings, &checker()).unwrap();
        samples.iter_mut().for_each(|sample| sample.verdict.seconds = 0.0);
        samples
    };
    let samples = solve(&settings);
    assert_eq!(samples, solve(&Settings { batch: 3, ..settings.clone() }));
    let mut indices: Vec<usize> = samples.iter().map(|sample| sample.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2]);
    // Random weights write no code; of answers alike in that, the first stands first.
    assert!(samples.iter().all(|sample| sample.verdict.verdict == Outcome::Refused && sample.diff.is_empty()));
    assert_eq!(samples[0].index, 0);
}

#[test]
fn a_reward_model_ranks() {
    let place = Place::new(BUGGY, TESTS);
    let (model, reward) = (place.path("model"), place.path("reward"));
    checkpoint(&model, Architecture::Qwen2);
    let line = place.repair(&model, &["--reward-model", arg(&model)]);
    assert_eq!(line.status.code(), Some(2));
    assert!(err(&line).ends_with("tensor score.weight is missing: not a reward model\n"), "{}", err(&line));
    let config = checkpoint(&reward, Architecture::Llama);
    let values = (0..config.hidden).map(|i| i as f32 - 7.5).collect();
    let head = Named { name: "score.weight".into(), shape: vec![1, config.hidden], values };
    let device = Cpu::<f32>::new();
    Decoder::random(&device, config, 3).unwrap().save(&device, &reward, Storage::F32, vec![head]).unwrap();
    let output = place.repair(&model, &["--reward-model", arg(&reward), "--samples", "4", "--max-new-tokens", "8", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    let samples = report["samples"].as_array().unwrap();
    // None of them has code: the reward alone orders them.
    let rewards: Vec<f64> = samples.iter().map(|sample| sample["reward"].as_f64().unwrap()).collect();
    assert_eq!(rewards.len(), 4);
    assert!(rewards.windows(2).all(|pair| pair[0] >= pair[1]) && rewards[0] > rewards[3], "{rewards:?}");
}

#[test]
fn a_program_that_reaches_out_finds_nothing() {
    let place = Place::new(BUGGY, TESTS);
    let (secret, mark) = (place.path("secret"), place.path("mark"));
    fs::write(&secret, "7").unwrap();
    for tests in [TESTS, UNITTEST] {
        let code = format!(
            "def plan(items):\n    return 0\n\ntry:\n    open({:?}, 'w').write('x')\nexcept OSError:\n    pass\ntry:\n    \
             plan = lambda items: int(open({:?}).read())\n    plan(0)\nexcept OSError:\n    plan = lambda items: -1\n",
            arg(&mark),
            arg(&secret)
        );
        fs::write(place.path("calc.py"), code).unwrap();
        fs::write(place.path("test_calc.py"), tests).unwrap();
        let verdict = place.open().before;
        assert!(!mark.exists());
        assert_eq!(verdict.verdict, Outcome::Fail, "{verdict:?}");
        assert!(tests == UNITTEST || verdict.reason.ends_with("got -1"), "{verdict:?}");
    }
}

#[test]
fn a_prompt_s_text_comes_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in [Architecture::Qwen2, Architecture::Llama] {
        let model = folder.path().join(format!("{architecture:?}"));
        checkpoint(&model, architecture);
        let output = folder.path().join("out.jsonl");
        for seed in ["1", "2", "3"] {
            // Random weights at a high temperature write bytes that are no text, and pieces of characters.
            let base = ["generate", "--model", arg(&model), "--max-new-tokens", "60", "--temperature", "3", "--seed", seed];
            let streamed = repairity(&[&base[..], &["--prompt", "Write 日本語 😀."]].concat());
            assert_eq!(streamed.status.code(), Some(0), "{}", err(&streamed));
            assert_eq!(err(&streamed), "");
            let whole = repairity(&[&base[..], &["--prompt", "Write 日本語 😀.", "--output", arg(&output)]].concat());
            assert_eq!(whole.status.code(), Some(0), "{}", err(&whole));
            let line: Value = serde_json::from_str(fs::read_to_string(&output).unwrap().trim_end()).unwrap();
            assert_eq!(out(&streamed), format!("{}\n", line["text"].as_str().unwrap()));
        }
    }
    // The prompt from standard input, and a reader that goes away.
    let model = folder.path().join("Qwen2");
    let base = ["generate", "--model", arg(&model), "--max-new-tokens", "60", "--temperature", "3", "--prompt"];
    fs::write(folder.path().join("prompt"), "Fix it.").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
    command.args(base).arg("-").stdin(fs::File::open(folder.path().join("prompt")).unwrap());
    let typed = command.output().unwrap();
    assert_eq!(out(&typed), out(&repairity(&[&base[..], &["Fix it."]].concat())));
    let mut child = Command::new(env!("CARGO_BIN_EXE_repairity"))
        .args(base)
        .arg("Fix it.")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), err(&ended)), (Some(1), String::new()));
}
