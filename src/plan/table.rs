//! A plan as text.

use super::{Phase, Plan, Stage};

/// `65.5 GB`: 10^9 bytes, or 10^6 where that says more.
pub fn gigabytes(bytes: usize) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// `1.23 s`, `4.56 ms`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0".into(),
        x if x < 0.9995 => format!("{:.3} ms", x * 1e3),
        x => format!("{x:.2} s"),
    }
}

/// The plan's lines.
pub fn lines(plan: &Plan) -> Vec<String> {
    let machine = &plan.machine;
    let card = &machine.card;
    let nodes = match machine.nodes {
        1 => String::new(),
        nodes => format!(" on each of {nodes} nodes, {:.0} GB/s of network a GPU (assumed)", card.network / 1e9),
    };
    let mut lines = vec![
        format!("{} x {}{nodes}: {} for tensors on each", machine.gpus, card.name, gigabytes(plan.capacity)),
        format!(
            "limits: {:.1} TFLOP/s bf16, {:.2} TB/s memory, {:.0} GB/s NVLink; times are floors, and no kernel reaches them",
            card.tensor_flops / 1e12,
            card.bandwidth / 1e12,
            card.nvlink / 1e9
        ),
    ];
    for stage in &plan.stages {
        lines.push(String::new());
        lines.extend(of_stage(stage, plan.capacity));
    }
    lines
}

/// A line a stage: its memory on each GPU, and, where it fits, the time of its parts, what the
/// first of them trains on or writes, and what bounds the longest.
pub fn brief(plan: &Plan) -> Vec<String> {
    let ranks = plan.machine.ranks();
    let line = |stage: &Stage| {
        let used = 100.0 * stage.bytes as f64 / plan.capacity as f64;
        let head = format!("{:<11}{ranks:>4} GPUs{:>11}{used:>6.0} %", stage.name, gigabytes(stage.bytes));
        if !stage.fits {
            return format!("{head}   does not fit");
        }
        let floor: f64 = stage.phases.iter().map(|phase| phase.floor_s).sum();
        let tokens = stage.phases.first().map_or(0, |phase| phase.tokens);
        let longest = stage.phases.iter().max_by(|a, b| a.floor_s.total_cmp(&b.floor_s));
        let limit = longest.map_or("", |phase| phase.limit);
        format!("{head}{:>13}{:>10.0} tokens/s   {limit}", seconds(floor), tokens as f64 / floor)
    };
    plan.stages.iter().map(line).collect()
}

fn of_stage(stage: &Stage, capacity: usize) -> Vec<String> {
    let verdict = if stage.fits { "fits" } else { "does not fit" };
    let used = 100.0 * stage.bytes as f64 / capacity as f64;
    let mut lines = vec![format!("{}: {} a GPU, {used:.0} % of what there is: {verdict}", stage.name, gigabytes(stage.bytes))];
    lines.extend(stage.memory.iter().map(|share| format!("  {:<18}{:>10}", share.class, gigabytes(share.bytes))));
    lines.extend(stage.phases.iter().flat_map(of_phase));
    lines.extend(stage.ways.iter().map(|way| format!("  fits with {way}")));
    lines
}

fn of_phase(phase: &Phase) -> [String; 2] {
    let part = phase.seconds;
    let host = if part.host > 0.0 { format!(", host {}", seconds(part.host)) } else { String::new() };
    [
        format!(
            "  {:<10} at least {}, bound by {}: {:.0} tokens/s at most",
            phase.name,
            seconds(phase.floor_s),
            phase.limit,
            phase.tokens_per_s
        ),
        format!(
            "             arithmetic {}, memory {}, network {}{host}; {:.1} TFLOP, {} moved, {} launches",
            seconds(part.compute),
            seconds(part.memory),
            seconds(part.network),
            phase.products as f64 / 1e12,
            gigabytes(phase.bytes as usize),
            phase.launches
        ),
    ]
}
