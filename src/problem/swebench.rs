//! SWE-bench Verified (Jimenez et al. 2024): an issue of a Python project, the commit it was raised at, and tests that tell
//! whether a patch resolves it.
//!
//! Rows are the published ones. The prompt is the issue and the files that it is about (`retrieve`); an answer is a patch, or
//! edits that become one (`patch`). Two judges: the official harness, which needs Docker (`harness`), and a checkout of one's
//! own with a test command (`local`), by the same rules. Beside the published fields a row may carry `test_command`,
//! `log_parser` (`pytest` or `unittest`), `reads` (folders that the command needs) and `twins` (`false` is the official harness'
//! rule alone), which only the second judge reads.

pub mod harness;
mod local;
pub mod patch;
mod retrieve;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Options;
use super::row::{Row, rows};
use crate::error::{Error, Result};
use crate::record::{Check, Extra, Form, Patch, Problem, Runner};

pub use local::patch_of;
pub use retrieve::bound;

/// What an answer has to look like, at the end of every prompt.
pub const FORM: &str = "Answer with one patch in a fenced block marked `diff`: a unified diff against the files as they are, with paths as \
                        above. Do not change tests.";

/// Seconds that a problem's tests may take, as in the official harness.
const TIMEOUT: f64 = 1800.0;

/// How the suite is read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A folder with a clone of each project, named `owner__name`. Without it, prompts have no files and nothing can be judged.
    pub repos: Option<PathBuf>,
    /// What runs the tests in a checkout; `{tests}` is the files of the tests' patch, `{labels}` the same as dotted names without
    /// `tests.` before them. Without it, the row's own `test_command`, or pytest (Django: its own runner).
    pub test_command: Option<String>,
    /// Tokens of files in a prompt, by [`bound`].
    pub tokens: usize,
    /// Folders outside that the command may read; the `bin` of each is on its PATH.
    pub reads: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { repos: None, test_command: None, tokens: 6000, reads: Vec::new() }
    }
}

impl Settings {
    /// What a suite's options say; clones are looked for in `repos` beside the file where they name no folder.
    pub(super) fn of(path: &Path, options: &Options) -> Settings {
        let beside = path.parent().unwrap_or(Path::new("")).join("repos");
        let repos = options.repos.clone().or(Some(beside).filter(|repos| repos.is_dir()));
        let (test_command, reads) = (options.test_command.clone(), options.reads.clone());
        Settings { repos, test_command, reads, ..Settings::default() }
    }
}

/// Reads the first `count` rows, or all for 0. A clone or a commit that is not there is [`Error::Input`].
pub fn read(path: &Path, count: usize, settings: &Settings) -> Result<Vec<Problem>> {
    let rows = rows(path)?;
    let count = if count == 0 { rows.len() } else { count };
    rows.iter().take(count).map(|row| problem(row, settings)).collect()
}

fn problem(row: &Row<'_>, settings: &Settings) -> Result<Problem> {
    let (id, base) = (row.text("instance_id")?, row.text("base_commit")?);
    let name = row.text("repo")?;
    let clean = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !clean(&id) || id.starts_with('.') {
        return Err(row.wrong("`instance_id`: letters, digits, `_`, `.` and `-` are expected"));
    }
    if base.len() < 7 || !base.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(row.wrong(format!("`base_commit`: a commit's hexadecimal digits are expected, `{base}` was found")));
    }
    if !name.split('/').all(clean) || name.split('/').count() != 2 {
        return Err(row.wrong(format!("`repo`: owner/name is expected, `{name}` was found")));
    }
    let (issue, test_patch) = (row.text("problem_statement")?, row.text("test_patch")?);
    let fail_to_pass = names(row, "FAIL_TO_PASS")?;
    if fail_to_pass.is_empty() {
        return Err(row.wrong("`FAIL_TO_PASS`: at least one test is expected, none was found"));
    }
    let (mut repo, mut context) = (PathBuf::new(), String::new());
    if let Some(repos) = &settings.repos {
        let folder = repos.join(name.replace('/', "__"));
        repo = folder.canonicalize().map_err(|_| {
            let what = format!("no clone of {name} in it; expected {}, made by `git clone`", folder.display());
            Error::input(repos.display(), what)
        })?;
        git(&repo, &["cat-file", "-e", &format!("{base}^{{commit}}")]).map_err(|_| {
            Error::input(repo.display(), format!("it has no commit {base}, which {id} needs; `git fetch` may bring it"))
        })?;
        context = retrieve::context(&repo, &base, &issue, settings.tokens, &bound)?;
    }
    let optional = |field: &str| row.get(field).and_then(|value| value.as_str()).map(str::to_owned);
    let default = if name == "django/django" {
        "python3 tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1 {labels}"
    } else {
        "python3 -m pytest -rA {tests}"
    };
    let command = settings.test_command.clone().or_else(|| optional("test_command")).unwrap_or_else(|| default.into());
    let runner = match optional("log_parser") {
        Some(parser) if parser.contains("pytest") => Some(Runner::Pytest),
        Some(parser) if parser.contains("unittest") || parser.contains("django") => Some(Runner::Unittest),
        _ => None,
    };
    let mut reads = settings.reads.clone();
    if row.get("reads").is_some() {
        reads.extend(row.texts("reads")?.into_iter().map(PathBuf::from));
    }
    let form = Patch {
        repo,
        base,
        command: filled(&command, &test_patch),
        test_patch,
        fail_to_pass,
        pass_to_pass: names(row, "PASS_TO_PASS")?,
        runner,
        twins: row.get("twins").and_then(|value| value.as_bool()).unwrap_or(true),
        reads,
    };
    Ok(Problem {
        id,
        suite: "swebench".into(),
        kind: name,
        difficulty: optional("difficulty").unwrap_or_else(|| "medium".into()),
        prompt: format!("{}\n\n{FORM}", issue.trim()),
        // Where the issue names no file, the answer that changes nothing still needs a text of its own.
        buggy: Some(if context.is_empty() { "No file is named.\n".into() } else { context }),
        reference: Some(row.text("patch")?),
        language: "python".into(),
        check: Check { form: Form::Patch(Box::new(form)), ..Check::statements(Vec::new(), TIMEOUT) },
        split: None,
        extra: Extra::new(),
    })
}

/// A list of tests, which the published rows carry as JSON text.
fn names(row: &Row<'_>, field: &str) -> Result<Vec<String>> {
    match row.get(field).and_then(|value| value.as_str()) {
        Some(text) => {
            serde_json::from_str(text).map_err(|e| row.wrong(format!("`{field}`: a JSON list of texts is expected: {e}")))
        }
        None => row.texts(field),
    }
}

/// A command with the test files of a patch in their places, quoted for a shell.
fn filled(command: &str, test_patch: &str) -> String {
    let files = test_files(test_patch);
    let quoted = |names: Vec<String>| {
        let quote = |name: &String| format!("'{}'", name.replace('\'', "'\\''"));
        names.iter().map(quote).collect::<Vec<_>>().join(" ")
    };
    let files: Vec<String> = files.into_iter().filter(|file| file.ends_with(".py")).collect();
    let label = |file: &String| file.strip_prefix("tests/").unwrap_or(file).trim_end_matches(".py").replace('/', ".");
    let labels = files.iter().map(label).collect();
    command.replace("{tests}", &quoted(files)).replace("{labels}", &quoted(labels))
}

/// The files that the tests' patch touches.
fn test_files(test_patch: &str) -> Vec<String> {
    let mut files: Vec<String> = patch::sections(test_patch).into_iter().flat_map(|section| section.paths).collect();
    files.sort();
    files.dedup();
    files
}

/// Runs git in a folder, without the user's or the machine's settings, and returns what it printed. An [`Error::Machine`] carries
/// what it said.
fn git(folder: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output =
        git_command(folder, args).output().map_err(|e| Error::Machine(format!("git is needed, and cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
    Err(Error::Machine(format!("git {} in {}: {said}", args.first().unwrap_or(&""), folder.display())))
}

fn git_command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]);
    command.args(["-c", "core.autocrlf=false", "-c", "core.quotePath=false"]);
    command.arg("-C").arg(folder).args(args);
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        command.env_remove(variable);
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("LC_ALL", "C");
    command.env("GIT_TERMINAL_PROMPT", "0").stdin(std::process::Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn a_command_gets_the_test_files_and_their_labels() {
        let part = |path: &str| format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n");
        let patch = [part("tests/forms/test_b.py"), part("tests/a it's.py"), part("tests/data.txt")].concat();
        assert_eq!(filled("t {tests}", &patch), "t 'tests/a it'\\''s.py' 'tests/forms/test_b.py'");
        assert_eq!(filled("t {labels}", &part("tests/forms/test_b.py")), "t 'forms.test_b'");
    }
}
