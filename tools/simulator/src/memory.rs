//! Device memory with edges: every buffer ends at pages that nobody may touch, and starts out as NaN in every format.

use std::{
    collections::{BTreeMap, VecDeque},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What fresh memory holds: NaN in bf16, f16, f32 and f64, and an id that is out of every range.
pub(crate) const POISON: u8 = 0xFF;
/// What lies between a buffer and its pages' ends: NaN in bf16 and f32, and different from poison.
const CANARY: [u8; 2] = [0xA5, 0xFF];
const PAGE: usize = 4096;
/// Far enough that an index wrong by a row or a head still lands in it.
const GUARD: usize = 1 << 20;
/// Bytes in front of a buffer that are looked at: its pages may leave up to 4080, and every launch looks.
const WATCHED: usize = 256;
/// Freed buffers whose addresses are kept out of use, so that a stale pointer is told as one.
const QUARANTINE: usize = 64;

/// One buffer and the pages around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    map: usize,
    map_bytes: usize,
    pub base: usize,
    pub bytes: usize,
    pub freed: bool,
}

#[derive(Default)]
struct Registry {
    /// By the first address of the mapping.
    regions: BTreeMap<usize, Region>,
    quarantine: VecDeque<usize>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { regions: BTreeMap::new(), quarantine: VecDeque::new() });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Device memory of one context; what is still allocated when it is dropped is freed.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: Mutex<Vec<usize>>,
}

impl Memory {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer whose end lies at a guard page. It starts at a multiple of 256 where `bytes` is one, else of 16; the up to 15 bytes
    /// behind it are watched at every launch that is given it. It holds 0xFF. The host may read and write it.
    pub fn alloc(&self, bytes: usize) -> *mut u8 {
        let region = map(bytes);
        registry().regions.insert(region.map, region);
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(region.base);
        region.base as *mut u8
    }

    /// Gives a buffer back; its addresses stay out of use for a while. Panics if `start` is not a buffer of this memory.
    pub fn free(&self, start: *mut u8) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = buffers.iter().position(|base| *base == start as usize);
        let at = at.unwrap_or_else(|| panic!("{start:p} is freed, but it is not a live buffer of this memory"));
        buffers.swap_remove(at);
        release(start as usize);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.buffers.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(release);
    }
}

fn map(bytes: usize) -> Region {
    let data = bytes.next_multiple_of(16);
    let pages = data.next_multiple_of(PAGE);
    let map_bytes = GUARD + pages + GUARD;
    // SAFETY: a fresh anonymous mapping, of which the part between the guards is made accessible and filled.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let map = libc::mmap(ptr::null_mut(), map_bytes, libc::PROT_NONE, flags, -1, 0);
        assert!(map != libc::MAP_FAILED, "no address space for {bytes} bytes: {}", std::io::Error::last_os_error());
        let first = map.cast::<u8>().add(GUARD);
        if pages > 0 {
            let opened = libc::mprotect(first.cast(), pages, libc::PROT_READ | libc::PROT_WRITE);
            assert!(opened == 0, "no memory for {bytes} bytes: {}", std::io::Error::last_os_error());
        }
        let base = first.add(pages - data);
        let region = Region { map: map as usize, map_bytes, base: base as usize, bytes, freed: false };
        ptr::write_bytes(base, POISON, bytes);
        for at in region.edges() {
            *(at as *mut u8) = CANARY[at % 2];
        }
        region
    }
}

fn release(base: usize) {
    let mut registry = registry();
    let found = registry.regions.range_mut(..=base).next_back().map(|(_, region)| region).filter(|region| region.base == base);
    let region = found.expect("a buffer that was allocated is in the registry");
    region.freed = true;
    let (map, map_bytes) = (region.map, region.map_bytes);
    // SAFETY: the mapping is the registry's. Mapping over it gives its memory back and keeps its addresses.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        libc::mmap(map as *mut _, map_bytes, libc::PROT_NONE, flags, -1, 0);
    }
    registry.quarantine.push_back(map);
    if registry.quarantine.len() > QUARANTINE {
        let oldest = registry.quarantine.pop_front().expect("it is not empty");
        let region = registry.regions.remove(&oldest).expect("quarantine holds regions");
        // SAFETY: nothing but the registry knew the mapping.
        unsafe { libc::munmap(region.map as *mut _, region.map_bytes) };
    }
}

impl Region {
    /// The addresses between the accessible pages' ends and the buffer.
    fn edges(&self) -> impl Iterator<Item = usize> + use<> {
        let end = self.map + self.map_bytes - GUARD;
        (self.base.saturating_sub(WATCHED).max(self.map + GUARD)..self.base).chain(self.base + self.bytes..end)
    }

    /// The first address beside the buffer that somebody wrote, as bytes from its start.
    pub fn overwritten(&self) -> Option<isize> {
        // SAFETY: the pages are accessible as long as the region is not freed, and the caller holds it live.
        let intact = |at: &usize| unsafe { *(*at as *const u8) } == CANARY[at % 2];
        self.edges().find(|at| !intact(at)).map(|at| at as isize - self.base as isize)
    }

    /// Where an address lies relative to the buffer, in words.
    pub fn relate(&self, address: usize) -> String {
        let (end, bytes) = (self.base + self.bytes, self.bytes);
        if address < self.base {
            format!("{} bytes before the start of its {bytes} bytes", self.base - address)
        } else if address < end {
            format!("{} bytes into its {bytes} bytes", address - self.base)
        } else {
            format!("{} bytes past the end of its {bytes} bytes", address - end)
        }
    }
}

/// The buffer, live or lately freed, in whose pages or guards an address lies.
pub(crate) fn around(address: usize) -> Option<Region> {
    let registry = registry();
    let region = registry.regions.range(..=address).next_back().map(|(_, region)| *region)?;
    (address < region.map + region.map_bytes).then_some(region)
}

/// Every live buffer: where it starts, and its bytes.
pub(crate) fn live() -> Vec<(usize, usize)> {
    registry().regions.values().filter(|region| !region.freed).map(|region| (region.base, region.bytes)).collect()
}

/// The live buffer that a pointer points into, or at the end of.
pub(crate) fn holding(address: usize) -> Option<Region> {
    around(address).filter(|region| !region.freed && (region.base..=region.base + region.bytes).contains(&address))
}
