//! What is counted of a kernel's work: bytes by access and by byte, operations of the tensor cores.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use common::{Arg::*, Probe, fresh, upload};
use simulator::{ACCESSES, Counts, Element, Memory, Swizzle, TensorMap, Tiled, counted};

/// A tile of 8 x 5 words at (-3, 0) of a tensor of 8 x 3: five columns and three rows of it are there.
#[test]
fn a_copy_counts_the_bytes_that_are_in_the_tensor() {
    let memory = Memory::new();
    let base = upload(&memory, &[1f32; 24]);
    let map = || {
        let (extents, strides, tile) = (&[8, 3][..], &[32][..], &[8, 5][..]);
        Map(Box::new(
            TensorMap::new(&Tiled { element: Element::F32, base, extents, strides, tile, swizzle: Swizzle::None }).unwrap(),
        ))
    };
    let out = fresh::<f32>(&memory, 40);
    let probe = Probe { dynamic: 160, threads: 64, ..Probe::new("probe_tile_load") };
    let run = || probe.run(&mut [Pointer(out), map(), Int(40), Int(0), Int(-3), Int(0), Int(0)], 0).unwrap();
    let ((), counts) = counted(|| (run(), run()).0);
    let stored = if ACCESSES { 160 } else { 0 };
    let want = Counts {
        launches: 2,
        read: 2 * 5 * 3 * 4,
        written: 2 * stored,
        distinct_read: 2 * 5 * 3 * 4,
        distinct_written: 2 * stored,
        operations: 0,
    };
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("probe_tile_load", want)]);
    // What nobody asked to count is not.
    run();
    assert!(counted(|| ()).1.is_empty());
}

/// A warpgroup's product of 64 x 64 over 16, three times; without the thread sanitizer's instrumentation only that shows.
#[test]
fn a_product_counts_its_operations() {
    let memory = Memory::new();
    let image = upload(&memory, &[0u32; 1024]);
    let out = fresh::<f32>(&memory, 128 * 32);
    let [words, steps, swizzle, lead, stride, b_at] = [1024, 3, 0, 128, 256, 2048];
    let numbers = [words, steps, swizzle, 0, lead, stride, b_at, lead, stride];
    let mut args = vec![Pointer(out), Pointer(image)];
    args.extend(numbers.map(Int));
    let probe = Probe { dynamic: 4096, threads: 128, ..Probe::new("probe_wgmma_64_k_k") };
    let ((), counts) = counted(|| probe.run(&mut args, 0).unwrap());
    let found = counts["probe_wgmma_64_k_k"];
    assert_eq!(found.operations, 3 * 2 * 64 * 64 * 16);
    if ACCESSES {
        assert_eq!((found.read, found.distinct_read), (4096, 4096));
        assert_eq!((found.written, found.distinct_written), (128 * 32 * 4, 128 * 32 * 4));
    } else {
        assert_eq!((found.read, found.written), (0, 0));
    }
}
