//! What a person and a file see of a run: progress bars, `metrics.jsonl`.
