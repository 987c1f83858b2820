//! A profile as a person reads it.

use super::{Profile, Row};
use crate::telemetry::nvml::{self, Reading};

/// The table, a line for each operator and below it, indented, for each of its kernels; then what is no kernel's time. `gpu` holds what
/// the GPU said of itself, or why nothing was asked.
pub fn lines(profile: &Profile, gpu: &Result<Vec<Reading>, String>) -> Vec<String> {
    let total: f64 = profile.steps.iter().sum();
    let count = profile.steps.len();
    let share = |seconds: f64| if total > 0.0 { 100.0 * seconds / total } else { 0.0 };
    let mean = total / count.max(1) as f64;
    let mut lines =
        vec![format!("{} on {}: {count} steps in {}, {} a step", profile.stage, profile.device, duration(total), duration(mean))];
    lines.push(format!(
        "{:<28}{:>8}{:>12}{:>12}{:>8}{:>10}{:>10}{:>8}",
        "operator", "calls", "ms", "us a call", "step %", "TFLOP/s", "GB/s", "roof %"
    ));
    for operator in &profile.operators {
        lines.push(line(&operator.row.name, &operator.row));
        lines.extend(operator.kernels.iter().map(|kernel| line(&format!("  {}", kernel.name), kernel)));
    }
    let mut part = |name: &str, seconds: f64, more: String| {
        let text = format!("{name:<28}{:>8}{:>12.3}{:>12}{:>8.1}  {more}", "", seconds * 1e3, "", share(seconds));
        lines.push(text.trim_end().to_string());
    };
    for (name, seconds) in &profile.phases {
        part(&format!("phase {name}"), *seconds, String::new());
    }
    match profile.gaps {
        Some(gaps) => {
            part("GPU busy", profile.busy, String::new());
            let more = format!("{} gaps, the longest {}", gaps.count, duration(gaps.longest));
            part("GPU idle between kernels", gaps.seconds, more);
            part("host: launching", profile.in_operators, String::new());
            part("host: waiting for the GPU", profile.waits, String::new());
        }
        None => part("in operators", profile.in_operators, String::new()),
    }
    part(if profile.gaps.is_some() { "host: all else" } else { "outside operators" }, profile.outside, String::new());
    match gpu {
        Err(why) => lines.push(format!("NVML: nothing was read: {why}")),
        Ok(readings) => {
            lines.push(format!("NVML, {} readings: least, mean, most", readings.len()));
            lines.extend(
                nvml::summary(readings)
                    .into_iter()
                    .map(|(name, unit, [low, mean, high])| format!("  {name:<26}{low:>10.0}{mean:>10.0}{high:>10.0} {unit}")),
            );
        }
    }
    lines
}

fn line(name: &str, row: &Row) -> String {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    // Nothing is told of products where there are none.
    let tflops = row.tflops.filter(|rate| *rate > 0.0);
    format!(
        "{name:<28}{:>8}{:>12.3}{:>12.1}{:>8.1}{:>10}{:>10}{:>8}",
        row.calls,
        row.seconds * 1e3,
        row.seconds * 1e6 / row.calls.max(1) as f64,
        100.0 * row.share,
        number(tflops, 3),
        number(row.gbytes_per_s, 1),
        number(row.roof.map(|roof| 100.0 * roof), 1)
    )
}

fn duration(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.3} ms", seconds * 1e3) }
}
