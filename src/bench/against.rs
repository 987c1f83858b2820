//! A benchmark's numbers beside those of an earlier run: how far each moved, and whether chance alone would move it so.
//!
//! A number moved beyond noise where Mann & Whitney's test on the samples of both runs gives p below 0.01 after Holm's correction for
//! how many numbers are compared. Samples of one run tell nothing of what differs from run to run, as clocks and temperatures do:
//! a file may hold several runs, one a line, whose samples are then taken together.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::metric::significance::holm;
use crate::metric::timing::{compare, median};

/// The p below which a number moved beyond noise.
const LEVEL: f64 = 0.01;

/// Which way a number moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Beyond noise, to less time.
    Faster,
    /// Beyond noise, to more time.
    Slower,
    /// Not beyond noise.
    WithinNoise,
    /// There are too few samples for any difference to be beyond noise.
    TooFewSamples,
}

/// A number of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// `step`, `rollout`, or an operator.
    pub name: String,
    /// The median of the earlier samples in seconds.
    pub before: f64,
    /// The median of those of now.
    pub after: f64,
    /// After over before.
    pub ratio: f64,
    /// The lower end of the ratio's 95 % bootstrap interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Mann & Whitney's p, corrected.
    pub p: f64,
    /// Which way it moved.
    pub verdict: Verdict,
}

/// Everything that was compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The numbers, in the order of now.
    pub lines: Vec<Line>,
    /// The most bytes that tensors held, before and now: no noise.
    pub peak_bytes: [u64; 2],
    /// Numbers of now that the earlier run did not measure.
    pub new: Vec<String>,
}

/// What has to be the same on both sides.
const SAME: [&str; 5] = ["what", "device", "model", "batch", "seq"];

/// Numbers and their samples.
fn numbers(result: &Value) -> Vec<(String, Vec<f64>)> {
    let samples = |of: &Value| -> Vec<f64> { of["samples"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect() };
    let named = |of: &Value, key: &str| (of[key].as_str().unwrap_or_default().to_string(), samples(of));
    let listed = |of: &Value, key| of.as_array().into_iter().flatten().map(|one| named(one, key)).collect::<Vec<_>>();
    if result["what"] == "kernels" {
        return listed(&result["operators"], "operator");
    }
    let whole = if result["what"] == "ppo" { "iteration" } else { "step" };
    [vec![(whole.to_string(), samples(result))], listed(&result["ppo"]["phases"], "name")].concat()
}

/// What differs between two results so that their times cannot be compared.
fn difference(before: &Value, after: &Value) -> Option<String> {
    let differs = |name: &str, before: &Value, after: &Value| {
        (before != after).then(|| format!("{name}: {before} there and {after} here; only like can be compared with like"))
    };
    // A step of decoding grows with what was written before it.
    let steps = if after["what"] == "decode" { differs("steps", &before["steps"], &after["steps"]) } else { None };
    let of_ppo = ["reward_model", "new_tokens", "epochs", "minibatches", "sequences_per_device"];
    SAME.iter().find_map(|key| differs(key, &before[key], &after[key])).or(steps).or_else(|| {
        // Before anything was measured, what an iteration is made of is not told.
        let mut told = of_ppo.iter().filter(|_| after["ppo"].is_object());
        told.find_map(|key| differs(key, &before["ppo"][key], &after["ppo"][key]))
    })
}

/// The results of a file: the JSON objects that stand on lines of their own.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::input(path.display(), e))?;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        found.push(serde_json::from_str(line).map_err(|e| Error::line(path, index + 1, e))?);
    }
    Ok(found)
}

/// The results of the file that are of the same benchmark as `after`, which may be without its samples. Errors: there are none, or one
/// of another device, model or extents.
pub fn earlier(path: &Path, after: &Value) -> Result<Vec<Value>> {
    let what = &after["what"];
    let same: Vec<Value> = read(path)?.into_iter().filter(|result| result["what"] == *what).collect();
    if same.is_empty() {
        return Err(Error::input(
            path.display(),
            format!("a line with a result of bench {} expected", what.as_str().unwrap_or("")),
        ));
    }
    match same.iter().find_map(|before| difference(before, after)) {
        Some(why) => Err(Error::input(path.display(), why)),
        None => Ok(same),
    }
}

/// Compares a result with earlier ones, as [`earlier`] gives them.
pub fn with(earlier: &[Value], after: &Value) -> Comparison {
    let all: Vec<_> = earlier.iter().flat_map(numbers).collect();
    let pooled = |name: &str| all.iter().filter(|(other, _)| other == name).flat_map(|(_, samples)| samples.clone()).collect();
    let (mut lines, mut new) = (Vec::new(), Vec::new());
    let mut least = Vec::new();
    for (name, now) in numbers(after) {
        let then: Vec<f64> = pooled(&name);
        let (Some(moved), Some(before), Some(after)) = (compare(&then, &now), median(&then), median(&now)) else {
            new.push(name);
            continue;
        };
        least.push(least_p(then.len(), now.len()));
        let verdict = Verdict::WithinNoise;
        lines.push(Line { name, before, after, ratio: moved.ratio, low: moved.low, high: moved.high, p: moved.p, verdict });
    }
    let corrected = holm(&lines.iter().map(|line| line.p).collect::<Vec<_>>());
    let count = lines.len() as f64;
    for ((line, p), least) in lines.iter_mut().zip(corrected).zip(least) {
        line.p = p;
        line.verdict = match (p < LEVEL, line.ratio < 1.0) {
            (true, true) => Verdict::Faster,
            (true, false) => Verdict::Slower,
            // Corrected as the smallest of all would be.
            _ if least * count >= LEVEL => Verdict::TooFewSamples,
            _ => Verdict::WithinNoise,
        };
    }
    let peak = |result: &Value| result["peak_bytes"].as_u64().unwrap_or(0);
    Comparison { lines, peak_bytes: [earlier.iter().map(peak).max().unwrap_or(0), peak(after)], new }
}

/// The p of complete separation: two of all ways of dealing the samples.
fn least_p(n: usize, m: usize) -> f64 {
    (1..=n.min(m)).fold(2.0, |p, i| p * i as f64 / (n.max(m) + i) as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rng::Rng;

    fn result(mean: f64, stream: u64) -> Value {
        let mut rng = Rng::new(5, "against tests", stream);
        let samples: Vec<f64> = (0..12).map(|_| mean * (1.0 + 0.01 * rng.normal())).collect();
        json!({"what": "sft", "device": "cpu", "model": {"hidden": 16}, "batch": 2, "seq": 8, "steps": 12, "samples": samples,
               "peak_bytes": 1000})
    }

    fn verdict(before: &[Value], after: &Value) -> (Verdict, f64) {
        let lines = with(before, after).lines;
        assert_eq!((lines.len(), lines[0].name.as_str()), (1, "step"));
        (lines[0].verdict, lines[0].ratio)
    }

    #[test]
    fn what_only_noise_moved_is_within_noise() {
        let (verdict, ratio) = verdict(&[result(0.02, 1)], &result(0.02, 2));
        assert_eq!(verdict, Verdict::WithinNoise);
        assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn ten_percent_at_one_percent_of_noise_is_beyond_it() {
        let (slower, ratio) = verdict(&[result(0.02, 1)], &result(0.022, 2));
        assert_eq!(slower, Verdict::Slower);
        assert!((ratio - 1.1).abs() < 0.01, "{ratio}");
        assert_eq!(verdict(&[result(0.022, 1)], &result(0.02, 2)).0, Verdict::Faster);
        // Of two earlier runs that differ by as much, neither side of now is beyond noise.
        assert_eq!(verdict(&[result(0.02, 1), result(0.024, 3)], &result(0.022, 2)).0, Verdict::WithinNoise);
    }

    #[test]
    fn few_samples_can_tell_nothing() {
        let (mut before, mut after) = (result(0.02, 1), result(0.04, 2));
        (before["samples"], after["samples"]) = (json!([0.02, 0.021, 0.022]), json!([0.04, 0.041, 0.042]));
        assert_eq!(verdict(&[before], &after).0, Verdict::TooFewSamples);
    }

    #[test]
    fn operators_and_phases_are_numbers_of_their_own() {
        let row = |name: &str, x: f64| json!({"operator": name, "samples": [x, x, x, x, x, x, x]});
        let kernels = |x: f64| json!({"what": "kernels", "operators": [row("rope", 1.0), row("add", x)], "peak_bytes": 8});
        let found = with(&[kernels(1.0)], &kernels(2.0));
        let told: Vec<(&str, Verdict)> = found.lines.iter().map(|line| (line.name.as_str(), line.verdict)).collect();
        assert_eq!(told, [("rope", Verdict::WithinNoise), ("add", Verdict::Slower)]);
        let fewer = json!({"what": "kernels", "operators": [row("rope", 1.0)]});
        assert_eq!(with(&[fewer], &kernels(2.0)).new, ["add"]);
        let phase = |x: f64| json!({"name": "rollout", "samples": [x, x]});
        let ppo = |x: f64| json!({"what": "ppo", "samples": [3.0, 3.0], "ppo": {"phases": [phase(x)]}});
        let names: Vec<String> = with(&[ppo(1.0)], &ppo(1.0)).lines.into_iter().map(|line| line.name).collect();
        assert_eq!(names, ["iteration", "rollout"]);
    }

    #[test]
    fn another_device_or_other_extents_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.json");
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut before = result(0.02, 1);
            change(&mut before);
            std::fs::write(&path, format!("a note\n{before}\n")).unwrap();
            earlier(&path, &result(0.02, 2)).map(|found| found.len()).map_err(|error| (error.exit_code(), error.to_string()))
        };
        assert_eq!(refused(&|_| ()), Ok(1));
        for (key, value) in [("device", json!("gpu")), ("model", json!({"hidden": 32})), ("batch", json!(4)), ("seq", json!(9))] {
            let (code, text) = refused(&|before| before[key] = value.clone()).unwrap_err();
            assert!(code == 2 && text.contains(&format!("{key}: {value} there and ")), "{text}");
        }
        let (code, text) = refused(&|before| before["what"] = json!("decode")).unwrap_err();
        assert!(code == 2 && text.ends_with("a line with a result of bench sft expected"), "{text}");
    }
}
