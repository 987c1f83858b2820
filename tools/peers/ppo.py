#!/usr/bin/env python3
"""An iteration of PPO in TRL's PPOTrainer, as `repairity bench ppo` takes it.

    python tools/peers/ppo.py --model DIR --batch 8 --seq 128 --max-new-tokens 64 --steps 3

A response of --max-new-tokens tokens to each of --batch random prompts of --seq tokens, scored by a sequence classifier on the
reward model's folder (left out, the model's, with a fresh head), then 5 epochs of 4 minibatches. Policy and value function are
adapters of rank 4 on q, k, v and o; the reference is the policy without its adapter. TRL takes one optimizer step an epoch where the
program takes four; what is computed forwards and backwards is the same. One iteration comes before those that are timed. One JSON
object on the last line.
"""

import contextlib
import sys
import tempfile

import worker


def trainer_of(trl):
    """PPOTrainer and its settings, from where this version keeps them."""
    with contextlib.suppress(ImportError):
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        return PPOConfig, PPOTrainer
    return getattr(trl, "PPOConfig", None), getattr(trl, "PPOTrainer", None)


def main():
    parser = worker.arguments(__doc__)
    parser.add_argument("--reward-model", metavar="DIR", help="the reward model (default the model with a fresh head)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens of a response (default 64)")
    args = parser.parse_args()
    worker.ready("ppo", "torch", "transformers", "peft", "trl", "datasets")
    torch = worker.start(args)
    import datasets
    import peft
    import transformers
    import trl

    settings, trainer = trainer_of(trl)
    if trainer is None:
        print(f'{{"what": "ppo", "not_installed": ["PPOTrainer, which TRL {trl.__version__} does not have"]}}')
        return
    times = []

    class Clock(transformers.TrainerCallback):
        """Is told of the end of each iteration."""

        def on_step_end(self, *_, **__):
            times.append(worker.now(args.device))

    policy = worker.load(args)
    value = worker.load(args, "AutoModelForSequenceClassification", num_labels=1)
    value = peft.inject_adapter_in_model(worker.lora(peft), value)
    for name, param in value.named_parameters():
        param.requires_grad = "lora_" in name or name.startswith("score.")
    scored = argparse_copy(args, args.reward_model or args.model)
    reward = worker.load(scored, "AutoModelForSequenceClassification", num_labels=1)
    prompts = torch.randint(0, policy.config.vocab_size, (args.batch, args.seq)).tolist()
    rows = datasets.Dataset.from_dict({"input_ids": prompts * (args.steps + 1)})
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        config = settings(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=args.batch,
            local_rollout_forward_batch_size=args.batch,
            num_ppo_epochs=5,
            num_mini_batches=min(4, args.batch),
            total_episodes=args.batch * (args.steps + 1),
            response_length=args.max_new_tokens,
            temperature=1.0,
            missing_eos_penalty=None,
            num_sample_generations=0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            use_cpu=args.device == "cpu",
            gradient_checkpointing=False,
        )
        # Its log goes to standard output, where the result belongs.
        with contextlib.redirect_stdout(sys.stderr):
            ppo = trainer(
                args=config,
                processing_class=tokenizer,
                model=policy,
                ref_model=None,
                reward_model=reward,
                value_model=value,
                train_dataset=rows,
                eval_dataset=rows.select(range(args.batch)),
                peft_config=worker.lora(peft, task_type="CAUSAL_LM"),
                callbacks=[Clock()],
            )
            ppo.train()
    samples = [end - begin for begin, end in zip(times, times[1:])]
    tokens = args.batch * args.max_new_tokens * len(samples)
    worker.tell("ppo", args, f"TRL {trl.__version__}", samples, tokens, new_tokens=args.max_new_tokens)


def argparse_copy(args, model):
    """The same arguments with another model."""
    import argparse

    return argparse.Namespace(**(vars(args) | {"model": model}))


if __name__ == "__main__":
    main()
