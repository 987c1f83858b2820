//! The stage runner: order, what is done, resuming.
