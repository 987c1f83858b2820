#!/usr/bin/env python3
"""Measures `repairity bench` beside Transformers and PEFT on this machine's CPU or GPU, in one run.

    pip install -r tools/golden-requirements.txt
    python tools/bench-peer.py --make qwen2-0.1b /tmp/qwen2-0.1b
    python tools/bench-peer.py --model /tmp/qwen2-0.1b --batch 2 --seq 256 --steps 8

Two workloads, the same for both sides:

    sft       a training step: LoRA of rank 4 on q, k, v and o, AdamW, random tokens, the loss on all of them
    decode    --steps tokens sampled at temperature 1 for each of --batch random prompts of --seq tokens, with a KV cache

Each measurement is a process of its own that loads the model, warms up, and reports tokens per second: trained tokens for
`sft`, sampled tokens for `decode`, where reading the prompts counts in the time. Sides take turns for --rounds rounds, so
that a machine that slows down slows all of them. On a CPU Transformers runs in float32 and in bfloat16, ratios are against
the better of the two, and peak memory is the process's own resident maximum. On a GPU (--device cuda) it runs in bfloat16,
and peak memory is the GPU's that tensors held.

The table goes to standard output, and one JSON object follows it on the last line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHECKPOINTS = {
    "qwen2-0.1b": {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 32000,
    },
    "qwen2-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "qwen2-micro": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
}
DTYPES = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(shape, folder):
    """Writes a random Qwen2 checkpoint in bfloat16, with a tokenizer of single bytes so that the folder is whole."""
    import tokenizers
    import torch
    import transformers

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)

    torch.manual_seed(0)
    end = tokenizer.token_to_id("<|im_end|>")
    config = transformers.Qwen2Config(
        **CHECKPOINTS[shape],
        max_position_embeddings=32768,
        rope_theta=1e6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    model = transformers.Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "model_max_length": 32768,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"{folder}: {shape}, {model.num_parameters() / 1e6:.1f} million parameters, bfloat16")


# ---- one measurement of the peer, in a process of its own ----


def now(args):
    """Seconds, once the device has done all that it was told."""
    import torch

    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sft_seconds(model, args):
    """Seconds of the measured training steps, after one that is not."""
    import peft
    import torch

    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules=targets))
    model.train()
    optimizer = torch.optim.AdamW([param for param in model.parameters() if param.requires_grad], lr=1e-4)
    start = 0.0
    for step in range(args.steps + 1):
        if step == 1:
            start = now(args)
        tokens = torch.randint(0, model.config.vocab_size, (args.batch, args.seq), device=args.device)
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_((param for param in model.parameters() if param.requires_grad), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return now(args) - start


def decode_seconds(model, args):
    """Seconds of one generation, after a short one that is not measured."""
    import torch

    model.eval()
    model.generation_config.eos_token_id = None
    prompts = torch.randint(0, model.config.vocab_size, (args.batch, args.seq), device=args.device)
    seconds = 0.0
    for new_tokens in (2, args.steps):
        start = now(args)
        with torch.inference_mode():
            out = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=new_tokens,
                use_cache=True,
            )
        seconds = now(args) - start
        assert out.shape == (args.batch, args.seq + new_tokens)
    return seconds


def measure_peer(args):
    """Prints one JSON object in the form of `repairity bench --json`."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    seconds = {"sft": sft_seconds, "decode": decode_seconds}[args.measure](model, args)
    tokens = args.batch * args.steps * (args.seq if args.measure == "sft" else 1)
    peak = {"peak_bytes": torch.cuda.max_memory_allocated()} if args.device == "cuda" else {}
    print(json.dumps({"what": args.measure, "dtype": args.dtype, "seconds": seconds, "tokens_per_s": tokens / seconds} | peak))


# ---- the comparison ----


def run(command, threads):
    """Runs a measurement; gives the JSON object on its last line, with the process's peak memory added."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = os.environ | {name: str(threads) for name in names} | {"HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}")
    result = json.loads(output.strip().splitlines()[-1])
    return result | {"peak_rss_bytes": usage.ru_maxrss * 1024}


def commands(what, args):
    """Each side's name and command line."""
    extents = ["--batch", str(args.batch), "--seq", str(args.seq), "--steps", str(args.steps), "--model", str(args.model)]
    extents += ["--device", args.device]
    worker = [sys.executable, __file__, "--measure", what, "--threads", str(args.threads), *extents]
    sides = {f"transformers {dtype}": [*worker, "--dtype", dtype] for dtype in DTYPES[args.device]}
    if not args.peer_only:
        sides["repairity"] = [str(args.repairity), "bench", what, *extents, "--json"]
    return sides


def summary(results, args):
    """Best and median of one side's rounds."""
    rates = [result["tokens_per_s"] for result in results]
    memory = "peak_bytes" if args.device == "cuda" else "peak_rss_bytes"
    peak = max(result[memory] for result in results)
    return {"best": max(rates), "median": statistics.median(rates), "rounds": rates, memory: peak}


def compare(what, args):
    """Lets the sides take turns, and sums up."""
    sides = commands(what, args)
    results = {name: [] for name in sides}
    for round_number in range(args.rounds):
        for name, command in sides.items():
            results[name].append(run(command, args.threads))
            rate = results[name][-1]["tokens_per_s"]
            print(f"{what}, round {round_number + 1} of {args.rounds}, {name}: {rate:.1f} tokens/s", file=sys.stderr)
    report = {"what": what, "sides": {name: summary(found, args) for name, found in results.items()}}
    peers = [found for name, found in report["sides"].items() if name != "repairity"]
    if "repairity" in report["sides"]:
        ours = report["sides"]["repairity"]
        report["ratio_best"] = ours["best"] / max(peer["best"] for peer in peers)
        report["ratio_median"] = ours["median"] / max(peer["median"] for peer in peers)
    return report


def table(reports):
    """The results as text, a line for each side."""
    lines = [f"{'':<32}{'best tok/s':>12}{'median tok/s':>14}{'peak MiB':>10}"]
    for report in reports:
        for name, side in report["sides"].items():
            peak = side.get("peak_bytes", side.get("peak_rss_bytes")) / 2**20
            lines.append(f"{report['what']:<8}{name:<24}{side['best']:>12.1f}{side['median']:>14.1f}{peak:>10.0f}")
        if "ratio_best" in report:
            lines.append(f"{report['what']:<8}{'ratio':<24}{report['ratio_best']:>11.2f}x{report['ratio_median']:>13.2f}x")
    return "\n".join(lines)


def main():
    """Makes a checkpoint, measures one side, or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs=2, metavar=("SHAPE", "DIR"), help=f"write a checkpoint: {', '.join(CHECKPOINTS)}")
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--what", choices=["sft", "decode"], nargs="+", default=["sft", "decode"], help="workloads")
    parser.add_argument("--batch", type=int, default=2, help="sequences (default 2)")
    parser.add_argument("--seq", type=int, default=256, help="tokens of a sequence, or of a prompt (default 256)")
    parser.add_argument("--steps", type=int, default=8, help="training steps, or new tokens (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--device", choices=list(DTYPES), default="cpu", help="where both sides compute (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--repairity", type=Path, default=Path("target/release/repairity"), help="the program")
    parser.add_argument("--peer-only", action="store_true", help="measure Transformers alone")
    parser.add_argument("--measure", choices=["sft", "decode"], help="one measurement of Transformers, as JSON")
    parser.add_argument("--dtype", choices=DTYPES["cpu"], default="float32", help="type of --measure")
    args = parser.parse_args()
    if args.make:
        shape, folder = args.make
        if shape not in CHECKPOINTS:
            parser.error(f"--make: {' or '.join(CHECKPOINTS)} expected, {shape} found")
        make(shape, Path(folder))
    elif args.model is None:
        parser.error("--model is needed")
    elif args.measure:
        measure_peer(args)
    elif not args.peer_only and not args.repairity.exists():
        parser.error(f"{args.repairity} is not there: build it, name it with --repairity, or pass --peer-only")
    else:
        reports = [compare(what, args) for what in args.what]
        print(table(reports))
        extents = {"device": args.device, "batch": args.batch, "seq": args.seq, "steps": args.steps, "threads": args.threads}
        print(json.dumps(extents | {"model": str(args.model), "results": reports}))


if __name__ == "__main__":
    main()
