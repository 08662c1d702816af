//! Keeps a line: takes what is settled, writes down how far, and only then lets the slot be told.
//!
//! Invariant: what `written` says is in the database already, written in the epoch of the tenure. It lives until every
//! event of the line is settled or dropped, so that a drained node replays nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lsn::Lsn;
use crate::store::feeds::Feeds;

use super::lease::Tenure;
use super::position::Line;

/// How often a position that work has moved is written.
const WORKED: Duration = Duration::from_millis(500);
/// How often one is written that only the server's idling has moved: each write moves the server itself.
const IDLED: Duration = Duration::from_secs(10);
/// How long settled positions gather before they are looked at: each would wake the keeper.
const GATHER: Duration = Duration::from_millis(5);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The task that keeps a line.
pub(super) struct Keeper {
    pub(super) trigger: Arc<str>,
    pub(super) feeds: Feeds,
    pub(super) tenure: Arc<Tenure>,
    pub(super) line: Arc<Line>,
    pub(super) written: watch::Sender<Lsn>,
    pub(super) quit: CancellationToken,
}

impl Keeper {
    /// Works until nobody can settle any more, the lease is lost, or the node quits.
    pub(super) async fn keep(self, mut released: mpsc::Receiver<u64>) {
        let lost = self.tenure.lost.clone();
        let mut due = Instant::now() + WORKED;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.quit.cancelled() => return,
                () = lost.cancelled() => return,
                number = released.recv() => match number {
                    Some(number) => {
                        self.line.settle(number);
                        tokio::time::sleep(GATHER).await;
                        while let Ok(number) = released.try_recv() {
                            self.line.settle(number);
                        }
                    }
                    None => break,
                },
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + WORKED;
                    if self.is_due(last.elapsed()) {
                        last = Instant::now();
                        if !self.write().await {
                            due = Instant::now() + RETRY;
                        }
                    }
                }
            }
        }
        if self.line.settled() > *self.written.borrow() {
            self.write().await;
        }
    }

    fn is_due(&self, since_last: Duration) -> bool {
        let behind = self.line.settled() > *self.written.borrow();
        behind && (self.line.has_worked() || since_last >= IDLED)
    }

    async fn write(&self) -> bool {
        self.line.rest();
        let settled = self.line.settled();
        match self.feeds.advance(&self.trigger, settled, Lsn::ZERO, &self.tenure.fence).await {
            Ok(true) => {
                self.written.send_replace(settled);
                true
            }
            Ok(false) => {
                tracing::warn!(trigger = %self.trigger, "the feed's lease has passed on; its position is not written");
                self.tenure.lost.cancel();
                false
            }
            Err(error) => {
                tracing::debug!(trigger = %self.trigger, %error, "the feed's position could not be written yet");
                false
            }
        }
    }
}
