//! Reading a request: what is understood, what is refused. Fields that OpenAI's API does not know are left unread, as it does; those
//! that it knows and this endpoint cannot honour are refused, so that nobody takes an answer for what it is not.

use serde_json::Value;

use super::Shared;
use crate::device::Sampling;
use crate::prompt;
use crate::record::Message;

/// Why a request is not answered, as OpenAI tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub status: u16,
    pub message: String,
    pub kind: &'static str,
    pub param: Option<&'static str>,
    pub code: Option<&'static str>,
}

impl Refusal {
    /// A request that is wrong in itself.
    pub fn bad(param: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status: 400, message: message.into(), kind: "invalid_request_error", param: Some(param), code: None }
    }

    /// Any other, by its status.
    pub fn of(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), kind, param: None, code }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    /// The prompts' tokens.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens that the answer to each may have.
    pub limits: Vec<usize>,
    /// Answers to each prompt.
    pub n: usize,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub seed: Option<u64>,
    /// Whether the answer comes as events.
    pub stream: bool,
    /// Whether the last event tells the usage.
    pub include_usage: bool,
}

/// Sequences that one request may ask for.
const CHOICES: usize = 128;

/// Stop strings that a request may have; OpenAI takes four, others more.
const STOPS: usize = 16;

type Read<T> = Result<T, Refusal>;

/// A request's fields; null is as good as not there.
struct Body<'a>(&'a Value);

impl<'a> Body<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &'static str, default: f64, range: std::ops::RangeInclusive<f64>) -> Read<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let expected =
            || Refusal::bad(key, format!("{key}: a number from {} to {} expected, {value} found", range.start(), range.end()));
        value.as_f64().filter(|number| range.contains(number)).ok_or_else(expected)
    }

    fn count(&self, key: &'static str, from: u64, to: u64) -> Read<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = || Refusal::bad(key, format!("{key}: a whole number from {from} to {to} expected, {value} found"));
        value.as_u64().filter(|count| (from..=to).contains(count)).map(|count| Some(count as usize)).ok_or_else(expected)
    }

    fn flag(&self, key: &'static str) -> Read<bool> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| Refusal::bad(key, format!("{key}: true or false expected, {value} found")))
    }

    /// Refuses what cannot be honoured.
    fn refuse_others(&self) -> Read<()> {
        let set = |value: &Value| match value {
            Value::Bool(on) => *on,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Null => false,
        };
        const REFUSED: [&str; 13] = [
            "tools",
            "functions",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "presence_penalty",
            "frequency_penalty",
            "echo",
            "suffix",
            "audio",
            "prediction",
            "web_search_options",
            "min_p",
        ];
        // A text's log-probs are asked for by the number of alternatives, and 0 still asks for the token's own.
        let asked = |key: &&str| self.get(key).is_some_and(|value| set(value) || (*key == "logprobs" && value.is_number()));
        if let Some(key) = REFUSED.into_iter().find(asked) {
            return Err(Refusal::bad(key, format!("{key}: not supported by this server; leave it out")));
        }
        let format = self.get("response_format").and_then(|format| format["type"].as_str());
        if format.is_some_and(|format| format != "text") {
            return Err(Refusal::bad("response_format", "response_format: only {\"type\": \"text\"} is supported"));
        }
        if self.get("best_of").is_some_and(|best| Some(best) != self.get("n") && best.as_u64() != Some(1)) {
            return Err(Refusal::bad("best_of", "best_of: not supported by this server; leave it out, or use n"));
        }
        Ok(())
    }

    fn model(&self, shared: &Shared) -> Read<()> {
        match self.get("model") {
            None => Ok(()),
            Some(Value::String(name)) if *name == shared.options.name => Ok(()),
            Some(other) => {
                let message = format!("the model {other} does not exist; this server has {:?}", shared.options.name);
                let refusal = Refusal::of(404, "invalid_request_error", Some("model_not_found"), message);
                Err(Refusal { param: Some("model"), ..refusal })
            }
        }
    }

    fn stop(&self) -> Read<Vec<String>> {
        let bad = |found: &Value| {
            Refusal::bad("stop", format!("stop: up to {STOPS} strings expected, none of them empty; {found} found"))
        };
        let strings = match self.get("stop") {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str().map(String::from)).collect::<Option<Vec<String>>>();
                texts.ok_or_else(|| bad(&Value::Array(items.clone())))?
            }
            Some(other) => return Err(bad(other)),
        };
        match strings.len() > STOPS || strings.iter().any(String::is_empty) {
            true => Err(bad(self.get("stop").unwrap_or(&Value::Null))),
            false => Ok(strings),
        }
    }

    fn seed(&self) -> Read<Option<u64>> {
        let Some(value) = self.get("seed") else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_i64().map(|number| number as u64));
        number.map(Some).ok_or_else(|| Refusal::bad("seed", format!("seed: a whole number expected, {value} found")))
    }

    /// Everything but the prompt. `default` are the tokens of an answer where the request does not say; none is what room there is.
    fn ask(&self, shared: &Shared, param: &'static str, prompts: Vec<Vec<u32>>, default: Option<usize>) -> Read<Ask> {
        let context = shared.options.context;
        let wanted = match self.count("max_completion_tokens", 1, u64::MAX)? {
            Some(count) => Some(count),
            None => self.count("max_tokens", 1, u64::MAX)?,
        };
        // More than the server ever holds would be told to come later for ever.
        let most = CHOICES.min(shared.limit());
        let n = self.count("n", 1, most as u64)?.unwrap_or(1);
        if n * prompts.len() > most {
            return Err(Refusal::bad("n", format!("n: {n} answers to each of {} prompts are more than {most}", prompts.len())));
        }
        let mut limits = Vec::new();
        for prompt in &prompts {
            if prompt.is_empty() {
                return Err(Refusal::bad(param, format!("{param}: a prompt of at least one token expected")));
            }
            if let Some(id) = prompt.iter().find(|id| **id as usize >= shared.vocab) {
                return Err(Refusal::bad(param, format!("{param}: token {id} where the model knows {}", shared.vocab)));
            }
            let room = context.saturating_sub(prompt.len());
            if room == 0 || wanted.is_some_and(|wanted| wanted > room) {
                let answer = wanted.map_or("an answer".to_string(), |wanted| format!("an answer of {wanted}"));
                let message =
                    format!("the context is {context} tokens; the prompt has {}, and {answer} does not fit", prompt.len());
                let refusal = Refusal::of(400, "invalid_request_error", Some("context_length_exceeded"), message);
                return Err(Refusal { param: Some(param), ..refusal });
            }
            limits.push(wanted.unwrap_or(default.unwrap_or(room).min(room)));
        }
        let sampling = Sampling {
            temperature: self.number("temperature", 1.0, 0.0..=100.0)? as f32,
            top_k: self.count("top_k", 0, u64::from(u32::MAX))?.unwrap_or(0),
            top_p: self.number("top_p", 1.0, 0.0..=1.0)? as f32,
        };
        if sampling.top_p == 0.0 {
            return Err(Refusal::bad("top_p", "top_p: a number above 0 expected; temperature 0 takes the most likely token"));
        }
        let options = self.get("stream_options").map(Body);
        Ok(Ask {
            prompts,
            limits,
            n,
            sampling,
            stop: self.stop()?,
            seed: self.seed()?,
            stream: self.flag("stream")?,
            include_usage: options.map_or(Ok(false), |options| options.flag("include_usage"))?,
        })
    }
}

/// A request of `/v1/chat/completions`.
pub(super) fn chat(shared: &Shared, body: &Value) -> Read<Ask> {
    let body = Body(body);
    body.model(shared)?;
    body.refuse_others()?;
    if shared.tokenizer.chat_template().is_none() {
        return Err(Refusal::bad("messages", "this model has no chat template; /v1/completions goes on from a text"));
    }
    let turns = body.get("messages").and_then(Value::as_array).filter(|turns| !turns.is_empty());
    let turns = turns.ok_or_else(|| Refusal::bad("messages", "messages: a list of at least one message expected"))?;
    let messages = turns.iter().enumerate().map(|(index, turn)| message(index, turn)).collect::<Read<Vec<Message>>>()?;
    let tokens = prompt::prompt_tokens(&shared.tokenizer, &messages).map_err(|e| Refusal::bad("messages", e.to_string()))?;
    body.ask(shared, "messages", vec![tokens], None)
}

/// Roles that templates know; `developer` is what OpenAI calls `system` since.
fn message(index: usize, turn: &Value) -> Read<Message> {
    let bad = |what: &str| Refusal::bad("messages", format!("messages[{index}]: {what}"));
    let role = match turn["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => return Err(bad("role: system, developer, user or assistant expected")),
    };
    let content = match &turn["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| part["text"].as_str().filter(|_| part["type"] == "text").map(String::from);
            parts
                .iter()
                .map(text)
                .collect::<Option<String>>()
                .ok_or_else(|| bad("content: only parts of type \"text\" are supported"))?
        }
        _ => return Err(bad("content: a string, or a list of text parts, expected")),
    };
    Ok(Message { role: role.into(), content })
}

/// A request of `/v1/completions`.
pub(super) fn completion(shared: &Shared, body: &Value) -> Read<Ask> {
    /// What OpenAI writes where the request does not say.
    const DEFAULT: usize = 16;
    let body = Body(body);
    body.model(shared)?;
    body.refuse_others()?;
    let bad =
        || Refusal::bad("prompt", "prompt: a string, a list of strings, a list of token ids, or a list of such lists expected");
    let text = |text: &str| shared.tokenizer.encode(text, true).map_err(|e| Refusal::bad("prompt", e.to_string()));
    let ids = |items: &Vec<Value>| -> Option<Vec<u32>> {
        items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let prompts = match body.get("prompt") {
        Some(Value::String(prompt)) => vec![text(prompt)?],
        Some(Value::Array(items)) if items.is_empty() => return Err(bad()),
        Some(Value::Array(items)) => match ids(items) {
            Some(ids) => vec![ids],
            None => items
                .iter()
                .map(|item| match item {
                    Value::String(prompt) => text(prompt),
                    Value::Array(items) => ids(items).ok_or_else(bad),
                    _ => Err(bad()),
                })
                .collect::<Read<Vec<Vec<u32>>>>()?,
        },
        _ => return Err(bad()),
    };
    body.ask(shared, "prompt", prompts, Some(DEFAULT))
}
