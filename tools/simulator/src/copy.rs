//! Copies that run by themselves: bulk copies, tiles of tensor maps, reductions. Each happens at a moment that the order of the launch
//! chooses between its start and the wait for it: in the natural order, as late as that lets it.

use crate::{
    fault::Place,
    machine::{CLUSTER, Machine, Thread, fail},
    mbarrier,
    tensor_map::{TensorMap, swizzled},
    traffic,
};
use std::{
    ffi::{c_char, c_void},
    ptr,
};

const BULK_LOAD: u32 = 0;
const BULK_STORE: u32 = 1;
const BULK_REDUCE: u32 = 2;
const TILE_LOAD: u32 = 3;
const TILE_STORE: u32 = 4;
const TILE_REDUCE: u32 = 5;

/// `SimulatorCopy` of host/simulator.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    kind: u32,
    shared: *mut u8,
    map: *const TensorMap,
    global: *mut c_void,
    bar: *mut u64,
    at: [i32; 3],
    rank: u32,
    bytes: u32,
    ranks: u32,
}

/// The group of a store that was not committed yet.
const OPEN: u64 = u64::MAX;

/// A copy under way.
pub(crate) struct Copy {
    request: Request,
    map: Option<TensorMap>,
    issuer: *mut Thread,
    place: Place,
    /// Which of the issuer's groups it belongs to: for all but loads.
    group: u64,
    /// What a store or reduction has read of shared memory already.
    taken: Option<Vec<u8>>,
}

/// Starts a copy.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy(thread: *mut Thread, request: *const Request, file: *const c_char, line: i32) {
    let place = Place { file, line };
    // SAFETY: the running thread and its machine are live.
    unsafe {
        let mut copy = Copy { request: *request, map: None, issuer: thread, place, group: OPEN, taken: None };
        copy.check().unwrap_or_else(|what| fail(thread, place, what));
        (*(*(*thread).block).machine).copies.push(copy);
    }
}

/// Closes the thread's group.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy_commit(thread: *mut Thread) {
    // SAFETY: the running thread and its machine are live.
    unsafe {
        let copies = &mut (*(*(*thread).block).machine).copies;
        let own = copies.iter_mut().filter(|copy| copy.issuer == thread && !copy.loads() && copy.group == OPEN);
        own.for_each(|copy| copy.group = (*thread).groups);
        (*thread).groups += 1;
    }
}

/// Returns when at most `pending` of the thread's groups are under way, or, with `read`, still read shared memory.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy_wait(thread: *mut Thread, pending: u32, read: i32) {
    // SAFETY: the running thread and its machine are live.
    unsafe {
        let machine = (*(*thread).block).machine;
        let oldest_left = (*thread).groups.saturating_sub(u64::from(pending));
        loop {
            let due = |copy: &Copy| {
                copy.issuer == thread && !copy.loads() && copy.group < oldest_left && (read == 0 || copy.taken.is_none())
            };
            let Some(at) = (*machine).copies.iter().position(due) else { return };
            if read == 0 { finish(machine, at) } else { take(machine, at) }
        }
    }
}

/// A moment at which copies may happen: a thread is about to wait or has returned.
///
/// # Safety
/// Called on the stack of a thread of the running machine.
pub(crate) unsafe fn moment(machine: *mut Machine) {
    // SAFETY: as the caller promises.
    unsafe {
        if (*machine).copies.is_empty() {
            return;
        }
        if (*machine).order.natural() {
            while !(*machine).order.any() && !(*machine).copies.is_empty() {
                finish(machine, 0);
            }
            return;
        }
        while !(*machine).copies.is_empty() && (!(*machine).order.any() || (*machine).order.chance(4) == 0) {
            let count = (*machine).copies.len() as u64;
            let at = (*machine).order.chance(count) as usize;
            // Reading and writing are two moments.
            let copies = &(*machine).copies;
            if !copies[at].loads() && copies[at].taken.is_none() && (*machine).order.chance(2) == 0 {
                take(machine, at);
            } else {
                finish(machine, at);
            }
        }
    }
}

/// A thread has returned: what it started may not need its block any more. `last`: nobody of its block is left.
///
/// # Safety
/// `thread` has returned, and this is its stack.
pub(crate) unsafe fn left(thread: *mut Thread, last: bool) -> Option<(Place, String)> {
    // SAFETY: as the caller promises.
    unsafe {
        let (block, machine) = ((*thread).block, (*(*thread).block).machine);
        for copy in &(*machine).copies {
            if copy.issuer == thread && !copy.loads() && copy.taken.is_none() {
                let what = "returned while a copy that it started here may still read shared memory: no bulk_wait or bulk_wait_read follows";
                return Some((copy.place, what.to_string()));
            }
            if last && copy.loads() && copy.targets() & 1 << (*block).slot != 0 {
                return Some((
                    copy.place,
                    "its block returned while the load started here was still under way: nobody waited for it".to_string(),
                ));
            }
        }
        while (*machine).alive == 0 && !(*machine).copies.is_empty() {
            finish(machine, 0);
        }
        None
    }
}

/// A store's or reduction's reading of shared memory.
unsafe fn take(machine: *mut Machine, at: usize) {
    // SAFETY: `at` is a copy under way, and this is a thread's stack.
    unsafe {
        let copies = &mut (*machine).copies;
        let copy = &mut copies[at];
        (*machine).blame = copy.issuer;
        copy.taken = Some(copy.read_shared());
        (*machine).blame = ptr::null_mut();
    }
}

/// All of a copy that is still to do.
unsafe fn finish(machine: *mut Machine, at: usize) {
    // SAFETY: as in `take`.
    unsafe {
        let copy = (*machine).copies.remove(at);
        (*machine).blame = copy.issuer;
        let done = copy.perform(machine);
        (*machine).blame = ptr::null_mut();
        if let Err(what) = done
            && (*machine).fault.is_none()
        {
            (*machine).fault = Some((*machine).fault_of(copy.issuer, Some(copy.place), what));
        }
    }
}

impl Copy {
    fn loads(&self) -> bool {
        matches!(self.request.kind, BULK_LOAD | TILE_LOAD)
    }

    /// The cluster's blocks that a load writes to, as bits.
    fn targets(&self) -> u32 {
        // SAFETY: the issuer and its block are the running machine's.
        let own = unsafe { 1 << (*(*self.issuer).block).slot };
        if self.request.ranks == 0 { own } else { self.request.ranks }
    }

    /// Reads the map and refuses what the hardware would.
    unsafe fn check(&mut self) -> Result<(), String> {
        // SAFETY: the issuer runs; the map's address is the kernel's parameter.
        unsafe {
            let Request { kind, shared, map, global, bar, rank, bytes, .. } = self.request;
            let block = (*self.issuer).block;
            let inside = |address: usize, bytes: usize| {
                let offset = address.wrapping_sub((*block).shared as usize);
                offset < crate::shared::WINDOW && offset + bytes <= crate::shared::WINDOW
            };
            let tiles = matches!(kind, TILE_LOAD | TILE_STORE | TILE_REDUCE);
            let (bytes, align) = if tiles {
                if map.is_null() || !(map as usize).is_multiple_of(64) || !(*map).valid() {
                    return Err(format!("the tensor map at {map:p} is none"));
                }
                if (*map).rank != rank {
                    return Err(format!("a copy with {rank} coordinates by a tensor map of {} dimensions", (*map).rank));
                }
                if kind == TILE_REDUCE && (*map).float == 0 {
                    return Err("a reduction by a tensor map whose elements are not f32".to_string());
                }
                self.map = Some(*map);
                ((*map).box_bytes(), 128)
            } else {
                if !(global as usize).is_multiple_of(16) || !bytes.is_multiple_of(16) || bytes == 0 {
                    return Err(format!("a bulk copy of {bytes} bytes at {global:p}: expected multiples of 16"));
                }
                (bytes as usize, 16)
            };
            self.request.bytes = bytes as u32;
            if !(shared as usize).is_multiple_of(align) || !inside(shared as usize, bytes) {
                return Err(format!(
                    "{bytes} bytes of shared memory at {shared:p}: expected the block's own, at a multiple of {align}"
                ));
            }
            if self.loads() && (!inside(bar as usize, 8) || !(bar as usize).is_multiple_of(8)) {
                return Err(format!("a load's mbarrier at {bar:p}: expected 8 aligned bytes of the block's shared memory"));
            }
            let cluster = (*(*block).machine).cluster;
            if self.request.ranks >> cluster != 0 {
                return Err(format!("a multicast to blocks {:#b} of a cluster of {cluster}", self.request.ranks));
            }
            Ok(())
        }
    }

    /// The tile or bytes in shared memory, in the order of the box.
    unsafe fn read_shared(&self) -> Vec<u8> {
        let mut data = vec![0; self.request.bytes as usize];
        // SAFETY: checked to lie in the window.
        unsafe { self.pieces(self.request.shared, |at, piece| ptr::copy_nonoverlapping(piece, data.as_mut_ptr().add(at), 16)) };
        data
    }

    /// Every 16-byte piece in shared memory: its offset in the box and its address.
    unsafe fn pieces(&self, shared: *mut u8, mut each: impl FnMut(usize, *mut u8)) {
        // Swizzles look at addresses within the window, which begins at a multiple of 4096: the pointer's low bits are the same.
        let span = self.map.map_or(16, |map| map.span);
        for at in (0..self.request.bytes as usize).step_by(16) {
            each(at, swizzled(shared as usize + at, span) as *mut u8);
        }
    }

    unsafe fn perform(&self, machine: *mut Machine) -> Result<(), String> {
        // SAFETY: shared addresses were checked; global ones are the kernel's, and touching a guard page ends the launch.
        unsafe {
            let Request { kind, shared, global, bar, bytes, .. } = self.request;
            if self.loads() {
                let data = match self.map {
                    Some(map) => self.gather(&map),
                    None => {
                        traffic::access(global as usize, bytes as usize, false);
                        std::slice::from_raw_parts(global.cast::<u8>(), bytes as usize).to_vec()
                    }
                };
                let own = (*self.issuer).block;
                for slot in (0..CLUSTER).filter(|slot| self.targets() >> slot & 1 == 1) {
                    let target = &raw const (*machine).blocks[slot];
                    if (*target).alive == 0 {
                        return Err(format!("a load into shared memory of block {slot} of the cluster, which has returned"));
                    }
                    let place = |address: usize| {
                        mbarrier::corresponding(own, target, address).ok_or("an address outside of shared memory")
                    };
                    self.pieces(place(shared as usize)? as *mut u8, |at, piece| {
                        ptr::copy_nonoverlapping(data.as_ptr().add(at), piece, 16)
                    });
                    mbarrier::arrive(machine, place(bar as usize)? as *mut u64, 0, -i64::from(bytes))?;
                }
                return Ok(());
            }
            let read;
            let data = match &self.taken {
                Some(data) => data,
                None => {
                    read = self.read_shared();
                    &read
                }
            };
            if self.map.is_none() {
                traffic::access(global as usize, data.len(), true);
            }
            match (self.map, kind) {
                (Some(map), _) => self.scatter(&map, data),
                (None, BULK_REDUCE) => add(global.cast(), data),
                (None, BULK_STORE) => ptr::copy_nonoverlapping(data.as_ptr(), global.cast(), data.len()),
                (None, kind) => return Err(format!("a copy of kind {kind} without a tensor map")),
            }
            Ok(())
        }
    }

    /// The rows of the box that lie in the tensor: offset in the box, address in device memory, bytes of the row that are inside.
    fn rows(&self, map: &TensorMap, mut each: impl FnMut(usize, usize, usize)) {
        let [width, height, depth] = map.tile.map(|side| side as i64);
        let [x, y, z] = self.request.at.map(i64::from);
        let bytes = i64::from(map.bytes);
        let inside = |at: i64, extent: u64| at >= 0 && (at as u64) < extent;
        let (first, end) = ((-x).clamp(0, width), (map.extents[0] as i64 - x).clamp(0, width));
        for row in 0..height * depth {
            let (in_y, in_z) = (y + row % height, z + row / height);
            if first < end && inside(in_y, map.extents[1]) && inside(in_z, map.extents[2]) {
                let address = map.base as i64 + (x + first) * bytes + in_y * map.strides[1] as i64 + in_z * map.strides[2] as i64;
                each(((row * width + first) * bytes) as usize, address as usize, ((end - first) * bytes) as usize);
            }
        }
    }

    /// The box from device memory, zeros where it hangs over.
    unsafe fn gather(&self, map: &TensorMap) -> Vec<u8> {
        let mut data = vec![0; map.box_bytes()];
        // SAFETY: as in `perform`.
        self.rows(map, |at, address, bytes| unsafe {
            traffic::access(address, bytes, false);
            ptr::copy_nonoverlapping(address as *const u8, data.as_mut_ptr().add(at), bytes);
        });
        data
    }

    /// The box to device memory, written or added.
    unsafe fn scatter(&self, map: &TensorMap, data: &[u8]) {
        // SAFETY: as in `perform`.
        self.rows(map, |at, address, bytes| unsafe {
            let row = &data[at..at + bytes];
            traffic::access(address, bytes, true);
            match self.request.kind {
                TILE_REDUCE => add(address as *mut f32, row),
                _ => ptr::copy_nonoverlapping(row.as_ptr(), address as *mut u8, bytes),
            }
        });
    }
}

/// Adds floats to those in device memory.
unsafe fn add(global: *mut f32, data: &[u8]) {
    for (at, bytes) in data.chunks_exact(4).enumerate() {
        // SAFETY: as in `Copy::perform`.
        unsafe { *global.add(at) += f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) };
    }
}
