//! mma.m16n8k16 and ldmatrix against the fragment layouts of the PTX ISA ("Matrix Fragments for mma.m16n8k16 with floating point type",
//! "ldmatrix"). Elements are small whole numbers, so every sum is exact whatever its order.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, ORDERS, Probe, bf16, download, fresh, upload};
use simulator::Memory;

fn a(row: usize, k: usize) -> f32 {
    ((row * 5 + k * 3) % 17) as f32 - 8.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 7 + column * 2) % 13) as f32 - 6.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 8 + column) as f32
}

#[test]
fn mma_multiplies_fragments() {
    // Element i of A's fragment: row groupID for i in 0, 1, 4, 5, else groupID + 8; column threadID_in_group * 2 + (i & 1), plus 8 for i >= 4.
    let mut left = vec![0u16; 32 * 8];
    let mut right = vec![0u16; 32 * 4];
    let mut sums = vec![0f32; 32 * 4];
    for lane in 0..32 {
        let (group, thread) = (lane >> 2, lane % 4);
        for i in 0..8 {
            let row = if matches!(i, 0 | 1 | 4 | 5) { group } else { group + 8 };
            let column = thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
            left[lane * 8 + i] = bf16(a(row, column));
        }
        // B: row threadID_in_group * 2 + (i & 1), plus 8 for i >= 2; column groupID.
        for i in 0..4 {
            let row = thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 };
            right[lane * 4 + i] = bf16(b(row, group));
        }
        // C: row groupID for i < 2, else groupID + 8; column threadID_in_group * 2 + (i & 1).
        for i in 0..4 {
            sums[lane * 4 + i] = c(if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1));
        }
    }
    let memory = Memory::new();
    for order in ORDERS {
        let d = upload(&memory, &sums);
        Probe::new("probe_mma")
            .run(&mut [Pointer(d), Pointer(upload(&memory, &left)), Pointer(upload(&memory, &right))], order)
            .unwrap();
        let d = download::<f32>(d, 128);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));
                let want = c(row, column) + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>();
                assert_eq!(d[lane * 4 + i], want, "row {row}, column {column}");
            }
        }
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    // Row r of matrix j, 8 elements of 16 bits: lane j * 8 + r gives its address. Register j of lane l holds row l / 4, columns
    // l % 4 * 2 and the next; transposed, column l / 4 of those two rows.
    let element = |matrix: usize, row: usize, column: usize| (matrix * 64 + row * 8 + column) as u16;
    let rows: Vec<u16> = (0..256).map(|i| element(i / 64, i / 8 % 8, i % 8)).collect();
    let memory = Memory::new();
    for order in ORDERS {
        for transpose in [false, true] {
            let out = fresh::<u32>(&memory, 128);
            let mut args = [Pointer(out), Pointer(upload(&memory, &rows)), Int(transpose.into()), Int(0)];
            Probe::new("probe_ldmatrix").run(&mut args, order).unwrap();
            let out = download::<[u16; 2]>(out, 128);
            for lane in 0..32 {
                for matrix in 0..4 {
                    let (own, pair) = (lane / 4, lane % 4 * 2);
                    let want = match transpose {
                        false => [element(matrix, own, pair), element(matrix, own, pair + 1)],
                        true => [element(matrix, pair, own), element(matrix, pair + 1, own)],
                    };
                    assert_eq!(out[lane * 4 + matrix], want);
                }
            }
        }
    }
    let mut args = [Pointer(fresh::<u32>(&memory, 128)), Pointer(upload(&memory, &rows)), Int(0), Int(1)];
    let odd = Probe::new("probe_ldmatrix").run(&mut args, 0).unwrap_err();
    assert!(odd.what.contains("the row that lane 0 gives is not aligned to 16 bytes"), "{odd}");
}
