//! From work to seconds: each operator takes at least the time of its arithmetic and at least that of its bytes. A floor, with no
//! allowance for how well a kernel does.

use serde::Serialize;

use super::cards::{Card, Machine};
use super::stages::Part;
use crate::device::meter::{Cost, Work};

/// Seconds that a part of a stage takes at least, by what bounds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Operators bound by arithmetic.
    pub compute: f64,
    /// Operators bound by the GPU's memory.
    pub memory: f64,
    /// Collectives, which can run beside the operators.
    pub network: f64,
    /// Copies from the host, which cannot.
    pub host: f64,
}

impl Seconds {
    /// The whole part: the operators one after the other, or the collectives where these take longer.
    pub fn floor(&self) -> f64 {
        (self.compute + self.memory).max(self.network) + self.host
    }

    /// What bounds it most.
    pub fn limit(&self) -> &'static str {
        if self.network > self.compute + self.memory {
            return "network";
        }
        if self.host > self.compute + self.memory {
            return "host";
        }
        if self.compute >= self.memory { "arithmetic" } else { "memory" }
    }

    /// Both, one after the other.
    pub fn plus(&self, other: &Seconds) -> Seconds {
        Seconds {
            compute: self.compute + other.compute,
            memory: self.memory + other.memory,
            network: self.network + other.network,
            host: self.host + other.host,
        }
    }
}

/// Seconds of one call's arithmetic, and of its bytes.
fn call(card: &Card, cost: &Cost) -> (f64, f64) {
    let arithmetic = (cost.products as f64 / card.tensor_flops).max(cost.other as f64 / card.vector_flops);
    (arithmetic, cost.bytes as f64 / card.bandwidth)
}

/// Seconds that one call takes at least.
pub fn of_call(card: &Card, cost: &Cost) -> f64 {
    let (arithmetic, bytes) = call(card, cost);
    arithmetic.max(bytes)
}

/// Seconds of operators one after the other.
pub fn of_work(card: &Card, work: &Work) -> Seconds {
    let (mut compute, mut memory) = (Vec::new(), Vec::new());
    for (_, cost, calls) in work.calls() {
        let (arithmetic, bytes) = call(card, &cost);
        let seconds = if arithmetic >= bytes { &mut compute } else { &mut memory };
        seconds.push(calls as f64 * arithmetic.max(bytes));
    }
    // Sorted, so that the last digit does not depend on the order of a hash table.
    let sum = |mut terms: Vec<f64>| {
        terms.sort_unstable_by(f64::total_cmp);
        terms.iter().sum()
    };
    Seconds { compute: sum(compute), memory: sum(memory), network: 0.0, host: 0.0 }
}

/// Seconds of a part on a machine.
pub fn of_part(machine: &Machine, part: &Part) -> Seconds {
    Seconds {
        network: machine.collective(part.network as f64),
        host: part.host as f64 / machine.card.host,
        ..of_work(&machine.card, &part.work)
    }
}
