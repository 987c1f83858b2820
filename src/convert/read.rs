//! From the forms of others to our records.

use serde_json::{Map, Value, json};

use super::{Format, Record};
use crate::record::{Conversation, Extra, Message, Preference};

/// What went wrong, and in which field.
type Read<T> = Result<T, String>;

/// OpenThoughts' marks around thoughts, and around the solution.
pub(super) const THOUGHT: (&str, &str) = ("<|begin_of_thought|>", "<|end_of_thought|>");
pub(super) const SOLUTION: (&str, &str) = ("<|begin_of_solution|>", "<|end_of_solution|>");
/// Open-R1's marks around thoughts.
pub(super) const THINK: (&str, &str) = ("<think>", "</think>");

/// Characters of the thoughts at the head of each of the model's turns, where marks told them from the solution.
pub(super) const THOUGHTS: &str = "thought_chars";
/// A preference's prompt as it came, where it was more than one turn of the user.
pub(super) const PROMPT: &str = "prompt_messages";

fn expected(field: &str, wanted: &str, found: Option<&Value>) -> String {
    let found = match found {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a bool",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a text",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    };
    format!("`{field}`: {wanted} is expected, {found} was found")
}

fn text(value: Option<&Value>, field: &str) -> Read<String> {
    value.and_then(Value::as_str).map(str::to_owned).ok_or_else(|| expected(field, "a text", value))
}

/// Turns of (speaker, words) under the two names that a form gives them.
fn turns(value: Option<&Value>, field: &str, [who, what]: [&str; 2]) -> Read<Vec<(String, String)>> {
    let list = value.and_then(Value::as_array).ok_or_else(|| expected(field, "a list of turns", value))?;
    let turn = |(at, turn): (usize, &Value)| {
        let part = |name: &str| text(turn.get(name), &format!("{field}[{at}].{name}"));
        Ok((part(who)?, part(what)?))
    };
    list.iter().enumerate().map(turn).collect()
}

fn messages(value: Option<&Value>, field: &str) -> Read<Vec<Message>> {
    let list = turns(value, field, ["role", "content"])?;
    Ok(list.into_iter().map(|(role, content)| Message { role, content }).collect())
}

/// A text is a turn of `role`, a list is turns.
fn turns_or_text(value: Option<&Value>, field: &str, role: &str) -> Read<Vec<Message>> {
    match value {
        Some(Value::String(content)) => Ok(vec![Message { role: role.into(), content: content.clone() }]),
        Some(Value::Array(_)) => messages(value, field),
        other => Err(expected(field, "a text or a list of turns", other)),
    }
}

/// What stands between two marks at the head of a text, trimmed, and what follows.
fn between<'a>(text: &'a str, marks: (&str, &str)) -> Option<(&'a str, &'a str)> {
    let (inside, rest) = text.trim_start().strip_prefix(marks.0)?.split_once(marks.1)?;
    Some((inside.trim(), rest.trim()))
}

/// Thoughts and solution, where a text marks them.
fn marked(text: &str, format: Format) -> Option<(&str, &str)> {
    match format {
        Format::OpenThoughts => {
            let (thoughts, rest) = between(text, THOUGHT)?;
            Some((thoughts, between(rest, SOLUTION).map_or(rest, |(solution, _)| solution)))
        }
        Format::OpenR1 => between(text, THINK),
        _ => None,
    }
}

/// Takes the marks out of the model's turns and notes where the thoughts end.
fn unmark(messages: &mut [Message], format: Format, extra: &mut Extra) {
    let mut lengths = Vec::new();
    for message in messages.iter_mut().filter(|message| message.role == "assistant") {
        let length = match marked(&message.content, format) {
            Some((thoughts, solution)) => {
                let (length, whole) = (thoughts.chars().count(), [thoughts, solution].join("\n\n"));
                message.content = whole.trim_start().to_owned();
                length
            }
            None => 0,
        };
        lengths.push(length);
    }
    if lengths.iter().any(|length| *length > 0) {
        extra.insert(THOUGHTS.into(), json!(lengths));
    }
}

/// Our id, where a record has one as text.
fn id(object: &mut Extra) -> String {
    match object.get("id") {
        Some(Value::String(id)) => {
            let id = id.clone();
            object.shift_remove("id");
            id
        }
        _ => String::new(),
    }
}

/// One record of a form.
pub(super) fn record(format: Format, mut object: Map<String, Value>) -> Read<Record> {
    let conversation = |messages: Vec<Message>, mut extra: Extra| {
        // Another program's `id` that is no text is its own.
        let id = id(&mut extra);
        Record::Conversation(Conversation { id, messages, extra })
    };
    match format {
        Format::Repairity | Format::Trl | Format::OpenR1 => {
            if object.contains_key("chosen") || object.contains_key("rejected") {
                return preference(object).map(Record::Preference);
            }
            let mut messages = messages(object.shift_remove("messages").as_ref(), "messages")?;
            unmark(&mut messages, format, &mut object);
            Ok(conversation(messages, object))
        }
        Format::TrlPrompt => {
            let mut messages = turns_or_text(object.shift_remove("prompt").as_ref(), "prompt", "user")?;
            messages.extend(turns_or_text(object.shift_remove("completion").as_ref(), "completion", "assistant")?);
            if let Some(label) = object.get("label").filter(|label| !label.is_boolean()) {
                return Err(expected("label", "a bool", Some(label)));
            }
            Ok(conversation(messages, object))
        }
        Format::OpenThoughts | Format::ShareGpt => {
            let mut messages = Vec::new();
            if let Some(system) = object.shift_remove("system").filter(|system| !system.is_null()) {
                messages.push(Message { role: "system".into(), content: text(Some(&system), "system")? });
            }
            let turns = turns(object.shift_remove("conversations").as_ref(), "conversations", ["from", "value"])?;
            for (at, (from, content)) in turns.into_iter().enumerate() {
                let role = match from.as_str() {
                    "human" | "user" => "user",
                    "gpt" | "assistant" => "assistant",
                    "system" => "system",
                    other => {
                        let known = "human, gpt, user, assistant or system";
                        return Err(format!("`conversations[{at}].from`: {known} is expected, `{other}` was found"));
                    }
                };
                messages.push(Message { role: role.into(), content });
            }
            unmark(&mut messages, format, &mut object);
            Ok(conversation(messages, object))
        }
    }
}

/// A preference: texts, or turns. Without a prompt, what both answers begin with is the prompt.
fn preference(mut object: Map<String, Value>) -> Read<Preference> {
    let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(|field| object.shift_remove(field));
    let label = match object.shift_remove("label") {
        None => 1.0,
        Some(value) => value.as_f64().ok_or_else(|| expected("label", "a number from 0 to 1", Some(&value)))?,
    };
    let judgments = match object.shift_remove("judgments") {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(expected("judgments", "a list", Some(&other))),
    };
    let (asked, [chosen, rejected]) = match (&prompt, &chosen, &rejected) {
        (None | Some(Value::Null), Some(Value::String(chosen)), Some(Value::String(rejected))) => {
            let shared = shared(chosen, rejected);
            let turn = Message::user(chosen[..shared].trim_end());
            (vec![turn], [chosen[shared..].trim_start().to_owned(), rejected[shared..].trim_start().to_owned()])
        }
        (None | Some(Value::Null), _, _) => {
            let (chosen, rejected) = (messages(chosen.as_ref(), "chosen")?, messages(rejected.as_ref(), "rejected")?);
            let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            (chosen[..shared].to_vec(), [last(&chosen[shared..], "chosen")?, last(&rejected[shared..], "rejected")?])
        }
        (Some(_), _, _) => {
            let answer = |value: &Option<Value>, field| last(&turns_or_text(value.as_ref(), field, "assistant")?, field);
            (turns_or_text(prompt.as_ref(), "prompt", "user")?, [answer(&chosen, "chosen")?, answer(&rejected, "rejected")?])
        }
    };
    if asked.iter().all(|turn| turn.content.is_empty()) {
        return Err("`prompt`: a prompt is expected, and the answers have no common beginning either".into());
    }
    // The reward model reads one text. What the turns were is kept beside it.
    let one = matches!(asked.as_slice(), [turn] if turn.role == "user");
    if !one {
        object.insert(PROMPT.into(), json!(asked));
    }
    let prompt = asked.iter().map(|turn| turn.content.as_str()).collect::<Vec<_>>().join("\n\n");
    let id = id(&mut object);
    Ok(Preference { id, prompt, chosen, rejected, label, judgments, extra: object })
}

/// The one turn that an answer is.
fn last(turns: &[Message], field: &str) -> Read<String> {
    match turns {
        [turn] if turn.role == "assistant" => Ok(turn.content.clone()),
        other => Err(format!("`{field}`: one turn of the assistant is expected after the prompt, {} were found", other.len())),
    }
}

/// How long two texts' common beginning is, in bytes, cut back to a white space.
fn shared(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).take_while(|((_, a), b)| a == b);
    let ends = same.filter(|((_, c), _)| c.is_whitespace()).map(|((at, c), _)| at + c.len_utf8());
    ends.last().unwrap_or(0)
}
