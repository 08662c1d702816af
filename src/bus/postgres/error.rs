//! What can go wrong between Oncue and a source Postgres, and what mends it.
//!
//! Invariant: an error says what was being done to which bus, and names the SQL that mends it where the cause is known.

use sqlx::postgres::PgDatabaseError;

use crate::sqlstate::Said;

/// Why a source could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address of the bus is not one.
    #[error("bus \"{bus}\": the address is not valid: {message}")]
    Address {
        /// The bus.
        bus: String,
        /// What is wrong, without the address: it may hold a password.
        message: String,
    },
    /// The server is away, starting, or lacks something for the moment: the same call may go through later.
    #[error("bus \"{bus}\": failed to {action} on {place}: {}{mend}", words(source))]
    Unreachable {
        /// The bus.
        bus: String,
        /// What was being done.
        action: String,
        /// Host, port and database.
        place: String,
        /// What helps where it does not pass, or nothing.
        mend: String,
        /// The driver's words.
        source: Box<sqlx::Error>,
    },
    /// The server refused.
    #[error("bus \"{bus}\": failed to {action}: {}{mend}", words(source))]
    Refused {
        /// The bus.
        bus: String,
        /// What was being done.
        action: String,
        /// `; run …`, or nothing.
        mend: String,
        /// The server's words.
        source: Box<sqlx::Error>,
    },
    /// The server cannot be a source as it is.
    #[error("bus \"{bus}\": {message}")]
    Unfit {
        /// The bus.
        bus: String,
        /// Why, and what to do.
        message: String,
    },
}

impl SourceError {
    /// Whether the same call may go through later without anything being changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The SQLSTATE, where the server answered.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } | Self::Refused { source, .. } => code(source),
            Self::Address { .. } | Self::Unfit { .. } => None,
        }
    }
}

pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// What went wrong, without values: the change of a row, or an event that is published, is in the statement's parameters.
fn words(error: &sqlx::Error) -> String {
    let Some(said) = error.as_database_error() else {
        return match error {
            sqlx::Error::ColumnDecode { index, .. } => format!("the value of column {index} cannot be read"),
            sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => "a value cannot be read or written".to_owned(),
            other => other.to_string(),
        };
    };
    let names = said
        .try_downcast_ref::<PgDatabaseError>()
        .map(|said| [said.schema(), said.table(), said.column(), said.data_type(), said.constraint()]);
    let code = said.code().unwrap_or_default();
    Said { code: &code, message: said.message(), names: names.unwrap_or_default() }.words()
}

/// Whether the error passes by itself.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(db) => match db.code().as_deref() {
            // All slots in use, and what an administrator set, do not pass by themselves.
            Some("53400") => false,
            // Connection exceptions, resource shortage, operator intervention, system errors.
            Some(code) if matches!(code.get(..2), Some("08" | "53" | "57")) => true,
            // Serialization failure, deadlock, lock timeout, object in use.
            Some("40001" | "40P01" | "55P03" | "55006" | "58000" | "58030") => true,
            _ => false,
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

/// What mends a refusal with the SQLSTATE `code`, whatever was being done. For the words of a replication connection
/// too, which are not the driver's.
#[must_use]
pub fn mending(code: &str, role: &str) -> Option<String> {
    let role = super::name::quoted(role);
    Some(match code {
        "28P01" | "28000" => "check the user and the password of the bus's url, and pg_hba.conf".to_owned(),
        "3D000" => "check the database in the bus's url".to_owned(),
        "42501" => format!("run `alter role {role} replication`"),
        "53300" => "raise max_connections or close connections".to_owned(),
        "53400" => "free a slot with `select pg_drop_replication_slot('…')`, or run `alter system set \
                    max_replication_slots = 20` and restart the server"
            .to_owned(),
        "58P01" => "the WAL that the slot needs is gone; `oncue doctor` says how to go on".to_owned(),
        _ => return None,
    })
}
