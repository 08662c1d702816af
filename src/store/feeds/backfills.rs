//! Backfills: tables that a feed reads row by row, and how far each has come.
//!
//! Invariant: a cursor is written only after the events of every row up to it were settled; a backfill that has ended
//! is never opened again.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::settle::Fence;
use crate::store::{Store, StoreError, clean_error};

use super::Feeds;

type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

/// A table to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillRequest {
    /// The table's schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// A condition in SQL that the rows must meet.
    pub filter: Option<String>,
    /// Most rows in a second; as many as go without it.
    pub rows_per_second: Option<u32>,
}

/// Where a backfill is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillState {
    /// Asked for.
    Waiting,
    /// Rows are read.
    Running,
    /// Every row was read and its event settled.
    Done,
    /// It could not go on.
    Failed,
    /// An operator ended it.
    Cancelled,
}

impl BackfillState {
    /// The word in the tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    fn read(text: &str) -> Self {
        [Self::Waiting, Self::Running, Self::Done, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == text)
            .unwrap_or(Self::Failed)
    }
}

/// A table that is read, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Its id: part of the ids of its deliveries.
    pub id: Uuid,
    /// The trigger.
    pub trigger: String,
    /// What was asked for.
    pub request: BackfillRequest,
    /// Where it is in its life.
    pub state: BackfillState,
    /// The key of the last row whose event is settled, each column as text.
    pub cursor: Option<Vec<String>>,
    /// How far it has come.
    pub progress: Progress,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// When the first chunk was read.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
}

/// How far a backfill has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks whose events are settled.
    pub chunks: u64,
    /// Rows that became events.
    pub rows_read: u64,
    /// Rows that had changed meanwhile and came as changes.
    pub rows_superseded: u64,
    /// Rows of the table as its statistics say.
    pub rows_estimated: Option<u64>,
}

pub(super) async fn insert(tx: &mut Tx, trigger: &str, request: &BackfillRequest) -> Result<Uuid, StoreError> {
    let id = sqlx::query_scalar!(
        "insert into oncue.backfills (trigger, schema_name, table_name, filter, rows_per_second)
         values ($1, $2, $3, $4, $5) returning id",
        trigger,
        request.schema,
        request.table,
        request.filter,
        request.rows_per_second.map(|n| i32::try_from(n).unwrap_or(i32::MAX))
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(id)
}

struct Row {
    id: Uuid,
    trigger: String,
    schema_name: String,
    table_name: String,
    filter: Option<String>,
    state: String,
    cursor: Option<Vec<String>>,
    chunks: i64,
    rows_read: i64,
    rows_superseded: i64,
    rows_estimated: Option<i64>,
    rows_per_second: Option<i32>,
    error: Option<String>,
    requested_at: OffsetDateTime,
    started_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
}

impl From<Row> for Backfill {
    fn from(row: Row) -> Self {
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Self {
            id: row.id,
            trigger: row.trigger,
            request: BackfillRequest {
                schema: row.schema_name,
                table: row.table_name,
                filter: row.filter,
                rows_per_second: row.rows_per_second.and_then(|n| u32::try_from(n).ok()),
            },
            state: BackfillState::read(&row.state),
            cursor: row.cursor,
            progress: Progress {
                chunks: count(row.chunks),
                rows_read: count(row.rows_read),
                rows_superseded: count(row.rows_superseded),
                rows_estimated: row.rows_estimated.map(count),
            },
            error: row.error,
            requested_at: row.requested_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Feeds {
    /// The oldest backfill of `trigger` that has not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next_backfill(&self, trigger: &str) -> Result<Option<Backfill>, StoreError> {
        let row = sqlx::query_as!(
            Row,
            r#"select id, trigger, schema_name, table_name, filter, state, cursor as "cursor: Vec<String>", chunks,
                   rows_read, rows_superseded, rows_estimated, rows_per_second, error, requested_at, started_at,
                   finished_at
               from oncue.backfills where trigger = $1 and state in ('waiting', 'running')
               order by requested_at, id limit 1"#,
            trigger
        )
        .fetch_optional(&self.store.pool)
        .await?;
        Ok(row.map(Backfill::from))
    }

    /// Writes that the events of every row up to `cursor` are settled. False when it was cancelled or the lease passed
    /// on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn move_backfill(
        &self,
        id: Uuid,
        cursor: Option<&[String]>,
        progress: Progress,
        fence: &Fence,
    ) -> Result<bool, StoreError> {
        let written = sqlx::query!(
            "with held as (select from oncue.leases where name = $7 and epoch = $8 for share)
             update oncue.backfills set cursor = coalesce($2, cursor), chunks = $3, rows_read = $4,
                 rows_superseded = $5, rows_estimated = $6, state = 'running', started_at = coalesce(started_at, now())
             where id = $1 and state in ('waiting', 'running') and exists (select from held)",
            id,
            cursor as Option<&[String]>,
            int(progress.chunks),
            int(progress.rows_read),
            int(progress.rows_superseded),
            progress.rows_estimated.map(int),
            fence.lease,
            fence.epoch
        )
        .execute(&self.store.pool)
        .await?;
        Ok(written.rows_affected() > 0)
    }

    /// Ends a backfill: well, or with the reason why it cannot go on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_backfill(&self, id: Uuid, error: Option<&str>, fence: &Fence) -> Result<(), StoreError> {
        sqlx::query!(
            "with held as (select from oncue.leases where name = $3 and epoch = $4 for share)
             update oncue.backfills set state = case when $2::text is null then 'done' else 'failed' end, error = $2,
                 finished_at = now()
             where id = $1 and state in ('waiting', 'running') and exists (select from held)",
            id,
            error.map(clean_error),
            fence.lease,
            fence.epoch
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Asks the feed of `trigger` to read a table.
    ///
    /// # Errors
    /// Those of the database; a trigger that is not there.
    pub async fn request_backfill(&self, trigger: &str, request: &BackfillRequest) -> Result<Uuid, StoreError> {
        let mut tx = self.pool.begin().await?;
        let id = insert(&mut tx, trigger, request).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The backfills of `trigger`, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn backfills(&self, trigger: &str) -> Result<Vec<Backfill>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"select id, trigger, schema_name, table_name, filter, state, cursor as "cursor: Vec<String>", chunks,
                   rows_read, rows_superseded, rows_estimated, rows_per_second, error, requested_at, started_at,
                   finished_at
               from oncue.backfills where trigger = $1 order by requested_at desc, id limit 1000"#,
            trigger
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Backfill::from).collect())
    }

    /// Ends the open backfills of `trigger`; rows whose events are under way are finished. Gives how many there were.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cancel_backfills(&self, trigger: &str) -> Result<u64, StoreError> {
        let ended = sqlx::query!(
            "update oncue.backfills set state = 'cancelled', finished_at = now()
             where trigger = $1 and state in ('waiting', 'running')",
            trigger
        )
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected())
    }
}
