//! What a repair changes, and how a trace tells it: the four parts of the paper, one short line each.

use crate::error::Result;
use crate::record::Problem;

use super::bugs::Kind;
use super::{Fix, Knowledge};

/// The labels of a trace's parts, in their order: problem analysis, bug identification, repair planning, implementation
/// reasoning (section 3.2 of the paper).
pub const PARTS: [&str; 4] = ["Problem:", "Bug:", "Plan:", "Fix:"];

/// One edit that turns a program into another. Lines count from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Another text in the same place.
    Replace { line: usize, wrong: String, right: String },
    /// Lines that were missing.
    Insert { line: usize, lines: Vec<String> },
    /// A line that goes on at another depth.
    Indent { line: usize, text: String },
    /// Two neighbours in the other order.
    Swap { line: usize, first: String, second: String },
}

impl Edit {
    /// The edit that turns `before` into `after`; none where they are equal or differ in more than one place.
    pub fn between(before: &str, after: &str) -> Option<Edit> {
        let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
        let line = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        let tail = a[line..].iter().rev().zip(b[line..].iter().rev()).take_while(|(a, b)| a == b).count();
        let text = |line: &str| line.trim_start().to_string();
        match (&a[line..a.len() - tail], &b[line..b.len() - tail]) {
            ([wrong], [right]) if text(wrong) == text(right) => Some(Edit::Indent { line, text: text(wrong) }),
            ([wrong], [right]) => Some(Edit::Replace { line, wrong: text(wrong), right: text(right) }),
            ([], lines @ [_, ..]) => Some(Edit::Insert { line, lines: lines.iter().map(|line| text(line)).collect() }),
            ([a, b], [c, d]) if a == d && b == c => Some(Edit::Swap { line, first: text(a), second: text(b) }),
            _ => None,
        }
    }

    /// The first line that changes.
    pub fn line(&self) -> usize {
        match self {
            Edit::Replace { line, .. } | Edit::Insert { line, .. } | Edit::Indent { line, .. } | Edit::Swap { line, .. } => *line,
        }
    }

    /// The changed lines of `before`, and what stands there afterwards.
    pub fn sides(&self, before: &str) -> (String, String) {
        match self {
            Edit::Replace { wrong, right, .. } => (wrong.clone(), right.clone()),
            Edit::Insert { lines, .. } => (String::new(), lines.join("\n")),
            Edit::Indent { line, text } => {
                let old = before.lines().nth(*line).unwrap_or_default();
                (old.to_string(), text.clone())
            }
            Edit::Swap { first, second, .. } => (format!("{first}\n{second}"), format!("{second}\n{first}")),
        }
    }

    /// Whether the line that a trace quotes stands only once in `before`.
    pub fn is_unique_in(&self, before: &str) -> bool {
        let quoted = match self {
            Edit::Replace { wrong, .. } => wrong.as_str(),
            Edit::Insert { line, .. } => before.lines().nth(line.wrapping_sub(1)).unwrap_or_default().trim_start(),
            Edit::Indent { text, .. } => text,
            Edit::Swap { first, .. } => first,
        };
        before.lines().filter(|line| line.trim_start() == quoted).count() == 1
    }
}

/// The program alone, fenced.
pub fn direct(code: &str) -> String {
    format!("```python\n{code}\n```")
}

/// The answer to `problem` that reasons in four parts and ends with `fix`. A fix that changes nothing is told as such.
/// An input error where the problem is not of this suite.
pub fn trace(problem: &Problem, fix: &Fix) -> Result<String> {
    let function = Knowledge::of(problem)?.function;
    let buggy = problem.buggy.as_deref().unwrap_or_default();
    let task = &problem.prompt;
    let phrase = Kind::named(&fix.kind).map_or("is wrong", Kind::phrase);
    let mut rest = "the rest";
    let (bug, plan) = match Edit::between(buggy, &fix.code) {
        Some(Edit::Replace { wrong, right, .. }) => {
            (format!("the line `{wrong}` {phrase}."), format!("change `{wrong}` to `{right}`."))
        }
        Some(Edit::Insert { line, lines }) => {
            let before = buggy.lines().nth(line.wrapping_sub(1)).unwrap_or_default().trim_start();
            let lines: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
            (format!("a line is missing after `{before}`."), format!("add {} after `{before}`.", lines.join(" and ")))
        }
        Some(Edit::Indent { text, .. }) => {
            (format!("the line `{text}` is inside the loop."), format!("move `{text}` after the loop."))
        }
        Some(Edit::Swap { first, second, .. }) => {
            (format!("the line `{first}` comes too early."), format!("move `{first}` after `{second}`."))
        }
        None => {
            rest = "all";
            ("no line is wrong.".into(), "keep every line.".into())
        }
    };
    let [a, b, c, d] = PARTS;
    Ok(format!("{a} {task}\n{b} {bug}\n{c} {plan}\n{d} {rest} of {function} stays the same.\n\n{}", direct(&fix.code)))
}

/// Lines that differ between two programs: the larger of the lines that go and the lines that come.
pub fn changed_lines(before: &str, after: &str) -> usize {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // The longest common subsequence, a row at a time.
    let mut row = vec![0usize; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { up.max(row[j]) };
            diagonal = up;
        }
    }
    a.len().max(b.len()) - row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_recognised() {
        let before = "def f(x):\n    for i in x:\n        a\n        b\n    return 1";
        let edit = |after: &str| Edit::between(before, after);
        assert_eq!(edit(before), None);
        assert_eq!(
            edit(&before.replace("return 1", "return 2")),
            Some(Edit::Replace { line: 4, wrong: "return 1".into(), right: "return 2".into() })
        );
        assert_eq!(
            edit(&before.replace("    return 1", "        return 1")),
            Some(Edit::Indent { line: 4, text: "return 1".into() })
        );
        assert_eq!(
            edit("def f(x):\n    for i in x:\n        b\n        a\n    return 1"),
            Some(Edit::Swap { line: 2, first: "a".into(), second: "b".into() })
        );
        assert_eq!(
            edit(&before.replace("        b\n", "        b\n        c\n        d\n")),
            Some(Edit::Insert { line: 4, lines: vec!["c".into(), "d".into()] })
        );
        assert_eq!(edit(&before.replace("def f", "def g").replace("return 1", "return 2")), None);
    }

    #[test]
    fn changed_lines_are_counted() {
        assert_eq!(changed_lines("a\nb\nc", "a\nb\nc"), 0);
        assert_eq!(changed_lines("a\nb\nc", "a\nx\nc"), 1);
        assert_eq!(changed_lines("a\nb\nc", "a\nb\nx\ny\nc"), 2);
        assert_eq!(changed_lines("a\nb\nc", "b\nc"), 1);
        assert_eq!(changed_lines("a\nb", ""), 2);
    }
}
