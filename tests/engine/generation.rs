//! Generation on `Cuda`: the host is a step behind and waits for none, steps are repeated from recordings, and nothing of it shows in
//! what is written.

use half::bf16;
use repairity::device::cuda::Act;
use repairity::device::{Cpu, Cuda, Device, Sampling};
use repairity::generate::{Request, Sample, Settings, generate};
use repairity::model::config::Architecture;
use repairity::rng::Rng;

use crate::simulated::Simulated;
use crate::stages::SINGLE;
use crate::watched::{Watched, plainly, watch};
use crate::{on_kernels, tiny};

const VOCAB: usize = 40;

/// Prompts of different lengths.
fn requests(count: usize) -> Vec<Request> {
    let mut rng = Rng::new(11, "engine prompts", 0);
    let mut prompt = |i: usize| (0..1 + 3 * i % 7).map(|_| rng.below(VOCAB) as u32).collect();
    (0..count).map(|i| Request { prompt: prompt(i), key: (7 << 40) + i as u64 }).collect()
}

fn settings(max_new_tokens: usize, eos: &[u32], batch: usize) -> Settings {
    let sampling = Sampling { temperature: 0.9, top_k: 0, top_p: 1.0 };
    Settings { sampling, max_new_tokens, eos: eos.to_vec(), batch }
}

/// What is written, and what `on_token` was told.
fn write<D: Device>(device: &D, requests: &[Request], settings: &Settings) -> Vec<Sample> {
    let decoder = tiny::decoder(device, tiny::config(Architecture::Qwen2, VOCAB), 9);
    let adapter = tiny::adapter(device, &decoder.config, 0.0, 0.3, 8);
    let mut told = vec![Vec::new(); requests.len()];
    let mut on_token = |request: usize, token: u32| {
        told[request].push(token);
        Ok(())
    };
    let samples = generate(device, &decoder, Some(&adapter), requests, settings, &mut on_token).unwrap();
    assert!(samples.iter().zip(told).all(|(sample, told)| sample.tokens == told));
    samples
}

/// End tokens that end some sequences early and some not, so that places come free at different times.
fn eos() -> Vec<u32> {
    let free = write(&Cpu::<f32>::new(), &requests(6), &settings(8, &[], 3));
    let eos = vec![free[1].tokens[2], free[4].tokens[4]];
    let lengths = |sample: &Sample| sample.tokens.iter().position(|token| eos.contains(token));
    let ends: Vec<Option<usize>> = free.iter().map(lengths).collect();
    assert!(ends.contains(&None) && ends.iter().flatten().count() >= 2, "{ends:?}");
    eos
}

fn assert_well_formed(samples: &[Sample], settings: &Settings) {
    for Sample { tokens, logprobs, ended } in samples {
        assert_eq!(tokens.len(), logprobs.len());
        assert_eq!(tokens.iter().position(|token| settings.eos.contains(token)), ended.then_some(tokens.len() - 1));
        assert!(*ended || tokens.len() == settings.max_new_tokens);
        assert!(logprobs.iter().all(|logprob| logprob.is_finite() && *logprob < 0.0));
    }
}

/// Six prompts in three places, of which some come free early: rows of no sequence, steps whose result is dropped, prompts that are
/// read between steps. In f32 it is the CPU's tokens, which reads each step's results before the next.
fn what_is_written_is_the_cpu_s<A: Act>(device: &Cuda<A>) {
    let (requests, settings) = (requests(6), settings(8, &eos(), 3));
    let found = write(device, &requests, &settings);
    assert_well_formed(&found, &settings);
    if A::BUILD == f32::BUILD {
        for (found, expected) in found.iter().zip(write(&Cpu::<f32>::new(), &requests, &settings)) {
            assert_eq!((&found.tokens, found.ended), (&expected.tokens, expected.ended));
            let away = found.logprobs.iter().zip(&expected.logprobs).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(away <= SINGLE, "log-probs {away:.1e} away");
        }
    }
}

/// Two waves of two sequences: the prompts' pass and five steps each, which all have two rows. The first of them is launched plainly,
/// and all others from its recording.
fn no_token_is_waited_for<A: Act>(device: &Cuda<A>) {
    let decoder = tiny::decoder(device, tiny::config(Architecture::Qwen2, VOCAB), 9);
    let (requests, settings) = (requests(4), settings(6, &[], 2));
    let run = || {
        let (samples, seen) = watch(None, || generate(device, &decoder, None, &requests, &settings, &mut |_, _| Ok(())).unwrap());
        assert!(samples.iter().all(|sample| sample.tokens.len() == 6));
        seen
    };
    run();
    let seen = run();
    assert_eq!((seen.downloads, seen.arrivals, seen.replays), (0, 12, 9));
    assert_eq!(seen.live, 0, "bytes that generating keeps");
}

on_kernels!(what_is_written_is_the_cpu_s, no_token_is_waited_for);

/// In the simulator a product's rows do not depend on how many there are: launched one by one without rows of no sequence, the bits are
/// those of recorded steps with them.
#[test]
fn repeated_steps_write_what_launched_ones_do() {
    fn same<A: Act>(eos: &[u32]) {
        let (requests, settings) = (requests(6), settings(8, eos, 5));
        let device = || Cuda::<A>::with_driver(Watched::over(Simulated::new::<A>(0))).unwrap();
        let (repeated, seen) = watch(None, || write(&device(), &requests, &settings));
        let (plain, alone) = watch(None, || plainly(|| write(&device(), &requests, &settings)));
        assert!(seen.replays > 0 && alone.replays == 0);
        assert_eq!(repeated, plain);
    }
    let eos = eos();
    same::<f32>(&eos);
    same::<bf16>(&eos);
}
