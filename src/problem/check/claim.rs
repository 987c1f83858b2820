//! The assertions of a test program: found in its text, each made a report to the host, some with a twin.
//!
//! A report is a word that only the host can make: each assertion has one for "holds" and one for "does not", drawn anew for
//! each check. A twin is an assertion that a right answer fails: the same call, compared with what another call must give.

use std::ops::Range;

use super::source::Source;
use crate::problem::toolchain::Language;
use crate::rng::Rng;

/// Twins of one program.
const TWINS: usize = 3;

/// Words of a value that means the same wherever it stands.
const PLAIN: [&str; 32] = [
    "true",
    "false",
    "null",
    "None",
    "Some",
    "Ok",
    "vec",
    "vector",
    "string",
    "String",
    "from",
    "to_string",
    "Arrays",
    "asList",
    "List",
    "of",
    "JSON",
    "stringify",
    "int",
    "int32",
    "int64",
    "float32",
    "float64",
    "bool",
    "new",
    "ArrayList",
    "Integer",
    "Double",
    "Boolean",
    "Long",
    "nil",
    "map",
];

/// One assertion of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    /// What of the text it is.
    pub(super) at: Range<usize>,
    /// What must hold. For a comparison, what stands before the expected value.
    head: String,
    /// The expected value, and what closes the comparison.
    expected: Option<(String, String)>,
    /// Which comparison it is: only values of the same kind change places.
    kind: &'static str,
}

impl Claim {
    fn new(at: Range<usize>, condition: &str, language: Language, test: &str) -> Claim {
        let source = Source::new(condition, language);
        let whole = |head: &str, expected: &str, tail: &str, kind| Claim {
            at: at.clone(),
            head: head.to_owned(),
            expected: Some((expected.trim().to_owned(), tail.to_owned())),
            kind,
        };
        let joined = ["&&", "||", "?", "<", ">", "!="].iter().any(|word| !source.outside(word).is_empty());
        // `===` holds `==` twice.
        let mut equals = source.outside("==");
        equals.retain(|at| *at == 0 || condition.as_bytes()[at - 1] != b'=');
        if let ([start], false) = (equals.as_slice(), joined) {
            let sign = if condition[*start..].starts_with("===") { 3 } else { 2 };
            return whole(&condition[..start + sign], &condition[start + sign..], "", "==");
        }
        let ends = |open: usize, close: usize| close + 1 == condition.len() && open < close;
        if language == Language::Java
            && let Some(start) = source.outside(".equals(").last()
        {
            let open = start + ".equals".len();
            if !condition.starts_with('!') && source.close(open).is_some_and(|close| ends(open, close)) {
                return whole(&condition[..=open], &condition[open + 1..condition.len() - 1], ")", "equals");
            }
        }
        // A comparison that the tests define themselves.
        if let Some(open) = condition.find('(') {
            let name = condition[..open].trim();
            let inner = &condition[open + 1..condition.len().max(open + 2) - 1];
            let parts = Source::new(inner, language).parts();
            if let ([first, second], true) = (parts.as_slice(), test.contains(&format!("bool {name}(")))
                && source.close(open).is_some_and(|close| ends(open, close))
            {
                return whole(&format!("{name}({}, ", &inner[first.clone()]), &inner[second.clone()], ")", "function");
            }
        }
        Claim { at, head: condition.to_owned(), expected: None, kind: "" }
    }

    /// A comparison whose two sides are given apart.
    fn pair(at: Range<usize>, (got, expected): (&str, &str), language: Language) -> Claim {
        let (head, tail) = match language {
            Language::Rust => (format!("match (&({got}), &("), ")) { (l, r) => *l == *r }"),
            _ => (format!("EQUAL({got}, "), ")"),
        };
        Claim { at, head, expected: Some((expected.to_owned(), tail.to_owned())), kind: "pair" }
    }

    /// What must hold.
    pub(super) fn condition(&self) -> String {
        match &self.expected {
            Some((expected, tail)) => format!("{} {expected}{tail}", self.head),
            None => self.head.clone(),
        }
    }

    /// What must not hold: the comparison with another one's expected value.
    fn against(&self, other: &Claim, language: Language, entry: &str) -> Option<String> {
        let ((own, tail), (strange, _)) = (self.expected.as_ref()?, other.expected.as_ref()?);
        let plain = |text: &str, also: &[&str]| {
            Source::new(text, language).words().iter().all(|word| PLAIN.contains(word) || also.contains(word))
        };
        // JavaScript's `(4, 6)` is 6, and so equals what it does not look like.
        let sequence = language == Language::JavaScript && [own, strange].iter().any(|value| value.contains("(("));
        let differ = !sequence && self.kind == other.kind && same_shape(own, strange) && normal(own) != normal(strange);
        let fixed =
            plain(&self.head, &[entry, "s", "issame", "match", "EQUAL", "equals"]) && plain(own, &[]) && plain(strange, &[]);
        (differ && fixed).then(|| format!("{} {strange}{tail}", self.head))
    }
}

/// Whether two values start like one type: the compiler has to take one for the other.
fn same_shape(a: &str, b: &str) -> bool {
    let shape = |text: &str| {
        let head: String = text.chars().take_while(|c| c.is_alphabetic() || "!.<>".contains(*c)).collect();
        let first = text.chars().next().map_or(' ', |c| if c.is_ascii_digit() || c == '-' { '0' } else { c });
        let fraction = first == '0' && text.contains('.');
        match head.as_str() {
            "" => format!("{first}{fraction}"),
            "true" | "false" => "bool".into(),
            _ => head,
        }
    };
    // Whether a list holds numbers or texts shows in its first element.
    let inner =
        |text: &str| text.chars().find(|c| c.is_ascii_digit() || "\"'-".contains(*c)).map(|c| c.is_ascii_digit() || c == '-');
    shape(a) == shape(b) && (inner(a) == inner(b) || shape(a) == "bool")
}

/// A value with its numbers in one spelling and without white space outside of strings.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut quoted = false;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        match rest[..digits].parse::<f64>() {
            Ok(number) if !quoted => {
                out += &number.to_string();
                rest = &rest[digits..];
                continue;
            }
            _ => {}
        }
        quoted ^= first == '"' || first == '\'';
        if quoted || !first.is_whitespace() {
            out.push(first);
        }
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// Finds the assertions of a test program.
pub(super) fn claims(test: &str, language: Language) -> Vec<Claim> {
    let source = Source::new(test, language);
    let inner = |open: usize, close: usize| Source::new(&test[open + 1..close], language);
    let mut claims = Vec::new();
    let first = |name: &str, claims: &mut Vec<Claim>| {
        for (start, open, close) in source.calls(name) {
            let arguments = inner(open, close);
            // A comma between template arguments is none between arguments; the macro has one argument anyway.
            let condition = match (language, arguments.parts().first()) {
                (Language::Cpp, _) | (_, None) => arguments.text.trim(),
                (_, Some(part)) => &arguments.text[part.clone()],
            };
            claims.push(Claim::new(start..close + 1, condition, language, test));
        }
    };
    let pairs = |name: &str, claims: &mut Vec<Claim>| {
        for (start, open, close) in source.calls(name) {
            let arguments = inner(open, close);
            if let [left, right, ..] = arguments.parts().as_slice() {
                let (left, right) = (&arguments.text[left.clone()], &arguments.text[right.clone()]);
                // The expected value is the second for Rust, the first for Go.
                let sides = if language == Language::Go { (right, left) } else { (left, right) };
                claims.push(Claim::pair(start..close + 1, sides, language));
            }
        }
    };
    match language {
        Language::Cpp => first("assert", &mut claims),
        Language::JavaScript => first("console.assert", &mut claims),
        Language::Go => pairs("assert.Equal", &mut claims),
        Language::Rust => {
            first("assert!", &mut claims);
            pairs("assert_eq!", &mut claims);
        }
        Language::Java => {
            for (start, open, close) in source.calls("Arrays.asList") {
                if test[..start].trim_end().ends_with("correct =") {
                    let arguments = inner(open, close);
                    for part in arguments.parts() {
                        let at = open + 1 + part.start..open + 1 + part.end;
                        claims.push(Claim::new(at, &arguments.text[part], language, test));
                    }
                }
            }
            for (_, open, close) in source.calls("if") {
                let body = test[close + 1..].trim_start_matches(|c: char| c.is_whitespace() || c == '{');
                if body.starts_with("throw new AssertionError") {
                    let condition = test[open + 1..close].to_owned();
                    claims.push(Claim { at: open + 1..close, head: condition, expected: None, kind: "thrown" });
                }
            }
        }
    }
    claims.sort_by_key(|claim| claim.at.start);
    claims
}

/// What the host listens for.
#[derive(Debug)]
pub(super) struct Report {
    /// The word for an assertion that holds.
    pub(super) holds: String,
    /// The word for one that does not.
    pub(super) fails: String,
    /// Whether it is a twin, which has to fail.
    pub(super) twin: bool,
    /// The assertion.
    pub(super) text: String,
}

/// `test` with its assertions made reports. `name` is what only this program calls the reporter; `word` draws words and
/// numbers that nobody can know before. Which assertions have twins follows from `id` alone.
pub(super) fn reporting(
    test: &str,
    (language, entry, id): (Language, &str, &str),
    name: &str,
    word: &mut dyn FnMut() -> String,
) -> (String, Vec<Report>) {
    let claims = claims(test, language);
    let twins = twins(&claims, language, entry, id);
    let (mut out, mut from, mut reports) = (String::new(), 0, Vec::new());
    for (claim, twin) in claims.iter().zip(twins) {
        let mut call = |condition: &str, real: bool| {
            let report = Report { holds: word(), fails: word(), twin: !real, text: condition.to_owned() };
            let said = format!("\"{}\", \"{}\"", report.holds, report.fails);
            reports.push(report);
            let condition = rename_equal(condition, name);
            match language {
                Language::Cpp => format!("(void){name}(static_cast<bool>({condition}), {said}, {real})"),
                Language::Rust => format!("crate::{name}::report({condition}, {said}, {real})"),
                Language::Java => format!("{name}.report({condition}, {said})"),
                Language::JavaScript | Language::Go => format!("{name}({condition}, {said}, {real})"),
            }
        };
        let thrown = claim.kind == "thrown";
        let condition = if thrown { format!("!({})", claim.condition()) } else { claim.condition() };
        let real = call(&condition, true);
        let twin = twin.map(|condition| call(&condition, false));
        // Which of the two comes first is nobody's to know.
        let twin_first = word().as_bytes()[0].is_multiple_of(2);
        let both = match (&twin, twin_first) {
            (None, _) => real,
            (Some(twin), first) if language == Language::Java => match first {
                true => format!("({twin} & false) | {real}"),
                false => format!("{real} | ({twin} & false)"),
            },
            (Some(twin), first) => {
                let (left, right) = if first { (twin, &real) } else { (&real, twin) };
                match language {
                    Language::Cpp | Language::JavaScript => format!("({left}, {right})"),
                    _ => format!("{left}; {right}"),
                }
            }
        };
        let both = match language {
            Language::Rust => format!("{{ {both}; }}"),
            // Statements without semicolons would become one.
            Language::JavaScript => format!(";{both};"),
            _ if thrown => format!("!({both})"),
            _ => both,
        };
        out += &test[from..claim.at.start];
        out += &both;
        from = claim.at.end;
    }
    (out + &test[from..], reports)
}

fn rename_equal(condition: &str, name: &str) -> String {
    match condition.strip_prefix("EQUAL(") {
        Some(rest) => format!("{name}Equal({rest}"),
        None => condition.to_owned(),
    }
}

/// For each assertion its twin, if it has one.
fn twins(claims: &[Claim], language: Language, entry: &str, id: &str) -> Vec<Option<String>> {
    let mut rng = Rng::new(0, id, 0);
    let mut order: Vec<usize> = (0..claims.len()).collect();
    rng.shuffle(&mut order);
    let mut twins = vec![None; claims.len()];
    let mut left = TWINS;
    for index in order {
        let others: Vec<String> = claims.iter().filter_map(|other| claims[index].against(other, language, entry)).collect();
        if left > 0 && !others.is_empty() {
            twins[index] = Some(rng.pick(&others).clone());
            left -= 1;
        }
    }
    twins
}
