//! Changes of the control plane as they happen: LISTEN, with a word when something may have been missed.
//!
//! Invariant: after the connection was lost the next answer is [`Told::Reconnected`] or an error, so that the caller
//! reloads everything.

use sqlx::postgres::PgListener;

use super::{Store, StoreError};

/// A connection that listens for changes of functions, triggers and rules.
#[derive(Debug)]
pub struct Changes {
    listener: PgListener,
}

/// What the next word was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something changed.
    Change,
    /// The connection was lost and made again: something may have been missed, and it may be another server.
    Reconnected,
}

impl Store {
    /// Begins to listen. What changed before is not told: load after this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn changes(&self) -> Result<Changes, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen("oncue_ruleset").await?;
        Ok(Changes { listener })
    }
}

impl Changes {
    /// Waits for a change. Several that came together are told once. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is lost and cannot be made again: listen anew then.
    pub async fn changed(&mut self) -> Result<Told, StoreError> {
        let told = if self.listener.try_recv().await?.is_some() { Told::Change } else { Told::Reconnected };
        while self.listener.next_buffered().is_some() {}
        Ok(told)
    }
}
