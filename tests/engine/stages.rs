//! Stages on `Cuda` against the CPU, and through a crash.

use std::fs;
use std::path::Path;

use repairity::checkpoint::{Tensors, read_json};
use repairity::device::cuda::Act;
use repairity::device::{Cpu, Cuda};
use repairity::recipe::Recipe;
use serde_json::Value;

use crate::ground::{Ground, Stage, metrics};
use crate::on_kernels;
use crate::watched::watch;

/// `tests/golden.rs` lets single precision be 2e-5 away in log-probs, scores and losses, and 1e-4 of the largest element in
/// gradients and in trained values. A handful of steps, and numbers that are sums of a few of these, stay within the larger one.
pub const SINGLE: f64 = 1e-4;

/// Plain bfloat16 arithmetic is away by this much in one token's log-prob, in the mean of the tokens' losses, and in a score: the
/// largest `bfloat16_distance` of tests/golden, whose models are of this size. `Cuda<bf16>` may be twice as far.
const LOGPROB: f64 = 4.4e-2;
const LOSS: f64 = 1.3e-2;
const SCORE: f64 = 2.1e-2;

fn single<A: Act>() -> bool {
    A::BUILD == f32::BUILD
}

/// Every number within `allowed` of what was expected, relative above 1; everything else the same.
pub fn assert_near(at: &str, found: &Value, expected: &Value, allowed: f64) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{at}");
            expected.iter().for_each(|(key, expected)| assert_near(&format!("{at}.{key}"), &found[key], expected, allowed));
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{at}");
            found.iter().zip(expected).for_each(|(found, expected)| assert_near(at, found, expected, allowed));
        }
        (Value::Number(x), Value::Number(y)) if x.is_f64() && y.is_f64() => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            assert!((x - y).abs() <= allowed * y.abs().max(1.0), "{at}: {x} where {y} was expected, give or take {allowed:.0e}");
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

pub fn assert_same_values(found: &Path, expected: &Path, allowed: f64) {
    let [found, expected] = [found, expected].map(|path| Tensors::open_files(&[path.to_path_buf()]).unwrap());
    assert_eq!(found.names(), expected.names());
    for name in expected.names() {
        let shape = expected.shape(name).unwrap();
        let pairs = found.read::<f64>(name, shape).unwrap().into_iter().zip(expected.read::<f64>(name, shape).unwrap());
        let away = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(away <= allowed, "{name}: {away:.1e} away, {allowed:.0e} allowed");
    }
}

/// Runs a stage on the CPU and on the device. In f32 all numbers agree, those of sampled texts included: it is the same random
/// stream. In bf16 the stage is also killed and started again, since it is there that masters and what the kernels read are not the
/// same numbers: the bits are those of the undisturbed run. Returns the device's run and the CPU's.
fn run<A: Act>(device: &Cuda<A>, stage: Stage, ground: &Ground) -> [Recipe; 2] {
    let [expected, found] = ["cpu", "cuda"].map(|name| ground.run(name));
    stage.run(&Cpu::<f32>::new(), &expected).unwrap();
    let (done, seen) = watch(None, || stage.run(device, &found));
    done.unwrap();
    if single::<A>() {
        assert_near(&format!("{stage:?}"), &Value::from(metrics(&found)), &Value::from(metrics(&expected)), SINGLE);
        assert_same_values(&stage.trained(&found), &stage.trained(&expected), SINGLE);
    } else {
        let again = ground.run("again");
        let (died, _) = watch(Some(seen.launches * 3 / 4), || stage.run(device, &again));
        assert!(died.unwrap_err().to_string().contains("the launch that is to fail"));
        assert!(stage.has_checkpoint(&again), "{stage:?} died before its first checkpoint");
        let (done, rest) = watch(None, || stage.run(device, &again));
        done.unwrap();
        assert!(rest.launches < seen.launches, "{stage:?} started anew");
        let read = |recipe| fs::read(stage.trained(recipe)).unwrap();
        assert!(read(&again) == read(&found), "{stage:?}: other values after a crash");
        assert_eq!(metrics(&again), metrics(&found));
    }
    [found, expected]
}

/// The numbers of a field in the lines that have it; all of them are finite, since others are written as null.
fn numbers(recipe: &Recipe, field: &str) -> Vec<f64> {
    let lines = metrics(recipe);
    lines.iter().filter_map(|line| line.get(field)).map(|x| x.as_f64().unwrap_or_else(|| panic!("{field} is {x}"))).collect()
}

fn assert_all_near(field: &str, [found, expected]: &[Recipe; 2], allowed: f64) {
    let (found, expected) = (numbers(found, field), numbers(expected, field));
    assert_eq!(found.len(), expected.len(), "{field}");
    for (x, y) in found.iter().zip(&expected) {
        assert!((x - y).abs() <= allowed, "{field}: {x} where {y} was expected, give or take {allowed:.0e}");
    }
}

/// With dropout, whose masks are the same on every device.
fn sft<A: Act>(device: &Cuda<A>) {
    let ground = Ground::new();
    let runs = run(device, Stage::Sft, &ground);
    assert_eq!(numbers(&runs[0], "loss").len(), 3);
    assert_eq!(numbers(&runs[0], "validation_loss").len(), 1);
    if !single::<A>() {
        assert_all_near("loss", &runs, 2.0 * LOSS);
        assert_all_near("validation_loss", &runs, 2.0 * LOSS);
    }
}

/// A pair's loss grows at most as fast as its margin, which is the difference of two scores.
fn reward<A: Act>(device: &Cuda<A>) {
    let ground = Ground::new();
    let runs = run(device, Stage::Reward, &ground);
    assert_eq!(numbers(&runs[0], "loss").len(), 2);
    let scale = |recipe: &Recipe| read_json(&recipe.out.join("reward/model/score_scale.json")).unwrap();
    let allowed = if single::<A>() { SINGLE } else { 2.0 * SCORE };
    assert_near("score_scale", &scale(&runs[0]), &scale(&runs[1]), allowed);
    if !single::<A>() {
        assert_all_near("loss", &runs, 2.0 * 2.0 * SCORE);
        assert_all_near("validation_loss", &runs, 2.0 * 2.0 * SCORE);
        assert_all_near("margin", &runs, 2.0 * 2.0 * SCORE);
    }
}

/// What holds in every arithmetic: until the first step the policy is the reference, and in the first epoch the policy is the one that
/// sampled, bit by bit, since the micro-batches are the same. The sampler's own log-probs come from the cache and from other kernels.
fn ppo<A: Act>(device: &Cuda<A>) {
    let ground = Ground::new();
    let [found, _] = run(device, Stage::Ppo, &ground);
    let lines = metrics(&found);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["kl"], 0.0);
    assert_ne!(lines[1]["kl"], 0.0);
    let drift = if single::<A>() { SINGLE } else { 2.0 * 2.0 * LOGPROB };
    for line in &lines {
        let [first, second] = [&line["epochs"][0], &line["epochs"][1]];
        assert_eq!((&first["ratio"], &first["kl_old"], &first["clip_fraction"]), (&1.0.into(), &0.0.into(), &0.0.into()));
        assert_ne!(second["ratio"], 1.0);
        assert!(second["kl_old"].as_f64().unwrap() > 0.0);
        for epoch in [first, second] {
            let numbers = epoch.as_object().unwrap();
            assert!(numbers.values().all(Value::is_number), "{epoch}");
            assert!(["grad_norm", "critic_grad_norm", "entropy"].iter().all(|field| numbers[*field].as_f64().unwrap() > 0.0));
        }
        assert!(line["sampler_drift"].as_f64().unwrap() <= drift, "{}", line["sampler_drift"]);
    }
}

on_kernels!(sft, reward, ppo);
