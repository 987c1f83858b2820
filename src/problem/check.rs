//! Checks answers: runs them in the sandbox on a problem's tests, and judges what comes back.
//!
//! An answer's process never holds the tests. Where every test is a comparison of a call with a value, the process gets the
//! calls, and the values stay here, where the comparison is (`split`). Other tests run in a trusted process of their own,
//! which asks the answer's process call by call (`beside`). What an answer sends is data and is never run. A trusted Python
//! process reads the tests once per problem and says which of the two it is; it never sees an answer.

mod calls;
mod claim;
pub(in crate::problem) mod command;
mod defects4j;
mod junit;
mod program;
mod source;
mod unittest;
pub(in crate::problem) mod value;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::record::{Form, Outcome, Problem, Verdict};
use crate::sandbox::{self, Ended, Heard, Limits, Mode, Program, Python, Running, Sandbox};

use value::Value;

use super::toolchain::{Language, Toolchains};

const PLAN: &str = concat!(include_str!("check/codec.py"), include_str!("check/plan.py"));
const SPLIT: &str = concat!(include_str!("check/codec.py"), include_str!("check/split.py"));
const SERVE: &str = concat!(include_str!("check/codec.py"), include_str!("check/graph.py"), include_str!("check/serve.py"));
const BESIDE: &str = concat!(include_str!("check/codec.py"), include_str!("check/graph.py"), include_str!("check/beside.py"));

/// What some editors write before a text in UTF-8.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Wall-clock time for the trusted process to read a batch of tests.
const PLANNING: Duration = Duration::from_secs(30);
/// How many problems' tests one trusted process reads.
const BATCH: usize = 32;

/// Judges answers. One checker may be used from several threads.
#[derive(Debug)]
pub struct Checker {
    sandbox: Sandbox,
    python: Python,
    jobs: usize,
    stop: Option<Arc<AtomicBool>>,
    toolchains: Toolchains,
    plans: Mutex<HashMap<Key, Arc<Plan>>>,
    commands: command::Known,
    units: unittest::Units,
    references: calls::References,
    workspaces: defects4j::Workspaces,
}

/// What a plan depends on: prelude, setup, tests.
type Key = (String, String, Vec<String>);

/// How a problem's tests are run.
#[derive(Debug)]
enum Plan {
    /// Calls for the answer's process; what they must give stays here.
    Split(Vec<Case>),
    /// Tests beside the answer.
    Beside { wanted: Value, modules: Value, classes: Value, shared: Value },
    /// The tests are no Python.
    Broken(String),
}

#[derive(Debug)]
struct Case {
    call: String,
    op: Op,
    want: Value,
    text: String,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Eq,
    Ne,
    Is,
    IsNot,
    True,
    False,
}

/// What a check came to, and why.
pub(in crate::problem) type Judged = (Outcome, String);

impl Checker {
    /// A checker that runs at most `jobs` answers at once. An [`Error::Machine`] where the sandbox or `python3` lacks.
    pub fn new(mode: Mode, jobs: usize) -> Result<Checker> {
        let (sandbox, python) = (Sandbox::new(mode)?, Python::find()?);
        Ok(Checker {
            sandbox,
            python,
            jobs: jobs.max(1),
            stop: None,
            toolchains: Toolchains::default(),
            plans: Mutex::default(),
            commands: command::Known::default(),
            units: Default::default(),
            references: Default::default(),
            workspaces: Default::default(),
        })
    }

    /// A flag that makes [`Checker::check_all`] end early with [`Error::Interrupted`].
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Checker {
        self.stop = Some(stop);
        self
    }

    /// The sandbox' active layers, in words.
    pub fn layers(&self) -> Vec<&'static str> {
        self.sandbox.layers()
    }

    /// The interpreter that runs the answers.
    pub fn python(&self) -> &Python {
        &self.python
    }

    /// Why answers to this problem cannot be judged on this machine: a toolchain that lacks. None where they can.
    pub fn lacks(&self, problem: &Problem) -> Option<String> {
        if problem.check.form.is_statements() {
            return None;
        }
        let language = Language::named(&problem.language)?;
        self.toolchains.of(language).err()
    }

    /// Checks one answer.
    pub fn check(&self, problem: &Problem, answer: &str) -> Result<Verdict> {
        self.prepare(&[problem])?;
        self.verdict(problem, answer)
    }

    /// Checks many answers in parallel; verdicts come in the order of `items`. `done` is called after each, with how many
    /// are done so far.
    pub fn check_all(&self, items: &[(&Problem, &str)], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Verdict>> {
        let problems: Vec<&Problem> = items.iter().map(|(problem, _)| *problem).collect();
        self.prepare(&problems)?;
        self.spread(items.len(), done, |i| self.verdict(items[i].0, items[i].1))
    }

    /// Runs `work` for 0..count on `jobs` threads; results in order.
    pub(in crate::problem) fn spread<T: Send>(
        &self,
        count: usize,
        done: &(dyn Fn(usize) + Sync),
        work: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let (next, finished, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let results: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..count).map(|_| None).collect());
        let lock = || results.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = || self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(count) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count || stopped() || failed.load(Ordering::Relaxed) {
                            return;
                        }
                        let result = work(i);
                        failed.fetch_or(result.is_err(), Ordering::Relaxed);
                        lock()[i] = Some(result);
                        done(finished.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                });
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut values = Vec::with_capacity(count);
        let mut missing = false;
        for result in results {
            match result {
                Some(result) => values.push(result?),
                None => missing = true,
            }
        }
        if missing { Err(Error::Interrupted) } else { Ok(values) }
    }

    /// Reads the tests of every problem that was not met before.
    fn prepare(&self, problems: &[&Problem]) -> Result<()> {
        self.prepare_unittest(problems)?;
        let mut fresh: Vec<Key> = Vec::new();
        {
            let plans = self.plans();
            let mut seen = std::collections::HashSet::new();
            for problem in problems.iter().filter(|problem| problem.check.has_statements()) {
                if problem.language != "python" {
                    let what = format!("language is `{}`; only `python` can be checked", problem.language);
                    return Err(Error::input(&problem.id, what));
                }
                let key = key(problem);
                if !plans.contains_key(&key) && seen.insert(key.clone()) {
                    fresh.push(key);
                }
            }
        }
        let chunks: Vec<&[Key]> = fresh.chunks(BATCH).collect();
        let planned = self.spread(chunks.len(), &|_| {}, |i| {
            if let Some(plans) = self.plan(chunks[i])? {
                return Ok(plans);
            }
            // One of them hangs or kills the process: alone, the others are fine.
            let alone = |key: &Key| {
                let plan = self.plan(std::slice::from_ref(key))?.and_then(|mut plans| plans.pop());
                Ok(plan.unwrap_or_else(|| Plan::Broken("reading them did not end".into())))
            };
            chunks[i].iter().map(alone).collect()
        })?;
        let mut plans = self.plans();
        for (key, plan) in fresh.iter().cloned().zip(planned.into_iter().flatten()) {
            if let Entry::Vacant(entry) = plans.entry(key) {
                entry.insert(Arc::new(plan));
            }
        }
        Ok(())
    }

    fn plans(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Plan>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plans of `keys`; none when the trusted process did not get through.
    fn plan(&self, keys: &[Key]) -> Result<Option<Vec<Plan>>> {
        let problem = |(prelude, setup, tests): &Key| Value::List(vec![Value::text(prelude), Value::text(setup), texts(tests)]);
        let request = Value::List(keys.iter().map(problem).collect());
        let Some(frames) = self.ask_trusted(PLAN, &request, keys.len())? else { return Ok(None) };
        Ok(frames.iter().map(Plan::read).collect())
    }

    /// Runs a program of ours in the sandbox and returns the `count` values it must send; none when it did not.
    pub(in crate::problem) fn ask_trusted(&self, source: &str, request: &Value, count: usize) -> Result<Option<Vec<Value>>> {
        let (mut talk, channels) = Talk::open()?;
        let limits = Limits { output: 64 << 20, ..Limits::of(PLANNING) };
        let mut running = self.spawn(source, &[&channels.0, &channels.1], limits)?;
        drop(channels);
        talk.send(request);
        let mut values = Vec::new();
        while values.len() < count {
            match talk.hear(&mut running, limits.output) {
                Ok(value) => values.push(value),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(values))
    }

    fn spawn(&self, source: &str, pipes: &[&OwnedFd], limits: Limits) -> Result<Running> {
        let args = [sandbox::ISOLATED.as_slice(), &["-c", source]].concat();
        let program = Program { reads: &self.python.reads, pipes, ..Program::new(&self.python.executable, &args, limits) };
        self.sandbox.spawn(&program)
    }

    fn verdict(&self, problem: &Problem, answer: &str) -> Result<Verdict> {
        let start = Instant::now();
        let (verdict, reason) = match &problem.check.form {
            _ if answer.trim().is_empty() => (Outcome::Refused, "the answer holds no code".into()),
            // Python reads past a mark in a file, not in a text.
            Form::Statements => self.statements(problem, answer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(answer))?,
            Form::Command(form) => self.command(problem, form, answer)?,
            Form::Patch(form) => self.patch(problem, form, answer)?,
            Form::Calls { .. } => self.calls(problem, answer)?,
            Form::Unittest { .. } => self.unittest(problem, answer)?,
            Form::Defects4j(bug) => self.defects4j(bug, answer)?,
            Form::Program { entry, helpers } => self.program(problem, answer, entry, helpers)?,
            Form::Junit { class, test_class, files } => self.junit(problem, answer, (class, test_class), files)?,
        };
        let compiled = compiled(&problem.check.form, verdict, &reason);
        Ok(Verdict { verdict, reason: cut(&reason, 300), compiled, seconds: start.elapsed().as_secs_f64() })
    }

    /// Runs tests that are statements of Python.
    fn statements(&self, problem: &Problem, answer: &str) -> Result<Judged> {
        let plan = self.plans().get(&key(problem)).cloned();
        let plan = plan.ok_or_else(|| Error::input(&problem.id, "its tests were not read"))?;
        Ok(match &*plan {
            Plan::Split(cases) => self.split(problem, answer, cases)?,
            Plan::Beside { .. } => self.beside(problem, answer, &plan)?,
            Plan::Broken(reason) => (Outcome::Error, format!("the tests cannot be read: {reason}")),
        })
    }

    /// Sends the calls, compares what they give.
    fn split(&self, problem: &Problem, answer: &str, cases: &[Case]) -> Result<Judged> {
        let (mut talk, channels) = Talk::open()?;
        let limits = limits(problem);
        let mut running = self.spawn(SPLIT, &[&channels.0, &channels.1], limits)?;
        drop(channels);
        let calls = Value::List(cases.iter().map(|case| Value::text(&case.call)).collect());
        let check = &problem.check;
        talk.send(&Value::List(vec![Value::text(&check.prelude), Value::text(answer), Value::text(&check.setup), calls]));
        for (index, case) in cases.iter().enumerate() {
            let at = format!("test {} of {}: {}", index + 1, cases.len(), cut(&case.text, 120));
            let report = match talk.hear(&mut running, limits.output) {
                Ok(report) => report,
                Err(silence) => return Ok(silence.judge(&mut running, &at, limits)),
            };
            match report.as_list() {
                Some([Value::Str(status), got]) if status == b"value" => {
                    if !case.holds(got) {
                        return Ok((Outcome::Fail, format!("{at}: got {}", got.show())));
                    }
                }
                Some([Value::Str(status), Value::List(blame)]) if status == b"raised" => {
                    return Ok(raised(&at, blame, Outcome::Fail));
                }
                Some([Value::Str(part), blame @ ..]) => return Ok(part_failed(part, blame)),
                _ => return Ok((Outcome::Fail, format!("{at}: the answer's process sent no plain data"))),
            }
        }
        Ok((Outcome::Pass, String::new()))
    }

    /// Runs the tests in a process of their own, which asks the answer's process.
    fn beside(&self, problem: &Problem, answer: &str, plan: &Plan) -> Result<Judged> {
        let Plan::Beside { wanted, modules, classes, shared } = plan else {
            unreachable!("only tests of this kind run beside the answer")
        };
        let limits = limits(problem);
        let check = &problem.check;
        let (mut to_answer, from_host) = Talk::open()?;
        let (to_tests, from_answer) = sandbox::pipe()?;
        let mut serving = self.spawn(SERVE, &[&from_host.0, &from_answer], limits)?;
        drop((from_host, from_answer));
        let head = [Value::text(&check.prelude), Value::text(answer), shared.clone(), classes.clone()];
        to_answer.send(&Value::List(head.to_vec()));

        let (mut talk, channels) = Talk::open()?;
        let to_answer = OwnedFd::from(to_answer.write.expect("not closed"));
        let mut testing = self.spawn(BESIDE, &[&channels.0, &channels.1, &to_tests, &to_answer], limits)?;
        testing.waits_for(&serving);
        drop((channels, to_tests, to_answer));
        let names = [wanted.clone(), modules.clone(), classes.clone()];
        let head = [Value::text(&check.prelude), Value::text(&check.setup), texts(&check.tests)];
        talk.send(&Value::List([head, names].concat()));

        // The first report says that the answer could be loaded.
        for index in 0..=check.tests.len() {
            let test = index.checked_sub(1).map_or("the answer was loaded", |i| check.tests[i].trim());
            let at = format!("test {} of {}: {}", index.max(1), check.tests.len(), cut(test, 120));
            let report = match talk.hear(&mut testing, limits.output) {
                Ok(report) => report,
                Err(Silence::Timeout) => return Ok(Silence::Timeout.judge(&mut serving, &at, limits)),
                Err(_) => return Ok((Outcome::Fail, format!("{at}: the tests ended early"))),
            };
            match report.as_list() {
                Some([Value::Str(status)]) if index == 0 && status == b"ready" => {}
                Some([Value::Str(status)]) if index > 0 && status == b"ok" => {}
                Some([Value::Str(status), Value::Str(kind), ..]) if status != b"answer" && kind == b"Gone" => {
                    return Ok(Silence::End.judge(&mut serving, &at, limits));
                }
                Some([Value::Str(status), blame @ ..]) if status == b"failed" => {
                    return Ok(raised(&at, blame, Outcome::Fail));
                }
                Some([Value::Str(part), blame @ ..]) if index < 2 => return Ok(part_failed(part, blame)),
                // No report came although the answer's process ended while loading.
                _ => return Ok(Silence::End.judge(&mut serving, &at, limits)),
            }
        }
        if check.tests.is_empty() {
            return Ok((Outcome::Fail, "the problem has no tests".into()));
        }
        Ok((Outcome::Pass, String::new()))
    }
}

fn key(problem: &Problem) -> Key {
    (problem.check.prelude.clone(), problem.check.setup.clone(), problem.check.tests.clone())
}

fn texts(list: &[String]) -> Value {
    Value::List(list.iter().map(|text| Value::text(text)).collect())
}

fn limits(problem: &Problem) -> Limits {
    Limits::of(Duration::try_from_secs_f64(problem.check.timeout_s).unwrap_or(Duration::from_secs(5)))
}

/// One line of at most `most` characters.
fn cut(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An exception, as a verdict: `[type, message]`.
fn raised(at: &str, blame: &[Value], outcome: Outcome) -> Judged {
    let words: Vec<String> = blame.iter().filter_map(Value::as_text).collect();
    let outcome = match words.first().map(String::as_str) {
        Some("MemoryError") => Outcome::Memory,
        Some("SystemExit" | "KeyboardInterrupt") => Outcome::Fail,
        _ => outcome,
    };
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    (outcome, format!("{at}: {}", words.join(": ")))
}

/// Whether an answer compiles, as far as a verdict on it tells. A reason that says that it does not is always ours: what an answer
/// raises stands behind the test that was run.
fn compiled(form: &Form, outcome: Outcome, reason: &str) -> Option<bool> {
    if outcome == Outcome::Refused || reason.starts_with("does not compile") {
        return Some(false);
    }
    match (outcome, form.is_statements()) {
        // The answer was not reached.
        (Outcome::Error, true) if ["the prelude", "the tests"].iter().any(|part| reason.starts_with(part)) => None,
        // Whatever else goes wrong with a build or a repository may lie before the compiler.
        (Outcome::Error, false) => None,
        _ => Some(true),
    }
}

/// The prelude, the answer or the setup raised an exception.
fn part_failed(part: &[u8], blame: &[Value]) -> Judged {
    match part {
        b"setup" => raised("the tests' setup", blame, Outcome::Fail),
        b"prelude" => raised("the prelude", blame, Outcome::Error),
        b"compile" => raised("does not compile", blame, Outcome::Error),
        _ => raised("the answer", blame, Outcome::Error),
    }
}

impl Plan {
    fn read(value: &Value) -> Option<Plan> {
        match value.as_list()? {
            [Value::Str(route), cases] if route == b"split" => {
                cases.as_list()?.iter().map(Case::read).collect::<Option<_>>().map(Plan::Split)
            }
            [Value::Str(route), wanted, modules, classes, shared] if route == b"beside" => Some(Plan::Beside {
                wanted: wanted.clone(),
                modules: modules.clone(),
                classes: classes.clone(),
                shared: shared.clone(),
            }),
            [Value::Str(route), blame @ ..] if route == b"broken" => Some(Plan::Broken(raised("", blame, Outcome::Error).1)),
            _ => None,
        }
    }
}

impl Case {
    fn read(value: &Value) -> Option<Case> {
        let [call, op, want, text] = value.as_list()? else { return None };
        let op = match op.as_text()?.as_str() {
            "eq" => Op::Eq,
            "ne" => Op::Ne,
            "is" => Op::Is,
            "isnot" => Op::IsNot,
            "true" => Op::True,
            "false" => Op::False,
            _ => return None,
        };
        Some(Case { call: call.as_text()?, op, want: want.clone(), text: text.as_text()? })
    }

    /// Whether the assert holds for what the call gave.
    fn holds(&self, got: &Value) -> bool {
        match self.op {
            Op::Eq => got.equals(&self.want),
            Op::Ne => got.plain() && !got.equals(&self.want),
            // The values are None, True or False: the same object is the same variant.
            Op::Is => *got == self.want,
            Op::IsNot => *got != self.want,
            Op::True => got.truth() == Some(true),
            Op::False => got.truth() == Some(false),
        }
    }
}

/// Why a process that should have spoken did not.
#[derive(Debug, Clone, Copy)]
enum Silence {
    Timeout,
    Flood,
    End,
}

impl Silence {
    /// The verdict on a process that fell silent at `at`.
    fn judge(self, running: &mut Running, at: &str, limits: Limits) -> Judged {
        let over = (Outcome::Timeout, format!("{at}: not done after {} s", limits.wall.as_secs_f64()));
        match self {
            Silence::Timeout => over,
            Silence::Flood => (Outcome::Fail, format!("{at}: it wrote more than it may")),
            Silence::End => match running.settle(Duration::from_millis(200)) {
                Ended::Exit(code) => (Outcome::Fail, format!("{at}: the process ended before, with exit code {code}")),
                Ended::Signal(libc::SIGKILL | libc::SIGXCPU) => over,
                Ended::Signal(signal) => (Outcome::Error, format!("{at}: the process crashed with signal {signal}")),
                Ended::Killed => (Outcome::Fail, format!("{at}: the process closed its channel")),
            },
        }
    }
}

/// Our ends of the two pipes of a process: what it reads, what it writes.
#[derive(Debug)]
struct Talk {
    write: Option<File>,
    read: File,
    bytes: Vec<u8>,
}

impl Talk {
    /// Ours, and the ends for the process: descriptor 3 to read, descriptor 4 to write.
    fn open() -> Result<(Talk, (OwnedFd, OwnedFd))> {
        let (theirs_read, ours_write) = sandbox::pipe()?;
        let (ours_read, theirs_write) = sandbox::pipe()?;
        let talk = Talk { write: Some(File::from(ours_write)), read: File::from(ours_read), bytes: Vec::new() };
        Ok((talk, (theirs_read, theirs_write)))
    }

    /// Sends one message: eight hexadecimal digits of length, then the bytes. A process that does not read it will not
    /// answer either, which is where it shows.
    fn send(&mut self, value: &Value) {
        let mut bytes = b"00000000".to_vec();
        value.encode(&mut bytes);
        let length = format!("{:08x}", bytes.len() - 8);
        bytes[..8].copy_from_slice(length.as_bytes());
        if let Some(write) = &mut self.write {
            sandbox::feed(write, &bytes);
        }
    }

    /// The next message, at most `limit` bytes. What is no message is an opaque value.
    fn hear(&mut self, running: &mut Running, limit: usize) -> std::result::Result<Value, Silence> {
        loop {
            if self.bytes.len() >= 8 {
                let length = std::str::from_utf8(&self.bytes[..8]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
                match length {
                    None => return Ok(Value::Opaque("no message".into())),
                    Some(length) if length > limit => return Err(Silence::Flood),
                    Some(length) if self.bytes.len() >= 8 + length => {
                        let value = Value::decode(&self.bytes[8..8 + length]);
                        self.bytes.drain(..8 + length);
                        return Ok(value.unwrap_or_else(|| Value::Opaque("no value".into())));
                    }
                    Some(_) => {}
                }
            }
            match running.hear(&mut self.read, &mut self.bytes, limit + 8) {
                Heard::More(_) => {}
                Heard::End => return Err(Silence::End),
                Heard::Timeout => return Err(Silence::Timeout),
                Heard::Flood => return Err(Silence::Flood),
            }
        }
    }
}
