//! Reading source text of several languages as far as brackets, literals and comments go.

use std::ops::Range;

use crate::problem::toolchain::Language;

/// Source text in a language.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) language: Language,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, language: Language) -> Source<'a> {
        Source { text, language }
    }

    /// Where the literal or comment that starts at `at` ends; `at` where none starts.
    fn skip(self, at: usize) -> usize {
        let bytes = &self.text.as_bytes()[at..];
        let until = |mark: &str, from: usize| {
            let found = self.text[at + from..].find(mark);
            found.map_or(self.text.len(), |found| at + from + found + mark.len())
        };
        let quote = match bytes {
            [b'/', b'/', ..] => return until("\n", 2),
            [b'/', b'*', ..] => return until("*/", 2),
            // A lifetime is no character.
            [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] if self.language == Language::Rust => b'\'',
            [b'\'', ..] if self.language == Language::Rust => return at,
            [b'`', ..] if !matches!(self.language, Language::JavaScript | Language::Go) => return at,
            [quote @ (b'"' | b'\'' | b'`'), ..] => *quote,
            _ => return at,
        };
        let mut end = 1;
        while end < bytes.len() && bytes[end] != quote {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        (at + end + 1).min(self.text.len())
    }

    /// Every position outside of literals and comments, with its byte and how many brackets are open before it.
    fn positions(self) -> impl Iterator<Item = (usize, u8, usize)> {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (0, 0_usize);
        std::iter::from_fn(move || {
            loop {
                let byte = *bytes.get(at)?;
                let end = self.skip(at);
                if end > at {
                    at = end;
                    continue;
                }
                let before = depth;
                match byte {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                at += 1;
                return Some((at - 1, byte, before));
            }
        })
    }

    /// Where the bracket that is opened at `open` closes.
    pub(super) fn close(self, open: usize) -> Option<usize> {
        let inner = Source { text: &self.text[open..], ..self };
        inner
            .positions()
            .find(|(at, byte, depth)| *at > 0 && *depth == 1 && matches!(byte, b')' | b']' | b'}'))
            .map(|p| open + p.0)
    }

    /// The parts between commas outside of brackets, trimmed; none for white space alone.
    pub(super) fn parts(self) -> Vec<Range<usize>> {
        let commas: Vec<usize> = self.positions().filter(|p| p.1 == b',' && p.2 == 0).map(|p| p.0).collect();
        let mut parts = Vec::new();
        let mut start = 0;
        for end in commas.into_iter().chain([self.text.len()]) {
            let part = &self.text[start..end];
            let from = start + part.len() - part.trim_start().len();
            if !part.trim().is_empty() {
                parts.push(from..from + part.trim().len());
            }
            start = end + 1;
        }
        parts
    }

    /// Where `what` stands outside of brackets, literals and comments, from left to right.
    pub(super) fn outside(self, what: &str) -> Vec<usize> {
        self.positions().filter(|p| p.2 == 0 && self.text.as_bytes()[p.0..].starts_with(what.as_bytes())).map(|p| p.0).collect()
    }

    /// Calls of `name`: where the name starts, where its brackets open and close. White space may stand between.
    pub(super) fn calls(self, name: &str) -> Vec<(usize, usize, usize)> {
        let bytes = self.text.as_bytes();
        let mut calls = Vec::new();
        for (at, ..) in self.positions().filter(|p| self.text.is_char_boundary(p.0)) {
            let free = at == 0 || !(is_word(bytes[at - 1]) || bytes[at - 1] == b'.');
            if free && let Some(rest) = self.text[at..].strip_prefix(name) {
                let open = self.text.len() - rest.trim_start().len();
                if bytes.get(open) == Some(&b'(')
                    && let Some(close) = self.close(open)
                {
                    calls.push((at, open, close));
                }
            }
        }
        calls
    }

    /// Names of the functions that are defined outside of every bracket.
    pub(super) fn functions(self) -> Vec<String> {
        let mut names = Vec::new();
        for (at, ..) in self.positions().filter(|p| p.1 == b'(' && p.2 == 0) {
            let head = self.text[..at].trim_end();
            let head = head.strip_suffix('=').unwrap_or(head).trim_end();
            let start = head.bytes().rposition(|byte| !is_word(byte)).map_or(0, |at| at + 1);
            if !head[start..].is_empty() {
                names.push(head[start..].to_owned());
            }
        }
        names
    }

    /// The words outside of strings and comments that start like a name.
    pub(super) fn words(self) -> Vec<&'a str> {
        let bytes = self.text.as_bytes();
        let starts = self
            .positions()
            .map(|p| p.0)
            .filter(|at| is_word(bytes[*at]) && !bytes[*at].is_ascii_digit() && (*at == 0 || !is_word(bytes[*at - 1])));
        starts.map(|at| &self.text[at..at + bytes[at..].iter().take_while(|byte| is_word(**byte)).count()]).collect()
    }
}

/// `text` with the word `from` made `to`.
pub(super) fn rename(text: &str, from: &str, to: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let end = at + from.len();
        let free = |byte: Option<&u8>| byte.is_none_or(|byte| !is_word(*byte));
        let whole = free(rest.as_bytes()[..at].last()) && free(rest.as_bytes().get(end));
        out += &rest[..at];
        out += if whole { to } else { from };
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_literals_and_comments_do_not_count() {
        let rust = Source::new("f(\"(\", '(', &'a x, vec![1, 2]) /* ) */ == b", Language::Rust);
        assert_eq!(rust.calls("f"), [(0, 1, 29)]);
        assert_eq!(rust.outside("=="), [39]);
        let inner = Source::new(&rust.text[2..29], Language::Rust);
        let parts: Vec<&str> = inner.parts().into_iter().map(|part| &inner.text[part]).collect();
        assert_eq!(parts, ["\"(\"", "'('", "&'a x", "vec![1, 2]"]);
        let script = Source::new("g(`)`, ')', \"\\\")\")", Language::JavaScript);
        assert_eq!(script.calls("g"), [(0, 1, 17)]);
        assert!(script.calls("h").is_empty() && Source::new("assert(", Language::Cpp).calls("assert").is_empty());
    }

    #[test]
    fn functions_and_words_are_found() {
        let cpp = Source::new("double poly(vector<double> xs){ return g(xs); }\nint h (int x) { return x; }", Language::Cpp);
        assert_eq!(cpp.functions(), ["poly", "h"]);
        assert_eq!(Source::new("const enc = (s) => {\n f(s)\n}\n", Language::JavaScript).functions(), ["enc"]);
        assert_eq!(Source::new("vec![a1, \"b\", 1e5]", Language::Rust).words(), ["vec", "a1"]);
        assert_eq!(rename("poly(polyx, s.poly)", "poly", "q"), "q(polyx, s.q)");
    }
}
