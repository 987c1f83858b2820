//! Runs a program that nobody trusts, and says what happened.
