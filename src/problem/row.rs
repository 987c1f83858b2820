//! A row of a benchmark's file: fields with their types, errors with file, line and field.
//!
//! Files are JSONL, one JSON array, either of them compressed with gzip, or Parquet, as the Hugging Face hub publishes data
//! sets. What a file is, its first bytes say.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One object of a file.
pub(super) struct Row<'a> {
    path: &'a Path,
    line: usize,
    fields: Map<String, Value>,
}

/// Every object of a JSONL file, of a file that is one JSON array, or of a Parquet file; the rows of the latter two count as
/// lines.
pub(super) fn rows(path: &Path) -> Result<Vec<Row<'_>>> {
    let row = |line: usize, value: Value| match value {
        Value::Object(fields) => Ok(Row { path, line, fields }),
        other => Err(Error::line(path, line, format!("an object is expected, {} was found", kind(&other)))),
    };
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    if bytes.starts_with(b"PAR1") {
        return table(path);
    }
    let text = decoded(path, bytes)?;
    if text.trim_start().starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), &e))?;
        return values.into_iter().enumerate().map(|(i, value)| row(i + 1, value)).collect();
    }
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            let value = serde_json::from_str(line).map_err(|e| Error::line(path, index + 1, e))?;
            rows.push(row(index + 1, value)?);
        }
    }
    Ok(rows)
}

/// The objects of a file with their lines, from 1: JSONL, one JSON array, either compressed with gzip, or Parquet.
pub fn objects(path: &Path) -> Result<Vec<(usize, Map<String, Value>)>> {
    Ok(rows(path)?.into_iter().map(|row| (row.line, row.fields)).collect())
}

/// The text of a file, decompressed where it is compressed.
pub(super) fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    if bytes.starts_with(b"PAR1") {
        return Err(Error::input(path.display(), "text is expected, a Parquet file was found"));
    }
    decoded(path, bytes)
}

fn decoded(path: &Path, mut bytes: Vec<u8>) -> Result<String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::new();
        let read = MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut text);
        read.map_err(|e| Error::input(path.display(), format!("it starts like gzip, but cannot be decompressed: {e}")))?;
        bytes = text;
    }
    String::from_utf8(bytes).map_err(|e| Error::input(path.display(), format!("text is expected: {e}")))
}

/// The rows of a Parquet file.
fn table(path: &Path) -> Result<Vec<Row<'_>>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let wrong = |e| Error::input(path.display(), format!("it starts like Parquet, but cannot be read: {e}"));
    let reader = SerializedFileReader::new(file).map_err(wrong)?;
    let mut rows = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(wrong)?.enumerate() {
        let line = index + 1;
        let row = row.map_err(|e| Error::line(path, line, format!("the row cannot be read: {e}")))?;
        let mut fields = Map::new();
        for (name, field) in row.get_column_iter() {
            let value = json(field)
                .map_err(|found| Error::line(path, line, format!("`{name}`: plain data is expected, {found} was found")))?;
            fields.insert(name.clone(), value);
        }
        rows.push(Row { path, line, fields });
    }
    Ok(rows)
}

/// A Parquet value as JSON; the name of its kind where JSON has none like it.
fn json(field: &Field) -> std::result::Result<Value, &'static str> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => x.as_str().into(),
        Field::Bytes(x) => std::str::from_utf8(x.data()).map_err(|_| "binary data")?.into(),
        Field::ListInternal(list) => list.elements().iter().map(json).collect::<std::result::Result<Vec<_>, _>>()?.into(),
        Field::Group(row) => {
            let pairs = row.get_column_iter().map(|(name, field)| Ok((name.clone(), json(field)?)));
            Value::Object(pairs.collect::<std::result::Result<_, &'static str>>()?)
        }
        Field::MapInternal(map) => {
            let pairs = map.entries().iter().map(|(key, value)| match key {
                Field::Str(key) => Ok((key.clone(), json(value)?)),
                _ => Err("a map whose keys are no text"),
            });
            Value::Object(pairs.collect::<std::result::Result<_, &'static str>>()?)
        }
        _ => return Err("a date, a decimal or their like"),
    })
}

impl Row<'_> {
    /// A problem with this row.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::line(self.path, self.line, what)
    }

    /// A field, if the row has it.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    /// Gives a field another text.
    pub(super) fn set(&mut self, field: &str, text: String) {
        self.fields.insert(field.to_owned(), Value::String(text));
    }

    fn expect(&self, field: &str, wanted: &str) -> Error {
        let found = self.get(field).map_or("nothing", kind);
        self.wrong(format!("`{field}`: {wanted} is expected, {found} was found"))
    }

    /// A text, its line ends made `\n`.
    pub(super) fn text(&self, field: &str) -> Result<String> {
        let text = self.get(field).and_then(Value::as_str).ok_or_else(|| self.expect(field, "a text"))?;
        Ok(lines(text))
    }

    /// A list of texts.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>> {
        let wrong = || self.expect(field, "a list of texts");
        let list = self.get(field).and_then(Value::as_array).ok_or_else(wrong)?;
        list.iter().map(|v| v.as_str().map(lines).ok_or_else(wrong)).collect()
    }

    /// A whole number, as text.
    pub(super) fn number(&self, field: &str) -> Result<String> {
        let number = self.get(field).and_then(Value::as_u64).ok_or_else(|| self.expect(field, "a whole number"))?;
        Ok(number.to_string())
    }
}

/// Line ends as Python reads them: `\r\n` and a lone `\r` are one each.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
