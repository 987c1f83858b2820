//! Two devices that train together, in the simulator: ZeRO's shares, sums and gathers on `Cuda`'s buffers.

use std::sync::Arc;

use repairity::comm::{Hub, Shared, Threads};
use repairity::device::Cuda;
use repairity::recipe::Train;
use serde_json::Value;

use crate::ground::{Ground, Stage, metrics};
use crate::simulated::Simulated;
use crate::stages::{SINGLE, assert_near, assert_same_values};

/// An adapter, whose gradients are reduced once a step, with the frozen weights shared out; and every parameter, whose gradients are
/// reduced block by block with every micro-batch.
#[test]
fn two_devices_train_like_one() {
    let ground = Ground::new();
    for train in [Train::Lora, Train::Full] {
        let [one, two] = ["one", "two"].map(|name| {
            let mut recipe = ground.run(&format!("{name} {train:?}"));
            (recipe.sft.train, recipe.sft.global_batch, recipe.shard_frozen) = (train, Some(3), true);
            recipe
        });
        let device = || Cuda::<f32>::with_driver(Simulated::new::<f32>(0));
        Stage::Sft.run(&device().unwrap(), &one).unwrap();
        let hub = Hub::new(0, 2, 2);
        hub.run(|group| {
            let comm: Shared<Cuda<f32>> = Arc::new(Threads::new(group));
            Stage::Sft.run_with(&device()?, &comm, &two)
        })
        .unwrap();
        assert_near(&format!("{train:?}"), &Value::from(metrics(&two)), &Value::from(metrics(&one)), SINGLE);
        assert_same_values(&Stage::Sft.trained(&two), &Stage::Sft.trained(&one), SINGLE);
    }
}
