//! `oncue apply`: makes the tables say what the manifest says.
//!
//! Invariant: every component was loaded by the runtime before the first row is written, and all rows are written in
//! one transaction. Nothing is deleted without `--prune`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;

use crate::config::{Action, Config, ConfigError, ConfigErrors, FunctionEntry, Kind, Plan};
use crate::runtime::{self, Runtime};
use crate::store::Store;
use crate::store::apply::{ApplyError, Changes};
use crate::store::functions::Deployment;
use crate::store::triggers::TriggerWrite;

use super::plan::{self, Planned};
use super::{Context, output};

/// What may be typed after `oncue apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also delete what the manifest does not name
    #[arg(long)]
    prune: bool,
}

/// How often a plan is made again because somebody else changed the tables meanwhile.
const TRIES: u32 = 3;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// What was planned.
    #[serde(flatten)]
    pub plan: Plan,
    /// The versions that were deployed or promoted, by function.
    pub versions: BTreeMap<String, u32>,
}

/// Applies the manifest.
///
/// # Errors
/// Those of `apply`.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let applied = apply(context, &context.store().await?, args.prune).await?;
    context.output.one(&applied, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Applies the manifest of `context`.
///
/// # Errors
/// A broken manifest, a component that cannot run, those of the database.
pub async fn apply(context: &Context, store: &Store, prune: bool) -> anyhow::Result<Applied> {
    let config = context.config()?;
    let mut tries = 0;
    loop {
        tries += 1;
        let planned = plan::plan(context, store, prune).await?;
        check_components(context, config, &planned).await?;
        let changes = changes(config, &planned);
        match store.apply(&changes).await {
            Ok(versions) => {
                let functions = changes.deployments.iter().map(|d| d.function.clone());
                let versions = functions.zip(versions).chain(changes.promotions).collect();
                return Ok(Applied { plan: planned.plan, versions });
            }
            Err(ApplyError::Changed) if tries < TRIES => {}
            Err(error) => return Err(error).context("failed to write the tables; nothing was changed"),
        }
    }
}

/// Loads every component that is new, so that one that cannot run is refused with its place.
async fn check_components(context: &Context, config: &Config, planned: &Planned) -> anyhow::Result<()> {
    let new: Vec<&str> = planned.plan.names(Kind::Function, &[Action::Create, Action::Change]).collect();
    if new.is_empty() {
        return Ok(());
    }
    let runtime = Runtime::new(context.runtime_config()?)?;
    let mut errors = ConfigErrors::default();
    for name in new {
        let (entry, component) = (&config.manifest.functions[name], &planned.components[name]);
        if let Err(error) = runtime.load(name, Bytes::from(component.clone()), &entry.spec).await {
            errors.0.push(refused(entry, &error));
        }
    }
    if errors.0.is_empty() { Ok(()) } else { Err(errors.into()) }
}

fn refused(entry: &FunctionEntry, error: &runtime::LoadError) -> ConfigError {
    ConfigError {
        place: entry.place.clone(),
        key: format!("function.{}.component", entry.name),
        message: format!("{}: {error}", entry.file.display()),
        fix: String::new(),
    }
}

fn changes(config: &Config, planned: &Planned) -> Changes {
    let plan = &planned.plan;
    let written = [Action::Create, Action::Change];
    let deleted = |kind| plan.names(kind, &[Action::Delete]).map(str::to_owned).collect();
    let deployment = |name: &str| {
        let component = planned.components[name].clone();
        let (digest, spec) = (runtime::digest(&component).to_vec(), config.manifest.functions[name].spec.clone());
        Deployment { function: name.to_owned(), component, digest, spec, promote: true }
    };
    let trigger = |name: &str| {
        let entry = &config.manifest.triggers[name];
        let (bus, kind, spec) = (entry.bus.clone(), entry.spec.kind().to_owned(), entry.spec.to_json());
        TriggerWrite { name: name.to_owned(), bus, kind, spec, recording: entry.recording }
    };
    let rules: Vec<&str> = plan.names(Kind::Rule, &written).collect();
    let entries = config.manifest.rules.iter().filter(|r| rules.contains(&r.rule.name.as_str()));
    let promoted = plan.changes.iter().filter(|c| c.action == Action::Promote);
    Changes {
        planned_at: Some(plan.version),
        deployments: plan.names(Kind::Function, &written).map(deployment).collect(),
        promotions: promoted.filter_map(|c| Some((c.name.clone(), c.version?))).collect(),
        triggers: plan.names(Kind::Trigger, &written).map(trigger).collect(),
        rules: entries.map(|r| r.rule.clone()).collect(),
        deleted_rules: deleted(Kind::Rule),
        deleted_triggers: deleted(Kind::Trigger),
        deleted_functions: deleted(Kind::Function),
    }
}

fn text(applied: &Applied) -> String {
    let mut lines: Vec<String> = Vec::new();
    for change in &applied.plan.changes {
        let what = format!("{} {}", plan::kind(change.kind), change.name);
        lines.push(
            match (change.action, applied.versions.get(&change.name).filter(|_| change.kind == Kind::Function)) {
                (Action::Keep, _) => continue,
                (Action::Delete, _) => format!("deleted {what}"),
                (Action::Promote, Some(version)) => format!("promoted {what} to version {version}"),
                (_, Some(version)) => format!("deployed {what} as version {version}"),
                (Action::Create, None) => format!("created {what}"),
                (_, None) => format!("changed {what}"),
            },
        );
    }
    let kept = applied.plan.count(Action::Keep);
    lines.push(format!("{} unchanged", applied.plan.unchanged));
    if kept > 0 {
        lines.push(format!("{kept} not in the manifest, kept; see `oncue plan --prune`"));
    }
    output::printable(&lines.join("\n"))
}
