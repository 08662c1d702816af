//! `oncue bench`: how fast a part of Oncue is on this machine with your data, without a database or a bus.
//!
//! Invariant: what is measured is what a node runs; nothing is warmed up that a node would not have warm.

use std::process::ExitCode;

use clap::Subcommand;

use super::Context;

mod clock;
mod matching;
mod updates;

/// What may be typed after `oncue bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Match events against rules: events a second, memory, loading, changing one rule
    Match(matching::Args),
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, a line that is not what it should be; with --check, an event whose matches are wrong.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Match(args) => matching::run(args, context),
    }
}
