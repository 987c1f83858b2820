//! The routes, and what every request passes before it reaches one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request as HttpRequest, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Chunks, Form, Head, whole};
use super::ask::{self, Ask, Refusal};
use super::counters::add;
use super::worker::{Job, Open};
use crate::generate::Request;
use crate::rng::key;

/// Bytes that a request's body may have: more than the text of a long context takes, and too few to keep a reader busy for long.
const BODY: usize = 4 << 20;

/// How long a request's body may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct App {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
}

/// The routes.
pub(super) fn router(shared: Arc<Shared>, jobs: Sender<Job>) -> Router {
    let app = App { shared, jobs };
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(|| async { Refusal::of(404, "invalid_request_error", Some("unknown_url"), "there is nothing at this address") })
        .method_not_allowed_fallback(|| async {
            Refusal::of(405, "invalid_request_error", Some("method_not_allowed"), "this address takes another method")
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(app.clone(), pass))
        .with_state(app)
}

/// Headers that a page may send. Clients add their own, such as `x-stainless-lang`; `*` does not stand for `authorization`.
const HEADERS: &str = "authorization, content-type, *";

/// Refuses whom the guard refuses; counts what is answered.
async fn pass(State(app): State<App>, request: HttpRequest, next: Next) -> Response {
    let guard = &app.shared.options.guard;
    let [origin, host, authorization] = [header::ORIGIN, header::HOST, header::AUTHORIZATION]
        .map(|name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?").to_string()));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let allowed = origin.clone().filter(|origin| guard.allows(origin));
    let forbidden = guard.refuses(host.as_deref(), origin.as_deref());
    let mut response = if let Some(why) = forbidden {
        Refusal::of(403, "invalid_request_error", Some("forbidden"), why).into_response()
    } else if request.method() == Method::OPTIONS && allowed.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else if request.uri().path() != "/health" && !guard.knows(authorization.as_deref()) {
        let message = "an API key is needed: Authorization: Bearer KEY";
        Refusal::of(401, "invalid_request_error", Some("invalid_api_key"), message).into_response()
    } else if length.is_some_and(|length| length > BODY as u64) {
        // Before any of it is read.
        too_long().into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = allowed.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    }
    app.shared.counters.answered(response.status().as_u16());
    response
}

fn described(shared: &Shared) -> Value {
    let created = STARTED.get_or_init(now);
    json!({"id": shared.options.name, "object": "model", "created": created, "owned_by": "repairity", "max_model_len": shared.options.context})
}

static STARTED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

async fn models(State(app): State<App>) -> Json<Value> {
    Json(json!({"object": "list", "data": [described(&app.shared)]}))
}

async fn model(State(app): State<App>, axum::extract::Path(name): axum::extract::Path<String>) -> Result<Json<Value>, Refusal> {
    match name == app.shared.options.name {
        true => Ok(Json(described(&app.shared))),
        false => {
            Err(Refusal::of(404, "invalid_request_error", Some("model_not_found"), format!("the model {name:?} does not exist")))
        }
    }
}

async fn health(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    if app.shared.is_closing() { Err(Refusal::closing()) } else { Ok(Json(json!({"status": "ok"}))) }
}

async fn metrics(State(app): State<App>) -> Response {
    let text = app.shared.counters.text(app.shared.options.batch);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn chat(State(app): State<App>, request: HttpRequest) -> Result<Response, Refusal> {
    app.answer(Form::Chat, app.read(request, ask::chat).await?).await
}

async fn completion(State(app): State<App>, request: HttpRequest) -> Result<Response, Refusal> {
    app.answer(Form::Text, app.read(request, ask::completion).await?).await
}

fn bad(status: u16, message: impl Into<String>) -> Refusal {
    Refusal::of(status, "invalid_request_error", None, message)
}

/// A request's body, which has to come within `patience`.
async fn received(request: HttpRequest, patience: Duration) -> Result<Bytes, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    if let Some(kind) = kind.filter(|kind| !kind.to_ascii_lowercase().starts_with("application/json")) {
        return Err(bad(415, format!("Content-Type: application/json expected, {kind:?} found")));
    }
    let late = |_| bad(408, format!("the body has to come within {} seconds", patience.as_secs()));
    let body = tokio::time::timeout(patience, Bytes::from_request(request, &())).await.map_err(late)?;
    body.map_err(|rejection| match rejection.status().as_u16() {
        413 => too_long(),
        status => bad(status, rejection.body_text()),
    })
}

/// The JSON object of a body.
fn object(body: &[u8]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(body).map_err(|e| bad(400, format!("the body is not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(bad(400, "the body is not a JSON object")) }
}

fn too_long() -> Refusal {
    bad(413, format!("a body of at most {BODY} bytes expected"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number that no other request of this process has, and hardly one of another.
fn fresh() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    key(nanos, "request", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl App {
    /// What is asked for. It is read on a thread of its own, since long prompts take a while to tokenize and the HTTP side has only one.
    async fn read(&self, request: HttpRequest, ask: fn(&Shared, &Value) -> Result<Ask, Refusal>) -> Result<Ask, Refusal> {
        let body = received(request, PATIENCE).await?;
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || ask(&shared, &object(&body)?)).await;
        read.unwrap_or_else(|e| Err(Refusal::failed(format!("the request could not be read: {e}"))))
    }

    /// Hands the sequences over to the engine, and waits or streams.
    async fn answer(&self, form: Form, ask: Ask) -> Result<Response, Refusal> {
        if self.shared.is_closing() {
            return Err(Refusal::closing());
        }
        let choices = ask.n * ask.prompts.len();
        let limit = self.shared.limit();
        let Some(open) = Open::take(&self.shared, choices, limit) else {
            let message = format!("{limit} sequences are being written or wait; come again later");
            return Err(Refusal::of(429, "server_error", Some("overloaded"), message));
        };
        let prompt_tokens = ask.prompts.iter().map(Vec::len).sum();
        add(&self.shared.counters.prompt_tokens, prompt_tokens);
        let (events, receive) = tokio::sync::mpsc::unbounded_channel();
        let number = fresh();
        let seed = ask.seed.unwrap_or(number);
        let each = ask.prompts.iter().zip(&ask.limits).flat_map(|pair| std::iter::repeat_n(pair, ask.n));
        for ((choice, (prompt, limit)), open) in each.enumerate().zip(open) {
            let job = Job {
                // The stream of `repairity generate --seed` for its prompt of this number.
                request: Request { prompt: prompt.clone(), key: key(seed, "generate", choice as u64) },
                sampling: ask.sampling,
                max_new_tokens: *limit,
                stop: ask.stop.clone(),
                choice,
                events: events.clone(),
                open,
            };
            self.jobs.send(job).map_err(|_| Refusal::closing())?;
        }
        drop(events);
        let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
        let head = Head {
            form,
            id: format!("{prefix}-{number:016x}"),
            created: now(),
            model: self.shared.options.name.clone(),
            prompt_tokens,
            choices,
        };
        match ask.stream {
            true => {
                let events = Sse::new(Chunks::new(head, receive, ask.include_usage)).keep_alive(KeepAlive::default());
                Ok(events.into_response())
            }
            false => Ok(Json(whole(head, receive).await?).into_response()),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_body_that_does_not_come_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let receive = |body: Body| {
            let request = HttpRequest::new(body);
            runtime.block_on(received(request, Duration::ZERO)).map_err(|refusal| refusal.status)
        };
        assert_eq!(receive(Body::from("{}")), Ok(Bytes::from("{}")));
        assert_eq!(receive(Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>())), Err(408));
    }
}
