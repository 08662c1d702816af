//! `oncue export`.

use std::process::ExitCode;

use super::Context;

/// What may be typed after `oncue export`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// It is not built yet.
pub async fn run(_args: Args, _context: &Context) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`oncue export` is not built yet")
}
