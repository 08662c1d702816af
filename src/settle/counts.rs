//! Counts of events that no rule matched, until the next transaction takes them.
//!
//! Invariant: every event is counted once: under its type, or among the rest once there are too many of those. Counting
//! wakes nobody, for a busy trigger may have nothing but such events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{Event, codec};
use crate::store::settle::Unmatched;

/// Distinct (trigger, type) pairs that are counted apart until the next transaction.
const KINDS: usize = 1_000;

/// Longest type that is counted under its name: the primary key holds it, which takes 2,704 bytes at most.
const TYPE_BYTES: usize = 512;

/// The type under which the rest is counted.
const OTHER_TYPES: &str = "(other types)";

/// Largest event that is kept as a sample.
const SAMPLE_BYTES: usize = 64 << 10;

/// The counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    shared: Arc<Mutex<Kinds>>,
}

#[derive(Debug, Default)]
struct Kinds {
    by_trigger: HashMap<String, HashMap<String, Count>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Count {
    count: u64,
    /// One of them in structured mode.
    sample: Option<Vec<u8>>,
}

impl Counts {
    /// Counts `count` events of `trigger` that are like `event`.
    pub(super) fn add(&self, trigger: &str, event: &Event, count: u64) {
        self.kinds().add(trigger, event, count);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds().len == 0
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<Unmatched> {
        let kinds = std::mem::take(&mut *self.kinds());
        let mut taken = Vec::with_capacity(kinds.len);
        for (trigger, types) in kinds.by_trigger {
            let unmatched = |(event_type, Count { count, sample })| {
                let trigger = trigger.clone();
                Unmatched { trigger, event_type, count, sample }
            };
            taken.extend(types.into_iter().map(unmatched));
        }
        taken
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kinds {
    fn add(&mut self, trigger: &str, event: &Event, more: u64) {
        let Count { count, sample } = self.kind(trigger, &event.ty);
        *count += more;
        if sample.is_none() && event.size() <= SAMPLE_BYTES {
            *sample = Some(codec::to_structured(event));
        }
    }

    fn kind(&mut self, trigger: &str, ty: &str) -> &mut Count {
        if !self.by_trigger.contains_key(trigger) {
            self.by_trigger.insert(trigger.to_owned(), HashMap::new());
        }
        let types = self.by_trigger.entry(trigger.to_owned()).or_default();
        let named = ty.len() <= TYPE_BYTES && (types.contains_key(ty) || self.len < KINDS);
        let ty = if named { ty } else { OTHER_TYPES };
        self.len += usize::from(!types.contains_key(ty));
        types.entry(ty.to_owned()).or_default()
    }
}
