//! The state of one launch: blocks, warps and threads, and the order in which threads run.

use crate::{
    Build,
    cluster::ClusterBarrier,
    copy::Copy,
    fault::{Fault, Place},
    mbarrier::Waiter,
    memory::{self, Region},
    order::Order,
    shared::Arena,
    trap::Trap,
    wgmma::{Issued, Products},
    worker::Worker,
};
use std::{cell::UnsafeCell, ffi::c_void, ptr};

pub(crate) const LANES: usize = 32;
/// Threads of a block at most, as the hardware's.
pub(crate) const THREADS: usize = 1024;
pub(crate) const WARPS: usize = THREADS / LANES;
/// Blocks of a cluster at most: what the project's kernels use.
pub(crate) const CLUSTER: usize = 2;

/// CUDA's `uint3`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dim {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

/// A block that runs. The fields down to `dynamic` are `SimulatorBlock` of host/simulator.h.
#[repr(C)]
pub(crate) struct Block {
    pub index: Dim,
    pub grid: Dim,
    pub extent: Dim,
    pub rank: u32,
    pub dynamic_bytes: u32,
    pub shared: *mut u8,
    pub dynamic: *mut u8,
    pub machine: *mut Machine,
    /// Which of the cluster's places it has.
    pub slot: usize,
    pub alive: u32,
    pub arena: Arena,
    pub barriers: [Barrier; 16],
}

/// One of a block's sixteen barriers.
#[derive(Clone, Copy)]
pub(crate) struct Barrier {
    pub arrived: u32,
    /// Threads that make it complete; 0: all of the block that have not returned.
    pub count: u32,
    pub waiting: [u32; WARPS],
    pub place: Place,
}

impl Barrier {
    pub const EMPTY: Barrier = Barrier { arrived: 0, count: 0, waiting: [0; WARPS], place: Place::NONE };
}

/// Thirty-two threads and what some of them are at together.
pub(crate) struct Warp {
    /// Lanes that exist and have not returned.
    pub alive: u32,
    pub gathers: Vec<Gather>,
    pub products: Products,
}

/// Lanes on their way into one step of a warp.
#[derive(Clone, Copy)]
pub(crate) struct Gather {
    pub step: u32,
    pub mask: u32,
    pub arrived: u32,
}

/// A thread. The fields down to `block` are `SimulatorThread` of host/simulator.h.
#[repr(C)]
pub(crate) struct Thread {
    pub index: Dim,
    pub lane: u32,
    pub block: *mut Block,
    pub warp: *mut Warp,
    pub worker: *mut Worker,
    /// Its bit among all threads of the cluster: `slot * THREADS + index.x`.
    pub number: usize,
    /// What it brings into a step of its warp, and where it waits: for the report when nobody can go on.
    pub payload: *mut c_void,
    pub wait: Wait,
    pub place: Place,
    /// Groups of copies that it has committed, products that it has issued, and the cluster's barrier's phase that it has arrived in.
    pub groups: u64,
    pub issued: Issued,
    pub arrived_in: Option<u64>,
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Barrier(u32),
    Warp(&'static str),
    Mbarrier(u32),
    Cluster,
}

/// The kernel that runs, for its trampoline and for faults.
pub(crate) struct Running {
    pub kernel: &'static str,
    pub build: Build,
    pub params: &'static [(&'static str, bool)],
    pub entry: unsafe extern "C" fn(*mut *mut c_void) -> u32,
    pub args: *mut *mut c_void,
}

impl Running {
    /// The regions that its arguments point into, with the parameters' names.
    fn regions(&self) -> impl Iterator<Item = (&'static str, Region)> {
        self.params.iter().enumerate().filter(|(_, (_, pointer))| *pointer).filter_map(|(at, (name, _))| {
            // SAFETY: a pointer to the argument, which is a pointer.
            let value = unsafe { *(*self.args.add(at)).cast::<usize>() };
            memory::around(value).map(|region| (*name, region))
        })
    }

    /// The parameters whose argument points into a region.
    pub fn names(&self, region: Region) -> Vec<&'static str> {
        self.regions().filter(|(_, other)| other.base == region.base).map(|(name, _)| name).collect()
    }

    /// After the launch: whether something was written just beside an argument's buffer, where no guard page is.
    pub fn edges(&self) -> Result<(), String> {
        let written = self.regions().find_map(|(name, region)| region.overwritten().map(|at| (name, region.bytes, at)));
        let said = |(name, bytes, at)| format!("`{name}` of {bytes} bytes was written outside of it, at byte {at}");
        written.map_or(Ok(()), |written| Err(said(written)))
    }
}

/// Everything of one launch. It stays with the operating system's thread, so that the next launch finds stacks and memory.
pub(crate) struct Machine {
    pub running: Running,
    pub blocks: [Block; CLUSTER],
    pub warps: Box<[Warp]>,
    pub threads: Box<[Thread]>,
    pub order: Order,
    /// The variable `simulator_thread` of this operating system's thread.
    pub slot: *mut *mut Thread,
    pub current: *mut Thread,
    /// A thread that a finishing one drew as the next to run, and that has a stack of its own already.
    pub drawn: *mut Thread,
    pub alive: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    pub barrier: ClusterBarrier,
    pub waiters: Vec<Waiter>,
    pub copies: Vec<Copy>,
    /// The thread that started the copy which happens now: a fault in it is that thread's.
    pub blame: *mut Thread,
    #[expect(clippy::vec_box, reason = "coroutines and idle lists hold the addresses")]
    pub workers: Vec<Box<Worker>>,
    pub idle: Vec<*mut Worker>,
    pub fault: Option<Fault>,
    pub trap: Option<Trap>,
}

unsafe extern "C" {
    fn simulator_thread_slot() -> *mut *mut c_void;
}

thread_local! {
    static MACHINE: UnsafeCell<Option<Box<Machine>>> = const { UnsafeCell::new(None) };
}

/// This operating system's thread's machine, made at first use. Launches do not nest, so nobody else holds it.
pub(crate) fn machine() -> *mut Machine {
    MACHINE.with(|cell| {
        // SAFETY: no reference into the cell outlives this closure; the pointer is to the box's content, which does not move.
        let held = unsafe { &mut *cell.get() };
        let machine: *mut Machine = &mut **held.get_or_insert_with(Machine::new);
        machine
    })
}

impl Machine {
    fn new() -> Box<Self> {
        unsafe extern "C" fn nothing(_: *mut *mut c_void) -> u32 {
            0
        }
        let block = |slot| Block {
            index: Dim::default(),
            grid: Dim::default(),
            extent: Dim::default(),
            rank: slot as u32,
            dynamic_bytes: 0,
            shared: ptr::null_mut(),
            dynamic: ptr::null_mut(),
            machine: ptr::null_mut(),
            slot,
            alive: 0,
            arena: Arena::new(),
            barriers: [Barrier::EMPTY; 16],
        };
        let thread = |number| Thread {
            index: Dim { x: (number % THREADS) as u32, y: 0, z: 0 },
            lane: (number % LANES) as u32,
            block: ptr::null_mut(),
            warp: ptr::null_mut(),
            worker: ptr::null_mut(),
            number,
            payload: ptr::null_mut(),
            wait: Wait::Barrier(0),
            place: Place::NONE,
            groups: 0,
            issued: Issued::default(),
            arrived_in: None,
        };
        crate::trap::install();
        let mut machine = Box::new(Machine {
            running: Running { kernel: "", build: Build::Bf16, params: &[], entry: nothing, args: ptr::null_mut() },
            blocks: [block(0), block(1)],
            warps: (0..CLUSTER * WARPS)
                .map(|_| Warp { alive: 0, gathers: Vec::with_capacity(LANES), products: Products::default() })
                .collect(),
            threads: (0..CLUSTER * THREADS).map(thread).collect(),
            order: Order::default(),
            // SAFETY: it only takes an address.
            slot: unsafe { simulator_thread_slot() }.cast(),
            current: ptr::null_mut(),
            drawn: ptr::null_mut(),
            alive: 0,
            cluster: 1,
            barrier: ClusterBarrier::default(),
            waiters: Vec::new(),
            copies: Vec::new(),
            blame: ptr::null_mut(),
            workers: Vec::new(),
            idle: Vec::new(),
            fault: None,
            trap: None,
        });
        let own: *mut Machine = &mut *machine;
        for block in &mut machine.blocks {
            block.machine = own;
            block.shared = block.arena.start();
        }
        let Machine { threads, warps, blocks, .. } = &mut *machine;
        for thread in threads {
            thread.warp = &mut warps[thread.number / LANES];
            thread.block = &mut blocks[thread.number / THREADS];
        }
        machine
    }

    /// Readies the machine for a cluster of so many blocks.
    pub fn gather(&mut self, cluster: u32) {
        self.cluster = cluster;
        self.barrier = ClusterBarrier::default();
        self.waiters.clear();
        self.copies.clear();
    }

    /// Readies the block at a place of the cluster: `threads` threads that have not begun, shared memory as nobody has written it.
    pub fn place(&mut self, slot: usize, index: Dim, grid: Dim, threads: u32, dynamic_bytes: usize) {
        let block = &mut self.blocks[slot];
        (block.index, block.grid, block.extent) = (index, grid, Dim { x: threads, y: 1, z: 1 });
        block.alive = threads;
        block.dynamic_bytes = dynamic_bytes as u32;
        block.dynamic = block.arena.begin(dynamic_bytes);
        block.barriers.iter_mut().for_each(|barrier| *barrier = Barrier::EMPTY);
        self.alive += threads;
        for thread in &mut self.threads[slot * THREADS..][..threads as usize] {
            (thread.groups, thread.issued, thread.arrived_in) = (0, Issued::default(), None);
        }
        for (warp, first) in (0..threads).step_by(LANES).enumerate() {
            let lanes = (threads - first).min(LANES as u32);
            let alive = if lanes == LANES as u32 { u32::MAX } else { (1 << lanes) - 1 };
            let at = slot * WARPS + warp;
            self.warps[at].alive = alive;
            self.warps[at].gathers.clear();
            self.warps[at].products.clear();
            self.order.begin(at, alive);
        }
    }

    /// Runs what has been placed to its end.
    ///
    /// # Safety
    /// `running` is a kernel with its arguments; `self` is this operating system's thread's machine.
    pub unsafe fn run(&mut self) -> Result<(), Fault> {
        while self.alive > 0 {
            let thread = match std::mem::replace(&mut self.drawn, ptr::null_mut()) {
                drawn if !drawn.is_null() => drawn,
                _ => match self.order.draw() {
                    Some(number) => &mut self.threads[number],
                    None => {
                        self.fault = Some(self.stuck());
                        break;
                    }
                },
            };
            // SAFETY: the thread is one of ours; a begun one has a worker that is suspended in it.
            unsafe { self.resume(thread) };
            if self.fault.is_some() {
                break;
            }
        }
        match self.fault.take() {
            None => Ok(()),
            Some(fault) => {
                self.abandon();
                Err(fault)
            }
        }
    }

    unsafe fn resume(&mut self, thread: *mut Thread) {
        // SAFETY: as the caller promises.
        unsafe {
            let worker = if self.order.begun((*thread).number) { (*thread).worker } else { self.worker() };
            (*thread).worker = worker;
            self.current = thread;
            *self.slot = thread;
            if (*worker).resume() {
                return;
            }
            // The thread is lost to a signal; its stack is not.
            let trap = self.trap.take();
            let what = trap.as_ref().map_or_else(|| "it was lost".to_string(), |trap| trap.describe(&self.running));
            let thread = if self.blame.is_null() { self.current } else { self.blame };
            self.blame = ptr::null_mut();
            let mut fault = self.fault_of(thread, None, what);
            fault.place = trap.and_then(|trap| trap.place());
            self.fault = Some(fault);
        }
    }

    /// A coroutine that waits for a thread to run.
    fn worker(&mut self) -> *mut Worker {
        if let Some(worker) = self.idle.pop() {
            return worker;
        }
        let own: *mut Machine = self;
        self.workers.push(Worker::new(own));
        let worker: *mut Worker = &mut **self.workers.last_mut().expect("one was pushed");
        worker
    }

    /// Ends a thread that has returned. True: `current` is another one that has not begun, to be run on the same stack.
    ///
    /// # Safety
    /// `current` is the thread that returned.
    pub unsafe fn finish(&mut self) -> bool {
        // SAFETY: threads, warps and blocks live as long as the machine.
        unsafe {
            let thread = self.current;
            let block = (*thread).block;
            (*(*thread).warp).alive &= !(1 << (*thread).lane);
            (*block).alive -= 1;
            self.alive -= 1;
            crate::barrier::left(block);
            crate::warp::left(thread);
            crate::cluster::complete(self);
            self.settle(thread);
        }
        if self.fault.is_some() {
            return false;
        }
        let Some(number) = self.order.draw() else { return false };
        let next: *mut Thread = &mut self.threads[number];
        if self.order.begun(number) {
            self.drawn = next;
            return false;
        }
        self.current = next;
        // SAFETY: the slot is this operating system's thread's variable.
        unsafe { *self.slot = next };
        true
    }

    /// What a thread that returned must not leave behind.
    unsafe fn settle(&mut self, thread: *mut Thread) {
        // SAFETY: threads, warps and blocks live as long as the machine.
        unsafe {
            let block = (*thread).block;
            let left = match (*(*thread).warp).products.oldest() {
                Some(place) => Some((place, "returned without wgmma_wait for the product issued here".to_string())),
                None => crate::copy::left(thread, (*block).alive == 0),
            };
            if let Some((place, what)) = left
                && self.fault.is_none()
            {
                self.fault = Some(self.fault_of(thread, Some(place), what));
            }
            if (*block).alive == 0 && self.alive > 0 {
                (*block).arena.close();
            }
            crate::copy::moment(self);
        }
    }

    /// After a fault: forgets the threads that are still at work, and takes their stacks back.
    fn abandon(&mut self) {
        self.alive = 0;
        for warp in &mut self.warps {
            warp.alive = 0;
            warp.gathers.clear();
            warp.products.clear();
        }
        self.copies.clear();
        self.drawn = ptr::null_mut();
        self.order.clear();
        let own: *mut Machine = self;
        for worker in &mut self.workers {
            let at: *mut Worker = &mut **worker;
            if !self.idle.contains(&at) {
                worker.reset(own);
                self.idle.push(at);
            }
        }
    }

    /// A fault of a thread at a place.
    pub fn fault_of(&self, thread: *const Thread, place: Option<Place>, what: String) -> Fault {
        // SAFETY: threads and blocks live as long as the machine.
        let (index, block) = unsafe { ((*thread).index, (*(*thread).block).index) };
        Fault {
            kernel: self.running.kernel.to_string(),
            build: self.running.build,
            block: Some([block.x, block.y, block.z]),
            thread: Some(index.x),
            place: place.map(|place| place.to_string()),
            what,
        }
    }

    /// The fault that nobody can go on: who waits where.
    fn stuck(&self) -> Fault {
        let mut groups: Vec<(&Thread, usize)> = Vec::new();
        let waiting = self.threads.iter().filter(|thread| {
            // SAFETY: as above.
            unsafe { (*thread.warp).alive >> thread.lane & 1 == 1 }
        });
        for thread in waiting {
            let same = |(other, _): &&mut (&Thread, usize)| {
                (other.block, other.wait, other.place) == (thread.block, thread.wait, thread.place)
            };
            match groups.iter_mut().find(same) {
                Some((_, count)) => *count += 1,
                None => groups.push((thread, 1)),
            }
        }
        let (first, _) = *groups.first().expect("threads are alive, and each waits");
        // SAFETY: as above.
        let rank = |thread: &Thread| unsafe { (*thread.block).rank };
        let several = groups.iter().any(|(thread, _)| rank(thread) != rank(first));
        let mut said: Vec<String> = groups
            .iter()
            .map(|(thread, count)| {
                let of = if several { format!(" of block {} of the cluster", rank(thread)) } else { String::new() };
                format!("{count} threads{of} (first: {}) wait {} at {}", thread.index.x, thread.wait.name(), thread.place)
            })
            .collect();
        // SAFETY: as above.
        let (extent, alive) = unsafe { ((*first.block).extent.x, (*first.block).alive) };
        if alive < extent {
            said.push(format!("{} have returned", extent - alive));
        }
        let what = format!("no thread can go on: {}", said.join("; "));
        self.fault_of(first, Some(first.place), what)
    }
}

impl Wait {
    fn name(self) -> String {
        match self {
            Wait::Barrier(0) => "in __syncthreads".to_string(),
            Wait::Barrier(id) => format!("in barrier {id}"),
            Wait::Warp(step) => format!("in {step}"),
            Wait::Mbarrier(parity) => format!("in mbarrier_wait for parity {parity}"),
            Wait::Cluster => "in cluster_wait".to_string(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Suspended coroutines are forgotten, not unwound: C++ frames may lie on their stacks, and they own nothing.
        self.workers.iter_mut().for_each(|worker| worker.discard());
    }
}

/// Suspends a thread until something readies it.
///
/// # Safety
/// `thread` is the one that runs.
pub(crate) unsafe fn suspend(thread: *mut Thread, wait: Wait, place: Place) {
    // SAFETY: the running thread's worker is the coroutine that this runs on.
    unsafe {
        (*thread).wait = wait;
        (*thread).place = place;
        crate::copy::moment((*(*thread).block).machine);
        (*(*thread).worker).suspend();
    }
}

/// Ends the launch with a fault of the running thread; does not come back.
///
/// # Safety
/// `thread` is the one that runs.
pub(crate) unsafe fn fail(thread: *mut Thread, place: Place, what: String) -> ! {
    // SAFETY: the machine outlives its threads. What is on this stack is dropped before it is left for good.
    unsafe {
        let machine = (*(*thread).block).machine;
        let fault = (*machine).fault_of(thread, Some(place), what);
        (*machine).fault = Some(fault);
        loop {
            (*(*thread).worker).suspend();
        }
    }
}
