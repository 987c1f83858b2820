//! pass@k, BLEU, significance: from outcomes and texts to numbers with their uncertainty.

pub mod bleu;
pub mod pass_at_k;
pub mod significance;
pub mod timing;
