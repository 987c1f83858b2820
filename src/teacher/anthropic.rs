//! Anthropic's Messages API, one request at a time or in batches.

use serde_json::{Value, json};

use super::batches::{self, Request};
use super::http::{Client, Endpoint};
use super::recorded::Asked;
use super::{Estimate, Post, Query, Rate, Reply, Settings, Sleep, Spent, Stop, Teacher};
use crate::error::{Error, Result};
use crate::record::Usage;

/// The variable that holds the key, unless the settings name another.
pub const KEY: &str = "ANTHROPIC_API_KEY";

/// The fewest tokens that the API lets a model think.
pub const LEAST_THINKING: usize = 1024;

const ENDPOINT: Endpoint = Endpoint {
    base_url: "https://api.anthropic.com",
    path: "/v1/messages",
    key_env: KEY,
    key_header: ("x-api-key", ""),
    headers: &[("anthropic-version", "2023-06-01")],
};

/// A model behind the Messages API. The key comes from `ANTHROPIC_API_KEY` or the variable that the settings name.
pub struct Anthropic {
    client: Client,
    settings: Settings,
}

impl Anthropic {
    /// Reads the key and checks the settings; asks nothing. `spent` counts against the budget.
    pub fn new(settings: &Settings, spent: Spent, sleep: Sleep) -> Result<Anthropic> {
        if let Some(tokens) = settings.thinking_tokens {
            if tokens < LEAST_THINKING || tokens >= settings.max_tokens {
                let most = settings.max_tokens;
                let what =
                    format!("at least {LEAST_THINKING} and less than teacher.max_tokens, {most}, expected, {tokens} found");
                return Err(Error::input("teacher.thinking_tokens", what));
            }
            if settings.temperature != 1.0 {
                let what = format!("1 expected, since the API thinks at no other; {} found", settings.temperature);
                return Err(Error::input("teacher.temperature", what));
            }
        }
        let client = Client::new(&ENDPOINT, settings, spent, sleep)?;
        Ok(Anthropic { client, settings: settings.clone() })
    }

    fn body(&self, query: &Query<'_>) -> Value {
        let Settings { model, max_tokens, temperature, .. } = &self.settings;
        let mut body = json!({
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "messages": [{"role": "user", "content": query.text()}],
        });
        if let Some(tokens) = self.settings.thinking_tokens {
            body["thinking"] = json!({"type": "enabled", "budget_tokens": tokens});
        }
        body
    }
}

impl Teacher for Anthropic {
    fn model(&self) -> &str {
        &self.settings.model
    }

    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        self.client.ask(&self.body(query), read)
    }

    fn estimate(&self, queries: &[&Query<'_>]) -> Option<Estimate> {
        let thinking = self.settings.thinking_tokens.unwrap_or(0) as u64;
        let requests: Vec<(usize, u64)> =
            queries.iter().map(|query| (self.body(query).to_string().len(), query.usual_tokens() + thinking)).collect();
        Some(self.client.estimate(&requests, if self.settings.batch { Rate::Batch } else { Rate::Live }))
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.settings.max_tokens)
    }

    fn ask_all(&self, questions: &[(Asked, &Query<'_>)], post: &mut Post<'_>) -> Result<()> {
        // Batches of earlier runs are paid for, so they are fetched even where no new one is wanted.
        let questions = if self.settings.batch { questions } else { &[] };
        let requests = questions.iter().map(|(asked, query)| Request::new(asked.clone(), self.body(query).to_string()));
        batches::collect(&self.client, requests.collect(), read, post)
    }
}

/// The reply in a message: its text blocks, one after the other; its thinking blocks are kept apart.
fn read(message: &Value) -> std::result::Result<Reply, String> {
    let blocks = message["content"].as_array().ok_or("a message with a list of content blocks expected")?;
    let all = |kind: &str| blocks.iter().filter(|block| block["type"] == kind).filter_map(|block| block[kind].as_str()).collect();
    let stop = match message["stop_reason"].as_str() {
        Some("end_turn" | "stop_sequence") => Stop::End,
        Some("max_tokens" | "model_context_window_exceeded") => Stop::Length,
        Some("refusal") => Stop::Refusal,
        // `tool_use` and `pause_turn` belong to requests with tools; what comes with them is no whole answer.
        _ => Stop::Other,
    };
    let count = |key: &str| message["usage"][key].as_u64().unwrap_or(0);
    let input_tokens = count("input_tokens") + count("cache_creation_input_tokens") + count("cache_read_input_tokens");
    let usage = Usage { input_tokens, output_tokens: count("output_tokens") };
    Ok(Reply { text: all("text"), reasoning: all("thinking"), stop, usage })
}
