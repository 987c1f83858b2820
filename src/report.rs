//! What was measured, as a person reads it: the paper's ablation table with intervals and significance, and what each stage did.
//!
//! `repairity report RECIPE`. In: the run folder, as far as it has come, and those of `report.beside`. Out: `report.html`, one page with
//! everything in it, and its charts as `plots/*.svg`; `report.md`, `results.csv` and `comparisons.csv` with every digit, `results.tex`
//! for a paper.

mod calibration;
mod charts;
mod examples;
mod folder;
mod models;
mod money;
mod page;
mod results;
mod stages;

use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::metric::comparison;
use crate::metric::pass_at_k::rate_name;
use crate::metric::table::{Cell, Format, Table, render};
use crate::recipe::Recipe;
use crate::record::write_atomic;
use crate::stage::Files;
use calibration::Calibration;
use charts::Charts;
use folder::Folder;
use models::Compared;

/// What was measured on what, in one line.
fn caption(recipe: &Recipe, compared: &Compared) -> String {
    let first = compared.models.first().map_or(&Value::Null, |model| &model.measured);
    format!(
        "{} problems of {} ({} split), {} answer(s) each at temperature {}",
        first["problems"], recipe.problems.suite, recipe.evaluate.split, first["samples"], recipe.evaluate.temperature
    )
}

/// The ablation table, and the tests between its rows.
pub fn tables(recipe: &Recipe) -> Result<Vec<Table>> {
    Ok(tables_of(recipe, &Compared::read(recipe)?))
}

fn tables_of(recipe: &Recipe, compared: &Compared) -> Vec<Table> {
    let rate = rate_name(&recipe.problems.suite);
    let rows = || compared.models.iter().map(|model| &model.measured);
    // pass@1 has its own column, with an interval.
    let mut ks: Vec<&str> =
        rows().filter_map(|row| row["pass_at_k"].as_object()).flat_map(|ks| ks.keys()).map(|k| &k[..]).collect();
    ks.sort_by_key(|k| k.parse::<usize>().unwrap_or(usize::MAX));
    ks.dedup();
    ks.retain(|k| *k != "1");
    let mut columns = vec!["model".to_string(), format!("{rate} %"), "95 % low".into(), "95 % high".into()];
    columns.extend(ks.iter().map(|k| format!("pass@{k} %")));
    columns.extend(
        ["compiles %", "no code %", "unchanged %", "BLEU", "exact match %", "edit similarity %", "tokens"].map(String::from),
    );
    let mut models = Table { name: "models", columns, rows: Vec::new(), notes: vec![caption(recipe, compared) + "."] };
    for model in &compared.models {
        let row = &model.measured;
        let percent = |value: &Value| Cell::percent(value.as_f64());
        let mut cells = vec![Cell::text(&model.title), percent(&row["pass_at_1"])];
        cells.extend([percent(&row["interval"][0]), percent(&row["interval"][1])]);
        cells.extend(ks.iter().map(|k| percent(&row["pass_at_k"][k])));
        cells.extend(["compile_rate", "no_code", "unchanged"].map(|key| percent(&row[key])));
        cells.push(Cell::number(row["bleu"].as_f64(), 1));
        cells.extend(["exact_match", "edit_similarity"].map(|key| percent(&row[key])));
        cells.push(Cell::number(row["mean_tokens"].as_f64(), 0));
        models.rows.push(cells);
    }
    if let Some(signature) = rows().find_map(|row| row["bleu_signature"].as_str()) {
        models.notes.push(format!("BLEU: {signature}."));
    }
    models.notes.extend(compared.notes.iter().cloned());
    vec![models, comparison::table(&compared.comparisons, |key| compared.title(key).to_string())]
}

/// What the stage reads of a run folder, where it is there, besides those of `report.beside`. `gpu.jsonl` is not among it: it may grow
/// while the report is written, which must not make that outdated at once.
pub fn inputs(recipe: &Recipe) -> Vec<PathBuf> {
    let files = Files::of(recipe);
    let mut all: Vec<PathBuf> = recipe.evaluate.models.iter().map(|model| files.evaluation(model)).collect();
    all.extend([files.summary(), files.problems(), files.dropped(), files.metrics(), files.traces(), files.journal()]);
    all.extend([files.sft(), files.candidates(), files.judging(), files.reward_validation()]);
    all.retain(|path| path.exists());
    for folder in &recipe.report.beside {
        let files = Files { out: folder.clone() };
        all.extend([files.manifest(), files.summary(), files.problems()]);
    }
    all
}

/// What the stage writes.
pub fn outputs(recipe: &Recipe) -> Vec<PathBuf> {
    let files = Files::of(recipe);
    let tables = ["results.csv", "comparisons.csv", "results.tex"].map(|name| files.results(name));
    let mut all = vec![files.report(), files.page(), files.plots()];
    // Without an evaluation there is nothing for tables.
    if files.summary().exists() {
        all.extend(tables);
    }
    all
}

/// Runs the stage. Errors: nothing is there to report; another run of `report.beside` was evaluated on other problems.
pub fn run(recipe: &Recipe) -> Result<()> {
    let files = Files::of(recipe);
    let folder = Folder::read(recipe)?;
    let tables = folder.compared.as_ref().map_or(Vec::new(), |compared| tables_of(recipe, compared));
    let calibration = Calibration::of(&folder.held_out);
    let charts = Charts::of(recipe, &folder, calibration.as_ref());
    write_plots(&files, &charts)?;
    let page = page::render(recipe, &folder, &charts, calibration.as_ref(), &tables)?;
    write_atomic(&files.page(), page.as_bytes())?;
    write_tables(&files, &folder, tables)
}

/// The charts as files; those of an earlier report that this one has not go.
fn write_plots(files: &Files, charts: &Charts) -> Result<()> {
    let folder = files.plots();
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
        let path = entry.map_err(|e| Error::io(&folder, e))?.path();
        let known = charts.all().any(|chart| path.file_stem().is_some_and(|stem| stem == chart.name.as_str()));
        if !known && path.extension().is_some_and(|extension| extension == "svg") {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    charts.all().try_for_each(|chart| write_atomic(&folder.join(format!("{}.svg", chart.name)), chart.file().as_bytes()))
}

/// The report's tables, as text and for programs.
fn write_tables(files: &Files, folder: &Folder, mut tables: Vec<Table>) -> Result<()> {
    if tables.is_empty() {
        return write_atomic(&files.report(), stages::markdown(folder).trim_start().as_bytes());
    }
    for table in &tables {
        let name = if table.name == "models" { "results.csv" } else { "comparisons.csv" };
        write_atomic(&files.results(name), table.csv().as_bytes())?;
    }
    write_atomic(&files.results("results.tex"), render(&tables, Format::Latex).as_bytes())?;
    // In the text the caption stands above.
    let caption = tables[0].notes.remove(0);
    let text = format!("{}\n\n{}{}", caption.trim_end_matches('.'), render(&tables, Format::Markdown), stages::markdown(folder));
    write_atomic(&files.report(), text.as_bytes())
}
