//! A Postgres that change feeds read: everything that is asked of it outside the replication stream itself.
//!
//! Invariant: making a `PostgresBus` connects to nothing, and no call here waits for ever: connecting, locks and
//! statements have limits. It changes nothing of the source but what its name says: slots and publications that it is
//! told to create or drop. It decides nothing: what a missing slot means is decided by the trigger.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use super::BusConfig;
use crate::lsn::Lsn;

mod address;
mod catalog;
mod error;
mod keys;
mod message;
mod name;
mod publication;
mod rows;
mod seal;
mod server;
mod slot;
mod types;

pub use self::address::{Replication, SourceTls, SslMode, check_address};
pub use self::catalog::{Identity, TableFacts};
pub use self::error::{SourceError, mending};
pub use self::keys::{Signing, grants};
pub use self::message::{PUBLISH_PREFIX, PUBLISH_SQL};
pub use self::name::{IDENTIFIER_MAX, NameError, TableName, literal, quoted};
pub use self::publication::{Publication, Restriction, add_statement, create_statement};
pub use self::rows::{Chunk, Rows, Shape, ShapeColumn};
pub use self::seal::{Forgery, Keys, Standing};
pub use self::server::{OLDEST, Server};
pub use self::slot::{PLUGIN, Slot};

/// How the connections are called in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "oncue";

/// The prefix of the logical messages that mark the chunks of a snapshot in the stream.
pub const MARK_PREFIX: &str = "oncue.mark";

/// Statements of a bus at once: a trigger asks little, and connections are what a source has least of.
const CONNECTIONS: u32 = 4;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is taken to be alive: asking each one before each use would double the statements.
const IDLE_TRUSTED: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: a bus that is asked nothing holds nothing of the source.
const IDLE_KEPT: Duration = Duration::from_secs(60);
const STATEMENT_TIMEOUT: &str = "30s";
const LOCK_TIMEOUT: &str = "5s";

/// A source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostgresBus {
    name: std::sync::Arc<str>,
    replication: std::sync::Arc<Replication>,
    accept_unbounded_wal: bool,
    options: PgConnectOptions,
    pool: PgPool,
}

/// What mends a refusal of one statement, by SQLSTATE.
type Mends<'a> = &'a [(&'a str, String)];

impl PostgresBus {
    /// Prepares the bus `name`; the first call connects.
    ///
    /// # Errors
    /// `SourceError::Address` when the address cannot be read.
    pub fn new(name: &str, config: &BusConfig) -> Result<Self, SourceError> {
        let replication = Replication::read(name, config)?;
        let options = replication.options().application_name(APPLICATION_NAME).options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("client_min_messages", "warning"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(IDLE_KEPT)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > IDLE_TRUSTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            name: name.into(),
            replication: replication.into(),
            accept_unbounded_wal: config.accept_unbounded_wal,
            options,
            pool,
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a replication connection needs.
    #[must_use]
    pub fn replication(&self) -> &Replication {
        &self.replication
    }

    /// Whether slots may keep WAL without a bound on this server.
    #[must_use]
    pub fn accept_unbounded_wal(&self) -> bool {
        self.accept_unbounded_wal
    }

    /// Whether the server answers, and if not, why.
    ///
    /// # Errors
    /// `Unreachable`, or `Refused` when it does not let us in.
    pub async fn ping(&self) -> Result<(), SourceError> {
        const ACTION: &str = "connect";
        let mut connection = self.connection(ACTION).await?;
        connection.ping().await.map_err(|error| self.error(ACTION, error, &[]))
    }

    /// The position up to which the WAL is written.
    ///
    /// # Errors
    /// The server does not answer, or is a standby.
    pub async fn wal_lsn(&self) -> Result<Lsn, SourceError> {
        const ACTION: &str = "read the WAL position";
        let mut connection = self.connection(ACTION).await?;
        let text = sqlx::query_scalar!("select pg_current_wal_lsn()::text as \"lsn!\"").fetch_one(&mut *connection);
        self.lsn(ACTION, &text.await.map_err(|error| self.error(ACTION, error, &[]))?)
    }

    /// Ends every connection of the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn connection(&self, action: &str) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, SourceError> {
        match self.pool.acquire().await {
            Ok(connection) => Ok(connection),
            // The pool says only that it waited: ask once without it.
            Err(sqlx::Error::PoolTimedOut) if self.pool.size() < CONNECTIONS => {
                let error = self.connect().await.err().unwrap_or(sqlx::Error::PoolTimedOut);
                Err(self.error(action, error, &[]))
            }
            Err(error) => Err(self.error(action, error, &[])),
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await;
        connected.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    fn error(&self, action: &str, error: sqlx::Error, mends: Mends<'_>) -> SourceError {
        let code = error::code(&error).unwrap_or_default();
        let known = mends.iter().find(|(of, _)| *of == code).map(|(_, mend)| mend.clone());
        let mend = known.or_else(|| mending(&code, &self.replication.user));
        let mend = mend.map_or_else(String::new, |mend| format!("; {mend}"));
        let (bus, action) = (self.name.to_string(), action.to_owned());
        if error::is_transient(&error) {
            SourceError::Unreachable { bus, action, place: self.replication.place(), mend, source: error.into() }
        } else {
            SourceError::Refused { bus, action, mend, source: error.into() }
        }
    }

    fn unfit(&self, message: String) -> SourceError {
        SourceError::Unfit { bus: self.name.to_string(), message }
    }

    fn lsn(&self, action: &str, text: &str) -> Result<Lsn, SourceError> {
        text.parse().map_err(|error| self.unfit(format!("failed to {action}: {error}")))
    }
}
