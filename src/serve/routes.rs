//! The routes, and what every request passes before it reaches one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::answer::{Chunks, Form, Head, whole};
use super::ask::{self, Ask, Refusal};
use super::counters::add;
use super::worker::{Job, Open};
use super::{Shared, WAITING};
use crate::generate::Request;
use crate::rng::key;

/// Bytes that a request's body may have.
const BODY: usize = 16 << 20;

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
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
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

async fn chat(State(app): State<App>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response, Refusal> {
    let body = read(&headers, body)?;
    app.answer(Form::Chat, ask::chat(&app.shared, &body)?).await
}

async fn completion(
    State(app): State<App>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = read(&headers, body)?;
    app.answer(Form::Text, ask::completion(&app.shared, &body)?).await
}

/// A request's JSON object.
fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Value, Refusal> {
    let bad = |status, message: String| Refusal::of(status, "invalid_request_error", None, message);
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    if let Some(kind) = kind.filter(|kind| !kind.to_ascii_lowercase().starts_with("application/json")) {
        return Err(bad(415, format!("Content-Type: application/json expected, {kind:?} found")));
    }
    let body = body.map_err(|rejection| match rejection.status().as_u16() {
        413 => too_long(),
        status => bad(status, rejection.body_text()),
    })?;
    let value: Value = serde_json::from_slice(&body).map_err(|e| bad(400, format!("the body is not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(bad(400, "the body is not a JSON object".into())) }
}

fn too_long() -> Refusal {
    Refusal::of(413, "invalid_request_error", None, format!("a body of at most {BODY} bytes expected"))
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
    /// Hands the sequences over to the engine, and waits or streams.
    async fn answer(&self, form: Form, ask: Ask) -> Result<Response, Refusal> {
        if self.shared.is_closing() {
            return Err(Refusal::closing());
        }
        let choices = ask.n * ask.prompts.len();
        let limit = self.shared.options.batch * (1 + WAITING);
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
