//! What goes wrong on a guest's connection, sorted by whose fault it is.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::sqlstate::Said;
use crate::store::StoreError;
use crate::store::settle::Refusal;

/// Why something did not run.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The server refused it; the connection lives on.
    Refused(Refusal),
    /// The connection is gone, perhaps because of it.
    Lost(String),
    /// The server cannot be reached, or Oncue's own tables did not answer.
    Away(String),
}

impl Trouble {
    /// A refusal that trying again does not change.
    pub(super) fn denied(words: impl Into<String>) -> Self {
        Self::Refused(Refusal { permanent: true, words: words.into() })
    }

    /// A refusal that may pass.
    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self::Refused(Refusal { permanent: false, words: words.into() })
    }

    /// The same of what is no guest's: the connection is of no use then, and what was under way is done again.
    pub(super) fn ours(self) -> Self {
        match self {
            Self::Refused(refusal) => Self::Lost(refusal.words),
            other => other,
        }
    }

    /// The same after a guest's statements ran, which may be the cause, whatever it is.
    pub(super) fn lost(self) -> Self {
        Self::Lost(self.words())
    }

    /// The same, with what it is about before its words.
    pub(super) fn about(self, what: &str) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(Refusal { words: format!("{what}: {}", refusal.words), ..refusal }),
            other => other,
        }
    }

    /// In words.
    pub(super) fn words(self) -> String {
        match self {
            Self::Refused(refusal) => refusal.words,
            Self::Lost(words) | Self::Away(words) => words,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // No answer of the server to a statement: the protocol is out of step, or the connection gone.
            let source = error.source().map(ToString::to_string);
            return Self::Lost(source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}")));
        };
        let code = db.code();
        let words = words(db);
        // Connection exceptions and operator intervention, but for a statement that was cancelled. A prepared statement that is not
        // there, or there already: a guest took it away, so the connection is of no use.
        let ends =
            code.code().starts_with("08") || code.code().starts_with("57P") || matches!(code.code(), "26000" | "42P05");
        if ends {
            return Self::Lost(words);
        }
        let permanent = *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::SYNTAX_ERROR;
        Self::Refused(Refusal { permanent, words })
    }
}

/// The error with its SQLSTATE, without the values that the server quotes: these words are kept and shown.
fn words(error: &DbError) -> String {
    let names = [error.schema(), error.table(), error.column(), error.datatype(), error.constraint()];
    Said { code: error.code().code(), message: error.message(), names }.guest_words()
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_) | StoreError::Schema(_) => Self::refused(error.to_string()),
            other => Self::Away(other.to_string()),
        }
    }
}
