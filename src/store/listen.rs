//! Changes of the control plane as they happen: LISTEN, with a word when something may have been missed.
//!
//! Invariant: after the connection was lost the next answer is [`Told::Reconnected`] or an error, so that the caller
//! reloads everything. A notification is a hint that anybody who may connect can send, as often as they like: its text
//! is not read, none is kept, and they are taken off the server faster than they can be sent, because a listener that
//! lags fills the queue that all databases of the server share.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::time::Instant;

use super::{Store, StoreError};
use crate::telemetry;

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
    /// Waits for a change. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is lost and cannot be made again: listen anew then.
    pub async fn changed(&mut self) -> Result<Told, StoreError> {
        if self.listener.try_recv().await?.is_none() {
            return Ok(Told::Reconnected);
        }
        let buffered = std::iter::from_fn(|| self.listener.next_buffered()).count();
        telemetry::ruleset_notified(1 + buffered as u64);
        Ok(Told::Change)
    }

    /// Takes everything that comes until `end` and gives it as one word: [`Told::Reconnected`] if anything was.
    ///
    /// # Errors
    /// Those of [`changed`](Self::changed).
    pub async fn drain_until(&mut self, end: Instant) -> Result<Told, StoreError> {
        let mut all = Told::Change;
        loop {
            // A flood leaves no moment in which nothing is there to be taken, so the clock is looked at each time.
            let left = end.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Ok(all);
            }
            match tokio::time::timeout(left, self.changed()).await {
                Ok(told) => {
                    if told? == Told::Reconnected {
                        all = Told::Reconnected;
                    }
                }
                Err(_elapsed) => return Ok(all),
            }
        }
    }
}
