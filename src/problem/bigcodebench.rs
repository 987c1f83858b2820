//! BigCodeBench (Zhuo et al. 2024, `bigcode-project/bigcodebench`): 1,140 functions that call libraries, each with a class of
//! `unittest` tests. It carries no bugs.
//!
//! The rows of every published version read alike; those of an older one get the corrections that the later ones brought
//! (`fixes`), so that v0.1.0_hf's rows say what v0.1.4's say. BigCodeBench-Hard is a selection of 148 tasks, published as a
//! file of its own; its ids stand nowhere but in that file, so that the subset needs the file or a list of ids.

mod fixes;

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::record::{Check, Extra, Form, Problem};

use super::row::{Row, rows};
use super::{Options, grade};

/// Tasks of BigCodeBench-Hard.
const HARD: usize = 148;
/// Wall-clock limit for one answer, in seconds. The official harness waits 240 s; an answer that hangs should not hold a core
/// for minutes.
const TIMEOUT: f64 = 30.0;
/// The official limit, for the tasks of the standard library whose references need it: 0 goes through millions of orders, 1104
/// sleeps for a minute.
const PATIENT: (f64, [&str; 2]) = (240.0, ["BigCodeBench/0", "BigCodeBench/1104"]);

/// Reads the rows: `variant` is the prompt (`complete`, the default, or `instruct`), `subset` is `full` or `hard`, `version` is
/// the published version that the rows are brought to, v0.1.4 by default.
pub(super) fn read(path: &Path, options: &Options) -> Result<Vec<Problem>> {
    let prompt = match options.variant.as_deref() {
        None | Some("complete") => "complete_prompt",
        Some("instruct") => "instruct_prompt",
        Some(other) => return Err(Error::input("variant", format!("`complete` or `instruct` is expected, `{other}` was found"))),
    };
    let version = fixes::version(options.version.as_deref().unwrap_or("v0.1.4"))?;
    let rows = rows(path)?;
    let chosen = chosen(path, rows.len(), options)?;
    let mut problems = Vec::new();
    for mut row in rows {
        let id = row.text("task_id")?;
        if chosen.as_ref().is_some_and(|ids| !ids.contains(&id)) {
            continue;
        }
        fixes::apply(&mut row, &id, version)?;
        problems.push(problem(&row, id, prompt)?);
    }
    if let Some(ids) = chosen.filter(|ids| ids.len() != problems.len()) {
        let found: HashSet<&String> = problems.iter().map(|p| &p.id).collect();
        let lacking = ids.iter().filter(|id| !found.contains(id)).min().cloned().unwrap_or_default();
        return Err(Error::input(
            path.display(),
            format!("{} ids are asked for, {} rows have one; `{lacking}` is not there", ids.len(), problems.len()),
        ));
    }
    grade(&mut problems);
    Ok(problems)
}

/// The ids that the subset takes; none takes all.
fn chosen(path: &Path, rows: usize, options: &Options) -> Result<Option<HashSet<String>>> {
    let listed = match &options.ids {
        None => None,
        Some(list) => {
            let text = std::fs::read_to_string(list).map_err(|e| Error::io(list, e))?;
            let ids = text.lines().map(str::trim).filter(|line| !line.is_empty());
            // A bare number is the number of a task.
            let full =
                |id: &str| if id.bytes().all(|b| b.is_ascii_digit()) { format!("BigCodeBench/{id}") } else { id.to_owned() };
            Some(ids.map(full).collect())
        }
    };
    match options.subset.as_deref() {
        None | Some("full") => Ok(listed),
        Some("hard") if listed.is_some() || rows <= HARD => Ok(listed),
        Some("hard") => Err(Error::input(
            path.display(),
            format!(
                "{rows} rows, and nothing in them says which are the {HARD} hard ones: name the file of bigcode/bigcodebench-hard as the path, or a list of ids"
            ),
        )),
        Some(other) => Err(Error::input("subset", format!("`full` or `hard` is expected, `{other}` was found"))),
    }
}

fn problem(row: &Row, id: String, prompt: &str) -> Result<Problem> {
    let stub = row.text("code_prompt")?;
    let libraries =
        libraries(&row.text("libs")?).ok_or_else(|| row.wrong("`libs`: a list of names is expected, as Python writes it"))?;
    let (patience, patient) = PATIENT;
    let timeout_s = if patient.contains(&id.as_str()) { patience } else { TIMEOUT };
    let form = Form::Unittest { entry: row.text("entry_point")?, class: "TestCases".into(), libraries: libraries.clone() };
    let mut extra = Extra::new();
    extra.insert("libraries".into(), libraries.into());
    Ok(Problem {
        id,
        suite: "bigcodebench".into(),
        kind: "function".into(),
        difficulty: String::new(),
        prompt: row.text(prompt)?.trim_end().to_owned(),
        buggy: None,
        reference: Some(format!("{stub}{}", row.text("canonical_solution")?)),
        language: "python".into(),
        // The calibrated form: what the prompt imports is there for an answer that only has the function.
        check: Check { prelude: format!("{stub}\n    pass\n"), form, ..Check::statements(vec![row.text("test")?], timeout_s) },
        split: None,
        extra,
    })
}

/// The names of a list as Python writes it: `['os', "re"]`.
fn libraries(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let name = |part: &str| {
        let part = part.trim();
        let quote = part.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        part.strip_prefix(quote)?.strip_suffix(quote).map(str::to_owned)
    };
    inner.trim_end_matches(',').split(',').map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn lists_of_python_are_read() {
        assert_eq!(libraries("['random', \"itertools\"]").unwrap(), ["random", "itertools"]);
        assert_eq!(libraries("[]").unwrap(), Vec::<String>::new());
        assert_eq!(libraries("random"), None);
        assert_eq!(libraries("[random]"), None);
    }
}
