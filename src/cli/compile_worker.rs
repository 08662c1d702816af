//! `oncue compile-worker`: compiles one component for the `oncue` that started it. Hidden: people do not type it.

use std::process::ExitCode;

use crate::runtime::{Order, work};

/// What oncue writes after `oncue compile-worker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Version of these arguments
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1))]
    oncue_order: u32,
    /// Profile of the engine
    #[arg(long)]
    profile: String,
    /// Bytes that a guest's memory may have
    #[arg(long)]
    memory_ceiling: u64,
    /// Check memory accesses in code
    #[arg(long, action = clap::ArgAction::Set)]
    bounds_checks: bool,
    /// Bytes of this process
    #[arg(long)]
    memory: u64,
    /// Seconds of processor time of this process
    #[arg(long)]
    cpu_seconds: u64,
}

/// Compiles from stdin to stdout.
///
/// # Errors
/// No bounds, no component, or nobody who reads the answer.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let order = Order::new(&args.profile, args.memory_ceiling, args.bounds_checks, args.memory, args.cpu_seconds)?;
    work(order, std::io::stdin(), std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}
