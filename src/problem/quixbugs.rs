//! QuixBugs, Python (Lin et al. 2017; the flat copy of `bigcode-project/octopack`): 40 classic algorithms, each with a bug in
//! one line. The project's own folder (`jkoppel/QuixBugs`) reads as well.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::record::{Check, Extra, Problem};

use super::grade;
use super::literal::Literal;
use super::row::{rows, text};

/// The folders of the project that are read.
const BUGGY: &str = "python_programs";
const CORRECT: &str = "correct_python_programs";
const JSON: &str = "json_testcases";
const TESTS: &str = "python_testcases";

/// Programs that yield their result piece by piece; the project's tests ask for the list.
const GENERATORS: [&str; 2] = ["flatten", "kheapsort"];
/// How the calls of the two tests begin that the project skips: they take minutes.
const SLOW: [&str; 2] = ["knapsack(6404180, ", "levenshtein(\"amanaplanacanalpanama\", \"docnote"];

/// Reads `quixbugs_python.jsonl`, or the project's folder.
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    if path.is_dir() {
        return folder(path);
    }
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

/// Reads the project's folder: programs, their corrections, and tests, as JSON or as Python.
fn folder(path: &Path) -> Result<Vec<Problem>> {
    let programs = path.join(BUGGY);
    let entries = fs::read_dir(&programs).map_err(|e| Error::io(&programs, e))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io(&programs, e))?.file_name().to_string_lossy().into_owned();
        // Beside the programs lie drivers of some of them, and the class that these use.
        names.extend(
            name.strip_suffix(".py").filter(|n| !n.ends_with("_test") && !matches!(*n, "node" | "__init__")).map(str::to_owned),
        );
    }
    names.sort_unstable();
    let mut problems = Vec::new();
    for name in names {
        let file = |folder: &str, name: String| path.join(folder).join(name);
        let (buggy, words) = program(&text(&file(BUGGY, format!("{name}.py")))?);
        let (solution, _) = program(&text(&file(CORRECT, format!("{name}.py")))?);
        let json = file(JSON, format!("{name}.json"));
        let (setup, tests) = if json.exists() {
            (String::new(), cases(&json, &name)?)
        } else {
            let tests = file(TESTS, format!("test_{name}.py"));
            let (functions, statements) = functions(&text(&tests)?);
            if functions.is_empty() {
                return Err(Error::input(tests.display(), "a function `test...` is expected, none was found"));
            }
            let uses_nodes = statements.contains("Node(") || functions.iter().any(|test| test.contains("Node("));
            let nodes = if uses_nodes { text(&file(TESTS, "node.py".into()))? } else { String::new() };
            ([nodes, statements].join("\n").trim().to_owned(), functions)
        };
        problems.push(Problem {
            id: name,
            suite: "quixbugs".into(),
            kind: "one line".into(),
            difficulty: String::new(),
            prompt: words,
            buggy: Some(buggy),
            reference: Some(solution),
            language: "python".into(),
            check: Check { setup, ..Check::statements(tests, 5.0) },
            split: None,
            extra: Extra::new(),
        });
    }
    grade(&mut problems);
    Ok(problems)
}

/// A program's code, and the words that stand after it in a text of their own. Corrections have other solutions there.
fn program(source: &str) -> (String, String) {
    let source = source.replace("\r\n", "\n");
    let (code, words) = match source.split_once("\n\"\"\"") {
        Some((code, rest)) => (code, rest.split("\"\"\"").next().unwrap_or(rest)),
        None => (source.as_str(), ""),
    };
    (format!("{}\n", code.trim()), words.trim().to_owned())
}

/// The tests of a JSON file: a line is a pair of arguments and result. One argument alone need not be in a list.
fn cases(path: &Path, name: &str) -> Result<Vec<String>> {
    let mut tests = Vec::new();
    for (index, line) in text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let pair = Literal::parse(line).map_err(|what| Error::line(path, index + 1, what))?;
        let Some([input, output]) = pair.items() else {
            return Err(Error::line(
                path,
                index + 1,
                format!("a pair of input and output is expected, {} was found", pair.kind()),
            ));
        };
        let arguments: Vec<String> = match input {
            Literal::List(items) => items.iter().map(Literal::source).collect(),
            other => vec![other.source()],
        };
        let call = format!("{name}({})", arguments.join(", "));
        if SLOW.iter().any(|slow| call.starts_with(slow)) {
            continue;
        }
        tests.push(match (name, output) {
            // The square root is asked for to within the last argument.
            ("sqrt", _) => {
                format!("assert abs({call} - {}) <= {}", output.source(), arguments.last().map_or("0", String::as_str))
            }
            ("hanoi", Literal::List(moves)) => {
                let moves =
                    moves.iter().map(|step| step.items().map(|items| Literal::Tuple(items.to_vec())).unwrap_or(step.clone()));
                format!("assert {call} == {}", Literal::List(moves.collect()).source())
            }
            _ if GENERATORS.contains(&name) => format!("assert list({call}) == {}", output.source()),
            _ => format!("assert {call} == {}", output.source()),
        });
    }
    if tests.is_empty() {
        return Err(Error::input(path.display(), "no tests in it"));
    }
    Ok(tests)
}

/// The test functions of a file of the project's, each with its call, and the statements beside them that they build on.
fn functions(source: &str) -> (Vec<String>, String) {
    let mut tests: Vec<String> = Vec::new();
    let mut statements = String::new();
    // Where a line that goes on belongs to: a test, a statement, or what is left out (imports, and the choice of the program).
    let (mut in_test, mut in_statement) = (false, false);
    for line in source.lines() {
        let goes_on = line.is_empty() || line.starts_with([' ', '\t', ')', ']', '}']);
        if !goes_on {
            in_test = line.starts_with("def test");
            in_statement =
                !in_test && !["import ", "from ", "if pytest", "else", "@"].iter().any(|start| line.starts_with(start));
            if in_test {
                tests.push(String::new());
            }
        }
        let text = match tests.last_mut() {
            Some(test) if in_test => test,
            _ if in_statement => &mut statements,
            _ => continue,
        };
        text.push_str(line);
        text.push('\n');
    }
    let called = |test: String| {
        let name = test.trim_start_matches("def ").split('(').next().unwrap_or_default().to_owned();
        format!("{}\n\n{name}()", test.trim_end())
    };
    (tests.into_iter().map(called).collect(), statements.trim_end().to_owned())
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
