//! A server on this machine that answers as it is told, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What the server does with one connection.
#[derive(Clone)]
pub enum Answer {
    /// A whole response: status, headers, body.
    Whole(u16, Vec<(&'static str, String)>, String),
    /// A response that promises more bytes than it sends.
    Cut(String),
    /// Nothing: the connection closes after the request.
    Close,
    /// Nothing, until the client gives up, which it may do before its request is whole.
    Silence,
}

pub fn whole(status: u16, body: Value) -> Answer {
    Answer::Whole(status, Vec::new(), body.to_string())
}

#[derive(Clone)]
pub struct Request {
    /// In lower case.
    pub head: String,
    pub body: Value,
}

impl Request {
    /// `get /v1/x`.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap().trim_end_matches(" http/1.1")
    }
}

type Kept = Arc<Mutex<Vec<Request>>>;

/// Serves one connection at a time.
pub struct Server {
    pub url: String,
    requests: Kept,
    thread: Option<JoinHandle<()>>,
    /// Told to end, where it would serve for ever.
    end: Option<Arc<AtomicBool>>,
}

impl Server {
    /// Serves the answers in order, one a connection.
    pub fn start(answers: Vec<Answer>) -> Server {
        let mut answers = answers.into_iter();
        Server::new(None, move |listener, kept| {
            for answer in answers.by_ref() {
                serve(listener.accept().unwrap().0, kept, |_| answer);
            }
        })
    }

    /// Serves what `answer` says to each request, as long as it lives.
    pub fn telling(mut answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Server {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        Server::new(Some(end), move |listener, kept| {
            loop {
                let stream = listener.accept().unwrap().0;
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                serve(stream, kept, &mut answer);
            }
        })
    }

    fn new(end: Option<Arc<AtomicBool>>, work: impl FnOnce(&TcpListener, &Kept) + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Kept::default();
        let kept = Arc::clone(&requests);
        let thread = Some(std::thread::spawn(move || work(&listener, &kept)));
        Server { url, requests, thread, end }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests, once every answer was fetched.
    pub fn finish(mut self) -> Vec<Request> {
        self.join();
        self.requests()
    }

    fn join(&mut self) {
        if let Some(end) = &self.end {
            end.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(self.url.strip_prefix("http://").unwrap()));
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.end.is_some() && !std::thread::panicking() {
            self.join();
        }
    }
}

fn serve(mut stream: TcpStream, kept: &Kept, answer: impl FnOnce(&Request) -> Answer) {
    let Some(request) = read_request(&mut stream) else { return };
    let answer = answer(&request);
    kept.lock().unwrap().push(request);
    // A client that was killed, or has given up, is no concern of the server's.
    let _ = match answer {
        Answer::Whole(status, headers, body) => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes())
        }
        Answer::Cut(body) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 100);
            stream.write_all((head + &body).as_bytes())
        }
        Answer::Close => Ok(()),
        Answer::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
    };
}

/// None where the client closed before its request was whole.
fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(Request { head, body: serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default() });
            }
        }
        let count = stream.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

pub fn message(text: &str, stop: &str) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": stop,
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        "usage": {"input_tokens": 100, "output_tokens": 50}})
}

pub fn completion(message: Value, finish: &str) -> Value {
    json!({"choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
}
