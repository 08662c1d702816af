//! Tickets: an event in flight, held by everything that still has to be settled about it.
//!
//! Invariant: the source is told once, and only after every share was settled. A share that is dropped unsettled keeps
//! the source from ever being told: it sends the event again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::budget::Credit;

/// One share of an event in flight.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: AtomicUsize,
    release: Option<(mpsc::Sender<u64>, u64)>,
    _credit: Credit,
}

impl Ticket {
    /// The first share of the event at `position`; `release` gets the position when all are settled. Its queue must
    /// have room for as many positions as there are credits.
    #[must_use]
    pub fn new(position: u64, release: mpsc::Sender<u64>, credit: Credit) -> Self {
        let shared = Shared { open: AtomicUsize::new(1), release: Some((release, position)), _credit: credit };
        Self { shared: Arc::new(shared) }
    }

    /// A ticket that no source waits for: it only holds its credit.
    #[must_use]
    pub fn unowned(credit: Credit) -> Self {
        Self { shared: Arc::new(Shared { open: AtomicUsize::new(1), release: None, _credit: credit }) }
    }

    /// One more share.
    #[must_use]
    pub fn share(&self) -> Self {
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }

    /// Settles this share.
    pub fn settled(self) {
        if self.shared.open.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some((release, position)) = &self.shared.release
            && let Err(mpsc::error::TrySendError::Full(_)) = release.try_send(*position)
        {
            // The source sends the event again; the ledger recognises it.
            tracing::warn!(position, "a settled position could not be released: the trigger's queue is full");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::budget::Budget;

    #[tokio::test]
    async fn the_source_is_told_after_the_last_share_and_once() {
        let (sender, mut released) = mpsc::channel(4);
        let ticket = Ticket::new(7, sender, Budget::new(1, 1).reserve(1, 1).await);
        let share = ticket.share();
        ticket.settled();
        assert!(released.try_recv().is_err());
        share.settled();
        assert_eq!(released.try_recv(), Ok(7));
        assert!(released.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_dropped_share_keeps_the_source_untold() {
        let (sender, mut released) = mpsc::channel(4);
        let ticket = Ticket::new(7, sender, Budget::new(1, 1).reserve(1, 1).await);
        drop(ticket.share());
        ticket.settled();
        assert!(released.try_recv().is_err());
    }
}
