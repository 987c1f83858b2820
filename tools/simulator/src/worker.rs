//! The stacks that threads run on. A coroutine runs a thread until it waits; one that returns makes room for the next thread on the
//! same stack without a switch, so kernels without barriers cost a call a thread.

use crate::machine::Machine;
use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack, trap::CoroutineTrapHandler};
use std::ptr;

/// Bytes of a thread's stack. Only the pages that a kernel touches become memory.
const STACK: usize = 256 << 10;

/// A coroutine and its way back to the scheduler.
pub(crate) struct Worker {
    coroutine: Option<Coroutine<(), (), (), DefaultStack>>,
    yielder: *const Yielder<(), ()>,
}

impl Worker {
    pub fn new(machine: *mut Machine) -> Box<Self> {
        let mut worker = Box::new(Worker { coroutine: None, yielder: ptr::null() });
        let stack =
            DefaultStack::new(STACK).unwrap_or_else(|error| panic!("no memory for a thread's stack of {STACK} bytes: {error}"));
        worker.start(machine, stack);
        worker
    }

    fn start(&mut self, machine: *mut Machine, stack: DefaultStack) {
        let own: *mut Worker = self;
        self.coroutine = Some(Coroutine::with_stack(stack, move |yielder, ()| {
            // SAFETY: the machine owns this worker and outlives it; both have addresses that do not move.
            unsafe {
                (*own).yielder = yielder;
                loop {
                    let thread = (*machine).current;
                    (*thread).worker = own;
                    ((*machine).running.entry)((*machine).running.args);
                    if !(*machine).finish() {
                        (*machine).idle.push(own);
                        yielder.suspend(());
                    }
                }
            }
        }));
    }

    /// Runs until the thread waits or there is no other to run on this stack. False: a signal ended it.
    pub fn resume(&mut self) -> bool {
        let coroutine = self.coroutine.as_mut().expect("a worker has its coroutine until it is dropped");
        matches!(coroutine.resume(()), CoroutineResult::Yield(()))
    }

    /// The way out of the coroutine for a signal's handler.
    pub fn escape(&self) -> CoroutineTrapHandler<()> {
        self.coroutine.as_ref().expect("a worker has its coroutine until it is dropped").trap_handler()
    }

    /// Back to the scheduler.
    ///
    /// # Safety
    /// Called on this worker's own stack.
    pub unsafe fn suspend(&self) {
        // SAFETY: the yielder lives in the coroutine that calls this.
        unsafe { (*self.yielder).suspend(()) }
    }

    /// Forgets the thread that is suspended here, and starts anew on the same stack.
    pub fn reset(&mut self, machine: *mut Machine) {
        let mut coroutine = self.coroutine.take().expect("a worker has its coroutine until it is dropped");
        // SAFETY: the frames on its stack are C++ without destructors and calls of ours that hold nothing while they are suspended.
        unsafe { coroutine.force_reset() };
        self.start(machine, coroutine.into_stack());
    }

    /// Forgets the coroutine for good.
    pub fn discard(&mut self) {
        if let Some(mut coroutine) = self.coroutine.take() {
            // SAFETY: as in `reset`.
            unsafe { coroutine.force_reset() };
        }
    }
}
