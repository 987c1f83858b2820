//! Defects4J (Just et al. 2014): bugs of Java projects, one method each, compiled and tested in the project itself.
//!
//! Two things are asked of a model, and they are not to be compared. *Repair*: the buggy method is shown with the tests that
//! fail, and the answer is the whole method. *Method-body completion*: a method of the fixed version is shown without its
//! body, and the answer is the body. What an answer is worth is said in the words of the field: it *compiles*; it is
//! *plausible* when the trigger tests and then the others pass, which does not make it correct; it is an *exact match* when
//! its tokens are those of the developers' method.
//!
//! A bug needs its checkouts: Defects4J makes them (`tool`), or, without its set-up, a clone of the project and the
//! published patches do (`tree`). Then only the trigger tests can be run, by a JDK alone, and nothing is called plausible.
//! Checkouts lie in a work folder, `bugs/<bug>/{buggy,fixed}`, beside `journal.jsonl`, which keeps every result.

pub mod java;
pub(in crate::problem) mod journal;
pub(in crate::problem) mod tool;
pub(in crate::problem) mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::record::{Check, Defects4j, Defects4jMode, Defects4jProtocol, Extra, Form, Problem, write_atomic};

use super::{Dropped, grade};
use java::Method;
use tool::Tool;
use tree::Trees;

/// How bugs are read and their answers judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is asked for.
    pub mode: Defects4jMode,
    /// The folder of checkouts and results; none is `<list>.work` beside the list.
    pub work: Option<PathBuf>,
    /// Whether only the tests that load a changed class follow the trigger tests.
    pub relevant: bool,
    /// A source tree of Defects4J and a folder with a clone of each project (`Lang`, `Cli`, ...), or one clone: the way
    /// without its set-up.
    pub trees: Option<(PathBuf, PathBuf)>,
    /// Wall-clock seconds to compile in.
    pub compile_s: f64,
    /// Wall-clock seconds for each run of tests.
    pub test_s: f64,
    /// Bugs taken from the list; 0 takes all.
    pub limit: usize,
    /// Checkouts made at once.
    pub jobs: usize,
}

impl Default for Settings {
    /// Repair, every test, 5 minutes to compile and 30 to test.
    fn default() -> Settings {
        Settings {
            mode: Defects4jMode::Repair,
            work: None,
            relevant: false,
            trees: None,
            compile_s: 300.0,
            test_s: 1800.0,
            limit: 0,
            jobs: 1,
        }
    }
}

/// What a bug's checkouts are; `bugs/<bug>/facts.json`, written when they are complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::problem) struct Facts {
    /// The folder of sources in a checkout.
    pub sources: PathBuf,
    /// The folder of tests.
    pub tests: PathBuf,
    /// The classes that the fix changes.
    pub modified: Vec<String>,
    /// The tests that fail because of the bug, and what they say.
    pub trigger: Vec<(String, String)>,
    /// Libraries, where the trigger-test protocol has to find them itself.
    pub jars: Vec<PathBuf>,
    /// Whether Defects4J made the checkouts, and so can compile and test them.
    pub by_defects4j: bool,
}

/// A bug of the list; where its method is, if the list says so (lines of the buggy file, from 1, both included).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    bug: String,
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    begin: Option<usize>,
    #[serde(default)]
    end: Option<usize>,
}

/// The bugs of a list as problems; see [`load_all`], which also says what was left out.
pub fn load(path: &Path, settings: &Settings) -> Result<Vec<Problem>> {
    load_all(path, settings).map(|(problems, _)| problems)
}

/// The bugs of a list as problems, and those that have no single method to ask for. `path` is a list, a bug a line
/// (`Lang-1`; `Lang` alone is every bug of a project), or JSONL with `bug` and, if the method is to be another than the one
/// that the fix changes, `file`, `begin` and `end`; or it is a work folder with checkouts, whose bugs are taken. Checkouts
/// that are not there yet are made, which takes from seconds to minutes each.
pub fn load_all(path: &Path, settings: &Settings) -> Result<(Vec<Problem>, Vec<Dropped>)> {
    let work = match &settings.work {
        Some(work) => work.clone(),
        None if path.is_dir() => path.to_owned(),
        None => {
            let mut name = path.as_os_str().to_owned();
            name.push(".work");
            name.into()
        }
    };
    fs::create_dir_all(&work).map_err(|e| Error::io(&work, e))?;
    let work = work.canonicalize().map_err(|e| Error::io(&work, e))?;
    let maker = Maker { settings, work: &work };
    let mut entries = if path.is_dir() { cached(&work)? } else { maker.list(path)? };
    if settings.limit > 0 {
        entries.truncate(settings.limit);
    }
    let (mut problems, mut dropped) = (Vec::new(), Vec::new());
    for (entry, made) in entries.iter().zip(maker.problems(&entries)?) {
        match made {
            Ok(problem) => problems.push(problem),
            Err(reason) => dropped.push(Dropped { id: entry.bug.clone(), reason }),
        }
    }
    if let (true, Some(first)) = (problems.is_empty(), dropped.first()) {
        let what = format!("no bug of it can be used; {}: {}", first.id, first.reason);
        return Err(Error::input(path.display(), what));
    }
    grade(&mut problems);
    Ok((problems, dropped))
}

/// The bugs of a work folder.
fn cached(work: &Path) -> Result<Vec<Entry>> {
    let folder = work.join("bugs");
    let mut names: Vec<(String, usize)> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
        let entry = entry.map_err(|e| Error::io(&folder, e))?;
        if entry.path().join("facts.json").is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.extend(parts(&name).map(|(project, number)| (project.to_owned(), number)));
        }
    }
    names.sort();
    let bug = |(project, number)| Entry { bug: format!("{project}-{number}"), file: None, begin: None, end: None };
    Ok(names.into_iter().map(bug).collect())
}

/// A bug's project and number: letters and digits only, since they become names of folders and arguments.
pub(in crate::problem) fn parts(bug: &str) -> Option<(&str, usize)> {
    let (project, number) = bug.split_once('-')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
    (plain(project) && digits).then_some(())?;
    Some((project, number.parse().ok()?))
}

/// Makes checkouts and reads problems out of them.
struct Maker<'a> {
    settings: &'a Settings,
    work: &'a Path,
}

impl Maker<'_> {
    fn list(&self, path: &Path) -> Result<Vec<Entry>> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| Error::input(path.display(), format!("text is expected: {e}")))?;
        let (mut entries, mut seen): (Vec<Entry>, BTreeSet<String>) = Default::default();
        for (index, line) in text.lines().enumerate() {
            let (line, wrong) = (line.trim(), |what: String| Error::line(path, index + 1, what));
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bare = |bug: String| Entry { bug, file: None, begin: None, end: None };
            let found = if line.starts_with('{') {
                vec![serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?]
            } else if line.bytes().all(|b| b.is_ascii_alphanumeric()) {
                self.project(line)?.into_iter().map(bare).collect()
            } else {
                vec![bare(line.to_owned())]
            };
            for entry in found {
                if parts(&entry.bug).is_none() {
                    return Err(wrong(format!("a bug such as `Lang-1` is expected, `{}` was found", entry.bug)));
                }
                if entry.begin.is_some() != entry.end.is_some() {
                    return Err(wrong("`begin` and `end` are expected together".into()));
                }
                if seen.insert(entry.bug.clone()) {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    /// Every bug of a project.
    fn project(&self, project: &str) -> Result<Vec<String>> {
        let numbers = match &self.settings.trees {
            Some((metadata, clones)) => Trees { metadata, clones }.bugs(project)?,
            None => {
                let tool = Tool::find()?;
                let projects = tool.lines(&["pids"])?;
                if !projects.iter().any(|name| name == project) {
                    let what = format!("Defects4J has no project `{project}`; it has {}", projects.join(", "));
                    return Err(Error::input("path", what));
                }
                tool.lines(&["bids", "-p", project])?
            }
        };
        Ok(numbers.iter().map(|number| format!("{project}-{number}")).collect())
    }

    /// A problem for each entry, or why there is none.
    fn problems(&self, entries: &[Entry]) -> Result<Vec<std::result::Result<Problem, String>>> {
        let next = AtomicUsize::new(0);
        let made = Mutex::new((0..entries.len()).map(|_| None).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            for _ in 0..self.settings.jobs.clamp(1, entries.len().max(1)) {
                scope.spawn(|| {
                    while let Some((index, entry)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        entries.get(index).map(|entry| (index, entry))
                    } {
                        let result = self.problem(entry);
                        if result.is_err() {
                            next.fetch_max(entries.len(), Ordering::Relaxed);
                        }
                        made.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                    }
                });
            }
        });
        // Places are dealt in order, so that what is missing comes after an error.
        made.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
    }

    fn problem(&self, entry: &Entry) -> Result<std::result::Result<Problem, String>> {
        let facts = match self.facts(&entry.bug) {
            Ok(facts) => facts,
            // Old commits go missing, servers do not answer: the other bugs are of use without this one.
            Err(Missing::Checkout(reason)) => return Ok(Err(reason)),
            Err(Missing::Other(e)) => return Err(e),
        };
        let folder = self.work.join("bugs").join(&entry.bug);
        let found = match locate(&folder, &facts, entry, self.settings.mode)? {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason)),
        };
        if facts.trigger.is_empty() {
            return Ok(Err("it has no trigger tests".into()));
        }
        Ok(Ok(self.describe(entry, &facts, &found)))
    }

    /// What is known of a bug's checkouts, which are made if they are not there.
    fn facts(&self, bug: &str) -> std::result::Result<Facts, Missing> {
        let folder = self.work.join("bugs").join(bug);
        let path = folder.join("facts.json");
        if let Ok(bytes) = fs::read(&path) {
            return serde_json::from_slice(&bytes).map_err(|e| Missing::Other(Error::input(path.display(), e)));
        }
        // What an interrupted run left is of no use.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        }
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let made = match &self.settings.trees {
            Some((metadata, clones)) => Trees { metadata, clones }.make(bug, &folder),
            None => Tool::find()?.make(bug, &folder),
        };
        let facts = match made {
            Err(e @ (Error::Input { .. } | Error::Machine(_))) => return Err(Missing::Checkout(e.to_string())),
            made => made?,
        };
        let bytes = serde_json::to_vec_pretty(&facts).map_err(|e| Error::input(path.display(), e))?;
        write_atomic(&path, &bytes)?;
        Ok(facts)
    }

    fn describe(&self, entry: &Entry, facts: &Facts, found: &Found) -> Problem {
        let (settings, method) = (self.settings, &found.method);
        let span = |range: &Range<usize>| java::decoded(&found.source[range.clone()]);
        let place = if settings.mode == Defects4jMode::Repair { &method.span } else { &method.body };
        let prompt = match settings.mode {
            Defects4jMode::Repair => repair_prompt(entry, facts, found),
            Defects4jMode::MethodBody => body_prompt(found),
        };
        let form = Form::Defects4j(Defects4j {
            bug: entry.bug.clone(),
            mode: settings.mode,
            protocol: match (facts.by_defects4j, settings.relevant) {
                (false, _) => Defects4jProtocol::TriggerTest,
                (true, true) => Defects4jProtocol::Relevant,
                (true, false) => Defects4jProtocol::Full,
            },
            work: self.work.to_owned(),
            file: found.file.clone(),
            method: method.key.clone(),
            begin: place.start,
            end: place.end,
            trigger: facts.trigger.iter().map(|(test, _)| test.clone()).collect(),
            compile_s: settings.compile_s,
            test_s: settings.test_s,
        });
        let mut extra = Extra::new();
        extra.insert("file".into(), Value::from(found.file.to_string_lossy()));
        extra.insert("method".into(), Value::from(method.key.as_str()));
        Problem {
            id: entry.bug.clone(),
            suite: "defects4j".into(),
            kind: if settings.mode == Defects4jMode::Repair { "repair" } else { "method_body" }.into(),
            difficulty: String::new(),
            prompt,
            buggy: (settings.mode == Defects4jMode::Repair).then(|| span(&method.span)),
            reference: Some(found.reference.clone()),
            language: "java".into(),
            check: Check { form, ..Check::statements(Vec::new(), settings.compile_s + settings.test_s) },
            split: None,
            extra,
        }
    }
}

/// Why a bug has no checkouts.
enum Missing {
    /// They could not be made.
    Checkout(String),
    /// Something else went wrong.
    Other(Error),
}

impl From<Error> for Missing {
    fn from(e: Error) -> Missing {
        Missing::Other(e)
    }
}

/// The method that is asked for.
struct Found {
    /// In a checkout.
    file: PathBuf,
    /// The file: of the buggy version for repair, of the fixed one for a body.
    source: Vec<u8>,
    method: Method,
    /// What the developers wrote there.
    reference: String,
}

/// Looks for the method; the error says why there is none.
fn locate(folder: &Path, facts: &Facts, entry: &Entry, mode: Defects4jMode) -> Result<std::result::Result<Found, String>> {
    let read = |version: &str, file: &Path| {
        let path = folder.join(version).join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes),
            // A class that the fix adds or removes.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(&path, e)),
        }
    };
    let mut files: Vec<PathBuf> = match &entry.file {
        Some(file) => vec![file.clone()],
        None => facts.modified.iter().map(|class| facts.sources.join(class_file(class))).collect(),
    };
    files.dedup();
    let mut changed = Vec::new();
    for file in files {
        let (buggy, fixed) = (read("buggy", &file)?, read("fixed", &file)?);
        if entry.file.is_some() || !java::same(&buggy, &fixed) {
            changed.push((file, buggy, fixed));
        }
    }
    if changed.is_empty() {
        return Ok(Err("no file of its changed classes differs between the buggy and the fixed version".into()));
    }
    if mode == Defects4jMode::MethodBody {
        for (file, buggy, fixed) in changed {
            let wanted = match (entry.begin, entry.end) {
                (Some(begin), Some(end)) => named(&buggy, &fixed, begin, end).map(|(_, method)| method),
                _ => {
                    let mut new = java::new_methods(&buggy, &fixed);
                    let old: BTreeSet<String> = java::methods(&buggy).into_iter().map(|method| method.key).collect();
                    // One that the fix changes says more than one that it adds.
                    new.sort_by_key(|method| !old.contains(&method.key));
                    new.into_iter().next()
                }
            };
            if let Some(method) = wanted {
                let reference = java::decoded(&fixed[method.body.clone()]);
                return Ok(Ok(Found { file, source: fixed, method, reference }));
            }
        }
        return Ok(Err("its fix changes no method that has a body".into()));
    }
    if changed.len() > 1 {
        return Ok(Err(format!("its fix changes {} files", changed.len())));
    }
    let (file, buggy, fixed) = changed.swap_remove(0);
    let pair = match (entry.begin, entry.end) {
        (Some(begin), Some(end)) => named(&buggy, &fixed, begin, end),
        _ => java::changed_method(&buggy, &fixed),
    };
    let Some((method, other)) = pair else {
        return Ok(Err("its fix changes more than one method, or something outside methods".into()));
    };
    let reference = java::decoded(&fixed[other.span]);
    Ok(Ok(Found { file, source: buggy, method, reference }))
}

/// The method of `buggy` that holds these lines, and the one of `fixed` with its key.
fn named(buggy: &[u8], fixed: &[u8], begin: usize, end: usize) -> Option<(Method, Method)> {
    let line = |place: usize| 1 + buggy[..place].iter().filter(|b| **b == b'\n').count();
    let holds = |method: &Method| line(method.span.start) <= end && begin <= line(method.span.end - 1);
    let method = java::methods(buggy).into_iter().find(holds)?;
    let other = java::methods(fixed).into_iter().find(|other| other.key == method.key)?;
    Some((method, other))
}

/// The file of a class, below its folder of sources.
pub(in crate::problem) fn class_file(class: &str) -> PathBuf {
    let outer = class.split('$').next().unwrap_or(class);
    PathBuf::from(outer.replace('.', "/") + ".java")
}

fn repair_prompt(entry: &Entry, facts: &Facts, found: &Found) -> String {
    let test = |(name, message): &(String, String)| match message.as_str() {
        "" => format!("- {name}"),
        message => format!("- {name}: {message}"),
    };
    let tests: Vec<String> = facts.trigger.iter().map(test).collect();
    format!(
        "A method of {} (bug {} of Defects4J) makes these tests fail:\n\n{}\n\nAnswer with the whole corrected method.",
        found.file.display(),
        entry.bug,
        tests.join("\n")
    )
}

fn body_prompt(found: &Found) -> String {
    let (source, method) = (&found.source, &found.method);
    let comment = java::decoded(java::comment_before(source, method.span.start));
    let signature = java::decoded(source[method.span.start..method.body.start].trim_ascii_end());
    let head = if comment.is_empty() { signature } else { format!("{comment}\n{signature}") };
    format!(
        "Write the body of this Java method of {}:\n\n```java\n{head}\n```\n\nAnswer with the body, in braces.",
        found.file.display()
    )
}

/// What an answer puts in its place, as bytes of the file. Of an answer with a type around it, the method of the asked
/// name is taken; of a whole method where a body is asked for, its body; a body without braces gets them.
pub fn placed(form: &Defects4j, answer: &str) -> Vec<u8> {
    let bytes = java::encoded(answer.trim());
    let methods = java::methods(&bytes);
    let name = form.method.split('(').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
    let parameters = form.method.find('(').map_or("", |at| &form.method[at..]);
    let mut alike = methods.iter().filter(|method| method.name == name).collect::<Vec<_>>();
    alike.sort_by_key(|method| !method.key.ends_with(parameters));
    let method = alike.first();
    match form.mode {
        Defects4jMode::Repair => match method {
            Some(method) if methods.iter().all(|other| other.depth > 0) => bytes[method.span.clone()].to_vec(),
            _ => bytes,
        },
        Defects4jMode::MethodBody => match method {
            Some(method) => bytes[method.body.clone()].to_vec(),
            None if bytes.starts_with(b"{") => bytes,
            None => [b"{\n", bytes.as_slice(), b"\n}"].concat(),
        },
    }
}

/// Whether an answer has the tokens of the developers' method (or body): comments and white space make no difference. An
/// answer to another suite's problem has no such match.
pub fn exact_match(problem: &Problem, answer: &str) -> bool {
    match (&problem.check.form, &problem.reference) {
        (Form::Defects4j(form), Some(reference)) => java::same(&placed(form, answer), &placed(form, reference)),
        _ => false,
    }
}

/// The tests of a `failing_tests` file (the form of `trigger_tests/<bug>` too), and the first line of what each says.
pub(in crate::problem) fn failing_tests(text: &str) -> Vec<(String, String)> {
    let mut tests: Vec<(String, String)> = Vec::new();
    let mut fresh = false;
    for line in text.lines() {
        if let Some(test) = line.strip_prefix("--- ") {
            tests.push((test.trim().to_owned(), String::new()));
            fresh = true;
        } else if let (true, Some((_, message))) = (fresh && !line.trim_start().starts_with("at "), tests.last_mut()) {
            *message = line.trim().chars().take(300).collect();
            fresh = message.is_empty();
        }
    }
    tests
}

/// Copies a folder: files with their permissions, links as links. What else there is, and the history of a repository, which
/// holds the fix, is left.
pub(in crate::problem) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let entry = entry.map_err(|e| Error::io(from, e))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        if kind.is_dir() && entry.file_name() != ".git" && entry.file_name() != ".svn" {
            copy_folder(&path, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).map_err(|e| Error::io(&path, e))?;
            std::os::unix::fs::symlink(link, &target).map_err(|e| Error::io(&target, e))?;
        } else if kind.is_file() {
            fs::copy(&path, &target).map_err(|e| Error::io(&target, e))?;
        }
    }
    Ok(())
}
