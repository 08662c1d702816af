//! The record: events as they came, of the triggers that are asked to keep them, and for how long.
//!
//! Invariant: no event whose source's time is younger than its trigger's `record_for` is deleted, nor one of another time
//! that was recorded since. Rows are written by `settle` alone, in the transaction that settles their event; here they
//! are read and, in time, deleted.

use std::time::Duration;

use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use super::{Store, StoreError};

/// How long events are kept where nothing is said.
pub const RECORD_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Bytes of the data of one page; the first event of a page may be larger.
pub(super) const PAGE_BYTES: i64 = 8 << 20;

/// Rows that are deleted at a time.
const DELETED_AT_ONCE: i64 = 10_000;

/// How often that is done for one trigger in one round of upkeep; the next round goes on.
const ROUNDS: usize = 100;

/// Which events of a trigger are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// None: nothing is written.
    #[default]
    None,
    /// Those that a rule matched.
    Matched,
    /// All of them.
    All,
}

impl What {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Matched, Self::All];

    /// As the manifest and the column `triggers.record` say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Matched => "matched",
            Self::All => "all",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.name() == name)
    }
}

/// What a trigger records, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Which events.
    pub what: What,
    /// At least this long.
    pub keep: Duration,
}

impl Default for Recording {
    fn default() -> Self {
        Self { what: What::None, keep: RECORD_FOR }
    }
}

/// An event of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRow {
    /// Its id in the record, which begins with its source's time.
    pub id: Uuid,
    /// Whether a rule matched it when it came.
    pub matched: bool,
    /// Structured mode without its data: `codec::from_parts` reads both.
    pub attributes: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
}

impl Store {
    /// A page of the recorded events of `trigger` that its source gave a time from `since` on, behind the one with the id
    /// `after`, in the order of those times: at most `limit`, and no more than fit `PAGE_BYTES` beside the first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recorded_events(
        &self,
        trigger: &str,
        since: OffsetDateTime,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<RecordedRow>, StoreError> {
        Ok(sqlx::query_as!(
            RecordedRow,
            "select id, matched, attributes, data from (
                 select id, matched, attributes, data, sum(octet_length(data)) over (order by id) as bytes from (
                     select id, matched, attributes, data from oncue.recorded
                     where trigger = $1 and id >= oncue.delivery_floor($2) and ($3::uuid is null or id > $3)
                     order by id limit $4) first
             ) page where bytes - octet_length(data) < $5 order by id",
            trigger,
            since,
            after,
            limit,
            PAGE_BYTES
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The id of the first event that is still recorded of `trigger`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_begins(&self, trigger: &str) -> Result<Option<Uuid>, StoreError> {
        Ok(sqlx::query_scalar!("select id from oncue.recorded where trigger = $1 order by id limit 1", trigger)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Those of `ids` that are in the record of `trigger`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recorded_of(&self, trigger: &str, ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        Ok(sqlx::query_scalar!("select id from oncue.recorded where trigger = $1 and id = any($2)", trigger, ids)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Deletes what is older than its trigger keeps it: whole partitions, and the rest in batches.
    pub(super) async fn forget_recorded(&self) -> Result<(Vec<String>, u64), StoreError> {
        let longest = i64::try_from(RECORD_FOR.as_millis()).unwrap_or(i64::MAX);
        let triggers =
            sqlx::query!("select name, record_for_ms from oncue.triggers order by name").fetch_all(&self.pool).await?;
        let longest = triggers.iter().map(|t| t.record_for_ms).max().unwrap_or(longest);
        let dropped = self.drop_partitions("recorded", longest).await?;
        let mut deleted = self.delete_strays(longest).await?;
        for trigger in triggers.iter().filter(|t| t.record_for_ms < longest) {
            deleted += self.delete_recorded(&trigger.name, trigger.record_for_ms).await?;
        }
        Ok((dropped, deleted))
    }

    async fn delete_recorded(&self, trigger: &str, keep_ms: i64) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let batch = sqlx::query!(
                "delete from oncue.recorded where trigger = $1 and id = any(array(
                     select id from oncue.recorded
                     where trigger = $1 and id < oncue.delivery_floor(now() - $2::bigint * interval '1 millisecond')
                       and recorded_at < now() - $2::bigint * interval '1 millisecond'
                     order by id limit $3))",
                trigger,
                keep_ms,
                DELETED_AT_ONCE
            )
            .execute(&self.pool)
            .await?
            .rows_affected();
            deleted += batch;
            if batch < DELETED_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        Ok(deleted)
    }

    /// Times that no partition covers: what is there goes by when it was recorded.
    async fn delete_strays(&self, keep_ms: i64) -> Result<u64, StoreError> {
        let deleted = sqlx::query!(
            "delete from oncue.recorded_default where ctid = any(array(select ctid from oncue.recorded_default
             where recorded_at < now() - $1::bigint * interval '1 millisecond' limit $2))",
            keep_ms,
            DELETED_AT_ONCE
        )
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected())
    }
}
