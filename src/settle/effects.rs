//! Settles deliveries that run statements of functions: each function has a queue, and one group of it is under way at a time.
//!
//! Invariant: a delivery waits for deliveries of its own function only, and for a connection (`store/guest`), of which the
//! slow functions together have a part. What waits is bounded by the budget: each delivery holds credit. Whoever waits is answered after the commit, or hears that the node quits. Deliveries of
//! one ordering key come one after another, because the next one starts when the one before is settled.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::delivery::DeliveryId;
use crate::store::StoreError;
use crate::store::guest::Guests;
use crate::telemetry;

use super::batch::{Batch, Item};

/// Deliveries in a group: the locks of all are held until the last has run.
const COUNT: usize = 250;
/// Bytes of their statements and events.
const BYTES: usize = 4 << 20;
/// Connections that may be lost while the statements of one delivery run before they are taken to be the cause.
const INTERRUPTIONS: u32 = 3;

/// What has queues of its own.
type Lane = (String, String);

/// Settles what comes on `queue`.
pub(super) struct Worker {
    pub(super) guests: Guests,
    pub(super) node: String,
    pub(super) queue: mpsc::Receiver<Item>,
    pub(super) up: watch::Sender<bool>,
}

/// What waits for a function, and whether a group of it is under way.
#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    busy: bool,
}

impl Worker {
    /// Works until `finished`, and until all that came before is settled, or until `quit`.
    pub(super) async fn run(mut self, finished: &CancellationToken, quit: &CancellationToken) {
        let mut lanes: HashMap<Lane, Waiting> = HashMap::new();
        let mut under_way: FuturesUnordered<BoxFuture<'static, Lane>> = FuturesUnordered::new();
        let mut waiting = 0_usize;
        loop {
            tokio::select! {
                biased;
                () = quit.cancelled() => return,
                Some(lane) = under_way.next(), if !under_way.is_empty() => {
                    waiting -= self.begin(&mut lanes, &lane, true, &under_way, quit);
                }
                Some(item) = self.queue.recv() => {
                    let Some(lane) = lane_of(&item) else { continue };
                    lanes.entry(lane.clone()).or_default().items.push_back(item);
                    waiting += 1;
                    // What came with it goes with it.
                    while let Ok(item) = self.queue.try_recv() {
                        let Some(other) = lane_of(&item) else { continue };
                        lanes.entry(other.clone()).or_default().items.push_back(item);
                        waiting += 1;
                        if other != lane {
                            waiting -= self.begin(&mut lanes, &other, false, &under_way, quit);
                        }
                    }
                    waiting -= self.begin(&mut lanes, &lane, false, &under_way, quit);
                }
                () = finished.cancelled(), if under_way.is_empty() && waiting == 0 => return,
            }
        }
    }

    /// Begins the next group of `lane` if none is under way or the last one `ended`; gives how many no longer wait.
    fn begin(
        &self,
        lanes: &mut HashMap<Lane, Waiting>,
        lane: &Lane,
        ended: bool,
        under_way: &FuturesUnordered<BoxFuture<'static, Lane>>,
        quit: &CancellationToken,
    ) -> usize {
        let Some(waiting) = lanes.get_mut(lane) else { return 0 };
        waiting.busy &= !ended;
        if waiting.busy {
            return 0;
        }
        let mut batch = Batch::default();
        let mut ids = HashSet::new();
        while batch.len() < COUNT && batch.bytes < BYTES {
            // Two copies of a delivery are never in one group: what became of it is told by its id.
            let first = waiting.items.front().and_then(delivery_of);
            if !first.is_some_and(|id| ids.insert(id)) {
                break;
            }
            waiting.items.pop_front().into_iter().for_each(|item| batch.push(item));
        }
        let count = batch.len();
        if count == 0 {
            lanes.remove(lane);
            return 0;
        }
        waiting.busy = true;
        let committer =
            Committer { guests: self.guests.clone(), node: self.node.clone(), up: self.up.clone(), quit: quit.clone() };
        let lane = lane.clone();
        under_way.push(Box::pin(async move {
            committer.commit(batch).await;
            lane
        }));
        count
    }
}

struct Committer {
    guests: Guests,
    node: String,
    up: watch::Sender<bool>,
    quit: CancellationToken,
}

impl Committer {
    /// Commits `batch`, however long that takes. False when the node quits meanwhile.
    async fn commit(&self, mut batch: Batch) -> bool {
        let (mut tries, mut interruptions) = (0_u32, 0_u32);
        loop {
            let began = std::time::Instant::now();
            let error = match self.guests.settle(&self.node, &batch.group).await {
                Ok(verdict) => {
                    self.up.send_if_modified(|up| !std::mem::replace(up, true));
                    telemetry::settled(batch.len() - verdict.left.len(), began.elapsed());
                    batch = batch.answer(verdict);
                    if batch.len() == 0 {
                        return true;
                    }
                    (tries, interruptions) = (0, 0);
                    continue;
                }
                Err(error) => error,
            };
            interruptions += u32::from(matches!(error, StoreError::Interrupted(_)));
            // A group is taken apart at once, so that what ends connections takes the others along once only.
            let suspect = interruptions >= if batch.len() > 1 { 1 } else { INTERRUPTIONS }
                || (matches!(error, StoreError::Overtaken) && batch.len() > 1);
            if !error.is_transient() || suspect {
                if batch.len() == 1 {
                    batch.refuse(&error.to_string());
                    return true;
                }
                tracing::warn!(%error, records = batch.len(), "settling one by one: the database refused the group");
                return Box::pin(self.commit_apart(batch)).await;
            }
            tries += 1;
            self.report(&error, tries).await;
            let pause = Duration::from_millis(10).saturating_mul(1 << tries.min(7)).min(Duration::from_secs(1));
            tokio::select! {
                () = self.quit.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn commit_apart(&self, batch: Batch) -> bool {
        let (items, _) = batch.apart();
        for item in items {
            if !self.commit(Batch::single(item)).await {
                return false;
            }
        }
        true
    }

    /// Says that a group waits; sources stop when it is the store itself that is away.
    async fn report(&self, error: &StoreError, tries: u32) {
        let is_first = tries == 1 && matches!(error, StoreError::Unreachable(_));
        if is_first && !self.guests.store_answers().await {
            if self.up.send_if_modified(|up| std::mem::replace(up, false)) {
                tracing::error!(%error, "cannot settle; reading stops until the database is back");
            }
        } else if is_first || tries.is_multiple_of(20) {
            tracing::warn!(%error, tries, "cannot settle deliveries that run statements");
        }
    }
}

fn delivery_of(item: &Item) -> Option<DeliveryId> {
    let Item::Record(record, _) = item else { return None };
    Some(record.subject.id)
}

/// The function and the role of a delivery that runs statements.
fn lane_of(item: &Item) -> Option<Lane> {
    let Item::Record(record, _) = item else { return None };
    record.runs_under()
}
