//! What kernels ask of memory and of the tensor cores, beside the least that the operator needs: `tools/kernel-traffic` prints it and holds
//! it against kernels/traffic.txt.

use half::bf16;
use repairity::bench::kernels::Shape;
use repairity::bench::work;
use repairity::device::{Cuda, Heads};
use simulator::{ACCESSES, Counts, counted};

use crate::simulated::Simulated;

/// Small for the simulator's sake, and whole tiles, so that what shows is how a kernel goes about its work and not how tiles are cut.
const SHAPE: Shape = Shape { hidden: 512, intermediate: 1024, vocab: 2048, heads: Heads { q: 4, kv: 1, dim: 128 } };
const TOKENS: usize = 256;

#[test]
fn traffic() {
    if !ACCESSES {
        println!("skipped: this build counts no accesses (tools/kernel-traffic makes one that does)");
        return;
    }
    let device = Cuda::<bf16>::with_driver(Simulated::new::<bf16>(0)).unwrap();
    let mut lines = Vec::new();
    work::once(&device, SHAPE, 1, TOKENS, &mut |work, call| {
        let (result, kernels) = counted(&mut *call);
        result?;
        let mut all = Counts::default();
        for (name, counts) in kernels {
            lines.push(format!(
                "kernel {} {name} {} {} {} {} {} {}",
                work.operator,
                counts.launches,
                counts.operations,
                counts.read,
                counts.written,
                counts.distinct_read,
                counts.distinct_written
            ));
            all.operations += counts.operations;
            all.read += counts.read + counts.written;
            assert!(counts.distinct_read <= counts.read && counts.distinct_written <= counts.written, "{name}");
        }
        lines.push(format!("operator {} {} {} {} {}", work.operator, all.operations, work.flops, all.read, work.bytes));
        Ok(())
    })
    .unwrap();
    lines.iter().for_each(|line| println!("traffic: {line}"));
}
