//! Which thread runs next. Threads change places only where they wait, so the orders tried here are those of the stretches between.

use crate::machine::{CLUSTER, LANES, WARPS};

const ALL: usize = CLUSTER * WARPS;

/// How the next thread is chosen among those that can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Policy {
    /// Round and round, upwards.
    #[default]
    Ascending,
    /// Round and round, downwards.
    Descending,
    /// Anyone.
    Scattered,
    /// One warp as far as it gets, lane after lane, then another: what reads too late or writes too early shows.
    Ahead,
}

/// The threads that can run, as bits, and the policy that draws from them.
#[derive(Debug, Default)]
pub(crate) struct Order {
    policy: Policy,
    state: u64,
    ready: Words,
    begun: Words,
    /// Warps with a ready thread.
    warps: u64,
    cursor: usize,
}

/// One bit a thread.
#[derive(Debug)]
struct Words([u32; ALL]);

impl Default for Words {
    fn default() -> Self {
        Words([0; ALL])
    }
}

impl Order {
    /// Order 0 is the natural one; any other number seeds one of three policies, in turn.
    pub fn seed(&mut self, seed: u64) {
        self.policy = match seed {
            0 => Policy::Ascending,
            seed => [Policy::Ahead, Policy::Scattered, Policy::Descending][(seed % 3) as usize],
        };
        self.state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        self.cursor = 0;
        self.clear();
    }

    /// Whether threads run as they come, without chance.
    pub fn natural(&self) -> bool {
        self.policy == Policy::Ascending
    }

    /// Whether a thread can run.
    pub fn any(&self) -> bool {
        self.warps != 0
    }

    /// No thread can run.
    pub fn clear(&mut self) {
        self.ready = Words::default();
        self.warps = 0;
    }

    /// The lanes of a warp can run, from their start.
    pub fn begin(&mut self, warp: usize, lanes: u32) {
        self.begun.0[warp] = 0;
        self.release(warp, lanes);
    }

    /// Lanes of a warp can go on.
    pub fn release(&mut self, warp: usize, lanes: u32) {
        if lanes != 0 {
            self.ready.0[warp] |= lanes;
            self.warps |= 1 << warp;
        }
    }

    /// Whether a thread had begun before it was drawn last; it counts as begun from now on.
    pub fn begun(&mut self, number: usize) -> bool {
        let (word, bit) = (&mut self.begun.0[number / LANES], 1 << (number % LANES));
        let was = *word & bit != 0;
        *word |= bit;
        was
    }

    /// A number below `bound`, from the seed.
    pub fn chance(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound
    }

    /// A step by which a walk around `count` places meets each of them once.
    pub fn stride(&mut self, count: u64) -> u64 {
        let divisor = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        loop {
            let stride = 1 + self.chance(count);
            if divisor(stride, count) == 1 {
                return stride;
            }
        }
    }

    /// Takes one of the threads that can run.
    pub fn draw(&mut self) -> Option<usize> {
        if self.warps == 0 {
            return None;
        }
        let (mut warp, mut lane) = (self.cursor / LANES, self.cursor % LANES);
        match self.policy {
            Policy::Ascending => {}
            Policy::Descending => return Some(self.take_down(warp, lane)),
            Policy::Scattered => {
                let start = self.chance((ALL * LANES) as u64) as usize;
                // A start among warps that have someone ready: most of the numbers belong to none.
                warp = (0..start % self.warps.count_ones() as usize)
                    .fold(self.warps, |warps, _| warps & (warps - 1))
                    .trailing_zeros() as usize;
                lane = start / ALL;
            }
            Policy::Ahead if self.ready.0[warp] != 0 => lane = 0,
            Policy::Ahead => {
                let skip = self.chance(u64::from(self.warps.count_ones())) as usize;
                warp = (0..skip).fold(self.warps, |warps, _| warps & (warps - 1)).trailing_zeros() as usize;
                lane = 0;
            }
        }
        Some(self.take_up(warp, lane))
    }

    /// The first ready thread from a warp's lane on, upwards and around.
    fn take_up(&mut self, warp: usize, lane: usize) -> usize {
        let here = self.ready.0[warp] & (u32::MAX << lane);
        let (warp, lanes) = if here != 0 {
            (warp, here)
        } else {
            let above = self.warps & (u64::MAX << warp << 1);
            let warp = if above != 0 { above } else { self.warps }.trailing_zeros() as usize;
            (warp, self.ready.0[warp])
        };
        self.take(warp, lanes.trailing_zeros() as usize, 1)
    }

    /// The first ready thread from a warp's lane on, downwards and around.
    fn take_down(&mut self, warp: usize, lane: usize) -> usize {
        let here = self.ready.0[warp] & (u32::MAX >> (LANES - 1 - lane));
        let (warp, lanes) = if here != 0 {
            (warp, here)
        } else {
            let below = self.warps & !(u64::MAX << warp);
            let warp = 63 - if below != 0 { below } else { self.warps }.leading_zeros() as usize;
            (warp, self.ready.0[warp])
        };
        self.take(warp, LANES - 1 - lanes.leading_zeros() as usize, ALL * LANES - 1)
    }

    /// Takes a thread and leaves the cursor `step` threads on.
    fn take(&mut self, warp: usize, lane: usize, step: usize) -> usize {
        self.ready.0[warp] &= !(1 << lane);
        if self.ready.0[warp] == 0 {
            self.warps &= !(1 << warp);
        }
        let number = warp * LANES + lane;
        // Running ahead stays with the warp, the others move on.
        self.cursor = if self.policy == Policy::Ahead { number } else { (number + step) % (ALL * LANES) };
        number
    }
}
