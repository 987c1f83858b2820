//! GPUs by name, with the limits that their makers publish, and what moves between them.

use serde::Serialize;

use super::cuda::gpu;

/// Bytes that a process's CUDA context and its kernels hold before anything is allocated. PyTorch's error messages on an H200 name
/// 612 MiB for a process that holds little else; CUDA has no call that tells it beforehand.
const CONTEXT: usize = 612 << 20;

/// What a GPU can do at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Card {
    /// `h100-80gb`.
    pub name: &'static str,
    /// Bytes of memory, as CUDA counts them.
    pub memory: usize,
    /// Operations a second of tensor cores on dense bf16, with f32 sums.
    pub tensor_flops: f64,
    /// Operations a second of f32 outside tensor cores.
    pub vector_flops: f64,
    /// Bytes a second of its memory.
    pub bandwidth: f64,
    /// Bytes a second that it receives from the GPUs of its node, while it sends as many.
    pub nvlink: f64,
    /// Bytes a second that it receives from other nodes, while it sends as many: an assumption, one port of 400 Gb/s (NDR
    /// InfiniBand) for each GPU, as NVIDIA's DGX H100 has them.
    pub network: f64,
    /// Bytes a second that it receives from the host: PCIe 5.0 x16, or 4.0 x16.
    pub host: f64,
}

const GIB: f64 = 1073741824.0;

/// The cards that are known.
///
/// Rates: NVIDIA's data sheets of the SXM boards, dense; collected at glennklockwood.com/garden/processors/{H100,A100}, and for the
/// H200 in MLCommons' system descriptions (inference_results_v4.1, H200-SXM-141GBx8: 18 links of NVLink 4, 900 GB/s both ways).
/// Memory: what `cudaMemGetInfo` calls the total, from PyTorch's error messages ("GPU 0 has a total capacity of 79.18 GiB", 139.80
/// GiB of an H200, 79.14 GiB of an A100).
pub const CARDS: [Card; 3] = [
    Card {
        name: "h100-80gb",
        memory: (79.18 * GIB) as usize,
        tensor_flops: 989.4e12,
        vector_flops: 66.9e12,
        bandwidth: 3.35e12,
        nvlink: 450e9,
        network: 50e9,
        host: 64e9,
    },
    Card {
        name: "h200-141gb",
        memory: (139.80 * GIB) as usize,
        tensor_flops: 989.4e12,
        vector_flops: 66.9e12,
        bandwidth: 4.8e12,
        nvlink: 450e9,
        network: 50e9,
        host: 64e9,
    },
    Card {
        name: "a100-80gb",
        memory: (79.14 * GIB) as usize,
        tensor_flops: 312e12,
        vector_flops: 19.5e12,
        bandwidth: 2.039e12,
        nvlink: 300e9,
        network: 50e9,
        host: 32e9,
    },
];

impl Card {
    /// The card of this name.
    pub fn find(name: &str) -> Option<Card> {
        CARDS.into_iter().find(|card| card.name == name)
    }

    /// Every name.
    pub fn names() -> [&'static str; CARDS.len()] {
        CARDS.map(|card| card.name)
    }

    /// The card that a driver calls so: `NVIDIA H100 80GB HBM3`.
    pub fn of_driver(name: &str) -> Option<Card> {
        let known = [("H100 80GB HBM3", "h100-80gb"), ("H200", "h200-141gb"), ("A100-SXM4-80GB", "a100-80gb")];
        let found = known.iter().find(|(board, _)| name.contains(board) && !name.contains("NVL"))?;
        Card::find(found.1)
    }

    /// Bytes that tensors can have: what is free beside the context, less what the device's pool leaves to libraries.
    pub fn capacity(&self) -> usize {
        gpu::capacity(self.memory.saturating_sub(CONTEXT))
    }
}

/// GPUs in nodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Machine {
    /// Each of them.
    pub card: Card,
    /// GPUs of a node.
    pub gpus: usize,
    /// Nodes.
    pub nodes: usize,
}

impl Machine {
    /// GPUs of all nodes.
    pub fn ranks(&self) -> usize {
        self.gpus * self.nodes
    }

    /// Seconds that gathering, or reducing and scattering, tensors of so many bytes takes at least: a rank receives `(k - 1) / k`
    /// of them over NVLink, and a node `(n - 1) / n` over all its ports; the two can go on at once.
    pub fn collective(&self, bytes: f64) -> f64 {
        let others = |count: usize| (count - 1) as f64 / count as f64;
        let ports = self.card.network * self.gpus as f64;
        let inside = if self.gpus > 1 { others(self.ranks()) * bytes / self.card.nvlink } else { 0.0 };
        inside.max(others(self.nodes) * bytes / ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.92 of what is left of 79.18 GiB beside 612 MiB, less cuBLASLt's 32 MiB.
    #[test]
    fn capacity_is_what_the_pool_would_lend() {
        let free = 79.18 * GIB - 612.0 * 1048576.0;
        let expected = 0.92 * free - 32.0 * 1048576.0;
        assert!((Card::find("h100-80gb").unwrap().capacity() as f64 - expected).abs() < 2.0);
    }

    #[test]
    fn collectives_are_bound_by_the_slower_of_the_two_ways() {
        let machine = |gpus, nodes| Machine { card: CARDS[0], gpus, nodes };
        assert_eq!(machine(1, 1).collective(1e9), 0.0);
        assert!((machine(8, 1).collective(450e9) - 7.0 / 8.0).abs() < 1e-12);
        // Two nodes: half of the tensors through eight ports of 50 GB/s is slower than 15/16 of them over NVLink.
        assert!((machine(8, 2).collective(800e9) - (800.0 * 15.0 / 16.0 / 450.0f64).max(1.0)).abs() < 1e-12);
        assert!((machine(1, 4).collective(50e9) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn drivers_names_are_known() {
        assert_eq!(Card::of_driver("NVIDIA H100 80GB HBM3").map(|card| card.name), Some("h100-80gb"));
        assert_eq!(Card::of_driver("NVIDIA H200").map(|card| card.name), Some("h200-141gb"));
        assert_eq!(Card::of_driver("NVIDIA H200 NVL"), None);
    }
}
