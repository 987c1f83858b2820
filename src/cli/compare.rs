//! `repairity compare`: the verdicts on several models' answers to the same problems, side by side and tested against each other.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use repairity::error::{Error, Result};
use repairity::metric::bleu::Config;
use repairity::metric::comparison::{self, pairwise};
use repairity::metric::pass_at_k::rate_name;
use repairity::metric::scores::{Answer, Reference, Scores};
use repairity::metric::table::{Cell, Format, Table, render};
use repairity::problem;
use repairity::record::{self, Outcome, Problem};
use serde_json::Value;

/// The arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name and the verdicts it stands for: what `check --output` or `evaluate` wrote
    #[arg(required = true, value_name = "NAME=FILE")]
    files: Vec<String>,
    /// The answers that a model's verdicts are about, line by line, where its file does not hold them: what `check` was given
    #[arg(long, value_name = "NAME=FILE", requires = "suite")]
    answers: Vec<String>,
    /// The benchmark, for BLEU, exact match and edit similarity of answers
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// The benchmark's file or folder
    #[arg(long, value_name = "PATH", requires = "suite")]
    path: Option<PathBuf>,
    /// The k of pass@k
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1")]
    k: Vec<NonZeroUsize>,
    /// How BLEU splits texts: 13a, none, char or code
    #[arg(long, value_name = "TOKENS", default_value = "13a", value_parser = ["13a", "none", "char", "code"])]
    bleu: String,
    /// What is printed: markdown, json, csv or latex
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Markdown)]
    format: Format,
    /// Seed of the resampling, and of the problems that micro makes
    #[arg(long, value_name = "S", default_value_t = 17)]
    seed: u64,
}

/// Problems that `micro` is asked for: as many as `check` takes without a limit.
const MICRO: usize = 200;

/// One answer of a file.
#[derive(Debug)]
struct Line {
    passed: bool,
    compiled: Option<bool>,
    code: Option<String>,
}

impl Line {
    fn answer(&self) -> Answer<'_> {
        Answer { passed: self.passed, compiled: self.compiled, code: self.code.as_deref() }
    }
}

/// A model, and its answers by problem, in the file's order.
#[derive(Debug)]
struct Model {
    name: String,
    path: PathBuf,
    ids: Vec<String>,
    answers: HashMap<String, Vec<Line>>,
}

impl Args {
    /// Reads, compares, prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let models = self.models()?;
        for given in &self.answers {
            let (name, _) = named(given)?;
            if !models.iter().any(|model| model.name == name) {
                return Err(Error::input(given, format!("no verdicts are named {name}")).into());
            }
        }
        let problems = match &self.suite {
            Some(suite) => problem::load(
                suite,
                self.path.as_deref(),
                self.seed,
                if suite == "micro" { MICRO } else { 0 },
                &problem::Options::default(),
            )?,
            None => Vec::new(),
        };
        let by_id: BTreeMap<&str, &Problem> = problems.iter().map(|problem| (problem.id.as_str(), problem)).collect();
        let ids = &models[0].ids;
        if self.suite.is_some() {
            let strange: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !by_id.contains_key(id)).collect();
            if !strange.is_empty() {
                let what = format!("the benchmark does not have {}", some_of(&strange));
                return Err(Error::input(models[0].path.display(), what).into());
            }
        }
        let reference = |id: &String| -> Option<Reference<'_>> {
            let problem = by_id.get(id.as_str())?;
            Some(Reference { code: problem.reference.as_deref()?, language: &problem.language })
        };
        let references: Vec<Option<Reference<'_>>> = ids.iter().map(reference).collect();
        let config = Config::named(&self.bleu).ok_or_else(|| Error::input("--bleu", format!("{} is none", self.bleu)))?;
        let mut measured: Vec<(String, Scores)> = Vec::with_capacity(models.len());
        for model in &models {
            let mut groups = Vec::with_capacity(ids.len());
            for id in ids {
                groups.push(model.answers[id].iter().map(Line::answer).collect());
            }
            measured.push((model.name.clone(), Scores::new(&groups, &references, config)));
        }
        let tables = [self.table(&measured), comparison::table(&pairwise(&measured, self.seed)?, str::to_string)];
        std::io::stdout().write_all(render(&tables, self.format).as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    /// The files, all on the same problems and under names of their own.
    fn models(&self) -> Result<Vec<Model>> {
        let mut models: Vec<Model> = Vec::with_capacity(self.files.len());
        for given in &self.files {
            let (name, path) = named(given)?;
            if let Some(other) = models.iter().find(|model| model.name == name) {
                let what = format!("{} and {path} have one name; names tell models apart", other.path.display());
                return Err(Error::input(name, what));
            }
            let answers = self.answers_of(name)?;
            let model = read(name, Path::new(path), answers.as_deref())?;
            if let Some(first) = models.first() {
                same_problems(first, &model)?;
            }
            models.push(model);
        }
        Ok(models)
    }

    /// The file of answers that is named for a model.
    fn answers_of(&self, name: &str) -> Result<Option<PathBuf>> {
        let mut found = None;
        for given in &self.answers {
            let (of, path) = named(given)?;
            if of == name {
                found = Some(PathBuf::from(path));
            }
        }
        Ok(found)
    }

    /// What each model comes to.
    fn table(&self, models: &[(String, Scores)]) -> Table {
        let rate = self.suite.as_deref().map_or("pass@1", rate_name);
        let texts = models.iter().any(|(_, scores)| scores.texts.is_some());
        let ks: Vec<usize> = self.k.iter().map(|k| k.get()).collect();
        let mut columns = vec!["model".to_string(), "problems".into(), "answers".into()];
        for k in &ks {
            match k {
                1 => columns.extend([format!("{rate} %"), "95 % low".into(), "95 % high".into()]),
                k => columns.push(format!("pass@{k} %")),
            }
        }
        columns.push("compiles %".into());
        if texts {
            columns.extend(["BLEU", "exact match %", "edit similarity %"].map(String::from));
        }
        let mut table = Table { name: "models", columns, rows: Vec::new(), notes: Vec::new() };
        for (name, scores) in models {
            let answers = scores.passes.iter().map(|(answers, _)| answers).sum();
            let mut row = vec![Cell::text(name), Cell::Count(scores.passes.len()), Cell::Count(answers)];
            for k in &ks {
                row.push(Cell::percent(scores.pass_at(*k)));
                if *k == 1 {
                    let interval = scores.interval(self.seed);
                    row.extend([Cell::percent(interval.map(|i| i.low)), Cell::percent(interval.map(|i| i.high))]);
                }
                if *k > scores.samples() {
                    let least = scores.samples();
                    table.notes.push(format!("{name}: no pass@{k}, because a problem has {least} answer(s) only."));
                }
            }
            row.push(Cell::percent(scores.compile_rate()));
            if texts {
                let of = scores.texts.as_ref();
                row.push(Cell::number(of.map(|texts| texts.bleu().score), 1));
                row.extend([Cell::percent(of.map(|texts| texts.exact_match())), Cell::percent(of.map(|texts| texts.similarity))]);
            }
            table.rows.push(row);
        }
        if let Some(texts) = models.iter().find_map(|(_, scores)| scores.texts.as_ref()) {
            table.notes.push(format!("BLEU: {}.", texts.config.signature()));
        }
        table
    }
}

/// `NAME=FILE` in its two parts.
fn named(given: &str) -> Result<(&str, &str)> {
    let parts = given.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    parts.ok_or_else(|| Error::input(given, "NAME=FILE expected"))
}

/// Reads verdicts: `{"id", "verdict", "compiled"}` as `check` writes them, or candidates whose verdict is an object. `beside` has the
/// answers, `{"id", "answer"}`, one for each verdict and in the same order.
fn read(name: &str, path: &Path, beside: Option<&Path>) -> Result<Model> {
    let mut model = Model { name: name.into(), path: path.into(), ids: Vec::new(), answers: HashMap::new() };
    let lines: Vec<Value> = record::read_jsonl(path)?;
    let answers: Vec<Value> = match beside {
        Some(beside) => {
            let answers: Vec<Value> = record::read_jsonl(beside)?;
            if answers.iter().map(|answer| &answer["id"]).ne(lines.iter().map(|line| &line["id"])) {
                let what = format!("its answers are not those of {}, line by line", path.display());
                return Err(Error::input(beside.display(), what));
            }
            answers
        }
        None => Vec::new(),
    };
    for (index, line) in lines.iter().enumerate() {
        let wrong = |what: &str| Error::input(path.display(), format!("record {}: {what}", index + 1));
        let id = line["id"].as_str().ok_or_else(|| wrong("no `id` that is a text"))?;
        let verdict = if line["verdict"].is_object() { &line["verdict"] } else { line };
        if verdict["verdict"].is_null() {
            return Err(wrong("no verdict; `repairity check --answers FILE --output FILE` makes them"));
        }
        let outcome: Outcome = serde_json::from_value(verdict["verdict"].clone()).map_err(|e| wrong(&format!("verdict: {e}")))?;
        if !model.answers.contains_key(id) {
            model.ids.push(id.into());
        }
        model.answers.entry(id.into()).or_default().push(Line {
            passed: outcome == Outcome::Pass,
            compiled: verdict["compiled"].as_bool(),
            code: answers.get(index).unwrap_or(line)["answer"].as_str().map(String::from),
        });
    }
    if model.ids.is_empty() {
        return Err(Error::input(path.display(), "no verdicts in it"));
    }
    Ok(model)
}

/// An error unless both have answers to the same problems: tests that pair problems need it.
fn same_problems(a: &Model, b: &Model) -> Result<()> {
    let only = |a: &Model, b: &Model| -> Option<String> {
        let ids: Vec<&str> = a.ids.iter().map(String::as_str).filter(|id| !b.answers.contains_key(*id)).collect();
        (!ids.is_empty()).then(|| format!("only {} has {}", a.name, some_of(&ids)))
    };
    let found: Vec<String> = [only(a, b), only(b, a)].into_iter().flatten().collect();
    if found.is_empty() {
        return Ok(());
    }
    let at = format!("{}, {}", a.path.display(), b.path.display());
    Err(Error::input(at, format!("not the same problems: {}", found.join("; "))))
}

/// How many ids there are, and the first of them.
fn some_of(ids: &[&str]) -> String {
    let more = if ids.len() > 3 { ", ..." } else { "" };
    format!("{} problem(s): {}{more}", ids.len(), ids[..ids.len().min(3)].join(", "))
}
