//! `repairity convert`: training data in another form.

use std::path::PathBuf;
use std::process::ExitCode;

use repairity::convert::{self, Format, Record};
use repairity::error::{Error, Result};
use repairity::record::{IMPORTED, write_jsonl};
use repairity::telemetry::note;
use serde_json::Value;

use super::print_lines;

/// The arguments of `convert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSONL, a JSON array, either compressed with gzip, or Parquet
    input: PathBuf,
    /// The form to write: repairity, trl, trl-prompt, openthoughts, sharegpt or open-r1
    #[arg(long, value_name = "FORM")]
    to: String,
    /// The form that it has; auto looks at the first record
    #[arg(long, value_name = "FORM", default_value = "auto")]
    from: String,
    /// Where the records go, JSONL; left out, standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    /// Reads, converts, writes.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let to = named("--to", &self.to)?;
        let from = if self.from == "auto" { None } else { Some(named("--from", &self.from)?) };
        let (from, records) = convert::load(&self.input, from)?;
        let file = self.input.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut lines: Vec<Value> = Vec::with_capacity(records.len());
        for (line, mut record) in records {
            if from != Format::Repairity {
                let extra = match &mut record {
                    Record::Conversation(conversation) => &mut conversation.extra,
                    Record::Preference(preference) => &mut preference.extra,
                };
                extra.insert(IMPORTED.into(), format!("{file}:{line}").into());
            }
            lines.push(convert::save(record, to).map_err(|what| Error::line(&self.input, line, what))?);
        }
        match &self.out {
            Some(path) => write_jsonl(path, &lines)?,
            None => print_lines(lines.iter().map(Value::to_string))?,
        }
        note(&format!("convert: {} records from {from} to {to}", lines.len()));
        Ok(ExitCode::SUCCESS)
    }
}

fn named(option: &str, name: &str) -> Result<Format> {
    Format::named(name).map_err(|error| match error {
        Error::Input { what, .. } => Error::input(option, what),
        other => other,
    })
}
