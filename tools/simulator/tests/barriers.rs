//! Named barriers and mbarriers, as the PTX ISA's "bar.sync, bar.arrive" and "mbarrier" have them.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, ORDERS, Probe, download, fresh, upload};
use simulator::Memory;

#[test]
fn a_part_of_a_block_arrives_and_another_waits() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 64);
        Probe::new("probe_named").threads(128).run(&mut [Pointer(out)], order).unwrap();
        assert!(download::<u32>(out, 64).iter().copied().eq((0..64).map(|t| (63 - t) * 3)));
    }
}

#[test]
fn a_barrier_has_one_count() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 128);
    for order in ORDERS {
        let fault = Probe::new("fault_named").threads(128).run(&mut [Pointer(out)], order).unwrap_err();
        assert!(fault.what.contains("barrier 1 for") && fault.what.contains("others are at it for"), "{fault}");
        assert_eq!(fault.place.as_deref(), Some("barriers.cu:27"));
    }
}

#[test]
fn phases_alternate_through_a_ring() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 9 * 32);
        Probe::new("probe_ring").threads(64).run(&mut [Pointer(out), Int(9)], order).unwrap();
        assert!(download::<u32>(out, 9 * 32).iter().copied().eq((0..9 * 32).map(|i| i / 32 * 1000 + 31 - i % 32)));
    }
}

#[test]
fn a_phase_waits_for_every_expected_byte() {
    let memory = Memory::new();
    let words: Vec<u32> = (100..132).collect();
    let inp = upload(&memory, &words);
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 32);
        Probe::new("probe_bytes").run(&mut [Pointer(out), Pointer(inp), Int(64), Int(128)], order).unwrap();
        assert_eq!(download::<u32>(out, 32), words);
        // Sixteen bytes that never come.
        let fault = Probe::new("probe_bytes").run(&mut [Pointer(out), Pointer(inp), Int(64), Int(144)], order).unwrap_err();
        assert!(fault.what.contains("32 threads (first: 0) wait in mbarrier_wait for parity 0"), "{fault}");
    }
    // Sixty-five bytes are no bulk copy.
    let fault =
        Probe::new("probe_bytes").run(&mut [Pointer(fresh::<u32>(&memory, 32)), Pointer(inp), Int(65), Int(129)], 0).unwrap_err();
    assert!(fault.what.contains("a bulk copy of 65 bytes"), "{fault}");
}

#[test]
fn barriers_that_are_none_are_told() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 1);
    for (what, said) in [(0, "not initialised"), (1, "an arrival too many"), (2, "of the block's shared memory")] {
        let fault = Probe::new("fault_mbarrier").threads(1).run(&mut [Pointer(out), Int(what)], 0).unwrap_err();
        assert!(fault.what.contains(said), "{fault}");
    }
}
