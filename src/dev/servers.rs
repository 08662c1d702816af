//! Private servers: a Postgres and a nats-server of our own, for `oncue dev` and for the tests.
//!
//! Invariant: a server that was started here does not outlive this process, not even after `kill -9` (where `setpriv`
//! exists; elsewhere the next start in the same directory ends the orphan), and a directory is used by one process at
//! a time. Servers listen on the loopback address only. With an [`Access`] and a password they accept nobody who does not
//! know it; without, as in tests, every local user: nothing here is for production.
//! This module does not read the environment (callers pass [`Overrides`]), download anything, or create schemas.

use std::{
    io,
    path::{Path, PathBuf},
};

mod access;
mod find;
mod home;
mod nats;
mod postgres;
mod process;

pub use access::Access;
pub use find::{find_nats_server, find_postgres};
pub use nats::{NatsConfig, PrivateNats};
pub use postgres::{PostgresConfig, PrivatePostgres};

/// Where the user says that the binaries are.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A directory with `postgres` and `initdb` (`ONCUE_PG_BIN`).
    pub pg_bin: Option<PathBuf>,
    /// The `nats-server` program itself (`ONCUE_NATS_SERVER`).
    pub nats_server: Option<PathBuf>,
}

/// Why there is no private server. Every message says what mends it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No usable binaries: `oncue dev` goes on without NATS, and asks for `DATABASE_URL` instead of Postgres.
    #[error("no usable {server} was found ({tried}); {fix}")]
    NotFound {
        /// Which server.
        server: &'static str,
        /// What was looked at, and what was wrong with it.
        tried: String,
        /// How to get one.
        fix: &'static str,
    },
    /// Another process runs a server in this directory.
    #[error("{} is in use by another process; stop the other `oncue dev`", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory could not be prepared.
    #[error("failed to {action} {}", path.display())]
    Directory {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server did not come up.
    #[error("{server} did not start: {reason}; its last words:\n{tail}")]
    Start {
        /// Which server.
        server: &'static str,
        /// What was seen, and what to do.
        reason: String,
        /// The end of its log.
        tail: String,
    },
}

impl ServerError {
    /// For `map_err`: the directory error of `action` on `path`.
    fn directory(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Directory { action, path, source }
    }
}

#[cfg(test)]
mod tests;
