//! Every model against every other, on the same problems. Holm's correction goes over the comparisons of one metric: each metric asks
//! a question of its own.

use serde::{Deserialize, Serialize};

use super::bleu::Counts;
use super::scores::{RESAMPLES, Scores};
use super::significance::{LEAST_DISCORDANT, McNemar, approximate_randomisation, holm, mcnemar, paired_bootstrap};
use super::table::{Cell, Table};
use crate::error::Result;

/// Two models on each problem's first answer, and on what else can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The one that stands first.
    pub from: String,
    /// The other.
    pub to: String,
    /// Problems that only `from` passes.
    pub lost: usize,
    /// Problems that only `to` passes.
    pub won: usize,
    /// Share of `to` minus that of `from`, and the ends of its 95 % interval.
    pub delta: [f64; 3],
    /// McNemar's exact p.
    pub p: f64,
    /// The same, corrected.
    pub p_holm: f64,
    /// pass@1 over all answers; none with one answer each, where McNemar's test is the exact form of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_rate: Option<Tested>,
    /// BLEU; none without references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bleu: Option<Tested>,
}

/// A difference of a metric, tested by approximate randomisation over problems.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// `to` minus `from`, and the ends of its 95 % interval (paired bootstrap over problems).
    pub delta: [f64; 3],
    /// The p.
    pub p: f64,
    /// The same, corrected.
    pub p_holm: f64,
}

fn sum(counts: impl Iterator<Item = Counts>) -> Counts {
    counts.fold(Counts::default(), |mut sum, counts| {
        sum += counts;
        sum
    })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Tests a metric that `of` makes from problems, each taken from one of two models: `of(problems, swapped)` is that of the second
/// minus that of the first where `swapped` problems have changed sides.
fn tested(n: usize, seed: u64, of: impl Fn(&[usize], &[bool]) -> f64) -> Option<Tested> {
    let (all, none): (Vec<usize>, _) = ((0..n).collect(), vec![false; n]);
    let difference = paired_bootstrap(n, RESAMPLES, seed, |problems| of(problems, &none))?;
    let p = approximate_randomisation(n, RESAMPLES, seed, |swapped| of(&all, swapped))?;
    Some(Tested { delta: [difference.delta, difference.low, difference.high], p, p_holm: p })
}

fn rates(a: &[f64], b: &[f64], seed: u64) -> Option<Tested> {
    let side = |i: usize, swapped: &[bool]| if swapped[i] { a[i] - b[i] } else { b[i] - a[i] };
    tested(a.len(), seed, |problems, swapped| mean(problems.iter().map(|i| side(*i, swapped))))
}

/// Compares the BLEU of two models; none where one has no texts, or where their variants differ.
fn bleus(a: &Scores, b: &Scores, seed: u64) -> Option<Tested> {
    let (a, b) = (a.texts.as_ref()?, b.texts.as_ref().filter(|b| a.texts.as_ref().is_some_and(|a| a.config == b.config))?);
    let score = |problems: &[usize], swapped: &[bool], mine: &[Counts], other: &[Counts]| {
        a.config.score(sum(problems.iter().map(|i| if swapped[*i] { other[*i] } else { mine[*i] }))).score
    };
    tested(a.counts.len(), seed, |problems, swapped| {
        score(problems, swapped, &b.counts, &a.counts) - score(problems, swapped, &a.counts, &b.counts)
    })
}

/// Every later model against every earlier one. Errors if they were not measured on as many problems.
pub fn pairwise(models: &[(String, Scores)], seed: u64) -> Result<Vec<Comparison>> {
    let mut rows = Vec::new();
    for (j, (to, b)) in models.iter().enumerate() {
        for (from, a) in &models[..j] {
            let test = mcnemar(&a.first, &b.first)?;
            let firsts = |scores: &Scores| -> Vec<f64> { scores.first.iter().map(|passed| f64::from(*passed)).collect() };
            let (of_a, of_b) = (firsts(a), firsts(b));
            let delta =
                paired_bootstrap(of_a.len(), RESAMPLES, seed, |problems| mean(problems.iter().map(|i| of_b[*i] - of_a[*i])));
            let single = a.is_single() && b.is_single();
            rows.push(Comparison {
                from: from.clone(),
                to: to.clone(),
                lost: test.b,
                won: test.c,
                delta: delta.map_or([0.0; 3], |delta| [delta.delta, delta.low, delta.high]),
                p: test.p,
                p_holm: test.p,
                pass_rate: if single { None } else { rates(&a.rates(), &b.rates(), seed) },
                bleu: bleus(a, b, seed),
            });
        }
    }
    correct(&mut rows, |row| Some((row.p, &mut row.p_holm)));
    correct(&mut rows, |row| row.pass_rate.as_mut().map(|tested| (tested.p, &mut tested.p_holm)));
    correct(&mut rows, |row| row.bleu.as_mut().map(|tested| (tested.p, &mut tested.p_holm)));
    Ok(rows)
}

/// Corrects one metric's p over the comparisons that have it.
fn correct(rows: &mut [Comparison], of: impl Fn(&mut Comparison) -> Option<(f64, &mut f64)>) {
    let (p, places): (Vec<f64>, Vec<&mut f64>) = rows.iter_mut().filter_map(of).unzip();
    places.into_iter().zip(holm(&p)).for_each(|(place, adjusted)| *place = adjusted);
}

/// The comparisons as a table: a row for each pair and metric. `title` gives a model's name for readers.
pub fn table(rows: &[Comparison], title: impl Fn(&str) -> String) -> Table {
    let columns =
        ["from", "to", "metric", "difference", "95 % low", "95 % high", "only from", "only to", "test", "p", "p (Holm)"]
            .map(String::from);
    let mut table = Table { name: "comparisons", columns: columns.into(), rows: Vec::new(), notes: Vec::new() };
    let head = |row: &Comparison, metric: &str, delta: [f64; 3], scale: f64| -> Vec<Cell> {
        let delta = delta.map(|x| Cell::number(Some(scale * x), 1));
        [Cell::text(title(&row.from)), Cell::text(title(&row.to)), Cell::text(metric)].into_iter().chain(delta).collect()
    };
    for row in rows {
        let mut cells = head(row, "first answer passes, %", row.delta, 100.0);
        cells.extend([
            Cell::Count(row.lost),
            Cell::Count(row.won),
            Cell::text("exact McNemar"),
            Cell::P(row.p),
            Cell::P(row.p_holm),
        ]);
        table.rows.push(cells);
    }
    let randomised: [(&str, f64, fn(&Comparison) -> Option<Tested>); 2] =
        [("pass@1, %", 100.0, |row| row.pass_rate), ("BLEU", 1.0, |row| row.bleu)];
    for (metric, scale, of) in randomised {
        for (row, tested) in rows.iter().filter_map(|row| Some((row, of(row)?))) {
            let mut cells = head(row, metric, tested.delta, scale);
            let test = Cell::text("approximate randomisation");
            cells.extend([Cell::Missing, Cell::Missing, test, Cell::P(tested.p), Cell::P(tested.p_holm)]);
            table.rows.push(cells);
        }
    }
    if !rows.is_empty() {
        table.notes.push(format!(
            "A difference is the second model's metric minus the first's; its interval is the paired bootstrap's over problems \
            ({RESAMPLES} resamples). Approximate randomisation has {RESAMPLES} trials. Holm's correction goes over the {} \
            comparison(s) of each metric.",
            rows.len()
        ));
    }
    for row in rows.iter().filter(|row| McNemar { b: row.lost, c: row.won, p: row.p }.is_hopeless()) {
        table.notes.push(format!(
            "{} and {} differ on {} problem(s): fewer than {LEAST_DISCORDANT} can never reach p = 0.05.",
            title(&row.from),
            title(&row.to),
            row.lost + row.won
        ));
    }
    table
}
