//! Plans against what devices really allocate, against hand arithmetic, and on the command line.

#[allow(dead_code)] // It also makes whole checkpoints; a plan needs none.
#[path = "support/program.rs"]
mod program;
#[allow(dead_code)] // It also tells which kernels were launched.
#[path = "support/simulated.rs"]
mod simulated;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use half::bf16;
use program::{arg, err, out, refused, repairity};
use repairity::batch::Order;
use repairity::checkpoint::Storage;
use repairity::comm::{self, Hub, Shared, Threads};
use repairity::device::cuda::Act;
use repairity::device::meter::{Class, Held, Style, Work};
use repairity::device::{Cpu, Cuda, Device, Meter};
use repairity::generate::{Request, Settings, generate};
use repairity::model::config::Architecture;
use repairity::model::{Adapter, Config, Decoder, ScalarHead};
use repairity::optim::Hyper;
use repairity::plan::cards::{Card, Machine};
use repairity::plan::stages::{self, Metered, View};
use repairity::plan::{Models, Question, STAGES, shapes};
use repairity::prompt::{self, Example};
use repairity::recipe::{Critic, Recipe, Recompute, RewardMemory, Schedule, Train};
use repairity::record::{Message, Preference, Problem, write_jsonl};
use repairity::stage::sft::{Supervised, lora_config};
use repairity::stage::train::{self, Plan};
use repairity::stage::{self, Files};
use repairity::telemetry::set_quiet;
use repairity::tokenizer::Tokenizer;
use serde_json::Value;
use simulated::Simulated;

/// What a plan promises of stages whose own code it follows call by call; a buffer that only one of the two has shows beyond it. Of
/// stages whose own code it runs, every byte is the same.
const PROMISED: f64 = 0.02;
const EXACT: f64 = 0.0;

fn simulator<A: Act>() -> Cuda<A> {
    Cuda::with_driver(Simulated::new::<A>(0) as Arc<_>).unwrap()
}

/// Runs a check on the CPU, and on the GPU's launch code in the simulator in both builds.
macro_rules! everywhere {
    ($check:ident) => {
        set_quiet(true);
        $check(Cpu::<f32>::new, Style::Cpu);
        $check(simulator::<f32>, Style::Cuda);
        $check(simulator::<bf16>, Style::Cuda);
    };
}

fn assert_agrees<D: Device>(what: &str, device: &D, planned: &Held, tolerance: f64) {
    let (real, planned) = (device.memory().1, planned.total());
    let away = planned as f64 / real as f64 - 1.0;
    println!("{what} on {}: {planned} planned, {real} allocated at most: {:+.3} %", device.name(), 100.0 * away);
    assert!(away.abs() <= tolerance, "{what} on {}: {planned} planned, {real} allocated", device.name());
}

fn recipe() -> Recipe {
    let mut recipe = Recipe::default();
    recipe.lora.rank = 2;
    recipe.lora.targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"].map(String::from).to_vec();
    recipe
}

fn models() -> [Config; 2] {
    [Architecture::Qwen2, Architecture::Llama].map(|architecture| tiny::config(architecture, 300))
}

/// Two steps of the real trainer on records that all have the recipe's length.
fn train_sft<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe, config: &Config) {
    let settings = &recipe.sft;
    let folder = tempfile::tempdir().unwrap();
    let decoder = match recipe.shard_frozen {
        true => {
            let path = folder.path().join("model");
            Decoder::random(&Cpu::<f32>::new(), config.clone(), 1)
                .unwrap()
                .save(&Cpu::<f32>::new(), &path, Storage::F32, Vec::new())
                .unwrap();
            Decoder::load_shared(device, comm, &path, true).unwrap()
        }
        false => Decoder::random(device, config.clone(), 1).unwrap(),
    };
    let adapter = (settings.train == Train::Lora).then(|| Adapter::new(device, lora_config(recipe), config, 2).unwrap());
    let example = |_| Example { tokens: vec![3; settings.max_tokens], mask: vec![true; settings.max_tokens] };
    let ranks = comm.group().ranks();
    let count = settings.sequences_per_device * settings.accumulation * ranks * 2;
    let examples: Vec<Example> = (0..count).map(example).collect();
    let validation = if settings.validate { (0..4096 / settings.max_tokens).map(example).collect() } else { Vec::new() };
    let mut task = Supervised {
        decoder,
        adapter,
        ids: vec![String::new(); count],
        examples,
        validation,
        recompute: settings.recompute,
        base: String::new(),
        storage: Storage::F32,
    };
    let order = Order {
        count,
        per_micro: settings.sequences_per_device,
        accumulation: settings.accumulation * ranks,
        epochs: 1,
        seed: 1,
        shuffle: false,
    };
    let plan = Plan {
        name: "sft",
        order,
        schedule: Schedule::Constant,
        learning_rate: 1e-3,
        warmup_ratio: 0.0,
        hyper: Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 },
        train: settings.train,
        checkpoint_every: 0,
        keep: 1,
        patience: None,
        seed: 1,
        result: folder.path().join("result"),
        folder: folder.path().join("state"),
        metrics: folder.path().join("metrics.jsonl"),
        identity: String::new(),
    };
    assert_eq!(train::fit(device, comm, &mut task, &plan).unwrap().steps, 2);
}

fn sft_agrees<D: Device<Acc = f32>>(open: impl Fn() -> D, style: Style) {
    // The simulator is slow, and Llama differs in nothing that a device would see.
    for config in models().into_iter().take(if style == Style::Cpu { 2 } else { 1 }) {
        for (train, recompute) in [
            (Train::Lora, Recompute::None),
            (Train::Lora, Recompute::Mlp),
            (Train::Lora, Recompute::Block),
            (Train::Full, Recompute::None),
            (Train::Full, Recompute::Block),
        ] {
            let mut recipe = recipe();
            (recipe.sft.train, recipe.sft.recompute, recipe.sft.validate) = (train, recompute, false);
            (recipe.sft.max_tokens, recipe.sft.sequences_per_device, recipe.sft.accumulation) = (21, 2, 2);
            let device = open();
            train_sft(&device, &comm::solo(), &recipe, &config);
            let meter = Meter::<D::Act>::new(style);
            let planned = stages::sft(&meter, &recipe, &config, 1).unwrap().held;
            assert_agrees(&format!("sft {train:?} {recompute:?} {:?}", config.architecture), &device, &planned, EXACT);
            assert_static(&recipe, &config, &planned, size_of::<D::Act>());
        }
    }
}

/// What lives as long as the stage, to the byte.
fn assert_static(recipe: &Recipe, config: &Config, planned: &Held, act: usize) {
    let adapter: usize = {
        let (c, f, q, kv) = (config.hidden, config.intermediate, config.heads.q_width(), config.heads.kv_width());
        let module = |name: &String| match name.as_str() {
            "q_proj" | "o_proj" => c + q,
            "v_proj" => c + kv,
            _ => c + f,
        };
        config.layers * recipe.lora.rank * recipe.lora.targets.iter().map(module).sum::<usize>()
    };
    let (frozen, trained) = match recipe.sft.train {
        Train::Lora => (config.parameters(), adapter),
        Train::Full => (0, config.parameters()),
    };
    assert_eq!(planned.of(Class::Frozen), act * frozen);
    assert_eq!(planned.of(Class::Trained), act * trained);
    assert_eq!((planned.of(Class::Masters), planned.of(Class::Moments)), (4 * trained, 8 * trained));
    // Beside the gradients a number for each parameter: its square.
    let squares = planned.of(Class::Gradients) - 4 * trained;
    assert!(squares > 0 && squares.is_multiple_of(4) && squares <= 4 * 100, "{squares} bytes beside the gradients");
}

#[test]
fn the_peak_of_a_training_step_is_the_planned_one() {
    everywhere!(sft_agrees);
}

/// Rank 0 of several, whose share is never the smaller one.
#[test]
fn the_peak_of_a_rank_is_the_planned_one() {
    set_quiet(true);
    let config = tiny::config(Architecture::Llama, 300);
    for ranks in [2, 4] {
        for (train, shared) in [(Train::Lora, false), (Train::Lora, true), (Train::Full, false)] {
            let mut recipe = Recipe { shard_frozen: shared, ..recipe() };
            (recipe.sft.train, recipe.sft.recompute, recipe.sft.validate) = (train, Recompute::Block, false);
            (recipe.sft.max_tokens, recipe.sft.sequences_per_device, recipe.sft.accumulation) = (21, 2, 2);
            let held = Hub::new(0, ranks, ranks)
                .run(|group| {
                    let device = Cpu::<f32>::new();
                    let comm: Shared<Cpu<f32>> = Arc::new(Threads::new(group));
                    train_sft(&device, &comm, &recipe, &config);
                    Ok(device.memory().1)
                })
                .unwrap();
            let planned = stages::sft(&Meter::<f32>::new(Style::Cpu), &recipe, &config, ranks).unwrap().held;
            assert_eq!(planned.total(), held[0], "{ranks} ranks, {train:?}, shared out: {shared}");
        }
    }
}

#[test]
fn the_peak_of_a_validation_is_planned_where_it_is_the_highest() {
    set_quiet(true);
    let config = tiny::config(Architecture::Qwen2, 300);
    let mut recipe = recipe();
    (recipe.sft.max_tokens, recipe.sft.recompute, recipe.sft.accumulation) = (128, Recompute::Block, 1);
    let device = Cpu::<f32>::new();
    train_sft(&device, &comm::solo(), &recipe, &config);
    let planned = stages::sft(&Meter::<f32>::new(Style::Cpu), &recipe, &config, 1).unwrap().held;
    assert_agrees("sft with validation", &device, &planned, EXACT);
    recipe.sft.validate = false;
    let without = stages::sft(&Meter::<f32>::new(Style::Cpu), &recipe, &config, 1).unwrap().held;
    assert!(without.total() < planned.total() / 2);
}

fn reward_agrees<D: Device<Acc = f32>>(open: impl Fn() -> D, style: Style) {
    for (train, recompute) in [(Train::Full, Recompute::Mlp), (Train::Lora, Recompute::None)] {
        let folder = tempfile::tempdir().unwrap();
        let host = Cpu::<f32>::new();
        let model = tiny::decoder(&host, tiny::config(Architecture::Llama, 300), 3);
        let mut config = model.config.clone();
        let head = ScalarHead::random(&host, config.hidden, 4).unwrap();
        tiny::reward_model(&host, &folder.path().join("reward"), model, &head);
        config.classifier = true;
        let mut recipe = Recipe { out: folder.path().join("run"), ..recipe() };
        recipe.reward.model = folder.path().join("reward");
        (recipe.reward.train, recipe.reward.recompute, recipe.reward.epochs) = (train, recompute, 1);
        (recipe.reward.sequences_per_device, recipe.reward.accumulation, recipe.reward.validation) = (2, 2, 0.0);
        recipe.lora.dropout = 0.0;
        let pair = |id: usize| Preference {
            id: id.to_string(),
            prompt: "Fix it.".into(),
            chosen: "zzzzzzzz".into(),
            rejected: "qqqqqqqq".into(),
            label: 1.0,
            judgments: Vec::new(),
            extra: Default::default(),
        };
        write_jsonl(&Files::of(&recipe).preferences(), &(0..4).map(pair).collect::<Vec<_>>()).unwrap();
        let tokenizer = Tokenizer::load(&recipe.reward.model).unwrap();
        let read = |answer: &str| prompt::reward_tokens(&tokenizer, "Fix it.", answer, usize::MAX).unwrap().len();
        assert_eq!(read("zzzzzzzz"), read("qqqqqqqq"));
        recipe.reward.max_tokens = read("zzzzzzzz");

        let device = open();
        assert_eq!(stage::reward::run(&device, &comm::solo(), &recipe).unwrap().steps, 1);
        let planned = stages::reward(&Meter::<D::Act>::new(style), &recipe, &config, 1).unwrap().held;
        assert_agrees(&format!("reward {train:?} {recompute:?}"), &device, &planned, PROMISED);
    }
}

#[test]
fn the_peak_of_the_reward_stage_is_the_planned_one() {
    everywhere!(reward_agrees);
}

fn answers_agree<D: Device<Acc = f32>>(open: impl Fn() -> D, style: Style) {
    for config in models() {
        let (recipe, device) = (recipe(), open());
        let decoder = Decoder::random(&device, config.clone(), 5).unwrap();
        let adapter = Adapter::new(&device, lora_config(&recipe), &config, 6).unwrap();
        let sampling = repairity::device::Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let settings = Settings { sampling, max_new_tokens: 5, eos: Vec::new(), batch: 3 };
        let requests: Vec<Request> = (0..3).map(|key| Request { prompt: vec![1; 19], key }).collect();
        generate(&device, &decoder, Some(&adapter), &requests, &settings, &mut |_, _| Ok(())).unwrap();
        let meter = Meter::<D::Act>::new(style);
        let planned = stages::answers(&meter, &recipe, &config, (3, 19, 5), 1).unwrap().held;
        assert_agrees(&format!("answers {:?}", config.architecture), &device, &planned, EXACT);
        let cache = 2 * config.layers * 3 * (19 + 5) * config.heads.kv_width() * size_of::<D::Act>();
        assert_eq!(planned.of(Class::Cache), cache);
    }
}

#[test]
fn the_peak_of_generation_is_the_planned_one() {
    everywhere!(answers_agree);
}

fn ppo_agrees<D: Device<Acc = f32>>(open: impl Fn() -> D, style: Style) {
    for (critic, recompute) in [(Critic::Adapter, Recompute::None), (Critic::Head, Recompute::Block)] {
        iteration_agrees(&open(), style, critic, recompute);
    }
}

fn iteration_agrees<D: Device<Acc = f32>>(device: &D, style: Style, critic: Critic, recompute: Recompute) {
    let (folder, host) = (tempfile::tempdir().unwrap(), Cpu::<f32>::new());
    let mut recipe = Recipe { out: folder.path().join("run"), ..recipe() };
    recipe.policy.model = folder.path().join("model");
    let policy = tiny::policy(&host, &recipe.policy.model, 28).config;
    let adapter = Adapter::new(&host, lora_config(&recipe), &policy, 7).unwrap();
    adapter.save(&host, &folder.path().join("adapter"), "model", None).unwrap();
    let reward = tiny::decoder(&host, tiny::config(Architecture::Llama, 270), 30);
    let of_reward = reward.config.clone();
    let head = ScalarHead::random(&host, of_reward.hidden, 31).unwrap();
    tiny::reward_model(&host, &folder.path().join("reward"), reward, &head);
    let ppo = &mut recipe.ppo;
    (ppo.adapter, ppo.reward_model) = (Some(folder.path().join("adapter")), Some(folder.path().join("reward")));
    (ppo.iterations, ppo.critic_warmup, ppo.checkpoint_every, ppo.max_new_tokens) = (1, 0, 0, 6);
    (ppo.prompts_per_iteration, ppo.sequences_per_device, ppo.minibatches, ppo.epochs) = (4, 4, 1, 2);
    (ppo.critic, ppo.recompute) = (critic, recompute);
    recipe.prompt.instruction = Some("Fix.".into());
    let problems: Vec<Problem> = (0..4).map(tiny::problem).collect();
    write_jsonl(&Files::of(&recipe).problems(), &problems).unwrap();
    let tokenizer = Tokenizer::load(&recipe.policy.model).unwrap();
    let length = |problem: &Problem| {
        let text = prompt::user_text(problem, "Fix.");
        prompt::prompt_tokens(&tokenizer, &[Message::user(text.as_str())]).unwrap().len()
    };
    let prompt = length(&problems[0]);
    assert!(problems.iter().all(|problem| length(problem) == prompt));

    stage::ppo::run(device, &comm::solo(), &recipe).unwrap();
    let metrics = fs::read_to_string(Files::of(&recipe).metrics()).unwrap();
    let line: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert_eq!(line["length"], 6.0, "a response ended by itself, which no plan can know");
    let meter = Meter::<D::Act>::new(style);
    let planned = stages::ppo(&meter, &recipe, (&policy, &of_reward), prompt, 1).unwrap().held;
    assert_agrees(&format!("ppo {critic:?} {recompute:?}"), device, &planned, PROMISED);
}

#[test]
fn the_peak_of_an_iteration_of_ppo_is_the_planned_one() {
    everywhere!(ppo_agrees);
}

/// Buffers start at multiples of 512 bytes, in the smallest free piece that is large enough.
#[test]
fn gaps_are_those_of_the_pool() {
    let meter = Meter::<bf16>::new(Style::Cuda);
    // The device's own 16 bytes lie at 0.
    let first = meter.empty::<u32>(1000).unwrap();
    let second = meter.empty::<u32>(1).unwrap();
    assert_eq!(meter.gaps(), (512 + 4096 + 4) - (16 + 4000 + 4));
    drop(first);
    // 4,100 bytes do not fit into the 4,096 that came free: they come after the second buffer.
    let third = meter.empty::<u32>(1025).unwrap();
    assert_eq!((meter.memory(), meter.gaps()), ((4120, 4120), (512 + 4096 + 512 + 4100) - 4120));
    drop((second, third));
    assert_eq!(Meter::<f32>::new(Style::Cpu).gaps(), 0);
}

/// What is tried out to find a change that helps is metered as far as its memory shows, which must be all of it.
#[test]
fn memory_alone_is_the_memory_of_the_whole() {
    let (recipe, [policy, reward]) = (recipe(), models());
    for ranks in [1, 3] {
        let held = |whole| {
            let view = View { ranks, whole };
            let answers = stages::answers(&Meter::<bf16>::new(Style::Cuda), &recipe, &policy, (5, 40, 700), view).unwrap();
            let ppo = stages::ppo(&Meter::<bf16>::new(Style::Cuda), &recipe, (&policy, &reward), 40, view).unwrap();
            (answers.held, answers.gaps, ppo.held, ppo.gaps)
        };
        assert_eq!(held(true), held(false));
    }
}

fn step_of(train: Train, recompute: Recompute, config: &Config) -> (Recipe, Metered) {
    let mut recipe = recipe();
    (recipe.sft.train, recipe.sft.recompute) = (train, recompute);
    (recipe.sft.max_tokens, recipe.sft.sequences_per_device, recipe.sft.accumulation) = (50, 3, 2);
    let metered = stages::sft(&Meter::<bf16>::new(Style::Cuda), &recipe, config, 1).unwrap();
    (recipe, metered)
}

fn products(work: &Work, operators: &[&str]) -> u64 {
    operators.iter().map(|operator| work.of(operator).0.products).sum()
}

/// A map of n outputs and k inputs takes 2 n k operations a token forward, as many for the gradient of its inputs, and as many for
/// that of its weights: with the N weights that are multiplied, 6 N T in all. Attention of a sequence of L tokens has L (L + 1) / 2
/// pairs, with two products forward and five backward, each of 2 q d operations a pair.
#[test]
fn operations_are_those_of_hand_arithmetic() {
    for config in models() {
        let (c, f, heads) = (config.hidden as u64, config.intermediate as u64, config.heads);
        let (q, qkv, v) = (heads.q_width() as u64, heads.qkv_width() as u64, config.vocab as u64);
        // The last token of a sequence predicts nothing: T tokens pass through the blocks, and 49 of each 50 meet the head.
        let (tokens, predicted, layers) = (300, 6 * 49, config.layers as u64);
        let blocks = layers * (c * qkv + q * c + 3 * c * f);
        let pairs = 6 * layers * 50 * 51 / 2;

        let (_, step) = step_of(Train::Full, Recompute::None, &config);
        let work = &step.parts[0].work;
        assert_eq!(products(work, &["lora_linear_fwd"]), 2 * blocks * tokens);
        assert_eq!(products(work, &["linear_dweight"]), 2 * blocks * tokens);
        assert_eq!(products(work, &["lora_linear_bwd"]), 2 * blocks * tokens);
        assert_eq!(products(work, &["lora_linear_fwd", "lora_linear_bwd", "linear_dweight"]), 6 * blocks * tokens);
        assert_eq!(products(work, &["linear_logprob_fwd"]), 2 * c * v * predicted);
        // Logits again, and both gradients.
        assert_eq!(products(work, &["linear_logprob_bwd"]), 6 * c * v * predicted);
        assert_eq!(products(work, &["attention_fwd"]), 4 * q * pairs);
        assert_eq!(products(work, &["attention_bwd"]), 10 * q * pairs);
        assert_eq!(work.of("adamw").0.bytes, (2 + 7 * 4) * config.parameters() as u64);
        assert_eq!((work.of("embed_fwd").1, work.of("attention_bwd").1, step.parts[0].tokens), (2, 2 * layers, 300));

        // A frozen base has no gradient of its weights; with q, v, o, gate and down adapted at rank 2 each branch adds 2 r (n + k)
        // forward and twice that backward. Below the first block nothing is trained: its q, k, v give no gradient to their input.
        let (recipe, step) = step_of(Train::Lora, Recompute::None, &config);
        let work = &step.parts[0].work;
        let kv = heads.kv_width() as u64;
        let (of_qkv, others) = (2 * c + q + kv, (q + c) + (c + f) + (f + c));
        let rank = recipe.lora.rank as u64;
        let branches = 2 * rank * tokens * layers * (of_qkv + others);
        let unneeded = 2 * tokens * c * qkv + 2 * rank * tokens * 2 * c;
        assert_eq!(products(work, &["lora_linear_fwd"]), 2 * blocks * tokens + branches);
        assert_eq!(products(work, &["lora_linear_bwd"]), 2 * blocks * tokens + 2 * branches - unneeded);
        assert_eq!(products(work, &["linear_dweight"]), 0);
        assert_eq!(products(work, &["linear_logprob_bwd"]), 4 * c * v * predicted);

        // What is computed again is gate and up, or that and attention with q, k, v and o. The product of down never is: backward needs
        // its input alone, and of its branch the narrow side.
        let (_, mlp) = step_of(Train::Lora, Recompute::Mlp, &config);
        let (_, block) = step_of(Train::Lora, Recompute::Block, &config);
        let of = |metered: &Metered, operators: &[&str]| products(&metered.parts[0].work, operators);
        let gate_up = 2 * tokens * layers * (2 * c * f + rank * (c + f));
        let down = 2 * tokens * layers * (c * f + rank * (f + c));
        assert_eq!(of(&mlp, &["lora_linear_fwd"]), products(work, &["lora_linear_fwd"]) + gate_up);
        assert_eq!(of(&block, &["lora_linear_fwd"]), 2 * products(work, &["lora_linear_fwd"]) - down);
        assert_eq!(of(&block, &["attention_fwd"]), 2 * products(work, &["attention_fwd"]));
        for again in [&mlp, &block] {
            assert_eq!(of(again, &["lora_narrow"]), 2 * tokens * layers * rank * f);
        }
        assert_eq!(work.of("lora_narrow").1, 0);
    }
}

/// SwiGLU's output is down's input, which backward asks for only where something of down is trained.
#[test]
fn swiglu_is_computed_again_only_where_down_is_trained() {
    let calls = |targets: &[&str], recompute: Recompute, config: &Config| {
        let mut recipe = recipe();
        recipe.lora.targets = targets.iter().map(|target| target.to_string()).collect();
        (recipe.sft.recompute, recipe.sft.max_tokens, recipe.sft.sequences_per_device) = (recompute, 50, 3);
        let metered = stages::sft(&Meter::<bf16>::new(Style::Cuda), &recipe, config, 1).unwrap();
        metered.parts[0].work.of("swiglu_fwd").1
    };
    for config in models() {
        let once = calls(&["q_proj"], Recompute::None, &config);
        assert_eq!(calls(&["q_proj", "gate_proj"], Recompute::Mlp, &config), once);
        assert_eq!(calls(&["q_proj", "down_proj"], Recompute::Mlp, &config), 2 * once);
    }
}

/// Writing reads the weights once a token, and the cache as far as it is filled: prompt + 1, prompt + 2, ...
#[test]
fn bytes_of_decoding_are_those_of_hand_arithmetic() {
    let config = tiny::config(Architecture::Llama, 300);
    let mut recipe = recipe();
    recipe.sft.train = Train::Full;
    let (batch, prompt, new) = (4u64, 10u64, 6u64);
    let meter = Meter::<bf16>::new(Style::Cuda);
    let asked = (batch as usize, prompt as usize, new as usize);
    let work = &stages::answers(&meter, &recipe, &config, asked, 1).unwrap().parts[0].work;
    let heads = config.heads;
    let (kv, q, qkv) = (heads.kv_width() as u64, heads.q_width() as u64, heads.qkv_width() as u64);
    let filled: u64 = (1..new).map(|written| prompt + written).sum();
    let (decoded, calls) = work.of("attention_decode");
    assert_eq!(calls, 5 * config.layers as u64);
    assert_eq!(decoded.bytes, config.layers as u64 * batch * (filled * 2 * kv + 5 * (q + qkv)) * 2);
    assert_eq!(decoded.products, config.layers as u64 * batch * filled * 4 * q);
    // The first token comes from reading the prompt.
    assert_eq!(work.of("logits").1, new);
    let weights: u64 = 2 * (config.parameters() - 2 * 300 * config.hidden) as u64;
    let norms = 2 * (2 * config.layers as u64 + 1) * config.hidden as u64;
    let read = work.of("lora_linear_fwd").0.bytes;
    let tokens = batch * prompt + batch * (new - 1);
    let (c, f) = (config.hidden as u64, config.intermediate as u64);
    let activations = 2 * config.layers as u64 * tokens * ((c + qkv) + (q + c) + (c + 2 * f) + (f + c));
    assert_eq!(read, new * (weights - norms) + activations);
}

/// A floor in seconds, by hand: one product bound by arithmetic, one bound by memory.
#[test]
fn seconds_are_the_larger_of_arithmetic_and_bytes() {
    let card = Card::find("h100-80gb").unwrap();
    let meter = Meter::<bf16>::new(Style::Cuda);
    let product = |t: usize, n: usize, k: usize| {
        let (x, w, mut y) = (meter.empty(t * k).unwrap(), meter.empty(n * k).unwrap(), meter.empty(t * n).unwrap());
        meter.lora_linear_fwd(&mut y, &mut meter.empty(0).unwrap(), &x, &w, None, &[], None, (t, n, k)).unwrap();
        repairity::plan::time::of_work(&card, &meter.take_work())
    };
    let large = product(4096, 4096, 4096);
    assert!((large.compute - 2.0 * 4096f64.powi(3) / 989.4e12).abs() < 1e-12 && large.memory == 0.0, "{large:?}");
    let narrow = product(1, 4096, 4096);
    assert!((narrow.memory - 2.0 * (4096.0 * 4096.0 + 8192.0) / 3.35e12).abs() < 1e-12 && narrow.compute == 0.0, "{narrow:?}");
}

fn question(name: &str, sets: &[&str], card: &str, gpus: usize) -> Question {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name);
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let recipe = Recipe::load(&path, &sets).unwrap();
    let shape = |folder: &Path| shapes::of(folder).unwrap().config;
    let models = Models { policy: shape(&recipe.policy.model), reward: shape(&recipe.reward.model) };
    let machine = Machine { card: Card::find(card).unwrap(), gpus, nodes: 1 };
    Question { recipe, models, machine, prompt: None }
}

/// Both readings of the paper fit its machine. Without the keys that see to it, answers leave no room for as many caches, and the
/// reward model's 13 GB none beside the policy's 66 GB.
#[test]
fn the_paper_s_recipes_on_the_paper_s_machine() {
    for recipe in ["paper-8xh100.toml", "paper-section-3.3.toml"] {
        let plan = question(recipe, &[], "h100-80gb", 8).answer(&STAGES).unwrap();
        assert_eq!(plan.refusal(), None, "{recipe}");
    }
    let keys = ["candidates.batch=32", "evaluate.batch=32", "ppo.reward_memory=resident", "ppo.recompute=mlp"];
    let plan = question("paper-8xh100.toml", &keys, "h100-80gb", 8).answer(&STAGES).unwrap();
    let fits: Vec<(&str, bool)> = plan.stages.iter().map(|stage| (stage.name, stage.fits)).collect();
    assert_eq!(fits, [("sft", true), ("candidates", false), ("reward", true), ("ppo", false), ("evaluate", false)]);
    assert_eq!(plan.stages[1].ways, ["candidates.batch = 8", "shard_frozen = true"]);
    assert_eq!(plan.stages[3].ways, ["ppo.reward_memory = \"sharded\"", "shard_frozen = true"]);
}

/// ZeRO-2 on 8 ranks: an eighth of masters, moments and gradients, of CodeLlama's 6,607,343,616 body and 4,096 head weights. Memory
/// is highest where backward begins, when all activations are still there: the whole gradients of the last block, of the embedding, of
/// the last norm and of the head are there beside that.
#[test]
fn ranks_share_what_zero_2_shares() {
    let recipe = Recipe::default();
    let config = shapes::of(Path::new("models/CodeLlama-7b-hf")).unwrap().config;
    let held = |ranks| stages::reward(&Meter::<bf16>::new(Style::Cuda), &recipe, &config, ranks).unwrap().held;
    let (one, eight) = (held(1), held(8));
    let (block, table) = (4 * 4096 * 4096 + 3 * 4096 * 11_008 + 2 * 4096, 32_016 * 4096);
    let all = 32 * block + table + 2 * 4096;
    assert_eq!(one.of(Class::Masters), 4 * all);
    assert_eq!(eight.of(Class::Masters), 4 * all / 8);
    assert_eq!(one.of(Class::Moments) - eight.of(Class::Moments), 8 * all / 8 * 7);
    // A number for each tensor beside the gradients.
    let tensors = 32 * 6 + 3;
    assert_eq!(one.of(Class::Gradients), 4 * (all + tensors));
    assert_eq!(eight.of(Class::Gradients), 4 * (all / 8 + tensors));
    assert_eq!(one.of(Class::Trained), eight.of(Class::Trained));
    let work = |held: &Held| held.of(Class::Activations) + held.of(Class::Workspace);
    assert_eq!(work(&eight) - work(&one), 4 * (block + table + 2 * 4096));
}

/// Frozen blocks spread over 8 ranks leave an eighth of each, the tables and the last norm; two whole ones are there where a block
/// is at work.
#[test]
fn ranks_share_frozen_blocks() {
    let mut recipe = Recipe::default();
    let config = shapes::of(Path::new("models/Qwen2.5-Coder-7B")).unwrap().config;
    let held = |recipe: &Recipe| stages::sft(&Meter::<bf16>::new(Style::Cuda), recipe, &config, 8).unwrap();
    let whole = held(&recipe);
    recipe.shard_frozen = true;
    let spread = held(&recipe);
    let (c, f) = (3584, 18_944);
    let block = c * (c + 1024) + (c + 1024) + c * c + 3 * c * f + 2 * c;
    let outside = 2 * 152_064 * c + c;
    assert_eq!(whole.held.of(Class::Frozen), 2 * (28 * block + outside));
    assert_eq!(spread.held.of(Class::Frozen), 2 * (28 * block / 8 + outside));
    let work = |metered: &Metered| metered.held.of(Class::Activations) + metered.held.of(Class::Workspace);
    assert_eq!(work(&spread) - work(&whole), 2 * 2 * block);
    // Gathered once forward and once backward for each of 8 micro-batches.
    let gathered = spread.parts[0].network - whole.parts[0].network;
    assert_eq!(gathered, 16 * 2 * 28 * block as u64);
}

#[test]
fn what_does_not_fit_is_refused_with_keys_that_help() {
    // Longer sequences than one card has room for.
    let keys = ["sft.max_tokens=8192", "gpus=1"];
    let question = question("paper-8xh100.toml", &keys, "h100-80gb", 1);
    let plan = question.answer(&["sft"]).unwrap();
    let stage = &plan.stages[0];
    assert!(!stage.fits);
    assert_eq!(stage.ways, ["sft.recompute = \"block\"", "gpus = 2 and shard_frozen = true"]);
    let why = plan.refusal().unwrap();
    assert!(why.starts_with("sft needs ") && why.contains("(frozen weights 65.5 GB, activations 29."), "{why}");
    assert!(why.ends_with("it fits with sft.recompute = \"block\", or with gpus = 2 and shard_frozen = true"), "{why}");
    // What is said is so.
    let mut helped = question.clone();
    helped.recipe.sft.recompute = Recompute::Block;
    assert!(helped.answer(&["sft"]).unwrap().stages[0].fits);
}

#[test]
fn the_host_keeps_a_reward_model_that_is_only_needed_to_score() {
    let mut question = question("paper-8xh100.toml", &[], "h200-141gb", 1);
    let peak = |question: &Question| question.answer(&["ppo"]).unwrap().stages.remove(0);
    let resident = peak(&question);
    question.recipe.ppo.reward_memory = RewardMemory::Host;
    let away = peak(&question);
    // CodeLlama-7b without its output matrix, in bf16.
    let reward = 2 * (6_738_546_688usize - 32_016 * 4096);
    let saved = resident.bytes - away.bytes;
    // And what the pool loses between buffers, which other sizes lie beside now.
    assert!(saved > reward && saved < reward + reward / 20, "{saved} saved of {reward}");
    assert!((away.phases[1].seconds.host - reward as f64 / 64e9).abs() < 1e-3, "{:?}", away.phases[1]);
    assert_eq!(resident.phases[1].seconds.host, 0.0);
}

#[test]
fn the_command_prints_a_plan_and_refuses_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/paper-8xh100.toml");
    let output = repairity(&["plan", recipe, "--gpu", "h200-141gb"]);
    let (text, said) = (out(&output), err(&output));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(text.starts_with("8 x h200-141gb: 137."), "{text}");
    for stage in STAGES {
        assert!(text.contains(&format!("\n{stage}: ")), "{stage} is not in\n{text}");
    }
    assert!(
        said.contains("policy.model: models/Qwen2.5-Coder-32B-Instruct is not here; planned with the published shape"),
        "{said}"
    );

    let output = repairity(&["--quiet", "plan", recipe, "--gpu", "h100-80gb", "--gpus", "1", "--stage", "ppo", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(said.starts_with("error: ppo needs ") && said.lines().count() == 1, "{said}");
    assert!(said.contains("; it fits with gpus = 8"), "{said}");
    let plan: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&plan["stages"][0]["name"], &plan["stages"][0]["fits"]), (&"ppo".into(), &false.into()));
    let classes: u64 = plan["stages"][0]["memory"].as_array().unwrap().iter().map(|share| share["bytes"].as_u64().unwrap()).sum();
    assert_eq!(plan["stages"][0]["bytes"], classes);
    let phases: Vec<&str> =
        plan["stages"][0]["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["rollout", "scoring", "measuring", "epochs"]);

    let misspelt = repairity(&["plan", recipe, "--gpu", "h100-80g"]);
    assert_eq!((misspelt.status.code(), out(&misspelt).as_str()), (Some(2), ""));
    assert!(err(&misspelt).contains("h100-80gb"), "{}", err(&misspelt));
    let missing = format!("policy.model={}", folder.path().join("none").display());
    let error = refused(&["plan", recipe, "--set", &missing]);
    assert!(error.contains(arg(&folder.path().join("none"))) && error.contains("config.json"), "{error}");
    assert!(refused(&["plan", recipe, "--gpus", "0"]).contains("--gpus: a number of at least 1 expected"));
    assert!(refused(&["plan", recipe, "--set", "sft.max_token=4"]).contains("max_tokens"));
}

/// A folder with a config.json and nothing else is enough.
#[test]
fn a_config_is_all_that_a_plan_needs_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny::config(Architecture::Qwen2, 300);
    fs::write(folder.path().join("config.json"), config.to_json(Storage::Bf16).to_string()).unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/quickstart.toml");
    let policy = format!("policy.model={}", folder.path().display());
    let reward = format!("reward.model={}", folder.path().display());
    let output = repairity(&["plan", recipe, "--gpu", "h100-80gb", "--set", &policy, "--set", &reward]);
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

/// Every command of docs/scaling.md prints what the page says. With REPAIRITY_WRITE_DOCS=1 the page is written instead.
#[test]
fn the_page_on_scaling_is_what_plan_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/scaling.md");
    let page = fs::read_to_string(&path).unwrap();
    let (mut written, mut inside, mut ran) = (String::new(), false, 0);
    for line in page.lines() {
        inside = if line.starts_with("```") { line == "```console" } else { inside };
        let command = line.strip_prefix("$ repairity ").filter(|_| inside);
        if inside && command.is_none() && line != "```console" {
            continue;
        }
        written += &format!("{line}\n");
        let Some(command) = command else { continue };
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let output = Command::new(env!("CARGO_BIN_EXE_repairity")).args(&arguments).current_dir(root).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{command}: {}", err(&output));
        assert!(!output.stdout.is_empty(), "{command}: {}", err(&output));
        written += &out(&output);
        ran += 1;
    }
    if std::env::var("REPAIRITY_WRITE_DOCS").is_ok_and(|value| value == "1") {
        fs::write(&path, written).unwrap();
    } else {
        assert_eq!(page, written, "REPAIRITY_WRITE_DOCS=1 writes docs/scaling.md anew");
    }
    assert_eq!(ran, 48, "commands on the page");
}
