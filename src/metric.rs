//! pass@k, BLEU, significance.
