//! What is Llama's own: no bias on q, k and v (a bias on o or on the feed-forward layer is not supported).

use super::config::{Config, Fields};
use crate::error::Result;

pub(super) const STEM: &str = "Llama";

pub(super) fn read(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    // Llama's attention_bias also puts one on o_proj, which no published code model has.
    for key in ["attention_bias", "mlp_bias"] {
        if fields.flag_or(key, false)? {
            return Err(fields.refuse(key, "a bias here"));
        }
    }
    config.qkv_bias = false;
    Ok(())
}
