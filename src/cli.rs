//! The command line: what may be typed, which file runs it, and how an error is shown.
//!
//! Invariant: data goes to stdout through `output`, everything else to stderr; the exit code is 0, 1 (failed, or the
//! answer is no) or 2 (usage). Commands speak to Postgres and to the bus directly; what a word means is decided in the
//! layers below.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::Environment;

pub mod context;
pub mod output;

mod apply;
mod arguments;
mod bench;
mod compile_worker;
mod completions;
mod dead_letter;
mod dev;
mod doctor;
mod event;
mod explain;
mod export;
mod function;
mod init;
mod match_offline;
mod migrate;
mod plan;
mod progress;
mod publish;
mod report;
mod rule;
mod sample;
mod serve;
mod trigger;
mod usage;
mod version;

pub use context::Context;
pub use report::{report, usage};

/// Functions that run on cue: an event-bus-driven function broker.
#[derive(Debug, Parser)]
#[command(name = "oncue", version, about, max_term_width = 120, infer_long_args = false)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The manifest [default: oncue.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: output::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a manifest and a first function
    Init(init::Args),
    /// Run everything on this machine: private servers, rebuilds, one line per event
    Dev(dev::Args),
    /// Run a node
    Serve(serve::Args),
    /// Create or update the tables
    Migrate(migrate::Args),
    /// Look for what is wrong, and say how to mend it
    Doctor(doctor::Args),
    /// Match events against rules offline
    Match(match_offline::Args),
    /// Measure parts of Oncue on this machine, offline
    Bench(bench::Args),
    /// Show what `apply` would change
    Plan(plan::Args),
    /// Make the tables say what the manifest says
    Apply(apply::Args),
    /// Write the tables as a manifest
    Export(export::Args),
    /// Functions and their versions
    Function(function::Args),
    /// Rules: which events, what runs
    Rule(rule::Args),
    /// Triggers: subscriptions on a bus
    Trigger(trigger::Args),
    /// Publish an event
    Publish(publish::Args),
    /// Events and what they caused
    Event(event::Args),
    /// Say why an event matched a rule or did not, and what came of it
    Explain(explain::Args),
    /// Deliveries that were given up
    DeadLetter(dead_letter::Args),
    /// What ran, how long and how much
    Usage(usage::Args),
    /// Compile a component for the oncue that started this one
    #[command(hide = true)]
    CompileWorker(compile_worker::Args),
    /// Print the completions of a shell
    Completions(completions::Args),
    /// Print the version
    Version(version::Args),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever kept the command from its end; `report` shows it.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let context = Context::new(&self.global, Environment::of_process());
        let context = &context;
        match self.command {
            Command::Init(args) => init::run(&args, context),
            Command::Dev(args) => Box::pin(dev::run(args, context)).await,
            Command::Serve(args) => Box::pin(serve::run(args, context)).await,
            Command::Migrate(args) => migrate::run(args, context).await,
            Command::Doctor(args) => Box::pin(doctor::run(args, context)).await,
            Command::Match(args) => match_offline::run(&args, context),
            Command::Bench(args) => bench::run(&args, context),
            Command::Plan(args) => Box::pin(plan::run(args, context)).await,
            Command::Apply(args) => Box::pin(apply::run(args, context)).await,
            Command::Export(args) => Box::pin(export::run(args, context)).await,
            Command::Function(args) => Box::pin(function::run(args, context)).await,
            Command::Rule(args) => Box::pin(rule::run(args, context)).await,
            Command::Trigger(args) => Box::pin(trigger::run(args, context)).await,
            Command::Publish(args) => Box::pin(publish::run(args, context)).await,
            Command::Event(args) => Box::pin(event::run(args, context)).await,
            Command::Explain(args) => Box::pin(explain::run(args, context)).await,
            Command::DeadLetter(args) => Box::pin(dead_letter::run(args, context)).await,
            Command::Usage(args) => Box::pin(usage::run(args, context)).await,
            Command::CompileWorker(args) => compile_worker::run(&args),
            Command::Completions(args) => completions::run(&args, context),
            Command::Version(args) => version::run(&args, context),
        }
    }
}

/// How long blocking calls may go on after everything else has ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Runs `future` on a new runtime.
///
/// # Errors
/// Those of `future`, or that the runtime could not be started.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A question to a Kafka that does not answer must not hold up the end.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
