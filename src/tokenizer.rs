//! `tokenizer.json` and what belongs to it: special tokens, end tokens, the chat template.
