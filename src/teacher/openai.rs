//! Any endpoint that speaks OpenAI's chat completions: OpenAI's own, vLLM, llama.cpp's server, and others.

use serde_json::{Value, json};

use super::http::{Client, Endpoint};
use super::{Estimate, Query, Rate, Reply, Settings, Sleep, Spent, Stop, Teacher};
use crate::error::Result;
use crate::record::Usage;

/// The variable that holds the key, unless the settings name another.
pub const KEY: &str = "OPENAI_API_KEY";

const ENDPOINT: Endpoint = Endpoint {
    base_url: "https://api.openai.com",
    path: "/v1/chat/completions",
    key_env: KEY,
    key_header: ("authorization", "Bearer "),
    headers: &[],
};

/// A model behind a chat completions endpoint. The key comes from `OPENAI_API_KEY` or the variable that the settings name; with a
/// `base_url` of one's own it may be absent.
pub struct OpenAi {
    client: Client,
    model: String,
    max_tokens: usize,
    temperature: f64,
    /// OpenAI has renamed the limit; servers of others know the old name, not all of them the new one.
    limit_key: &'static str,
}

impl OpenAi {
    /// Reads the key and checks the settings; asks nothing. `spent` counts against the budget.
    pub fn new(settings: &Settings, spent: Spent, sleep: Sleep) -> Result<OpenAi> {
        let client = Client::new(&ENDPOINT, settings, spent, sleep)?;
        let limit_key = if settings.base_url.is_some() { "max_tokens" } else { "max_completion_tokens" };
        let Settings { model, max_tokens, temperature, .. } = settings.clone();
        Ok(OpenAi { client, model, max_tokens, temperature, limit_key })
    }

    fn body(&self, query: &Query<'_>) -> Value {
        let mut body = json!({
            "model": self.model,
            "temperature": self.temperature,
            "messages": [{"role": "user", "content": query.text()}],
        });
        body[self.limit_key] = self.max_tokens.into();
        body
    }
}

impl Teacher for OpenAi {
    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        self.client.ask(&self.body(query), read)
    }

    fn estimate(&self, queries: &[&Query<'_>]) -> Option<Estimate> {
        let requests: Vec<(usize, u64)> =
            queries.iter().map(|query| (self.body(query).to_string().len(), query.usual_tokens())).collect();
        Some(self.client.estimate(&requests, Rate::Live))
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.max_tokens)
    }
}

/// The reply in a completion: its content. The reasoning, which servers call `reasoning_content` or `reasoning`, is kept apart from
/// it, also where a server leaves it at the content's head between `<think>` and `</think>`. A completion with nothing but reasoning
/// has an empty text.
fn read(completion: &Value) -> std::result::Result<Reply, String> {
    let choice = &completion["choices"][0];
    let message = choice["message"].as_object().ok_or("a completion with choices[0].message expected")?;
    let field = |key: &str| message.get(key).map(text).filter(|text| !text.trim().is_empty());
    let refusal = field("refusal");
    let stop = match choice["finish_reason"].as_str() {
        _ if refusal.is_some() => Stop::Refusal,
        Some("stop" | "eos_token" | "stop_sequence") => Stop::End,
        Some("content_filter") => Stop::Refusal,
        Some("length" | "max_tokens" | "model_length") => Stop::Length,
        _ => Stop::Other,
    };
    let content = field("content").or(refusal).unwrap_or_default();
    let (inside, text) = match content.trim_start().strip_prefix("<think>") {
        Some(rest) => rest.split_once("</think>").unwrap_or((rest, "")),
        None => ("", content.as_str()),
    };
    let reasoning = field("reasoning_content").or(field("reasoning")).unwrap_or_else(|| inside.trim().to_string());
    let text = if inside.is_empty() { text.to_string() } else { text.trim_start().to_string() };
    let count = |key: &str| completion["usage"][key].as_u64().unwrap_or(0);
    let usage = Usage { input_tokens: count("prompt_tokens"), output_tokens: count("completion_tokens") };
    Ok(Reply { text, reasoning, stop, usage })
}

/// A content is a string, or a list of parts with a text each.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
