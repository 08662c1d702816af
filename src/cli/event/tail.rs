//! `oncue event tail`: follows the ledger, or the counts of events that no rule matched.
//!
//! Invariant: every attempt that is settled while it follows is shown once. A transaction that began earlier may
//! commit later, so the last seconds are asked for again and what was shown is left out.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::output::{micros, printable};
use crate::store::Store;
use crate::store::events::{EventFilter, LedgerCursor, LedgerRow, UnmatchedRow};

use super::{Filter, path, unmatched};

const EVERY: Duration = Duration::from_millis(500);
/// A settling transaction seldom takes longer.
const OVERLAP: time::Duration = time::Duration::seconds(3);
const PAGE: i64 = 1_000;

/// What may be typed after `oncue event tail`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Follow the events that no rule matched: counts by trigger and type, with a sample
    #[arg(long, conflicts_with_all = ["rule", "function", "outcome"])]
    unmatched: bool,
    #[command(flatten)]
    filter: Filter,
    /// Begin with what was settled since then, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
}

/// Follows until the process is ended.
pub(super) async fn run(store: &Store, args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let now = store.database_now().await?;
    let start = args.since.map_or(now, |age| now - age);
    if args.unmatched {
        follow_unmatched(store, args, start, context).await
    } else {
        follow(store, &args.filter.to_store(None), start, context).await
    }
}

async fn follow(
    store: &Store,
    filter: &EventFilter,
    start: OffsetDateTime,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let mut shown: HashMap<(Uuid, i32), OffsetDateTime> = HashMap::new();
    let mut newest = start;
    loop {
        let mut cursor = LedgerCursor::at(start.max(newest - OVERLAP));
        loop {
            let page = store.ledger_after(cursor, filter, PAGE).await?;
            for row in &page {
                newest = newest.max(row.settled_at);
                if shown.insert((row.delivery_id, row.attempt), row.settled_at).is_none() {
                    context.output.line(row, line)?;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => cursor = LedgerCursor::behind(last),
                _ => break,
            }
        }
        shown.retain(|_, settled_at| *settled_at > newest - OVERLAP);
        tokio::time::sleep(EVERY).await;
    }
}

fn line(row: &LedgerRow) -> String {
    let error = row.error.as_deref().map(|e| format!(": {e}")).unwrap_or_default();
    let settled = if row.outcome == "ok" { String::new() } else { format!(" {}", row.settlement) };
    let text = format!(
        "{}  {}  {}  {}  try {}  {}{settled}  {}  {} fuel{error}",
        clock(row.settled_at),
        row.event_type,
        row.event_id,
        path(row),
        row.attempt,
        row.outcome,
        micros(row.micros.unsigned_abs()),
        row.fuel
    );
    printable(&text.replace('\n', " "))
}

/// A change of a count, with the sample as text.
#[derive(Serialize)]
struct Unmatched<'a> {
    #[serde(flatten)]
    row: &'a UnmatchedRow,
    more: i64,
    sample: Option<String>,
}

async fn follow_unmatched(
    store: &Store,
    args: &Args,
    start: OffsetDateTime,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    // What was counted before is known first, so that the first change shows how many it added.
    let mut counts = HashMap::new();
    for row in store.unmatched_after(start - time::Duration::days(1), None, PAGE).await? {
        if row.last_at <= start {
            counts.insert(key(&row), row.count);
        }
    }
    let mut newest = start;
    let mut seen: HashSet<(String, String)> = HashSet::new();
    loop {
        let rows = store.unmatched_after(start.max(newest - OVERLAP), args.filter.ty.as_deref(), PAGE).await?;
        for row in rows.iter().filter(|r| args.filter.trigger.as_ref().is_none_or(|t| *t == r.trigger)) {
            newest = newest.max(row.last_at);
            let before = counts.insert(key(row), row.count).unwrap_or(0);
            if row.count == before {
                continue;
            }
            let first = seen.insert((row.trigger.clone(), row.event_type.clone()));
            let sample = unmatched::text(row).filter(|_| first || context.output.is_json());
            context.output.line(&Unmatched { row, more: row.count - before, sample }, unmatched_line)?;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn key(row: &UnmatchedRow) -> (time::Date, String, String) {
    (row.day, row.trigger.clone(), row.event_type.clone())
}

fn unmatched_line(change: &Unmatched<'_>) -> String {
    let Unmatched { row, more, sample } = change;
    let sample = sample.as_deref().map(|sample| format!("\n    sample: {}", unmatched::line(sample)));
    let text = format!(
        "{}  {}  {}  no rule matched {more} more, {} today",
        clock(row.last_at),
        row.trigger,
        printable(&row.event_type),
        row.count
    );
    text + sample.as_deref().unwrap_or_default()
}

fn clock(at: OffsetDateTime) -> String {
    let form = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    at.format(&form).unwrap_or_default()
}
