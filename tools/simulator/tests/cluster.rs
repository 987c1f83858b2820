//! Clusters of two blocks: distributed shared memory, their barrier, multicast tiles, remote arrivals.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, ORDERS, Probe, download, fresh, upload};
use simulator::{Element, Memory, Swizzle, TensorMap, Tiled};

fn pair(kernel: &'static str) -> Probe {
    Probe { grid: [2, 1, 1], threads: 128, cluster: 2, ..Probe::new(kernel) }
}

#[test]
fn blocks_read_each_others_shared_memory() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 4 * 128);
        Probe { grid: [4, 1, 1], ..pair("probe_exchange") }.run(&mut [Pointer(out)], order).unwrap();
        let want = (0..512).map(|i| ((i / 128) ^ 1) * 1000 + 127 - i % 128);
        assert!(download::<u32>(out, 512).iter().copied().eq(want));
    }
    let alone = Probe { cluster: 1, ..pair("probe_exchange") }.run(&mut [Pointer(fresh::<u32>(&memory, 256))], 0).unwrap_err();
    assert!(alone.what.contains("block 1 of a cluster of 1"), "{alone}");
}

#[test]
fn a_tile_comes_to_both_blocks() {
    let memory = Memory::new();
    let data: Vec<f32> = (0..16 * 8).map(|i| i as f32).collect();
    let base = upload(&memory, &data);
    let flat = Tiled { element: Element::F32, base, extents: &[16, 8], strides: &[64], tile: &[16, 8], swizzle: Swizzle::None };
    let deep = Tiled { extents: &[16, 4, 2], strides: &[64, 256], tile: &[16, 4, 2], ..flat };
    for (deep, tensor) in [(0, flat), (1, deep)] {
        for order in ORDERS {
            let out = fresh::<f32>(&memory, 256);
            let map = Map(Box::new(TensorMap::new(&tensor).unwrap()));
            let probe = Probe { dynamic: 512, ..pair("probe_multicast") };
            probe.run(&mut [Pointer(out), map, Int(128), Int(deep), Int(3)], order).unwrap();
            assert_eq!(download::<f32>(out, 256), [&data[..], &data[..]].concat());
            // To one block only, the other waits in vain.
            let map = Map(Box::new(TensorMap::new(&tensor).unwrap()));
            let vain = probe.run(&mut [Pointer(out), map, Int(128), Int(deep), Int(1)], order).unwrap_err();
            assert!(
                vain.what.contains("128 threads of block 1 of the cluster (first: 0) wait in mbarrier_wait for parity 0"),
                "{vain}"
            );
        }
    }
}

#[test]
fn nobody_reaches_into_a_block_that_has_returned() {
    let memory = Memory::new();
    let fault = pair("fault_gone_block").run(&mut [Pointer(fresh::<u32>(&memory, 128))], 0).unwrap_err();
    assert!(fault.what.contains("reads shared memory of a block of the cluster that has returned"), "{fault}");
    assert_eq!(fault.block, Some([0, 0, 0]));
    // The next launch has both windows again.
    pair("probe_exchange").run(&mut [Pointer(fresh::<u32>(&memory, 256))], 0).unwrap();
}

#[test]
fn the_barriers_halves_belong_together() {
    let memory = Memory::new();
    for (what, said) in [(0, "cluster_arrive twice"), (1, "cluster_wait without cluster_arrive")] {
        let fault = pair("fault_halves").run(&mut [Pointer(fresh::<u32>(&memory, 128)), Int(what)], 1).unwrap_err();
        assert!(fault.what.contains(said), "{fault}");
    }
}

#[test]
fn one_lane_of_a_warp_is_elected() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 128);
        Probe::new("probe_registers").threads(128).run(&mut [Pointer(out)], order).unwrap();
        let out = download::<u32>(out, 128);
        assert!(out.chunks(32).all(|warp| warp.iter().sum::<u32>() == 1));
    }
}
