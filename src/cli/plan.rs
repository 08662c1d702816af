//! `oncue plan`: shows what `apply` would change, and reads what both need.
//!
//! Invariant: writes nothing, connects to the database only to read, and runs no component.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use crate::config::{Action, Change, Config, ConfigError, ConfigErrors, FunctionEntry, Kind, Known, MANIFEST, Plan};
use crate::runtime;
use crate::store::Store;

use super::Context;

/// What may be typed after `oncue plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also delete what the manifest does not name
    #[arg(long)]
    pub prune: bool,
    /// Exit with 2 if there is something to change, instead of 0
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// A plan with the components that it was made for.
#[derive(Debug)]
pub struct Planned {
    /// What changes.
    pub plan: Plan,
    /// The components by function.
    pub components: BTreeMap<String, Vec<u8>>,
}

/// The exit code of `--detailed-exitcode` when something would change: the one that terraform gave the meaning.
const CHANGES: u8 = 2;

/// Shows the plan.
///
/// # Errors
/// A broken manifest, a component that cannot be read, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let planned = plan(context, &context.store().await?, args.prune).await?;
    context.output.one(&planned.plan, text)?;
    let changes = args.detailed_exitcode && !planned.plan.is_empty();
    Ok(if changes { ExitCode::from(CHANGES) } else { ExitCode::SUCCESS })
}

/// Compares the manifest with the tables.
///
/// # Errors
/// A broken manifest, a component that cannot be read, a name that is nowhere, those of the database.
pub async fn plan(context: &Context, store: &Store, prune: bool) -> anyhow::Result<Planned> {
    let config = context.config()?;
    anyhow::ensure!(
        config.path.is_some(),
        "there is no {MANIFEST} here: write one with `oncue init`, or name one with --config"
    );
    let components = components(config)?;
    let tables = store.control_plane().await.context("failed to read the tables")?;
    config.manifest.check_references(&Known::of(&tables))?;
    let digests = components.iter().map(|(name, bytes)| (name.clone(), runtime::digest(bytes).to_vec())).collect();
    Ok(Planned { plan: Plan::new(&config.manifest, &digests, &tables, prune), components })
}

fn components(config: &Config) -> Result<BTreeMap<String, Vec<u8>>, ConfigErrors> {
    let mut components = BTreeMap::new();
    let mut errors = ConfigErrors::default();
    for entry in config.manifest.functions.values() {
        match std::fs::read(&entry.file) {
            Ok(bytes) => _ = components.insert(entry.name.clone(), bytes),
            Err(error) => errors.0.push(unread(entry, &error)),
        }
    }
    if errors.0.is_empty() { Ok(components) } else { Err(errors) }
}

fn unread(entry: &FunctionEntry, error: &std::io::Error) -> ConfigError {
    ConfigError {
        place: entry.place.clone(),
        key: format!("function.{}.component", entry.name),
        message: format!("failed to read {}: {error}", entry.file.display()),
        fix: match &entry.build {
            Some(build) => format!("build it with `{}`", build.command),
            None => "build it, or mend the path".to_owned(),
        },
    }
}

/// The plan as people read it.
#[must_use]
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for change in plan.changes.iter().filter(|c| c.action != Action::Keep) {
        change_text(&mut text, change);
    }
    let count = |action| plan.count(action);
    let _ = write!(
        text,
        "{} to create, {} to change, {} to delete, {} unchanged",
        count(Action::Create),
        count(Action::Change) + count(Action::Promote),
        count(Action::Delete),
        plan.unchanged
    );
    let kept: Vec<String> = plan
        .changes
        .iter()
        .filter(|c| c.action == Action::Keep)
        .map(|c| format!("{} {}", kind(c.kind), c.name))
        .collect();
    if !kept.is_empty() {
        let _ = write!(text, "\nnot in the manifest, deleted only with --prune: {}", kept.join(", "));
    }
    text
}

fn change_text(text: &mut String, change: &Change) {
    let sign = match change.action {
        Action::Create => '+',
        Action::Change | Action::Promote => '~',
        Action::Delete => '-',
        Action::Keep => '=',
    };
    let version = match (change.action, change.version) {
        (Action::Promote, Some(version)) => format!(" (back to version {version})"),
        (_, Some(version)) => format!(" (version {version})"),
        (_, None) => String::new(),
    };
    let _ = writeln!(text, "{sign} {} {}{version}", kind(change.kind), change.name);
    for field in &change.fields {
        let (name, new) = (&field.field, value(field.new.as_ref()));
        let _ = match change.action {
            Action::Create => writeln!(text, "    {name}: {new}"),
            _ => writeln!(text, "    {name}: {} → {new}", value(field.old.as_ref())),
        };
    }
}

/// The word for a kind of row.
#[must_use]
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Function => "function",
        Kind::Trigger => "trigger",
        Kind::Rule => "rule",
    }
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "(default)".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
