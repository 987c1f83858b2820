//! The Bradley-Terry loss on pairs of scores (the paper's Eq 12 and 13).

use super::Pending;
use crate::device::{Device, Real};
use crate::error::Result;
use crate::model::ScalarHead;
use crate::model::head::Scores;
use crate::weights::Grads;

/// Sums over the pairs of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Stats {
    /// Sum of the loss.
    pub loss: f64,
    /// Pairs whose order the scores have right; labels of 0.5 never count.
    pub correct: f64,
    /// Sum of (first - second).
    pub margin: f64,
}

/// Statistics of pairs `(0, 1), (2, 3), ...`, whose last tokens are `rows`, and, with `train = (norm, grads)`, `dhidden[t, c]`.
pub fn pairs<D: Device>(
    device: &D,
    head: &ScalarHead<D>,
    hidden: &D::Buf<D::Act>,
    rows: &[u32],
    labels: &[f64],
    train: Option<(f64, &mut Grads<D>)>,
) -> Result<(Pending<D, Stats>, Option<D::Buf<D::Act>>)> {
    let scores = Scores::new(device, head, hidden, rows)?;
    let labels: Vec<D::Acc> = labels.iter().map(|label| D::Acc::of(*label)).collect();
    let (mut dscore, mut sums) = (device.empty(rows.len())?, device.empty(2)?);
    let norm = train.as_ref().map_or(0.0, |(norm, _)| *norm);
    device.bradley_terry(&mut dscore, &mut sums, &scores.score, &device.upload(&labels)?, norm)?;
    let dhidden = match train {
        Some((_, grads)) => Some(scores.backward(device, head, &dscore, grads)?),
        None => None,
    };
    let stats = |values: &[Vec<f64>]| {
        let (sums, scores) = (&values[0], &values[1]);
        let margin = scores.chunks_exact(2).map(|pair| pair[0] - pair[1]).sum();
        Stats { loss: sums[0], correct: sums[1], margin }
    };
    Ok((Pending::new(vec![sums, scores.score], stats), dhidden))
}
