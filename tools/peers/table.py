#!/usr/bin/env python3
"""Measures the program beside its peers on one device in one run, and prints one table: ours, theirs, the ratio, the target.

    python tools/peers/checkpoint.py qwen2-0.1b /tmp/qwen2-0.1b
    python tools/peers/table.py --model /tmp/qwen2-0.1b --batch 2 --seq 256 --steps 8
    python tools/peers/table.py --what kernels --device cuda --batch 2 --seq 4096         # the extents of Qwen2.5-32B

    kernels   each operator, beside PyTorch's best; of the head also forward and backward in one, beside Liger
    sft       a training step: LoRA of rank 4, beside Transformers and PEFT
    decode    sampling with a key-value cache, beside Transformers
    ppo       an iteration of PPO, beside TRL's PPOTrainer

Each measurement is a process of its own that loads the model and warms up (the other files of this folder say how). The
sides take turns for --rounds rounds, so that a machine that slows down slows both, and their samples are taken together: medians of
steps and calls, tokens a second of whole runs. On a CPU Transformers runs in float32 and in bfloat16 and the better of the two counts;
there peak memory is the process's own resident maximum, and on a GPU what tensors held. A library that is not there makes a row that
says so. Ratios above 1 are ours.

The table goes to standard output, and one JSON object with everything that was measured follows it on the last line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DTYPES = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
PEERS = {"sft": "Transformers + PEFT", "decode": "Transformers", "ppo": "TRL"}
# How many times as fast the program is meant to be: on a GPU as large as its models want, and on a CPU.
RATIOS = {"cuda": {"sft": 2.0, "decode": 10.0, "ppo": 5.0}, "cpu": {"sft": 1.5, "decode": 4.0}}
AT_LEAST_AS_FAST = ["attention_fwd_128", "attention_bwd_128"]
HEAD_TFLOPS = 600.0
WHAT = ["kernels", "sft", "decode", "ppo"]


def run(command, args):
    """Runs a measurement; gives the JSON object on its last line with the process's peak memory, or what it said when it failed."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = os.environ | {name: str(args.threads) for name in names} | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            return {"failed": f"exit code {child.returncode}: {said[-1]}", "command": " ".join(map(str, command))}
    return json.loads(output.strip().splitlines()[-1]) | {"peak_rss_bytes": usage.ru_maxrss * 1024}


def commands(what, args, like):
    """Each side's name and command line."""
    extents = ["--batch", args.batch, "--seq", args.seq, "--steps", args.steps, "--device", args.device]
    model = ["--model", args.model] if args.model else []
    ours = [args.repairity, "bench", what, *extents, *model, "--json"]
    worker = [sys.executable, HERE / f"{what}.py", *extents, *model, "--threads", args.threads]
    if what == "kernels":
        only = ["--only", args.only] if args.only else []
        return {"repairity": [*ours, *only], "PyTorch": [*worker, "--like", like]}
    if what == "ppo":
        more = ["--max-new-tokens", args.max_new_tokens]
        more += ["--reward-model", args.reward_model] if args.reward_model else []
        ours, worker = [*ours, *more], [*worker, *more]
    peers = {f"{PEERS[what]}, {dtype}": [*worker, "--dtype", dtype] for dtype in DTYPES[args.device]}
    return {"repairity": ours} | peers


def measure(what, args, like):
    """Lets the sides take turns; gives each side's results."""
    sides = commands(what, args, like)
    if args.peer_only:
        sides.pop("repairity")
    results = {name: [] for name in sides}
    for number in range(args.rounds):
        for name, command in sides.items():
            if results[name] and not measured(results[name]):
                continue
            result = run(command, args)
            results[name].append(result)
            if what == "kernels" and name == "repairity" and measured([result]):
                like.write_text(json.dumps(result) + "\n")
            told = result.get("failed") or lacking(result) or f"{result.get('tokens_per_s', 0.0):.1f} tokens/s"
            told = "done" if told == "0.0 tokens/s" else told
            print(f"{what}, round {number + 1} of {args.rounds}, {name}: {told}", file=sys.stderr)
    return results


def lacking(result):
    """What a peer says that it has not got."""
    return f"not installed: {', '.join(result['not_installed'])}" if "not_installed" in result else None


def measured(results):
    """Whether these are numbers."""
    return bool(results) and all("failed" not in result and "not_installed" not in result for result in results)


def why(results):
    """Why they are none."""
    return next((result.get("failed") or lacking(result) for result in results if not measured([result])), "not measured")


def row(what, ours, theirs, peer, target, unit, faster_is_more):
    """A row of the table; a side that is a text has no number."""
    ratio = None
    if isinstance(ours, float) and isinstance(theirs, float):
        ratio = ours / theirs if faster_is_more else theirs / ours
    return {"what": what, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "target": target, "peer": peer}


def step_rows(what, results, args):
    """Rows of a training step, of decoding, or of PPO: speed and memory, beside the better of the peer's types."""
    def rate(found):
        return statistics.median(result["tokens_per_s"] for result in found) if measured(found) else why(found)

    memory = "peak_bytes" if args.device == "cuda" else "peak_rss_bytes"

    def peak(found):
        return max(result[memory] for result in found) / 2**20 if measured(found) else why(found)

    peers = {name: found for name, found in results.items() if name != "repairity"}
    best = max(peers, key=lambda name: rate(peers[name]) if measured(peers[name]) else 0.0)
    ours = results.get("repairity", [])
    wanted = RATIOS[args.device].get(what)
    target = f">= {wanted:g}x" if wanted else ""
    return [
        row(what, rate(ours), rate(peers[best]), best, target, "tokens/s", True),
        row(f"{what}, peak memory", peak(ours), peak(peers[best]), best, "", "MiB", False),
    ]


def kernel_rows(results, args):
    """A row for each operator, and one for the head forward and backward in one."""
    ours, peers = results.get("repairity", []), results["PyTorch"]

    def medians(found):
        """Microseconds of each operator over all rounds."""
        samples = {}
        for result in found if measured(found) else []:
            for one in result["operators"]:
                samples.setdefault(one["operator"], []).extend(one.get("samples", []))
        return {name: statistics.median(times) * 1e6 for name, times in samples.items() if times}

    mine, yours = medians(ours), medians(peers)
    about = {one["operator"]: one for one in peers[-1]["operators"]} if measured(peers) else {}
    if {"linear_logprob_fwd", "linear_logprob_bwd"} <= mine.keys():
        mine["linear_logprob"] = mine["linear_logprob_fwd"] + mine["linear_logprob_bwd"]
    rows = []
    for name in dict.fromkeys([*mine, *yours]):
        told = about.get(name, {})
        lacks = "; ".join(f"{label}: {reason}".lstrip(": ") for label, reason in told.get("lacks", {}).items())
        peer = " ".join(filter(None, ["PyTorch", told.get("variant", ""), f"({lacks})" if lacks else ""]))
        target = ">= 1x" if name in AT_LEAST_AS_FAST and args.device == "cuda" else ""
        if name == "linear_logprob" and args.device == "cuda" and measured(ours):
            head = [one for one in ours[-1]["operators"] if one["operator"].startswith("linear_logprob_")]
            rate = sum(one["tflops"] * one["seconds"] for one in head) / sum(one["seconds"] for one in head)
            target = f">= {HEAD_TFLOPS:g} TFLOP/s: {rate:.0f}"
        theirs = yours.get(name, lacks or (why(peers) if not measured(peers) else "none"))
        rows.append(row(name, mine.get(name, why(ours)), theirs, peer, target, "us", False))
    return rows or [row("kernels", why(ours), why(peers), "PyTorch", "", "us", False)]


def shown(rows):
    """The table as text."""
    def number(value):
        return f"{value:.1f}" if isinstance(value, float) else "-" if value is None else "no number"

    lines = [f"{'':<26}{'unit':>9}{'ours':>13}{'theirs':>13}{'ratio':>9}  {'target':<24}peer"]
    for one in rows:
        ratio = f"{one['ratio']:.2f}x" if one["ratio"] else "-"
        line = f"{one['what']:<26}{one['unit']:>9}{number(one['ours']):>13}{number(one['theirs']):>13}{ratio:>9}  "
        told = [f"ours: {one['ours']}"] if isinstance(one["ours"], str) else []
        told += [one["theirs"]] if isinstance(one["theirs"], str) else []
        lines.append((f"{line}{one['target']:<24}{'; '.join([one['peer'], *told])}").rstrip())
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint folder; kernels alone do without, and take Qwen2.5-32B's extents")
    parser.add_argument("--what", choices=WHAT, nargs="+", default=["sft", "decode"], help="workloads (default sft decode)")
    parser.add_argument("--batch", type=int, default=2, help="sequences (default 2)")
    parser.add_argument("--seq", type=int, default=256, help="tokens of a sequence, or of a prompt (default 256)")
    parser.add_argument("--steps", type=int, default=8, help="training steps, new tokens, iterations, or rounds of calls (default 8)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of ppo, tokens of a response (default 64)")
    parser.add_argument("--reward-model", type=Path, help="of ppo (default the model with a fresh head)")
    parser.add_argument("--only", metavar="OPERATOR", help="of kernels, this operator alone")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--device", choices=list(DTYPES), default="cpu", help="where both sides compute (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side on a CPU (default 2)")
    parser.add_argument("--repairity", type=Path, default=Path("target/release/repairity"), help="the program")
    parser.add_argument("--peer-only", action="store_true", help="measure the peers alone")
    args = parser.parse_args()
    if args.model is None and args.what != ["kernels"]:
        parser.error("--model is needed for all but kernels")
    if not args.peer_only and not args.repairity.exists():
        parser.error(f"{args.repairity} is not there: build it, name it with --repairity, or pass --peer-only")
    if args.peer_only and "kernels" in args.what:
        parser.error("kernels are measured beside the program's; tools/peers/kernels.py measures the peer alone")
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for what in args.what:
            raw[what] = measure(what, args, Path(scratch) / "ours.json")
            rows += kernel_rows(raw[what], args) if what == "kernels" else step_rows(what, raw[what], args)
    print(shown(rows))
    extents = {"device": args.device, "batch": args.batch, "seq": args.seq, "steps": args.steps, "threads": args.threads}
    print(json.dumps(extents | {"model": str(args.model) if args.model else None, "rows": rows, "results": raw}))
    # A side that failed is a failure; a library that is not there is not.
    failed = any("failed" in result for sides in raw.values() for found in sides.values() for result in found)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
