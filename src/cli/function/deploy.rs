//! `oncue function deploy`: a component becomes a new version.
//!
//! Invariant: limits, grants and configuration come from the first of these that knows the function: the manifest, the
//! current version, the defaults; then the options are added.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;

use crate::config;
use crate::function::FunctionSpec;
use crate::function::hex;
use crate::runtime::{self, Runtime};
use crate::store::apply::Changes;
use crate::store::control::ControlPlane;
use crate::store::functions::Deployment;

use crate::cli::arguments::{key_value, read_input};
use crate::cli::{Context, output};

/// What may be typed after `oncue function deploy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The function
    name: String,
    /// The component; without one, that of the manifest
    file: Option<PathBuf>,
    /// A limit, such as timeout=5s, memory=32MiB, fuel=1000000; repeatable
    #[arg(long = "limit", visible_alias = "limits", value_name = "KEY=VALUE", value_parser = key_value, value_delimiter = ',')]
    limits: Vec<(String, String)>,
    /// A bus and subject that it may publish to, such as events/mail.*; repeatable
    #[arg(long = "grant", value_name = "BUS/SUBJECT")]
    grants: Vec<String>,
    /// A role of Postgres that its SQL statements run under; without one it has no SQL
    #[arg(long, value_name = "ROLE")]
    sql_role: Option<String>,
    /// A value that the function reads as configuration; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    values: Vec<(String, String)>,
    /// Do not make it the current version
    #[arg(long)]
    no_promote: bool,
}

#[derive(Serialize)]
struct Deployed {
    name: String,
    version: u32,
    current: bool,
    digest: String,
    bytes: usize,
    imports: Vec<String>,
}

/// Deploys.
///
/// # Errors
/// No such file, a component that cannot run, an option with a mistake, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let entry = context.config()?.manifest.functions.get(&args.name);
    let file = args.file.as_ref().or(entry.map(|e| &e.file));
    let file = file.with_context(|| format!("no component is named: `oncue function deploy {} FILE`", args.name))?;
    let component = read_input(file)?;
    let tables = store.control_plane().await.context("failed to read the functions")?;
    let spec = spec(&args, &tables, context)?;
    let runtime = Runtime::new(context.runtime_config()?)?;
    let info = runtime.inspect(Bytes::from(component.clone()), &spec).await;
    let info = info.with_context(|| format!("{} cannot be deployed as {}", file.display(), args.name))?;
    let bytes = component.len();
    let digest = runtime::digest(&component).to_vec();
    let promote = !args.no_promote;
    let deployment = Deployment { function: args.name.clone(), component, digest: digest.clone(), spec, promote };
    let versions = store.apply(&Changes { deployments: vec![deployment], ..Changes::default() }).await;
    let versions = versions.with_context(|| format!("failed to deploy {}", args.name))?;
    let version = versions.first().copied().unwrap_or(1);
    let current =
        promote || !tables.functions.iter().any(|v| v.function == args.name && v.version != version && v.current);
    let deployed = Deployed { name: args.name, version, current, digest: hex(&digest), bytes, imports: info.imports };
    context.output.one(&deployed, text)?;
    Ok(ExitCode::SUCCESS)
}

fn spec(args: &Args, tables: &ControlPlane, context: &Context) -> anyhow::Result<FunctionSpec> {
    let written = context.config()?.manifest.functions.get(&args.name).map(|e| e.spec.clone());
    let current = || tables.functions.iter().find(|v| v.function == args.name && v.current).map(|v| v.spec.clone());
    let mut spec = written.or_else(current).unwrap_or_default();
    config::add_options(&mut spec, &args.limits, &args.grants, args.sql_role.as_deref(), &args.values)?;
    Ok(spec)
}

fn text(deployed: &Deployed) -> String {
    let state = if deployed.current { "current" } else { "not current; `oncue function promote` makes it so" };
    output::fields(&[
        ("function", format!("{}@{}", deployed.name, deployed.version)),
        ("state", state.to_owned()),
        ("sha256", deployed.digest.clone()),
        ("size", output::bytes(deployed.bytes as u64)),
        ("imports", deployed.imports.join(", ")),
    ])
}
