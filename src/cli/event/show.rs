//! `oncue event show`: the tree of an event for people, or as one document.
//!
//! Invariant: what a line says comes from one row; nothing is guessed from what is missing.

use std::process::ExitCode;

use anyhow::bail;

use crate::cli::Context;
use crate::cli::output::{bytes, micros, moment, printable};
use crate::store::Store;
use crate::store::events::{LedgerRow, LogRow};

use super::path;
use super::tree::{self, DeliveryNode, EventNode, Tree};

/// What may be typed after `oncue event show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An event's id or a delivery's
    id: String,
}

/// Shows the tree.
pub(super) async fn run(store: &Store, args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let tree = tree::read(store, &args.id).await?;
    if tree.events.is_empty() {
        bail!(
            "the ledger knows no event or delivery \"{0}\": no rule matched it (`oncue event list --unmatched` counts \
             those, `oncue explain {0}` says why), it has not been settled yet, or retention dropped it",
            args.id
        );
    }
    context.output.one(&tree, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(tree: &Tree) -> String {
    let mut lines = Vec::new();
    for event in &tree.events {
        event_lines(event, 0, &mut lines);
    }
    if tree.cut {
        lines.push("… there is more: show one of the deliveries above".to_owned());
    }
    printable(&lines.join("\n"))
}

fn event_lines(event: &EventNode, depth: usize, lines: &mut Vec<String>) {
    let indent = "    ".repeat(depth);
    let verb = if depth == 0 { "event" } else { "emitted" };
    match event.id.as_str() {
        "" => lines.push(format!("{indent}{verb} that has not run yet")),
        id => lines.push(format!("{indent}{verb} {id}  {}  from {}", event.ty, event.source)),
    }
    for delivery in &event.deliveries {
        delivery_lines(delivery, depth, lines);
    }
}

fn delivery_lines(delivery: &DeliveryNode, depth: usize, lines: &mut Vec<String>) {
    let indent = "    ".repeat(depth);
    let what = match delivery.attempts.last() {
        Some(attempt) => path(attempt),
        None if delivery.rule.is_empty() => "rejected before any rule".to_owned(),
        None => delivery.rule.clone(),
    };
    lines.push(format!("{indent}  {what}: {}  (delivery {})", delivery.state, delivery.id));
    for attempt in &delivery.attempts {
        lines.push(format!("{indent}    {}", attempt_line(attempt)));
        for log in delivery.logs.iter().filter(|l| l.attempt == attempt.attempt) {
            log_lines(log).into_iter().for_each(|line| lines.push(format!("{indent}        {line}")));
        }
    }
    if let Some(parked) = &delivery.parked {
        let place = parked.node.as_deref().map_or(String::new(), |node| format!(", claimed by {node}"));
        let due = moment(parked.next_at);
        lines.push(format!("{indent}    parked after {} tries ({}), due {due}{place}", parked.attempts, parked.class));
    }
    if let Some(dead) = &delivery.dead {
        let what = match dead.redriven_as {
            Some(successor) => format!("redriven as {successor}"),
            None => format!("{}: `oncue dead-letter show {}`", dead.state, dead.id),
        };
        lines.push(format!("{indent}    dead letter ({}), {what}", dead.class));
    }
    for event in &delivery.emitted {
        event_lines(event, depth + 1, lines);
    }
}

fn attempt_line(row: &LedgerRow) -> String {
    let error = row.error.as_deref().map(|e| format!(": {e}")).unwrap_or_default();
    let emitted = if row.outputs > 0 { format!("  emitted {}", row.outputs) } else { String::new() };
    format!(
        "try {}  {}  {}  {}  {} fuel  {}{emitted}  on {}{error}",
        row.attempt,
        moment(row.started_at),
        row.outcome,
        micros(row.micros.unsigned_abs()),
        row.fuel,
        bytes(row.peak_memory.unsigned_abs()),
        row.node
    )
}

fn log_lines(log: &LogRow) -> Vec<String> {
    let lines: Vec<(String, String)> = serde_json::from_str(&log.lines).unwrap_or_default();
    let mut shown: Vec<String> = lines.into_iter().map(|(level, message)| format!("{level}: {message}")).collect();
    if log.dropped > 0 {
        shown.push(format!("… {} bytes of log were above the limit", log.dropped));
    }
    shown
}
