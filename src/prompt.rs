//! A problem as text, and text as tokens with a loss mask.
