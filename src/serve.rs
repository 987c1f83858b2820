//! The trained model behind an HTTP endpoint that speaks OpenAI's API, so that editors and harnesses can use it.
//!
//! Two threads. The engine's, which is the caller's, owns the model: requests join and leave its batch at the boundaries of steps. The
//! other one speaks HTTP; requests go over to the engine through a channel, and each gets its text back through one of its own, whose
//! other end is dropped when the client goes away. What takes long of HTTP, parsing a request and tokenizing its prompt, is left to a
//! few more threads.

mod answer;
mod ask;
mod counters;
mod guard;
mod routes;
mod stop;
mod worker;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Adapter, Decoder};
use crate::telemetry::interrupt;
use crate::tokenizer::Tokenizer;
use counters::Counters;
pub use guard::Guard;

/// How long requests may go on once the user asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Requests that may wait for each place of the batch; more are told to come later.
const WAITING: usize = 16;

/// Requests that are parsed and tokenized at the same time, each on a thread of its own: a long one keeps a core, and memory.
const READERS: usize = 4;

/// How the endpoint serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's name in the API.
    pub name: String,
    /// Sequences decoded together.
    pub batch: usize,
    /// Tokens that a prompt and its answer may have together.
    pub context: usize,
    /// Whom it answers.
    pub guard: Guard,
}

/// What the threads share.
struct Shared {
    options: Options,
    tokenizer: Arc<Tokenizer>,
    /// Rows of the embedding: ids that a prompt may have.
    vocab: usize,
    counters: Counters,
    /// Sequences that were taken and have not ended.
    open: AtomicUsize,
    closing: AtomicBool,
}

impl Shared {
    /// Whether nothing new is taken any more.
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || interrupt::requested()
    }

    /// Sequences that may be open.
    fn limit(&self) -> usize {
        self.options.batch * (1 + WAITING)
    }
}

/// Takes an address; port 0 takes a free port. Errors: a name that is none, a port that is in use.
pub fn bind(host: &str, port: u16) -> Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| Error::input("--host", format!("an address expected, {host:?} found: {e}")))?
        .collect();
    // `localhost` is first what most clients try last.
    addresses.sort_by_key(|address| address.is_ipv6());
    TcpListener::bind(&addresses[..]).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::Machine(format!("{host}:{port}: in use; --port 0 takes a free port")),
        _ => Error::Machine(format!("{host}:{port}: {e}")),
    })
}

/// Serves until the user asks to stop: then nothing new is taken, and what runs has a few seconds to end. `ready` is called once, when
/// requests are taken. Errors: too little memory for the cache; a device that fails, of which the clients are told too.
pub fn serve<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    adapter: Option<&Adapter<D>>,
    tokenizer: Tokenizer,
    listener: TcpListener,
    options: Options,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let shared = Arc::new(Shared {
        options,
        tokenizer: Arc::new(tokenizer),
        vocab: decoder.config.vocab,
        counters: Counters::default(),
        open: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
    });
    let failed = |e: std::io::Error| Error::Machine(format!("the HTTP server cannot start: {e}"));
    let address = listener.local_addr().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let (send, receive) = std::sync::mpsc::channel();
    let worker = worker::Worker::new(device, decoder, adapter, &shared, receive)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(READERS).build().map_err(failed)?;
    let http = {
        let shared = shared.clone();
        std::thread::Builder::new().name("http".into()).spawn(move || {
            let spoken = runtime.block_on(answer_all(listener, shared, send));
            // Whoever asked is gone, or was told that the server ends: what is still read is not waited for.
            runtime.shutdown_background();
            spoken
        })
    }
    .map_err(failed)?;
    let served = ready(address).and_then(|()| worker.run());
    // What still waits for text is told by the end of its channel.
    shared.closing.store(true, Ordering::SeqCst);
    let spoken = http.join().map_err(|_| Error::Machine("the HTTP thread ended by a panic".into()))?;
    served.and(spoken.map_err(failed))
}

/// The HTTP side.
async fn answer_all(
    listener: TcpListener,
    shared: Arc<Shared>,
    send: std::sync::mpsc::Sender<worker::Job>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let closing = {
        let shared = shared.clone();
        async move {
            while !shared.is_closing() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let router = routes::router(shared.clone(), send);
    let server = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(closing).await });
    while !shared.closing.load(Ordering::SeqCst) {
        if server.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The engine is done; a client that does not read its answer is not waited for long.
    match tokio::time::timeout(Duration::from_secs(1), server).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(std::io::Error::other(e)),
        Err(_) => Ok(()),
    }
}
