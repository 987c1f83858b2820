//! Threads, barriers, shuffles, votes, atomics and shared memory, as CUDA's programming guide has them.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, ORDERS, Probe, download, fresh, upload};
use simulator::{Build, Launch, Memory, kernels, launch};

#[test]
fn a_grid_covers_its_blocks_and_no_more() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 1000);
        let probe = Probe { grid: [8, 1, 1], threads: 128, ..Probe::new("probe_index") };
        probe.run(&mut [Pointer(out), Int(1000)], order).unwrap();
        assert!(download::<u32>(out, 1000).iter().copied().eq(0..1000));
    }
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 2 * 3 * 4);
        Probe { grid: [4, 3, 2], threads: 1, ..Probe::new("probe_grid") }.run(&mut [Pointer(out)], order).unwrap();
        let want: Vec<u32> = (0..24).map(|i| i / 12 * 100 + i / 4 % 3 * 10 + i % 4).collect();
        assert_eq!(download::<u32>(out, 24), want);
    }
}

#[test]
fn shuffles_and_barriers_sum_a_block_in_every_order() {
    let memory = Memory::new();
    for threads in [32, 256, 1024] {
        for order in ORDERS {
            let out = fresh::<u32>(&memory, 3 * threads as usize);
            Probe { grid: [3, 1, 1], threads, ..Probe::new("probe_block_sum") }.run(&mut [Pointer(out)], order).unwrap();
            assert!(download::<u32>(out, 3 * threads as usize).iter().all(|sum| *sum == (0..threads).sum()));
        }
    }
}

#[test]
fn shuffles_stay_in_their_segments() {
    let memory = Memory::new();
    for width in [32u32, 16, 8] {
        let out = fresh::<u32>(&memory, 160);
        Probe::new("probe_shuffles").run(&mut [Pointer(out), Int(width as i32)], 2).unwrap();
        let out = download::<u32>(out, 160);
        for lane in 0..32u32 {
            let (start, at) = (lane / width * width, lane % width);
            let seen = |step: u32| out[(step * 32 + lane) as usize];
            assert_eq!(seen(0), start + 5 % width);
            assert_eq!(seen(1), if at >= 3 { lane - 3 } else { lane });
            assert_eq!(seen(2), if at + 3 < width { lane + 3 } else { lane });
            assert_eq!(seen(3), if lane ^ 9 < start + width { lane ^ 9 } else { lane });
            assert_eq!(seen(4), (lane ^ 1) * 2 + 1);
        }
    }
}

#[test]
fn parts_of_a_warp_shuffle_under_their_own_masks() {
    let memory = Memory::new();
    for order in ORDERS {
        let out = fresh::<u32>(&memory, 32);
        Probe::new("probe_halves").run(&mut [Pointer(out)], order).unwrap();
        let want: Vec<u32> = (0..32).map(|lane| if lane < 16 { 15 } else { 16 + 31 }).collect();
        assert_eq!(download::<u32>(out, 32), want);
    }
}

#[test]
fn votes_count_every_lane() {
    let memory = Memory::new();
    for (from, ballot) in [(0, u32::MAX), (31, 1 << 31), (32, 0), (4, u32::MAX << 4)] {
        let out = fresh::<u32>(&memory, 96);
        Probe::new("probe_votes").run(&mut [Pointer(out), Int(from)], 1).unwrap();
        let out = download::<u32>(out, 96);
        assert!(out[..32].iter().all(|seen| *seen == ballot));
        assert!(out[32..64].iter().all(|any| *any == u32::from(ballot != 0)));
        assert!(out[64..].iter().all(|all| *all == u32::from(ballot == u32::MAX)));
    }
}

#[test]
fn barriers_do_not_wait_for_threads_that_returned() {
    let memory = Memory::new();
    for stay in [1, 31, 33, 100, 128] {
        for order in ORDERS {
            let out = fresh::<u32>(&memory, stay);
            Probe::new("probe_early_return").threads(128).run(&mut [Pointer(out), Int(stay as i32)], order).unwrap();
            assert_eq!(download::<u32>(out, stay), vec![stay as u32 - 1; stay]);
        }
    }
}

#[test]
fn atomics_lose_nothing() {
    let memory = Memory::new();
    for order in ORDERS {
        let counts = upload(&memory, &[0u32; 3]);
        Probe { grid: [5, 1, 1], threads: 96, ..Probe::new("probe_atomics") }.run(&mut [Pointer(counts)], order).unwrap();
        let counts = download::<u32>(counts, 3);
        assert_eq!(counts[..2], [480, 95]);
        assert!((1..=96).contains(&counts[2]));
    }
}

#[test]
fn memory_that_nobody_wrote_is_nan() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 64);
    assert!(download::<f32>(out, 64).iter().all(|x| x.is_nan()));
    // The second launch finds the first one's stacks and windows, and poison again.
    for _ in 0..2 {
        Probe { dynamic: 128, ..Probe::new("probe_poison") }.run(&mut [Pointer(out)], 0).unwrap();
        assert_eq!(download::<u32>(out, 64), [u32::MAX; 64]);
    }
}

#[test]
fn launches_from_several_threads_do_not_meet() {
    std::thread::scope(|scope| {
        for order in 0..4 {
            scope.spawn(move || {
                let memory = Memory::new();
                for _ in 0..20 {
                    let out = fresh::<u32>(&memory, 256);
                    Probe::new("probe_block_sum").threads(256).run(&mut [Pointer(out)], order).unwrap();
                    assert_eq!(download::<u32>(out, 256), [255 * 128; 256]);
                    memory.free(out);
                }
            });
        }
    });
}

#[test]
fn launches_that_the_driver_would_refuse_are_refused() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 8);
    let refused = |probe: Probe, args: &mut [common::Arg]| probe.run(args, 0).unwrap_err().to_string();
    let index = || Probe::new("probe_index");
    let both = || [Pointer(out), Int(8)];
    assert!(refused(Probe::new("nothing"), &mut both()).contains("no such kernel"));
    assert!(refused(index(), &mut [Pointer(out)]).contains("1 arguments: its 2 parameters"));
    assert!(refused(Probe { grid: [1, 0, 1], ..index() }, &mut both()).contains("a grid of [1, 0, 1] blocks"));
    assert!(refused(index().threads(1025), &mut both()).contains("its launch bound is 1024"));
    assert!(refused(Probe { cluster: 2, ..index() }, &mut both()).contains("clusters of 2 blocks"));
    assert!(refused(Probe { dynamic: 232_449, ..index() }, &mut both()).contains("at most 232448 can be had"));
    let mut host = [0u32; 8];
    assert!(refused(index(), &mut [Pointer(host.as_mut_ptr().cast()), Int(8)]).contains("`out` is"));
    memory.free(out);
    assert!(refused(index(), &mut both()).contains("no live device memory"));
}

#[test]
fn kernels_are_listed_once_without_probes() {
    let mut names: Vec<_> = kernels().iter().map(|(name, _)| *name).collect();
    assert!(kernels().iter().all(|(_, file)| file.starts_with("kernels/")));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for (name, file) in kernels() {
        // Without arguments it is refused for those; a warpgroup's products have no build for f32.
        for build in [Build::Bf16, Build::F32].into_iter().take(if file.ends_with("_sm90.cu") { 1 } else { 2 }) {
            let none =
                Launch { kernel: name, build, grid: [1; 3], threads: 1, cluster: 1, dynamic_shared: 0, args: &mut [], order: 0 };
            assert!(launch(&none).unwrap_err().what.starts_with("0 arguments"), "{name}");
        }
    }
}
