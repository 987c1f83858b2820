//! HumanEvalFix, Python (Muennighoff et al. 2023, `bigcode-project/octopack`): 164 functions, each with a bug that a person
//! put in. An answer is a whole program: the declaration is part of it.

use std::path::Path;

use crate::error::Result;
use crate::record::{Check, Extra, Problem};

use super::grade;
use super::row::rows;

/// What the official harness puts in front of a Python answer (`bigcode_eval/tasks/humanevalpack.py`), less NumPy, which no
/// reference uses and an isolated interpreter does not see.
const PRELUDE: &str = "import math\nimport re\nimport sys\nimport copy\nimport datetime\nimport itertools\nimport \
collections\nimport heapq\nimport statistics\nimport functools\nimport hashlib\nimport string\nfrom typing import *\nfrom \
collections import *\n";

/// Reads `humanevalpack.jsonl` of Python.
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for row in rows(path)? {
        let declaration = row.text("declaration")?;
        let entry = row.text("entry_point")?;
        // Functions that the declaration gives and the tests use (`poly`, `encode_cyclic`) are part of the tests: an answer
        // that rewrites them changes nothing.
        let start = declaration.find(&format!("def {entry}("));
        let start = start.ok_or_else(|| row.wrong(format!("`declaration`: `def {entry}(` is expected in it")))?;
        let helpers = &declaration[..start];
        let setup = if helpers.contains("def ") { helpers.trim_end().to_owned() } else { String::new() };
        let mut extra = Extra::new();
        for field in ["entry_point", "failure_symptoms", "signature"] {
            extra.insert(field.into(), row.text(field)?.into());
        }
        problems.push(Problem {
            id: row.text("task_id")?,
            suite: "humaneval_fix".into(),
            kind: row.text("bug_type")?,
            difficulty: String::new(),
            prompt: row.text("instruction")?,
            buggy: Some(format!("{declaration}{}", row.text("buggy_solution")?)),
            reference: Some(format!("{declaration}{}", row.text("canonical_solution")?)),
            language: "python".into(),
            check: Check { setup, prelude: PRELUDE.into(), ..Check::statements(vec![row.text("test")?.trim().to_owned()], 10.0) },
            split: None,
            extra,
        });
    }
    grade(&mut problems);
    Ok(problems)
}
