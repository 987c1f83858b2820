//! Processes find each other: process 0 listens, the others come, and each says what it is before anything else happens. Whatever does
//! not fit ends the joining for all, with the same error everywhere; a stranger who says something else is not listened to.
//!
//! Nothing that is sent is secret, and nobody is asked to prove who they are: this is for the network inside a cluster. Process 0
//! listens at the address of the master only, and only until all have come.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::group::Hub;
use super::star;
use super::world::World;
use crate::error::{Error, Result};

/// Every message of the joining begins with this.
const MAGIC: [u8; 8] = *b"repairit";

/// The version of what is sent, while joining and after it.
const PROTOCOL: u32 = 1;

/// Magic and length.
const HEAD: usize = 12;

/// Bytes of a message at most: a program that is not ours may send anything.
const LONGEST: usize = 1 << 20;

/// How long a stranger may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Strangers that are listened to at a time, besides the processes that are expected.
const STRANGERS: usize = 256;

/// What a process says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Hello {
    protocol: u32,
    version: String,
    process: usize,
    processes: usize,
    local: usize,
    job: String,
}

/// What process 0 answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// All have come. Ranks of each process.
    Welcome { locals: Vec<usize> },
    /// The joining has ended. `at` is empty where the error is not of somebody's input.
    Refused { at: String, what: String },
}

/// Joins the processes of a world, of which this one has `local` ranks, and returns the hub where those meet. `job` has to be the same
/// in all of them: a word that stands for the recipe. Waits for up to `timeout` for those that start later.
pub fn join(world: &World, local: usize, job: &str, timeout: Duration) -> Result<Arc<Hub>> {
    assert!(local > 0, "a process has at least one rank");
    if world.processes == 1 {
        return Ok(Hub::new(0, local, local));
    }
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        process: world.process,
        processes: world.processes,
        local,
        job: job.into(),
    };
    let (locals, streams) = if world.process == 0 { host(world, hello, timeout)? } else { visit(world, &hello, timeout)? };
    star::connect(world.process, &locals, streams)
}

/// Ranks of each process, and the connections with the processes at their other ends.
type Joined = (Vec<usize>, Vec<(usize, TcpStream)>);

fn place(world: &World) -> String {
    format!("{}:{}", world.master, world.port)
}

/// The addresses of the master.
fn addresses(world: &World) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = (world.master.as_str(), world.port).to_socket_addrs()?.collect();
    if found.is_empty() { Err(io::Error::new(ErrorKind::NotFound, "the name has no address")) } else { Ok(found) }
}

fn send(mut to: &TcpStream, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    to.write_all(&bytes)
}

/// How long the message will be that begins with these bytes, as far as they tell; none where it is not one of ours.
fn expected(bytes: &[u8]) -> Option<usize> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return None;
    }
    let Some(length) = bytes.get(MAGIC.len()..HEAD) else { return Some(HEAD) };
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    (1..=LONGEST).contains(&length).then_some(HEAD + length)
}

/// One that came and has not said yet what it is.
struct Stranger {
    stream: TcpStream,
    bytes: Vec<u8>,
    until: Instant,
}

/// What became of a stranger.
enum Said {
    Nothing,
    Nonsense,
    Hello(Hello),
}

impl Stranger {
    /// Reads what there is.
    fn listen(&mut self) -> Said {
        let mut buffer = [0; 4096];
        loop {
            let Some(want) = expected(&self.bytes) else { return Said::Nonsense };
            if self.bytes.len() == want && want > HEAD {
                return serde_json::from_slice(&self.bytes[HEAD..]).map_or(Said::Nonsense, Said::Hello);
            }
            let room = (want - self.bytes.len()).min(buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Said::Nonsense,
                Ok(count) => self.bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Said::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Said::Nonsense,
            }
        }
    }
}

/// Waits until one of these can be read, or accepted from.
fn wait(sockets: &mut [libc::pollfd], time: Duration) -> Result<()> {
    let milliseconds = time.as_millis().saturating_add(1).min(i32::MAX as u128) as libc::c_int;
    // SAFETY: the descriptors are those of sockets that are open, and there are as many as is said.
    let count = unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, milliseconds) };
    let error = io::Error::last_os_error();
    if count >= 0 || error.kind() == ErrorKind::Interrupted {
        return Ok(());
    }
    Err(Error::Machine(format!("waiting for the other processes: {error}")))
}

fn poll(socket: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Process 0: waits for the others.
fn host(world: &World, own: Hello, timeout: Duration) -> Result<Joined> {
    let listener = listen(world)?;
    let mut came: Vec<Option<(TcpStream, usize)>> = (0..world.processes).map(|_| None).collect();
    let mut refused = None;
    let outcome = gather(world, &own, &listener, timeout, &mut came, &mut refused);
    drop(listener);
    let answer = match &outcome {
        Ok(()) => {
            let others = came[1..].iter().flatten().map(|(_, local)| *local);
            Answer::Welcome { locals: [own.local].into_iter().chain(others).collect() }
        }
        Err(Error::Input { at, what }) => Answer::Refused { at: at.clone(), what: what.clone() },
        Err(error) => Answer::Refused { at: String::new(), what: error.to_string() },
    };
    for stream in came.iter().flatten().map(|(stream, _)| stream).chain(&refused) {
        // One that is gone is found out by its connection, once the others have been told.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let _ = send(stream, &answer);
    }
    outcome?;
    match answer {
        Answer::Refused { .. } => Err(Error::Machine("the processes did not join".into())),
        Answer::Welcome { locals } => {
            let streams = came.into_iter().enumerate().filter_map(|(process, came)| came.map(|(stream, _)| (process, stream)));
            Ok((locals, streams.collect()))
        }
    }
}

fn listen(world: &World) -> Result<TcpListener> {
    let place = place(world);
    let addresses = addresses(world).map_err(|error| {
        Error::input(format!("MASTER_ADDR {}", world.master), format!("expected the host of process 0, found none: {error}"))
    })?;
    let mut last = None;
    for address in addresses {
        match TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let hint = match last.as_ref().map(io::Error::kind) {
        Some(ErrorKind::AddrInUse) => "; another program has this port: set MASTER_PORT to a free one",
        Some(ErrorKind::AddrNotAvailable) => "; this address is not of this machine: process 0 has to run on the master",
        _ => "",
    };
    let error = last.map_or(String::new(), |error| error.to_string());
    Err(Error::Machine(format!("process 0 cannot listen at {place}: {error}{hint}")))
}

/// Fills `came` with the connections of the processes and their ranks. One that does not fit is put into `refused`.
fn gather(
    world: &World,
    own: &Hello,
    listener: &TcpListener,
    timeout: Duration,
    came: &mut [Option<(TcpStream, usize)>],
    refused: &mut Option<TcpStream>,
) -> Result<()> {
    let end = Instant::now() + timeout;
    let mut strangers: Vec<Stranger> = Vec::new();
    while came[1..].iter().any(Option::is_none) {
        let now = Instant::now();
        if now >= end {
            return Err(missing(world, came, timeout));
        }
        strangers.retain(|stranger| stranger.until > now);
        let next = strangers.iter().map(|stranger| stranger.until).fold(end, Instant::min);
        let mut sockets = vec![poll(listener)];
        sockets.extend(strangers.iter().map(|stranger| poll(&stranger.stream)));
        let processes: Vec<usize> = (1..came.len()).filter(|&process| came[process].is_some()).collect();
        sockets.extend(came.iter().flatten().map(|(stream, _)| poll(stream)));
        wait(&mut sockets, next - now)?;
        let ready: Vec<bool> = sockets.iter().map(|socket| socket.revents != 0).collect();
        // Those that have come say nothing until they are answered: what can be read is the end of their connection.
        if let Some(at) = ready[1 + strangers.len()..].iter().position(|ready| *ready) {
            let (process, processes) = (processes[at], world.processes);
            came[process] = None;
            return Err(Error::Machine(format!("process {process} of {processes} ended while others were joining")));
        }
        let mut still = Vec::new();
        for (mut stranger, ready) in strangers.into_iter().zip(&ready[1..]) {
            match if *ready { stranger.listen() } else { Said::Nothing } {
                Said::Nothing => still.push(stranger),
                Said::Nonsense => {}
                Said::Hello(hello) => {
                    if let Err(error) = fits(&hello, own, came) {
                        *refused = Some(stranger.stream);
                        return Err(error);
                    }
                    came[hello.process] = Some((stranger.stream, hello.local));
                }
            }
        }
        strangers = still;
        if ready[0] {
            accept(listener, &mut strangers, STRANGERS + world.processes);
        }
    }
    Ok(())
}

/// Lets in whoever waits at the door; those that have said nothing for the longest make room where there are too many.
fn accept(listener: &TcpListener, strangers: &mut Vec<Stranger>, most: usize) {
    loop {
        match listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                strangers.push(Stranger { stream, bytes: Vec::new(), until: Instant::now() + PATIENCE });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => {
                // Out of descriptors, say: what cannot be let in stays at the door, where it must not be asked for without pause.
                std::thread::sleep(Duration::from_millis(50));
                break;
            }
        }
    }
    strangers.drain(..strangers.len().saturating_sub(most));
}

/// Whether one that says this belongs to the world of process 0.
fn fits(hello: &Hello, own: &Hello, came: &[Option<(TcpStream, usize)>]) -> Result<()> {
    let refuse = |what: String| Err(Error::input(format!("process {} of {}", hello.process, hello.processes), what));
    if (hello.protocol, &hello.version) != (own.protocol, &own.version) {
        return refuse(format!(
            "it runs repairity {} (protocol {}), process 0 runs {} (protocol {}): all need the same program",
            hello.version, hello.protocol, own.version, own.protocol
        ));
    }
    if hello.processes != own.processes {
        let what = "the number of processes (WORLD_SIZE or SLURM_NTASKS) has to be the same everywhere";
        return refuse(format!("it expects {} processes, process 0 expects {}: {what}", hello.processes, own.processes));
    }
    if hello.process == 0 || hello.process >= own.processes || hello.local == 0 {
        return refuse(format!("a number from 1 to {} and at least one rank expected", own.processes - 1));
    }
    if hello.job != own.job {
        return refuse(format!(
            "it has another recipe than process 0 ({}, not {}): start all with the same recipe and the same --set, each job with a \
             MASTER_PORT of its own",
            hello.job, own.job
        ));
    }
    if came[hello.process].is_some() {
        return refuse("two processes came with this number: RANK (or SLURM_PROCID) has to differ".into());
    }
    Ok(())
}

fn missing(world: &World, came: &[Option<(TcpStream, usize)>], timeout: Duration) -> Error {
    let missing: Vec<String> = (1..came.len()).filter(|&at| came[at].is_none()).map(|at| at.to_string()).collect();
    let (who, were) = if missing.len() == 1 { ("process", "it was") } else { ("processes", "they were") };
    let name = &world.master;
    let alone = match addresses(world) {
        Ok(found) if name != "localhost" && name.parse::<std::net::IpAddr>().is_err() => {
            found.iter().all(|address| address.ip().is_loopback()).then(|| found[0].ip())
        }
        _ => None,
    };
    let alone = alone.map_or(String::new(), |ip| {
        format!(
            "; on this machine {name} is {ip}, which other machines cannot reach: set MASTER_ADDR to an address of its network"
        )
    });
    Error::Machine(format!(
        "{who} {} of {} did not come within {} s to {}: check that {were} started, with the same MASTER_ADDR and MASTER_PORT, and \
         that no firewall is in between{alone}",
        missing.join(", "),
        world.processes,
        timeout.as_secs_f64(),
        place(world)
    ))
}

/// Every other process: goes to process 0, again and again until it is there, and waits for its answer.
fn visit(world: &World, hello: &Hello, timeout: Duration) -> Result<Joined> {
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_millis(20);
    loop {
        let why = match attempt(world, hello, timeout, end) {
            Ok((stream, Answer::Welcome { locals })) if locals.len() == world.processes => {
                return Ok((locals, vec![(0, stream)]));
            }
            Ok((_, Answer::Welcome { .. })) => "its answer does not fit".to_string(),
            Ok((_, Answer::Refused { at, what })) if at.is_empty() => return Err(Error::Machine(what)),
            Ok((_, Answer::Refused { at, what })) => return Err(Error::Input { at, what }),
            Err(error) => error.to_string(),
        };
        if Instant::now() + pause >= end {
            return Err(Error::Machine(format!(
                "process {} of {} did not find process 0 within {} s at {} ({why}): check that it was started, with the same \
                 MASTER_ADDR and MASTER_PORT, and that no firewall is in between",
                world.process,
                world.processes,
                timeout.as_secs_f64(),
                place(world)
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn attempt(world: &World, hello: &Hello, timeout: Duration, end: Instant) -> io::Result<(TcpStream, Answer)> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for address in addresses(world)? {
        let left = end.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), Duration::from_secs(5));
        match TcpStream::connect_timeout(&address, left) {
            // The port that the system chose for this end may be the very one where nobody listens yet.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => last = ErrorKind::ConnectionRefused.into(),
            Ok(stream) => {
                send(&stream, hello)?;
                // Process 0 may have started just now, and waits as long for the others.
                stream.set_read_timeout(Some(timeout + PATIENCE))?;
                let answer = answer(&stream)?;
                return Ok((stream, answer));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn answer(mut from: &TcpStream) -> io::Result<Answer> {
    let other = || io::Error::new(ErrorKind::InvalidData, "another program answers there");
    let mut bytes = Vec::new();
    while let Some(want) = expected(&bytes) {
        let have = bytes.len();
        if have == want && want > HEAD {
            return serde_json::from_slice(&bytes[HEAD..]).map_err(|_| other());
        }
        bytes.resize(want, 0);
        from.read_exact(&mut bytes[have..])?;
    }
    Err(other())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(processes: usize, master: &str) -> World {
        World { processes, master: master.into(), ..World::alone() }
    }

    fn hello(processes: usize) -> Hello {
        Hello { protocol: PROTOCOL, version: "1.0.0".into(), process: 1, processes, local: 1, job: "a".into() }
    }

    /// Two ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn a_process_that_ends_while_others_join_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (own, other) = pair();
        drop(other);
        let mut came = [None, Some((own, 1)), None];
        let end = gather(&world(3, "localhost"), &hello(3), &listener, Duration::from_secs(600), &mut came, &mut None);
        assert_eq!(end.unwrap_err().to_string(), "process 1 of 3 ended while others were joining");
    }

    #[test]
    fn those_that_are_missing_are_named_with_what_to_check() {
        let (own, _other) = pair();
        let came = [None, Some((own, 1)), None, None];
        let text = missing(&world(4, "127.0.0.1"), &came, Duration::from_secs(60)).to_string();
        assert_eq!(
            text,
            "processes 2, 3 of 4 did not come within 60 s to 127.0.0.1:29500: check that they were started, with the same \
             MASTER_ADDR and MASTER_PORT, and that no firewall is in between"
        );
    }

    #[test]
    fn another_program_is_told_what_runs_here() {
        let text = |hello: Hello| fits(&hello, &self::hello(2), &[None, None]).map_err(|error| error.to_string());
        assert_eq!(text(hello(2)), Ok(()));
        let older =
            "process 1 of 2: it runs repairity 0.9.0 (protocol 1), process 0 runs 1.0.0 (protocol 1): all need the same program";
        assert_eq!(text(Hello { version: "0.9.0".into(), ..hello(2) }), Err(older.into()));
        // What a later protocol says of itself may have other fields.
        let later: Hello = serde_json::from_str(r#"{"protocol":2,"version":"2.0.0","ranks":[1]}"#).unwrap();
        assert!(text(later).unwrap_err().contains("it runs repairity 2.0.0 (protocol 2)"));
        for process in [0, 2] {
            let text = text(Hello { process, ..hello(2) }).unwrap_err();
            assert!(text.ends_with("a number from 1 to 1 and at least one rank expected"), "{text}");
        }
    }

    #[test]
    fn messages_of_others_are_known_by_their_first_bytes() {
        assert_eq!((expected(b""), expected(b"repair"), expected(b"repairit\x05\0\0\0")), (Some(12), Some(12), Some(17)));
        for bytes in [&b"GET /"[..], b"repairs", b"repairit\0\0\0\0", b"repairit\xff\xff\xff\xff"] {
            assert_eq!(expected(bytes), None);
        }
    }
}
