//! Philox 4x32-10, a counter-based generator: the same stream on every device, addressed by position, so resuming is exact.
//!
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use serde::{Deserialize, Serialize};

/// Ten rounds of Philox 4x32: four words that depend on nothing but `counter` and `key`.
pub fn philox(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ k0, b as u32, (a >> 32) as u32 ^ counter[3] ^ k1, a as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter
}

/// A word as a number in [0, 1) with 24 bits, exact in f32: what every device computes.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A key of its own for each purpose and index under one seed, so that no two parts of a run share a stream.
pub fn key(seed: u64, purpose: &str, index: u64) -> u64 {
    // FNV-1a over the purpose, then Philox as the mixing function.
    let name = purpose.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let [a, b, ..] = philox([index as u32, (index >> 32) as u32, name as u32, (name >> 32) as u32], seed);
    u64::from(a) | u64::from(b) << 32
}

/// A sequential reader of one Philox stream. Its whole state is a key and a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    key: u64,
    position: u64,
}

impl Rng {
    /// The stream of `purpose` and `index` under `seed`.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Rng {
        Rng { key: key(seed, purpose, index), position: 0 }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        let block = self.position / 4;
        let words = philox([block as u32, (block >> 32) as u32, 0, 0], self.key);
        let word = words[(self.position % 4) as usize];
        self.position += 1;
        word
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn unit(&mut self) -> f32 {
        unit(self.word())
    }

    /// Uniform in `0..n`; `n` must not be 0. The bias is below 2^-32.
    pub fn below(&mut self, n: usize) -> usize {
        let word = u64::from(self.word()) << 32 | u64::from(self.word());
        ((u128::from(word) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        f64::from(self.unit()) < p
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A standard normal number (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt();
        radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123 1.14 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, 0x299f_31d0_a409_3822), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn a_stream_goes_on_where_its_saved_state_stood() {
        let mut rng = Rng::new(17, "order", 3);
        for _ in 0..7 {
            rng.word();
        }
        let mut copy: Rng = serde_json::from_str(&serde_json::to_string(&rng).unwrap()).unwrap();
        assert_eq!((0..9).map(|_| rng.word()).collect::<Vec<_>>(), (0..9).map(|_| copy.word()).collect::<Vec<_>>());
    }

    #[test]
    fn purposes_and_indices_have_streams_of_their_own() {
        let first = |purpose, index| Rng::new(1, purpose, index).word();
        assert_ne!(first("order", 0), first("order", 1));
        assert_ne!(first("order", 0), first("dropout", 0));
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<usize> = (0..50).collect();
        Rng::new(2, "order", 0).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
