//! The decoder: Qwen2.5 and Llama, forward and backward by hand.
