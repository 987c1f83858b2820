#!/usr/bin/env python3
"""Sampling with a key-value cache in Transformers, as `repairity bench decode` takes it.

    python tools/peers/decode.py --model DIR --batch 2 --seq 256 --steps 8

--steps tokens at temperature 1 for each of --batch random prompts of --seq tokens, none ending earlier; a short generation before the
one that is timed. Reading the prompts counts in the time; samples are the tokens after the first. One JSON object on the last line.
"""

import worker


def main():
    args = worker.arguments(__doc__).parse_args()
    worker.ready("decode", "torch", "transformers")
    torch = worker.start(args)
    import transformers

    times = []

    class Clock(transformers.StoppingCriteria):
        """Is asked once a token, and stops nothing. The generation itself waits for the device where it asks whether all are done."""

        def __call__(self, input_ids, scores, **_):
            times.append(worker.now(args.device))
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    model = worker.load(args).eval()
    model.generation_config.eos_token_id = None
    prompts = torch.randint(0, model.config.vocab_size, (args.batch, args.seq), device=args.device)
    seconds = 0.0
    for new_tokens in (min(2, args.steps), args.steps):
        times.clear()
        begin = worker.now(args.device)
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
                stopping_criteria=transformers.StoppingCriteriaList([Clock()]),
            )
        seconds = worker.now(args.device) - begin
        assert out.shape == (args.batch, args.seq + new_tokens)
    samples = [end - before for before, end in zip(times, times[1:])]
    library = f"Transformers {transformers.__version__}"
    worker.tell("decode", args, library, samples, args.batch * args.steps, seconds=seconds, prefill_seconds=times[0] - begin)


if __name__ == "__main__":
    main()
