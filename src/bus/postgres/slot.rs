//! Replication slots: looked at, created, dropped, and freed from a holder of our own that is gone.
//!
//! Invariant: a slot is dropped only where the caller says so, or where its creation failed half-way; a backend is ended
//! only if its application name says that it is ours.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::{PostgresBus, SourceError};
use crate::lsn::Lsn;

/// The output plugin that is read.
pub const PLUGIN: &str = "pgoutput";

/// How long creating a slot may wait for transactions that were open before it.
const CREATE_TIMEOUT: &str = "60s";
/// A little more, for the answer to arrive.
const CREATE_PATIENCE: Duration = Duration::from_secs(75);

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `pgoutput`; none for a physical slot.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// The database; none for a physical slot.
    pub database: Option<String>,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// The process that reads from it.
    pub active_pid: Option<i32>,
    /// The oldest WAL that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// Up to where its reader has confirmed.
    pub confirmed_flush: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can be written before it may be lost; none without a bound.
    pub safe_wal_size: Option<i64>,
    /// Bytes of WAL from its oldest to now.
    pub retained: u64,
    /// Whether it is to be there on standbys, from 17 on.
    pub failover: bool,
    /// Whether it came from a primary, from 17 on.
    pub synced: bool,
    /// Why it cannot be used any more, from 16 on.
    pub invalidation: Option<String>,
    /// Since when nobody reads from it, from 17 on: RFC 3339 as the server writes it.
    pub inactive_since: Option<String>,
}

impl Slot {
    /// Why nothing can be read from it ever again.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.invalidation.as_deref().or_else(|| self.wal_status.as_deref().filter(|status| *status == "lost"))
    }
}

impl PostgresBus {
    /// The slot `name`; none if there is none.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn slot(&self, name: &str) -> Result<Option<Slot>, SourceError> {
        let action = format!("look at the slot {name}");
        let mut connection = self.connection(&action).await?;
        let row = sqlx::query!(
            r#"select s.slot_name::text as "name!", s.plugin::text, s.slot_type as "slot_type!", s.database::text,
                s.temporary as "temporary!", s.active_pid, s.restart_lsn::text, s.confirmed_flush_lsn::text,
                s.wal_status, s.safe_wal_size,
                greatest(0, coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                    else pg_current_wal_lsn() end, s.restart_lsn), 0))::bigint as "retained!",
                coalesce((j.s ->> 'failover')::boolean, false) as "failover!",
                coalesce((j.s ->> 'synced')::boolean, false) as "synced!",
                coalesce(j.s ->> 'invalidation_reason',
                    case when (j.s ->> 'conflicting')::boolean then 'conflict' end) as invalidation,
                j.s ->> 'inactive_since' as inactive_since
            from pg_replication_slots s cross join lateral (select to_jsonb(s) as s) j where s.slot_name = $1::text"#,
            name
        );
        let row = row.fetch_optional(&mut *connection).await.map_err(|error| self.error(&action, error, &[]))?;
        let Some(row) = row else { return Ok(None) };
        let lsn = |text: Option<String>| text.map(|text| self.lsn(&action, &text)).transpose();
        Ok(Some(Slot {
            name: row.name,
            plugin: row.plugin,
            slot_type: row.slot_type,
            database: row.database,
            temporary: row.temporary,
            active_pid: row.active_pid,
            restart_lsn: lsn(row.restart_lsn)?,
            confirmed_flush: lsn(row.confirmed_flush_lsn)?,
            wal_status: row.wal_status,
            safe_wal_size: row.safe_wal_size,
            retained: u64::try_from(row.retained).unwrap_or(0),
            failover: row.failover,
            synced: row.synced,
            invalidation: row.invalidation,
            inactive_since: row.inactive_since,
        }))
    }

    /// Creates a logical slot and gives the position from which it reads. It waits for transactions that are open, but
    /// not for ever; `failover` asks for one that is copied to standbys, on servers that can.
    ///
    /// # Errors
    /// There is one of that name, no slot is free, the role may not, or a transaction stays open for too long. What a
    /// lost answer left behind is dropped again where the server can be reached.
    pub async fn create_slot(&self, name: &str, failover: bool) -> Result<Lsn, SourceError> {
        let action = format!("create the slot {name}");
        let created = tokio::time::timeout(CREATE_PATIENCE, self.try_create_slot(name, failover, &action)).await;
        let created = created.unwrap_or_else(|_| Err(self.error(&action, sqlx::Error::PoolTimedOut, &[])));
        if let Err(error) = &created
            && error.code().is_none_or(|code| code.starts_with("57P"))
            && error.is_transient()
        {
            self.drop_orphan(name).await;
        }
        created
    }

    async fn try_create_slot(&self, name: &str, failover: bool, action: &str) -> Result<Lsn, SourceError> {
        let waits = "a transaction that is open for long holds it up: find it with `select pid, xact_start, query from \
                     pg_stat_activity where backend_xid is not null order by xact_start`";
        let exists = format!("run `select pg_drop_replication_slot({})` or choose another name", super::literal(name));
        let logical = "run `alter system set wal_level = logical` and restart the server".to_owned();
        let mends = [("55P03", waits.to_owned()), ("57014", waits.to_owned()), ("42710", exists), ("55000", logical)];
        let fail = |error| self.error(action, error, &mends);
        let mut connection = self.connection(action).await?;
        let mut tx = sqlx::Connection::begin(&mut *connection).await.map_err(fail)?;
        let limits =
            format!("set local lock_timeout = '{CREATE_TIMEOUT}'; set local statement_timeout = '{CREATE_TIMEOUT}'");
        sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *tx).await.map_err(fail)?;
        let version = sqlx::query_scalar!("select current_setting('server_version_num')::int as \"v!\"");
        let version = version.fetch_one(&mut *tx).await.map_err(fail)?;
        // The fifth parameter came with 17: it cannot be compile-checked against an older server.
        let statement = if failover && version >= 170_000 {
            "select lsn::text from pg_create_logical_replication_slot($1::text::name, $2::text::name, false, false, true)"
        } else {
            "select lsn::text from pg_create_logical_replication_slot($1::text::name, $2::text::name)"
        };
        let created = sqlx::query_scalar::<_, String>(statement).bind(name).bind(PLUGIN).fetch_one(&mut *tx).await;
        let lsn = created.map_err(fail)?;
        // The slot is there whether this commits or not.
        tx.commit().await.map_err(fail)?;
        self.lsn(action, &lsn)
    }

    /// Drops what a creation left whose answer was lost: it would keep WAL, and nobody would read from it.
    async fn drop_orphan(&self, name: &str) {
        match self.drop_slot(name).await {
            Ok(true) => tracing::warn!(bus = %self.name, slot = name, "dropped a slot whose creation was cut off"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(bus = %self.name, slot = name, %error, "a slot whose creation was cut off may be left");
            }
        }
    }

    /// Drops the slot; false if there was none.
    ///
    /// # Errors
    /// Somebody reads from it (55006), or the role may not.
    pub async fn drop_slot(&self, name: &str) -> Result<bool, SourceError> {
        let action = format!("drop the slot {name}");
        let mut connection = self.connection(&action).await?;
        let dropped = sqlx::query!(
            "select pg_drop_replication_slot(slot_name)::text from pg_replication_slots where slot_name = $1::text",
            name
        );
        let rows = dropped.fetch_all(&mut *connection).await.map_err(|error| self.error(&action, error, &[]))?;
        Ok(!rows.is_empty())
    }

    /// Ends the backend `pid` if its application name is `application_name`; false if it is not there or another's.
    ///
    /// # Errors
    /// The server does not answer, or the backend is another role's.
    pub async fn terminate_own(&self, pid: i32, application_name: &str) -> Result<bool, SourceError> {
        let action = format!("end the backend {pid}");
        let mends = [("42501", "the backend is another role's: use one role for all nodes".to_owned())];
        let mut connection = self.connection(&action).await?;
        let ended = sqlx::query_scalar!(
            "select pg_terminate_backend(pid) as \"ended!\" from pg_stat_activity
             where pid = $1 and application_name = $2",
            pid,
            application_name
        );
        let ended = ended.fetch_optional(&mut *connection).await.map_err(|error| self.error(&action, error, &mends))?;
        Ok(ended.unwrap_or(false))
    }
}
