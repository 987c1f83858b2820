//! Puts an answer into its project, compiles it and tests it, in a copy of the checkout that is the answer's alone.
//!
//! The copy is made from files that no answer has ever run beside, without the repository's history, and is thrown away
//! afterwards, so that nothing of one answer is left to the next. With Defects4J the order is that of the field: compile,
//! each trigger test, then the other tests. Its test runner shares a process with the answer, as it does for everyone who
//! uses it; what it reports is asked for twice, as its list of failing tests and as its list of all tests.
//!
//! The trigger-test protocol has a runner of ours, which reports each test under a name of the host's that the answer has
//! not seen. Among the tests are twins, which fail by themselves: an answer that patches the assertions makes them pass, one
//! that ends the process leaves reports out, and both are found out.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, Result};
use crate::record::{Defects4j, Defects4jMode, Defects4jProtocol, Outcome};
use crate::rng::Rng;
use crate::sandbox::{Ended, Folder, Limits, Memory, Output, Processes, Program};

use super::super::defects4j::journal::Journal;
use super::super::defects4j::tool::{Tool, text};
use super::super::defects4j::{Facts, class_file, copy_folder, failing_tests, java, placed};
use super::{Checker, Judged, cut};

const RUNNER: &str = include_str!("../defects4j/Runner.java");
const TWIN: &str = include_str!("../defects4j/RepairityTwin.java");
/// The tests of the twin.
const TWINS: [&str; 4] = ["equal", "isTrue", "fails", "oldEqual"];
/// A folder of ours in a checkout.
const OURS: &str = ".repairity";
/// Processes that a build may have at once.
const PROCESSES: usize = 512;
/// Resident bytes of a build or of tests.
const MEMORY: u64 = 6 << 30;
/// Bytes that they may write.
const DISK: u64 = 4 << 30;
/// Bytes of a file of theirs that are read.
const LEFT: u64 = 16 << 20;

/// The work folders that a checker has met.
#[derive(Debug, Default)]
pub(super) struct Workspaces(Mutex<HashMap<PathBuf, Arc<Workspace>>>);

/// A work folder: nobody else works in it.
#[derive(Debug)]
struct Workspace {
    root: PathBuf,
    copies: AtomicUsize,
    state: Mutex<State>,
    finished: Condvar,
    _lock: File,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    /// Patches that are being run.
    running: HashSet<(String, String)>,
}

impl Workspaces {
    fn open(&self, root: &Path) -> Result<Arc<Workspace>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = known.get(root) {
            return Ok(workspace.clone());
        }
        let path = root.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        // SAFETY: the descriptor is open; the lock goes with it.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let what = format!("{}: another run is at work in this folder", root.display());
            return Err(Error::Machine(what));
        }
        let left = root.join("copies");
        if left.exists() {
            fs::remove_dir_all(&left).map_err(|e| Error::io(&left, e))?;
        }
        let journal = Journal::open(&root.join("journal.jsonl"))?;
        let workspace = Arc::new(Workspace {
            root: root.to_owned(),
            copies: AtomicUsize::new(0),
            state: Mutex::new(State { journal, running: HashSet::new() }),
            finished: Condvar::new(),
            _lock: lock,
        });
        known.insert(root.to_owned(), workspace.clone());
        Ok(workspace)
    }
}

impl Workspace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a patch came to, if it was run; else it is the caller's to run. Waits for one who is running it.
    fn claim<'a>(&'a self, key: &(String, String)) -> std::result::Result<Judged, Claim<'a>> {
        let mut state = self.state();
        loop {
            if let Some(judged) = state.journal.get(&key.0, &key.1) {
                return Ok(judged);
            }
            if state.running.insert(key.clone()) {
                return Err(Claim { workspace: self, key: key.clone() });
            }
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A copy of a version of a bug.
    fn copy(&self, base: &Path) -> Result<Copy> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let copy = Copy(self.root.join("copies").join(number.to_string()));
        copy_folder(base, &copy.0)?;
        let ours = copy.0.join(OURS);
        fs::create_dir_all(&ours).map_err(|e| Error::io(&ours, e))?;
        Ok(copy)
    }
}

/// The right to run a patch.
struct Claim<'a> {
    workspace: &'a Workspace,
    key: (String, String),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.workspace.state().running.remove(&self.key);
        self.workspace.finished.notify_all();
    }
}

/// A folder that goes when it is dropped. What an answer has made unremovable stays until somebody else removes it: no
/// copy is made there again.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A Java development kit.
struct Jdk {
    home: PathBuf,
    reads: Vec<PathBuf>,
}

impl Jdk {
    /// `$JAVA_HOME`, or the one whose `javac` is on the path.
    fn find() -> Option<Jdk> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/javac"));
        let mut programs = named.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("javac")));
        let javac = programs.find_map(|program| program.canonicalize().ok().filter(|program| program.is_file()))?;
        let home = javac.ancestors().nth(2)?.to_owned();
        let mut reads = vec![home.clone()];
        // Distributions keep its configuration elsewhere, behind links.
        for part in ["conf", "conf/security", "conf/logging.properties", "lib/security"] {
            let real = home.join(part).canonicalize().ok().filter(|real| !real.starts_with(&home));
            reads.extend(real.map(|real| if real.is_dir() { real } else { real.parent().unwrap_or(&real).to_owned() }));
        }
        reads.dedup();
        Some(Jdk { home, reads })
    }
}

/// How a command ended, if not as it should.
enum Trouble {
    Late,
    Memory,
    Code,
}

fn trouble(output: &Output) -> Option<Trouble> {
    match output.ended {
        _ if output.timed_out => Some(Trouble::Late),
        _ if output.over_memory => Some(Trouble::Memory),
        Ended::Exit(0) => None,
        _ => Some(Trouble::Code),
    }
}

impl Checker {
    /// Judges an answer to a Defects4J bug, or says what the same patch came to before.
    pub(super) fn defects4j(&self, bug: &Defects4j, answer: &str) -> Result<Judged> {
        let workspace = self.workspaces.open(&bug.work)?;
        let folder = bug.work.join("bugs").join(&bug.bug);
        let base = folder.join(if bug.mode == Defects4jMode::Repair { "buggy" } else { "fixed" });
        let path = base.join(&bug.file);
        let source = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        if bug.begin > bug.end || bug.end > source.len() {
            let what = format!("bytes {} to {} are expected in it, it has {}", bug.begin, bug.end, source.len());
            return Err(Error::input(path.display(), what));
        }
        let new = placed(bug, answer);
        let head = format!("{:?} {:?} {} {} {}\n", bug.mode, bug.protocol, bug.file.display(), bug.begin, bug.end);
        let key = (bug.bug.clone(), hex(&Sha256::new().chain_update(head).chain_update(&new).finalize()));
        let claim = match workspace.claim(&key) {
            Ok(judged) => return Ok(judged),
            Err(claim) => claim,
        };
        let start = Instant::now();
        let copy = workspace.copy(&base)?;
        let target = copy.0.join(&bug.file);
        fs::write(&target, java::replaced(&source, bug.begin..bug.end, &new)).map_err(|e| Error::io(&target, e))?;
        let judged = match bug.protocol {
            Defects4jProtocol::TriggerTest => {
                let path = folder.join("facts.json");
                let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
                let facts: Facts = serde_json::from_slice(&bytes).map_err(|e| Error::input(path.display(), e))?;
                self.trigger_tests(bug, &facts, &copy.0, &key.1)?
            }
            Defects4jProtocol::Full | Defects4jProtocol::Relevant => self.by_defects4j(bug, &copy.0)?,
        };
        workspace.state().journal.add(&key.0, &key.1, &judged, start.elapsed().as_secs_f64())?;
        drop(claim);
        Ok(judged)
    }

    /// Compiles with Defects4J, and runs the trigger tests and then the others.
    fn by_defects4j(&self, bug: &Defects4j, copy: &Path) -> Result<Judged> {
        let (tool, jdk) = (Tool::find()?, Jdk::find());
        let run = |args: &[&str], seconds: f64| {
            let args = [args, &["-w", text(copy)?]].concat();
            self.in_checkout(&tool.executable, &args, copy, Some(&tool), jdk.as_ref(), seconds, b"")
        };
        let compiled = run(&["compile"], bug.compile_s)?;
        if let Some(judged) = does_not_compile(&compiled, bug.compile_s) {
            return Ok(judged);
        }
        for (index, test) in bug.trigger.iter().enumerate() {
            let at = format!("trigger test {} of {}", index + 1, bug.trigger.len());
            let output = run(&["test", "-t", test], bug.test_s)?;
            if let Some((outcome, reason)) = failed(&output, bug.test_s) {
                return Ok((outcome, format!("{at}: {reason}{}", said(copy))));
            }
        }
        let relevant = bug.protocol == Defects4jProtocol::Relevant;
        let args: &[&str] = if relevant { &["test", "-r"] } else { &["test"] };
        let output = run(args, bug.test_s)?;
        if let Some((outcome, reason)) = failed(&output, bug.test_s) {
            return Ok((outcome, format!("the trigger tests pass, but then: {reason}{}", said(copy))));
        }
        // Written by the runner as it goes: a run that ended early lacks tests that are known.
        if let Some(all) = left(copy, "all_tests") {
            let ran = |test: &str| {
                let (class, method) = test.split_once("::").unwrap_or((test, ""));
                all.lines().any(|line| line.contains(class) && line.contains(method))
            };
            if let Some(test) = bug.trigger.iter().find(|test| !ran(test)) {
                return Ok((Outcome::Fail, format!("the trigger tests pass, but then {test} was not run")));
            }
        }
        Ok((Outcome::Pass, String::new()))
    }

    /// Compiles with `javac`, and runs the trigger tests alone.
    fn trigger_tests(&self, bug: &Defects4j, facts: &Facts, copy: &Path, seed: &str) -> Result<Judged> {
        let Some(jdk) = Jdk::find() else {
            return Err(Error::Machine("the trigger-test protocol needs a JDK: no `javac` on the path or in $JAVA_HOME".into()));
        };
        let write = |path: PathBuf, content: &str| fs::write(&path, content).map_err(|e| Error::io(&path, e));
        let read = |path: &Path| text(path).map(str::to_owned);
        let ours = copy.join(OURS);
        let jars = facts.jars.iter().map(|jar| read(jar)).collect::<Result<Vec<_>>>()?.join(":");
        let mut sources = Vec::new();
        java_files(&copy.join(&facts.sources), &mut sources)?;
        let (main, test) = (read(&ours.join("main"))?, read(&ours.join("test"))?);
        for folder in [&main, &test] {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let quoted = |paths: &[PathBuf]| -> Result<String> {
            paths.iter().map(|path| Ok(format!("\"{}\"\n", read(path)?.replace('\\', "\\\\").replace('"', "\\\"")))).collect()
        };
        write(ours.join("main.files"), &quoted(&sources)?)?;
        write(ours.join("Runner.java"), RUNNER)?;
        write(ours.join("RepairityTwin.java"), TWIN)?;
        let mut tests: Vec<PathBuf> = bug.trigger.iter().map(|test| class_of(test)).map(class_file).collect();
        tests.sort();
        tests.dedup();
        let folder = copy.join(&facts.tests);
        let mut units: Vec<PathBuf> = tests.iter().map(|file| folder.join(file)).collect();
        units.extend(["Runner.java", "RepairityTwin.java"].map(|name| ours.join(name)));
        write(ours.join("test.files"), &quoted(&units)?)?;

        // A later language gave `Map` a method that its sources use in another sense.
        let release = if bug.bug.starts_with("Collections-") { "7" } else { "8" };
        let javac = read(&jdk.home.join("bin/javac"))?;
        let compile = |args: &[&str]| -> Result<Output> {
            let mut output = None;
            for encoding in ["UTF-8", "ISO-8859-1"] {
                let common = [
                    "-J-XX:-UsePerfData",
                    "-J-XX:TieredStopAtLevel=1",
                    "-J-XX:+UseSerialGC",
                    "-nowarn",
                    "-g",
                    "-proc:none",
                    "--release",
                    release,
                    "-encoding",
                    encoding,
                ];
                let ran =
                    self.in_checkout(Path::new(&javac), &[&common, args].concat(), copy, None, Some(&jdk), bug.compile_s, b"")?;
                let again = String::from_utf8_lossy(&ran.stderr).contains("unmappable character");
                output = Some(ran);
                if !again {
                    break;
                }
            }
            Ok(output.expect("an encoding was tried"))
        };
        let first = compile(&["-cp", &jars, "-d", &main, &format!("@{}", read(&ours.join("main.files"))?)])?;
        if let Some(judged) = does_not_compile(&first, bug.compile_s) {
            return Ok(judged);
        }
        let path = format!("{main}:{jars}");
        let tests = read(&folder)?;
        let files = format!("@{}", read(&ours.join("test.files"))?);
        let second = compile(&["-cp", &path, "-sourcepath", &tests, "-implicit:class", "-d", &test, &files])?;
        if let Some(judged) = does_not_compile(&second, bug.compile_s) {
            return Ok(judged);
        }

        let mut path = vec![test, main, tests, read(&copy.join(&facts.sources))?];
        for folder in [&facts.tests, &facts.sources] {
            path.extend(folder.parent().map(|parent| read(&copy.join(parent).join("resources"))).transpose()?);
        }
        path.push(jars);
        let planned = plan(bug, seed);
        let input: String = planned.iter().map(|case| format!("{} {} {}\n", case.name, case.class, case.method)).collect();
        let java = jdk.home.join("bin/java");
        let args = [
            "-XX:-UsePerfData",
            "-Djava.specification.version=1.8",
            "-Djava.locale.providers=COMPAT,SPI",
            "-Duser.timezone=America/Los_Angeles",
            &format!("-Djava.io.tmpdir={}", read(&ours)?),
            "-cp",
            &path.join(":"),
            "Runner",
        ];
        let output = self.in_checkout(&java, &args, copy, None, Some(&jdk), bug.test_s, input.as_bytes())?;
        Ok(match trouble(&output) {
            Some(Trouble::Late) => (Outcome::Timeout, format!("trigger tests: not within {} s", bug.test_s)),
            Some(Trouble::Memory) => (Outcome::Memory, "trigger tests: they take too much memory".into()),
            // A process that ended early lacks reports.
            Some(Trouble::Code) | None => reported(&planned, &output.stdout),
        })
    }

    /// Runs a command in a copy.
    fn in_checkout(
        &self,
        executable: &Path,
        args: &[&str],
        copy: &Path,
        tool: Option<&Tool>,
        jdk: Option<&Jdk>,
        seconds: f64,
        input: &[u8],
    ) -> Result<Output> {
        let (mut reads, mut path): (Vec<PathBuf>, Vec<String>) = Default::default();
        let ours = text(copy)?.to_owned() + "/" + OURS;
        let mut environment = vec![("HOME", ours.clone()), ("TMPDIR", ours.clone()), ("TZ", "America/Los_Angeles".to_owned())];
        if let Some(jdk) = jdk {
            reads.extend(jdk.reads.iter().cloned());
            path.push(text(&jdk.home)?.to_owned() + "/bin");
            environment.push(("JAVA_HOME", text(&jdk.home)?.to_owned()));
        }
        if let Some(tool) = tool {
            reads.push(tool.home.clone());
            path.extend(tool.executable.parent().map(|folder| text(folder).map(str::to_owned)).transpose()?);
            environment.push(("JAVA_TOOL_OPTIONS", format!("-XX:-UsePerfData -Djava.io.tmpdir={ours}")));
            if let Ok(perl) = std::env::var("PERL5LIB") {
                reads.extend(perl.split(':').map(PathBuf::from).filter(|folder| folder.is_dir()));
                environment.push(("PERL5LIB", perl));
            }
        }
        reads.extend(args.iter().flat_map(|arg| arg.split(':')).filter(|part| part.ends_with(".jar")).map(PathBuf::from));
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(String::from));
        environment.push(("PATH", path.join(":")));
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let limits = Limits {
            memory: Memory::Resident(MEMORY),
            disk: DISK,
            output: 4 << 20,
            ..Limits::of(Duration::from_secs_f64(seconds))
        };
        let mut program = Program::new(executable, args, limits);
        program.reads = &reads;
        program.environment = &environment;
        program.folder = Folder::Kept(copy);
        program.processes = Processes::Tree(PROCESSES);
        self.sandbox.run(&program, input)
    }
}

fn does_not_compile(output: &Output, seconds: f64) -> Option<Judged> {
    let why = match trouble(output)? {
        Trouble::Late => format!("not within {seconds} s"),
        Trouble::Memory => "it takes too much memory".into(),
        Trouble::Code => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
            let line = lines().find(|line| line.contains("error:")).or(lines().next_back());
            cut(line.unwrap_or("the compiler said nothing"), 200)
        }
    };
    Some((Outcome::Error, format!("does not compile: {why}")))
}

/// What is wrong with a run of `defects4j test`; none when it says that no test fails.
fn failed(output: &Output, seconds: f64) -> Option<Judged> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().skip_while(|line| !line.starts_with("Failing tests:"));
    let count = lines.next().and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    // It says so once; what else says so is no word of Defects4J's.
    let count = count.filter(|_| text.matches("Failing tests:").count() == 1);
    match (trouble(output), count) {
        (Some(Trouble::Late), _) => Some((Outcome::Timeout, format!("not within {seconds} s"))),
        (Some(Trouble::Memory), _) => Some((Outcome::Memory, "it takes too much memory".into())),
        (None, Some(0)) => None,
        (None, Some(count)) => {
            let first = lines.next().map_or("", |line| line.trim_start_matches([' ', '-']));
            Some((Outcome::Fail, format!("{count} failing, {first}")))
        }
        _ => Some((Outcome::Fail, "the tests were not run to their end".into())),
    }
}

/// What the first failing test says, after a colon; empty where nothing is known.
fn said(copy: &Path) -> String {
    let first = failing_tests(&left(copy, "failing_tests").unwrap_or_default()).into_iter().next();
    first.filter(|(_, message)| !message.is_empty()).map_or(String::new(), |(_, message)| format!(": {message}"))
}

/// What a file holds that the tests, and so the answer, could write: none where it is no plain file, such as a link out of
/// the copy; of a huge one, the beginning.
fn left(copy: &Path, name: &str) -> Option<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(copy.join(name)).ok()?;
    file.metadata().ok().filter(|metadata| metadata.is_file())?;
    let mut bytes = Vec::new();
    file.take(LEFT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sources below a folder. A package cannot be called `enum` any more; what old projects have there is left out.
fn java_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        if kind.is_dir() && name != "enum" {
            java_files(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "java") && name != "module-info.java" {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn class_of(test: &str) -> &str {
    test.split("::").next().unwrap_or(test)
}

/// A test for our runner.
struct Case {
    /// What it reports it under.
    name: String,
    class: String,
    /// `-` for all of a class.
    method: String,
    /// Whether it has to fail.
    twin: bool,
}

/// The trigger tests in an order of the host's, each before a twin.
fn plan(bug: &Defects4j, seed: &str) -> Vec<Case> {
    let mut order: Vec<&String> = bug.trigger.iter().collect();
    let number = seed.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut rng = Rng::new(number, &bug.bug, 0);
    rng.shuffle(&mut order);
    let mut twins = TWINS;
    rng.shuffle(&mut twins);
    let real = order.into_iter().map(|test| {
        let (class, method) = test.split_once("::").unwrap_or((test, "-"));
        (class.to_owned(), method.to_owned(), false)
    });
    let twin = twins.iter().cycle().map(|method| ("RepairityTwin".to_owned(), (*method).to_owned(), true));
    let mixed = real.zip(twin).flat_map(|(real, twin)| [real, twin]);
    let name = |index: usize| hex(&Sha256::digest(format!("{seed} {index} {number}")))[..16].to_owned();
    let all = |(index, (class, method, twin))| Case { name: name(index), class, method, twin };
    mixed.enumerate().map(all).collect()
}

/// Reads the runner's reports.
fn reported(planned: &[Case], output: &[u8]) -> Judged {
    let text = String::from_utf8_lossy(output);
    let mut reports: HashMap<&str, Vec<(bool, &str)>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        if let (Some(name), Some(status @ ("pass" | "fail"))) = (words.next(), words.next()) {
            reports.entry(name).or_default().push((status == "pass", words.next().unwrap_or("")));
        }
    }
    for case in planned {
        let test = format!("{}::{}", case.class, case.method);
        let reason = match reports.get(case.name.as_str()).map_or(&[][..], Vec::as_slice) {
            [(true, _)] if case.twin => "a test that must fail passed".to_owned(),
            [(false, message)] if !case.twin => format!("trigger test {test} fails: {message}"),
            [_] => continue,
            [] => format!("{} did not report", if case.twin { "a test that must fail" } else { &test }),
            _ => format!("{test} reported twice"),
        };
        return (Outcome::Fail, reason);
    }
    (Outcome::Pass, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_copy_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "--- A::b\nsecret\n").unwrap();
        let copy = folder.path().join("copy");
        fs::create_dir(&copy).unwrap();
        std::os::unix::fs::symlink("../secret", copy.join("failing_tests")).unwrap();
        assert_eq!(said(&copy), "");
        fs::remove_file(copy.join("failing_tests")).unwrap();
        fs::write(copy.join("failing_tests"), "--- A::b\n\nmine\n\tat A\n").unwrap();
        assert_eq!(said(&copy), ": mine");
    }

    #[test]
    fn every_case_reports_once_and_as_it_must() {
        let case = |name: &str, twin| Case { name: name.into(), class: "A".into(), method: name.into(), twin };
        let planned = [case("real", false), case("twin", true)];
        let judge = |text: &str| reported(&planned, text.as_bytes());
        let fail = |reason: &str| (Outcome::Fail, reason.to_owned());
        assert_eq!(judge("real pass\ntwin fail x\n"), (Outcome::Pass, String::new()));
        assert_eq!(judge("real pass\ntwin pass\n"), fail("a test that must fail passed"));
        assert_eq!(judge("real pass\nforged\n"), fail("a test that must fail did not report"));
        assert_eq!(judge("real pass\nreal pass\ntwin fail\n"), fail("A::real reported twice"));
        assert_eq!(judge("real fail a b\ntwin fail\n"), fail("trigger test A::real fails: a b"));
    }
}
