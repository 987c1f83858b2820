//! Training that is killed with SIGKILL at random moments, as real processes, and gone on with until it is done. What it leaves is,
//! byte for byte, what an undisturbed run leaves: the result, the moments of the last checkpoint, metrics, records, manifest.
//!
//! `REPAIRITY_KILLS` says how many kills there are at least. Moments are drawn from a seeded generator; where exactly a kill hits is
//! left to chance and read from what it left behind. The verdict does not depend on it.

#[path = "support/process.rs"]
mod process;
#[path = "support/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use process::{Ground, Run, assert_files, files, names, said, send};
use repairity::comm::{self, Hub, Shared, Threads};
use repairity::device::Cpu;
use repairity::recipe::Recipe;
use repairity::rng::Rng;
use repairity::stage;
use repairity::telemetry::set_quiet;
use serde_json::Value;

/// What is run, and with which settings.
struct Case {
    name: &'static str,
    /// The stage, or `run` for all of them.
    command: &'static str,
    settings: &'static [&'static str],
}

const CASES: [Case; 9] = [
    Case { name: "sft", command: "sft", settings: &[] },
    Case { name: "ppo", command: "ppo", settings: &["ppo.max_new_tokens=24", "ppo.checkpoint_every=5"] },
    Case { name: "reward", command: "reward", settings: &[] },
    Case { name: "sft on 2 ranks", command: "sft", settings: &["gpus=2", "sft.checkpoint_every=5"] },
    Case {
        name: "ppo on 2 ranks",
        command: "ppo",
        settings: &["gpus=2", "ppo.epochs=4", "ppo.iterations=16", "ppo.checkpoint_every=5"],
    },
    Case { name: "a whole run", command: "run", settings: &WHOLE },
    Case { name: "sft of a whole model on 2 ranks", command: "sft", settings: &["gpus=2", "sft.train=full"] },
    Case { name: "reward on 2 ranks", command: "reward", settings: &["gpus=2", "reward.accumulation=2", "reward.epochs=8"] },
    Case { name: "reward with LoRA", command: "reward", settings: &["reward.train=lora"] },
];

/// Every stage, on twelve problems.
const WHOLE: [&str; 15] = [
    "problems.suite=micro",
    "problems.count=12",
    "problems.split=[0.5, 0.25, 0.25]",
    "teacher.provider=scripted",
    "teacher.concurrency=1",
    "filter.cap=1.0",
    "jobs=1",
    "judge.ties=half",
    "candidates.max_new_tokens=6",
    "sft.epochs=2",
    "reward.epochs=2",
    "ppo.iterations=6",
    "ppo.max_new_tokens=8",
    "evaluate.max_new_tokens=6",
    "evaluate.models=[\"base\", \"ppo\"]",
];

/// Kills of one run before it is left alone.
const KILLS_OF_A_RUN: usize = 8;

/// What an undisturbed run leaves.
struct Expected {
    contents: BTreeMap<String, Vec<u8>>,
    /// The last checkpoint's name and files, for a single stage.
    checkpoint: Option<(String, BTreeMap<String, Vec<u8>>)>,
    duration: Duration,
    /// How long an iteration of PPO samples, and how long it lasts.
    iteration: Option<(Duration, Duration)>,
}

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the runner has noted that a stage runs.
    Noted(Duration),
    /// So long after its start.
    Clock(Duration),
    /// So long after this many steps.
    Steps(usize, Duration),
    /// So long after a checkpoint has begun to be written.
    Partial(Duration),
    /// So long after a checkpoint has got its name.
    Named(Duration),
    /// So long after the result, or a part of it, has appeared or changed.
    Result(Duration),
}

/// What of a run folder says how far a process is.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    lines: usize,
    partial: Vec<String>,
    whole: Vec<String>,
    results: Vec<(String, Option<std::time::SystemTime>)>,
    done: usize,
}

const TRAINING: [&str; 3] = ["sft", "reward", "ppo"];

impl Seen {
    fn of(run: &Run) -> Seen {
        let lines = fs::read(run.at("metrics.jsonl")).unwrap_or_default();
        let mut states: Vec<String> = TRAINING.iter().flat_map(|stage| names(&run.at(stage).join("state"))).collect();
        states.sort();
        let (whole, partial) = states.into_iter().partition(|name| !name.starts_with('.'));
        let mut results = Vec::new();
        for folder in ["sft/adapter", "sft/model", "reward/model", "ppo/adapter", "evaluation", ""] {
            for name in names(&run.at(folder)) {
                if !["metrics.jsonl", "manifest.json", ".hashes.json", ".lock", "tensorboard"]
                    .iter()
                    .any(|known| name.contains(known))
                {
                    let changed = fs::metadata(run.at(folder).join(&name)).and_then(|data| data.modified()).ok();
                    results.push((format!("{folder}/{name}"), changed));
                }
            }
        }
        results.sort();
        let done = manifest(run).map_or(0, |stages| stages.iter().filter(|stage| stage["state"] == "done").count());
        Seen { lines: lines.iter().filter(|byte| **byte == b'\n').count(), partial, whole, results, done }
    }
}

/// The records of the stages that were started.
fn manifest(run: &Run) -> Option<Vec<Value>> {
    let manifest: Value = serde_json::from_slice(&fs::read(run.at("manifest.json")).ok()?).ok()?;
    manifest["stages"].as_array().cloned()
}

fn running(run: &Run) -> bool {
    manifest(run).is_some_and(|stages| stages.iter().any(|stage| stage["state"] == "running"))
}

impl Moment {
    fn draw(rng: &mut Rng, expected: &Expected) -> Moment {
        let mut below = |most: Duration| Duration::from_micros(rng.below(most.as_micros().max(1) as usize) as u64);
        let short = below(Duration::from_millis(3));
        let step = expected.duration / 40;
        let (rollout, iteration) = expected.iteration.unwrap_or((step, step));
        let (of_all, of_step) = (below(expected.duration), below(step));
        let (of_rollout, of_epochs) = (below(rollout), rollout + below(iteration - rollout));
        let steps = 1 + rng.below(6);
        match rng.below(8) {
            0 | 1 => Moment::Clock(of_all),
            2 => Moment::Steps(steps, if expected.iteration.is_some() { of_rollout } else { of_step }),
            3 => Moment::Steps(steps, if expected.iteration.is_some() { of_epochs } else { of_step }),
            4 | 5 => Moment::Partial(short),
            6 => Moment::Named(short),
            _ => Moment::Result(short),
        }
    }

    /// Whether what it waits for has come, and how long to wait from then.
    fn come(self, run: &Run, before: &Seen, now: &Seen, since: Duration) -> Option<Duration> {
        match self {
            Moment::Noted(delay) => running(run).then_some(delay),
            Moment::Clock(at) => (since >= at).then_some(Duration::ZERO),
            // What an earlier process wrote after its checkpoint is cut off first.
            Moment::Steps(steps, delay) => (now.lines >= before.lines + steps).then_some(delay),
            Moment::Partial(delay) => now.partial.iter().any(|name| !before.partial.contains(name)).then_some(delay),
            Moment::Named(delay) => now.whole.iter().any(|name| !before.whole.contains(name)).then_some(delay),
            Moment::Result(delay) => (now.results != before.results).then_some(delay),
        }
    }
}

/// The step of a checkpoint's folder, whole or not.
fn step(name: &str) -> Option<usize> {
    name.trim_start_matches('.').strip_prefix("checkpoint-")?.parse().ok()
}

/// Where a kill has hit, by what it left.
fn phase(run: &Run, before: &Seen, after: &Seen, iteration: Option<(Duration, Duration)>, since_line: Duration) -> &'static str {
    let temporary = |name: &str| name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    let grown: Vec<_> = after.results.iter().filter(|result| !before.results.contains(result)).collect();
    let summed = |name: &String| TRAINING.iter().any(|stage| run.at(stage).join("state").join(name).join("SHA256SUMS").exists());
    let newest = after.whole.iter().filter_map(|name| step(name)).max();
    if after.partial.iter().any(|name| step(name) > newest && !summed(name)) {
        "while a checkpoint was written"
    } else if !after.partial.is_empty() || after.whole.len() > 2 {
        "while a checkpoint was published, or an old one removed"
    } else if grown.iter().any(|(name, _)| temporary(name)) {
        "while a result was written"
    } else if !running(run) {
        if after.done == 0 { "before the first stage" } else { "between stages" }
    } else if after.lines <= before.lines && after.whole == before.whole {
        "before the first step"
    } else if grown.iter().any(|(name, _)| !name.starts_with('/')) {
        "after a result was written"
    } else {
        match iteration {
            Some((rollout, _)) if since_line < rollout => "mid-rollout",
            Some(_) => "mid-epoch of PPO",
            None => "mid-epoch",
        }
    }
}

/// Starts and kills one process. None if it was done before its moment.
fn kill(run: &Run, case: &Case, moment: Moment, iteration: Option<(Duration, Duration)>) -> Option<&'static str> {
    let before = Seen::of(run);
    let mut child = run.start(case.command, 1);
    let started = Instant::now();
    let (mut lines, mut line_at) = (before.lines, started);
    loop {
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}: {}", case.name, said(&output));
            return None;
        }
        let now = Seen::of(run);
        if now.lines != lines {
            (lines, line_at) = (now.lines, Instant::now());
        }
        if let Some(delay) = moment.come(run, &before, &now, started.elapsed()) {
            std::thread::sleep(delay);
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let since_line = line_at.elapsed();
    send(&child, libc::SIGKILL);
    let output = child.wait_with_output().unwrap();
    if output.status.signal() != Some(libc::SIGKILL) {
        assert_eq!(output.status.code(), Some(0), "{}: {}", case.name, said(&output));
        return None;
    }
    Some(phase(run, &before, &Seen::of(run), iteration, since_line))
}

/// The runner removes a stage's checkpoints when it is done. Of a link it removes the link, and what was behind it can be compared.
fn keep_checkpoints(run: &Run, stage: &str, kept: &Path) {
    let state = run.at(stage).join("state");
    if state.is_symlink() {
        return;
    }
    if state.exists() {
        fs::rename(&state, kept).unwrap();
    } else {
        fs::create_dir_all(kept).unwrap();
        fs::create_dir_all(run.at(stage)).unwrap();
    }
    symlink(kept, state).unwrap();
}

fn newest(state: &Path) -> (String, BTreeMap<String, Vec<u8>>) {
    let whole = names(state).into_iter().filter(|name| !name.starts_with('.'));
    let name = whole.max_by_key(|name| step(name)).expect("a checkpoint");
    let files = files(&state.join(&name));
    (name, files)
}

/// The stage without the runner, which would remove the checkpoints; returns the last one.
fn last_checkpoint(ground: &Ground, case: &Case, name: &str) -> (String, BTreeMap<String, Vec<u8>>) {
    let run = ground.run(name);
    let sets: Vec<String> = case.settings.iter().map(|setting| setting.to_string()).collect();
    let recipe = Recipe::load(&run.recipe, &sets).unwrap();
    let work = |group: comm::Group| {
        let device = Cpu::<f32>::new();
        let comm: Shared<Cpu<f32>> = if recipe.gpus == 1 { comm::solo() } else { std::sync::Arc::new(Threads::new(group)) };
        match case.command {
            "sft" => stage::sft::run(&device, &comm, &recipe).map(drop),
            "reward" => stage::reward::run(&device, &comm, &recipe).map(drop),
            _ => stage::ppo::run(&device, &comm, &recipe).map(drop),
        }
    };
    Hub::new(0, recipe.gpus, recipe.gpus).run(work).unwrap();
    newest(&run.at(case.command).join("state"))
}

fn folder(ground: &Ground, case: &Case, name: &str) -> Run {
    let run = match case.command {
        "run" => ground.empty_run(&ground.at(name), name),
        _ => ground.run(name),
    };
    run.with(case.settings)
}

fn undisturbed(ground: &Ground, case: &Case) -> Expected {
    let run = folder(ground, case, &format!("undisturbed {}", case.name));
    let started = Instant::now();
    run.finish(case.command, 2);
    let duration = started.elapsed();
    let single = case.command != "run";
    let checkpoint = single.then(|| last_checkpoint(ground, case, &format!("alone {}", case.name)));
    let iteration = (case.command == "ppo").then(|| {
        let text = fs::read_to_string(run.at("metrics.jsonl")).unwrap();
        let mean = |field: &str| {
            let seconds: Vec<f64> =
                text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[field].as_f64().unwrap()).collect();
            Duration::from_secs_f64(seconds.iter().sum::<f64>() / seconds.len() as f64)
        };
        (mean("rollout_seconds"), mean("seconds"))
    });
    Expected { contents: run.contents(), checkpoint, duration, iteration }
}

/// Kills a run some times, lets it end, and compares. `counted` hears of every kill.
fn disturbed(ground: &Ground, case: &Case, expected: &Expected, seed: usize, mut counted: impl FnMut(&'static str)) {
    let name = format!("disturbed {seed}");
    let (run, kept) = (folder(ground, case, &name), ground.at(&format!("kept {seed}")));
    let mut rng = Rng::new(7, "kills", seed as u64);
    let single = case.command != "run";
    // The first kill comes when the runner has noted that the stage runs: from then on it goes on from its checkpoints.
    let mut moment = Moment::Noted(Duration::from_micros(rng.below(expected.duration.as_micros() as usize / 4) as u64));
    for _ in 0..KILLS_OF_A_RUN {
        let Some(phase) = kill(&run, case, moment, expected.iteration) else { break };
        counted(phase);
        if single {
            keep_checkpoints(&run, case.command, &kept);
        }
        moment = Moment::draw(&mut rng, expected);
    }
    run.finish(case.command, 1);
    let what = format!("{}, seed {seed}", case.name);
    assert_files(&run.contents(), &expected.contents, &what);
    for stage in TRAINING {
        let state: PathBuf = run.at(stage).join("state");
        assert!(!state.exists() && !state.is_symlink(), "{what}: checkpoints are left");
    }
    if let Some((name, files)) = &expected.checkpoint
        && kept.exists()
    {
        let found = newest(&kept);
        assert_eq!(&found.0, name, "{what}");
        assert_files(&found.1, files, &what);
        assert!(files.keys().any(|name| name.starts_with("optimizer-")), "the moments are among them");
        fs::remove_dir_all(&kept).unwrap();
    }
    fs::remove_dir_all(&run.folder).unwrap();
}

#[test]
fn training_survives_sigkill_at_random_moments() {
    set_quiet(true);
    let wanted: usize = std::env::var("REPAIRITY_KILLS").map_or(120, |kills| kills.parse().expect("REPAIRITY_KILLS is a number"));
    let ground = Ground::new();
    let (next, kills) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let phases: Mutex<BTreeMap<(&str, &str), usize>> = Mutex::default();
    let expected: Vec<std::sync::OnceLock<Expected>> = CASES.iter().map(|_| std::sync::OnceLock::new()).collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= CASES.len() && kills.load(Ordering::Relaxed) >= wanted {
                        return;
                    }
                    let (case, expected) = (&CASES[seed % CASES.len()], &expected[seed % CASES.len()]);
                    let expected = expected.get_or_init(|| undisturbed(&ground, case));
                    disturbed(&ground, case, expected, seed, |phase| {
                        kills.fetch_add(1, Ordering::Relaxed);
                        *phases.lock().unwrap().entry((case.name, phase)).or_default() += 1;
                    });
                }
            });
        }
    });
    let phases = phases.into_inner().unwrap();
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for ((case, phase), count) in &phases {
        println!("{count:5}  {case}: {phase}");
        *totals.entry(phase).or_default() += count;
    }
    totals.iter().for_each(|(phase, count)| println!("{count:5}  {phase}"));
    let kills = kills.into_inner();
    println!("{kills} kills of {} runs in {:.0} s", next.into_inner().min(kills), started.elapsed().as_secs_f64());
    assert!(kills >= wanted, "{kills} of {wanted} kills");
}
