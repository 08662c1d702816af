//! `oncue rule`: lists, shows, adds, tests, tries on the past, enables, disables and removes rules.
//!
//! Invariant: a rule that is added compiles, and its trigger and function are there. What a rule means is decided in
//! `rules`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::store::StoreError;
use crate::store::control::{ControlPlane, RuleRow};

use super::Context;

mod add;
mod backtest;
mod list;
mod test;

/// What may be typed after `oncue rule`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the rules
    List(list::Args),
    /// Show a rule
    Show {
        /// The rule
        name: String,
    },
    /// Add a rule
    Add(Box<add::Args>),
    /// Say whether a rule matches an event, and what its target would get; exit with 1 if it does not match
    Test(test::Args),
    /// Say what a rule would have matched of the events of the last hours or days; nothing runs
    Backtest(Box<backtest::Args>),
    /// Let a rule match
    Enable {
        /// The rule
        name: String,
    },
    /// Let a rule match nothing
    Disable {
        /// The rule
        name: String,
    },
    /// Delete a rule; what waits to be retried for it becomes void
    Remove {
        /// The rule
        name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// Those of the database, a rule with a mistake, a rule that is not there.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list::list(&args, context).await,
        Command::Show { name } => list::show(&name, context).await,
        Command::Add(args) => add::run(*args, context).await,
        Command::Test(args) => test::run(args, context).await,
        Command::Backtest(args) => Box::pin(backtest::run(*args, context)).await,
        Command::Enable { name } => set_enabled(&name, true, context).await,
        Command::Disable { name } => set_enabled(&name, false, context).await,
        Command::Remove { name } => remove(&name, context).await,
    }
}

#[derive(Serialize)]
struct Enabled<'a> {
    name: &'a str,
    enabled: bool,
    changed: bool,
}

async fn set_enabled(name: &str, enabled: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let before = context.store().await?.set_rule_enabled(name, enabled).await?;
    let state = if enabled { "enabled" } else { "disabled" };
    context.output.one(&Enabled { name, enabled, changed: before != enabled }, |e| {
        if e.changed { format!("{name} is {state}") } else { format!("{name} was {state} already") }
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    removed: bool,
}

async fn remove(name: &str, context: &Context) -> anyhow::Result<ExitCode> {
    context.store().await?.remove_rule(name).await?;
    context.output.one(&Removed { name, removed: true }, |_| format!("{name} is removed"))?;
    Ok(ExitCode::SUCCESS)
}

async fn tables(context: &Context) -> anyhow::Result<ControlPlane> {
    context.store().await?.control_plane().await.context("failed to read the rules")
}

pub(super) fn find<'a>(tables: &'a ControlPlane, name: &str) -> Result<&'a RuleRow, StoreError> {
    let missing = || StoreError::Missing { kind: "rule", name: name.to_owned() };
    tables.rules.iter().find(|r| r.rule.name == name).ok_or_else(missing)
}
