#!/usr/bin/env python3
"""A LoRA training step in Transformers and PEFT, as `repairity bench sft` takes it.

    python tools/peers/sft.py --model DIR --batch 2 --seq 256 --steps 8

Rank 4 on q, k, v and o, AdamW, random tokens, the loss on all of them, gradients clipped; one step before those that are timed. One
JSON object on the last line.
"""

import worker


def main():
    args = worker.arguments(__doc__).parse_args()
    worker.ready("sft", "torch", "transformers", "peft")
    torch = worker.start(args)
    import peft
    import transformers

    model = peft.get_peft_model(worker.load(args), worker.lora(peft))
    model.train()
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    times = []
    for _ in range(args.steps + 1):
        times.append(worker.now(args.device))
        tokens = torch.randint(0, model.config.vocab_size, (args.batch, args.seq), device=args.device)
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    times.append(worker.now(args.device))
    samples = [end - begin for begin, end in zip(times[1:], times[2:])]
    library = f"Transformers {transformers.__version__} + PEFT {peft.__version__}"
    worker.tell("sft", args, library, samples, args.batch * args.seq * args.steps)


if __name__ == "__main__":
    main()
