//! Cross-entropy on the tokens that the mask names (the paper's Eq 7 on trace and answer, Eq 8 on the answer alone).

use super::Pending;
use crate::batch::NextTokens;
use crate::device::{Device, Real};
use crate::error::Result;
use crate::model::Decoder;
use crate::model::head::LogProbs;
use crate::weights::Grads;

/// Sum of `-log P(target)` over the tokens.
pub fn sum<D: Device>(device: &D, decoder: &Decoder<D>, hidden: &D::Buf<D::Act>, next: &NextTokens) -> Result<f64> {
    negative_sum(LogProbs::new(device, decoder, hidden, &next.rows, &next.targets, 1.0)?).read(device)
}

/// The same sum, and `dhidden[t, c]` of `norm * sum`.
pub fn sum_and_gradient<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    hidden: &D::Buf<D::Act>,
    next: &NextTokens,
    norm: f64,
    grads: &mut Grads<D>,
) -> Result<(Pending<D, f64>, D::Buf<D::Act>)> {
    let head = LogProbs::new(device, decoder, hidden, &next.rows, &next.targets, 1.0)?;
    let dlogprob = device.upload(&vec![D::Acc::of(-norm); next.rows.len()])?;
    let dhidden = head.backward(device, decoder, &dlogprob, grads)?;
    Ok((negative_sum(head), dhidden))
}

fn negative_sum<D: Device>(head: LogProbs<D>) -> Pending<D, f64> {
    Pending::new(vec![head.logprob], |values| -values[0].iter().sum::<f64>())
}
