//! The settler: outcomes of deliveries → groups → one transaction each → the word that they are settled.
//!
//! Invariant: `settle` returns only after the transaction that holds the record was committed. A database that is away
//! is waited for, for ever: nothing is dropped, and whoever waits holds its message unacknowledged. A record that the
//! database refuses is separated from its group, so that it cannot hold up the others. Deliveries that run statements
//! of functions have groups of their own: however slow those are, the others do not wait for them.

mod batch;
mod counts;
mod effects;

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::store::guest::Guests;
use crate::store::settle::{Group, Next, Record, Recorded, Refusal, Rejected};
use crate::store::{Store, StoreError};
use crate::telemetry;

use self::batch::{Batch, Item};
use self::counts::Counts;

/// When a group is closed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most records of a group.
    pub group_count: usize,
    /// Most bytes of payloads in a group.
    pub group_bytes: usize,
    /// How long a group waits for more after its first record; none waits while a transaction is under way anyway.
    pub group_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { group_count: 1_000, group_bytes: 4 << 20, group_wait: Duration::from_millis(2) }
    }
}

/// Records that wait for the settler before whoever settles waits.
const QUEUE: usize = 4_096;

/// How often counts of unmatched events are written when nothing else is.
const UNMATCHED_FLUSH: Duration = Duration::from_secs(1);

/// How a record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is in the database.
    Fresh,
    /// It had been settled before: this result changed nothing.
    Duplicate,
    /// It was read under a lease that has passed on: nothing was written, and its source must not be told anything.
    Fenced,
    /// The database refused its statements: nothing was written, and the attempt has failed.
    Refused(Refusal),
}

/// Hands records to the settler. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Settler {
    items: mpsc::Sender<Item>,
    effects: mpsc::Sender<Item>,
    unmatched: Counts,
    store_up: watch::Receiver<bool>,
}

/// The settler went away before the record was settled: the node is quitting.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the settler ended")]
pub struct Ended;

impl Settler {
    /// A settler and the task that works for it.
    #[must_use]
    pub fn new(store: Store, guests: Guests, node: String, config: Config) -> (Self, SettlerTask) {
        let (items, queue) = mpsc::channel(QUEUE);
        let unmatched = Counts::default();
        let (up, store_up) = watch::channel(true);
        let (effects, effects_queue) = mpsc::channel(QUEUE);
        let effects_worker = effects::Worker { guests, node: node.clone(), queue: effects_queue, up: up.clone() };
        let plain = Worker { store, node, config, queue, up, counts: unmatched.clone() };
        (Self { items, effects, unmatched, store_up }, SettlerTask { plain, effects: effects_worker })
    }

    /// Settles `record`: returns after the commit, or with why its statements were refused.
    ///
    /// # Errors
    /// `Ended` when the node quits; the record may or may not be in the database then.
    pub async fn settle(&self, record: Record) -> Result<Settled, Ended> {
        let (done, wait) = oneshot::channel();
        let items = if record.effects.is_some() { &self.effects } else { &self.items };
        items.send(Item::Record(Box::new(record), done)).await.map_err(|_| Ended)?;
        wait.await.map_err(|_| Ended)
    }

    /// Keeps a message that could not become an event: returns after the commit.
    ///
    /// # Errors
    /// `Ended` when the node quits.
    pub async fn reject(&self, rejected: Rejected) -> Result<Settled, Ended> {
        let (done, wait) = oneshot::channel();
        self.items.send(Item::Rejected(Box::new(rejected), done)).await.map_err(|_| Ended)?;
        wait.await.map_err(|_| Ended)
    }

    /// Records an event that no rule matched: returns after the commit.
    ///
    /// # Errors
    /// `Ended` when the node quits.
    pub async fn record(&self, recorded: Recorded) -> Result<Settled, Ended> {
        let (done, wait) = oneshot::channel();
        self.items.send(Item::Recorded(Box::new(recorded), done)).await.map_err(|_| Ended)?;
        wait.await.map_err(|_| Ended)
    }

    /// Counts `count` events like `event` that no rule matched. Counts are written within a second; a crash may lose the
    /// last ones.
    pub fn unmatched(&self, trigger: &str, event: &Event, count: u64) {
        self.unmatched.add(trigger, event, count);
    }

    /// Whether the last transaction went through: sources wait while it did not.
    #[must_use]
    pub fn store_up(&self) -> watch::Receiver<bool> {
        self.store_up.clone()
    }
}

/// The task of a settler.
pub struct SettlerTask {
    plain: Worker,
    effects: effects::Worker,
}

impl SettlerTask {
    /// Works until `finished` (when nobody settles any more) or `quit`.
    pub async fn run(self, finished: CancellationToken, quit: CancellationToken) {
        tokio::join!(self.plain.run(&finished, &quit), self.effects.run(&finished, &quit));
    }
}

#[derive(Debug)]
struct Worker {
    store: Store,
    node: String,
    config: Config,
    queue: mpsc::Receiver<Item>,
    up: watch::Sender<bool>,
    counts: Counts,
}

impl Worker {
    async fn run(mut self, finished: &CancellationToken, quit: &CancellationToken) {
        let mut flush = tokio::time::interval(UNMATCHED_FLUSH);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                biased;
                () = quit.cancelled() => return,
                Some(item) = self.queue.recv() => Some(item),
                () = finished.cancelled() => break,
                _ = flush.tick() => {
                    if self.counts.is_empty() {
                        continue;
                    }
                    None
                }
            };
            let mut batch = Batch::default();
            if let Some(first) = first {
                batch.push(first);
                self.fill(&mut batch).await;
            }
            if !self.commit(batch, quit).await {
                return;
            }
        }
        self.commit(Batch::default(), quit).await;
    }

    async fn fill(&mut self, batch: &mut Batch) {
        let deadline = tokio::time::Instant::now() + self.config.group_wait;
        while batch.len() < self.config.group_count && batch.bytes < self.config.group_bytes {
            match self.queue.try_recv() {
                Ok(item) => batch.push(item),
                Err(_) => match tokio::time::timeout_at(deadline, self.queue.recv()).await {
                    Ok(Some(item)) => batch.push(item),
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    /// Commits `batch`, however long that takes. False when the node quits meanwhile.
    async fn commit(&mut self, mut batch: Batch, quit: &CancellationToken) -> bool {
        batch.group.unmatched = self.counts.take();
        if batch.group.is_empty() {
            return true;
        }
        let mut tries = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.store.settle(&self.node, &batch.group).await {
                Ok(verdict) => {
                    self.up.send_if_modified(|up| !std::mem::replace(up, true));
                    telemetry::settled(batch.len(), began.elapsed());
                    batch.answer(verdict);
                    return true;
                }
                Err(error) => error,
            };
            if !error.is_transient() && batch.len() > 1 {
                tracing::warn!(%error, records = batch.len(), "settling one by one: the database refused the group");
                return Box::pin(self.commit_apart(batch, quit)).await;
            }
            if !error.is_transient() && Self::disarm(&mut batch.group, &error) {
                continue;
            }
            tries += 1;
            self.report(&error, tries);
            let pause = Duration::from_millis(10).saturating_mul(1 << tries.min(7)).min(Duration::from_secs(1));
            tokio::select! {
                () = quit.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn commit_apart(&mut self, batch: Batch, quit: &CancellationToken) -> bool {
        let (items, rest) = batch.apart();
        for item in items {
            if !self.commit(Batch::single(item), quit).await {
                return false;
            }
        }
        self.commit(rest, quit).await
    }

    /// Takes out of a refused group what may have offended: counts, the record and logs first, then the delivery becomes a dead
    /// letter with the database's words. False when nothing is left to change.
    fn disarm(group: &mut Group, error: &StoreError) -> bool {
        if !group.unmatched.is_empty() {
            tracing::error!(%error, "counts of unmatched events were refused by the database and are lost");
            group.unmatched.clear();
            return true;
        }
        if !group.recorded.is_empty() {
            tracing::error!(%error, "an event that no rule matched was refused by the database and is not recorded");
            group.recorded.clear();
            return true;
        }
        let Some(record) = group.records.first_mut() else { return false };
        if record.recorded.take().is_some() {
            tracing::error!(%error, delivery = %record.subject.id, "an event was refused by the database and is not recorded");
            return true;
        }
        if record.attempts.iter().any(|a| !a.logs.is_empty()) {
            tracing::error!(%error, delivery = %record.subject.id, "a function's log was refused by the database");
            record.attempts.iter_mut().for_each(|a| a.logs.clear());
            return true;
        }
        if matches!(&record.next, Next::Dead { class: "refused", .. }) {
            return false;
        }
        tracing::error!(%error, delivery = %record.subject.id, "the database refused a delivery; it becomes a dead letter");
        let event = match std::mem::replace(&mut record.next, Next::Void) {
            Next::Park { event, .. } | Next::Dead { event, .. } => event,
            Next::Done | Next::Void => Vec::new(),
        };
        record.attempts.clear();
        record.next = Next::Dead { class: "refused", error: error.to_string(), event, digest: None };
        true
    }

    fn report(&self, error: &StoreError, tries: u32) {
        if self.up.send_if_modified(|up| std::mem::replace(up, false)) {
            tracing::error!(%error, "cannot settle; reading stops until the database is back");
        } else if tries.is_multiple_of(20) {
            tracing::warn!(%error, tries, "still cannot settle");
        }
    }
}
