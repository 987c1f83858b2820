//! What the method promises, on tiny models: packing, recomputation, accumulation and batching change nothing; dropout and
//! adapters do what they are for; PPO starts from a ratio of 1 and a KL of 0, and raises a reward that can be raised.

#[path = "support/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use repairity::batch::{NextTokens, Order};
use repairity::checkpoint::Storage;
use repairity::comm::{self, Group};
use repairity::device::{Cpu, Device, Dropout, Real, Sampling};
use repairity::error::Result;
use repairity::generate::{Request, Sample, Settings, generate};
use repairity::loss::Pending;
use repairity::loss::ppo::ScoreScale;
use repairity::loss::sft;
use repairity::model::config::Architecture;
use repairity::model::head::LogProbs;
use repairity::model::lora::{LoraConfig, Target};
use repairity::model::{Adapter, Decoder, OnLayer, Packed, Pass, ScalarHead};
use repairity::optim::Hyper;
use repairity::prompt::{self, Example};
use repairity::recipe::{Recipe, Recompute, Schedule, Train};
use repairity::record::{Conversation, Message, write_jsonl};
use repairity::rng::Rng;
use repairity::score::{self, RewardModel};
use repairity::stage::checkpoints::{Content, Piece};
use repairity::stage::sft::Supervised;
use repairity::stage::train::{self, Plan, Task};
use repairity::stage::{self, Files};
use repairity::telemetry::set_quiet;
use repairity::tokenizer::Tokenizer;
use repairity::weights::{Grads, Param, Part, Trained};
use serde_json::Value;

/// Both sides sum the same terms in double precision and in another order: a few hundred roundings of 2^-53 each, on numbers
/// below 10, stay below 1e-12. Gradients are compared relative to the largest element of their tensor, because what rounding
/// leaves of a sum that cancels has the size of its terms.
const REORDERED: f64 = 1e-12;

const VOCAB: usize = 40;

fn models() -> [Architecture; 2] {
    [Architecture::Qwen2, Architecture::Llama]
}

/// Sequences of random tokens.
fn sequences(lengths: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut rng = Rng::new(seed, "tiny sequences", 0);
    lengths.iter().map(|length| (0..*length).map(|_| rng.below(VOCAB) as u32).collect()).collect()
}

fn packed<D: Device>(device: &D, sequences: &[Vec<u32>]) -> Packed<D> {
    Packed::new(device, &sequences.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

/// A fixed third of the tokens is not trained.
fn examples(sequences: &[Vec<u32>]) -> Vec<Example> {
    let mask = |sequence: &Vec<u32>| (0..sequence.len()).map(|i| i % 3 != 1).collect();
    sequences.iter().map(|sequence| Example { tokens: sequence.clone(), mask: mask(sequence) }).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| f64::max(most, x.abs()))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    largest(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

type Named = BTreeMap<String, Vec<f64>>;

fn named<D: Device>(device: &D, grads: &Grads<D>) -> Named {
    let flat = |(part, values): (Part, Vec<D::Acc>)| (part.name, values.into_iter().map(Real::f64).collect());
    grads.by_name(device).unwrap().into_iter().map(flat).collect()
}

fn assert_near(what: &str, found: &Named, expected: &Named) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in expected {
        let (size, away) = (largest(expected), distance(&found[name], expected));
        assert!(away <= REORDERED * size, "{what}: {name}: {away:.1e} away from numbers of up to {size:.1e}");
    }
}

/// The trained parameters: the adapter's, or the decoder's.
fn trained<'a, D: Device>(decoder: &'a mut Decoder<D>, adapter: &'a mut Option<Adapter<D>>) -> Vec<&'a mut Param<D>> {
    match adapter {
        Some(adapter) => adapter.params_mut(),
        None => decoder.params_mut(),
    }
}

/// The gradient of the examples' summed loss.
fn gradient<D: Device>(
    device: &D,
    decoder: &mut Decoder<D>,
    adapter: &mut Option<Adapter<D>>,
    batches: &[&[Example]],
    pass: Pass,
) -> Named {
    let mut grads = Grads::new(device, &mut trained(decoder, adapter)).unwrap();
    for batch in batches {
        let sequences: Vec<&[u32]> = batch.iter().map(|example| example.tokens.as_slice()).collect();
        let (batch, next) = (Packed::new(device, &sequences).unwrap(), NextTokens::masked(*batch));
        let (hidden, saved) = decoder.forward(device, &batch, adapter.as_ref(), pass).unwrap();
        let (_, dhidden) = sft::sum_and_gradient(device, decoder, &hidden, &next, 1.0, &mut grads).unwrap();
        decoder.backward(device, &batch, adapter.as_ref(), saved, &dhidden, &mut grads, &mut |_, _| Ok(())).unwrap();
    }
    named(device, &grads)
}

const KEEP: Pass = Pass { recompute: Recompute::None, dropout: None };

#[test]
fn packed_sequences_do_not_see_each_other() {
    let device = Cpu::<f64>::new();
    // One token predicts nothing, and must not disturb its neighbours.
    let sequences = sequences(&[7, 1, 12, 3, 5], 1);
    for architecture in models() {
        let decoder = tiny::decoder(&device, tiny::config(architecture, VOCAB), 2);
        let one_by_one: Vec<Vec<f64>> = sequences
            .iter()
            .flat_map(|sequence| score::logprobs(&device, &decoder, None, std::slice::from_ref(sequence)).unwrap())
            .collect();
        let together = score::logprobs(&device, &decoder, None, &sequences).unwrap();
        assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), [6, 0, 11, 2, 4]);
        assert!(distance(&together.concat(), &one_by_one.concat()) <= REORDERED);

        let examples = examples(&sequences);
        for adapted in [false, true] {
            let mut decoder = tiny::decoder(&device, tiny::config(architecture, VOCAB), 2);
            let mut adapter = adapted.then(|| tiny::adapter(&device, &decoder.config, 0.0, 0.3, 3));
            let together = gradient(&device, &mut decoder, &mut adapter, &[&examples], KEEP);
            let singles: Vec<&[Example]> = examples.chunks(1).collect();
            let apart = gradient(&device, &mut decoder, &mut adapter, &singles, KEEP);
            assert_near(&format!("{architecture:?}"), &together, &apart);
            assert!(together.values().all(|values| largest(values) > 0.0), "a gradient is zero everywhere");
        }
    }
}

/// What is computed again is computed by the same operators from the same inputs, dropout's masks included: the same bits.
#[test]
fn recomputation_changes_no_bit() {
    fn check<D: Device>(device: &D) {
        let examples = examples(&sequences(&[9, 4, 6], 4));
        for architecture in models() {
            for dropout in [None, Some(Dropout { p: 0.25, key: 7 })] {
                let mut decoder = tiny::decoder(device, tiny::config(architecture, VOCAB), 5);
                let mut adapter = dropout.map(|_| tiny::adapter(device, &decoder.config, 0.0, 0.3, 6));
                let mut with =
                    |recompute| gradient(device, &mut decoder, &mut adapter, &[&examples], Pass { recompute, dropout });
                let kept = with(Recompute::None);
                for recompute in [Recompute::Mlp, Recompute::Block] {
                    assert!(with(recompute) == kept, "{architecture:?}: {recompute:?} gives other gradients");
                }
            }
            // Where nothing of the feed-forward layer is trained, less of it is computed again.
            let mut decoder = tiny::decoder(device, tiny::config(architecture, VOCAB), 5);
            let mut adapter = Some(adapter_on(device, &decoder, &[Target::Q, Target::O]));
            let mut with =
                |recompute| gradient(device, &mut decoder, &mut adapter, &[&examples], Pass { recompute, dropout: None });
            let kept = with(Recompute::None);
            assert!([Recompute::Mlp, Recompute::Block].into_iter().all(|recompute| with(recompute) == kept), "{architecture:?}");
        }
    }
    check(&Cpu::<f64>::new());
    check(&Cpu::<f32>::new());
}

/// An adapter of rank 2 that changes nothing yet.
fn adapter_on<D: Device>(device: &D, decoder: &Decoder<D>, targets: &[Target]) -> Adapter<D> {
    let config = LoraConfig { rank: 2, alpha: 4.0, dropout: 0.0, targets: targets.to_vec() };
    Adapter::new(device, config, &decoder.config, 3).unwrap()
}

/// Backward asks for the input of a map only where something of the map is trained: else it is not kept.
#[test]
fn inputs_of_frozen_maps_are_not_kept() {
    let device = Cpu::<f32>::new();
    let sequences = sequences(&[9, 4, 6], 4);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let batch = Packed::new(&device, &sequences).unwrap();
    let mut decoder = tiny::decoder(&device, tiny::config(Architecture::Qwen2, VOCAB), 5);
    let mut kept = |targets: &[Target]| {
        let mut adapter = Some(adapter_on(&device, &decoder, targets));
        let _grads = Grads::new(&device, &mut trained(&mut decoder, &mut adapter)).unwrap();
        let before = device.memory().0;
        let _saved = decoder.forward(&device, &batch, adapter.as_ref(), KEEP).unwrap();
        device.memory().0 - before
    };
    let attention = kept(&[Target::Q]);
    let (gate, down) = (kept(&[Target::Q, Target::Gate]), kept(&[Target::Q, Target::Down]));
    // A rank of 2 makes a z of 8 columns.
    let a_column = batch.tokens * decoder.config.layers * size_of::<f32>();
    assert_eq!(gate - attention, a_column * (decoder.config.hidden + 8));
    assert_eq!(down - attention, a_column * (decoder.config.intermediate + 8));
}

#[test]
fn accumulation_is_the_larger_batch() {
    let device = Cpu::<f64>::new();
    // Lengths differ, so a mean of means would be another number.
    let data = examples(&sequences(&[3, 14, 5, 9, 2, 7, 11, 4], 8));
    let decoder = tiny::decoder(&device, tiny::config(Architecture::Qwen2, VOCAB), 9);
    let adapter = tiny::adapter(&device, &decoder.config, 0.0, 0.3, 10);
    let mut task = Supervised {
        decoder,
        adapter: Some(adapter),
        ids: vec![String::new(); data.len()],
        examples: data,
        validation: Vec::new(),
        recompute: Recompute::None,
        base: String::new(),
        storage: Storage::F32,
    };
    let mut step = |per_micro: usize, accumulation: usize| {
        let order = Order { count: 8, per_micro, accumulation, epochs: 1, seed: 11, shuffle: true };
        assert_eq!(order.steps(), 1);
        let mut grads = Grads::new(&device, &mut task.params()).unwrap();
        let weight: f64 = (0..8).map(|record| task.weight(record)).sum();
        let micros = order.step(0);
        assert_eq!(micros.len(), accumulation);
        let mut sum = 0.0;
        for micro in micros {
            sum += task.micro(&device, &micro, 1.0 / weight, 0, &mut grads, &mut |_, _| Ok(())).unwrap().read(&device).unwrap();
        }
        (sum / weight, named(&device, &grads))
    };
    let (loss, gradient) = step(8, 1);
    for (per_micro, accumulation) in [(1, 8), (3, 3), (4, 2)] {
        let (other, accumulated) = step(per_micro, accumulation);
        assert!((other - loss).abs() <= REORDERED, "{other} {loss}");
        assert_near(&format!("{per_micro} x {accumulation}"), &accumulated, &gradient);
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    fn check<D: Device>(device: &D) {
        let sequences = sequences(&[8, 5], 12);
        for architecture in models() {
            let decoder = tiny::decoder(device, tiny::config(architecture, VOCAB), 13);
            let of = |adapter: Option<&Adapter<D>>| score::logprobs(device, &decoder, adapter, &sequences).unwrap();
            let fresh = tiny::adapter(device, &decoder.config, 0.0, 0.0, 14);
            assert!(of(Some(&fresh)) == of(None));
            let trained = tiny::adapter(device, &decoder.config, 0.0, 0.3, 14);
            assert!(distance(&of(Some(&trained)).concat(), &of(None).concat()) > 0.01);
        }
    }
    check(&Cpu::<f64>::new());
    check(&Cpu::<f32>::new());
}

/// A branch's input keeps its mean under dropout, so to first order in the branch a log-prob keeps its own. With 4000 masks the
/// mean of the deviations must be within 5 standard errors of 0, plus the second order: the square of what one mask moves.
#[test]
fn dropout_is_a_function_of_its_key_and_right_in_the_mean() {
    let device = Cpu::<f64>::new();
    let decoder = tiny::decoder(&device, tiny::config(Architecture::Qwen2, VOCAB), 15);
    let adapter = tiny::adapter(&device, &decoder.config, 0.0, 0.001, 16);
    let sequences = sequences(&[10], 17);
    let (batch, next) = (packed(&device, &sequences), NextTokens::after([(sequences[0].as_slice(), 1)]));
    let of = |adapter: Option<&Adapter<_>>, dropout: Option<Dropout>| -> Vec<f64> {
        let pass = Pass { recompute: Recompute::None, dropout };
        let (hidden, _) = decoder.forward(&device, &batch, adapter, pass).unwrap();
        device.download(&LogProbs::new(&device, &decoder, &hidden, &next.rows, &next.targets, 1.0).unwrap().logprob).unwrap()
    };
    let at = |key| of(Some(&adapter), Some(Dropout { p: 0.5, key }));
    assert!(at(1) == at(1));
    assert!(at(1) != at(2));
    assert!(of(Some(&adapter), Some(Dropout { p: 0.0, key: 1 })) == of(Some(&adapter), None));

    let (whole, without) = (of(Some(&adapter), None), of(None, None));
    let keys = 4000;
    let samples: Vec<Vec<f64>> = (0..keys).map(at).collect();
    let mut discriminates = 0;
    for token in 0..whole.len() {
        let deviations: Vec<f64> = samples.iter().map(|sample| sample[token] - whole[token]).collect();
        let mean = deviations.iter().sum::<f64>() / keys as f64;
        let variance = deviations.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / (keys - 1) as f64;
        let bound = 5.0 * (variance / keys as f64).sqrt() + largest(&deviations).powi(2);
        assert!(mean.abs() <= bound, "token {token}: the mean is off by {mean:.1e}, {bound:.1e} allowed");
        // Without the division by 1 - p half of the branch's effect would be missing.
        discriminates += usize::from((whole[token] - without[token]).abs() / 2.0 > 1.5 * bound);
    }
    assert!(discriminates >= 2, "the bound is too wide to tell a wrong scale: {discriminates}");
}

#[test]
fn a_score_depends_on_neither_batch_nor_order() {
    let device = Cpu::<f64>::new();
    let decoder = tiny::decoder(&device, tiny::config(Architecture::Llama, VOCAB), 18);
    let head = ScalarHead::random(&device, decoder.config.hidden, 19).unwrap();
    let scale = ScoreScale { mean: 0.0, deviation: 1.0 };
    let model = RewardModel { decoder, adapter: None, head, tokenizer: None, scale };
    // More than one pass of `score::PASS` sequences.
    let lengths: Vec<usize> = (0..2 * score::PASS + 3).map(|i| 1 + (7 * i) % 13).collect();
    let sequences = sequences(&lengths, 20);
    let together = model.score_tokens(&device, &sequences).unwrap();
    let alone: Vec<f64> = sequences.iter().flat_map(|s| model.score_tokens(&device, std::slice::from_ref(s)).unwrap()).collect();
    let backwards: Vec<Vec<u32>> = sequences.iter().rev().cloned().collect();
    let mut backwards = model.score_tokens(&device, &backwards).unwrap();
    backwards.reverse();
    assert!(distance(&together, &alone) <= REORDERED);
    assert!(distance(&backwards, &alone) <= REORDERED);
    assert!(distance(&alone[1..], &alone[..alone.len() - 1]) > 0.1, "the scores are all alike");
}

fn sampling(temperature: f32, top_k: usize) -> Sampling {
    Sampling { temperature, top_k, top_p: 1.0 }
}

fn requests(lengths: &[usize], seed: u64) -> Vec<Request> {
    let prompts = sequences(lengths, seed).into_iter().enumerate();
    prompts.map(|(index, prompt)| Request { prompt, key: 1000 + index as u64 }).collect()
}

fn sampled<D: Device>(
    device: &D,
    decoder: &Decoder<D>,
    requests: &[Request],
    sampling: Sampling,
    eos: &[u32],
    batch: usize,
) -> Vec<Sample> {
    let settings = Settings { sampling, max_new_tokens: 10, eos: eos.to_vec(), batch };
    generate(device, decoder, None, requests, &settings, &mut |_, _| Ok(())).unwrap()
}

fn tokens(samples: &[Sample]) -> Vec<&[u32]> {
    samples.iter().map(|sample| sample.tokens.as_slice()).collect()
}

/// Full forward passes instead of the cache, position by position.
#[test]
fn greedy_generation_is_the_argmax_of_the_full_forward_pass() {
    let device = Cpu::<f64>::new();
    for architecture in models() {
        let decoder = tiny::decoder(&device, tiny::config(architecture, VOCAB), 21);
        let requests = requests(&[4, 1, 9], 22);
        let greedy = sampled(&device, &decoder, &requests, sampling(0.0, 0), &[], 3);
        for (request, sample) in requests.iter().zip(&greedy) {
            assert_eq!((sample.tokens.len(), sample.ended), (10, false));
            let mut text = request.prompt.clone();
            for (token, logprob) in sample.tokens.iter().zip(&sample.logprobs) {
                let (c, last) = (decoder.config.hidden, text.len() - 1);
                let hidden = decoder.infer(&device, &packed(&device, std::slice::from_ref(&text)), None).unwrap();
                let mut row = device.zeros(c).unwrap();
                device.gather_rows(&mut row, &hidden, &device.upload(&[last as u32]).unwrap(), c).unwrap();
                let mut logits = device.zeros(VOCAB).unwrap();
                device.logits(&mut logits, &row, &decoder.head().value, (1, c, VOCAB)).unwrap();
                let logits = device.download(&logits).unwrap();
                let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
                assert_eq!(*token, best.0 as u32);
                let normaliser = logits.iter().map(|logit| (logit - best.1).exp()).sum::<f64>().ln();
                assert!((logprob + normaliser).abs() <= REORDERED, "{logprob} {normaliser}");
                text.push(*token);
            }
        }
        assert_eq!(tokens(&sampled(&device, &decoder, &requests, sampling(1.0, 1), &[], 3)), tokens(&greedy));
    }
}

#[test]
fn a_sample_depends_on_its_key_and_not_on_its_neighbours() {
    let device = Cpu::<f64>::new();
    let decoder = tiny::decoder(&device, tiny::config(Architecture::Qwen2, VOCAB), 23);
    let requests = requests(&[4, 1, 9, 4, 6, 2, 7], 24);
    let eos = [3, 17];
    let of = |requests: &[Request], batch| sampled(&device, &decoder, requests, sampling(0.9, 0), &eos, batch);
    let all = of(&requests, 7);
    assert!(all.iter().any(|sample| sample.ended) && all.iter().any(|sample| !sample.ended), "one of the cases is missing");
    assert!(of(&requests, 7) == all, "the same keys give other samples");
    for batch in [1, 2, 3, 100] {
        let other = of(&requests, batch);
        assert_eq!(tokens(&other), tokens(&all), "batch {batch}");
        for (a, b) in other.iter().zip(&all) {
            assert!(distance(&a.logprobs, &b.logprobs) <= REORDERED, "batch {batch}");
        }
    }
    for (request, sample) in requests.iter().zip(&all) {
        assert_eq!(of(std::slice::from_ref(request), 1)[0].tokens, sample.tokens);
    }
    let rekeyed: Vec<Request> = requests.iter().map(|r| Request { key: r.key + 1, ..r.clone() }).collect();
    assert_ne!(tokens(&of(&rekeyed, 7)), tokens(&all));
    // The same prompt with the same key is the same sample; with another key it is another.
    let twice: Vec<Request> = [5, 5, 6].map(|key| Request { key, ..requests[0].clone() }).to_vec();
    let twice = sampled(&device, &decoder, &twice, sampling(1.0, 0), &[], 3);
    assert_eq!(twice[0].tokens, twice[1].tokens);
    assert_ne!(twice[0].tokens, twice[2].tokens);
}

#[test]
fn an_end_token_ends_a_sequence_and_is_kept() {
    let device = Cpu::<f64>::new();
    let decoder = tiny::decoder(&device, tiny::config(Architecture::Qwen2, VOCAB), 25);
    let requests = requests(&[5, 3, 8], 26);
    let free = sampled(&device, &decoder, &requests, sampling(1.0, 0), &[], 2);
    let eos = free[1].tokens[4];
    let ended = sampled(&device, &decoder, &requests, sampling(1.0, 0), &[eos], 2);
    for (free, ended) in free.iter().zip(&ended) {
        let length = free.tokens.iter().position(|token| *token == eos).map_or(10, |at| at + 1);
        assert_eq!(ended.tokens, free.tokens[..length]);
        assert_eq!(ended.ended, free.tokens.contains(&eos));
        assert_eq!(ended.logprobs.len(), length);
    }
    assert!(ended[1].ended && ended[1].tokens.len() <= 5);
}

/// A task whose validation losses are given: it records which step's parameters were kept.
struct Scripted<D: Device> {
    param: Param<D>,
    losses: Vec<f64>,
    epoch: usize,
}

impl<D: Device> Task<D> for Scripted<D> {
    fn params(&mut self) -> Vec<&mut Param<D>> {
        vec![&mut self.param]
    }

    fn weight(&self, _: usize) -> f64 {
        1.0
    }

    fn tokens(&self, _: usize) -> usize {
        1
    }

    fn id(&self, record: usize) -> String {
        record.to_string()
    }

    fn micro(&mut self, _: &D, _: &[usize], _: f64, _: u64, _: &mut Grads<D>, _: OnLayer<'_, D>) -> Result<Pending<D, f64>> {
        Ok(Pending::new(Vec::new(), |_| 1.0))
    }

    fn idle(&mut self, _: &D, _: &mut Grads<D>, _: OnLayer<'_, D>) -> Result<()> {
        Ok(())
    }

    fn validate(&mut self, _: &D, _: &Group) -> Result<Option<Vec<(&'static str, f64)>>> {
        self.epoch += 1;
        Ok(Some(vec![("validation_loss", self.losses[self.epoch - 1])]))
    }

    fn files(&self, _: &D, _: &Trained) -> Result<Vec<Piece>> {
        Ok(vec![Piece { name: "epoch.json".into(), content: Content::Json(self.epoch.into()) }])
    }
}

const HYPER: Hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 };

#[test]
fn patience_counts_epochs_without_a_better_validation_and_the_best_is_kept() {
    set_quiet(true);
    let device = Cpu::<f64>::new();
    let nan = f64::NAN;
    // (losses, patience, epochs run, epoch kept)
    let cases: [(&[f64], Option<usize>, usize, usize); 7] = [
        (&[3.0, 2.0, 4.0, 5.0, 1.0], Some(2), 4, 2),
        (&[3.0, 2.0, 4.0, 1.0, 5.0], Some(2), 5, 4),
        (&[3.0, 2.0, 4.0, 5.0, 2.5], None, 5, 2),
        // An equal loss is no better one.
        (&[2.0, 2.0, 1.0], Some(1), 2, 1),
        (&[5.0, 4.0, 3.0], Some(1), 3, 3),
        // What is no number is no best, and does not stop what is better from being one.
        (&[2.0, nan, 1.0], Some(2), 3, 3),
        (&[nan, 2.0, 3.0], Some(2), 3, 2),
    ];
    for (losses, patience, epochs, kept) in cases {
        let folder = tempfile::tempdir().unwrap();
        let order = Order { count: 3, per_micro: 1, accumulation: 1, epochs: losses.len(), seed: 1, shuffle: true };
        let plan = Plan {
            name: "sft",
            order,
            schedule: Schedule::Constant,
            learning_rate: 1e-3,
            warmup_ratio: 0.0,
            hyper: HYPER,
            train: Train::Lora,
            checkpoint_every: 2,
            keep: 2,
            patience,
            seed: 1,
            result: folder.path().join("result"),
            folder: folder.path().join("state"),
            metrics: folder.path().join("metrics.jsonl"),
            identity: "same".into(),
        };
        let param = Param::master(&device, vec![Part::new("w", &[2, 2])], &[0.5f32; 4]).unwrap();
        let mut task = Scripted { param, losses: losses.to_vec(), epoch: 0 };
        let fitted = train::fit(&device, &comm::solo(), &mut task, &plan).unwrap();
        assert_eq!((fitted.steps, fitted.best), (3 * epochs, Some((kept, losses[kept - 1]))), "{losses:?}");
        assert_eq!(std::fs::read_to_string(plan.result.join("epoch.json")).unwrap(), format!("{kept}\n"), "{losses:?}");
        assert_eq!(metrics(folder.path()).len(), 3 * epochs);
    }
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn conversation(id: usize, question: &str, answer: &str) -> Conversation {
    let messages = vec![Message::user(question), Message::assistant(answer)];
    Conversation { id: id.to_string(), messages, extra: Default::default() }
}

/// A high learning rate on a few records over-fits soon. The adapter that is left must be the one whose validation loss was the
/// lowest: its loss is measured anew, by another path, from the saved folder.
#[test]
fn early_stopping_leaves_the_best_adapter() {
    set_quiet(true);
    let device = Cpu::<f32>::new();
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe { out: folder.path().join("run"), ..Recipe::default() };
    recipe.policy.model = folder.path().join("model");
    recipe.lora.dropout = 0.0;
    recipe.sft.epochs = 40;
    recipe.sft.accumulation = 2;
    recipe.sft.learning_rate = 3e-2;
    recipe.sft.patience = Some(3);
    let decoder = tiny::policy(&device, &recipe.policy.model, 27);
    let files = Files::of(&recipe);
    let training: Vec<Conversation> = (0..4).map(|i| conversation(i, "fix f", ["x + 1", "x - 1", "x", "1"][i])).collect();
    let held_out: Vec<Conversation> = (0..3).map(|i| conversation(i, "fix g", ["x + 2", "y - 1", "x * 3"][i])).collect();
    write_jsonl(&files.sft(), &training).unwrap();
    write_jsonl(&files.sft_validation(), &held_out).unwrap();
    let fitted = stage::sft::run(&device, &comm::solo(), &recipe).unwrap();

    let losses: Vec<f64> = metrics(&recipe.out).iter().filter_map(|line| line["validation_loss"].as_f64()).collect();
    let (epoch, best) = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    assert_eq!(fitted.best.unwrap().0, epoch + 1);
    assert_eq!(losses.len(), epoch + 1 + 3, "three epochs without a better one: {losses:?}");
    assert!(losses.len() < 40 && epoch > 0, "{losses:?}");

    let adapter = Adapter::load(&device, &decoder.config, &recipe.out.join("sft/adapter")).unwrap();
    let tokenizer = Tokenizer::load(&recipe.policy.model).unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for held_out in held_out {
        let example = prompt::conversation(&tokenizer, &held_out.messages, usize::MAX).unwrap().unwrap();
        let logprobs = &score::logprobs(&device, &decoder, Some(&adapter), &[example.tokens]).unwrap()[0];
        for (logprob, _) in logprobs.iter().zip(&example.mask[1..]).filter(|(_, trained)| **trained) {
            sum -= logprob;
            count += 1;
        }
    }
    // Single precision, a few dozen tokens of a loss below 10: 1e-5 is a hundred roundings. Neighbouring epochs differ by more.
    assert!((sum / f64::from(count) - best).abs() < 1e-5, "{} {best}", sum / f64::from(count));
    let second = losses.iter().filter(|loss| *loss != best).fold(f64::INFINITY, |least, x| least.min(*x));
    assert!(second - best > 1e-4, "{losses:?}");
}

/// A PPO run on a tiny policy whose adapter was trained, with a reward model of its own.
fn ppo_recipe<D: Device>(device: &D, folder: &Path) -> Recipe {
    let mut recipe = Recipe { out: folder.join("run"), ..Recipe::default() };
    recipe.policy.model = folder.join("model");
    let decoder = tiny::policy(device, &recipe.policy.model, 28);
    let adapter = folder.join("adapter");
    tiny::adapter(device, &decoder.config, 0.05, 0.1, 29).save(device, &adapter, "model", None).unwrap();
    recipe.ppo.adapter = Some(adapter);
    recipe.ppo.reward_model = Some(folder.join("reward"));
    recipe.ppo.critic_warmup = 0;
    recipe.ppo.checkpoint_every = 0;
    recipe.ppo.max_new_tokens = 8;
    recipe.prompt.instruction = Some("Fix.".into());
    write_jsonl(&Files::of(&recipe).problems(), &(0..5).map(tiny::problem).collect::<Vec<_>>()).unwrap();
    recipe
}

#[test]
fn ppo_starts_with_a_ratio_of_one_and_no_divergence() {
    set_quiet(true);
    let device = Cpu::<f32>::new();
    for (recompute, temperature) in [(Recompute::None, 1.0), (Recompute::Mlp, 0.7), (Recompute::Block, 1.0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut recipe = ppo_recipe(&device, folder.path());
        let reward = tiny::decoder(&device, tiny::config(Architecture::Llama, 270), 30);
        let head = ScalarHead::random(&device, reward.config.hidden, 31).unwrap();
        tiny::reward_model(&device, &folder.path().join("reward"), reward, &head);
        recipe.ppo.iterations = 2;
        recipe.ppo.prompts_per_iteration = 6;
        recipe.ppo.epochs = 2;
        recipe.ppo.minibatches = 1;
        recipe.ppo.sequences_per_device = 4;
        recipe.ppo.learning_rate = 1e-2;
        recipe.ppo.recompute = recompute;
        recipe.ppo.temperature = temperature;
        stage::ppo::run(&device, &comm::solo(), &recipe).unwrap();
        let metrics = metrics(&recipe.out);
        assert_eq!(metrics.len(), 2);
        // Until the first step the policy is the reference, bit by bit.
        assert_eq!(metrics[0]["kl"], 0.0);
        assert_ne!(metrics[1]["kl"], 0.0);
        for line in &metrics {
            let [first, second] = [&line["epochs"][0], &line["epochs"][1]];
            assert_eq!((&first["ratio"], &first["kl_old"], &first["clip_fraction"]), (&1.0.into(), &0.0.into(), &0.0.into()));
            assert_ne!(second["ratio"], 1.0);
            assert!(second["kl_old"].as_f64().unwrap() > 0.0);
            // The sampler's log-probs come from the cache: in single precision 1e-4 is two hundred roundings of numbers below 10.
            assert!(line["sampler_drift"].as_f64().unwrap() < 1e-4, "{}", line["sampler_drift"]);
        }
    }
}

/// The reward: the share of small letters in the text, planted in a decoder that only averages. Its queries and keys are zero,
/// so attention is uniform; column 0 of the embedding says whether a token counts; values carry it to the last token.
fn planted<D: Device>(device: &D, folder: &Path) {
    let tokenizer = tiny::tokenizer(folder);
    let mut config = tiny::config(Architecture::Llama, tokenizer.vocab_size());
    config.layers = 1;
    let (c, dim) = (config.hidden, config.heads.dim);
    let mut decoder = tiny::decoder(device, config, 32);
    let values = |part: &Part| -> Vec<f32> {
        let columns = *part.shape.last().unwrap();
        let one = |i: usize| match part.name.rsplit('.').nth(1).unwrap() {
            // The second column keeps the norm of a token that does not count away from zero.
            "embed_tokens" => match i % columns {
                0 if counts(&tokenizer, i / columns) => 1.0,
                1 => 1.0,
                _ => 0.0,
            },
            // The first value of each head is column 0, and the output writes the first head's back to it.
            "v_proj" if i.is_multiple_of(dim * columns) => 1.0,
            "o_proj" if i == 0 => 1.0,
            "norm" | "input_layernorm" | "post_attention_layernorm" => 1.0,
            _ => 0.0,
        };
        (0..part.elements()).map(one).collect()
    };
    for param in decoder.params_mut() {
        let all: Vec<f32> = param.parts.iter().flat_map(&values).collect();
        param.write(device, &all).unwrap();
    }
    let mut head = ScalarHead::zeros(device, c).unwrap();
    head.weight.write(device, &(0..c).map(|i| if i == 0 { 10.0f32 } else { 0.0 }).collect::<Vec<_>>()).unwrap();
    tiny::reward_model(device, folder, decoder, &head);
}

fn counts(tokenizer: &Tokenizer, id: usize) -> bool {
    tokenizer.token(id as u32).is_some_and(|token| token.len() == 1 && token.as_bytes()[0].is_ascii_lowercase())
}

#[test]
fn ppo_raises_a_planted_reward() {
    set_quiet(true);
    let device = Cpu::<f32>::new();
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = ppo_recipe(&device, folder.path());
    let reward = folder.path().join("reward");
    planted(&device, &reward);
    let model = RewardModel::load(&device, &reward).unwrap();
    let scores = model.score_texts(&device, &[("fix", "123456"), ("fix", "abc456"), ("fix", "abcdef")], 512).unwrap();
    assert!(scores[0] < scores[1] && scores[1] < scores[2], "the reward is not planted: {scores:?}");

    recipe.ppo.iterations = 40;
    recipe.ppo.prompts_per_iteration = 32;
    recipe.ppo.sequences_per_device = 8;
    recipe.ppo.epochs = 2;
    recipe.ppo.minibatches = 2;
    recipe.ppo.learning_rate = 1e-2;
    recipe.ppo.critic_learning_rate = 1e-2;
    recipe.ppo.kl = 0.01;
    recipe.ppo.missing_eos_penalty = 0.0;
    // The scores are not brought to mean 0 here.
    recipe.ppo.score_clip = 100.0;
    stage::ppo::run(&device, &comm::solo(), &recipe).unwrap();
    let scores: Vec<f64> = metrics(&recipe.out).iter().map(|line| line["score"].as_f64().unwrap()).collect();
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let (start, end) = (mean(&scores[..5]), mean(&scores[35..]));
    // Of one iteration's score; a mean of five varies about half as much, so 5 of it are chance in no run.
    let spread = mean(&scores[..5].iter().map(|x| (x - start).abs()).collect::<Vec<_>>());
    assert!(end - start > 5.0 * spread, "from {start} ± {spread} to {end}: {scores:?}");
}
