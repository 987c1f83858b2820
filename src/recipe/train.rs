//! The sections that train: `[pretrain]`, `[lora]`, `[sft]`, `[reward]`, `[ppo]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which parameters a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Train {
    /// A low-rank adapter; the model itself is frozen.
    Lora,
    /// Every parameter.
    Full,
}

/// What a reasoning-trace learner learns to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The trace and the answer (Eq 7).
    Reasoning,
    /// The answer only (Eq 8, the paper's ablation).
    Direct,
}

/// The learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// A line down to 0.
    Linear,
    /// No decay.
    Constant,
}

/// What backward computes again instead of keeping it: memory against time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Everything is kept.
    None,
    /// The feed-forward part of each block is computed again, up to what its last map reads.
    Mlp,
    /// Each block is computed again from its input, but for its last map.
    Block,
}

/// Where the value function's parameters live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Critic {
    /// A second adapter and a scalar head on the same frozen base.
    Adapter,
    /// Only a scalar head, on the reference's hidden states.
    Head,
}

/// Where PPO keeps the reward model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewardMemory {
    /// On every device, always.
    Resident,
    /// In the host's (pinned) memory; on the device only while it scores.
    Host,
    /// Spread over all devices; each layer's are brought together shortly before they are used.
    Sharded,
}

/// The decoder block that is pretrained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Biases on q, k, v.
    Qwen2,
    /// No biases.
    Llama,
}

/// The number format of a written checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// 32-bit floating point.
    F32,
}

/// `[lora]`: Hu et al. 2021, with PEFT's initialisation and scaling (alpha / rank).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank of the update. The paper: 4.
    pub rank: usize,
    /// Numerator of the scaling alpha / rank. The paper: 16.
    pub alpha: f64,
    /// Probability that an input of the low-rank branch is dropped in training. The paper: 0.05. Off in PPO.
    pub dropout: f64,
    /// Any of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`. The paper: "attention modules".
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Lora {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj"].map(String::from).to_vec();
        Lora { rank: 4, alpha: 16.0, dropout: 0.05, targets }
    }
}

/// `[sft]`: reasoning-trace learning (section 3.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sft {
    /// Trace and answer, or the answer only. The paper: `reasoning`; `direct` is its ablation.
    pub objective: Objective,
    /// The adapter, or every parameter. Default `lora`.
    pub train: Train,
    /// Conversations (JSONL) to train on, in place of the filter's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// A PEFT folder to go on from, in place of a fresh adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Passes over the data. The paper: 3 (section 4.5 says 5).
    pub epochs: usize,
    /// Peak learning rate. The paper: 1e-5 (section 3.3.2: 5e-6).
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay. The paper: 0.01 (section 3.3.2).
    pub weight_decay: f64,
    /// Decay of AdamW's first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of AdamW's second moment. Default 0.999.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment. Default 1e-8.
    pub eps: f64,
    /// Share of the steps in which the learning rate rises linearly. Default 0.03; the paper warms up, by how much it does
    /// not say.
    pub warmup_ratio: f64,
    /// The learning rate after warm-up. The paper: `cosine` (section 3.3.2).
    pub schedule: Schedule,
    /// The gradient's norm is cut to this. Default 1.
    pub max_grad_norm: f64,
    /// Tokens a sequence may have; longer records are left out and counted. The paper: 2048 (section 3.3.2: 4096).
    pub max_tokens: usize,
    /// Sequences of a micro-batch on each device. The paper: 1 (section 3.3.2: 4).
    pub sequences_per_device: usize,
    /// Micro-batches that make a step, on each device. The paper: 8.
    pub accumulation: usize,
    /// Sequences of a step over all devices, in place of sequences_per_device × accumulation × devices: what is learnt then does
    /// not depend on how many devices there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_batch: Option<usize>,
    /// What backward computes again. Default `mlp`.
    pub recompute: Recompute,
    /// Steps between checkpoints; 0 saves only at an interrupt and at the end. Default 50.
    pub checkpoint_every: usize,
    /// Draws a new order in every epoch; false keeps the file's. Default true.
    pub shuffle: bool,
    /// Epochs without a better validation loss before training stops; left out, all epochs are run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Measures the validation loss after every epoch and keeps the best adapter. Default true.
    pub validate: bool,
}

impl Default for Sft {
    fn default() -> Sft {
        Sft {
            objective: Objective::Reasoning,
            train: Train::Lora,
            data: None,
            adapter: None,
            epochs: 3,
            learning_rate: 1e-5,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            warmup_ratio: 0.03,
            schedule: Schedule::Cosine,
            max_grad_norm: 1.0,
            max_tokens: 2048,
            sequences_per_device: 1,
            accumulation: 8,
            global_batch: None,
            recompute: Recompute::Mlp,
            checkpoint_every: 50,
            shuffle: true,
            patience: None,
            validate: true,
        }
    }
}

/// `[reward]`: the reward model R_θ, trained on preferences (Eq 12, 13).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reward {
    /// A folder in the Hugging Face layout; its tokenizer need not be the policy's. The paper: CodeLlama-7b.
    pub model: PathBuf,
    /// Preferences (JSONL) to train on, in place of the judge's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Every parameter, or the adapter and the head. Default `full`.
    pub train: Train,
    /// Passes over the pairs. The paper: 3.
    pub epochs: usize,
    /// Peak learning rate. The paper: 5e-5.
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay. Default 0.01.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of AdamW's second moment. Default 0.999.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment. Default 1e-8.
    pub eps: f64,
    /// Share of the steps in which the learning rate rises linearly. Default 0.03.
    pub warmup_ratio: f64,
    /// The learning rate after warm-up. Default `cosine`.
    pub schedule: Schedule,
    /// The gradient's norm is cut to this. Default 1.
    pub max_grad_norm: f64,
    /// Tokens that prompt and answer may have; pairs with a longer one are left out and counted. Default 2048.
    pub max_tokens: usize,
    /// Pairs (of two sequences) of a micro-batch on each device. The paper: 4.
    pub sequences_per_device: usize,
    /// Micro-batches that make a step, on each device. The paper: 4.
    pub accumulation: usize,
    /// Pairs of a step over all devices, in place of sequences_per_device × accumulation × devices: what is learnt then does not
    /// depend on how many devices there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_batch: Option<usize>,
    /// What backward computes again. Default `mlp`.
    pub recompute: Recompute,
    /// Steps between checkpoints; 0 saves only at an interrupt and at the end. Default 50.
    pub checkpoint_every: usize,
    /// Draws a new order in every epoch; false keeps the file's. Default true.
    pub shuffle: bool,
    /// Share of the problems whose pairs are held out: accuracy and early stopping are measured on them. Default 0.1; the
    /// paper reaches an accuracy of 0.85.
    pub validation: f64,
    /// Epochs without a better held-out loss before training stops; left out, all epochs are run and the best is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
}

impl Default for Reward {
    fn default() -> Reward {
        Reward {
            model: "models/CodeLlama-7b-hf".into(),
            data: None,
            train: Train::Full,
            epochs: 3,
            learning_rate: 5e-5,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            warmup_ratio: 0.03,
            schedule: Schedule::Cosine,
            max_grad_norm: 1.0,
            max_tokens: 2048,
            sequences_per_device: 4,
            accumulation: 4,
            global_batch: None,
            recompute: Recompute::Mlp,
            checkpoint_every: 50,
            shuffle: true,
            validation: 0.1,
            patience: None,
        }
    }
}

/// `[ppo]`: reinforcement learning from the reward model (Eq 14 to 17).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ppo {
    /// A PEFT folder to start from, in place of the SFT stage's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// A reward model's folder, in place of the reward stage's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<PathBuf>,
    /// Where the reward model's weights are while nothing is scored. Default `resident`.
    pub reward_memory: RewardMemory,
    /// Batches of rollouts. Default 100; the paper does not say.
    pub iterations: usize,
    /// Prompts of a batch, over all devices; each is answered once. Default 64.
    pub prompts_per_iteration: usize,
    /// Passes over each batch. The paper: 5.
    pub epochs: usize,
    /// Optimizer steps of a pass: the batch is cut into this many parts. Default 4.
    pub minibatches: usize,
    /// Sequences of a micro-batch on each device. Default 1.
    pub sequences_per_device: usize,
    /// Clip range ε of the probability ratio (Eq 15). The paper: 0.2.
    pub clip: f64,
    /// Clip range of the value function, around its value before the batch. Default 0.2.
    pub value_clip: f64,
    /// Weight β of KL(π_θ ‖ π_SFT) in the reward (Eq 14). The paper: 0.1.
    pub kl: f64,
    /// Ends the passes over a batch once the mean KL from the policy that sampled it (nats a token) is above this; left out,
    /// all passes are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_bound: Option<f64>,
    /// Discount γ (Eq 17). Default 1.
    pub gamma: f64,
    /// λ of generalised advantage estimation (Eq 17). Default 0.95.
    pub lambda: f64,
    /// Sampling temperature of the rollouts. The paper: 1.0.
    pub temperature: f64,
    /// Tokens a response may have. Default 732; the paper's responses have 546 to 732.
    pub max_new_tokens: usize,
    /// Sequences generated at once on a device. Default 32.
    pub batch: usize,
    /// Peak learning rate of the policy. Default 1e-6.
    pub learning_rate: f64,
    /// Peak learning rate of the critic. Default 1e-5.
    pub critic_learning_rate: f64,
    /// Where the value function's parameters live. Default `adapter`.
    pub critic: Critic,
    /// First iterations in which only the critic learns. Default 2.
    pub critic_warmup: usize,
    /// Brings the advantages of a batch to mean 0 and deviation 1. Default true.
    pub whiten: bool,
    /// Normalised scores are clamped to ± this. Default 5.
    pub score_clip: f64,
    /// Taken from the normalised score of a response that never ended. Default 1.
    pub missing_eos_penalty: f64,
    /// The gradient's norm is cut to this, for policy and critic apart. Default 1.
    pub max_grad_norm: f64,
    /// AdamW's decoupled weight decay. Default 0.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of AdamW's second moment. Default 0.999.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment. Default 1e-8.
    pub eps: f64,
    /// Share of the steps in which the learning rates rise linearly. Default 0.
    pub warmup_ratio: f64,
    /// The learning rates after warm-up. Default `constant`.
    pub schedule: Schedule,
    /// What backward computes again. Default `mlp`.
    pub recompute: Recompute,
    /// Iterations between checkpoints; 0 saves only at an interrupt and at the end. Default 10.
    pub checkpoint_every: usize,
}

impl Default for Ppo {
    fn default() -> Ppo {
        Ppo {
            adapter: None,
            reward_model: None,
            reward_memory: RewardMemory::Resident,
            iterations: 100,
            prompts_per_iteration: 64,
            epochs: 5,
            minibatches: 4,
            sequences_per_device: 1,
            clip: 0.2,
            value_clip: 0.2,
            kl: 0.1,
            kl_bound: None,
            gamma: 1.0,
            lambda: 0.95,
            temperature: 1.0,
            max_new_tokens: 732,
            batch: 32,
            learning_rate: 1e-6,
            critic_learning_rate: 1e-5,
            critic: Critic::Adapter,
            critic_warmup: 2,
            whiten: true,
            score_clip: 5.0,
            missing_eos_penalty: 1.0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            warmup_ratio: 0.0,
            schedule: Schedule::Constant,
            recompute: Recompute::Mlp,
            checkpoint_every: 10,
        }
    }
}

/// `[pretrain]`: a small base model, trained from nothing on made programs and repairs. The paper has no such stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    /// The Hugging Face folder that is written.
    pub out: PathBuf,
    /// A model to go on from, with its tokenizer, in place of random weights: a second phase on another mixture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The decoder block. Default `qwen2`.
    pub architecture: Architecture,
    /// Entries of the tokenizer that is trained on the documents. Default 1024.
    pub vocab: usize,
    /// Model width. Default 192.
    pub hidden: usize,
    /// Width of the feed-forward part. Default 512.
    pub intermediate: usize,
    /// Blocks. Default 4.
    pub layers: usize,
    /// Query heads. Default 4.
    pub heads: usize,
    /// Key-value heads; divides `heads`. Default 2.
    pub kv_heads: usize,
    /// Width of a head; even. Default 48.
    pub head_dim: usize,
    /// One matrix serves as embedding and output head. Default true.
    pub tied: bool,
    /// Documents that are made. Default 40,000.
    pub documents: usize,
    /// Passes over the documents. Default 1.
    pub epochs: usize,
    /// Peak learning rate; cosine decay to 0. Default 1e-3.
    pub learning_rate: f64,
    /// Tokens of a step. Default 8192.
    pub batch_tokens: usize,
    /// Share of the steps in which the learning rate rises linearly. Default 0.02.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay. Default 0.1.
    pub weight_decay: f64,
    /// The gradient's norm is cut to this. Default 1.
    pub max_grad_norm: f64,
    /// Seed of the documents and of the initial weights; left out, the recipe's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Sets of `micro` problems that must not appear in the documents.
    pub held_out: Vec<HeldOut>,
    /// Share of the documents that are programs alone. The rest ask for a repair. Default 0.4.
    pub programs: f64,
    /// Share of the repairs that answer with code only; the others reason first. Default 0.5.
    pub direct: f64,
    /// Share of the code-only repairs whose answer is right. Default 0.5: what a base model should leave to be learnt.
    pub right_direct: f64,
    /// Share of the reasoned repairs whose answer is right. Default 0.5.
    pub right_trace: f64,
    /// The checkpoint's number format. Default `bf16`.
    pub dtype: Dtype,
}

impl Default for Pretrain {
    fn default() -> Pretrain {
        Pretrain {
            out: "assets/micro-base".into(),
            start: None,
            architecture: Architecture::Qwen2,
            vocab: 1024,
            hidden: 192,
            intermediate: 512,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 48,
            tied: true,
            documents: 40_000,
            epochs: 1,
            learning_rate: 1e-3,
            batch_tokens: 8192,
            warmup_ratio: 0.02,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            seed: None,
            held_out: Vec::new(),
            programs: 0.4,
            direct: 0.5,
            right_direct: 0.5,
            right_trace: 0.5,
            dtype: Dtype::Bf16,
        }
    }
}

/// A set of `micro` problems, by what makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// `problems.seed` of the set.
    pub seed: u64,
    /// `problems.count` of the set.
    pub count: usize,
}
