//! The key: where it is read from, and how it is kept out of all that is written.
//!
//! A server may say the key back: in an error, in a header, in an answer's own text, whole, in part or encoded. So whatever comes in
//! passes [`Key::hide`] before anything else reads it.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

use crate::error::{Error, Result};

/// What stands where the key, or a part of it, stood.
const HIDDEN: &str = "[key]";
/// A part of fewer bytes than this, or of less than half the key, does not give it away. A key as short as that is none: servers of
/// one's own are sent `EMPTY`, which is also a word in programs.
const WIDTH: usize = 8;

/// A secret. It can be sent, and nothing else.
pub(super) struct Key {
    secret: String,
    width: usize,
    /// Every part of `width` bytes of the key, of its Base64 forms and of its hexadecimal form.
    parts: HashSet<Vec<u8>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Key {
    fn new(secret: String) -> Key {
        let width = (secret.len() / 2).max(WIDTH);
        let mut forms = vec![secret.clone()];
        forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
        // Inside a longer text that is encoded, the key starts at one of three places of a group of four characters.
        for lead in 0..3 {
            let bytes: Vec<u8> = std::iter::repeat_n(0, lead).chain(secret.bytes()).collect();
            // The first and the last character also carry bits of what stands beside the key.
            let form = base64(&bytes)[[0, 2, 3][lead]..bytes.len() * 8 / 6].to_string();
            forms.push(form.replace('+', "-").replace('/', "_"));
            forms.push(form);
        }
        let parts = match secret.len() < WIDTH {
            true => HashSet::new(),
            false => forms.iter().flat_map(|form| form.as_bytes().windows(width)).map(<[u8]>::to_vec).collect(),
        };
        Key { secret, width, parts }
    }

    /// The key as it is sent.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// `text` without the key, its parts and its encoded forms.
    pub(super) fn hide(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        let mut shown = String::new();
        // Up to where `text` is copied or hidden, and up to where it is hidden.
        let (mut done, mut hidden) = (0, 0);
        for (at, part) in bytes.windows(self.width).enumerate() {
            if self.parts.contains(part) {
                if at > hidden || hidden == 0 {
                    shown += &text[done.max(hidden)..at];
                    shown += HIDDEN;
                }
                hidden = at + self.width;
                done = hidden;
            }
        }
        shown + &text[done..]
    }

    /// [`hide`](Key::hide) for each string of a document, names included: JSON can spell a character in several ways.
    pub(super) fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hide(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide_in(value)),
            Value::Object(fields) => {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(name, mut value)| {
                        self.hide_in(&mut value);
                        (self.hide(&name), value)
                    })
                    .collect();
            }
            _ => {}
        }
    }
}

/// Base64 (RFC 4648, 4) without its padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(group.get(i).copied().unwrap_or(0)));
        let digits = (0..=group.len()).map(|i| char::from(DIGITS[bits >> (18 - 6 * i) & 63]));
        text.extend(digits);
    }
    text
}

/// Reads the key from the variable `named`, else `usual`. None where no key is to be sent: `named` is empty, or nothing is named, the
/// variable is not set and the server is `own`, which rarely wants one.
pub(super) fn read(usual: &str, named: Option<&str>, own: bool) -> Result<Option<Key>> {
    let name = named.unwrap_or(usual);
    if name.is_empty() {
        return Ok(None);
    }
    let at = "teacher.key_env";
    // Who writes the key itself where its variable's name belongs must not find it in a message.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') || name.as_bytes()[0].is_ascii_digit() {
        return Err(Error::input(
            at,
            "the name of an environment variable expected, letters, digits and _; something else found",
        ));
    }
    let key = std::env::var(name).unwrap_or_default().trim().to_string();
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(Key::new(key)));
    }
    if key.is_empty() && own && named.is_none() {
        return Ok(None);
    }
    let found = if key.is_empty() { "it is not set" } else { "it holds characters that no key has" };
    Err(Error::input(at, format!("the environment variable {name} with the key expected; {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        let cases = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_key_is_hidden_whole_in_part_and_encoded() {
        let key = Key::new("sk-0123456789abcdefXYZ".into());
        let secret = key.secret().to_string();
        assert_eq!(key.hide(&format!("bad key {secret}!")), "bad key [key]!");
        assert_eq!(key.hide(&format!("{secret}{secret} é {secret}")), "[key] é [key]");
        assert_eq!(key.hide(&format!("a {} b {}", &secret[..11], &secret[11..])), "a [key] b [key]");
        assert_eq!(key.hide("sk-01234567 is half of it, sk-0123456 is less"), "[key] is half of it, sk-0123456 is less");
        for lead in ["", "x", "ab", "user:"] {
            let encoded = base64(format!("{lead}{secret}:tail").as_bytes());
            let shown = key.hide(&encoded);
            assert!(shown.contains(HIDDEN) && shown.len() < 20, "{lead}: {shown}");
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(key.hide(&hex), HIDDEN);
        assert_eq!(format!("{key:?}"), HIDDEN);
        let mut value = serde_json::json!({"a": [secret.as_str(), 1], secret.as_str(): null});
        key.hide_in(&mut value);
        assert_eq!(value.to_string(), r#"{"a":["[key]",1],"[key]":null}"#);
    }

    #[test]
    fn a_word_is_no_key() {
        assert_eq!(Key::new("EMPTY".into()).hide("EMPTY = 1"), "EMPTY = 1");
    }

    #[test]
    fn a_key_in_the_place_of_a_name_is_not_repeated() {
        let error = read("X", Some("sk-ant-secret"), false).unwrap_err().to_string();
        assert!(error.starts_with("teacher.key_env: the name of an environment variable expected") && !error.contains("secret"));
    }
}
