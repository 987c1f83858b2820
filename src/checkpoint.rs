//! Safetensors and PEFT folders, in and out, atomically.
