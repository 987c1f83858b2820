//! Runs of the program as real processes: models, data and recipes for them, signals, and what a run folder holds in the end.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use repairity::device::Cpu;
use repairity::model::ScalarHead;
use repairity::model::config::Architecture;
use repairity::record::{Candidate, Preference, write_jsonl};
use serde_json::Value;

#[path = "events.rs"]
pub mod events;

use crate::tiny;

/// Models and data that the runs of a test share.
pub struct Ground(tempfile::TempDir);

impl Ground {
    pub fn new() -> Ground {
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

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new run folder with what the stages read, and its recipe.
    pub fn run(&self, name: &str) -> Run {
        self.run_in(&self.at(name), name)
    }

    /// The same in this folder.
    pub fn run_in(&self, folder: &Path, name: &str) -> Run {
        fs::create_dir_all(folder).unwrap();
        let conversations = |count, say| (0..count).map(|i| tiny::conversation(say, i)).collect::<Vec<_>>();
        write_jsonl(&folder.join("sft.jsonl"), &conversations(32, "fix")).unwrap();
        write_jsonl(&folder.join("sft.validation.jsonl"), &conversations(5, "repair")).unwrap();
        write_jsonl(&folder.join("problems.jsonl"), &(0..7).map(tiny::problem).collect::<Vec<_>>()).unwrap();
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
        self.empty_run(folder, name)
    }

    /// A run folder that the stages fill from the start, and its recipe.
    pub fn empty_run(&self, folder: &Path, name: &str) -> Run {
        let recipe = self.at(&format!("{name}.toml"));
        // Numbers with as many digits as a double has: they must come back from the manifest as they were.
        let text = format!(
            r#"seed = 5
out = {folder:?}
device = "cpu"
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
        Run { folder: folder.into(), recipe, settings: Vec::new() }
    }
}

/// A run folder and its recipe.
#[derive(Debug, Clone)]
pub struct Run {
    pub folder: PathBuf,
    pub recipe: PathBuf,
    /// What is set on the command line, each `key=value`.
    pub settings: Vec<String>,
}

impl Run {
    /// The same with these keys set.
    pub fn with(mut self, settings: &[&str]) -> Run {
        self.settings.extend(settings.iter().map(|setting| setting.to_string()));
        self
    }

    /// The program with a command's words before the recipe's path.
    pub fn command(&self, words: &str, threads: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        let mut words = words.split(' ');
        command.arg(words.next().unwrap()).arg(&self.recipe).args(words);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command.env("RAYON_NUM_THREADS", threads.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self, words: &str, threads: usize) -> Child {
        self.command(words, threads).spawn().unwrap()
    }

    /// Runs to an end of this exit code; returns what it said.
    pub fn ends(&self, words: &str, code: i32) -> String {
        let output = self.start(words, 1).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}: {}", said(&output));
        said(&output)
    }

    /// Runs to the end; returns what it said.
    pub fn finish(&self, words: &str, threads: usize) -> String {
        let output = self.start(words, threads).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {}", said(&output));
        said(&output)
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The metrics of a stage without what the clock wrote.
    pub fn metrics(&self, stage: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["stage"] == stage).map(|line| timeless(line).to_string()).collect()
    }

    /// Whole lines of a stage in metrics.jsonl so far.
    pub fn lines(&self, stage: &str) -> usize {
        let text = fs::read(self.folder.join("metrics.jsonl")).unwrap_or_default();
        let mark = format!("{{\"stage\":\"{stage}\"");
        text.split_inclusive(|byte| *byte == b'\n').filter(|l| l.starts_with(mark.as_bytes()) && l.ends_with(b"\n")).count()
    }

    /// The last step whose checkpoint is there, or is being written.
    pub fn checkpoint(&self, stage: &str) -> usize {
        let step = |name: &str| name.trim_start_matches('.').strip_prefix("checkpoint-")?.parse().ok();
        names(&self.folder.join(stage).join("state")).iter().filter_map(|name| step(name)).max().unwrap_or(0)
    }

    /// The whole checkpoints of a stage, the newest last.
    pub fn checkpoints(&self, stage: &str) -> Vec<PathBuf> {
        let state = self.folder.join(stage).join("state");
        let step = |name: &str| name.strip_prefix("checkpoint-")?.parse::<usize>().ok();
        let mut steps: Vec<usize> = names(&state).iter().filter_map(|name| step(name)).collect();
        steps.sort_unstable();
        steps.into_iter().map(|step| state.join(format!("checkpoint-{step}"))).collect()
    }

    pub fn reached(&self, stage: &str, point: Point) -> bool {
        match point {
            Point::Step(step) => self.lines(stage) >= step,
            Point::Checkpoint(step) => self.checkpoint(stage) >= step,
        }
    }

    /// Starts a stage and waits until it has reached a point. An error if it ended before, with what it said.
    pub fn start_until(&self, stage: &str, point: Point) -> Result<Child, Output> {
        let mut child = self.start(stage, 1);
        while !self.reached(stage, point) {
            if child.try_wait().unwrap().is_some() {
                return Err(child.wait_with_output().unwrap());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(child)
    }

    /// Starts a stage and sends it a signal `delay` after it has reached a point. None if it was through before that.
    pub fn disturb(&self, stage: &str, point: Point, signal: i32, delay: Duration) -> Option<Output> {
        let child = match self.start_until(stage, point) {
            Ok(child) => child,
            Err(output) => {
                assert_eq!(output.status.code(), Some(0), "{}", said(&output));
                return None;
            }
        };
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

    /// Every file of the run folder, by its path there: bytes, with JSON less what the clock wrote and less the folder's own path.
    /// The lock, the remembered hashes and the checkpoints are left out. TensorBoard's event files, whose names count the starts,
    /// are told by their stage, as steps and numbers, less what the clock wrote.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.folder, &self.folder, &mut files);
        files.retain(|name, _| ![".lock", ".hashes.json"].contains(&name.as_str()) && !name.contains("/state/"));
        // The page and one of its charts tell how long stages took.
        files.retain(|name, _| !["report.html", "plots/time.svg"].contains(&name.as_str()));
        let events: Vec<String> = files.keys().filter(|name| name.starts_with("tensorboard/")).cloned().collect();
        for name in events {
            let bytes = files.remove(&name).expect("it is one of them");
            let stage = name.rsplit_once('/').expect("it lies in a folder").0;
            let told = events::parse(&bytes).into_iter().map(|mut event| {
                event.values.retain(|(tag, _)| !CLOCK.contains(&tag.as_str()));
                format!("{} {:?}\n", event.step, event.values)
            });
            let before = files.insert(stage.into(), told.collect::<String>().into_bytes());
            assert!(before.is_none(), "{stage} has two event files");
        }
        let own = self.folder.display().to_string();
        for (name, bytes) in &mut files {
            if let Ok(text) = std::str::from_utf8(bytes) {
                *bytes = text.replace(&own, "RUN").into_bytes();
            }
            if name.ends_with(".jsonl") {
                let lines = bytes.split_inclusive(|byte| *byte == b'\n');
                let line = |line: &[u8]| match serde_json::from_slice(line) {
                    Ok(value) => format!("{}\n", timeless(value)),
                    Err(_) => panic!("{name}: {}", String::from_utf8_lossy(line)),
                };
                *bytes = lines.map(line).collect::<String>().into_bytes();
            } else if name.ends_with(".json") {
                let mut value = timeless(serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{name}: {e}")));
                clockless_hashes(&mut value);
                // Lists of paths are sorted by the folder's own path, too.
                value.sort_all_objects();
                *bytes = value.to_string().into_bytes();
            }
        }
        files
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().display().to_string(), fs::read(&path).unwrap());
        }
    }
}

/// Every file below a folder, by its path there.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    collect(folder, folder, &mut files);
    files
}

/// The names in a folder; none where it is not there.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Asserts that two folders' files are the same, and names those that are not.
pub fn assert_files(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, what: &str) {
    let differs = |name: &&String| found.get(*name) != expected.get(*name);
    let all: std::collections::BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let different: Vec<&String> = all.into_iter().filter(differs).collect();
    let text = |files: &BTreeMap<String, Vec<u8>>, name: &String| match files.get(name) {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "(missing)".into(),
    };
    if let Some(first) = different.first() {
        let (a, b) = (text(found, first), text(expected, first));
        let start = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count().saturating_sub(100);
        let [a, b] = [a, b].map(|text| text.chars().skip(start).take(400).collect::<String>());
        panic!("{what}: not the same: {different:?}; found\n{a}\nexpected\n{b}");
    }
}

/// Takes the hashes of files that hold what the clock wrote out of a manifest. The files themselves are compared without that.
fn clockless_hashes(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(_) if [".jsonl", "/report.html", "/plots"].iter().any(|end| name.ends_with(end)) => {
                *field = Value::Null
            }
            field => clockless_hashes(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(clockless_hashes),
        _ => {}
    }
}

/// What the clock writes into metrics and manifests.
const CLOCK: [&str; 4] = ["seconds", "rollout_seconds", "tokens_per_s", "time"];

/// A value without what the clock wrote, and without the device's name, which tells the number of threads.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            CLOCK.iter().chain(&["device"]).for_each(|field| drop(fields.shift_remove(*field)));
            fields.values_mut().for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

/// How far a stage is.
#[derive(Debug, Clone, Copy)]
pub enum Point {
    /// This many lines are in metrics.jsonl.
    Step(usize),
    /// The checkpoint of this step is being written, or was.
    Checkpoint(usize),
}

pub fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn send(child: &Child, signal: i32) {
    // SAFETY: the process is ours and was not waited for, so its number is not another's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// The step that a process said it goes on from; 0 if it started anew.
pub fn resumed_at(said: &str) -> usize {
    let Some((_, rest)) = said.split_once(": going on from ") else { return 0 };
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}
