//! Small problems made from a seed.

use crate::record::Problem;

/// `count` problems of the stream of `seed`.
pub fn generate(_seed: u64, _count: usize) -> Vec<Problem> {
    Vec::new()
}
