//! QuixBugs, Python (Lin et al. 2017; the flat copy of `bigcode-project/octopack`): 40 classic algorithms, each with a bug in
//! one line.

use std::path::Path;

use crate::error::Result;
use crate::record::{Check, Extra, Problem};

use super::grade;
use super::row::rows;

/// Reads `quixbugs_python.jsonl`.
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for row in rows(path)? {
        let tests = statements(&row.text("tests")?);
        if tests.is_empty() {
            return Err(row.wrong("`tests`: at least one test is expected, none was found"));
        }
        problems.push(Problem {
            id: row.text("name")?,
            suite: "quixbugs".into(),
            kind: "one line".into(),
            difficulty: String::new(),
            prompt: row.text("docstring")?.trim().trim_matches('"').trim().to_owned(),
            buggy: Some(row.text("buggy_program")?),
            reference: Some(row.text("solution")?),
            language: "python".into(),
            check: Check::statements(tests, 5.0),
            split: None,
            extra: Extra::new(),
        });
    }
    grade(&mut problems);
    Ok(problems)
}

/// The asserts of a text that holds nothing else, an assert over several lines being one; any other text whole.
fn statements(text: &str) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for line in text.lines() {
        let goes_on = line.starts_with([' ', '\t', ')', ']', '}']) || line.is_empty();
        match list.last_mut() {
            _ if line.starts_with("assert ") => list.push(line.to_owned()),
            Some(last) if goes_on => {
                last.push('\n');
                last.push_str(line);
            }
            None if line.is_empty() => {}
            _ => return vec![text.trim().to_owned()],
        }
    }
    list.iter().map(|test| test.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn asserts_are_told_apart_and_programs_stay_whole() {
        assert_eq!(
            statements("assert f(1) == 2\nassert f(2) == [\n    1,\n]\n"),
            ["assert f(1) == 2", "assert f(2) == [\n    1,\n]"]
        );
        let program = "class Node:\n    pass\n\nassert f(Node())";
        assert_eq!(statements(program), [program]);
        assert!(statements("\n").is_empty());
    }
}
