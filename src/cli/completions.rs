//! `oncue completions`: prints the completions of a shell.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, Context};

/// What may be typed after `oncue completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the completions.
///
/// # Errors
/// Those of stdout.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oncue", &mut script);
    context.output.text(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
