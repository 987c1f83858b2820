//! Processes that stay connected: a star whose middle is process 0. It collects what the ranks of all processes bring, hands it out,
//! and passes failures on.
//!
//! A process that leaves says goodbye; a connection that closes without it is a failure of the process behind it. One that dies
//! silently, with its node or its network, shows after about 25 seconds: [`PATIENCE`] without an answer ends a connection, whether it
//! is idle (TCP's keep-alive) or in the middle of a frame.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::frame::{self, Frame};
use super::group::{Bytes, Failure, Hub, Link};
use crate::error::{Error, Result};

/// How long a peer may leave a connection without any answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Seconds of silence before the first question whether a peer lives, between questions, and how many are asked: 10 + 3 * 5 = 25.
const KEEP_ALIVE: [libc::c_int; 3] = [10, 5, 3];

/// How long a process that leaves waits for the others to hear of it.
const PARTING: Duration = Duration::from_secs(5);

/// The connections of a process: of process 0 to every other, of the others to process 0.
struct Star {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

struct Shared {
    process: usize,
    /// The first rank of each process, and how many ranks there are.
    firsts: Vec<usize>,
    peers: Vec<Peer>,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    hub: Weak<Hub>,
}

struct Peer {
    process: usize,
    stream: TcpStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
    /// A failure to tell it once that is done.
    untold: Mutex<Option<Failure>>,
}

/// What came from the peers, by their place.
struct Inbox {
    frames: Vec<Option<Frame>>,
    left: Vec<bool>,
    /// Whether the peer's reader has ended.
    ended: Vec<bool>,
    failure: Option<Failure>,
    leaving: bool,
}

/// The hub of this process, where `locals` says how many ranks each process has and `streams` are the connections with the processes
/// at their other ends.
pub(super) fn connect(process: usize, locals: &[usize], streams: Vec<(usize, TcpStream)>) -> Result<Arc<Hub>> {
    let mut firsts = vec![0];
    locals.iter().for_each(|local| firsts.push(firsts[firsts.len() - 1] + local));
    let hub = Hub::new(firsts[process], locals[process], firsts[locals.len()]);
    let prepare = |(process, stream): (usize, TcpStream)| {
        let said = |error| Error::Machine(format!("the connection to process {process} cannot be set up: {error}"));
        set_up(&stream).map_err(said)?;
        Ok(Peer { process, stream, writing: Mutex::default(), untold: Mutex::default() })
    };
    let peers = streams.into_iter().map(prepare).collect::<Result<Vec<Peer>>>()?;
    let count = peers.len();
    let inbox = Inbox {
        frames: (0..count).map(|_| None).collect(),
        left: vec![false; count],
        ended: vec![false; count],
        failure: None,
        leaving: false,
    };
    let hub_of = Arc::downgrade(&hub);
    let shared = Shared { process, firsts, peers, inbox: Mutex::new(inbox), changed: Condvar::new(), hub: hub_of };
    let mut star = Star { shared: Arc::new(shared), readers: Vec::with_capacity(count) };
    for at in 0..count {
        let shared = star.shared.clone();
        let builder = std::thread::Builder::new().name(format!("from process {}", star.shared.peers[at].process));
        match builder.spawn(move || shared.read(at)) {
            Ok(reader) => star.readers.push(reader),
            Err(error) => {
                star.shared.lock().ended[at..].fill(true);
                return Err(Error::Machine(format!("a thread for a connection could not be started: {error}")));
            }
        }
    }
    hub.set_link(Box::new(star));
    Ok(hub)
}

/// What every connection needs: small frames go out at once, and a peer that is silent for too long counts as gone.
fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(None)?;
    // A peer whose kernel answers while the process stands still holds up no writer for longer than this.
    stream.set_write_timeout(Some(PATIENCE))?;
    let [idle, interval, count] = KEEP_ALIVE;
    option(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    option(stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)?;
    option(stream, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval)?;
    option(stream, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count)?;
    option(stream, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, PATIENCE.as_millis() as libc::c_int)
}

fn option(stream: &TcpStream, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open, and the option's value is an int of that size.
    match unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Peer {
    /// Sends a frame. A connection that cannot take it is closed, and its reader tells of the end.
    fn send(&self, frame: &Frame) {
        let writing = lock(&self.writing);
        if frame::write(&self.stream, frame).is_err() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        drop(writing);
        self.tell_untold();
    }

    /// Tells of a failure: now, or when the frame that is being written is done.
    fn tell(&self, failure: &Failure) {
        lock(&self.untold).get_or_insert_with(|| failure.clone());
        self.tell_untold();
    }

    fn tell_untold(&self) {
        while lock(&self.untold).is_some() {
            let _writing = match self.writing.try_lock() {
                Ok(writing) => writing,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Whoever holds the lock looks here again after it, so nothing stays untold.
                Err(TryLockError::WouldBlock) => return,
            };
            let untold = lock(&self.untold).take();
            if untold.is_some_and(|failure| frame::write(&self.stream, &Frame::Failure(failure)).is_err()) {
                let _ = self.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    /// The process of a peer, with its ranks: `process 1 of 3 (ranks 2 to 3)`.
    fn called(&self, at: usize) -> String {
        let process = self.peers[at].process;
        let (first, last) = (self.firsts[process], self.firsts[process + 1] - 1);
        let ranks = if first == last { format!("rank {first}") } else { format!("ranks {first} to {last}") };
        format!("process {process} of {} ({ranks})", self.firsts.len() - 1)
    }

    /// A failure of a peer's process as a whole.
    fn failure(&self, at: usize, what: &str) -> Failure {
        Failure { rank: self.firsts[self.peers[at].process], what: format!("{} {what}", self.called(at)) }
    }

    /// Ends the group here and, from process 0, in all processes but that of the peer `from`.
    fn fail(&self, failure: Failure, from: Option<usize>) {
        // The others first: whoever wakes here ends, and all that the others would see is that this process left.
        if self.process == 0 {
            self.tell(&failure, from);
        }
        self.note(&failure);
        if let Some(hub) = self.hub.upgrade() {
            hub.fail(failure, false);
        }
    }

    /// Wakes the exchange under way, if there is one.
    fn note(&self, failure: &Failure) {
        self.lock().failure.get_or_insert_with(|| failure.clone());
        self.changed.notify_all();
    }

    fn tell(&self, failure: &Failure, from: Option<usize>) {
        let others = self.peers.iter().enumerate().filter(|(at, _)| Some(*at) != from);
        others.for_each(|(_, peer)| peer.tell(failure));
    }

    /// Reads what a peer sends until it leaves or its connection ends.
    fn read(&self, at: usize) {
        let peer = &self.peers[at];
        let mut from = BufReader::with_capacity(1 << 16, &peer.stream);
        loop {
            match frame::read(&mut from, self.firsts[self.firsts.len() - 1]) {
                Ok(frame @ Frame::Parts { .. }) => {
                    let before = self.lock().frames[at].replace(frame);
                    self.changed.notify_all();
                    if before.is_some() {
                        self.fail(self.failure(at, "sent more than it was asked for"), None);
                    }
                }
                Ok(Frame::Failure(failure)) => self.fail(failure, Some(at)),
                Ok(Frame::Goodbye) => {
                    self.lock().left[at] = true;
                    self.changed.notify_all();
                    // It waits for this: nothing more will come.
                    let _ = peer.stream.shutdown(Shutdown::Write);
                }
                Err(error) => {
                    let inbox = self.lock();
                    let expected = inbox.left[at] || inbox.leaving;
                    drop(inbox);
                    if !expected {
                        let cause = match error.kind() {
                            io::ErrorKind::UnexpectedEof => "its connection closed".to_string(),
                            _ => error.to_string(),
                        };
                        let what = format!(
                            "ended without saying why: killed, out of memory, or its node or the network is gone ({cause})"
                        );
                        self.fail(self.failure(at, &what), Some(at));
                    }
                    break;
                }
            }
        }
        self.lock().ended[at] = true;
        self.changed.notify_all();
    }

    /// Waits until every peer has sent a frame, and takes the frames. A frame that came counts, even if a rank failed since.
    fn frames(&self) -> Result<Vec<Frame>> {
        let mut inbox = self.lock();
        loop {
            if inbox.frames.iter().all(Option::is_some) {
                return Ok(inbox.frames.iter_mut().filter_map(Option::take).collect());
            }
            if let Some(failure) = inbox.failure.clone() {
                return Err(Error::Rank { rank: failure.rank, what: failure.what });
            }
            if let Some(at) = (0..self.peers.len()).find(|&at| inbox.left[at] && inbox.frames[at].is_none()) {
                drop(inbox);
                let failure = self.failure(at, "left while others go on");
                self.fail(failure.clone(), Some(at));
                return Err(Error::Rank { rank: failure.rank, what: failure.what });
            }
            inbox = self.changed.wait(inbox).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// The exchange as process 0 makes it.
    fn collect(&self, tag: &str, own: &[Bytes], to_first: bool) -> Result<Vec<Bytes>> {
        let mut all = own.to_vec();
        for (at, frame) in self.frames()?.into_iter().enumerate() {
            let Frame::Parts { tag: other, to_first: other_first, parts } = frame else { continue };
            let process = self.peers[at].process;
            let rank = self.firsts[process];
            let lost = |what: String| {
                let error = Error::Machine(format!("ranks have lost each other: rank {rank}: {what}"));
                self.fail(Failure { rank, what: error.to_string() }, None);
                error
            };
            if (other.as_str(), other_first) != (tag, to_first) {
                return Err(lost(format!("it came to `{other}` while others are at `{tag}`")));
            }
            let expected = self.firsts[process + 1] - rank;
            if parts.len() != expected {
                return Err(lost(format!("{expected} ranks of its process expected at `{tag}`, {} came", parts.len())));
            }
            all.extend(parts);
        }
        let parts = if to_first { Vec::new() } else { all.clone() };
        let answer = Frame::Parts { tag: tag.to_string(), to_first, parts };
        self.peers.iter().for_each(|peer| peer.send(&answer));
        Ok(all)
    }
}

impl Link for Star {
    fn exchange(&self, tag: &str, parts: &[Bytes], to_first: bool) -> Result<Vec<Bytes>> {
        let shared = &*self.shared;
        if shared.process == 0 {
            return shared.collect(tag, parts, to_first);
        }
        shared.peers[0].send(&Frame::Parts { tag: tag.to_string(), to_first, parts: parts.to_vec() });
        match shared.frames()?.pop() {
            Some(Frame::Parts { parts, .. }) => Ok(parts),
            _ => Err(Error::Machine(format!("{tag}: process 0 answered without what was asked for"))),
        }
    }

    fn fail(&self, failure: &Failure) {
        self.shared.tell(failure, None);
        self.shared.note(failure);
    }
}

impl Drop for Star {
    fn drop(&mut self) {
        let shared = &*self.shared;
        let own = std::thread::current().id();
        let mut inbox = shared.lock();
        inbox.leaving = true;
        // A reader that was telling the hub of a failure may be the last to hold it, and ends right after this: nobody waits for it.
        let here = self.readers.iter().position(|reader| reader.thread().id() == own);
        here.into_iter().for_each(|at| inbox.ended[at] = true);
        drop(inbox);
        for peer in &shared.peers {
            peer.send(&Frame::Goodbye);
            let _ = peer.stream.shutdown(Shutdown::Write);
        }
        // Until the other ends have read everything: closing a connection before that may take away what they have not read yet.
        let end = Instant::now() + PARTING;
        let mut inbox = shared.lock();
        while !inbox.ended.iter().all(|ended| *ended) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inbox = shared.changed.wait_timeout(inbox, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        drop(inbox);
        shared.peers.iter().for_each(|peer| drop(peer.stream.shutdown(Shutdown::Both)));
        for reader in self.readers.drain(..).filter(|reader| reader.thread().id() != own) {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn option_of(stream: &TcpStream, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        let (mut value, mut size) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the socket is open, and the option's value is an int of that size.
        let code = unsafe { libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
        assert_eq!(code, 0);
        value
    }

    #[test]
    fn a_connection_gives_a_silent_peer_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_up(&stream).unwrap();
        let names = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT, libc::TCP_USER_TIMEOUT];
        assert_eq!(names.map(|name| option_of(&stream, libc::IPPROTO_TCP, name)), [10, 5, 3, 25_000]);
        assert_eq!(option_of(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    }
}
