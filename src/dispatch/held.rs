//! Keys that may be held: ordering keys of which a delivery may be parked, of sources that only this node reads.
//!
//! Invariant: what is not here is not held, as long as nobody else parks deliveries of these keys; what is here is asked
//! for in the tables. So a key that never failed costs no question.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lanes::LaneKey;

/// The keys, each with its rule.
#[derive(Debug, Default)]
pub struct HeldKeys {
    keys: Mutex<HashSet<LaneKey>>,
}

impl HeldKeys {
    /// Adds keys that were found parked: rule and key.
    pub fn extend(&self, keys: impl IntoIterator<Item = (String, String)>) {
        self.keys().extend(keys);
    }

    pub(super) fn add(&self, key: LaneKey) {
        self.keys().insert(key);
    }

    pub(super) fn contains(&self, key: &LaneKey) -> bool {
        let keys = self.keys();
        // The tables cannot hold such a character: they have another one in its place.
        !keys.is_empty() && (keys.contains(key) || key.1.contains('\0'))
    }

    pub(super) fn forget(&self, key: &LaneKey) {
        self.keys().remove(key);
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<LaneKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
