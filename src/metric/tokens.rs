//! How a text becomes the tokens that BLEU counts, and code the tokens that an exact match compares.

/// A tokenizer. The first three are sacrebleu's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// mteval-v13a, made for prose; sacrebleu's default.
    Mteval13a,
    /// At white space; sacrebleu's `none`, and what `nltk` is mostly given.
    Whitespace,
    /// Characters other than white space.
    Char,
    /// What a compiler reads, for C-like languages and Python alike. No published tool has exactly this one; it is
    ///
    /// - names: letters, digits, `_` and `$`, not starting with a digit;
    /// - numbers with their prefix, fraction, exponent and suffix (`0x1F`, `1.5e-3`, `10UL`, `1_000`);
    /// - strings and characters whole, with Python's prefixes (`rb'..'`) and three quotes, and `` `..` ``; one whose end is missing
    ///   ends with its line;
    /// - operators, the longest that C, C++, Java, JavaScript, Go, Rust or Python have (`>>>=`, `**`, `->`, `:=`);
    /// - any other character alone.
    ///
    /// White space is dropped, line ends and indentation with it. Comments are tokens like the rest, because what starts one in
    /// some of these languages is an operator or a directive in others (`//`, `#`).
    Code,
}

impl Tokens {
    /// The tokenizer's name in a signature and in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Tokens::Mteval13a => "13a",
            Tokens::Whitespace => "none",
            Tokens::Char => "char",
            Tokens::Code => "code",
        }
    }

    /// The tokenizer of that name.
    pub fn named(name: &str) -> Option<Tokens> {
        [Tokens::Mteval13a, Tokens::Whitespace, Tokens::Char, Tokens::Code].into_iter().find(|tokens| tokens.name() == name)
    }

    /// The tokens of a text.
    pub fn of(self, text: &str) -> Vec<String> {
        match self {
            Tokens::Mteval13a => mteval13a(text),
            Tokens::Whitespace => words(text),
            Tokens::Char => text.chars().filter(|c| !is_space(*c)).map(String::from).collect(),
            Tokens::Code => lex(text, Comments::Unknown).into_iter().map(|(_, token)| token.to_string()).collect(),
        }
    }
}

/// White space as Python's `str.split` sees it: four separators more than Unicode's property.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn words(text: &str) -> Vec<String> {
    text.split(is_space).filter(|word| !word.is_empty()).map(String::from).collect()
}

/// mteval-v13a's language-independent tokens, in sacrebleu's order of rules.
fn mteval13a(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let mut spaced = String::from(" ");
    for c in text.chars() {
        // ASCII punctuation except ' , - .
        match c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') {
            true => spaced.extend([' ', c, ' ']),
            false => spaced.push(c),
        }
    }
    spaced.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let stop = |c: char| matches!(c, '.' | ',');
    let spaced = rewrite(&spaced, |a, b| (!digit(a) && stop(b)).then(|| vec![a, ' ', b, ' ']));
    let spaced = rewrite(&spaced, |a, b| (stop(a) && !digit(b)).then(|| vec![' ', a, ' ', b]));
    let spaced = rewrite(&spaced, |a, b| (digit(a) && b == '-').then(|| vec![a, ' ', b, ' ']));
    words(&spaced)
}

/// Replaces pairs of neighbours from left to right; a replaced pair is not looked at again.
fn rewrite(text: &str, rule: impl Fn(char, char) -> Option<Vec<char>>) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut characters = text.chars().peekable();
    while let Some(a) = characters.next() {
        match characters.peek().and_then(|b| rule(a, *b)) {
            Some(pair) => {
                out.extend(pair);
                characters.next();
            }
            None => out.push(a),
        }
    }
    out
}

/// What starts a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comments {
    /// The language is not known: nothing does.
    Unknown,
    /// `#`, to the end of the line.
    Hash,
    /// `//` to the end of the line, and `/*` to `*/`.
    Slashes,
}

/// Operators of more than one character, longer ones first.
const OPERATORS: [&str; 50] = [
    ">>>=", "<<=", ">>=", "**=", "//=", "...", "..=", "===", "!==", "<=>", "&&=", "||=", "??=", ">>>", "->*", "&^=", "->", "=>",
    "::", "==", "!=", "<=", ">=", "&&", "||", "++", "--", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "@=", "**", "//", "<<",
    ">>", ":=", "?.", "??", "?:", "..", "&^", "<-", "##", "!!", "~=",
];

/// The tokens of code with the bytes they start at; comments are left out where it is known what starts one.
pub(super) fn lex(text: &str, comments: Comments) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if is_space(first) {
            at += first.len_utf8();
            continue;
        }
        if let Some(length) = comment(rest, comments) {
            at += length;
            continue;
        }
        let length = if let Some(length) = string(rest) {
            length
        } else if is_name(first) && !first.is_numeric() {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else if first.is_ascii_digit() || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            number(rest)
        } else {
            OPERATORS.iter().find(|operator| rest.starts_with(**operator)).map_or(first.len_utf8(), |operator| operator.len())
        };
        tokens.push((at, &rest[..length]));
        at += length;
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

/// The bytes of the comment that `text` starts with.
fn comment(text: &str, comments: Comments) -> Option<usize> {
    let line = || text.find('\n').unwrap_or(text.len());
    match comments {
        Comments::Hash if text.starts_with('#') => Some(line()),
        Comments::Slashes if text.starts_with("//") => Some(line()),
        Comments::Slashes if text.starts_with("/*") => Some(text[2..].find("*/").map_or(text.len(), |end| end + 4)),
        _ => None,
    }
}

/// The bytes of the string that `text` starts with, prefix and quotes included.
fn string(text: &str) -> Option<usize> {
    let prefix =
        text.find(|c: char| !matches!(c, 'r' | 'R' | 'b' | 'B' | 'u' | 'U' | 'f' | 'F' | 'L')).filter(|length| *length <= 2)?;
    let open = text[prefix..].chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let triple: String = [open; 3].iter().collect();
    let long = open != '`' && text[prefix..].starts_with(&triple);
    let close = if long { triple.as_str() } else { &triple[..1] };
    let start = prefix + close.len();
    let mut characters = text[start..].char_indices();
    while let Some((at, c)) = characters.next() {
        if text[start + at..].starts_with(close) {
            return Some(start + at + close.len());
        }
        match c {
            '\\' => drop(characters.next()),
            '\n' if !long && open != '`' => return Some(start + at),
            _ => {}
        }
    }
    // Its end is missing.
    Some(text[start..].find('\n').map_or(text.len(), |at| start + at))
}

/// The bytes of the number that `text` starts with.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let mut length = 0;
    while let Some(byte) = bytes.get(length) {
        let next = bytes.get(length + 1);
        let sign = matches!(next, Some(b'+' | b'-')) && bytes.get(length + 2).is_some_and(u8::is_ascii_digit);
        length += match byte {
            b'e' | b'E' if !hex && sign => 2,
            b'p' | b'P' if hex && sign => 2,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => 1,
            // 1..5 is a range, 1.max() a call, 1.5, 1. and 1.f are numbers.
            b'.' if !text[..length].contains('.') && ends_in_fraction(&text[length + 1..]) => 1,
            _ => break,
        };
    }
    length
}

/// Whether what follows a number's point belongs to it.
fn ends_in_fraction(text: &str) -> bool {
    let suffix = text.find(|c| !is_name(c)).unwrap_or(text.len());
    match text.chars().next() {
        Some('.') => false,
        Some(c) if is_name(c) && !c.is_ascii_digit() => {
            matches!(&text[..suffix], "f" | "F" | "d" | "D" | "l" | "L" | "j" | "J")
                || matches!(c, 'e' | 'E') && text[1..].starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_mteval_13as() {
        assert_eq!(
            mteval13a("Hello, \"world\": 1,000.5 x-1 3-4 &lt;b&gt; it's a_b."),
            ["Hello", ",", "\"", "world", "\"", ":", "1,000.5", "x-1", "3", "-", "4", "<", "b", ">", "it's", "a", "_", "b", "."]
        );
    }

    /// Expected: Python 3's `tokenize` on the same line, without its comment, line ends and indentation.
    #[test]
    fn code_tokens_are_pythons_own() {
        let text = "def f(a, b=1.5e-3):\n    s = \"x # y\" + 'it'\n    return a**2 // b != s[0:1] and not x <<= 0x1F\n";
        let expected = [
            "def",
            "f",
            "(",
            "a",
            ",",
            "b",
            "=",
            "1.5e-3",
            ")",
            ":",
            "s",
            "=",
            "\"x # y\"",
            "+",
            "'it'",
            "return",
            "a",
            "**",
            "2",
            "//",
            "b",
            "!=",
            "s",
            "[",
            "0",
            ":",
            "1",
            "]",
            "and",
            "not",
            "x",
            "<<=",
            "0x1F",
        ];
        assert_eq!(Tokens::Code.of(text), expected);
    }

    #[test]
    fn code_tokens_of_other_languages() {
        let cases: [(&str, &[&str]); 8] = [
            ("x>>>=1; i++ + ++j", &["x", ">>>=", "1", ";", "i", "++", "+", "++", "j"]),
            ("p->next::y=a?.b??c", &["p", "->", "next", "::", "y", "=", "a", "?.", "b", "??", "c"]),
            ("10UL+1.f-.5e+3*0x1p-3", &["10UL", "+", "1.f", "-", ".5e+3", "*", "0x1p-3"]),
            ("0..n 1..5 1.max(2) 1_000.25", &["0", "..", "n", "1", "..", "5", "1", ".", "max", "(", "2", ")", "1_000.25"]),
            ("rb'\\'x' f\"{a}\" \"\"\"two\n\"lines\"\"\" ", &["rb'\\'x'", "f\"{a}\"", "\"\"\"two\n\"lines\"\"\""]),
            ("c = 'it\nx = `a\nb`", &["c", "=", "'it", "x", "=", "`a\nb`"]),
            ("// don't\n# no", &["//", "don", "'t", "#", "no"]),
            ("naïve_π ≠ $x \u{1c} «", &["naïve_π", "≠", "$x", "«"]),
        ];
        for (text, expected) in cases {
            assert_eq!(Tokens::Code.of(text), expected, "{text}");
        }
    }

    #[test]
    fn comments_go_where_the_language_is_known() {
        let of = |text, comments| lex(text, comments).into_iter().map(|(_, token)| token).collect::<Vec<_>>();
        assert_eq!(of("a // b # c\n\"#\"", Comments::Hash), ["a", "//", "b", "\"#\""]);
        assert_eq!(of("a // b\n/* c\n*/ d \"//\" /* e", Comments::Slashes), ["a", "d", "\"//\""]);
    }

    #[test]
    fn names_lead_to_tokenizers_and_back() {
        for name in ["13a", "none", "char", "code"] {
            assert_eq!(Tokens::named(name).unwrap().name(), name);
        }
        assert_eq!(Tokens::named("intl"), None);
    }
}
