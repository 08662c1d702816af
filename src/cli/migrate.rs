//! `oncue migrate`: creates or updates the tables. Safe while nodes run, and when several do it at once.

use std::process::ExitCode;

use anyhow::Context as _;

use super::Context;

/// What may be typed after `oncue migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Applies the migrations that are missing.
///
/// # Errors
/// Those of the database.
pub async fn run(_args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    context.store().await?.migrate().await.context("failed to migrate the tables")?;
    context.output.note("the tables are up to date");
    Ok(ExitCode::SUCCESS)
}
