#!/usr/bin/env python3
"""Measures `repairity bench kernels` beside PyTorch, operator by operator.

    python tools/bench-kernels-peer.py --batch 2 --seq 4096                   # the extents of Qwen2.5-32B
    python tools/bench-kernels-peer.py --model DIR --only attention_fwd_128

PyTorch runs in bfloat16 on a GPU and in float32 on a CPU, as the program does, with what it has for each operator:
scaled_dot_product_attention with the fastest of its backends, rms_norm, fused AdamW, and plain expressions where it has nothing
of its own. Both sides time rounds of calls on buffers rotated beyond the caches, and report the median round. Backward is
measured alone, its forward kept.

The table goes to standard output, and one JSON object follows it on the last line.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

QWEN_32B = {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "vocab_size": 152064,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
# Of attention's backends the fast ones.
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
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


def lora(e, trained):
    """q, k and v as PEFT computes them: a product each, and a low-rank branch each with a dropout of its own."""
    x = e.act_of(e.t, e.c).requires_grad_(trained)
    maps = []
    for n in widths(e):
        w, bias = e.act_of(n, e.c, scale=e.c**-0.5), e.act_of(n)
        a, b = e.act_of(RANK, e.c, scale=e.c**-0.5), e.act_of(n, RANK, scale=0.1)
        maps.append((w, bias, a.requires_grad_(trained), b.requires_grad_(trained)))

    def forward():
        return [F.linear(x, w, bias) + F.linear(F.linear(F.dropout(x, 0.05), a), b) * 4.0 for w, bias, a, b in maps]

    return forward, [x, *(weight for _, _, a, b in maps for weight in (a, b))]


def lora_linear_fwd(e):
    return lora(e, False)[0]


def lora_linear_bwd(e):
    forward, inputs = lora(e, True)
    return backward(forward(), inputs, [e.act_of(e.t, n) for n in widths(e)])


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


def rope(e):
    x = e.act_of(e.t, e.q + e.kv, e.dim)
    frequencies = 1e6 ** (-torch.arange(0, e.dim, 2, device=e.device) / e.dim)
    angles = torch.arange(e.seq, device=e.device).repeat(e.batch)[:, None, None] * torch.cat([frequencies, frequencies])
    cos, sin = angles.cos().to(e.act), angles.sin().to(e.act)

    def call():
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin

    return call


def rope_cached(e):
    k, v = (e.act_of(e.batch, e.seq, e.kv * e.dim) for _ in range(2))
    value = e.act_of(e.t, e.kv * e.dim)
    positions = torch.arange(e.seq, device=e.device).repeat(e.batch)
    slots = torch.arange(e.t, device=e.device) // e.seq
    turn = rope(e)

    def call():
        turned = turn()
        k[slots, positions], v[slots, positions] = turned[:, e.q :].flatten(1), value
        return turned

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


def attention_decode(e):
    query = e.act_of(e.b, e.q, 1, e.dim)
    key, value = (e.act_of(e.b, e.kv, e.seq, e.dim) for _ in range(2))
    return lambda: F.scaled_dot_product_attention(query, key, value, enable_gqa=True)


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
    "lora_linear_bwd": lora_linear_bwd,
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


def seconds(make, e, bytes_moved, rounds):
    """Seconds of one call: the median of so many rounds over rotated tensors."""
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
    return statistics.median(run(count) for _ in range(rounds))


def measure(name, e, bytes_moved, rounds):
    """The seconds of an operator in PyTorch and with which backend, or the reason why there are none."""
    operator = OPERATORS[name]
    tries = {"": operator}
    if name.startswith(("attention_fwd", "attention_bwd")):
        backends = BACKENDS if e.device == "cuda" else [None]
        tries = {backend.name if backend else "": lambda e, backend=backend: operator(e, backend) for backend in backends}
    found, reasons = {}, []
    for label, make in tries.items():
        try:
            found[label] = seconds(make, e, bytes_moved, rounds)
        except RuntimeError as error:
            reasons.append(str(error).strip().splitlines()[0])
        if e.device == "cuda":
            torch.cuda.empty_cache()
    if not found:
        return {"peer_error": "; ".join(reasons)}
    best = min(found, key=found.get)
    return {"peer_seconds": found[best]} | ({"peer_backend": best} if best else {})


def ours(args):
    """What `repairity bench kernels` measured."""
    command = [str(args.repairity), "bench", "kernels", "--device", args.device, "--json"]
    command += ["--batch", str(args.batch), "--seq", str(args.seq), "--steps", str(args.steps)]
    command += ["--model", str(args.model)] if args.model else []
    command += ["--only", args.only] if args.only else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(row):
    """One operator as text: both times, and how many times as fast ours is."""
    head = f"{row['operator']:<26}{row['seconds'] * 1e6:>12.1f}"
    if "peer_seconds" not in row:
        return f"{head}{'-':>12}{'':>10}  {row['peer_error']}"
    ratio = row["peer_seconds"] / row["seconds"]
    return f"{head}{row['peer_seconds'] * 1e6:>12.1f}{ratio:>9.2f}x  {row.get('peer_backend', '')}".rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's folder, for its extents (default those of Qwen2.5-32B)")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of each (default 4096)")
    parser.add_argument("--steps", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--only", choices=list(OPERATORS), help="one operator")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where both sides compute (default cuda)")
    parser.add_argument("--repairity", type=Path, default=Path("target/release/repairity"), help="the program")
    args = parser.parse_args()
    if not args.repairity.exists():
        parser.error(f"{args.repairity} is not there: build it, or name it with --repairity")
    torch.manual_seed(0)
    report = ours(args)
    config = json.loads((args.model / "config.json").read_text()) if args.model else QWEN_32B
    e = Extents(config, args)
    print(f"{'microseconds':<26}{'repairity':>12}{'PyTorch':>12}{'ratio':>10}")
    for row in report["operators"]:
        bytes_moved = max(1.0, row["gbytes_per_s"] * 1e9 * row["seconds"])
        row |= measure(row["operator"], e, bytes_moved, args.steps)
        print(line(row), flush=True)
    peer = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(json.dumps(report | {"peer": f"PyTorch {torch.__version__}", "peer_device": peer}))


if __name__ == "__main__":
    main()
