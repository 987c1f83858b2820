//! Models, data and recipes of the tests' runs.

use std::fs;
use std::path::PathBuf;

use repairity::comm::{self, Shared};
use repairity::device::{Cpu, Device};
use repairity::error::Result;
use repairity::model::ScalarHead;
use repairity::model::config::Architecture;
use repairity::recipe::{Recipe, Train};
use repairity::record::{Candidate, Preference, write_jsonl};
use repairity::stage::{self, Files};
use repairity::telemetry::set_quiet;
use serde_json::Value;

use crate::tiny;

/// A stage that trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Sft,
    Reward,
    Ppo,
}

impl Stage {
    /// Runs it on a device alone.
    pub fn run<D: Device>(self, device: &D, recipe: &Recipe) -> Result<()> {
        self.run_with(device, &comm::solo(), recipe)
    }

    /// Runs it as one rank of several.
    pub fn run_with<D: Device>(self, device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<()> {
        match self {
            Stage::Sft => stage::sft::run(device, comm, recipe).map(drop),
            Stage::Reward => stage::reward::run(device, comm, recipe).map(drop),
            Stage::Ppo => stage::ppo::run(device, comm, recipe).map(drop),
        }
    }

    /// The file with the values that it trained.
    pub fn trained(self, recipe: &Recipe) -> PathBuf {
        recipe.out.join(match self {
            Stage::Sft if recipe.sft.train == Train::Full => "sft/model/model.safetensors",
            Stage::Sft => "sft/adapter/adapter_model.safetensors",
            Stage::Reward if recipe.reward.train == Train::Lora => "reward/model/adapter_model.safetensors",
            Stage::Reward => "reward/model/model.safetensors",
            Stage::Ppo => "ppo/adapter/adapter_model.safetensors",
        })
    }

    /// Where its checkpoints are.
    pub fn state(self, recipe: &Recipe) -> PathBuf {
        recipe.out.join(format!("{self:?}").to_lowercase()).join("state")
    }

    /// Whether a checkpoint to go on from is there.
    pub fn has_checkpoint(self, recipe: &Recipe) -> bool {
        let entries = fs::read_dir(self.state(recipe)).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"))
    }
}

/// What the runs of a test share: a policy of Qwen2's kind with a trained adapter, a reward model of Llama's kind, data.
pub struct Ground(tempfile::TempDir);

impl Ground {
    pub fn new() -> Ground {
        set_quiet(true);
        let ground = Ground(tempfile::tempdir().unwrap());
        let device = Cpu::<f32>::new();
        let policy = tiny::policy(&device, &ground.at("policy"), 1);
        tiny::adapter(&device, &policy.config, 0.05, 0.1, 2).save(&device, &ground.at("adapter"), "policy", None).unwrap();
        let reward = tiny::decoder(&device, tiny::config(Architecture::Llama, policy.config.vocab), 3);
        let head = ScalarHead::random(&device, reward.config.hidden, 4).unwrap();
        tiny::reward_model(&device, &ground.at("reward"), reward, &head);
        ground
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The recipe of a new run folder, with what the stages read in it. Learning rates are high, so that each step shows in every
    /// number of the next.
    pub fn run(&self, name: &str) -> Recipe {
        let mut recipe = Recipe { out: self.at(name), seed: 5, ..Recipe::default() };
        recipe.policy.model = self.at("policy");
        recipe.prompt.instruction = Some("Fix.".into());
        recipe.lora.rank = 2;
        recipe.lora.alpha = 4.0;
        recipe.lora.dropout = 0.1;

        recipe.sft.epochs = 1;
        recipe.sft.accumulation = 2;
        recipe.sft.learning_rate = 1e-2;
        recipe.sft.warmup_ratio = 0.0;
        recipe.sft.checkpoint_every = 1;

        recipe.reward.model = self.at("policy");
        recipe.reward.epochs = 1;
        recipe.reward.sequences_per_device = 1;
        recipe.reward.accumulation = 2;
        recipe.reward.learning_rate = 1e-3;
        recipe.reward.warmup_ratio = 0.0;
        recipe.reward.validation = 0.34;
        recipe.reward.checkpoint_every = 1;

        recipe.ppo.adapter = Some(self.at("adapter"));
        recipe.ppo.reward_model = Some(self.at("reward"));
        recipe.ppo.iterations = 2;
        recipe.ppo.prompts_per_iteration = 3;
        recipe.ppo.epochs = 2;
        recipe.ppo.minibatches = 1;
        recipe.ppo.sequences_per_device = 2;
        recipe.ppo.critic_warmup = 0;
        recipe.ppo.max_new_tokens = 5;
        recipe.ppo.learning_rate = 1e-2;
        recipe.ppo.critic_learning_rate = 1e-2;
        recipe.ppo.checkpoint_every = 1;

        let files = Files::of(&recipe);
        write_jsonl(&files.sft(), &(0..6).map(|i| tiny::conversation("fix", i)).collect::<Vec<_>>()).unwrap();
        write_jsonl(&files.sft_validation(), &(0..2).map(|i| tiny::conversation("repair", i)).collect::<Vec<_>>()).unwrap();
        write_jsonl(&files.preferences(), &(0..6).map(preference).collect::<Vec<_>>()).unwrap();
        write_jsonl(&files.problems(), &(0..4).map(tiny::problem).collect::<Vec<_>>()).unwrap();
        write_jsonl(&files.candidates(), &(0..4).map(candidate).collect::<Vec<_>>()).unwrap();
        recipe
    }
}

fn preference(i: usize) -> Preference {
    Preference {
        id: i.to_string(),
        prompt: format!("fix {i}"),
        chosen: format!("x + {}", i % 3),
        rejected: format!("x - {}", i % 4),
        label: if i == 2 { 0.5 } else { 1.0 },
        judgments: Vec::new(),
        extra: Default::default(),
    }
}

fn candidate(i: usize) -> Candidate {
    Candidate {
        id: i.to_string(),
        index: 0,
        model: "sft".into(),
        temperature: 0.7,
        text: format!("x * {i}"),
        answer: String::new(),
        verdict: None,
        extra: Default::default(),
    }
}

/// The metrics of a run without what the clock wrote.
pub fn metrics(recipe: &Recipe) -> Vec<Value> {
    let text = fs::read_to_string(recipe.out.join("metrics.jsonl")).unwrap();
    let read = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        ["seconds", "rollout_seconds", "tokens_per_s", "time"].iter().for_each(|field| drop(fields.shift_remove(*field)));
        line
    };
    text.lines().map(read).collect()
}
