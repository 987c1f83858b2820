//! A recipe as text, with settings that suit the model's size and the machine, and a reason beside each.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use super::ask::described;
use super::here::{Here, question};
use super::suites::Suite;
use crate::device::meter::Style;
use crate::error::{Error, Result};
use crate::plan::cards::CARDS;
use crate::plan::{Models, shapes};
use crate::recipe::{Provider, Recipe, Recompute, RewardMemory, Train};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Every stage.
    All,
    /// The fine-tuned model: no reward model, no PPO.
    Sft,
    /// Measuring a model; nothing is trained.
    Evaluate,
}

impl Goal {
    /// The names that [`Goal::named`] knows.
    pub const NAMES: [&'static str; 3] = ["all", "sft", "evaluate"];

    /// A goal by its name.
    pub fn named(name: &str) -> Result<Goal> {
        match name {
            "all" => Ok(Goal::All),
            "sft" => Ok(Goal::Sft),
            "evaluate" => Ok(Goal::Evaluate),
            _ => Err(Error::input("stages", format!("one of {} expected, found `{name}`", Goal::NAMES.join(", ")))),
        }
    }
}

/// Who teaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherChoice {
    /// How it is reached.
    pub provider: Provider,
    /// `recorded`: its file of answers.
    pub file: Option<PathBuf>,
}

/// All that a recipe is written from.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The benchmark.
    pub suite: Suite,
    /// Its file or folder.
    pub path: Option<PathBuf>,
    /// The model that is trained, or measured.
    pub model: PathBuf,
    /// What the reward model starts from.
    pub reward_model: PathBuf,
    /// Who teaches.
    pub teacher: TeacherChoice,
    /// GPUs.
    pub gpus: usize,
    /// What the run is for.
    pub goal: Goal,
}

/// Parameters from which a CPU is no place to train a model: a recipe without a GPU at hand is written for one elsewhere.
const FOR_GPUS: usize = 3_000_000_000;
/// Parameters below which a model is one of ours, or somebody's toy.
const TINY: usize = 100_000_000;
/// The card that is planned for where there is none.
const ELSEWHERE: usize = 0;

/// The settings that depend on room, and whether they fit.
struct Sized {
    recipe: Recipe,
    on_gpu: bool,
    tight: Vec<&'static str>,
}

/// A change that saves room.
type Step = fn(&mut Recipe);

fn sized(answers: &Answers, here: &Here, models: &Models) -> Result<Sized> {
    let parameters = models.policy.parameters();
    let on_gpu = !here.gpus.is_empty() || parameters >= FOR_GPUS;
    let room = match (on_gpu, here.gpus.is_empty()) {
        (true, true) => CARDS[ELSEWHERE].capacity(),
        _ => here.room(on_gpu),
    };
    let style = if on_gpu { Style::Cuda } else { Style::Cpu };
    let gpus = if on_gpu { answers.gpus } else { 1 };
    let mut recipe = Recipe { gpus, ..Recipe::default() };
    let (tokens, answer) = match parameters {
        ..TINY => (512, 256),
        _ if on_gpu => (2048, 1024),
        _ => (1024, 512),
    };
    recipe.sft.max_tokens = tokens.min(models.policy.max_positions);
    recipe.reward.max_tokens = tokens.min(models.reward.max_positions);
    recipe.candidates.max_new_tokens = answer;
    recipe.evaluate.max_new_tokens = answer;
    recipe.ppo.max_new_tokens = if on_gpu && parameters >= TINY { 732 } else { answer };
    if !on_gpu {
        (recipe.ppo.iterations, recipe.ppo.prompts_per_iteration) = (20, 32);
        (recipe.candidates.batch, recipe.evaluate.batch, recipe.ppo.batch) = (8, 8, 8);
    }
    (recipe.sft.learning_rate, recipe.reward.learning_rate) = match parameters {
        ..TINY => (1e-3, 3e-4),
        TINY..FOR_GPUS => (1e-4, 5e-5),
        _ => (1e-5, 5e-5),
    };
    (recipe.ppo.learning_rate, recipe.ppo.critic_learning_rate) = match parameters {
        ..TINY => (3e-4, 1e-3),
        TINY..FOR_GPUS => (1e-5, 1e-4),
        _ => (1e-6, 1e-5),
    };
    let stages: &[&'static str] = match answers.goal {
        Goal::All => &["sft", "candidates", "reward", "ppo", "evaluate"],
        Goal::Sft => &["sft", "evaluate"],
        Goal::Evaluate => &["evaluate"],
    };
    let fits = |recipe: &Recipe, stage: &str| -> Result<bool> {
        Ok(question(recipe, models, gpus).memory(stage, style)?.needed() <= room)
    };
    let mut tight = Vec::new();
    for stage in stages.iter().copied() {
        let mut ladder = ladder(stage).iter();
        loop {
            if fits(&recipe, stage)? {
                break;
            }
            match ladder.next() {
                Some(step) => step(&mut recipe),
                None => {
                    tight.push(stage);
                    break;
                }
            }
        }
    }
    Ok(Sized { recipe, on_gpu, tight })
}

/// What is changed, in this order, until a stage fits. Effective batches stay as they are: what fewer sequences at once take away,
/// accumulation gives back.
fn ladder(stage: &str) -> &'static [Step] {
    fn spread(recipe: &mut Recipe) {
        recipe.shard_frozen = recipe.gpus > 1;
    }
    match stage {
        "sft" => &[|r| r.sft.recompute = Recompute::Block, spread],
        "candidates" => &[
            |r| r.candidates.batch = r.candidates.batch.min(16),
            |r| r.candidates.batch = r.candidates.batch.min(8),
            |r| r.candidates.batch = 4,
            spread,
        ],
        "reward" => &[
            |r| (r.reward.train, r.reward.learning_rate) = (Train::Lora, 1e-4),
            |r| (r.reward.sequences_per_device, r.reward.accumulation) = (1, 16),
            |r| r.reward.recompute = Recompute::Block,
        ],
        "ppo" => &[
            |r| r.ppo.recompute = Recompute::Block,
            |r| r.ppo.batch = r.ppo.batch.min(8),
            |r| r.ppo.reward_memory = if r.gpus > 1 { RewardMemory::Sharded } else { RewardMemory::Host },
            spread,
        ],
        _ => &[
            |r| r.evaluate.batch = r.evaluate.batch.min(16),
            |r| r.evaluate.batch = r.evaluate.batch.min(8),
            |r| r.evaluate.batch = 4,
            spread,
        ],
    }
}

/// TOML, line by line.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn text(&mut self, line: &str) {
        self.0 += line;
        self.0 += "\n";
    }

    fn section(&mut self, name: &str) {
        self.text(&format!("\n[{name}]"));
    }

    fn key(&mut self, key: &str, value: impl Display, why: &str) {
        let set = format!("{key} = {value}");
        match why {
            "" => self.text(&set),
            why => self.text(&format!("{set:<31} # {why}")),
        }
    }
}

fn quoted(text: impl AsRef<Path>) -> String {
    toml::Value::from(text.as_ref().to_string_lossy().into_owned()).to_string()
}

/// A number as TOML and people write it: `1e-5`, `0.2`.
fn number(x: f64) -> String {
    if x < 1e-2 { format!("{x:e}") } else { x.to_string() }
}

fn recompute(kind: Recompute) -> &'static str {
    match kind {
        Recompute::None => "\"none\"",
        Recompute::Mlp => "\"mlp\"",
        Recompute::Block => "\"block\"",
    }
}

/// The commands that come next, for a recipe at `output`.
pub fn commands(answers: &Answers, output: &Path) -> Vec<String> {
    let text = output.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    // As a shell takes it.
    let recipe = if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) };
    let mut commands = vec![format!("repairity recipe check {recipe}")];
    match answers.goal {
        Goal::All => {
            commands.push(format!("repairity run {recipe} --until filter"));
            commands.push(format!("repairity run {recipe}"));
        }
        Goal::Sft => {
            commands.push(format!("repairity run {recipe} --until sft"));
            commands.push(format!("repairity evaluate {recipe}"));
            commands.push(format!("repairity report {recipe}"));
        }
        Goal::Evaluate => {
            commands.push(format!("repairity evaluate {recipe}"));
            commands.push(format!("repairity report {recipe}"));
        }
    }
    commands
}

/// The recipe's text; `output` is where it will lie. It loads without an error.
pub fn write(answers: &Answers, here: &Here, output: &Path) -> Result<String> {
    let models = Models { policy: shapes::of(&answers.model)?.config, reward: shapes::of(&answers.reward_model)?.config };
    let Sized { recipe, on_gpu, tight } = sized(answers, here, &models)?;
    let name = answers.model.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let mut out = Lines::default();
    out.text(&format!("# {name} ({}) on {}.", described(&models.policy), answers.suite.name));
    out.text(&format!("# {}: {}.", answers.suite.name, answers.suite.what));
    match (on_gpu, here.gpus.is_empty()) {
        (true, true) => out.text(&format!(
            "# Written for {} x {}, because this machine has no GPU and a CPU is too slow for so many parameters.",
            answers.gpus, CARDS[ELSEWHERE].name
        )),
        _ => out.text(&format!("# Written for {}.", here.describe())),
    }
    for stage in &tight {
        out.text(&format!("# {stage} does not fit there, whatever is set: it takes more memory, or a smaller model."));
    }
    out.text("#");
    commands(answers, output).iter().for_each(|command| out.text(&format!("#   {command}")));
    out.text("#");
    out.text("# Paths are relative to the current directory. Keys left out have their defaults: the paper's numbers where it gives any.");
    out.text("# Every key can be changed for one run: --set sft.epochs=1\n");

    let folder = format!("runs/{}-{}", name.to_lowercase(), answers.suite.name);
    out.key("seed", 17, "every random stream of the run comes from it");
    out.key("out", quoted(folder), "the run folder: records, models, report");
    out.key(
        "device",
        if on_gpu { "\"cuda\"" } else { "\"cpu\"" },
        if on_gpu { "bf16, on Hopper GPUs" } else { "f32, all cores" },
    );
    if recipe.gpus > 1 {
        out.key("gpus", recipe.gpus, "of this machine");
    }
    if recipe.shard_frozen {
        out.key("shard_frozen", true, "frozen weights are shared out over the GPUs: they do not fit otherwise");
    }
    problems(&mut out, answers);
    if answers.goal != Goal::Evaluate {
        teacher(&mut out, answers);
        out.section("filter");
        out.key("cap", "0.20", "at most this share of the benchmark is trained on, balanced, as in the paper");
    }
    if models.policy.parameters() < TINY {
        out.section("prompt");
        out.key("instruction", "\"Fix the bug in this code.\"", "what the bundled models know; left out, the paper's p_trace");
    }
    out.section("policy");
    out.key("model", quoted(&answers.model), "");
    if answers.goal != Goal::Evaluate {
        training(&mut out, &recipe, models.policy.parameters());
    }
    if answers.goal == Goal::All {
        preferences(&mut out, answers, &recipe);
    }
    evaluation(&mut out, answers, &recipe);
    // The settings are what was planned with only if the text says so.
    Recipe::parse(output, &out.0, &[])?;
    Ok(out.0)
}

fn problems(out: &mut Lines, answers: &Answers) {
    out.section("problems");
    out.key("suite", quoted(answers.suite.name), "");
    match &answers.path {
        Some(path) => out.key("path", quoted(path), ""),
        None => {
            out.key("count", 1000, "problems made");
            out.key("seed", 2, "the bundled models were trained without any problem of the seeds 1 to 8");
        }
    }
    match answers.goal {
        Goal::Evaluate => out.key("split", "[0.0, 0.0, 1.0]", "everything is measured on, nothing is trained on"),
        _ => out.key("split", "[0.70, 0.15, 0.15]", "training, validation, test (paper, 4.4)"),
    }
}

fn teacher(out: &mut Lines, answers: &Answers) {
    out.section("teacher");
    match answers.teacher.provider {
        Provider::Anthropic => {
            out.key("provider", "\"anthropic\"", "the key is read from ANTHROPIC_API_KEY and written nowhere");
            out.key("model", "\"claude-sonnet-4-5\"", "the paper's claude-3-7-sonnet is retired");
            out.key("budget_usd", "20.0", "the run stops before it spends more, and says first what to expect");
        }
        Provider::OpenAi => {
            out.key("provider", "\"openai\"", "any server with Chat Completions; a key, if it wants one, in OPENAI_API_KEY");
            out.key("base_url", "\"http://localhost:8000/v1\"", "yours");
            out.key("model", "\"NAME\"", "as the server calls it");
            out.key("budget_usd", "20.0", "counted with input_usd_per_mtok and output_usd_per_mtok, 0 for your own");
        }
        Provider::Recorded => {
            out.key("provider", "\"recorded\"", "nothing is asked; stored answers are read");
            out.key("path", quoted(answers.teacher.file.as_deref().unwrap_or(Path::new("teacher.jsonl"))), "");
        }
        Provider::Scripted => {
            out.key("provider", "\"scripted\"", "knows the solutions of micro: no network, no cost");
            out.key("error_rate", "0.15", "and is wrong in one trace of seven, so that the filter has something to do");
        }
    }
}

fn training(out: &mut Lines, recipe: &Recipe, parameters: usize) {
    out.section("lora");
    out.key("rank", 4, "the paper's (3.6); alpha / rank scales the update");
    out.key("alpha", 16, "");
    let sft = &recipe.sft;
    out.section("sft");
    out.key("epochs", 3, "passes over the traces (paper, 3.6)");
    let why = match parameters {
        FOR_GPUS.. => "the paper's (3.6)",
        _ => "the paper's 1e-5 is for 32 billion parameters; a smaller model takes, and needs, a larger step",
    };
    out.key("learning_rate", number(sft.learning_rate), why);
    out.key("max_tokens", sft.max_tokens, "prompt, trace and answer; longer records are left out and counted");
    out.key("sequences_per_device", sft.sequences_per_device, "at once on each device ...");
    out.key("accumulation", sft.accumulation, "... times this make a step");
    let why = "computed again in the backward pass: \"none\" is fastest, \"block\" takes least memory";
    out.key("recompute", recompute(sft.recompute), why);
}

fn preferences(out: &mut Lines, answers: &Answers, recipe: &Recipe) {
    out.section("candidates");
    out.key("per_problem", 3, "fixes of each validation problem (paper, 3.6)");
    out.key("temperatures", "[0.7, 0.8, 0.9]", "one each");
    out.key("max_new_tokens", recipe.candidates.max_new_tokens, "");
    out.key("batch", recipe.candidates.batch, "written at once: the key-value cache's room bounds it");
    out.section("judge");
    out.key("both_orders", true, "asked twice, with the answers exchanged; only agreement counts");
    let reward = &recipe.reward;
    out.section("reward");
    out.key("model", quoted(&answers.reward_model), "");
    match reward.train {
        Train::Lora => out.key("train", "\"lora\"", "an adapter and a head: gradients of all its weights would not fit"),
        Train::Full => out.key("train", "\"full\"", "every weight, as in the paper; \"lora\" takes far less memory"),
    }
    out.key("learning_rate", number(reward.learning_rate), "the paper's 5e-5 trains every weight of 7 billion");
    out.key("max_tokens", reward.max_tokens, "prompt and answer; longer pairs are left out and counted");
    out.key("sequences_per_device", reward.sequences_per_device, "pairs");
    out.key("accumulation", reward.accumulation, "");
    out.key("recompute", recompute(reward.recompute), "");
    let ppo = &recipe.ppo;
    out.section("ppo");
    out.key("iterations", ppo.iterations, "batches of rollouts; the paper does not say how many");
    out.key("prompts_per_iteration", ppo.prompts_per_iteration, "");
    out.key("epochs", 5, "passes over each batch (paper, 3.6)");
    out.key("clip", 0.2, "epsilon of Eq 15");
    out.key("kl", 0.1, "beta of Eq 14: what straying from the fine-tuned model costs");
    out.key("kl_bound", 0.05, "five passes over a batch can run away; this ends them early");
    out.key("max_new_tokens", ppo.max_new_tokens, "the paper's answers have 546 to 732");
    out.key("learning_rate", number(ppo.learning_rate), "");
    out.key("critic_learning_rate", number(ppo.critic_learning_rate), "");
    out.key("batch", ppo.batch, "");
    out.key("recompute", recompute(ppo.recompute), "");
    match ppo.reward_memory {
        RewardMemory::Resident => {}
        RewardMemory::Host => out.key("reward_memory", "\"host\"", "on the GPU only while it scores: there is no room for both"),
        RewardMemory::Sharded => out.key("reward_memory", "\"sharded\"", "a share of it on each GPU: whole it does not fit"),
    }
}

fn evaluation(out: &mut Lines, answers: &Answers, recipe: &Recipe) {
    out.section("evaluate");
    let models = match answers.goal {
        Goal::All => "[\"base\", \"sft\", \"ppo\"]",
        Goal::Sft => "[\"base\", \"sft\"]",
        Goal::Evaluate => "[\"base\"]",
    };
    let why = match answers.goal {
        Goal::Evaluate => "add \"sft\" and evaluate.adapter = \"DIR\" to measure an adapter beside it",
        _ => "compared on the same problems",
    };
    out.key("models", models, why);
    out.key("temperature", 0.2, "the paper's");
    let mut why = String::from("answers to each problem");
    if !answers.suite.trains {
        let _ = write!(why, ": few problems need more of them for a steady pass@1");
    }
    out.key("samples", if answers.suite.trains { 1 } else { 5 }, &why);
    out.key("max_new_tokens", recipe.evaluate.max_new_tokens, "");
    out.key("batch", recipe.evaluate.batch, "");
}
