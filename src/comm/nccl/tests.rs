//! What can be tested without a GPU: how tensors are cut, and how a communicator ends, with functions in NCCL's place.

use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::comm::Hub;

#[test]
fn the_parts_of_a_tensor_are_the_ranks_shards() {
    assert_eq!(parts(0, 4), []);
    assert_eq!(parts(12, 4), [Part::Equal(3)]);
    assert_eq!(parts(7, 1), [Part::Equal(7)]);
    assert_eq!(parts(10, 4), [Part::Own(0, 0..3), Part::Own(1, 3..6), Part::Own(2, 6..9), Part::Own(3, 9..10)]);
    // Ranks that own nothing bring nothing.
    assert_eq!(parts(5, 4), [Part::Own(0, 0..2), Part::Own(1, 2..4), Part::Own(2, 4..5)]);
    for (len, ranks) in [(1, 8), (9, 8), (1001, 3), (64, 8)] {
        let mut covered = 0;
        for part in parts(len, ranks) {
            match part {
                Part::Equal(each) => covered += each * ranks,
                Part::Own(rank, range) => {
                    assert_eq!((range.start, range.clone()), (covered, shard(len, ranks, rank as usize)));
                    covered = range.end;
                }
            }
        }
        assert_eq!(covered, len);
    }
}

#[test]
fn calls_end_at_the_first_that_fails() {
    let mut made = Vec::new();
    let code = each(&mut [SUCCESS, IN_PROGRESS, 5, SUCCESS], |code| {
        made.push(*code);
        *code
    });
    assert_eq!((code, made), (5, vec![SUCCESS, IN_PROGRESS, 5]));
    assert_eq!(each(&mut [SUCCESS, IN_PROGRESS], |code| *code), SUCCESS);
}

#[test]
fn every_rank_gets_the_id_of_rank_0() {
    let library = match Library::get() {
        Ok(library) => library,
        Err(why) => return println!("skipped: no NCCL ({why})"),
    };
    let ids = Hub::new(0, 3, 3).run(|group| Ok(share_id(library, &group)?.bytes)).unwrap();
    assert!(ids[0] != [0; 128] && ids.iter().all(|id| *id == ids[0]));
}

// ---- a communicator whose handle points to what its library is to do, and counts what was done ----

/// What a handle points to.
#[derive(Default)]
struct Fake {
    /// How often it is in progress before it is done.
    busy: AtomicUsize,
    finalized: AtomicUsize,
    destroyed: AtomicUsize,
    aborted: AtomicUsize,
}

/// # Safety
/// `handle` is that of a [`Fake`].
unsafe fn fake<'a>(handle: Handle) -> &'a Fake {
    // SAFETY: the caller promises it.
    unsafe { &*handle.cast::<Fake>() }
}

unsafe extern "C" fn finalize(handle: Handle) -> c_int {
    // SAFETY: the tests' handles are those of fakes, here and below.
    unsafe { fake(handle) }.finalized.fetch_add(1, Ordering::SeqCst);
    IN_PROGRESS
}

unsafe extern "C" fn destroy(handle: Handle) -> c_int {
    // SAFETY: as above.
    unsafe { fake(handle) }.destroyed.fetch_add(1, Ordering::SeqCst);
    SUCCESS
}

unsafe extern "C" fn abort(handle: Handle) -> c_int {
    // SAFETY: as above.
    unsafe { fake(handle) }.aborted.fetch_add(1, Ordering::SeqCst);
    SUCCESS
}

unsafe extern "C" fn async_error(handle: Handle, to: *mut c_int) -> c_int {
    // SAFETY: as above; the caller's number is there to be written.
    unsafe {
        let less = |busy: usize| busy.checked_sub(1);
        let busy = fake(handle).busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        *to = if busy { IN_PROGRESS } else { SUCCESS };
    }
    SUCCESS
}

unsafe extern "C" fn number(to: *mut c_int) -> c_int {
    // SAFETY: the caller's number is there to be written.
    unsafe { *to = 99_999 };
    SUCCESS
}

unsafe extern "C" fn id(_: *mut UniqueId) -> c_int {
    SUCCESS
}

unsafe extern "C" fn init(_: *mut Handle, _: c_int, _: UniqueId, _: c_int, _: *mut Config) -> c_int {
    SUCCESS
}

unsafe extern "C" fn error(_: c_int) -> *const c_char {
    c"unhandled system error".as_ptr()
}

unsafe extern "C" fn last(_: Handle) -> *const c_char {
    c"connection refused\n".as_ptr()
}

unsafe extern "C" fn group() -> c_int {
    SUCCESS
}

unsafe extern "C" fn reduce(_: *const c_void, _: Handle, _: usize, _: c_int, _: c_int, _: c_int, _: Handle, _: Handle) -> c_int {
    SUCCESS
}

unsafe extern "C" fn broadcast(_: *const c_void, _: Handle, _: usize, _: c_int, _: c_int, _: Handle, _: Handle) -> c_int {
    SUCCESS
}

unsafe extern "C" fn gather(_: *const c_void, _: Handle, _: usize, _: c_int, _: Handle, _: Handle) -> c_int {
    SUCCESS
}

fn library() -> &'static Library {
    Box::leak(Box::new(Library::of(
        number,
        id,
        init,
        finalize,
        destroy,
        abort,
        async_error,
        error,
        last,
        group,
        group,
        reduce,
        broadcast,
        broadcast,
        gather,
    )))
}

fn communicator(fake: &Fake) -> Arc<Communicator> {
    let handle = ptr::from_ref(fake).cast_mut().cast();
    let state = State { handle: Some(Open(handle)), aborting: false, aborter: None };
    Arc::new(Communicator { symbols: library(), state: Mutex::new(state), aborted: Condvar::new() })
}

/// Times it was finalized, destroyed and aborted.
fn done(fake: &Fake) -> [usize; 3] {
    [&fake.finalized, &fake.destroyed, &fake.aborted].map(|count| count.load(Ordering::SeqCst))
}

#[test]
fn a_communicator_ends_in_peace_once_it_has_settled() {
    let fake = Fake { busy: 3.into(), ..Fake::default() };
    let communicator = communicator(&fake);
    assert_eq!(communicator.call(state), Some(IN_PROGRESS));
    communicator.end();
    communicator.wait_for_abort();
    assert_eq!((done(&fake), communicator.call(state)), ([1, 1, 0], None));
    communicator.abort();
    communicator.wait_for_abort();
    assert_eq!(done(&fake), [1, 1, 0]);
}

#[test]
fn one_that_does_not_settle_is_aborted_at_its_end() {
    let fake = Fake { busy: usize::MAX.into(), ..Fake::default() };
    let communicator = communicator(&fake);
    communicator.end();
    communicator.wait_for_abort();
    assert_eq!(done(&fake), [1, 0, 1]);
}

#[test]
fn an_abort_comes_once_and_ends_all_calls() {
    let fake = Fake::default();
    let communicator = communicator(&fake);
    communicator.abort();
    communicator.abort();
    communicator.end();
    communicator.wait_for_abort();
    assert_eq!((done(&fake), communicator.call(state)), ([0, 0, 1], None));
}

#[test]
fn errors_say_what_nccl_says() {
    assert_eq!(
        library().error("ncclAllGather", SYSTEM_ERROR).to_string(),
        "ncclAllGather: unhandled system error: connection refused"
    );
}
