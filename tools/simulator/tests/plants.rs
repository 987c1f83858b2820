//! Copies of real kernels with one planted fault each: the simulator alone, without a reference to compare with, has to see that
//! something is wrong with them, and that nothing is with the originals.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;
#[allow(dead_code, reason = "the texts are for build.rs")]
#[path = "../plants.rs"]
mod plants;

use common::{Arg, Arg::*, ORDERS, Probe, bf16, download, fresh, upload};
use plants::PLANTS;
use simulator::{Build, Element, Memory, Swizzle, TensorMap, Tiled, threads};

/// What was noticed about a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notice {
    Nothing,
    Fault(String),
    /// Words that nobody wrote, or that come from such.
    Poison,
    /// Orders of threads that do not give the same bits.
    Orders,
}

/// Arguments and the outputs among them, in words.
type Made = (Vec<Arg>, Vec<(*mut u8, usize)>);

/// Launches in every order, each with arguments of its own.
fn notice(kernel: &'static str, grid: [u32; 3], dynamic: usize, make: &dyn Fn(&Memory) -> Made) -> Notice {
    // A plant is compiled in f32 where its file has it.
    let build = if threads(kernel, Build::F32).is_some() { Build::F32 } else { Build::Bf16 };
    let probe = Probe {
        build,
        grid,
        dynamic,
        threads: threads(kernel, build).unwrap_or_else(|| panic!("{kernel} was not built: see the build's warning")),
        ..Probe::new(kernel)
    };
    let mut first: Option<Vec<u32>> = None;
    for order in ORDERS {
        let memory = Memory::new();
        let (mut args, outputs) = make(&memory);
        if let Err(fault) = probe.run(&mut args, order) {
            return Notice::Fault(fault.what);
        }
        let words: Vec<u32> = outputs.iter().flat_map(|(start, words)| download::<u32>(*start, *words)).collect();
        if words.iter().any(|word| f32::from_bits(*word).is_nan()) {
            return Notice::Poison;
        }
        if first.get_or_insert_with(|| words.clone()) != &words {
            return Notice::Orders;
        }
    }
    Notice::Nothing
}

/// Number `i` of some in [-1, 1) without order.
fn number(i: usize) -> f32 {
    (i.wrapping_mul(2_654_435_761) >> 8 & 0xFFFF) as f32 / 32_768.0 - 1.0
}

fn numbers(memory: &Memory, count: usize) -> *mut u8 {
    upload(memory, &(0..count).map(number).collect::<Vec<_>>())
}

/// What is noticed about a plant's kernel; about the original, nothing is.
fn caught(plant: &str, kernel: &str, grid: [u32; 3], dynamic: usize, make: impl Fn(&Memory) -> Made) -> Notice {
    assert!(PLANTS.iter().any(|known| known.name == plant), "{plant} is not in plants.rs");
    assert_eq!(notice(kernel.to_string().leak(), grid, dynamic, &make), Notice::Nothing, "{kernel} as it is");
    let notice = notice(format!("{plant}/{kernel}").leak(), grid, dynamic, &make);
    assert_ne!(notice, Notice::Nothing, "{plant}/{kernel}");
    notice
}

#[test]
fn a_missing_barrier_before_reading() {
    let (t, c) = (3, 300);
    let notice = caught("barrier_before_reading", "rmsnorm_fwd", [t as u32, 1, 1], 0, |memory| {
        let (out, rstd) = (fresh::<f32>(memory, t * c), fresh::<f32>(memory, t));
        let inputs = [Pointer(numbers(memory, t * c)), Pointer(numbers(memory, c)), Int(t as i32), Int(c as i32), Float(1e-6)];
        ([Pointer(out), Pointer(rstd)].into_iter().chain(inputs).collect(), vec![(out, t * c), (rstd, t)])
    });
    assert_eq!(notice, Notice::Poison, "other warps' parts are poison");
}

#[test]
fn a_missing_barrier_before_writing_again() {
    // The sum and the weighted sum follow each other.
    let (rows, v) = (2, 1500);
    let notice = caught("barrier_before_writing_again", "logprob_fold", [rows as u32, 1, 1], 0, |memory| {
        let (state, fault) = (fresh::<f32>(memory, rows * 4), upload(memory, &[0u32; 3]));
        let inputs = [Pointer(numbers(memory, rows * v)), Pointer(upload(memory, &[3u32, 1400])), Pointer(fault)];
        let extents = [0, rows, 0, v, v].map(|x| Int(x as i32));
        ([Pointer(state)].into_iter().chain(inputs).chain(extents).chain([Float(1.0)]).collect(), vec![(state, rows * 4)])
    });
    assert_eq!(notice, Notice::Orders);
}

/// rope over tokens whose heads are so wide that a block takes the angles in several rounds.
fn rope(memory: &Memory) -> Made {
    let (t, heads, dim) = (2, 2, 600);
    let qkv = numbers(memory, t * heads * dim);
    let positions = upload(memory, &[5u32, 6]);
    let frequencies = numbers(memory, dim / 2);
    let extents = [t, heads, heads * dim, dim].map(|x| Int(x as i32));
    let args = [Pointer(qkv), Pointer(positions), Pointer(frequencies)].into_iter().chain(extents).chain([Float(1.0)]);
    (args.collect(), vec![(qkv, t * heads * dim)])
}

#[test]
fn a_missing_barrier_at_a_loops_end() {
    assert_eq!(caught("barrier_at_a_loops_end", "rope", [2, 1, 1], 0, rope), Notice::Orders);
}

#[test]
fn a_missing_barrier_before_a_tile() {
    let (t, q, kv, dim) = (200, 1, 1, 64);
    // One sequence of four tiles of rows; more dynamic shared memory than the kernel needs is no matter.
    let notice = caught("barrier_before_a_tile", "attention_fwd_d64", [4, 1, 1], 100 << 10, |memory| {
        let (out, lse) = (fresh::<f32>(memory, t * q * dim), fresh::<f32>(memory, q * t));
        let (qkv, bounds) = (numbers(memory, t * (q + 2 * kv) * dim), upload(memory, &[0u32, t as u32]));
        let extents = [1, t, q, kv, dim].map(|x| Int(x as i32));
        let args = [Pointer(out), Pointer(lse), Pointer(qkv), Pointer(bounds)].into_iter().chain(extents).chain([Float(0.125)]);
        (args.collect(), vec![(out, t * q * dim), (lse, q * t)])
    });
    assert_eq!(notice, Notice::Orders);
}

/// attention_fwd_sm90_d64 over one sequence of three tiles, with NaN past its end.
fn caught_in_attention(plant: &str, length: u32) -> Notice {
    let (t, dim) = (400usize, 64usize);
    caught(plant, "attention_fwd_sm90_d64", [1, 1, 1], 7 * 128 * 128, |memory| {
        let (out, lse) = (fresh::<u16>(memory, t * dim), fresh::<f32>(memory, t));
        let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8 & 0xFFFF) as f32 / 32_768.0 - 1.0;
        let in_sequence = |i: usize| i < length as usize * 3 * dim;
        let element = |i: usize| if in_sequence(i) { (number(i).to_bits() >> 16) as u16 } else { 0x7FC0 };
        let qkv = upload(memory, &(0..t * 3 * dim).map(element).collect::<Vec<_>>());
        let map = TensorMap::new(&Tiled {
            element: Element::Bf16,
            base: qkv,
            extents: &[3 * dim as u64, t as u64],
            strides: &[6 * dim as u64],
            tile: &[64, 128],
            swizzle: Swizzle::B128,
        });
        // The counter, and of each tile its sequence's beginning and end, and its number.
        let work = upload(memory, &[0, 0, length, 2, 0, length, 1, 0, length, 0]);
        let inputs = [Pointer(out), Pointer(lse), Map(Box::new(map.unwrap())), Pointer(work)];
        let extents = [3, t, 1, 1].map(|x| Int(x as i32));
        let args = inputs.into_iter().chain(extents).chain([Float(0.125)]);
        (args.collect(), vec![(out, length as usize * dim / 2), (lse, length as usize)])
    })
}

/// A matrix of bf16 whose rows are `high` to a box.
fn matrix(memory: &Memory, rows: usize, columns: usize, high: u32) -> (*mut u8, Arg) {
    let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8 & 0xFFFF) as f32 / 32_768.0 - 1.0;
    let base = upload(memory, &(0..rows * columns).map(|i| bf16(number(i))).collect::<Vec<_>>());
    let map = TensorMap::new(&Tiled {
        element: Element::Bf16,
        base,
        extents: &[columns as u64, rows as u64],
        strides: &[2 * columns as u64],
        tile: &[64, high],
        swizzle: Swizzle::B128,
    });
    (base, Map(Box::new(map.unwrap())))
}

/// linear_nt of one wide tile: more steps than stages, more columns than boxes on their way out.
fn caught_in_a_product(plant: &str) -> Notice {
    let (t, n, k) = (100, 256, 7 * 64);
    caught(plant, "linear_nt", [1, 1, 1], 4 * 49_152 + 4 * 8192 + 128, |memory| {
        let (out, to) = matrix(memory, t, n, 64);
        let (x, w) = (matrix(memory, t, k, 128).1, matrix(memory, n, k, 256).1);
        let (z, b) = (matrix(memory, t, 8, 128).1, matrix(memory, n, 8, 256).1);
        let extents = [t, n, k, 0, 1, 0].map(|x| Int(x as i32));
        let pointers = [Pointer(out), Pointer(std::ptr::null_mut())];
        ([x, w, z, b, to].into_iter().chain(pointers).chain(extents).collect(), vec![(out, t * n / 2)])
    })
}

#[test]
fn a_missing_wait_for_a_copy() {
    let notice = caught_in_attention("values_not_waited_for", 384);
    assert!(matches!(&notice, Notice::Fault(what) if what.contains("nobody waited for it")), "{notice:?}");
}

#[test]
fn a_missing_wait_for_a_stage() {
    let notice = caught_in_attention("stage_not_empty", 384);
    assert!(matches!(&notice, Notice::Fault(_)), "{notice:?}");
}

#[test]
fn a_parity_that_stays() {
    let notice = caught_in_attention("parity_that_stays", 384);
    assert!(matches!(&notice, Notice::Fault(_)), "{notice:?}");
}

#[test]
fn values_of_nobody() {
    assert_eq!(caught_in_attention("values_past_the_end", 300), Notice::Poison);
}

#[test]
fn a_stage_that_is_given_back_under_a_product() {
    assert_eq!(caught_in_a_product("stage_read_while_filled"), Notice::Orders);
}

#[test]
fn a_box_that_is_filled_while_it_is_stored() {
    assert_eq!(caught_in_a_product("box_filled_while_stored"), Notice::Orders);
}

#[test]
fn a_missing_barrier_before_the_next_tokens() {
    let t = 3000;
    let notice = caught("barrier_before_the_next_tokens", "linear_logprob_rows", [1, 1, 1], 0, |memory| {
        let rows = upload(memory, &vec![0u32; t + 1]);
        let gradients: Vec<f32> = (0..t).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect();
        (vec![Pointer(rows), Pointer(upload(memory, &gradients)), Int(t as i32)], vec![(rows, t + 1)])
    });
    assert!(matches!(notice, Notice::Orders | Notice::Fault(_)), "{notice:?}");
}

/// attention_bwd_sm90_d64 over one sequence of three tiles of keys, and a head.
fn backward(memory: &Memory) -> Made {
    let (t, dim, tiles) = (300, 64, 5);
    let rows = |width: usize| upload(memory, &(0..t * width).map(|i| bf16(number(i))).collect::<Vec<_>>());
    let map = |base, width: usize| {
        let (extents, strides) = ([width as u64, t as u64], [2 * width as u64]);
        let swizzle = Swizzle::B128;
        let tile = [64, 64];
        let tiled = Tiled { element: Element::Bf16, base, extents: &extents, strides: &strides, tile: &tile, swizzle };
        Map(Box::new(TensorMap::new(&tiled).unwrap()))
    };
    let (qkv, dout) = (map(rows(3 * dim), 3 * dim), map(rows(dim), dim));
    let (dqkv, dq) = (upload(memory, &vec![0u16; t * 3 * dim]), fresh::<f32>(memory, tiles * 64 * dim));
    let turns = upload(memory, &vec![0u32; 1 + 2 * tiles]);
    let (lse, delta) = (numbers(memory, t), numbers(memory, t));
    let inputs = [Pointer(lse), Pointer(delta), Pointer(upload(memory, &[0u32, t as u32]))];
    let extents = [1, t, 1, 1, 1, tiles, 1].map(|x| Int(x as i32));
    let args = [Pointer(dqkv), Pointer(dq), Pointer(std::ptr::null_mut()), Pointer(turns), qkv, dout];
    (args.into_iter().chain(inputs).chain(extents).chain([Float(0.125)]).collect(), vec![(dq, tiles * 64 * dim)])
}

/// Blocks of `backward`, and shared memory that is enough for them.
const BACKWARD: ([u32; 3], usize) = ([3, 1, 1], 150 << 10);

#[test]
fn turns_by_block_number() {
    let notice = caught("turns_by_block_number", "attention_bwd_sm90_d64", BACKWARD.0, BACKWARD.1, backward);
    assert!(
        matches!(&notice, Notice::Fault(what) if what.contains("which only a block that has not begun can give")),
        "{notice:?}"
    );
}

#[test]
fn one_tile_of_ds() {
    assert_eq!(caught("one_tile_of_ds", "attention_bwd_sm90_d64", BACKWARD.0, BACKWARD.1, backward), Notice::Orders);
}

#[test]
fn loads_into_a_stage_in_use() {
    caught("loads_into_a_stage_in_use", "attention_bwd_sm90_d64", BACKWARD.0, BACKWARD.1, backward);
}

#[test]
fn an_element_too_far() {
    let n = 100;
    let notice = caught("element_too_far", "add", [1, 1, 1], 0, |memory| {
        let (out, inp) = (numbers(memory, n), numbers(memory, n));
        (vec![Pointer(out), Pointer(inp), Long(n as i64)], vec![(out, n)])
    });
    assert!(matches!(&notice, Notice::Fault(what) if what.contains("0 bytes past the end of its 400 bytes")), "{notice:?}");
}

#[test]
fn a_row_too_far() {
    let (t, c, v) = (12, 64, 9);
    let notice = caught("row_too_far", "embed_fwd", [2, 1, 1], 0, |memory| {
        let (out, fault) = (fresh::<f32>(memory, t * c), upload(memory, &[0u32; 3]));
        let ids: Vec<u32> = (0..t as u32).map(|i| i % v as u32).collect();
        let inputs = [Pointer(numbers(memory, v * c)), Pointer(upload(memory, &ids)), Pointer(fault)];
        let extents = [t, c, v].map(|x| Int(x as i32));
        ([Pointer(out)].into_iter().chain(inputs).chain(extents).collect(), vec![(out, t * c)])
    });
    assert!(
        matches!(&notice, Notice::Fault(what) if what.contains("reads `ids`, 0 bytes past the end of its 48 bytes")),
        "{notice:?}"
    );
}

#[test]
fn a_shared_array_too_short() {
    let notice = caught("shared_array_too_short", "rope", [2, 1, 1], 0, rope);
    assert!(
        matches!(&notice, Notice::Fault(what) if what.contains("shared array `cosine` of 508 bytes was written past its end")),
        "{notice:?}"
    );
}

#[test]
fn an_output_unwritten() {
    let (t, f) = (2, 40);
    let notice = caught("output_unwritten", "swiglu_bwd", [t as u32, 1, 1], 0, |memory| {
        let dgate_up = fresh::<f32>(memory, t * 2 * f);
        let inputs = [Pointer(numbers(memory, t * f)), Pointer(numbers(memory, t * 2 * f)), Int(t as i32), Int(f as i32)];
        ([Pointer(dgate_up)].into_iter().chain(inputs).collect(), vec![(dgate_up, t * 2 * f)])
    });
    assert_eq!(notice, Notice::Poison);
}
