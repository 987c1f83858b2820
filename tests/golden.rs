//! The engine against PyTorch, Transformers and PEFT: log-probabilities, losses, every gradient by name, optimizer steps,
//! rewards, greedy generation, PPO's arithmetic and learning-rate schedules.
//!
//! The expected values are written by `tools/golden.py`, in double precision; `REPAIRITY_GOLDEN=DIR` points these tests at
//! another folder of the same form.
//!
//! Each comparison runs on every device. `Cpu<f64>` must agree to what the order of summation costs in double precision, which
//! leaves no room for a formula that is only nearly right. `Cpu<f32>`, and `Cuda<f32>` in the simulator and on a GPU, get the
//! tolerances below. `Cuda<bf16>` may be as far away as twice the distance of PyTorch's own bfloat16 arithmetic, which
//! `tools/golden.py` measured and wrote beside the values.

#[path = "support/simulated.rs"]
mod simulated;

#[path = "support/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::bf16;
use place::{OnGpu, Place, builds, on};
use repairity::batch::NextTokens;
use repairity::checkpoint::{Storage, Tensors, read_json};
use repairity::comm;
use repairity::device::cuda::Act;
use repairity::device::{Cpu, Device, Real, Sampling};
use repairity::generate::{Request, Sample, Settings, generate};
use repairity::loss::{ppo, reward, sft};
use repairity::model::head::{LogProbs, Scores};
use repairity::model::{Adapter, Config, Decoder, Packed, Pass, ScalarHead};
use repairity::optim::{Hyper, LearningRate, Optimizer, Sum};
use repairity::prompt::Example;
use repairity::recipe::{Recompute, Schedule};
use repairity::weights::{Grads, Param};
use serde_json::Value;

/// How far the engine may be from the expected values.
#[derive(Debug, Clone, Copy)]
struct Tolerance {
    /// Log-probabilities, entropies, scores and losses: absolute.
    value: f64,
    /// Gradients: relative to the largest element of the tensor, since an element is a sum whose terms have the size of the
    /// largest, and what rounding leaves of a sum that cancels has their size, not its own.
    gradient: f64,
    /// Trained values, absolute.
    trained: f64,
}

/// Transformers' own float32 run is up to 2e-6 away from the expected values in log-probabilities and in gradients
/// (`float32_distance` in each expected.json). The engine adds in another order, with blocks of its own, so it gets ten times
/// that in values; in gradients, which pass through twice as many products and through sums over all tokens, fifty times.
/// Ten steps of at most 1e-3 move a value by at most 1e-2; a relative error of 1e-4 in a gradient's direction would be 1e-6
/// of that, but an element whose gradient is within its rounding error of 0 may take a few steps in either direction.
const SINGLE: Tolerance = Tolerance { value: 2e-5, gradient: 1e-4, trained: 1e-4 };

/// Both sides work in double precision, so what is left is the order of summation: a few hundred roundings of 2^-53 of numbers
/// below 10 are 1e-13 in the worst case. PEFT's trained adapter is stored in float32, whose rounding of values up to 1 is 6e-8.
const DOUBLE: Tolerance = Tolerance { value: 1e-12, gradient: 1e-12, trained: 1e-7 };

/// How a device is compared with the expected values.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// How far away it may be; none: twice as far as PyTorch's bfloat16 arithmetic, in the same fixture and the same measure.
    tolerance: Option<Tolerance>,
    /// Whether its kernels run thread by thread, so that what another comparison shows as well is left out.
    simulated: bool,
}

impl Rule {
    fn within(tolerance: Tolerance) -> Rule {
        Rule { tolerance: Some(tolerance), simulated: false }
    }

    /// That of a build of the kernels.
    fn of<A: Act>(place: Place) -> Rule {
        let tolerance = if A::BUILD == bf16::BUILD { None } else { Some(SINGLE) };
        Rule { tolerance, simulated: place == Place::Simulator }
    }

    /// How far away a quantity may be. Its key is its name in `bfloat16_distance`.
    fn allows(self, fixture: &Fixture, key: &str) -> f64 {
        let Some(tolerance) = self.tolerance else { return 2.0 * fixture.bfloat16(key) };
        match key {
            "gradients" => tolerance.gradient,
            "trained" => tolerance.trained,
            // A step's loss and norm depend on the values that the steps before it left, whose tolerance is the larger one in f64.
            "losses" => tolerance.value.max(tolerance.trained / 10.0),
            "grad_norms" => self.allows(fixture, "losses").max(tolerance.gradient),
            _ => tolerance.value,
        }
    }
}

/// Tests of generic functions `fn name<D: Device>(device: &D, rule: Rule)` on both builds of the kernels, in the simulator and on a GPU.
macro_rules! on_kernels {
    ($($name:ident),* $(,)?) => {
        mod kernels {
            use super::*;

            $(fn $name<A: OnGpu>(place: Place) {
                on::<A>(place, |device| super::$name(device, Rule::of::<A>(place)));
            })*

            builds!($($name),*);
        }
    };
}

/// A folder with an `expected.json`.
struct Fixture {
    folder: PathBuf,
    expected: Value,
}

impl Fixture {
    fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// How far PyTorch's bfloat16 arithmetic is from the expected values.
    fn bfloat16(&self, key: &str) -> f64 {
        let distances = &self.expected["bfloat16_distance"];
        let known = |key: &str| {
            let found = distances[key].as_f64();
            found.unwrap_or_else(|| panic!("{}: no bfloat16_distance of {key}: tools/golden.py writes it", self.name()))
        };
        match (key, self.expected["kind"] == "reward") {
            // A pair's loss grows at most as fast as its margin, which is the difference of two scores.
            ("loss", true) => 2.0 * known("scores"),
            // The loss of the first step is one of them, and by luck all of them may be nearer than their tokens' are.
            ("losses", _) => known("losses").max(known("loss")),
            _ => known(key),
        }
    }

    /// The same for a tensor's gradient as a whole, of root mean squares. A handful of pairs share the gradient of a reward model, so
    /// a tensor's may be near by luck: there it is at least what half of the tensors are away by.
    fn bfloat16_gradient(&self, name: &str) -> f64 {
        let distances = self.expected["bfloat16_distance"]["gradients_rms"].as_object().unwrap();
        let mut all: Vec<f64> = distances.values().map(|x| x.as_f64().unwrap()).collect();
        all.sort_by(f64::total_cmp);
        let least = if self.expected["kind"] == "reward" { all[all.len() / 2] } else { 0.0 };
        distances[name].as_f64().unwrap().max(least)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(self.expected[key].as_str().unwrap())
    }

    fn sequences(&self) -> Vec<Vec<u32>> {
        split(&integers(&self.expected["tokens"]), &lengths(&self.expected["lengths"]))
    }

    /// The sequences with their loss masks.
    fn examples(&self) -> Vec<Example> {
        let masks = split(&integers(&self.expected["mask"]), &lengths(&self.expected["lengths"]));
        let example = |(tokens, mask): (Vec<u32>, Vec<u32>)| Example { tokens, mask: mask.iter().map(|m| *m == 1).collect() };
        self.sequences().into_iter().zip(masks).map(example).collect()
    }

    fn arrays(&self) -> Tensors {
        Tensors::open_files(&[self.folder.join("expected.safetensors")]).unwrap()
    }

    fn adapter<D: Device>(&self, device: &D, config: &Config) -> Option<Adapter<D>> {
        self.expected.get("adapter")?;
        Some(Adapter::load(device, config, &self.path("adapter")).unwrap())
    }
}

fn root() -> PathBuf {
    match std::env::var_os("REPAIRITY_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// The fixtures of a kind; at least one.
fn fixtures(kind: &str) -> Vec<Fixture> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let read = |folder: PathBuf| {
        let path = folder.join("expected.json");
        path.exists().then(|| Fixture { expected: read_json(&path).unwrap(), folder })
    };
    let found: Vec<Fixture> = folders.into_iter().filter_map(read).filter(|f| f.expected["kind"] == kind).collect();
    assert!(!found.is_empty(), "{}: no fixture of kind {kind}", root().display());
    found
}

fn integers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn lengths(value: &Value) -> Vec<usize> {
    integers(value).into_iter().map(|x| x as usize).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("a list expected, {value} found")).iter().map(|x| x.as_f64().unwrap()).collect()
}

fn split<T: Clone>(flat: &[T], lengths: &[usize]) -> Vec<Vec<T>> {
    assert_eq!(flat.len(), lengths.iter().sum::<usize>());
    let mut rest = flat;
    let mut next = |length: &usize| {
        let (head, tail) = rest.split_at(*length);
        rest = tail;
        head.to_vec()
    };
    lengths.iter().map(&mut next).collect()
}

fn download<D: Device, T: Real>(device: &D, buf: &D::Buf<T>) -> Vec<f64> {
    device.download(buf).unwrap().into_iter().map(Real::f64).collect()
}

fn upload<D: Device>(device: &D, values: &[f64]) -> D::Buf<D::Acc> {
    device.upload(&values.iter().map(|x| D::Acc::of(*x)).collect::<Vec<_>>()).unwrap()
}

fn packed<D: Device>(device: &D, sequences: &[Vec<u32>]) -> Packed<D> {
    Packed::new(device, &sequences.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

/// The largest difference of two lists; their lengths must agree, and NaN is infinitely far from everything.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max)
}

fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "{what}: {distance:.2e} away, {tolerance:.0e} allowed");
}

/// The same where elements differ in size: relative to each one, and absolute below 1.
fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let by = |x: &[f64]| x.iter().zip(expected).map(|(x, e)| x / e.abs().max(1.0)).collect::<Vec<f64>>();
    close(what, &by(found), &by(expected), tolerance);
}

/// Compares every gradient by name; both sides must have the same names. PyTorch's names of an adapter's tensors have a prefix.
fn check_gradients<D: Device>(fixture: &Fixture, device: &D, grads: &Grads<D>, prefix: &str, rule: Rule) {
    let arrays = fixture.arrays();
    let mut found = BTreeMap::new();
    for (part, values) in grads.by_name(device).unwrap() {
        let values: Vec<f64> = values.into_iter().map(Real::f64).collect();
        assert!(found.insert(format!("grad.{prefix}{}", part.name), (part.shape, values)).is_none(), "{} twice", part.name);
    }
    let expected: Vec<&str> = arrays.names().into_iter().filter(|name| name.starts_with("grad.")).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{}", fixture.name());
    for (name, (shape, values)) in found {
        let expected: Vec<f64> = arrays.read(&name, &shape).unwrap();
        let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let what = format!("{}: {name}", fixture.name());
        close(&what, &values, &expected, rule.allows(fixture, "gradients") * largest);
        if rule.tolerance.is_none() {
            let differences: Vec<f64> = values.iter().zip(&expected).map(|(x, e)| x - e).collect();
            let away = root_mean_square(&differences) / root_mean_square(&expected);
            let allowed = 2.0 * fixture.bfloat16_gradient(name.trim_start_matches("grad."));
            assert!(away <= allowed, "{what}: {away:.2e} of its size away, {allowed:.2e} allowed");
        }
    }
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

fn pass(recompute: Recompute) -> Pass {
    Pass { recompute, dropout: None }
}

/// The mean loss of the masked tokens; gradients are added to `grads`.
fn loss_and_gradients<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    adapter: Option<&Adapter<D>>,
    examples: &[Example],
    recompute: Recompute,
    grads: &mut Grads<D>,
) -> f64 {
    let next = NextTokens::masked(examples);
    let norm = 1.0 / next.rows.len() as f64;
    let batch = packed(device, &examples.iter().map(|example| example.tokens.clone()).collect::<Vec<_>>());
    let (hidden, saved) = decoder.forward(device, &batch, adapter, pass(recompute)).unwrap();
    let (sum, dhidden) = sft::sum_and_gradient(device, decoder, &hidden, &next, norm, grads).unwrap();
    decoder.backward(device, &batch, adapter, saved, &dhidden, grads, &mut |_, _| Ok(())).unwrap();
    sum.read(device).unwrap() * norm
}

/// Log-probabilities and entropies of every token after the first of its sequence.
fn check_language<D: Device>(fixture: &Fixture, device: &D, decoder: &Decoder<D>, adapter: Option<&Adapter<D>>, rule: Rule) {
    let (sequences, arrays) = (fixture.sequences(), fixture.arrays());
    let next = NextTokens::after(sequences.iter().map(|sequence| (sequence.as_slice(), 1)));
    let hidden = decoder.infer(device, &packed(device, &sequences), adapter).unwrap();
    let head = LogProbs::new(device, decoder, &hidden, &next.rows, &next.targets, 1.0).unwrap();
    for (what, buf) in [("logprobs", &head.logprob), ("entropy", &head.entropy)] {
        let expected: Vec<f64> = arrays.read(what, &[next.rows.len()]).unwrap();
        close(&format!("{}: {what}", fixture.name()), &download(device, buf), &expected, rule.allows(fixture, what));
    }
}

/// The trained parameters: the adapter's where there is one, else all of the decoder's.
fn trained<'a, D: Device>(decoder: &'a mut Decoder<D>, adapter: &'a mut Option<Adapter<D>>) -> Vec<&'a mut Param<D>> {
    match adapter {
        Some(adapter) => adapter.params_mut(),
        None => decoder.params_mut(),
    }
}

/// PyTorch's prefix of an adapter's tensors.
fn prefix<D: Device>(adapter: &Option<Adapter<D>>) -> &'static str {
    if adapter.is_some() { "base_model.model." } else { "" }
}

/// In the simulator each fixture recomputes in one way; that the ways give the same bits is shown by tests/engine.
fn language_model<D: Device>(device: &D, kind: &str, rule: Rule) {
    let all = [Recompute::None, Recompute::Mlp, Recompute::Block];
    for (index, fixture) in fixtures(kind).into_iter().enumerate() {
        let mut decoder = Decoder::load(device, &fixture.path("model")).unwrap();
        let mut adapter = fixture.adapter(device, &decoder.config);
        check_language(&fixture, device, &decoder, adapter.as_ref(), rule);
        let mut grads = Grads::new(device, &mut trained(&mut decoder, &mut adapter)).unwrap();
        let ways = if rule.simulated { &all[index % all.len()..][..1] } else { &all };
        for &recompute in ways {
            grads.clear(device).unwrap();
            let loss = loss_and_gradients(device, &decoder, adapter.as_ref(), &fixture.examples(), recompute, &mut grads);
            let expected = fixture.expected["loss"].as_f64().unwrap();
            close(&format!("{}: loss", fixture.name()), &[loss], &[expected], rule.allows(&fixture, "loss"));
            check_gradients(&fixture, device, &grads, prefix(&adapter), rule);
        }
    }
}

fn decoders<D: Device>(device: &D, rule: Rule) {
    language_model(device, "decoder", rule);
}

fn adapters<D: Device>(device: &D, rule: Rule) {
    language_model(device, "adapter", rule);
}

#[test]
fn checkpoints_give_the_log_probs_and_gradients_of_transformers() {
    decoders(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    decoders(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

#[test]
fn adapters_give_the_log_probs_and_gradients_of_peft() {
    adapters(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    adapters(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

/// In the simulator one fixture of a kind is trained, that of the most kinds of tensors.
fn training<D: Device>(device: &D, kind: &str, rule: Rule) {
    let mut trains = fixtures(kind);
    trains.retain(|fixture| fixture.expected.get("training").is_some());
    assert!(!trains.is_empty(), "no fixture of kind {kind} trains");
    if rule.simulated {
        let tensors = |fixture: &Fixture| fixture.arrays().names().len();
        trains.sort_by_key(|fixture| std::cmp::Reverse(tensors(fixture)));
        trains.truncate(1);
    }
    for fixture in trains {
        let settings = &fixture.expected["training"];
        let number = |key: &str| settings[key].as_f64().unwrap();
        let betas = numbers(&settings["betas"]);
        let hyper = Hyper {
            beta1: betas[0],
            beta2: betas[1],
            eps: number("eps"),
            weight_decay: number("weight_decay"),
            max_grad_norm: number("max_grad_norm"),
        };
        let mut decoder = Decoder::load(device, &fixture.path("model")).unwrap();
        let mut adapter = fixture.adapter(device, &decoder.config);
        let mut params = trained(&mut decoder, &mut adapter);
        let (mut optimizer, mut grads) = Optimizer::new(device, &comm::solo(), &mut params, hyper, Sum::Whole).unwrap();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for lr in numbers(&settings["lr"]) {
            grads.clear(device).unwrap();
            let examples = fixture.examples();
            losses.push(loss_and_gradients(device, &decoder, adapter.as_ref(), &examples, Recompute::None, &mut grads));
            let (squares, _) = optimizer.measure::<f64>(device, &grads, &[]).unwrap();
            norms.push(squares.norm(&grads).unwrap());
            optimizer.update(device, &mut trained(&mut decoder, &mut adapter), &grads, norms[norms.len() - 1], lr).unwrap();
        }
        let name = fixture.name();
        close(&format!("{name}: losses"), &losses, &numbers(&settings["losses"]), rule.allows(&fixture, "losses"));
        let allowed = rule.allows(&fixture, "grad_norms");
        close(&format!("{name}: gradient norms"), &norms, &numbers(&settings["grad_norms"]), allowed);

        let file = if adapter.is_some() { "trained/adapter_model.safetensors" } else { "trained.safetensors" };
        let end = Tensors::open_files(&[fixture.folder.join(file)]).unwrap();
        let prefix = prefix(&adapter);
        let (mut compared, mut differences) = (0, Vec::new());
        for param in trained(&mut decoder, &mut adapter) {
            for (part, values) in param.read::<f64>(device).unwrap() {
                let expected: Vec<f64> = end.read(&format!("{prefix}{}", part.name), &part.shape).unwrap();
                close(&format!("{name}: {} after training", part.name), &values, &expected, rule.allows(&fixture, "trained"));
                differences.extend(values.iter().zip(&expected).map(|(x, e)| x - e));
                compared += 1;
            }
        }
        assert_eq!(compared, end.names().len(), "{name}");
        if rule.tolerance.is_none() {
            let (away, allowed) = (root_mean_square(&differences), rule.allows(&fixture, "trained_rms"));
            assert!(away <= allowed, "{name}: trained values are {away:.2e} away, {allowed:.2e} allowed");
        }
    }
}

fn full_training<D: Device>(device: &D, rule: Rule) {
    training(device, "decoder", rule);
}

fn lora_training<D: Device>(device: &D, rule: Rule) {
    training(device, "adapter", rule);
}

#[test]
fn ten_steps_of_full_training_end_where_pytorch_ends() {
    full_training(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    full_training(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

#[test]
fn ten_steps_of_lora_end_where_peft_ends() {
    lora_training(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    lora_training(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

fn rewards<D: Device>(device: &D, rule: Rule) {
    for fixture in fixtures("reward") {
        let (name, folder) = (fixture.name(), fixture.path("model"));
        let mut decoder = Decoder::load(device, &folder).unwrap();
        let mut adapter = fixture.adapter(device, &decoder.config);
        let head = match fixture.expected.get("adapter") {
            Some(_) => Adapter::load_head(device, &decoder.config, &fixture.path("adapter")),
            None => {
                let tensors = Tensors::open_folder(&folder).unwrap();
                ScalarHead::from_tensors(device, &tensors, ScalarHead::<D>::NAME, decoder.config.hidden)
            }
        };
        let mut head = head.unwrap().expect("a scalar head");
        let mut params = trained(&mut decoder, &mut adapter);
        params.push(&mut head.weight);
        let mut grads = Grads::new(device, &mut params).unwrap();

        let sequences = fixture.sequences();
        let labels = numbers(&fixture.expected["labels"]);
        let batch = packed(device, &sequences);
        let last: Vec<u32> = batch.bounds.host[1..].iter().map(|end| end - 1).collect();
        let (hidden, saved) = decoder.forward(device, &batch, adapter.as_ref(), pass(Recompute::Mlp)).unwrap();
        let scores = download(device, &Scores::new(device, &head, &hidden, &last).unwrap().score);
        let expected: Vec<f64> = fixture.arrays().read("scores", &[last.len()]).unwrap();
        close(&format!("{name}: scores"), &scores, &expected, rule.allows(&fixture, "scores"));

        let norm = 1.0 / labels.len() as f64;
        let (stats, dhidden) = reward::pairs(device, &head, &hidden, &last, &labels, Some((norm, &mut grads))).unwrap();
        decoder.backward(device, &batch, adapter.as_ref(), saved, &dhidden.unwrap(), &mut grads, &mut |_, _| Ok(())).unwrap();
        let (stats, loss) = (stats.read(device).unwrap(), fixture.expected["loss"].as_f64().unwrap());
        close(&format!("{name}: loss"), &[stats.loss * norm], &[loss], rule.allows(&fixture, "loss"));
        let right = expected.chunks_exact(2).zip(&labels).filter(|(pair, label)| (pair[0] - pair[1]) * (*label - 0.5) > 0.0);
        assert_eq!(stats.correct, right.count() as f64, "{name}");
        check_gradients(&fixture, device, &grads, prefix(&adapter), rule);
    }
}

#[test]
fn reward_models_give_the_scores_and_gradients_of_transformers() {
    rewards(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    rewards(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

/// Two places for three prompts, so that a freed place is taken again. In bfloat16 two tokens may be so close that the other one is
/// chosen, and all that follows differs: there each choice is held against what double precision says after the same tokens.
fn greedy<D: Device>(device: &D, rule: Rule) {
    let mut seen = 0;
    for fixture in fixtures("decoder") {
        let Some(expected) = fixture.expected.get("generation") else { continue };
        seen += 1;
        let decoder = Decoder::load(device, &fixture.path("model")).unwrap();
        let prompts = expected["prompts"].as_array().unwrap().iter().map(integers);
        let requests: Vec<Request> = prompts.map(|prompt| Request { prompt, key: 0 }).collect();
        let settings = Settings {
            sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
            max_new_tokens: expected["max_new_tokens"].as_u64().unwrap() as usize,
            eos: Vec::new(),
            batch: 2,
        };
        let samples = generate(device, &decoder, None, &requests, &settings, &mut |_, _| Ok(())).unwrap();
        if rule.tolerance.is_none() {
            nearly_greedy(&fixture, &requests, &samples, rule.allows(&fixture, "logprobs"));
            continue;
        }
        for (i, sample) in samples.iter().enumerate() {
            assert_eq!(sample.tokens, integers(&expected["ids"][i]), "{}: prompt {i}", fixture.name());
            let logprobs = numbers(&expected["logprobs"][i]);
            let allowed = rule.allows(&fixture, "logprobs");
            close(&format!("{}: prompt {i}: log-probs", fixture.name()), &sample.logprobs, &logprobs, allowed);
        }
    }
    assert!(seen > 0, "no fixture generates");
}

/// Log-probs that are good to `allowed` let a token be chosen that is up to twice that behind the best one.
fn nearly_greedy(fixture: &Fixture, requests: &[Request], samples: &[Sample], allowed: f64) {
    let device = Cpu::<f64>::new();
    let decoder = Decoder::load(&device, &fixture.path("model")).unwrap();
    let (c, v) = (decoder.config.hidden, decoder.config.vocab);
    for (i, (request, sample)) in requests.iter().zip(samples).enumerate() {
        assert_eq!(sample.tokens.len(), fixture.expected["generation"]["max_new_tokens"].as_u64().unwrap() as usize);
        let whole = [request.prompt.as_slice(), &sample.tokens].concat();
        let hidden = decoder.infer(&device, &packed(&device, std::slice::from_ref(&whole)), None).unwrap();
        let mut logits = device.zeros(whole.len() * v).unwrap();
        device.logits(&mut logits, &hidden, &decoder.head().value, (whole.len(), c, v)).unwrap();
        let rows: Vec<Vec<f64>> = device.download(&logits).unwrap().chunks(v).map(<[f64]>::to_vec).collect();
        for (row, (token, logprob)) in rows[request.prompt.len() - 1..].iter().zip(sample.tokens.iter().zip(&sample.logprobs)) {
            let best = row.iter().fold(f64::NEG_INFINITY, |most, x| most.max(*x));
            let normaliser = best + row.iter().map(|x| (x - best).exp()).sum::<f64>().ln();
            let (exact, most) = (row[*token as usize] - normaliser, best - normaliser);
            let what = format!("{}: prompt {i}: token {token}", fixture.name());
            close(&what, &[*logprob], &[exact], allowed);
            assert!(most - exact <= 2.0 * allowed, "{what} is {:.1e} behind the best one", most - exact);
        }
    }
}

#[test]
fn greedy_generation_gives_the_tokens_of_transformers() {
    greedy(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    greedy(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

/// What PEFT wrote, read and written again, has PEFT's names, extents and bits; the same for a checkpoint in its own type.
#[test]
fn what_is_read_is_written_back_bit_for_bit() {
    let same = |found: &Tensors, expected: &Tensors| {
        assert_eq!(found.names(), expected.names());
        for name in expected.names() {
            let shape = expected.shape(name).unwrap();
            assert_eq!(found.read::<f64>(name, shape).unwrap(), expected.read::<f64>(name, shape).unwrap(), "{name}");
        }
    };
    let device = Cpu::<f32>::new();
    for fixture in fixtures("adapter").into_iter().chain(fixtures("reward")) {
        let config = Config::load(&fixture.path("model")).unwrap();
        let Some(adapter) = fixture.adapter(&device, &config) else { continue };
        let head = Adapter::load_head(&device, &config, &fixture.path("adapter")).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter.save(&device, out.path(), "base", head.as_ref()).unwrap();
        let open = |folder: &Path| Tensors::open_files(&[folder.join("adapter_model.safetensors")]).unwrap();
        same(&open(out.path()), &open(&fixture.path("adapter")));
        assert_eq!(Adapter::load(&device, &config, out.path()).unwrap().config, adapter.config);
    }
    for fixture in fixtures("decoder") {
        let folder = fixture.path("model");
        let json = read_json(&folder.join("config.json")).unwrap();
        let storage = match json.get("dtype").or(json.get("torch_dtype")).and_then(Value::as_str) {
            Some("float16") => Storage::F16,
            Some("bfloat16") => Storage::Bf16,
            _ => Storage::F32,
        };
        let decoder = Decoder::load(&device, &folder).unwrap();
        let out = tempfile::tempdir().unwrap();
        decoder.save(&device, out.path(), storage, Vec::new()).unwrap();
        same(&Tensors::open_folder(out.path()).unwrap(), &Tensors::open_folder(&folder).unwrap());
        assert_eq!(Config::load(out.path()).unwrap(), decoder.config, "{}", fixture.name());
    }
}

/// In single precision a ratio is good to its rounding times the log-ratio's size (at most 22): 1.3e-6, and sums of 24 tokens
/// to a few times that. Log-probs and values are single precision where activations are bfloat16, too.
fn proximal<D: Device>(device: &D, rule: Rule) {
    let tolerance = rule.tolerance.unwrap_or(SINGLE).value.min(1e-5);
    let cases = read_json(&root().join("ppo.json")).unwrap();
    let each = |kind: &str| cases[kind].as_array().unwrap().clone();

    for case in each("gae") {
        let lengths = lengths(&case["lengths"]);
        let [reward, value] = ["reward", "value"].map(|key| split(&numbers(&case[key]), &lengths));
        let [gamma, lambda] = ["gamma", "lambda"].map(|key| case[key].as_f64().unwrap() as f32);
        let (advantage, returns) = ppo::advantages(device, &reward, &value, gamma, lambda, false).unwrap();
        // gamma and lambda are f32 in every engine: 0.99 and 0.95 are good to 3e-8, and up to 12 factors of them meet.
        near("advantages", &advantage.concat(), &numbers(&case["advantage"]), tolerance.max(5e-6));
        near("returns", &returns.concat(), &numbers(&case["returns"]), tolerance.max(5e-6));
    }
    for case in each("clip") {
        let [logprob, old, advantage] = ["logprob", "old", "advantage"].map(|key| numbers(&case[key]));
        let entropy = vec![0.5; logprob.len()];
        let clip = case["clip"].as_f64().unwrap() as f32;
        let (logprob, entropy) = (upload(device, &logprob), upload(device, &entropy));
        let (sums, gradient) = ppo::policy(device, &logprob, &[old], &[advantage], clip, 1.0).unwrap();
        let stats = ppo::policy_stats(sums, entropy).read(device).unwrap();
        near("dlogprob", &download(device, &gradient), &numbers(&case["dlogprob"]), tolerance);
        let sums = ["loss", "clipped", "ratio", "k1", "k3"].map(|key| case["sums"][key].as_f64().unwrap());
        // The bounds 1 ± clip come from an f32 clip.
        near("sums", &[stats.loss, stats.clipped, stats.ratio, stats.k1, stats.k3], &sums, tolerance.max(1e-6));
    }
    for case in each("value") {
        let [value, old, returns] = ["value", "old", "returns"].map(|key| numbers(&case[key]));
        let clip = case["clip"].as_f64().unwrap() as f32;
        let (sum, gradient) = ppo::value(device, &upload(device, &value), &[old], &[returns], clip, 1.0).unwrap();
        near("dvalue", &download(device, &gradient), &numbers(&case["dvalue"]), tolerance.max(1e-6));
        near("value loss", &[sum.read(device).unwrap()], &[case["sums"]["loss"].as_f64().unwrap()], tolerance.max(1e-6));
    }
    for case in each("whiten") {
        // One-token responses with no value: the advantage is the reward, and whitening is all that is left.
        let rows: Vec<Vec<f64>> = numbers(&case["values"]).into_iter().map(|x| vec![x]).collect();
        let zeros = vec![vec![0.0]; rows.len()];
        let (whitened, returns) = ppo::advantages(device, &rows, &zeros, 1.0, 1.0, true).unwrap();
        near("whitened", &whitened.concat(), &numbers(&case["whitened"]), tolerance);
        near("returns are not whitened", &returns.concat(), &rows.concat(), tolerance);
    }
    for case in each("reward") {
        let lengths = lengths(&case["lengths"]);
        let [logprob, reference, expected] = ["logprob", "reference", "reward"].map(|key| split(&numbers(&case[key]), &lengths));
        let (scores, beta) = (numbers(&case["scores"]), case["beta"].as_f64().unwrap());
        for i in 0..lengths.len() {
            close("rewards", &ppo::token_rewards(&logprob[i], &reference[i], scores[i], beta), &expected[i], 1e-12);
        }
    }
}

#[test]
fn the_arithmetic_of_ppo_is_that_of_autograd() {
    proximal(&Cpu::<f64>::new(), Rule::within(DOUBLE));
    proximal(&Cpu::<f32>::new(), Rule::within(SINGLE));
}

on_kernels!(decoders, adapters, full_training, lora_training, rewards, greedy, proximal);

#[test]
fn schedules_are_those_of_transformers() {
    let expected = read_json(&root().join("schedules.json")).unwrap();
    let [total, warmup] = ["steps", "warmup"].map(|key| expected[key].as_u64().unwrap() as usize);
    for (name, schedule) in [("cosine", Schedule::Cosine), ("linear", Schedule::Linear)] {
        let rate = LearningRate { schedule, peak: 1.0, warmup, total };
        let found: Vec<f64> = (0..total).map(|step| rate.at(step)).collect();
        close(name, &found, &numbers(&expected[name]), 1e-12);
    }
}
