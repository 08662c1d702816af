//! A connection of one login, on which one function runs statements of its role. No other function ever has it.
//!
//! Invariant: between transactions nothing of a delivery is left on a connection: settings, the role and locks are taken back
//! with each. Text of a guest
//! is sent by itself and never put into a text of ours but where it is read from, and every text is one statement that
//! `prepare` takes, which the server's grammar decides.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use crate::function::sql::Statement;

use super::address::Address;
use super::frames::Frames;
use super::param::{type_of, types_key};
use super::quoted;
use super::trouble::Trouble;

/// Statements that are kept prepared on a connection.
const PREPARED_MAX: usize = 200;

/// How long a session that lay idle is trusted.
const IDLE_TRUSTED: Duration = Duration::from_secs(30);

/// How long the server may take for what it does at once.
pub(super) const PROMPT: Duration = Duration::from_secs(5);

/// What holds on each connection, and what `reset all` brings back, whatever was set for the login.
const SETTINGS: &str = "-c role=none -c search_path=\"$user\",public -c statement_timeout=5s -c lock_timeout=5s \
    -c idle_in_transaction_session_timeout=60s -c client_min_messages=error -c work_mem=16MB \
    -c default_transaction_read_only=off -c default_transaction_deferrable=off \
    -c default_transaction_isolation=read\\ committed";

/// Who a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) role: String,
    pub(super) function: String,
}

/// A connection. Dropping it ends it.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) owner: Owner,
    /// The granted role, quoted.
    pub(super) role: String,
    /// Deliveries that are sent before the first answer came.
    pub(super) window: usize,
    prepared: HashMap<(Arc<str>, Vec<u8>), tokio_postgres::Statement>,
    /// Whether a prepared statement is of no use any more.
    stale: AtomicBool,
    used: Instant,
    address: Arc<Address>,
    /// Why it ended.
    why: Arc<OnceLock<String>>,
    _driver: JoinSet<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// The login of a role.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

/// Why no connection was made.
pub(super) enum NotOpen {
    /// The server does not take the login: it may be that its password is another one now.
    Login(String),
    Other(Trouble),
}

impl From<Trouble> for NotOpen {
    fn from(trouble: Trouble) -> Self {
        Self::Other(trouble)
    }
}

impl Link {
    /// Connects as `login` for `owner`.
    pub(super) async fn open(address: &Arc<Address>, login: &Login, owner: Owner) -> Result<Self, NotOpen> {
        let away = |error: std::io::Error| Trouble::Away(format!("{}: {error}", address.place()));
        let stream = Frames::new(address.connect().await.map_err(away)?);
        let mut config = tokio_postgres::Config::new();
        config.user(&login.name).password(&login.password).dbname(&address.database);
        config.application_name("oncue guest").ssl_mode(SslMode::Disable).options(SETTINGS);
        let connecting = tokio::time::timeout(PROMPT, config.connect_raw(stream, NoTls)).await;
        let connecting = connecting.map_err(|_| Trouble::Away("the server did not answer within 5 s".to_owned()))?;
        let (client, connection) = connecting.map_err(|error| refused_login(error, &login.name))?;
        let why: Arc<OnceLock<String>> = Arc::default();
        let mut driver = JoinSet::new();
        driver.spawn({
            let why = Arc::clone(&why);
            async move {
                let mut connection = Box::pin(connection);
                if let Err(error) = connection.as_mut().await {
                    // Before the connection goes, and whoever waits for an answer hears only that it has gone.
                    let _ = why.set(Trouble::from(error).words());
                }
            }
        });
        let role = quoted(&owner.role);
        let link = Self {
            client,
            owner,
            role,
            window: super::run::WINDOW_MIN,
            prepared: HashMap::new(),
            stale: AtomicBool::new(false),
            used: Instant::now(),
            address: Arc::clone(address),
            why,
            _driver: driver,
        };
        link.look_at_login(&login.name).await?;
        Ok(link)
    }

    /// Refuses a login that may do more than a guest may.
    async fn look_at_login(&self, login: &str) -> Result<(), Trouble> {
        let row = prompt(self.client.query_one("select oncue.guest_login()", &[])).await?;
        let Some(why) = row.try_get::<_, Option<String>>(0)? else { return Ok(()) };
        let words = format!(
            "the login {login} is not fit for guests: {why}; take that from the role {} or grant another role",
            self.role
        );
        Err(Trouble::denied(words))
    }

    /// Whether the connection, which lay idle, can be used.
    pub(super) async fn is_alive(&self) -> bool {
        !self.client.is_closed()
            && (self.used.elapsed() < IDLE_TRUSTED || prompt(self.client.check_connection()).await.is_ok())
    }

    /// What `error` of a statement means. A table whose columns changed leaves a prepared statement that fails for ever.
    pub(super) fn judge(&self, error: tokio_postgres::Error) -> Trouble {
        let is_stale = |code: &SqlState| *code == SqlState::FEATURE_NOT_SUPPORTED || code.code().starts_with("42");
        if error.code().is_some_and(is_stale) {
            self.stale.store(true, Ordering::Relaxed);
        }
        error.into()
    }

    /// Forgets prepared statements of which one is of no use any more.
    pub(super) fn forget_stale(&mut self) {
        if self.stale.swap(false, Ordering::Relaxed) {
            self.prepared.clear();
        }
    }

    /// `trouble`, with the reason where the connection was lost.
    pub(super) fn explain(&self, trouble: Trouble) -> Trouble {
        match (trouble, self.why.get()) {
            (Trouble::Lost(_), Some(why)) => Trouble::Lost(why.clone()),
            (trouble, _) => trouble,
        }
    }

    /// Says that it is not in use from now on.
    pub(super) fn rest(&mut self) {
        self.used = Instant::now();
    }

    /// The prepared `statement`, if it was prepared before. `wrapped` is the text if that is not its own.
    pub(super) fn known(&self, statement: &Statement, text: &str) -> Option<tokio_postgres::Statement> {
        self.prepared.get(&(Arc::from(text), types_key(statement))).cloned()
    }

    /// Prepares `text` with the types of the values of `statement`, or finds it prepared.
    pub(super) async fn prepare(
        &mut self,
        statement: &Statement,
        text: &str,
    ) -> Result<tokio_postgres::Statement, Trouble> {
        if let Some(known) = self.known(statement, text) {
            return Ok(known);
        }
        // The server's grammar takes select, insert, update, delete, merge and values there, one of them, and nothing else.
        // This is only parsed: it is never run.
        self.client.prepare_typed(&format!("prepare oncue_guest as\n{text}"), &[]).await?;
        let types: Vec<Type> = statement.params.iter().map(type_of).collect();
        let prepared = self.client.prepare_typed(text, &types).await?;
        if prepared.params().len() != statement.params.len() {
            let (wants, has) = (prepared.params().len(), statement.params.len());
            return Err(Trouble::denied(format!("the statement takes {wants} values and got {has}")));
        }
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert((Arc::from(text), types_key(statement)), prepared.clone());
        Ok(prepared)
    }

    /// Has the server cancel what runs. When it returns, the server has been told.
    pub(super) async fn cancel(&self) {
        let cancel = async {
            let mut stream = self.address.connect().await?;
            let told = self.client.cancel_token().cancel_query_raw(&mut stream, NoTls).await;
            told.map_err(std::io::Error::other)?;
            // The server closes it after it has sent the signal.
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
        };
        if let Ok(Err(error)) | Err(error) = tokio::time::timeout(PROMPT, cancel).await.map_err(std::io::Error::other) {
            tracing::debug!(%error, "a guest's statement could not be cancelled");
        }
    }
}

/// What is done at once, or the connection is given up.
pub(super) async fn prompt<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
    let answer = tokio::time::timeout(PROMPT, answer).await;
    answer.map_err(|_| Trouble::Away("the server did not answer within 5 s".to_owned()))?.map_err(Trouble::from)
}

fn refused_login(error: tokio_postgres::Error, login: &str) -> NotOpen {
    let code = error.code().map(|code| code.code().to_owned());
    let words = format!("cannot log in as {login}: {}", Trouble::from(error).words());
    match code.as_deref() {
        // Wrong password; no such role, no right to log in, no line in pg_hba.conf.
        Some("28P01" | "28000") => NotOpen::Login(words),
        // Too many connections, of this login perhaps: its functions have to wait, nobody else.
        Some("53300") => Trouble::refused(words).into(),
        // The database is starting or stopping.
        Some(code) if code.starts_with("57P") || code.starts_with("53") => Trouble::Away(words).into(),
        Some(_) => Trouble::refused(words).into(),
        None => Trouble::Away(words).into(),
    }
}
