//! The extents at which operators are timed.

use serde::Serialize;

use crate::device::Heads;
use crate::model::Config;

/// Extents of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shape {
    /// Model width.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Attention's heads.
    pub heads: Heads,
}

impl Shape {
    /// Qwen2.5-32B, the model of the paper.
    pub const QWEN_32B: Shape =
        Shape { hidden: 5120, intermediate: 27648, vocab: 152_064, heads: Heads { q: 40, kv: 8, dim: 128 } };

    /// At most so large that the CPU computes it at once: the widths cut, heads as wide as they are.
    pub(super) fn reduced(self) -> Shape {
        let group = self.heads.q / self.heads.kv;
        let kv = self.heads.kv.min(2);
        Shape {
            hidden: self.hidden.min(512),
            intermediate: self.intermediate.min(1024),
            vocab: self.vocab.min(2048),
            heads: Heads { q: kv * group.min(4), kv, ..self.heads },
        }
    }

    /// Heads of another width, of about as many columns.
    pub(super) fn heads_of(self, dim: usize) -> Heads {
        let kv = (self.heads.kv_width() / dim).max(1);
        Heads { q: kv * (self.heads.q / self.heads.kv), kv, dim }
    }
}

impl From<&Config> for Shape {
    fn from(config: &Config) -> Shape {
        Shape { hidden: config.hidden, intermediate: config.intermediate, vocab: config.vocab, heads: config.heads }
    }
}
