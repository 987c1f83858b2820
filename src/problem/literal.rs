//! Values of a benchmark's file as Python source: JSON as Python's `json` writes it, which is more than JSON. Integers have
//! any length, and `NaN` and `Infinity` are numbers; read as JSON's numbers they would be other values, or none.

/// How deeply values may be nested.
const DEPTH: usize = 200;

/// A value that Python source can say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    None,
    Bool(bool),
    /// A number's own text, or `float("inf")` and its like.
    Number(String),
    Text(String),
    List(Vec<Literal>),
    Tuple(Vec<Literal>),
    /// A set; of nothing, Python has no literal.
    Set(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// Reads one value that is all of `text`; the error says what is wrong, and at which byte.
    pub(super) fn parse(text: &str) -> Result<Literal, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() { Err(reader.wrong("the end")) } else { Ok(value) }
    }

    /// A field of an object.
    pub(super) fn get(&self, field: &str) -> Option<&Literal> {
        match self {
            Literal::Dict(pairs) => pairs.iter().find(|(key, _)| key.text() == Some(field)).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text in it.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Literal::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a list, a tuple or a set holds.
    pub(super) fn items(&self) -> Option<&[Literal]> {
        match self {
            Literal::List(items) | Literal::Tuple(items) | Literal::Set(items) => Some(items),
            _ => None,
        }
    }

    /// A number, rounded to a float.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Literal::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Its kind, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Literal::None => "null",
            Literal::Bool(_) => "a bool",
            Literal::Number(_) => "a number",
            Literal::Text(_) => "a text",
            Literal::List(_) | Literal::Tuple(_) | Literal::Set(_) => "a list",
            Literal::Dict(_) => "an object",
        }
    }

    /// As Python source.
    pub(super) fn source(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        let join = |items: &[Literal], out: &mut String| {
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                item.write(out);
            }
        };
        match self {
            Literal::None => out.push_str("None"),
            Literal::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
            Literal::Number(text) => out.push_str(text),
            Literal::Text(text) => quote(text, out),
            Literal::List(items) => {
                out.push('[');
                join(items, out);
                out.push(']');
            }
            Literal::Tuple(items) => {
                out.push('(');
                join(items, out);
                out.push_str(if items.len() == 1 { ",)" } else { ")" });
            }
            Literal::Set(items) if items.is_empty() => out.push_str("set()"),
            Literal::Set(items) => {
                out.push('{');
                join(items, out);
                out.push('}');
            }
            Literal::Dict(pairs) => {
                out.push('{');
                for (index, (key, value)) in pairs.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    key.write(out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// A text in Python's quotes.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() && (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn wrong(&self, wanted: &str) -> String {
        let found = self.rest().chars().next().map_or("nothing".to_owned(), |c| format!("{c:?}"));
        format!("byte {}: {wanted} is expected, {found} was found", self.at)
    }

    fn takes(&mut self, word: &str) -> bool {
        let there = self.rest().starts_with(word);
        self.at += if there { word.len() } else { 0 };
        there
    }

    fn value(&mut self, depth: usize) -> Result<Literal, String> {
        if depth > DEPTH {
            return Err(format!("byte {}: nested more than {DEPTH} deep", self.at));
        }
        self.space();
        let words = [
            ("null", Literal::None),
            ("true", Literal::Bool(true)),
            ("false", Literal::Bool(false)),
            ("NaN", Literal::Number("float(\"nan\")".into())),
            ("Infinity", Literal::Number("float(\"inf\")".into())),
            ("-Infinity", Literal::Number("float(\"-inf\")".into())),
        ];
        for (word, value) in words {
            if self.takes(word) {
                return Ok(value);
            }
        }
        match self.rest().bytes().next() {
            Some(b'"') => self.string().map(Literal::Text),
            Some(b'[') => {
                let mut items = Vec::new();
                self.list(']', |reader| {
                    items.push(reader.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Literal::List(items))
            }
            Some(b'{') => {
                let mut pairs = Vec::new();
                self.list('}', |reader| {
                    let key = reader.string()?;
                    reader.space();
                    if !reader.takes(":") {
                        return Err(reader.wrong("`:`"));
                    }
                    pairs.push((Literal::Text(key), reader.value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Literal::Dict(pairs))
            }
            Some(b'-' | b'0'..=b'9') => self.digits(),
            _ => Err(self.wrong("a value")),
        }
    }

    /// What stands between two brackets, the first of which is next.
    fn list(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.at += 1;
        self.space();
        if self.takes(close.encode_utf8(&mut [0; 4])) {
            return Ok(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            if self.takes(close.encode_utf8(&mut [0; 4])) {
                return Ok(());
            }
            if !self.takes(",") {
                return Err(self.wrong(&format!("`,` or `{close}`")));
            }
        }
    }

    fn digits(&mut self) -> Result<Literal, String> {
        let length = self.rest().bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        let text = &self.rest()[..length];
        let digits = text.strip_prefix('-').unwrap_or(text);
        // A leading zero is no number of JSON, and no integer of Python.
        let zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if text.parse::<f64>().is_err() || zero || digits.starts_with('.') || digits.ends_with('.') {
            return Err(self.wrong("a number"));
        }
        self.at += length;
        Ok(Literal::Number(text.to_owned()))
    }

    fn string(&mut self) -> Result<String, String> {
        if !self.takes("\"") {
            return Err(self.wrong("a text"));
        }
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else { return Err(self.wrong("`\"`")) };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => {
                    let escape = self.rest().chars().next().ok_or_else(|| self.wrong("an escape"))?;
                    self.at += escape.len_utf8();
                    out.push(match escape {
                        '"' | '\\' | '/' => escape,
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'u' => self.unicode()?,
                        _ => return Err(format!("byte {}: `\\{escape}` is no escape", self.at)),
                    });
                }
                c => out.push(c),
            }
        }
    }

    fn unit(&mut self) -> Result<u32, String> {
        let digits = self.rest().get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = digits.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }

    /// What follows `\u`: a character, or half of one with the other half after it.
    fn unicode(&mut self) -> Result<char, String> {
        let mut unit = self.unit()?;
        if (0xd800..0xdc00).contains(&unit) && self.takes("\\u") {
            let low = self.unit()?;
            unit = 0x10000 + ((unit - 0xd800) << 10) + low.wrapping_sub(0xdc00);
        }
        char::from_u32(unit).ok_or_else(|| format!("byte {}: half a character", self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::Literal;

    #[test]
    fn json_becomes_python() {
        for (json, python) in [
            ("[1, -2.5, 1e3]", "[1, -2.5, 1e3]"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("[NaN, Infinity, -Infinity]", "[float(\"nan\"), float(\"inf\"), float(\"-inf\")]"),
            ("{\"a\": [null, true, false], \"b\": {}}", "{\"a\": [None, True, False], \"b\": {}}"),
            ("\"\\u00e9\\ud83d\\ude00\\/\\n\\u0000\\\"\\\\\"", "\"é😀/\\n\\x00\\\"\\\\\""),
        ] {
            assert_eq!(Literal::parse(json).unwrap().source(), python);
        }
        let one = Literal::Number("1".into());
        assert_eq!(Literal::Tuple(vec![one.clone()]).source(), "(1,)");
        assert_eq!(Literal::Tuple(Vec::new()).source(), "()");
        assert_eq!(Literal::Set(Vec::new()).source(), "set()");
        assert_eq!(Literal::Set(vec![one.clone(), one]).source(), "{1, 1}");
    }

    #[test]
    fn what_is_no_value_says_where() {
        for (json, message) in [
            ("", "byte 0: a value is expected, nothing was found"),
            ("[1", "byte 2: `,` or `]` is expected, nothing was found"),
            ("[1] 2", "byte 4: the end is expected, '2' was found"),
            ("{1: 2}", "byte 1: a text is expected, '1' was found"),
            ("01", "byte 0: a number is expected"),
            ("1.e", "byte 0: a number is expected"),
            ("\"\\ud83d\"", "half a character"),
            ("\"\\x\"", "`\\x` is no escape"),
        ] {
            let error = Literal::parse(json).unwrap_err();
            assert!(error.starts_with(message) || error.ends_with(message), "{json}: {error}");
        }
        assert!(Literal::parse(&"[".repeat(100_000)).unwrap_err().contains("nested"));
    }
}
