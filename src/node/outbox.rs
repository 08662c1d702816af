//! The outbox's relay: publishes what deliveries with SQL effects emitted, once that is committed.
//!
//! Invariant: a row goes only after its event was published, and one that cannot be published holds up no other. What
//! this node commits it publishes at once, in the order of the commits; what a node left behind is claimed by whoever
//! asks next. A crash in between publishes an event again, under the same id.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::event::codec;
use crate::outputs::{Output, Outputs};
use crate::store::outbox::{Claimed, OutboxKey};
use crate::telemetry;

use super::Shared;

/// An event on its way out, and its row.
pub(super) type Keyed = (OutboxKey, Output);

/// Deliveries whose events wait in memory; those of more wait in the table alone.
pub(super) const QUEUE: usize = 4_096;

/// Events that are published together.
const BATCH: usize = 256;
/// Bytes of claimed rows are bounded by their number: an event has 1 MiB at most by default.
const CLAIMS: u32 = 64;
/// Least time between two claims that found nothing.
const IDLE: Duration = Duration::from_secs(1);

/// What the relay works with.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) shared: Shared,
    pub(super) outputs: Outputs,
    /// What this node committed.
    pub(super) committed: mpsc::Receiver<Vec<Keyed>>,
    /// When a row of the table is due.
    pub(super) due: watch::Receiver<Option<Instant>>,
}

/// Tells the relay that a row is due in `ms` (now, if that is negative); none says nothing.
pub(super) fn due_in_ms(shared: &Shared, ms: Option<i64>) {
    let Some(ms) = ms else { return };
    let due = Instant::now() + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    shared.outbox_due.send_if_modified(|next| {
        let sooner = next.is_none_or(|next| due < next);
        if sooner {
            *next = Some(due);
        }
        sooner
    });
}

impl Relay {
    /// Publishes until the node has finished, and what was committed until then.
    pub(super) async fn run(mut self) {
        let token = self.shared.drain.token();
        let mut not_before = Instant::now();
        loop {
            let due = *self.due.borrow_and_update();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.max(not_before)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = token.quit.cancelled() => return,
                Some(first) = self.committed.recv() => self.publish_from(first).await,
                () = token.finished.cancelled() => break,
                changed = self.due.changed() => if changed.is_err() { return },
                () = wait => {
                    let claimed = self.claim().await;
                    let pause = if claimed == 0 { IDLE } else { Duration::ZERO };
                    not_before = Instant::now() + pause;
                    if claimed < CLAIMS as usize {
                        self.forget(due);
                    }
                }
            }
        }
        while let Ok(first) = self.committed.try_recv() {
            self.publish_from(first).await;
        }
    }

    /// Forgets the due time `seen`, because it was acted on; the next one is asked for anyway.
    fn forget(&self, seen: Option<Instant>) {
        self.shared.outbox_due.send_if_modified(|due| {
            if *due == seen {
                *due = None;
            }
            false
        });
    }

    async fn publish_from(&mut self, first: Vec<Keyed>) {
        let mut batch = first;
        while batch.len() < BATCH {
            let Ok(more) = self.committed.try_recv() else { break };
            batch.extend(more);
        }
        self.publish(batch).await;
    }

    /// Claims what is due and publishes it.
    async fn claim(&self) -> usize {
        let claimed = match self.shared.store.claim_outbox(&self.shared.name, CLAIMS).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "cannot claim rows of the outbox");
                return 0;
            }
        };
        let count = claimed.len();
        let (mut batch, mut unreadable) = (Vec::with_capacity(count), Vec::new());
        for Claimed { key, row } in claimed {
            match codec::from_structured(&row.event, &codec::Limits::STORED) {
                Ok(event) => {
                    let output = Output { bus: row.bus, subject: row.subject, event, message_id: row.message_id };
                    batch.push((key, output));
                }
                Err(error) => unreadable.push((key, format!("the stored event cannot be read: {error}"))),
            }
        }
        self.keep(unreadable).await;
        self.publish(batch).await;
        count
    }

    async fn publish(&self, batch: Vec<Keyed>) {
        if batch.is_empty() {
            return;
        }
        let (keys, outputs): (Vec<OutboxKey>, Vec<Output>) = batch.into_iter().unzip();
        let results = self.outputs.publish_each(&outputs).await;
        let (mut published, mut failures) = (Vec::with_capacity(keys.len()), Vec::new());
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(()) => published.push(key),
                Err(error) => failures.push((key, error.to_string())),
            }
        }
        telemetry::relayed(published.len());
        if !published.is_empty()
            && let Err(error) = self.shared.store.published(&published).await
        {
            tracing::warn!(%error, events = published.len(), "cannot take published events out of the outbox; they are published again");
        }
        self.keep(failures).await;
    }

    /// Keeps what could not be published for later.
    async fn keep(&self, failures: Vec<(OutboxKey, String)>) {
        let Some((_, error)) = failures.first() else { return };
        tracing::warn!(error, events = failures.len(), "events stay in the outbox and are published later");
        if let Err(error) = self.shared.store.not_published(&failures).await {
            tracing::debug!(%error, "cannot say so in the outbox; the lease of these rows will end");
        }
    }
}
