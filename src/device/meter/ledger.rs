//! What a meter writes down: bytes by class, now and at the peak, and calls of operators by their cost.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::cost::Cost;
use crate::device::cuda::pool::Layout;
use crate::error::Result;

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Weights that are not trained.
    Frozen,
    /// The rounded copies of trained weights, which operators read.
    Trained,
    /// Their f32 copies, which the optimizer keeps.
    Masters,
    /// Their gradients.
    Gradients,
    /// AdamW's two moments.
    Moments,
    /// What forward keeps for backward.
    Activations,
    /// Keys and values of sequences being written.
    Cache,
    /// Everything else: what lives during an operator or a layer.
    Workspace,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 8] = [
        Class::Frozen,
        Class::Trained,
        Class::Masters,
        Class::Gradients,
        Class::Moments,
        Class::Activations,
        Class::Cache,
        Class::Workspace,
    ];

    /// As a table says it.
    pub fn name(self) -> &'static str {
        ["frozen weights", "trained weights", "f32 masters", "gradients", "AdamW moments", "activations", "KV cache", "workspace"]
            [self as usize]
    }
}

/// Bytes by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held([usize; Class::ALL.len()]);

impl Held {
    /// Bytes of a class.
    pub fn of(&self, class: Class) -> usize {
        self.0[class as usize]
    }

    /// Bytes of a class, to change.
    pub fn of_mut(&mut self, class: Class) -> &mut usize {
        &mut self.0[class as usize]
    }

    /// Bytes of all classes.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

/// Calls of operators, by operator and cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work(pub(super) HashMap<(&'static str, Cost), u64>);

impl Work {
    /// Every operator with the cost of one call, and how many such calls there were.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, Cost, u64)> {
        self.0.iter().map(|((operator, cost), calls)| (*operator, *cost, *calls))
    }

    /// The costs of an operator's calls, added up, and their number.
    pub fn of(&self, operator: &str) -> (Cost, u64) {
        sum(self.calls().filter(|(name, ..)| *name == operator))
    }

    /// The costs of all calls, added up, and their number.
    pub fn total(&self) -> (Cost, u64) {
        sum(self.calls())
    }

    /// Adds calls of an operator.
    pub fn insert(&mut self, operator: &'static str, cost: Cost, calls: u64) {
        *self.0.entry((operator, cost)).or_default() += calls;
    }

    /// These calls without those of another, which are among them.
    pub fn less(mut self, other: &Work) -> Work {
        for (key, calls) in &other.0 {
            if let Some(here) = self.0.get_mut(key) {
                *here = here.saturating_sub(*calls);
            }
        }
        self.0.retain(|_, calls| *calls > 0);
        self
    }

    /// Adds another's calls, each `times` over.
    pub fn add(&mut self, other: &Work, times: u64) {
        for (key, calls) in &other.0 {
            *self.0.entry(*key).or_default() += calls * times;
        }
    }
}

fn sum(calls: impl Iterator<Item = (&'static str, Cost, u64)>) -> (Cost, u64) {
    let add = |(total, count): (Cost, u64), (_, cost, calls): (&str, Cost, u64)| (total.plus_times(cost, calls), count + calls);
    calls.fold((Cost::default(), 0), add)
}

/// Everything that a meter knows.
#[derive(Debug)]
pub(super) struct Ledger {
    class: Class,
    in_backward: bool,
    live: Held,
    /// Since the peak was last asked to start anew.
    peak: Held,
    most: usize,
    work: Work,
    /// Lends the buffers of a GPU as its own would, without an end.
    pool: Option<Layout>,
    /// What the body that runs now has allocated.
    body: Option<Body>,
}

/// A body of [`Device::replay`](crate::device::Device::replay) while it runs.
#[derive(Debug)]
struct Body {
    layout: Layout,
    /// Whether its buffers lie in memory that was set aside for them, and so do not count.
    aside: bool,
}

impl Ledger {
    fn raise(&mut self) {
        let total = self.live.total();
        self.most = self.most.max(total);
        // The last such moment: by then everything is known for what it is.
        if total >= self.peak.total() {
            self.peak = self.live;
        }
    }
}

/// A ledger that a meter and its buffers share.
#[derive(Debug, Clone)]
pub(super) struct Book(Arc<Mutex<Ledger>>);

impl Book {
    pub(super) fn new(pooled: bool) -> Book {
        let ledger = Ledger {
            class: Class::Workspace,
            in_backward: false,
            live: Held::default(),
            peak: Held::default(),
            most: 0,
            work: Work::default(),
            pool: pooled.then(Layout::new),
            body: None,
        };
        Book(Arc::new(Mutex::new(ledger)))
    }

    fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn set_class(&self, class: Class) {
        let mut ledger = self.open();
        (ledger.class, ledger.in_backward) = (class, false);
    }

    /// What is allocated from here on is not kept for backward: backward has begun, or a forward pass begins again.
    pub(super) fn backward(&self, begun: bool) {
        self.open().in_backward = begun;
    }

    /// A buffer of so many elements, in the current class.
    pub(super) fn allocate<T>(&self, len: usize, sum: u64) -> Buf<T> {
        let bytes = len * size_of::<T>();
        let mut ledger = self.open();
        let in_body = ledger.body.as_mut().filter(|_| bytes > 0).map(|body| body.layout.lend(bytes));
        let aside = ledger.body.as_ref().is_some_and(|body| body.aside);
        let class = if ledger.in_backward && ledger.class == Class::Activations { Class::Workspace } else { ledger.class };
        let mut place = None;
        if !aside {
            *ledger.live.of_mut(class) += bytes;
            ledger.raise();
            place = ledger.pool.as_mut().filter(|_| bytes > 0).map(|pool| pool.lend(bytes));
        }
        drop(ledger);
        Buf { place, in_body, aside, len, sum, class: AtomicU8::new(class as u8), book: self.clone(), element: PhantomData }
    }

    /// Runs a body whose buffers lie in memory that was set aside for them, or as it is. Returns the bytes that the first takes.
    pub(super) fn body(&self, aside: bool, body: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        self.open().body = Some(Body { layout: Layout::new(), aside });
        let done = body();
        let span = self.open().body.take().map_or(0, |body| body.layout.span());
        done.map(|()| span)
    }

    pub(super) fn record(&self, operator: &'static str, cost: Cost) {
        *self.open().work.0.entry((operator, cost)).or_default() += 1;
    }

    pub(super) fn take_work(&self) -> Work {
        std::mem::take(&mut self.open().work)
    }

    /// Now, and the most at any time.
    pub(super) fn memory(&self) -> (usize, usize) {
        let ledger = self.open();
        (ledger.live.total(), ledger.most)
    }

    /// What the pool spanned beyond the bytes that were held at most.
    pub(super) fn gaps(&self) -> usize {
        let ledger = self.open();
        ledger.pool.as_ref().map_or(0, Layout::span).saturating_sub(ledger.most)
    }

    pub(super) fn live(&self) -> Held {
        self.open().live
    }

    pub(super) fn peak(&self) -> Held {
        self.open().peak
    }

    pub(super) fn restart_peak(&self) {
        let mut ledger = self.open();
        ledger.peak = ledger.live;
    }
}

/// Memory of a [`Meter`](super::Meter): an extent without contents.
#[derive(Debug)]
pub struct Buf<T> {
    place: Option<usize>,
    /// Where it lies in the layout of the body that made it.
    in_body: Option<usize>,
    aside: bool,
    pub(super) len: usize,
    /// The sum of what was uploaded, of u32: how much of a cache decoding reads.
    pub(super) sum: u64,
    class: AtomicU8,
    book: Book,
    element: PhantomData<fn() -> T>,
}

impl<T> Buf<T> {
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn held_for(&self) -> Class {
        Class::ALL[self.class.load(Ordering::Relaxed) as usize]
    }

    pub(super) fn tag(&self, class: Class) {
        let mut ledger = self.book.open();
        if self.aside {
            return;
        }
        let before = self.held_for();
        *ledger.live.of_mut(before) -= self.bytes();
        *ledger.live.of_mut(class) += self.bytes();
        self.class.store(class as u8, Ordering::Relaxed);
    }
}

impl<T> Drop for Buf<T> {
    fn drop(&mut self) {
        let mut ledger = self.book.open();
        if let (Some(body), Some(at)) = (&mut ledger.body, self.in_body) {
            body.layout.take_back(at);
        }
        if self.aside {
            return;
        }
        *ledger.live.of_mut(self.held_for()) -= self.bytes();
        if let (Some(pool), Some(at)) = (&mut ledger.pool, self.place) {
            pool.take_back(at);
        }
    }
}
