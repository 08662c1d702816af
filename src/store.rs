//! Postgres: the control plane, the ledger and everything that waits. Every SQL statement of Oncue is in here, but for
//! those that a source database is asked (`bus/postgres`).
//!
//! Invariant: whatever one function here writes, it writes in one transaction, and calling it again after a lost reply
//! changes nothing. The store decides nothing: what an outcome means is decided in `delivery`, what a row compiles to
//! in `rules`.

use std::borrow::Cow;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::types::Uuid;
use sqlx::{ConnectOptions as _, Connection as _};

mod address;
pub mod apply;
pub mod checks;
pub mod cluster;
pub mod control;
pub mod dead_letters;
pub mod events;
pub mod feeds;
pub mod functions;
pub mod groups;
pub mod guest;
pub mod kept;
pub mod listen;
pub mod outbox;
pub mod parked;
pub mod partitions;
pub mod recorded;
pub mod rule_rows;
pub mod rules;
pub mod settle;
pub mod triggers;
pub mod usage;
pub mod words;

pub use address::{ADDRESS_FORM, check_address};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// What can go wrong between Oncue and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address could not be parsed.
    #[error("the database address is not valid: {0}; {ADDRESS_FORM}")]
    Address(String),
    /// The server could not be reached or dropped the connection; the same call may go through later.
    #[error("postgres is not reachable: {}", words::of(.0))]
    Unreachable(#[source] sqlx::Error),
    /// The connection was lost while a function's statements ran, perhaps because of them.
    #[error("the connection to postgres was lost while a function's statements ran: {}", words::of(.0))]
    Interrupted(#[source] sqlx::Error),
    /// Other nodes settled the same deliveries again and again.
    #[error("other nodes settled the same deliveries meanwhile")]
    Overtaken,
    /// The tables are not there or not of this program's version.
    #[error("{0}; run `oncue migrate`")]
    Schema(String),
    /// The server refused the statement.
    #[error("postgres refused the statement: {}", words::of(.0))]
    Refused(#[source] sqlx::Error),
    /// A migration could not be applied.
    #[error("the migrations could not be applied: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row that the caller named is not there.
    #[error("there is no {kind} \"{name}\"")]
    Missing {
        /// `function`, `rule`, `trigger`, `dead letter`, `event`, `version`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A row holds what this program cannot read.
    #[error("{place} cannot be read: {message}")]
    Unreadable {
        /// Table and key.
        place: String,
        /// What is wrong.
        message: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(db) => match db.code().as_deref() {
                Some("42P01" | "3F000" | "42703" | "42883") => {
                    Self::Schema(format!("the tables are not up to date: {}", db.message()))
                }
                // Connection exceptions, resource shortage, operator intervention: the server's state, not the statement.
                Some(code) if matches!(code.get(..2), Some("08" | "53" | "57" | "58")) => Self::Unreachable(error),
                // Serialization failure, deadlock and lock timeout pass by themselves.
                Some("40001" | "40P01" | "55P03" | "25006") => Self::Unreachable(error),
                _ => Self::Refused(error),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unreachable(error),
            _ => Self::Refused(error),
        }
    }
}

impl StoreError {
    /// Whether the same call may go through later without anything being changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Interrupted(_) | Self::Overtaken)
    }

    /// The server is away, in the words of another client.
    pub(crate) fn away(words: String) -> Self {
        Self::Unreachable(sqlx::Error::Io(std::io::Error::other(words)))
    }

    /// A connection was lost under a function's statements, in the words of another client.
    pub(crate) fn interrupted(words: String) -> Self {
        Self::Interrupted(sqlx::Error::Io(std::io::Error::other(words)))
    }

    /// The server refused something, in the words of another client.
    pub(crate) fn refused(words: String) -> Self {
        Self::Refused(sqlx::Error::Io(std::io::Error::other(words)))
    }

    /// Whether a row was to be inserted that is there already.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Refused(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is taken to be alive. The pool hands its connections out in turns, so that those of an
/// idle node rest for some seconds between two uses.
const IDLE_TRUSTED: Duration = Duration::from_secs(30);

/// How to reach the database.
#[derive(Clone)]
pub struct Config {
    /// `postgres://…`, with `sslmode=verify-full` where the network is not trusted.
    pub url: String,
    /// Connections at once.
    pub connections: u32,
    /// How long a statement may take before the server cancels it.
    pub statement_timeout: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("Config").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Config {
    /// The usual settings for `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 12, statement_timeout: Duration::from_secs(30) }
    }
}

/// A pool of connections to the database of the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    options: PgConnectOptions,
    /// This process among all that ever held a lease.
    process: Uuid,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The driver's options show the password.
        f.debug_struct("Store").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Store {
    /// Prepares a pool; the first statement connects.
    ///
    /// # Errors
    /// `StoreError::Address` when the address cannot be parsed.
    pub fn connect_lazy(config: &Config) -> Result<Self, StoreError> {
        let options = address::options(&config.url)?.application_name("oncue").options([
            ("statement_timeout", format!("{}ms", config.statement_timeout.as_millis())),
            ("lock_timeout", "10s".to_owned()),
            // Not the role's: `"$user"` is Oncue's own schema where the role has its name.
            ("search_path", "public".to_owned()),
            ("client_min_messages", "warning".to_owned()),
            ("idle_in_transaction_session_timeout", "60s".to_owned()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            // A connection that lay idle may be one that a restart of the server or the network ended. Asking each one
            // before each use would double the statements of an idle node.
            .test_before_acquire(false)
            .before_acquire(ping_idle)
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options, process: Uuid::new_v4() })
    }

    /// Connects once, to find out whether the database is there and, if not, why: the pool only says that it waited.
    ///
    /// # Errors
    /// `Unreachable` or `Refused` with the server's or the system's words.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let connecting = self.options.connect();
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connection = connection.map_err(|_| StoreError::Unreachable(sqlx::Error::PoolTimedOut))??;
        connection.close().await?;
        Ok(())
    }

    /// Applies the migrations that are missing. Several nodes may do so at once.
    ///
    /// # Errors
    /// `Migrate` when the database was changed by a newer program, or a statement fails.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrator.dangerous_set_table_name("oncue.migrations");
        migrator.create_schema("oncue");
        // A migration of a large table takes as long as it takes.
        let options = self.options.clone().options([("statement_timeout", "0")]);
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT).connect_lazy_with(options);
        let applied = migrator.run(&pool).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(e) => StoreError::from(e),
            other => StoreError::Migrate(other),
        });
        pool.close().await;
        applied
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether an idle connection can be handed out.
#[allow(clippy::needless_pass_by_value)] // the signature is the pool's
fn ping_idle(connection: &mut PgConnection, about: PoolConnectionMetadata) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    Box::pin(async move {
        if about.idle_for > IDLE_TRUSTED {
            connection.ping().await?;
        }
        Ok(true)
    })
}

/// `text` as Postgres can hold it in a `text` column: NUL becomes U+FFFD.
pub(crate) fn clean(text: &str) -> String {
    cleaned(text).into_owned()
}

/// `text` as [`clean`] gives it, borrowed where it is as it is.
pub(crate) fn cleaned(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// `text` cleaned and cut to the 4,096 bytes that error columns hold.
pub(crate) fn clean_error(text: &str) -> String {
    let text = clean(text);
    if text.len() <= 4_096 {
        return text;
    }
    let mut end = 4_093;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
