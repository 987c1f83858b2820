//! The two heads: the language model's, as log-probs of chosen tokens, and the scalar head of reward models and critics.

use super::Decoder;
use crate::checkpoint::{Named, Tensors};
use crate::device::Device;
use crate::error::Result;
use crate::rng::Rng;
use crate::weights::{Grads, Param, Part};

/// One linear map to a number, without a bias: `score[1, c]`.
pub struct ScalarHead<D: Device> {
    /// `score.weight[1, c]`.
    pub weight: Param<D>,
}

impl<D: Device> ScalarHead<D> {
    /// Its tensor's name in a `...ForSequenceClassification` checkpoint.
    pub const NAME: &'static str = "score.weight";

    fn parts(hidden: usize) -> Vec<Part> {
        vec![Part::new(Self::NAME, &[1, hidden])]
    }

    /// N(0, 1/(hidden + 1)) in variance: a score of a normalised hidden state then has a deviation of about one (Stiennon et al.
    /// 2020).
    pub fn random(device: &D, hidden: usize, seed: u64) -> Result<Self> {
        let deviation = 1.0 / ((hidden + 1) as f64).sqrt();
        let mut rng = Rng::new(seed, "score head", 0);
        let values: Vec<f32> = (0..hidden).map(|_| (rng.normal() * deviation) as f32).collect();
        Ok(ScalarHead { weight: Param::master(device, Self::parts(hidden), &values)? })
    }

    /// Zeros: a critic that starts by predicting nothing.
    pub fn zeros(device: &D, hidden: usize) -> Result<Self> {
        Ok(ScalarHead { weight: Param::master(device, Self::parts(hidden), &vec![0.0f32; hidden])? })
    }

    /// From the tensor `name`, if the checkpoint has it.
    pub fn from_tensors(device: &D, tensors: &Tensors, name: &str, hidden: usize) -> Result<Option<Self>> {
        if tensors.shape(name).is_none() {
            return Ok(None);
        }
        let values: Vec<f32> = tensors.read(name, &[1, hidden])?;
        Ok(Some(ScalarHead { weight: Param::master(device, Self::parts(hidden), &values)? }))
    }

    /// The head's tensor under `name`.
    pub fn named(&self, device: &D, name: &str) -> Result<Named> {
        let (part, values) = self.weight.read::<f32>(device)?.remove(0);
        Ok(Named { name: name.to_string(), shape: part.shape, values })
    }
}

/// Log-probs of chosen tokens, and what their backward needs.
pub struct LogProbs<D: Device> {
    /// `logprob[i]` of target `i`.
    pub logprob: D::Buf<D::Acc>,
    /// `entropy[i]` of the distribution it was drawn from.
    pub entropy: D::Buf<D::Acc>,
    lse: D::Buf<D::Acc>,
    x: D::Buf<D::Act>,
    rows: D::Buf<u32>,
    targets: D::Buf<u32>,
    scale: f32,
    tokens: usize,
}

impl<D: Device> LogProbs<D> {
    /// The log-probs of `targets[i]` after token `rows[i]` of `hidden[t, c]`, with the logits multiplied by `scale` (1 /
    /// temperature). Only these rows meet the head matrix.
    pub fn new(
        device: &D,
        decoder: &Decoder<D>,
        hidden: &D::Buf<D::Act>,
        rows: &[u32],
        targets: &[u32],
        scale: f32,
    ) -> Result<Self> {
        let (c, v) = (decoder.config.hidden, decoder.config.vocab);
        let extents = (rows.len(), c, v);
        let (rows, targets) = (device.upload(rows)?, device.upload(targets)?);
        let mut x = device.empty(extents.0 * c)?;
        device.gather_rows(&mut x, hidden, &rows, c)?;
        let (mut logprob, mut lse, mut entropy) = (device.empty(extents.0)?, device.empty(extents.0)?, device.empty(extents.0)?);
        let head = &decoder.head().value;
        device.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, head, &targets, scale, extents)?;
        Ok(LogProbs { logprob, entropy, lse, x, rows, targets, scale, tokens: D::len(hidden) / c })
    }

    /// `dhidden[t, c]` from `dlogprob[i]`; the head's gradient is added to `grads` where it is trained.
    pub fn backward(
        &self,
        device: &D,
        decoder: &Decoder<D>,
        dlogprob: &D::Buf<D::Acc>,
        grads: &mut Grads<D>,
    ) -> Result<D::Buf<D::Act>> {
        let (c, v) = (decoder.config.hidden, decoder.config.vocab);
        let head = decoder.head();
        let mut dx = device.empty(D::len(&self.x))?;
        let extents = (D::len(&self.targets), c, v);
        let dhead = grads.of(head);
        device.linear_logprob_bwd(
            &mut dx,
            dhead,
            dlogprob,
            &self.lse,
            &self.x,
            &head.value,
            &self.targets,
            self.scale,
            extents,
        )?;
        let mut dhidden = device.empty(self.tokens * c)?;
        device.scatter_rows(&mut dhidden, &dx, &self.rows, c)?;
        Ok(dhidden)
    }
}

/// Scores of chosen tokens, and what their backward needs.
pub struct Scores<D: Device> {
    /// `score[i]`.
    pub score: D::Buf<D::Acc>,
    x: D::Buf<D::Act>,
    rows: D::Buf<u32>,
    tokens: usize,
}

impl<D: Device> Scores<D> {
    /// The head's value at token `rows[i]` of `hidden[t, c]`.
    pub fn new(device: &D, head: &ScalarHead<D>, hidden: &D::Buf<D::Act>, rows: &[u32]) -> Result<Self> {
        let c = head.weight.elements();
        let rows = device.upload(rows)?;
        let mut x = device.empty(D::len(&rows) * c)?;
        device.gather_rows(&mut x, hidden, &rows, c)?;
        let mut score = device.empty(D::len(&rows))?;
        device.scalar_head_fwd(&mut score, &x, &head.weight.value, c)?;
        Ok(Scores { score, x, rows, tokens: D::len(hidden) / c })
    }

    /// `dhidden[t, c]` from `dscore[i]`; the head's gradient is added to `grads` where it is trained.
    pub fn backward(
        &self,
        device: &D,
        head: &ScalarHead<D>,
        dscore: &D::Buf<D::Acc>,
        grads: &mut Grads<D>,
    ) -> Result<D::Buf<D::Act>> {
        let c = head.weight.elements();
        let mut dx = device.empty(D::len(&self.x))?;
        device.scalar_head_bwd(&mut dx, grads.of(&head.weight), dscore, &self.x, &head.weight.value, c)?;
        let mut dhidden = device.empty(self.tokens * c)?;
        device.scatter_rows(&mut dhidden, &dx, &self.rows, c)?;
        Ok(dhidden)
    }
}
