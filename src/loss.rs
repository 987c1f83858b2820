//! From what a model computed to statistics and the gradient at its outputs.
