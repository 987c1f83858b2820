//! What `repairity bench kernels` measures: each operator passes the check that stands before its timing, and runs the kernels that it
//! names.

use std::collections::BTreeSet;

use repairity::bench::kernels::{Shape, check};
use repairity::device::cuda::kernel::KERNELS;
use repairity::device::{Cpu, Cuda, Heads};

use crate::simulated::Simulated;
use crate::{OnGpu, Place, kernels, present};

const TINY: Shape = Shape { hidden: 40, intermediate: 24, vocab: 72, heads: Heads { q: 4, kv: 2, dim: 8 } };

/// Kernels that only the inputs of a benchmark need: forward, before backward is measured.
const BEFORE: [&str; 10] = [
    "rmsnorm_fwd",
    "attention_fwd_d64",
    "attention_fwd_d128",
    "attention_fwd_sm90_order",
    "attention_fwd_sm90_d64",
    "attention_fwd_sm90_d128",
    "logprob_fold",
    "logprob_finish",
    "linear_logprob_fold",
    "linear_logprob_finish",
];

/// Kernels that bf16 runs only at extents which are not measured.
const OTHER_EXTENTS: [&str; 9] = [
    "attention_fwd_d64",
    "attention_fwd_d128",
    "attention_bwd_dq_d64",
    "attention_bwd_dq_d128",
    "attention_bwd_dkv_d64",
    "attention_bwd_dkv_d128",
    "logprob_fold",
    "logprob_finish",
    "logprob_dlogits",
];

fn benchmarks<A: OnGpu>(place: Place) {
    if !present(place) {
        return;
    }
    if place == Place::Gpu {
        check(A::device(), TINY, 2, 5, None).unwrap();
        return;
    }
    let mut named = BTreeSet::new();
    let operators = check(&Cpu::<f32>::new(), TINY, 2, 5, None).unwrap();
    let operators = operators.into_iter().flat_map(|(operator, _)| {
        // The branches of few tokens do not ride in the product.
        let both = operator.starts_with("lora_linear");
        [Some((operator, 5)), both.then_some((operator, 67))].into_iter().flatten()
    });
    for (operator, seq) in operators {
        let machine = Simulated::new::<A>(0);
        let checked = check(&Cuda::<A>::with_driver(machine.clone()).unwrap(), TINY, 2, seq, Some(operator)).unwrap();
        let kernels = checked.into_iter().flat_map(|(_, kernels)| kernels);
        let kernels = BTreeSet::from_iter(kernels.copied());
        let launched = machine.launched();
        let missing: Vec<_> = kernels.difference(&launched).collect();
        let unnamed: Vec<_> = launched.difference(&kernels).filter(|name| !BEFORE.contains(name)).collect();
        assert!(
            missing.is_empty() && unnamed.is_empty(),
            "{operator}: names but does not run {missing:?}, runs but does not name {unnamed:?}"
        );
        named.extend(kernels);
    }
    named.extend(OTHER_EXTENTS.iter().filter(|_| A::BUILD == "bf16"));
    let every: BTreeSet<_> =
        KERNELS.iter().filter(|kernel| kernel.builds.contains(&A::BUILD)).map(|kernel| kernel.name).collect();
    assert_eq!(named, every, "kernels with a benchmark, and all kernels");
}

kernels!(benchmarks);
