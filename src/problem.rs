//! Problems and their check: suites, vetting, the split, the cap.

pub mod micro;
