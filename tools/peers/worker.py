"""What every measurement of a peer shares: its arguments, what is not installed, the clock, and the form of its result.

A measurement is a process of its own. It prints one JSON object on its last line, in the form of `repairity bench --json` as far as
it goes: `what`, `library`, `device`, `batch`, `seq`, `steps`, `samples` (seconds of each step), `seconds`, `tokens_per_s`,
`peak_bytes`. Where a library is missing it is `{"what", "not_installed": [...]}`.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

# The folder of this program must not hide a library of the same name as one of its files.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

DTYPES = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def arguments(doc):
    """The parser of what every measurement can be told."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--batch", type=int, default=2, help="sequences (default 2)")
    parser.add_argument("--seq", type=int, default=256, help="tokens of a sequence, or of a prompt (default 256)")
    parser.add_argument("--steps", type=int, default=8, help="steps, new tokens, or iterations (default 8)")
    parser.add_argument("--device", choices=list(DTYPES), default="cpu", help="where it computes (default cpu)")
    parser.add_argument("--dtype", choices=DTYPES["cpu"], default="float32", help="type of weights and activations")
    parser.add_argument("--threads", type=int, default=2, help="threads on a CPU (default 2)")
    return parser


def ready(what, *modules):
    """Ends with a result that says so where a module is not installed; else imports PyTorch quietly."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        print(json.dumps({"what": what, "not_installed": missing}))
        sys.exit(0)


def start(args):
    """PyTorch with the threads and the seed of a measurement."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    return torch


def now(device):
    """Seconds, once the device has done all that it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def load(args, kind="AutoModelForCausalLM", **more):
    """The checkpoint on the device."""
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(args.model, dtype=getattr(torch, args.dtype), **more)
    return model.to(args.device)


def lora(peft, **more):
    """The adapter that `repairity bench` trains."""
    return peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, **more)


def tell(what, args, library, samples, tokens, **more):
    """Prints the result: `tokens` were computed in `seconds`, or else in the samples."""
    import torch

    seconds = more.pop("seconds", None) or sum(samples)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu ({args.threads} threads)"
    peak = {"peak_bytes": torch.cuda.max_memory_allocated()} if args.device == "cuda" else {}
    result = {
        "what": what,
        "library": library,
        "device": device,
        "dtype": args.dtype,
        "batch": args.batch,
        "seq": args.seq,
        "steps": args.steps,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "samples": samples,
    }
    print(json.dumps(result | peak | more))
