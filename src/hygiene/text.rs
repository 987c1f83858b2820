//! Text as it is compared: normalised, cut into tokens, and those into n-grams.
//!
//! Tokens are runs of letters, digits and `_`, in lower case, and every other character that is no white space by itself: the same for
//! prose and for code, because a conversation is both. Indentation does not count.

/// Prose with code in fences: line ends as `\n`, no white space at the ends of lines, no empty lines; in a fence that names its
/// language, [`code`].
pub fn prose(text: &str) -> String {
    let mut out = String::new();
    let mut block: Option<(&str, &str, String)> = None;
    let text = lines(text);
    for line in text.lines() {
        let inner = line.trim_start();
        let ticks = &inner[..inner.len() - inner.trim_start_matches('`').len()];
        match &mut block {
            Some((fence, language, inside)) if ticks.len() >= fence.len() && inner.trim_end().len() == ticks.len() => {
                out += &code(inside, language);
                block = None;
            }
            Some((_, _, inside)) => {
                inside.push_str(line);
                inside.push('\n');
            }
            None if ticks.len() >= 3 && !inner[ticks.len()..].contains('`') => {
                let language = inner[ticks.len()..].split_whitespace().next().unwrap_or("text");
                block = Some((ticks, language, String::new()));
            }
            None => push_line(&mut out, line),
        }
    }
    // A fence that nothing closes: the text was cut.
    if let Some((_, language, inside)) = block {
        out += &code(&inside, language);
    }
    out
}

/// Code without comments, empty lines, and white space at the ends of lines. Docstrings are strings, and stay.
pub fn code(text: &str, language: &str) -> String {
    let text = lines(text);
    let bare = match language.to_ascii_lowercase().as_str() {
        "python" | "python3" | "py" => without_comments(&text, true),
        "java" | "c" | "cpp" | "c++" | "go" | "rust" | "js" | "javascript" | "ts" | "typescript" => {
            without_comments(&text, false)
        }
        _ => text,
    };
    let mut out = String::new();
    bare.lines().for_each(|line| push_line(&mut out, line));
    out
}

fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn push_line(out: &mut String, line: &str) {
    let line = line.trim_end();
    if !line.is_empty() {
        out.push_str(line);
        out.push('\n');
    }
}

/// Python's comments, or those of C and its like; what looks like one inside a string stays.
fn without_comments(text: &str, python: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if (python && c == '#') || (!python && rest.starts_with("//")) {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if !python && rest.starts_with("/*") {
            rest = rest[2..].find("*/").map_or("", |end| &rest[2 + end + 2..]);
            // A comment parts what stands around it.
            out.push(' ');
        } else if c == '"' || c == '\'' || (!python && c == '`') {
            let length = string(rest, c, python);
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The length of the string literal that `text` opens with. One quote ends at the end of its line at the latest: that is where a
/// lifetime of Rust or an apostrophe does no more harm.
fn string(text: &str, quote: char, python: bool) -> usize {
    let triple = quote.to_string().repeat(3);
    let long = (python && text.starts_with(&triple)) || quote == '`';
    let fence = if long && quote != '`' { triple.len() } else { 1 };
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(fence) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if text[at..].starts_with(&text[..fence]) {
            return at + fence;
        } else if c == '\n' && !long {
            return at;
        }
    }
    text.len()
}

/// The tokens of a text, as 64-bit hashes.
pub fn tokens(text: &str) -> Vec<u64> {
    let mut tokens = Vec::new();
    let mut word: Option<u64> = None;
    for c in text.chars() {
        if c.is_alphanumeric() || c == '_' {
            let hash = word.get_or_insert(WORD);
            c.to_lowercase().for_each(|c| *hash = mix(*hash, u64::from(c)));
        } else {
            tokens.extend(word.take());
            if !c.is_whitespace() {
                tokens.push(mix(MARK, u64::from(c)));
            }
        }
    }
    tokens.extend(word);
    tokens
}

const WORD: u64 = 0x9e37_79b9_7f4a_7c15;
const MARK: u64 = 0xd1b5_4a32_d192_ed03;

/// One step of a hash: every bit of both goes into every bit of the result (the finaliser of SplitMix64).
fn mix(hash: u64, value: u64) -> u64 {
    let mut x = hash.rotate_left(23).wrapping_add(value).wrapping_add(WORD);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The distinct n-grams of tokens, as sorted 64-bit hashes. Fewer than `n` tokens are one n-gram, none are none. Two n-grams of a
/// corpus of a billion share a hash with a chance of 3 %, and that moves one similarity by one n-gram.
pub fn shingles(tokens: &[u64], n: usize) -> Vec<u64> {
    let gram = |window: &[u64]| window.iter().fold(window.len() as u64, |hash, token| mix(hash, *token));
    let mut grams: Vec<u64> = match tokens.len() {
        0 => Vec::new(),
        length if length < n => vec![gram(tokens)],
        _ => tokens.windows(n).map(gram).collect(),
    };
    grams.sort_unstable();
    grams.dedup();
    grams
}

/// How many values two sorted lists share.
pub fn common(a: &[u64], b: &[u64]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, count) = (i + 1, j + 1, count + 1),
        }
    }
    count
}

/// |A ∩ B| / |A ∪ B| of two sorted lists; 0 where one is empty.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let common = common(a, b);
    if common == 0 { 0.0 } else { common as f64 / (a.len() + b.len() - common) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similarity(a: &str, b: &str, n: usize) -> f64 {
        jaccard(&shingles(&tokens(a), n), &shingles(&tokens(b), n))
    }

    #[test]
    fn jaccard_is_what_a_hand_counts() {
        // Trigrams: abc bcd cde / abc bcd cdf: two shared, four in all.
        assert_eq!(similarity("a b c d e", "a b c d f", 3), 0.5);
        // a+b, +b* , b*c / the same, *c; : three shared, four in all.
        assert_eq!(similarity("a + b * c", "A+b*c;", 3), 0.75);
        // Repeated n-grams count once: ab ba / ab ba.
        assert_eq!(similarity("a b a b a", "a b a", 2), 1.0);
        // Shorter than n: one n-gram, which equals no longer text's.
        assert_eq!((similarity("a b", "A  b", 3), similarity("a b", "a b c", 3)), (1.0, 0.0));
        assert_eq!((similarity("", "", 3), similarity(" \n", "a", 3)), (0.0, 0.0));
        // The order of n-grams does not count, that of tokens does.
        assert_eq!(similarity("a b c", "c b a", 3), 0.0);
        // A word is not its letters, and a sign is not a word.
        assert_eq!(tokens("ab a_b1 é+É").len(), 5);
        assert_eq!(tokens("é")[0], tokens("É")[0]);
        assert_ne!(tokens("ab"), tokens("a b"));
    }

    #[test]
    fn code_is_compared_without_comments() {
        let plain = "def f(a):\n    return a + '#' + \"\"\"\n# in a string\n\"\"\"\n";
        let dressed = "# what it does\r\ndef f(a):  # here\n\n    return a + '#' + \"\"\"\n# in a string\n\"\"\"   # end";
        assert_eq!(code(dressed, "python"), plain);
        let java = "int f(int a) { /* two\nlines */ return a; // end\n}\nString s = \"// no\";";
        assert_eq!(code(java, "Java"), "int f(int a) {   return a;\n}\nString s = \"// no\";\n");
        // Of a language that is not known, nothing is a comment.
        assert_eq!(code("a # b\n", "haskell"), "a # b\n");
    }

    #[test]
    fn fences_hold_code_and_the_rest_is_prose() {
        let text = "Look # here:\r\n\n```python\nx = 1  # one\n```\nso.  \n````\n# not known\n```\n````\n```py\ny # cut";
        assert_eq!(prose(text), "Look # here:\nx = 1\nso.\n# not known\n```\ny\n");
        assert_eq!(prose("a `b` ```c```\n"), "a `b` ```c```\n");
    }
}
