//! Subcommands of later versions: whatever follows them is accepted, so that the answer is about them and not about a flag.

/// Anything.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}
