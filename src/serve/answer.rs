//! Answers in OpenAI's form: whole, as events, and errors.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::Stream;

use super::ask::Refusal;
use super::worker::Event;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        if matches!(self.status, 429 | 503) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl Refusal {
    fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// Something broke here.
    pub fn failed(message: impl Into<String>) -> Refusal {
        Refusal::of(500, "server_error", None, message)
    }

    /// What a request is told that comes, or still runs, when the server ends.
    pub fn closing() -> Refusal {
        Refusal::of(503, "server_error", None, "the server is shutting down")
    }
}

/// Which of the two forms an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// What all the parts of an answer say alike.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub form: Form,
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    pub model: String,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Choices that there will be.
    pub choices: usize,
}

impl Head {
    fn object(&self, chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.form, chunk) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            (Form::Text, _) => "text_completion",
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    fn usage(&self, written: usize) -> Value {
        let (read, total) = (self.prompt_tokens, self.prompt_tokens + written);
        json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": total})
    }

    /// A choice's part of an event.
    fn part(&self, index: usize, text: Option<&str>, first: bool, reason: Option<&str>) -> Value {
        match self.form {
            Form::Text => json!({"index": index, "text": text.unwrap_or_default(), "logprobs": null, "finish_reason": reason}),
            Form::Chat => {
                let delta = match (first, text) {
                    (true, _) => json!({"role": "assistant", "content": ""}),
                    (false, Some(text)) => json!({"content": text}),
                    (false, None) => json!({}),
                };
                json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason})
            }
        }
    }
}

/// Waits for all of an answer.
pub(super) async fn whole(head: Head, mut events: UnboundedReceiver<Event>) -> Result<Value, Refusal> {
    let mut texts = vec![String::new(); head.choices];
    let mut reasons = vec![""; head.choices];
    let (mut ended, mut written) = (0, 0);
    while ended < head.choices {
        match events.recv().await {
            Some(Event::Text(choice, text)) => texts[choice] += &text,
            Some(Event::End { choice, reason, tokens }) => {
                reasons[choice] = reason;
                (ended, written) = (ended + 1, written + tokens);
            }
            Some(Event::Failed(what)) => return Err(Refusal::failed(what)),
            None => return Err(Refusal::closing()),
        }
    }
    let choice = |(index, (text, reason)): (usize, (String, &str))| match head.form {
        Form::Text => json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason}),
        Form::Chat => {
            let message = json!({"role": "assistant", "content": text, "refusal": null});
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason})
        }
    };
    let choices = texts.into_iter().zip(reasons).enumerate().map(choice).collect();
    let mut answer = head.object(false, choices);
    answer["usage"] = head.usage(written);
    Ok(answer)
}

/// An answer as events, as its text comes.
pub(super) struct Chunks {
    head: Head,
    events: UnboundedReceiver<Event>,
    include_usage: bool,
    ready: VecDeque<String>,
    open: usize,
    written: usize,
    done: bool,
}

impl Chunks {
    pub fn new(head: Head, events: UnboundedReceiver<Event>, include_usage: bool) -> Chunks {
        let open = head.choices;
        let mut chunks = Chunks { head, events, include_usage, ready: VecDeque::new(), open, written: 0, done: false };
        if chunks.head.form == Form::Chat {
            (0..open).for_each(|choice| chunks.push(chunks.head.part(choice, None, true, None)));
        }
        chunks
    }

    fn push(&mut self, choice: Value) {
        let mut chunk = self.head.object(true, vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.ready.push_back(chunk.to_string());
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Text(choice, text)) => self.push(self.head.part(choice, Some(&text), false, None)),
            Some(Event::End { choice, reason, tokens }) => {
                self.push(self.head.part(choice, None, false, Some(reason)));
                (self.open, self.written) = (self.open - 1, self.written + tokens);
                if self.open > 0 {
                    return;
                }
                if self.include_usage {
                    let mut chunk = self.head.object(true, Vec::new());
                    chunk["usage"] = self.head.usage(self.written);
                    self.ready.push_back(chunk.to_string());
                }
                self.ready.push_back("[DONE]".into());
                self.done = true;
            }
            Some(Event::Failed(what)) => self.fail(Refusal::failed(what)),
            None => self.fail(Refusal::closing()),
        }
    }

    /// The status is told already: what went wrong comes as the last event.
    fn fail(&mut self, refusal: Refusal) {
        self.ready.push_back(refusal.body().to_string());
        self.done = true;
    }
}

impl Stream for Chunks {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(sse::Event::default().data(text))));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.events.poll_recv(context) {
                Poll::Ready(event) => self.take(event),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
