//! Ranks that act together: exchanges of bytes, and the end of all when one fails.
//!
//! The ranks of a process meet in a [`Hub`]; the last of them to arrive carries what they brought to the other processes over the
//! hub's [`Link`]. A rank that fails wakes whoever waits, with its own error's words.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use crate::error::{Error, Result};

/// Bytes of a rank's stack: those of a main thread, for which stages are written.
const STACK: usize = 8 << 20;

/// What one rank brings to an exchange.
pub type Bytes = Arc<Vec<u8>>;

/// Why everything ends: which rank failed, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The rank.
    pub rank: usize,
    /// Its error.
    pub what: String,
}

impl Failure {
    fn error(&self) -> Error {
        Error::Rank { rank: self.rank, what: self.what.clone() }
    }
}

/// The other processes, as a hub sees them.
pub(super) trait Link: Send + Sync {
    /// What this process's ranks brought, for what all ranks brought, in their order. With `to_first` only the process of rank 0
    /// gets it, the others an empty list. Returns [`Error::Rank`] when another process fails meanwhile.
    fn exchange(&self, tag: &str, parts: &[Bytes], to_first: bool) -> Result<Vec<Bytes>>;

    /// Tells the other processes of a failure here. Does not wait for them.
    fn fail(&self, failure: &Failure);
}

/// Where the ranks of a process meet.
pub struct Hub {
    first: usize,
    local: usize,
    ranks: usize,
    link: OnceLock<Box<dyn Link>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the exchange under way is called, and whether it is for rank 0 only.
    tag: (&'static str, bool),
    parts: Vec<Option<Bytes>>,
    arrived: usize,
    /// Exchanges that were completed.
    round: u64,
    result: Vec<Bytes>,
    /// Ranks that have not read the result yet.
    reading: usize,
    /// Whether a failure is on its way to being known.
    failing: bool,
    failure: Option<Failure>,
    on_failure: Vec<Box<dyn FnOnce() + Send>>,
}

impl Hub {
    /// For the ranks `first..first + local` of `ranks`.
    pub fn new(first: usize, local: usize, ranks: usize) -> Arc<Hub> {
        let state = State { parts: vec![None; local], ..State::default() };
        Arc::new(Hub { first, local, ranks, link: OnceLock::new(), state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Joins the processes: to be called once, before the first exchange.
    pub(super) fn set_link(&self, link: Box<dyn Link>) {
        assert!(self.link.set(link).is_ok(), "a hub has one link");
    }

    /// The first of this process's ranks.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The failure that ended the group, if one did.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Ends the group: whoever waits, or exchanges later, gets this failure as its error. The first failure counts. `tell` passes it
    /// on to the other processes; a failure that came from there is not sent back.
    pub(super) fn fail(&self, failure: Failure, tell: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.failing, true) {
            while state.failure.is_none() {
                state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            return;
        }
        drop(state);
        // The others first: once ranks here hear of it they end, and all that the others would see is that this process left.
        if let Some(link) = self.link.get().filter(|_| tell) {
            link.fail(&failure);
        }
        let mut state = self.lock();
        state.failure = Some(failure);
        let hooks = std::mem::take(&mut state.on_failure);
        self.changed.notify_all();
        drop(state);
        hooks.into_iter().for_each(|hook| hook());
    }

    /// What is run when the group fails, on the thread that learns of it first: a collective on a GPU cannot hear of it otherwise.
    pub fn on_failure(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        match state.failure {
            None => state.on_failure.push(Box::new(hook)),
            Some(_) => {
                drop(state);
                hook();
            }
        }
    }

    /// Runs `work` for each rank of this process, on a thread of its own, and returns what they made in the order of ranks. When one
    /// fails all end, and the error is the one that began it.
    pub fn run<T: Send>(self: &Arc<Hub>, work: impl Fn(Group) -> Result<T> + Sync) -> Result<Vec<T>> {
        let one = |local: usize| {
            let group = Group::new(self, local);
            let rank = group.rank;
            match catch_unwind(AssertUnwindSafe(|| work(group))) {
                Ok(Err(error)) => {
                    Group::new(self, local).fail(&error);
                    Ok(Err(error))
                }
                Err(panic) => {
                    self.fail(Failure { rank, what: "it panicked".into() }, true);
                    Err(panic)
                }
                done => done,
            }
        };
        let one = &one;
        let results: Vec<_> = std::thread::scope(|scope| {
            let spawn = |local| {
                let builder = std::thread::Builder::new().name(format!("rank {}", self.first + local)).stack_size(STACK);
                builder.spawn_scoped(scope, move || one(local))
            };
            let threads: Vec<_> = (0..self.local).map(spawn).collect();
            threads.into_iter().map(|thread| thread.map(|thread| thread.join().unwrap_or_else(Err))).collect()
        });
        let mut made = Vec::new();
        let mut ends: Vec<Error> = Vec::new();
        for result in results {
            match result {
                Err(error) => ends.push(Error::Machine(format!("a thread for a rank could not be started: {error}"))),
                Ok(Err(panic)) => resume_unwind(panic),
                Ok(Ok(Err(error))) => ends.push(error),
                Ok(Ok(Ok(value))) => made.push(value),
            }
        }
        match ends.iter().position(|error| !matches!(error, Error::Rank { .. })) {
            Some(own) => Err(ends.swap_remove(own)),
            None => ends.pop().map_or(Ok(made), Err),
        }
    }
}

/// Other processes that bring what this one brings.
struct Echo {
    ranks: usize,
}

impl Link for Echo {
    fn exchange(&self, _: &str, parts: &[Bytes], _: bool) -> Result<Vec<Bytes>> {
        Ok(parts.iter().cycle().take(self.ranks).cloned().collect())
    }

    fn fail(&self, _: &Failure) {}
}

/// A rank's place in its group.
#[derive(Clone)]
pub struct Group {
    rank: usize,
    hub: Arc<Hub>,
}

impl Group {
    /// The `local`-th rank of a hub.
    pub fn new(hub: &Arc<Hub>, local: usize) -> Group {
        Group { rank: hub.first + local, hub: hub.clone() }
    }

    /// Rank 0 of a group whose other ranks are only pretended: each brings what this one brings.
    pub fn pretend(ranks: usize) -> Group {
        let hub = Hub::new(0, 1, ranks);
        hub.set_link(Box::new(Echo { ranks }));
        Group::new(&hub, 0)
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.hub.ranks
    }

    /// Whether this is rank 0, which writes files and talks to people.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Where this process's ranks meet.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// [`Error::Rank`] once some rank has failed.
    pub fn check(&self) -> Result<()> {
        self.hub.failure().map_or(Ok(()), |failure| Err(failure.error()))
    }

    /// Ends the group with this rank's error, unless that is another's.
    pub fn fail(&self, error: &Error) {
        if !matches!(error, Error::Rank { .. }) {
            self.hub.fail(Failure { rank: self.rank, what: error.to_string() }, true);
        }
    }

    /// What every rank brings, in the order of ranks. `tag` says what for: ranks that meet with different tags have lost each other,
    /// which is an error.
    pub fn exchange(&self, tag: &'static str, bytes: Vec<u8>) -> Result<Vec<Bytes>> {
        self.meet((tag, false), bytes)
    }

    /// The same for rank 0 only; the others get an empty list.
    pub fn gather(&self, tag: &'static str, bytes: Vec<u8>) -> Result<Vec<Bytes>> {
        self.meet((tag, true), bytes)
    }

    /// What rank 0 brings.
    pub fn broadcast(&self, tag: &'static str, bytes: Vec<u8>) -> Result<Bytes> {
        let bytes = if self.is_first() { bytes } else { Vec::new() };
        Ok(self.exchange(tag, bytes)?.swap_remove(0))
    }

    /// Whether any rank says so.
    pub fn any(&self, tag: &'static str, here: bool) -> Result<bool> {
        Ok(self.exchange(tag, vec![u8::from(here)])?.iter().any(|bytes| bytes[..] == [1]))
    }

    /// A result that ends alike on every rank when one was interrupted. Another error is that rank's own, and ends the group when it
    /// gets to [`Hub::run`].
    pub fn together<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if !matches!(error, Error::Interrupted) => Err(error),
            result => match self.any("interrupted", result.is_err())? {
                true => Err(Error::Interrupted),
                false => result,
            },
        }
    }

    /// What every rank brings as JSON, in the order of ranks.
    pub fn exchange_json<T>(&self, tag: &'static str, value: &T) -> Result<Vec<T>>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let bad = |error: serde_json::Error| Error::Machine(format!("{tag}: what ranks exchange is not JSON: {error}"));
        let all = self.exchange(tag, serde_json::to_vec(value).map_err(bad)?)?;
        all.iter().map(|bytes| serde_json::from_slice(bytes).map_err(bad)).collect()
    }

    fn meet(&self, tag: (&'static str, bool), bytes: Vec<u8>) -> Result<Vec<Bytes>> {
        if self.hub.ranks == 1 {
            self.check()?;
            return Ok(vec![Arc::new(bytes)]);
        }
        let hub = &*self.hub;
        let mut state = hub.lock();
        let wait = |state| hub.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        while state.failure.is_none() && state.reading > 0 {
            state = wait(state);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        if state.arrived == 0 {
            state.tag = tag;
        } else if state.tag != tag {
            let what = format!("it came to `{}` while others are at `{}`", tag.0, state.tag.0);
            drop(state);
            return Err(self.lost(what));
        }
        state.parts[self.rank - hub.first] = Some(Arc::new(bytes));
        state.arrived += 1;
        let round = state.round;
        if state.arrived == hub.local {
            let parts: Vec<Bytes> = state.parts.iter_mut().filter_map(Option::take).collect();
            drop(state);
            let all = match hub.link.get() {
                Some(link) => link.exchange(tag.0, &parts, tag.1)?,
                None => parts,
            };
            state = hub.lock();
            (state.result, state.reading, state.arrived) = (all, hub.local, 0);
            state.round += 1;
            hub.changed.notify_all();
        }
        while state.failure.is_none() && state.round == round {
            state = wait(state);
        }
        // A round that was completed counts, even if a rank failed since: all ranks then see the same.
        if state.round == round {
            return Err(state.failure.as_ref().expect("the wait ended").error());
        }
        let result = if tag.1 && self.rank > 0 { Vec::new() } else { state.result.clone() };
        state.reading -= 1;
        if state.reading == 0 {
            state.result = Vec::new();
            hub.changed.notify_all();
        }
        Ok(result)
    }

    /// Ends the group because ranks disagree about what comes next.
    fn lost(&self, what: String) -> Error {
        let error = Error::Machine(format!("ranks have lost each other: rank {}: {what}", self.rank));
        self.hub.fail(Failure { rank: self.rank, what: error.to_string() }, true);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_what_everybody_brought_round_after_round() {
        let rounds = Hub::new(0, 5, 5)
            .run(|group| {
                let mut seen = Vec::new();
                for round in 0..50u8 {
                    let all = group.exchange("test", vec![round, group.rank() as u8])?;
                    seen.push(all.iter().map(|bytes| bytes.to_vec()).collect::<Vec<_>>());
                }
                let first = group.gather("test", vec![9])?.len();
                Ok((seen, first, *group.broadcast("word", vec![group.rank() as u8 + 3])?.first().unwrap()))
            })
            .unwrap();
        let expected: Vec<Vec<Vec<u8>>> = (0..50).map(|round| (0..5).map(|rank| vec![round, rank]).collect()).collect();
        for (rank, (seen, first, word)) in rounds.into_iter().enumerate() {
            assert_eq!(seen, expected);
            assert_eq!((first, word), (if rank == 0 { 5 } else { 0 }, 3));
        }
    }

    #[test]
    fn pretended_ranks_bring_what_this_one_brings() {
        let group = Group::pretend(5);
        assert_eq!((group.rank(), group.ranks()), (0, 5));
        assert_eq!(group.exchange("test", vec![7]).unwrap(), vec![Arc::new(vec![7]); 5]);
        assert_eq!(Group::pretend(1).gather("test", vec![7]).unwrap(), vec![Arc::new(vec![7])]);
    }

    #[test]
    fn a_rank_that_fails_takes_the_others_with_it_and_its_own_error_is_returned() {
        let error = Hub::new(0, 4, 4)
            .run(|group| match group.rank() {
                2 => Err(Error::input("weights", "not finite")),
                _ => loop {
                    group.exchange("test", Vec::new())?;
                },
            })
            .map(|never: Vec<()>| never)
            .unwrap_err();
        assert_eq!(error.to_string(), "weights: not finite");
        let error = Error::Rank { rank: 2, what: "weights: not finite".into() };
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("rank 2: weights: not finite", 1));
    }

    #[test]
    fn a_rank_that_panics_takes_the_others_with_it() {
        let hub = Hub::new(0, 3, 3);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            hub.run(|group| {
                assert!(group.rank() != 1, "rank 1 breaks");
                group.exchange("test", Vec::new())
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(hub.failure(), Some(Failure { rank: 1, what: "it panicked".into() }));
    }

    #[test]
    fn ranks_that_lose_each_other_are_told() {
        let error = Hub::new(0, 2, 2)
            .run(|group| group.exchange(if group.rank() == 0 { "step" } else { "checkpoint" }, Vec::new()))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("ranks have lost each other: rank "), "{text}");
        assert!(text.contains("`step`") && text.contains("`checkpoint`"), "{text}");
    }

    #[test]
    fn a_hook_runs_once_when_the_group_fails_even_if_it_comes_late() {
        let hub = Hub::new(0, 1, 1);
        let count = Arc::new(Mutex::new(0));
        let hook = |count: &Arc<Mutex<i32>>| {
            let count = count.clone();
            move || *count.lock().unwrap() += 1
        };
        hub.on_failure(hook(&count));
        hub.fail(Failure { rank: 0, what: "a".into() }, true);
        hub.fail(Failure { rank: 0, what: "b".into() }, true);
        hub.on_failure(hook(&count));
        assert_eq!((*count.lock().unwrap(), hub.failure().unwrap().what.as_str()), (2, "a"));
    }
}
