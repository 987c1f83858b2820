//! One file of the user's own, and what tests it: a file of tests, or a command in the project's folder.
//!
//! A file of tests in Python is read by a trusted process, which says what kind it is. Plain assertions, as MBPP writes them, are
//! checked like MBPP's: expected values never enter the answer's process. Test classes and test functions import the file, so they
//! become a command in a folder (suite `folder`), with its twins: the project's, where one is named, else one that holds the two
//! files alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Checker;
use super::check::BYTE_ORDER_MARK;
use super::check::command::Scratch;
use super::check::value::Value;
use super::folder::{self, Item};
use crate::error::{Error, Result};
use crate::record::{Check, Extra, Problem, Runner};

const READ: &str = concat!(include_str!("check/codec.py"), include_str!("own.py"));

/// Seconds that plain assertions may take, and a command, where the user says nothing.
const STATEMENTS_S: f64 = 10.0;
const COMMAND_S: f64 = 60.0;

/// What the user says of a file and its tests.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The file.
    pub file: PathBuf,
    /// Its tests, a file.
    pub tests: Option<PathBuf>,
    /// What a shell runs to test it, in the folder `root`.
    pub command: Option<String>,
    /// Whose report the command prints; by the command, or else by the report, without it.
    pub runner: Option<Runner>,
    /// The project's folder; the file's own where only a command is given.
    pub root: Option<PathBuf>,
    /// What the code has to do.
    pub description: String,
    /// The programming language; by the file's ending without it.
    pub language: Option<String>,
    /// Wall-clock seconds for a run of the tests.
    pub timeout_s: Option<f64>,
    /// Folders outside that the command may read; the `bin` of each is on its PATH.
    pub reads: Vec<PathBuf>,
}

/// A problem whose answers are whole texts of the file.
#[derive(Debug)]
pub struct OwnProblem {
    /// Its buggy code is the file as it is.
    pub problem: Problem,
    /// The folder that holds the file and its tests, where no project's is named.
    _staged: Option<Scratch>,
}

/// What a file of tests holds.
enum Tests {
    Statements { setup: String, tests: Vec<String> },
    Unittest,
    Pytest,
}

/// The problem that a file of the user's is; `text` is what it holds. Errors are [`Error::Input`] for tests that cannot be read and
/// files that do not lie in the folder, and [`Error::Machine`] where pytest is needed and lacks.
pub fn read(checker: &Checker, own: &Own, text: &str) -> Result<OwnProblem> {
    if let Some(seconds) = own.timeout_s.filter(|seconds| !(seconds.is_finite() && *seconds > 0.0)) {
        return Err(Error::input("timeout", format!("seconds above 0 are expected, {seconds} was found")));
    }
    let name = file_name(&own.file)?;
    let language = own.language.clone().unwrap_or_else(|| folder::language(name).to_owned());
    let (Some(tests), None) = (&own.tests, &own.command) else {
        let command = own.command.clone().ok_or_else(|| Error::input("tests", "a file of tests or a command is expected"))?;
        return in_folder(own, command, own.root.clone(), None);
    };
    if language != "python" {
        let what = format!("a file of tests can be Python's; for `{language}` say how to run them: --test-command and --root");
        return Err(Error::input(tests.display(), what));
    }
    if own.file.canonicalize().ok() == tests.canonicalize().ok() {
        return Err(Error::input(tests.display(), "the file to repair cannot be its own tests"));
    }
    let source = fs::read_to_string(tests).map_err(|e| Error::io(tests, e))?;
    let module = name.strip_suffix(".py").unwrap_or(name);
    let source = source.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&source);
    match kind(checker, tests, source, module)? {
        Tests::Statements { .. } if own.root.is_some() => {
            let what = "plain assertions cannot see a project's folder; --root needs unittest classes or pytest functions";
            Err(Error::input(tests.display(), what))
        }
        Tests::Statements { setup, tests } => {
            let timeout_s = own.timeout_s.unwrap_or(STATEMENTS_S);
            let problem = Problem {
                id: name.to_owned(),
                suite: "own".into(),
                kind: "own code".into(),
                difficulty: "medium".into(),
                prompt: own.description.clone(),
                buggy: Some(text.to_owned()),
                reference: None,
                language,
                check: Check { setup, ..Check::statements(tests, timeout_s) },
                split: None,
                extra: Extra::new(),
            };
            Ok(OwnProblem { problem, _staged: None })
        }
        kind => {
            if matches!(kind, Tests::Pytest) && !has_pytest(checker) {
                let what = format!(
                    "{}: these tests are pytest's, which {} does not have; unittest classes and plain assertions need nothing",
                    tests.display(),
                    checker.python().executable.display()
                );
                return Err(Error::Machine(what));
            }
            let (root, staged) = match &own.root {
                Some(root) => (root.clone(), None),
                None => {
                    let scratch = Scratch::new()?;
                    let tree = scratch.tree();
                    for path in [&own.file, tests] {
                        let target = tree.join(file_name(path)?);
                        if target.exists() {
                            let what = "the file and its tests have one name; name the folder that holds both with --root";
                            return Err(Error::input(path.display(), what));
                        }
                        fs::copy(path, &target).map_err(|e| Error::io(path, e))?;
                    }
                    (tree, Some(scratch))
                }
            };
            let place = match &staged {
                Some(_) => file_name(tests)?.to_owned(),
                None => below(&root, tests)?,
            };
            let command = match kind {
                Tests::Pytest => format!("python3 -m pytest -q {}", quoted(&place)),
                _ => format!("python3 -m unittest -q {}", quoted(&place)),
            };
            in_folder(own, command, Some(root), staged)
        }
    }
}

/// The problem with a command in a folder.
fn in_folder(own: &Own, command: String, root: Option<PathBuf>, staged: Option<Scratch>) -> Result<OwnProblem> {
    let beside = own.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = root.unwrap_or_else(|| beside.to_owned());
    let root = root.canonicalize().map_err(|e| Error::io(&root, e))?;
    let place = |path: &Path| match &staged {
        Some(_) => file_name(path).map(str::to_owned),
        None => below(&root, path),
    };
    let item = Item {
        id: file_name(&own.file)?.to_owned(),
        file: place(&own.file)?,
        tests: own.tests.as_deref().map(place).transpose()?.map(|tests| vec![tests]),
        runner: own.runner.or_else(|| runner_of(&command)),
        command,
        function: None,
        lines: None,
        description: own.description.clone(),
        timeout_s: own.timeout_s.unwrap_or(COMMAND_S),
        language: own.language.clone(),
        reference: None,
        twins: true,
        tests_run: None,
        reads: own.reads.iter().map(|path| path.canonicalize().map_err(|e| Error::io(path, e))).collect::<Result<_>>()?,
        root: root.clone(),
    };
    let problem = folder::problem(&own.file.display().to_string(), &root, item)?;
    Ok(OwnProblem { problem, _staged: staged })
}

/// The runner that a command starts by its words, if it is one alone. A file that does not compile, or runs without an end, lets no
/// runner report.
fn runner_of(command: &str) -> Option<Runner> {
    let mut found: Vec<Runner> = command.split([';', '&', '|', '\n']).filter_map(started).collect();
    found.dedup();
    match found[..] {
        [runner] => Some(runner),
        _ => None,
    }
}

/// The runner that one command without `;`, `&` and `|` starts.
fn started(command: &str) -> Option<Runner> {
    let words: Vec<&str> = command.split_whitespace().collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let rest = &words[at + 1..];
        let name = word.rsplit('/').next().unwrap_or(word);
        let module = || match rest.iter().skip_while(|word| **word != "-m").nth(1) {
            Some(&"pytest") => Some(Runner::Pytest),
            Some(&"unittest") => Some(Runner::Unittest),
            _ => None,
        };
        match name {
            "cargo" => rest.contains(&"test").then_some(Runner::Cargo),
            "go" => rest.contains(&"test").then_some(Runner::Go),
            "node" => rest.contains(&"--test").then_some(Runner::Node),
            "mvn" | "mvnw" | "gradle" | "gradlew" => Some(Runner::Junit),
            "pytest" | "py.test" => Some(Runner::Pytest),
            _ if name.starts_with("python") => module(),
            _ => None,
        }
    })
}

/// Asks the trusted process what the tests are.
fn kind(checker: &Checker, path: &Path, source: &str, module: &str) -> Result<Tests> {
    let wrong = |what: &str| Error::input(path.display(), what);
    let request = Value::List(vec![Value::text(source), Value::text(module)]);
    let answer = checker.ask_trusted(READ, &request, 1)?.and_then(|answers| answers.first().and_then(Value::as_texts));
    let words = answer.ok_or_else(|| wrong("the tests cannot be read: reading them did not end"))?;
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["statements", setup, tests @ ..] => {
            Ok(Tests::Statements { setup: setup.to_string(), tests: tests.iter().map(|test| test.to_string()).collect() })
        }
        ["unittest"] => Ok(Tests::Unittest),
        ["pytest"] => Ok(Tests::Pytest),
        [_, what @ ..] => Err(wrong(&format!("the tests cannot be read: {}", what.join(" ")))),
        [] => Err(wrong("the tests cannot be read")),
    }
}

fn has_pytest(checker: &Checker) -> bool {
    let ask = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pytest') is None)";
    let mut command = Command::new(&checker.python().executable);
    command.args(["-I", "-c", ask]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A path relative to a folder that holds it.
fn below(root: &Path, path: &Path) -> Result<String> {
    let (root, real) =
        (root.canonicalize().map_err(|e| Error::io(root, e))?, path.canonicalize().map_err(|e| Error::io(path, e))?);
    let inner = real.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned);
    inner.ok_or_else(|| Error::input(path.display(), format!("a file below {} is expected", root.display())))
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::input(path.display(), "not a file name"))
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_s_words_tell_the_runner() {
        for (command, runner) in [
            ("cargo test --offline", Some(Runner::Cargo)),
            ("cd core && RUST_BACKTRACE=1 timeout 9 cargo +stable test", Some(Runner::Cargo)),
            ("go test ./...", Some(Runner::Go)),
            ("node --test test/", Some(Runner::Node)),
            ("./gradlew -q check", Some(Runner::Junit)),
            ("python3 -m unittest -q", Some(Runner::Unittest)),
            (".venv/bin/python -W error -m pytest -q tests", Some(Runner::Pytest)),
            ("poetry run pytest", Some(Runner::Pytest)),
            ("make test", None),
            ("cargo build", None),
            ("python3 tests.py", None),
            ("cargo test && pytest", None),
        ] {
            assert_eq!(runner_of(command), runner, "{command}");
        }
    }
}
