//! The model card, in the Hugging Face hub's form: what the model is, how and on what it was trained, what was measured, what it is
//! not for. Only what the run folder holds is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Options, is_chat};
use crate::checkpoint::read_json;
use crate::digest;
use crate::error::{Error, Result};
use crate::metric::pass_at_k::rate_name;
use crate::model::Config;
use crate::recipe::{Objective, Provider, Recipe};
use crate::record::{Outcome, Problem, Trace, read_jsonl};
use crate::run::{Manifest, State};
use crate::stage::Files;

/// A run, as its folder tells of it.
struct Run {
    manifest: Manifest,
    recipe: Recipe,
    files: Files,
    summary: Option<Value>,
}

impl Run {
    fn open(folder: &Path) -> Result<Run> {
        let path = folder.join(super::MANIFEST);
        let manifest = Manifest::read(&path)?;
        let mut recipe: Recipe =
            toml::from_str(&manifest.recipe).map_err(|e| Error::input(path.display(), format!("recipe: {}", e.message())))?;
        // A run folder may have been moved since.
        recipe.out = folder.into();
        let files = Files::of(&recipe);
        let summary = if files.summary().is_file() { Some(read_json(&files.summary())?) } else { None };
        Ok(Run { manifest, recipe, files, summary })
    }

    fn done(&self, stage: &str) -> bool {
        self.manifest.stage(stage).is_some_and(|record| record.state == State::Done)
    }

    /// Which of the evaluation's models is exported: `ppo`, `sft`, or another that it does not know.
    fn exported(&self, options: &Options) -> Option<&'static str> {
        let whole = |path: &Path| fs::canonicalize(path).ok();
        let own = whole(options.adapter.as_ref().unwrap_or(&options.model))?;
        let sft = self.files.sft_result(self.recipe.sft.train);
        [("ppo", self.files.ppo_adapter()), ("sft", sft)]
            .into_iter()
            .find(|(_, path)| whole(path).as_ref() == Some(&own))
            .map(|(name, _)| name)
    }
}

/// The card's text.
pub(super) fn write(options: &Options, config: &Config, run: Option<&Path>) -> Result<String> {
    let run = run.map(Run::open).transpose()?;
    let run = run.as_ref();
    let name = file_name(&options.out);
    let base = Base::of(options, run);
    let exported = run.and_then(|run| run.exported(options));
    let mut card = front(&name, &base, config, run, exported);
    let _ = write!(card, "\n# {name}\n\n{}", what(options, &base, config, run, exported));
    if let Some(run) = run {
        card += &training(run)?;
        card += &data(run)?;
        card += &results(run, exported);
    }
    card += &limits(config, run);
    card += &usage(&name, config, is_chat(&options.model));
    card += &versions(options, run)?;
    Ok(card)
}

fn file_name(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or(path.to_path_buf());
    whole.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned())
}

/// What is known of the base model.
struct Base {
    /// Its folder's name.
    name: String,
    /// Its name on the hub, where something tells it.
    hub: Option<String>,
    /// The lines of its own card that tell its licence.
    license: Vec<String>,
}

impl Base {
    fn of(options: &Options, run: Option<&Run>) -> Base {
        let model = fs::canonicalize(&options.model).unwrap_or(options.model.clone());
        let cached = model.ancestors().find_map(|folder| {
            let folder = folder.file_name()?.to_str()?.strip_prefix("models--")?;
            hub_name(&folder.replacen("--", "/", 1))
        });
        // An adapter names its base as it was loaded, which may be from a folder: a run's always is.
        let adapter = options.adapter.as_ref().and_then(|folder| {
            let json = read_json(&folder.join("adapter_config.json")).ok()?;
            let name = json["base_model_name_or_path"].as_str()?;
            let is_folder = model.ends_with(name) || run.is_some_and(|run| run.recipe.policy.model == Path::new(name));
            let is_folder = is_folder || name.split('/').next().is_some_and(|owner| Path::new(owner).exists());
            if is_folder { None } else { hub_name(name) }
        });
        let hub = cached.or(adapter);
        let card = fs::read_to_string(options.model.join("README.md")).unwrap_or_default();
        let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map_or("", |(front, _)| front);
        let license = front.lines().filter(|line| line.starts_with("license")).map(String::from).collect();
        Base { name: file_name(&options.model), hub, license }
    }

    fn shown(&self) -> String {
        match &self.hub {
            Some(hub) => format!("[{hub}](https://huggingface.co/{hub})"),
            None => format!("`{}`", self.name),
        }
    }
}

/// `owner/name`, if the text is one.
fn hub_name(text: &str) -> Option<String> {
    let plain = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (owner, name) = text.split_once('/')?;
    (plain(owner) && plain(name)).then(|| text.to_string())
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

fn front(name: &str, base: &Base, config: &Config, run: Option<&Run>, exported: Option<&str>) -> String {
    let mut text = String::from("---\n");
    match &base.hub {
        Some(hub) => {
            let _ = writeln!(text, "base_model: {}\nbase_model_relation: finetune", quoted(hub));
        }
        // The hub takes no other name than one of its own.
        None => {
            let _ = writeln!(text, "# base_model: the hub's name of {}", base.name.escape_debug());
        }
    }
    for line in &base.license {
        let _ = writeln!(text, "{line}");
    }
    let task = if config.classifier { "text-classification" } else { "text-generation" };
    let _ = writeln!(text, "library_name: transformers\npipeline_tag: {task}\ntags:\n- code\n- program-repair\n- repairity");
    let row = run.and_then(|run| Some((run, &run.summary.as_ref()?["models"][exported?]))).filter(|(_, row)| row.is_object());
    if let Some((run, row)) = row {
        let suite = &run.recipe.problems.suite;
        let _ = writeln!(text, "model-index:\n- name: {}\n  results:\n  - task:\n      type: text-generation", quoted(name));
        let _ = writeln!(text, "      name: program repair\n    dataset:\n      type: {0}\n      name: {0}", quoted(suite));
        let _ = writeln!(text, "      split: {}\n    metrics:", quoted(&run.recipe.evaluate.split));
        for (k, value) in row["pass_at_k"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "    - type: pass@{k}\n      name: pass@{k}\n      value: {value}\n      verified: false");
        }
    }
    text + "---\n"
}

fn what(options: &Options, base: &Base, config: &Config, run: Option<&Run>, exported: Option<&str>) -> String {
    let kind = if config.classifier {
        "A reward model: it scores answers to program-repair problems"
    } else {
        "A program-repair model: it explains a bug and writes the corrected code"
    };
    let how = match (exported, &options.adapter) {
        (Some("ppo"), _) => "trained on reasoning traces, then by reinforcement learning against a reward model",
        (Some("sft"), _) if run.is_some_and(|run| run.recipe.sft.objective == Objective::Direct) => "trained on corrected code",
        (Some("sft"), _) => "trained on reasoning traces",
        (_, Some(_)) => "with a LoRA adapter merged into it",
        (_, None) => "as it was trained",
    };
    let parameters = config.parameters() as f64;
    let size =
        if parameters >= 1e9 { format!("{:.1} billion", parameters / 1e9) } else { format!("{:.1} million", parameters / 1e6) };
    let merged = if options.adapter.is_some() { " The adapter is merged: no PEFT is needed." } else { "" };
    format!("{kind}. It is {}, {how}. {size} parameters.{merged}\n", base.shown())
}

/// The recipe's keys that are not the default, without what could be a secret.
fn recipe_diff(recipe: &Recipe) -> Result<String> {
    let table = |recipe: &Recipe| toml::Table::try_from(recipe).map_err(|e| Error::input("recipe", e));
    let (mut own, default) = (table(recipe)?, table(&Recipe::default())?);
    own.remove("out");
    if let Some(url) = own.get_mut("teacher").and_then(|teacher| teacher.get_mut("base_url"))
        && let Some(text) = url.as_str()
    {
        *url = without_credentials(text).into();
    }
    Ok(toml::to_string(&differing(own, &default)).expect("a part of a recipe has only values that TOML has"))
}

fn differing(own: toml::Table, default: &toml::Table) -> toml::Table {
    let part = |(key, value): (String, toml::Value)| match (value, default.get(&key)) {
        (value, Some(other)) if value == *other => None,
        (toml::Value::Table(own), Some(toml::Value::Table(other))) => Some((key, differing(own, other).into())),
        (value, _) => Some((key, value)),
    };
    own.into_iter().filter_map(part).collect()
}

/// An address without a name and a password before the host, and without a query.
fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => url.rsplit('@').next().unwrap_or_default().to_string(),
    }
}

fn training(run: &Run) -> Result<String> {
    let stages: Vec<&str> =
        run.manifest.stages.iter().filter(|record| record.state == State::Done).map(|r| r.name.as_str()).collect();
    let means = |stage: &str| match stage {
        "collect" => "a teacher fixes the buggy programs of the training part and explains each fix",
        "filter" => "fixes that fail a test are dropped",
        "sft" => "the base learns the traces",
        "candidates" => "it writes several answers to each validation problem",
        "judge" => "the teacher compares them",
        "reward" => "a reward model learns the comparisons",
        "ppo" => "the model is optimised against it, held near where it began",
        "evaluate" => "the models are measured on held-out problems",
        _ => "",
    };
    let mut text = String::from("\n## Training\n\n");
    for (stage, means) in stages.iter().map(|stage| (stage, means(stage))).filter(|(_, means)| !means.is_empty()) {
        let _ = writeln!(text, "- `{stage}`: {means}");
    }
    let _ = writeln!(
        text,
        "\nThe recipe, as far as it differs from the defaults of repairity {}:\n\n```toml\n{}```",
        run.manifest.version,
        recipe_diff(&run.recipe)?
    );
    Ok(text)
}

/// Lines of a file of records; none where there is no such file.
fn count(path: &Path) -> Option<usize> {
    let text = fs::read(path).ok()?;
    Some(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
}

fn data(run: &Run) -> Result<String> {
    let (files, recipe) = (&run.files, &run.recipe);
    let mut text = String::from("\n## Data\n\n");
    if files.problems().is_file() {
        let problems: Vec<Problem> = read_jsonl(&files.problems())?;
        let mut parts: BTreeMap<String, usize> = BTreeMap::new();
        for problem in &problems {
            let split = problem.split.map_or(Value::Null, |split| json!(split));
            *parts.entry(split.as_str().unwrap_or("of no part").into()).or_default() += 1;
        }
        let parts: Vec<String> = parts.iter().map(|(part, count)| format!("{count} {part}")).collect();
        let dropped = count(&files.dropped()).unwrap_or(0);
        let _ = writeln!(
            text,
            "- Problems: {} of `{}` ({}); {dropped} dropped when the benchmark was vetted.",
            problems.len(),
            recipe.problems.suite,
            parts.join(", ")
        );
    }
    if files.traces().is_file() {
        let traces: Vec<Trace> = read_jsonl(&files.traces())?;
        let teachers: BTreeSet<&str> = traces.iter().map(|trace| trace.model.as_str()).collect();
        let teachers: Vec<String> = teachers.iter().map(|name| format!("`{name}`")).collect();
        let means = match recipe.teacher.provider {
            Provider::Anthropic => "over Anthropic's API",
            Provider::OpenAi => "over an API of OpenAI's form",
            Provider::Recorded => "from stored answers",
            Provider::Scripted => "a program that knows the references, no language model",
        };
        let passed = traces.iter().filter(|trace| trace.verdict.as_ref().is_some_and(|v| v.verdict == Outcome::Pass)).count();
        let judged = traces.iter().filter(|trace| trace.verdict.is_some()).count();
        let _ = write!(text, "- Teacher: {} ({means}). {} traces", teachers.join(", "), traces.len());
        let _ = match judged {
            0 => writeln!(text, "."),
            _ => writeln!(text, ", of which {judged} were run against the tests and {passed} passed."),
        };
    }
    if let Some(kept) = count(&files.sft()) {
        let held = count(&files.sft_validation()).unwrap_or(0);
        let hygiene = count(&files.sft_dropped()).unwrap_or(0);
        let filter = if recipe.filter.enabled { "traces whose fix passes every test" } else { "all traces (no filter)" };
        let _ = writeln!(
            text,
            "- Trained on: {kept} of the {filter} (cap {}), {held} held out; {hygiene} dropped as duplicates or as overlapping the test \
             part.",
            recipe.filter.cap
        );
    }
    if let (Some(pairs), true) = (count(&files.preferences()), files.judging().is_file()) {
        let judging = read_json(&files.judging())?;
        let _ = writeln!(
            text,
            "- Preferences: {pairs}, from {} pairs of answers that the teacher compared ({} of them got a label).",
            judging["pairs"], judging["labelled"]
        );
    }
    Ok(text)
}

fn results(run: &Run, exported: Option<&str>) -> String {
    let Some(summary) = &run.summary else { return String::new() };
    let rate = rate_name(&run.recipe.problems.suite);
    let mut text = String::from("\n## Results\n\n");
    let _ = writeln!(text, "| model | problems | {rate} % | 95 % interval | compiles % | BLEU |\n|---|--:|--:|--:|--:|--:|");
    let percent = |value: &Value| value.as_f64().map_or("-".to_string(), |share| format!("{:.1}", 100.0 * share));
    for (name, row) in summary["models"].as_object().into_iter().flatten() {
        let this = if Some(name.as_str()) == exported { " (this model)" } else { "" };
        let bleu = row["bleu"].as_f64().map_or("-".to_string(), |bleu| format!("{bleu:.1}"));
        let (low, high) = (percent(&row["interval"][0]), percent(&row["interval"][1]));
        let (rate, compiles) = (percent(&row["pass_at_1"]), percent(&row["compile_rate"]));
        let _ = writeln!(text, "| {name}{this} | {} | {rate} | {low} to {high} | {compiles} | {bleu} |", row["problems"]);
    }
    let _ = writeln!(
        text,
        "\nMeasured on the {} part of `{}`, {} answer(s) to each problem at temperature {}; an answer counts when every test passes. \
         The interval is Wilson's for one answer each, else a bootstrap over problems.",
        run.recipe.evaluate.split, run.recipe.problems.suite, run.recipe.evaluate.samples, run.recipe.evaluate.temperature
    );
    text
}

fn limits(config: &Config, run: Option<&Run>) -> String {
    let trained = match run.filter(|run| run.done("sft")) {
        Some(run) => format!("It was trained on `{}` and measured there; elsewhere it may do worse.", run.recipe.problems.suite),
        None => "What it can do was not measured here.".to_string(),
    };
    let use_of_it = match config.classifier {
        true => {
            "A score orders answers to one problem; it is no probability that an answer is right, and tests are the better judge."
        }
        false => {
            "An answer that reads well can be wrong: run the tests, in a sandbox, before it is used. It is not made to find security \
             holes, and not for changes that nobody reviews."
        }
    };
    format!("\n## Limits\n\n{trained} {use_of_it}\n")
}

fn usage(name: &str, config: &Config, chat: bool) -> String {
    if config.classifier {
        return format!(
            "\n## Use\n\n```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n\
             tokenizer = AutoTokenizer.from_pretrained(\"{name}\")\n\
             model = AutoModelForSequenceClassification.from_pretrained(\"{name}\", dtype=\"auto\")\n\
             score = model(**tokenizer(text, return_tensors=\"pt\")).logits[0, 0]\n```\n"
        );
    }
    let inputs = match chat {
        true => {
            "messages = [{\"role\": \"user\", \"content\": \"Fix the bug in this code. ...\"}]\n\
             inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True)\n"
        }
        false => "inputs = tokenizer(\"def add(a, b):\", return_tensors=\"pt\")\n",
    };
    format!(
        "\n## Use\n\nWith Transformers:\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"{name}\")\n\
         model = AutoModelForCausalLM.from_pretrained(\"{name}\", dtype=\"auto\")\n{inputs}\
         output = model.generate(**inputs, max_new_tokens=512, do_sample=False)\n\
         print(tokenizer.decode(output[0, inputs[\"input_ids\"].shape[1]:], skip_special_tokens=True))\n```\n\n\
         With vLLM: `vllm serve {name}`. With repairity: `repairity serve --model {name}`, or `repairity generate --model {name} \
         --prompt TEXT`.\n"
    )
}

fn versions(options: &Options, run: Option<&Run>) -> Result<String> {
    let mut text = format!("\n## Versions\n\nExported by repairity {}.\n", env!("CARGO_PKG_VERSION"));
    let mut rows: Vec<(String, String)> = Vec::new();
    if let Some(adapter) = &options.adapter {
        let path = adapter.join("adapter_model.safetensors");
        rows.push(("merged adapter".into(), digest::of_file(&path).map_err(|e| Error::io(&path, e))?));
    }
    if let Some(run) = run {
        let policy = run.recipe.policy.model.display().to_string();
        let read = run.manifest.stages.iter().find_map(|record| record.inputs.get(&policy));
        rows.extend(read.map(|hash| ("base model's folder, as the run read it".to_string(), hash.clone())));
        for record in run.manifest.stages.iter().filter(|record| record.state == State::Done && record.name != "report") {
            for (path, hash) in &record.outputs {
                rows.push((format!("`{}`: {}", record.name, file_name(Path::new(path))), hash.clone()));
            }
        }
    }
    if !rows.is_empty() {
        text += "\n| what | SHA-256 |\n|---|---|\n";
        rows.iter().for_each(|(what, hash)| {
            let _ = writeln!(text, "| {what} | `{hash}` |");
        });
    }
    Ok(text)
}
