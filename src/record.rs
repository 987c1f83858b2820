//! The JSONL records that pass between stages: one object a line, fields that this program does not know are kept, every
//! error names file and line, every write is atomic.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Fields that a record carries and this program does not read.
pub type Extra = Map<String, Value>;

/// Which part of a benchmark a problem belongs to: 70 % train, 15 % validation, 15 % test by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Traces are collected here.
    Train,
    /// Hyper-parameters, early stopping and preferences (the paper's D_val).
    Validation,
    /// Measured, never trained on.
    Test,
}

/// How an answer is checked. Tests are statements of the problem's language, run after `setup` and the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Code that runs after the answer and before the tests (MBPP's `test_setup_code`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub setup: String,
    /// Code put in front of the answer (imports that the benchmark promises, a declaration that answers go under).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prelude: String,
    /// The tests: one statement (or one small program, where it cannot be split) each.
    pub tests: Vec<String>,
    /// Wall-clock limit for one answer, in seconds.
    pub timeout_s: f64,
    /// What the tests are, and so how they are run.
    #[serde(default, skip_serializing_if = "Form::is_statements")]
    pub form: Form,
}

impl Check {
    /// Statements of Python, without a setup or a prelude.
    pub fn statements(tests: Vec<String>, timeout_s: f64) -> Check {
        Check { setup: String::new(), prelude: String::new(), tests, timeout_s, form: Form::Statements }
    }

    /// Whether `tests` are statements of Python.
    pub fn has_statements(&self) -> bool {
        match self.form {
            Form::Statements => true,
            Form::Calls { .. } => !self.tests.is_empty(),
            Form::Unittest { .. }
            | Form::Command(_)
            | Form::Patch(_)
            | Form::Defects4j(_)
            | Form::Program { .. }
            | Form::Junit { .. } => false,
        }
    }
}

/// What a problem's tests are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Form {
    /// Statements of Python: asserts, or small programs of them. Expected values never enter the answer's process.
    #[default]
    Statements,
    /// A command in a copy of a folder, with the answer in one of its files (suite `folder`).
    Command(Box<Command>),
    /// A patch on a commit of a git repository, judged by named tests (suite `swebench`).
    Patch(Box<Patch>),
    /// Calls of the answer's functions, after the statements; what each must give, the reference says (EvalPlus).
    Calls {
        /// The calls, as source.
        calls: Vec<String>,
        /// How many of them, the first, are the benchmark's own.
        base: usize,
        /// The difference allowed between numbers.
        atol: f64,
        /// How an answer may differ from the reference.
        oracle: Oracle,
        /// The reference, a whole program.
        solution: String,
    },
    /// A module of `unittest` classes, run in the answer's process beside tests that a right answer must fail.
    Unittest {
        /// The function that the answer defines.
        entry: String,
        /// The class whose tests count.
        class: String,
        /// Modules that the problem needs besides those that its code imports.
        #[serde(default)]
        libraries: Vec<String>,
    },
    /// A method of a Defects4J bug: the answer goes into the project, which is compiled and tested.
    Defects4j(Defects4j),
    /// A program that calls the function `entry` and asserts what it gives, compiled with the answer.
    Program {
        /// The function's name.
        entry: String,
        /// Functions that the problem gives and the tests use: the tests use these, whatever the answer makes of them.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        helpers: String,
    },
    /// A JUnit class in Java, compiled with the answer and run by a runner of ours.
    Junit {
        /// The class that an answer holds, with its package: `humaneval.buggy.ADD`.
        class: String,
        /// The class of the tests, with its package; its source is the only test.
        test_class: String,
        /// Sources that both need, by their paths.
        #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        files: std::collections::BTreeMap<String, String>,
    },
}

/// How the result of a call may differ from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Oracle {
    /// It may not, but for floats.
    Equal,
    /// Order and repetition do not count.
    Set,
    /// Both are None, or both are not; a bool says which.
    NotNone,
    /// Any result is right.
    Anything,
    /// The value given for the call is right too.
    Or {
        /// One a call.
        values: Vec<Option<f64>>,
    },
    /// A root of the polynomial given for the call.
    Root {
        /// One polynomial a call, the constant first.
        coefficients: Vec<Vec<f64>>,
    },
}

impl Form {
    /// Whether this is the form that a record need not name.
    pub fn is_statements(&self) -> bool {
        *self == Form::Statements
    }
}

/// Tests that are a command of the owner's: the answer replaces a file, or lines of it, in a fresh copy of the folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The folder, absolute. It is copied, never written.
    pub root: PathBuf,
    /// The file that the answer replaces, relative to `root`.
    pub file: String,
    /// Its lines that the answer replaces, first and last, from 1; the whole file without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<[usize; 2]>,
    /// What a shell runs in the copy.
    pub command: String,
    /// The tests' files, relative to `root`: a run must not change them.
    pub tests: Vec<String>,
    /// Whose report is read; none to find out from what the command prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
    /// Whether tests of Python are run a second time with changed expectations, which a right answer must fail.
    pub twins: bool,
    /// The least number of tests that must run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests_run: Option<usize>,
    /// Folders outside that the command may read; the `bin` of each is on its PATH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<PathBuf>,
}

/// Who runs a command's tests, and so what its report looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Python's `unittest`, Django's runner.
    Unittest,
    /// pytest.
    Pytest,
    /// `cargo test`.
    Cargo,
    /// `go test`.
    Go,
    /// JUnit's own runner, Maven, Gradle's or Ant's text.
    Junit,
    /// `node --test`.
    Node,
    /// None that is known: the exit code is trusted, because the owner says so.
    ExitCode,
}

/// Tests that a patch must make pass, and tests that it must not break.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// The clone, absolute. Nothing is written to it.
    pub repo: PathBuf,
    /// The commit that the patch is for.
    pub base: String,
    /// The tests' own patch, applied after the answer's.
    pub test_patch: String,
    /// Tests that fail at `base` and must pass.
    pub fail_to_pass: Vec<String>,
    /// Tests that pass at `base` and must still pass.
    pub pass_to_pass: Vec<String>,
    /// What a shell runs in the checkout.
    pub command: String,
    /// Whose report of each test is read: `pytest` or `unittest`; none reads both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
    /// Whether the tests that must pass are run a second time with changed expectations, which a right patch must fail.
    pub twins: bool,
    /// Folders outside that the command may read; the `bin` of each is on its PATH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<PathBuf>,
}

/// A method of a Defects4J bug, and how the project that holds it is compiled and tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defects4j {
    /// The bug: `Lang-1`.
    pub bug: String,
    /// What is asked for, and of which version of the project.
    pub mode: Defects4jMode,
    /// Who compiles and tests.
    pub protocol: Defects4jProtocol,
    /// The folder of checkouts and results.
    pub work: PathBuf,
    /// The file in the checkout that holds the method.
    pub file: PathBuf,
    /// The method's name.
    pub method: String,
    /// The first byte of what an answer replaces.
    pub begin: usize,
    /// The byte after it.
    pub end: usize,
    /// The tests that fail because of the bug: `Class::method`.
    pub trigger: Vec<String>,
    /// Wall-clock seconds to compile in.
    pub compile_s: f64,
    /// Wall-clock seconds for each run of tests.
    pub test_s: f64,
}

/// What is asked for a Defects4J bug.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defects4jMode {
    /// The whole method in place of the buggy one, in the buggy version, which its tests show.
    #[default]
    Repair,
    /// The body of a method whose signature is given, in the fixed version.
    MethodBody,
}

/// Who compiles and tests a Defects4J bug.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defects4jProtocol {
    /// Defects4J: the trigger tests, then every test. What passes is *plausible*.
    #[default]
    Full,
    /// Defects4J: the trigger tests, then those that load a changed class. What passes is plausible too.
    Relevant,
    /// A JDK alone: the trigger tests and nothing else. What passes is not known to be plausible.
    TriggerTest,
}

/// A problem: `repair` when it carries buggy code, `generate` when it only has a description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The benchmark's own id, as text.
    pub id: String,
    /// The suite it comes from: `mbpp`, `quixbugs`, ...
    pub suite: String,
    /// The kind of bug or of task; the cap and the reports are balanced over it.
    pub kind: String,
    /// `easy`, `medium` or `hard`.
    pub difficulty: String,
    /// What the code has to do, in words.
    pub prompt: String,
    /// Code that fails at least one test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buggy: Option<String>,
    /// Code that passes every test. Never trained on (section 4.4 of the paper).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The programming language, in lower case: `python`, `java`, `cpp`, ...
    pub language: String,
    /// How answers are checked.
    pub check: Check,
    /// Where the split put it; none before the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Everything else that the record carries.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What happened to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every test passed.
    Pass,
    /// A test failed, or not every test reported.
    Fail,
    /// It ran longer than allowed.
    Timeout,
    /// It asked for more memory than allowed.
    Memory,
    /// It could not be run at all: a syntax error, an exception on import, a crash.
    Error,
    /// The answer holds no code to run.
    Refused,
}

/// The verdict on an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What happened.
    pub verdict: Outcome,
    /// Why, in one line: the failing test, the exception; empty for a pass.
    #[serde(default)]
    pub reason: String,
    /// Whether the answer compiles; none where the check cannot tell. Python's are those that `compile()` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<bool>,
    /// Wall-clock seconds of the check.
    #[serde(default)]
    pub seconds: f64,
}

/// Tokens that a model's provider counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// `traces.jsonl`: what the teacher wrote for a problem, and whether its fix passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The problem's id.
    pub id: String,
    /// The teacher.
    pub model: String,
    /// What the teacher was asked.
    pub prompt: String,
    /// The reasoning before the code.
    pub reasoning: String,
    /// The code, empty when there was none.
    pub answer: String,
    /// The teacher's text as it came.
    pub raw: String,
    /// Whether the fix passes; none before the filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What it cost.
    #[serde(default)]
    pub usage: Usage,
    /// Everything else that the record carries.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message { role: "assistant".into(), content: content.into() }
    }
}

/// `sft.jsonl`: a conversation to train on; the loss is on the assistant's turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The problem's id; empty in files from elsewhere.
    #[serde(default)]
    pub id: String,
    /// The turns.
    pub messages: Vec<Message>,
    /// Everything else that the record carries.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `candidates.jsonl` and `evaluation/*.jsonl`: an answer of the student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The problem's id.
    pub id: String,
    /// Which of the problem's answers this is, from 0.
    #[serde(default)]
    pub index: usize,
    /// The model that wrote it: `base`, `sft`, `ppo`, or a name from elsewhere.
    #[serde(default)]
    pub model: String,
    /// The sampling temperature.
    #[serde(default)]
    pub temperature: f64,
    /// The text as sampled.
    pub text: String,
    /// The code in it, empty when there is none.
    pub answer: String,
    /// Whether it passes; none where it was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Everything else that the record carries.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `preferences.jsonl`: two answers to one prompt, TRL's preference form with a soft label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The problem's id; empty in files from elsewhere.
    #[serde(default)]
    pub id: String,
    /// What was asked.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
    /// P(chosen is better): 1, or 0.5 for a tie that was kept.
    #[serde(default = "one")]
    pub label: f64,
    /// What the judge said, in the order it was asked.
    #[serde(default)]
    pub judgments: Vec<Value>,
    /// Everything else that the record carries.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `reward/validation.jsonl`: a pair that the reward model was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// The problem's id, or the line of a file from elsewhere.
    pub id: String,
    /// P(the first answer is better), as the pair was labelled.
    pub label: f64,
    /// The score of the first answer less that of the second.
    pub margin: f64,
}

/// The field of a record from elsewhere that says which file and line it was.
pub const IMPORTED: &str = "imported_from";

/// What the field `program` of a record says: which version of this program made it.
pub fn program() -> Value {
    concat!("repairity ", env!("CARGO_PKG_VERSION")).into()
}

fn one() -> f64 {
    1.0
}

/// Reads every record of a JSONL file. Empty lines are skipped; anything else that is not a `T` is an error with its line.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut records = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| match e.kind() {
            // What the line holds is no text; everything else is about the file.
            std::io::ErrorKind::InvalidData => Error::line(path, index + 1, e),
            _ => Error::io(path, e),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        records.push(serde_json::from_str(&line).map_err(|e| Error::line(path, index + 1, e))?);
    }
    Ok(records)
}

/// Writes records, one a line, atomically.
pub fn write_jsonl<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for record in records {
        serde_json::to_writer(&mut bytes, record).map_err(|e| Error::io(path, e.into()))?;
        bytes.push(b'\n');
    }
    write_atomic(path, &bytes)
}

/// Writes a whole file, or leaves the old one: a temporary beside it, fsync, rename, fsync of the folder.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes).map_err(|e| Error::io(path, e)))
}

/// The same for a file that `write` makes piece by piece. Its errors are to name `path`, not the temporary.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let name = path.file_name().ok_or_else(|| Error::input(path.display(), "not a file name"))?;
    // A device or a pipe is written to; a rename would put a file in its place.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        let mut file = File::options().write(true).open(path).map_err(|e| Error::io(path, e))?;
        return write(&mut file);
    }
    let temporary = folder.join(format!(".{}.{}{TEMPORARY}", name.to_string_lossy(), std::process::id()));
    let io = |e| Error::io(path, e);
    let publish = || {
        let mut file = File::create(&temporary).map_err(io)?;
        write(&mut file)?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, path).map_err(io)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    };
    publish().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Removes the temporaries below a folder that killed processes have left. Nobody else may be writing there.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        if kind.is_dir() {
            remove_temporaries(&path)?;
        } else if kind.is_file() && is_temporary(&name) {
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// How temporaries end: a run folder may be one that holds other things of its owner's.
pub(crate) const TEMPORARY: &str = ".repairity";

/// Whether a name is one that [`write_atomic_with`] gives: `.name.process.repairity`.
fn is_temporary(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY)).and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(name, process)| !name.is_empty() && !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.jsonl");
        let line = r#"{"id":"7","messages":[{"role":"user","content":"x"}],"source":"mine","score":0.5}"#;
        fs::write(&path, format!("\n{line}\n")).unwrap();
        let records: Vec<Conversation> = read_jsonl(&path).unwrap();
        write_jsonl(&path, &records).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{line}\n"));
    }

    #[test]
    fn an_error_names_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.jsonl");
        fs::write(&path, "{\"id\":\"1\",\"messages\":[]}\n{\"id\":\"2\"}\n").unwrap();
        let error = read_jsonl::<Conversation>(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("sft.jsonl:2: missing field `messages`"), "{text}");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("sft/adapter");
        fs::create_dir_all(&inner).unwrap();
        let ours = [".problems.jsonl.4711.repairity", "sft/adapter/.a.safetensors.12.repairity"];
        for name in ours.into_iter().chain(["problems.jsonl", ".hashes.json", ".notes.2024", "sft/adapter/a.1"]) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_temporaries(folder.path()).unwrap();
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap();
            let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(folder.path()), [".hashes.json", ".notes.2024", "problems.jsonl", "sft"]);
        assert_eq!(names(&inner), ["a.1"]);
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        write_atomic(Path::new("/dev/null"), b"x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        // A symbolic link to a device is the device.
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("out");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write_atomic(&link, b"x").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();
        assert!(write_atomic(&path, b"new").is_err());
        assert_eq!(fs::read_to_string(path.join("inside")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
