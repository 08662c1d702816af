//! `oncue dead-letter`.

use std::process::ExitCode;

use super::Context;

/// What may be typed after `oncue dead-letter`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// It is not built yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`oncue dead-letter` is not built yet")
}
