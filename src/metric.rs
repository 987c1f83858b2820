//! pass@k, BLEU, exact match, significance: from outcomes and texts to numbers with their uncertainty, and to tables of them.

pub mod bleu;
pub mod comparison;
pub mod pass_at_k;
pub mod scores;
pub mod significance;
pub mod similarity;
pub mod table;
pub mod timing;
pub mod tokens;
