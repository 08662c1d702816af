//! Guests' SQL: what makes a statement run under its role, and under nothing else.
//!
//! Invariant: a guest's statement runs on a connection whose session user is a login that is a member of the granted
//! role and of nothing else (`logins`). Whatever a statement does to its role or its session, it ends at that login, which
//! may do nothing but call `oncue.guest_settle`, and that asks for a key which only nodes can read. No function that a
//! guest may call takes the text of a statement. A connection is one function's, from its beginning to its end.
//!
//! A connection is taken from a share (`shares`), so that slow functions do not hold up the others, and what it brings is
//! bounded before it is held (`frames`).

mod address;
mod facts;
mod frames;
mod link;
mod logins;
mod param;
pub mod reads;
mod rows;
mod run;
mod settle;
mod shares;
mod trouble;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use self::link::{Link, NotOpen, Owner};
use self::logins::Logins;
use self::shares::Shares;
use self::trouble::Trouble;

use super::Store;

pub use self::address::{Address, Verify};
pub use self::facts::GuestFacts;

/// Connections on which statements of deliveries run at once; a function has one of them at a time.
const EFFECTS: usize = 4;
/// Connections on which reads run at once, and how many of them one function has.
const READS: usize = 4;
const READS_EACH: usize = 2;
/// Connections that are kept for later.
const IDLE_MAX: usize = 8;

/// Connections for the statements of functions. Cheap to clone.
#[derive(Clone)]
pub struct Guests {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    /// Where they go; else why that is not known.
    address: Result<Arc<Address>, String>,
    logins: Logins,
    idle: Mutex<Vec<Link>>,
    effects: Shares,
    reads: Shares,
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guests")
    }
}

impl Guests {
    /// Connections to `address`, which is that of the database of `store`; the first statement connects.
    #[must_use]
    pub fn new(store: Store, address: Result<Address, String>) -> Self {
        let logins = Logins::new(store.pool.clone());
        Self {
            inner: Arc::new(Inner {
                store,
                address: address.map(Arc::new),
                logins,
                idle: Mutex::default(),
                effects: Shares::new(EFFECTS, 1),
                reads: Shares::new(READS, READS_EACH),
            }),
        }
    }
}

impl Guests {
    /// Whether the database of the tables answers, which may be reached by another address.
    pub async fn store_answers(&self) -> bool {
        self.inner.store.ping().await.is_ok()
    }
}

impl Inner {
    /// A connection for `owner`: one that it had, or a new one.
    async fn link(&self, owner: &Owner) -> Result<Link, Trouble> {
        while let Some(link) = self.idle_for(owner) {
            if link.is_alive().await {
                return Ok(link);
            }
        }
        let address = self.address.as_ref().map_err(|why| Trouble::denied(why.clone()))?;
        let login = self.logins.of(&owner.role).await?;
        match Link::open(address, &login, owner.clone()).await {
            Ok(link) => return Ok(link),
            Err(NotOpen::Other(trouble)) => return Err(trouble),
            Err(NotOpen::Login(_)) => self.logins.forget(&owner.role),
        }
        // Another node may have made it anew; or the tables were restored, and the login was not.
        let again = self.logins.of(&owner.role).await?;
        let login = if again.password == login.password { self.logins.make(&owner.role).await? } else { again };
        match Link::open(address, &login, owner.clone()).await {
            Ok(link) => Ok(link),
            Err(NotOpen::Other(trouble)) => Err(trouble),
            Err(NotOpen::Login(words)) => Err(Trouble::denied(format!(
                "{words}; functions with the role {} log in as that user, with a password: allow it in pg_hba.conf",
                owner.role
            ))),
        }
    }

    fn idle_for(&self, owner: &Owner) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = idle.iter().rposition(|link| link.owner == *owner)?;
        Some(idle.remove(place))
    }

    /// Keeps a connection on which no transaction is open.
    fn keep(&self, mut link: Link) {
        link.rest();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_MAX {
            idle.remove(0);
        }
        idle.push(link);
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_name_is_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
