//! Where time goes, as it is told: every operator of a step, as often as the meter counts it; spans that nest; traces that a viewer
//! reads; and on `Cuda` in the simulator, under a clock that the test turns, the exact times of every kernel.

#[path = "support/ground.rs"]
#[allow(dead_code)] // It runs whole stages too.
mod ground;
#[path = "support/program.rs"]
#[allow(dead_code)] // It makes whole checkpoints too.
mod program;
#[path = "support/simulated.rs"]
#[allow(dead_code)] // It tells which kernels were launched.
mod simulated;
#[path = "support/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ground::Ground;
use program::{arg, out, refused, repairity};
use repairity::comm;
use repairity::device::meter::{Cost, Style};
use repairity::device::record::{Kind, Recorder, Span};
use repairity::device::{Cpu, Cuda, Device, Meter};
use repairity::model::Adapter;
use repairity::model::{Config, Decoder};
use repairity::optim::{Hyper, Optimizer, Sum};
use repairity::profile;
use repairity::recipe::{Recipe, Recompute};
use repairity::stage::sft::{self, Supervised};
use repairity::stage::train::Task;
use repairity::telemetry::trace;
use repairity::tokenizer::Tokenizer;
use serde_json::Value;
use simulated::Simulated;

/// A recorder whose clock goes on by a millisecond at each look.
fn ticking() -> Arc<Recorder> {
    let ticks = AtomicU64::new(0);
    Arc::new(Recorder::with_clock(move || ticks.fetch_add(1, Ordering::Relaxed) as f64 * 1e-3))
}

/// Calls of each operator, and what they cost together.
fn calls(spans: &[Span]) -> BTreeMap<String, (u64, Cost)> {
    let mut calls = BTreeMap::new();
    for span in spans.iter().filter(|span| span.kind == Kind::Operator) {
        add(&mut calls, &span.name, 1, span.cost.unwrap());
    }
    calls
}

fn add(calls: &mut BTreeMap<String, (u64, Cost)>, operator: &str, count: u64, cost: Cost) {
    let (before, sum) = calls.entry(operator.to_string()).or_default();
    (*before, *sum) = (*before + count, sum.plus_times(cost, count));
}

/// The same step on a meter: the calls that it counts, so many times over. All records are equally long.
fn metered(recipe: &Recipe, times: u64) -> BTreeMap<String, (u64, Cost)> {
    let meter = Meter::<f32>::new(Style::Cpu);
    let config = Config::load(&recipe.policy.model).unwrap();
    let tokenizer = Tokenizer::load(&recipe.policy.model).unwrap();
    let sft::Data { examples, ids, .. } = sft::read(recipe, &tokenizer).unwrap();
    let decoder = Decoder::shaped(&meter, None, config.clone(), true).unwrap();
    let adapter = Some(Adapter::shaped(&meter, sft::lora_config(recipe), &config).unwrap());
    let (recompute, storage) = (recipe.sft.recompute, repairity::checkpoint::Storage::F32);
    let mut task =
        Supervised { decoder, adapter, examples, ids, validation: Vec::new(), recompute, base: String::new(), storage };
    let hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 };
    let (mut optimizer, mut grads) = Optimizer::new(&meter, &comm::solo(), &mut task.params(), hyper, Sum::Whole).unwrap();
    meter.take_work();
    // The second step of the stage, as one that is profiled is: two micro-batches of one record each.
    optimizer.clear(&meter, &mut grads).unwrap();
    let mut losses = Vec::new();
    for record in 0..2 {
        let loss = optimizer
            .backward(&meter, &mut grads, record == 1, |grads, on_layer| task.micro(&meter, &[record], 1.0, 0, grads, on_layer));
        losses.push(loss.unwrap());
    }
    optimizer.measure(&meter, &grads, &losses).unwrap();
    optimizer.update(&meter, &mut task.params(), &grads, 1.0, 1e-3).unwrap();
    let mut calls = BTreeMap::new();
    for (operator, cost, count) in meter.take_work().calls() {
        add(&mut calls, operator, count * times, cost);
    }
    calls
}

/// Spans lie inside those that they began in; operators lie in none of their kind.
fn assert_nested(spans: &[Span]) {
    for span in spans.iter().filter(|span| span.kind != Kind::Kernel) {
        assert!(span.begin <= span.end, "{span:?}");
        let Some(parent) = span.parent.map(|index| &spans[index]) else { continue };
        assert!(parent.begin <= span.begin && span.end <= parent.end, "{span:?} in {parent:?}");
        assert!(span.kind > parent.kind || span.kind == Kind::Phase, "{span:?} in {parent:?}");
    }
}

#[test]
fn every_operator_of_a_step_is_there_as_often_as_the_meter_counts_it() {
    let ground = Ground::new();
    let mut recipe = ground.run("profile");
    (recipe.lora.dropout, recipe.sft.recompute) = (0.0, Recompute::Mlp);
    let recorder = ticking();
    let device = Cpu::<f32>::new().recording(recorder.clone()).unwrap();
    let spans = profile::run(&device, &recorder, &recipe, "sft", 2).unwrap();
    assert_nested(&spans);
    let expected = metered(&recipe, 2);
    assert_eq!(calls(&spans), expected);
    assert!(expected.len() > 12, "{expected:?}");

    let found = profile::of_spans(&device, "sft", &spans);
    let sum: f64 = found.operators.iter().map(|operator| operator.row.seconds).sum();
    let total: f64 = found.steps.iter().sum();
    assert_eq!(found.steps.len(), 2);
    assert!(sum <= total && sum > 0.0, "{sum} s in operators of {total} s");
    assert!((sum + found.outside - total).abs() < 1e-9, "{found:?}");
    assert!(found.gaps.is_none() && found.operators.iter().all(|operator| operator.kernels.is_empty()));
    // Each look at the clock is a millisecond: an operator without spans inside lasts one, and its rates follow.
    for operator in &found.operators {
        assert!((operator.row.seconds - operator.row.calls as f64 * 1e-3).abs() < 1e-9, "{operator:?}");
    }
    let phases: Vec<&str> = found.phases.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(phases, ["forward", "loss", "backward", "measure", "update"]);
}

/// The simulator's clock goes on by 10 microseconds in a kernel, by 100 in a product, and by 1 behind each mark.
#[test]
fn kernels_have_their_own_times_and_their_operator() {
    let ground = Ground::new();
    let mut recipe = ground.run("profile");
    (recipe.sft.accumulation, recipe.sft.recompute) = (1, Recompute::None);
    let recorder = ticking();
    let machine = Simulated::new::<f32>(0);
    let device = Cuda::<f32>::with_driver(machine).unwrap().recording(recorder.clone()).unwrap();
    let spans = profile::run(&device, &recorder, &recipe, "sft", 1).unwrap();
    assert_nested(&spans);
    let kernels: Vec<&Span> = spans.iter().filter(|span| span.kind == Kind::Kernel).collect();
    assert!(kernels.len() > 50, "{} kernels", kernels.len());
    for kernel in &kernels {
        let expected = if kernel.name.starts_with("matmul") { 101e-6 } else { 11e-6 };
        assert!((kernel.seconds() - expected).abs() < 1e-12, "{kernel:?}");
    }
    for pair in kernels.windows(2) {
        assert!((pair[1].begin - pair[0].end - 1e-6).abs() < 1e-12, "{pair:?}");
    }
    let found = profile::of_spans(&device, "sft", &spans);
    let busy: f64 = kernels.iter().map(|kernel| kernel.seconds()).sum();
    assert!((found.busy - busy).abs() < 1e-9 && found.waits > 0.0, "{found:?}");
    let gaps = found.gaps.unwrap();
    assert_eq!(gaps.count, kernels.len() - 1);
    assert!((gaps.seconds - 1e-6 * gaps.count as f64).abs() < 1e-9, "{gaps:?}");

    let of = |name: &str| found.operators.iter().find(|operator| operator.row.name == name).unwrap_or_else(|| panic!("{name}"));
    // The first norm of the first block has no residual to add; two blocks and the last norm have four more.
    let norm = of("rmsnorm_fwd");
    let kernels: Vec<(&str, usize)> = norm.kernels.iter().map(|kernel| (kernel.name.as_str(), kernel.calls)).collect();
    assert_eq!((norm.row.calls, &kernels[..]), (5, &[("rmsnorm_residual_fwd", 4), ("rmsnorm_fwd", 1)][..]));
    let attention = of("attention_bwd");
    assert!(attention.kernels.len() > 1, "{attention:?}");
    let inside: f64 = attention.kernels.iter().map(|kernel| kernel.seconds).sum();
    assert!((inside - attention.row.seconds).abs() < 1e-12, "{attention:?}");
    // Products are counted where they are known: those of a plain map are those of its matmul.
    let linear = of("lora_linear_fwd");
    assert!(linear.row.tflops.unwrap() > 0.0 && linear.kernels.iter().any(|kernel| kernel.name == "matmul nt"), "{linear:?}");
}

#[test]
fn a_device_that_records_computes_the_same() {
    let fill = |device: &Cpu<f32>| {
        let mut x = device.upload(&[1.0f32, -2.0, 3.0]).unwrap();
        let y = device.upload(&[0.5f32, 0.5, 0.5]).unwrap();
        device.add(&mut x, &y).unwrap();
        device.download(&x).unwrap()
    };
    let recorder = ticking();
    let recording = Cpu::<f32>::new().recording(recorder.clone()).unwrap();
    assert_eq!(fill(&Cpu::new()), fill(&recording));
    let spans = recorder.take().unwrap();
    let cost = Cost { products: 0, other: 3, bytes: 36, launches: 1 };
    assert_eq!(calls(&spans), BTreeMap::from([("add".to_string(), (1, cost))]));
    assert_eq!(recorder.take().unwrap(), []);
}

/// What the trace has to be for Perfetto: complete events with whole numbers of process and thread, each inside the one around it.
fn assert_trace(text: &str) -> Vec<Value> {
    let trace: Value = serde_json::from_str(text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap().clone();
    assert!(events.iter().any(|event| event["ph"] == "M" && event["name"] == "process_name"));
    let mut open: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let (begin, duration) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        assert!(duration >= 0.0 && event["pid"].is_u64() && event["name"].is_string(), "{event}");
        let around = open.entry(event["tid"].as_u64().unwrap()).or_default();
        // Ends are rounded to the nanosecond.
        while around.last().is_some_and(|(_, end)| *end <= begin + 1e-3 * 0.5) {
            around.pop();
        }
        assert!(around.last().is_none_or(|(_, end)| begin + duration <= end + 2e-3), "{event} is longer than what it lies in");
        around.push((begin, begin + duration));
    }
    events
}

#[test]
fn the_command_prints_a_table_and_writes_a_trace() {
    let ground = Ground::new();
    let folder = tempfile::tempdir().unwrap();
    let recipe = ground.run("run");
    let (path, trace) = (folder.path().join("recipe.toml"), folder.path().join("trace.json"));
    std::fs::write(&path, Recipe { device: repairity::recipe::DeviceChoice::Cpu, ..recipe }.to_toml()).unwrap();
    let output = repairity(&["profile", arg(&path), "--steps", "2", "--trace", arg(&trace)]);
    assert_eq!(output.status.code(), Some(0), "{}", program::err(&output));
    let text = out(&output);
    assert!(text.starts_with("sft on cpu (") && text.lines().next().unwrap().contains(": 2 steps in "), "{text}");
    for name in ["operator ", "lora_linear_fwd ", "attention_bwd ", "adamw ", "phase forward ", "outside operators ", "NVML: "] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
    }
    let events = assert_trace(&std::fs::read_to_string(&trace).unwrap());
    let count = |kind: &str| events.iter().filter(|event| event["cat"] == kind).count();
    assert_eq!((count("stage"), count("step"), count("kernel")), (1, 2, 0));
    assert!(count("operator") > 50 && count("phase") > 10);

    // The other stages, and data that no run has made.
    for stage in ["reward", "ppo"] {
        let output = repairity(&["profile", arg(&path), "--steps", "1", "--stage", stage]);
        assert_eq!(output.status.code(), Some(0), "{stage}: {}", program::err(&output));
        assert!(out(&output).starts_with(&format!("{stage} on cpu (")), "{}", out(&output));
    }
    let elsewhere = format!("out={}", arg(&folder.path().join("nothing")));
    let small = ["--set", &elsewhere, "--set", "sft.max_tokens=12", "--set", "sft.accumulation=1", "--steps", "1"];
    let output = repairity(&[&["profile", arg(&path)], &small[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", program::err(&output));
    assert!(program::err(&output).contains("random tokens in its place"), "{}", program::err(&output));

    let text = refused(&["profile", arg(&folder.path().join("none.toml"))]);
    assert!(text.contains("none.toml"), "{text}");
    assert_eq!(refused(&["profile", arg(&path), "--steps", "0"]), "error: --steps: a number of at least 1 expected");
    let text = refused(&["profile", arg(&path), "--trace", arg(&folder.path().join("no/trace.json"))]);
    assert!(text.contains("no/trace.json"), "{text}");
}

#[test]
fn a_trace_has_kernels_and_counters_on_lines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let span = |name: &'static str, kind, begin, end, parent| Span { name: name.into(), kind, begin, end, parent, cost: None };
    let spans = [
        span("step", Kind::Step, 0.0, 1e-3, None),
        span("add", Kind::Operator, 1e-4, 2e-4, Some(0)),
        span("add", Kind::Kernel, 5e-4, 6.5e-4, Some(1)),
    ];
    let reading = repairity::telemetry::nvml::Reading { at: 2e-4, values: [Some(1980.0), None, Some(650.5), None, None] };
    trace::write(&path, &spans, &[reading], "a GPU").unwrap();
    let events = assert_trace(&std::fs::read_to_string(&path).unwrap());
    let kernel = events.iter().find(|event| event["cat"] == "kernel").unwrap();
    assert_eq!((kernel["ts"].as_f64(), kernel["dur"].as_f64()), (Some(500.0), Some(150.0)));
    let host = events.iter().find(|event| event["cat"] == "operator").unwrap();
    assert_ne!(kernel["tid"], host["tid"]);
    let counters: Vec<_> =
        events.iter().filter(|event| event["ph"] == "C").map(|event| (&event["name"], &event["args"])).collect();
    assert_eq!(counters.len(), 2);
    assert_eq!((counters[0].0, &counters[0].1["MHz"]), (&"SM clock".into(), &1980.0.into()));
}
