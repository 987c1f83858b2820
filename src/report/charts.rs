//! The charts of a run: what was measured, how training went, what it took.

use std::collections::BTreeMap;

use super::calibration::{self, Calibration};
use super::folder::{Folder, Reading};
use super::models::{Compared, verdicts};
use crate::metric::pass_at_k::rate_name;
use crate::plot::{Axis, Bar, Chart, Group, Series, bars, histogram, lines, reliability};
use crate::recipe::Recipe;
use crate::record::Problem;
use crate::telemetry::words;

/// Bins of the margins' histogram, at most.
const MARGIN_BINS: usize = 24;

/// The charts of each part of the page.
#[derive(Debug, Default)]
pub(super) struct Charts {
    pub results: Vec<Chart>,
    pub sft: Vec<Chart>,
    pub ppo: Vec<Chart>,
    pub reward: Vec<Chart>,
    pub machine: Vec<Chart>,
}

impl Charts {
    /// Every chart that there is something for.
    pub fn of(recipe: &Recipe, folder: &Folder, calibration: Option<&Calibration>) -> Charts {
        Charts {
            results: folder.compared.as_ref().map_or(Vec::new(), |compared| results(recipe, compared)),
            sft: sft(folder),
            ppo: ppo(folder),
            reward: reward(folder, calibration),
            machine: time(folder).into_iter().chain(gpu(&folder.gpu)).collect(),
        }
    }

    /// All of them, in the page's order.
    pub fn all(&self) -> impl Iterator<Item = &Chart> {
        [&self.results, &self.sft, &self.ppo, &self.reward, &self.machine].into_iter().flatten()
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn results(recipe: &Recipe, compared: &Compared) -> Vec<Chart> {
    let rate = rate_name(&recipe.problems.suite);
    let axis = format!("{rate}, %");
    let axis = Axis::new(&axis).holding(0.0, 100.0);
    let titles: Vec<&str> = compared.models.iter().map(|model| model.title.as_str()).collect();
    let whole = |(series, model): (usize, &super::models::Model)| {
        let share = model.measured["pass_at_1"].as_f64();
        let ends = (model.measured["interval"][0].as_f64(), model.measured["interval"][1].as_f64());
        let bar = Bar {
            series,
            value: share.map(|share| 100.0 * share),
            interval: ends.0.zip(ends.1).map(|(low, high)| (100.0 * low, 100.0 * high)),
            text: share.map_or(String::new(), percent),
        };
        Group { label: model.title.clone(), bars: vec![bar] }
    };
    let groups: Vec<Group> = compared.models.iter().enumerate().map(whole).collect();
    let mut charts = Vec::new();
    charts.extend(bars("pass-rate", &format!("{rate} with 95 % intervals"), axis, &[], &groups));
    let parts: [(&str, fn(&Problem) -> &str); 2] = [("difficulty", |p| &p.difficulty), ("kind", |p| &p.kind)];
    for (what, part) in parts {
        let groups = by(recipe, compared, part);
        // One part is the whole again.
        if groups.len() > 1 {
            charts.extend(bars(&format!("pass-rate-by-{what}"), &format!("{rate} by {what}"), axis, &titles, &groups));
        }
    }
    charts
}

/// Pass rates of each part of the problems, easier ones first.
fn by(recipe: &Recipe, compared: &Compared, part: fn(&Problem) -> &str) -> Vec<Group> {
    let mut parts: BTreeMap<(usize, &str), Vec<&Problem>> = BTreeMap::new();
    for problem in &compared.problems {
        let name = part(problem);
        let rank = ["easy", "medium", "hard"].iter().position(|known| *known == name).unwrap_or(3);
        parts.entry((rank, name)).or_default().push(problem);
    }
    let group = |((_, name), problems): ((usize, &str), Vec<&Problem>)| {
        let bar = |(series, model): (usize, &super::models::Model)| {
            if model.answers.is_empty() {
                return Bar { series, value: None, interval: None, text: String::new() };
            }
            let interval = verdicts(problems.iter().copied(), &model.answers).interval(recipe.seed);
            Bar {
                series,
                value: interval.map(|interval| 100.0 * interval.mean),
                interval: interval.map(|interval| (100.0 * interval.low, 100.0 * interval.high)),
                text: interval.map_or(String::new(), |interval| percent(interval.mean)),
            }
        };
        Group { label: format!("{name} ({})", problems.len()), bars: compared.models.iter().enumerate().map(bar).collect() }
    };
    parts.into_iter().map(group).collect()
}

/// One curve over the steps of a stage.
fn curve(name: &str, title: &str, series: &[Series]) -> Option<Chart> {
    lines(name, title, Axis::new("step").whole(), Axis::new(""), series)
}

fn losses(folder: &Folder, stage: &str, title: &str) -> Option<Chart> {
    let validation = folder.curve(stage, "validation_loss", true);
    let training = if validation.is_empty() { "" } else { "training" };
    let mut series = vec![Series::line(training, 1, folder.curve(stage, "loss", false))];
    if !validation.is_empty() {
        series.push(Series::line("validation", 2, validation));
    }
    curve(&format!("{stage}-loss"), title, &series)
}

fn sft(folder: &Folder) -> Vec<Chart> {
    let rate = [Series::line("", 1, folder.curve("sft", "lr", false))];
    [losses(folder, "sft", "SFT: loss"), curve("sft-learning-rate", "SFT: learning rate", &rate)].into_iter().flatten().collect()
}

fn ppo(folder: &Folder) -> Vec<Chart> {
    let steps = |series: &[Series], name: &str, title: &str, axis: Axis<'_>| {
        lines(&format!("ppo-{name}"), &format!("PPO: {title}"), Axis::new("iteration").whole(), axis, series)
    };
    let plain = |field: &str| [Series::line("", 1, folder.curve("ppo", field, false))];
    let epochs = |field: &str| {
        let [mean, each] = folder.epochs(field);
        [Series::dots("each epoch", 0, each), Series::line("mean of the iteration", 1, mean)]
    };
    let scores = [
        Series::line("as the model gives it", 1, folder.curve("ppo", "score", false)),
        Series::line("normalised and clipped", 3, folder.curve("ppo", "reward", false)),
    ];
    let axis = Axis::new("");
    [
        steps(&scores, "reward", "reward model's score", axis),
        steps(&plain("kl"), "kl", "KL from the SFT model, per response", axis),
        steps(&epochs("clip_fraction"), "clip-fraction", "clip fraction", axis.holding(0.0, 0.0)),
        steps(&epochs("entropy"), "entropy", "entropy, nats a token", axis),
        steps(&plain("length"), "length", "tokens a response", axis),
        steps(&plain("explained_variance"), "explained-variance", "explained variance of the critic", axis),
        steps(&epochs("value_loss"), "value-loss", "value loss", axis),
        steps(&ppo_rates(folder), "learning-rate", "learning rate", axis),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The learning rates that each iteration began with.
fn ppo_rates(folder: &Folder) -> Vec<Series> {
    vec![
        Series::line("policy", 1, folder.curve("ppo", "lr", false)),
        Series::line("critic", 3, folder.curve("ppo", "critic_lr", false)),
    ]
}

fn reward(folder: &Folder, calibration: Option<&Calibration>) -> Vec<Chart> {
    let accuracy = [Series::line("", 1, folder.curve("reward", "accuracy", true))];
    let rate = [Series::line("", 1, folder.curve("reward", "lr", false))];
    let mut charts = Vec::new();
    charts.extend(losses(folder, "reward", "Reward model: loss"));
    charts.extend(lines(
        "reward-accuracy",
        "Reward model: held-out accuracy",
        Axis::new("step").whole(),
        Axis::new("").holding(0.0, 1.0),
        &accuracy,
    ));
    charts.extend(curve("reward-learning-rate", "Reward model: learning rate", &rate));
    if let Some(calibration) = calibration {
        let (x, y) = (Axis::new("how sure: σ(|margin|)"), Axis::new("share in the judge's order"));
        charts.extend(reliability("reward-calibration", "Reward model: calibration", x, y, &calibration.bins));
        let towards = |pair: &crate::record::HeldOut| if pair.label < 0.5 { -pair.margin } else { pair.margin };
        let margins: Vec<f64> = folder.held_out.iter().filter(|pair| pair.label != 0.5).map(towards).collect();
        let (edges, counts) = calibration::histogram(&margins, MARGIN_BINS);
        let x = Axis::new("margin: preferred answer's score less the other's");
        charts.extend(histogram("reward-margins", "Reward model: margins of held-out pairs", x, &edges, &counts));
    }
    charts
}

fn time(folder: &Folder) -> Option<Chart> {
    // The report's own time is not over.
    let stages = folder.manifest.stages.iter().filter(|stage| stage.name != "report" && stage.seconds > 0.0);
    let longest = stages.clone().map(|stage| stage.seconds).fold(0.0, f64::max);
    let (unit, name) = match longest {
        s if s < 300.0 => (1.0, "seconds"),
        s if s < 18_000.0 => (60.0, "minutes"),
        _ => (3600.0, "hours"),
    };
    let group = |stage: &crate::run::Record| {
        let bar = Bar { series: 1, value: Some(stage.seconds / unit), interval: None, text: words::duration(stage.seconds) };
        Group { label: stage.name.clone(), bars: vec![bar] }
    };
    bars("time", "Time of each stage", Axis::new(name), &[], &stages.map(group).collect::<Vec<_>>())
}

/// Readings that lie further apart are of different runs.
const PAUSE_MINUTES: f64 = 1.0;

fn gpu(readings: &[Reading]) -> Vec<Chart> {
    let Some(start) = readings.iter().map(|reading| reading.time).reduce(f64::min) else { return Vec::new() };
    let mut gpus: Vec<usize> = readings.iter().map(|reading| reading.gpu).collect();
    gpus.sort_unstable();
    gpus.dedup();
    let series = |of: &dyn Fn(&Reading) -> Option<f64>| -> Vec<Series> {
        let one = |(index, gpu): (usize, &usize)| {
            let (mut points, mut before) = (Vec::new(), f64::NEG_INFINITY);
            for reading in readings.iter().filter(|reading| reading.gpu == *gpu) {
                let at = (reading.time - start) / 60.0;
                // Nothing was read while nothing ran: there is no line across.
                if at - before > PAUSE_MINUTES {
                    points.push((at, None));
                }
                points.push((at, of(reading)));
                before = at;
            }
            Series::line(format!("GPU {gpu}"), index + 1, points)
        };
        gpus.iter().enumerate().map(one).collect()
    };
    let x = Axis::new("minutes since the first reading");
    let busy = series(&|reading| reading.utilization.map(|share| 100.0 * share));
    let memory = series(&|reading| reading.memory_bytes.map(|bytes| bytes / f64::from(1 << 30)));
    let power = series(&|reading| reading.power_w);
    [
        lines("gpu-busy", "GPU: busy, %", x, Axis::new("").holding(0.0, 100.0), &busy),
        lines("gpu-memory", "GPU: memory, GiB", x, Axis::new("").holding(0.0, 0.0), &memory),
        lines("gpu-power", "GPU: power, W", x, Axis::new("").holding(0.0, 0.0), &power),
    ]
    .into_iter()
    .flatten()
    .collect()
}
