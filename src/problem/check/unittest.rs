//! Test classes (`unittest`): the tests patch modules, look into files and count calls, so they run in the answer's own
//! process, and what that process says about them proves little.
//!
//! So every test has twins: the same test with one expectation changed, which a right answer must fail. The host alone knows
//! which of the names are tests and which are twins, and an answer passes only if every test passes and every twin fails. An
//! assertion that was patched away, an object that equals everything, a forged or a missing report, a skip: each makes a twin
//! pass or a report lack. Twins are made by the trusted process that reads the tests; the reference, where a problem has one,
//! is run once with them, and twins that it passes are left out. Beside that, the process loads the tests with a copy of
//! `unittest` that the answer has not met, and refuses a result whose class brings a comparison of the answer's own.
//!
//! What remains: an answer that reads the test's code from the stack and solves the task there. Such a verdict is as good as a
//! verdict from within the process can be.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::record::{Form, Outcome, Problem};
use crate::sandbox::{Limits, Memory, Processes, Program, Running};

use super::value::Value;
use super::{Checker, Judged, PLANNING, Talk, cut, part_failed, raised, texts};

const PLAN: &str = concat!(include_str!("codec.py"), include_str!("unittest_plan.py"));
const RUN: &str = concat!(include_str!("codec.py"), include_str!("unittest_run.py"));

/// Isolated, but with the site packages: these tests may ask for NumPy and its like.
const WITH_PACKAGES: [&str; 2] = ["-I", "-B"];
/// How much longer tests may take together with their twins.
const TWINS: f64 = 2.0;
/// Processes at once: some of the functions start programs.
const PROCESSES: usize = 32;
/// Address space: what the official harness gives is 30 GiB; the libraries reserve much more than they use.
const MEMORY: u64 = 4 << 30;
/// Files that tests write.
const DISK: u64 = 256 << 20;
/// How many problems' tests one trusted process reads.
const BATCH: usize = 16;

/// What the checker knows of the problems of this form.
#[derive(Debug, Default)]
pub(super) struct Units(Mutex<HashMap<Key, Arc<Unit>>>);

/// The fields of a problem that its twins depend on.
type Key = (String, Vec<String>, Option<String>, u64);

#[derive(Debug)]
enum Unit {
    Tests(Box<Tests>),
    Broken(String),
}

/// The tests of a problem, and their twins.
#[derive(Debug)]
struct Tests {
    /// Modules that the problem needs and this Python lacks.
    missing: Vec<String>,
    /// The tests' names.
    names: Vec<String>,
    /// The text of the tests with their twins, under names that say nothing.
    mixed: String,
    cases: Vec<Case>,
    expected: Mutex<Option<Arc<Expected>>>,
}

#[derive(Debug)]
struct Case {
    name: String,
    /// The test's own name.
    of: String,
    twin: bool,
}

/// What the reference showed.
#[derive(Debug, Default)]
struct Expected {
    /// The tests have to run without their twins too: beside them, some fail.
    alone: bool,
    /// Reports of the mixed text that are waited for: as many as the reference gave in its time.
    count: usize,
    /// Names of the mixed text that say nothing about an answer.
    left_out: HashSet<String>,
    /// The verdict on the reference itself.
    reference: Option<Judged>,
}

/// One report on a test.
struct Report {
    name: String,
    passed: bool,
    foreign: bool,
    reason: String,
}

impl Units {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Unit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(problem: &Problem) -> Key {
    let check = &problem.check;
    (check.prelude.clone(), check.tests.clone(), problem.reference.clone(), check.timeout_s.to_bits())
}

impl Checker {
    /// Reads the test classes of every problem of this form that was not met before.
    pub(super) fn prepare_unittest(&self, problems: &[&Problem]) -> Result<()> {
        let mut fresh: Vec<(&Problem, Key)> = Vec::new();
        {
            let (units, mut seen) = (self.units.lock(), HashSet::new());
            for problem in problems.iter().filter(|p| matches!(p.check.form, Form::Unittest { .. })) {
                let key = key(problem);
                if !units.contains_key(&key) && seen.insert(key.clone()) {
                    fresh.push((problem, key));
                }
            }
        }
        let chunks: Vec<&[(&Problem, Key)]> = fresh.chunks(BATCH).collect();
        let read = self.spread(chunks.len(), &|_| {}, |i| {
            if let Some(units) = self.read_classes(chunks[i])? {
                return Ok(units);
            }
            let alone = |one: &(&Problem, Key)| {
                let unit = self.read_classes(std::slice::from_ref(one))?.and_then(|mut units| units.pop());
                Ok(unit.unwrap_or_else(|| Unit::Broken("reading them did not end".into())))
            };
            chunks[i].iter().map(alone).collect()
        })?;
        let mut units = self.units.lock();
        for ((_, key), unit) in fresh.into_iter().zip(read.into_iter().flatten()) {
            units.entry(key).or_insert_with(|| Arc::new(unit));
        }
        Ok(())
    }

    fn read_classes(&self, problems: &[(&Problem, Key)]) -> Result<Option<Vec<Unit>>> {
        let request = problems.iter().map(|(problem, _)| {
            let (class, libraries) = match &problem.check.form {
                Form::Unittest { class, libraries, .. } => (class.as_str(), libraries.as_slice()),
                _ => unreachable!("only problems of this form are read here"),
            };
            let check = &problem.check;
            Value::List(vec![
                Value::text(&check.prelude),
                Value::text(&check.tests.join("\n")),
                Value::text(class),
                Value::text(&problem.id),
                texts(libraries),
            ])
        });
        let request = Value::List(request.collect());
        let (mut talk, channels) = Talk::open()?;
        let limits = Limits { output: 64 << 20, ..Limits::of(PLANNING) };
        let mut running = self.spawn_with_packages(PLAN, &[&channels.0, &channels.1], limits)?;
        drop(channels);
        talk.send(&request);
        let mut units = Vec::new();
        while units.len() < problems.len() {
            match talk.hear(&mut running, limits.output) {
                Ok(value) => units.push(Unit::read(&value)),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(units))
    }

    fn spawn_with_packages(&self, source: &str, pipes: &[&OwnedFd], limits: Limits) -> Result<Running> {
        let args = [WITH_PACKAGES.as_slice(), &["-c", source]].concat();
        let executable = self.python.executable.as_path();
        // Functions that start `python` mean this one.
        let folder = executable.parent().map_or(String::new(), |folder| folder.display().to_string());
        let path = format!("{folder}:/usr/bin:/bin");
        // `mimetypes` opens what it finds.
        let types = [PathBuf::from("/etc/mime.types")].into_iter().filter(|file| file.exists());
        let reads: Vec<PathBuf> = self.python.reads.iter().cloned().chain(types).collect();
        let program = Program {
            reads: &reads,
            pipes,
            environment: &[("PATH", &path)],
            processes: Processes::Tree(PROCESSES),
            ..Program::new(executable, &args, limits)
        };
        self.sandbox.spawn(&program)
    }

    /// Judges an answer by the test classes of its problem.
    pub(super) fn unittest(&self, problem: &Problem, answer: &str) -> Result<Judged> {
        let unit = self.units.lock().get(&key(problem)).cloned();
        let unit = unit.ok_or_else(|| Error::input(&problem.id, "its tests were not read"))?;
        let tests = match &*unit {
            Unit::Broken(reason) => return Ok((Outcome::Error, format!("the tests cannot be read: {reason}"))),
            Unit::Tests(tests) => tests,
        };
        if !tests.missing.is_empty() {
            return Ok((Outcome::Error, format!("needs {}, which this Python lacks", tests.missing.join(", "))));
        }
        if tests.names.is_empty() {
            return Ok((Outcome::Fail, "the problem has no tests".into()));
        }
        let expected = self.calibrate(problem, tests)?;
        // What the reference came to is known.
        if let (true, Some(verdict)) = (problem.reference.as_deref() == Some(answer), &expected.reference) {
            return Ok(verdict.clone());
        }
        if expected.alone
            && let Err(verdict) = self.run_alone(problem, tests, answer)?
        {
            return Ok(verdict);
        }
        let ended = self.run_tests(problem, answer, &tests.mixed, expected.count, TWINS, &mut |report| {
            let Some(case) = tests.cases.iter().find(|case| case.name == report.name) else {
                return Some((Outcome::Fail, "a report on a test that does not exist".into()));
            };
            match case.twin {
                _ if expected.left_out.contains(&case.name) => None,
                true if report.passed => Some((Outcome::Fail, format!("a test that must fail passed: {}, changed", case.of))),
                false if !report.passed => Some(failed(&case.of, &report)),
                _ => None,
            }
        })?;
        Ok(ended.err().unwrap_or((Outcome::Pass, String::new())))
    }

    /// Runs the tests without their twins.
    fn run_alone(&self, problem: &Problem, tests: &Tests, answer: &str) -> Result<std::result::Result<(), Judged>> {
        self.run_tests(problem, answer, &problem.check.tests.join("\n"), tests.names.len(), 1.0, &mut |report| {
            let known = tests.names.contains(&report.name);
            (!known || !report.passed).then(|| failed(&report.name, &report))
        })
    }

    /// Runs the reference with the twins, once for each problem.
    fn calibrate(&self, problem: &Problem, tests: &Tests) -> Result<Arc<Expected>> {
        let mut slot = tests.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expected) = &*slot {
            return Ok(Arc::clone(expected));
        }
        let mut expected = Expected { count: tests.cases.len(), ..Expected::default() };
        if let Some(reference) = &problem.reference {
            let (mut passed, mut count) = (HashSet::new(), 0);
            let ended = self.run_tests(problem, reference, &tests.mixed, tests.cases.len(), TWINS, &mut |report| {
                count += 1;
                if report.passed {
                    passed.insert(report.name);
                }
                None
            })?;
            let wrong = tests.cases.iter().filter(|case| case.twin == passed.contains(&case.name));
            expected.left_out = wrong.map(|case| case.name.clone()).collect();
            expected.count = count;
            expected.alone = ended.is_err() || tests.cases.iter().any(|case| !case.twin && !passed.contains(&case.name));
            let ended = if expected.alone { self.run_alone(problem, tests, reference)? } else { Ok(()) };
            expected.reference = Some(ended.err().unwrap_or((Outcome::Pass, String::new())));
        }
        let expected = Arc::new(expected);
        *slot = Some(Arc::clone(&expected));
        Ok(expected)
    }

    /// Runs an answer on the text of test classes. `judge` sees each of `count` reports and may end the run with a verdict; so
    /// does a process that reports too little, or twice.
    fn run_tests(
        &self,
        problem: &Problem,
        answer: &str,
        source: &str,
        count: usize,
        times: f64,
        judge: &mut dyn FnMut(Report) -> Option<Judged>,
    ) -> Result<std::result::Result<(), Judged>> {
        let Form::Unittest { entry, class, .. } = &problem.check.form else {
            unreachable!("only problems of this form are run here")
        };
        let (mut talk, channels) = Talk::open()?;
        let wall = Duration::try_from_secs_f64(problem.check.timeout_s * times).unwrap_or(PLANNING);
        let limits = Limits { memory: Memory::Address(MEMORY), disk: DISK, ..Limits::of(wall) };
        let mut running = self.spawn_with_packages(RUN, &[&channels.0, &channels.1], limits)?;
        drop(channels);
        let head = [problem.check.prelude.as_str(), answer, source, class, entry];
        talk.send(&Value::List(head.map(Value::text).to_vec()));
        let mut seen = HashSet::new();
        for index in 0..=count {
            let at = format!("after {} of {count} tests", index.saturating_sub(1));
            let message = match talk.hear(&mut running, limits.output) {
                Ok(message) => message,
                Err(silence) => {
                    let at = if index == 0 { "the answer is loaded" } else { at.as_str() };
                    return Ok(Err(silence.judge(&mut running, at, limits)));
                }
            };
            let words = message.as_texts().unwrap_or_default();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match (index, words.as_slice()) {
                (0, ["ready"]) => {}
                (_, ["ended", ..]) => {
                    return Ok(Err((Outcome::Fail, format!("{at}: the tests were ended: {}", words[1..].join(": ")))));
                }
                (_, [part @ ("prelude" | "answer" | "setup"), ..]) => {
                    let blame = message.as_list().unwrap_or_default();
                    return Ok(Err(part_failed(part.as_bytes(), &blame[1..])));
                }
                (1.., [name, status, blame @ ..]) => {
                    if !seen.insert((*name).to_owned()) {
                        return Ok(Err((Outcome::Fail, format!("{at}: two reports on one test"))));
                    }
                    let reason = match *status {
                        "failed" => blame.join(": "),
                        "foreign" => format!("the result's class {} brings a comparison of its own", blame.join("")),
                        "skipped" => "it was skipped".into(),
                        other => format!("it ended as {other}"),
                    };
                    let report =
                        Report { name: (*name).to_owned(), passed: *status == "ok", foreign: *status == "foreign", reason };
                    if let Some(verdict) = judge(report) {
                        return Ok(Err(verdict));
                    }
                }
                _ => return Ok(Err((Outcome::Fail, format!("{at}: no report came, but something else")))),
            }
        }
        Ok(Ok(()))
    }
}

/// The verdict on a test that did not pass.
fn failed(name: &str, report: &Report) -> Judged {
    let at = cut(name, 120);
    if report.foreign {
        return (Outcome::Fail, format!("{at}: {}", report.reason));
    }
    raised(&at, &[Value::text(&report.reason)], Outcome::Fail)
}

impl Unit {
    fn read(value: &Value) -> Unit {
        let tests = || {
            let [_, missing, names, mixed, cases] = value.as_list()? else { return None };
            let case = |value: &Value| match value.as_texts()?.as_slice() {
                [name, of, kind] => Some(Case { name: name.clone(), of: of.clone(), twin: kind == "twin" }),
                _ => None,
            };
            Some(Tests {
                missing: missing.as_texts()?,
                names: names.as_texts()?,
                mixed: mixed.as_text()?,
                cases: cases.as_list()?.iter().map(case).collect::<Option<_>>()?,
                expected: Mutex::default(),
            })
        };
        match tests() {
            Some(tests) => Unit::Tests(Box::new(tests)),
            None => Unit::Broken(value.as_texts().unwrap_or_default().into_iter().skip(1).collect::<Vec<_>>().join(": ")),
        }
    }
}
