//! The ledger's part of a settlement: attempts, the sums of usage, the record of their events, log lines.
//!
//! Invariant: usage is raised by exactly the rows that were inserted, in the same statement. So is the record: recording
//! costs no way to the database of its own.

use std::collections::HashSet;

use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use crate::event::codec;
use crate::store::StoreError;

use super::{AttemptRow, Record, Recorded, Tx, clean, clean_error, int, small};

/// Inserts the first attempt of every record that was not claimed, and what is to be recorded of their events and of
/// `others`; gives the deliveries that had no such row.
pub(super) async fn insert_heads(
    tx: &mut Tx,
    node: &str,
    records: &[&Record],
    others: &[Recorded],
) -> Result<HashSet<Uuid>, StoreError> {
    let mut columns = Columns::default();
    for record in records.iter().filter(|r| r.claim.is_none()) {
        record.attempts.first().into_iter().for_each(|row| columns.push(record, row));
    }
    let mut events = EventColumns::default();
    let recorded = records.iter().filter_map(|record| record.recorded.as_deref());
    recorded.chain(others).for_each(|recorded| events.push(recorded));
    insert(tx, node, columns, events).await
}

/// Inserts the attempts that `insert_heads` did not.
pub(super) async fn insert_rest(tx: &mut Tx, node: &str, fresh: &[&Record]) -> Result<(), StoreError> {
    let mut columns = Columns::default();
    for record in fresh {
        let skip = usize::from(record.claim.is_none());
        record.attempts.iter().skip(skip).for_each(|row| columns.push(record, row));
    }
    insert(tx, node, columns, EventColumns::default()).await.map(drop)
}

#[derive(Default)]
struct Columns {
    delivery: Vec<Uuid>,
    attempt: Vec<i32>,
    event_id: Vec<String>,
    event_type: Vec<String>,
    event_source: Vec<String>,
    trigger: Vec<String>,
    rule: Vec<String>,
    function: Vec<Option<String>>,
    version: Vec<Option<i32>>,
    outcome: Vec<String>,
    settlement: Vec<String>,
    error: Vec<Option<String>>,
    started_at: Vec<OffsetDateTime>,
    micros: Vec<i64>,
    fuel: Vec<i64>,
    peak_memory: Vec<i64>,
    outputs: Vec<i32>,
    cause: Vec<Option<Uuid>>,
}

impl Columns {
    fn push(&mut self, record: &Record, row: &AttemptRow) {
        let subject = &record.subject;
        self.delivery.push(subject.id.0);
        self.attempt.push(small(row.attempt));
        self.event_id.push(clean(&subject.event_id));
        self.event_type.push(clean(&subject.event_type));
        self.event_source.push(clean(&subject.event_source));
        self.trigger.push(subject.trigger.clone());
        self.rule.push(subject.rule.clone());
        self.function.push(subject.function.as_ref().map(|(name, _)| name.clone()));
        self.version.push(subject.function.as_ref().map(|(_, version)| small(*version)));
        self.outcome.push(row.outcome.to_owned());
        self.settlement.push(row.settlement.to_owned());
        self.error.push(row.error.as_deref().map(clean_error));
        self.started_at.push(row.started_at);
        self.micros.push(int(row.micros));
        self.fuel.push(int(row.fuel));
        self.peak_memory.push(int(row.peak_memory));
        self.outputs.push(small(row.outputs));
        self.cause.push(subject.cause);
    }
}

#[derive(Default)]
struct EventColumns<'a> {
    id: Vec<Uuid>,
    trigger: Vec<&'a str>,
    event_id: Vec<String>,
    event_type: Vec<String>,
    matched: Vec<bool>,
    transport_key: Vec<&'a [u8]>,
    attributes: Vec<Vec<u8>>,
    data: Vec<&'a [u8]>,
}

impl<'a> EventColumns<'a> {
    fn push(&mut self, recorded: &'a Recorded) {
        self.id.push(recorded.id.0);
        self.trigger.push(&recorded.trigger);
        self.event_id.push(clean(&recorded.event.id));
        self.event_type.push(clean(&recorded.event.ty));
        self.matched.push(recorded.matched);
        self.transport_key.push(&recorded.transport_key);
        self.attributes.push(codec::to_attributes(&recorded.event));
        self.data.push(&recorded.event.data);
    }
}

async fn insert(tx: &mut Tx, node: &str, c: Columns, e: EventColumns<'_>) -> Result<HashSet<Uuid>, StoreError> {
    if c.delivery.is_empty() && e.id.is_empty() {
        return Ok(HashSet::new());
    }
    let inserted = sqlx::query_scalar!(
        r#"with inserted as (
               insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule,
                   function, version, outcome, settlement, error, started_at, micros, fuel, peak_memory, outputs,
                   cause, node)
               select *, $19 from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[],
                   $7::text[], $8::text[], $9::int[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
                   $14::bigint[], $15::bigint[], $16::bigint[], $17::int[], $18::uuid[])
               on conflict (delivery_id, attempt) do nothing
               returning delivery_id, trigger, rule, function, version, outcome, micros, fuel, outputs
           ), summed as (
               insert into oncue.usage as u (day, trigger, rule, function, version, runs, failed, micros, fuel, outputs)
               select (now() at time zone 'UTC')::date, trigger, rule, coalesce(function, ''), coalesce(version, 0),
                      count(*), count(*) filter (where outcome <> 'ok'), sum(micros), sum(fuel), sum(outputs)
               from inserted where outcome <> 'void' group by 1, 2, 3, 4, 5 order by 3, 4, 5, 2
               on conflict (day, rule, function, version, trigger) do update
               set runs = u.runs + excluded.runs, failed = u.failed + excluded.failed,
                   micros = u.micros + excluded.micros, fuel = u.fuel + excluded.fuel,
                   outputs = u.outputs + excluded.outputs
           ), recorded as (
               insert into oncue.recorded (id, trigger, event_id, event_type, matched, transport_key, attributes, data)
               select * from unnest($20::uuid[], $21::text[], $22::text[], $23::text[], $24::bool[], $25::bytea[],
                   $26::bytea[], $27::bytea[])
               on conflict (trigger, id) do nothing
           )
           select delivery_id as "delivery_id!" from inserted"#,
        &c.delivery,
        &c.attempt,
        &c.event_id,
        &c.event_type,
        &c.event_source,
        &c.trigger,
        &c.rule,
        &c.function as &[Option<String>],
        &c.version as &[Option<i32>],
        &c.outcome,
        &c.settlement,
        &c.error as &[Option<String>],
        &c.started_at,
        &c.micros,
        &c.fuel,
        &c.peak_memory,
        &c.outputs,
        &c.cause as &[Option<Uuid>],
        node,
        &e.id,
        &e.trigger as &[&str],
        &e.event_id,
        &e.event_type,
        &e.matched,
        &e.transport_key as &[&[u8]],
        &e.attributes,
        &e.data as &[&[u8]],
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(inserted.into_iter().collect())
}

/// Keeps the log lines of attempts that logged.
pub(super) async fn insert_logs(tx: &mut Tx, fresh: &[&Record]) -> Result<(), StoreError> {
    let mut delivery = Vec::new();
    let mut attempt = Vec::new();
    let mut function = Vec::new();
    let mut lines = Vec::new();
    let mut dropped = Vec::new();
    for record in fresh {
        let Some((name, _)) = &record.subject.function else { continue };
        for row in record.attempts.iter().filter(|a| !a.logs.is_empty() || a.logs_dropped > 0) {
            let list: Vec<(&str, &str)> = row.logs.iter().map(|l| (l.level, l.message.as_str())).collect();
            delivery.push(record.subject.id.0);
            attempt.push(small(row.attempt));
            function.push(name.clone());
            lines.push(serde_json::json!(list).to_string());
            dropped.push(int(row.logs_dropped));
        }
    }
    if delivery.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into oncue.logs (delivery_id, attempt, function, lines, dropped)
         select * from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::bigint[])
         on conflict (delivery_id, attempt) do nothing",
        &delivery,
        &attempt,
        &function,
        &lines,
        &dropped
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
