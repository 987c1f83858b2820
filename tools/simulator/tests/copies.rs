//! Tiles and bulk copies. A tile lies in shared memory with its box's innermost extent closest; under a swizzle of S bytes the 16-byte
//! piece at address bits 4 and up is xor-ed with the bits from 7 on: three of them for 128 bytes, two for 64, one for 32.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg, Arg::*, ORDERS, Probe, download, fresh, upload};
use simulator::{Element, Memory, Swizzle, TensorMap, Tiled};

/// A tensor of f32 whose element (x, y, z) is z * 10000 + y * 100 + x, rows padded by four elements that hold -1.
struct Tensor {
    data: *mut u8,
    extents: [u64; 3],
}

impl Tensor {
    fn new(memory: &Memory, extents: [u64; 3]) -> Self {
        let [width, height, depth] = extents;
        let pitch = width + 4;
        let element = |i: u64| {
            if i % pitch < width { (i / pitch / height * 10_000 + i / pitch % height * 100 + i % pitch) as f32 } else { -1.0 }
        };
        let data: Vec<f32> = (0..pitch * height * depth).map(element).collect();
        Tensor { data: upload(memory, &data), extents }
    }

    fn map(&self, rank: usize, tile: &[u32], swizzle: Swizzle) -> Arg {
        let pitch = (self.extents[0] + 4) * 4;
        let strides = [pitch, pitch * self.extents[1]];
        let (extents, strides) = (&self.extents[..rank], &strides[..rank - 1]);
        Map(Box::new(TensorMap::new(&Tiled { element: Element::F32, base: self.data, extents, strides, tile, swizzle }).unwrap()))
    }

    /// The element, zero outside.
    fn at(&self, [x, y, z]: [i64; 3]) -> f32 {
        let inside = |at: i64, extent: u64| (0..extent as i64).contains(&at);
        let all = inside(x, self.extents[0]) && inside(y, self.extents[1]) && inside(z, self.extents[2]);
        if all { (z * 10_000 + y * 100 + x) as f32 } else { 0.0 }
    }
}

/// Where byte `at` of a tile lies, for a tile that begins at a multiple of 1024.
fn place(at: usize, swizzle: Swizzle) -> usize {
    let bits = match swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => 0b1,
        Swizzle::B64 => 0b11,
        Swizzle::B128 => 0b111,
    };
    at ^ ((at >> 7 & bits) << 4)
}

const SWIZZLES: [(Swizzle, u32); 4] = [(Swizzle::None, 12), (Swizzle::B32, 8), (Swizzle::B64, 16), (Swizzle::B128, 32)];

#[test]
fn tiles_are_loaded_with_their_swizzle_and_zeros_outside() {
    let memory = Memory::new();
    let tensor = Tensor::new(&memory, [40, 9, 3]);
    for (swizzle, width) in SWIZZLES {
        for (rank, tile) in [(2, vec![width, 16]), (3, vec![width, 5, 2])] {
            // Inside, over the far edges, over the near ones, nowhere.
            for [x, y, z] in [[4, 0, 0], [36, 3, 2], [-3, -2, -1], [100, 0, 0], [0, 0, 5]] {
                let words: u32 = tile.iter().product();
                let out = fresh::<f32>(&memory, words as usize);
                let map = tensor.map(rank, &tile, swizzle);
                let mut args = vec![Pointer(out), map, Int(words as i32), Int((rank == 3).into()), Int(x), Int(y), Int(z)];
                let probe = Probe { dynamic: words as usize * 4, threads: 64, ..Probe::new("probe_tile_load") };
                probe.run(&mut args, (x + 3 * y + 3) as u64).unwrap();
                let seen = download::<f32>(out, words as usize);
                for i in 0..words {
                    let (dx, row) = (i % width, i / width);
                    let (dy, dz) = (row % tile[1], row / tile[1]);
                    let depth = if rank == 3 { i64::from(z) + i64::from(dz) } else { 0 };
                    let want = tensor.at([i64::from(x) + i64::from(dx), i64::from(y) + i64::from(dy), depth]);
                    let at = place(i as usize * 4, swizzle) / 4;
                    assert_eq!(
                        seen[at], want,
                        "{swizzle:?}, rank {rank}, element ({dx}, {dy}, {dz}) of the box at ({x}, {y}, {z})"
                    );
                }
            }
        }
    }
}

#[test]
fn tiles_are_stored_and_added_where_the_tensor_is() {
    let memory = Memory::new();
    for (swizzle, width) in SWIZZLES {
        for (rank, tile) in [(2, vec![width, 8]), (3, vec![width, 3, 2])] {
            for add in [false, true] {
                for [x, y, z] in [[4, 1, 0], [36, 7, 2], [-3, -2, -1]] {
                    let tensor = Tensor::new(&memory, [40, 9, 3]);
                    let words: u32 = tile.iter().product();
                    let value = |i: u32| 0.5 + i as f32;
                    let mut image = vec![0f32; words as usize];
                    (0..words).for_each(|i| image[place(i as usize * 4, swizzle) / 4] = value(i));
                    let (inp, map) = (upload(&memory, &image), tensor.map(rank, &tile, swizzle));
                    let flags = [Int(words as i32), Int((rank == 3).into()), Int(add.into())];
                    let mut args: Vec<Arg> =
                        [Pointer(inp), map].into_iter().chain(flags).chain([Int(x), Int(y), Int(z)]).collect();
                    let probe = Probe { dynamic: words as usize * 4, threads: 64, ..Probe::new("probe_tile_store") };
                    probe.run(&mut args, (x + 4) as u64).unwrap();
                    let after = download::<f32>(tensor.data, 44 * 9 * 3);
                    for (i, seen) in after.iter().enumerate() {
                        let [at_x, at_y, at_z] = [i % 44, i / 44 % 9, i / 44 / 9].map(|at| at as i32);
                        let before = if at_x < 40 { tensor.at([at_x, at_y, at_z].map(i64::from)) } else { -1.0 };
                        let [dx, dy] = [at_x - x, at_y - y].map(|d| d as u32);
                        let dz = if rank == 3 { (at_z - z) as u32 } else { at_z as u32 };
                        let depth = if rank == 3 { tile[2] } else { 1 };
                        let hit = at_x < 40 && dx < width && dy < tile[1] && dz < depth;
                        let new = value(dx.wrapping_add(dy.wrapping_add(dz.wrapping_mul(tile[1])).wrapping_mul(width)));
                        let want = if hit { if add { before + new } else { new } } else { before };
                        assert_eq!(
                            *seen, want,
                            "{swizzle:?}, rank {rank}, add {add}, box at ({x}, {y}, {z}): ({at_x}, {at_y}, {at_z})"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bulk_copies_read_before_their_source_is_reused() {
    let memory = Memory::new();
    let inp: Vec<f32> = (0..256).map(|i| i as f32).collect();
    for order in ORDERS {
        let (out, sums) = (fresh::<f32>(&memory, 256), upload(&memory, &[1000f32; 256]));
        Probe::new("probe_bulk").run(&mut [Pointer(out), Pointer(sums), Pointer(upload(&memory, &inp))], order).unwrap();
        assert_eq!(download::<f32>(out, 256), inp);
        assert!(download::<f32>(sums, 256).iter().zip(&inp).all(|(sum, x)| *sum == 1000.0 + x));
    }
}

#[test]
fn copies_that_nobody_waits_for_show() {
    let memory = Memory::new();
    let words: Vec<u32> = (0..32).collect();
    let inp = upload(&memory, &words);
    let run = |what: i32, order: u64| {
        let out = fresh::<u32>(&memory, 32);
        (Probe::new("fault_hasty").run(&mut [Pointer(out), Pointer(inp), Int(what)], order), download::<u32>(out, 32))
    };
    let (done, seen) = run(0, 0);
    done.unwrap();
    assert_eq!(seen, [u32::MAX; 32], "the load is as late as it can be, so what is read too early is poison");
    for order in 0..4 {
        let left = run(1, order).0.unwrap_err();
        assert!(left.what.contains("no bulk_wait or bulk_wait_read follows"), "{left}");
    }
    // In other orders it may come in time by chance, as on the machine.
    let late = run(3, 0).0.unwrap_err();
    assert!(late.what.contains("load started here was still under way"), "{late}");
    let (done, seen) = run(2, 0);
    done.unwrap();
    assert_eq!(seen, [100; 32], "the store is as late as it can be, so it stores what overwrote its source");
}

#[test]
fn maps_that_the_driver_would_refuse_are_refused() {
    let good = Tiled {
        element: Element::F32,
        base: 256 as *mut u8,
        extents: &[40, 9],
        strides: &[176],
        tile: &[32, 8],
        swizzle: Swizzle::B128,
    };
    TensorMap::new(&good).unwrap();
    let refused = |tensor: Tiled<'_>| TensorMap::new(&tensor).unwrap_err();
    assert!(refused(Tiled { base: 8 as *mut u8, ..good }).contains("multiple of 16, found 0x8"));
    assert!(refused(Tiled { strides: &[168], ..good }).contains("found 168"));
    assert!(refused(Tiled { strides: &[], ..good }).contains("found (2, 0, 2)"));
    assert!(refused(Tiled { extents: &[40, 0], ..good }).contains("found 0"));
    assert!(refused(Tiled { tile: &[32, 257], ..good }).contains("found 257"));
    assert!(refused(Tiled { tile: &[16, 8], ..good }).contains("its 128 bytes, found 64 bytes"));
    assert!(refused(Tiled { tile: &[3, 8], swizzle: Swizzle::None, ..good }).contains("found 12 bytes"));
}
