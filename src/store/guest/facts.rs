//! What `oncue doctor` asks about guests.

use crate::store::{Store, StoreError};

use super::Guests;
use super::link::Owner;
use super::trouble::Trouble;

/// What everybody may do on the server that guests had better not.
#[derive(Clone, Debug)]
pub struct GuestFacts {
    /// Whether the node's own user is a superuser.
    pub superuser: bool,
    /// The node's own user, quoted.
    pub user: String,
    /// The database, quoted.
    pub database: String,
    /// Whether everybody may make temporary objects in it.
    pub temporary: bool,
    /// Functions of the server that take what all sessions share, and that everybody may call, with their arguments.
    pub functions: Vec<String>,
}

impl Store {
    /// Looks at the rights that guests have because everybody has them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn guest_facts(&self) -> Result<GuestFacts, StoreError> {
        Ok(sqlx::query_as!(
            GuestFacts,
            r#"select (select r.rolsuper from pg_roles r where r.rolname = current_user) as "superuser!",
                      quote_ident(current_user) as "user!", quote_ident(current_database()) as "database!",
                      has_database_privilege('public', current_database(), 'TEMPORARY') as "temporary!",
                      array(select p.oid::regprocedure::text from pg_proc p
                            where p.pronamespace = 'pg_catalog'::regnamespace
                              and (p.proname ~ '^pg_(try_)?advisory_(xact_)?lock' or p.proname in
                                   ('lo_create', 'lo_creat', 'lo_from_bytea'))
                              and has_function_privilege('public', p.oid, 'EXECUTE') order by 1) as "functions!""#
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

impl Guests {
    /// Logs in as `role`'s guest, which looks at its rights.
    ///
    /// # Errors
    /// Why functions with this role cannot run statements, with what to do.
    pub async fn check(&self, role: &str) -> Result<(), String> {
        let owner = Owner { role: role.to_owned(), function: "oncue doctor".to_owned() };
        self.inner.link(&owner).await.map(drop).map_err(Trouble::words)
    }
}
