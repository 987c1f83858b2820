//! The user's own code: a folder, a file in it with a bug, and a command that tests it.
//!
//! The list is TOML, a `[[problem]]` table each, or JSONL with the same fields. A problem is `repair`: its buggy code is the
//! file, or lines of it, and an answer is their new text.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::command::{inside, is_harness, is_test, tests_below};
use crate::error::{Error, Result};
use crate::record::{self, Check, Command, Extra, Form, Problem, Runner};

/// A problem as the list has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    /// A name of its own.
    pub(super) id: String,
    /// The folder, relative to the list; the list's own without it.
    #[serde(default)]
    pub(super) root: PathBuf,
    /// The file with the bug, relative to `root`.
    pub(super) file: String,
    /// What tests it, for a shell in the folder.
    pub(super) command: String,
    /// A function, or `Class.method`, of the file that alone is to be repaired.
    pub(super) function: Option<String>,
    /// Its first and last line, from 1, instead.
    pub(super) lines: Option<[usize; 2]>,
    /// What the code has to do.
    #[serde(default)]
    pub(super) description: String,
    /// The tests' files; without them, those that look like tests by their names.
    pub(super) tests: Option<Vec<String>>,
    /// Seconds that the command may take.
    #[serde(default = "minute")]
    pub(super) timeout_s: f64,
    /// The programming language; by the file's ending without it.
    pub(super) language: Option<String>,
    /// A file, relative to the list, with the right text: a whole file or the lines, as the answer.
    pub(super) reference: Option<PathBuf>,
    /// Whose report the command prints, where it is not found out.
    pub(super) runner: Option<Runner>,
    /// `false`: Python's tests are not run a second time with changed expectations.
    #[serde(default = "yes")]
    pub(super) twins: bool,
    /// The least number of tests that must run.
    pub(super) tests_run: Option<usize>,
    /// Folders outside that the command may read, relative to the list: a virtual environment, a toolchain.
    #[serde(default)]
    pub(super) reads: Vec<PathBuf>,
}

fn minute() -> f64 {
    60.0
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    problem: Vec<Item>,
}

/// Reads the list, and of each problem the buggy code.
pub(super) fn read(path: &Path) -> Result<Vec<Problem>> {
    let items: Vec<Item> = if path.extension().is_some_and(|e| e == "jsonl") {
        record::read_jsonl(path)?
    } else {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let list: List = toml::from_str(&text).map_err(|e| {
            let line = 1 + e.span().map_or(0, |span| text[..span.start].matches('\n').count());
            Error::line(path, line, e.message())
        })?;
        list.problem
    };
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut problems: Vec<Problem> = Vec::new();
    for item in items {
        if problems.iter().any(|problem| problem.id == item.id) {
            return Err(Error::input(path.display(), format!("two problems are named `{}`", item.id)));
        }
        let at = format!("{}: problem `{}`", path.display(), item.id);
        problems.push(problem(&at, &beside, item)?);
    }
    Ok(problems)
}

/// The problem of an item; `at` is where it stands, `beside` the folder that its paths are relative to.
pub(super) fn problem(at: &str, beside: &Path, item: Item) -> Result<Problem> {
    let wrong = |what: String| Error::input(at, what);
    let real = |folder: &Path, key: &str| {
        let folder = beside.join(folder);
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let found = folder.canonicalize().ok().filter(|found| found.is_dir());
        found.ok_or_else(|| wrong(format!("`{key}`: a folder is expected, {} is none", folder.display())))
    };
    if item.command.trim().is_empty() {
        return Err(wrong("`command`: what tests the code is expected, nothing was found".into()));
    }
    if !(item.timeout_s.is_finite() && item.timeout_s > 0.0) {
        return Err(wrong(format!("`timeout_s`: seconds above 0 are expected, {} was found", item.timeout_s)));
    }
    let root = real(&item.root, "root")?;
    let file = |name: &str, key: &str| {
        let path = root.join(name);
        let plain = path.canonicalize().is_ok_and(|found| found.is_file() && found.starts_with(&root));
        match inside(name) && plain {
            true => Ok(path),
            false => Err(wrong(format!("`{key}`: a file below {} is expected, `{name}` is none", root.display()))),
        }
    };
    let path = file(&item.file, "file")?;
    let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    if is_harness(&item.file) {
        return Err(wrong(format!("`file`: `{}` steers the tests; an answer may not", item.file)));
    }
    let tests = match item.tests {
        Some(tests) => tests,
        None => tests_below(&root)?.into_iter().filter(|name| *name != item.file).collect(),
    };
    for name in &tests {
        file(name, "tests")?;
        if *name == item.file {
            return Err(wrong(format!("`tests`: `{name}` is the file to repair")));
        }
    }
    if is_test(&item.file) && tests.is_empty() {
        return Err(wrong(format!("`file`: `{}` is a test by its name, and no other test is listed", item.file)));
    }
    let language = item.language.unwrap_or_else(|| language(&item.file).to_owned());
    let count = text.lines().count();
    let lines = match (&item.function, item.lines) {
        (Some(_), Some(_)) => return Err(wrong("`function` or `lines` is expected, both were found".into())),
        (Some(name), None) => {
            let found = definition(&text, name, &language);
            let what =
                || format!("`function`: one definition of `{name}` in {} is expected, none or several were found", item.file);
            Some(found.ok_or_else(|| wrong(what()))?)
        }
        (None, Some([first, last])) if first == 0 || first > last || last > count => {
            let what = format!("`lines`: [first, last] within 1 to {count} is expected, [{first}, {last}] was found");
            return Err(wrong(what));
        }
        (None, lines) => lines,
    };
    let buggy = match lines {
        Some([first, last]) => text.split_inclusive('\n').skip(first - 1).take(last + 1 - first).collect(),
        None => text,
    };
    let reference = match &item.reference {
        Some(name) => {
            let path = beside.join(name);
            Some(fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?)
        }
        None => None,
    };
    let reads = item.reads.iter().map(|folder| real(folder, "reads")).collect::<Result<Vec<_>>>()?;
    let twins = item.twins && language == "python";
    let form = Command {
        root,
        file: item.file,
        lines,
        command: item.command,
        tests,
        runner: item.runner,
        twins,
        tests_run: item.tests_run,
        reads,
    };
    Ok(Problem {
        id: item.id,
        suite: "folder".into(),
        kind: "own code".into(),
        difficulty: "medium".into(),
        prompt: item.description,
        buggy: Some(buggy),
        reference,
        language,
        check: Check { form: Form::Command(Box::new(form)), ..Check::statements(Vec::new(), item.timeout_s) },
        split: None,
        extra: Extra::new(),
    })
}

/// The programming language of a file, by its ending.
pub(super) fn language(file: &str) -> &str {
    match file.rsplit_once('.').map_or("", |(_, end)| end) {
        "py" => "python",
        "rs" => "rust",
        "js" | "mjs" | "cjs" => "javascript",
        "ts" => "typescript",
        "cc" | "cxx" | "hpp" => "cpp",
        "rb" => "ruby",
        "" => "text",
        other => other,
    }
}

/// The first and last line, from 1, of the one definition of `name` (or `Class.name`): by indentation in Python, decorators
/// included; elsewhere from the line that opens its first brace to the one that closes it.
pub fn definition(text: &str, name: &str, language: &str) -> Option<[usize; 2]> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut first, mut last) = (1, lines.len());
    for part in name.split('.') {
        let found: Vec<usize> = (first..=last).filter(|at| defines(lines[at - 1], part, language)).collect();
        let [at] = found[..] else { return None };
        [first, last] = [at, end(&lines, at, language)?];
    }
    while language == "python" && first > 1 && lines[first - 2].trim_start().starts_with('@') {
        first -= 1;
    }
    Some([first, last])
}

fn defines(line: &str, name: &str, language: &str) -> bool {
    let inner = line.trim_start();
    if language == "python" {
        let inner = inner.strip_prefix("async ").unwrap_or(inner);
        let rest =
            inner.strip_prefix("def ").or(inner.strip_prefix("class ")).and_then(|rest| rest.trim_start().strip_prefix(name));
        return rest.is_some_and(|rest| rest.trim_start().starts_with(['(', ':', '[']));
    }
    let word = |c: char| c.is_alphanumeric() || c == '_';
    // A call is a statement, or stands in one: it ends with a semicolon, or has no type or keyword right before it.
    let starts = ["return ", "if ", "while ", "else ", "//", "*"];
    inner.match_indices(name).any(|(at, _)| {
        let (before, after) = (&inner[..at], &inner[at + name.len()..]);
        before.ends_with(' ')
            && !after.starts_with(word)
            && after.trim_start().starts_with(['(', '<', '{'])
            && !before.contains(['=', '('])
    }) && !inner.ends_with(';')
        && !starts.iter().any(|start| inner.starts_with(start))
}

fn end(lines: &[&str], at: usize, language: &str) -> Option<usize> {
    if language == "python" {
        let depth = |line: &str| line.len() - line.trim_start().len();
        let own = depth(lines[at - 1]);
        // The header may go on over several lines, and its closing bracket stand at its own depth.
        let inside = |line: &&str| line.trim().is_empty() || depth(line) > own || line.trim_start().starts_with([')', ']']);
        let mut last = at + lines[at..].iter().take_while(|line| inside(line)).count();
        while last > at && lines[last - 1].trim().is_empty() {
            last -= 1;
        }
        return Some(last);
    }
    let mut depth = 0;
    for (index, line) in lines.iter().enumerate().skip(at - 1) {
        depth += line.matches('{').count();
        let closed = line.matches('}').count();
        if closed > 0 && closed >= depth {
            return Some(index + 1);
        }
        depth -= closed;
    }
    None
}

/// The first and last line of the innermost definition that line `at` is in: Python's by indentation; none elsewhere.
pub(super) fn enclosing(lines: &[&str], at: usize, language: &str) -> Option<[usize; 2]> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let header = |line: &str| ["def ", "async def ", "class "].iter().any(|start| line.trim_start().starts_with(start));
    if language != "python" {
        return None;
    }
    let own = if header(lines[at - 1]) { usize::MAX } else { depth(lines[at - 1]) };
    let first = (1..=at).rev().find(|&n| header(lines[n - 1]) && depth(lines[n - 1]) < own)?;
    let last = end(lines, first, language)?;
    (last >= at).then_some([first, last])
}

#[cfg(test)]
mod tests {
    use super::definition;

    #[test]
    fn a_definition_is_found_with_its_decorators_and_its_end() {
        let python = "import a\n\n@a.b\ndef f(\n    x,\n):\n    return x\n\n\nclass C:\n    def g(self):\n        f(1)\n\n    def h(self): pass\n";
        assert_eq!(definition(python, "f", "python"), Some([3, 7]));
        assert_eq!(definition(python, "C.g", "python"), Some([11, 12]));
        assert_eq!(definition(python, "C", "python"), Some([10, 14]));
        assert_eq!(definition(python, "missing", "python"), None);
        let rust = "fn a() -> u32 {\n    if b() { 1 } else { 2 }\n}\n\npub fn b() -> bool {\n    true\n}\n";
        assert_eq!(definition(rust, "a", "rust"), Some([1, 3]));
        assert_eq!(definition(rust, "b", "rust"), Some([5, 7]));
    }
}
