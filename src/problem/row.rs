//! A row of a benchmark's file: fields with their types, errors with file, line and field.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One JSON object of a file.
pub(super) struct Row<'a> {
    path: &'a Path,
    line: usize,
    fields: Map<String, Value>,
}

/// Every object of a JSONL file, or of a file that is one JSON array (whose rows count as lines).
pub(super) fn rows(path: &Path) -> Result<Vec<Row<'_>>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| Error::input(path.display(), format!("text is expected: {e}")))?;
    let row = |line: usize, value: Value| match value {
        Value::Object(fields) => Ok(Row { path, line, fields }),
        other => Err(Error::line(path, line, format!("an object is expected, {} was found", kind(&other)))),
    };
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

impl Row<'_> {
    /// A problem with this row.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::line(self.path, self.line, what)
    }

    /// A field, if the row has it.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
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
