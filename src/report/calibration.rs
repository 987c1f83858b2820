//! Whether a reward model is as sure as it is right: the reliability diagram and the expected calibration error (Guo et al., ICML 2017).
//!
//! Of a pair with margin m the model is sure by σ(|m|), from 0.5 to 1, of the answer that it scores higher; it is right where the
//! judge preferred that answer too. Which of the two stands first in the file does not matter so.

use crate::plot::Bin;
use crate::record::HeldOut;

/// Bins of equal width between 0.5 and 1.
pub(super) const BINS: usize = 10;

/// How right and how sure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Calibration {
    /// Pairs that the judge decided.
    pub pairs: usize,
    /// Pairs that the model has in the judge's order.
    pub right: usize,
    /// The mean distance between confidence and accuracy over the bins, each counted by its pairs.
    pub error: f64,
    /// The bins, empty ones too.
    pub bins: Vec<Bin>,
}

impl Calibration {
    /// Of the pairs with a label other than 0.5; none without any. Labels between 0 and 1 are right by their share.
    pub fn of(pairs: &[HeldOut]) -> Option<Calibration> {
        let decided: Vec<&HeldOut> = pairs.iter().filter(|pair| pair.label != 0.5 && pair.margin.is_finite()).collect();
        if decided.is_empty() {
            return None;
        }
        let mut sums = [(0usize, 0.0, 0.0); BINS];
        let mut right = 0;
        for pair in &decided {
            let confidence = 1.0 / (1.0 + (-pair.margin.abs()).exp());
            // Equal scores prefer neither.
            let agreement = match pair.margin {
                m if m > 0.0 => pair.label,
                m if m < 0.0 => 1.0 - pair.label,
                _ => 0.5,
            };
            right += usize::from(agreement > 0.5);
            let bin = &mut sums[(((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1)];
            *bin = (bin.0 + 1, bin.1 + confidence, bin.2 + agreement);
        }
        let bins: Vec<Bin> = sums
            .iter()
            .map(|(count, confidence, agreement)| {
                let n = (*count).max(1) as f64;
                Bin { count: *count, confidence: confidence / n, accuracy: agreement / n }
            })
            .collect();
        let weight = |bin: &Bin| bin.count as f64 / decided.len() as f64;
        let error = bins.iter().map(|bin| weight(bin) * (bin.accuracy - bin.confidence).abs()).sum();
        Some(Calibration { pairs: decided.len(), right, error, bins })
    }
}

/// Counts of margins in at most `most` bins of one width, with 0 between two of them: the edges, one more than the counts.
pub(super) fn histogram(margins: &[f64], most: usize) -> (Vec<f64>, Vec<usize>) {
    let finite: Vec<f64> = margins.iter().copied().filter(|margin| margin.is_finite()).collect();
    let (low, high) = finite.iter().fold((0.0f64, 0.0f64), |(low, high), x| (low.min(*x), high.max(*x)));
    if high - low == 0.0 {
        return (vec![-0.5, 0.0, 0.5], vec![0, finite.len()]);
    }
    // Two bins are kept for what 0 cuts off at both ends.
    let width = (high - low) / most.saturating_sub(2).max(1) as f64;
    let (first, last) = ((low / width).floor(), (high / width).floor() + 1.0);
    let mut counts = vec![0; (last - first) as usize];
    for margin in &finite {
        counts[((margin / width).floor() - first) as usize] += 1;
    }
    ((0..=counts.len()).map(|index| (first + index as f64) * width).collect(), counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(label: f64, margin: f64) -> HeldOut {
        HeldOut { id: "1".into(), label, margin }
    }

    /// σ(ln 3) = 0.75, σ(ln 9) = 0.9.
    #[test]
    fn four_pairs_by_hand() {
        let (three, nine) = (3f64.ln(), 9f64.ln());
        let pairs = [pair(1.0, three), pair(1.0, -three + 1e-3), pair(0.0, -nine - 1e-3), pair(0.5, 5.0), pair(1.0, nine + 1e-3)];
        let found = Calibration::of(&pairs).unwrap();
        assert_eq!((found.pairs, found.right), (4, 3));
        let filled: Vec<(usize, usize)> =
            found.bins.iter().enumerate().filter(|(_, bin)| bin.count > 0).map(|(index, bin)| (index, bin.count)).collect();
        // [0.70, 0.75) holds the one that is a little less sure, or both where ln 3 rounds down; [0.90, 0.95) the other two.
        assert_eq!(filled.iter().map(|(_, count)| count).sum::<usize>(), 4);
        assert_eq!(filled.last(), Some(&(8, 2)));
        assert_eq!(found.bins[8].accuracy, 1.0);
        // 1/4 · |1 - 0.75| + 1/4 · |0 - 0.75| + 2/4 · |1 - 0.9| = 0.3 where each is its own bin, and 1/2 · |0.5 - 0.75| + 0.05 where
        // not; the margins are off by 1e-3, which moves a sigmoid by less than 1e-3 / 4.
        let expected = if found.bins[5].count == 1 { 0.3 } else { 0.175 };
        assert!((found.error - expected).abs() < 2.5e-4, "{found:?}");
        assert_eq!(Calibration::of(&[pair(0.5, 1.0)]), None);
    }

    #[test]
    fn a_calibrated_model_has_no_error() {
        // Of four pairs with confidence 0.75 three are right.
        let margin = 3f64.ln();
        let pairs = [pair(1.0, margin), pair(1.0, margin), pair(0.0, -margin), pair(0.0, margin)];
        let found = Calibration::of(&pairs).unwrap();
        assert!(found.error < 1e-15 && found.right == 3, "{found:?}");
        // Equal scores are right about nothing, and sure of nothing.
        let equal = Calibration::of(&[pair(1.0, 0.0)]).unwrap();
        assert_eq!((equal.right, equal.error, equal.bins[0].count), (0, 0.0, 1));
    }

    #[test]
    fn a_histogram_has_an_edge_at_zero() {
        let (edges, counts) = histogram(&[-1.0, -0.1, 0.0, 0.1, 3.0], 6);
        assert_eq!((edges, counts), (vec![-1.0, 0.0, 1.0, 2.0, 3.0, 4.0], vec![2, 2, 0, 0, 1]));
        assert_eq!(histogram(&[0.0], 10), (vec![-0.5, 0.0, 0.5], vec![0, 1]));
    }
}
