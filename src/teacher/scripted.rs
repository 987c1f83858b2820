//! The teacher of the `micro` suite, where the injected bug is known.
