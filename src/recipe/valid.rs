//! What a recipe's types cannot say: ranges, sums, names. Each complaint carries its key.

use super::{Pretrain, Provider, Recipe};

/// The projections that an adapter may sit on.
const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// A key and what is wrong with its value.
pub(super) struct Complaint {
    pub key: String,
    pub what: String,
}

type Checked = Result<(), Complaint>;

fn holds(ok: bool, key: &str, what: impl FnOnce() -> String) -> Checked {
    if ok { Ok(()) } else { Err(Complaint { key: key.into(), what: what() }) }
}

fn at_least_one(key: &str, x: usize) -> Checked {
    holds(x >= 1, key, || format!("expected at least 1, found {x}"))
}

fn positive(key: &str, x: f64) -> Checked {
    holds(x.is_finite() && x > 0.0, key, || format!("expected a number above 0, found {x}"))
}

fn not_negative(key: &str, x: f64) -> Checked {
    holds(x.is_finite() && x >= 0.0, key, || format!("expected a number of at least 0, found {x}"))
}

fn share(key: &str, x: f64) -> Checked {
    holds((0.0..=1.0).contains(&x), key, || format!("expected a number from 0 to 1, found {x}"))
}

fn below_one(key: &str, x: f64) -> Checked {
    holds((0.0..1.0).contains(&x), key, || format!("expected a number from 0 to below 1, found {x}"))
}

fn above_zero_to_one(key: &str, x: f64) -> Checked {
    holds(x > 0.0 && x <= 1.0, key, || format!("expected a number above 0 and at most 1, found {x}"))
}

/// A name out of a list; the nearest one is offered where one is near.
fn one_of(key: &str, name: &str, names: &[&str]) -> Checked {
    holds(names.contains(&name), key, || {
        let hint = super::load::nearest(name, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("`{name}` is not one of {}{hint}", names.join(", "))
    })
}

/// TOML has no integers beyond i64, so a larger seed could not be written into the manifest.
fn seed(key: &str, x: u64) -> Checked {
    holds(i64::try_from(x).is_ok(), key, || format!("expected at most {}, found {x}", i64::MAX))
}

/// The first thing that is wrong with a recipe.
pub(super) fn check(recipe: &Recipe) -> Checked {
    seed("seed", recipe.seed)?;
    holds(!recipe.out.as_os_str().is_empty(), "out", || "expected a folder, found an empty name".into())?;
    at_least_one("gpus", recipe.gpus)?;
    positive("join_timeout_s", recipe.join_timeout_s)?;
    at_least_one("keep_checkpoints", recipe.keep_checkpoints)?;
    if let Some(pretrain) = &recipe.pretrain {
        check_pretrain(pretrain)?;
    }
    check_data(recipe)?;
    check_lora(recipe)?;
    check_sft(recipe)?;
    check_reward(recipe)?;
    check_ppo(recipe)?;
    check_generation(recipe)
}

fn check_data(recipe: &Recipe) -> Checked {
    let p = &recipe.problems;
    holds(!p.suite.is_empty(), "problems.suite", || "expected a benchmark's name, found nothing".into())?;
    holds(p.count >= 1 || p.suite != "micro", "problems.count", || {
        "expected how many problems the suite micro makes, at least 1; found 0".into()
    })?;
    if let Some(x) = p.seed {
        seed("problems.seed", x)?;
    }
    p.split.iter().try_for_each(|&x| share("problems.split", x))?;
    let sum: f64 = p.split.iter().sum();
    holds((sum - 1.0).abs() < 1e-6, "problems.split", || format!("expected shares that sum to 1, found a sum of {sum}"))?;

    let t = &recipe.teacher;
    at_least_one("teacher.max_tokens", t.max_tokens)?;
    not_negative("teacher.temperature", t.temperature)?;
    positive("teacher.timeout_s", t.timeout_s)?;
    at_least_one("teacher.concurrency", t.concurrency)?;
    not_negative("teacher.budget_usd", t.budget_usd)?;
    not_negative("teacher.input_usd_per_mtok", t.input_usd_per_mtok)?;
    not_negative("teacher.output_usd_per_mtok", t.output_usd_per_mtok)?;
    share("teacher.error_rate", t.error_rate)?;
    let anthropic = t.provider == Provider::Anthropic;
    holds(!t.batch || anthropic, "teacher.batch", || "needs teacher.provider = \"anthropic\"".into())?;
    if let Some(tokens) = t.thinking_tokens {
        holds(anthropic, "teacher.thinking_tokens", || "needs teacher.provider = \"anthropic\"".into())?;
        holds((1024..t.max_tokens).contains(&tokens), "teacher.thinking_tokens", || {
            format!("expected at least 1024 and less than teacher.max_tokens, {}, found {tokens}", t.max_tokens)
        })?;
        holds(t.temperature == 1.0, "teacher.temperature", || {
            format!("expected 1, because a model thinks at no other; found {}", t.temperature)
        })?;
    }
    // TOML has no integers beyond i64.
    holds(t.budget_tokens.is_none_or(|x| i64::try_from(x).is_ok()), "teacher.budget_tokens", || "expected less".into())?;
    let j = &recipe.judge;
    holds((2..=26).contains(&j.at_once), "judge.at_once", || format!("expected 2 to 26, found {}", j.at_once))?;
    holds((1..=2 * j.at_once).contains(&j.orders), "judge.orders", || {
        format!("expected 1 to {}, twice judge.at_once, found {}", 2 * j.at_once, j.orders)
    })?;
    holds(t.provider != Provider::Recorded || t.path.is_some(), "teacher.path", || {
        "expected the file of stored answers, because teacher.provider is \"recorded\"; found nothing".into()
    })?;
    above_zero_to_one("filter.cap", recipe.filter.cap)?;
    check_hygiene(recipe)
}

fn check_hygiene(recipe: &Recipe) -> Checked {
    let h = &recipe.hygiene;
    share("hygiene.near", h.near)?;
    at_least_one("hygiene.ngram", h.ngram)?;
    at_least_one("hygiene.contamination_ngram", h.contamination_ngram)?;
    above_zero_to_one("hygiene.overlap", h.overlap)
}

fn check_lora(recipe: &Recipe) -> Checked {
    let l = &recipe.lora;
    at_least_one("lora.rank", l.rank)?;
    positive("lora.alpha", l.alpha)?;
    below_one("lora.dropout", l.dropout)?;
    holds(!l.targets.is_empty(), "lora.targets", || "expected at least one projection, found none".into())?;
    for (index, target) in l.targets.iter().enumerate() {
        one_of("lora.targets", target, &TARGETS)?;
        holds(!l.targets[..index].contains(target), "lora.targets", || format!("`{target}` stands there twice"))?;
    }
    Ok(())
}

fn check_adamw(section: &str, beta1: f64, beta2: f64, eps: f64, weight_decay: f64, max_grad_norm: f64) -> Checked {
    below_one(&format!("{section}.beta1"), beta1)?;
    below_one(&format!("{section}.beta2"), beta2)?;
    positive(&format!("{section}.eps"), eps)?;
    not_negative(&format!("{section}.weight_decay"), weight_decay)?;
    positive(&format!("{section}.max_grad_norm"), max_grad_norm)
}

fn global_batch(section: &str, batch: Option<usize>, per_device: usize) -> Checked {
    let Some(batch) = batch else { return Ok(()) };
    holds(batch > 0 && batch.is_multiple_of(per_device), &format!("{section}.global_batch"), || {
        format!("expected a multiple of {section}.sequences_per_device, {per_device}, found {batch}")
    })
}

fn check_sft(recipe: &Recipe) -> Checked {
    let s = &recipe.sft;
    at_least_one("sft.epochs", s.epochs)?;
    positive("sft.learning_rate", s.learning_rate)?;
    check_adamw("sft", s.beta1, s.beta2, s.eps, s.weight_decay, s.max_grad_norm)?;
    share("sft.warmup_ratio", s.warmup_ratio)?;
    // A sequence of one token predicts nothing.
    holds(s.max_tokens >= 2, "sft.max_tokens", || format!("expected at least 2, found {}", s.max_tokens))?;
    at_least_one("sft.sequences_per_device", s.sequences_per_device)?;
    at_least_one("sft.accumulation", s.accumulation)?;
    global_batch("sft", s.global_batch, s.sequences_per_device)?;
    if let Some(patience) = s.patience {
        at_least_one("sft.patience", patience)?;
        holds(s.validate, "sft.patience", || "needs sft.validate = true: it counts epochs by the validation loss".into())?;
    }
    Ok(())
}

fn check_reward(recipe: &Recipe) -> Checked {
    let r = &recipe.reward;
    at_least_one("reward.epochs", r.epochs)?;
    positive("reward.learning_rate", r.learning_rate)?;
    check_adamw("reward", r.beta1, r.beta2, r.eps, r.weight_decay, r.max_grad_norm)?;
    share("reward.warmup_ratio", r.warmup_ratio)?;
    at_least_one("reward.max_tokens", r.max_tokens)?;
    at_least_one("reward.sequences_per_device", r.sequences_per_device)?;
    at_least_one("reward.accumulation", r.accumulation)?;
    global_batch("reward", r.global_batch, r.sequences_per_device)?;
    below_one("reward.validation", r.validation)?;
    r.patience.map_or(Ok(()), |patience| at_least_one("reward.patience", patience))
}

fn check_ppo(recipe: &Recipe) -> Checked {
    let p = &recipe.ppo;
    at_least_one("ppo.iterations", p.iterations)?;
    at_least_one("ppo.prompts_per_iteration", p.prompts_per_iteration)?;
    at_least_one("ppo.epochs", p.epochs)?;
    at_least_one("ppo.minibatches", p.minibatches)?;
    holds(p.minibatches <= p.prompts_per_iteration, "ppo.minibatches", || {
        format!("expected at most ppo.prompts_per_iteration, {}, found {}", p.prompts_per_iteration, p.minibatches)
    })?;
    at_least_one("ppo.sequences_per_device", p.sequences_per_device)?;
    at_least_one("ppo.batch", p.batch)?;
    positive("ppo.clip", p.clip)?;
    positive("ppo.value_clip", p.value_clip)?;
    not_negative("ppo.kl", p.kl)?;
    p.kl_bound.map_or(Ok(()), |bound| positive("ppo.kl_bound", bound))?;
    share("ppo.gamma", p.gamma)?;
    share("ppo.lambda", p.lambda)?;
    // Log-probabilities are divided by it, and greedy rollouts explore nothing.
    positive("ppo.temperature", p.temperature)?;
    at_least_one("ppo.max_new_tokens", p.max_new_tokens)?;
    positive("ppo.learning_rate", p.learning_rate)?;
    positive("ppo.critic_learning_rate", p.critic_learning_rate)?;
    positive("ppo.score_clip", p.score_clip)?;
    not_negative("ppo.missing_eos_penalty", p.missing_eos_penalty)?;
    check_adamw("ppo", p.beta1, p.beta2, p.eps, p.weight_decay, p.max_grad_norm)?;
    share("ppo.warmup_ratio", p.warmup_ratio)
}

fn check_generation(recipe: &Recipe) -> Checked {
    let c = &recipe.candidates;
    // A preference needs two answers.
    holds(c.per_problem >= 2, "candidates.per_problem", || format!("expected at least 2, found {}", c.per_problem))?;
    holds(!c.temperatures.is_empty(), "candidates.temperatures", || "expected at least one temperature, found none".into())?;
    c.temperatures.iter().try_for_each(|&x| not_negative("candidates.temperatures", x))?;
    at_least_one("candidates.max_new_tokens", c.max_new_tokens)?;
    above_zero_to_one("candidates.top_p", c.top_p)?;
    at_least_one("candidates.batch", c.batch)?;

    let e = &recipe.evaluate;
    one_of("evaluate.split", &e.split, &["train", "validation", "test"])?;
    not_negative("evaluate.temperature", e.temperature)?;
    at_least_one("evaluate.samples", e.samples)?;
    at_least_one("evaluate.max_new_tokens", e.max_new_tokens)?;
    above_zero_to_one("evaluate.top_p", e.top_p)?;
    at_least_one("evaluate.batch", e.batch)?;
    one_of("evaluate.bleu", &e.bleu, &["13a", "none", "char", "code"])?;
    holds(!e.models.is_empty(), "evaluate.models", || "expected at least one model, found none".into())?;
    e.models.iter().try_for_each(|name| one_of("evaluate.models", name, &["base", "sft", "ppo"]))?;
    for folder in &recipe.report.beside {
        holds(*folder != recipe.out, "report.beside", || {
            format!("expected another run's folder, found this one's, {}", folder.display())
        })?;
    }
    Ok(())
}

fn check_pretrain(p: &Pretrain) -> Checked {
    for (key, x) in [
        ("pretrain.hidden", p.hidden),
        ("pretrain.intermediate", p.intermediate),
        ("pretrain.layers", p.layers),
        ("pretrain.heads", p.heads),
        ("pretrain.kv_heads", p.kv_heads),
        ("pretrain.head_dim", p.head_dim),
        ("pretrain.documents", p.documents),
        ("pretrain.epochs", p.epochs),
        ("pretrain.batch_tokens", p.batch_tokens),
    ] {
        at_least_one(key, x)?;
    }
    // A byte-level tokenizer starts from 256 entries.
    holds(p.vocab >= 257, "pretrain.vocab", || format!("expected at least 257, the bytes and an end token, found {}", p.vocab))?;
    holds(p.heads.is_multiple_of(p.kv_heads), "pretrain.kv_heads", || {
        format!("expected a divisor of pretrain.heads, {}, found {}", p.heads, p.kv_heads)
    })?;
    holds(p.head_dim.is_multiple_of(2), "pretrain.head_dim", || {
        format!("expected an even number, because rotary positions turn pairs; found {}", p.head_dim)
    })?;
    positive("pretrain.learning_rate", p.learning_rate)?;
    share("pretrain.warmup_ratio", p.warmup_ratio)?;
    not_negative("pretrain.weight_decay", p.weight_decay)?;
    positive("pretrain.max_grad_norm", p.max_grad_norm)?;
    for (key, x) in [
        ("pretrain.programs", p.programs),
        ("pretrain.direct", p.direct),
        ("pretrain.right_direct", p.right_direct),
        ("pretrain.right_trace", p.right_trace),
    ] {
        share(key, x)?;
    }
    if let Some(x) = p.seed {
        seed("pretrain.seed", x)?;
    }
    p.held_out.iter().try_for_each(|set| seed("pretrain.held_out", set.seed))
}
