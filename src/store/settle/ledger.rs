//! The ledger's part of a settlement: attempts, the sums of usage, the record of their events, log lines.
//!
//! Invariant: usage is raised by exactly the rows that were inserted, in the same statement. So is the record: recording
//! costs no way to the database of its own.
//!
//! Arrays are unfolded in the select list, which goes through them side by side; `from unnest(…)` first writes each to a
//! store of its own, which costs 0.9 us a row. Looking for rows that are there costs 1.7 us a row and index.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use crate::event::codec;
use crate::store::StoreError;

use super::{AttemptRow, Record, Recorded, Tx, clean_error, cleaned, int, small};

/// Inserts the attempts of `fresh`, none of which is there, and what is to be recorded of the events of `records` and of
/// `others`.
///
/// # Errors
/// Those of the database; a violated primary key says that a row was there all the same.
pub(super) async fn insert_new(
    tx: &mut Tx,
    node: &str,
    fresh: &[&Record],
    records: &[&Record],
    others: &[Recorded],
) -> Result<(), StoreError> {
    let ((c, u), e) = (attempts_of(fresh), EventColumns::of(records, others));
    if c.delivery.is_empty() && e.id.is_empty() {
        return Ok(());
    }
    let insert = sqlx::query!(
        "with summed as (
             insert into oncue.usage as u (day, trigger, rule, function, version, runs, failed, micros, fuel, outputs)
             select (now() at time zone 'UTC')::date, t.* from unnest($28::text[], $29::text[], $30::text[], $31::int[],
                 $32::bigint[], $33::bigint[], $34::bigint[], $35::bigint[], $36::bigint[]) as t order by 3, 4, 5, 2
             on conflict (day, rule, function, version, trigger) do update
             set runs = u.runs + excluded.runs, failed = u.failed + excluded.failed, micros = u.micros + excluded.micros,
                 fuel = u.fuel + excluded.fuel, outputs = u.outputs + excluded.outputs
         ), recorded as (
             insert into oncue.recorded (id, trigger, event_id, event_type, matched, transport_key, attributes, data)
             select * from unnest($20::uuid[], $21::text[], $22::text[], $23::text[], $24::bool[], $25::bytea[],
                 $26::bytea[], $27::bytea[])
             on conflict (trigger, id) do nothing
         )
         insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function,
             version, outcome, settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node)
         select unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
             unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::int[]), unnest($10::text[]),
             unnest($11::text[]), unnest($12::text[]), unnest($13::timestamptz[]), unnest($14::bigint[]),
             unnest($15::bigint[]), unnest($16::bigint[]), unnest($17::int[]), unnest($18::uuid[]), $19",
        &c.delivery,
        &c.attempt,
        &c.event_id as &[Cow<'_, str>],
        &c.event_type as &[Cow<'_, str>],
        &c.event_source as &[Cow<'_, str>],
        &c.trigger as &[&str],
        &c.rule as &[&str],
        &c.function as &[Option<&str>],
        &c.version as &[Option<i32>],
        &c.outcome as &[&str],
        &c.settlement as &[&str],
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
        &e.event_id as &[Cow<'_, str>],
        &e.event_type as &[Cow<'_, str>],
        &e.matched,
        &e.transport_key as &[&[u8]],
        &e.attributes,
        &e.data as &[&[u8]],
        &u.trigger as &[&str],
        &u.rule as &[&str],
        &u.function as &[&str],
        &u.version,
        &u.runs,
        &u.failed,
        &u.micros,
        &u.fuel,
        &u.outputs,
    );
    Ok(insert.execute(&mut **tx).await.map(drop)?)
}

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
    insert(tx, node, columns, EventColumns::of(records, others)).await
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
struct Columns<'a> {
    delivery: Vec<Uuid>,
    attempt: Vec<i32>,
    event_id: Vec<Cow<'a, str>>,
    event_type: Vec<Cow<'a, str>>,
    event_source: Vec<Cow<'a, str>>,
    trigger: Vec<&'a str>,
    rule: Vec<&'a str>,
    function: Vec<Option<&'a str>>,
    version: Vec<Option<i32>>,
    outcome: Vec<&'a str>,
    settlement: Vec<&'a str>,
    error: Vec<Option<String>>,
    started_at: Vec<OffsetDateTime>,
    micros: Vec<i64>,
    fuel: Vec<i64>,
    peak_memory: Vec<i64>,
    outputs: Vec<i32>,
    cause: Vec<Option<Uuid>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, record: &'a Record, row: &'a AttemptRow) {
        let subject = &record.subject;
        self.delivery.push(subject.id.0);
        self.attempt.push(small(row.attempt));
        self.event_id.push(cleaned(&subject.event_id));
        self.event_type.push(cleaned(&subject.event_type));
        self.event_source.push(cleaned(&subject.event_source));
        self.trigger.push(&subject.trigger);
        self.rule.push(&subject.rule);
        self.function.push(subject.function.as_ref().map(|(name, _)| name.as_str()));
        self.version.push(subject.function.as_ref().map(|(_, version)| small(*version)));
        self.outcome.push(row.outcome);
        self.settlement.push(row.settlement);
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
    event_id: Vec<Cow<'a, str>>,
    event_type: Vec<Cow<'a, str>>,
    matched: Vec<bool>,
    transport_key: Vec<&'a [u8]>,
    attributes: Vec<Vec<u8>>,
    data: Vec<&'a [u8]>,
}

impl<'a> EventColumns<'a> {
    /// What is to be recorded of the events of `records` and of `others`.
    fn of(records: &[&'a Record], others: &'a [Recorded]) -> Self {
        let mut events = Self::default();
        let recorded = records.iter().filter_map(|record| record.recorded.as_deref());
        recorded.chain(others).for_each(|recorded| events.push(recorded));
        events
    }

    fn push(&mut self, recorded: &'a Recorded) {
        self.id.push(recorded.id.0);
        self.trigger.push(&recorded.trigger);
        self.event_id.push(cleaned(&recorded.event.id));
        self.event_type.push(cleaned(&recorded.event.ty));
        self.matched.push(recorded.matched);
        self.transport_key.push(&recorded.transport_key);
        self.attributes.push(codec::to_attributes(&recorded.event));
        self.data.push(&recorded.event.data);
    }
}

/// The attempts of `records`, and what they add to usage.
fn attempts_of<'a>(records: &[&'a Record]) -> (Columns<'a>, UsageColumns<'a>) {
    let (mut columns, mut sums) = (Columns::default(), Sums::default());
    for record in records {
        for row in &record.attempts {
            columns.push(record, row);
            sums.add(record, row);
        }
    }
    (columns, sums.into())
}

/// What is added to usage, by trigger, rule, function and version.
#[derive(Default)]
struct Sums<'a>(BTreeMap<(&'a str, &'a str, &'a str, i32), [i64; 5]>);

impl<'a> Sums<'a> {
    fn add(&mut self, record: &'a Record, row: &AttemptRow) {
        if row.outcome == "void" {
            return;
        }
        let subject = &record.subject;
        let (function, version) = subject.function.as_ref().map_or(("", 0), |(name, version)| (name, small(*version)));
        let sums = self.0.entry((&subject.trigger, &subject.rule, function, version)).or_default();
        let of_row = [1, i64::from(row.outcome != "ok"), int(row.micros), int(row.fuel), i64::from(row.outputs)];
        sums.iter_mut().zip(of_row).for_each(|(sum, of_row)| *sum = sum.saturating_add(of_row));
    }
}

#[derive(Default)]
struct UsageColumns<'a> {
    trigger: Vec<&'a str>,
    rule: Vec<&'a str>,
    function: Vec<&'a str>,
    version: Vec<i32>,
    runs: Vec<i64>,
    failed: Vec<i64>,
    micros: Vec<i64>,
    fuel: Vec<i64>,
    outputs: Vec<i64>,
}

impl<'a> From<Sums<'a>> for UsageColumns<'a> {
    fn from(sums: Sums<'a>) -> Self {
        let mut columns = Self::default();
        for ((trigger, rule, function, version), [runs, failed, micros, fuel, outputs]) in sums.0 {
            columns.trigger.push(trigger);
            columns.rule.push(rule);
            columns.function.push(function);
            columns.version.push(version);
            columns.runs.push(runs);
            columns.failed.push(failed);
            columns.micros.push(micros);
            columns.fuel.push(fuel);
            columns.outputs.push(outputs);
        }
        columns
    }
}

async fn insert(tx: &mut Tx, node: &str, c: Columns<'_>, e: EventColumns<'_>) -> Result<HashSet<Uuid>, StoreError> {
    if c.delivery.is_empty() && e.id.is_empty() {
        return Ok(HashSet::new());
    }
    let inserted = sqlx::query_scalar!(
        r#"with inserted as (
               insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule,
                   function, version, outcome, settlement, error, started_at, micros, fuel, peak_memory, outputs,
                   cause, node)
               select unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
                   unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::int[]), unnest($10::text[]),
                   unnest($11::text[]), unnest($12::text[]), unnest($13::timestamptz[]), unnest($14::bigint[]),
                   unnest($15::bigint[]), unnest($16::bigint[]), unnest($17::int[]), unnest($18::uuid[]), $19
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
        &c.event_id as &[Cow<'_, str>],
        &c.event_type as &[Cow<'_, str>],
        &c.event_source as &[Cow<'_, str>],
        &c.trigger as &[&str],
        &c.rule as &[&str],
        &c.function as &[Option<&str>],
        &c.version as &[Option<i32>],
        &c.outcome as &[&str],
        &c.settlement as &[&str],
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
        &e.event_id as &[Cow<'_, str>],
        &e.event_type as &[Cow<'_, str>],
        &e.matched,
        &e.transport_key as &[&[u8]],
        &e.attributes,
        &e.data as &[&[u8]],
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(inserted.into_iter().collect())
}
