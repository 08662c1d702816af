//! Reads what happened to events: the ledger, its logs and the counts of events that no rule matched.
//!
//! Invariant: nothing here writes. Lists go by the primary key, so that a page costs what it shows and not what the
//! ledger holds; what is parked or dead is read beside the ledger, from its own tables.

use serde::Serialize;
use sqlx::types::time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{Store, StoreError};

/// Which attempts to list; an empty filter takes all.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Events whose source gave them this time or a later one.
    pub since: Option<OffsetDateTime>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The trigger.
    pub trigger: Option<String>,
    /// The rule.
    pub rule: Option<String>,
    /// The function.
    pub function: Option<String>,
    /// The outcome: `ok`, `retry`, `trap`, `limit:memory`, ….
    pub outcome: Option<String>,
}

/// One attempt as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerRow {
    /// The delivery.
    pub delivery_id: Uuid,
    /// Counted from 1.
    pub attempt: i32,
    /// The event's `id`.
    pub event_id: String,
    /// The event's `type`.
    pub event_type: String,
    /// The event's `source`.
    pub event_source: String,
    /// Where it came in.
    pub trigger: String,
    /// The rule that matched.
    pub rule: String,
    /// What ran; none for a rule that publishes.
    pub function: Option<String>,
    /// Its version.
    pub version: Option<i32>,
    /// How the run ended.
    pub outcome: String,
    /// What followed: `done`, `again`, `parked`, `dead`, `void`.
    pub settlement: String,
    /// The words that go with the outcome.
    pub error: Option<String>,
    /// By the node's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Wall time.
    pub micros: i64,
    /// Fuel.
    pub fuel: i64,
    /// Bytes of linear memory.
    pub peak_memory: i64,
    /// Events that it emitted.
    pub outputs: i32,
    /// The delivery that emitted the event.
    pub cause: Option<Uuid>,
    /// Where it ran.
    pub node: String,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub settled_at: OffsetDateTime,
}

/// A place in the ledger in the order of settling.
#[derive(Clone, Copy, Debug)]
pub struct LedgerCursor {
    settled_at: OffsetDateTime,
    delivery_id: Uuid,
    attempt: i32,
}

impl LedgerCursor {
    /// Before everything that was settled at `moment` or later.
    #[must_use]
    pub fn at(moment: OffsetDateTime) -> Self {
        Self { settled_at: moment, delivery_id: Uuid::nil(), attempt: 0 }
    }

    /// Right behind `row`.
    #[must_use]
    pub fn behind(row: &LedgerRow) -> Self {
        Self { settled_at: row.settled_at, delivery_id: row.delivery_id, attempt: row.attempt }
    }
}

/// A delivery that waits for another try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParkedState {
    /// The delivery.
    pub delivery_id: Uuid,
    /// The rule.
    pub rule: String,
    /// Attempts that ran.
    pub attempts: i32,
    /// Why it waits.
    pub class: String,
    /// The last error.
    pub error: Option<String>,
    /// When it is due.
    #[serde(with = "time::serde::rfc3339")]
    pub next_at: OffsetDateTime,
    /// The node that has claimed it.
    pub node: Option<String>,
}

/// A dead letter as seen from an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadState {
    /// The delivery.
    pub id: Uuid,
    /// The rule; none for a rejected message.
    pub rule: Option<String>,
    /// Why it died.
    pub class: String,
    /// The last error.
    pub error: String,
    /// `dead`, `redriven`, `dropped`.
    pub state: String,
    /// The delivery that it became.
    pub redriven_as: Option<Uuid>,
}

/// What one attempt logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogRow {
    /// The delivery.
    pub delivery_id: Uuid,
    /// The attempt.
    pub attempt: i32,
    /// What logged.
    pub function: String,
    /// JSON list of `[level, message]`.
    pub lines: String,
    /// Bytes that were dropped above the limit.
    pub dropped: i64,
}

/// Events of one type that no rule matched on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnmatchedRow {
    /// The day, UTC.
    #[serde(serialize_with = "day_text")]
    pub day: Date,
    /// Where they came in.
    pub trigger: String,
    /// Their type.
    pub event_type: String,
    /// How many.
    pub count: i64,
    /// One of them, in structured mode.
    #[serde(skip)]
    pub sample: Option<Vec<u8>>,
    /// When the last one was counted.
    #[serde(with = "time::serde::rfc3339")]
    pub last_at: OffsetDateTime,
}

/// A day as `2026-01-31`.
pub(super) fn day_text<S: serde::Serializer>(day: &Date, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(day)
}

impl Store {
    /// The newest `limit` attempts by the time of their event, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger(&self, filter: &EventFilter, limit: i64) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(sqlx::query_as!(
            LedgerRow,
            "select delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version, outcome,
                    settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node, settled_at
             from oncue.ledger
             where delivery_id >= oncue.delivery_floor(coalesce($1, 'epoch'::timestamptz))
               and ($2::text is null or event_type = $2) and ($3::text is null or trigger = $3)
               and ($4::text is null or rule = $4) and ($5::text is null or function = $5)
               and ($6::text is null or outcome = $6)
             order by delivery_id desc, attempt desc limit $7",
            filter.since,
            filter.event_type.as_deref(),
            filter.trigger.as_deref(),
            filter.rule.as_deref(),
            filter.function.as_deref(),
            filter.outcome.as_deref(),
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// At most `limit` attempts behind `cursor`, in the order of their settling. A transaction that began earlier may
    /// commit later: whoever follows asks again for the last seconds and leaves out what it has seen.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_after(
        &self,
        cursor: LedgerCursor,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(sqlx::query_as!(
            LedgerRow,
            "select delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version, outcome,
                    settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node, settled_at
             from oncue.ledger
             where settled_at >= $1 and (settled_at, delivery_id, attempt) > ($1, $2, $3)
               and ($4::text is null or event_type = $4) and ($5::text is null or trigger = $5)
               and ($6::text is null or rule = $6) and ($7::text is null or function = $7)
               and ($8::text is null or outcome = $8)
             order by settled_at, delivery_id, attempt limit $9",
            cursor.settled_at,
            cursor.delivery_id,
            cursor.attempt,
            filter.event_type.as_deref(),
            filter.trigger.as_deref(),
            filter.rule.as_deref(),
            filter.function.as_deref(),
            filter.outcome.as_deref(),
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Every attempt for the event `id`, oldest delivery first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_of_event(&self, id: &str, limit: i64) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(sqlx::query_as!(
            LedgerRow,
            "select delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version, outcome,
                    settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node, settled_at
             from oncue.ledger where left(event_id, 128) = left($1, 128) and event_id = $1 order by delivery_id, attempt limit $2",
            id,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Every attempt of `deliveries`, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_of_deliveries(&self, deliveries: &[Uuid], limit: i64) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(sqlx::query_as!(
            LedgerRow,
            "select delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version, outcome,
                    settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node, settled_at
             from oncue.ledger where delivery_id = any($1) order by delivery_id, attempt limit $2",
            deliveries,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Every attempt for events that `deliveries` emitted, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_caused_by(&self, deliveries: &[Uuid], limit: i64) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(sqlx::query_as!(
            LedgerRow,
            "select delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version, outcome,
                    settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node, settled_at
             from oncue.ledger where cause = any($1) order by delivery_id, attempt limit $2",
            deliveries,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The types of events that the last runs of `function` emitted and that came in again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn emitted_types(&self, function: &str) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar!(
            "select distinct event_type from oncue.ledger
             where cause = any(array(select delivery_id from oncue.ledger where function = $1 and outputs > 0
                                     order by delivery_id desc limit 1000)) limit 100",
            function
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Those of `deliveries` that wait.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn parked_states(&self, deliveries: &[Uuid]) -> Result<Vec<ParkedState>, StoreError> {
        Ok(sqlx::query_as!(
            ParkedState,
            "select delivery_id, rule, attempts, class, error, next_at, node from oncue.parked
             where delivery_id = any($1) order by delivery_id",
            deliveries
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The dead letters of `deliveries`, and those of the event `event_id`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn dead_states(&self, deliveries: &[Uuid], event_id: &str) -> Result<Vec<DeadState>, StoreError> {
        Ok(sqlx::query_as!(
            DeadState,
            "select id, rule, class, error, state, redriven_as from oncue.dead_letters
             where id = any($1) or event_id = $2 order by id",
            deliveries,
            event_id
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// What the attempts of `deliveries` logged.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn logs_of(&self, deliveries: &[Uuid]) -> Result<Vec<LogRow>, StoreError> {
        Ok(sqlx::query_as!(
            LogRow,
            "select delivery_id, attempt, function, lines, dropped from oncue.logs
             where delivery_id = any($1) order by delivery_id, attempt",
            deliveries
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Counts of unmatched events that changed after `after`, in the order of their change.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unmatched_after(
        &self,
        after: OffsetDateTime,
        event_type: Option<&str>,
        limit: i64,
    ) -> Result<Vec<UnmatchedRow>, StoreError> {
        Ok(sqlx::query_as!(
            UnmatchedRow,
            "select day, trigger, event_type, count, sample, last_at from oncue.unmatched
             where last_at > $1 and ($2::text is null or event_type = $2) order by last_at limit $3",
            after,
            event_type,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The counts of unmatched events from `since` on, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unmatched(&self, filter: &EventFilter, limit: i64) -> Result<Vec<UnmatchedRow>, StoreError> {
        Ok(sqlx::query_as!(
            UnmatchedRow,
            "select day, trigger, event_type, count, sample, last_at from oncue.unmatched
             where last_at >= coalesce($1, 'epoch'::timestamptz) and ($2::text is null or event_type = $2)
               and ($3::text is null or trigger = $3)
             order by last_at desc, trigger, event_type limit $4",
            filter.since,
            filter.event_type.as_deref(),
            filter.trigger.as_deref(),
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The database's clock.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn database_now(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(&self.pool).await?)
    }
}
