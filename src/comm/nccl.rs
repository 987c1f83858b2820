//! Collectives of GPUs by NCCL, over NVLink and the network. A rank has one communicator and a stream of its own for it: a collective
//! begins when everything launched before it is done, and the GPU goes on computing beside it until [`Comm::join`].
//!
//! NCCL sums in an order of its own, which depends on the ranks, their connections, the version of NCCL and the length of a tensor,
//! and not on the run; it is not that of [`Threads`](super::Threads), so the last bits differ from there. NCCL's own variables
//! (NCCL_DEBUG, NCCL_SOCKET_IFNAME, NCCL_ALGO, ...) mean what its documentation says.
//!
//! No call blocks. When the group fails, every rank's communicator is aborted, so that collectives that wait for the rank that failed
//! end. What they leave in their outputs is then of no use: a rank that waited for its GPU asks [`Group::check`] before it believes
//! what it computed.

mod library;

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Comm, Group, shard};
use crate::device::cuda::driver::Driver;
use crate::device::cuda::{Act, Buf, Side};
use crate::device::{Cuda, Device};
use crate::error::{Error, Result};
pub use library::version;
use library::{Config, FLOAT32, Handle, IN_PROGRESS, Library, REMOTE_ERROR, SUCCESS, SUM, SYSTEM_ERROR, UINT8, UniqueId};

/// How long an end in peace may take: the other ranks have to come to it too.
const PARTING: Duration = Duration::from_secs(2);

/// How long an abort may take before it is left alone.
const ABORTING: Duration = Duration::from_secs(10);

/// How long the group may take to say why another rank has gone, which NCCL notices by itself.
const HEARSAY: Duration = Duration::from_secs(2);

/// The communicator of a rank with a GPU. To be dropped by the thread of its rank: the ranks of a process end together.
pub struct Nccl {
    group: Group,
    side: Side,
    communicator: Arc<Communicator>,
    /// Keeps the GPU's memory until the collectives are done.
    _driver: Arc<dyn Driver>,
}

impl Nccl {
    /// Connects the GPUs of all ranks. Errors: this device is no GPU, there is no NCCL, or it cannot connect them.
    pub fn open<A: Act>(device: &Cuda<A>, group: Group) -> Result<Nccl> {
        let driver = device.driver().clone();
        let missing = || Error::Machine(format!("collectives by NCCL need a GPU, and this rank computes on {}", device.name()));
        let side = driver.gpu().ok_or_else(missing)?.side()?;
        let library = Library::get()?;
        side.bind()?;
        let id = share_id(library, &group)?;
        let (ranks, rank) = (count(group.ranks())?, count(group.rank())?);
        let mut handle: Handle = std::ptr::null_mut();
        let mut config = Config::non_blocking();
        // SAFETY: the pointers are to values of these types that live until the call returns, and this thread's current context is
        // that of the rank's GPU.
        let code = unsafe { (library.comm_init_rank_config)(&raw mut handle, ranks, id, rank, &raw mut config) };
        if handle.is_null() {
            return Err(library.error("ncclCommInitRankConfig", code));
        }
        let state = Mutex::new(State { handle: Some(Open(handle)), aborting: false, aborter: None });
        let communicator = Arc::new(Communicator { symbols: library, state, aborted: Condvar::new() });
        let aborts = Arc::downgrade(&communicator);
        group.hub().on_failure(move || {
            if let Some(communicator) = aborts.upgrade() {
                communicator.abort();
            }
        });
        let nccl = Nccl { group, side, communicator, _driver: driver };
        nccl.settle("ncclCommInitRankConfig", Some(code))?;
        Ok(nccl)
    }

    /// Puts collectives into the stream as one group, after everything that was launched before.
    fn submit(&self, what: &str, calls: impl FnOnce(&Library, Handle, *mut c_void) -> c_int) -> Result<()> {
        self.group.check()?;
        self.side.bind()?;
        self.side.follow()?;
        let code = self.communicator.call(|library, handle| {
            // SAFETY: a group of calls is opened and closed by one thread; `calls` makes none but NCCL's in between.
            unsafe {
                match (library.group_start)() {
                    SUCCESS => {}
                    code => return code,
                }
                let inside = calls(library, handle, self.side.raw());
                let end = (library.group_end)();
                if failed(inside) { inside } else { end }
            }
        });
        self.settle(what, code)
    }

    /// Waits until a call that returned `code` has been carried out by the host's side of NCCL: only then is the stream what it was
    /// told to be. None is a communicator that was aborted.
    fn settle(&self, what: &str, code: Option<c_int>) -> Result<()> {
        let mut code = code.map(|code| if failed(code) { code } else { IN_PROGRESS });
        let mut pause = Duration::from_micros(20);
        loop {
            match code {
                Some(SUCCESS) => return Ok(()),
                Some(IN_PROGRESS) => code = self.communicator.call(state),
                Some(code) => return Err(self.failure(what, code)),
                None => {
                    self.group.check()?;
                    return Err(Error::Device { what: what.into(), cause: "the communicator was aborted".into() });
                }
            }
            if code == Some(IN_PROGRESS) {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(1));
            }
        }
    }

    /// The error of a call. Another rank's end shows in NCCL too, and the group knows why it ended.
    fn failure(&self, what: &str, code: c_int) -> Error {
        let error = self.communicator.symbols.error(what, code);
        self.communicator.abort();
        let end = Instant::now() + HEARSAY;
        while [SYSTEM_ERROR, REMOTE_ERROR].contains(&code) && Instant::now() < end {
            if let Err(cause) = self.group.check() {
                return cause;
            }
            thread::sleep(Duration::from_millis(10));
        }
        error
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = self.side.bind();
        if thread::panicking() || self.group.check().is_err() {
            self.communicator.abort();
        } else {
            self.communicator.end();
        }
        self.communicator.wait_for_abort();
    }
}

impl<A: Act> Comm<Cuda<A>> for Nccl {
    fn group(&self) -> &Group {
        &self.group
    }

    fn reduce_scatter(&self, _: &Cuda<A>, tensors: &mut [(&mut Buf<f32>, &Buf<f32>)]) -> Result<()> {
        let (ranks, rank) = (self.group.ranks(), self.group.rank());
        for (out, inp) in tensors.iter() {
            fits("reduce_scatter: out", Cuda::<A>::len(out), shard(Cuda::<A>::len(inp), ranks, rank).len())?;
        }
        self.submit("ncclReduceScatter", |library, handle, stream| {
            each(tensors, |(out, inp)| {
                let (from, to, len) = (inp.address(), out.address() as *mut c_void, Cuda::<A>::len(inp));
                each(&mut parts(len, ranks), |part| match part {
                    // SAFETY: `inp` has `ranks` times as many elements as `out`, and both stay until `join`, as the caller promises.
                    Part::Equal(each) => unsafe {
                        (library.reduce_scatter)(from as *const c_void, to, *each, FLOAT32, SUM, handle, stream)
                    },
                    // SAFETY: the range lies inside `inp`, and `out` has as many elements where this rank is the root.
                    Part::Own(root, range) => unsafe {
                        let from = (from + (range.start * size_of::<f32>()) as u64) as *const c_void;
                        (library.reduce)(from, to, range.len(), FLOAT32, SUM, *root, handle, stream)
                    },
                })
            })
        })
    }

    fn all_gather(&self, _: &Cuda<A>, tensors: &mut [(&mut Buf<A>, &Buf<A>)]) -> Result<()> {
        let (ranks, rank) = (self.group.ranks(), self.group.rank());
        for (out, inp) in tensors.iter() {
            fits("all_gather: inp", Cuda::<A>::len(inp), shard(Cuda::<A>::len(out), ranks, rank).len())?;
        }
        let size = size_of::<A>();
        self.submit("ncclAllGather", |library, handle, stream| {
            each(tensors, |(out, inp)| {
                let (from, to, len) = (inp.address() as *const c_void, out.address(), Cuda::<A>::len(out));
                each(&mut parts(len, ranks), |part| match part {
                    // SAFETY: `out` has `ranks` times as many elements as `inp`, and both stay until `join`, as the caller promises.
                    Part::Equal(each) => unsafe {
                        (library.all_gather)(from, to as *mut c_void, *each * size, UINT8, handle, stream)
                    },
                    // SAFETY: the range lies inside `out`, and `inp` has as many elements where this rank is the root.
                    Part::Own(root, range) => unsafe {
                        let to = (to + (range.start * size) as u64) as *mut c_void;
                        (library.broadcast)(from, to, range.len() * size, UINT8, *root, handle, stream)
                    },
                })
            })
        })
    }

    fn join(&self, _: &Cuda<A>) -> Result<()> {
        self.side.rejoin()
    }
}

/// The id that rank 0 makes for all.
fn share_id(library: &Library, group: &Group) -> Result<UniqueId> {
    let mut id = UniqueId { bytes: [0; 128] };
    if group.is_first() {
        // SAFETY: the call only writes the id.
        match unsafe { (library.get_unique_id)(&raw mut id) } {
            SUCCESS => {}
            code => return Err(library.error("ncclGetUniqueId", code)),
        }
    }
    let told = group.broadcast("nccl", id.bytes.map(|byte| byte as u8).to_vec())?;
    let told: [u8; 128] = told[..].try_into().map_err(|_| Error::Machine("rank 0 sent no id for NCCL".into()))?;
    id.bytes = told.map(|byte| byte as _);
    Ok(id)
}

fn count(value: usize) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::Machine(format!("{value} ranks are more than NCCL counts")))
}

fn fits(what: &str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::Extent { what: what.into(), want, got }) }
}

fn failed(code: c_int) -> bool {
    ![SUCCESS, IN_PROGRESS].contains(&code)
}

/// What a collective of one tensor is made of.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// As many elements for each rank: one call of NCCL's.
    Equal(usize),
    /// What the rank owns where ranks own different numbers of elements, which NCCL's collectives do not know: a call for each rank
    /// that owns any.
    Own(c_int, Range<usize>),
}

/// The calls for a tensor of `len` elements.
fn parts(len: usize, ranks: usize) -> Vec<Part> {
    if len == 0 {
        return Vec::new();
    }
    if len.is_multiple_of(ranks) {
        return vec![Part::Equal(len / ranks)];
    }
    let own = |rank| Part::Own(rank as c_int, shard(len, ranks, rank));
    let some = |part: &Part| !matches!(part, Part::Own(_, range) if range.is_empty());
    (0..ranks).map(own).filter(some).collect()
}

/// Makes calls until one fails, and returns its code.
fn each<T>(of: &mut [T], mut call: impl FnMut(&mut T) -> c_int) -> c_int {
    of.iter_mut().map(&mut call).find(|code| failed(*code)).unwrap_or(SUCCESS)
}

/// A handle that is open.
struct Open(Handle);

impl Open {
    fn handle(&self) -> Handle {
        self.0
    }
}

// SAFETY: NCCL lets any thread use a communicator, one at a time, which the mutex around it sees to.
unsafe impl Send for Open {}

struct Communicator {
    symbols: &'static Library,
    state: Mutex<State>,
    aborted: Condvar,
}

struct State {
    handle: Option<Open>,
    /// Whether an abort is under way, and its thread.
    aborting: bool,
    aborter: Option<JoinHandle<()>>,
}

/// How far NCCL is with what it was told.
fn state(library: &Library, handle: Handle) -> c_int {
    let mut state = SUCCESS;
    // SAFETY: the handle is open, and the call only writes the state.
    match unsafe { (library.comm_get_async_error)(handle, &raw mut state) } {
        SUCCESS => state,
        code => code,
    }
}

impl Communicator {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes a call, which nothing aborts meanwhile. None where there is no communicator any more.
    fn call(&self, call: impl FnOnce(&Library, Handle) -> c_int) -> Option<c_int> {
        self.lock().handle.as_ref().map(|open| call(self.symbols, open.handle()))
    }

    /// Ends what is under way, on a thread of its own: an abort waits for those of the other ranks of its node, and whoever asks for
    /// this may be the one that asks for theirs too.
    fn abort(self: &Arc<Communicator>) {
        let mut state = self.lock();
        let Some(open) = state.handle.take() else { return };
        let own = self.clone();
        let work = move || {
            // SAFETY: the handle was open, and nobody has it any more.
            unsafe { (own.symbols.comm_abort)(open.handle()) };
            own.lock().aborting = false;
            own.aborted.notify_all();
        };
        state.aborter = thread::Builder::new().name("nccl abort".into()).spawn(work).ok();
        state.aborting = state.aborter.is_some();
    }

    /// Waits for an abort that is under way. One that does not end, which a broken GPU or network can do to NCCL, is left alone: the
    /// process is ending.
    fn wait_for_abort(&self) {
        let end = Instant::now() + ABORTING;
        let mut state = self.lock();
        while state.aborting {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.aborted.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        let aborter = state.aborter.take();
        drop(state);
        aborter.into_iter().for_each(|aborter| drop(aborter.join()));
    }

    /// Ends in peace, after everything under way, or by an abort where the other ranks do not come to their ends.
    fn end(self: &Arc<Communicator>) {
        let end = Instant::now() + PARTING;
        // SAFETY: the handle is open.
        let mut code = self.call(|library, handle| unsafe { (library.comm_finalize)(handle) });
        while code == Some(IN_PROGRESS) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
            code = self.call(state);
        }
        if code != Some(SUCCESS) {
            return self.abort();
        }
        let open = self.lock().handle.take();
        if let Some(open) = open {
            // SAFETY: the handle was open, and nobody has it any more.
            unsafe { (self.symbols.comm_destroy)(open.handle()) };
        }
    }
}

#[cfg(test)]
mod tests;
