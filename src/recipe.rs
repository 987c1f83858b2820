//! The TOML recipe: every setting of a run, each with its unit, its default and the paper's value.
//!
//! Defaults are section 3.6 of the paper (Tang, Klein, Bissyandé) where it gives a number; where its section 3.3.2 differs,
//! the key says so. [`Recipe::load`] reads a file, applies `--set` and checks ranges. What the settings do is left to the
//! modules below. Relative paths are relative to the current directory, not to the recipe's.

mod load;
mod train;
mod valid;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use train::{
    Architecture, Critic, Dtype, HeldOut, Lora, Objective, Ppo, Pretrain, Recompute, Reward, RewardMemory, Schedule, Sft, Train,
};

/// A whole recipe. A section left out has its defaults; `[pretrain]` left out means that nothing is pretrained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Every random stream of the run derives from it. Default 17; the paper names none.
    pub seed: u64,
    /// The run folder: records, adapters, checkpoints, metrics, manifest. Default `runs/default`.
    pub out: PathBuf,
    /// Where training and generation run. Default `auto`.
    pub device: DeviceChoice,
    /// GPUs of this machine, or threads that stand for them on the CPU. Default 1; the paper: 8 × H100 80 GB.
    pub gpus: usize,
    /// Seconds in which all processes of a job have to come together, before those that are there give up. Default 300.
    pub join_timeout_s: f64,
    /// Spreads the frozen weights too over all devices; each layer's are brought together shortly before they are used. Saves
    /// memory, costs time. Default false.
    pub shard_frozen: bool,
    /// Adds up in a fixed order wherever a GPU could as well add in any, so that two runs give the same bits. `false` saves attention's
    /// backward pass a wait here and there. Default true.
    pub deterministic: bool,
    /// Checkpoints of a stage that are kept while it runs, the newest: when the last one is damaged, the one before it is gone on
    /// from. Default 2.
    pub keep_checkpoints: usize,
    /// What candidate programs are locked into. Default `strict`.
    pub sandbox: SandboxChoice,
    /// Candidate programs checked at once; 0 is the number of cores. Default 0.
    pub jobs: usize,
    /// Trains a small base model from nothing, for machines and tests that have no checkpoint at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain>,
    /// The benchmark.
    pub problems: Problems,
    /// Who writes the traces and judges the candidates.
    pub teacher: Teacher,
    /// Which traces are kept.
    pub filter: Filter,
    /// What is dropped because it says the same twice, or what is measured.
    pub hygiene: Hygiene,
    /// What the models are asked.
    pub prompt: Prompt,
    /// The model that is trained.
    pub policy: Policy,
    /// The low-rank adapter, wherever `train = "lora"`.
    pub lora: Lora,
    /// Reasoning-trace learning (section 3.3).
    pub sft: Sft,
    /// The student's answers that are judged (Eq 9).
    pub candidates: Candidates,
    /// How the teacher compares them (Eq 10, 11).
    pub judge: Judge,
    /// The reward model (Eq 12, 13).
    pub reward: Reward,
    /// Reinforcement learning (Eq 14 to 17).
    pub ppo: Ppo,
    /// What is measured at the end (sections 4 and 5).
    pub evaluate: Evaluate,
    /// What the report shows.
    pub report: Report,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            seed: 17,
            out: "runs/default".into(),
            device: DeviceChoice::Auto,
            gpus: 1,
            join_timeout_s: 300.0,
            shard_frozen: false,
            deterministic: true,
            keep_checkpoints: 2,
            sandbox: SandboxChoice::Strict,
            jobs: 0,
            pretrain: None,
            problems: Problems::default(),
            teacher: Teacher::default(),
            filter: Filter::default(),
            hygiene: Hygiene::default(),
            prompt: Prompt::default(),
            policy: Policy::default(),
            lora: Lora::default(),
            sft: Sft::default(),
            candidates: Candidates::default(),
            judge: Judge::default(),
            reward: Reward::default(),
            ppo: Ppo::default(),
            evaluate: Evaluate::default(),
            report: Report::default(),
        }
    }
}

/// `device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU where there is one, else the CPU.
    Auto,
    /// The CPU, in f32.
    Cpu,
    /// An NVIDIA GPU, in bf16; an error where there is none.
    Cuda,
}

/// `sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxChoice {
    /// No network, no files but the program's own folder, bounded resources; refuses to run where the kernel cannot give that.
    Strict,
    /// Time and memory limits only: for programs that are trusted, or on a machine that may be lost.
    None,
}

/// `[problems]`: which benchmark, and how it is split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Problems {
    /// `mbpp`, `humaneval_fix`, `quixbugs`, `micro`, ... The paper: mbpp (974 problems), SWE-bench Verified
    /// (500), Defects4J (835), BigCodeBench (1,140). Default `mbpp`.
    pub suite: String,
    /// The benchmark's file or folder. `micro` makes its problems and needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Problems taken, the first of the benchmark; 0, the default, takes all. `micro` makes this many, and needs a number.
    pub count: usize,
    /// Seed of `micro`'s problems and of the split; left out, the recipe's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Shares of training, validation and test; they sum to 1. The paper: 0.70, 0.15, 0.15 (section 4.4).
    pub split: [f64; 3],
    /// Makes buggy code for suites that carry none (MBPP, BigCodeBench): mutants of the reference, each shown to fail a test.
    /// Default true.
    pub mutate: bool,
    /// Checks every problem before use: its reference passes, its buggy code fails. What does not is dropped and listed.
    /// Default true.
    pub vet: bool,
    /// `bigcodebench`: which prompt, `complete` (the default) or `instruct`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `bigcodebench`: `full` (the default) or `hard`; the latter wants the file of bigcode/bigcodebench-hard, or `ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// `bigcodebench`: the version whose corrections the rows get, whatever version they are of. Default `v0.1.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `bigcodebench`: a file of ids, one a line; only these are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<PathBuf>,
    /// `mbpp`, `humaneval_fix`: EvalPlus' file (`MbppPlus.jsonl`, `HumanEvalPlus.jsonl`), whose inputs become tests too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_inputs: Option<PathBuf>,
    /// `swebench`: a folder with a clone of each project, named `owner__name`. Default: `repos` beside the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repos: Option<PathBuf>,
    /// `swebench`: what runs the tests in a checkout; `{tests}` is the tests' files, `{labels}` their dotted names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_command: Option<String>,
    /// `swebench`: folders that this command may read, the `bin` of each on its PATH: a virtual environment, an interpreter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<PathBuf>,
}

impl Default for Problems {
    fn default() -> Problems {
        Problems {
            suite: "mbpp".into(),
            path: None,
            count: 0,
            seed: None,
            split: [0.70, 0.15, 0.15],
            mutate: true,
            vet: true,
            variant: None,
            subset: None,
            version: None,
            ids: None,
            extra_inputs: None,
            repos: None,
            test_command: None,
            reads: Vec::new(),
        }
    }
}

/// `[teacher]`: who writes reasoning traces and judges candidates (the paper's M_C).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Teacher {
    /// How the teacher is reached. Default `anthropic`.
    pub provider: Provider,
    /// The model's name. Default `claude-3-7-sonnet-20250219`, the paper's, which its maker has since retired.
    pub model: String,
    /// Where the API answers; left out, the provider's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The environment variable that holds the key; left out, the provider's usual one. The key itself is never written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// `recorded`: the file of stored answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Tokens an answer may have. Default 4096; the paper saw about 756 a trace and 673 a judgment.
    pub max_tokens: usize,
    /// Sampling temperature of the teacher. Default 0; the paper names none.
    pub temperature: f64,
    /// Seconds before a request counts as lost and is tried again. Default 120.
    pub timeout_s: f64,
    /// Requests under way at once, at most: a server that is busy is asked less. Default 8.
    pub concurrency: usize,
    /// `anthropic`: asks in batches, which are answered within a day at half the price. Default false.
    pub batch: bool,
    /// `anthropic`: tokens that the model may think before it answers, at least 1024 and less than `max_tokens`, which counts them;
    /// `temperature` has to be 1 then. What it thinks is kept and never trained on. Left out, it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<usize>,
    /// The run stops before it has spent more than this, in US dollars. Default 50.
    pub budget_usd: f64,
    /// The run stops before it has used more tokens than this, read and written together; left out, any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u64>,
    /// Begins even where what is expected to be spent is more than a budget, and asks until that is reached. Default false: nothing
    /// is asked then.
    pub start_anyway: bool,
    /// Price of a million tokens read, in US dollars. Default 3.
    pub input_usd_per_mtok: f64,
    /// Price of a million tokens written, in US dollars. Default 15.
    pub output_usd_per_mtok: f64,
    /// `scripted`: share of its traces whose fix is wrong, so that the filter has something to do. Default 0.1.
    pub error_rate: f64,
}

impl Default for Teacher {
    fn default() -> Teacher {
        Teacher {
            provider: Provider::Anthropic,
            model: "claude-3-7-sonnet-20250219".into(),
            base_url: None,
            key_env: None,
            path: None,
            max_tokens: 4096,
            temperature: 0.0,
            timeout_s: 120.0,
            concurrency: 8,
            batch: false,
            thinking_tokens: None,
            budget_usd: 50.0,
            budget_tokens: None,
            start_anyway: false,
            input_usd_per_mtok: 3.0,
            output_usd_per_mtok: 15.0,
            error_rate: 0.1,
        }
    }
}

/// `teacher.provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Anthropic's Messages API.
    Anthropic,
    /// The Chat Completions API of OpenAI, vLLM, llama.cpp and others.
    OpenAi,
    /// Answers stored in a file: an earlier run's, or somebody else's.
    Recorded,
    /// A program that knows the references of `micro`: no network, no cost, the same answers every time.
    Scripted,
}

/// `[filter]`: which traces are trained on (Eq 5, 6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Keeps only traces whose fix passes every test. False is the paper's ablation. Default true.
    pub enabled: bool,
    /// Traces kept, as a share of the benchmark's size, balanced over kind and difficulty. The paper: 0.20.
    pub cap: f64,
}

impl Default for Filter {
    fn default() -> Filter {
        Filter { enabled: true, cap: 0.20 }
    }
}

/// `[hygiene]`: duplicates, and overlap with the problems of the test part. Both are dropped and listed with the reason. Suites made
/// from templates (`micro`) are left as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hygiene {
    /// Looks for any of it. Default true.
    pub enabled: bool,
    /// Drops duplicates, exact and near ones. Default true.
    pub duplicates: bool,
    /// Jaccard similarity of n-grams from which two texts are near duplicates; 0 drops exact ones only. Default 0.8, with 5-grams:
    /// Lee et al. 2021.
    pub near: f64,
    /// Tokens in an n-gram of that. Default 5.
    pub ngram: usize,
    /// Tokens in an n-gram that is looked for in test problems. Default 13: GPT-3.
    pub contamination_ngram: usize,
    /// Share of a test problem's n-grams from which a record that holds them overlaps it. Default 0.5: Tülu 3.
    pub overlap: f64,
}

impl Default for Hygiene {
    fn default() -> Hygiene {
        Hygiene { enabled: true, duplicates: true, near: 0.8, ngram: 5, contamination_ngram: 13, overlap: 0.5 }
    }
}

/// `[prompt]`: the words that go before a problem.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prompt {
    /// The instruction of a repair; left out, the paper's p_trace, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
}

/// `[policy]`: the student, M_O.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// A folder in the Hugging Face layout. The paper: Qwen2.5-Coder-32B-Instruct.
    pub model: PathBuf,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { model: "models/Qwen2.5-Coder-32B-Instruct".into() }
    }
}

/// `[candidates]`: the student's answers on the validation problems (Eq 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Candidates {
    /// Answers to each problem, the paper's k: 3.
    pub per_problem: usize,
    /// Sampling temperatures; answer `i` of a problem takes the `i`-th, round and round. The paper: 0.7 to 0.9.
    pub temperatures: Vec<f64>,
    /// Tokens an answer may have. Default 1024.
    pub max_new_tokens: usize,
    /// Samples from the smallest set of most likely tokens whose probability reaches this; 1 keeps all. Default 1.
    pub top_p: f64,
    /// Samples from this many of the most likely tokens; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Sequences generated at once on a device. Default 32.
    pub batch: usize,
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates { per_problem: 3, temperatures: vec![0.7, 0.8, 0.9], max_new_tokens: 1024, top_p: 1.0, top_k: 0, batch: 32 }
    }
}

/// `[judge]`: how the teacher compares two answers to a problem of the validation part (Eq 10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// Asks twice, with the answers exchanged; only agreement gives a label. Default true; the paper does not say.
    pub both_orders: bool,
    /// Answers shown at once: 2 for pairs, more for rankings, from which pairs are made; at most 26. Default 2; the paper's prompt
    /// ranks several.
    pub at_once: usize,
    /// Orders in which each ranking is asked for, each the last one reversed or turned by one place; only agreement of all gives a
    /// label. At most twice `at_once`. Default 2: an order and its reverse.
    pub orders: usize,
    /// What a tie or a disagreement becomes. Default `drop`.
    pub ties: Ties,
    /// The instruction of a judgment; left out, the paper's, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge { both_orders: true, at_once: 2, orders: 2, ties: Ties::Drop, instruction: None }
    }
}

/// `judge.ties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// The pair is left out.
    Drop,
    /// The pair is kept with label 0.5.
    Half,
}

/// `[evaluate]`: what is measured (sections 4 and 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// `train`, `validation` or `test`, the default.
    pub split: String,
    /// Sampling temperature. The paper: 0.2.
    pub temperature: f64,
    /// Answers to each problem; pass@k needs at least k. Default 1.
    pub samples: usize,
    /// Tokens an answer may have. Default 1024.
    pub max_new_tokens: usize,
    /// Samples from the smallest set of most likely tokens whose probability reaches this; 1 keeps all. Default 1.
    pub top_p: f64,
    /// Samples from this many of the most likely tokens; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Sequences generated at once on a device. Default 32.
    pub batch: usize,
    /// How BLEU splits texts into tokens: `13a`, sacrebleu's default and ours; `none`, at white space; `char`; `code`, as a compiler.
    pub bleu: String,
    /// Which models are compared, of `base`, `sft`, `ppo`. Default all three.
    pub models: Vec<String>,
    /// A PEFT folder from elsewhere, measured in place of the run's own adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
}

impl Evaluate {
    /// The models in the order in which they are made, whatever the recipe's: each is compared with those before it.
    pub fn in_order(&self) -> impl Iterator<Item = &'static str> {
        ["base", "sft", "ppo"].into_iter().filter(|name| self.models.iter().any(|model| model == name))
    }
}

impl Default for Evaluate {
    fn default() -> Evaluate {
        Evaluate {
            split: "test".into(),
            temperature: 0.2,
            samples: 1,
            max_new_tokens: 1024,
            top_p: 1.0,
            top_k: 0,
            batch: 32,
            bleu: "13a".into(),
            models: vec!["base".into(), "sft".into(), "ppo".into()],
            adapter: None,
        }
    }
}

/// `[report]`: what stands beside the run's own models, and how much is shown of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// Folders of other runs that were evaluated on the same problems: their models become rows of the tables and of the comparisons,
    /// such as the paper's ablations (section 4.3). Default none.
    pub beside: Vec<PathBuf>,
    /// Problems that the page shows with every model's answer, at most; those that training fixed, broke or left are all among them.
    /// Default 60.
    pub examples: usize,
}

impl Default for Report {
    fn default() -> Report {
        Report { beside: Vec::new(), examples: 60 }
    }
}
