//! The SQL of deliveries: each in a savepoint of the transaction that settles it.
//!
//! Invariant: after `run`, the statements of a delivery have all run or none has, nothing that they set is left on the
//! connection, and a delivery that was refused has left no trace. No lock of ours but the claim of the delivery itself
//! is taken before or while a guest's statements run: leases and the sums of usage are locked afterwards, for a moment.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use sqlx::types::Uuid;

use crate::delivery::DeliveryId;
use crate::function::sql::{Statement, TIME_MAX};
use crate::store::StoreError;
use crate::store::guest::{Failed, Guest};
use crate::store::outbox::OutboxRow;

use super::{Group, Record, Refusal, Tx, outcomes, small};

/// How long the statements of one group may take before the rest of it is left for the next transaction.
const GROUP_TIME: Duration = Duration::from_secs(2);

/// What a delivery does in the transaction that settles it.
#[derive(Clone, Debug)]
pub struct Effects {
    /// The role that its statements run under.
    pub role: String,
    /// Its statements.
    pub statements: Vec<Statement>,
    /// What is published when it is committed.
    pub outbox: Vec<OutboxRow>,
}

/// What became of the deliveries of a group that have effects.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Their statements ran.
    pub(super) done: HashSet<DeliveryId>,
    /// Those of them that were claimed.
    pub(super) claimed: HashSet<Uuid>,
    /// They had been settled before.
    pub(super) stale: HashSet<DeliveryId>,
    /// The database refused one of their statements.
    pub(super) refused: HashMap<DeliveryId, Refusal>,
    /// They come into the next transaction.
    pub(super) left: HashSet<DeliveryId>,
}

impl Ran {
    /// Whether `record` is settled by this transaction as far as its effects are concerned.
    pub(super) fn settles(&self, record: &Record) -> bool {
        record.effects.is_none() || self.done.contains(&record.subject.id)
    }
}

/// Runs the statements of `group` but those of `skip`.
pub(super) async fn run(tx: &mut Tx, group: &Group, skip: &HashSet<DeliveryId>) -> Result<Ran, StoreError> {
    let mut ran = Ran::default();
    let has_effects = |record: &&Record| record.effects.is_some() && !skip.contains(&record.subject.id);
    let records: Vec<&Record> = group.records.iter().filter(has_effects).collect();
    if records.is_empty() {
        return Ok(ran);
    }
    let known = heads(tx, &records).await?;
    let began = Instant::now();
    for record in records {
        let id = record.subject.id;
        if record.claim.is_none() && known.contains(&id.0) {
            ran.stale.insert(id);
        } else if ran.done.contains(&id) || (began.elapsed() > GROUP_TIME && !ran.done.is_empty()) {
            ran.left.insert(id);
        } else {
            apply(tx, record, &mut ran).await?;
        }
    }
    Ok(ran)
}

/// The deliveries of `records` whose first attempt is in the ledger.
async fn heads(tx: &mut Tx, records: &[&Record]) -> Result<HashSet<Uuid>, StoreError> {
    let first = records.iter().filter_map(|r| Some((r.subject.id.0, small(r.attempts.first()?.attempt))));
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = first.unzip();
    let known = sqlx::query_scalar!(
        "select l.delivery_id from oncue.ledger l
         join unnest($1::uuid[], $2::int[]) as c(id, attempt) on l.delivery_id = c.id and l.attempt = c.attempt",
        &ids,
        &attempts
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(known.into_iter().collect())
}

/// Settles the effects of one delivery in a savepoint.
async fn apply(tx: &mut Tx, record: &Record, ran: &mut Ran) -> Result<(), StoreError> {
    let Some(effects) = &record.effects else { return Ok(()) };
    let id = record.subject.id;
    // Constraints that can be put off are, and are checked at the end: before the savepoint is released, so that what
    // breaks one is this delivery's fault and not the group's.
    sqlx::raw_sql("savepoint effects; set constraints all deferred").execute(&mut **tx).await?;
    if record.claim.is_some() {
        let held = outcomes::take_claims(tx, &[record]).await?;
        if held.is_empty() {
            sqlx::raw_sql("release savepoint effects").execute(&mut **tx).await?;
            ran.stale.insert(id);
            return Ok(());
        }
    }
    let mut prepared = Vec::with_capacity(effects.statements.len());
    let Err(failed) = execute(tx, effects, &mut prepared).await else {
        ran.claimed.extend(record.claim.map(|_| id.0));
        ran.done.insert(id);
        return Ok(());
    };
    if !failed.is_refusal() {
        return Err(StoreError::Interrupted(failed.error));
    }
    let undo = "rollback to savepoint effects; release savepoint effects; select pg_catalog.pg_advisory_unlock_all()";
    let undone = sqlx::raw_sql(AssertSqlSafe(and_deallocate(undo, &prepared))).execute(&mut **tx).await;
    undone.map_err(|error| match StoreError::from(error) {
        StoreError::Unreachable(error) => StoreError::Interrupted(error),
        refused => refused,
    })?;
    ran.refused.insert(id, Refusal { permanent: failed.is_permanent(), words: failed.words });
    Ok(())
}

/// Runs the statements and takes back everything that they may have set. When that fails, what is in `prepared` is left:
/// no rollback takes it back.
async fn execute(tx: &mut Tx, effects: &Effects, prepared: &mut Vec<String>) -> Result<(), Failed> {
    let began = Instant::now();
    let left = || TIME_MAX.saturating_sub(began.elapsed());
    let role = &effects.role;
    let (guest, there) = Guest::enter(tx, role, TIME_MAX).await?;
    if !there {
        guest.make(tx, role).await?;
    }
    let count = effects.statements.len();
    for (place, statement) in (1..).zip(&effects.statements) {
        let numbered =
            |failed: Failed| Failed { words: format!("statement {place} of {count}: {}", failed.words), ..failed };
        if place > 1 {
            Guest::limit(tx, left()).await.map_err(numbered)?;
        }
        let name = Guest::prepare(tx, statement).await.map_err(numbered)?;
        prepared.push(name.clone());
        guest.write(tx, &name, statement, place == count).await.map_err(numbered)?;
    }
    // The settings first: nothing of ours runs under a guest's.
    let leave = "reset all; reset role; select pg_catalog.pg_advisory_unlock_all(); release savepoint effects";
    sqlx::raw_sql(AssertSqlSafe(and_deallocate(leave, prepared))).execute(&mut **tx).await?;
    Ok(())
}

fn and_deallocate(sql: &str, prepared: &[String]) -> String {
    prepared.iter().fold(sql.to_owned(), |sql, name| sql + "; deallocate " + name)
}
