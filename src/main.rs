//! `repairity`, the command line: parses, calls the library, prints.

mod cli;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use repairity::error::Error;
use repairity::telemetry::{self, interrupt};

fn main() -> ExitCode {
    let cli = cli::Cli::of_process();
    telemetry::set_quiet(cli.quiet);
    telemetry::set_verbose(cli.verbose);
    let result = interrupt::install().map_err(Into::into).and_then(|()| cli.run());
    match result {
        Ok(code) => code,
        // Whoever reads the results has enough of them: `| head`.
        Err(error) if is_closed(&error) => ExitCode::FAILURE,
        Err(error) => {
            // Causes that an error already tells are not told twice.
            let text = match error.downcast_ref::<Error>() {
                Some(own) if error.chain().len() <= 2 => own.to_string(),
                _ => format!("{error:#}"),
            };
            let _ = writeln!(std::io::stderr(), "error: {}", text.trim_end().replace('\n', "; "));
            ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
        }
    }
}

/// Whether an error says that nobody reads standard output any more.
fn is_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Io { path, source })
        if source.kind() == ErrorKind::BrokenPipe && path.as_os_str() == "standard output")
}
