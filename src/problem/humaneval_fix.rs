//! HumanEvalFix (Muennighoff et al. 2023, `bigcode-project/octopack`): 164 functions in each of six languages, each with a bug
//! that a person put in. An answer is a whole program: the declaration is part of it.
//!
//! The language is in the row's `task_id`. Python's tests are statements; the other languages' tests are programs
//! ([`Form::Program`]). What the official harness (`bigcode_eval/tasks/humanevalpack.py`) puts around an answer is put there
//! too, with its time limits.

use std::path::Path;

use crate::error::Result;
use crate::record::{Check, Extra, Form, Problem};

use super::grade;
use super::row::{Row, rows};

/// What the official harness puts in front of a Python answer, less NumPy, which no reference uses and an isolated interpreter
/// does not see.
const PYTHON: &str = "import math\nimport re\nimport sys\nimport copy\nimport datetime\nimport itertools\nimport \
collections\nimport heapq\nimport statistics\nimport functools\nimport hashlib\nimport string\nfrom typing import *\nfrom \
collections import *\n";

/// The headers that it puts in front of a C++ answer.
const CPP: [&str; 20] = [
    "stdlib.h",
    "algorithm",
    "cmath",
    "math.h",
    "numeric",
    "stdio.h",
    "vector",
    "set",
    "map",
    "queue",
    "stack",
    "list",
    "deque",
    "boost/any.hpp",
    "string",
    "climits",
    "cstring",
    "iostream",
    "sstream",
    "fstream",
];

/// Reads `humanevalpack.jsonl` of any of the languages.
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for row in rows(path)? {
        let id = row.text("task_id")?;
        let entry = row.text("entry_point")?;
        let (language, check, head) = match id.split('/').next().unwrap_or_default() {
            "Python" => ("python", python(&row, &entry)?, row.text("declaration")?),
            "Java" => ("java", java(&row, &entry)?, row.text("declaration")?),
            "CPP" => ("cpp", cpp(&row, &entry)?, row.text("declaration")?),
            "JavaScript" => ("javascript", program(&row, &entry, 10.0)?, row.text("declaration")?),
            "Rust" => ("rust", program(&row, &entry, 10.0)?, row.text("declaration")?),
            "Go" => {
                let (check, head) = go(&row, &entry)?;
                ("go", check, head)
            }
            other => {
                let what = "Python/, Java/, CPP/, JavaScript/, Go/ or Rust/ is expected in front";
                return Err(row.wrong(format!("`task_id`: {what}, `{other}` was found")));
            }
        };
        let mut extra = Extra::new();
        for field in ["entry_point", "failure_symptoms", "signature"] {
            extra.insert(field.into(), row.text(field)?.into());
        }
        problems.push(Problem {
            id,
            suite: "humaneval_fix".into(),
            kind: row.text("bug_type")?,
            difficulty: String::new(),
            prompt: row.text("instruction")?,
            buggy: Some(format!("{head}{}", row.text("buggy_solution")?)),
            reference: Some(format!("{head}{}", row.text("canonical_solution")?)),
            language: language.into(),
            check,
            split: None,
            extra,
        });
    }
    grade(&mut problems);
    Ok(problems)
}

fn python(row: &Row<'_>, entry: &str) -> Result<Check> {
    let declaration = row.text("declaration")?;
    // Functions that the declaration gives and the tests use (`poly`, `encode_cyclic`) are part of the tests: an answer
    // that rewrites them changes nothing.
    let start = declaration.find(&format!("def {entry}("));
    let start = start.ok_or_else(|| row.wrong(format!("`declaration`: `def {entry}(` is expected in it")))?;
    let helpers = &declaration[..start];
    let setup = if helpers.contains("def ") { helpers.trim_end().to_owned() } else { String::new() };
    Ok(Check { setup, prelude: PYTHON.into(), ..Check::statements(vec![row.text("test")?.trim().to_owned()], 10.0) })
}

/// A program whose tests need nothing. The harness gives C++ 60 s and Rust 300 s for compiler and program together, nearly all
/// of it for the compiler; here the compiler has a limit of its own, and the program has what the other languages have.
fn program(row: &Row<'_>, entry: &str, timeout_s: f64) -> Result<Check> {
    let helpers = helpers(&row.text("declaration")?, entry);
    let form = Form::Program { entry: entry.to_owned(), helpers };
    Ok(Check { form, ..Check::statements(vec![row.text("test")?.trim().to_owned()], timeout_s) })
}

/// Functions that stand before the wanted one: what is neither an import nor the frame of a class, up to the line that begins
/// the wanted function.
fn helpers(declaration: &str, entry: &str) -> String {
    let begins = |line: &str| {
        let at = line.find(entry).map(|at| line[at + entry.len()..].trim_start());
        at.is_some_and(|rest| rest.starts_with('(') || rest.starts_with("= (")) && line.trim_end().ends_with(['{', '>'])
    };
    let frame = ["#include", "using namespace", "use ", "import ", "class Solution"];
    let lines = declaration.lines().take_while(|line| !begins(line));
    let text = lines.filter(|line| !frame.iter().any(|start| line.starts_with(start))).collect::<Vec<_>>().join("\n");
    // A comment alone is no function.
    if text.contains('{') && text.contains('}') { text.trim().to_owned() } else { String::new() }
}

/// The tests are a class in a file of their own, which sees what the declaration imports.
fn java(row: &Row<'_>, entry: &str) -> Result<Check> {
    let declaration = row.text("declaration")?;
    let imports: Vec<&str> = declaration.lines().filter(|line| line.starts_with("import ")).collect();
    Ok(Check { setup: imports.join("\n"), ..program(row, entry, 10.0)? })
}

fn cpp(row: &Row<'_>, entry: &str) -> Result<Check> {
    let mut prelude = String::new();
    for header in CPP {
        // Only Boost can lack, and two problems use it.
        prelude += &format!("#if __has_include(<{header}>)\n#include <{header}>\n#endif\n");
    }
    prelude += "using namespace std;\n";
    Ok(Check { prelude, ..program(row, entry, 10.0)? })
}

/// The imports stand in a field of their own, as do those of the tests; functions that the description gives and the tests use
/// stand in `prompt` alone.
fn go(row: &Row<'_>, entry: &str) -> Result<(Check, String)> {
    let prompt = row.text("prompt")?;
    let declaration = row.text("declaration")?;
    let mut helpers = String::new();
    let mut rest = prompt.as_str();
    while let Some(start) = rest.find("\nfunc ") {
        let function = &rest[start + 1..];
        if function.starts_with(&format!("func {entry}(")) {
            break;
        }
        let end = function.find("\n}\n").map_or(function.len(), |end| end + 3);
        helpers += &function[..end];
        rest = &function[end..];
    }
    let head = format!("{}\n{helpers}{declaration}", row.text("import")?);
    let form = Form::Program { entry: entry.to_owned(), helpers };
    Ok((Check { setup: row.text("test_setup")?, form, ..program(row, entry, 20.0)? }, head))
}
