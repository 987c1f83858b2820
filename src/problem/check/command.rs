//! Tests that are a command of the owner's (`cargo test`, `python3 -m unittest`), in a copy of the owner's folder.
//!
//! The folder is copied without its history, the answer is written into its place, and a shell runs the command in the
//! sandbox: no network, nothing of the host's files but system paths and the tools, bounded time, memory, disk and output.
//! An answer that is loaded into the tests' own process could end it with exit code 0, so the exit code alone decides
//! nothing: the runner's report must be there, with as many tests as are known and none that failed. The known number comes
//! from the folder as it is and, where there is one, from the reference.
//!
//! Such an answer could print a report, too, or bring objects that equal everything, or patch the assertions. So where the
//! tests are Python, the command runs a second time on twins: the same tests with expected values changed and conditions
//! negated, which a right answer must fail, every one. How many those are is counted on a copy in which they raise at once.
//! For other languages a forged report is not found out.

mod tally;
mod tree;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::value::Value;
use super::{Checker, Judged, cut};
use crate::error::{Error, Result};
use crate::record::{self, Outcome, Problem, Runner};
use crate::sandbox::{Ended, Folder, Limits, Memory, Output, Processes, Program};

pub(in crate::problem) use tally::{Tally, named, runner, tally};
pub(in crate::problem) use tree::{Scratch, inside, is_harness, is_test, shadows, tests_below};

const TWINS: &str = concat!(include_str!("codec.py"), include_str!("command/twins.py"));

/// What a command may use: resident bytes of all its processes, bytes on disk, bytes of output, processes at once.
const MEMORY: u64 = 4 << 30;
const DISK: u64 = 4 << 30;
const OUTPUT: usize = 16 << 20;
const PROCESSES: usize = 256;

/// What was found out about each problem's tests before an answer ran, by the problem's form.
pub(in crate::problem) type Known = Mutex<HashMap<String, Arc<Baseline>>>;

/// A problem's tests on the folder as it is.
#[derive(Debug)]
pub(in crate::problem) struct Baseline {
    /// Whose report it is; none where nobody's was recognised.
    runner: Option<Runner>,
    /// The least number of tests that a run must have run.
    ran: usize,
    /// The twins of its test files.
    twins: Vec<Twin>,
    /// How many tests of the twins must fail at least.
    must_fail: usize,
    /// The end of what the command printed, for an error.
    said: String,
}

/// A test file whose tests a right answer must fail.
#[derive(Debug)]
pub(in crate::problem) struct Twin {
    /// The file, relative to the folder.
    pub(in crate::problem) file: String,
    /// Its text with other expectations.
    pub(in crate::problem) text: String,
    /// Its text with the same tests raising at once.
    raising: String,
    /// Which of its tests must fail: `name` or `Class.name`.
    pub(in crate::problem) tests: Vec<String>,
}

impl Checker {
    /// Runs the command on the answer, then on the answer with the tests' twins.
    pub(super) fn command(&self, problem: &Problem, form: &record::Command, answer: &str) -> Result<Judged> {
        let baseline = self.baseline(problem, form)?;
        let Some(runner) = baseline.runner else {
            let what = format!(
                "the command's report is of no runner that is known (unittest, pytest, cargo, go, junit, node); `runner = \
                 \"exit_code\"` trusts its exit code alone; it printed: {}",
                baseline.said
            );
            return Ok((Outcome::Error, what));
        };
        let timeout = Duration::try_from_secs_f64(problem.check.timeout_s).unwrap_or(Duration::from_secs(60));
        let (output, changed) = self.tried(form, answer, &[], timeout)?;
        let text = text_of(&output);
        if let Some(judged) = stopped(&output, timeout) {
            return Ok(judged);
        }
        let tally = tally(runner, &text);
        if output.ended != Ended::Exit(0) {
            return Ok(failed(&output, tally, &text));
        }
        if runner == Runner::ExitCode {
            return Ok((Outcome::Pass, String::new()));
        }
        let counts = match tally {
            None => return Ok((Outcome::Fail, "exit code 0, but no report of the tests".into())),
            Some(counts) if counts.failed > 0 => return Ok(failed(&output, tally, &text)),
            Some(counts) if counts.passed == 0 && counts.skipped > 0 => {
                return Ok((Outcome::Fail, format!("every test was skipped: {}", counts.skipped)));
            }
            Some(counts) if counts.passed == 0 => return Ok((Outcome::Fail, "no test ran".into())),
            Some(counts) => counts,
        };
        if counts.ran() < baseline.ran {
            return Ok((Outcome::Fail, format!("{} tests ran, {} are known", counts.ran(), baseline.ran)));
        }
        if let Some(file) = changed {
            return Ok((Outcome::Fail, format!("the run changed the tests' file {file}")));
        }
        if baseline.must_fail == 0 {
            return Ok((Outcome::Pass, String::new()));
        }
        let twins: Vec<(&str, &str)> = baseline.twins.iter().map(|twin| (&*twin.file, &*twin.text)).collect();
        let (output, _) = self.tried(form, answer, &twins, timeout)?;
        if let Some(judged) = stopped(&output, timeout) {
            return Ok(judged);
        }
        let tally = tally::tally(runner, &text_of(&output));
        let failed = tally.map_or(0, |counts| counts.failed);
        if output.ended == Ended::Exit(0) || failed < baseline.must_fail {
            let what = format!("a test that must fail passed: {failed} of {} twins failed", baseline.must_fail);
            return Ok((Outcome::Fail, what));
        }
        Ok((Outcome::Pass, String::new()))
    }

    /// The problem's baseline, found out once.
    fn baseline(&self, problem: &Problem, form: &record::Command) -> Result<Arc<Baseline>> {
        let key = format!("{}\n{form:?}\n{:?}\n{:?}", problem.id, problem.buggy, problem.reference);
        let known = |map: &Known| map.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(baseline) = known(&self.commands) {
            return Ok(baseline);
        }
        let timeout = Duration::try_from_secs_f64(problem.check.timeout_s).unwrap_or(Duration::from_secs(60));
        let buggy = problem.buggy.as_deref().unwrap_or_default();
        let mut said = String::new();
        let (mut who, mut ran) = (form.runner, form.tests_run.unwrap_or(0));
        for code in [Some(buggy), problem.reference.as_deref()].into_iter().flatten() {
            let (output, _) = self.tried(form, code, &[], timeout)?;
            let text = text_of(&output);
            who = who.or_else(|| runner(&text));
            ran = ran.max(who.and_then(|who| tally(who, &text)).map_or(0, |counts| counts.ran()));
            said = tail(&text);
        }
        let (mut twins, mut must_fail) = (Vec::new(), 0);
        if form.twins && who != Some(Runner::ExitCode) {
            let made = self.twins(&form.root, &form.tests)?;
            if !made.is_empty() {
                let raising: Vec<(&str, &str)> = made.iter().map(|twin| (&*twin.file, &*twin.raising)).collect();
                let (output, _) = self.tried(form, buggy, &raising, timeout)?;
                let text = text_of(&output);
                who = who.or_else(|| runner(&text));
                let counts = who.and_then(|who| tally(who, &text)).unwrap_or_default();
                (twins, must_fail, ran) = (made, counts.failed, ran.max(counts.ran()));
            }
        }
        let baseline = Arc::new(Baseline { runner: who, ran, twins, must_fail, said });
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).insert(key, baseline.clone());
        Ok(baseline)
    }

    /// The twins of those of the tests' files below `root` that are Python and have a test with an expectation to change.
    pub(in crate::problem) fn twins(&self, root: &Path, tests: &[String]) -> Result<Vec<Twin>> {
        let names: Vec<&String> = tests.iter().filter(|name| name.ends_with(".py") && !is_harness(name)).collect();
        let mut sources = Vec::new();
        for name in &names {
            let path = root.join(name);
            sources.push(Value::text(&String::from_utf8_lossy(&fs::read(&path).map_err(|e| Error::io(&path, e))?)));
        }
        let count = sources.len();
        let made = if count == 0 { None } else { self.ask_trusted(TWINS, &Value::List(sources), count)? };
        let twin = |(name, made): (&String, Value)| {
            let [texts, tests] = made.as_list()? else { return None };
            let ([text, raising], tests) = (<[String; 2]>::try_from(texts.as_texts()?).ok()?, tests.as_texts()?);
            (!tests.is_empty()).then(|| Twin { file: name.clone(), text, raising, tests })
        };
        Ok(names.into_iter().zip(made.unwrap_or_default()).filter_map(twin).collect())
    }

    /// Runs the command on a fresh copy that holds `answer`, and `files` in the places of its own; says too which of the
    /// tests' files the run changed.
    fn tried(
        &self,
        form: &record::Command,
        answer: &str,
        files: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<(Output, Option<String>)> {
        let scratch = Scratch::new()?;
        let tree = scratch.tree();
        tree::copy(&form.root, &tree)?;
        let write = |name: &str, text: &str| {
            let path = tree.join(name);
            fs::write(&path, text).map_err(|e| Error::io(&path, e))
        };
        let path = tree.join(&form.file);
        let own = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        write(&form.file, &replaced(&own, form.lines, answer))?;
        files.iter().try_for_each(|(name, text)| write(name, text))?;
        let before: Vec<Option<Vec<u8>>> = form.tests.iter().map(|name| fs::read(tree.join(name)).ok()).collect();
        let output = self.shell(&scratch, &form.command, &form.reads, timeout)?;
        let changed = form.tests.iter().zip(&before).find(|(name, before)| plain(&tree.join(name)) != **before);
        Ok((output, changed.map(|(name, _)| name.clone())))
    }

    /// Runs a shell command in a scratch folder's tree, in the sandbox.
    pub(in crate::problem) fn shell(
        &self,
        scratch: &Scratch,
        command: &str,
        reads: &[PathBuf],
        timeout: Duration,
    ) -> Result<Output> {
        let mut tools = Tools { reads: self.python().reads.clone(), bins: Vec::new() };
        reads.iter().for_each(|folder| tools.add(folder));
        tools.find(command, &self.python().executable);
        let mut path: Vec<String> = tools.bins.iter().map(|bin| bin.display().to_string()).collect();
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned));
        let path = path.join(":");
        let (home, tmp) = (scratch.path().join("home"), scratch.path().join("tmp"));
        let (home, tmp) = (home.display().to_string(), tmp.display().to_string());
        let environment = [
            ("PATH", path.as_str()),
            ("HOME", &home),
            ("TMPDIR", &tmp),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("CARGO_NET_OFFLINE", "true"),
            ("GOPROXY", "off"),
            ("GOFLAGS", "-mod=mod"),
            ("GOTOOLCHAIN", "local"),
            ("NO_COLOR", "1"),
            // Node stops where it may not read the machine's own.
            ("OPENSSL_CONF", "/dev/null"),
        ];
        let script = format!("cd tree || exit 127\n{command}\n");
        let args = ["-c", script.as_str()];
        let limits = Limits { wall: timeout, memory: Memory::Resident(MEMORY), disk: DISK, output: OUTPUT };
        let program = Program {
            reads: &tools.reads,
            environment: &environment,
            folder: Folder::Kept(scratch.path()),
            processes: Processes::Tree(PROCESSES),
            ..Program::new(Path::new("/bin/sh"), &args, limits)
        };
        self.sandbox.run(&program, b"")
    }
}

/// Folders that a command's tools need, and where these tools are.
struct Tools {
    reads: Vec<PathBuf>,
    bins: Vec<PathBuf>,
}

impl Tools {
    /// A folder that may be read, whose `bin` is on the PATH.
    fn add(&mut self, folder: &Path) {
        let bin = folder.join("bin");
        if bin.is_dir() && !self.bins.contains(&bin) {
            self.bins.push(bin);
        }
        self.reads.push(folder.to_owned());
    }

    /// What this program's own PATH has for the words of a command, where it is not the system's.
    fn find(&mut self, command: &str, python: &Path) {
        // A version manager's script is no interpreter: the real one was asked for when the checker was made.
        if let Some(bin) = python.parent() {
            self.bins.push(bin.to_owned());
            self.reads.push(bin.to_owned());
        }
        let words = command.split(|c: char| c.is_whitespace() || ";&|()".contains(c));
        let path = std::env::var_os("PATH").unwrap_or_default();
        for word in words.filter(|word| !word.is_empty() && !word.contains('/') && !word.starts_with("python")) {
            let Some(tool) = std::env::split_paths(&path).map(|bin| bin.join(word)).find(|tool| tool.is_file()) else { continue };
            let Ok(real) = tool.canonicalize() else { continue };
            let real = if real.ends_with("rustup") { sysroot(&tool).unwrap_or(real) } else { real };
            let Some(bin) = real.parent().filter(|bin| !bin.starts_with("/usr") && !bin.starts_with("/bin")) else { continue };
            match bin.parent().filter(|prefix| bin.ends_with("bin") && prefix.components().count() > 2) {
                Some(prefix) => self.add(prefix),
                None => {
                    self.bins.push(bin.to_owned());
                    self.reads.push(bin.to_owned());
                }
            }
        }
    }
}

/// The real tool behind one of rustup's.
fn sysroot(tool: &Path) -> Option<PathBuf> {
    let output = std::process::Command::new(tool.with_file_name("rustc")).args(["--print", "sysroot"]).output().ok()?;
    let root = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(root.join("bin").join(tool.file_name()?)).filter(|tool| tool.is_file())
}

/// A file's bytes if it is a plain file: a link may have taken its place.
fn plain(path: &Path) -> Option<Vec<u8>> {
    path.symlink_metadata().ok().filter(|meta| meta.is_file()).and_then(|_| fs::read(path).ok())
}

/// The file with the answer in the place of its lines, indented as they were where the answer is not.
pub fn replaced(file: &str, lines: Option<[usize; 2]>, answer: &str) -> String {
    let answer = format!("{}\n", answer.trim_end());
    let Some([first, last]) = lines else { return answer };
    let all: Vec<&str> = file.split_inclusive('\n').collect();
    let (first, last) = (first.clamp(1, all.len().max(1)) - 1, last.min(all.len()));
    let own = indent(&all[first..last].concat());
    let given = indent(&answer);
    let shift = own.strip_suffix(&given).unwrap_or_default();
    let shifted: String = answer
        .split_inclusive('\n')
        .map(|line| if line.trim().is_empty() { line.to_owned() } else { format!("{shift}{line}") })
        .collect();
    [&all[..first].concat(), &shifted, &all[last..].concat()].into_iter().map(String::as_str).collect()
}

/// The white space before the first line that has anything else.
fn indent(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line[..line.len() - line.trim_start().len()].to_owned()
}

/// Standard error, then standard output: runners write their report to either.
pub(in crate::problem) fn text_of(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

/// A run that did not come to its own end, or whose output is not whole.
pub(in crate::problem) fn stopped(output: &Output, timeout: Duration) -> Option<Judged> {
    if output.timed_out {
        return Some((Outcome::Timeout, format!("not done after {} s", timeout.as_secs_f64())));
    }
    if output.over_memory {
        return Some((Outcome::Memory, format!("more than {} MiB of memory", MEMORY >> 20)));
    }
    output.flooded.then(|| (Outcome::Fail, "it wrote more than it may".into()))
}

/// The verdict on a run whose tests did not all pass.
fn failed(output: &Output, counts: Option<Tally>, text: &str) -> Judged {
    let marks = ["could not compile", "COMPILATION ERROR", "[build failed]", "[setup failed]"];
    let first = |words: &[&str]| text.lines().map(str::trim).find(|line| words.iter().any(|word| line.starts_with(word)));
    if counts.is_none() && marks.iter().any(|mark| text.contains(mark)) {
        let line = first(&["error", "[ERROR]", "./"]).unwrap_or_default();
        return (Outcome::Error, format!("does not compile: {}", cut(line, 200)));
    }
    let ended = match output.ended {
        Ended::Exit(code) => format!("exit code {code}"),
        Ended::Signal(signal) => format!("signal {signal}"),
        Ended::Killed => "killed".into(),
    };
    let blame = first(&[
        "FAIL: ",
        "ERROR: ",
        "FAILED ",
        "E  ",
        "--- FAIL",
        "not ok ",
        "thread '",
        "[ERROR] ",
        "SyntaxError",
        "ImportError",
    ]);
    let blame = blame.map_or_else(|| tail(text), |line| cut(line, 160));
    match counts {
        Some(counts) => (Outcome::Fail, format!("{} of {} tests failed ({ended}): {blame}", counts.failed, counts.ran())),
        None => (Outcome::Error, format!("{ended}, no report of the tests: {blame}")),
    }
}

/// The last words of a command.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    cut(&lines[lines.len().saturating_sub(3)..].join(" / "), 200)
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn an_answer_takes_the_place_of_its_lines_with_their_indent() {
        let file = "class A:\n    def f(self):\n        return 1\n\n    x = 2\n";
        let want = "class A:\n    def f(self):\n        return 3\n\n    x = 2\n";
        for answer in ["    def f(self):\n        return 3\n", "def f(self):\n    return 3"] {
            assert_eq!(replaced(file, Some([2, 3]), answer), want, "{answer:?}");
        }
        assert_eq!(replaced(file, None, "y = 1\n\n"), "y = 1\n");
    }
}
