//! Text from tokens as they come.
//!
//! A token alone has no text: a character may lie over several tokens, and some tokenizers take the first space off whatever is
//! decoded. So a window of tokens is decoded that begins before what was told last, and what it says beyond its known part is told,
//! once it does not end in U+FFFD, which stands for the bytes of a character that is not whole. This is how Text Generation
//! Inference (`decode_token` in `models/model.py`) and vLLM (`detokenize_incrementally`) do it.
//!
//! The pieces together are what [`Tokenizer::decode`] gives for all tokens at once, to the byte. For this, two things are done that
//! the `tokenizers` crate's own `DecodeStream` leaves out: special tokens that are skipped never enter the window, where one would be
//! taken for the text's beginning; and byte tokens (`<0xE4>`) wait for the end of their run, since one bad byte in it makes
//! U+FFFD of them all.

use std::ops::Deref;

use super::Tokenizer;
use crate::error::Result;

/// Tokens in, text out. Holds its tokenizer as a reference or as an `Arc`.
pub struct Stream<T: Deref<Target = Tokenizer>> {
    tokenizer: T,
    skip_special: bool,
    /// The tokens of the last piece, which was told, and those that came since.
    window: Vec<u32>,
    /// How many of them were told.
    told: usize,
}

impl<T: Deref<Target = Tokenizer>> Stream<T> {
    /// A stream at its beginning; `skip_special` as in [`Tokenizer::decode`].
    pub fn new(tokenizer: T, skip_special: bool) -> Stream<T> {
        Stream { tokenizer, skip_special, window: Vec::new(), told: 0 }
    }

    /// Takes the next token. The text that is certain now and was not before, never empty; none if more tokens are needed.
    pub fn push(&mut self, token: u32) -> Result<Option<String>> {
        if self.skip_special && self.tokenizer.is_special(token) {
            return Ok(None);
        }
        self.window.push(token);
        if self.tokenizer.token(token).is_some_and(|text| is_byte(&text)) {
            return Ok(None);
        }
        let piece = self.rest()?.filter(|piece| !piece.ends_with(char::REPLACEMENT_CHARACTER));
        if piece.is_some() {
            self.window.drain(..self.told);
            self.told = self.window.len();
        }
        Ok(piece)
    }

    /// The end: text that still waited, bytes of a character that never became whole as U+FFFD.
    pub fn finish(self) -> Result<Option<String>> {
        self.rest()
    }

    /// What the window says beyond what was told; none where that is nothing, or where it changes what was told.
    fn rest(&self) -> Result<Option<String>> {
        let known = self.tokenizer.decode(&self.window[..self.told], self.skip_special)?;
        let all = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(all.strip_prefix(known.as_str()).filter(|rest| !rest.is_empty()).map(String::from))
    }
}

/// Whether a token stands for one byte, as vocabularies with a byte fallback write it.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::rng::Rng;
    use crate::tokenizer::train::{FolderConfig, save_folder, train_byte_fallback, train_byte_level};

    const TEXT: &str = "def f(x):\n    return '日本語 😀👩‍💻 naïve'  # \u{fffd} end\r\n";

    fn byte_level(folder: &Path, vocab: usize) -> Tokenizer {
        let tokenizer = train_byte_level([TEXT.to_string()].into_iter(), vocab, &["<|im_end|>"]).unwrap();
        save_folder(&tokenizer, folder, &FolderConfig { eos: "<|im_end|>", ..Default::default() }).unwrap();
        Tokenizer::load(folder).unwrap()
    }

    fn byte_fallback(folder: &Path) -> Tokenizer {
        let tokenizer = train_byte_fallback(std::iter::repeat_n(TEXT.to_string(), 4), 380).unwrap();
        save_folder(&tokenizer, folder, &FolderConfig { eos: "</s>", bos: Some("<s>"), ..Default::default() }).unwrap();
        Tokenizer::load(folder).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut stream = Stream::new(tokenizer, skip_special);
        let mut pieces: Vec<String> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        pieces.extend(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_is_told_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        // No merges: a byte is a token.
        let tokenizer = Arc::new(byte_level(folder.path(), 257));
        let ids = tokenizer.encode("a😀語", false).unwrap();
        assert_eq!(ids.len(), 8);
        let mut stream = Stream::new(tokenizer, true);
        let told: Vec<Option<String>> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        let text = |text: &str| Some(text.to_string());
        assert_eq!(told, [text("a"), None, None, None, text("😀"), None, None, text("語")]);
        assert_eq!(stream.finish().unwrap(), None);
    }

    #[test]
    fn a_run_of_byte_tokens_is_told_at_its_end_and_spaces_stay() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = byte_fallback(folder.path());
        let id = |token: &str| tokenizer.id(token).unwrap();
        let word = [id("▁"), id("a"), id("<0xC3>"), id("<0xA9>"), id("▁"), id("<0xFF>"), id("</s>"), id("▁"), id("b")];
        assert_eq!(pieces(&tokenizer, &word, true), ["a", "é ", "\u{fffd} ", "b"]);
        // A bad byte undoes the character before it, which therefore was not told yet.
        assert_eq!(pieces(&tokenizer, &[id("<0xC3>"), id("<0xA9>"), id("<0xFF>")], true), ["\u{fffd}\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn the_pieces_are_the_text_for_any_tokens() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (tokenizer, seed) in [(byte_level(one.path(), 270), 1), (byte_fallback(two.path()), 2)] {
            let mut rng = Rng::new(seed, "stream", 0);
            for _ in 0..300 {
                let mut ids = Vec::new();
                while ids.len() < 40 {
                    match rng.below(3) {
                        0 => ids.extend(tokenizer.encode(TEXT, false).unwrap().into_iter().take(12)),
                        _ => ids.push(rng.below(tokenizer.vocab_size()) as u32),
                    }
                }
                for skip_special in [false, true] {
                    let whole = tokenizer.decode(&ids, skip_special).unwrap();
                    assert_eq!(pieces(&tokenizer, &ids, skip_special).concat(), whole, "{ids:?}");
                }
            }
            let ids = tokenizer.encode(TEXT, false).unwrap();
            assert_eq!(pieces(&tokenizer, &ids, true).concat(), tokenizer.decode(&ids, true).unwrap());
            assert!(pieces(&tokenizer, &ids, true).len() > 10);
        }
    }
}
