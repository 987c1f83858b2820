//! A Hugging Face checkpoint on real data: random Qwen2 and Llama checkpoints go through every stage on QuixBugs, with a recorded
//! teacher. What each stage must write follows from what the teacher is made to say.

#[path = "support/program.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::{Tensors, read_json};
use repairity::device::Cpu;
use repairity::model::{Adapter, Architecture, Config, Decoder};
use repairity::problem::{self, Options};
use repairity::prompt::{P_TRACE, answer_text, user_text};
use repairity::record::{Candidate, Conversation, Outcome, Preference, Problem, Split, Trace, read_jsonl};
use repairity::run::STAGES;
use repairity::score::RewardModel;
use serde_json::{Value, json};

const REASONING: &str = "One line is wrong. I read the code again and correct that line.";

/// QuixBugs, or nothing where the data is not at hand.
fn quixbugs() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/quixbugs/quixbugs_python.jsonl");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path.canonicalize().unwrap())
}

/// A folder with both checkpoints, the teacher's file, the recipe and the run.
struct Run {
    root: tempfile::TempDir,
    problems: Vec<Problem>,
}

impl Run {
    /// `count` problems (0: all), split as the run will split them.
    fn new(data: &Path, count: usize, ratios: [f64; 3]) -> Run {
        let root = tempfile::tempdir().unwrap();
        checkpoint(&root.path().join("policy"), Architecture::Qwen2);
        checkpoint(&root.path().join("reward"), Architecture::Llama);
        let mut problems = problem::load("quixbugs", Some(data), 17, count, &Options::default()).unwrap();
        problem::split(&mut problems, ratios, 17).unwrap();
        Run { root, problems }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    fn part(&self, split: Split) -> Vec<&Problem> {
        self.problems.iter().filter(|problem| problem.split == Some(split)).collect()
    }

    /// Writes the recipe: what all runs share, and `more`, a list of `section.key = value`.
    fn recipe(&self, data: &Path, more: &[&str]) -> PathBuf {
        let mut text = String::new();
        let paths = [
            ("out", self.path("run")),
            ("problems.path", data.to_path_buf()),
            ("teacher.path", self.path("teacher-answers.jsonl")),
            ("policy.model", self.path("policy")),
            ("reward.model", self.path("reward")),
        ];
        for (key, path) in paths {
            text += &format!("{key} = {path:?}\n");
        }
        let common = [
            "device = \"cpu\"",
            "problems.suite = \"quixbugs\"",
            "teacher.provider = \"recorded\"",
            "sft.learning_rate = 1e-2",
            "sft.epochs = 1",
            "sft.accumulation = 4",
            "sft.max_tokens = 8192",
            "candidates.max_new_tokens = 8",
            "reward.learning_rate = 1e-3",
            "reward.epochs = 2",
            "reward.max_tokens = 8192",
            "reward.sequences_per_device = 2",
            "reward.accumulation = 2",
            "reward.validation = 0.25",
            "ppo.iterations = 2",
            "ppo.prompts_per_iteration = 4",
            "ppo.epochs = 2",
            "ppo.minibatches = 2",
            "ppo.critic_warmup = 0",
            "ppo.learning_rate = 1e-2",
            "ppo.max_new_tokens = 8",
            "evaluate.max_new_tokens = 8",
        ];
        for line in common.iter().chain(more) {
            text += &format!("{line}\n");
        }
        let path = self.path("recipe.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn teacher(&self, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.path("teacher-answers.jsonl"), text).unwrap();
    }
}

/// The teacher's trace: the published solution, reasoning first.
fn solved(problem: &Problem) -> Value {
    let text = answer_text(REASONING, problem.reference.as_ref().unwrap(), "python");
    json!({"id": problem.id, "purpose": "trace", "text": text, "usage": {"input_tokens": 100, "output_tokens": 50}})
}

fn compared(problem: &Problem, first: usize, second: usize, ranking: &str) -> Value {
    json!({"id": problem.id, "purpose": "compare", "first": first, "second": second, "text": ranking})
}

/// The lines of a stored file, as records of a kind.
fn read<T: serde::de::DeserializeOwned>(path: PathBuf) -> Vec<T> {
    read_jsonl(&path).unwrap()
}

/// The stages that ran, and those that were skipped, as the manifest and standard error tell it.
fn skipped(output: &Output) -> BTreeSet<&'static str> {
    let text = err(output);
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(": unchanged, skipped")).collect();
    STAGES.into_iter().filter(|stage| names.contains(stage)).collect()
}

fn metrics(run: &Run, stage: &str) -> Vec<Value> {
    read::<Value>(run.file("metrics.jsonl")).into_iter().filter(|line| line["stage"] == stage).collect()
}

/// The values of an adapter's tensors by name.
fn adapter(folder: &Path, config: &Config) -> BTreeMap<String, Vec<f32>> {
    let device = Cpu::<f32>::new();
    let adapter = Adapter::load(&device, config, folder).unwrap();
    adapter
        .params()
        .iter()
        .flat_map(|param| param.read::<f32>(&device).unwrap())
        .map(|(part, values)| (part.name, values))
        .collect()
}

#[test]
fn a_checkpoint_goes_through_every_stage_on_quixbugs() {
    let Some(data) = quixbugs() else { return };
    let run = Run::new(&data, 0, [0.70, 0.15, 0.15]);
    let (training, validation) = (run.part(Split::Train), run.part(Split::Validation));
    assert_eq!((training.len(), validation.len(), run.part(Split::Test).len()), (28, 6, 6));

    // Four traces are wrong, each in its own way: the bug again (twice, once of a validation problem), no code, cut short.
    let mut lines: Vec<Value> = training.iter().chain(&validation).map(|problem| solved(problem)).collect();
    let (again, wordy, cut, held) = (0, 1, 2, 28);
    for index in [again, held] {
        let problem = [training[0], validation[0]][usize::from(index == held)];
        lines[index]["text"] = answer_text(REASONING, problem.buggy.as_ref().unwrap(), "python").into();
    }
    lines[wordy]["text"] = "I would turn the comparison round.".into();
    lines[cut]["stop"] = "length".into();
    // Of six problems, the judge contradicts itself on one, says nothing readable on one, prefers the later answer on one and the
    // earlier one on three.
    for (which, problem) in validation.iter().enumerate() {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (forward, backward) = match which {
                0 => ("Ranking: A > B", "Ranking: A > B"),
                1 => ("I cannot tell.", "I cannot tell."),
                2 => ("Ranking: B > A", "Ranking: A > B"),
                _ => ("Ranking: A > B", "Ranking: B > A"),
            };
            lines.push(compared(problem, a, b, forward));
            lines.push(compared(problem, b, a, backward));
        }
    }
    run.teacher(&lines);
    let recipe = run.recipe(&data, &["evaluate.temperature = 0.2"]);

    let output = repairity(&["run", arg(&recipe)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(skipped(&output), BTreeSet::new());
    collected(&run, [training[again], training[wordy], training[cut], validation[0]]);
    judged(&run, &validation);
    trained(&run);
    evaluated(&run, &out(&output));

    // Nothing has changed: nothing is done, and the report is shown again.
    let second = repairity(&["run", arg(&recipe)]);
    assert_eq!(second.status.code(), Some(0), "{}", err(&second));
    assert_eq!(skipped(&second), STAGES[1..].iter().copied().collect());
    assert_eq!(out(&second), out(&output));

    // Another number of epochs concerns sft and what comes after it, not what was asked and checked before.
    let other = repairity(&["run", arg(&recipe), "--set", "sft.epochs=2"]);
    assert_eq!(other.status.code(), Some(0), "{}", err(&other));
    assert_eq!(skipped(&other), BTreeSet::from(["problems", "collect", "filter"]));
    assert_eq!(metrics(&run, "sft").len(), 4);
    assert!(out(&other).contains("| sft | 4 steps, "), "{}", out(&other));

    // An adapter that is only to be measured once took the SFT model's place here too.
    let texts = || read::<Candidate>(run.file("candidates.jsonl")).into_iter().map(|c| c.text).collect::<Vec<_>>();
    let before = texts();
    let adapter = format!("evaluate.adapter={}", run.path("elsewhere").display());
    let fresh = repairity(&["candidates", arg(&recipe), "--fresh", "--set", "sft.epochs=2", "--set", &adapter]);
    assert_eq!((fresh.status.code(), skipped(&fresh)), (Some(0), BTreeSet::new()), "{}", err(&fresh));
    assert_eq!(texts(), before);
}

/// What collect and filter write; `wrong` are the problems whose traces are not right: the bug again, no code, cut, and the bug again
/// in the validation part.
fn collected(run: &Run, wrong: [&Problem; 4]) {
    let problems: Vec<Problem> = read(run.file("problems.jsonl"));
    assert_eq!(problems, run.problems);
    assert_eq!(fs::read(run.file("dropped.jsonl")).unwrap(), b"");

    let traces: Vec<Trace> = read(run.file("traces.jsonl"));
    assert_eq!(traces.len(), 34);
    for trace in &traces {
        let problem = run.problems.iter().find(|problem| problem.id == trace.id).unwrap();
        let verdict = trace.verdict.as_ref().unwrap();
        let planted = wrong.iter().position(|wrong| wrong.id == trace.id);
        match planted {
            None => {
                assert_eq!(verdict.verdict, Outcome::Pass, "{}: {}", trace.id, verdict.reason);
                assert_eq!(trace.answer, problem.reference.as_ref().unwrap().trim_end());
                assert_eq!(trace.reasoning, REASONING);
                assert_eq!(trace.usage.output_tokens, 50);
            }
            Some(1 | 2) => {
                assert_eq!((verdict.verdict, trace.answer.as_str()), (Outcome::Refused, ""), "{}", trace.id);
                assert_eq!(trace.extra["stop"], if planted == Some(2) { "length" } else { "end" });
            }
            Some(_) => assert!(!matches!(verdict.verdict, Outcome::Pass | Outcome::Refused), "{}: {verdict:?}", trace.id),
        }
        assert_eq!(trace.prompt, user_text(problem, P_TRACE));
    }

    // The cap is 0.20 of 40 problems, dealt in turn over three difficulties.
    let records: Vec<Conversation> = read(run.file("sft.jsonl"));
    let mut by_difficulty: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records {
        let problem = run.problems.iter().find(|problem| problem.id == record.id).unwrap();
        assert_eq!((problem.split, &record.extra["verified"]), (Some(Split::Train), &json!(true)), "{}", record.id);
        assert!(wrong.iter().all(|wrong| wrong.id != record.id), "{}", record.id);
        let answer = answer_text(REASONING, problem.reference.as_ref().unwrap(), "python");
        assert_eq!([&record.messages[0].content, &record.messages[1].content], [&user_text(problem, P_TRACE), &answer]);
        *by_difficulty.entry(problem.difficulty.as_str()).or_default() += 1;
    }
    let mut counts: Vec<usize> = by_difficulty.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3]);
    let held: Vec<Conversation> = read(run.file("sft.validation.jsonl"));
    assert_eq!(held.len(), 5);
    assert!(held.iter().all(|record| record.id != wrong[3].id));
}

/// What candidates and judge write.
fn judged(run: &Run, validation: &[&Problem]) {
    let candidates: Vec<Candidate> = read(run.file("candidates.jsonl"));
    let places: Vec<(&str, usize, f64)> = candidates.iter().map(|c| (c.id.as_str(), c.index, c.temperature)).collect();
    let expected: Vec<(&str, usize, f64)> = validation
        .iter()
        .flat_map(|problem| [0.7, 0.8, 0.9].into_iter().enumerate().map(|(i, t)| (problem.id.as_str(), i, t)))
        .collect();
    assert_eq!(places, expected);
    // A random model writes no code.
    assert!(candidates.iter().all(|candidate| candidate.verdict.as_ref().unwrap().verdict == Outcome::Refused));

    let preferences: Vec<Preference> = read(run.file("preferences.jsonl"));
    let mut found = BTreeMap::new();
    for preference in &preferences {
        let text = |index: &Value| {
            let index = index.as_u64().unwrap() as usize;
            &candidates.iter().find(|c| c.id == preference.id && c.index == index).unwrap().text
        };
        let indices = &preference.extra["indices"];
        assert_eq!([&preference.chosen, &preference.rejected], [text(&indices[0]), text(&indices[1])]);
        assert_ne!(preference.chosen, preference.rejected);
        assert_eq!((preference.label, preference.judgments.len()), (1.0, 2));
        found.entry(preference.id.as_str()).or_insert_with(Vec::new).push(indices.to_string());
    }
    let expected: BTreeMap<&str, Vec<String>> = validation[2..]
        .iter()
        .enumerate()
        .map(|(which, problem)| {
            let later = which == 0;
            let pairs = [[0, 1], [0, 2], [1, 2]].map(|[a, b]| if later { json!([b, a]) } else { json!([a, b]) });
            (problem.id.as_str(), pairs.map(|pair| pair.to_string()).to_vec())
        })
        .collect();
    assert_eq!(found, expected);
    // 18 pairs. 3 cannot be read, both ways; of the other 15, 12 agree. Of 30 readable judgments the first place wins one in each
    // agreed pair and both in the 3 others.
    let mut judging = read_json(&run.file("judging.json")).unwrap();
    // Twice the chance of 18 or more of 30 at even odds.
    let p = judging.as_object_mut().unwrap().remove("first_place_p").unwrap().as_f64().unwrap();
    assert!((p - 0.361_594_6).abs() < 1e-6, "{p}");
    let expected = json!({
        "pairs": 18, "labelled": 12, "agreement": 0.8, "first_place": 0.6, "unreadable": 6, "refused": 0, "cut": 0
    });
    assert_eq!(judging, expected);
}

/// What sft, reward and ppo write.
fn trained(run: &Run) {
    let device = Cpu::<f32>::new();
    let base = Config::load(&run.path("policy")).unwrap();
    // 8 records, 4 a step.
    let sft = metrics(run, "sft");
    assert_eq!(sft.len(), 2);
    assert!(sft[1]["validation_loss"].as_f64().unwrap() > 0.0, "{}", sft[1]);
    let after_sft = adapter(&run.file("sft/adapter"), &base);
    assert!(after_sft.iter().filter(|(name, _)| name.contains("lora_B")).all(|(_, values)| values.iter().any(|x| *x != 0.0)));

    // 12 pairs of 4 problems, one of which is held out; 4 pairs a step.
    let reward = metrics(run, "reward");
    assert_eq!(reward.len(), 2 * 9usize.div_ceil(4));
    let folder = run.file("reward/model");
    assert_eq!(Tensors::open_folder(&folder).unwrap().shape("score.weight"), Some(&[1, 16][..]));
    assert_eq!(read_json(&folder.join("config.json")).unwrap()["architectures"], json!(["LlamaForSequenceClassification"]));
    let model = RewardModel::load(&device, &folder).unwrap();
    // Its scale brings the scores of the SFT samples to mean 0 and deviation 1.
    let candidates: Vec<Candidate> = read(run.file("candidates.jsonl"));
    let prompt = |id: &str| user_text(run.problems.iter().find(|problem| problem.id == id).unwrap(), P_TRACE);
    let prompts: Vec<String> = candidates.iter().map(|candidate| prompt(&candidate.id)).collect();
    let texts: Vec<(&str, &str)> = prompts.iter().zip(&candidates).map(|(p, c)| (p.as_str(), c.text.as_str())).collect();
    let scores = model.score_texts(&device, &texts, 8192).unwrap();
    let scaled: Vec<f64> = scores.iter().map(|score| model.scale.apply(*score, f64::INFINITY)).collect();
    let mean = scaled.iter().sum::<f64>() / 18.0;
    let variance = scaled.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 17.0;
    // Written as JSON and read back, an f64 keeps its bits; the rest is rounding of 18 sums.
    assert!(mean.abs() < 1e-9 && (variance - 1.0).abs() < 1e-9, "{mean} {variance}");

    let ppo = metrics(run, "ppo");
    assert_eq!(ppo.len(), 2);
    // The first rollouts come from the reference itself, the second ones no more.
    assert_eq!(ppo[0]["kl"].as_f64(), Some(0.0));
    assert_ne!(ppo[1]["kl"].as_f64(), Some(0.0));
    assert!(ppo.iter().all(|line| line["length"].as_f64().unwrap() <= 8.0 && line["tokens"].as_u64().unwrap() <= 32));
    let config = read_json(&run.file("ppo/adapter/adapter_config.json")).unwrap();
    assert_eq!((&config["peft_type"], &config["task_type"], &config["r"]), (&json!("LORA"), &json!("CAUSAL_LM"), &json!(4)));
    let after_ppo = adapter(&run.file("ppo/adapter"), &base);
    assert_eq!(after_ppo.keys().collect::<Vec<_>>(), after_sft.keys().collect::<Vec<_>>());
    assert!(after_ppo.iter().all(|(name, values)| *values != after_sft[name]));
}

/// What evaluate and report write.
fn evaluated(run: &Run, shown: &str) {
    let test: Vec<&str> = run.part(Split::Test).into_iter().map(|problem| problem.id.as_str()).collect();
    let summary = read_json(&run.file("evaluation/summary.json")).unwrap();
    let models: Vec<&String> = summary["models"].as_object().unwrap().keys().collect();
    assert_eq!(models, ["base", "sft", "ppo"]);
    for model in models {
        let answers: Vec<Candidate> = read(run.file(&format!("evaluation/{model}.jsonl")));
        assert_eq!(answers.iter().map(|answer| answer.id.as_str()).collect::<Vec<_>>(), test, "{model}");
        assert!(answers.iter().all(|answer| answer.model == *model && answer.temperature == 0.2));
        let row = &summary["models"][model];
        assert_eq!((&row["problems"], &row["samples"], &row["pass_at_1"]), (&json!(6), &json!(1), &json!(0.0)), "{model}");
        assert_eq!(row["outcomes"], json!({"refused": 6}), "{model}");
    }
    assert_eq!(summary["comparisons"].as_array().unwrap().len(), 3);

    assert_eq!(shown, fs::read_to_string(run.file("report.md")).unwrap());
    assert!(shown.starts_with("6 problems of quixbugs (test split), 1 answer(s) each at temperature 0.2\n"), "{shown}");
    for line in ["| base | 0.0 |", "| +RT | 0.0 |", "| +RT+RLLF | 0.0 |", "| sft | 2 steps", "| judge | 12 of 18 pairs labelled"]
    {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}

#[test]
fn whole_models_and_the_ablations_go_through_too() {
    let Some(data) = quixbugs() else { return };
    let run = Run::new(&data, 10, [0.6, 0.2, 0.2]);
    let (training, validation) = (run.part(Split::Train), run.part(Split::Validation));
    assert_eq!((training.len(), validation.len()), (6, 2));
    let mut lines: Vec<Value> = training.iter().chain(&validation).map(|problem| solved(problem)).collect();
    lines[0]["text"] = answer_text(REASONING, "def wrong():\n    return None", "python").into();
    // One order is asked for, so one is all the teacher has.
    for problem in &validation {
        lines.extend([(0, 1), (0, 2), (1, 2)].map(|(a, b)| compared(problem, a, b, "Ranking: B > A")));
    }
    run.teacher(&lines);
    let recipe = run.recipe(
        &data,
        &[
            "problems.count = 10",
            "problems.split = [0.6, 0.2, 0.2]",
            "problems.vet = false",
            "filter.enabled = false",
            "filter.cap = 1.0",
            "sft.train = \"full\"",
            "sft.objective = \"direct\"",
            "judge.both_orders = false",
            "reward.train = \"lora\"",
            "ppo.critic = \"head\"",
            "evaluate.samples = 2",
        ],
    );
    let recipe = arg(&recipe);

    assert_eq!(refused(&["run", recipe, "--from", "sft", "--until", "filter"]), "error: --from, --until: sft comes after filter");
    let first = repairity(&["run", recipe, "--until", "filter"]);
    assert_eq!((first.status.code(), out(&first).as_str()), (Some(0), ""), "{}", err(&first));
    assert!(run.file("sft.jsonl").exists() && !run.file("sft").exists());
    // Without the filter a wrong fix is taught too, and with `direct` the code alone.
    let records: Vec<Conversation> = read(run.file("sft.jsonl"));
    let verified: Vec<(&str, &Value)> = records.iter().map(|r| (r.id.as_str(), &r.extra["verified"])).collect();
    let expected: Vec<(&str, Value)> = training.iter().enumerate().map(|(i, p)| (p.id.as_str(), json!(i > 0))).collect();
    assert_eq!(verified, expected.iter().map(|(id, verified)| (*id, verified)).collect::<Vec<_>>());
    assert_eq!(records[0].messages[1].content, "```python\ndef wrong():\n    return None\n```");

    let second = repairity(&["run", recipe, "--from", "sft"]);
    assert_eq!(second.status.code(), Some(0), "{}", err(&second));
    for line in ["| +direct output, no filter |", "| +direct output, no filter+RLLF |", "2 answer(s) each"] {
        assert!(out(&second).contains(line), "{line} is not in\n{}", out(&second));
    }

    // A whole model, with its tokenizer, that moved; nothing of an adapter.
    let device = Cpu::<f32>::new();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let read_tensor = |folder: PathBuf| Tensors::open_folder(&folder).unwrap().read::<f32>(name, &[16, 16]).unwrap();
    assert_ne!(read_tensor(run.file("sft/model")), read_tensor(run.path("policy")));
    assert!(run.file("sft/model/tokenizer.json").exists() && !run.file("sft/adapter").exists());
    Decoder::load(&device, &run.file("sft/model")).unwrap();

    // A reward model that is an adapter with a head, on the untouched Llama.
    let folder = run.file("reward/model");
    let config = read_json(&folder.join("adapter_config.json")).unwrap();
    assert_eq!((&config["task_type"], &config["base_model_name_or_path"]), (&json!("SEQ_CLS"), &json!(run.path("reward"))));
    let model = RewardModel::load(&device, &folder).unwrap();
    assert!(model.adapter.is_some() && model.scale.deviation > 0.0 && model.scale.mean != 0.0);
    let preferences: Vec<Preference> = read(run.file("preferences.jsonl"));
    assert_eq!(preferences.len(), 6);
    assert!(preferences.iter().all(|preference| preference.judgments.len() == 1));
    assert_eq!(read_json(&run.file("judging.json")).unwrap()["agreement"], Value::Null);

    // PPO's adapter goes on the trained model.
    let config = read_json(&run.file("ppo/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], json!(run.file("sft/model")));
    let values = adapter(&run.file("ppo/adapter"), &Config::load(&run.file("sft/model")).unwrap());
    assert!(values.iter().filter(|(name, _)| name.contains("lora_B")).all(|(_, values)| values.iter().any(|x| *x != 0.0)));
    let summary = read_json(&run.file("evaluation/summary.json")).unwrap();
    assert!(["base", "sft", "ppo"].iter().all(|name| summary["models"][name]["samples"] == 2), "{summary}");

    // The manifest knows every stage, and one stage alone is run, or skipped, by its own command.
    let manifest = read_json(&run.file("manifest.json")).unwrap();
    let states: Vec<(&str, &str)> = manifest["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (stage["name"].as_str().unwrap(), stage["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, STAGES[1..].iter().map(|name| (*name, "done")).collect::<Vec<_>>());
    let alone = repairity(&["ppo", recipe]);
    assert_eq!((alone.status.code(), skipped(&alone)), (Some(0), BTreeSet::from(["ppo"])));
}
