//! `repairity collect`, `filter`, `sft`, ...: one stage of a run. What each stage reads, writes and depends on is listed here, for
//! the runner to know what is done.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use repairity::comm::{self, Hub, Shared, World};
use repairity::device::Device;
use repairity::device::cuda::gpu;
use repairity::digest;
use repairity::error::{Error, Result};
use repairity::recipe::{DeviceChoice, Recipe, Train};
use repairity::report;
use repairity::run::{self, Runner, STAGES, StageSpec};
use repairity::stage::{self, Files};
use repairity::telemetry::{self, gpus, nvml, words};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::RecipeArgs;
use super::device::{self, Chosen, Ranked, on};

/// The arguments of every stage.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Runs one stage, unless it is done already.
    pub fn run(self, name: &'static str) -> anyhow::Result<ExitCode> {
        let recipe = self.recipe.load()?;
        if ["collect", "evaluate"].contains(&name) {
            ready(&recipe, &["problems", name])?;
            // Measuring a model from elsewhere starts here, without any stage before it.
            run(&recipe, false, Some("problems"), Some("problems"))?;
        }
        run(&recipe, self.recipe.fresh, Some(name), Some(name))
    }
}

/// The stages that compute on the recipe's device.
const COMPUTING: [&str; 6] = ["pretrain", "sft", "candidates", "reward", "ppo", "evaluate"];

/// Runs the stages from `from` to `until` that are not done already, and prints the report if it is one of them.
pub fn run(recipe: &Recipe, fresh: bool, from: Option<&str>, until: Option<&str>) -> anyhow::Result<ExitCode> {
    if advance(recipe, fresh, from, until)? && until.is_none_or(|until| until == "report") {
        let report = std::fs::read(Files::of(recipe).report())?;
        std::io::stdout().write_all(&report)?;
        telemetry::note(&format!("report: {}", Files::of(recipe).page().display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The same without printing. Whether this process is the one that speaks for the run, and the run is of more than a base model.
pub fn advance(recipe: &Recipe, fresh: bool, from: Option<&str>, until: Option<&str>) -> anyhow::Result<bool> {
    // A recipe that only makes a base model has nothing else to do.
    let only_pretrain = recipe.pretrain.is_some();
    let wanted = |name: &&str| (*name == "pretrain") == only_pretrain;
    let names: Vec<&'static str> = STAGES[run::between(from, until)?].iter().copied().filter(wanted).collect();
    let world = World::from_environment()?;
    let computes = names.iter().any(|name| COMPUTING.contains(name));
    if world.process == 0 {
        ready(recipe, &names)?;
    } else if !computes {
        return Ok(false);
    }
    // Nothing else may take a GPU's memory: asking a teacher can last for hours.
    let (choice, gpus) = if computes { (recipe.device, recipe.gpus) } else { (DeviceChoice::Cpu, 1) };
    let (hub, own) = match computes {
        true => {
            let own = device::own(&world, choice, gpus)?;
            let timeout = Duration::from_secs_f64(recipe.join_timeout_s);
            let job = digest::hex(&Sha256::digest(recipe.to_toml()));
            (comm::join(&world, own.len(), &job, timeout)?, own)
        }
        false => (Hub::new(0, 1, 1), 0..1),
    };
    let before = hub.first();
    hub.run(|group| {
        if !group.is_first() {
            telemetry::mute();
        }
        let chosen = device::open(choice, own.start + group.rank() - before)?.deterministic(recipe.deterministic);
        let gpus = match &chosen {
            Chosen::Cpu(_) => 0..0,
            Chosen::Cuda(_) => own.clone(),
        };
        on!(chosen, device => {
            let comm = device.join(group)?;
            let done = match comm.group().is_first() {
                true => lead(Runner::open(recipe, fresh)?.between(from, until)?, &device, &comm, recipe, &names, gpus),
                false => follow(&device, &comm, recipe),
            };
            // Before the communicator goes, which may take a while: the others are waiting in collectives.
            done.inspect_err(|error| comm.group().fail(error))
        })
    })?;
    Ok(world.process == 0 && !only_pretrain)
}

/// Rank 0: runs the stages that are not done, and calls the other ranks to those that compute. `gpus` are those that this process
/// drives; none where it computes on the CPU.
fn lead<D: Device>(
    mut runner: Runner,
    device: &D,
    comm: &Shared<D>,
    recipe: &Recipe,
    names: &[&'static str],
    gpus: Range<usize>,
) -> Result<()> {
    let group = comm.group();
    runner.set_device(match group.ranks() {
        1 => device.name(),
        ranks => format!("{ranks} x {}", device.name()),
    });
    if names.len() > 1 {
        runner.announce(&format!("{}, policy {}", recipe.problems.suite, recipe.policy.model.display()), names);
    }
    telemetry::detail(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        format!("run: {}, {} rank(s), {threads} processors", device.name(), group.ranks())
    });
    for name in names {
        runner.stage(&spec(name, recipe), || {
            let mut samples = None;
            if COMPUTING.contains(name) {
                group.broadcast("stage", name.as_bytes().to_vec())?;
                samples = watch(name, recipe, gpus.clone());
            }
            let done = body(name, device, comm, recipe);
            drop(samples);
            if COMPUTING.contains(name) {
                telemetry::detail(|| {
                    format!("{name}: {} of the device's memory at most", words::bytes(device.memory().1 as u64))
                });
            }
            done
        })?;
    }
    group.broadcast("stage", Vec::new()).map(drop)
}

/// Begins to write down what these GPUs say of themselves, if they can be read.
fn watch(stage: &str, recipe: &Recipe, gpus: Range<usize>) -> Option<gpus::Log> {
    if gpus.is_empty() {
        return None;
    }
    let source = gpus.map(|ordinal| gpu::uuid(ordinal).map_err(|e| e.to_string())).collect::<std::result::Result<_, _>>();
    match source.and_then(nvml::Gpus::open) {
        Ok(source) => Some(gpus::Log::start(&Files::of(recipe).gpu(), stage, source, gpus::INTERVAL)),
        Err(why) => {
            telemetry::detail(|| format!("{stage}: no gpu.jsonl: {why}"));
            None
        }
    }
}

/// Every other rank: takes part in the stages that rank 0 calls it to.
fn follow<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<()> {
    loop {
        let called = comm.group().broadcast("stage", Vec::new())?;
        match STAGES.into_iter().find(|name| name.as_bytes() == &called[..]) {
            Some(name) => drop(body(name, device, comm, recipe)?),
            None => return Ok(()),
        }
    }
}

/// What stages read that no stage writes has to be there before the first one starts, and a teacher that will be asked has to have
/// its key: nobody should pay for traces and learn then that the model's folder is misspelt.
fn ready(recipe: &Recipe, names: &[&'static str]) -> Result<()> {
    for name in names {
        let spec = spec(name, recipe);
        if let Some(path) = spec.inputs.iter().find(|path| !path.starts_with(&recipe.out) && !path.exists()) {
            let what = format!("{} is missing: the recipe has to name a file or folder that is there", path.display());
            return Err(Error::input(format!("stage {name}"), what));
        }
    }
    let files = Files::of(recipe);
    let asks = |name: &&str| match *name {
        "collect" => !files.traces().exists(),
        "judge" => !files.preferences().exists(),
        _ => false,
    };
    if names.iter().any(asks) { stage::check_teacher(recipe) } else { Ok(()) }
}

/// Runs a stage; what came of it, for a person.
fn body<D: Device>(name: &str, device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<String> {
    match name {
        "pretrain" => stage::pretrain::run(device, comm, recipe).map(|fitted| fitted.to_string()),
        "problems" => stage::problems::run(recipe),
        "collect" => stage::collect::run(recipe),
        "filter" => stage::filter::run(recipe),
        "sft" => stage::sft::run(device, comm, recipe).map(|fitted| fitted.to_string()),
        "candidates" => stage::candidates::run(device, comm, recipe),
        "judge" => stage::judge::run(recipe),
        "reward" => stage::reward::run(device, comm, recipe).map(|fitted| fitted.to_string()),
        "ppo" => stage::ppo::run(device, comm, recipe),
        "evaluate" => stage::evaluate::run(device, comm, recipe),
        "report" => report::run(recipe).map(|()| String::new()),
        other => Err(Error::input("stage", format!("{other} is not one of {}", STAGES.join(", ")))),
    }
}

/// What a stage reads, writes and depends on.
pub fn spec(name: &'static str, recipe: &Recipe) -> StageSpec {
    let files = Files::of(recipe);
    let policy = recipe.policy.model.clone();
    let sft_result = files.sft_result(recipe.sft.train);
    let adapter = match recipe.sft.train {
        Train::Lora => recipe.evaluate.adapter.clone().unwrap_or_else(|| sft_result.clone()),
        Train::Full => sft_result.clone(),
    };
    let (seed, prompt, lora) = (recipe.seed, &recipe.prompt, &recipe.lora);
    let some = |paths: Vec<Option<PathBuf>>| paths.into_iter().flatten().collect::<Vec<_>>();
    let list = |paths: &[PathBuf]| paths.to_vec();
    // Data from elsewhere is compared with the test problems, where there are any.
    let judged_against = |data: &Option<PathBuf>| data.as_ref().map(|_| files.problems()).filter(|path| path.exists());
    let (inputs, outputs, state, settings) = match name {
        "pretrain" => (
            recipe.pretrain.iter().filter_map(|pretrain| pretrain.start.clone()).collect(),
            recipe.pretrain.iter().map(|pretrain| pretrain.out.clone()).collect(),
            list(&[files.out.join("pretrain")]),
            json!([seed, prompt, recipe.pretrain]),
        ),
        "problems" => (
            some(vec![recipe.problems.path.clone()]),
            list(&[files.problems(), files.dropped()]),
            vec![],
            json!([seed, recipe.problems, recipe.sandbox, recipe.hygiene]),
        ),
        "collect" => (
            some(vec![Some(files.problems()), recipe.teacher.path.clone()]),
            list(&[files.traces()]),
            vec![],
            json!([seed, prompt, recipe.teacher, recipe.sandbox]),
        ),
        "filter" => (
            list(&[files.problems(), files.traces()]),
            list(&[files.sft(), files.sft_validation(), files.sft_dropped()]),
            vec![],
            json!([seed, recipe.filter, recipe.sft.objective, recipe.hygiene]),
        ),
        "sft" => {
            let data = recipe.sft.data.clone();
            let held_out = if data.is_none() { Some(files.sft_validation()) } else { None };
            (
                some(vec![
                    Some(policy),
                    judged_against(&data),
                    Some(data.unwrap_or_else(|| files.sft())),
                    held_out,
                    recipe.sft.adapter.clone(),
                ]),
                list(&[sft_result]),
                list(&[files.out.join("sft").join("state")]),
                json!([seed, recipe.sft, lora, recipe.hygiene]),
            )
        }
        "candidates" => (
            list(&[policy, files.problems(), sft_result]),
            list(&[files.candidates()]),
            vec![],
            json!([seed, prompt, recipe.candidates, recipe.sandbox]),
        ),
        "judge" => (
            list(&[files.problems(), files.candidates()]),
            list(&[files.preferences(), files.judging()]),
            vec![],
            json!([seed, prompt, recipe.judge, recipe.teacher]),
        ),
        "reward" => {
            let data = recipe.reward.data.clone();
            let scale = if data.is_none() { Some(files.candidates()) } else { None };
            (
                some(vec![
                    Some(recipe.reward.model.clone()),
                    judged_against(&data),
                    Some(data.unwrap_or_else(|| files.preferences())),
                    scale,
                ]),
                list(&[files.reward_model(), files.reward_validation()]),
                list(&[files.out.join("reward").join("state")]),
                json!([seed, prompt, recipe.reward, lora, recipe.hygiene]),
            )
        }
        "ppo" => {
            let start = recipe.ppo.adapter.clone().unwrap_or(sft_result);
            let reward = recipe.ppo.reward_model.clone().unwrap_or_else(|| files.reward_model());
            (
                list(&[policy, files.problems(), start, reward]),
                list(&[files.ppo_adapter()]),
                list(&[files.out.join("ppo").join("state")]),
                json!([seed, prompt, recipe.ppo, lora, recipe.reward.max_tokens]),
            )
        }
        "evaluate" => {
            let wants = |name: &str| recipe.evaluate.models.iter().any(|model| model == name);
            let sft = if wants("sft") { Some(adapter) } else { None };
            let ppo = if wants("ppo") { Some(files.ppo_adapter()) } else { None };
            let mut outputs: Vec<PathBuf> = recipe.evaluate.models.iter().map(|model| files.evaluation(model)).collect();
            outputs.push(files.summary());
            (
                some(vec![Some(policy), Some(files.problems()), sft, ppo]),
                outputs,
                vec![],
                json!([seed, prompt, recipe.evaluate, recipe.sandbox]),
            )
        }
        _ => {
            let settings = json!([recipe.filter, recipe.sft.objective, recipe.report, recipe.teacher, recipe.evaluate]);
            (report::inputs(recipe), report::outputs(recipe), vec![], settings)
        }
    };
    StageSpec { name, inputs, outputs, state, settings }
}
