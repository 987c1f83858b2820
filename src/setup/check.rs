//! Whether this machine can run a recipe: what it reads, what it needs, what it would run again, and what is unusual in it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::checkpoint::Tensors;
use crate::device::Meter;
use crate::device::meter::{Class, Style};
use crate::error::Result;
use crate::model::{Config, Decoder};
use crate::plan::stages::Metered;
use crate::plan::table::gigabytes;
use crate::plan::{self, Models, shapes};
use crate::problem;
use crate::problem::toolchain::{self, Language};
use crate::recipe::{DeviceChoice, Provider, Recipe, SandboxChoice, Train};
use crate::run::{self, StageSpec};
use crate::sandbox::{Mode, Sandbox, python::Python};
use crate::stage::{Files, problems::options};
use crate::tokenizer::Tokenizer;

use super::ask::described;
use super::here::{Here, disk, question};

/// How a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As it has to be.
    Ok,
    /// It runs, and is worth a look.
    Warn,
    /// It does not run.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How it stands.
    pub standing: Standing,
    /// What: a key, a stage, a part of the machine.
    pub what: String,
    /// What was found, and what to do about it.
    pub found: String,
}

/// The stages that a recipe is for, in order: only what leads to the models that it measures, and nothing that files replace.
pub fn stages(recipe: &Recipe) -> Vec<&'static str> {
    if recipe.pretrain.is_some() {
        return vec!["pretrain"];
    }
    let measures = |name: &str| recipe.evaluate.models.iter().any(|model| model == name);
    let trains = recipe.sft.data.is_some() || recipe.problems.split[0] > 0.0;
    let sft = trains && (measures("sft") || measures("ppo"));
    let ppo = trains && measures("ppo");
    let reward = ppo && recipe.ppo.reward_model.is_none();
    let wanted = |name: &&str| match *name {
        "pretrain" => false,
        "collect" | "filter" => sft && recipe.sft.data.is_none(),
        "sft" => sft,
        "candidates" | "judge" => reward && recipe.reward.data.is_none(),
        "reward" => reward,
        "ppo" => ppo,
        _ => true,
    };
    run::STAGES.into_iter().filter(wanted).collect()
}

/// Looks at everything. `specs` are those of [`stages`]. Nothing is written, asked or trained, and no memory of a GPU is taken.
pub fn check(recipe: &Recipe, specs: &[StageSpec], here: &Here) -> Result<Vec<Found>> {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    let runs = |name: &str| names.contains(&name);
    let mut all = Findings::default();
    all.ok("stages", names.join(", "));
    let on_gpu = device(&mut all, recipe, here);
    if runs("pretrain") {
        memory_free(&mut all, recipe, here);
        folder(&mut all, recipe, specs)?;
        return Ok(all.0);
    }
    suite(&mut all, recipe);
    programs(&mut all, recipe);
    let policy = model(&mut all, "policy.model", &recipe.policy.model, true);
    let reward = if runs("reward") { model(&mut all, "reward.model", &recipe.reward.model, false) } else { policy.clone() };
    elsewhere(&mut all, recipe, &names);
    let files = Files::of(recipe);
    // What was answered is not asked for again.
    if (runs("collect") && !files.traces().exists()) || (runs("judge") && !files.preferences().exists()) {
        teacher(&mut all, recipe);
    }
    if let (Some(policy), Some(reward)) = (policy, reward) {
        positions(&mut all, recipe, &policy, &names);
        memory(&mut all, recipe, &Models { policy, reward }, &names, here, on_gpu)?;
    }
    unusual(&mut all, recipe, &names);
    folder(&mut all, recipe, specs)?;
    Ok(all.0)
}

#[derive(Default)]
struct Findings(Vec<Found>);

impl Findings {
    fn add(&mut self, standing: Standing, what: impl Into<String>, found: impl Into<String>) {
        self.0.push(Found { standing, what: what.into(), found: found.into() });
    }

    fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(Standing::Ok, what, found);
    }

    fn warn(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(Standing::Warn, what, found);
    }

    fn missing(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(Standing::Missing, what, found);
    }
}

/// Whether a GPU computes.
fn device(all: &mut Findings, recipe: &Recipe, here: &Here) -> bool {
    let lacks = || here.lacks.clone().unwrap_or_else(|| "this machine has none".into());
    match (recipe.device, here.gpus.len()) {
        (DeviceChoice::Cuda, 0) => {
            all.missing("device", format!("cuda: {}; --set device=cpu where the model is small", lacks()));
            return true;
        }
        (DeviceChoice::Cpu, 1..) => all.warn("device", format!("cpu, though there is {}", here.describe())),
        (DeviceChoice::Cpu | DeviceChoice::Auto, 0) => all.ok("device", here.describe()),
        (DeviceChoice::Cuda | DeviceChoice::Auto, count) if count < recipe.gpus => {
            all.missing("gpus", format!("{} asked for, {count} here: --set gpus={count}", recipe.gpus));
        }
        (DeviceChoice::Cuda | DeviceChoice::Auto, _) => all.ok("device", here.describe()),
    }
    recipe.device != DeviceChoice::Cpu && !here.gpus.is_empty()
}

fn suite(all: &mut Findings, recipe: &Recipe) {
    let settings = &recipe.problems;
    let options = options(settings);
    let seed = settings.seed.unwrap_or(recipe.seed);
    let problems = match problem::load(&settings.suite, settings.path.as_deref(), seed, settings.count, &options) {
        Ok(problems) => problems,
        Err(error) => return all.missing("problems", error.to_string()),
    };
    let count = problems.len() as f64;
    let [train, validation, test] = settings.split.map(|share| (share * count).round());
    let parts = format!("{count} problems of {}: about {train} training, {validation} validation, {test} test", settings.suite);
    all.ok("problems", parts);
    let languages: BTreeSet<&str> = problems.iter().map(|problem| problem.language.as_str()).collect();
    for language in languages.into_iter().filter_map(Language::named) {
        match toolchain::find(language) {
            Ok(found) => all.ok(format!("toolchain {}", language.name()), found.version),
            Err(lacks) => all.missing(format!("toolchain {}", language.name()), lacks),
        }
    }
}

/// What runs and holds candidate programs.
fn programs(all: &mut Findings, recipe: &Recipe) {
    match Python::find() {
        Ok(python) => all.ok("python", format!("{} ({})", python.executable.display(), python.version)),
        Err(error) => all.missing("python", error.to_string()),
    }
    match (recipe.sandbox, Sandbox::new(Mode::Strict)) {
        (SandboxChoice::None, _) => {
            all.warn("sandbox", "none: programs that a model wrote run with your rights; --set sandbox=strict");
        }
        (SandboxChoice::Strict, Ok(sandbox)) if sandbox.lacks().is_empty() => all.ok("sandbox", sandbox.layers().join(", ")),
        (SandboxChoice::Strict, Ok(sandbox)) => all.warn("sandbox", [sandbox.layers(), sandbox.lacks()].concat().join("; ")),
        (SandboxChoice::Strict, Err(error)) => all.missing("sandbox", error.to_string()),
    }
}

/// A model's folder: its shape, its tokenizer, and whether all its tensors are there and of the right shapes, by the files' headers.
fn model(all: &mut Findings, key: &str, folder: &Path, with_head: bool) -> Option<Config> {
    let known = match shapes::of(folder) {
        Ok(known) => known,
        Err(error) => {
            all.missing(key, error.to_string());
            return None;
        }
    };
    let config = known.config;
    if known.built_in {
        let what =
            format!("{} is not here; a folder in the Hugging Face layout expected ({})", folder.display(), described(&config));
        all.missing(key, what);
        return Some(config);
    }
    let tokenizer = Tokenizer::load(folder).map(drop);
    match tokenizer.and_then(|()| tensors(folder, &config, with_head)) {
        Ok(None) => all.ok(key, format!("{}: {}", folder.display(), described(&config))),
        Ok(Some(wrong)) => all.missing(key, format!("{}: {wrong}; download it again", folder.display())),
        Err(error) => all.missing(key, error.to_string()),
    }
    Some(config)
}

/// The first tensor that lacks or has another shape.
fn tensors(folder: &Path, config: &Config, with_head: bool) -> Result<Option<String>> {
    let found = Tensors::open_folder(folder)?;
    let decoder = Decoder::shaped(&Meter::<f32>::new(Style::Cpu), None, config.clone(), with_head && !config.classifier)?;
    let parts = decoder.params().into_iter().flat_map(|param| param.parts.iter());
    let wrong = parts.filter_map(|part| match found.shape(&part.name) {
        None => Some(format!("tensor {} is missing", part.name)),
        Some(shape) if shape != part.shape => {
            Some(format!("tensor {}: shape {:?} expected, {shape:?} found", part.name, part.shape))
        }
        Some(_) => None,
    });
    Ok(wrong.into_iter().next())
}

/// Files and folders that stand in for what an earlier stage would write.
fn elsewhere(all: &mut Findings, recipe: &Recipe, names: &[&str]) {
    let given = [
        ("sft.data", &recipe.sft.data),
        ("sft.adapter", &recipe.sft.adapter),
        ("reward.data", &recipe.reward.data),
        ("ppo.adapter", &recipe.ppo.adapter),
        ("ppo.reward_model", &recipe.ppo.reward_model),
        ("evaluate.adapter", &recipe.evaluate.adapter),
    ];
    for (key, path) in given {
        match path {
            Some(path) if path.exists() => all.ok(key, path.display().to_string()),
            Some(path) => all.missing(key, format!("{} is not there", path.display())),
            None => {}
        }
    }
    let files = Files::of(recipe);
    let measures = |name: &str| recipe.evaluate.models.iter().any(|model| model == name);
    let trained = names.contains(&"sft") || files.sft_result(recipe.sft.train).exists();
    if measures("sft") && !trained && recipe.evaluate.adapter.is_none() {
        all.missing(
            "evaluate.adapter",
            "nothing is trained here, so `sft` is an adapter from elsewhere: --set evaluate.adapter=DIR",
        );
    }
    if measures("ppo") && !names.contains(&"ppo") && !files.ppo_adapter().exists() {
        let path = files.ppo_adapter();
        all.missing(
            "evaluate.models",
            format!("`ppo` is measured, no stage here trains it, and {} is not there", path.display()),
        );
    }
}

fn teacher(all: &mut Findings, recipe: &Recipe) {
    let settings = &recipe.teacher;
    match crate::stage::check_teacher(recipe) {
        Ok(()) => all.ok(
            "teacher",
            match (settings.provider, &settings.path) {
                (Provider::Scripted, _) => "scripted: asks nobody".into(),
                (Provider::Recorded, Some(path)) => format!("{}: asks nobody", path.display()),
                _ => format!("{}; its key is set or not needed; budget {} USD", settings.model, settings.budget_usd),
            },
        ),
        Err(error) => all.missing("teacher", error.to_string()),
    }
    if settings.provider == Provider::Anthropic && settings.model == "claude-3-7-sonnet-20250219" {
        all.warn("teacher.model", "the paper's model is retired: --set teacher.model=... names a current one");
    }
}

/// Sequences longer than a model was made for.
fn positions(all: &mut Findings, recipe: &Recipe, policy: &Config, names: &[&str]) {
    let most = policy.max_positions;
    let lengths = [
        ("sft", "sft.max_tokens", recipe.sft.max_tokens),
        ("candidates", "candidates.max_new_tokens", recipe.candidates.max_new_tokens),
        ("ppo", "ppo.max_new_tokens", recipe.ppo.max_new_tokens),
        ("evaluate", "evaluate.max_new_tokens", recipe.evaluate.max_new_tokens),
    ];
    for (stage, key, tokens) in lengths {
        if names.contains(&stage) && tokens > most {
            all.warn(key, format!("{tokens}, and the model was made for sequences of {most}"));
        }
    }
}

/// Memory of each stage against the machine's, and what checkpoints need of the disk.
fn memory(all: &mut Findings, recipe: &Recipe, models: &Models, names: &[&str], here: &Here, on_gpu: bool) -> Result<()> {
    let absent = recipe.device == DeviceChoice::Cuda && here.gpus.is_empty();
    let (style, room) = (if on_gpu { Style::Cuda } else { Style::Cpu }, here.room(on_gpu));
    let asked = question(recipe, models, recipe.gpus);
    let (mut checkpoints, mut results) = (0, 0);
    for stage in plan::STAGES.into_iter().filter(|stage| names.contains(stage)) {
        let metered = asked.memory(stage, style)?;
        let (kept, result) = on_disk(stage, &metered, recipe);
        checkpoints = checkpoints.max(kept);
        results += result;
        // Threads that stand for GPUs share the memory of one machine.
        let needed = metered.needed() * if on_gpu { 1 } else { recipe.gpus };
        let what = format!("memory {stage}");
        if absent {
            all.warn(what, format!("{} on each GPU; `repairity plan` compares it with a card's", gigabytes(needed)));
        } else if needed > room {
            let remedy =
                if on_gpu { "`repairity plan` names keys that make it fit" } else { "smaller batches, or another machine" };
            all.missing(what, format!("{} needed, {} there: {remedy}", gigabytes(needed), gigabytes(room)));
        } else {
            all.ok(what, format!("{} needed, {} there", gigabytes(needed), gigabytes(room)));
        }
    }
    let (needed, free) = ((checkpoints + results) as u64, disk(&recipe.out)?);
    let text = format!("about {} for models and checkpoints, {} free", gigabytes(needed as usize), gigabytes(free as usize));
    if needed > free {
        all.missing("disk", text)
    } else {
        all.ok("disk", text)
    }
    Ok(())
}

/// Bytes that a stage's checkpoints take while it runs, with the one being written, and bytes of what it leaves.
fn on_disk(stage: &str, metered: &Metered, recipe: &Recipe) -> (usize, usize) {
    if !["sft", "reward", "ppo"].contains(&stage) {
        return (0, 0);
    }
    let of_all = |class| metered.held.of(class) * recipe.gpus;
    let (masters, moments) = (of_all(Class::Masters), of_all(Class::Moments));
    ((recipe.keep_checkpoints + 1) * (masters + moments), masters)
}

/// Pretraining's room is not planned; what there is, is told.
fn memory_free(all: &mut Findings, recipe: &Recipe, here: &Here) {
    all.ok("memory", format!("{} free", gigabytes(here.memory)));
    if let Ok(free) = disk(&recipe.out) {
        all.ok("disk", format!("{} free", gigabytes(free as usize)));
    }
}

/// Choices that the field does not make.
fn unusual(all: &mut Findings, recipe: &Recipe, names: &[&str]) {
    let runs = |name: &str| names.contains(&name);
    let rates = [
        ("sft", "sft.learning_rate", recipe.sft.learning_rate, recipe.sft.train),
        ("reward", "reward.learning_rate", recipe.reward.learning_rate, recipe.reward.train),
        ("ppo", "ppo.learning_rate", recipe.ppo.learning_rate, recipe.sft.train),
    ];
    // Wide enough for models of a few million parameters, which take larger steps.
    for (stage, key, rate, train) in rates {
        let (what, low, high) = match train {
            Train::Lora => ("an adapter", 1e-6, 3e-3),
            Train::Full => ("a whole model", 1e-7, 1e-3),
        };
        if runs(stage) && !(low..=high).contains(&rate) {
            all.warn(key, format!("{rate:e}; {what} is usually trained at {low:e} to {high:e}"));
        }
    }
    if runs("ppo") && recipe.ppo.kl == 0.0 {
        all.warn("ppo.kl", "0: nothing holds the policy near the fine-tuned model");
    }
    if runs("sft") && recipe.sft.data.is_none() && recipe.problems.split[1] == 0.0 {
        all.warn("problems.split", "no validation problems: nothing tells which epoch was best");
    }
    if recipe.evaluate.samples > 1 && recipe.evaluate.temperature == 0.0 {
        all.warn("evaluate.samples", "several answers at temperature 0 are the same answer");
    }
}

/// What the run folder holds already.
fn folder(all: &mut Findings, recipe: &Recipe, specs: &[StageSpec]) -> Result<()> {
    let out = recipe.out.display();
    if !recipe.out.join("manifest.json").exists() {
        all.ok("out", format!("{out}: nothing has run there yet"));
        return Ok(());
    }
    let standing = run::standing(&recipe.out, specs)?;
    let mut done = Vec::new();
    for (spec, standing) in specs.iter().zip(standing) {
        match standing {
            run::Standing::Done => done.push(spec.name),
            run::Standing::New => {}
            run::Standing::Unfinished => all.ok(format!("stage {}", spec.name), "goes on from its checkpoint"),
            run::Standing::Again { why } => all.warn(format!("stage {}", spec.name), format!("would run again: {why}")),
        }
    }
    let done = if done.is_empty() { "nothing".into() } else { done.join(", ") };
    all.ok("out", format!("{out}: done and skipped while what they read stays: {done}"));
    Ok(())
}
