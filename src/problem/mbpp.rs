//! MBPP (Austin et al. 2021, `google-research/google-research:mbpp`): 974 descriptions with a reference and three asserts.
//! It carries no bugs.

use std::path::Path;

use crate::error::Result;
use crate::record::{Check, Extra, Problem};

use super::grade;
use super::row::rows;

/// What a description is about, by the first word of it that tells; descriptions carry no labels.
const KINDS: [(&str, &[&str]); 7] = [
    ("regex", &["regex", "regular expression"]),
    ("dictionary", &["dictionary", "dictionaries", "dict"]),
    ("tuple", &["tuple"]),
    ("matrix", &["matrix", "grid", "2d array"]),
    ("list", &["list", "array", "sequence"]),
    ("string", &["string", "character", "word", "text", "letter"]),
    ("number", &["number", "sum", "integer", "digit", "area", "volume", "prime", "decimal", "bit"]),
];

/// Reads `mbpp.jsonl`, or `sanitized-mbpp.json` (one array, `prompt` for `text`, imports for the tests).
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for row in rows(path)? {
        let text = row.text(if row.get("text").is_none() && row.get("prompt").is_some() { "prompt" } else { "text" })?;
        let tests = row.texts("test_list")?;
        if tests.is_empty() {
            return Err(row.wrong("`test_list`: at least one test is expected, an empty list was found"));
        }
        // The order is code, setup, tests: the setup of two problems uses a class of the code.
        let setup = match row.get("test_imports") {
            Some(_) => row.texts("test_imports")?.join("\n"),
            None => row.text("test_setup_code")?,
        };
        let lower = text.to_lowercase();
        let kind = KINDS.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word)));
        let mut extra = Extra::new();
        if let Some(challenge) = row.get("challenge_test_list").filter(|v| v.as_array().is_some_and(|a| !a.is_empty())) {
            extra.insert("challenge_test_list".into(), challenge.clone());
        }
        problems.push(Problem {
            id: row.number("task_id")?,
            suite: "mbpp".into(),
            kind: kind.map_or("function", |(name, _)| name).into(),
            difficulty: String::new(),
            // The form of the original evaluation: without the tests nobody could know the function's name.
            prompt: format!("{}\nYour code should pass these tests:\n\n{}", text.trim(), tests.join("\n")),
            buggy: None,
            reference: Some(row.text("code")?),
            language: "python".into(),
            check: Check { setup, ..Check::statements(tests, 5.0) },
            split: None,
            extra,
        });
    }
    grade(&mut problems);
    Ok(problems)
}
