//! Whether two models differ by more than chance, on the same problems (Dror et al., ACL 2018): McNemar's exact test for
//! passed and failed, approximate randomisation for everything else, the paired bootstrap for the interval of a difference.

use super::pass_at_k::percentiles;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// McNemar's test, to be reported whole: fewer than 6 discordant problems can never reach 0.05.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct McNemar {
    /// Problems that only the first passes.
    pub b: usize,
    /// Problems that only the second passes.
    pub c: usize,
    /// The exact two-sided p: how often fair coins split b + c at least as unevenly.
    pub p: f64,
}

/// The least number of discordant problems with which McNemar's exact test can reach 0.05: 2 / 2^6 = 0.03125, 2 / 2^5 = 0.0625.
pub const LEAST_DISCORDANT: usize = 6;

impl McNemar {
    /// Whether so few problems are discordant that no split of them could reach 0.05.
    pub fn is_hopeless(&self) -> bool {
        self.b + self.c < LEAST_DISCORDANT
    }
}

/// McNemar's exact test on the outcomes of two models, one a problem, in the same order. Errors if the lengths differ.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<McNemar> {
    if first.len() != second.len() {
        let what = format!("outcomes of the same problems expected, {} and {} found", first.len(), second.len());
        return Err(Error::input("McNemar's test", what));
    }
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (b, c) = (only(first, second), only(second, first));
    let n = b + c;
    // C(n, i) / 2^n in logarithms: 2^n overflows at the size of a benchmark.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = term.exp();
    for i in 1..=b.min(c) {
        term += ((n - i + 1) as f64 / i as f64).ln();
        tail += term.exp();
    }
    Ok(McNemar { b, c, p: (2.0 * tail).min(1.0) })
}

/// The difference of two models on a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// First minus second, on all problems.
    pub delta: f64,
    /// The lower end of the 95 % percentile interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Two-sided p: the share of resamples that lie at least as far from `delta` as `delta` from 0 (Berg-Kirkpatrick et al.,
    /// EMNLP 2012), with one added to both counts so that it is never 0.
    pub p: f64,
}

/// The paired bootstrap over `n` problems. `delta` is given a list of problems, some of them repeatedly, and returns the metric
/// of the first model minus that of the second on them. None if `n` or `resamples` is 0.
pub fn paired_bootstrap(n: usize, resamples: usize, seed: u64, delta: impl Fn(&[usize]) -> f64) -> Option<Difference> {
    let mut problems: Vec<usize> = (0..n).collect();
    if n == 0 {
        return None;
    }
    let whole = delta(&problems);
    let mut rng = Rng::new(seed, "paired bootstrap", 0);
    let mut deltas: Vec<f64> = (0..resamples)
        .map(|_| {
            problems.fill_with(|| rng.below(n));
            delta(&problems)
        })
        .collect();
    deltas.sort_unstable_by(f64::total_cmp);
    let (low, high) = percentiles(&deltas)?;
    let beyond = deltas.iter().filter(|resampled| (*resampled - whole).abs() >= whole.abs()).count();
    Some(Difference { delta: whole, low, high, p: (beyond + 1) as f64 / (resamples + 1) as f64 })
}

/// Approximate randomisation over `n` problems (Noreen 1989): were the models alike, whose answer is whose would not matter. `delta`
/// is given which problems' answers change sides, and returns the metric of the first model minus that of the second. The two-sided p
/// is (c + 1) / (trials + 1), where c of the trials differ at least as much as the models do. None if `n` is 0.
///
/// sacrebleu counts trials that differ *more*. Where few problems differ many trials tie, and leaving ties out finds differences
/// that are none.
pub fn approximate_randomisation(n: usize, trials: usize, seed: u64, delta: impl Fn(&[bool]) -> f64) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let mut swapped = vec![false; n];
    // Sums in another order differ in the last bits, and a tie must stay one.
    let whole = delta(&swapped).abs() * (1.0 - 1e-12);
    let mut rng = Rng::new(seed, "approximate randomisation", 0);
    let mut beyond = 0;
    for _ in 0..trials {
        for chunk in swapped.chunks_mut(32) {
            let word = rng.word();
            chunk.iter_mut().enumerate().for_each(|(bit, swapped)| *swapped = word >> bit & 1 == 1);
        }
        beyond += usize::from(delta(&swapped).abs() >= whole);
    }
    Some((beyond + 1) as f64 / (trials + 1) as f64)
}

/// Holm's step-down correction (1979): the p of each of several comparisons, adjusted so that the chance of any false finding
/// stays at the level they are held against. In the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        highest = highest.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outcomes with `b` and `c` discordant problems among ten on which both agree.
    fn outcomes(b: usize, c: usize) -> (Vec<bool>, Vec<bool>) {
        let agree = [true, true, true, true, true, false, false, false, false, false];
        let first = [&agree[..], &vec![true; b], &vec![false; c]].concat();
        let second = [&agree[..], &vec![false; b], &vec![true; c]].concat();
        (first, second)
    }

    #[test]
    fn mcnemar_is_the_exact_binomial() {
        // 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112/1024; the others are powers of two, or capped at 1.
        let cases = [(5, 0, 0.0625), (0, 6, 0.03125), (8, 2, 112.0 / 1024.0), (3, 3, 1.0), (0, 0, 1.0)];
        for (b, c, p) in cases {
            let (first, second) = outcomes(b, c);
            let test = mcnemar(&first, &second).unwrap();
            assert_eq!((test.b, test.c), (b, c));
            // Sums of a few exponentials of numbers below 10, each right to some 10 units of 2^-53.
            assert!((test.p - p).abs() < 1e-14, "{test:?}");
        }
        // At 1,500 discordant problems 2^-n is below the smallest double, and the tail with it.
        let (first, second) = outcomes(1500, 0);
        assert_eq!(mcnemar(&first, &second).unwrap().p, 0.0);
        let error = mcnemar(&first, &second[1..]).unwrap_err().to_string();
        assert_eq!(error, "McNemar's test: outcomes of the same problems expected, 1510 and 1509 found");
    }

    /// Expected values: `scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue`, scipy 1.17.1.
    #[test]
    fn mcnemar_of_many_is_scipys_binomial() {
        let cases = [
            (1, 0, 1.0),
            (30, 0, 1.862645149230957e-09),
            (60, 3, 9.048317650695026e-15),
            (40, 17, 0.0032015437674503813),
            (300, 220, 0.0005194158496652906),
            (700, 650, 0.1823103494670065),
            (1200, 900, 6.337277315775641e-11),
            (5000, 4700, 0.0023966033625776526),
        ];
        for (b, c, p) in cases {
            for (b, c) in [(b, c), (c, b)] {
                let (first, second) = outcomes(b, c);
                let test = mcnemar(&first, &second).unwrap();
                // The logarithm of a term is a sum of up to c of them and of n ln 2, of size below 10^4: each addition leaves at most
                // 2^-53 of that, and they add up to 4700 * 10^4 * 2^-53 = 5e-9 at worst.
                assert!((test.p - p).abs() < 5e-9 * p, "{test:?}, {p} expected");
                assert_eq!(test.is_hopeless(), b + c < 6);
            }
        }
    }

    #[test]
    fn the_paired_bootstrap_sees_a_constant_difference_and_no_other() {
        let first: Vec<f64> = (0..60).map(|i| f64::from(i % 7)).collect();
        let second: Vec<f64> = first.iter().map(|x| x - 1.0).collect();
        let mean = |values: &[f64], of: &[usize]| of.iter().map(|i| values[*i]).sum::<f64>() / of.len() as f64;
        // Every resample's difference is exactly 1, so none lies 1 away from it.
        let constant = paired_bootstrap(60, 999, 1, |of| mean(&first, of) - mean(&second, of)).unwrap();
        assert!((constant.low - 1.0).abs() < 1e-12 && (constant.high - 1.0).abs() < 1e-12, "{constant:?}");
        assert_eq!(constant.p, 1.0 / 1000.0);
        let same = paired_bootstrap(60, 999, 1, |of| mean(&first, of) - mean(&first, of)).unwrap();
        assert_eq!(same, Difference { delta: 0.0, low: 0.0, high: 0.0, p: 1.0 });
        assert_eq!(paired_bootstrap(0, 999, 1, |_| 0.0), None);
    }

    #[test]
    fn randomisation_of_three_problems_is_what_enumeration_gives() {
        // Differences 1, 2 and 4 sum to 7; of the 8 sign patterns only +++ and --- reach it: p = 1/4. With 0, 0 and 1 all do.
        let p = |values: [f64; 3]| {
            let delta = |swapped: &[bool]| values.iter().zip(swapped).map(|(x, swap)| if *swap { -x } else { *x }).sum();
            approximate_randomisation(3, 10_000, 1, delta).unwrap()
        };
        // Five standard errors of a share of 10,000 trials.
        let found = p([1.0, 2.0, 4.0]);
        assert!((found - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / 10_000.0).sqrt(), "{found}");
        assert_eq!(p([0.0, 0.0, 1.0]), 1.0);
        // 0.1 + 0.2 - 0.3 and its like: ties up to rounding are ties.
        assert_eq!(p([0.1, 0.0, 0.0]), 1.0);
        assert_eq!(approximate_randomisation(0, 10, 1, |_| 0.0), None);
        assert_eq!(approximate_randomisation(1, 0, 1, |_| 1.0), Some(1.0));
    }

    #[test]
    fn holm_multiplies_by_what_is_left() {
        // 0.01*4; max(., 0.02*3); max(., 0.03*2); max(., 0.9*1).
        let adjusted = holm(&[0.02, 0.9, 0.01, 0.03]);
        for (found, expected) in adjusted.iter().zip([0.06, 0.9, 0.04, 0.06]) {
            assert!((found - expected).abs() < 1e-15, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.5, 0.6]), [1.0, 1.0]);
    }
}
