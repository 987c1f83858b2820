//! The teacher of the `micro` suite, where the injected bug is known.

use super::{Query, Reply, Teacher};
use crate::error::{Error, Result};

/// A teacher that knows the answers.
pub struct Scripted;

impl Scripted {
    /// A teacher whose answers depend on `seed`, a share `error_rate` of them wrong.
    pub fn new(_seed: u64, _error_rate: f64) -> Scripted {
        Scripted
    }
}

impl Teacher for Scripted {
    fn model(&self) -> &str {
        "scripted"
    }

    fn ask(&self, _query: &Query<'_>) -> Result<Reply> {
        Err(Error::Teacher("the scripted teacher is not part of this build".into()))
    }
}
