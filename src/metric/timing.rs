//! Whether two sets of timings differ by more than chance: Mann & Whitney's test (1947), which asks nothing of how times are
//! distributed, and the bootstrap of the ratio of medians (Efron 1979).

use super::pass_at_k::percentiles;
use crate::rng::Rng;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 9_999;

/// Up to so many timings together, the test counts every way in which they could have been dealt to the two sides.
const EXACT: usize = 80;

/// The middle of the samples; of two middle ones their mean. None without samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// The interquartile range: what the middle half of the samples spans.
pub fn spread(samples: &[f64]) -> Option<f64> {
    Some(quantile(samples, 0.75)? - quantile(samples, 0.25)?)
}

/// Between the two samples beside it, in proportion.
fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (at - at.floor()) * (high - low))
}

/// How far a number moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// The median after, over the median before.
    pub ratio: f64,
    /// The lower end of its central 95 % in the bootstrap.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Mann & Whitney's two-sided p.
    pub p: f64,
}

/// Compares timings before and after. The same samples give the same numbers. None where a side has none.
pub fn compare(before: &[f64], after: &[f64]) -> Option<Moved> {
    let ratio = median(after)? / median(before)?;
    let mut rng = Rng::new(17, "timing bootstrap", 0);
    let mut resampled = |samples: &[f64]| -> Vec<f64> { samples.iter().map(|_| *rng.pick(samples)).collect() };
    let mut draw = || Some(median(&resampled(after))? / median(&resampled(before))?);
    let mut ratios: Vec<f64> = (0..RESAMPLES).filter_map(|_| draw()).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let (low, high) = percentiles(&ratios)?;
    Some(Moved { ratio, low, high, p: mann_whitney(before, after) })
}

/// How often chance alone would rank the two sides at least as unevenly. Equal timings share the mean of their ranks. Of few timings
/// all ways of dealing them are counted, which is exact with equal ones too; of many the normal approximation is taken.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let mut pooled: Vec<(f64, bool)> = few.iter().map(|x| (*x, true)).chain(many.iter().map(|x| (*x, false))).collect();
    pooled.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
    // Twice each rank, so that the mean of two is whole.
    let mut ranks: Vec<usize> = Vec::with_capacity(pooled.len());
    for group in pooled.chunk_by(|x, y| x.0 == y.0) {
        let first = ranks.len();
        ranks.extend(group.iter().map(|_| 2 * first + group.len() + 1));
    }
    let seen: usize = ranks.iter().zip(&pooled).filter(|(_, (_, of_few))| *of_few).map(|(rank, _)| rank).sum();
    let (n, m) = (few.len(), many.len());
    let expected = n * (n + m + 1);
    let away = seen.abs_diff(expected);
    if n + m <= EXACT { counted(&ranks, n, expected, away) } else { approximated(&ranks, (n, m), away) }
}

/// The share of the subsets of `n` ranks whose sum is at least so far from what is expected.
fn counted(ranks: &[usize], n: usize, expected: usize, away: usize) -> f64 {
    let most: usize = ranks.iter().rev().take(n).sum();
    let mut ways = vec![vec![0.0f64; most + 1]; n + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for count in (1..=n).rev() {
            let (below, here) = ways.split_at_mut(count);
            let shifted = below[count - 1].iter().take((most + 1).saturating_sub(*rank));
            here[0].iter_mut().skip(*rank).zip(shifted).for_each(|(here, below)| *here += below);
        }
    }
    let all: f64 = ways[n].iter().sum();
    let beyond: f64 = ways[n].iter().enumerate().filter(|(sum, _)| sum.abs_diff(expected) >= away).map(|(_, ways)| ways).sum();
    beyond / all
}

/// The normal approximation with the correction for equal ranks. `away` is twice the distance of the rank sum.
fn approximated(ranks: &[usize], (n, m): (usize, usize), away: usize) -> f64 {
    let (n, m, all) = (n as f64, m as f64, (n + m) as f64);
    let ties: f64 = ranks.chunk_by(|x, y| x == y).map(|group| (group.len() as f64).powi(3) - group.len() as f64).sum();
    let variance = n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (away as f64 / 2.0 - 0.5).max(0.0) / variance.sqrt();
    // Abramowitz & Stegun 7.1.26, the complementary error function to within 1.5e-7.
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    (series.iter().rev().fold(0.0, |sum, c| (sum + c) * t) * (-x * x).exp()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(count: usize, mean: f64, deviation: f64, stream: u64) -> Vec<f64> {
        let mut rng = Rng::new(3, "timing tests", stream);
        (0..count).map(|_| mean * (1.0 + deviation * rng.normal())).collect()
    }

    #[test]
    fn medians_and_quartiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(2.0));
        assert_eq!((median(&[]), spread(&[])), (None, None));
    }

    /// Of C(6,3) = 20 ways two are as uneven as complete separation; of C(20,10) = 184,756 again two.
    #[test]
    fn few_timings_are_counted_out() {
        let (a, b): (Vec<f64>, Vec<f64>) = ((0..10).map(f64::from).collect(), (10..20).map(f64::from).collect());
        assert_eq!(mann_whitney(&a[..3], &b[..3]), 2.0 / 20.0);
        assert!((mann_whitney(&b, &a) - 2.0 / 184_756.0).abs() < 1e-18);
        // Ranks 1, 2.5, 2.5, 4: of six pairs two have the sum 3.5, two 6.5, two 5; 3.5 and 6.5 lie 1.5 from the mean, 5.
        assert_eq!(mann_whitney(&[1.0, 2.0], &[2.0, 3.0]), 4.0 / 6.0);
        assert_eq!(mann_whitney(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
    }

    #[test]
    fn the_approximation_meets_the_exact_value() {
        let (a, b) = (noisy(40, 1.0, 0.1, 1), noisy(40, 1.03, 0.1, 2));
        let exact = mann_whitney(&a, &b);
        let mut pooled: Vec<(f64, bool)> = a.iter().map(|x| (*x, true)).chain(b.iter().map(|x| (*x, false))).collect();
        pooled.sort_by(|x, y| x.0.total_cmp(&y.0));
        let ranks: Vec<usize> = (1..=80).map(|rank| 2 * rank).collect();
        let sum: usize = pooled.iter().zip(&ranks).filter(|((_, of_a), _)| *of_a).map(|(_, rank)| rank).sum();
        let near = approximated(&ranks, (40, 40), sum.abs_diff(40 * 81));
        assert!(exact > 0.001 && exact < 0.9 && (near - exact).abs() < 0.02 * exact + 1e-4, "{near} for {exact}");
    }

    #[test]
    fn ten_percent_at_one_percent_of_noise_is_seen_and_nothing_is_not() {
        let before = noisy(10, 0.020, 0.01, 1);
        let same = compare(&before, &noisy(10, 0.020, 0.01, 2)).unwrap();
        assert!(same.p > 0.05 && same.low < 1.0 && same.high > 1.0, "{same:?}");
        let slower = compare(&before, &noisy(10, 0.022, 0.01, 3)).unwrap();
        assert!(slower.p < 1e-4 && slower.low > 1.08 && slower.high < 1.12, "{slower:?}");
        assert_eq!(compare(&before, &before).unwrap().p, 1.0);
        assert_eq!(compare(&before, &[]), None);
    }
}
