//! An index that changes while others match against it.
//!
//! Invariant: who matches takes the index that is current and keeps it for one event; nobody waits for a change, and
//! what was changed is found by the next event. Merging takes its time beside all that and loses no change.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::{Change, Index};

/// The current index.
#[derive(Debug, Default)]
pub struct Live {
    current: ArcSwap<Index>,
    changing: Mutex<()>,
    merging: Mutex<()>,
}

impl Live {
    /// Starts with this index.
    pub fn new(index: Index) -> Self {
        Self { current: ArcSwap::from_pointee(index), ..Self::default() }
    }

    /// The index as it is now.
    pub fn load(&self) -> Guard<Arc<Index>> {
        self.current.load()
    }

    /// Changes it. Whether it is time for [`Live::merge`].
    pub fn change(&self, changes: impl IntoIterator<Item = Change>) -> bool {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.current.load().with(changes);
        let wants_merge = changed.wants_merge();
        self.current.store(Arc::new(changed));
        wants_merge
    }

    /// Merges segments, if it is time, while others match and change. To be called off the path of events.
    pub fn merge(&self) {
        let _one = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        if !before.wants_merge() {
            return;
        }
        let merged = before.merged();
        let _still = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = merged.with(self.current.load().changes_since(&before));
        self.current.store(Arc::new(merged));
    }
}
