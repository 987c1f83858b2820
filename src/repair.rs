//! One broken program, its tests, and a fix that passes them.
