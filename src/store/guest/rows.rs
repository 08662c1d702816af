//! What `oncue.guest_settle` is handed: the rows of a group as JSON.
//!
//! Invariant: the names are those that the function's text reads. Bytes are in hexadecimal, times in microseconds.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::types::Uuid;

use crate::event::codec;
use crate::function::hex;
use crate::store::outbox::LEASE;
use crate::store::settle::{AttemptRow, Record};
use crate::store::{clean_error, cleaned};

/// The parameters of `oncue.guest_settle` after the key and the node; none where there are no rows.
pub(super) struct Rows {
    pub(super) claims: Option<String>,
    pub(super) fences: Option<String>,
    pub(super) ledger: Option<String>,
    pub(super) recorded: Option<String>,
    pub(super) logs: Option<String>,
    pub(super) outbox: Option<String>,
}

#[derive(Serialize)]
struct Claim {
    id: Uuid,
    token: Uuid,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Lease<'a> {
    lease: &'a str,
    epoch: i64,
}

#[derive(Serialize)]
struct Attempt<'a> {
    delivery_id: Uuid,
    attempt: u32,
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    event_source: Cow<'a, str>,
    trigger: &'a str,
    rule: &'a str,
    function: Option<&'a str>,
    version: Option<u32>,
    outcome: &'a str,
    settlement: &'a str,
    error: Option<String>,
    started_at: i64,
    micros: u64,
    fuel: u64,
    peak_memory: u64,
    outputs: u32,
    cause: Option<Uuid>,
}

#[derive(Serialize)]
struct Event<'a> {
    id: Uuid,
    trigger: &'a str,
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    matched: bool,
    transport_key: String,
    attributes: String,
    data: String,
}

#[derive(Serialize)]
struct Log<'a> {
    delivery_id: Uuid,
    attempt: u32,
    function: &'a str,
    lines: String,
    dropped: u64,
}

#[derive(Serialize)]
struct Output<'a> {
    delivery_id: Uuid,
    place: usize,
    bus: &'a str,
    subject: &'a str,
    message_id: &'a str,
    event: String,
    lease_ms: u128,
}

impl Rows {
    /// The rows of `records`.
    pub(super) fn of(records: &[&Record]) -> Self {
        let claims = records.iter().filter_map(|r| Some(Claim { id: r.subject.id.0, token: r.claim? }));
        let fences = records.iter().filter_map(|r| r.fence.as_deref());
        // In one order, so that two groups do not wait for each other.
        let fences: BTreeSet<Lease<'_>> = fences.map(|f| Lease { lease: &f.lease, epoch: f.epoch }).collect();
        let attempts = records.iter().flat_map(|r| r.attempts.iter().map(|row| attempt(r, row)));
        Self {
            claims: json(claims),
            fences: json(fences.into_iter()),
            ledger: json(attempts),
            recorded: json(records.iter().filter_map(|r| event(r))),
            logs: json(records.iter().flat_map(|r| r.attempts.iter().filter_map(|row| log(r, row)))),
            outbox: json(records.iter().flat_map(|r| outputs(r))),
        }
    }
}

fn json<T: Serialize>(rows: impl Iterator<Item = T>) -> Option<String> {
    let rows: Vec<T> = rows.collect();
    // Text, numbers and names that are strings: nothing that could not be written.
    if rows.is_empty() { None } else { serde_json::to_string(&rows).ok() }
}

fn attempt<'a>(record: &'a Record, row: &'a AttemptRow) -> Attempt<'a> {
    let subject = &record.subject;
    Attempt {
        delivery_id: subject.id.0,
        attempt: row.attempt,
        event_id: cleaned(&subject.event_id),
        event_type: cleaned(&subject.event_type),
        event_source: cleaned(&subject.event_source),
        trigger: &subject.trigger,
        rule: &subject.rule,
        function: subject.function.as_ref().map(|(name, _)| name.as_str()),
        version: subject.function.as_ref().map(|(_, version)| *version),
        outcome: row.outcome,
        settlement: row.settlement,
        error: row.error.as_deref().map(clean_error),
        started_at: i64::try_from(row.started_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX),
        micros: row.micros,
        fuel: row.fuel,
        peak_memory: row.peak_memory,
        outputs: row.outputs,
        cause: subject.cause,
    }
}

fn event(record: &Record) -> Option<Event<'_>> {
    let recorded = record.recorded.as_deref()?;
    Some(Event {
        id: recorded.id.0,
        trigger: &recorded.trigger,
        event_id: cleaned(&recorded.event.id),
        event_type: cleaned(&recorded.event.ty),
        matched: recorded.matched,
        transport_key: hex(&recorded.transport_key),
        attributes: hex(&codec::to_attributes(&recorded.event)),
        data: hex(&recorded.event.data),
    })
}

fn log<'a>(record: &'a Record, row: &'a AttemptRow) -> Option<Log<'a>> {
    let (function, _) = record.subject.function.as_ref()?;
    if row.logs.is_empty() && row.logs_dropped == 0 {
        return None;
    }
    let lines: Vec<(&str, &str)> = row.logs.iter().map(|line| (line.level, line.message.as_str())).collect();
    let lines = serde_json::to_string(&lines).unwrap_or_default();
    Some(Log { delivery_id: record.subject.id.0, attempt: row.attempt, function, lines, dropped: row.logs_dropped })
}

fn outputs(record: &Record) -> impl Iterator<Item = Output<'_>> {
    let rows = record.effects.iter().flat_map(|effects| &effects.outbox).enumerate();
    rows.map(|(place, row)| Output {
        delivery_id: record.subject.id.0,
        place,
        bus: &row.bus,
        subject: &row.subject,
        message_id: &row.message_id,
        event: hex(&row.event),
        lease_ms: LEASE.as_millis(),
    })
}
