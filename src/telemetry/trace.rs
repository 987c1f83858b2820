//! Spans as a trace that Perfetto (ui.perfetto.dev) and Chrome show: the Trace Event Format, complete events on a line for the host
//! and one for the device, counters for what a GPU says of itself.

use std::path::Path;

use serde_json::{Value, json};

use super::nvml::{COUNTERS, Reading};
use crate::device::record::{Kind, Span};
use crate::error::Result;
use crate::record::write_atomic;

/// The number of the process, and those of its threads.
const PROCESS: u32 = 1;
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// Writes a trace: the host's spans, and on a line of their own the kernels of `device`.
pub fn write(path: &Path, spans: &[Span], readings: &[Reading], device: &str) -> Result<()> {
    let named = |what: &str, thread: u32, name: &str| json!({"name": what, "ph": "M", "pid": PROCESS, "tid": thread, "args": {"name": name}});
    let mut events = vec![
        named("process_name", HOST, "repairity"),
        named("thread_name", HOST, "host"),
        named("thread_name", DEVICE, &format!("stream of {device}")),
    ];
    events.extend(spans.iter().map(event));
    events.extend(readings.iter().flat_map(counters));
    let trace = json!({"traceEvents": events, "displayTimeUnit": "ms"});
    write_atomic(path, trace.to_string().as_bytes())
}

/// Microseconds, to the nanosecond.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

fn event(span: &Span) -> Value {
    let thread = if span.kind == Kind::Kernel { DEVICE } else { HOST };
    // Both ends are rounded, so that what lies inside stays inside.
    let (begin, end) = (micros(span.begin), micros(span.end));
    let duration = ((end - begin) * 1e3).round() / 1e3;
    let arguments = match span.cost {
        Some(cost) => json!({"products": cost.products, "other": cost.other, "bytes": cost.bytes}),
        None => json!({}),
    };
    json!({"name": span.name, "cat": span.kind.name(), "ph": "X", "ts": begin, "dur": duration, "pid": PROCESS, "tid": thread,
           "args": arguments})
}

fn counters(reading: &Reading) -> impl Iterator<Item = Value> {
    let at = micros(reading.at);
    COUNTERS.iter().zip(reading.values).filter_map(move |((name, unit), value)| {
        let value = value?;
        Some(json!({"name": name, "ph": "C", "ts": at, "pid": PROCESS, "args": {*unit: value}}))
    })
}
