//! `oncue version`: what this program is.

use std::process::ExitCode;

use serde::Serialize;

use super::Context;

/// What may be typed after `oncue version`.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Prints the version.
///
/// # Errors
/// Those of stdout.
pub fn run(_args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    context.output.one(&version, |v| format!("oncue {}", v.version))?;
    Ok(ExitCode::SUCCESS)
}
