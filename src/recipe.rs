//! The TOML recipe: read, checked, every key with its default.
