//! What a step costs: one wait for the device, and no memory that the step before did not have; and that recomputation is memory
//! against time, and nothing else.

use std::collections::BTreeMap;

use repairity::checkpoint::Storage;
use repairity::comm;
use repairity::device::cuda::Act;
use repairity::device::{Cuda, Real};
use repairity::model::config::Architecture;
use repairity::optim::{Hyper, Optimizer, Sum};
use repairity::prompt::Example;
use repairity::recipe::Recompute;
use repairity::rng::Rng;
use repairity::score;
use repairity::stage::sft::Supervised;
use repairity::stage::train::Task;
use repairity::weights::Grads;

use crate::ground::{Ground, Stage};
use crate::on_kernels;
use crate::tiny;
use crate::watched::watch;

const VOCAB: usize = 40;

/// Examples of these lengths; every third token is not trained.
fn examples(lengths: &[usize]) -> Vec<Example> {
    let mut rng = Rng::new(6, "engine examples", 0);
    let mut example = |length: &usize| Example {
        tokens: (0..*length).map(|_| rng.below(VOCAB) as u32).collect(),
        mask: (0..*length).map(|i| i % 3 != 1).collect(),
    };
    lengths.iter().map(&mut example).collect()
}

fn task<A: Act>(device: &Cuda<A>, adapted: bool, lengths: &[usize]) -> Supervised<Cuda<A>> {
    let decoder = tiny::decoder(device, tiny::config(Architecture::Qwen2, VOCAB), 7);
    let adapter = adapted.then(|| tiny::adapter(device, &decoder.config, 0.25, 0.3, 8));
    Supervised {
        decoder,
        adapter,
        examples: examples(lengths),
        ids: vec![String::new(); lengths.len()],
        validation: Vec::new(),
        recompute: Recompute::None,
        base: String::new(),
        storage: Storage::F32,
    }
}

/// What is computed again is computed by the same kernels from the same inputs, dropout's masks included: the same bits.
fn recomputation_changes_no_bit<A: Act>(device: &Cuda<A>) {
    for adapted in [false, true] {
        let mut task = task(device, adapted, &[9, 1, 6]);
        let mut grads = Grads::new(device, &mut task.params()).unwrap();
        let mut with = |recompute| {
            task.recompute = recompute;
            grads.clear(device).unwrap();
            let loss = task.micro(device, &[0, 1, 2], 0.1, 9, &mut grads, &mut |_, _| Ok(())).unwrap().read(device).unwrap();
            let named: BTreeMap<String, Vec<f64>> = grads
                .by_name(device)
                .unwrap()
                .into_iter()
                .map(|(part, values)| (part.name, values.into_iter().map(Real::f64).collect()))
                .collect();
            assert!(named.values().all(|values| values.iter().any(|x| *x != 0.0)), "a gradient is zero everywhere");
            (loss, named)
        };
        let kept = with(Recompute::None);
        for recompute in [Recompute::Mlp, Recompute::Block] {
            assert!(with(recompute) == kept, "{recompute:?} gives other numbers");
        }
    }
}

/// Each step is two micro-batches of the same lengths, so the first step after the one that everything was allocated for has nothing
/// left to allocate.
fn a_step_waits_once_and_its_memory_comes_back<A: Act>(device: &Cuda<A>) {
    for adapted in [false, true] {
        let mut task = task(device, adapted, &[7, 3, 7, 3]);
        let hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 };
        let (mut optimizer, mut grads) = Optimizer::new(device, &comm::solo(), &mut task.params(), hyper, Sum::Whole).unwrap();
        let mut step = |key: u64| {
            let (_, seen) = watch(None, || {
                grads.clear(device).unwrap();
                let mut losses = Vec::new();
                for (micro, records) in [[0, 1], [2, 3]].iter().enumerate() {
                    let key = 2 * key + micro as u64;
                    losses.push(task.micro(device, records, 0.1, key, &mut grads, &mut |_, _| Ok(())).unwrap());
                }
                let (squares, losses) = optimizer.measure(device, &grads, &losses).unwrap();
                assert!(losses.iter().all(|loss| *loss > 0.0));
                let norm = squares.norm(&grads).unwrap();
                optimizer.update(device, &mut task.params(), &grads, norm, 1e-3).unwrap();
            });
            seen
        };
        let [first, second, third] = [0, 1, 2].map(&mut step);
        assert_eq!([first.downloads, second.downloads, third.downloads], [1; 3], "waits");
        assert_eq!(second, third, "two steps of the same lengths");
        assert_eq!(second.live, 0, "bytes that a step keeps");
        assert!(second.peak > 0 && second.peak <= first.peak, "{second:?} after {first:?}");
    }
}

/// The same through the stages' loop: a second step is one wait more, and no more memory.
fn a_second_step_is_one_wait_more<A: Act>(device: &Cuda<A>) {
    let ground = Ground::new();
    // The rotary frequencies of a width stay on the device once they were used; the models of all tests have the same.
    let decoder = tiny::decoder(device, tiny::config(Architecture::Qwen2, VOCAB), 10);
    score::logprobs(device, &decoder, None, &[vec![1, 2]]).unwrap();
    for stage in [Stage::Sft, Stage::Reward] {
        let of = |epochs: usize| {
            let mut recipe = ground.run(&format!("{stage:?} {epochs}"));
            // An epoch is a step with all of the data in it, so that an epoch's order makes no other micro-batch.
            (recipe.sft.epochs, recipe.sft.sequences_per_device, recipe.sft.accumulation) = (epochs, 6, 1);
            (recipe.reward.epochs, recipe.reward.sequences_per_device, recipe.reward.accumulation) = (epochs, 6, 1);
            (recipe.sft.validate, recipe.reward.validation) = (false, 0.0);
            (recipe.sft.checkpoint_every, recipe.reward.checkpoint_every) = (0, 0);
            let (done, seen) = watch(None, || stage.run(device, &recipe));
            done.unwrap();
            seen
        };
        let [one, two] = [1, 2].map(of);
        assert_eq!(two.downloads - one.downloads, 1, "{stage:?}: {two:?} after {one:?}");
        assert_eq!((two.live, two.peak), (0, one.peak), "{stage:?}");
    }
}

on_kernels!(recomputation_changes_no_bit, a_step_waits_once_and_its_memory_comes_back, a_second_step_is_one_wait_more);
