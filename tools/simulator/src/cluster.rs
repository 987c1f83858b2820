//! Clusters of two blocks: their barrier, and one's view of the other's shared memory.

use crate::{
    fault::Place,
    machine::{CLUSTER, LANES, Machine, Thread, WARPS, Wait, fail, suspend},
    mbarrier,
};
use std::ffi::{c_char, c_void};

/// The barrier of all threads of the cluster that have not returned.
#[derive(Debug, Default)]
pub(crate) struct ClusterBarrier {
    arrived: u32,
    phase: u64,
    /// By warp.
    waiting: Vec<u32>,
}

/// `barrier.cluster.arrive`, or with `wait` its other half.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_cluster(thread: *mut Thread, wait: i32, file: *const c_char, line: i32) {
    let place = Place { file, line };
    // SAFETY: the running thread and its machine are live.
    unsafe {
        let machine = (*(*thread).block).machine;
        let barrier = &raw mut (*machine).barrier;
        match ((*thread).arrived_in, wait) {
            (None, 0) => {
                (*thread).arrived_in = Some((*barrier).phase);
                (*barrier).arrived += 1;
                complete(machine);
            }
            (Some(_), 0) => fail(thread, place, "cluster_arrive twice without cluster_wait between".to_string()),
            (None, _) => fail(thread, place, "cluster_wait without cluster_arrive".to_string()),
            (Some(phase), _) => {
                (*thread).arrived_in = None;
                if phase == (*barrier).phase {
                    let (waiting, number) = (&mut (*barrier).waiting, (*thread).number);
                    waiting.resize(CLUSTER * WARPS, 0);
                    waiting[number / LANES] |= 1 << (number % LANES);
                    suspend(thread, Wait::Cluster, place);
                }
            }
        }
    }
}

/// Ends the barrier's phase if all have arrived: a thread arrived or returned.
///
/// # Safety
/// `machine` is the one that runs.
pub(crate) unsafe fn complete(machine: *mut Machine) {
    // SAFETY: as the caller promises.
    unsafe {
        let barrier = &mut (*machine).barrier;
        if barrier.arrived == 0 || barrier.arrived < (*machine).alive {
            return;
        }
        for (warp, lanes) in barrier.waiting.iter_mut().enumerate() {
            (*machine).order.release(warp, std::mem::take(lanes));
        }
        barrier.arrived = 0;
        barrier.phase += 1;
    }
}

/// The address of the same place in the shared memory of the cluster's block `rank`.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_shared_of(
    thread: *mut Thread,
    own: *mut c_void,
    rank: u32,
    file: *const c_char,
    line: i32,
) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe {
        match mbarrier::remote(thread, own as usize, rank) {
            Ok(address) => address as *mut c_void,
            Err(what) => fail(thread, Place { file, line }, what),
        }
    }
}
