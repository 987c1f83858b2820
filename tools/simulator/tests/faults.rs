//! What a kernel must not do ends as a fault that says who did it where; the process and the next launch go on.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg, Arg::*, ORDERS, Probe, download, fresh, upload};
use simulator::{Fault, Memory};

/// The fault of a launch of 128 threads, in each kind of order; the first one.
fn fault(kernel: &'static str, args: impl Fn() -> Vec<Arg>) -> Fault {
    let mut faults = (0..4).map(|order| Probe::new(kernel).threads(128).run(&mut args(), order).unwrap_err());
    let first = faults.next().unwrap();
    assert!(faults.all(|fault| fault.kernel == first.kernel));
    first
}

#[test]
fn an_index_too_far_is_named() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 100);
    for (at, what) in
        [(100, "writes `out`, 0 bytes past the end of its 400 bytes"), (70_000, "writes `out`, 279600 bytes past the end")]
    {
        let fault = fault("fault_write", || vec![Pointer(out), Int(at)]);
        assert_eq!((fault.thread, fault.block), (Some(7), Some([0, 0, 0])));
        assert!(fault.what.starts_with(what), "{fault}");
        // The place needs binutils, which the compiler brings.
        assert_eq!(fault.place.as_deref(), Some("faults.cu:9"));
        assert_eq!(fault.to_string().split(": ").next(), Some("fault_write (bf16), block (0, 0, 0), thread 7, faults.cu:9"));
    }
    let inp = fresh::<u32>(&memory, 64);
    let read = fault("fault_read", || vec![Pointer(out), Pointer(inp), Int(64)]);
    assert!(read.what.starts_with("reads `inp`, 0 bytes past the end of its 256 bytes"), "{read}");
    let before = fault("fault_read", || vec![Pointer(out), Pointer(inp), Int(-2000)]);
    assert!(before.what.starts_with("reads `inp`, 8000 bytes before the start"), "{before}");
    // The last word is fine.
    Probe::new("fault_write").run(&mut [Pointer(out), Int(99)], 0).unwrap();
    assert_eq!(download::<u32>(out, 100)[99], 1);
}

#[test]
fn bytes_between_a_buffer_and_its_page_are_watched() {
    let memory = Memory::new();
    let odd = memory.alloc(6);
    let behind = fault("fault_write", || vec![Pointer(memory.alloc(6)), Int(2)]);
    assert!(behind.what.contains("`out` of 6 bytes was written outside of it, at byte 8"), "{behind}");
    let before = fault("fault_write", || vec![Pointer(memory.alloc(6)), Int(-1)]);
    assert!(before.what.contains("`out` of 6 bytes was written outside of it, at byte -4"), "{before}");
    memory.free(odd);
}

#[test]
fn a_freed_buffer_is_told_as_one() {
    let memory = Memory::new();
    let (out, inp) = (fresh::<u32>(&memory, 4), fresh::<u32>(&memory, 4));
    memory.free(inp);
    let gone = Probe::new("fault_read").run(&mut [Pointer(out), Pointer(inp), Int(0)], 0).unwrap_err();
    assert!(gone.what.contains("argument `inp`") && gone.what.contains("no live device memory"), "{gone}");
}

#[test]
fn misaligned_vectors_trap() {
    let memory = Memory::new();
    let (out, inp) = (fresh::<u32>(&memory, 1), upload(&memory, &[1f32; 32]));
    let odd = fault("fault_misaligned", || vec![Pointer(out), Pointer(inp), Int(1)]);
    assert!(odd.what.contains("misaligned"), "{odd}");
    Probe::new("fault_misaligned").run(&mut [Pointer(out), Pointer(inp), Int(4)], 0).unwrap();
}

#[test]
fn shared_arrays_have_red_zones() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 1);
    for (at, what) in [(32, "written past its end"), (-1, "written before its start")] {
        let fault = fault("fault_shared", || vec![Pointer(out), Int(at)]);
        assert!(fault.what.contains("shared array `row` of 128 bytes") && fault.what.contains(what), "{fault}");
        assert_eq!(fault.place.as_deref(), Some("faults.cu:27"));
    }
    let far = fault("fault_shared", || vec![Pointer(out), Int(100_000)]);
    assert!(far.what.contains("writes outside of shared memory"), "{far}");
    Probe::new("fault_shared").run(&mut [Pointer(out), Int(31)], 0).unwrap();
}

#[test]
fn barriers_that_not_every_thread_reaches_are_named() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 128);
    let two = fault("fault_two_barriers", || vec![Pointer(out)]);
    assert!(two.what.contains("64 threads of the block wait in the one at faults.cu:37"), "{two}");
    assert_eq!(two.place.as_deref(), Some("faults.cu:39"));
    let stuck = fault("fault_stuck", || vec![Pointer(out)]);
    assert!(stuck.what.contains("no thread can go on"), "{stuck}");
    assert!(stuck.what.contains("127 threads (first: 0) wait in __syncthreads at faults.cu:47"), "{stuck}");
    assert!(stuck.what.contains("1 threads (first: 3) wait in __syncwarp at faults.cu:48"), "{stuck}");
}

#[test]
fn masks_name_who_is_there() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 128);
    let gone = fault("fault_gone", || vec![Pointer(out)]);
    assert!(gone.what.contains("names lane 3: it has returned or does not exist"), "{gone}");
    assert_eq!(gone.place.as_deref(), Some("faults.cu:56"));
    // A block of 20 threads has no lane 31.
    let short = Probe::new("probe_votes").threads(20).run(&mut [Pointer(out), Int(0)], 0).unwrap_err();
    assert!(short.what.contains("names lane 20"), "{short}");
    let own = Probe::new("fault_mask").run(&mut [Pointer(out), Int(0xFF00)], 0).unwrap_err();
    assert!(own.what.contains("does not name the calling lane"), "{own}");
    let source = fault("fault_mask", || vec![Pointer(out), Int(0xFFFF)]);
    assert!(source.what.contains("from lane 20, which mask 0x0000ffff does not name"), "{source}");
}

#[test]
fn a_missing_barrier_shows_as_a_difference() {
    let memory = Memory::new();
    let outs: Vec<Vec<u32>> = ORDERS
        .map(|order| {
            let out = fresh::<u32>(&memory, 128);
            Probe::new("fault_race").threads(128).run(&mut [Pointer(out)], order).unwrap();
            download(out, 128)
        })
        .collect();
    assert!(outs.iter().any(|out| *out != outs[0]));
    assert!(outs[0].contains(&u32::MAX), "in the natural order the first half reads poison");
}

#[test]
fn arithmetic_and_stacks_have_ends() {
    let memory = Memory::new();
    let out = fresh::<u32>(&memory, 128);
    assert!(fault("fault_divide", || vec![Pointer(out), Int(0)]).what.contains("division by zero"));
    let deep = fault("fault_deep", || vec![Pointer(out), Int(1 << 20)]);
    assert!(deep.what.contains("its stack of 256 KiB is full"), "{deep}");
    // After all this the machine still works.
    Probe::new("probe_index").threads(128).run(&mut [Pointer(out), Int(128)], 1).unwrap();
    assert!(download::<u32>(out, 128).iter().copied().eq(0..128));
}
