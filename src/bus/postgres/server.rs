//! What a server is and has: whether it can be a source.
//!
//! Invariant: one statement, so that the facts are of one moment.

use super::{PostgresBus, SourceError};
use crate::lsn::Lsn;

/// The oldest major version that can be a source: row filters, column lists and `pg_publication_tables` as they are.
pub const OLDEST: i32 = 15;

const MIB: u64 = 1024 * 1024;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `150018` is 15.18.
    pub version_num: i32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Made by `initdb`; the same on standbys and restored copies.
    pub system_id: String,
    /// Counted up by each promotion; none on a standby.
    pub timeline: Option<u32>,
    /// The database of the connection.
    pub database: String,
    /// The encoding of that database.
    pub encoding: String,
    /// `logical` for a source.
    pub wal_level: String,
    /// Up to where the WAL is written (on a standby: replayed).
    pub wal_lsn: Lsn,
    /// Most WAL that a slot keeps, bytes; none without a bound.
    pub slot_wal_max: Option<u64>,
    /// The role of the connection.
    pub role: String,
    /// Whether it is a superuser.
    pub is_superuser: bool,
    /// Whether it may open replication connections.
    pub can_replicate: bool,
    /// Replication slots that are not taken.
    pub slots_free: i64,
    /// Senders that are not taken.
    pub senders_free: i64,
    /// `synchronized_standby_slots`, from 17 on; empty without.
    pub synchronized_standby_slots: String,
    /// `idle_replication_slot_timeout` in seconds, from 18 on; 0 without.
    pub idle_slot_timeout: i64,
    /// Physical slots: standbys that a failover could promote.
    pub physical_slots: i64,
}

impl Server {
    /// The major version.
    #[must_use]
    pub fn major(&self) -> i32 {
        self.version_num / 10_000
    }

    /// `15.18`
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}.{}", self.major(), self.version_num % 10_000)
    }

    /// Whether slots can follow a failover.
    #[must_use]
    pub fn has_failover_slots(&self) -> bool {
        self.major() >= 17
    }

    /// Whether changes whose publication is gone are passed over; before, decoding them was an error.
    #[must_use]
    pub fn skips_lost_publications(&self) -> bool {
        self.major() >= 18
    }

    /// Why the server cannot be a source, with what mends it; none if it can.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        if self.major() < OLDEST {
            return Some(format!(
                "Postgres {} is not supported as a source: change feeds need Postgres {OLDEST} or newer",
                self.version()
            ));
        }
        if self.in_recovery {
            return Some(
                "the server is a standby: a change feed reads from the primary; put the primary's host into the bus's \
                 url, or promote this one with `select pg_promote()`"
                    .to_owned(),
            );
        }
        if self.wal_level != "logical" {
            return Some(format!(
                "wal_level is {}: run `alter system set wal_level = logical` and restart the server",
                self.wal_level
            ));
        }
        if self.encoding == "SQL_ASCII" {
            return Some(format!(
                "the database {:?} has the encoding SQL_ASCII, which does not say what its texts are: the first that is \
                 no UTF-8 would end the feed; move the data to a database with the encoding UTF8",
                self.database
            ));
        }
        if !self.can_replicate {
            let role = super::quoted(&self.role);
            return Some(format!("the role may not replicate: run `alter role {role} replication`"));
        }
        None
    }
}

impl PostgresBus {
    /// What the server is.
    ///
    /// # Errors
    /// It does not answer, or does not let us in.
    pub async fn server(&self) -> Result<Server, SourceError> {
        const ACTION: &str = "look at the server";
        let mut connection = self.connection(ACTION).await?;
        let row = sqlx::query!(
            r#"select current_setting('server_version_num')::int as "version_num!",
                pg_is_in_recovery() as "in_recovery!",
                (select system_identifier::text from pg_control_system()) as "system_id!",
                case when pg_is_in_recovery() then null
                    else left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline,
                current_database()::text as "database!",
                current_setting('server_encoding') as "encoding!",
                current_setting('wal_level') as "wal_level!",
                (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                    else pg_current_wal_lsn() end)::text as "wal_lsn!",
                (select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size') as "slot_wal_max!",
                current_user::text as "role!",
                r.rolsuper as "is_superuser!",
                r.rolsuper or r.rolreplication or exists (
                    -- Where the provider keeps the attribute to itself, membership of its role stands for it.
                    select from pg_roles g where g.rolname in ('rds_replication', 'rds_superuser')
                        and pg_has_role(r.oid, g.oid, 'member')) as "can_replicate!",
                current_setting('max_replication_slots')::bigint
                    - (select count(*) from pg_replication_slots) as "slots_free!",
                current_setting('max_wal_senders')::bigint
                    - (select count(*) from pg_stat_replication) as "senders_free!",
                coalesce(current_setting('synchronized_standby_slots', true), '') as "synchronized_standby_slots!",
                coalesce((select setting::bigint * case unit when 'min' then 60 when 'ms' then 0 else 1 end
                    from pg_settings where name = 'idle_replication_slot_timeout'), 0) as "idle_slot_timeout!",
                (select count(*) from pg_replication_slots where slot_type = 'physical') as "physical_slots!"
            from pg_roles r where r.rolname = current_user"#
        );
        let row = row.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        Ok(Server {
            version_num: row.version_num,
            in_recovery: row.in_recovery,
            system_id: row.system_id,
            timeline: row.timeline.and_then(|digits| u32::from_str_radix(&digits, 16).ok()),
            database: row.database,
            encoding: row.encoding,
            wal_level: row.wal_level,
            wal_lsn: self.lsn(ACTION, &row.wal_lsn)?,
            slot_wal_max: u64::try_from(row.slot_wal_max).ok().map(|mib| mib.saturating_mul(MIB)),
            role: row.role,
            is_superuser: row.is_superuser,
            can_replicate: row.can_replicate,
            slots_free: row.slots_free,
            senders_free: row.senders_free,
            synchronized_standby_slots: row.synchronized_standby_slots,
            idle_slot_timeout: row.idle_slot_timeout,
            physical_slots: row.physical_slots,
        })
    }

    /// What the server is, where it can be a source.
    ///
    /// # Errors
    /// It does not answer, or is `Unfit`: too old, a standby, without a logical WAL, without the right to replicate.
    pub async fn fit_server(&self) -> Result<Server, SourceError> {
        let server = self.server().await?;
        match server.unfit() {
            Some(why) => Err(self.unfit(why)),
            None => Ok(server),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version_num: 150_018,
            in_recovery: false,
            system_id: "7".to_owned(),
            timeline: Some(1),
            database: "app".to_owned(),
            encoding: "UTF8".to_owned(),
            wal_level: "logical".to_owned(),
            wal_lsn: Lsn(1),
            slot_wal_max: None,
            role: "Feed".to_owned(),
            is_superuser: false,
            can_replicate: true,
            slots_free: 1,
            senders_free: 1,
            synchronized_standby_slots: String::new(),
            idle_slot_timeout: 0,
            physical_slots: 0,
        }
    }

    #[test]
    fn a_server_that_cannot_be_a_source_is_refused_with_what_mends_it() {
        assert_eq!(server().unfit(), None);
        assert_eq!(Server { version_num: 180_004, ..server() }.unfit(), None);
        let table = [
            (Server { version_num: 140_012, ..server() }, "Postgres 14.12 is not supported"),
            (Server { in_recovery: true, timeline: None, ..server() }, "standby"),
            (Server { wal_level: "replica".to_owned(), ..server() }, "alter system set wal_level = logical"),
            (Server { can_replicate: false, ..server() }, "alter role \"Feed\" replication"),
        ];
        for (server, expected) in table {
            let why = server.unfit().expect(expected);
            assert!(why.contains(expected), "{why}");
        }
    }
}
