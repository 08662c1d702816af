//! Logical messages: what is published through a Postgres, and the function with which applications do it.
//!
//! Invariant: messages of one call are in one transaction, in their order: all of them or none. Nothing is written to
//! a server whose WAL nobody can decode.

use super::keys::grants;
use super::{PostgresBus, SourceError, literal};
use crate::event::{AttributeValue, Event, ROLE, SIGNATURE, codec};
use crate::lsn::Lsn;

/// The prefix of logical messages that are published events: `oncue.publish` writes it, feeds look for it.
pub const PUBLISH_PREFIX: &str = "oncue";

/// What installs `oncue.publish` into an application's database; may be run again.
pub const PUBLISH_SQL: &str = concat!(
    "-- The schema may be there, made by somebody who may.\n",
    "do $$ begin if to_regnamespace('oncue') is null then create schema oncue; end if; end $$;\n\n",
    include_str!("../../../migrations/0018_signed_events.sql")
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

    /// Publishes events: in their order, in one transaction, signed, with our role as the one that published them.
    ///
    /// # Errors
    /// The server does not answer, is a standby, or writes no logical WAL, so that nobody would ever read them; our role
    /// cannot sign them.
    pub async fn publish(&self, events: impl IntoIterator<Item = Event>) -> Result<(), SourceError> {
        const ACTION: &str = "publish";
        let contents: Vec<Vec<u8>> = events.into_iter().map(|event| self.content(event)).collect();
        let mut connection = self.connection(ACTION).await?;
        let written = sqlx::query_scalar!(
            r#"select count(oncue.write_message(m.content)) as "count!"
            from (select content from unnest($1::bytea[]) with ordinality u (content, ord) order by ord) m
            where current_setting('wal_level') = 'logical'"#,
            &contents
        );
        let install = format!("run `oncue migrate --bus {}`: only its functions can sign an event", self.name);
        let mends = [
            ("3F000", install.clone()),
            ("42883", install),
            ("42501", format!("run `{}`", grants(&self.replication.user))),
        ];
        let written = written.fetch_one(&mut *connection).await.map_err(|error| self.error(ACTION, error, &mends))?;
        if usize::try_from(written).is_ok_and(|written| written == contents.len()) {
            return Ok(());
        }
        Err(self.unfit(
            "nothing was published: wal_level is not logical, so that nobody would ever read it; run `alter system set \
             wal_level = logical` and restart the server"
                .to_owned(),
        ))
    }

    /// The event in structured mode; what it says of who published it before is of another place.
    fn content(&self, mut event: Event) -> Vec<u8> {
        event.remove_extension(SIGNATURE);
        event.set_extension(ROLE, AttributeValue::String(self.replication.user.clone()));
        codec::to_structured(&event)
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

    /// Lets a role publish with `oncue.publish`.
    ///
    /// # Errors
    /// The server does not answer; there is no such role, or ours may not grant it.
    pub async fn grant_publish(&self, role: &str) -> Result<(), SourceError> {
        const ACTION: &str = "grant oncue.publish";
        let mends = [("42501", format!("have the owner run `select oncue.grant_publish({})`", literal(role)))];
        let mut connection = self.connection(ACTION).await?;
        let granted = sqlx::query!("select oncue.grant_publish($1)::text as granted", role);
        granted.fetch_one(&mut *connection).await.map(drop).map_err(|error| self.error(ACTION, error, &mends))
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
