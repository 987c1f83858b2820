//! TensorBoard's event files, from the lines of `metrics.jsonl`: `tensorboard --logdir RUN/tensorboard`.
//!
//! A file is a row of records, each framed as TFRecord has it: the length as a little-endian u64, that field's checksum, the bytes,
//! their checksum, both CRC32C, masked (tensorflow/tsl/lib/io/record_writer.h; tsl/lib/hash/crc32c.h, `Mask`). A record is a protocol
//! buffer `Event`; the first one names the format, `brain.Event:2`, each other one has a step's numbers as `simple_value`s
//! (tensorboard/compat/proto/{event,summary}.proto, whose field numbers stand here as constants).
//!
//! The file says what `metrics.jsonl` says and nothing else, so it is never gone on with: whoever opens a stage's metrics writes it
//! again from the lines that are kept, under a name that sorts after the one before it. A TensorBoard that is looking reads on in
//! the new file, and drops what it knew of the steps that come again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::unix_time;

/// What names of event files have in common.
const PREFIX: &str = "events.out.tfevents.";

/// An event file that is being written.
pub struct Events {
    file: File,
}

impl Events {
    /// Writes a file into `folder` that has these lines of a stage's metrics, in place of those that are there.
    pub fn open<'a>(folder: &Path, lines: impl IntoIterator<Item = &'a Map<String, Value>>) -> std::io::Result<Events> {
        fs::create_dir_all(folder)?;
        let before = files(folder)?;
        let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok();
        let next = before.iter().filter_map(number).max().map_or(1, |last| last + 1);
        let mut bytes = record(&version(unix_time()));
        lines.into_iter().for_each(|line| bytes.extend(record(&event(line))));
        let mut file = File::create(folder.join(format!("{PREFIX}{next:010}.repairity")))?;
        file.write_all(&bytes)?;
        before.iter().try_for_each(fs::remove_file)?;
        Ok(Events { file })
    }

    /// Appends a line of metrics.
    pub fn write(&mut self, line: &Map<String, Value>) -> std::io::Result<()> {
        self.file.write_all(&record(&event(line)))
    }
}

/// The event files in a folder.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    let is_one = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
    Ok(paths.into_iter().filter(is_one).collect())
}

/// The numbers of a line of metrics by the tags that TensorBoard shows them under. A field has its own name; the `n`-th object of a
/// list has its fields as `field/epoch_n` for the list `epochs`, so that TensorBoard puts the epochs of one quantity side by side.
/// What is no number is left out, but yes and no are 1 and 0.
pub fn scalars(line: &Map<String, Value>) -> Vec<(String, f64)> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|yes| f64::from(u8::from(yes))));
    let mut found = Vec::new();
    for (name, value) in line.iter().filter(|(name, _)| !["stage", "step", "time"].contains(&name.as_str())) {
        found.extend(number(value).map(|number| (name.clone(), number)));
        for (index, part) in value.as_array().into_iter().flatten().enumerate() {
            let one = name.strip_suffix('s').unwrap_or(name);
            let fields = part.as_object().into_iter().flatten();
            found.extend(fields.filter_map(|(field, value)| Some((format!("{field}/{one}_{}", index + 1), number(value)?))));
        }
    }
    found
}

/// A line of metrics as an `Event`.
fn event(line: &Map<String, Value>) -> Vec<u8> {
    const WALL_TIME: u32 = 1;
    const STEP: u32 = 2;
    const SUMMARY: u32 = 5;
    // `Summary`, and in it `Summary.Value`.
    const VALUE: u32 = 1;
    const TAG: u32 = 1;
    const SIMPLE_VALUE: u32 = 2;
    let mut summary = Vec::new();
    for (tag, number) in scalars(line) {
        let mut value = Vec::new();
        delimited(&mut value, TAG, tag.as_bytes());
        key(&mut value, SIMPLE_VALUE, FOUR_BYTES);
        value.extend_from_slice(&(number as f32).to_le_bytes());
        delimited(&mut summary, VALUE, &value);
    }
    let mut event = Vec::new();
    key(&mut event, WALL_TIME, EIGHT_BYTES);
    // Lines of earlier versions have no time.
    event.extend_from_slice(&line.get("time").and_then(Value::as_f64).unwrap_or_else(unix_time).to_le_bytes());
    key(&mut event, STEP, VARINT);
    varint(&mut event, line.get("step").and_then(Value::as_u64).unwrap_or(0));
    delimited(&mut event, SUMMARY, &summary);
    event
}

/// The first `Event` of a file.
fn version(time: f64) -> Vec<u8> {
    const WALL_TIME: u32 = 1;
    const FILE_VERSION: u32 = 3;
    let mut event = Vec::new();
    key(&mut event, WALL_TIME, EIGHT_BYTES);
    event.extend_from_slice(&time.to_le_bytes());
    delimited(&mut event, FILE_VERSION, b"brain.Event:2");
    event
}

// Wire types of protocol buffers (protobuf.dev/programming-guides/encoding).
const VARINT: u32 = 0;
const EIGHT_BYTES: u32 = 1;
const DELIMITED: u32 = 2;
const FOUR_BYTES: u32 = 5;

fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn delimited(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    key(out, field, DELIMITED);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes in the frame of a TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length, &masked(&length)[..], bytes, &masked(bytes)].concat()
}

/// The checksum of bytes that may hold checksums themselves.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn lists_become_tags_side_by_side() {
        let line = line(json!({
            "stage": "ppo", "step": 3, "score": 0.5, "kl": null, "epochs": [{"ratio": 1.0, "entropy": null}, {"ratio": 1.5}],
            "ended_early": true, "time": 1.0, "why": "text"
        }));
        let found = scalars(&line);
        let expected = [("score", 0.5), ("ratio/epoch_1", 1.0), ("ratio/epoch_2", 1.5), ("ended_early", 1.0)];
        assert_eq!(found, expected.map(|(tag, number)| (tag.to_string(), number)));
    }

    /// What TensorBoard 2.21's `RecordWriter` makes of `Event(wall_time=1700000000.25, file_version="brain.Event:2")` and of
    /// `Event(wall_time=1700000001.5, step=300, summary=Summary(value=[Summary.Value(tag="loss", simple_value=0.3),
    /// Summary.Value(tag="ratio/epoch_1", simple_value=-2.0)]))`.
    const GOLDEN: &str = "\
        1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe93100000000000000\
        9d8383e90900006040fc54d94110ac022a230a0b0a046c6f7373159a99993e0a140a0d726174696f2f65706f63685f31\
        15000000c0c53477d6";

    #[test]
    fn records_are_tensorboard_s_own() {
        let line = line(json!({"stage": "ppo", "step": 300, "loss": 0.3, "epochs": [{"ratio": -2}], "time": 1_700_000_001.5}));
        let bytes = [record(&version(1_700_000_000.25)), record(&event(&line))].concat();
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), GOLDEN);
    }

    #[test]
    fn one_file_stays_and_its_name_sorts_last() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            files(folder.path()).unwrap().iter().map(|p| p.file_name().unwrap().to_str().unwrap().into()).collect::<Vec<String>>()
        };
        let first = line(json!({"stage": "sft", "step": 1, "loss": 0.5, "time": 7.0}));
        Events::open(folder.path(), []).unwrap().write(&first).unwrap();
        assert_eq!(names(), ["events.out.tfevents.0000000001.repairity"]);
        let bytes = fs::read(folder.path().join(&names()[0])).unwrap();
        Events::open(folder.path(), [&first]).unwrap();
        assert_eq!(names(), ["events.out.tfevents.0000000002.repairity"]);
        // The same events, but for the time at which the file was begun.
        let begin = record(&version(0.0)).len();
        assert_eq!(fs::read(folder.path().join(&names()[0])).unwrap()[begin..], bytes[begin..]);
    }
}
