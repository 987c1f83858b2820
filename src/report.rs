//! What was measured, as a person reads it: the paper's ablation table with intervals and significance, and what each stage did.
//!
//! `repairity report RECIPE`. In: `evaluation/summary.json`. Out: `report.md`, `results.csv` and `comparisons.csv` with every digit,
//! `results.tex` for a paper.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;

use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::metric::comparison::{self, Comparison};
use crate::metric::pass_at_k::rate_name;
use crate::metric::table::{Cell, Format, Table, render};
use crate::recipe::{Objective, Recipe};
use crate::record::{read_jsonl, write_atomic};
use crate::stage::Files;

/// The paper's name of a model of the run.
fn title(name: &str, recipe: &Recipe) -> String {
    let traces = match (recipe.sft.objective, recipe.filter.enabled) {
        (Objective::Reasoning, true) => "+RT",
        (Objective::Reasoning, false) => "+RT, no filter",
        (Objective::Direct, true) => "+direct output",
        (Objective::Direct, false) => "+direct output, no filter",
    };
    match name {
        "sft" => traces.to_string(),
        "ppo" => format!("{traces}+RLLF"),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// What was measured on what, in one line.
fn caption(recipe: &Recipe, summary: &Value) -> String {
    let first = &summary["models"][&recipe.evaluate.models[0]];
    format!(
        "{} problems of {} ({} split), {} answer(s) each at temperature {}",
        first["problems"], recipe.problems.suite, recipe.evaluate.split, first["samples"], recipe.evaluate.temperature
    )
}

/// The ablation table, and the tests between its rows.
pub fn tables(recipe: &Recipe) -> Result<Vec<Table>> {
    let path = Files::of(recipe).summary();
    let summary = read_json(&path)?;
    let rate = rate_name(&recipe.problems.suite);
    let rows: Vec<(&String, &Value)> = recipe.evaluate.models.iter().map(|name| (name, &summary["models"][name])).collect();
    // pass@1 has its own column, with an interval.
    let mut ks: Vec<&str> =
        rows.iter().filter_map(|(_, row)| row["pass_at_k"].as_object()).flat_map(|ks| ks.keys()).map(|k| &k[..]).collect();
    ks.sort_by_key(|k| k.parse::<usize>().unwrap_or(usize::MAX));
    ks.dedup();
    ks.retain(|k| *k != "1");
    let mut columns = vec!["model".to_string(), format!("{rate} %"), "95 % low".into(), "95 % high".into()];
    columns.extend(ks.iter().map(|k| format!("pass@{k} %")));
    columns.extend(
        ["compiles %", "no code %", "unchanged %", "BLEU", "exact match %", "edit similarity %", "tokens"].map(String::from),
    );
    let mut models = Table { name: "models", columns, rows: Vec::new(), notes: vec![caption(recipe, &summary) + "."] };
    for (name, row) in &rows {
        let percent = |value: &Value| Cell::percent(value.as_f64());
        let mut cells = vec![Cell::text(title(name, recipe)), percent(&row["pass_at_1"])];
        cells.extend([percent(&row["interval"][0]), percent(&row["interval"][1])]);
        cells.extend(ks.iter().map(|k| percent(&row["pass_at_k"][k])));
        cells.extend(["compile_rate", "no_code", "unchanged"].map(|key| percent(&row[key])));
        cells.push(Cell::number(row["bleu"].as_f64(), 1));
        cells.extend(["exact_match", "edit_similarity"].map(|key| percent(&row[key])));
        cells.push(Cell::number(row["mean_tokens"].as_f64(), 0));
        models.rows.push(cells);
    }
    if let Some(signature) = rows.iter().find_map(|(_, row)| row["bleu_signature"].as_str()) {
        models.notes.push(format!("BLEU: {signature}."));
    }
    let comparisons: Vec<Comparison> = serde_json::from_value(summary["comparisons"].clone())
        .map_err(|e| Error::input(path.display(), format!("comparisons: {e}")))?;
    Ok(vec![models, comparison::table(&comparisons, |name| title(name, recipe))])
}

/// The last line that a stage wrote into `metrics.jsonl`.
fn last<'a>(metrics: &'a [Value], stage: &str) -> Option<&'a Value> {
    metrics.iter().rev().find(|line| line["stage"] == stage)
}

/// What the training stages came to.
fn training(metrics: &[Value], judging: Option<&Value>) -> String {
    let mut text = String::from("\n| stage | what it came to |\n|---|---|\n");
    if let Some(line) = last(metrics, "sft") {
        let _ = writeln!(
            text,
            "| sft | {} steps, loss {:.4}, validation loss {:.4} |",
            line["step"],
            number(&line["loss"]),
            number(&line["validation_loss"])
        );
    }
    if let Some(judging) = judging {
        let _ = writeln!(
            text,
            "| judge | {} of {} pairs labelled, agreement of both orders {:.2}, first place wins {:.2} |",
            judging["labelled"],
            judging["pairs"],
            number(&judging["agreement"]),
            number(&judging["first_place"])
        );
    }
    if let Some(line) = last(metrics, "reward") {
        let _ = writeln!(
            text,
            "| reward | {} steps, loss {:.4}, held-out accuracy {:.2} |",
            line["step"],
            number(&line["loss"]),
            number(&line["accuracy"])
        );
    }
    let ppo: Vec<&Value> = metrics.iter().filter(|line| line["stage"] == "ppo").collect();
    if let (Some(start), Some(end)) = (ppo.first(), ppo.last()) {
        let _ = writeln!(
            text,
            "| ppo | {} iterations, raw score {:.2} → {:.2}, KL {:.3} → {:.3}, {:.0} → {:.0} tokens a response |",
            end["step"],
            number(&start["score"]),
            number(&end["score"]),
            number(&start["kl"]),
            number(&end["kl"]),
            number(&start["length"]),
            number(&end["length"])
        );
    }
    text
}

/// Runs the stage.
pub fn run(recipe: &Recipe) -> Result<()> {
    let files = Files::of(recipe);
    let mut tables = tables(recipe)?;
    let optional = |path: PathBuf| if path.exists() { Some(path) } else { None };
    let metrics: Vec<Value> = optional(files.metrics()).map_or(Ok(Vec::new()), |path| read_jsonl(&path))?;
    let judging = optional(files.judging()).map(|path| read_json(&path)).transpose()?;
    for table in &tables {
        let name = if table.name == "models" { "results.csv" } else { "comparisons.csv" };
        write_atomic(&files.results(name), table.csv().as_bytes())?;
    }
    write_atomic(&files.results("results.tex"), render(&tables, Format::Latex).as_bytes())?;
    // In the text the caption stands above.
    let caption = tables[0].notes.remove(0);
    let text = format!(
        "{}\n\n{}{}",
        caption.trim_end_matches('.'),
        render(&tables, Format::Markdown),
        training(&metrics, judging.as_ref())
    );
    write_atomic(&files.report(), text.as_bytes())
}
