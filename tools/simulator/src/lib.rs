//! Runs the kernels of kernels/ on the CPU: every thread of a block is a coroutine, barriers and warp steps suspend it, and what a GPU
//! would leave unsaid (a missing barrier, an index one too far, a read of what nobody wrote) becomes a [`Fault`] or a wrong bit.
//!
//! README.md says what is modelled and what is not.

mod barrier;
mod cluster;
mod copy;
mod fault;
mod machine;
mod mbarrier;
mod memory;
mod order;
mod shared;
mod tensor_map;
mod traffic;
mod trap;
mod warp;
mod wgmma;
mod worker;

pub use fault::Fault;
pub use memory::Memory;
pub use tensor_map::{Element, Swizzle, TensorMap, Tiled};
pub use traffic::{ACCESSES, Counts, counted};

use machine::{CLUSTER, Dim, Machine, Running, THREADS};
use std::{ffi::c_void, fmt};

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// Which of a kernel's two builds: the type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// `ACT` is `__nv_bfloat16`.
    Bf16,
    /// `ACT` is `float`.
    F32,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Build::Bf16 => "bf16",
            Build::F32 => "f32",
        })
    }
}

/// A kernel in one build: its row of the table that build.rs writes.
struct Entry {
    name: &'static str,
    file: &'static str,
    build: Build,
    /// Names of the parameters, and whether each is a pointer.
    params: &'static [(&'static str, bool)],
    entry: unsafe extern "C" fn(*mut *mut c_void) -> u32,
}

/// What cuLaunchKernelEx takes.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Which build of it.
    pub build: Build,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x.
    pub threads: u32,
    /// Blocks of a cluster, in x: 1 or 2.
    pub cluster: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// A pointer to each argument.
    pub args: &'a mut [*mut c_void],
    /// 0: threads run in their natural order. Else the seed of another order of threads and blocks; three in a row try three kinds.
    pub order: u64,
}

/// The program's kernels as (name, file), each once.
pub fn kernels() -> &'static [(&'static str, &'static str)] {
    static KERNELS: std::sync::OnceLock<Vec<(&str, &str)>> = std::sync::OnceLock::new();
    KERNELS.get_or_init(|| {
        let own = ENTRIES.iter().filter(|entry| entry.build == Build::Bf16 && entry.file.starts_with("kernels/"));
        own.map(|entry| (entry.name, entry.file)).collect()
    })
}

/// Threads of a kernel's blocks at most: its launch bound. None: there is no such kernel.
pub fn threads(kernel: &str, build: Build) -> Option<u32> {
    let entry = ENTRIES.iter().find(|entry| entry.name == kernel && entry.build == build)?;
    // SAFETY: without arguments a trampoline only tells its bound.
    Some(unsafe { (entry.entry)(std::ptr::null_mut()) })
}

/// Runs a kernel to its end. Several threads of the operating system may launch at once, on memory that does not overlap.
///
/// Whatever the arguments are, accesses outside of live [`Memory`] end as a fault; `args` itself has to hold pointers to values of the
/// parameters' types, one each.
pub fn launch(launch: &Launch<'_>) -> Result<(), Fault> {
    let refuse =
        |what| Fault { kernel: launch.kernel.to_string(), build: launch.build, block: None, thread: None, place: None, what };
    let entry = ENTRIES.iter().find(|entry| entry.name == launch.kernel && entry.build == launch.build);
    let entry = entry.ok_or_else(|| refuse("there is no such kernel".to_string()))?;
    check(entry, launch).map_err(refuse)?;
    let machine = machine::machine();
    // SAFETY: the machine is this thread's own and no launch runs on it; the entry's arguments were counted.
    unsafe {
        (*machine).running = Running {
            kernel: entry.name,
            build: entry.build,
            params: entry.params,
            entry: entry.entry,
            args: launch.args.as_ptr().cast_mut(),
        };
        traffic::begin();
        trap::guarded(machine, || run(&mut *machine, launch))?;
        traffic::end(entry.name);
        (*machine).running.edges().map_err(refuse)
    }
}

/// Refuses what the driver would refuse, and arguments that point nowhere.
fn check(entry: &Entry, launch: &Launch<'_>) -> Result<(), String> {
    let Launch { grid, threads, cluster, dynamic_shared, args, .. } = launch;
    if args.len() != entry.params.len() {
        return Err(format!("{} arguments: its {} parameters are {:?}", args.len(), entry.params.len(), entry.params));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(format!("a grid of {grid:?} blocks: expected 1 to 2147483647, 65535 and 65535"));
    }
    // SAFETY: without arguments a trampoline only tells its bound.
    let bound = unsafe { (entry.entry)(std::ptr::null_mut()) }.min(THREADS as u32);
    if *threads == 0 || *threads > bound {
        return Err(format!("blocks of {threads} threads: its launch bound is {bound}"));
    }
    if *cluster == 0 || *cluster as usize > CLUSTER || !grid[0].is_multiple_of(*cluster) {
        return Err(format!(
            "clusters of {cluster} blocks in a grid of {grid:?}: expected 1 or 2, and a grid that it divides in x"
        ));
    }
    shared::Arena::limit(*dynamic_shared)?;
    for ((name, pointer), arg) in entry.params.iter().zip(args.iter()) {
        // SAFETY: the caller's promise: it points to a value of the parameter's type, here a pointer.
        let value = if *pointer { unsafe { *arg.cast::<usize>() } } else { 0 };
        if value != 0 && memory::holding(value).is_none() {
            return Err(format!("argument `{name}` is {value:#x}, which is no live device memory"));
        }
    }
    Ok(())
}

/// All blocks of the grid, a cluster at a time.
unsafe fn run(machine: &mut Machine, launch: &Launch<'_>) -> Result<(), Fault> {
    let [x, y, z] = launch.grid;
    let grid = Dim { x, y, z };
    let cluster = launch.cluster;
    machine.order.seed(launch.order);
    let clusters = u64::from(x / cluster) * u64::from(y) * u64::from(z);
    // Another order of blocks is a walk with a stride that meets each once.
    let (start, stride) =
        if machine.order.natural() { (0, 1) } else { (machine.order.chance(clusters), machine.order.stride(clusters)) };
    for step in 0..clusters {
        let at = ((u128::from(start) + u128::from(step) * u128::from(stride)) % u128::from(clusters)) as u64;
        let (first, row) = ((at % u64::from(x / cluster)) as u32 * cluster, at / u64::from(x / cluster));
        let (in_y, in_z) = ((row % u64::from(y)) as u32, (row / u64::from(y)) as u32);
        machine.gather(cluster);
        for rank in 0..cluster {
            machine.place(rank as usize, Dim { x: first + rank, y: in_y, z: in_z }, grid, launch.threads, launch.dynamic_shared);
        }
        // SAFETY: as the caller promises.
        unsafe { machine.run()? };
        for block in &mut machine.blocks[..cluster as usize] {
            if let Some((what, place)) = block.arena.overwritten() {
                let Dim { x, y, z } = block.index;
                let place = place.map(|place| place.to_string());
                let kernel = launch.kernel.to_string();
                return Err(Fault { kernel, build: launch.build, block: Some([x, y, z]), thread: None, place, what });
            }
        }
    }
    Ok(())
}
