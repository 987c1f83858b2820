//! A GPU behind the CUDA driver: one context, one stream, one range of memory, the kernels' images, cuBLASLt.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};

use super::blas::{Blas, WORKSPACE};
use super::driver::{Driver, Grid, Kernel, Mark, Matmul, Pointer, TensorMap, Tiled, Wait};
use super::kernel::{COMPILER, IMAGES, Image, KERNELS};
use super::pool::Pool;
use super::side::Side;
use crate::error::{Error, Result};

/// The share of the memory that is free at the start which the pool takes; the rest is left to cuBLASLt, NCCL and the driver.
const SHARE: f64 = 0.92;

/// Bytes that are left to them at least.
const LEAST_LEFT: usize = 1 << 30;

/// Bytes that the pool takes where so many are free.
fn pool_size(free: usize) -> usize {
    ((free as f64 * SHARE) as usize).min(free.saturating_sub(LEAST_LEFT))
}

/// Bytes that tensors can have where so many are free: the pool less what it lends to cuBLASLt.
pub fn capacity(free: usize) -> usize {
    pool_size(free).saturating_sub(WORKSPACE)
}

/// Bytes of pinned host memory that uploads pass through.
const STAGING: usize = 8 << 20;

pub(super) fn cause(what: &str) -> impl Fn(DriverError) -> Error {
    move |error| {
        let name = error.error_name().map_or(format!("{error:?}"), |name| name.to_string_lossy().into_owned());
        let text = error.error_string().map_or(String::new(), |text| format!(" ({})", text.to_string_lossy()));
        Error::Device { what: what.to_string(), cause: format!("{name}{text}") }
    }
}

/// Why there is no GPU to open, if there is none: no driver library, no device, a program built without kernels, or for other GPUs or
/// a later driver.
pub fn missing() -> Option<String> {
    // SAFETY: looks a library up by its name.
    if !unsafe { sys::is_culib_present() } {
        return Some("no NVIDIA driver: libcuda.so is not on this machine".into());
    }
    match result::init().and_then(|()| result::device::get_count()) {
        Err(error) => Some(format!("the NVIDIA driver finds no GPU: {}", cause("cuInit")(error))),
        Ok(0) => Some("the NVIDIA driver finds no GPU".into()),
        Ok(_) if IMAGES.is_empty() => {
            Some("this program was built without nvcc, for the CPU only: run tools/install-nvcc and build again".into())
        }
        Ok(_) if !has_blas() => Some("libcublasLt.so is not on this machine".into()),
        Ok(_) => driver_version().and_then(outdated).or_else(|| {
            let gpus = list().ok()?;
            gpus.iter().map(unfit).collect::<Option<Vec<String>>>()?.into_iter().next()
        }),
    }
}

/// Why a driver for this version of CUDA does not load the kernels of this build, if it does not.
pub fn outdated(driver: (i32, i32)) -> Option<String> {
    COMPILER.and_then(|compiler| too_old(driver, compiler))
}

/// Why this GPU does not run the kernels of this build, if it does not.
pub fn unfit(gpu: &Properties) -> Option<String> {
    (!IMAGES.is_empty() && images(IMAGES, IMAGES[0].build, gpu.capability).is_empty())
        .then(|| no_image(&gpu.name, gpu.capability))
}

fn no_image(name: &str, (major, minor): (i32, i32)) -> String {
    let mut built: Vec<&str> = IMAGES.iter().map(|image| image.architecture).collect();
    built.sort_unstable();
    built.dedup();
    format!(
        "{name} has compute capability {major}.{minor}, and this program's kernels were built for {}: set REPAIRITY_CUDA_ARCH and \
         build again",
        built.join(", ")
    )
}

/// The same for what any compiler made: within a major version, every driver loads it.
fn too_old((major, minor): (i32, i32), compiler: &str) -> Option<String> {
    let needed: i32 = compiler.split('.').next()?.parse().ok()?;
    let why = || {
        format!(
            "the NVIDIA driver supports CUDA {major}.{minor}, and this program's kernels, compiled by nvcc {compiler}, need a driver \
             for CUDA {needed}.0 or later"
        )
    };
    (major < needed).then(why)
}

/// Whether cuBLASLt is on this machine.
pub fn has_blas() -> bool {
    // SAFETY: looks a library up by its name.
    unsafe { cudarc::cublaslt::sys::is_culib_present() }
}

/// What is known of a GPU without taking its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability: (9, 0) is Hopper.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
}

/// The GPUs of this machine; none where [`missing`] says why.
pub fn list() -> Result<Vec<Properties>> {
    // SAFETY: looks a library up by its name.
    if !unsafe { sys::is_culib_present() } || result::init().is_err() {
        return Ok(Vec::new());
    }
    let count = result::device::get_count().map_err(cause("cuDeviceGetCount"))?;
    let properties = |ordinal| -> std::result::Result<Properties, DriverError> {
        let device = result::device::get(ordinal)?;
        use sys::CUdevice_attribute_enum as Attribute;
        // SAFETY: `device` is a device of this machine.
        unsafe {
            let major = result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let memory = result::device::total_mem(device)?;
            Ok(Properties { name: result::device::get_name(device)?, capability: (major, minor), memory })
        }
    };
    (0..count).map(|ordinal| properties(ordinal).map_err(cause("cuDeviceGet"))).collect()
}

/// The name by which other tools of NVIDIA's know GPU `ordinal`: `GPU-` and 32 hexadecimal digits in groups.
pub fn uuid(ordinal: usize) -> Result<String> {
    let device = i32::try_from(ordinal).map_err(|_| Error::Machine(format!("there is no GPU {ordinal}")))?;
    let found = result::device::get(device).and_then(result::device::get_uuid).map_err(cause("cuDeviceGetUuid"))?;
    let digits: Vec<String> = found.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let groups = [&digits[..4], &digits[4..6], &digits[6..8], &digits[8..10], &digits[10..]].map(|group| group.concat());
    Ok(format!("GPU-{}", groups.join("-")))
}

/// The version of CUDA that the driver supports: (13, 0).
pub fn driver_version() -> Option<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the library is there, and the call only writes the number.
    let done = unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&raw mut version).result().is_ok() };
    done.then_some((version / 1000, version % 1000 / 10))
}

/// Those of `all` of a build that run on this capability: its own, or a plain architecture of the same major version at or below it.
fn images<'a>(all: &'a [Image], build: &str, (major, minor): (i32, i32)) -> Vec<&'a Image> {
    let number = |image: &Image| -> Option<(i32, i32, bool)> {
        let digits = image.architecture.strip_prefix("sm_")?;
        let own = digits.ends_with('a');
        let number: i32 = digits.trim_end_matches(['a', 'f']).parse().ok()?;
        Some((number / 10, number % 10, own))
    };
    let mut chosen: Vec<&'a Image> = Vec::new();
    let runs = |image: &&Image| {
        image.build == build && number(image).is_some_and(|(m, n, own)| m == major && if own { n == minor } else { n <= minor })
    };
    let rank = |image: &Image| number(image).map(|(_, n, own)| (own, n));
    for image in all.iter().filter(runs) {
        match chosen.iter_mut().find(|other| other.file == image.file) {
            Some(other) if rank(other) < rank(image) => *other = image,
            Some(_) => {}
            None => chosen.push(image),
        }
    }
    chosen
}

/// Pinned host memory and how much of it waits for the GPU.
struct Staging {
    memory: *mut u8,
    used: usize,
}

impl Staging {
    fn open() -> Result<Staging> {
        // SAFETY: a plain allocation, freed in `drop`.
        let memory = unsafe { result::malloc_host(STAGING, 0) }.map_err(cause("cuMemHostAlloc"))?.cast();
        Ok(Staging { memory, used: 0 })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: `open` took it, and nothing runs any more. Nothing can be done about a failure here.
        let _ = unsafe { result::free_host(self.memory.cast()) };
    }
}

/// The images that were loaded.
struct Modules(Vec<sys::CUmodule>);

impl Drop for Modules {
    fn drop(&mut self) {
        for module in &self.0 {
            // SAFETY: `load` loaded it, and nothing runs any more. Nothing can be done about a failure here.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}

/// Where buffers come from. Like everything of a GPU's it is given up with the GPU's context current.
enum Memory {
    /// One range, taken at the start and lent in pieces.
    Pool { base: Pointer, pool: Mutex<Pool> },
    /// An allocation for each, so that memory checkers see where a buffer ends: REPAIRITY_CUDA_POOL=0.
    Single,
}

impl Memory {
    fn open() -> Result<Memory> {
        if std::env::var("REPAIRITY_CUDA_POOL").is_ok_and(|value| value == "0") {
            return Ok(Memory::Single);
        }
        let (free, _) = result::mem_get_info().map_err(cause("cuMemGetInfo"))?;
        let size = pool_size(free);
        // SAFETY: a plain allocation, freed in `drop`.
        let base = unsafe { result::malloc_sync(size) }.map_err(cause(&format!("cuMemAlloc of {size} bytes")))?;
        Ok(Memory::Pool { base, pool: Mutex::new(Pool::new(size)) })
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        match self {
            Memory::Pool { base, pool } => {
                let mut pool = lock(pool);
                pool.lend(bytes).map(|at| base + at as u64).ok_or_else(|| full(&pool, bytes))
            }
            // SAFETY: a plain allocation, freed in `release`.
            Memory::Single => unsafe { result::malloc_sync(bytes) }.map_err(cause(&format!("cuMemAlloc of {bytes} bytes"))),
        }
    }

    fn release(&self, pointer: Pointer) {
        match self {
            Memory::Pool { base, pool } => lock(pool).take_back((pointer - base) as usize),
            Memory::Single => {
                // SAFETY: `allocate` gave it, and cuMemFree waits for what uses it. Nothing can be done about a failure here.
                let _ = unsafe { result::free_sync(pointer) };
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Pool { base, .. } = self {
            // SAFETY: `open` took it, and nothing runs any more. Nothing can be done about a failure here.
            let _ = unsafe { result::free_sync(*base) };
        }
    }
}

/// Whether a switch in the environment is on.
fn set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// A GPU.
pub struct Gpu {
    name: String,
    multiprocessors: usize,
    functions: Vec<sys::CUfunction>,
    /// What the functions are parts of.
    _modules: Modules,
    blas: Blas,
    workspace: Pointer,
    memory: Memory,
    staging: Mutex<Staging>,
    /// The last kernel that was launched, for errors that show only when the host waits.
    last: AtomicUsize,
    /// Wait after every launch, so that an error names its kernel: REPAIRITY_CUDA_SYNC=1.
    wait: bool,
    stream: Arc<CudaStream>,
    /// Where launches are recorded: nothing runs in it.
    recorder: Arc<CudaStream>,
    /// The thread whose launches are recorded now.
    recording: Mutex<Option<ThreadId>>,
    context: Arc<CudaContext>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, which every method sees to; the pinned
// memory stands behind its mutex.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Gpu {
    /// Opens GPU `ordinal`, loads every kernel of `build` (so that a missing one fails here and not in step 4000) and takes the
    /// pool's memory.
    pub fn open(ordinal: usize, build: &str) -> Result<Gpu> {
        if let Some(why) = missing() {
            return Err(Error::Machine(why));
        }
        let context = CudaContext::new(ordinal).map_err(cause("cuDevicePrimaryCtxRetain"))?;
        let stream = context.new_stream().map_err(cause("cuStreamCreate"))?;
        let recorder = context.new_stream().map_err(cause("cuStreamCreate"))?;
        let capability = context.compute_capability().map_err(cause("cuDeviceGetAttribute"))?;
        let name = context.name().map_err(cause("cuDeviceGetName"))?;
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |attribute| context.attribute(attribute).map_err(cause("cuDeviceGetAttribute"));
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let (modules, functions) = load(&name, capability, build, shared)?;
        let blas = Blas::new(build == "bf16")?;
        let staging = Staging::open()?;
        let memory = Memory::open()?;
        let workspace = memory.allocate(WORKSPACE)?;
        Ok(Gpu {
            name,
            multiprocessors,
            functions,
            _modules: modules,
            blas,
            workspace,
            memory,
            staging: Mutex::new(staging),
            last: AtomicUsize::new(usize::MAX),
            wait: set("REPAIRITY_CUDA_SYNC"),
            stream,
            recorder,
            recording: Mutex::default(),
            context,
        })
    }

    /// A stream beside the one that computes.
    pub(crate) fn side(&self) -> Result<Side> {
        Side::new(&self.context, &self.stream)
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(cause("cuCtxSetCurrent"))
    }

    /// Where this thread's launches go.
    fn launches(&self) -> sys::CUstream {
        let recording = *lock(&self.recording) == Some(thread::current().id());
        if recording { self.recorder.cu_stream() } else { self.stream.cu_stream() }
    }

    /// Waits for the stream. What failed in it since the last wait shows here.
    fn synchronise(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| failed(self.last.load(Ordering::Relaxed), error))
    }
}

/// The error of a wait, where `last` was the last kernel launched before it.
fn failed(last: usize, error: DriverError) -> Error {
    let what = KERNELS.get(last).map_or("a product", |kernel| kernel.name);
    cause(&format!("{what}, or what was launched before it (REPAIRITY_CUDA_SYNC=1 waits after each, and names it)"))(error)
}

fn full(pool: &Pool, bytes: usize) -> Error {
    let (size, lent, largest) = pool.state();
    let cause = format!("out of GPU memory: {bytes} bytes asked for, {lent} of {size} in use, {largest} free in one piece");
    Error::Device { what: "memory".into(), cause }
}

/// The modules of a build, and their kernels in the order of [`KERNELS`]; null where the build does not have a kernel. A block may have `shared` bytes of shared memory.
fn load(name: &str, capability: (i32, i32), build: &str, shared: i32) -> Result<(Modules, Vec<sys::CUfunction>)> {
    let images = images(IMAGES, build, capability);
    let mut loaded = Modules(Vec::with_capacity(images.len()));
    let modules = &mut loaded.0;
    let mut functions = Vec::with_capacity(KERNELS.len());
    for kernel in KERNELS {
        if !kernel.builds.contains(&build) {
            functions.push(ptr::null_mut());
            continue;
        }
        let Some(at) = images.iter().position(|image| image.file == kernel.file) else {
            return Err(Error::Machine(no_image(name, capability)));
        };
        while modules.len() <= at {
            let image = images[modules.len()];
            // A program's bytes start anywhere; an ELF file's tables want to be aligned.
            let mut words = vec![0u64; image.cubin.len().div_ceil(8)];
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..image.cubin.len()].copy_from_slice(image.cubin);
            // SAFETY: the image is a whole cubin, as nvcc wrote it.
            let module = unsafe { result::module::load_data(words.as_ptr().cast()) };
            modules.push(module.map_err(cause(&format!("kernels/{}.cu", image.file)))?);
        }
        let symbol = CString::new(kernel.name).expect("a C identifier has no NUL");
        // SAFETY: the module was loaded above.
        let function = unsafe { result::module::get_function(modules[at], symbol) }.map_err(cause(kernel.name))?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function was loaded above.
        let fixed = unsafe { result::function::get_function_attribute(function, attribute) }.map_err(cause(kernel.name))?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        unsafe { result::function::set_function_attribute(function, attribute, shared - fixed) }.map_err(cause(kernel.name))?;
        functions.push(function);
    }
    Ok((loaded, functions))
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.bind()?;
        self.memory.allocate(bytes)
    }

    fn release(&self, pointer: Pointer) {
        // A failure to bind shows at the next launch.
        let _ = self.bind();
        self.memory.release(pointer);
    }

    fn upload(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.bind()?;
        let mut staging = lock(&self.staging);
        for (i, part) in from.chunks(STAGING).enumerate() {
            if staging.used + part.len() > STAGING {
                // Everything before has to have left the pinned memory.
                self.synchronise()?;
                staging.used = 0;
            }
            // SAFETY: the pinned memory has room for the part from `used` on, and nobody touches that until the next wait.
            let pinned = unsafe {
                let place = staging.memory.add(staging.used);
                place.copy_from_nonoverlapping(part.as_ptr(), part.len());
                std::slice::from_raw_parts(place, part.len())
            };
            let to = to + (i * STAGING) as u64;
            // SAFETY: `to` has room for it, as the caller's buffer is as long as `from`.
            unsafe { result::memcpy_htod_async(to, pinned, self.stream.cu_stream()) }.map_err(cause("cuMemcpyHtoDAsync"))?;
            staging.used += part.len().next_multiple_of(16);
        }
        Ok(())
    }

    fn download(&self, parts: &mut [(&mut [u8], Pointer)]) -> Result<()> {
        self.bind()?;
        // First the wait, whose error says what may have failed; a copy to pageable memory would wait too, and say nothing.
        let mut staging = lock(&self.staging);
        self.synchronise()?;
        staging.used = 0;
        for (to, from) in parts.iter_mut().filter(|(to, _)| !to.is_empty()) {
            // SAFETY: the caller's buffer is as long, and the wait below comes after the copy.
            unsafe { result::memcpy_dtoh_async(to, *from, self.stream.cu_stream()) }.map_err(cause("cuMemcpyDtoHAsync"))?;
        }
        self.stream.synchronize().map_err(cause("cuStreamSynchronize"))
    }

    fn copy(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked both ranges.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.launches()) }.map_err(cause("cuMemcpyDtoDAsync"))
    }

    fn clear(&self, to: Pointer, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked the range.
        unsafe { result::memset_d8_async(to, 0, bytes, self.launches()) }.map_err(cause("cuMemsetD8Async"))
    }

    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        self.bind()?;
        let Kernel { name, threads, .. } = KERNELS[kernel];
        assert!(!self.functions[kernel].is_null(), "{name} is no kernel of this build");
        let [x, y, z] = grid.blocks;
        let stream = self.launches();
        // SAFETY: the generated launcher gives the arguments that the kernel declares, and its caller checked the extents.
        unsafe { result::launch_kernel(self.functions[kernel], (x, y, z), (threads, 1, 1), grid.shared, stream, arguments) }
            .map_err(cause(name))?;
        self.last.store(kernel, Ordering::Relaxed);
        match self.wait {
            true => self.stream.synchronize().map_err(cause(name)),
            false => Ok(()),
        }
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        self.bind()?;
        use sys::{CUtensorMapDataType_enum as Type, CUtensorMapSwizzle_enum as Swizzle};
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // One step in the tensor is one step in the box.
        let steps = [1u32; 3];
        // SAFETY: the arrays have as many numbers as the tensor has extents, and the map is written before it is read.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                if tensor.wide { Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 } else { Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 },
                tensor.extents.len() as u32,
                tensor.base as *mut c_void,
                tensor.extents.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                if tensor.swizzle { Swizzle::CU_TENSOR_MAP_SWIZZLE_128B } else { Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE },
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(cause(&format!("cuTensorMapEncodeTiled of {tensor:?}")))?;
        Ok(TensorMap(map.opaque))
    }

    fn matmul(&self, product: &Matmul) -> Result<()> {
        self.bind()?;
        self.blas.matmul(product, self.workspace, self.launches().cast())?;
        self.last.store(usize::MAX, Ordering::Relaxed);
        match self.wait {
            true => self.stream.synchronize().map_err(cause("cublasLtMatmul")),
            false => Ok(()),
        }
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.bind()?;
        // SAFETY: a plain allocation, freed in `unpin`.
        let memory = unsafe { result::malloc_host(bytes, 0) };
        Ok(memory.map_err(cause(&format!("cuMemHostAlloc of {bytes} bytes")))?.cast())
    }

    unsafe fn unpin(&self, memory: *mut u8, _: usize) {
        // A copy out of it may still be under way. Nothing can be done about a failure here.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: `pin` gave it, and no copy reads it any more.
        let _ = unsafe { result::free_host(memory.cast()) };
    }

    fn upload_pinned(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's buffer is as long, and the pinned memory stays as it is until `unpin`, which waits.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }.map_err(cause("cuMemcpyHtoDAsync"))
    }

    fn mark(&self) -> Result<Option<Mark>> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(cause("cuEventCreate"))?;
        // SAFETY: the event was just made, and the stream is this context's.
        unsafe { result::event::record(event, self.stream.cu_stream()) }.map_err(cause("cuEventRecord"))?;
        Ok(Some(event as Mark))
    }

    fn read_marks(&self, marks: Vec<Mark>) -> Result<Vec<f64>> {
        self.bind()?;
        self.synchronise()?;
        let mut seconds = Vec::with_capacity(marks.len());
        let mut total = 0.0;
        for (i, mark) in marks.iter().enumerate() {
            if i > 0 {
                let (before, here) = (marks[i - 1] as sys::CUevent, *mark as sys::CUevent);
                // SAFETY: both are events that `mark` recorded, and the wait above came behind them.
                let milliseconds = unsafe { result::event::elapsed(before, here) }.map_err(cause("cuEventElapsedTime"))?;
                total += f64::from(milliseconds) / 1e3;
            }
            seconds.push(total);
        }
        for mark in marks {
            // SAFETY: `mark` made it, and its caller gave it up.
            unsafe { result::event::destroy(mark as sys::CUevent) }.map_err(cause("cuEventDestroy"))?;
        }
        Ok(seconds)
    }

    unsafe fn download_pinned(&self, parts: &[(*mut u8, Pointer, usize)]) -> Result<Wait> {
        self.bind()?;
        for (to, from, bytes) in parts.iter().filter(|(.., bytes)| *bytes > 0) {
            // SAFETY: the caller's memory has room, and is left alone until the copy has been waited for.
            let to = unsafe { std::slice::from_raw_parts_mut(*to, *bytes) };
            // SAFETY: as above.
            unsafe { result::memcpy_dtoh_async(to, *from, self.stream.cu_stream()) }.map_err(cause("cuMemcpyDtoHAsync"))?;
        }
        let event = self.stream.record_event(None).map_err(cause("cuEventRecord"))?;
        let last = self.last.load(Ordering::Relaxed);
        Ok(Box::new(move || event.synchronize().map_err(|error| failed(last, error))))
    }

    /// A wait cannot be recorded.
    fn records(&self) -> bool {
        !self.wait
    }

    fn record(&self) -> Result<()> {
        self.bind()?;
        // What other threads do meanwhile, to this GPU or another, is no part of it.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this GPU's, and nothing is recorded in it now.
        unsafe { result::stream::begin_capture(self.recorder.cu_stream(), mode) }.map_err(cause("cuStreamBeginCapture"))?;
        *lock(&self.recording) = Some(thread::current().id());
        Ok(())
    }

    fn recorded(&self) -> Result<u64> {
        *lock(&self.recording) = None;
        self.bind()?;
        // SAFETY: `record` began it, in this thread.
        let graph = unsafe { result::stream::end_capture(self.recorder.cu_stream()) }.map_err(cause("cuStreamEndCapture"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was made above; it is not needed any more once it can be launched.
        let launchable = unsafe {
            let made = result::graph::instantiate(graph, flags).map_err(cause("cuGraphInstantiate"));
            result::graph::destroy(graph).map_err(cause("cuGraphDestroy")).and(made)
        }?;
        Ok(launchable as u64)
    }

    fn replay(&self, recording: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: `recorded` made it, and it is not forgotten yet.
        unsafe { result::graph::launch(recording as sys::CUgraphExec, self.stream.cu_stream()) }.map_err(cause("cuGraphLaunch"))
    }

    fn forget(&self, recording: u64) {
        // It may still run. Nothing can be done about a failure here.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: `recorded` made it, and nothing launches it any more.
        let _ = unsafe { result::graph::exec_destroy(recording as sys::CUgraphExec) };
    }

    fn gpu(&self) -> Option<&Gpu> {
        Some(self)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // What the fields give up in their own `drop` wants this context, and nothing running. Nothing can be done about a failure
        // here, and the process usually ends.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        self.memory.release(self.workspace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_runs_its_own_images_and_plain_ones_of_its_major_version() {
        let image = |file, build, architecture| Image { file, build, architecture, cubin: &[] };
        let all = [
            image("rope", "bf16", "sm_80"),
            image("rope", "bf16", "sm_86"),
            image("rope", "f32", "sm_90a"),
            image("rope", "bf16", "sm_90"),
            image("rope", "bf16", "sm_90a"),
            image("rows", "bf16", "sm_90"),
        ];
        let chosen = |build, capability| {
            let images = images(&all, build, capability);
            images.into_iter().map(|image| (image.file, image.architecture)).collect::<Vec<_>>()
        };
        assert_eq!(chosen("bf16", (9, 0)), [("rope", "sm_90a"), ("rows", "sm_90")]);
        assert_eq!(chosen("bf16", (8, 9)), [("rope", "sm_86")]);
        assert_eq!(chosen("bf16", (8, 0)), [("rope", "sm_80")]);
        assert_eq!(chosen("f32", (9, 0)), [("rope", "sm_90a")]);
        assert_eq!(chosen("f32", (10, 0)), []);
    }

    #[test]
    fn a_driver_of_an_earlier_major_version_than_the_compiler_is_too_old() {
        assert_eq!(too_old((13, 0), "13.2.51"), None);
        assert_eq!(too_old((14, 1), "13.0.88"), None);
        let why = too_old((12, 8), "13.0.88").unwrap();
        assert!(why.starts_with("the NVIDIA driver supports CUDA 12.8, and ") && why.ends_with("CUDA 13.0 or later"), "{why}");
    }
}
