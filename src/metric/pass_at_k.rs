//! pass@k and the confidence intervals of means.

use crate::rng::Rng;

/// The standard normal's 97.5 % quantile.
const Z95: f64 = 1.959_963_984_540_054;

/// The unbiased estimate of the chance that one of `k` samples passes, from `n` samples of which `c` passed (Chen et al. 2021,
/// "Evaluating large language models trained on code", section 2.1). None if there are fewer than `k` samples, or `k` is 0.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    Some(1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// What the share of problems with a passing answer is called on a suite: `resolved` where issues of repositories are solved
/// (SWE-bench), `plausible` where a patch passes a project's own tests and may still be wrong (Defects4J, GitBug-Java), else `pass@1`.
pub fn rate_name(suite: &str) -> &'static str {
    match suite {
        _ if suite.starts_with("swe") => "resolved",
        _ if suite.starts_with("defects4j") || suite.starts_with("gitbug") => "plausible",
        _ => "pass@1",
    }
}

/// A mean with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The share `passed` of `total`, with Wilson's score interval (1927): right also near 0 and 1, unlike the normal one. None
/// without a trial.
pub fn wilson(passed: usize, total: usize) -> Option<Interval> {
    if total == 0 {
        return None;
    }
    let (n, p) = (total as f64, passed as f64 / total as f64);
    let z2 = Z95 * Z95;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the formula gives the bound itself, up to rounding.
    let low = if passed == 0 { 0.0 } else { centre - half };
    let high = if passed == total { 1.0 } else { centre + half };
    Some(Interval { mean: p, low, high })
}

/// The mean of `values`, one a problem, with the percentile bootstrap's interval over problems. None without a value.
pub fn bootstrap_mean(values: &[f64], resamples: usize, seed: u64) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let mut rng = Rng::new(seed, "bootstrap mean", 0);
    let n = values.len() as f64;
    let mut means: Vec<f64> = (0..resamples).map(|_| (0..values.len()).map(|_| *rng.pick(values)).sum::<f64>() / n).collect();
    means.sort_unstable_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / n;
    let (low, high) = percentiles(&means).unwrap_or((mean, mean));
    Some(Interval { mean, low, high })
}

/// The central 95 % of sorted values.
pub(super) fn percentiles(sorted: &[f64]) -> Option<(f64, f64)> {
    let cut = (sorted.len() as f64 * 0.025).floor() as usize;
    Some((*sorted.get(cut)?, *sorted.get(sorted.len().checked_sub(cut + 1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_of_hand_worked_cases() {
        // n=5, c=2, k=2: 1 - C(3,2)/C(5,2) = 0.7. n=10, c=3, k=5: 1 - C(7,5)/C(10,5) = 11/12.
        let cases = [(5, 1, 1, 0.2), (5, 2, 2, 0.7), (10, 3, 5, 11.0 / 12.0), (5, 0, 3, 0.0), (5, 4, 2, 1.0), (1, 1, 1, 1.0)];
        for (n, c, k, expected) in cases {
            // A product of at most 10 factors: 10 roundings of 2^-53 each.
            assert!((pass_at_k(n, c, k).unwrap() - expected).abs() < 2e-15, "{n} {c} {k}");
        }
        assert_eq!((pass_at_k(3, 1, 4), pass_at_k(3, 1, 0), pass_at_k(1, 2, 1)), (None, None, None));
    }

    #[test]
    fn suites_of_repositories_have_their_own_names() {
        let names = ["swebench_verified", "swebench", "defects4j", "gitbug_java", "mbpp", "micro"].map(rate_name);
        assert_eq!(names, ["resolved", "resolved", "plausible", "plausible", "pass@1", "pass@1"]);
    }

    #[test]
    fn wilson_of_published_cases() {
        // Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29; printed to four places.
        let cases = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)];
        for (passed, total, low, high) in cases {
            let interval = wilson(passed, total).unwrap();
            assert!((interval.low - low).abs() <= 5e-5 && (interval.high - high).abs() <= 5e-5, "{interval:?}");
        }
        assert_eq!(wilson(20, 20).unwrap().high, 1.0);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn the_bootstrap_agrees_with_the_normal_interval_on_many_values() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let interval = bootstrap_mean(&values, 4000, 3).unwrap();
        // Half width 1.96 sqrt(.25/400) = 0.049. A 2.5 % quantile of 4000 resamples has a standard error of about
        // sqrt(.025 * .975 / 4000) / density = 0.0025 / (0.0585 / 0.025) = 0.0011; means step by 0.0025.
        assert_eq!(interval.mean, 0.5);
        assert!((interval.low - 0.451).abs() < 0.006 && (interval.high - 0.549).abs() < 0.006, "{interval:?}");
        assert_eq!(bootstrap_mean(&values, 4000, 3), Some(interval));
        assert_eq!(bootstrap_mean(&[0.25; 9], 100, 0), Some(Interval { mean: 0.25, low: 0.25, high: 0.25 }));
        assert_eq!(bootstrap_mean(&[], 100, 0), None);
    }
}
