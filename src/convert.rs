//! Training data in the forms that others publish, read as our own records and written back.
//!
//! | form | a record |
//! |---|---|
//! | `repairity` | `messages`, or a preference with `prompt`, `chosen`, `rejected` as texts, and provenance |
//! | `trl` | TRL's conversational forms: `messages`; `chosen` and `rejected` as messages, `prompt` with them or repeated inside both |
//! | `trl-prompt` | TRL's `prompt` and `completion`, texts or messages; with `label`, a bool, its unpaired preferences |
//! | `openthoughts` | `system`, `conversations` of `from` (`user`, `assistant`) and `value`, thoughts and solution between its marks |
//! | `sharegpt` | `conversations` of `from` (`human`, `gpt`, `system`) and `value` |
//! | `open-r1` | `messages`, thoughts in `<think>` |
//!
//! Ours have the thoughts first and the solution after a blank line, without marks ([`crate::prompt::answer_text`]). Fields that a form
//! does not know go along with a record. (TRL's forms: `huggingface/trl:docs/source/dataset_formats.md`.)

mod read;
mod write;

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::problem::objects;
use crate::record::{Conversation, Preference};

/// A form of training data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our own.
    Repairity,
    /// TRL's with messages.
    Trl,
    /// TRL's with a prompt and a completion.
    TrlPrompt,
    /// OpenThoughts'.
    OpenThoughts,
    /// ShareGPT's.
    ShareGpt,
    /// Open-R1's.
    OpenR1,
}

/// Every form, with its name.
pub const FORMATS: [(&str, Format); 6] = [
    ("repairity", Format::Repairity),
    ("trl", Format::Trl),
    ("trl-prompt", Format::TrlPrompt),
    ("openthoughts", Format::OpenThoughts),
    ("sharegpt", Format::ShareGpt),
    ("open-r1", Format::OpenR1),
];

impl Format {
    /// A form by its name; the error offers the nearest.
    pub fn named(name: &str) -> Result<Format> {
        let names = FORMATS.map(|(name, _)| name);
        FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format).ok_or_else(|| {
            let nearest = names.iter().min_by_key(|known| strsim::levenshtein(known, name)).copied().unwrap_or_default();
            Error::input("format", format!("`{name}` is not one of {}; did you mean `{nearest}`?", names.join(", ")))
        })
    }

    /// The form of a record, by its fields; none where no form has such fields.
    pub fn of(record: &Map<String, Value>) -> Option<Format> {
        let list = |field: &str| record.get(field).and_then(Value::as_array);
        if let Some(turns) = list("conversations") {
            let speaker = |name: &str| turns.iter().any(|turn| turn["from"] == name);
            return match (speaker("human") || speaker("gpt"), speaker("user") || speaker("assistant")) {
                (true, _) => Some(Format::ShareGpt),
                (false, true) => Some(Format::OpenThoughts),
                (false, false) => None,
            };
        }
        if let Some(turns) = list("messages") {
            let thinks = |turn: &Value| turn["content"].as_str().is_some_and(|text| text.trim_start().starts_with(read::THINK.0));
            let own = record.contains_key("program");
            return Some(match turns.iter().any(thinks) {
                true => Format::OpenR1,
                false if own => Format::Repairity,
                false => Format::Trl,
            });
        }
        if record.contains_key("chosen") && record.contains_key("rejected") {
            let texts = ["prompt", "chosen", "rejected"].iter().all(|field| record.get(*field).is_some_and(Value::is_string));
            return Some(if texts && record.contains_key("judgments") { Format::Repairity } else { Format::Trl });
        }
        (record.contains_key("prompt") && record.contains_key("completion")).then_some(Format::TrlPrompt)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(_, format)| format == self).map(|(name, _)| *name);
        f.write_str(name.expect("FORMATS has every form"))
    }
}

/// A record of training data.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// For SFT.
    Conversation(Conversation),
    /// For the reward model.
    Preference(Preference),
}

/// Reads a file: JSONL or one JSON array, compressed with gzip or not, or Parquet. Without `format`, the first record tells it. With
/// each record comes its line, from 1. Errors name file, line and field.
pub fn load(path: &Path, format: Option<Format>) -> Result<(Format, Vec<(usize, Record)>)> {
    let objects = objects(path)?;
    let Some((line, first)) = objects.first() else {
        return Err(Error::input(path.display(), "no record in it"));
    };
    let format = match format {
        Some(format) => format,
        None => Format::of(first).ok_or_else(|| Error::line(path, *line, unknown(first)))?,
    };
    let record = |(line, object): (usize, Map<String, Value>)| {
        Ok((line, read::record(format, object).map_err(|what| Error::line(path, line, format!("{what} (form: {format})")))?))
    };
    Ok((format, objects.into_iter().map(record).collect::<Result<_>>()?))
}

/// A record as a line of another form; what it cannot say is the error.
pub fn save(record: Record, format: Format) -> std::result::Result<Value, String> {
    write::record(record, format)
}

/// What is wrong with a record of no known form: what it has, and what the nearest form lacks.
fn unknown(record: &Map<String, Value>) -> String {
    const FIELDS: [(&str, &[&str]); 5] = [
        ("trl", &["messages"]),
        ("trl", &["prompt", "chosen", "rejected"]),
        ("trl-prompt", &["prompt", "completion"]),
        ("openthoughts", &["system", "conversations"]),
        ("sharegpt", &["conversations"]),
    ];
    let found: Vec<&str> = record.keys().map(String::as_str).collect();
    let distance = |wanted: &str| found.iter().map(|name| strsim::levenshtein(wanted, name)).min().unwrap_or(wanted.len());
    let score = |fields: &[&str]| fields.iter().map(|field| distance(field)).sum::<usize>() * 100 / fields.len();
    let (name, fields) = FIELDS.iter().min_by_key(|(_, fields)| score(fields)).expect("there are forms");
    let quote = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("no known form has the fields {}; the nearest, {name}, has {}", quote(&found), quote(fields))
}
