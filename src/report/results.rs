//! The results in the paper's form: a row for each model, its gain over the base in points, and whether that may be chance.

use minijinja::Value;

use super::folder::Folder;
use super::models::{Compared, Model};
use super::page::{fact, row, sheet_of};
use crate::metric::comparison::Comparison;
use crate::metric::pass_at_k::{Interval, rate_name, wilson};
use crate::recipe::{Provider, Recipe};
use crate::record::Outcome;

/// The table, and what of it stands at the top of the page.
pub(super) struct Results {
    columns: Vec<(String, bool)>,
    rows: Vec<Value>,
    notes: Vec<String>,
    cards: Vec<Value>,
}

impl Results {
    pub fn value(&self) -> Value {
        let columns: Vec<(&str, bool)> = self.columns.iter().map(|(name, number)| (name.as_str(), *number)).collect();
        sheet_of(&columns, self.rows.clone(), self.notes.clone())
    }

    pub fn cards(&self) -> Vec<Value> {
        self.cards.clone()
    }
}

/// What stands where there is no number.
const NOTHING: &str = "–";

fn percent(share: Option<f64>) -> String {
    share.filter(|share| share.is_finite()).map_or(NOTHING.into(), |share| format!("{:.1}", 100.0 * share))
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    low.zip(high).map_or(NOTHING.into(), |(low, high)| format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high))
}

/// Points with their sign.
fn points(share: f64) -> String {
    let text = format!("{:+.1}", 100.0 * share);
    let text = if text == "-0.0" { "+0.0".to_string() } else { text };
    text.replace('-', "−")
}

/// A p-value as papers print it.
fn p_value(p: f64) -> String {
    if p < 1e-3 { format!("{p:.1e}") } else { format!("{p:.3}") }
}

/// The table of a run's models, its teacher, and other runs' models.
pub(super) fn table(recipe: &Recipe, folder: &Folder, compared: &Compared) -> Results {
    let rate = rate_name(&recipe.problems.suite);
    // Defects4J's column of the paper is CR / pass@1 / BLEU.
    let three = recipe.problems.suite.starts_with("defects4j");
    let base = compared.base();
    let mut columns = vec![("model".to_string(), false)];
    if three {
        columns.push(("CR, %".into(), true));
    }
    columns.push((format!("{rate}, %"), true));
    columns.push(("95 % interval".into(), true));
    if three {
        columns.push(("BLEU".into(), true));
    }
    for name in ["gain over base, points", "95 % interval", "won / lost", "McNemar's p", "p, Holm"] {
        columns.push((name.into(), true));
    }
    let cells = |model: &Model| {
        let measured = &model.measured;
        let mut cells = vec![model.title.clone()];
        if three {
            cells.push(percent(measured["compile_rate"].as_f64()));
        }
        cells.push(percent(measured["pass_at_1"].as_f64()));
        cells.push(interval(measured["interval"][0].as_f64(), measured["interval"][1].as_f64()));
        if three {
            cells.push(measured["bleu"].as_f64().map_or(NOTHING.into(), |bleu| format!("{bleu:.1}")));
        }
        match against(base, model, &compared.comparisons) {
            Some(test) => {
                let [gain, low, high] = test.pass_rate.map_or(test.delta, |tested| tested.delta);
                cells.extend([
                    points(gain),
                    format!("{} to {}", points(low), points(high)),
                    format!("{} / {}", test.won, test.lost),
                ]);
                cells.extend([p_value(test.p), p_value(test.p_holm)]);
            }
            None => cells.extend(std::iter::repeat_n(NOTHING.to_string(), 5)),
        }
        cells
    };
    let best = compared.last().map(|model| model.key.as_str());
    let mut rows = Vec::new();
    let (own, others): (Vec<&Model>, Vec<&Model>) = compared.models.iter().partition(|model| model.own);
    for model in own {
        rows.push(row(if Some(model.key.as_str()) == best { "best" } else { "" }, cells(model)));
    }
    let mut notes = Vec::new();
    if let Some((found, count)) = teacher(folder) {
        let mut cells = vec!["teacher".to_string()];
        if three {
            cells.push(NOTHING.into());
        }
        cells.extend([percent(Some(found.mean)), interval(Some(found.low), Some(found.high))]);
        cells.extend(std::iter::repeat_n(NOTHING.to_string(), columns.len() - cells.len()));
        rows.push(row("other", cells));
        let who = match recipe.teacher.provider {
            Provider::Scripted => "a script that knows the solutions",
            _ => recipe.teacher.model.as_str(),
        };
        notes.push(format!(
            "The teacher's row ({who}) is of its {count} traces on the training and validation problems, not on the {} split: it \
            cannot be compared with the others.",
            recipe.evaluate.split
        ));
    }
    rows.extend(others.into_iter().map(|model| row("", cells(model))));
    if base.is_some() && compared.models.len() > 1 {
        notes.insert(0, note(compared));
    }
    notes.extend(compared.notes.iter().cloned());
    Results { columns, rows, notes, cards: cards(rate, compared) }
}

/// How the numbers were made.
fn note(compared: &Compared) -> String {
    let several = compared.comparisons.iter().any(|test| test.pass_rate.is_some());
    let gain = match several {
        true => "A gain is of the mean over all answers; won and lost count problems by their first answer",
        false => "Won and lost count the problems that only this model, or only the base, solves",
    };
    format!(
        "{gain}, which McNemar's exact test is of. Gains have the paired bootstrap's interval over problems; Holm's correction goes over \
        the {} comparison(s) between all models.",
        compared.comparisons.len()
    )
}

/// The comparison of a model with the base.
fn against<'a>(base: Option<&Model>, model: &Model, comparisons: &'a [Comparison]) -> Option<&'a Comparison> {
    let base = base?;
    comparisons.iter().find(|test| test.from == base.key && test.to == model.key)
}

/// What the teacher's traces pass, and how many there are; none where none was checked.
fn teacher(folder: &Folder) -> Option<(Interval, usize)> {
    let checked: Vec<Outcome> = folder.traces.iter().filter_map(|trace| Some(trace.verdict.as_ref()?.verdict)).collect();
    let passed = checked.iter().filter(|outcome| **outcome == Outcome::Pass).count();
    Some((wilson(passed, checked.len())?, checked.len()))
}

fn cards(rate: &str, compared: &Compared) -> Vec<Value> {
    let mut cards = Vec::new();
    let share = |model: &Model| {
        let ends = interval(model.measured["interval"][0].as_f64(), model.measured["interval"][1].as_f64());
        let value = format!("{} %", percent(model.measured["pass_at_1"].as_f64()));
        fact(&format!("{rate}, {}", model.title), value, ends)
    };
    cards.extend(compared.base().map(share));
    cards.extend(compared.last().map(share));
    if let Some(test) = compared.last().and_then(|last| against(compared.base(), last, &compared.comparisons)) {
        let [gain, low, high] = test.pass_rate.map_or(test.delta, |tested| tested.delta);
        cards.push(fact("gain, points", points(gain), format!("{} to {}", points(low), points(high))));
        cards.push(fact("McNemar's p, Holm", p_value(test.p_holm), format!("{} won, {} lost", test.won, test.lost)));
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_papers_print_them() {
        assert_eq!([0.0731, -0.01, -0.0001].map(points), ["+7.3", "−1.0", "+0.0"]);
        assert_eq!([0.03125, 1.0, 9.048e-15].map(p_value), ["0.031", "1.000", "9.0e-15"]);
        assert_eq!((percent(None), interval(Some(0.1), Some(0.25))), ("–".into(), "10.0 to 25.0".into()));
    }
}
