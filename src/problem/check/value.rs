//! Plain Python data: its bytes on the wire, and Python's equality on it.

/// A value of an exact builtin type.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::problem) enum Value {
    None,
    Bool(bool),
    /// Lower-case hexadecimal, a leading `-` where negative.
    Int(String),
    Float(f64),
    Complex(f64, f64),
    Str(Vec<u8>),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Set(Vec<Value>),
    Frozen(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// Anything else, of which only the name of its type crossed over.
    Opaque(String),
}

impl Value {
    /// A text.
    pub(in crate::problem) fn text(s: &str) -> Value {
        Value::Str(s.as_bytes().to_vec())
    }

    /// Appends the value's bytes. Only what the host sends needs this: texts and lists.
    pub(in crate::problem) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Str(text) => {
                out.extend(format!("s{}:", text.len()).bytes());
                out.extend(text);
            }
            Value::List(items) => {
                out.extend(format!("l{}:", items.len()).bytes());
                items.iter().for_each(|item| item.encode(out));
            }
            other => unreachable!("the host sends no {other:?}"),
        }
    }

    /// Reads one value; `None` when the bytes are not one, whole.
    pub(in crate::problem) fn decode(bytes: &[u8]) -> Option<Value> {
        let mut reader = Reader { bytes, depth: 0 };
        let value = reader.value()?;
        reader.bytes.is_empty().then_some(value)
    }

    /// The text in it.
    pub(in crate::problem) fn as_text(&self) -> Option<String> {
        match self {
            Value::Str(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }

    /// The list in it.
    pub(in crate::problem) fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The texts of a list of texts.
    pub(in crate::problem) fn as_texts(&self) -> Option<Vec<String>> {
        self.as_list()?.iter().map(Value::as_text).collect()
    }

    /// Whether Python would call it equal to `other`. A NaN or an opaque value in either equals nothing, itself included.
    pub(in crate::problem) fn equals(&self, other: &Value) -> bool {
        match (self.canonical(), other.canonical()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }

    /// Whether both hold the same items, order and repetition aside; a text holds its characters.
    pub(in crate::problem) fn same_set(&self, other: &Value) -> bool {
        let items = |value: &Value| {
            let mut items = match value {
                Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::Frozen(items) => {
                    items.iter().map(Value::canonical).collect::<Option<Vec<_>>>()?
                }
                Value::Str(text) => String::from_utf8_lossy(text)
                    .chars()
                    .map(|c| Value::text(c.encode_utf8(&mut [0; 4])).canonical())
                    .collect::<Option<Vec<_>>>()?,
                Value::Dict(pairs) => pairs.iter().map(|(key, _)| key.canonical()).collect::<Option<Vec<_>>>()?,
                _ => return None,
            };
            items.sort_unstable();
            items.dedup();
            Some(items)
        };
        matches!((items(self), items(other)), (Some(a), Some(b)) if a == b)
    }

    /// A real number, rounded to a float.
    pub(in crate::problem) fn number(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(*b)),
            Value::Float(x) => Some(*x),
            Value::Int(digits) => {
                let magnitude = digits
                    .trim_start_matches('-')
                    .chars()
                    .try_fold(0.0, |sum, c| Some(sum * 16.0 + f64::from(c.to_digit(16)?)))?;
                Some(if digits.starts_with('-') { -magnitude } else { magnitude })
            }
            _ => None,
        }
    }

    /// Whether every part is plain data.
    pub(in crate::problem) fn plain(&self) -> bool {
        match self {
            Value::Opaque(_) => false,
            Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::Frozen(items) => items.iter().all(Value::plain),
            Value::Dict(pairs) => pairs.iter().all(|(k, v)| k.plain() && v.plain()),
            _ => true,
        }
    }

    /// Python's truth of it; an opaque value has none, but for a match of `re`, which is always true. Another class of that name
    /// says no more than `True` would.
    pub(in crate::problem) fn truth(&self) -> Option<bool> {
        Some(match self {
            Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(digits) => digits != "0",
            Value::Float(x) => *x != 0.0,
            Value::Complex(re, im) => *re != 0.0 || *im != 0.0,
            Value::Str(bytes) | Value::Bytes(bytes) => !bytes.is_empty(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::Frozen(items) => !items.is_empty(),
            Value::Dict(pairs) => !pairs.is_empty(),
            Value::Opaque(name) if name == "Match" => true,
            Value::Opaque(_) => return None,
        })
    }

    /// Bytes that are the same for two values exactly where Python's `==` holds; none where it never does.
    fn canonical(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.write_canonical(&mut out)?;
        Some(out)
    }

    fn write_canonical(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Value::None => out.push(b'N'),
            Value::Bool(b) => out.extend(if *b { b"#1;" } else { b"#0;" }),
            Value::Int(digits) => out.extend(format!("#{digits};").bytes()),
            Value::Float(x) => real(*x, out)?,
            Value::Complex(re, im) if *im == 0.0 => real(*re, out)?,
            Value::Complex(re, im) => {
                out.push(b'c');
                real(*re, out)?;
                real(*im, out)?;
            }
            Value::Str(bytes) | Value::Bytes(bytes) => {
                out.extend(format!("{}{}:", if matches!(self, Value::Str(_)) { 's' } else { 'b' }, bytes.len()).bytes());
                out.extend(bytes);
            }
            Value::List(items) | Value::Tuple(items) => {
                out.extend(format!("{}{}:", if matches!(self, Value::List(_)) { 'l' } else { 't' }, items.len()).bytes());
                for item in items {
                    item.write_canonical(out)?;
                }
            }
            Value::Set(items) | Value::Frozen(items) => {
                let mut parts = items.iter().map(Value::canonical).collect::<Option<Vec<_>>>()?;
                parts.sort_unstable();
                out.extend(format!("S{}:", parts.len()).bytes());
                out.extend(parts.concat());
            }
            Value::Dict(pairs) => {
                let pair = |(k, v): &(Value, Value)| Some([k.canonical()?, v.canonical()?].concat());
                let mut parts = pairs.iter().map(pair).collect::<Option<Vec<_>>>()?;
                parts.sort_unstable();
                out.extend(format!("d{}:", parts.len()).bytes());
                out.extend(parts.concat());
            }
            Value::Opaque(_) => return None,
        }
        Some(())
    }

    /// A short, one-line form for reasons.
    pub(in crate::problem) fn show(&self) -> String {
        let join = |items: &[Value]| items.iter().map(Value::show).collect::<Vec<_>>().join(", ");
        let text = match self {
            Value::None => "None".into(),
            Value::Bool(b) => if *b { "True" } else { "False" }.into(),
            Value::Int(digits) => match i128::from_str_radix(digits, 16) {
                Ok(n) => n.to_string(),
                Err(_) => format!("0x{digits}"),
            },
            Value::Float(x) => format!("{x:?}"),
            Value::Complex(re, im) => format!("({re:?}{im:+?}j)"),
            Value::Str(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            Value::Bytes(bytes) => format!("b\"{}\"", bytes.escape_ascii()),
            Value::List(items) => format!("[{}]", join(items)),
            Value::Tuple(items) if items.len() == 1 => format!("({},)", items[0].show()),
            Value::Tuple(items) => format!("({})", join(items)),
            Value::Set(items) => format!("{{{}}}", join(items)),
            Value::Frozen(items) => format!("frozenset({{{}}})", join(items)),
            Value::Dict(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{}: {}", k.show(), v.show())).collect();
                format!("{{{}}}", pairs.join(", "))
            }
            Value::Opaque(name) => format!("an object of type {name}"),
        };
        super::cut(&text, 120)
    }
}

/// A real number: integers, bools and whole floats of the same value share a form.
fn real(x: f64, out: &mut Vec<u8>) -> Option<()> {
    if x.is_nan() {
        return None;
    }
    if x.is_infinite() || x.fract() != 0.0 {
        out.extend(format!("~{:016x};", x.to_bits()).bytes());
        return Some(());
    }
    // A whole float is its 53-bit mantissa, shifted: exact in hexadecimal.
    let magnitude = x.abs();
    let digits = if magnitude < 1e18 {
        format!("{:x}", magnitude as u64)
    } else {
        let bits = magnitude.to_bits();
        let (exponent, mantissa) = ((bits >> 52) as usize - 1075, bits & ((1 << 52) - 1) | 1 << 52);
        let shifted = u128::from(mantissa) << (exponent % 4);
        format!("{shifted:x}{}", "0".repeat(exponent / 4))
    };
    out.extend(format!("#{}{digits};", if x < 0.0 { "-" } else { "" }).bytes());
    Some(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    depth: usize,
}

impl Reader<'_> {
    fn until(&mut self, mark: u8) -> Option<&str> {
        let end = self.bytes.iter().position(|b| *b == mark)?;
        let (text, rest) = self.bytes.split_at(end);
        self.bytes = &rest[1..];
        std::str::from_utf8(text).ok()
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let (text, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(text.to_vec())
    }

    fn count(&mut self) -> Option<usize> {
        self.until(b':')?.parse().ok()
    }

    fn items(&mut self) -> Option<Vec<Value>> {
        let count = self.count()?;
        (0..count).map(|_| self.value()).collect()
    }

    /// Nothing that comes in is trusted: a count beyond the bytes or a nesting beyond the sender's own limit is no value.
    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > 500 {
            return None;
        }
        let (tag, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        let value = match tag {
            b'N' => Value::None,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' => {
                let text = self.until(b';')?;
                let digits = text.strip_prefix('-').unwrap_or(text);
                let fine = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let normal = digits == "0" && text == "0" || !digits.starts_with('0');
                (fine && normal).then(|| Value::Int(text.to_owned()))?
            }
            b'f' => Value::Float(self.until(b';')?.parse().ok()?),
            b'c' => Value::Complex(self.until(b';')?.parse().ok()?, self.until(b';')?.parse().ok()?),
            b's' => {
                let count = self.count()?;
                Value::Str(self.take(count)?)
            }
            b'b' => {
                let count = self.count()?;
                Value::Bytes(self.take(count)?)
            }
            b'o' => {
                let count = self.count()?;
                Value::Opaque(String::from_utf8_lossy(&self.take(count)?).into_owned())
            }
            b'l' => Value::List(self.items()?),
            b't' => Value::Tuple(self.items()?),
            b'S' => Value::Set(self.items()?),
            b'Z' => Value::Frozen(self.items()?),
            b'd' => {
                let count = self.count()?;
                Value::Dict((0..count).map(|_| Some((self.value()?, self.value()?))).collect::<Option<_>>()?)
            }
            _ => return None,
        };
        self.depth -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &str) -> Value {
        Value::decode(bytes.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_are_equal_as_in_python() {
        assert!(value("T").equals(&value("i1;")));
        assert!(value("i1;").equals(&value("f1.0;")));
        assert!(value("f0.0;").equals(&value("f-0.0;")) && value("F").equals(&value("f-0.0;")));
        assert!(value("c2.0;0.0;").equals(&value("i2;")));
        // 1e22 is whole and beyond u64: Python's format(int(1e22), 'x').
        assert!(value("f1e+22;").equals(&value("i21e19e0c9bab2400000;")));
        assert!(value("f-1e+22;").equals(&value("i-21e19e0c9bab2400000;")));
        // 2**53 + 1 is no float: Python says 2**53 + 1 != 2.0**53.
        assert!(!value("i20000000000001;").equals(&value("f9007199254740992.0;")));
        assert!(!value("f0.1;").equals(&value("i0;")));
        assert!(!value("fnan;").equals(&value("fnan;")));
        assert!(!value("l1:fnan;").equals(&value("l1:fnan;")));
        assert!(value("finf;").equals(&value("finf;")) && !value("finf;").equals(&value("f-inf;")));
    }

    #[test]
    fn containers_are_equal_as_in_python() {
        assert!(!value("l1:i1;").equals(&value("t1:i1;")));
        assert!(value("S2:i1;i2;").equals(&value("Z2:f2.0;T")));
        assert!(value("d2:i1;s1:ai2;s1:b").equals(&value("d2:i2;s1:bTs1:a")));
        assert!(!value("s1:a").equals(&value("b1:a")));
        assert!(!value("l2:i1;i2;").equals(&value("l2:i2;i1;")));
        assert!(!value("o1:X").equals(&value("o1:X")));
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        for bytes in ["", "x", "i", "i;", "iG;", "i01;", "i-0;", "l2:N", "l99999999999:N", "s5:abc", "NN", "d1:N", "f1..2;"] {
            assert_eq!(Value::decode(bytes.as_bytes()), None, "{bytes}");
        }
        assert_eq!(Value::decode("l1:".repeat(100_000).as_bytes()), None);
    }
}
