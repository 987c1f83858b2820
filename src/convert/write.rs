//! From our records to the forms of others.

use serde_json::{Map, Value, json};

use super::read::{PROMPT, SOLUTION, THINK, THOUGHT, THOUGHTS};
use super::{Format, Record};
use crate::prompt::split_answer;
use crate::record::{Conversation, IMPORTED, Message, Preference};

/// One record as an object of a form.
pub(super) fn record(record: Record, format: Format) -> Result<Value, String> {
    match (record, format) {
        (Record::Conversation(conversation), Format::Repairity) => Ok(json!(conversation)),
        (Record::Preference(preference), Format::Repairity) => Ok(json!(preference)),
        (Record::Conversation(conversation), _) => written(conversation, format),
        (Record::Preference(preference), Format::Trl) => Ok(paired(preference)),
        (Record::Preference(_), _) => Err(format!("a preference cannot be written as {format}; trl and repairity have them")),
    }
}

fn written(conversation: Conversation, format: Format) -> Result<Value, String> {
    let Conversation { id, mut messages, mut extra } = conversation;
    extra.shift_remove(IMPORTED);
    let lengths = extra.shift_remove(THOUGHTS);
    if matches!(format, Format::OpenThoughts | Format::OpenR1) {
        let answers = messages.iter_mut().filter(|message| message.role == "assistant");
        for (at, message) in answers.enumerate() {
            let length = lengths.as_ref().and_then(|lengths| lengths.get(at)?.as_u64());
            if let Some((thoughts, solution)) = parts(&message.content, length) {
                message.content = match format {
                    Format::OpenR1 => format!("{}\n{thoughts}\n{}\n\n{solution}", THINK.0, THINK.1),
                    _ => {
                        format!("{}\n\n{thoughts}\n\n{}\n\n{}\n\n{solution}\n\n{}", THOUGHT.0, THOUGHT.1, SOLUTION.0, SOLUTION.1)
                    }
                };
            }
        }
    }
    let mut object = Map::new();
    if !id.is_empty() {
        object.insert("id".into(), id.into());
    }
    match format {
        Format::TrlPrompt => {
            let answer = messages.pop().filter(|message| message.role == "assistant");
            let answer = answer.ok_or("a turn of the assistant is expected at the end")?;
            object.insert("prompt".into(), json!(messages));
            object.insert("completion".into(), json!([answer]));
        }
        Format::OpenThoughts | Format::ShareGpt => {
            if format == Format::OpenThoughts && messages.first().is_some_and(|message| message.role == "system") {
                object.insert("system".into(), messages.remove(0).content.into());
            }
            let turns = messages.into_iter().map(|Message { role, content }| {
                let from = match (format, role.as_str()) {
                    (Format::ShareGpt, "user") => "human".to_owned(),
                    (Format::ShareGpt, "assistant") => "gpt".to_owned(),
                    _ => role,
                };
                json!({"from": from, "value": content})
            });
            object.insert("conversations".into(), turns.collect());
        }
        _ => drop(object.insert("messages".into(), json!(messages))),
    }
    object.extend(extra);
    Ok(object.into())
}

/// Thoughts and solution: where the record notes them, else our form's, the code after the reasoning.
fn parts(content: &str, length: Option<u64>) -> Option<(String, String)> {
    if let Some(length) = length {
        let (at, _) = content.char_indices().nth(length as usize).filter(|_| length > 0)?;
        return Some((content[..at].to_owned(), content[at..].trim_start().to_owned()));
    }
    // Where no block is Python's or unmarked, any other closed one is the code.
    let (reasoning, answer) = split_answer(content, "python");
    if reasoning.is_empty() || answer.is_empty() {
        return None;
    }
    let solution = content.trim_start().strip_prefix(reasoning.as_str())?.trim();
    Some((reasoning, solution.to_owned()))
}

/// TRL's conversational preference, the prompt beside the answers. Ours with a label of 0.5 or a judgment keep it as a field that TRL
/// does not read.
fn paired(preference: Preference) -> Value {
    let Preference { id, prompt, chosen, rejected, label, judgments, mut extra } = preference;
    extra.shift_remove(IMPORTED);
    let prompt = extra.shift_remove(PROMPT).unwrap_or_else(|| json!([Message::user(prompt)]));
    let mut object = Map::new();
    if !id.is_empty() {
        object.insert("id".into(), id.into());
    }
    object.insert("prompt".into(), prompt);
    object.insert("chosen".into(), json!([Message::assistant(chosen)]));
    object.insert("rejected".into(), json!([Message::assistant(rejected)]));
    if label != 1.0 {
        object.insert("label".into(), label.into());
    }
    if !judgments.is_empty() {
        object.insert("judgments".into(), judgments.into());
    }
    object.extend(extra);
    object.into()
}
