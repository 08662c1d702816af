//! `oncue serve`: runs a node until a signal, then drains it.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use crate::drain::Drain;
use crate::node;
use crate::telemetry::{LogConfig, install_logs};

use super::Context;

/// What may be typed after `oncue serve`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the node.
///
/// # Errors
/// A broken manifest, a port that is taken, a drain that took too long.
pub async fn run(_args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let config = context.node_config()?;
    let settings = &context.config()?.node;
    let colour = std::io::stderr().is_terminal();
    install_logs(&LogConfig { format: settings.log_format, filter: settings.log_filter.clone(), colour })?;
    node::run(config, Drain::new(), None).await?;
    Ok(ExitCode::SUCCESS)
}
