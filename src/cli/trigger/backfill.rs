//! `oncue trigger backfill`: asks a change feed to read a table, and shows how far it has come.
//!
//! Invariant: the node reads, not this command: ending the command ends nothing but the lines. What can be known to
//! fail (a table that is not followed, a privilege, a condition that is no SQL) is refused before anything is asked for.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bus::postgres::{PostgresBus, TableName, quoted};
use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::config::duration_text;
use crate::store::Store;
use crate::store::control::TriggerRow;
use crate::store::feeds::{BackfillRequest, BackfillState};
use crate::triggers::spec::PostgresSpec;

use super::feed::{self, BackfillFacts};

/// How often the tables are asked how far it has come.
const POLL: Duration = Duration::from_millis(500);
/// How long nobody may begin before that is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be typed after `oncue trigger backfill`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trigger
    pub(super) name: String,
    /// The table [default: the trigger's, if it has one]
    #[arg(long, value_name = "T")]
    table: Option<TableName>,
    /// A condition in SQL that the rows must meet; it is run as the role of the bus
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Most rows in a second [default: the trigger's rows_per_second]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only ask for it
    #[arg(long)]
    detach: bool,
    /// End the backfills of this trigger that are open
    #[arg(long, conflicts_with_all = ["table", "filter", "rate", "detach"])]
    cancel: bool,
}

/// Asks for a backfill, or ends those that are open.
///
/// # Errors
/// No change feed, a table that it does not follow, what the source refuses; a backfill that failed or was ended.
pub(super) async fn run(args: &Args, row: &TriggerRow, store: &Store, context: &Context) -> anyhow::Result<ExitCode> {
    let Some(spec) = feed::spec(row) else { bail!("{} is no change feed: it reads no tables", row.name) };
    if args.cancel {
        let ended = store.cancel_backfills(&row.name).await?;
        context.output.note(&format!("ended {ended} backfills; rows that were read are finished"));
        return Ok(ExitCode::SUCCESS);
    }
    let table = table(args, row, &spec)?;
    if let Some(bus) = feed::bus(row, context) {
        check(&bus?, &table, args.filter.as_deref()).await?;
    }
    let request = BackfillRequest {
        schema: table.schema,
        table: table.name,
        filter: args.filter.clone(),
        rows_per_second: args.rate.or(spec.rows_per_second),
    };
    let id = store.request_backfill(&row.name, &request).await?;
    if row.state != "active" {
        let name = &row.name;
        context.output.note(&format!("{name} is {}: it begins after `oncue trigger resume {name}`", row.state));
    }
    let facts = if args.detach { look(store, row, id).await?.0 } else { follow(store, row, id, context).await? };
    context.output.one(&facts, BackfillFacts::text)?;
    Ok(if matches!(facts.state, "failed" | "cancelled") { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// The table that is meant, which the trigger must follow.
fn table(args: &Args, row: &TriggerRow, spec: &PostgresSpec) -> anyhow::Result<TableName> {
    let followed = spec.tables.iter().map(|text| text.parse()).collect::<Result<Vec<TableName>, _>>()?;
    let list = || followed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (&args.table, followed.as_slice()) {
        (Some(table), []) => Ok(table.clone()),
        (Some(table), tables) if tables.contains(table) => Ok(table.clone()),
        (Some(table), _) => bail!("{} does not follow {table}; it follows {}", row.name, list()),
        (None, [table]) => Ok(table.clone()),
        (None, []) => bail!("name the table with --table"),
        (None, _) => bail!("{} follows several tables: name one with --table: {}", row.name, list()),
    }
}

/// Whether the role of the bus can read the rows.
async fn check(bus: &PostgresBus, table: &TableName, filter: Option<&str>) -> anyhow::Result<()> {
    let facts = bus.tables(std::slice::from_ref(table)).await?;
    let Some(facts) = facts.first().filter(|facts| facts.oid.is_some()) else {
        bail!("there is no table {table} on bus \"{}\"", bus.name());
    };
    let role = quoted(&bus.replication().user);
    ensure!(facts.can_select, "the role may not read it: run `grant select on {} to {role}`", table.quoted());
    if let Some(filter) = filter {
        bus.check_filter(table, filter).await?;
    }
    Ok(())
}

async fn look(store: &Store, row: &TriggerRow, id: Uuid) -> anyhow::Result<(BackfillFacts, BackfillState)> {
    let all = store.backfills(&row.name).await?;
    let Some(backfill) = all.iter().find(|backfill| backfill.id == id) else {
        bail!("the backfill is gone: was the trigger deleted?");
    };
    Ok((BackfillFacts::from(backfill), backfill.state))
}

/// Shows how far it has come until it has ended.
async fn follow(store: &Store, row: &TriggerRow, id: Uuid, context: &Context) -> anyhow::Result<BackfillFacts> {
    let name = &row.name;
    context.output.note(&format!("{id}: a node reads; `oncue trigger backfill {name} --cancel` ends it, ^C does not"));
    let mut progress = Progress::new(context.output);
    let (asked, mut begun, mut told) = (Instant::now(), None, false);
    loop {
        let (facts, state) = look(store, row, id).await?;
        if state.has_ended() {
            progress.end();
            return Ok(facts);
        }
        match (state, begun) {
            (BackfillState::Running, None) => begun = Some((Instant::now(), facts.rows_read)),
            (BackfillState::Waiting, _) if !told && asked.elapsed() > PATIENCE && row.state == "active" => {
                told = true;
                let node = store.lease_owner(&format!("feed {name}")).await?;
                let why = node.map_or_else(
                    || "no node follows the feed: run `oncue serve`".to_owned(),
                    |node| format!("{node} is still busy with what was asked for before"),
                );
                context.output.note(&format!("waiting: {why}"));
            }
            _ => {}
        }
        progress.show(&line(&facts, begun));
        tokio::time::sleep(POLL).await;
    }
}

/// Rows, rate and time left.
fn line(facts: &BackfillFacts, begun: Option<(Instant, u64)>) -> String {
    let Some((at, before)) = begun else { return format!("{}: waiting", facts.table) };
    let rate = (facts.rows_read - before.min(facts.rows_read)) as f64 / at.elapsed().as_secs_f64().max(0.1);
    let shown = format!("{}: {} rows, {rate:.0}/s", facts.table, facts.rows_read);
    match facts.rows_estimated {
        Some(all) if all > facts.rows_read && rate > 0.0 => {
            let left = Duration::from_secs(((all - facts.rows_read) as f64 / rate).min(1e9) as u64);
            let part = facts.rows_read * 100 / all;
            format!("{shown}, {part} % of about {all}, {} left", duration_text(left))
        }
        _ => shown,
    }
}
