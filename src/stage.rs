//! The stages of the method, one file each. A stage reads files of the run folder and writes files of it; which stages run, and
//! which are done already, is left to [`crate::run`].

pub mod candidates;
pub mod checkpoints;
pub mod collect;
pub mod evaluate;
pub mod filter;
mod imported;
pub mod judge;
pub mod ppo;
pub mod pretrain;
pub mod problems;
pub mod reward;
pub mod sample;
pub mod sft;
pub mod train;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::comm::{Bytes, Group};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::optim::{deal, gather_dealt};
use crate::problem::Checker;
use crate::prompt::P_TRACE;
use crate::recipe::{self, Recipe, SandboxChoice, Train};
use crate::record::{Extra, Problem, program};
use crate::sandbox;
use crate::teacher::{self, recorded::Journal};

use crate::telemetry::{busy, detail, interrupt, words};

/// Where a run's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The run folder.
    pub out: PathBuf,
}

impl Files {
    /// Those of a recipe.
    pub fn of(recipe: &Recipe) -> Files {
        Files { out: recipe.out.clone() }
    }

    /// The vetted problems with their split.
    pub fn problems(&self) -> PathBuf {
        self.out.join("problems.jsonl")
    }

    /// Problems that vetting dropped, with the reason.
    pub fn dropped(&self) -> PathBuf {
        self.out.join("dropped.jsonl")
    }

    /// What the teacher wrote, with verdicts.
    pub fn traces(&self) -> PathBuf {
        self.out.join("traces.jsonl")
    }

    /// Every answer of the teacher, stored on arrival.
    pub fn journal(&self) -> PathBuf {
        self.out.join("teacher.jsonl")
    }

    /// The conversations that SFT trains on.
    pub fn sft(&self) -> PathBuf {
        self.out.join("sft.jsonl")
    }

    /// Conversations of validation problems.
    pub fn sft_validation(&self) -> PathBuf {
        self.out.join("sft.validation.jsonl")
    }

    /// Traces that passed and are not trained on all the same, with the reason.
    pub fn sft_dropped(&self) -> PathBuf {
        self.out.join("sft.dropped.jsonl")
    }

    /// Records of `sft.data` that are not trained on, with the reason.
    pub fn sft_data_dropped(&self) -> PathBuf {
        self.out.join("sft.data.dropped.jsonl")
    }

    /// Records of `reward.data` that are not trained on, with the reason.
    pub fn reward_data_dropped(&self) -> PathBuf {
        self.out.join("reward.data.dropped.jsonl")
    }

    /// The SFT model: an adapter, or a whole model.
    pub fn sft_result(&self, train: Train) -> PathBuf {
        self.out.join("sft").join(match train {
            Train::Lora => "adapter",
            Train::Full => "model",
        })
    }

    /// The student's answers on the validation problems.
    pub fn candidates(&self) -> PathBuf {
        self.out.join("candidates.jsonl")
    }

    /// Labelled pairs of them.
    pub fn preferences(&self) -> PathBuf {
        self.out.join("preferences.jsonl")
    }

    /// How judging went.
    pub fn judging(&self) -> PathBuf {
        self.out.join("judging.json")
    }

    /// The reward model.
    pub fn reward_model(&self) -> PathBuf {
        self.out.join("reward").join("model")
    }

    /// How far apart the reward model scores the answers of held-out pairs.
    pub fn reward_validation(&self) -> PathBuf {
        self.out.join("reward").join("validation.jsonl")
    }

    /// PPO's policy.
    pub fn ppo_adapter(&self) -> PathBuf {
        self.out.join("ppo").join("adapter")
    }

    /// A model's answers on the evaluated split.
    pub fn evaluation(&self, model: &str) -> PathBuf {
        self.out.join("evaluation").join(format!("{model}.jsonl"))
    }

    /// The metrics of the evaluation.
    pub fn summary(&self) -> PathBuf {
        self.out.join("evaluation").join("summary.json")
    }

    /// The report.
    pub fn report(&self) -> PathBuf {
        self.out.join("report.md")
    }

    /// The report as a page that needs nothing beside it.
    pub fn page(&self) -> PathBuf {
        self.out.join("report.html")
    }

    /// The page's charts, one SVG file each.
    pub fn plots(&self) -> PathBuf {
        self.out.join("plots")
    }

    /// The report's tables for programs and papers: `results.csv`, `comparisons.csv`, `results.tex`.
    pub fn results(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// What the GPUs said of themselves while stages ran.
    pub fn gpu(&self) -> PathBuf {
        self.out.join("gpu.jsonl")
    }

    /// What was done, and with what: [`crate::run`]'s.
    pub fn manifest(&self) -> PathBuf {
        self.out.join("manifest.json")
    }

    /// Step metrics of every stage.
    pub fn metrics(&self) -> PathBuf {
        self.out.join("metrics.jsonl")
    }
}

/// Loads what lies in a model's folder; that can take minutes.
fn load<T>(stage: &str, folder: &Path, load: impl FnOnce() -> Result<T>) -> Result<T> {
    let size = words::bytes(words::size(folder));
    let started = Instant::now();
    let loaded = busy(&format!("{stage}: loading {} ({size})", folder.display()), load)?;
    let seconds = words::duration(started.elapsed().as_secs_f64());
    detail(|| format!("{stage}: loaded {} ({size}) in {seconds}", folder.display()));
    Ok(loaded)
}

/// What a checkpoint must agree with: a hash of settings and of the tokens trained on.
fn fingerprint<'a>(settings: &Value, sequences: impl IntoIterator<Item = &'a Vec<u32>>) -> String {
    let mut hash = Sha256::new();
    hash.update(settings.to_string());
    for sequence in sequences {
        hash.update(bytemuck::cast_slice::<u32, u8>(sequence));
        hash.update([0xff; 4]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `work(i)` for every `i` below `count`, each done by one of the ranks, and all that they made, in the order of `i`. A rank that has
/// done its part helps `decoder`'s passes on the others.
fn spread<D: Device>(
    device: &D,
    (group, decoder): (&Group, &Decoder<D>),
    tag: &'static str,
    count: usize,
    work: impl FnMut(usize) -> Result<Vec<f64>>,
) -> Result<Vec<Vec<f64>>> {
    let own = deal(count, group.ranks(), group.rank()).map(work).collect::<Result<Vec<_>>>()?;
    decoder.keep_up(device)?;
    if group.ranks() == 1 {
        return Ok(own);
    }
    // As bytes and not as JSON, which has no NaN.
    let mut bytes = Vec::new();
    for row in &own {
        bytes.extend_from_slice(&(row.len() as u64).to_le_bytes());
        bytes.extend_from_slice(bytemuck::cast_slice(row));
    }
    let read = |bytes: &Bytes| -> Vec<Vec<f64>> {
        let mut words = bytes.chunks_exact(8).map(|word| <[u8; 8]>::try_from(word).expect("eight bytes"));
        let mut rows = Vec::new();
        while let Some(length) = words.next() {
            let length = u64::from_le_bytes(length) as usize;
            rows.push(words.by_ref().take(length).map(f64::from_ne_bytes).collect());
        }
        rows
    };
    Ok(gather_dealt(group.exchange(tag, bytes)?.iter().map(read).collect()))
}

/// What every record tells of where it comes from, besides what it has fields for: the problem's suite and part, how its text was
/// sampled, and which program asked for it.
fn provenance(problem: &Problem, temperature: f64, max_tokens: usize) -> Extra {
    let fields = [
        ("suite", problem.suite.clone().into()),
        ("split", json!(problem.split)),
        ("temperature", temperature.into()),
        ("max_tokens", max_tokens.into()),
        ("program", program()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The recipe's checker, which an interrupt ends.
fn checker(recipe: &Recipe) -> Result<Checker> {
    let mode = match recipe.sandbox {
        SandboxChoice::Strict => sandbox::Mode::Strict,
        SandboxChoice::None => sandbox::Mode::None,
    };
    let jobs = match recipe.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    Ok(Checker::new(mode, jobs)?.with_stop(interrupt::flag()))
}

/// The recipe's teacher, with every answer stored on arrival.
fn teacher(recipe: &Recipe, files: &Files) -> Result<Journal> {
    let sleep = |wait: Duration| {
        // Shorter ones keep the pace that the provider allows.
        if wait >= Duration::from_secs(1) {
            detail(|| format!("teacher: waits {} before it is asked again", words::duration(wait.as_secs_f64())));
        }
        interrupt::sleep(wait)
    };
    teacher::open_journaled(&teacher_settings(recipe), &files.journal(), Box::new(sleep))
}

/// Whether the recipe's teacher can be asked: its key is set, its file is readable. Nothing is asked.
pub fn check_teacher(recipe: &Recipe) -> Result<()> {
    teacher::open(&teacher_settings(recipe)).map(drop)
}

fn teacher_settings(recipe: &Recipe) -> teacher::Settings {
    let settings = &recipe.teacher;
    teacher::Settings {
        provider: match settings.provider {
            recipe::Provider::Anthropic => teacher::Provider::Anthropic,
            recipe::Provider::OpenAi => teacher::Provider::Openai,
            recipe::Provider::Recorded => teacher::Provider::Recorded,
            recipe::Provider::Scripted => teacher::Provider::Scripted,
        },
        model: settings.model.clone(),
        base_url: settings.base_url.clone(),
        key_env: settings.key_env.clone(),
        max_tokens: settings.max_tokens,
        temperature: settings.temperature,
        timeout_s: settings.timeout_s,
        concurrency: settings.concurrency,
        batch: settings.batch,
        thinking_tokens: settings.thinking_tokens,
        budget_usd: settings.budget_usd,
        budget_tokens: settings.budget_tokens,
        start_anyway: settings.start_anyway,
        input_usd_per_mtok: settings.input_usd_per_mtok,
        output_usd_per_mtok: settings.output_usd_per_mtok,
        path: settings.path.clone(),
        seed: recipe.seed,
        error_rate: settings.error_rate,
    }
}

/// The recipe's instruction, or the paper's.
pub fn instruction(recipe: &Recipe) -> &str {
    recipe.prompt.instruction.as_deref().unwrap_or(P_TRACE)
}

/// Copies what belongs to a tokenizer beside a model that was trained from `from`.
fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    let names =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"];
    for name in names.iter().filter(|name| from.join(name).exists()) {
        let target = to.join(name);
        fs::copy(from.join(name), &target).map_err(|e| Error::io(target, e))?;
    }
    Ok(())
}
