//! Change feeds: their positions, leases and gaps, as a feed sees them.
//!
//! Invariant: a position is written only by the process that holds the feed's lease, in the epoch that it says it has;
//! `settled_lsn` and `read_until` never fall except where an operator accepted a gap. Positions are written here before
//! the source is told, so that a source that is ahead of what is written here has lost something.

use std::time::Duration;

use time::OffsetDateTime;

use crate::lsn::Lsn;

use super::settle::Fence;
use super::{Store, StoreError};

mod backfills;

pub use self::backfills::{Backfill, BackfillRequest, BackfillState, Progress};

/// Where a feed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Its number at the server: one that was made again has another. None while it is not known.
    pub publication_oid: Option<u32>,
    /// The server's system identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// The database.
    pub database: String,
    /// Every transaction that ends at or before this is settled.
    pub settled_lsn: Lsn,
    /// Nothing that commits behind this has ever been started.
    pub read_until: Lsn,
    /// Set when an operator accepted a gap: how to begin again.
    pub restart: Option<Restart>,
}

/// How to begin again after a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Go on from where the source is now.
    Accept,
    /// The same, and read the tables again.
    Resnapshot,
}

impl Restart {
    /// The word in the tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Resnapshot => "resnapshot",
        }
    }

    fn read(text: &str) -> Self {
        if text == "resnapshot" { Self::Resnapshot } else { Self::Accept }
    }
}

/// A range that a source no longer had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The position up to which everything is settled, as far as it is known.
    pub from: Option<String>,
    /// The first position that the source still has, as far as it is known.
    pub to: Option<String>,
    /// What was found.
    pub reason: String,
    /// When.
    pub found_at: OffsetDateTime,
    /// When an operator accepted it.
    pub accepted_at: Option<OffsetDateTime>,
}

/// The feeds' part of the store: all that a change feed may see of it.
#[derive(Clone, Debug)]
pub struct Feeds {
    store: Store,
    node: String,
}

impl Feeds {
    /// That of `node`.
    #[must_use]
    pub fn new(store: Store, node: String) -> Self {
        Self { store, node }
    }

    /// Takes or renews `lease` for `ttl`; none while another node has it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take(&self, lease: &str, ttl: Duration) -> Result<Option<Fence>, StoreError> {
        let epoch = self.store.take_lease(lease, &self.node, ttl).await?;
        Ok(epoch.map(|epoch| Fence { lease: lease.to_owned(), epoch }))
    }

    /// Ends `lease` of `trigger` now, if this process has it: a clean end, after which nothing is suspected.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release(&self, trigger: &str, lease: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.feeds set holdings = 0 where trigger = $1 and holdings > 0 and exists (
                 select from oncue.leases where name = $2 and holder = $3 and expires_at > now())",
            trigger,
            lease,
            self.store.process
        )
        .execute(&self.store.pool)
        .await?;
        self.store.release_lease(lease).await
    }

    /// Counts that the feed of `trigger` is held, and gives how often it was before without getting anywhere or ending
    /// cleanly.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_holding(&self, trigger: &str, fence: &Fence) -> Result<u32, StoreError> {
        let before = sqlx::query_scalar!(
            r#"with held as (select from oncue.leases where name = $2 and epoch = $3 for share)
               update oncue.feeds set holdings = holdings + 1 where trigger = $1 and exists (select from held)
               returning holdings - 1 as "before!""#,
            trigger,
            fence.lease,
            fence.epoch
        )
        .fetch_optional(&self.store.pool)
        .await?;
        Ok(before.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
    }

    /// Where the feed of `trigger` is; none for one that never began.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn feed(&self, trigger: &str) -> Result<Option<Feed>, StoreError> {
        self.store.feed(trigger).await
    }

    /// Writes where the feed of `trigger` begins, and asks for the tables that are read whole before it. False when
    /// the lease passed on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin(
        &self,
        trigger: &str,
        feed: &Feed,
        snapshots: &[BackfillRequest],
        fence: &Fence,
    ) -> Result<bool, StoreError> {
        let mut tx = self.store.pool.begin().await?;
        let written = sqlx::query!(
            "insert into oncue.feeds as f (trigger, slot, publication, system_id, timeline, database, settled_lsn,
                 read_until, publication_oid)
             select $1, $2, $3, $4, $5, $6, $7::text::pg_lsn, $8::text::pg_lsn, $11
             from oncue.leases l where l.name = $9 and l.epoch = $10 for share
             on conflict (trigger) do update set slot = excluded.slot, publication = excluded.publication,
                 system_id = excluded.system_id, timeline = excluded.timeline, database = excluded.database,
                 settled_lsn = excluded.settled_lsn, read_until = excluded.read_until, restart = null, holdings = 0,
                 publication_oid = excluded.publication_oid,
                 updated_at = now()",
            trigger,
            feed.slot,
            feed.publication,
            feed.system_id,
            i64::from(feed.timeline),
            feed.database,
            feed.settled_lsn.to_string(),
            feed.read_until.to_string(),
            fence.lease,
            fence.epoch,
            feed.publication_oid.map(i64::from)
        )
        .execute(&mut *tx)
        .await?;
        if written.rows_affected() == 0 {
            return Ok(false);
        }
        for request in snapshots {
            backfills::insert(&mut tx, trigger, request).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Writes that everything up to `settled` is settled and that nothing behind `read_until` was started. Neither
    /// falls. False when the lease passed on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn advance(
        &self,
        trigger: &str,
        settled: Lsn,
        read_until: Lsn,
        fence: &Fence,
    ) -> Result<bool, StoreError> {
        let written = sqlx::query!(
            "with held as (select from oncue.leases where name = $4 and epoch = $5 for share)
             update oncue.feeds set holdings = case when $2::text::pg_lsn > settled_lsn then 0 else holdings end,
                 settled_lsn = greatest(settled_lsn, $2::text::pg_lsn),
                 read_until = greatest(read_until, $3::text::pg_lsn), updated_at = now()
             where trigger = $1 and exists (select from held)",
            trigger,
            settled.to_string(),
            read_until.to_string(),
            fence.lease,
            fence.epoch
        )
        .execute(&self.store.pool)
        .await?;
        Ok(written.rows_affected() > 0)
    }

    /// Notes which publication the feed of `trigger` is decoded with.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn note_publication(&self, trigger: &str, name: &str, oid: u32, fence: &Fence) -> Result<(), StoreError> {
        sqlx::query!(
            "with held as (select from oncue.leases where name = $4 and epoch = $5 for share)
             update oncue.feeds set publication = $2, publication_oid = $3
             where trigger = $1 and exists (select from held)",
            trigger,
            name,
            i64::from(oid),
            fence.lease,
            fence.epoch
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }

    /// Records a gap of `trigger`, once for each reason until it is accepted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_gap(
        &self,
        trigger: &str,
        from: Option<Lsn>,
        to: Option<Lsn>,
        reason: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "insert into oncue.gaps (trigger, from_position, to_position, reason)
             select $1, $2, $3, $4 where not exists (
                 select from oncue.gaps where trigger = $1 and reason = $4 and accepted_at is null)",
            trigger,
            from.map(|lsn| lsn.to_string()),
            to.map(|lsn| lsn.to_string()),
            reason
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Where the feed of `trigger` is; none for one that never began.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn feed(&self, trigger: &str) -> Result<Option<Feed>, StoreError> {
        let row = sqlx::query!(
            r#"select slot, publication, publication_oid, system_id, timeline, database, settled_lsn::text as "settled_lsn!",
                   read_until::text as "read_until!", restart
               from oncue.feeds where trigger = $1"#,
            trigger
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let lsn = |text: &str| {
            text.parse::<Lsn>().map_err(|error| StoreError::Unreadable {
                place: format!("oncue.feeds of {trigger}"),
                message: error.to_string(),
            })
        };
        Ok(Some(Feed {
            settled_lsn: lsn(&row.settled_lsn)?,
            read_until: lsn(&row.read_until)?,
            slot: row.slot,
            publication: row.publication,
            publication_oid: row.publication_oid.and_then(|oid| u32::try_from(oid).ok()),
            system_id: row.system_id,
            timeline: u32::try_from(row.timeline).unwrap_or(0),
            database: row.database,
            restart: row.restart.as_deref().map(Restart::read),
        }))
    }

    /// The gaps of `trigger`, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn gaps(&self, trigger: &str) -> Result<Vec<Gap>, StoreError> {
        let rows = sqlx::query_as!(
            Gap,
            r#"select from_position as "from", to_position as "to", reason, found_at, accepted_at
               from oncue.gaps where trigger = $1 order by found_at desc, id desc limit 100"#,
            trigger
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Accepts the gap of `trigger`: it goes on as `restart` says. Gives the state that it had.
    ///
    /// # Errors
    /// `Missing` when there is no such trigger.
    pub async fn accept_gap(&self, trigger: &str, restart: Restart) -> Result<String, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("update oncue.feeds set restart = $2 where trigger = $1", trigger, restart.name())
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "update oncue.gaps set accepted_at = now(), accepted_as = $2 where trigger = $1 and accepted_at is null",
            trigger,
            restart.name()
        )
        .execute(&mut *tx)
        .await?;
        let before = sqlx::query_scalar!(
            "update oncue.triggers t set state = 'active', error = null, identity = null
             from (select name, state from oncue.triggers where name = $1 for update) b
             where t.name = b.name returning b.state",
            trigger
        )
        .fetch_optional(&mut *tx)
        .await?;
        let before = before.ok_or_else(|| StoreError::Missing { kind: "trigger", name: trigger.to_owned() })?;
        tx.commit().await?;
        Ok(before)
    }
}
