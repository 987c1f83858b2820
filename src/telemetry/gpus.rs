//! `gpu.jsonl`: what the GPUs of a run say of themselves while its stages compute, about once a second.
//!
//! One object a line: `time`, seconds since 1970; `stage`; `gpu`, its number in the run; `utilization`, the share of the time in
//! which a kernel ran, 0 to 1; `memory_bytes` in use, by anyone; `power_w`; `sm_mhz`, the clock of its processors. What a GPU does
//! not tell is null.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use super::{note, unix_time};

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What a GPU says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Its number in the run.
    pub gpu: usize,
    /// Share of the time in which a kernel ran.
    pub utilization: Option<f64>,
    /// Bytes in use.
    pub memory_bytes: Option<u64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// The processors' clock in MHz.
    pub sm_mhz: Option<u32>,
}

impl Sample {
    fn line(&self, time: f64, stage: &str) -> String {
        let Sample { gpu, utilization, memory_bytes, power_w, sm_mhz } = self;
        let line = json!({
            "time": time, "stage": stage, "gpu": gpu, "utilization": utilization, "memory_bytes": memory_bytes, "power_w": power_w,
            "sm_mhz": sm_mhz,
        });
        format!("{line}\n")
    }
}

/// Whoever reads the GPUs: [`super::nvml::Gpus`].
pub trait Source: Send + 'static {
    /// A sample of each.
    fn read(&mut self) -> Vec<Sample>;
}

/// A thread that writes samples until it is dropped.
pub struct Log {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Begins to append to `path`. Nothing that goes wrong here ends a run: a file that cannot be written gets a note and no more
    /// samples.
    pub fn start(path: &Path, stage: &str, source: impl Source, interval: Duration) -> Log {
        let (stop, stopped) = mpsc::channel::<()>();
        let (path, stage, mut source) = (PathBuf::from(path), stage.to_string(), source);
        let work = move || {
            loop {
                let (time, samples) = (unix_time(), source.read());
                let lines: String = samples.iter().map(|sample| sample.line(time, &stage)).collect();
                let file = OpenOptions::new().create(true).append(true).open(&path);
                if let Err(e) = file.and_then(|mut file| file.write_all(lines.as_bytes())) {
                    return note(&format!("{}: {e}; {stage} goes on without it", path.display()));
                }
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        Log { stop: Some(stop), thread: thread::Builder::new().name("gpu samples".into()).spawn(work).ok() }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts its readings, and tells of each.
    struct Counter(u64, Sender<u64>);

    impl Source for Counter {
        fn read(&mut self) -> Vec<Sample> {
            self.0 += 1;
            let _ = self.1.send(self.0);
            vec![Sample { gpu: 3, memory_bytes: Some(self.0), ..Sample::default() }]
        }
    }

    #[test]
    fn a_line_has_what_was_read() {
        let sample =
            Sample { gpu: 0, utilization: Some(0.97), memory_bytes: Some(123), power_w: Some(512.3), sm_mhz: Some(1755) };
        let expected = "{\"time\":1700000000.5,\"stage\":\"sft\",\"gpu\":0,\"utilization\":0.97,\"memory_bytes\":123,\
                        \"power_w\":512.3,\"sm_mhz\":1755}\n";
        assert_eq!(sample.line(1_700_000_000.5, "sft"), expected);
        assert!(Sample::default().line(0.0, "sft").contains("\"utilization\":null"));
    }

    #[test]
    fn samples_are_written_until_the_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu.jsonl");
        let (tell, told) = mpsc::channel();
        let log = Log::start(&path, "sft", Counter(0, tell), Duration::from_millis(1));
        while told.recv().unwrap() < 3 {}
        drop(log);
        // The thread has ended: nobody is left to tell.
        let last = told.iter().last().unwrap_or(3);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let read: Vec<u64> = lines.iter().map(|line| line["memory_bytes"].as_u64().unwrap()).collect();
        assert_eq!(read, (1..=last).collect::<Vec<_>>());
        assert!(lines.iter().all(|line| line["stage"] == "sft" && line["gpu"] == 3 && line["time"].is_f64()), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_written_ends_the_samples_alone() {
        let (tell, told) = mpsc::channel();
        let log = Log::start(Path::new("/nowhere/gpu.jsonl"), "sft", Counter(0, tell), Duration::from_secs(3600));
        assert_eq!(told.iter().collect::<Vec<_>>(), [1]);
        drop(log);
    }
}
