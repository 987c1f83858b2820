#!/usr/bin/env python3
"""Writes the expected values that tests/golden.rs compares the engine with.

    pip install -r tools/golden-requirements.txt
    python tools/golden.py --out tests/golden

Tiny checkpoints with random weights are saved by Transformers, tiny adapters by PEFT. Their log-probabilities, losses,
gradients and optimizer steps are then computed by PyTorch in double precision, one sequence at a time, without padding.

Transformers rounds to float32 in three places whatever a model's type is: RMSNorm, the angles of the rotary embedding,
and the softmax of eager attention. `in_double` replaces the first two and selects SDPA, which does not round, so that
the expected values are good to about 1e-14. Every quantity is also computed with the untouched float32 model with eager
attention, and the distance of the two is checked and stored in `expected.json` as `float32_distance`: it is the error
that a correct float32 engine may make, and it shows that the replaced parts compute what the untouched ones do.

The untouched model with weights and activations in bfloat16 gives `bfloat16_distance`: the error of plain bfloat16
arithmetic. A few numbers may come out right by luck. So `loss` is the mean distance of the single tokens' losses, which the
distance of their mean cannot exceed, and `scores` is the largest distance over all prefixes of the sequences. A largest
element is one element, so `gradients_rms` is the distance of each tensor's gradient as a whole: of root mean squares,
relative.

A folder holds one fixture, and its `expected.json` says which by `kind`:

    decoder    a checkpoint; log-probabilities, entropies, loss, every gradient; maybe training and greedy generation
    adapter    a PEFT adapter for the checkpoint that `model` points to; the same for the adapter's tensors, and training
    reward     a sequence classifier, or a PEFT adapter and head for one; scores, Bradley-Terry loss, every gradient

`expected.safetensors` holds the arrays: `logprobs` and `entropy` (one per token after the first of each sequence),
`scores`, and `grad.NAME` for each tensor NAME of the checkpoint. `ppo.json` and `schedules.json` stand beside the folders.
"""

import argparse
import copy
import json
import math
import shutil
import types
from pathlib import Path

import numpy
import peft
import torch
import transformers
from safetensors.torch import save_file
from torch.nn.functional import logsigmoid

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
QWEN2 = {**SHAPE, "num_key_value_heads": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
LLAMA = {**SHAPE, "num_key_value_heads": 4, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_hidden_layers": 2}

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

TRAINING = {
    "steps": 10,
    "warmup": 2,
    "peak_lr": 1e-3,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}

# What the float32 run of Transformers may differ by from the double one, before this script refuses to write. The tests
# allow the engine more than this: see tests/golden.rs.
FLOAT32_LIMITS = {"logprobs": 1e-5, "entropy": 1e-5, "scores": 1e-5, "gradients": 2e-5, "trained": 5e-5, "losses": 1e-5}


# ---- models ----


def randomise(model, seed):
    """Fills a model with seeded values that make every parameter matter: norms away from 1, biases away from 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, param in model.named_parameters():
        noise = torch.randn(param.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            values = 0.3 * noise
        elif "embed_tokens" in name:
            values = noise / (4.0 if model.config.tie_word_embeddings else 1.0)
        else:
            values = noise / math.sqrt(param.shape[-1])
        param.data.copy_(values)
    return model


def in_double(model):
    """Turns a Qwen2 or Llama model into one that computes in float64 from end to end. Parameter names stay."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self, x, position_ids):
        dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        frequencies = self.config.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = position_ids[..., None].to(torch.float64) * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    model.double()
    model.set_attn_implementation("sdpa")
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)
        elif type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(rotary, module)
    return model


def load(folder, auto=transformers.AutoModelForCausalLM, dtype=torch.float32):
    """The checkpoint in `folder`, cast to `dtype`, with eager attention."""
    return auto.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def load_adapter(folder, adapter, auto=transformers.AutoModelForCausalLM, dtype=torch.float32):
    """The checkpoint in `folder` under the PEFT adapter in `adapter`, ready for training, both cast to `dtype`."""
    base = load(folder, auto, dtype)
    return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True, autocast_adapter_dtype=False).eval()


def file_name(name):
    """A parameter's name in the file that holds it: PEFT leaves out the adapter's name and its own wrapper's."""
    return name.replace(".modules_to_save.", ".").replace(".default.", ".")


def trained_parameters(model):
    """Trained parameters by their names in the file that holds them."""
    named = ((file_name(name), param) for name, param in model.named_parameters())
    return {name: param for name, param in named if param.requires_grad}


# ---- what is computed ----


class Batch:
    """Random packed sequences: `tokens` flat, `lengths`, and `mask`, 1 on the tokens that the loss counts."""

    def __init__(self, lengths, vocab, seed):
        random = numpy.random.default_rng(seed)
        self.lengths = lengths
        self.tokens = random.integers(0, vocab, sum(lengths)).tolist()
        self.mask = []
        for length in lengths:
            prompt = max(1, length // 3)
            answer = (random.random(max(0, length - prompt)) < 0.9).astype(int).tolist()
            self.mask += ([0] * prompt + answer)[:length]

    def sequences(self):
        """Each sequence's tokens."""
        return torch.split(torch.tensor(self.tokens), self.lengths)

    def target_mask(self):
        """The mask of the tokens after the first of each sequence, as `logprobs` has them."""
        return torch.cat([part[1:] for part in torch.split(torch.tensor(self.mask), self.lengths)])

    def record(self):
        """Its fields in expected.json."""
        return {"lengths": self.lengths, "tokens": self.tokens, "mask": self.mask}


def widened(outputs):
    """Outputs in bfloat16 as float32, which is what Transformers computes losses in; wider ones as they are."""
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


def next_tokens(model, batch):
    """Log-probabilities of the tokens after the first of each sequence, and the entropy of each one's distribution."""
    logprobs, entropy = [], []
    for sequence in batch.sequences():
        if len(sequence) < 2:
            continue
        logits = widened(model(input_ids=sequence[None], use_cache=False).logits[0, :-1])
        distribution = torch.log_softmax(logits, dim=-1)
        logprobs.append(distribution.gather(1, sequence[1:, None])[:, 0])
        entropy.append(-(distribution.exp() * distribution).sum(-1))
    return torch.cat(logprobs), torch.cat(entropy)


def cross_entropy(logprobs, batch):
    """The mean of the masked tokens' losses."""
    mask = batch.target_mask().to(logprobs.dtype)
    return -(logprobs * mask).sum() / mask.sum()


def gradients(model, loss):
    """Gradients of the trained parameters by name."""
    model.zero_grad()
    loss.backward()
    return {name: param.grad.detach().clone() for name, param in trained_parameters(model).items()}


def language(model, batch):
    """Everything that is compared for a language model."""
    logprobs, entropy = next_tokens(model, batch)
    loss = cross_entropy(logprobs, batch)
    return {
        "logprobs": logprobs.detach(),
        "entropy": entropy.detach(),
        "losses": -logprobs.detach()[batch.target_mask() == 1],
        "loss": loss.item(),
        "gradients": gradients(model, loss),
    }


def scores_of(model, sequences):
    """Scores at the last tokens."""
    return widened(torch.stack([model(input_ids=sequence[None], use_cache=False).logits[0, 0] for sequence in sequences]))


def classifier(model, batch, labels):
    """Scores, and the mean Bradley-Terry loss of sequences 2i and 2i + 1, label i = P(2i is better)."""
    scores = scores_of(model, batch.sequences())
    label = torch.tensor(labels, dtype=scores.dtype)
    margin = scores[0::2] - scores[1::2]
    loss = (-label * logsigmoid(margin) - (1 - label) * logsigmoid(-margin)).mean()
    return {"scores": scores.detach(), "loss": loss.item(), "gradients": gradients(model, loss)}


def train(model, batch):
    """Ten AdamW steps on one batch. Matrices decay, norms and biases do not, as in Transformers' trainer.

    Most steps are smaller than half a unit in the last place of bfloat16, so parameters of that type are rounded copies of
    float32 masters, which is how they are trained.
    """
    params = masters = trained_parameters(model)
    rounded = model.dtype == torch.bfloat16
    if rounded:
        masters = {name: param.detach().float() for name, param in params.items()}
    groups = [
        {"params": [p for p in masters.values() if p.ndim > 1], "weight_decay": TRAINING["weight_decay"]},
        {"params": [p for p in masters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TRAINING["peak_lr"], betas=TRAINING["betas"], eps=TRAINING["eps"])
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, TRAINING["warmup"], TRAINING["steps"])
    history = {"lr": [], "losses": [], "grad_norms": []}
    for _ in range(TRAINING["steps"]):
        loss = cross_entropy(next_tokens(model, batch)[0], batch)
        model.zero_grad()
        loss.backward()
        if rounded:
            for name, param in params.items():
                masters[name].grad = param.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), TRAINING["max_grad_norm"])
        history["lr"].append(schedule.get_last_lr()[0])
        history["losses"].append(loss.item())
        history["grad_norms"].append(norm.item())
        optimizer.step()
        schedule.step()
        if rounded:
            for name, param in params.items():
                param.data.copy_(masters[name])
    return history, {name: param.detach().clone() for name, param in masters.items()}


def greedy(folder, prompts, new_tokens):
    """Greedy continuations with the KV cache, the log-probability of each token, and the lead of the best logit over the second
    where it is smallest."""
    model, double = load(folder), in_double(load(folder))
    continuations, logprobs, gap = [], [], math.inf
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, use_cache=True
        )
        with torch.no_grad():
            logits = double(input_ids=out, use_cache=False).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2)
        chosen = best.indices[:, 0].tolist()
        assert chosen == out[0, len(prompt) :].tolist(), "float32 and float64 choose differently"
        gap = min(gap, (best.values[:, 0] - best.values[:, 1]).min().item())
        continuations.append(chosen)
        logprobs.append(torch.log_softmax(logits, dim=-1).max(-1).values.tolist())
    assert gap > 1e-3, f"the closest call is {gap}: choose another seed"
    case = {"max_new_tokens": new_tokens, "prompts": prompts, "ids": continuations, "logprobs": logprobs}
    return case | {"smallest_lead": gap}


# ---- files ----


def distance(double, single):
    """Largest differences between two results: absolute, and for gradients relative to each tensor's largest element."""
    found = {}
    for key in ("logprobs", "entropy", "scores"):
        if key in double:
            found[key] = (double[key] - single[key]).abs().max().item()
    if "gradients" in double:
        pairs = [(grad, single["gradients"][name]) for name, grad in double["gradients"].items()]
        found["gradients"] = max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)
    return found


def training_distance(double, single):
    """The same for `train`'s results: losses and trained values, absolute."""
    losses = max(abs(a - b) for a, b in zip(double[0]["losses"], single[0]["losses"]))
    trained = max((double[1][name] - single[1][name]).abs().max().item() for name in double[1])
    return {"losses": losses, "trained": trained}


def bfloat16_distance(double, rounded):
    """What bfloat16 arithmetic is away by: the measures of `distance`, the mean distance of the single tokens' losses, and the
    distance of each tensor's gradient, of root mean squares."""
    found = distance(double, rounded)
    if "losses" in double:
        found["loss"] = (double["losses"] - rounded["losses"]).abs().mean().item()
    pairs = {name: (grad, rounded["gradients"][name]) for name, grad in double["gradients"].items()}
    rms = {name: float(f"{(a - b).norm() / a.norm():.3g}") for name, (a, b) in pairs.items()}
    return found | {"gradients_rms": rms}


def bfloat16_training_distance(double, rounded):
    """The same for `train`'s results: the measures of `training_distance`, gradient norms, and trained values as a whole."""
    norms = max(abs(a - b) for a, b in zip(double[0]["grad_norms"], rounded[0]["grad_norms"]))
    differences = torch.cat([(double[1][name] - rounded[1][name]).flatten() for name in double[1]])
    rms = differences.pow(2).mean().sqrt().item()
    return training_distance(double, rounded) | {"grad_norms": norms, "trained_rms": rms}


def write_json(path, value):
    """JSON with lists of numbers on one line."""
    lines = [f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_expected(folder, kind, model, seed, result, fields, distances, rounded):
    """Writes expected.json and expected.safetensors."""
    name = folder.name
    for key, found in distances.items():
        assert found < FLOAT32_LIMITS[key], f"{name}: float32 and float64 are {found} apart in {key}"
    arrays = {key: result[key] for key in ("logprobs", "entropy", "scores") if key in result}
    arrays |= {f"grad.{key}": grad for key, grad in result["gradients"].items()}
    save_file({key: array.contiguous() for key, array in arrays.items()}, folder / "expected.safetensors")
    made_by = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    head = {"kind": kind, "model": model, "made_by": made_by, "seed": seed, "loss": result["loss"]}
    write_json(folder / "expected.json", head | fields | {"float32_distance": distances, "bfloat16_distance": rounded})
    print(f"{name}: loss {result['loss']:.6f}")
    for what, found in (("float32", distances), ("bfloat16", rounded)):
        worst = ", ".join(f"{key} {of:.1e}" for key, of in found.items() if isinstance(of, float))
        print(f"    {what} is away by {worst}")


def decoder(out, name, model, seed, dtype, lengths, shard="5GB", training=False, prompts=()):
    """A checkpoint and its expected values."""
    folder = out / name
    randomise(model, seed).to(dtype).save_pretrained(folder, max_shard_size=shard)
    batch = Batch(lengths, model.config.vocab_size, seed)
    result = language(in_double(load(folder)), batch)
    distances = distance(result, language(load(folder), batch))
    rounded = bfloat16_distance(result, language(load(folder, dtype=torch.bfloat16), batch))
    fields = batch.record()
    if training:
        history, trained = train(in_double(load(folder)), batch)
        distances |= training_distance((history, trained), train(load(folder), batch))
        rounded |= bfloat16_training_distance((history, trained), train(load(folder, dtype=torch.bfloat16), batch))
        fields["training"] = TRAINING | history
        save_file(trained, folder / "trained.safetensors")
    if prompts:
        fields["generation"] = greedy(folder, prompts, 12)
    write_expected(folder, "decoder", ".", seed, result, fields, distances, rounded)


def save_adapter(model, base, folder):
    """Saves by PEFT, in float32, with the base model's path relative to the adapter's and nothing that varies from run to run."""
    copy.deepcopy(model).float().save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def random_adapter(model, config, seed):
    """A PEFT model whose adapter (and head, where it trains one) is away from its zero start."""
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, param in trained_parameters(model).items():
        scale = 0.1 if "lora_B" in name else 1.0 / math.sqrt(param.shape[-1])
        param.data.copy_(scale * torch.randn(param.shape, generator=generator))
    return model


def adapter(out, name, base, seed, rank, alpha, targets, lengths):
    """A LoRA adapter, its expected values, and the adapter after ten steps."""
    folder, relative = out / name, f"../../{base}"
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    save_adapter(random_adapter(load(out / base), config, seed), relative, folder / "adapter")

    def start(dtype=torch.float32):
        return load_adapter(out / base, folder / "adapter", dtype=dtype)

    batch = Batch(lengths, SHAPE["vocab_size"], seed)
    result = language(in_double(start()), batch)
    distances = distance(result, language(start(), batch))
    rounded = bfloat16_distance(result, language(start(torch.bfloat16), batch))
    model = in_double(start())
    history, trained = train(model, batch)
    distances |= training_distance((history, trained), train(start(), batch))
    rounded |= bfloat16_training_distance((history, trained), train(start(torch.bfloat16), batch))
    save_adapter(model, relative, folder / "trained")
    fields = {"adapter": "adapter"} | batch.record() | {"training": TRAINING | history}
    write_expected(folder, "adapter", f"../{base}", seed, result, fields, distances, rounded)


def write_reward(folder, base, start, seed, lengths, labels, fields):
    """The expected values of a reward model, which `start` loads in the type it is given."""
    batch = Batch(lengths, SHAPE["vocab_size"], seed)
    result = classifier(in_double(start(torch.float32)), batch, labels)
    distances = distance(result, classifier(start(torch.float32), batch, labels))
    rounded = bfloat16_distance(result, classifier(start(torch.bfloat16), batch, labels))
    prefixes = [sequence[:end] for sequence in batch.sequences() for end in range(1, len(sequence) + 1)]
    with torch.no_grad():
        double, bfloat16 = scores_of(in_double(start(torch.float32)), prefixes), scores_of(start(torch.bfloat16), prefixes)
    rounded["scores"] = (double - bfloat16).abs().max().item()
    fields = fields | {"lengths": batch.lengths, "tokens": batch.tokens, "labels": labels}
    write_expected(folder, "reward", base, seed, result, fields, distances, rounded)


def reward(out, name, model, seed, lengths, labels):
    """A reward model and its expected values."""
    folder, auto = out / name, transformers.AutoModelForSequenceClassification
    randomise(model, seed).save_pretrained(folder)
    write_reward(folder, ".", lambda dtype: load(folder, auto, dtype), seed, lengths, labels, {})


def reward_adapter(out, name, base, seed, lengths, labels):
    """A PEFT adapter with a head of its own on a reward model, and its expected values."""
    folder, auto = out / name, transformers.AutoModelForSequenceClassification
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=ATTENTION, task_type="SEQ_CLS")
    save_adapter(random_adapter(load(out / base, auto), config, seed), f"../../{base}", folder / "adapter")

    def start(dtype):
        return load_adapter(out / base, folder / "adapter", auto, dtype)

    write_reward(folder, f"../{base}", start, seed, lengths, labels, {"adapter": "adapter"})


# ---- PPO and schedules ----


def gae_case(random, gamma, lam, lengths):
    """Advantages as the sum that defines them, not by the recursion that engines use."""
    total = sum(lengths)
    rewards, values = random.normal(size=total), random.normal(size=total)
    advantages = numpy.zeros(total)
    start = 0
    for length in lengths:
        r, v = rewards[start : start + length], numpy.append(values[start : start + length], 0.0)
        delta = r + gamma * v[1:] - v[:-1]
        for t in range(length):
            weights = (gamma * lam) ** numpy.arange(length - t)
            advantages[start + t] = (weights * delta[t:]).sum()
        start += length
    case = {"gamma": gamma, "lambda": lam, "lengths": lengths, "reward": rewards, "value": values}
    return case | {"advantage": advantages, "returns": advantages + values}


def clip_case(logprob, old, advantage, clip):
    """The clipped surrogate per token and its gradient. No ratio stands on a corner, where the gradient is a convention."""
    x, old, advantage = (torch.tensor(array, dtype=torch.float64) for array in (logprob, old, advantage))
    x.requires_grad_()
    log_ratio = x - old
    ratio = log_ratio.clamp(-20.0, 20.0).exp()
    assert min((ratio - corner).abs().min() for corner in (1 - clip, 1 + clip)) > 1e-4
    plain, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    loss = -torch.minimum(plain, clipped)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    sums = {
        "loss": loss.sum(),
        "clipped": (clipped < plain).sum(),
        "ratio": ratio.sum(),
        "k1": (-log_ratio).sum(),
        "k3": (ratio - 1 - log_ratio).sum(),
    }
    case = {"clip": clip, "logprob": x, "old": old, "advantage": advantage, "loss": loss, "dlogprob": gradient}
    return case | {"sums": {key: value.item() for key, value in sums.items()}}


def value_case(random, clip, count):
    """The clipped value loss per token and its gradient."""
    old, returns = (torch.tensor(random.normal(size=count)) for _ in range(2))
    value = (old + torch.tensor(random.normal(scale=2 * clip, size=count))).requires_grad_()
    plain = (value - returns) ** 2
    clipped = (old + (value - old).clamp(-clip, clip) - returns) ** 2
    assert ((value - old).abs() - clip).abs().min() > 1e-3
    assert (plain - clipped)[(value - old).abs() > clip].abs().min() > 1e-3
    loss = 0.5 * torch.maximum(plain, clipped)
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    sums = {"loss": loss.sum().item(), "clipped": (clipped > plain).sum().item()}
    return {"clip": clip, "value": value, "old": old, "returns": returns, "loss": loss, "dvalue": gradient, "sums": sums}


def reward_case(random, beta, lengths):
    """Rewards per token: the penalty of the k1 estimate of KL clamped to 10, and the score on the last token."""
    total = sum(lengths)
    logprob, reference = -random.exponential(size=total), -random.exponential(size=total)
    logprob[1] = reference[1] - 14.0
    scores = random.normal(size=len(lengths))
    rewards = -beta * numpy.clip(logprob - reference, -10.0, 10.0)
    rewards[numpy.cumsum(lengths) - 1] += scores
    case = {"beta": beta, "clamp": 10.0, "lengths": lengths, "logprob": logprob, "reference": reference}
    return case | {"scores": scores, "reward": rewards}


def whiten_case(random, count):
    """Whitening by the unbiased variance, with 1e-8 added to it as TRL does."""
    values = torch.tensor(random.normal(3.0, 0.5, size=count))
    mean, variance = values.mean(), values.var(unbiased=True)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return {"values": values, "eps": 1e-8, "mean": mean, "variance": variance, "whitened": whitened}


def plain(value):
    """Arrays and tensors as lists of numbers."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    return value.tolist() if isinstance(value, numpy.ndarray) else value


def ppo(path):
    """Writes ppo.json."""
    random = numpy.random.default_rng(5)
    old = -random.exponential(size=24)
    # Ratios inside, above and below the band with either sign of advantage, a ratio of exactly 1, no advantage, and both clamps.
    shift = numpy.concatenate([random.normal(scale=0.3, size=18), [0.0, 0.1, 0.5, -0.5, 25.0, -22.0]])
    advantage = random.normal(size=24)
    advantage[19] = 0.0
    cases = {
        "gae": [gae_case(random, 1.0, 0.95, [7, 1, 12]), gae_case(random, 0.99, 0.9, [3, 0, 5]), gae_case(random, 1.0, 1.0, [4])],
        "clip": [clip_case(old + shift, old, advantage, 0.2), clip_case((old + shift)[:22], old[:22], -advantage[:22], 0.1)],
        "value": [value_case(random, 0.2, 16)],
        "reward": [reward_case(random, 0.1, [5, 1, 6])],
        "whiten": [whiten_case(random, 33)],
    }
    write_json(path, plain(cases))


def schedules(path):
    """Writes schedules.json: Transformers' factors of the peak learning rate for each of ten steps, three of warm-up."""
    steps, warmup = 10, 3
    lists = {}
    for name, make in [
        ("cosine", transformers.get_cosine_schedule_with_warmup),
        ("linear", transformers.get_linear_schedule_with_warmup),
    ]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = make(optimizer, warmup, steps)
        lists[name] = []
        for _ in range(steps):
            lists[name].append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    write_json(path, {"steps": steps, "warmup": warmup} | lists)


def main():
    """Writes the whole folder anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write, for example tests/golden")
    parser.add_argument("--seed", type=int, default=0, help="added to every fixture's seed (default 0)")
    args = parser.parse_args()
    out, seed = args.out, args.seed
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = ["qwen2", "qwen2-tied", "llama", "llama-head-dim", "lora-attention", "lora-all", "reward", "reward-lora"]
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)

    qwen2 = transformers.Qwen2Config(**QWEN2, num_hidden_layers=3, tie_word_embeddings=False)
    prompts = [[5, 11, 2], [90, 3, 3, 41, 17, 60, 8, 29, 77], [42]]
    model = transformers.Qwen2ForCausalLM(qwen2)
    decoder(out, "qwen2", model, seed + 1, torch.float32, [17, 1, 40, 2, 9], prompts=prompts)

    tied = transformers.Qwen2Config(**QWEN2, num_hidden_layers=2, tie_word_embeddings=True)
    model = transformers.Qwen2ForCausalLM(tied)
    decoder(out, "qwen2-tied", model, seed + 2, torch.bfloat16, [5, 0, 33, 1, 2], shard="16KB")

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    decoder(out, "llama", model, seed + 3, torch.float16, [40, 1, 17, 2, 24], training=True)

    wide = LLAMA | {"head_dim": 12, "num_key_value_heads": 1, "rope_theta": 1e4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide))
    decoder(out, "llama-head-dim", model, seed + 4, torch.float32, [1, 2, 30])

    adapter(out, "lora-attention", "qwen2", seed + 5, 4, 16, ATTENTION, [2, 17, 1, 40, 23])
    adapter(out, "lora-all", "qwen2", seed + 6, 3, 6, ATTENTION + MLP, [31, 1, 12, 2])

    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**LLAMA, num_labels=1))
    reward(out, "reward", model, seed + 7, [3, 9, 20, 1, 12, 31, 2, 17], [1.0, 0.5, 0.0, 0.75])
    reward_adapter(out, "reward-lora", "reward", seed + 8, [14, 1, 6, 22], [0.0, 1.0])

    ppo(out / "ppo.json")
    schedules(out / "schedules.json")


if __name__ == "__main__":
    main()
