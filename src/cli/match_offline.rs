//! `oncue match`: matches events against rules without a database, for people who test their rules in CI.

use std::process::ExitCode;

use super::Context;

/// What may be typed after `oncue match`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Matches.
///
/// # Errors
/// It is not built yet.
pub fn run(_args: &Args, _context: &Context) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`oncue match` is not built yet")
}
