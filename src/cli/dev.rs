//! `oncue dev`: everything on this machine from one command: servers, tables, builds, a node, a line for each event.
//!
//! Invariant: once the node runs, a mistake in the manifest, in a source or in a component is printed and changes
//! nothing else; only a signal ends it. Servers stop after the node has settled what ran.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::bus::BusKind;
use crate::config::{Config, Environment, MANIFEST};
use crate::dev::ports::is_free;
use crate::dev::servers::Overrides;
use crate::dev::{self, Servers, Wanted};
use crate::drain::Drain;
use crate::node::{self, NodeConfig, Seen};
use crate::telemetry::{LogConfig, install_logs};

use super::Context;

mod banner;
mod lines;
mod project;

/// Lines that wait for a slow terminal; what comes above is not shown.
const LINES: usize = 4_096;

/// Logs beside the lines: what goes wrong, without the states that every start and every connection passes through.
const QUIET: &str = "error,oncue=warn,oncue::health=error,oncue::bus::nats=error";

/// Stands for an address that is not known yet.
const UNKNOWN: &str = "private.oncue.invalid";

/// What may be typed after `oncue dev`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not build functions, only deploy components that change
    #[arg(long)]
    no_build: bool,
}

/// Runs until a signal.
///
/// # Errors
/// A manifest with mistakes at the start, no Postgres, a drain that took too long.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let base = base(context);
    let wanted = wanted(context)?;
    let folder = dev::folder(&base).with_context(|| format!("failed to make {}", base.join(".oncue").display()))?;
    let overrides = Overrides {
        pg_bin: context.environment.get("ONCUE_PG_BIN").map(PathBuf::from),
        nats_server: context.environment.get("ONCUE_NATS_SERVER").map(PathBuf::from),
    };
    let servers = Servers::start(&folder, wanted, &overrides).await?;
    let with = |env: Environment, (name, value): (&str, String)| env.with(name, &value);
    let context = context.with(servers.variables().into_iter().fold(context.environment.clone(), with));
    let result = work(&args, &context, &servers, &folder).await;
    servers.stop().await;
    result
}

async fn work(args: &Args, context: &Context, servers: &Servers, folder: &Path) -> anyhow::Result<ExitCode> {
    set_up_logs(context)?;
    servers.publish().with_context(|| format!("failed to write into {}", folder.display()))?;
    let config = node_config(context, folder)?;
    context.store().await?.migrate().await.context("failed to migrate the tables")?;
    banner::print(context, servers, &config)?;
    let project = project::Project::new(context, servers, folder, !args.no_build);
    project.begin().await?;
    let (observer, seen) = mpsc::channel(LINES);
    let drain = Drain::new();
    let stop = drain.token().stop_reading;
    let node = async {
        let ended = Box::pin(node::run(config, drain.clone(), Some(observer))).await;
        drain.stop_reading();
        ended
    };
    let watch = async {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = project.follow() => ended,
        }
    };
    let (ended, watched, printed) = tokio::join!(node, watch, print(context, seen));
    ended.and(watched).and(printed)?;
    context.output.note("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The directory of the manifest.
fn base(context: &Context) -> PathBuf {
    match context.manifest().parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Which addresses nobody names: those that a stand-in in the environment would reach.
fn wanted(context: &Context) -> anyhow::Result<Wanted> {
    let stand_in = |env: Environment, name: &str, address: String| match env.get(name) {
        Some(_) => env,
        None => env.with(name, &address),
    };
    let environment = match context.environment.get("ONCUE_DATABASE_URL") {
        Some(_) => context.environment.clone(),
        None => stand_in(context.environment.clone(), "DATABASE_URL", format!("postgres://{UNKNOWN}")),
    };
    let environment = stand_in(environment, "NATS_URL", format!("nats://{UNKNOWN}"));
    let probe = context.with(stand_in(environment, "KAFKA_BROKERS", UNKNOWN.to_owned()));
    let config: &Config = probe.config()?;
    let nowhere = |kind: BusKind| config.buses.values().any(|bus| bus.kind == kind && bus.url.contains(UNKNOWN));
    Ok(Wanted {
        postgres: config.node.database.as_ref().is_none_or(|url| url.0.contains(UNKNOWN)) || nowhere(BusKind::Postgres),
        nats: nowhere(BusKind::Nats),
        // Without a manifest nobody asks for one.
        kafka: config.path.is_some() && nowhere(BusKind::Kafka),
    })
}

/// The node's configuration; its name is the same each time, and another `oncue dev` may have the port of health.
fn node_config(context: &Context, folder: &Path) -> anyhow::Result<NodeConfig> {
    let mut config = context.node_config()?;
    "dev".clone_into(&mut config.name);
    config.dev = true;
    config.runtime.cache_dir = config.runtime.cache_dir.or_else(|| Some(folder.join("cache")));
    if let Some(address) = &mut config.health
        && !is_free(address.port())
    {
        address.set_port(0);
    }
    Ok(config)
}

/// What happens is printed as lines; logs are for what goes wrong.
fn set_up_logs(context: &Context) -> anyhow::Result<()> {
    let settings = &context.config()?.node;
    let filter = match context.environment.get("RUST_LOG") {
        Some(_) => settings.log_filter.clone(),
        None => QUIET.to_owned(),
    };
    let colour = std::io::stderr().is_terminal();
    install_logs(&LogConfig { format: settings.log_format, filter, colour })?;
    Ok(())
}

async fn print(context: &Context, mut seen: mpsc::Receiver<Seen>) -> anyhow::Result<()> {
    while let Some(seen) = seen.recv().await {
        if let Some(line) = lines::Line::of(&seen) {
            context.output.line(&line, lines::text)?;
        }
    }
    Ok(())
}

/// The manifest's path as a text for hints.
fn shown_manifest(context: &Context) -> String {
    let path = context.manifest();
    if path == Path::new(MANIFEST) { String::new() } else { format!(" --config {}", path.display()) }
}
