//! The keys that sign published events: reads them, and who else may, from a source's database.
//!
//! Invariant: a key is held only as the two states of the hash that it leads to; nothing here shows it.

use sha2::{Digest as _, Sha256};

use super::seal::{Key, Keys};
use super::{PostgresBus, SourceError, quoted};
use crate::lsn::Lsn;

/// Keys that are believed at most: the newest.
const KEYS_MAX: i64 = 64;
/// Roles that are named at most.
const READERS_MAX: i64 = 20;

/// What a database has to sign events with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// `oncue.publish` is not installed: nothing can be published.
    Absent,
    /// The functions are of an older version, which signed nothing.
    Outdated,
    /// The keys are there, and our role may not read them.
    Unreadable,
    /// Our role can read the keys.
    Ready,
}

impl PostgresBus {
    /// Whether events can be signed and checked with our role.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn signing(&self) -> Result<Signing, SourceError> {
        const ACTION: &str = "look for the keys of oncue.publish";
        let mut connection = self.connection(ACTION).await?;
        let row = sqlx::query!(
            r#"select k.oid is not null as "there!",
                exists (select from pg_catalog.pg_proc p where p.pronamespace = n.oid and p.proname = 'write_event'
                    and pg_catalog.pg_get_function_identity_arguments(p.oid)
                        = 'attributes jsonb, extensions jsonb, payload text') as "outdated!",
                coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage')
                    and pg_catalog.has_table_privilege(k.oid, 'select'), false) as "readable!"
            from (select) one
            left join pg_catalog.pg_namespace n on n.nspname = 'oncue'
            left join pg_catalog.pg_class k on k.relnamespace = n.oid and k.relname = 'publish_keys'"#
        );
        let row = row.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        Ok(match (row.there, row.outdated, row.readable) {
            (_, true, _) => Signing::Outdated,
            (false, ..) => Signing::Absent,
            (true, _, false) => Signing::Unreadable,
            (true, _, true) => Signing::Ready,
        })
    }

    /// The keys that are believed now; none where `oncue.publish` is not installed.
    ///
    /// # Errors
    /// The server does not answer; `Unfit` when the functions are of an older version, or our role may not read the
    /// keys.
    pub async fn publish_keys(&self) -> Result<Keys, SourceError> {
        const ACTION: &str = "read the keys of oncue.publish";
        match self.signing().await? {
            Signing::Absent => return Ok(Keys::none()),
            Signing::Outdated => return Err(self.unfit(self.outdated())),
            Signing::Unreadable => return Err(self.unfit(self.unreadable())),
            Signing::Ready => {}
        }
        let mut connection = self.connection(ACTION).await?;
        let rows = sqlx::query!(
            r#"select k.number, k.inner_key, k.outer_key, k.retired_at::text, k.unsigned_until::text,
                k.system = (select c.system_identifier::text from pg_catalog.pg_control_system() c) as "here!",
                pg_catalog.pg_current_wal_insert_lsn()::text as "read_at!"
            from oncue.publish_keys k order by k.number desc limit $1"#,
            KEYS_MAX
        );
        let rows = rows.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        let mut keys = Keys::none();
        for row in rows {
            let lsn = |text: Option<&String>| text.map(|text| self.lsn(ACTION, text)).transpose();
            let retired_at = match lsn(row.retired_at.as_ref())? {
                // On a server with another log the position says nothing, and what was signed is not in its log.
                Some(_) if !row.here => Some(Lsn::ZERO),
                at => at,
            };
            if let Some(until) = lsn(row.unsigned_until.as_ref())?.filter(|_| row.here) {
                keys.unsigned_until = keys.unsigned_until.max(until);
            }
            keys.read_at = self.lsn(ACTION, &row.read_at)?;
            let begun = |block: &[u8]| Sha256::new().chain_update(block);
            let (inner, outer) = (begun(&row.inner_key), begun(&row.outer_key));
            keys.keys.push(Key { number: row.number, inner, outer, retired_at });
        }
        Ok(keys)
    }

    /// Roles besides ours, the owner and superusers that can read the keys, and so forge events.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn key_readers(&self) -> Result<Vec<String>, SourceError> {
        const ACTION: &str = "look who may read the keys of oncue.publish";
        let mut connection = self.connection(ACTION).await?;
        let names = sqlx::query_scalar!(
            r#"select r.rolname::text as "name!" from pg_catalog.pg_class k
            join pg_catalog.pg_namespace n on n.oid = k.relnamespace
            join pg_catalog.pg_roles r on pg_catalog.has_any_column_privilege(r.oid, k.oid, 'select')
            where n.nspname = 'oncue' and k.relname = 'publish_keys' and not r.rolsuper
                and r.oid <> k.relowner and r.rolname <> current_user and r.rolname <> 'pg_read_all_data'
            order by r.rolname limit $1"#,
            READERS_MAX
        );
        names.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))
    }

    /// Publications that send the keys to whoever subscribes.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn key_publications(&self) -> Result<Vec<String>, SourceError> {
        const ACTION: &str = "look which publications have the keys of oncue.publish";
        let mut connection = self.connection(ACTION).await?;
        let names = sqlx::query_scalar!(
            r#"select pubname::text as "name!" from pg_catalog.pg_publication_tables
            where schemaname = 'oncue' and tablename = 'publish_keys' order by pubname limit $1"#,
            READERS_MAX
        );
        names.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))
    }

    /// What is said of functions that are older than this program.
    #[must_use]
    pub fn outdated(&self) -> String {
        format!(
            "oncue.publish in the database {:?} is of an older version, which does not sign events: run `oncue migrate \
             --bus {}`",
            self.replication.database, self.name
        )
    }

    /// What is said where our role may not read the keys.
    #[must_use]
    pub fn unreadable(&self) -> String {
        format!(
            "the role may not read oncue.publish_keys, without which it can neither check nor sign published events: \
             run `{}`",
            grants(&self.replication.user)
        )
    }
}

/// What a role needs to follow a feed with published events, and to publish as a node does.
#[must_use]
pub fn grants(role: &str) -> String {
    let role = quoted(role);
    format!(
        "grant usage on schema oncue to {role}; grant select on oncue.publish_keys to {role}; grant execute on function \
         oncue.write_message(bytea) to {role};"
    )
}
