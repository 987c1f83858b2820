//! The product of a warpgroup. Each warp's sixteen rows are multiplied at a moment between the issue and the wait for it; until then the
//! accumulators hold NaN, so that whoever touches them early sees it.

use crate::{
    fault::Place,
    machine::{LANES, Thread, WARPS, fail},
    shared::WINDOW,
    tensor_map::swizzled,
    traffic, warp,
};
use std::ffi::{c_char, c_void};

/// K of one instruction.
const K: usize = 16;
/// Threads of a warpgroup.
const GROUP: usize = 128;

/// `SimulatorWgmma` of host/simulator.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    d: *mut f32,
    a_registers: *const [u32; 4],
    a: u64,
    b: u64,
    n: i32,
    major_a: i32,
    major_b: i32,
    accumulate: i32,
}

/// A product that a warp has issued.
struct Product {
    request: Request,
    place: Place,
    a_registers: [[u32; 4]; LANES],
    /// Lanes that have issued it.
    arrived: u32,
    group: u64,
    /// Which accumulators it adds to, by number.
    accumulators: u64,
    done: bool,
}

/// The true values of accumulators that products under way add to.
struct Accumulators {
    number: u64,
    d: [*mut f32; LANES],
    held: u32,
    values: Vec<[f32; LANES]>,
    products: usize,
}

/// What a warp has under way.
#[derive(Default)]
pub(crate) struct Products {
    queue: Vec<Product>,
    accumulators: Vec<Accumulators>,
    /// Products that have left the queue, and accumulators that were ever taken.
    gone: u64,
    taken: u64,
}

impl Products {
    /// Where the oldest product under way was issued.
    pub fn oldest(&self) -> Option<Place> {
        self.queue.first().map(|product| product.place)
    }

    pub fn clear(&mut self) {
        *self = Products::default();
    }
}

/// Where a lane stands among the products of its warp.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Issued {
    fenced: bool,
    products: u64,
    groups: u64,
}

/// An operand in shared memory, from its descriptor.
struct Operand {
    start: usize,
    lead: usize,
    stride: usize,
    span: u32,
    mn_major: bool,
    window: *const u8,
}

impl Operand {
    fn new(descriptor: u64, major: i32, window: *const u8) -> Self {
        let field = |at: u32| ((descriptor >> at & 0x3FFF) << 4) as usize;
        // None, 128, 64 and 32 bytes.
        let span = [16, 128, 64, 32][(descriptor >> 62) as usize];
        Operand { start: field(0), lead: field(16), stride: field(32), span, mn_major: major != 0, window }
    }

    /// Eight neighbouring elements: along k from (row, k), or along m or n where rows run that way.
    unsafe fn piece(&self, row: usize, k: usize) -> Result<[f32; 8], String> {
        let (span, swizzles) = (self.span as usize, self.span > 16);
        let offset = match (self.mn_major, swizzles) {
            (false, false) => row / 8 * self.stride + k / 8 * self.lead + row % 8 * 16,
            (false, true) => row / 8 * self.stride + row % 8 * span + k * 2,
            (true, false) => row / 8 * self.stride + k / 8 * self.lead + k % 8 * 16,
            (true, true) => row / (span / 2) * self.lead + row % (span / 2) * 2 + k / 8 * self.stride + k % 8 * span,
        };
        let address = swizzled(self.start + offset, self.span);
        if address + 16 > WINDOW {
            return Err(format!("wgmma reads byte {address} of shared memory, which ends at {WINDOW}"));
        }
        // SAFETY: within the window; descriptors have addresses that are multiples of 16.
        let bits = unsafe { *self.window.add(address).cast::<[u16; 8]>() };
        Ok(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }

    /// `rows` rows from `first` on by sixteen of k, as [k][row].
    unsafe fn read(&self, first: usize, rows: usize, out: &mut [[f32; 256]; K]) -> Result<(), String> {
        for row in (0..rows).step_by(8) {
            for k in (0..K).step_by(8) {
                for within in 0..8 {
                    // SAFETY: as in `piece`.
                    unsafe {
                        if self.mn_major {
                            out[k + within][row..row + 8].copy_from_slice(&self.piece(first + row, k + within)?);
                        } else {
                            let piece = self.piece(first + row + within, k)?;
                            piece.iter().enumerate().for_each(|(at, x)| out[k + at][row + within] = *x);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A descriptor of an operand in the block's shared memory, with the fields of the PTX ISA.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_descriptor(
    thread: *mut Thread,
    start: *const u8,
    lead: u32,
    stride: u32,
    swizzle: u32,
    file: *const c_char,
    line: i32,
) -> u64 {
    // SAFETY: the running thread's block is live.
    unsafe {
        let offset = (start as usize).wrapping_sub((*(*thread).block).shared as usize);
        if offset >= WINDOW || !offset.is_multiple_of(16) || !lead.is_multiple_of(16) || !stride.is_multiple_of(16) {
            let what = format!(
                "a matrix descriptor of {start:p}, {lead}, {stride}: expected shared memory and distances in multiples of 16"
            );
            fail(thread, Place { file, line }, what);
        }
        let field = |bytes: u64| (bytes & 0x3_FFFF) >> 4;
        field(offset as u64) | field(u64::from(lead)) << 16 | field(u64::from(stride)) << 32 | u64::from(swizzle) << 62
    }
}

/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_wgmma_fence(thread: *mut Thread) {
    // SAFETY: the running thread is live.
    unsafe { (*thread).issued.fenced = true }
}

/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_wgmma_commit(thread: *mut Thread) {
    // SAFETY: the running thread is live.
    unsafe { (*thread).issued.groups += 1 }
}

/// Issues a product: the lane's part of it.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_wgmma(thread: *mut Thread, request: *const Request, file: *const c_char, line: i32) {
    let place = Place { file, line };
    // SAFETY: the running thread, its warp and machine are live.
    unsafe {
        if let Err(what) = issue(thread, *request, place) {
            fail(thread, place, what);
        }
    }
}

unsafe fn issue(thread: *mut Thread, request: Request, place: Place) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (lane, number) = ((*thread).lane as usize, (*thread).index.x as usize);
        if (number / GROUP + 1) * GROUP > (*(*thread).block).extent.x as usize {
            return Err("wgmma in a warpgroup that is not whole".to_string());
        }
        if !(*thread).issued.fenced {
            return Err("wgmma without wgmma_fence since the thread began or last waited".to_string());
        }
        let products = &mut (*(*thread).warp).products;
        let at = ((*thread).issued.products - products.gone) as usize;
        (*thread).issued.products += 1;
        let numbered = products.hold(lane, request);
        if at == products.queue.len() {
            let group = (*thread).issued.groups;
            let a_registers = [[0; 4]; LANES];
            products.queue.push(Product { request, place, a_registers, arrived: 0, group, accumulators: numbered, done: false });
            if let Some(own) = products.accumulators.iter_mut().find(|own| own.number == numbered) {
                own.products += 1;
            }
        }
        let product = &mut products.queue[at];
        let (first, same) =
            (&product.request, |a: &Request| (a.a, a.b, a.n, a.major_a, a.major_b, a.accumulate != 0, a.a_registers.is_null()));
        if same(first) != same(&request) || product.group != (*thread).issued.groups || product.place != place {
            return Err(format!("wgmma with other operands than another lane of the warp gave at {}", product.place));
        }
        if product.accumulators != numbered {
            return Err("wgmma with other accumulators than another lane of the warp gave".to_string());
        }
        if !request.a_registers.is_null() {
            product.a_registers[lane] = *request.a_registers;
        }
        product.arrived |= 1 << lane;
        let order = &mut (*(*(*thread).block).machine).order;
        if product.arrived == u32::MAX && !order.natural() && order.chance(2) == 0 {
            let window = (*(*thread).block).shared;
            products.perform(at + 1, (*thread).number / LANES % WARPS, window)?;
        }
        Ok(())
    }
}

impl Products {
    /// Takes a lane's accumulators out of its hands, unless products under way have them already. Their number.
    unsafe fn hold(&mut self, lane: usize, request: Request) -> u64 {
        let registers = request.n as usize / 2;
        if let Some(own) = self.accumulators.iter().find(|own| own.held >> lane & 1 == 1 && own.d[lane] == request.d) {
            return own.number;
        }
        // Another lane of the warp may have come with its part of the same ones.
        let at = self.accumulators.iter().position(|own| own.held >> lane & 1 == 0 && own.values.len() == registers);
        let at = at.unwrap_or_else(|| {
            self.taken += 1;
            let values = vec![[0.0; LANES]; registers];
            let number = self.taken;
            self.accumulators.push(Accumulators { number, d: [std::ptr::null_mut(); LANES], held: 0, values, products: 0 });
            self.accumulators.len() - 1
        });
        let own = &mut self.accumulators[at];
        own.held |= 1 << lane;
        own.d[lane] = request.d;
        for (register, values) in own.values.iter_mut().enumerate() {
            // SAFETY: the lane's accumulators, N / 2 of them.
            unsafe {
                values[lane] = *request.d.add(register);
                *request.d.add(register) = f32::NAN;
            }
        }
        own.number
    }

    /// Multiplies the first `count` products of the queue that were not yet, for the warp that is `warp` of its block.
    unsafe fn perform(&mut self, count: usize, warp: usize, window: *const u8) -> Result<(), String> {
        let Products { queue, accumulators, .. } = self;
        for product in queue[..count].iter_mut().filter(|product| !product.done) {
            let own =
                accumulators.iter_mut().find(|own| own.number == product.accumulators).ok_or("wgmma without accumulators")?;
            // SAFETY: the operands lie in the window.
            unsafe { multiply(product, own, warp % 4 * 16, window)? };
            product.done = true;
        }
        Ok(())
    }

    /// Returns the accumulators that no product under way adds to any more.
    unsafe fn hand_back(&mut self, count: usize) {
        for product in self.queue.drain(..count) {
            let own = self.accumulators.iter_mut().find(|own| own.number == product.accumulators);
            own.into_iter().for_each(|own| own.products -= 1);
            self.gone += 1;
        }
        self.accumulators.retain(|own| {
            if own.products == 0 {
                for (register, values) in own.values.iter().enumerate() {
                    // SAFETY: the lanes' accumulators, still theirs: each waits in this warp's step.
                    (0..LANES).for_each(|lane| unsafe { *own.d[lane].add(register) = values[lane] });
                }
            }
            own.products > 0
        });
    }
}

/// D += A B for a warp's sixteen rows from `first` on. Sixteen products are added to each element in f32 in the order of k; the tensor
/// core's own order and the width of its intermediate sums are not documented.
unsafe fn multiply(product: &Product, own: &mut Accumulators, first: usize, window: *const u8) -> Result<(), String> {
    let Request { a, b, n, major_a, major_b, accumulate, a_registers, .. } = product.request;
    let n = n as usize;
    traffic::product((2 * 16 * n * K) as u64);
    let (mut left, mut right) = ([[0f32; 256]; K], [[0f32; 256]; K]);
    // SAFETY: as in `piece`.
    unsafe {
        if a_registers.is_null() {
            Operand::new(a, major_a, window).read(first, 16, &mut left)?;
        } else {
            for (lane, registers) in product.a_registers.iter().enumerate() {
                for (register, word) in registers.iter().enumerate() {
                    let (row, k) = (lane / 4 + register % 2 * 8, lane % 4 * 2 + register / 2 * 8);
                    [left[k][row], left[k + 1][row]] = warp::halves(*word);
                }
            }
        }
        Operand::new(b, major_b, window).read(0, n, &mut right)?;
    }
    for row in 0..16 {
        let (group, half) = (row % 8, row / 8);
        let mut sums = [0f32; 256];
        let place = |column: usize| (column / 8 * 4 + half * 2 + column % 2, group * 4 + column % 8 / 2);
        if accumulate != 0 {
            for (column, sum) in sums[..n].iter_mut().enumerate() {
                let (register, lane) = place(column);
                *sum = own.values[register][lane];
            }
        }
        for (left, right) in left.iter().zip(&right) {
            let x = left[row];
            sums[..n].iter_mut().zip(&right[..n]).for_each(|(sum, y)| *sum += x * y);
        }
        for (column, sum) in sums[..n].iter().enumerate() {
            let (register, lane) = place(column);
            own.values[register][lane] = *sum;
        }
    }
    Ok(())
}

/// Returns when at most `pending` of the committed groups are under way: a step of the whole warp.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_wgmma_wait(thread: *mut Thread, pending: u32, file: *const c_char, line: i32) {
    let mut pending = pending;
    // SAFETY: as the caller promises; the payload lives until the step is done.
    unsafe {
        (*thread).issued.fenced = false;
        warp::step(thread, warp::WGMMA_WAIT, u32::MAX, (&raw mut pending).cast::<c_void>(), Place { file, line });
    }
}

/// The wait, when every lane of the warp has come to it.
///
/// # Safety
/// `first` is the warp's lane 0, and every lane waits in the step.
pub(crate) unsafe fn wait(first: *mut Thread, pending: u32) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let products = &mut (*(*first).warp).products;
        for lane in 0..LANES {
            let issued = (*first.add(lane)).issued;
            if (issued.products, issued.groups) != ((*first).issued.products, (*first).issued.groups) {
                let (one, other) = ((*first).issued, issued);
                return Err(format!(
                    "wgmma_wait after {} products in {} groups in lane {lane}, but {} in {} in lane 0",
                    other.products, other.groups, one.products, one.groups
                ));
            }
        }
        let left = (*first).issued.groups.saturating_sub(u64::from(pending));
        let count = products.queue.iter().take_while(|product| product.group < left).count();
        products.perform(count, (*first).number / LANES % WARPS, (*(*first).block).shared)?;
        products.hand_back(count);
        Ok(())
    }
}
