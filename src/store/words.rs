//! The words for errors of the driver: what may be logged and shown.
//!
//! Invariant: they hold no value of a row, a parameter or an address (`sqlstate`).

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::sqlstate::Said;

/// Words for `error` of one of our own statements.
#[must_use]
pub fn of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(said) => worded(said.as_ref(), false),
        // Their sources quote what could not be read.
        sqlx::Error::ColumnDecode { index, .. } => format!("the value of column {index} cannot be read"),
        sqlx::Error::Decode(_) => "a value cannot be read".to_owned(),
        sqlx::Error::Encode(_) => "a value cannot be written".to_owned(),
        sqlx::Error::Configuration(_) => "a setting of the connection cannot be read".to_owned(),
        other => other.to_string(),
    }
}

/// Words for `error` of a statement whose text is a guest's.
#[must_use]
pub fn of_guest(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(said) => worded(said.as_ref(), true),
        other => of(other),
    }
}

fn worded(said: &dyn DatabaseError, is_guests: bool) -> String {
    let names = said
        .try_downcast_ref::<PgDatabaseError>()
        .map(|said| [said.schema(), said.table(), said.column(), said.data_type(), said.constraint()]);
    let code = said.code().unwrap_or_default();
    let said = Said { code: &code, message: said.message(), names: names.unwrap_or_default() };
    if is_guests { said.guest_words() } else { said.words() }
}
