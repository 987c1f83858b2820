//! What a GPU says of itself while it works: clocks, power, utilisation and memory, read beside the work by a thread of its own through
//! NVIDIA's management library, which is looked up when it is needed.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;

use super::gpus::{Sample, Source};
use crate::device::record::Recorder;

/// Time between two readings: the library's own values change no faster.
const INTERVAL: Duration = Duration::from_millis(20);

/// What is read, in the order of a [`Reading`]'s values.
pub const COUNTERS: [(&str, &str); 5] =
    [("SM clock", "MHz"), ("memory clock", "MHz"), ("power", "W"), ("GPU busy", "%"), ("memory used", "MiB")];

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When, in seconds since the recorder's start.
    pub at: f64,
    /// The values of [`COUNTERS`]; none where the GPU does not tell.
    pub values: [Option<f64>; COUNTERS.len()],
}

/// A thread that reads until it is told to stop.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Reading>>,
}

impl Sampler {
    /// Begins to read the GPU of this name, as the driver gives it: `GPU-5a3f...`. Errors: why that cannot be.
    pub fn start(uuid: &str, recorder: Arc<Recorder>) -> Result<Sampler, String> {
        let library = open(uuid)?;
        let (stop, uuid) = (Arc::new(AtomicBool::new(false)), uuid.to_string());
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut readings = Vec::new();
            let Ok(gpu) = library.device_by_uuid(uuid.as_str()) else { return readings };
            while !told.load(Ordering::Relaxed) {
                let clock = |of| gpu.clock_info(of).ok().map(f64::from);
                let values = [
                    clock(Clock::SM),
                    clock(Clock::Memory),
                    gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
                    gpu.utilization_rates().ok().map(|rates| f64::from(rates.gpu)),
                    gpu.memory_info().ok().map(|memory| memory.used as f64 / f64::from(1 << 20)),
                ];
                readings.push(Reading { at: recorder.now(), values });
                thread::sleep(INTERVAL);
            }
            readings
        });
        Ok(Sampler { stop, thread })
    }

    /// Ends the thread; what it read.
    pub fn stop(self) -> Vec<Reading> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// NVIDIA's management library, which knows this GPU. Errors: why it does not.
fn open(uuid: &str) -> Result<Nvml, String> {
    // The plain name is that of the development package.
    let open = |name: &str| Nvml::builder().lib_path(OsStr::new(name)).init();
    let library = open("libnvidia-ml.so.1").or_else(|_| open("libnvidia-ml.so")).map_err(|e| e.to_string())?;
    library.device_by_uuid(uuid).map_err(|e| format!("{uuid}: {e}"))?;
    Ok(library)
}

/// The GPUs of a run, for `gpu.jsonl`.
pub struct Gpus {
    library: Nvml,
    uuids: Vec<String>,
}

impl Gpus {
    /// Those of these names, in the order of their numbers in the run. Errors: why they cannot be read.
    pub fn open(uuids: Vec<String>) -> Result<Gpus, String> {
        let first = uuids.first().ok_or("no GPU computes")?;
        Ok(Gpus { library: open(first)?, uuids })
    }
}

impl Source for Gpus {
    fn read(&mut self) -> Vec<Sample> {
        let sample = |(gpu, uuid): (usize, &String)| {
            let Ok(device) = self.library.device_by_uuid(uuid.as_str()) else { return Sample { gpu, ..Sample::default() } };
            Sample {
                gpu,
                utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
                memory_bytes: device.memory_info().ok().map(|memory| memory.used),
                power_w: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
                sm_mhz: device.clock_info(Clock::SM).ok(),
            }
        };
        self.uuids.iter().enumerate().map(sample).collect()
    }
}

/// The least, the mean and the most of each counter that was read.
pub fn summary(readings: &[Reading]) -> Vec<(&'static str, &'static str, [f64; 3])> {
    let of = |(index, (name, unit)): (usize, &(&'static str, &'static str))| {
        let values: Vec<f64> = readings.iter().filter_map(|reading| reading.values[index]).collect();
        let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(*x), high.max(*x)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some((*name, *unit, [low, mean, high]))
    };
    COUNTERS.iter().enumerate().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_leaves_out_what_the_gpu_does_not_tell() {
        let reading = |clock, power| Reading { at: 0.0, values: [Some(clock), None, power, None, None] };
        let found = summary(&[reading(1000.0, Some(300.0)), reading(2000.0, None)]);
        assert_eq!(found, [("SM clock", "MHz", [1000.0, 1500.0, 2000.0]), ("power", "W", [300.0, 300.0, 300.0])]);
        assert_eq!(summary(&[]), []);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_no_panic() {
        let uuid = "GPU-00000000-0000-0000-0000-000000000000";
        assert!(Sampler::start(uuid, Arc::default()).is_err());
        assert!(Gpus::open(vec![uuid.into()]).is_err() && Gpus::open(Vec::new()).is_err());
    }
}
