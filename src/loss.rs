//! From what a model computed to statistics and the gradient at its outputs. Sums are over the global batch: the caller gives
//! the norm that makes them a mean.

pub mod ppo;
pub mod reward;
pub mod sft;
