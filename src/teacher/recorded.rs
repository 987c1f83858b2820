//! Answers in a file: a teacher that gives earlier answers, and a journal that stores each answer on arrival.
//!
//! Both use one form, a JSON object a line:
//!
//! ```text
//! {"id":"7","purpose":"trace","text":"...","stop":"end","usage":{"input_tokens":210,"output_tokens":755}}
//! {"id":"7","purpose":"compare","first":0,"second":2,"text":"...","stop":"end"}
//! {"id":"7","purpose":"rank","shown":[2,0,1],"text":"...","reasoning":"...","stop":"end","batch":true}
//! ```
//!
//! `id` (or `key`) is the problem's; `first` and `second`, or `shown`, are the candidates' indices in the order in which they were
//! shown. `stop` is `end` where it is missing; `reasoning` is what the model thought before its text, where that was shown; `batch`
//! marks an answer at half the price; `max_tokens` is the limit that cut an answer, which is asked for again where the limit has been
//! raised. A journal also writes `model` and `prompt_sha256`, and repeats an answer only to the same
//! question to the same model; a recorded teacher asks for neither. Of two lines for one question, the later counts.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Estimate, Post, Query, Rate, Reply, Spent, Stop, Teacher};
use crate::error::{Error, Result};
use crate::record::{Problem, Usage, read_jsonl};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Purpose {
    Trace,
    Compare,
    Rank,
}

/// Which question a line answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Question {
    #[serde(alias = "key")]
    id: String,
    purpose: Purpose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    second: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shown: Vec<usize>,
}

impl Question {
    fn of(query: &Query<'_>) -> Question {
        let question = |problem: &Problem, purpose| Question {
            id: problem.id.clone(),
            purpose,
            first: None,
            second: None,
            shown: Vec::new(),
        };
        match query {
            Query::Trace { problem, .. } => question(problem, Purpose::Trace),
            Query::Compare { problem, first, second, .. } => {
                let (first, second) = (Some(first.index), Some(second.index));
                Question { first, second, ..question(problem, Purpose::Compare) }
            }
            Query::Rank { problem, shown, .. } => {
                let shown = shown.iter().map(|candidate| candidate.index).collect();
                Question { shown, ..question(problem, Purpose::Rank) }
            }
        }
    }
}

/// What makes a stored answer the answer: the question, the model, the hash of the text that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    #[serde(flatten)]
    question: Question,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    prompt_sha256: String,
}

impl Asked {
    fn of(query: &Query<'_>, model: &str) -> Asked {
        Asked { question: Question::of(query), model: model.to_string(), prompt_sha256: hex(&Sha256::digest(query.text())) }
    }

    /// A name of 64 hexadecimal digits, the same for the same question.
    pub(super) fn name(&self) -> String {
        let Question { id, purpose, first, second, shown } = &self.question;
        hex(&Sha256::digest(format!("{:?}", (id, purpose, first, second, shown, &self.model, &self.prompt_sha256))))
    }

    /// The problem that it is about.
    pub(super) fn problem(&self) -> &str {
        &self.question.id
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    asked: Asked,
    text: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reasoning: String,
    #[serde(default)]
    stop: Stop,
    #[serde(default)]
    usage: Usage,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    batch: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
}

impl Entry {
    fn reply(&self) -> Reply {
        Reply { text: self.text.clone(), reasoning: self.reasoning.clone(), stop: self.stop, usage: self.usage }
    }
}

/// A teacher that gives the answers of a file: a trace by its problem's id, a comparison by the problem's id and both candidates'
/// indices in the order in which they are shown.
pub struct Recorded {
    path: PathBuf,
    model: String,
    entries: HashMap<Question, Entry>,
}

impl Recorded {
    /// Reads the whole file. Errors name file and line.
    pub fn open(path: &Path) -> Result<Recorded> {
        let entries: Vec<Entry> = read_jsonl(path)?;
        let mut models = entries.iter().map(|entry| entry.asked.model.as_str());
        let model = models.find(|model| !model.is_empty()).unwrap_or("recorded").to_string();
        let entries = entries.into_iter().map(|entry| (entry.asked.question.clone(), entry)).collect();
        Ok(Recorded { path: path.to_path_buf(), model, entries })
    }
}

impl Teacher for Recorded {
    /// The model that the file names first, else `recorded`.
    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        let question = Question::of(query);
        self.entries.get(&question).map(Entry::reply).ok_or_else(|| {
            let what = match (question.first, question.second) {
                (Some(first), Some(second)) => format!("comparison of candidates {first} and {second}"),
                _ if question.purpose == Purpose::Rank => format!("ranking of candidates {:?}", question.shown),
                _ => "trace".to_string(),
            };
            Error::Teacher(format!("{}: no {what} for problem {}", self.path.display(), question.id))
        })
    }
}

/// The answers of a journal, and how much of the file holds them.
pub struct Entries {
    entries: Vec<Entry>,
    length: u64,
}

impl Entries {
    /// Reads a journal that may not exist yet. A last line that a crash left half-written is dropped; any other line that does not
    /// parse is an error with its number.
    pub fn recover(path: &Path) -> Result<Entries> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(path, e)),
        };
        let mut entries = Vec::new();
        let mut length = 0;
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // An answer is stored once its line end is.
            if !line.ends_with(b"\n") {
                break;
            }
            length += line.len() as u64;
            if !line.trim_ascii().is_empty() {
                entries.push(serde_json::from_slice(line).map_err(|e| Error::line(path, index + 1, e))?);
            }
        }
        Ok(Entries { entries, length })
    }

    /// Tokens that the answers took together.
    pub fn spent(&self) -> Spent {
        let mut spent = Spent::default();
        self.entries.iter().for_each(|entry| spent.add(entry.usage, if entry.batch { Rate::Batch } else { Rate::Live }));
        spent
    }
}

/// A teacher that stores each answer of another on arrival, and asks that other only what is not stored: nothing is paid for
/// twice, also when two threads ask the same at once, and also after a crash.
pub struct Journal {
    teacher: Box<dyn Teacher>,
    path: PathBuf,
    state: Mutex<State>,
    answered: Condvar,
}

struct State {
    replies: HashMap<Asked, Reply>,
    under_way: HashSet<Asked>,
    file: File,
    length: u64,
}

impl Journal {
    /// Opens or starts the journal at `path` around `teacher`.
    pub fn open(path: &Path, teacher: Box<dyn Teacher>) -> Result<Journal> {
        Journal::new(path, Entries::recover(path)?, teacher)
    }

    /// [`open`](Journal::open) with the journal already read.
    pub(super) fn new(path: &Path, Entries { entries, length }: Entries, teacher: Box<dyn Teacher>) -> Result<Journal> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let failed = |e| Error::io(path, e);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        file.set_len(length).map_err(failed)?;
        // A limit that has been raised may let the answer come to its end.
        let outgrown = |entry: &Entry| entry.max_tokens.zip(teacher.max_tokens()).is_some_and(|(then, now)| now > then);
        let mut replies = HashMap::new();
        for entry in entries {
            match outgrown(&entry) {
                true => drop(replies.remove(&entry.asked)),
                false => drop(replies.insert(entry.asked.clone(), entry.reply())),
            }
        }
        let state = State { replies, under_way: HashSet::new(), file, length };
        Ok(Journal { teacher, path: path.to_path_buf(), state: Mutex::new(state), answered: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets what can be got before anything is asked one by one: what earlier runs ordered; then, of the questions without a stored
    /// answer, an [`Estimate`] for `report`, an input error where even that exceeds the budget, and their answers, with a teacher that
    /// answers many together.
    pub fn prepare(&self, queries: &[Query<'_>], report: &dyn Fn(&str)) -> Result<()> {
        self.ask_together(&[], report)?;
        let mut open: Vec<(Asked, &Query<'_>)> = Vec::new();
        let mut seen = HashSet::new();
        for query in queries {
            let asked = Asked::of(query, self.teacher.model());
            if !self.state().replies.contains_key(&asked) && seen.insert(asked.clone()) {
                open.push((asked, query));
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        if let Some(estimate) = self.teacher.estimate(&open.iter().map(|(_, query)| *query).collect::<Vec<_>>()) {
            report(&format!("{}: {estimate}", self.teacher.model()));
            if let Some((key, what)) = estimate.refusal {
                return Err(Error::input(key, what));
            }
        }
        self.ask_together(&open, report)
    }

    fn ask_together(&self, questions: &[(Asked, &Query<'_>)], report: &dyn Fn(&str)) -> Result<()> {
        let mut store = |asked: &Asked, reply: Reply| self.store(asked, reply, Rate::Batch).map(drop);
        let mut post = Post { ledger: self.path.with_extension("batches.jsonl"), store: &mut store, report };
        self.teacher.ask_all(questions, &mut post)
    }

    fn store(&self, asked: &Asked, reply: Reply, rate: Rate) -> Result<Reply> {
        let Reply { text, reasoning, stop, usage } = reply.clone();
        let max_tokens = self.teacher.max_tokens().filter(|_| stop == Stop::Length);
        let entry = Entry { asked: asked.clone(), text, reasoning, stop, usage, batch: rate == Rate::Batch, max_tokens };
        let mut line = serde_json::to_vec(&entry).map_err(|e| Error::io(&self.path, e.into()))?;
        line.push(b'\n');
        let mut guard = self.state();
        let state = &mut *guard;
        let end = state.length;
        let file = &mut state.file;
        let mut write = || file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(&line)).and_then(|()| file.sync_data());
        if let Err(e) = write() {
            // The journal must stay readable; that the disk refuses even this changes nothing for the next recovery.
            let _ = state.file.set_len(end);
            return Err(Error::io(&self.path, e));
        }
        state.length += line.len() as u64;
        state.replies.insert(asked.clone(), reply.clone());
        Ok(reply)
    }
}

impl Teacher for Journal {
    fn model(&self) -> &str {
        self.teacher.model()
    }

    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        let asked = Asked::of(query, self.teacher.model());
        let mut state = self.state();
        loop {
            if let Some(reply) = state.replies.get(&asked) {
                return Ok(reply.clone());
            }
            if state.under_way.insert(asked.clone()) {
                break;
            }
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _done = Done { journal: self, asked: &asked };
        self.store(&asked, self.teacher.ask(query)?, Rate::Live)
    }

    fn estimate(&self, queries: &[&Query<'_>]) -> Option<Estimate> {
        self.teacher.estimate(queries)
    }
}

/// Ends a question's being under way, also where the teacher panics: whoever waits for it must not wait for ever.
struct Done<'a> {
    journal: &'a Journal,
    asked: &'a Asked,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.journal.state().under_way.remove(self.asked);
        self.journal.answered.notify_all();
    }
}
