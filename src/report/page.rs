//! The report as one HTML page: everything is in it, nothing is fetched, and what models wrote is text and nothing else.
//!
//! The template escapes all that it is given but for the charts, the style and the script, which are ours. Should that ever fail, the
//! page's own policy lets no script run but this one, by its hash.

use minijinja::{AutoEscape, Environment, Value, context};
use sha2::{Digest, Sha256};

use super::calibration::{BINS, Calibration};
use super::charts::Charts;
use super::examples::{self, Class, Diff, Example, Line, Shown, Text};
use super::folder::Folder;
use super::money::Money;
use super::{caption, results};
use crate::error::{Error, Result};
use crate::metric::pass_at_k::wilson;
use crate::metric::table::Table;
use crate::plot::{Chart, style, variables};
use crate::recipe::{Provider, Recipe};
use crate::telemetry::words;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What charts have no need of: cards, and the colours of diffs.
const MORE_LIGHT: &str = "--card:#f8f9fb;--gone:#fde9ec;--come:#e4f6ea;--gone-word:#f8b9c2;--come-word:#a5e3b9;";
const MORE_DARK: &str = "--card:#161c23;--gone:#3a1d25;--come:#15301f;--gone-word:#7a2f41;--come-word:#24633b;";

/// The page of a run. `tables` are the report's: models and comparisons, where there was an evaluation.
pub(super) fn render(
    recipe: &Recipe,
    folder: &Folder,
    charts: &Charts,
    calibration: Option<&Calibration>,
    tables: &[Table],
) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let examples = folder.compared.as_ref().map_or(Vec::new(), |compared| examples::choose(compared, recipe.report.examples));
    let results = folder.compared.as_ref().map(|compared| results::table(recipe, folder, compared));
    let policy = recipe.policy.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let heading = format!("{policy} on {}", recipe.problems.suite);
    let lead = folder.compared.as_ref().map_or_else(
        || "This run has not been evaluated yet: what follows is what its stages have left.".to_string(),
        |compared| format!("{}.", caption(recipe, compared)),
    );
    let reward_facts = reward_facts(folder, calibration);
    let mut parts = Vec::new();
    for (id, name, there) in [
        ("results", "Results", results.is_some()),
        ("training", "Training", !charts.sft.is_empty() || !charts.ppo.is_empty()),
        ("reward-model", "Reward model", !charts.reward.is_empty() || !reward_facts.is_empty()),
        ("stages", "Stages, time and money", true),
        ("examples", "Examples", !examples.is_empty()),
        ("recipe", "Recipe and versions", true),
    ] {
        if there {
            parts.push(context! { id, name });
        }
    }
    let words = |of: fn(&Example) -> &str| {
        let mut all: Vec<&str> = examples.iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(Value::from).collect::<Vec<_>>()
    };
    let titles = folder.compared.iter().flat_map(|compared| &compared.models).map(|model| Value::from(model.title.as_str()));
    let counted = |class: &Class| examples.iter().filter(|example| example.class == *class).count();
    let classes = Class::ALL.iter().filter(|class| counted(class) > 0);
    let classes: Vec<Value> =
        classes.map(|class| context! { name => class.name(), title => class.title(), count => counted(class) }).collect();
    let page = context! {
        title => format!("{heading}: repairity"),
        heading, lead,
        version => version(folder),
        script => SCRIPT,
        script_hash => base64(&Sha256::digest(SCRIPT)),
        style => css(),
        cards => results.as_ref().map_or(Vec::new(), results::Results::cards),
        parts,
        results => results.as_ref().map(|results| results.value()),
        metrics => tables.first().map(sheet),
        comparisons => tables.get(1).filter(|table| !table.rows.is_empty()).map(sheet),
        result_charts => drawn(&charts.results),
        sft_charts => drawn(&charts.sft),
        ppo_charts => drawn(&charts.ppo),
        reward_charts => drawn(&charts.reward),
        machine_charts => drawn(&charts.machine),
        reward_notes => reward_notes(calibration),
        reward_facts,
        stages => stages(recipe, folder),
        examples_note => examples_note(folder, &examples),
        kinds => words(|example| &example.kind),
        difficulties => words(|example| &example.difficulty),
        models => titles.collect::<Vec<_>>(),
        examples => examples.iter().map(example).collect::<Vec<_>>(),
        classes,
        versions => versions(recipe, folder),
        recipe => if folder.manifest.recipe.is_empty() { recipe.to_toml() } else { folder.manifest.recipe.clone() },
        files => files(folder),
    };
    environment.render_named_str("page.html", TEMPLATE, page).map_err(|e| Error::Machine(format!("the page's template: {e:#}")))
}

/// The page's style: light, dark where the system is or the reader wants it.
fn css() -> String {
    let (light, dark) = (variables(false) + MORE_LIGHT, variables(true) + MORE_DARK);
    format!(
        ":root{{{light}color-scheme:light}}\n\
        @media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}\n\
        :root[data-theme=dark]{{{dark}color-scheme:dark}}\n{}{STYLE}",
        style(|name| format!("var(--{name})"))
    )
}

fn drawn(charts: &[Chart]) -> Vec<Value> {
    charts.iter().map(|chart| Value::from(chart.inline())).collect()
}

/// A fact: its name, its value, and what is to be known beside it.
pub(super) fn fact(name: &str, value: impl Into<String>, note: impl Into<String>) -> Value {
    context! { name, value => value.into(), note => note.into() }
}

/// A row of a sheet.
pub(super) fn row(class: &str, cells: Vec<String>) -> Value {
    context! { class, cells => cells.into_iter().map(Value::from).collect::<Vec<_>>() }
}

/// A table for the template: columns, each with whether it holds numbers, rows and notes.
pub(super) fn sheet_of(columns: &[(&str, bool)], rows: Vec<Value>, notes: Vec<String>) -> Value {
    let columns: Vec<Value> = columns.iter().map(|(name, number)| context! { name => *name, number => *number }).collect();
    context! { columns, rows, notes => notes.into_iter().map(Value::from).collect::<Vec<_>>() }
}

fn sheet(table: &Table) -> Value {
    let numbers = |column: usize| !table.rows.iter().any(|row| row[column].is_text());
    let columns: Vec<(&str, bool)> =
        table.columns.iter().enumerate().map(|(index, name)| (name.as_str(), numbers(index))).collect();
    let rows = table.rows.iter().map(|cells| row("", cells.iter().map(|cell| cell.plain()).collect())).collect();
    sheet_of(&columns, rows, table.notes.clone())
}

fn version(folder: &Folder) -> String {
    match folder.manifest.version.as_str() {
        "" => env!("CARGO_PKG_VERSION").into(),
        version => version.into(),
    }
}

fn reward_facts(folder: &Folder, calibration: Option<&Calibration>) -> Vec<Value> {
    let mut facts = Vec::new();
    if let Some(found) = calibration {
        let interval = wilson(found.right, found.pairs);
        let ends = interval.map_or(String::new(), |i| format!("{:.1} to {:.1} with 95 %", 100.0 * i.low, 100.0 * i.high));
        let share = 100.0 * found.right as f64 / found.pairs as f64;
        facts.push(fact("held-out accuracy", format!("{share:.1} %"), ends));
        facts.push(fact("held-out pairs", found.pairs.to_string(), "not trained on"));
        facts.push(fact("expected calibration error", format!("{:.3}", found.error), "0 is calibrated"));
    }
    if let Some(judging) = &folder.judging {
        let count = |key: &str| judging[key].as_u64().unwrap_or(0);
        facts.push(fact("pairs labelled", count("labelled").to_string(), format!("of {} judged", count("pairs"))));
        for (key, name, note) in [
            ("agreement", "judge agrees with itself", "orders exchanged"),
            ("first_place", "first place wins", "0.5 is no bias"),
            ("kendall_tau", "Kendall's τ of rankings", "between orders"),
        ] {
            if let Some(value) = judging[key].as_f64() {
                facts.push(fact(name, format!("{value:.2}"), note));
            }
        }
    }
    facts
}

fn reward_notes(calibration: Option<&Calibration>) -> Vec<Value> {
    let note = |_: &Calibration| {
        Value::from(format!(
            "Calibration: of a pair with margin m the model is sure by σ(|m|) of the answer that it scores higher, and right where the \
            judge prefers that one too. Pairs fall into {BINS} bins of equal width between 0.5 and 1; a circle stands at its bin's mean \
            confidence and accuracy, its area is the number of pairs, and the dashed line is where a calibrated model's would be. The \
            expected calibration error is the mean distance of the two, each bin counted by its pairs. The model measured is the one \
            that was kept."
        ))
    };
    calibration.map(note).into_iter().collect()
}

/// What each stage came to, took and cost.
fn stages(recipe: &Recipe, folder: &Folder) -> Value {
    let money = Money::of(recipe, folder);
    let came_to = super::stages::came_to(recipe, folder);
    // One device stands among the versions.
    let several = devices(folder).len() > 1;
    let mut rows = Vec::new();
    let mut seconds = 0.0;
    for (name, what) in &came_to {
        let record = folder.manifest.stage(name);
        let time = record.map_or(String::new(), |record| words::duration(record.seconds));
        seconds += record.map_or(0.0, |record| record.seconds);
        let spent = money.stage(name);
        let tokens = spent.map_or(String::new(), |spent| format!("{} + {}", spent.usage.input_tokens, spent.usage.output_tokens));
        let cost = spent.map_or(String::new(), |spent| money.said(spent.usd));
        let mut cells = vec![name.to_string(), what.clone(), time, tokens, cost];
        if several {
            cells.push(record.map_or(String::new(), |record| record.device.clone()));
        }
        rows.push(row("", cells));
    }
    let usd = money.said(money.usd());
    let mut cells = vec!["together".into(), String::new(), words::duration(seconds), money.tokens(), usd];
    let mut columns = vec![
        ("stage", false),
        ("what it came to", false),
        ("time", true),
        ("teacher's tokens, read + written", true),
        ("cost", true),
    ];
    if several {
        cells.push(String::new());
        columns.push(("device", false));
    }
    rows.push(row("total", cells));
    sheet_of(&columns, rows, vec![money.note(recipe)])
}

fn examples_note(folder: &Folder, examples: &[Example]) -> String {
    let Some(compared) = &folder.compared else { return String::new() };
    let (all, shown) = (compared.problems.len(), examples.len());
    let first = "Each model's first answer to a problem; its fix is shown as a diff of the bug.";
    match shown < all {
        true => format!("{first} {shown} of {all} problems, every outcome in turn and spread over the benchmark."),
        false => format!("{first} All {all} problems."),
    }
}

fn example(example: &Example) -> Value {
    context! {
        id => example.id.as_str(),
        kind => example.kind.as_str(),
        difficulty => example.difficulty.as_str(),
        class => example.class.name(),
        outcome => example.class.title(),
        prompt => text(&example.prompt),
        buggy => text(&example.buggy),
        answers => example.answers.iter().map(answer).collect::<Vec<_>>(),
    }
}

fn answer(answer: &Shown) -> Value {
    let Diff { lines, cut } = &answer.fix;
    context! {
        model => answer.model.as_str(),
        verdict => answer.verdict,
        passes => answer.passes,
        reason => printable(&answer.reason),
        trace => text(&answer.trace),
        diff => lines.iter().map(line).collect::<Vec<_>>(),
        cut => cut.as_str(),
        without => if answer.verdict == "no code" { "The answer holds no code." } else { "The code is the bug's own." },
    }
}

fn line(line: &Line) -> Value {
    let class = match line.sign {
        '-' => "gone",
        '+' => "come",
        '@' => "hunk",
        _ => "same",
    };
    let part = |(marked, text): &(bool, String)| context! { marked => *marked, text => printable(text) };
    let sign = if line.sign == '@' { String::new() } else { line.sign.to_string() };
    context! { class, sign, parts => line.parts.iter().map(part).collect::<Vec<_>>() }
}

fn text(text: &Text) -> Value {
    context! { text => printable(&text.text), cut => text.cut.as_str() }
}

/// What HTML has no letters for, and what turns the order of letters around, is shown as a replacement.
fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// Where the stages ran; the report itself is no matter of a device.
fn devices(folder: &Folder) -> Vec<&str> {
    let stages = folder.manifest.stages.iter().filter(|stage| stage.name != "report");
    let mut devices: Vec<&str> = stages.map(|stage| stage.device.as_str()).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

fn versions(recipe: &Recipe, folder: &Folder) -> Vec<Value> {
    let mut facts = vec![fact("repairity", version(folder), "")];
    let devices = devices(folder);
    if !devices.is_empty() {
        facts.push(fact("device", devices.join(", "), ""));
    }
    let teacher = match recipe.teacher.provider {
        Provider::Scripted => "scripted, no model".to_string(),
        _ => recipe.teacher.model.clone(),
    };
    facts.push(fact("policy", recipe.policy.model.display().to_string(), ""));
    facts.push(fact("reward model", recipe.reward.model.display().to_string(), ""));
    facts.push(fact("teacher", teacher, ""));
    facts.push(fact("seed", recipe.seed.to_string(), ""));
    facts
}

/// Paths and sums of what the stages wrote.
fn files(folder: &Folder) -> Option<Value> {
    let rows: Vec<Value> = folder
        .manifest
        .stages
        .iter()
        .flat_map(|stage| stage.outputs.iter().map(|(path, sum)| row("", vec![stage.name.clone(), path.clone(), sum.clone()])))
        .collect();
    (!rows.is_empty()).then(|| sheet_of(&[("stage", false), ("file", false), ("SHA-256", false)], rows, Vec::new()))
}

/// Bytes in base 64 (RFC 4648), as a content security policy names a hash.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10.
    #[test]
    fn base64_is_the_rfcs() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, expected) in vectors {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn letters_that_mislead_are_replaced() {
        assert_eq!(printable("a\u{202e}b\u{0}\n\tc\u{1b}[31m"), "a\u{fffd}b\u{fffd}\n\tc\u{fffd}[31m");
    }
}
