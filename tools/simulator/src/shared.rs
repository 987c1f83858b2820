//! A block's shared memory: a window of 256 KiB, of which a launch may use what the hardware has. Arrays lie between red zones, and
//! everything is poison until the block writes it.

use crate::{
    fault::Place,
    machine::{Thread, fail},
    memory::POISON,
};
use std::{
    ffi::{CStr, c_char, c_void},
    ptr, slice,
};

/// The window, whose addresses descriptors hold in 18 bits.
pub(crate) const WINDOW: usize = 256 << 10;
/// What a block of compute capability 9.0 may use: 227 KiB in all, 48 KiB of them in arrays of fixed size.
const MOST: usize = 227 << 10;
const MOST_STATIC: usize = 48 << 10;
const GUARD: usize = 1 << 20;
/// Bytes between arrays. The first lie below the first array.
const RED: usize = 128;
/// What a red zone holds: NaN in bf16 and f32, and different from poison.
const CANARY: u8 = 0xFE;

/// The window's memory and what lies in it.
pub(crate) struct Arena {
    map: *mut u8,
    sites: Vec<Site>,
    /// Where the next array may begin, as an offset.
    top: usize,
    used: usize,
    dynamic: usize,
    dynamic_bytes: usize,
    closed: bool,
}

/// An array that the block has asked for.
struct Site {
    key: *const c_void,
    start: usize,
    bytes: usize,
    name: *const c_char,
    place: Place,
}

impl Arena {
    pub fn new() -> Self {
        // SAFETY: a fresh anonymous mapping, of which the part between the guards is made accessible.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let map = libc::mmap(ptr::null_mut(), GUARD + WINDOW + GUARD, libc::PROT_NONE, flags, -1, 0);
            assert!(map != libc::MAP_FAILED, "no address space for shared memory: {}", std::io::Error::last_os_error());
            let opened = libc::mprotect(map.cast::<u8>().add(GUARD).cast(), WINDOW, libc::PROT_READ | libc::PROT_WRITE);
            assert!(opened == 0, "no memory for shared memory: {}", std::io::Error::last_os_error());
            map.cast::<u8>()
        };
        Arena { map, sites: Vec::new(), top: 0, used: 0, dynamic: WINDOW, dynamic_bytes: 0, closed: false }
    }

    /// The window's first byte; its address is a multiple of 4096.
    pub fn start(&self) -> *mut u8 {
        // SAFETY: within the mapping.
        unsafe { self.map.add(GUARD) }
    }

    /// Whether an address lies in the window or its guards.
    pub fn around(&self, address: usize) -> bool {
        (self.map as usize..self.map as usize + GUARD + WINDOW + GUARD).contains(&address)
    }

    /// A new block: no arrays yet, and dynamic memory that begins at a multiple of 1024 and ends as near to the window's end as that lets it.
    pub fn begin(&mut self, dynamic_bytes: usize) -> *mut u8 {
        self.open();
        self.sites.clear();
        (self.top, self.used) = (0, dynamic_bytes);
        (self.dynamic, self.dynamic_bytes) = (WINDOW - dynamic_bytes.next_multiple_of(1024), dynamic_bytes);
        if dynamic_bytes > 0 {
            self.fill(self.dynamic, dynamic_bytes, POISON);
            self.fill(self.dynamic + dynamic_bytes, WINDOW - self.dynamic - dynamic_bytes, CANARY);
            self.fill(self.dynamic - RED, RED, CANARY);
        }
        // SAFETY: the offset is within the window.
        unsafe { self.start().add(self.dynamic) }
    }

    /// Whether so much dynamic memory can be had.
    pub fn limit(dynamic_bytes: usize) -> Result<(), String> {
        let most = MOST;
        (dynamic_bytes <= most)
            .then_some(())
            .ok_or_else(|| format!("{dynamic_bytes} bytes of dynamic shared memory: at most {most} can be had"))
    }

    /// The block has returned before the others of its cluster: nobody may reach into its memory any more.
    pub fn close(&mut self) {
        self.protect(libc::PROT_NONE);
        self.closed = true;
    }

    fn open(&mut self) {
        if self.closed {
            self.protect(libc::PROT_READ | libc::PROT_WRITE);
            self.closed = false;
        }
    }

    fn protect(&mut self, rights: i32) {
        // SAFETY: the arena's own pages.
        let changed = unsafe { libc::mprotect(self.start().cast(), WINDOW, rights) };
        assert!(changed == 0, "rights of shared memory cannot be changed: {}", std::io::Error::last_os_error());
    }

    /// Whether the block has returned, so that its window is out of bounds.
    pub fn closed(&self) -> bool {
        self.closed
    }

    fn fill(&mut self, start: usize, bytes: usize, value: u8) {
        // SAFETY: callers stay within the window.
        unsafe { ptr::write_bytes(self.start().add(start), value, bytes) }
    }

    /// The array of a site: the same for every thread of the block.
    fn array(&mut self, key: *const c_void, bytes: usize, name: *const c_char, place: Place) -> Result<*mut u8, String> {
        let start = match self.sites.iter().find(|site| site.key == key) {
            Some(site) => site.start,
            None => self.add(key, bytes, name, place)?,
        };
        // SAFETY: arrays lie within the window.
        Ok(unsafe { self.start().add(start) })
    }

    fn add(&mut self, key: *const c_void, bytes: usize, name: *const c_char, place: Place) -> Result<usize, String> {
        let start = (self.top + RED).next_multiple_of(128);
        let fixed: usize = self.sites.iter().map(|site| site.bytes).sum::<usize>() + bytes;
        self.used += bytes;
        if fixed > MOST_STATIC || self.used > MOST || start + bytes + RED > self.dynamic {
            let (fixed_most, most, used) = (MOST_STATIC, MOST, self.used);
            return Err(format!(
                "{used} bytes of shared memory, {fixed} in arrays of fixed size: at most {most} and {fixed_most} can be had"
            ));
        }
        self.fill(self.top, start - self.top, CANARY);
        self.fill(start, bytes, POISON);
        self.fill(start + bytes, RED, CANARY);
        self.top = start + bytes;
        self.sites.push(Site { key, start, bytes, name, place });
        Ok(start)
    }

    /// At the block's end: the array whose red zone somebody wrote, in words, and where it is declared.
    pub fn overwritten(&mut self) -> Option<(String, Option<Place>)> {
        self.open();
        // SAFETY: the window is accessible, and what is looked at lies within it.
        let intact = |start: usize, bytes: usize| {
            unsafe { slice::from_raw_parts(self.start().add(start), bytes) }.iter().all(|byte| *byte == CANARY)
        };
        for site in &self.sites {
            // SAFETY: a name that the compiler stored.
            let name = unsafe { CStr::from_ptr(site.name) }.to_string_lossy();
            if !intact(site.start + site.bytes, RED) {
                return Some((
                    format!("shared array `{name}` of {} bytes was written past its end", site.bytes),
                    Some(site.place),
                ));
            }
            if !intact(site.start - RED, RED) {
                return Some((
                    format!("shared array `{name}` of {} bytes was written before its start", site.bytes),
                    Some(site.place),
                ));
            }
        }
        let (bytes, end) = (self.dynamic_bytes, self.dynamic + self.dynamic_bytes);
        if bytes > 0 && !(intact(end, WINDOW - end) && intact(self.dynamic - RED, RED)) {
            return Some((format!("dynamic shared memory of {bytes} bytes was written beyond its ends"), None));
        }
        None
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the arena's own mapping.
        unsafe { libc::munmap(self.map.cast(), GUARD + WINDOW + GUARD) };
    }
}

/// The shared array that a `SHARED` declares.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_shared(
    thread: *mut Thread,
    site: *const c_void,
    bytes: usize,
    name: *const c_char,
    file: *const c_char,
    line: i32,
) -> *mut u8 {
    let place = Place { file, line };
    // SAFETY: the running thread's block is live, and nobody else runs.
    unsafe {
        match (*(*thread).block).arena.array(site, bytes, name, place) {
            Ok(start) => start,
            Err(what) => fail(thread, place, what),
        }
    }
}
