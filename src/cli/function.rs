//! `oncue function`: deploys, lists, shows, promotes and tries functions, and shows their logs.
//!
//! Invariant: a version is deployed only after the runtime loaded it. Nothing here changes a version.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::store::StoreError;
use crate::store::control::{ControlPlane, FunctionVersion};

use super::Context;
use super::arguments::Limit;

mod deploy;
mod invoke;
mod list;
mod logs;

/// What may be typed after `oncue function`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deploy a component as a new version
    Deploy(deploy::Args),
    /// List the functions
    List(Limit),
    /// Show a function, its versions and who runs it
    Show {
        /// The function
        name: String,
    },
    /// Make a version the current one
    Promote {
        /// The function
        name: String,
        /// The version
        version: u32,
    },
    /// Make the version before the current one the current one
    Rollback {
        /// The function
        name: String,
    },
    /// Run a deployed version here, in the sandbox, on one event
    Invoke(invoke::Args),
    /// Show what a function logged
    Logs(logs::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the database, a component that cannot run, a function or version that is not there.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Deploy(args) => deploy::run(args, context).await,
        Command::List(limit) => list::list(&limit, context).await,
        Command::Show { name } => list::show(&name, context).await,
        Command::Promote { name, version } => promote(&name, version, context).await,
        Command::Rollback { name } => rollback(&name, context).await,
        Command::Invoke(args) => invoke::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
    }
}

#[derive(Serialize)]
struct Promoted<'a> {
    name: &'a str,
    current_version: u32,
    previous_version: u32,
}

async fn promote(name: &str, version: u32, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the functions")?;
    let previous = current(&tables, name)?.version;
    store.promote(name, version).await?;
    let promoted = Promoted { name, current_version: version, previous_version: previous };
    context.output.one(&promoted, |p| {
        format!("{} runs version {} (before: {})", p.name, p.current_version, p.previous_version)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rollback(name: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let tables = context.store().await?.control_plane().await.context("failed to read the functions")?;
    let now = current(&tables, name)?.version;
    let before = tables.functions.iter().filter(|v| v.function == name && v.version < now).map(|v| v.version).max();
    let before = before.with_context(|| {
        format!("{name} is at version {now} and has none before it; see `oncue function show {name}`")
    })?;
    promote(name, before, context).await
}

/// The current version of `name`.
fn current<'a>(tables: &'a ControlPlane, name: &str) -> Result<&'a FunctionVersion, StoreError> {
    let missing = || StoreError::Missing { kind: "function", name: name.to_owned() };
    tables.functions.iter().find(|v| v.function == name && v.current).ok_or_else(missing)
}

/// The version `version` of `name`, the current one without a number.
fn version<'a>(tables: &'a ControlPlane, name: &str, version: Option<u32>) -> Result<&'a FunctionVersion, StoreError> {
    let Some(version) = version else { return current(tables, name) };
    let missing = || StoreError::Missing { kind: "version", name: format!("{name}@{version}") };
    tables.functions.iter().find(|v| v.function == name && v.version == version).ok_or_else(missing)
}
