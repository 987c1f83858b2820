//! Problems with every model's answer: what training fixed, what it broke, what nobody solves; each fix as a diff of the bug.

use std::collections::BTreeMap;

use similar::{ChangeTag, DiffOp, TextDiff};

use super::models::{Compared, passes};
use crate::prompt;
use crate::record::{Candidate, Outcome, Problem};

/// Letters of a trace that are shown.
const LETTERS: usize = 6_000;
/// Lines of a program or a diff that are shown.
const LINES: usize = 160;
/// Letters of a line that are shown.
const LINE: usize = 400;

/// What became of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// The base's first answer fails, the last model's passes.
    Fixed,
    /// The other way round.
    Broken,
    /// Both fail.
    Unsolved,
    /// Both pass.
    Solved,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::Fixed, Class::Broken, Class::Unsolved, Class::Solved];

    /// What a filter of the page calls it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Fixed => "fixed",
            Class::Broken => "broken",
            Class::Unsolved => "unsolved",
            Class::Solved => "solved",
        }
    }

    /// What a reader is told.
    pub fn title(self) -> &'static str {
        match self {
            Class::Fixed => "fixed by training",
            Class::Broken => "broken by training",
            Class::Unsolved => "not solved",
            Class::Solved => "solved before and after",
        }
    }
}

/// A model's first answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub model: String,
    pub verdict: &'static str,
    pub passes: bool,
    pub reason: String,
    pub trace: Text,
    pub fix: Diff,
}

/// A problem of the page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Example {
    pub id: String,
    pub kind: String,
    pub difficulty: String,
    pub class: Class,
    pub prompt: Text,
    pub buggy: Text,
    pub answers: Vec<Shown>,
}

/// Words that may have been cut.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Text {
    pub text: String,
    /// What is left out, in words; empty where nothing is.
    pub cut: String,
}

impl Text {
    fn new(text: &str, letters: usize, lines: usize) -> Text {
        let kept: Vec<String> = text.lines().take(lines).map(short).collect();
        let (mut kept, all) = (kept.join("\n"), text.lines().count());
        let mut cut = if all > lines { format!("{} more lines", all - lines) } else { String::new() };
        if let Some((at, _)) = kept.char_indices().nth(letters) {
            cut = format!("{} more characters", text.chars().count() - letters);
            kept.truncate(at);
        }
        Text { text: kept, cut }
    }
}

fn short(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into(),
    }
}

/// A line of a diff.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// ` `, `-`, `+`, or `@` where lines are left out.
    pub sign: char,
    /// Its parts, each with whether it is what changed.
    pub parts: Vec<(bool, String)>,
}

/// The changes that make an answer of the bug.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Diff {
    pub lines: Vec<Line>,
    pub cut: String,
}

impl Diff {
    /// Between two programs, three lines around each change. Where lines change into as many others, the words that differ are marked.
    pub fn new(before: &str, after: &str) -> Diff {
        let [before, after] = [before, after].map(|text| text.trim_end().lines().map(short).collect::<Vec<_>>());
        // Not as texts: there a line also ends at a lone carriage return.
        let [old, new] = [&before, &after].map(|lines| lines.iter().map(String::as_str).collect::<Vec<_>>());
        let diff = TextDiff::from_slices(&old, &new);
        let mut lines = Vec::new();
        for group in diff.grouped_ops(3) {
            if let (Some(first), Some(last)) = (group.first(), group.last()) {
                let [old, new] = [first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end];
                let head = format!("@@ -{},{} +{},{} @@", old.start + 1, old.len(), new.start + 1, new.len());
                lines.push(Line { sign: '@', parts: vec![(false, head)] });
            }
            for op in &group {
                lines.extend(Diff::lines(op, &before, &after));
            }
        }
        let cut = match lines.len() > LINES {
            true => format!("{} more lines", lines.len() - LINES),
            false => String::new(),
        };
        lines.truncate(LINES);
        Diff { lines, cut }
    }

    fn lines(op: &DiffOp, before: &[String], after: &[String]) -> Vec<Line> {
        let (old, new) = (&before[op.old_range()], &after[op.new_range()]);
        let plain = |sign: char, line: &String| Line { sign, parts: vec![(false, line.clone())] };
        match op {
            DiffOp::Equal { .. } => old.iter().map(|line| plain(' ', line)).collect(),
            DiffOp::Replace { .. } if old.len() == new.len() => {
                let (gone, come): (Vec<Line>, Vec<Line>) = old.iter().zip(new).map(|(old, new)| words(old, new)).unzip();
                gone.into_iter().chain(come).collect()
            }
            _ => old.iter().map(|line| plain('-', line)).chain(new.iter().map(|line| plain('+', line))).collect(),
        }
    }
}

/// A line and what it became, with the words that differ marked; nothing is marked where most differ.
fn words(old: &str, new: &str) -> (Line, Line) {
    let diff = TextDiff::from_words(old, new);
    let alike = diff.ratio() >= 0.4;
    let side = |sign: char, left_out: ChangeTag| {
        let mut parts: Vec<(bool, String)> = Vec::new();
        for change in diff.iter_all_changes().filter(|change| change.tag() != left_out) {
            let marked = alike && change.tag() != ChangeTag::Equal;
            match parts.last_mut() {
                Some((before, text)) if *before == marked => text.push_str(change.value()),
                _ => parts.push((marked, change.value().to_string())),
            }
        }
        Line { sign, parts }
    };
    (side('-', ChangeTag::Insert), side('+', ChangeTag::Delete))
}

/// What a verdict is called.
fn verdict(answer: &Candidate) -> &'static str {
    match answer.verdict.as_ref().map(|verdict| verdict.verdict) {
        Some(Outcome::Pass) => "passes",
        Some(Outcome::Fail) => "fails",
        Some(Outcome::Timeout) => "times out",
        Some(Outcome::Memory) => "runs out of memory",
        Some(Outcome::Error) => "cannot run",
        Some(Outcome::Refused) => "no code",
        None => "not checked",
    }
}

fn shown(model: &str, problem: &Problem, answer: &Candidate) -> Shown {
    let (trace, _) = prompt::split_answer(&answer.text, &problem.language);
    let reason = answer.verdict.as_ref().map_or(String::new(), |verdict| verdict.reason.clone());
    Shown {
        model: model.into(),
        verdict: verdict(answer),
        passes: passes(answer),
        reason: Text::new(&reason, 400, 4).text,
        trace: Text::new(trace.trim(), LETTERS, usize::MAX),
        fix: match answer.answer.is_empty() {
            true => Diff::default(),
            false => Diff::new(problem.buggy.as_deref().unwrap_or(""), &answer.answer),
        },
    }
}

/// At most `limit` problems, the classes in turn, each spread over the benchmark's order: the same ones every time.
pub(super) fn choose(compared: &Compared, limit: usize) -> Vec<Example> {
    let firsts: Vec<(&str, BTreeMap<&str, &Candidate>)> = compared
        .models
        .iter()
        .map(|model| {
            let mut first = BTreeMap::new();
            for answer in &model.answers {
                first.entry(answer.id.as_str()).or_insert(answer);
            }
            (model.key.as_str(), first)
        })
        .collect();
    let passed = |key: Option<&str>, id: &str| {
        let (_, first) = firsts.iter().find(|(known, _)| Some(*known) == key)?;
        first.get(id).map(|answer| passes(answer))
    };
    let base = compared.base().map(|model| model.key.as_str());
    let last = compared.last().or(compared.base()).map(|model| model.key.as_str());
    let mut classes: BTreeMap<Class, Vec<&Problem>> = BTreeMap::new();
    for problem in &compared.problems {
        let Some(after) = passed(last, &problem.id) else { continue };
        // Without a base there is no before.
        let before = passed(base, &problem.id).unwrap_or(after);
        let class = match (before, after) {
            (false, true) => Class::Fixed,
            (true, false) => Class::Broken,
            (false, false) => Class::Unsolved,
            (true, true) => Class::Solved,
        };
        classes.entry(class).or_default().push(problem);
    }
    let mut counts: BTreeMap<Class, usize> = classes.keys().map(|class| (*class, 0)).collect();
    let mut left = limit;
    while left > 0 && counts.iter().any(|(class, count)| *count < classes[class].len()) {
        for (class, count) in &mut counts {
            if left > 0 && *count < classes[class].len() {
                (*count, left) = (*count + 1, left - 1);
            }
        }
    }
    let mut examples = Vec::new();
    for (class, problems) in &classes {
        let count = counts[class];
        for problem in (0..count).map(|index| problems[index * problems.len() / count]) {
            let answers = compared.models.iter().zip(&firsts);
            let answers = answers
                .filter_map(|(model, (_, first))| Some(shown(&model.title, problem, first.get(problem.id.as_str())?)))
                .collect();
            examples.push(Example {
                id: problem.id.clone(),
                kind: problem.kind.clone(),
                difficulty: problem.difficulty.clone(),
                class: *class,
                prompt: Text::new(problem.prompt.trim(), 2_000, 60),
                buggy: Text::new(problem.buggy.as_deref().unwrap_or("").trim_end(), usize::MAX, LINES),
                answers,
            });
        }
    }
    examples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> String {
        line.parts.iter().map(|(marked, text)| if *marked { format!("[{text}]") } else { text.clone() }).collect()
    }

    #[test]
    fn a_fix_is_a_diff_with_its_words_marked() {
        let diff = Diff::new("def f(a):\n    return a - 1\n", "def f(a):\n    return a + 1");
        let lines: Vec<(char, String)> = diff.lines.iter().map(|line| (line.sign, text(line))).collect();
        let expected = [('@', "@@ -1,2 +1,2 @@"), (' ', "def f(a):"), ('-', "    return a [-] 1"), ('+', "    return a [+] 1")];
        assert_eq!(lines, expected.map(|(sign, text)| (sign, text.to_string())));
        assert_eq!(Diff::new("a\n", "a"), Diff::default());
        // From nothing: every line is new.
        let signs: String = Diff::new("", "a\nb").lines.iter().map(|line| line.sign).collect();
        assert!(signs.starts_with('@') && signs.ends_with("++"), "{signs}");
    }

    #[test]
    fn a_lone_carriage_return_ended_the_report_in_a_panic() {
        let diff = Diff::new("x=1", "x = 1\ry = 2");
        let lines: Vec<(char, String)> = diff.lines.iter().map(|line| (line.sign, text(line).replace(['[', ']'], ""))).collect();
        let expected = [('@', "@@ -1,1 +1,1 @@"), ('-', "x=1"), ('+', "x = 1\ry = 2")];
        assert_eq!(lines, expected.map(|(sign, text)| (sign, text.to_string())));
    }

    #[test]
    fn long_texts_are_cut_with_a_note() {
        let long: String = (0..500).map(|i| format!("{i}\n")).collect();
        let text = Text::new(&long, usize::MAX, 3);
        assert_eq!((text.text.as_str(), text.cut.as_str()), ("0\n1\n2", "497 more lines"));
        let text = Text::new("äöü", 2, 10);
        assert_eq!((text.text.as_str(), text.cut.as_str()), ("äö", "1 more characters"));
        let diff = Diff::new(&long, "");
        assert_eq!((diff.lines.len(), diff.cut.is_empty()), (LINES, false));
        assert_eq!(short(&"x".repeat(LINE + 1)).chars().count(), LINE + 1);
    }
}
