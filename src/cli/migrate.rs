//! `oncue migrate`: creates or updates the tables, or installs `oncue.publish` into an application's database. Safe while
//! nodes run, and when several do it at once.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::bus::BusKind;
use crate::bus::postgres::{PUBLISH_SQL, PostgresBus, grants, literal};

use super::Context;

/// What may be typed after `oncue migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Install the function oncue.publish into the database of this bus instead, where the application is
    #[arg(long, value_name = "NAME")]
    bus: Option<String>,
    /// Print the SQL that installs it, for somebody who may run it
    #[arg(long, requires = "bus")]
    sql: bool,
    /// Let this role publish with it; may be given several times
    #[arg(long, requires = "bus", value_name = "ROLE")]
    grant: Vec<String>,
}

/// Applies the migrations that are missing, or installs the function.
///
/// # Errors
/// Those of the database; no such bus.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.bus else {
        context.store().await?.migrate().await.context("failed to migrate the tables")?;
        context.output.note("the tables are up to date");
        return Ok(ExitCode::SUCCESS);
    };
    let buses = &context.config()?.buses;
    let config = buses.get(name).with_context(|| {
        let known = buses.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("there is no bus \"{name}\"; there is {known}")
    })?;
    ensure!(config.kind == BusKind::Postgres, "the bus \"{name}\" is no Postgres: there is nothing to install");
    let bus = PostgresBus::new(name, config)?;
    if args.sql {
        context.output.text(&sql(&bus.replication().user, &args.grant))?;
        return Ok(ExitCode::SUCCESS);
    }
    bus.install_publish().await?;
    for role in &args.grant {
        bus.grant_publish(role).await?;
        context.output.note(&format!("the role {role} may publish"));
    }
    let database = &bus.replication().database;
    context.output.note(&format!(
        "oncue.publish is in the database {database}; `oncue migrate --bus {name} --grant ROLE` lets a role publish"
    ));
    Ok(ExitCode::SUCCESS)
}

/// What installs the functions, and lets the bus's own role follow feeds and others publish.
fn sql(own: &str, publishers: &[String]) -> String {
    let mut sql = format!("{PUBLISH_SQL}\n-- What the bus's role checks and signs events with.\n{}\n", grants(own));
    for role in publishers {
        sql.push_str(&format!("select oncue.grant_publish({});\n", literal(role)));
    }
    sql
}
