//! The logins of guests: one for each granted role, known to the tables and to whoever may read them.
//!
//! Invariant: a login is made by `oncue.make_guest` alone, so that it is a member of its role and of nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::PgPool;

use crate::store::{StoreError, words};

use super::link::Login;
use super::quoted;
use super::trouble::Trouble;

/// Roles whose logins are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Finds and makes logins.
pub(super) struct Logins {
    pool: PgPool,
    known: Mutex<HashMap<String, Login>>,
    key: Mutex<Option<Arc<[u8]>>>,
}

impl Logins {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, known: Mutex::default(), key: Mutex::default() }
    }

    /// What a node shows `oncue.guest_settle`.
    pub(super) async fn key(&self) -> Result<Arc<[u8]>, StoreError> {
        if let Some(key) = &*self.key.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(key));
        }
        let key = sqlx::query_scalar!("select key from oncue.guest_key").fetch_one(&self.pool).await?;
        let key: Arc<[u8]> = key.into();
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&key));
        Ok(key)
    }

    /// Forgets the key: the tables may have been restored with another.
    pub(super) fn forget_key(&self) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The login of `role`; it is made where there is none.
    pub(super) async fn of(&self, role: &str) -> Result<Login, Trouble> {
        if let Some(known) = self.remembered(role) {
            return Ok(known);
        }
        let row = sqlx::query!(r#"select login, password from oncue.guests where role = $1"#, role);
        match row.fetch_optional(&self.pool).await.map_err(StoreError::from)? {
            Some(row) => Ok(self.remember(role, Login { name: row.login, password: row.password })),
            None => self.make(role).await,
        }
    }

    /// Makes the login of `role` anew, with another password.
    pub(super) async fn make(&self, role: &str) -> Result<Login, Trouble> {
        let made = sqlx::query_scalar!(r#"select oncue.make_guest($1) as "login!""#, role).fetch_one(&self.pool).await;
        made.map_err(|error| not_made(error, role))?;
        let row = sqlx::query!(r#"select login, password from oncue.guests where role = $1"#, role);
        let row = row.fetch_one(&self.pool).await.map_err(StoreError::from)?;
        tracing::info!(role, login = row.login, "made a login for functions with this role");
        Ok(self.remember(role, Login { name: row.login, password: row.password }))
    }

    /// Forgets the login of `role`; somebody may have changed it.
    pub(super) fn forget(&self, role: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(role);
    }

    fn remembered(&self, role: &str) -> Option<Login> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(role).cloned()
    }

    fn remember(&self, role: &str, login: Login) -> Login {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(role.to_owned(), login.clone());
        login
    }
}

fn not_made(error: sqlx::Error, role: &str) -> Trouble {
    let Some(db) = error.as_database_error() else { return StoreError::from(error).into() };
    let code = db.code().map(std::borrow::Cow::into_owned).unwrap_or_default();
    let said = format!("cannot take the granted role: {}", words::of(&error));
    let name = quoted(role);
    match code.as_str() {
        "42704" => Trouble::denied(format!("{said}; fix it with: create role {name} nologin;")),
        "42501" => {
            let literal = role.replace('\'', "''");
            Trouble::denied(format!(
                "{said}; the node's database user may not make the login for it: as a user who may create roles and grant \
                 {name}, run in this database: select oncue.make_guest('{literal}');"
            ))
        }
        _ => match StoreError::from(error) {
            refused @ StoreError::Refused(_) => Trouble::refused(refused.to_string()),
            other => other.into(),
        },
    }
}
