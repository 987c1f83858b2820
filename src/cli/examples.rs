//! The examples below each subcommand's `--help`: commands as people type them. A test parses every one of them.

use clap::Command;

/// Subcommands, and what their help ends with. Those that explain more keep their text beside their arguments.
const AFTER_HELP: [(&str, &str); 29] = [
    (
        "run",
        "Stages, in their order:\n  \
         problems    loads, vets and splits the benchmark      problems.jsonl, dropped.jsonl\n  \
         collect     asks the teacher for traces               traces.jsonl (and teacher.jsonl: every answer, as it came)\n  \
         filter      keeps traces whose fix passes             sft.jsonl, sft.validation.jsonl, sft.dropped.jsonl\n  \
         sft         trains the policy on them                 sft/adapter\n  \
         candidates  samples fixes from it                     candidates.jsonl\n  \
         judge       lets the teacher compare them             preferences.jsonl, judging.json\n  \
         reward      trains the reward model                   reward/model\n  \
         ppo         optimises the policy against it           ppo/adapter\n  \
         evaluate    measures on held-out problems             evaluation/\n  \
         report      a page, plots and tables of it            report.html, plots/, report.md, results.csv, results.tex\n\
         A recipe with [pretrain] has the stage pretrain alone.\n\n\
         The run folder, the recipe's `out`, also holds metrics.jsonl, a line a training step, the same for TensorBoard in tensorboard/, and manifest.json: what ran, from what, \
         for how long. A stage whose inputs, settings and outputs are as they were is skipped. Stopped by Ctrl-C or killed, the same \
         command goes on from the last checkpoint.\n\n\
         Examples:\n  \
         repairity run recipes/quickstart.toml\n  \
         repairity run recipes/quickstart.toml --set seed=18 --set out=runs/seed-18\n  \
         repairity run recipes/mbpp-7b.toml --until filter\n  \
         repairity run recipes/mbpp-7b.toml --from sft --set sft.learning_rate=5e-6",
    ),
    (
        "pretrain",
        "Examples:\n  \
         repairity pretrain recipes/micro-base-skills.toml\n  \
         repairity pretrain recipes/micro-reward.toml --set pretrain.out=runs/reward --set pretrain.documents=2000",
    ),
    (
        "problems",
        "What was dropped is listed with the reason in dropped.jsonl.\n\n\
         Examples:\n  \
         repairity problems recipes/quickstart.toml\n  \
         repairity problems recipes/mbpp-7b.toml --set problems.path=data/mbpp.jsonl --set problems.count=50",
    ),
    (
        "collect",
        "Every answer is stored on arrival and never paid for twice.\n\n\
         Examples:\n  \
         repairity collect recipes/mbpp-7b.toml\n  \
         repairity collect recipes/mbpp-7b.toml --set teacher.budget_usd=5 --set problems.count=20\n  \
         repairity collect recipes/mbpp-7b.toml --set teacher.provider=openai --set teacher.base_url=http://localhost:8000/v1",
    ),
    (
        "filter",
        "Examples:\n  \
         repairity filter recipes/mbpp-7b.toml\n  \
         repairity filter recipes/mbpp-7b.toml --set filter.enabled=false --set out=runs/unfiltered",
    ),
    (
        "sft",
        "Examples:\n  \
         repairity sft recipes/mbpp-7b.toml\n  \
         repairity sft recipes/mbpp-7b.toml --set sft.data=traces.jsonl --set out=runs/from-a-file\n  \
         repairity sft recipes/mbpp-7b.toml --set sft.objective=direct --set out=runs/direct",
    ),
    (
        "candidates",
        "Examples:\n  \
         repairity candidates recipes/mbpp-7b.toml\n  \
         repairity candidates recipes/mbpp-7b.toml --set candidates.per_problem=5 --set candidates.batch=16",
    ),
    (
        "judge",
        "Examples:\n  \
         repairity judge recipes/mbpp-7b.toml\n  \
         repairity judge recipes/mbpp-7b.toml --set judge.at_once=3",
    ),
    (
        "reward",
        "Examples:\n  \
         repairity reward recipes/mbpp-7b.toml\n  \
         repairity reward recipes/mbpp-7b.toml --set reward.data=preferences.jsonl --set out=runs/from-a-file",
    ),
    (
        "ppo",
        "Examples:\n  \
         repairity ppo recipes/mbpp-7b.toml\n  \
         repairity ppo recipes/mbpp-7b.toml --set ppo.iterations=20 --set ppo.kl_bound=0.03\n  \
         repairity ppo recipes/mbpp-7b.toml --set ppo.adapter=sft/adapter --set ppo.reward_model=reward/model",
    ),
    (
        "evaluate",
        "Examples:\n  \
         repairity evaluate recipes/mbpp-7b.toml\n  \
         repairity evaluate recipes/quixbugs.toml --set evaluate.adapter=runs/mbpp-7b/sft/adapter\n  \
         repairity evaluate recipes/mbpp-7b.toml --set evaluate.samples=10 --set 'evaluate.models=[\"base\", \"ppo\"]'",
    ),
    (
        "report",
        "Examples:\n  \
         repairity report recipes/quickstart.toml\n  \
         repairity report recipes/quickstart.toml --format latex",
    ),
    (
        "repair",
        "Examples:\n  \
         repairity repair code/calc.py --tests code/test_calc.py --model models/Qwen2.5-Coder-7B-Instruct\n  \
         repairity repair code/calc.py --tests code/test_calc.py --model models/Qwen2.5-Coder-7B-Instruct \
         --adapter runs/mbpp-7b/ppo/adapter --reward-model runs/mbpp-7b/reward/model --samples 16 --write",
    ),
    (
        "serve",
        "Examples:\n  \
         repairity serve --model models/Qwen2.5-Coder-7B-Instruct --adapter runs/mbpp-7b/ppo/adapter --name repair\n  \
         repairity serve --model assets/micro-base --port 8080 --device cpu",
    ),
    (
        "export",
        "Examples:\n  \
         repairity export --model models/Qwen2.5-Coder-7B-Instruct --adapter runs/mbpp-7b/ppo/adapter --out repair-7b\n  \
         repairity export --model assets/micro-base --adapter runs/quickstart/ppo/adapter --run runs/quickstart --out micro-repair \
         --dtype f32",
    ),
    (
        "generate",
        "Examples:\n  \
         repairity generate --model models/Qwen2.5-Coder-7B-Instruct --prompt 'Fix the bug: def add(a, b): return a - b'\n  \
         repairity generate --model models/Qwen2.5-Coder-7B-Instruct --adapter runs/mbpp-7b/ppo/adapter --input prompts.jsonl \
         --output texts.jsonl --max-new-tokens 1024 --batch 32",
    ),
    (
        "score",
        "Examples:\n  \
         repairity score --model models/Qwen2.5-Coder-7B-Instruct --input texts.jsonl --output scored.jsonl\n  \
         repairity score --model runs/mbpp-7b/reward/model --input pairs.jsonl",
    ),
    (
        "check",
        "Exit code 0: every program that had to pass did (with --buggy: none passed); 1: not so.\n\n\
         Examples:\n  \
         repairity check --suite micro --limit 40 --reference\n  \
         repairity check --suite quixbugs --path data/quixbugs_python.jsonl --buggy\n  \
         repairity check --suite mbpp --path data/mbpp.jsonl --answers answers.jsonl --output verdicts.jsonl\n  \
         repairity check --suite folder --path problems.toml --buggy",
    ),
    (
        "swebench",
        "Examples:\n  \
         repairity swebench prompts --path verified.jsonl --repos repos --output prompts.jsonl\n  \
         repairity swebench predict --path verified.jsonl --answers texts.jsonl --model me/mine --output preds.jsonl\n  \
         repairity swebench evaluate --predictions preds.jsonl --output verdicts.jsonl",
    ),
    (
        "swebench prompts",
        "Examples:\n  \
         repairity swebench prompts --path verified.jsonl --repos repos --output prompts.jsonl\n  \
         repairity swebench prompts --path verified.jsonl --repos repos --tokens 12000 --limit 10",
    ),
    (
        "swebench predict",
        "Examples:\n  \
         repairity swebench predict --path verified.jsonl --answers texts.jsonl --model me/mine --output preds.jsonl\n  \
         repairity swebench predict --path lite.parquet --repos repos --answers texts.jsonl --model me/mine --output preds.jsonl",
    ),
    (
        "swebench evaluate",
        "Examples:\n  \
         repairity swebench evaluate --predictions preds.jsonl --output verdicts.jsonl\n  \
         repairity swebench evaluate --predictions preds.jsonl --workers 8 --python venv/bin/python",
    ),
    (
        "convert",
        "Examples:\n  \
         repairity convert shared.json --to repairity --out sft.jsonl\n  \
         repairity convert runs/mbpp-7b/sft.jsonl --to openthoughts",
    ),
    (
        "compare",
        "Examples:\n  \
         repairity compare base=runs/mbpp-7b/evaluation/base.jsonl ppo=runs/mbpp-7b/evaluation/ppo.jsonl\n  \
         repairity compare mine=verdicts.jsonl theirs=others.jsonl --k 1,5 --format latex",
    ),
    (
        "plan",
        "Exit code 1: something does not fit; what would make it fit is named.\n\n\
         Examples:\n  \
         repairity plan recipes/paper-8xh100.toml --gpu h100-80gb\n  \
         repairity plan recipes/mbpp-7b.toml --gpu a100-80gb --brief\n  \
         repairity plan recipes/mbpp-7b.toml --stage ppo --set ppo.sequences_per_device=8 --json",
    ),
    (
        "doctor",
        "A line a thing: yes or no, what, and what was found or what to do. Keys are never shown.\n\n\
         Examples:\n  \
         repairity doctor\n  \
         NVCC=/usr/local/cuda/bin/nvcc repairity doctor",
    ),
    (
        "recipe",
        "Examples:\n  \
         repairity recipe new mine.toml\n  \
         repairity recipe check mine.toml",
    ),
    (
        "completions",
        "Examples:\n  \
         repairity completions bash > ~/.local/share/bash-completion/completions/repairity\n  \
         repairity completions zsh > ~/.zfunc/_repairity\n  \
         repairity completions fish > ~/.config/fish/completions/repairity.fish",
    ),
    (
        "man",
        "Examples:\n  \
         repairity man | man -l -\n  \
         repairity man --out ~/.local/share/man/man1",
    ),
];

/// The command line with these examples in its help, where a command has none beside its arguments.
pub fn add(command: Command) -> Command {
    AFTER_HELP.iter().fold(command, |command, (name, text)| put(command, name, text))
}

/// `name` is that of a subcommand, or of one of its own, behind a space.
fn put(command: Command, name: &str, text: &'static str) -> Command {
    let (first, rest) = name.split_once(' ').unwrap_or((name, ""));
    command.mut_subcommand(first, |sub| match rest {
        "" if sub.get_after_help().is_none() => sub.after_help(text),
        "" => sub,
        rest => put(sub, rest, text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    /// Every subcommand with its full name, its own subcommands too.
    fn all(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
        for sub in command.get_subcommands() {
            let name = format!("{name} {}", sub.get_name());
            found.push((name.clone(), sub.clone()));
            all(sub, &name, found);
        }
    }

    /// The examples in a help's last part, as a shell would split them: what is redirected or piped is cut off.
    fn examples(command: &Command) -> Vec<Vec<String>> {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = text.lines().filter_map(|line| Some(&line[line.strip_prefix("  ")?.find("repairity ")? + 2..]));
        let split = |line: &str| {
            let line = line.split(" > ").next().and_then(|line| line.split(" | ").next()).unwrap_or_default();
            let script = format!("for word in {line}; do printf '%s\\0' \"$word\"; done");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(output.status.success(), "{line}");
            let text = String::from_utf8(output.stdout).unwrap();
            text.split_terminator('\0').map(String::from).collect::<Vec<_>>()
        };
        lines.filter(|line| !line.contains('`')).map(split).collect()
    }

    #[test]
    fn every_example_in_every_help_is_one_that_the_program_takes() {
        let mut commands = Vec::new();
        all(&cli::command(), "repairity", &mut commands);
        let mut wrong = Vec::new();
        for (name, command) in &commands {
            let examples = examples(command);
            if examples.len() < 2 {
                wrong.push(format!("{name}: {} examples in its help, 2 at least expected", examples.len()));
            }
            for example in examples {
                let line = example.join(" ");
                if let Err(error) = cli::command().try_get_matches_from(&example) {
                    wrong.push(format!("{name}: `{line}` is refused: {}", error.to_string().lines().next().unwrap_or_default()));
                }
                if !format!("{line} ").starts_with(&format!("{name} ")) {
                    wrong.push(format!("{name}: its help shows `{line}`"));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        assert!(commands.len() >= AFTER_HELP.len());
    }
}
