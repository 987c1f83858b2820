//! A reader of TensorBoard's event files that shares nothing with the program's writer: frames, both checksums, and the fields of
//! `Event` and `Summary` that are known.

#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::Path;

/// An event with numbers: when, at which step, and the numbers by their tags.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub time: f64,
    pub step: u64,
    pub values: Vec<(String, f32)>,
}

/// The events of the one event file in a folder, less the first, which has to name the format.
pub fn read(folder: &Path) -> Vec<Event> {
    let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [path] = &names[..] else { panic!("one file expected: {names:?}") };
    assert!(path.file_name().unwrap().to_str().unwrap().contains("tfevents"), "{}", path.display());
    parse(&fs::read(path).unwrap())
}

/// The same from a file's bytes.
pub fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(12);
        let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
        assert_eq!(head[8..], checksum(&head[..8]), "the length's checksum");
        let (data, rest) = rest.split_at(length);
        assert_eq!(rest[..4], checksum(data), "the record's checksum");
        records.push(data);
        bytes = &rest[4..];
    }
    let first = fields(records[0]);
    assert!(first.iter().any(|(field, value)| *field == 3 && *value == Field::Bytes(b"brain.Event:2")), "{first:?}");
    records[1..].iter().map(|record| event(record)).collect()
}

fn event(record: &[u8]) -> Event {
    let mut event = Event { time: f64::NAN, step: 0, values: Vec::new() };
    for (field, value) in fields(record) {
        match (field, value) {
            (1, Field::Eight(bytes)) => event.time = f64::from_le_bytes(bytes),
            (2, Field::Number(step)) => event.step = step,
            (5, Field::Bytes(summary)) => {
                for (field, value) in fields(summary) {
                    let (1, Field::Bytes(value)) = (field, value) else { panic!("Summary: field {field}: {value:?}") };
                    let [(1, Field::Bytes(tag)), (2, Field::Four(number))] = fields(value)[..] else { panic!("Summary.Value") };
                    event.values.push((String::from_utf8(tag.into()).unwrap(), f32::from_le_bytes(number)));
                }
            }
            other => panic!("Event: {other:?}"),
        }
    }
    event
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Field<'a> {
    Number(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of a protocol buffer's message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(number(&mut bytes)),
            1 => Field::Eight(take(&mut bytes, 8).try_into().unwrap()),
            2 => {
                let length = number(&mut bytes) as usize;
                Field::Bytes(take(&mut bytes, length))
            }
            5 => Field::Four(take(&mut bytes, 4).try_into().unwrap()),
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, field));
    }
    found
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// CRC32C bit by bit (RFC 3720, B.4: the reflected polynomial 0x82f63b78), masked as TFRecord wants it.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
