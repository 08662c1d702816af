//! Settles a group of deliveries in one transaction: ledger, usage, parked rows, dead letters, logs, negative evidence,
//! and the events that are to be recorded.
//!
//! Invariant: after `settle` returned, every record of the group is in the database exactly once, however often the
//! group was sent. A record whose first attempt already has a ledger row, or whose claim was taken over, is dropped
//! whole and counted as a duplicate: its late result changes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use crate::delivery::{DeliveryId, LogLine};
use crate::event::Event;

use super::{Store, StoreError, clean, clean_error, cleaned};

pub use self::effects::Effects;
pub use self::outcomes::OTHER_TYPES;

mod effects;
pub(super) mod fences;
mod ledger;
mod logs;
mod outcomes;

/// One attempt, as the ledger keeps it.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// Counted from 1.
    pub attempt: u32,
    /// The outcome's class.
    pub outcome: &'static str,
    /// `done`, `again`, `parked`, `dead` or `void`.
    pub settlement: &'static str,
    /// The outcome's words.
    pub error: Option<String>,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// How long it took.
    pub micros: u64,
    /// What it used.
    pub fuel: u64,
    /// Its highest memory in bytes.
    pub peak_memory: u64,
    /// How many events it emitted.
    pub outputs: u32,
    /// What it logged.
    pub logs: Vec<LogLine>,
    /// Bytes of log that were dropped.
    pub logs_dropped: u64,
}

impl AttemptRow {
    /// Says that the delivery was parked after this attempt.
    pub fn park(&mut self) {
        self.settlement = "parked";
    }
}

/// What every row of a delivery says.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The delivery.
    pub id: DeliveryId,
    /// The trigger.
    pub trigger: String,
    /// The rule.
    pub rule: String,
    /// Function and version; none for a rule that publishes.
    pub function: Option<(String, u32)>,
    /// The event's id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its source.
    pub event_source: String,
    /// The delivery that emitted the event.
    pub cause: Option<Uuid>,
    /// The key of the message at its source.
    pub transport_key: Vec<u8>,
    /// How often it was redriven.
    pub generation: u32,
    /// Set where later events of the key must wait.
    pub ordering_key: Option<String>,
}

/// Where a delivery goes.
#[derive(Clone, Debug)]
pub enum Next {
    /// It is done.
    Done,
    /// Its rule is gone.
    Void,
    /// It waits.
    Park {
        /// Milliseconds from the database's now.
        after_ms: u64,
        /// Why.
        class: &'static str,
        /// In words.
        error: Option<String>,
        /// The event in structured mode.
        event: Vec<u8>,
        /// Whether it is claimed alone because it may kill a node.
        suspect: bool,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        class: &'static str,
        /// In words.
        error: String,
        /// The event in structured mode.
        event: Vec<u8>,
        /// The component's SHA-256.
        digest: Option<Vec<u8>>,
    },
}

/// The lease that an event was read under: what is settled of it is settled only while that epoch lasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The lease.
    pub lease: String,
    /// Its epoch.
    pub epoch: i64,
}

/// One delivery to settle.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is.
    pub subject: Subject,
    /// The lease that its event was read under, if it needed one.
    pub fence: Option<Arc<Fence>>,
    /// The attempts since it was read or claimed, in order.
    pub attempts: Vec<AttemptRow>,
    /// The token of the claim, when it came from `parked`.
    pub claim: Option<Uuid>,
    /// Attempts in all.
    pub attempts_total: u32,
    /// Where it goes.
    pub next: Next,
    /// What it does in the same transaction; only with `Next::Done`.
    pub effects: Option<Box<Effects>>,
    /// Its event, where that is to be recorded and no other delivery of it brings it.
    pub recorded: Option<Arc<Recorded>>,
}

impl Record {
    /// The function and the role that its statements run under, if it has any.
    #[must_use]
    pub fn runs_under(&self) -> Option<(String, String)> {
        let role = self.effects.as_ref()?.role.clone();
        let function = self.subject.function.as_ref().map_or_else(String::new, |(name, _)| name.clone());
        Some((function, role))
    }
}

/// An event for the record, as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Made from the trigger and the transport key.
    pub id: DeliveryId,
    /// The trigger.
    pub trigger: Arc<str>,
    /// The key of the message at its source.
    pub transport_key: Vec<u8>,
    /// Whether a rule matched it.
    pub matched: bool,
    /// The event, before any rule's template.
    pub event: Arc<Event>,
}

/// Why the database did not take a delivery's statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether trying again is in vain.
    pub permanent: bool,
    /// The database's words.
    pub words: String,
}

/// A message that could not become an event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Made from the trigger and the transport key.
    pub id: DeliveryId,
    /// The trigger.
    pub trigger: String,
    /// Why.
    pub class: &'static str,
    /// In words.
    pub error: String,
    /// The payload as it came.
    pub raw: Vec<u8>,
    /// The headers as a JSON list of [name, value].
    pub headers: Vec<u8>,
    /// The key of the message at its source.
    pub transport_key: Vec<u8>,
    /// The lease that it was read under, if it needed one.
    pub fence: Option<Arc<Fence>>,
}

/// Events that no rule matched.
#[derive(Clone, Debug)]
pub struct Unmatched {
    /// The trigger.
    pub trigger: String,
    /// Their type.
    pub event_type: String,
    /// How many.
    pub count: u64,
    /// One of them in structured mode, if it is small enough to be kept.
    pub sample: Option<Vec<u8>>,
}

/// What one transaction settles.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Deliveries.
    pub records: Vec<Record>,
    /// Messages that were no events.
    pub rejected: Vec<Rejected>,
    /// Counts of unmatched events.
    pub unmatched: Vec<Unmatched>,
    /// Events for the record that no rule matched.
    pub recorded: Vec<Recorded>,
}

impl Group {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.rejected.is_empty() && self.unmatched.is_empty() && self.recorded.is_empty()
    }
}

/// What a transaction did not settle, and why.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Deliveries whose statements were refused: nothing of them was written.
    pub refused: HashMap<DeliveryId, Refusal>,
    /// Deliveries for which there was no time: they are to be settled by another transaction.
    pub left: HashSet<DeliveryId>,
    /// Deliveries that had been settled before.
    pub stale: HashSet<DeliveryId>,
    /// Deliveries and messages whose lease has passed on: whoever holds it now reads them again.
    pub fenced: HashSet<DeliveryId>,
}

impl Store {
    /// Settles `group`, none of which runs statements of functions, for `node`. Gives what was dropped.
    ///
    /// # Errors
    /// Those of the database; nothing of the group is settled then, or, if only the reply was lost, all of it.
    pub async fn settle(&self, node: &str, group: &Group) -> Result<Verdict, StoreError> {
        // Nearly always none of it is there yet, and to look for it costs as much as to insert it.
        match self.try_to_settle(node, group, true).await {
            Err(error) if error.is_duplicate() => self.try_to_settle(node, group, false).await,
            settled => settled,
        }
    }

    /// # Errors
    /// Those of the database; of a group that `seems_new` a violated primary key, if a part of it had been settled before.
    async fn try_to_settle(&self, node: &str, group: &Group, seems_new: bool) -> Result<Verdict, StoreError> {
        let mut tx = self.pool.begin().await?;
        let passed = fences::passed(&mut tx, group).await?;
        let fenced = passed.deliveries(group);
        let holds = |fence: &Option<Arc<Fence>>| !fence.as_ref().is_some_and(|f| passed.contains(f));
        // Statements run where guests have their connections (`store/guest/settle`).
        let plain = group.records.iter().filter(|r| r.effects.is_none());
        let records: Vec<&Record> = plain.filter(|r| holds(&r.fence)).collect();
        let claimed = outcomes::take_claims(&mut tx, &records).await?;
        let first = match seems_new {
            true => None,
            false => Some(ledger::insert_heads(&mut tx, node, &records, &group.recorded).await?),
        };
        let (fresh, stale) = divide(&records, &claimed, first.as_ref());
        match seems_new {
            true => ledger::insert_new(&mut tx, node, &fresh, &records, &group.recorded).await?,
            false => ledger::insert_rest(&mut tx, node, &fresh).await?,
        }
        logs::insert(&mut tx, &fresh, seems_new).await?;
        outcomes::park(&mut tx, &fresh).await?;
        outcomes::bury(&mut tx, &fresh).await?;
        outcomes::reject(&mut tx, group.rejected.iter().filter(|r| holds(&r.fence))).await?;
        outcomes::count_unmatched(&mut tx, &group.unmatched).await?;
        tx.commit().await?;
        Ok(Verdict { stale, fenced, ..Verdict::default() })
    }

    /// Which of `ids` are settled already: done, parked or dead.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn settled(&self, ids: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let known = sqlx::query_scalar!(
            r#"select delivery_id as "id!" from oncue.ledger where delivery_id = any($1)
               union select delivery_id from oncue.parked where delivery_id = any($1)
               union select id from oncue.dead_letters where id = any($1)"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(known.into_iter().map(DeliveryId).collect())
    }
}

/// The records that this transaction settles, and the deliveries that had been settled before: of those that were not
/// claimed, all that are not among the `first`, if it was looked.
fn divide<'a>(
    records: &[&'a Record],
    claimed: &HashSet<Uuid>,
    first: Option<&HashSet<Uuid>>,
) -> (Vec<&'a Record>, HashSet<DeliveryId>) {
    let is_fresh = |record: &Record| match (record.claim, record.attempts.is_empty()) {
        (Some(_), _) => claimed.contains(&record.subject.id.0),
        (None, true) => true,
        (None, false) => first.is_none_or(|first| first.contains(&record.subject.id.0)),
    };
    let (fresh, stale): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|r| is_fresh(r));
    (fresh, stale.into_iter().map(|r| r.subject.id).collect())
}

pub(in crate::store) type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn small(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
