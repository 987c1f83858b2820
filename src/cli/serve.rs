//! `repairity serve`: the trained model behind an HTTP endpoint.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use repairity::device::Device;
use repairity::error::{Error, Result};
use repairity::model::{Adapter, Decoder};
use repairity::serve::{self, Guard, Options};
use repairity::telemetry::{interrupt, note};
use repairity::tokenizer::Tokenizer;

use super::device::{DeviceArgs, on};

/// Tokens of context where neither the user nor the model says less.
const CONTEXT: usize = 8192;

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The address to listen at; one that other machines reach wants --api-key-env
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// The model's name in the API; left out, its folder's
    #[arg(long)]
    name: Option<String>,
    /// Sequences written together at most
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Tokens that a prompt and its answer may have together; left out, what the model was made for, at most 8192
    #[arg(long, value_name = "N")]
    max_context: Option<usize>,
    /// The environment variable that holds the key which requests have to carry
    #[arg(long, value_name = "VAR")]
    api_key_env: Option<String>,
    /// A web page that may ask, by its origin (https://example.org); may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    /// Serves until Ctrl-C; the code is 130 then. The first line on standard output is the address.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let key = match &self.api_key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_string()),
                _ => return Err(Error::input("--api-key-env", format!("the variable {name} is not set")).into()),
            },
        };
        if self.batch == 0 {
            return Err(Error::input("--batch", "a number above 0 expected").into());
        }
        let listener = serve::bind(&self.host, self.port)?;
        let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        if !local && key.is_none() {
            note("serve: warning: whoever reaches this address can use the model; --api-key-env asks for a key");
        }
        on!(self.device.open()?, device => self.serve(&device, listener, key.as_deref()))?;
        Ok(if interrupt::requested() { ExitCode::from(130) } else { ExitCode::SUCCESS })
    }

    fn serve<D: Device>(&self, device: &D, listener: TcpListener, key: Option<&str>) -> Result<()> {
        let decoder = Decoder::load(device, &self.model)?;
        if decoder.config.classifier {
            return Err(Error::input(self.model.display(), "a language model expected, a classifier found"));
        }
        let adapter = self.adapter.as_ref().map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
        let tokenizer = Tokenizer::load(&self.model)?;
        let longest = decoder.config.max_positions;
        let context = self.max_context.unwrap_or(CONTEXT.min(longest));
        if !(2..=longest).contains(&context) {
            let what = format!("2 to {longest} tokens expected, which is what the model was made for, {context} found");
            return Err(Error::input("--max-context", what));
        }
        let folder = std::fs::canonicalize(&self.model).map_err(|e| Error::io(&self.model, e))?;
        let name = self.name.clone().or_else(|| folder.file_name().map(|name| name.to_string_lossy().into_owned()));
        let options = Options {
            name: name.unwrap_or("model".into()),
            batch: self.batch,
            context,
            guard: Guard::new(key, &self.host, self.allow_origin.clone()),
        };
        let (name, batch) = (options.name.clone(), options.batch);
        let ready = |address: SocketAddr| {
            note(&format!("serve: {name} on {}, {batch} sequences of up to {context} tokens", device.name()));
            let mut out = std::io::stdout().lock();
            let line = writeln!(out, "listening on http://{address}/v1").and_then(|()| out.flush());
            line.map_err(|e| Error::io("standard output", e))
        };
        serve::serve(device, &decoder, adapter.as_ref(), tokenizer, listener, options, ready)
    }
}
