//! wgmma.mma_async.m64nNk16 with bf16 against the PTX ISA: the layouts of "Asynchronous Warpgroup Level Matrix Shared Memory Layout" in
//! their CuTe form, the fragments of "Register Fragments and Shared Memory Matrix Layouts". Elements are small whole numbers, so every
//! sum is exact whatever its order.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, ORDERS, Probe, bf16, download, fresh, upload};
use simulator::Memory;

/// Elements in 128 bits.
const T: usize = 8;
const K: usize = 16;

fn a(m: usize, k: usize) -> f32 {
    ((m * 5 + k * 3) % 17) as f32 - 8.0
}

fn b(k: usize, n: usize) -> f32 {
    ((k * 7 + n * 2) % 13) as f32 - 6.0
}

/// A swizzle as the descriptor's two bits name it, with its span in bytes and the number of address bits that it xors.
#[derive(Clone, Copy)]
struct Swizzle {
    name: i32,
    span: usize,
    bits: u32,
}

const SWIZZLES: [Swizzle; 4] = [
    Swizzle { name: 0, span: 16, bits: 0 },
    Swizzle { name: 1, span: 128, bits: 3 },
    Swizzle { name: 2, span: 64, bits: 2 },
    Swizzle { name: 3, span: 32, bits: 1 },
];

/// An operand's place in the image of shared memory.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    lead: usize,
    stride: usize,
    mn_major: bool,
    swizzle: Swizzle,
}

/// A CuTe mode: an index is split by the shape, its first part fastest, and each part has its stride.
fn mode(mut index: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for (extent, stride) in shape.iter().zip(strides) {
        offset += index % extent * stride;
        index /= extent;
    }
    offset
}

const MANY: usize = usize::MAX;

/// The byte of element (mn, k), by the table of canonical layouts; then Swizzle<bits, 4, 3>: address bits from 4 on are xor-ed with those
/// three further up.
fn byte(place: Place, mn: usize, k: usize) -> usize {
    let Place { at, lead, stride, mn_major, swizzle } = place;
    let (lbo, sbo, wide) = (lead / 2, stride / 2, swizzle.span / 16);
    let elements = match (mn_major, swizzle.bits) {
        // ((8, m), (T, 2k)) : ((1T, SBO), (1, LBO))
        (false, 0) => mode(mn, &[8, MANY], &[T, sbo]) + mode(k, &[T, MANY], &[1, lbo]),
        // ((8, m), (T, 2k)) : ((wT, SBO), (1, T)) with w pieces in a span
        (false, _) => mode(mn, &[8, MANY], &[wide * T, sbo]) + mode(k, &[T, MANY], &[1, T]),
        // ((T, 1, m), (8, k)) : ((1, T, SBO), (1T, LBO))
        (true, 0) => mode(mn, &[T, 1, MANY], &[1, T, sbo]) + mode(k, &[8, MANY], &[T, lbo]),
        // ((T, w, m), (8, k)) : ((1, T, LBO), (wT, SBO))
        (true, _) => mode(mn, &[T, wide, MANY], &[1, T, lbo]) + mode(k, &[8, MANY], &[wide * T, sbo]),
    };
    let address = at + elements * 2;
    let mask = ((1usize << swizzle.bits) - 1) << 4;
    address ^ (address >> 3 & mask)
}

/// Lead and stride of an operand of `extent` along m or n that is packed tightly, and its bytes.
fn packed(at: usize, extent: usize, mn_major: bool, swizzle: Swizzle) -> (Place, usize) {
    let span = swizzle.span;
    let (lead, stride, bytes) = match (mn_major, swizzle.bits) {
        // Core matrices of 128 bytes: along m or n first.
        (false, 0) | (true, 0) => (extent / 8 * 128, 128, extent * K * 2),
        // Patterns of eight lines; a line has the span's elements of k, of which the product reads sixteen.
        (false, _) => (0, 8 * span, extent * span),
        // A pattern is span / 2 of m or n by 8 of k; the two along k first.
        (true, _) => (2 * 8 * span, 8 * span, extent.div_ceil(span / 2) * 2 * 8 * span),
    };
    (Place { at, lead, stride, mn_major, swizzle }, bytes)
}

/// Runs a probe with N columns, A in shared memory unless `registers`, in every kind of order.
fn check(kernel: &'static str, n: usize, registers: bool, mn_major: [bool; 2], swizzle: Swizzle, steps: i32, shift: usize) {
    let (mut left, a_bytes) = packed(0, 64, mn_major[0], swizzle);
    let (mut right, b_bytes) = packed(a_bytes.next_multiple_of(1024).max(2048), n, mn_major[1], swizzle);
    // Within a pattern that is wider than sixteen of k, the next sixteen are 32 bytes on.
    (left.at, right.at) = (left.at + shift, right.at + shift);
    let bytes = right.at + b_bytes.next_multiple_of(1024);
    let mut image = vec![0x7FC0u16; bytes / 2];
    for k in 0..K {
        (0..64).for_each(|m| image[byte(left, m, k) / 2] = bf16(a(m, k)));
        (0..n).for_each(|column| image[byte(right, column, k) / 2] = bf16(b(k, column)));
    }
    if registers {
        // A's fragment: register r of thread t, element e: row 16 * warp + lane / 4 + 8 * (r % 2), k = lane % 4 * 2 + e + 8 * (r / 2).
        for (i, element) in image[..128 * 8].iter_mut().enumerate() {
            let (t, r, e) = (i / 8, i / 2 % 4, i % 2);
            let (warp, lane) = (t / 32, t % 32);
            *element = bf16(a(16 * warp + lane / 4 + 8 * (r % 2), lane % 4 * 2 + e + 8 * (r / 2)));
        }
    }
    let memory = Memory::new();
    let inp = upload(&memory, &image);
    for order in 0..4 {
        let out = fresh::<f32>(&memory, 128 * n / 2);
        let numbers = [
            bytes / 4,
            steps as usize,
            swizzle.name as usize,
            left.at,
            left.lead,
            left.stride,
            right.at,
            right.lead,
            right.stride,
        ];
        let mut args: Vec<_> = [Pointer(out), Pointer(inp)].into_iter().chain(numbers.map(|x| Int(x as i32))).collect();
        Probe { threads: 128, dynamic: bytes, ..Probe::new(kernel) }.run(&mut args, order).unwrap();
        let d = download::<f32>(out, 128 * n / 2);
        for t in 0..128 {
            for i in 0..n / 2 {
                // d[i] of thread t: row 16 * warp + lane / 4, plus 8 for i % 4 >= 2; column 8 * (i / 4) + lane % 4 * 2 + i % 2.
                let (warp, lane) = (t / 32, t % 32);
                let row = 16 * warp + lane / 4 + if i % 4 >= 2 { 8 } else { 0 };
                let column = 8 * (i / 4) + lane % 4 * 2 + i % 2;
                let want = steps as f32 * (0..K).map(|k| a(row, k) * b(k, column)).sum::<f32>();
                assert_eq!(d[t * (n / 2) + i], want, "{kernel}, swizzle of {} bytes, row {row}, column {column}", swizzle.span);
            }
        }
    }
}

#[test]
fn operands_in_shared_memory_of_every_layout() {
    for swizzle in SWIZZLES {
        check("probe_wgmma_64_k_k", 64, false, [false, false], swizzle, 1, 0);
        check("probe_wgmma_64_k_mn", 64, false, [false, true], swizzle, 1, 0);
        check("probe_wgmma_64_mn_k", 64, false, [true, false], swizzle, 1, 0);
        check("probe_wgmma_128_mn_mn", 128, false, [true, true], swizzle, 1, 0);
        check("probe_wgmma_8_k_k", 8, false, [false, false], swizzle, 3, 0);
    }
}

#[test]
fn the_next_sixteen_of_k_lie_within_the_pattern() {
    for (swizzle, shift) in [(SWIZZLES[1], 32), (SWIZZLES[1], 64), (SWIZZLES[1], 96), (SWIZZLES[2], 32)] {
        check("probe_wgmma_64_k_k", 64, false, [false, false], swizzle, 2, shift);
    }
}

#[test]
fn a_in_registers() {
    for swizzle in SWIZZLES {
        check("probe_wgmma_256_registers_k", 256, true, [false, false], swizzle, 2, 0);
        check("probe_wgmma_64_registers_mn", 64, true, [false, true], swizzle, 1, 0);
    }
}

#[test]
fn a_kernel_finds_its_way_in_a_swizzled_tile() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 128);
    Probe::new("probe_swizzled").threads(128).run(&mut [Pointer(out)], 0).unwrap();
    // Two patterns of eight lines of eight pieces: in line l, piece p lies where piece p xor l would.
    assert!(download::<u32>(out, 128).iter().copied().eq((0..128).map(|i| (i / 8 * 8 + ((i % 8) ^ (i / 8 % 8))) * 16)));
}

#[test]
fn every_width() {
    let memory = Memory::new();
    for order in 0..4 {
        let out = fresh::<f32>(&memory, 32 * 128);
        Probe::new("probe_wgmma_widths").threads(128).run(&mut [Pointer(out)], order).unwrap();
        for (width, sums) in download::<f32>(out, 32 * 128).chunks(128).enumerate() {
            let elements = (width + 1) * 8 / 2;
            assert!(sums.iter().all(|sum| *sum == 32.0 * elements as f32), "N = {}", (width + 1) * 8);
        }
    }
}

#[test]
fn groups_finish_in_order() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<f32>(&memory, 256);
        Probe::new("probe_wgmma_groups").threads(128).run(&mut [Pointer(out), Int(0)], order).unwrap();
        let out = download::<f32>(out, 256);
        assert!(out[..128].iter().all(|x| *x == 17.0) && out[128..].iter().all(|x| *x == 18.0));
    }
    let out = fresh::<f32>(&memory, 256);
    Probe::new("probe_wgmma_groups").threads(128).run(&mut [Pointer(out), Int(1)], 0).unwrap();
    assert!(
        download::<f32>(out, 128).iter().all(|x| x.is_nan()),
        "the second product's accumulators are not ready after the first wait"
    );
}

#[test]
fn products_that_are_used_wrongly_show() {
    let memory = Memory::new();
    let run = |what: i32, threads: u32, order: u64| {
        let out = fresh::<f32>(&memory, 128);
        (Probe::new("fault_wgmma").threads(threads).run(&mut [Pointer(out), Int(what)], order), download::<f32>(out, 128))
    };
    let (done, seen) = run(-1, 128, 0);
    done.unwrap();
    assert_eq!(seen, [16.0; 128]);
    for order in 0..4 {
        for (what, said) in
            [(0, "wgmma without wgmma_fence"), (1, "returned without wgmma_wait"), (4, "wgmma_wait after 2 products")]
        {
            let fault = run(what, 128, order).0.unwrap_err();
            assert!(fault.what.contains(said), "{fault}");
        }
        let (done, seen) = run(2, 128, order);
        done.unwrap();
        assert!(seen.iter().all(|x| x.is_nan()), "accumulators are NaN until the wait");
    }
    let (done, seen) = run(3, 128, 0);
    done.unwrap();
    assert!(seen.iter().any(|x| *x != 16.0), "the product is as late as it can be, so it multiplies what overwrote its operand");
    let part = run(-1, 96, 0).0.unwrap_err();
    assert!(part.what.contains("a warpgroup that is not whole"), "{part}");
}
