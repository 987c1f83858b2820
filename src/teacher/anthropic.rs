//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::http::{Client, Endpoint};
use super::{Query, Reply, Settings, Sleep, Stop, Teacher};
use crate::error::Result;
use crate::record::Usage;

/// The variable that holds the key, unless the settings name another.
pub const KEY: &str = "ANTHROPIC_API_KEY";

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
    model: String,
    max_tokens: usize,
    temperature: f64,
}

impl Anthropic {
    /// Reads the key and checks the settings; asks nothing. `spent` counts against the budget.
    pub fn new(settings: &Settings, spent: Usage, sleep: Sleep) -> Result<Anthropic> {
        let client = Client::new(&ENDPOINT, settings, spent, sleep)?;
        let Settings { model, max_tokens, temperature, .. } = settings.clone();
        Ok(Anthropic { client, model, max_tokens, temperature })
    }
}

impl Teacher for Anthropic {
    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        let body = json!({
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "messages": [{"role": "user", "content": query.text()}],
        });
        self.client.ask(&body, read)
    }
}

/// The reply in a message: its text blocks, one after the other. A stop reason that this program does not know counts as cut.
fn read(message: &Value) -> std::result::Result<Reply, String> {
    let blocks = message["content"].as_array().ok_or("a message with a list of content blocks expected")?;
    let text = blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str()).collect();
    let stop = match message["stop_reason"].as_str() {
        Some("end_turn" | "stop_sequence") => Stop::End,
        Some("refusal") => Stop::Refusal,
        _ => Stop::Length,
    };
    let count = |key: &str| message["usage"][key].as_u64().unwrap_or(0);
    let input_tokens = count("input_tokens") + count("cache_creation_input_tokens") + count("cache_read_input_tokens");
    Ok(Reply { text, stop, usage: Usage { input_tokens, output_tokens: count("output_tokens") } })
}
