//! Snapshots and backfills: tables read row by row beside the stream, without a stale row and without a gap.
//!
//! Invariant: a row that was read is handed over at one place of the stream (the high mark of its chunk), and only if no
//! change of its key was streamed between the low mark and there: what changed meanwhile comes as its change. A chunk
//! whose snapshot does not see a transaction that was streamed before the low mark is read again (a commit is in the WAL
//! a moment before it is visible). The cursor moves when every event of the chunk is settled. The marks are logical
//! messages, so they work without stopping anybody; the method is that of DBLog (Andreakis and Papapanagiotou, 2020).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bus::postgres::{Chunk, MARK_PREFIX, Shape, TableFacts, TableName};
use crate::pgtype::Types;
use crate::store::feeds::{Backfill, Progress};
use crate::triggers::Failure;

use super::change::Table;
use super::pgoutput::{Identity, Relation, RelationColumn, Row};
use super::{Follower, Holding, store_failure};

/// How long after a chunk that has to be read again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often open backfills of others are looked through for one of ours.
const LOOK: Duration = Duration::from_secs(5);

/// Where the reader of rows and the reader of the stream meet.
#[derive(Default)]
pub(super) struct Meeting {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    announced: Option<Announced>,
    chunk: Option<ReadChunk>,
}

/// A chunk that is about to be read.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    pub(super) nonce: Uuid,
    pub(super) table: TableName,
    /// The key's columns, in the order in which keys are written.
    pub(super) key: Vec<String>,
}

/// A chunk that was read.
pub(super) struct ReadChunk {
    pub(super) nonce: Uuid,
    pub(super) backfill: Uuid,
    /// When it was asked for: the time that the ids of its deliveries carry.
    pub(super) at: OffsetDateTime,
    pub(super) table: Arc<Table>,
    pub(super) rows: Vec<KeyedRow>,
    pub(super) in_progress: Vec<u64>,
    /// How often its events may have been sent, this time included.
    pub(super) sent: u32,
    pub(super) release: mpsc::Sender<u64>,
    pub(super) handed: oneshot::Sender<Handed>,
}

/// A row and its key.
pub(super) struct KeyedRow {
    pub(super) key: Vec<u8>,
    pub(super) row: Row,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// Its rows were handed over: how many, and how many had changed meanwhile.
    Over { events: u64, superseded: u64 },
    /// It must be read again.
    Again,
}

impl Meeting {
    /// Says what is about to be read.
    fn announce(&self, announced: Announced) {
        *self.state() = State { announced: Some(announced), chunk: None };
    }

    /// Puts the chunk down, before its high mark is written.
    fn put(&self, chunk: ReadChunk) {
        self.state().chunk = Some(chunk);
    }

    /// What was announced under `nonce`.
    pub(super) fn announced(&self, nonce: Uuid) -> Option<Announced> {
        self.state().announced.clone().filter(|announced| announced.nonce == nonce)
    }

    /// The chunk that was read under `nonce`.
    pub(super) fn take(&self, nonce: Uuid) -> Option<ReadChunk> {
        self.state().chunk.take_if(|chunk| chunk.nonce == nonce)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a row: its columns' texts, each with its length. None where one is not known.
pub(super) fn key_of<'a>(texts: impl Iterator<Item = Option<&'a [u8]>>) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(16);
    for text in texts {
        let text = text?;
        key.extend_from_slice(&(text.len() as u64).to_be_bytes());
        key.extend_from_slice(text);
    }
    Some(key)
}

/// Fills what is open, one backfill after another, for as long as the connection lives.
pub(super) async fn run(follower: &Follower, held: &Holding, meeting: &Meeting) -> Failure {
    let mut open = follower.context.backfills.clone();
    loop {
        if open.wait_for(|open| *open > 0).await.is_err() {
            // The node ends, and with it the connection.
            std::future::pending::<()>().await;
        }
        match follower.feeds.next_backfill(&follower.context.name).await {
            Ok(Some(backfill)) => {
                let filler = Filler { follower, held, meeting };
                if let Err(failure) = filler.fill(backfill).await {
                    return failure;
                }
            }
            Ok(None) => drop(tokio::time::timeout(LOOK, open.changed()).await),
            Err(error) => return store_failure(&error),
        }
    }
}

struct Filler<'a> {
    follower: &'a Follower,
    held: &'a Holding,
    meeting: &'a Meeting,
}

/// A table that is being read.
struct Source {
    table: TableName,
    shape: Shape,
    key: Vec<usize>,
    decoded: Arc<Table>,
}

impl Filler<'_> {
    /// Reads a table to its end.
    async fn fill(&self, mut backfill: Backfill) -> Result<(), Failure> {
        let name = &self.follower.context.name;
        let table = TableName::new(backfill.request.schema.clone(), backfill.request.table.clone());
        let source = match self.source(&table, &mut backfill.progress).await? {
            Ok(source) => source,
            Err(why) => return self.end(&backfill, Some(&why)).await,
        };
        tracing::info!(trigger = %name, %table, backfill = %backfill.id, rows = backfill.progress.rows_estimated, "reading a table");
        if !self.save(&backfill).await? {
            return Ok(());
        }
        // What was in flight when the last reader ended may be settled already.
        let mut sent = 2;
        loop {
            let began = Instant::now();
            let limit = self.limit(&backfill);
            let read = match self.chunk(&source, &backfill, limit, sent).await? {
                Chunked::Settled { rows, cursor } => {
                    backfill.cursor = cursor.or(backfill.cursor);
                    backfill.progress.chunks += 1;
                    sent = 1;
                    rows
                }
                Chunked::Failed(why) => return self.end(&backfill, Some(&why)).await,
                Chunked::Again => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            backfill.progress.rows_read += read.0;
            backfill.progress.rows_superseded += read.1;
            if !self.save(&backfill).await? {
                tracing::info!(trigger = %name, %table, backfill = %backfill.id, "a backfill was cancelled");
                return Ok(());
            }
            if read.2 < u64::from(limit) {
                return self.end(&backfill, None).await;
            }
            if let Some(rate) = backfill.request.rows_per_second {
                tokio::time::sleep_until(began + Duration::from_secs_f64(read.2 as f64 / f64::from(rate))).await;
            }
        }
    }

    fn limit(&self, backfill: &Backfill) -> u32 {
        let chunk = self.follower.spec.chunk_rows;
        backfill.request.rows_per_second.map_or(chunk, |rate| chunk.min(rate)).max(1)
    }

    async fn save(&self, backfill: &Backfill) -> Result<bool, Failure> {
        let fence = &self.held.tenure.fence;
        let cursor = backfill.cursor.as_deref();
        let moved = self.follower.feeds.move_backfill(backfill.id, cursor, backfill.progress, fence).await;
        moved.map_err(|e| store_failure(&e))
    }

    async fn end(&self, backfill: &Backfill, error: Option<&str>) -> Result<(), Failure> {
        let name = &self.follower.context.name;
        let (rows, superseded) = (backfill.progress.rows_read, backfill.progress.rows_superseded);
        match error {
            Some(error) => tracing::error!(trigger = %name, backfill = %backfill.id, error, rows, "a backfill failed"),
            None => tracing::info!(trigger = %name, backfill = %backfill.id, rows, superseded, "a table was read"),
        }
        let ended = self.follower.feeds.end_backfill(backfill.id, error, &self.held.tenure.fence).await;
        ended.map_err(|e| store_failure(&e))
    }

    /// What is known of the table, or why it cannot be read.
    async fn source(&self, table: &TableName, progress: &mut Progress) -> Result<Result<Source, String>, Failure> {
        let bus = &self.follower.bus;
        let again = |error: crate::bus::postgres::SourceError| Failure::Again(error.to_string());
        let facts = bus.tables(std::slice::from_ref(table)).await.map_err(again)?;
        let shape = bus.shape(table).await.map_err(again)?;
        let (Some(facts), Some(shape)) = (facts.into_iter().next(), shape) else {
            return Ok(Err(format!("there is no table {table}")));
        };
        if table.holds_keys() {
            return Ok(Err(format!("{table} holds the keys that sign published events: no feed tells of it")));
        }
        if facts.key.is_empty() {
            return Ok(Err(format!(
                "{table} has no primary key, so its rows cannot be read in order: add one, for example `alter table {} \
                 add primary key (…)`",
                table.quoted()
            )));
        }
        let place = |name: &String| shape.columns.iter().position(|column| column.name == *name);
        let key: Option<Vec<usize>> = facts.key.iter().map(place).collect();
        let Some(key) = key else { return Ok(Err(format!("the primary key of {table} has a generated column"))) };
        progress.rows_estimated = facts.rows;
        let mut types = Types::new();
        let missing = types.missing(shape.columns.iter().map(|column| column.ty));
        if !missing.is_empty() {
            types.learn(bus.types(&missing).await.map_err(again)?);
        }
        let decoded = Arc::new(Table::new(&relation(table, &shape, &facts), &types, &facts.key));
        Ok(Ok(Source { table: table.clone(), shape, key, decoded }))
    }

    /// Reads one chunk between its marks, and waits until its events are settled.
    async fn chunk(&self, source: &Source, backfill: &Backfill, limit: u32, sent: u32) -> Result<Chunked, Failure> {
        let bus = &self.follower.bus;
        let again = |error: crate::bus::postgres::SourceError| Failure::Again(error.to_string());
        let nonce = Uuid::new_v4();
        let key = source.key.iter().map(|at| source.shape.columns[*at].name.clone()).collect();
        self.meeting.announce(Announced { nonce, table: source.table.clone(), key });
        bus.emit(MARK_PREFIX, format!("low {nonce}").as_bytes()).await.map_err(again)?;
        let request = Chunk {
            table: &source.table,
            shape: &source.shape,
            key: &source.key,
            after: backfill.cursor.as_deref(),
            filter: backfill.request.filter.as_deref(),
            limit,
        };
        let read = match bus.chunk(&request).await {
            Ok(read) => read,
            Err(error) if error.is_transient() => return Err(again(error)),
            Err(error) => return Ok(Chunked::Failed(error.to_string())),
        };
        let rows = read.rows.len() as u64;
        let cursor = read.rows.last().map(|row| cursor(row, &source.key));
        let (release, mut released) = mpsc::channel(read.rows.len().max(1));
        let (handed, outcome) = oneshot::channel();
        let chunk = ReadChunk {
            nonce,
            backfill: backfill.id,
            at: backfill.requested_at,
            table: Arc::clone(&source.decoded),
            rows: read.rows.iter().filter_map(|row| keyed(row, &source.key)).collect(),
            in_progress: read.in_progress,
            sent,
            release,
            handed,
        };
        self.meeting.put(chunk);
        bus.emit(MARK_PREFIX, format!("high {nonce}").as_bytes()).await.map_err(again)?;
        let Ok(Handed::Over { events, superseded }) = outcome.await else { return Ok(Chunked::Again) };
        for _ in 0..events {
            if released.recv().await.is_none() {
                // An event was dropped unsettled: the node stops, or the lease is lost.
                return Err(Failure::Again("rows of a backfill were not settled".to_owned()));
            }
        }
        Ok(Chunked::Settled { rows: (events, superseded, rows), cursor })
    }
}

enum Chunked {
    Settled {
        /// Events, superseded rows, and rows that were read.
        rows: (u64, u64, u64),
        cursor: Option<Vec<String>>,
    },
    Again,
    Failed(String),
}

/// The table as the stream would announce it.
fn relation<'a>(table: &'a TableName, shape: &'a Shape, facts: &TableFacts) -> Relation<'a> {
    let column = |column: &'a crate::bus::postgres::ShapeColumn| RelationColumn {
        identity: facts.identity_columns.contains(&column.name),
        name: column.name.as_str().into(),
        ty: column.ty,
        modifier: -1,
    };
    Relation {
        oid: shape.oid,
        schema: table.schema.as_str().into(),
        name: table.name.as_str().into(),
        identity: match facts.identity {
            crate::bus::postgres::Identity::Default => Identity::Default,
            crate::bus::postgres::Identity::Nothing => Identity::Nothing,
            crate::bus::postgres::Identity::Full => Identity::Full,
            crate::bus::postgres::Identity::Index => Identity::Index,
        },
        columns: shape.columns.iter().map(column).collect(),
    }
}

fn cursor(row: &[Option<String>], key: &[usize]) -> Vec<String> {
    // A primary key holds no null.
    key.iter().map(|at| row.get(*at).cloned().flatten().unwrap_or_default()).collect()
}

fn keyed(values: &[Option<String>], key: &[usize]) -> Option<KeyedRow> {
    let text = |at: &usize| values.get(*at).and_then(|value| value.as_deref()).map(str::as_bytes);
    let mut row = Row::new();
    for value in values {
        if !row.push(value.as_deref().map(str::as_bytes)) {
            return None;
        }
    }
    Some(KeyedRow { key: key_of(key.iter().map(text))?, row })
}
