//! Where a change feed is: what is settled, how far its source is ahead, what its slot keeps, what it lost and reads.
//!
//! Invariant: a source that does not answer is a fact that is shown, and the rest is shown all the same.

use serde::Serialize;
use time::OffsetDateTime;

use crate::bus::BusKind;
use crate::bus::postgres::{PostgresBus, SourceError};
use crate::cli::{Context, output};
use crate::lsn::Lsn;
use crate::store::control::TriggerRow;
use crate::store::feeds::{Backfill, Feed};
use crate::store::{Store, StoreError};
use crate::triggers::spec::{PostgresSpec, TriggerSpec};

use super::gap::GapFacts;

/// Backfills that are shown.
const BACKFILLS: usize = 10;

/// A change feed.
#[derive(Debug, Serialize)]
pub(super) struct FeedFacts {
    slot: String,
    publication: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    /// The node that follows it now.
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<SourceFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_error: Option<String>,
    gaps: Vec<GapFacts>,
    backfills: Vec<BackfillFacts>,
}

#[derive(Debug, Serialize)]
struct Position {
    settled_lsn: Lsn,
    read_until: Lsn,
    system_id: String,
    timeline: u32,
    database: String,
}

/// What the source says.
#[derive(Debug, Serialize)]
struct SourceFacts {
    wal_lsn: Lsn,
    /// From what is settled to what is written.
    lag_bytes: Option<u64>,
    slot: Option<SlotFacts>,
}

#[derive(Debug, Serialize)]
struct SlotFacts {
    active_pid: Option<i32>,
    confirmed_flush_lsn: Option<Lsn>,
    retained_wal_bytes: u64,
    safe_wal_size: Option<i64>,
    wal_status: Option<String>,
    lost: Option<String>,
}

/// A backfill as commands show it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BackfillFacts {
    pub(super) id: uuid::Uuid,
    pub(super) table: String,
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    pub(super) state: &'static str,
    pub(super) rows_read: u64,
    rows_superseded: u64,
    pub(super) rows_estimated: Option<u64>,
    pub(super) error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    requested_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
}

impl From<&Backfill> for BackfillFacts {
    fn from(backfill: &Backfill) -> Self {
        let Backfill { request, progress, .. } = backfill;
        Self {
            id: backfill.id,
            table: crate::bus::postgres::TableName::new(&request.schema, &request.table).to_string(),
            filter: request.filter.clone(),
            state: backfill.state.name(),
            rows_read: progress.rows_read,
            rows_superseded: progress.rows_superseded,
            rows_estimated: progress.rows_estimated,
            error: backfill.error.clone(),
            requested_at: backfill.requested_at,
            finished_at: backfill.finished_at,
        }
    }
}

impl BackfillFacts {
    /// One line.
    pub(super) fn text(&self) -> String {
        let of = self.rows_estimated.map_or_else(String::new, |rows| format!(" of about {rows}"));
        let changed = match self.rows_superseded {
            0 => String::new(),
            rows => format!(", {rows} came as changes"),
        };
        let error = self.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        format!("{} {}, {} rows{of}{changed}{error}", self.table, self.state, self.rows_read)
    }
}

/// The trigger's specification, if it is a change feed.
pub(super) fn spec(row: &TriggerRow) -> Option<PostgresSpec> {
    match TriggerSpec::parse(&row.kind, &row.spec) {
        Ok(TriggerSpec::Postgres(spec)) => Some(spec),
        _ => None,
    }
}

/// The bus of a trigger, if the manifest at hand has it.
pub(super) fn bus(row: &TriggerRow, context: &Context) -> Option<Result<PostgresBus, SourceError>> {
    let config = context.config().ok()?.buses.get(&row.bus).filter(|config| config.kind == BusKind::Postgres)?;
    Some(PostgresBus::new(&row.bus, config))
}

impl FeedFacts {
    /// Where the feed of `row` is; none for another kind of trigger.
    pub(super) async fn of(row: &TriggerRow, store: &Store, context: &Context) -> Result<Option<Self>, StoreError> {
        let Some(spec) = spec(row) else { return Ok(None) };
        let feed = store.feed(&row.name).await?;
        let slot = spec.slot(&row.name);
        let (source, source_error) = match bus(row, context) {
            None => (None, Some(format!("there is no [bus.{}] in this manifest to ask", row.bus))),
            Some(bus) => match ask(bus, &slot, feed.as_ref()).await {
                Ok(facts) => (Some(facts), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        let backfills = store.backfills(&row.name).await?;
        Ok(Some(Self {
            publication: spec.publication(&row.name),
            slot,
            position: feed.map(Position::from),
            node: store.lease_owner(&format!("feed {}", row.name)).await?,
            source,
            source_error,
            gaps: store.gaps(&row.name).await?.into_iter().map(GapFacts::from).collect(),
            backfills: backfills.iter().take(BACKFILLS).map(BackfillFacts::from).collect(),
        }))
    }

    /// Lines below those of the trigger.
    pub(super) fn text(&self) -> String {
        let mut rows = Vec::new();
        if let Some(position) = &self.position {
            rows.push(("settled", format!("{} (started up to {})", position.settled_lsn, position.read_until)));
            let Position { system_id, timeline, database, .. } = position;
            rows.push(("server", format!("system {system_id}, timeline {timeline}, database {database}")));
        } else {
            rows.push(("settled", "nothing yet: it never began".to_owned()));
        }
        rows.push(("followed by", self.node.clone().unwrap_or_else(|| "no node".to_owned())));
        rows.push(("publication", self.publication.clone()));
        match &self.source {
            Some(source) => source.text(&self.slot, &mut rows),
            None => rows.push(("source", self.source_error.clone().unwrap_or_default())),
        }
        for gap in &self.gaps {
            rows.push(("gap", gap.text()));
        }
        for backfill in &self.backfills {
            rows.push(("backfill", backfill.text()));
        }
        output::fields(&rows)
    }
}

async fn ask(
    bus: Result<PostgresBus, SourceError>,
    slot: &str,
    feed: Option<&Feed>,
) -> Result<SourceFacts, SourceError> {
    let bus = bus?;
    let wal_lsn = bus.server().await?.wal_lsn;
    let slot = bus.slot(slot).await?.map(|slot| SlotFacts {
        active_pid: slot.active_pid,
        confirmed_flush_lsn: slot.confirmed_flush,
        retained_wal_bytes: slot.retained,
        safe_wal_size: slot.safe_wal_size,
        lost: slot.lost().map(str::to_owned),
        wal_status: slot.wal_status,
    });
    Ok(SourceFacts { wal_lsn, lag_bytes: feed.map(|feed| wal_lsn.since(feed.settled_lsn)), slot })
}

impl SourceFacts {
    fn text(&self, slot: &str, rows: &mut Vec<(&'static str, String)>) {
        let lag = self.lag_bytes.map_or_else(String::new, |lag| format!(", {} ahead", output::bytes(lag)));
        rows.push(("source", format!("at {}{lag}", self.wal_lsn)));
        let Some(facts) = &self.slot else {
            return rows.push(("slot", format!("{slot}, which is not there")));
        };
        let mut text = format!("{slot}, ");
        match (&facts.lost, facts.active_pid) {
            (Some(why), _) => text.push_str(&format!("lost ({why})")),
            (None, Some(pid)) => text.push_str(&format!("read by the backend {pid}")),
            (None, None) => text.push_str("read by nobody"),
        }
        text.push_str(&format!(", keeps {} of WAL", output::bytes(facts.retained_wal_bytes)));
        match facts.safe_wal_size.map(u64::try_from) {
            Some(Ok(safe)) => text.push_str(&format!(", {} more are safe", output::bytes(safe))),
            Some(Err(_)) => text.push_str(", and may be lost at the next checkpoint"),
            None => {}
        }
        rows.push(("slot", text));
    }
}

impl From<Feed> for Position {
    fn from(feed: Feed) -> Self {
        Self {
            settled_lsn: feed.settled_lsn,
            read_until: feed.read_until,
            system_id: feed.system_id,
            timeline: feed.timeline,
            database: feed.database,
        }
    }
}
