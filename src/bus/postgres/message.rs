//! Logical messages: what is published through a Postgres, and the function with which applications do it.
//!
//! Invariant: messages of one call are in one transaction, in their order: all of them or none. Nothing is written to
//! a server whose WAL nobody can decode.

use super::{PostgresBus, SourceError};
use crate::lsn::Lsn;

/// The prefix of logical messages that are published events: `oncue.publish` writes it, feeds look for it.
pub const PUBLISH_PREFIX: &str = "oncue";

/// What installs `oncue.publish` into an application's database; may be run again.
pub const PUBLISH_SQL: &str = concat!(
    "-- The schema may be there, made by somebody who may.\n",
    "do $$ begin if to_regnamespace('oncue') is null then create schema oncue; end if; end $$;\n\n",
    include_str!("../../../migrations/0008_publish.sql")
);

impl PostgresBus {
    /// Writes a logical message in a transaction of its own, and gives its position.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn emit(&self, prefix: &str, content: &[u8]) -> Result<Lsn, SourceError> {
        const ACTION: &str = "write a logical message";
        let mut connection = self.connection(ACTION).await?;
        let written = sqlx::query_scalar!(
            "select pg_logical_emit_message(true, $1, $2::bytea)::text as \"lsn!\"",
            prefix,
            content
        );
        let text = written.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        self.lsn(ACTION, &text)
    }

    /// Publishes events in structured mode: in their order, in one transaction.
    ///
    /// # Errors
    /// The server does not answer, is a standby, or writes no logical WAL, so that nobody would ever read them.
    pub async fn publish(&self, events: &[Vec<u8>]) -> Result<(), SourceError> {
        const ACTION: &str = "publish";
        let mut connection = self.connection(ACTION).await?;
        let written = sqlx::query_scalar!(
            r#"select count(pg_logical_emit_message(true, $1, m.content)) as "count!"
            from (select content from unnest($2::bytea[]) with ordinality u (content, ord) order by ord) m
            where current_setting('wal_level') = 'logical'"#,
            PUBLISH_PREFIX,
            events
        );
        let written = written.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        if usize::try_from(written).is_ok_and(|written| written == events.len()) {
            return Ok(());
        }
        Err(self.unfit(
            "nothing was published: wal_level is not logical, so that nobody would ever read it; run `alter system set \
             wal_level = logical` and restart the server"
                .to_owned(),
        ))
    }

    /// Installs `oncue.publish`, or replaces it by this program's.
    ///
    /// # Errors
    /// The server does not answer, or the role may not create the schema or replace the functions.
    pub async fn install_publish(&self) -> Result<(), SourceError> {
        const ACTION: &str = "install oncue.publish";
        let who = "have the owner of the database, or of the schema oncue, run what `oncue migrate --bus NAME --sql` \
                   prints";
        let mends = [("42501", who.replace("NAME", &self.name))];
        let mut connection = self.connection(ACTION).await?;
        // One message of several statements is one transaction.
        let ran = sqlx::raw_sql(PUBLISH_SQL).execute(&mut *connection).await;
        ran.map(drop).map_err(|error| self.error(ACTION, error, &mends))
    }

    /// Whether `oncue.publish` is there.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn has_publish(&self) -> Result<bool, SourceError> {
        const ACTION: &str = "look for oncue.publish";
        let mut connection = self.connection(ACTION).await?;
        let there = sqlx::query_scalar!(
            r#"select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                where n.nspname = 'oncue' and p.proname = 'publish') as "there!""#
        );
        there.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))
    }
}
