//! Stages that are killed, interrupted and started twice, as real processes: what they leave behind is, byte for byte, what an
//! undisturbed run writes.
//!
//! Signals are sent when a process has shown in its run folder how far it is, and a little later, by a seeded delay. Where
//! exactly they hit is left to chance; the result must not depend on it.

#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use Point::{Checkpoint, Step};
use libc::{SIGINT, SIGKILL, SIGTERM};
use repairity::device::Cpu;
use repairity::error::Error;
use repairity::model::ScalarHead;
use repairity::model::config::Architecture;
use repairity::recipe::Recipe;
use repairity::record::{Candidate, Check, Conversation, Message, Preference, Problem, Split, write_jsonl};
use repairity::rng::Rng;
use repairity::stage;
use repairity::telemetry::{interrupt, set_quiet};
use serde_json::Value;

/// A stage, how long it is, and the files that it makes.
struct Stage {
    name: &'static str,
    /// Lines that it writes into metrics.jsonl.
    steps: usize,
    checkpoint_every: usize,
    results: &'static [&'static str],
}

const SFT: Stage = Stage {
    name: "sft",
    steps: 48,
    checkpoint_every: 2,
    results: &["sft/adapter/adapter_model.safetensors", "sft/adapter/adapter_config.json"],
};

const REWARD: Stage = Stage {
    name: "reward",
    steps: 45,
    checkpoint_every: 1,
    results: &["reward/model/model.safetensors", "reward/model/config.json", "reward/model/score_scale.json"],
};

const PPO: Stage = Stage {
    name: "ppo",
    steps: 24,
    checkpoint_every: 2,
    results: &["ppo/adapter/adapter_model.safetensors", "ppo/adapter/adapter_config.json"],
};

/// Models and data that the runs of a test share.
struct Ground(tempfile::TempDir);

fn problems() -> Vec<Problem> {
    let problem = |id: usize| Problem {
        id: id.to_string(),
        suite: "tiny".into(),
        kind: "operator".into(),
        difficulty: "easy".into(),
        prompt: format!("Add {id}."),
        buggy: None,
        reference: None,
        language: "python".into(),
        check: Check { setup: String::new(), prelude: String::new(), tests: Vec::new(), timeout_s: 1.0 },
        split: Some(Split::Train),
        extra: Default::default(),
    };
    (0..7).map(problem).collect()
}

fn conversations(count: usize, say: &str) -> Vec<Conversation> {
    let messages = |i: usize| vec![Message::user(format!("{say} {i}")), Message::assistant(format!("x + {}", i % 5))];
    (0..count).map(|i| Conversation { id: i.to_string(), messages: messages(i), extra: Default::default() }).collect()
}

impl Ground {
    fn new() -> Ground {
        let ground = Ground(tempfile::tempdir().unwrap());
        let device = Cpu::<f32>::new();
        let policy = tiny::policy(&device, &ground.at("policy"), 1);
        tiny::adapter(&device, &policy.config, 0.05, 0.1, 2).save(&device, &ground.at("adapter"), "policy", None).unwrap();
        let reward = tiny::decoder(&device, tiny::config(Architecture::Llama, policy.config.vocab), 3);
        let head = ScalarHead::random(&device, reward.config.hidden, 4).unwrap();
        tiny::reward_model(&device, &ground.at("reward"), reward, &head);
        let preference = |i: usize| Preference {
            id: i.to_string(),
            prompt: format!("fix {i}"),
            chosen: format!("x + {}", i % 3),
            rejected: format!("x - {}", i % 4),
            label: if i.is_multiple_of(5) { 0.5 } else { 1.0 },
            judgments: Vec::new(),
            extra: Default::default(),
        };
        write_jsonl(&ground.at("preferences.jsonl"), &(0..24).map(preference).collect::<Vec<_>>()).unwrap();
        ground
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new run folder with what the stages read, and its recipe.
    fn run(&self, name: &str) -> Run {
        let folder = self.at(name);
        fs::create_dir_all(&folder).unwrap();
        write_jsonl(&folder.join("sft.jsonl"), &conversations(32, "fix")).unwrap();
        write_jsonl(&folder.join("sft.validation.jsonl"), &conversations(5, "repair")).unwrap();
        write_jsonl(&folder.join("problems.jsonl"), &problems()).unwrap();
        let candidate = |i: usize| Candidate {
            id: (i % 7).to_string(),
            index: i / 7,
            model: "sft".into(),
            temperature: 0.7,
            text: format!("x * {i}"),
            answer: String::new(),
            verdict: None,
            extra: Default::default(),
        };
        write_jsonl(&folder.join("candidates.jsonl"), &(0..14).map(candidate).collect::<Vec<_>>()).unwrap();
        let recipe = self.at(&format!("{name}.toml"));
        // Numbers with as many digits as a double has: they must come back from the manifest as they were.
        let text = format!(
            r#"seed = 5
out = {folder:?}
prompt.instruction = "Fix."
policy.model = {policy:?}
lora = {{ rank = 2, alpha = 4.0, dropout = 0.1 }}
[sft]
epochs = 3
learning_rate = 0.0098765432109876543
beta1 = 0.91234567890123457
beta2 = 0.99912345678901234
accumulation = 2
checkpoint_every = 2
[reward]
model = {policy:?}
data = {preferences:?}
epochs = 5
learning_rate = 1e-3
validation = 0.25
sequences_per_device = 2
accumulation = 1
checkpoint_every = 1
[ppo]
adapter = {adapter:?}
reward_model = {reward:?}
iterations = 24
prompts_per_iteration = 4
epochs = 2
minibatches = 2
critic_warmup = 2
max_new_tokens = 6
learning_rate = 1e-3
critic_learning_rate = 1e-3
checkpoint_every = 2
"#,
            policy = self.at("policy"),
            preferences = self.at("preferences.jsonl"),
            adapter = self.at("adapter"),
            reward = self.at("reward"),
        );
        fs::write(&recipe, text).unwrap();
        Run { folder, recipe }
    }
}

/// A run folder and its recipe.
struct Run {
    folder: PathBuf,
    recipe: PathBuf,
}

impl Run {
    fn start(&self, stage: &str, threads: usize) -> Child {
        Command::new(env!("CARGO_BIN_EXE_repairity"))
            .arg(stage)
            .arg(&self.recipe)
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs to the end; returns what it said.
    fn finish(&self, stage: &str, threads: usize) -> String {
        let output = self.start(stage, threads).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        said(&output)
    }

    /// The metrics of a stage without what the clock wrote.
    fn metrics(&self, stage: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl")).unwrap();
        let mut lines = Vec::new();
        for line in text.lines() {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["stage"] == stage {
                let fields = line.as_object_mut().unwrap();
                ["seconds", "rollout_seconds", "tokens_per_s"].iter().for_each(|field| drop(fields.shift_remove(*field)));
                lines.push(line.to_string());
            }
        }
        lines
    }

    /// Whole lines of a stage in metrics.jsonl so far.
    fn lines(&self, stage: &str) -> usize {
        let text = fs::read(self.folder.join("metrics.jsonl")).unwrap_or_default();
        let mark = format!("{{\"stage\":\"{stage}\"");
        text.split_inclusive(|byte| *byte == b'\n').filter(|l| l.starts_with(mark.as_bytes()) && l.ends_with(b"\n")).count()
    }

    /// The last step whose checkpoint is there, or is being written.
    fn checkpoint(&self, stage: &str) -> usize {
        let entries = fs::read_dir(self.folder.join(stage).join("state")).into_iter().flatten().flatten();
        let step = |name: String| name.trim_start_matches('.').strip_prefix("checkpoint-")?.parse().ok();
        entries.filter_map(|entry| step(entry.file_name().into_string().ok()?)).max().unwrap_or(0)
    }

    fn reached(&self, stage: &str, point: Point) -> bool {
        match point {
            Point::Step(step) => self.lines(stage) >= step,
            Point::Checkpoint(step) => self.checkpoint(stage) >= step,
        }
    }

    /// Starts a stage and sends it a signal `delay` after it has reached a point. None if it was through before that.
    fn disturb(&self, stage: &str, point: Point, signal: i32, delay: Duration) -> Option<Output> {
        let mut child = self.start(stage, 1);
        while !self.reached(stage, point) {
            if child.try_wait().unwrap().is_some() {
                let output = child.wait_with_output().unwrap();
                assert_eq!(output.status.code(), Some(0), "{}", said(&output));
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(delay);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let disturbed = match signal {
            libc::SIGKILL => output.status.signal() == Some(signal),
            _ => output.status.code() == Some(130),
        };
        assert!(disturbed || output.status.code() == Some(0), "{:?}: {}", output.status, said(&output));
        disturbed.then_some(output)
    }
}

#[derive(Debug, Clone, Copy)]
enum Point {
    /// This many lines are in metrics.jsonl.
    Step(usize),
    /// The checkpoint of this step is being written, or was.
    Checkpoint(usize),
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the process is ours and was not waited for, so its number is not another's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// The step that a process said it goes on from; 0 if it started anew.
fn resumed_at(said: &str) -> usize {
    let Some((_, rest)) = said.split_once(": going on from ") else { return 0 };
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn assert_same(stage: &Stage, run: &Run, expected: &Run) {
    for result in stage.results {
        let read = |run: &Run| fs::read(run.folder.join(result)).unwrap_or_else(|e| panic!("{result}: {e}"));
        assert!(read(run) == read(expected), "{result} is not the same");
    }
    assert_eq!(run.metrics(stage.name), expected.metrics(stage.name));
    assert_eq!(expected.metrics(stage.name).len(), stage.steps);
}

/// Runs a stage undisturbed with two threads, then, with one, through these signals and on to the end. Then once more: nothing
/// is left to do.
fn survives(stage: &Stage, points: &[(Point, i32)]) {
    let ground = Ground::new();
    let expected = ground.run("undisturbed");
    expected.finish(stage.name, 2);
    // A machine that is slow to run this test lets a process end before its signal comes; then all of it comes again.
    let run = (0..20).find_map(|attempt| {
        let run = ground.run(&format!("disturbed-{attempt}"));
        let mut rng = Rng::new(attempt, stage.name, 0);
        let mut least = 0;
        for (point, signal) in points {
            let delay = Duration::from_micros(rng.below(4000) as u64);
            let output = run.disturb(stage.name, *point, *signal, delay)?;
            let resumed = resumed_at(&said(&output));
            assert!(resumed >= least, "{point:?}: at least step {least} was saved, but it went on from {resumed}");
            // What was certainly saved: the checkpoint before the one that was perhaps being written.
            let (Point::Step(step) | Point::Checkpoint(step)) = *point;
            least = match *signal {
                libc::SIGKILL => (step - 1) / stage.checkpoint_every * stage.checkpoint_every,
                _ => {
                    assert!(said(&output).ends_with("error: interrupted; what was done is saved\n"), "{}", said(&output));
                    // An interrupt loses nothing.
                    run.lines(stage.name)
                }
            };
        }
        let resumed = resumed_at(&run.finish(stage.name, 1));
        assert!(resumed >= least, "at least step {least} was saved, but it went on from {resumed}");
        Some(run)
    });
    let run = run.expect("one attempt in which every signal came in time");
    assert_same(stage, &run, &expected);

    let before = fs::read(run.folder.join("metrics.jsonl")).unwrap();
    assert_eq!(run.finish(stage.name, 1), format!("{}: unchanged, skipped\n", stage.name));
    assert_eq!(fs::read(run.folder.join("metrics.jsonl")).unwrap(), before);
    assert_eq!(run.checkpoint(stage.name), 0, "a checkpoint is left");
}

#[test]
fn sft_survives() {
    let points =
        [(Step(1), SIGKILL), (Checkpoint(6), SIGKILL), (Step(11), SIGINT), (Step(17), SIGKILL), (Checkpoint(26), SIGKILL)];
    survives(&SFT, &points);
}

#[test]
fn reward_survives() {
    let points =
        [(Checkpoint(1), SIGKILL), (Step(5), SIGKILL), (Checkpoint(11), SIGKILL), (Step(18), SIGINT), (Step(27), SIGKILL)];
    survives(&REWARD, &points);
}

#[test]
fn ppo_survives() {
    let points = [(Step(1), SIGKILL), (Step(4), SIGKILL), (Checkpoint(8), SIGKILL), (Step(11), SIGTERM), (Step(14), SIGKILL)];
    survives(&PPO, &points);
}

#[test]
fn a_second_process_in_the_folder_is_refused() {
    let ground = Ground::new();
    let (run, expected) = (ground.run("run"), ground.run("undisturbed"));
    let first = run.start("sft", 1);
    while !run.reached("sft", Step(1)) {
        std::thread::sleep(Duration::from_micros(200));
    }
    // Stopped, so that it certainly still holds the folder.
    send(&first, libc::SIGSTOP);
    for stage in ["sft", "reward"] {
        let second = run.start(stage, 1).wait_with_output().unwrap();
        assert_eq!(second.status.code(), Some(2));
        let what = format!("process {} is running in this folder; wait for it, or set another `out`", first.id());
        assert_eq!(said(&second), format!("error: {}: {what}\n", run.folder.display()));
    }
    send(&first, libc::SIGCONT);
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    expected.finish("sft", 2);
    assert_same(&SFT, &run, &expected);
}

/// Two stages share metrics.jsonl: what one wrote while the other lay interrupted stays.
#[test]
fn resuming_keeps_what_other_stages_measured_meanwhile() {
    let ground = Ground::new();
    let expected = ground.run("undisturbed");
    expected.finish("reward", 2);
    expected.finish("sft", 2);
    let run = (0..20).find_map(|attempt| {
        let run = ground.run(&format!("run-{attempt}"));
        run.disturb("sft", Step(9), SIGINT, Duration::ZERO)?;
        run.finish("reward", 1);
        run.finish("sft", 1);
        Some(run)
    });
    let run = run.expect("one attempt in which the interrupt came in time");
    assert_same(&REWARD, &run, &expected);
    assert_same(&SFT, &run, &expected);
}

/// The reward stage trains, then measures the scale of its scores. Where that fails, the training must not be lost.
#[test]
fn an_error_after_training_does_not_lose_the_training() {
    let ground = Ground::new();
    let (run, expected) = (ground.run("run"), ground.run("undisturbed"));
    let path = run.folder.join("candidates.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "{\"id\":\n").unwrap();
    let output = run.start("reward", 1).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("candidates.jsonl:1: "), "{}", said(&output));
    fs::write(&path, whole).unwrap();
    assert_eq!(resumed_at(&run.finish("reward", 1)), REWARD.steps - 1);
    expected.finish("reward", 2);
    assert_same(&REWARD, &run, &expected);
}

/// An interrupt while the models are still being loaded. In this process, so that it comes before the first step for certain; no
/// other test of this file runs a stage in this process.
#[test]
fn an_interrupt_before_the_first_step() {
    set_quiet(true);
    let ground = Ground::new();
    let (run, expected) = (ground.run("run"), ground.run("undisturbed"));
    let device = Cpu::<f32>::new();
    let recipe = Recipe::load(&run.recipe, &[]).unwrap();
    let flag = interrupt::flag();
    for stage in [&SFT, &REWARD, &PPO] {
        let body = || match stage.name {
            "sft" => stage::sft::run(&device, &recipe).map(drop),
            "reward" => stage::reward::run(&device, &recipe).map(drop),
            _ => stage::ppo::run(&device, &recipe),
        };
        flag.store(true, std::sync::atomic::Ordering::SeqCst);
        let interrupted = body();
        flag.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(interrupted, Err(Error::Interrupted)), "{}: {interrupted:?}", stage.name);
        body().unwrap_or_else(|error| panic!("{}: {error}", stage.name));
        expected.finish(stage.name, 2);
        assert_same(stage, &run, &expected);
    }
}
