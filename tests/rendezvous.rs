//! Processes that join over TCP, exchange and end together: real processes on the loopback, each this program again, started as one
//! test that does what its environment says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use repairity::comm::{self, Group, World};
use repairity::error::{Error, Result};

/// After this a process is taken for hanging: a bound for the test's run, not what it judges.
const WATCH_DOG: Duration = Duration::from_secs(180);

// ---- what a process does ----

/// Bytes that are more than sockets buffer, different for each rank.
fn large(rank: usize) -> Vec<u8> {
    (0..3_000_000 + rank).map(|i| (i * 31 + rank * 7) as u8).collect()
}

fn values(group: &Group) -> Result<()> {
    let (rank, ranks) = (group.rank(), group.ranks());
    for round in 0..30u8 {
        let all = group.exchange("small", vec![round, rank as u8])?;
        assert_eq!(
            all.iter().map(|bytes| bytes.to_vec()).collect::<Vec<_>>(),
            Vec::from_iter((0..ranks as u8).map(|r| [round, r]))
        );
    }
    let all = group.exchange("large", large(rank))?;
    assert!(all.iter().enumerate().all(|(rank, bytes)| **bytes == large(rank)) && all.len() == ranks);
    let first = group.gather("first", large(rank))?;
    assert_eq!(first.len(), if rank == 0 { ranks } else { 0 });
    assert!(first.iter().enumerate().all(|(rank, bytes)| **bytes == large(rank)));
    assert_eq!(*group.broadcast("word", vec![rank as u8 + 40])?, [40]);
    assert!(group.exchange("nothing", Vec::new())?.iter().all(|bytes| bytes.is_empty()));
    assert!(group.any("any", rank + 1 == ranks)? && !group.any("none", false)?);
    assert_eq!(group.exchange_json("json", &rank)?, Vec::from_iter(0..ranks));
    Ok(())
}

fn behave(group: &Group, behaviour: &str) -> Result<()> {
    let (name, at) = behaviour.split_once(':').unwrap_or((behaviour, "0"));
    let chosen = group.rank() == at.parse::<usize>().unwrap();
    let endless = || -> Result<()> {
        loop {
            group.exchange("step", vec![0; 100_000])?;
        }
    };
    group.exchange("begin", Vec::new())?;
    match (name, chosen) {
        ("values", _) => values(group),
        ("waits" | "fails" | "panics", false) => endless(),
        ("waits", true) => {
            println!("said: here");
            loop {
                std::thread::park();
            }
        }
        ("fails", true) => Err(Error::input("weights", "not finite")),
        ("panics", true) => panic!("as it is to"),
        ("leaves", true) => Ok(()),
        ("leaves", false) => group.exchange("step", Vec::new()).map(|_| ()),
        ("strays", _) => group.exchange(if chosen { "checkpoint" } else { "step" }, Vec::new()).map(|_| ()),
        _ => panic!("no behaviour {behaviour}"),
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// What the other tests start as processes.
#[test]
fn process() {
    if std::env::var_os("TEST_BEHAVIOUR").is_none() {
        println!("skipped: the other tests start it");
        return;
    }
    let set = |name: &str| std::env::var(name).unwrap();
    let before = threads();
    let work = || -> Result<()> {
        let world = World::from_environment()?;
        println!("said: joins");
        let timeout = Duration::from_secs(set("TEST_TIMEOUT").parse().unwrap());
        let hub = comm::join(&world, set("TEST_RANKS").parse().unwrap(), &set("TEST_JOB"), timeout)?;
        hub.run(|group| behave(&group, &set("TEST_BEHAVIOUR"))).map(|_| ())
    };
    let code = match work() {
        Ok(()) => 0,
        Err(error) => {
            println!("said: {error}");
            error.exit_code()
        }
    };
    // The kernel lists a thread for a moment after it was joined.
    while threads() > before {
        std::thread::yield_now();
    }
    std::process::exit(code.into());
}

// ---- starting them ----

/// A started process.
struct Started {
    child: Child,
    said: Receiver<String>,
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Started {
    /// Waits until it says this.
    fn wait_for(&self, word: &str) {
        let end = Instant::now() + WATCH_DOG;
        while self.said.recv_timeout(end.saturating_duration_since(Instant::now())).expect(word) != word {}
    }

    /// Its exit code, and the last that it said.
    fn end(mut self) -> Ended {
        let end = Instant::now() + WATCH_DOG;
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            if Instant::now() > end {
                self.child.kill().unwrap();
                panic!("a process did not end; it said {:?}", self.said.iter().collect::<Vec<_>>());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ended { code, said: self.said.iter().last().unwrap_or_default() }
    }
}

/// Processes of one job.
#[derive(Clone)]
struct Job {
    port: u16,
    processes: usize,
    ranks: Vec<usize>,
    behaviour: &'static str,
    /// Seconds.
    timeout: u64,
}

impl Job {
    fn new(ranks: &[usize], behaviour: &'static str) -> Job {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Job { port, processes: ranks.len(), ranks: ranks.to_vec(), behaviour, timeout: WATCH_DOG.as_secs() }
    }

    fn start(&self, process: usize) -> Started {
        self.start_as(process, "recipe")
    }

    fn start_as(&self, process: usize, job: &str) -> Started {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process", "--nocapture"]);
        for name in ["LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"] {
            command.env_remove(name);
        }
        command.env("RANK", process.to_string()).env("WORLD_SIZE", self.processes.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", self.port.to_string());
        command.env("TEST_RANKS", self.ranks[process].to_string()).env("TEST_BEHAVIOUR", self.behaviour);
        command.env("TEST_TIMEOUT", self.timeout.to_string()).env("TEST_JOB", job);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (tell, said) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The harness begins a line that what the test prints goes on with.
            let said = |line: String| line.split_once("said: ").map(|(_, what)| what.to_string());
            output.lines().map_while(|line| line.ok()).filter_map(said).for_each(|what| drop(tell.send(what)));
        });
        Started { child, said }
    }

    fn all(&self) -> Vec<Started> {
        (0..self.processes).map(|process| self.start(process)).collect()
    }
}

fn end(started: Vec<Started>) -> Vec<Ended> {
    started.into_iter().map(Started::end).collect()
}

fn ended(code: i32, said: &str) -> Ended {
    Ended { code: Some(code), said: said.into() }
}

// ---- the tests ----

#[test]
fn all_ranks_get_what_all_brought() {
    for ranks in [&[1, 1][..], &[2, 1, 2], &[1, 2, 1, 1]] {
        let said = Vec::from_iter(ranks.iter().map(|_| ended(0, "joins")));
        assert_eq!(end(Job::new(ranks, "values").all()), said, "{ranks:?}");
    }
}

#[test]
fn process_0_may_start_last() {
    let job = Job::new(&[1, 1, 1], "values");
    let others = [2, 1].map(|process| job.start(process));
    others.iter().for_each(|other| other.wait_for("joins"));
    let first = job.start(0);
    assert_eq!(others.into_iter().chain([first]).map(|one| one.end().code).collect::<Vec<_>>(), [Some(0); 3]);
}

#[test]
fn strangers_do_not_disturb() {
    let job = Job::new(&[1, 1], "values");
    let first = job.start(0);
    let end = Instant::now() + WATCH_DOG;
    let connect = || loop {
        match TcpStream::connect(("127.0.0.1", job.port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let silent = connect();
    let half = (&connect()).write(b"repair").map(|_| ());
    let mut talkative = connect();
    talkative.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut large = connect();
    large.write_all(b"repairit\xff\xff\xff\xff").unwrap();
    let mut senseless = connect();
    senseless.write_all(b"repairit\x02\0\0\0{{").unwrap();
    assert_eq!([job.start(1).end().code, first.end().code], [Some(0); 2]);
    drop((silent, half, talkative, large, senseless));
}

/// What the processes say when one of them, of rank `rank`, ends by itself.
fn killed(ranks: &[usize], process: usize, behaviour: &'static str) -> Vec<Ended> {
    let mut processes = Job::new(ranks, behaviour).all();
    processes[process].wait_for("here");
    processes[process].child.kill().unwrap();
    processes.remove(process).end();
    end(processes)
}

#[test]
fn a_process_that_is_killed_ends_the_others() {
    for (process, behaviour, name, rank) in
        [(1, "waits:2", "process 1 of 3 (ranks 1 to 2)", 1), (0, "waits:0", "process 0 of 3 (rank 0)", 0)]
    {
        for Ended { code, said } in killed(&[1, 2, 1], process, behaviour) {
            assert_eq!(code, Some(1), "{said}");
            let expected =
                format!("rank {rank}: {name} ended without saying why: killed, out of memory, or its node or the network");
            assert!(said.starts_with(&expected), "{said}");
        }
    }
}

#[test]
fn a_rank_that_fails_ends_all_with_its_error() {
    let other = || ended(1, "rank 3: weights: not finite");
    let own = || ended(2, "weights: not finite");
    assert_eq!(end(Job::new(&[1, 2, 2], "fails:3").all()), [other(), other(), own()]);
    let other = || ended(1, "rank 0: weights: not finite");
    assert_eq!(end(Job::new(&[2, 1, 1], "fails:0").all()), [own(), other(), other()]);
}

#[test]
fn a_rank_that_panics_ends_all() {
    let other = || ended(1, "rank 2: it panicked");
    assert_eq!(end(Job::new(&[1, 1, 2], "panics:2").all()), [other(), other(), ended(101, "joins")]);
}

#[test]
fn a_process_that_leaves_early_is_named() {
    let left = |rank: usize| ended(1, &format!("rank {rank}: process {rank} of 3 (rank {rank}) left while others go on"));
    assert_eq!(end(Job::new(&[1, 1, 1], "leaves:1").all()), [left(1), ended(0, "joins"), left(1)]);
    assert_eq!(end(Job::new(&[1, 1, 1], "leaves:0").all()), [ended(0, "joins"), left(0), left(0)]);
}

#[test]
fn ranks_that_lose_each_other_are_told() {
    let what = "ranks have lost each other: rank 1: it came to `checkpoint` while others are at `step`";
    let other = || ended(1, &format!("rank 1: {what}"));
    assert_eq!(end(Job::new(&[1, 1, 1], "strays:1").all()), [ended(1, what), other(), other()]);
}

#[test]
fn a_process_that_never_comes_is_named() {
    let job = Job { timeout: 1, ..Job::new(&[1, 1], "values") };
    let Ended { code, said } = job.start(0).end();
    let expected = format!("process 1 of 2 did not come within 1 s to 127.0.0.1:{}: check that it was started, with", job.port);
    assert!(code == Some(1) && said.starts_with(&expected), "{said}");
    let Ended { code, said } = job.start(1).end();
    let expected = format!("process 1 of 2 did not find process 0 within 1 s at 127.0.0.1:{} (Connection refused", job.port);
    assert!(code == Some(1) && said.starts_with(&expected), "{said}");
}

#[test]
fn those_that_came_are_told_who_did_not() {
    let job = Job { timeout: 4, ..Job::new(&[1, 1, 1], "values") };
    let [first, second] = [job.start(0), job.start(1)].map(Started::end);
    assert_eq!((first.code, second.code), (Some(1), Some(1)));
    // On a machine that is busy enough the second comes too late as well.
    if !first.said.starts_with("processes 1, 2 of 3 did not come") {
        assert!(first.said.starts_with("process 2 of 3 did not come within 4 s to 127.0.0.1:"), "{}", first.said);
        assert_eq!(second.said, first.said);
    }
}

#[test]
fn another_recipe_is_refused() {
    let job = Job::new(&[1, 1], "values");
    let both = end(vec![job.start_as(0, "1111"), job.start_as(1, "2222")]);
    let expected = "process 1 of 2: it has another recipe than process 0 (2222, not 1111): start all with the same recipe and the \
                    same --set, each job with a MASTER_PORT of its own";
    assert_eq!(both, [ended(2, expected), ended(2, expected)]);
}

#[test]
fn another_number_of_processes_is_refused() {
    let job = Job::new(&[1, 1, 1], "values");
    let both = end(vec![Job { processes: 2, ..job.clone() }.start(0), job.start(1)]);
    let expected = "process 1 of 3: it expects 3 processes, process 0 expects 2: the number of processes (WORLD_SIZE or \
                    SLURM_NTASKS) has to be the same everywhere";
    assert_eq!(both, [ended(2, expected), ended(2, expected)]);
}

#[test]
fn a_number_that_comes_twice_is_refused() {
    let job = Job::new(&[1, 1, 1], "values");
    let expected = "process 1 of 3: two processes came with this number: RANK (or SLURM_PROCID) has to differ";
    let all = end(vec![job.start(0), job.start(1), job.start(1)]);
    assert_eq!(all, [ended(2, expected), ended(2, expected), ended(2, expected)]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let job = Job::new(&[1, 1], "values");
    let taken = TcpListener::bind(("127.0.0.1", job.port)).unwrap();
    let Ended { code, said } = job.start(0).end();
    let expected = format!("process 0 cannot listen at 127.0.0.1:{}: Address already in use", job.port);
    assert!(code == Some(1) && said.starts_with(&expected) && said.contains("set MASTER_PORT to a free one"), "{said}");
    drop(taken);
}

#[test]
fn what_the_environment_lacks_ends_with_exit_code_2() {
    let job = Job { processes: 1, ..Job::new(&[1, 1], "values") };
    assert_eq!(job.start(1).end(), ended(2, "RANK: expected a number below WORLD_SIZE, which is 1; found `1`"));
}
