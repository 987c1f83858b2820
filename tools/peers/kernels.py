#!/usr/bin/env python3
"""Operators in PyTorch, each at the extents that `repairity bench kernels` takes.

    python tools/peers/kernels.py --batch 2 --seq 4096                        # the extents of Qwen2.5-32B
    python tools/peers/kernels.py --model DIR --only attention_fwd_128 --device cpu

PyTorch runs in bfloat16 on a GPU and in float32 on a CPU, as the program does, with what it has for each operator: fused AdamW,
rms_norm, linear, cross_entropy, scaled_dot_product_attention with each of its backends forced (cuDNN, flash, efficient), and plain
expressions where it has nothing of its own. `linear_logprob` is the head forward and backward in one: beside PyTorch's the fused
kernel of Liger, where that is installed. The fastest variant counts; the others are told too. Rounds of calls are timed on buffers
rotated beyond the caches. Backward is measured alone, its forward kept.

One JSON object on the last line; progress on standard error.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import statistics
import sys
import time
from pathlib import Path

# The folder of this program must not hide a library of the same name as one of its files.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

if importlib.util.find_spec("torch") is None:
    print(json.dumps({"what": "kernels", "not_installed": ["torch"]}))
    sys.exit(0)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

QWEN_32B = {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "vocab_size": 152064,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
# Attention's backends, each forced.
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# As src/bench/: the same rotation, rounds and ranks.
ROTATION, SETS, ROUND_SECONDS, DECODING, RANK = 256e6, 32, 0.02, 32, 4


class Extents:
    """The sizes that operators are made of, and where their tensors live."""

    def __init__(self, config, args):
        self.device, self.batch, self.seq, self.t = args.device, args.batch, args.seq, args.batch * args.seq
        self.act = torch.bfloat16 if args.device == "cuda" else torch.float32
        self.c, self.f, self.v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        self.q, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = config.get("head_dim") or self.c // self.q
        self.b = min(self.t, DECODING)

    def act_of(self, *shape, scale=1.0):
        return (torch.randn(shape, device=self.device, dtype=torch.float32) * scale).to(self.act)

    def acc_of(self, *shape, scale=1.0):
        return torch.randn(shape, device=self.device, dtype=torch.float32) * scale

    def ids_of(self, count, end):
        return torch.randint(0, end, (count,), device=self.device)

    def heads_of(self, dim):
        kv = max(self.kv * self.dim // dim, 1)
        return kv * (self.q // self.kv), kv


def backward(out, inputs, dout):
    """A call that computes the gradients of `inputs`, again and again, of one forward."""
    return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


# ---- operators: each makes fresh tensors and gives a call on them ----


def cast(e):
    x = e.acc_of(e.t, e.c)
    return lambda: x.to(e.act)


def gather_rows(e):
    x, rows = e.act_of(e.t, e.c), torch.randperm(e.t, device=e.device)
    return lambda: x.index_select(0, rows)


def scatter_rows(e):
    x, rows, out = e.act_of(e.t, e.c), torch.randperm(e.t, device=e.device), e.act_of(e.t, e.c)
    return lambda: out.zero_().index_copy_(0, rows, x)


def add(e):
    out, x = e.act_of(e.t, e.c), e.act_of(e.t, e.c)
    return lambda: out.add_(x)


def embed_fwd(e):
    table, ids = e.act_of(e.v, e.c), e.ids_of(e.t, e.v)
    return lambda: F.embedding(ids, table)


def embed_bwd(e):
    dtable, dout, ids = e.acc_of(e.v, e.c), e.act_of(e.t, e.c), e.ids_of(e.t, e.v)
    return lambda: dtable.index_add_(0, ids, dout.float())


def rmsnorm_fwd(e):
    x, weight = e.act_of(e.t, e.c), e.act_of(e.c)
    return lambda: F.rms_norm(x, (e.c,), weight, 1e-6)


def rmsnorm_residual_fwd(e):
    x, delta, weight = e.act_of(e.t, e.c), e.act_of(e.t, e.c), e.act_of(e.c)
    return lambda: F.rms_norm(x + delta, (e.c,), weight, 1e-6)


def rmsnorm_bwd(trained):
    def make(e):
        x, weight = e.act_of(e.t, e.c).requires_grad_(), e.act_of(e.c).requires_grad_(trained)
        out = F.rms_norm(x, (e.c,), weight, 1e-6)
        return backward(out, [x, weight] if trained else [x], e.act_of(e.t, e.c))

    return make


def swiglu(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_fwd(e):
    gate_up = e.act_of(e.t, 2 * e.f)
    return lambda: swiglu(gate_up)


def swiglu_bwd(e):
    gate_up = e.act_of(e.t, 2 * e.f).requires_grad_()
    return backward(swiglu(gate_up), [gate_up], e.act_of(e.t, e.f))


def widths(e):
    return [e.q * e.dim, e.kv * e.dim, e.kv * e.dim]


def linear_fwd(e):
    n = sum(widths(e))
    x, w, bias = e.act_of(e.t, e.c), e.act_of(n, e.c, scale=e.c**-0.5), e.act_of(n)
    return lambda: F.linear(x, w, bias)


def lora(e, trained, p=0.05):
    """q, k and v as PEFT computes them: a product each, and a low-rank branch each with a dropout of its own."""
    x = e.act_of(e.t, e.c).requires_grad_(trained)
    maps = []
    for n in widths(e):
        w, bias = e.act_of(n, e.c, scale=e.c**-0.5), e.act_of(n)
        a, b = e.act_of(RANK, e.c, scale=e.c**-0.5), e.act_of(n, RANK, scale=0.1)
        maps.append((w, bias, a.requires_grad_(trained), b.requires_grad_(trained)))

    def forward():
        return [F.linear(x, w, bias) + F.linear(F.linear(F.dropout(x, p), a), b) * 4.0 for w, bias, a, b in maps]

    return forward, [x, *(weight for _, _, a, b in maps for weight in (a, b))]


def lora_linear_fwd(e):
    return lora(e, False)[0]


def lora_linear_bwd(p):
    def make(e):
        forward, inputs = lora(e, True, p)
        return backward(forward(), inputs, [e.act_of(e.t, n) for n in widths(e)])

    return make


def linear_dweight(e):
    dout, x = e.act_of(e.t, sum(widths(e))), e.act_of(e.t, e.c)
    return lambda: (dout.t() @ x, dout.sum(0))


def attention(dim, direction):
    def make(e, backend):
        q, kv = e.heads_of(dim)
        # Sequences are of one length, so that nothing is lost to padding.
        query, key, value = (e.act_of(e.batch, heads, e.seq, dim).requires_grad_(direction == "bwd") for heads in (q, kv, kv))

        def forward():
            with sdpa_kernel(backend) if backend else contextlib.nullcontext():
                return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

        if direction == "fwd":
            return forward
        return backward(forward(), [query, key, value], e.act_of(e.batch, q, e.seq, dim))

    return make


def rope_of(e):
    """How queries and keys turn, and some of them."""
    frequencies = 1e6 ** (-torch.arange(0, e.dim, 2, device=e.device) / e.dim)
    angles = torch.arange(e.seq, device=e.device).repeat(e.batch)[:, None, None] * torch.cat([frequencies, frequencies])
    cos, sin = angles.cos().to(e.act), angles.sin().to(e.act)

    def turn(x):
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin

    return turn, e.act_of(e.t, e.q + e.kv, e.dim)


def rope(e):
    turn, x = rope_of(e)
    return lambda: turn(x)


def rope_cached(e):
    turn, turned = rope_of(e)
    k, v = (e.act_of(e.batch, e.seq, e.kv, e.dim) for _ in range(2))
    value = e.act_of(e.t, e.kv, e.dim)
    positions = torch.arange(e.seq, device=e.device).repeat(e.batch)
    slots = torch.arange(e.t, device=e.device) // e.seq

    def call():
        k[slots, positions] = turn(turned)[:, e.q :]
        v[slots, positions] = value

    return call


def advance(e):
    last, positions, counts, ids = (torch.zeros(e.b, dtype=torch.long, device=e.device) for _ in range(4))
    slots = torch.arange(e.b, device=e.device)

    def call():
        last[slots] = ids
        positions.add_(1)
        counts.add_(1)
        return torch.rand(e.b, device=e.device)

    return call


def attention_decode(e, backend):
    query = e.act_of(e.b, e.q, 1, e.dim)
    key, value = (e.act_of(e.b, e.kv, e.seq, e.dim) for _ in range(2))

    def call():
        with sdpa_kernel(backend) if backend else contextlib.nullcontext():
            return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    return call


def logits(e):
    x, head = e.act_of(e.b, e.c), e.act_of(e.v, e.c, scale=e.c**-0.5)
    return lambda: F.linear(x, head).float()


def sample(e):
    scores = e.acc_of(e.b, e.v, scale=2.0)

    def call():
        logprobs = F.log_softmax(scores, dim=-1)
        ids = torch.multinomial(logprobs.exp(), 1)
        return ids, logprobs.gather(1, ids)

    return call


def sample_cut(e):
    scores = e.acc_of(e.b, e.v, scale=2.0)

    def call():
        logprobs = F.log_softmax(scores / 0.8, dim=-1)
        top, order = logprobs.topk(min(50, e.v))
        kept = top.softmax(-1)
        kept = kept.masked_fill(kept.cumsum(-1) - kept >= 0.95, 0.0)
        ids = order.gather(1, torch.multinomial(kept, 1))
        return ids, logprobs.gather(1, ids)

    return call


def logprob(x, head, targets):
    scores = F.linear(x, head).float()
    lse = scores.logsumexp(-1)
    entropy = lse - (scores.softmax(-1) * scores).sum(-1)
    return scores.gather(1, targets[:, None])[:, 0] - lse, lse, entropy


def linear_logprob_fwd(e):
    x, head, targets = e.act_of(e.t, e.c), e.act_of(e.v, e.c, scale=e.c**-0.5), e.ids_of(e.t, e.v)
    return lambda: logprob(x, head, targets)


def linear_logprob_bwd(e):
    x, head, targets = e.act_of(e.t, e.c).requires_grad_(), e.act_of(e.v, e.c, scale=e.c**-0.5), e.ids_of(e.t, e.v)
    # The loss as training takes it; the graph holds the logits, where the program computes them again.
    out = -F.cross_entropy(F.linear(x, head).float(), targets, reduction="none")
    return backward(out, [x], e.acc_of(e.t))


def head_of(e):
    return e.act_of(e.t, e.c).requires_grad_(), e.act_of(e.v, e.c, scale=e.c**-0.5), e.ids_of(e.t, e.v)


def linear_cross_entropy(e):
    x, head, targets = head_of(e)

    def call():
        loss = F.cross_entropy(F.linear(x, head).float(), targets, reduction="sum")
        return torch.autograd.grad(loss, [x])

    return call


def liger_cross_entropy(e):
    """Loss and gradient in one: its forward computes both."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    x, head, targets = head_of(e)

    def call():
        loss = liger_fused_linear_cross_entropy(x, head, targets, reduction="sum")
        loss = loss[0] if isinstance(loss, tuple) else loss
        return torch.autograd.grad(loss, [x])

    return call


def scalar_head_fwd(e):
    x, weight = e.act_of(e.t, e.c), e.act_of(1, e.c)
    return lambda: F.linear(x, weight).float()


def scalar_head_bwd(e):
    x, weight = e.act_of(e.t, e.c).requires_grad_(), e.act_of(1, e.c).requires_grad_()
    return backward(F.linear(x, weight), [x, weight], e.act_of(e.t, 1))


def ppo_clip(e):
    new, old, advantage = e.acc_of(e.t, scale=0.3).requires_grad_(), e.acc_of(e.t, scale=0.3), e.acc_of(e.t)

    def call():
        ratio = (new - old).clamp(-20, 20).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        return torch.autograd.grad(loss, [new])

    return call


def value_clip(e):
    value, old, returns = e.acc_of(e.t, scale=0.3).requires_grad_(), e.acc_of(e.t, scale=0.3), e.acc_of(e.t)

    def call():
        clipped = old + (value - old).clamp(-0.2, 0.2)
        loss = 0.5 * torch.maximum((value - returns) ** 2, (clipped - returns) ** 2).mean()
        return torch.autograd.grad(loss, [value])

    return call


def gae(e):
    reward, value = e.acc_of(e.batch, e.seq), e.acc_of(e.batch, e.seq)

    def call():
        delta = reward - value
        delta[:, :-1] += value[:, 1:]
        running, advantage = torch.zeros_like(value[:, 0]), torch.empty_like(value)
        for i in reversed(range(e.seq)):
            running = delta[:, i] + 0.95 * running
            advantage[:, i] = running
        return advantage, advantage + value

    return call


def bradley_terry(e):
    scores = e.acc_of(e.t, 2).requires_grad_()
    labels = e.ids_of(e.t, 3) / 2

    def call():
        loss = F.binary_cross_entropy_with_logits(scores[:, 0] - scores[:, 1], labels)
        return torch.autograd.grad(loss, [scores])

    return call


def moments(e):
    x = e.acc_of(e.t)
    return lambda: torch.stack(torch.var_mean(x)).tolist()


def whiten(e):
    x = e.acc_of(e.t)
    return lambda: x.sub_(0.01).mul_(0.99)


def sum_squares(e):
    x = e.acc_of(e.t * e.c)
    return lambda: torch.linalg.vector_norm(x)


def adamw(e):
    master, param = e.acc_of(e.t * e.c).requires_grad_(), e.act_of(e.t * e.c)
    master.grad = e.acc_of(e.t * e.c)
    optimizer = torch.optim.AdamW([master], lr=1e-3, weight_decay=0.01, fused=True)

    def call():
        optimizer.step()
        param.copy_(master.detach())

    return call


OPERATORS = {
    "cast": cast,
    "gather_rows": gather_rows,
    "scatter_rows": scatter_rows,
    "add": add,
    "embed_fwd": embed_fwd,
    "embed_bwd": embed_bwd,
    "rmsnorm_fwd": rmsnorm_fwd,
    "rmsnorm_residual_fwd": rmsnorm_residual_fwd,
    "rmsnorm_bwd": rmsnorm_bwd(False),
    "rmsnorm_bwd_trained": rmsnorm_bwd(True),
    "swiglu_fwd": swiglu_fwd,
    "swiglu_bwd": swiglu_bwd,
    "linear_fwd": linear_fwd,
    "lora_linear_fwd": lora_linear_fwd,
    "lora_linear_bwd": lora_linear_bwd(0.05),
    "lora_linear_bwd_undropped": lora_linear_bwd(0.0),
    "linear_dweight": linear_dweight,
    "attention_fwd_64": attention(64, "fwd"),
    "attention_bwd_64": attention(64, "bwd"),
    "attention_fwd_128": attention(128, "fwd"),
    "attention_bwd_128": attention(128, "bwd"),
    "rope": rope,
    "rope_cached": rope_cached,
    "attention_decode": attention_decode,
    "logits": logits,
    "advance": advance,
    "sample": sample,
    "sample_top_k_top_p": sample_cut,
    "linear_logprob_fwd": linear_logprob_fwd,
    "linear_logprob_bwd": linear_logprob_bwd,
    "linear_logprob": linear_cross_entropy,
    "scalar_head_fwd": scalar_head_fwd,
    "scalar_head_bwd": scalar_head_bwd,
    "ppo_clip": ppo_clip,
    "value_clip": value_clip,
    "gae": gae,
    "bradley_terry": bradley_terry,
    "moments": moments,
    "whiten": whiten,
    "sum_squares": sum_squares,
    "adamw": adamw,
}


# ---- measuring ----


def samples(make, e, bytes_moved, rounds):
    """Seconds of one call in each of so many rounds over rotated tensors."""
    calls = [make(e) for _ in range(max(1, min(SETS, math.ceil(ROTATION / bytes_moved))))]
    made = 0

    def run(count):
        nonlocal made
        start = time.perf_counter()
        for _ in range(count):
            calls[made % len(calls)]()
            made += 1
        if e.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    run(len(calls))
    count = max(1, min(10_000, math.ceil(ROUND_SECONDS / run(len(calls)))))
    return [run(count) for _ in range(rounds)]


def variants(name, e):
    """The ways in which PyTorch can compute an operator, by their names."""
    operator = OPERATORS[name]
    if name.startswith("attention_"):
        backends = BACKENDS if e.device == "cuda" else {"SDPA": None}
        return {label: lambda e, backend=backend: operator(e, backend) for label, backend in backends.items()}
    if name == "linear_logprob":
        return {"F.cross_entropy": operator, "Liger": liger_cross_entropy}
    return {"": operator}


def measure(name, e, bytes_moved, rounds):
    """An operator's row: each variant's rounds, or the reason why there are none, and the fastest."""
    found, lacks = {}, {}
    for label, make in variants(name, e).items():
        if label == "Liger" and importlib.util.find_spec("liger_kernel") is None:
            lacks[label] = "not installed"
            continue
        try:
            found[label] = samples(make, e, bytes_moved, rounds)
        except (RuntimeError, ValueError, ImportError) as error:
            lacks[label] = (str(error).strip() or type(error).__name__).splitlines()[0]
        if e.device == "cuda":
            torch.cuda.empty_cache()
    row = {"operator": name, "variants": {label: statistics.median(times) for label, times in found.items()}, "lacks": lacks}
    if found:
        best = min(row["variants"], key=row["variants"].get)
        row |= {"seconds": row["variants"][best], "samples": found[best], "variant": best}
    return row


def moved(like):
    """The operators of a result of the program's, with the bytes that a call of each moves."""
    rows = json.loads(like.read_text().strip().splitlines()[-1])["operators"]
    found = {row["operator"]: max(1.0, row["gbytes_per_s"] * 1e9 * row["seconds"]) for row in rows}
    if {"linear_logprob_fwd", "linear_logprob_bwd"} <= found.keys():
        found["linear_logprob"] = found["linear_logprob_fwd"] + found["linear_logprob_bwd"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's folder, for its extents (default those of Qwen2.5-32B)")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of each (default 4096)")
    parser.add_argument("--steps", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--only", nargs="+", choices=list(OPERATORS), help="these operators (default all)")
    parser.add_argument("--like", type=Path, metavar="FILE", help="a result of bench kernels --json: its operators, buffers as large")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where it computes (default cuda)")
    parser.add_argument("--threads", type=int, help="threads on a CPU (default PyTorch's choice)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = json.loads((args.model / "config.json").read_text()) if args.model else QWEN_32B
    e = Extents(config, args)
    # Without a result to go by, buffers of any operator are taken to be a thirty-second of what is rotated.
    bytes_moved = moved(args.like) if args.like else dict.fromkeys(OPERATORS, ROTATION / SETS)
    rows = []
    for name in [name for name in OPERATORS if name in bytes_moved and (not args.only or name in args.only)]:
        rows.append(measure(name, e, bytes_moved[name], args.steps))
        told = f"{rows[-1]['seconds'] * 1e6:.1f} us" if "seconds" in rows[-1] else str(rows[-1]["lacks"])
        print(f"kernels, PyTorch, {name}: {told}", file=sys.stderr)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
    extents = {"batch": args.batch, "seq": args.seq, "steps": args.steps}
    print(json.dumps({"what": "kernels", "library": f"PyTorch {torch.__version__}", "device": device} | extents | {"operators": rows}))


if __name__ == "__main__":
    main()
