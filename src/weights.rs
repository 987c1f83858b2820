//! Named tensors: specification, values, gradients.
