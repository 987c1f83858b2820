//! Problems and their check: suites, vetting, the split, the cap.
