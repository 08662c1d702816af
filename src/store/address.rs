//! The address of the database, checked before the driver reads it.
//!
//! Invariant: no error and no log shows a part of an address. The driver logs a parameter that it does not know with its
//! value, so that none reaches it.

use std::str::FromStr;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use super::StoreError;

/// What an address looks like, for errors.
pub const ADDRESS_FORM: &str = "it looks like postgres://user:password@host:5432/database, where @, :, /, ? and % of a \
     password are written %40, %3A, %2F, %3F and %25";

/// Parameters that the driver knows.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Checks the address `url` of a database.
///
/// # Errors
/// What is wrong, without any part of the address.
pub fn check_address(url: &str) -> Result<(), String> {
    read(url).map(drop)
}

/// How to connect to `url`. The driver would log slow statements, and a guest may have written a value into its own.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    read(url).map(PgConnectOptions::disable_statement_logging).map_err(StoreError::Address)
}

fn read(url: &str) -> Result<PgConnectOptions, String> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or("this is no address of a Postgres")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.split_once('/').is_some_and(|(_, database)| database.contains('@')) {
        return Err("the database of the address holds an @".to_owned());
    }
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if !PARAMETERS.contains(&name) && !name.starts_with("options[") {
            let known = PARAMETERS.join(", ");
            return Err(format!("parameter {} of the address is unknown; the parameters are {known}", at + 1));
        }
    }
    // What the driver says repeats values.
    PgConnectOptions::from_str(url).map_err(|_| "a part of the address cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_wrong_is_told_without_a_part_of_it() {
        let table = [
            ("mysql://me:hush@db/x", "no address of a Postgres"),
            ("postgres://me:hu/sh@db/x", "holds an @"),
            ("postgres://me:hu?sh@db/x", "parameter 1"),
            ("postgres://me:hush@db/x?sslmode=require&passwrd=hush", "parameter 2"),
            ("postgres://me:hush@db/x?sslmode=hush", "cannot be read"),
            ("postgres://me:hush@db:hush/x", "cannot be read"),
            ("postgres://me:hush%ff@db/x", "cannot be read"),
        ];
        for (url, expected) in table {
            let error = check_address(url).expect_err(url);
            assert!(error.contains(expected) && !error.contains("hu"), "{url}: {error}");
        }
        for url in ["postgres://me:hush@db:5432/x?sslmode=require&options[a]=b", "postgresql:///x?host=/run/pg"] {
            assert_eq!(check_address(url), Ok(()), "{url}");
        }
    }
}
