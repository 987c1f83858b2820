//! Training on 1, 2, 4 and 8 ranks: the same losses, gradients and weights, a share of the state each, and runs that go on with the
//! same bits, or on another number of ranks.
//!
//! How many ranks there are decides only in which order a step's gradients are summed. In double precision what that changes is
//! some units of 1e-16, so that ten digits that agree are the same arithmetic; in single precision a sum of the same micro-batches
//! in the same order is the same bits.

#[path = "support/ground.rs"]
#[allow(dead_code)] // It also runs stages on one device.
mod ground;
#[path = "support/tiny.rs"]
mod tiny;

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use ground::{Ground, Stage, metrics};
use repairity::checkpoint::{Storage, Tensors};
use repairity::comm::{self, Hub, Shared, Threads};
use repairity::device::{Cpu, Device};
use repairity::error::Result;
use repairity::model::config::Architecture;
use repairity::optim::{Hyper, Optimizer, Sum, deal};
use repairity::prompt::Example;
use repairity::recipe::{Critic, Recipe, Recompute, RewardMemory, Train};
use repairity::rng::Rng;
use repairity::stage::sft::Supervised;
use repairity::stage::train::{self, Task};
use repairity::telemetry::{mute, set_quiet};
use serde_json::Value;

const HYPER: Hyper = Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 };

/// Runs `work` on each of `ranks` CPUs.
fn on_ranks<D: Device, T: Send>(
    device: impl Fn() -> D + Sync,
    ranks: usize,
    work: impl Fn(&D, &Shared<D>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    Hub::new(0, ranks, ranks).run(|group| {
        if !group.is_first() {
            mute();
        }
        let comm: Shared<D> = if ranks == 1 { comm::solo() } else { Arc::new(Threads::new(group)) };
        work(&device(), &comm)
    })
}

/// The largest difference between the numbers of two values of the same form, relative to the larger of 1 and their size.
fn distance(a: &Value, b: &Value) -> f64 {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() / a.abs().max(b.abs()).max(1.0)
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).map(|(a, b)| distance(a, b)).fold(0.0, f64::max)
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.values().zip(b.values()).map(|(a, b)| distance(a, b)).fold(0.0, f64::max)
        }
        _ if a == b => 0.0,
        _ => panic!("{a} and {b}"),
    }
}

/// A stage in one of its forms: what its recipe is, beyond the ground's.
type Form = (&'static str, Stage, fn(&mut Recipe));

const FORMS: [Form; 6] = [
    ("sft", Stage::Sft, |_| ()),
    ("sft of every parameter", Stage::Sft, |recipe| recipe.sft.train = Train::Full),
    ("reward", Stage::Reward, |_| ()),
    ("reward with an adapter", Stage::Reward, |recipe| recipe.reward.train = Train::Lora),
    ("ppo", Stage::Ppo, |recipe| recipe.ppo.minibatches = 2),
    ("ppo with a head alone", Stage::Ppo, |recipe| recipe.ppo.critic = Critic::Head),
];

/// Each step's sequences are the same on any number of ranks; two steps an epoch, of which the second is short.
fn recipe(ground: &Ground, name: &str, form: fn(&mut Recipe)) -> Recipe {
    let mut recipe = ground.run(name);
    (recipe.sft.global_batch, recipe.reward.global_batch) = (Some(4), Some(3));
    form(&mut recipe);
    recipe
}

fn train_on<D: Device>(device: impl Fn() -> D + Sync, ranks: usize, stage: Stage, recipe: &Recipe) {
    on_ranks(device, ranks, |device, comm| stage.run_with(device, comm, recipe)).unwrap();
}

fn values(stage: Stage, recipe: &Recipe) -> Vec<f32> {
    let tensors = Tensors::open_files(&[stage.trained(recipe)]).unwrap();
    let read = |name: &str| tensors.read::<f32>(name, tensors.shape(name).unwrap()).unwrap();
    tensors.names().into_iter().flat_map(read).collect()
}

fn away(found: &Recipe, expected: &Recipe) -> f64 {
    let (found, expected) = (metrics(found), metrics(expected));
    assert_eq!(found.len(), expected.len());
    found.iter().zip(&expected).map(|(a, b)| distance(a, b)).fold(0.0, f64::max)
}

/// Losses, gradient norms, KL, entropy and what else is measured, and the weights at the end. In double precision: a few hundred
/// terms in another order are 1e-13 at most, and the files' single precision may round that to the neighbour.
#[test]
fn every_stage_gives_the_same_on_any_number_of_ranks() {
    set_quiet(true);
    let ground = Ground::new();
    for (name, stage, form) in FORMS {
        let one = recipe(&ground, name, form);
        train_on(Cpu::<f64>::new, 1, stage, &one);
        for (ranks, shared) in [(2, false), (4, false), (8, false), (2, true), (4, true)] {
            let mut many = recipe(&ground, &format!("{name} {ranks} {shared}"), form);
            many.shard_frozen = shared;
            many.ppo.reward_memory = if shared { RewardMemory::Sharded } else { RewardMemory::Resident };
            train_on(Cpu::<f64>::new, ranks, stage, &many);
            let far = away(&many, &one);
            assert!(far < 1e-12, "{name} on {ranks} ranks: metrics are {far:.1e} away");
            for (found, expected) in values(stage, &many).iter().zip(values(stage, &one)) {
                assert!((found - expected).abs() <= f32::EPSILON * expected.abs(), "{name} on {ranks}: {found} {expected}");
            }
        }
    }
}

/// Twice on four ranks, and with the frozen weights shared out, which moves them and computes nothing else.
#[test]
fn the_same_ranks_give_the_same_bits() {
    set_quiet(true);
    let ground = Ground::new();
    for (name, stage, form) in FORMS {
        let runs = ["once", "again", "shared"].map(|which| {
            let mut recipe = recipe(&ground, &format!("{name} {which}"), form);
            recipe.shard_frozen = which == "shared";
            recipe.ppo.reward_memory = if which == "shared" { RewardMemory::Sharded } else { RewardMemory::Resident };
            train_on(Cpu::<f32>::new, 4, stage, &recipe);
            recipe
        });
        for other in &runs[1..] {
            assert_eq!(metrics(other), metrics(&runs[0]), "{name}");
            assert!(values(stage, other) == values(stage, &runs[0]), "{name}: other bits");
        }
    }
}

const VOCAB: usize = 40;

fn task(device: &Cpu<f32>, train: Train) -> Supervised<Cpu<f32>> {
    let mut rng = Rng::new(3, "ranks", 0);
    let mut example = |length: usize| Example {
        tokens: (0..length).map(|_| rng.below(VOCAB) as u32).collect(),
        mask: (0..length).map(|i| i > 1).collect(),
    };
    let decoder = tiny::decoder(device, tiny::config(Architecture::Qwen2, VOCAB), 4);
    let adapter = tiny::adapter(device, &decoder.config, 0.1, 0.3, 5);
    Supervised {
        adapter: (train == Train::Lora).then_some(adapter),
        examples: [7, 3, 9, 5, 8, 4, 6, 2].map(&mut example).into(),
        ids: vec![String::new(); 8],
        validation: Vec::new(),
        recompute: Recompute::None,
        base: String::new(),
        storage: Storage::F32,
        decoder,
    }
}

fn bits(task: &mut Supervised<Cpu<f32>>, device: &Cpu<f32>) -> Vec<u32> {
    let read = |param: &mut &mut repairity::weights::Param<Cpu<f32>>| device.download(&param.value).unwrap();
    task.params().iter_mut().flat_map(read).map(f32::to_bits).collect()
}

/// Three steps of one micro-batch a rank, against one device that adds the micro-batches' gradients from the first to the last and
/// updates every parameter itself: the same bits. (Without clipping, whose norm is a sum over all elements in an order of its own.)
#[test]
fn a_step_is_the_sum_in_the_order_of_ranks_to_the_bit() {
    let hyper = Hyper { max_grad_norm: 0.0, ..HYPER };
    for kind in [Train::Lora, Train::Full] {
        for ranks in [2, 4, 8] {
            let device = Cpu::<f32>::new();
            let mut alone = task(&device, kind);
            let (mut optimizer, mut grads) =
                Optimizer::new(&device, &comm::solo(), &mut alone.params(), hyper, Sum::Whole).unwrap();
            for step in 0..3 {
                let mut sums: Vec<Vec<f32>> = Vec::new();
                for micro in 0..ranks {
                    grads.clear(&device).unwrap();
                    alone.micro(&device, &[(step + micro) % 8], 0.1, micro as u64, &mut grads, &mut |_, _| Ok(())).unwrap();
                    let gradient: Vec<Vec<f32>> =
                        (0..grads.count()).map(|slot| device.download(grads.at(slot)).unwrap()).collect();
                    match micro {
                        0 => sums = gradient,
                        _ => sums.iter_mut().flatten().zip(gradient.iter().flatten()).for_each(|(sum, x)| *sum += x),
                    }
                }
                for (slot, sum) in sums.iter().enumerate() {
                    grads.replace(slot, device.upload(sum).unwrap());
                }
                optimizer.update(&device, &mut alone.params(), &grads, 1.0, 1e-2).unwrap();
            }
            let expected = bits(&mut alone, &device);

            let sum = train::sum(kind);
            let found = on_ranks(Cpu::<f32>::new, ranks, |device, comm| {
                let mut task = task(device, kind);
                let (mut optimizer, mut grads) = Optimizer::new(device, comm, &mut task.params(), hyper, sum)?;
                for step in 0..3 {
                    optimizer.clear(device, &mut grads)?;
                    let own = deal(ranks, ranks, comm.group().rank()).collect::<Vec<_>>();
                    assert_eq!(own, [comm.group().rank()]);
                    let loss = optimizer.backward(device, &mut grads, true, |grads, on_layer| {
                        task.micro(device, &[(step + own[0]) % 8], 0.1, own[0] as u64, grads, on_layer)
                    })?;
                    let (squares, losses) = optimizer.measure(device, &grads, &[loss])?;
                    assert!(losses.len() == ranks && squares.norm(&grads)? > 0.0);
                    optimizer.update(device, &mut task.params(), &grads, 1.0, 1e-2)?;
                }
                Ok(bits(&mut task, device))
            })
            .unwrap();
            for (rank, found) in found.iter().enumerate() {
                assert!(*found == expected, "{kind:?}: rank {rank} of {ranks} has other bits");
            }
        }
    }
}

/// What a rank holds of a model that it has taken for training, beyond the values: f32 masters, two moments, and its share of the
/// gradients' sum, 16 bytes for each element of its share. Every tensor's share is rounded up, by less than one element.
#[test]
fn the_optimizers_state_falls_with_the_number_of_ranks() {
    for ranks in [1, 2, 4, 8] {
        let held = on_ranks(Cpu::<f32>::new, ranks, |device, comm| {
            let mut task = task(device, Train::Full);
            let before = device.memory().0;
            let (optimizer, grads) = Optimizer::new(device, comm, &mut task.params(), HYPER, Sum::Shares)?;
            // A number for each tensor is where the squares of the gradients go.
            let held = device.memory().0 - before - 4 * grads.count();
            let elements: Vec<usize> = (0..grads.count()).map(|slot| grads.elements(slot)).collect();
            assert_eq!(optimizer.moments().count(), 2 * elements.len());
            Ok((held, elements))
        })
        .unwrap();
        let elements = &held[0].1;
        let whole = 16 * elements.iter().sum::<usize>();
        let most = elements.iter().map(|len| 16 * len.div_ceil(ranks)).sum::<usize>();
        assert!(most - whole / ranks <= 16 * elements.len());
        assert_eq!(held[0].0, most, "rank 0 of {ranks}");
        let all: usize = held.iter().map(|(held, _)| held).sum();
        assert_eq!(all, whole, "{ranks} ranks hold it once together");
    }
}

/// Stopped on four ranks and gone on with on two, on one and on four: with the same number the same bits; with another the sums of
/// later steps come in another order, which changes numbers by some units of 2^-24 and the loss in its sixth digit at most.
#[test]
fn a_run_goes_on_on_another_number_of_ranks() {
    set_quiet(true);
    let ground = Ground::new();
    for (name, stage, form) in FORMS {
        let longer = |recipe: &mut Recipe| {
            form(recipe);
            (recipe.sft.epochs, recipe.reward.epochs, recipe.ppo.iterations) = (3, 3, 4);
            recipe.keep_checkpoints = 10;
        };
        let mut ends: Vec<Recipe> = Vec::new();
        for ranks in [4, 2, 1] {
            let mut recipe = recipe(&ground, &format!("{name} to {ranks}"), |_| ());
            longer(&mut recipe);
            train_on(Cpu::<f32>::new, 4, stage, &recipe);
            let undisturbed = (metrics(&recipe), values(stage, &recipe));
            // As a run that was killed after its second checkpoint: what came later is gone.
            let state = stage.state(&recipe);
            for entry in std::fs::read_dir(&state).unwrap() {
                let entry = entry.unwrap();
                let step: usize = entry.file_name().to_str().unwrap().strip_prefix("checkpoint-").unwrap().parse().unwrap();
                if step > 2 {
                    std::fs::remove_dir_all(entry.path()).unwrap();
                }
            }
            std::fs::remove_file(stage.trained(&recipe)).unwrap();
            train_on(Cpu::<f32>::new, ranks, stage, &recipe);
            if ranks == 4 {
                assert!((metrics(&recipe), values(stage, &recipe)) == undisturbed, "{name}: other bits");
            }
            ends.push(recipe);
        }
        for other in &ends[1..] {
            let far = away(other, &ends[0]);
            assert!(far < 1e-5, "{name}: metrics are {far:.1e} away");
        }
    }
}

/// Two processes of the program with one rank each, joined as torchrun would start them, and one process with two: the same bits, and
/// only process 0 speaks and writes.
#[test]
fn two_processes_train_what_two_threads_train() {
    let ground = Ground::new();
    let program = |recipe: &Recipe, gpus: usize| {
        let path = recipe.out.with_extension("toml");
        std::fs::write(&path, Recipe { gpus, ..recipe.clone() }.to_toml()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.arg("sft").arg(&path).env("RAYON_NUM_THREADS", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let threads = recipe(&ground, "threads", |_| ());
    let output = program(&threads, 2).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let processes = recipe(&ground, "processes", |_| ());
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let children = ["0", "1"].map(|rank| {
        let mut command = program(&processes, 1);
        command.env("RANK", rank).env("WORLD_SIZE", "2").env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.spawn().unwrap()
    });
    let [first, second] = children.map(|child| child.wait_with_output().unwrap());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(first.status.success() && second.status.success(), "{}{}", said(&first), said(&second));
    assert!(said(&first).contains(", 2 steps, loss "), "{}", said(&first));
    assert_eq!(said(&second), "");
    assert!(values(Stage::Sft, &processes) == values(Stage::Sft, &threads), "other bits");
    assert_eq!(metrics(&processes), metrics(&threads));
}

/// Every rank comes out with an error when one cannot go on, and rank 0 does not wait for it.
#[test]
fn a_rank_without_its_data_ends_all() {
    set_quiet(true);
    let ground = Ground::new();
    let recipe = recipe(&ground, "run", |_| ());
    let error = on_ranks(Cpu::<f32>::new, 3, |device, comm| {
        let mut own = recipe.clone();
        if comm.group().rank() == 1 {
            own.policy.model = "nowhere".into();
        }
        Stage::Sft.run_with(device, comm, &own)
    })
    .unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        ("nowhere/tokenizer.json: No such file or directory (os error 2)", 2)
    );
}
