//! What `oncue dev` says at its start: where everything is, and commands to paste into another terminal.
//!
//! Invariant: addresses are shown without their passwords; those of private servers are in the file `env`.

use crate::bus::shown::shown;
use crate::cli::Context;
use crate::config::Config;
use crate::dev::{DEFAULT_KAFKA, DEFAULT_NATS, Servers};
use crate::node::NodeConfig;
use crate::triggers::spec::TriggerSpec;

use super::shown_manifest;

/// Prints it to stderr, so that stdout has only what happens.
pub(super) fn print(context: &Context, servers: &Servers, node: &NodeConfig) -> anyhow::Result<()> {
    let config = context.config()?;
    let mut lines = vec!["oncue dev".to_owned()];
    match &servers.postgres {
        Some(postgres) => {
            lines.push(format!(
                "  postgres  {}  (private, data in {})",
                shown(postgres.url()),
                postgres.data_dir().display()
            ));
        }
        None => lines.push(format!("  postgres  {}", shown(context.database()?))),
    }
    for (name, bus) in &config.buses {
        let private = servers.nats.as_ref().filter(|nats| bus.url.contains(nats.url()));
        let kept = private.map(|n| format!("  (private, data in {})", n.store_dir().display())).unwrap_or_default();
        lines.push(format!("  bus {name}  {}{kept}", shown(&bus.url)));
    }
    if let Some(missing) = &servers.missing_nats {
        lines.push(format!("  no NATS was started: {missing}"));
        lines.push(format!("  going on without; a server at {DEFAULT_NATS} is used as soon as it is there"));
    }
    if servers.missing_kafka {
        lines.push("  no Kafka: KAFKA_BROKERS is not set, and there is none to bring along".to_owned());
        lines.push(format!("  Kafka triggers wait, and what is published to topics, until one is at {DEFAULT_KAFKA}"));
    }
    if let Some(address) = node.health.filter(|a| a.port() != 0) {
        lines.push(format!("  health    http://{address}/readyz  http://{address}/metrics"));
    }
    lines.extend(hints(context, servers, config));
    context.output.note(&lines.join("\n"));
    Ok(())
}

fn hints(context: &Context, servers: &Servers, config: &Config) -> Vec<String> {
    let option = shown_manifest(context);
    let mut lines = vec!["in another terminal, in this directory:".to_owned()];
    if let Some(topic) = sample_topic(config) {
        lines.push(format!("  oncue{option} publish {topic} '{{\"id\":1}}'"));
    }
    lines.push(format!("  oncue{option} event tail --unmatched"));
    if servers.postgres.is_some() {
        lines.push(format!("  psql \"$(sed -n 's/^DATABASE_URL=//p' {})\"", servers.env().display()));
        if let Some(table) = sample_table(config) {
            lines.push(format!("  and there: insert into {table} … ; update and delete run functions too"));
        }
    }
    if config.path.is_none() {
        lines
            .push("there is no oncue.toml: `oncue init` writes one with a first function; start again then".to_owned());
    }
    lines
}

/// A table that a change feed follows.
fn sample_table(config: &Config) -> Option<&str> {
    config.manifest.triggers.values().find_map(|trigger| match &trigger.spec {
        TriggerSpec::Postgres(spec) => spec.tables.first().map(String::as_str),
        _ => None,
    })
}

/// A subject that a trigger takes.
fn sample_topic(config: &Config) -> Option<String> {
    let subject = |spec: &TriggerSpec| match spec {
        TriggerSpec::JetStream(spec) => spec.subjects.first().cloned(),
        TriggerSpec::Nats(spec) => Some(spec.subject.clone()),
        TriggerSpec::Kafka(spec) => spec.names().next().map(str::to_owned),
        TriggerSpec::Postgres(_) => None,
    };
    let (trigger, subject) = config.manifest.triggers.values().find_map(|t| Some((t, subject(&t.spec)?)))?;
    let tokens = subject.split('.').map(|token| if matches!(token, "*" | ">") { "test" } else { token });
    let subject = tokens.collect::<Vec<_>>().join(".");
    Some(if config.buses.len() > 1 { format!("{}/{subject}", trigger.bus) } else { subject })
}
