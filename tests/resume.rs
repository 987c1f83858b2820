//! Stages that are killed, interrupted and started twice, as real processes: what they leave behind is, byte for byte, what an
//! undisturbed run writes.
//!
//! Signals are sent when a process has shown in its run folder how far it is, and a little later, by a seeded delay. Where
//! exactly they hit is left to chance; the result must not depend on it.

#[path = "support/process.rs"]
mod process;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::time::Duration;

use libc::{SIGINT, SIGKILL, SIGTERM};
use process::Point::{self, Checkpoint, Step};
use process::{Ground, Run, resumed_at, said, send};
use repairity::comm;
use repairity::device::Cpu;
use repairity::error::Error;
use repairity::recipe::Recipe;
use repairity::rng::Rng;
use repairity::stage;
use repairity::telemetry::{interrupt, set_quiet};

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
    // A machine that is slow to run this test lets a process get further than it should before its signal comes; then all of it
    // comes again.
    let run = (0..20).find_map(|attempt| {
        let run = ground.run(&format!("disturbed-{attempt}"));
        let mut rng = Rng::new(attempt, stage.name, 0);
        let mut least = 0;
        for (point, signal) in points {
            let delay = Duration::from_micros(rng.below(4000) as u64);
            if run.reached(stage.name, *point) {
                return None;
            }
            let output = run.disturb(stage.name, *point, *signal, delay)?;
            let resumed = resumed_at(&said(&output));
            assert!(resumed >= least, "{point:?}: at least step {least} was saved, but it went on from {resumed}");
            // What was certainly saved: the checkpoint before the one that was perhaps being written, which was started when the
            // one before it had its name.
            let (Point::Step(step) | Point::Checkpoint(step)) = *point;
            least = match *signal {
                libc::SIGKILL => ((step - 1) / stage.checkpoint_every).saturating_sub(1) * stage.checkpoint_every,
                _ => {
                    assert!(said(&output).ends_with("error: interrupted\n"), "{}", said(&output));
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
            "sft" => stage::sft::run(&device, &comm::solo(), &recipe).map(drop),
            "reward" => stage::reward::run(&device, &comm::solo(), &recipe).map(drop),
            _ => stage::ppo::run(&device, &comm::solo(), &recipe).map(drop),
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
