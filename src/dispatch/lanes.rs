//! Lanes: deliveries of one rule and ordering key, one after another.
//!
//! Invariant: a lane has one task, and its next delivery starts only after the one before was settled. While a
//! delivery of the key is parked, later ones are parked behind it, unrun.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Inner;
use super::run::{Delivery, Ended};

/// A rule's name and the value of its ordering key.
pub(super) type LaneKey = (String, String);

/// The lanes that have work, and the claims that run.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    queues: Mutex<HashMap<LaneKey, VecDeque<Box<Delivery>>>>,
    claims: Mutex<HashSet<Uuid>>,
}

impl Lanes {
    /// Puts `delivery` into its lane; gives it back when the lane had no task, which the caller must then start.
    pub(super) fn enter(&self, key: &LaneKey, delivery: Box<Delivery>) -> Option<Box<Delivery>> {
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(key) {
            queue.push_back(delivery);
            return None;
        }
        queues.insert(key.clone(), VecDeque::new());
        Some(delivery)
    }

    fn next(&self, key: &LaneKey) -> Option<Box<Delivery>> {
        let mut queues = self.queues();
        let next = queues.get_mut(key).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(key);
        }
        next
    }

    pub(super) fn claimed(&self, token: Uuid) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
    }

    pub(super) fn unclaimed(&self, token: Uuid) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
    }

    pub(super) fn claims(&self) -> Vec<Uuid> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<LaneKey, VecDeque<Box<Delivery>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Runs a lane until it is empty.
    pub(super) async fn run_lane(self: Arc<Self>, key: LaneKey, first: Box<Delivery>) {
        let mut next = Some(first);
        // Set where only the tables tell: after a delivery of this lane was parked, or is known from elsewhere.
        let mut may_be_held = false;
        let mut is_first = true;
        while let Some(delivery) = next {
            let (holds, held) = (delivery.holds_key(), delivery.held());
            // Without a list, a key may have been parked before this lane began, by this node or another.
            may_be_held |= held.as_ref().map_or(is_first, |held| held.contains(&key));
            is_first = false;
            if holds && may_be_held {
                may_be_held = Box::pin(self.is_held(&key)).await;
                held.iter().filter(|_| !may_be_held).for_each(|held| held.forget(&key));
            }
            let ended =
                if holds && may_be_held { Box::pin(self.hold(delivery)).await } else { self.run(delivery).await };
            match ended {
                Ended::Settled | Ended::Lost => {}
                Ended::Known => may_be_held = true,
                Ended::Parked => {
                    may_be_held = true;
                    held.iter().filter(|_| holds).for_each(|held| held.add(key.clone()));
                }
                Ended::Abandoned => {
                    // The node is quitting: later ones must not overtake.
                    self.lanes.queues().remove(&key);
                    return;
                }
            }
            next = self.lanes.next(&key);
        }
    }

    async fn is_held(&self, key: &LaneKey) -> bool {
        let mut pause = std::time::Duration::from_millis(100);
        loop {
            match self.store.key_is_parked(&key.0, &key.1).await {
                Ok(held) => return held,
                Err(error) if !error.is_transient() => {
                    tracing::error!(rule = key.0, %error, "cannot tell whether a key is held; holding it");
                    return true;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(std::time::Duration::from_secs(5));
                }
            }
        }
    }
}
