//! PPO's arithmetic around the network: per-token rewards, advantages, the two losses with their statistics. Masks come from
//! stored lengths, never from a pad id.
//!
//! Schulman et al. 2017; the paper's Eq 14 to 17. Choices the paper leaves open follow OpenRLHF's and TRL's common ground.

use serde::{Deserialize, Serialize};

use super::Pending;
use crate::device::{Bounds, Device, PPO_STATS, Real};
use crate::error::Result;

/// Log-ratios to the reference are clamped to this before they become a penalty.
pub const KL_CLAMP: f64 = 10.0;

/// The reward model's scale: scores are brought to mean 0 and deviation 1 over SFT samples, then clamped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreScale {
    /// Mean score of SFT samples.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl ScoreScale {
    /// From scores of SFT samples; the deviation is unbiased, and 1 where there is none.
    pub fn of(scores: &[f64]) -> ScoreScale {
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = scores.iter().map(|score| (score - mean) * (score - mean)).sum();
        let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
        ScoreScale { mean, deviation: if deviation > 0.0 { deviation } else { 1.0 } }
    }

    /// `clamp((score - mean) / deviation, ±clip)`.
    pub fn apply(&self, score: f64, clip: f64) -> f64 {
        ((score - self.mean) / self.deviation).clamp(-clip, clip)
    }
}

/// `r_t = -kl * clamp(logp_t - logp_ref_t, ±10)`, plus `score` on the last token (Eq 14, the k1 estimator).
pub fn token_rewards(logprob: &[f64], reference: &[f64], score: f64, kl: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> =
        logprob.iter().zip(reference).map(|(lp, rf)| -kl * (lp - rf).clamp(-KL_CLAMP, KL_CLAMP)).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// Advantages and returns of packed responses (Eq 17). Returns are built from the advantages before whitening; whitening is over
/// every token of the batch, with the unbiased variance and 1e-8 under the root.
pub fn advantages<D: Device>(
    device: &D,
    rewards: &[Vec<f64>],
    values: &[Vec<f64>],
    gamma: f32,
    lambda: f32,
    whiten: bool,
) -> Result<(Vec<Vec<f64>>, Vec<Vec<f64>>)> {
    let lengths: Vec<usize> = rewards.iter().map(Vec::len).collect();
    let bounds = Bounds::from_lengths(device, lengths.iter().copied())?;
    let (reward, value) = (upload(device, rewards)?, upload(device, values)?);
    let (mut advantage, mut returns) = (device.empty(bounds.total())?, device.empty(bounds.total())?);
    device.gae(&mut advantage, &mut returns, &reward, &value, &bounds, gamma, lambda)?;
    let count = bounds.total() as f64;
    if whiten && count > 1.0 {
        let mean = device.moments(&advantage, 0.0)?.0 / count;
        let variance = device.moments(&advantage, mean)?.1 / (count - 1.0);
        device.whiten(&mut advantage, mean, 1.0 / (variance + 1e-8).sqrt())?;
    }
    Ok((unpack(device, &advantage, &lengths)?, unpack(device, &returns, &lengths)?))
}

/// Per-token numbers of several responses as one buffer.
pub fn upload<D: Device>(device: &D, rows: &[Vec<f64>]) -> Result<D::Buf<D::Acc>> {
    device.upload(&rows.iter().flatten().map(|x| D::Acc::of(*x)).collect::<Vec<_>>())
}

/// One buffer as per-token numbers of several responses.
pub fn unpack<D: Device>(device: &D, buffer: &D::Buf<D::Acc>, lengths: &[usize]) -> Result<Vec<Vec<f64>>> {
    let flat = device.download(buffer)?;
    let mut at = 0;
    Ok(lengths
        .iter()
        .map(|length| {
            at += length;
            flat[at - length..at].iter().map(|x| x.f64()).collect()
        })
        .collect())
}

/// Sums over the tokens of a policy step.
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PolicyStats {
    /// Tokens.
    pub tokens: f64,
    /// Sum of the clipped surrogate loss.
    pub loss: f64,
    /// Tokens whose clipped branch was taken.
    pub clipped: f64,
    /// Sum of the ratios.
    pub ratio: f64,
    /// Sum of `old - logprob`.
    pub k1: f64,
    /// Sum of `ratio - 1 - (logprob - old)`: an unbiased, positive estimate of KL(old, policy).
    pub k3: f64,
    /// Sum of the entropies.
    pub entropy: f64,
}

impl PolicyStats {
    /// Adds another batch's sums.
    pub fn add(&mut self, other: &PolicyStats) {
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.clipped += other.clipped;
        self.ratio += other.ratio;
        self.k1 += other.k1;
        self.k3 += other.k3;
        self.entropy += other.entropy;
    }
}

/// The clipped surrogate (Eq 15): what [`policy_stats`] reads, and `dlogprob` of `norm * sum`.
pub fn policy<D: Device>(
    device: &D,
    logprob: &D::Buf<D::Acc>,
    old: &[Vec<f64>],
    advantage: &[Vec<f64>],
    clip: f32,
    norm: f64,
) -> Result<(D::Buf<D::Acc>, D::Buf<D::Acc>)> {
    let (old, advantage) = (upload(device, old)?, upload(device, advantage)?);
    let mut dlogprob = device.empty(D::len(logprob))?;
    let mut sums = device.empty(PPO_STATS)?;
    device.ppo_clip(&mut dlogprob, &mut sums, logprob, &old, &advantage, clip, norm)?;
    Ok((sums, dlogprob))
}

/// The statistics of a policy step from the sums of [`policy`] and the entropies of its tokens.
pub fn policy_stats<D: Device>(sums: D::Buf<D::Acc>, entropy: D::Buf<D::Acc>) -> Pending<D, PolicyStats> {
    Pending::new(vec![sums, entropy], |values| {
        let [loss, clipped, ratio, k1, k3] = values[0][..].try_into().expect("the operator's statistics");
        let (tokens, entropy) = (values[1].len() as f64, values[1].iter().sum());
        PolicyStats { tokens, loss, clipped, ratio, k1, k3, entropy }
    })
}

/// The clipped value loss (Eq 16 with the clipping of PPO's reference code): its sum and `dvalue` of `norm * sum`.
pub fn value<D: Device>(
    device: &D,
    value: &D::Buf<D::Acc>,
    old: &[Vec<f64>],
    returns: &[Vec<f64>],
    clip: f32,
    norm: f64,
) -> Result<(Pending<D, f64>, D::Buf<D::Acc>)> {
    let (old, returns) = (upload(device, old)?, upload(device, returns)?);
    let mut dvalue = device.empty(D::len(value))?;
    let mut sums = device.empty(2)?;
    device.value_clip(&mut dvalue, &mut sums, value, &old, &returns, clip, norm)?;
    Ok((Pending::new(vec![sums], |values| values[0][0]), dvalue))
}

/// `1 - Var(returns - values) / Var(returns)`: 1 for a perfect critic, 0 for a constant one.
pub fn explained_variance(values: &[Vec<f64>], returns: &[Vec<f64>]) -> f64 {
    let variance = |xs: &[f64]| {
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / xs.len() as f64
    };
    let returns: Vec<f64> = returns.iter().flatten().copied().collect();
    let errors: Vec<f64> = returns.iter().zip(values.iter().flatten()).map(|(r, v)| r - v).collect();
    if returns.is_empty() || variance(&returns) == 0.0 { 0.0 } else { 1.0 - variance(&errors) / variance(&returns) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    #[test]
    fn the_score_lands_on_the_last_token_and_the_penalty_on_every_one() {
        let rewards = token_rewards(&[-1.0, -2.0, -30.0], &[-1.5, -1.0, -1.0], 2.0, 0.1);
        // -0.1 * 0.5, -0.1 * -1, and -0.1 * clamp(-29) + 2.
        let expected = [-0.05, 0.1, 3.0];
        assert!(rewards.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{rewards:?}");
        assert_eq!(token_rewards(&[-1.0], &[-1.0], 0.0, 0.1), [-0.0]);
        assert!(token_rewards(&[], &[], 1.0, 0.1).is_empty());
    }

    #[test]
    fn scores_are_normalised_and_clamped() {
        let scale = ScoreScale::of(&[1.0, 2.0, 3.0]);
        assert_eq!(scale, ScoreScale { mean: 2.0, deviation: 1.0 });
        assert_eq!([scale.apply(2.5, 5.0), scale.apply(99.0, 5.0), scale.apply(-99.0, 5.0)], [0.5, 5.0, -5.0]);
        assert_eq!(ScoreScale::of(&[4.0, 4.0]).deviation, 1.0);
    }

    /// gamma 0.5, lambda 0.5, one response with rewards 1, 0, 2 and values 1, 2, 3: the last delta is 2 - 3 = -1, the one before 0 +
    /// 1.5 - 2 = -0.5, the first 1 + 1 - 1 = 1; advantages -1, -0.75, 0.8125.
    #[test]
    fn advantages_and_returns_by_hand() {
        let device = Cpu::<f64>::new();
        let (rewards, values) = (vec![vec![1.0, 0.0, 2.0]], vec![vec![1.0, 2.0, 3.0]]);
        let (advantage, returns) = advantages(&device, &rewards, &values, 0.5, 0.5, false).unwrap();
        assert_eq!(advantage, [[0.8125, -0.75, -1.0]]);
        assert_eq!(returns, [[1.8125, 1.25, 2.0]]);
    }

    #[test]
    fn whitening_is_over_the_batch_and_leaves_the_returns() {
        let device = Cpu::<f64>::new();
        let (rewards, values) = (vec![vec![1.0], vec![3.0], vec![]], vec![vec![0.0], vec![0.0], vec![]]);
        let (advantage, returns) = advantages(&device, &rewards, &values, 1.0, 0.95, true).unwrap();
        // Mean 2, unbiased variance 2.
        let x = 1.0 / (2.0f64 + 1e-8).sqrt();
        assert!((advantage[0][0] + x).abs() < 1e-12 && (advantage[1][0] - x).abs() < 1e-12);
        assert_eq!(returns, [vec![1.0], vec![3.0], vec![]]);
    }

    #[test]
    fn explained_variance_of_known_critics() {
        let returns = vec![vec![1.0, 2.0], vec![3.0]];
        assert_eq!(explained_variance(&returns, &returns), 1.0);
        assert_eq!(explained_variance(&[vec![5.0, 5.0], vec![5.0]], &returns), 0.0);
    }
}
