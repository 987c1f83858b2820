//! What is Qwen2's own: a bias on q, k and v, always.

use super::config::{Config, Fields};
use crate::error::Result;

pub(super) const STEM: &str = "Qwen2";

pub(super) fn read(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    if fields.flag_or("use_sliding_window", false)? {
        return Err(fields.refuse("use_sliding_window", "a sliding window"));
    }
    config.qkv_bias = true;
    Ok(())
}
