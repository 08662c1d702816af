//! Counts of events that no rule matched, until the next transaction takes them.
//!
//! Invariant: every event is counted once: under its type, or among the rest once there are too many of those. What is
//! held is bounded, in kinds and in bytes of samples, whatever types come (the tables have a bound of their own). Counting
//! wakes nobody, for a busy trigger may have nothing but such events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{Event, codec};
use crate::store::settle::{OTHER_TYPES, Unmatched};

/// Distinct (trigger, type) pairs that are counted apart until the next transaction.
const KINDS: usize = 1_000;

/// Longest type that is counted under its name: the primary key holds it, which takes 2,704 bytes at most.
const TYPE_BYTES: usize = 512;

/// Largest event that is kept as a sample.
const SAMPLE_BYTES: usize = 64 << 10;

/// Samples of all kinds together, until the next transaction.
const SAMPLES_BYTES: usize = 4 << 20;

/// The counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    shared: Arc<Mutex<Kinds>>,
}

#[derive(Debug, Default)]
struct Kinds {
    by_trigger: HashMap<String, HashMap<String, Count>>,
    len: usize,
    sampled: usize,
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
        let room = SAMPLES_BYTES.saturating_sub(self.sampled).min(SAMPLE_BYTES);
        let Count { count, sample } = self.kind(trigger, &event.ty);
        *count += more;
        if sample.is_none() && event.size() <= room {
            let bytes = codec::to_structured(event);
            let len = bytes.len();
            *sample = Some(bytes);
            self.sampled += len;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ty: String, bytes: usize) -> Event {
        Event {
            id: "1".to_owned(),
            source: "/a".to_owned(),
            ty,
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Vec::new(),
            data: vec![b'1'; bytes].into(),
        }
    }

    #[test]
    fn a_flood_of_types_holds_a_bounded_number_of_kinds_and_bytes() {
        let counts = Counts::default();
        for n in 0..100_000 {
            counts.add("a", &event(format!("type.{n}"), 16 << 10), 1);
        }
        let taken = counts.take();
        assert_eq!(taken.len(), KINDS + 1);
        assert_eq!(taken.iter().map(|kind| kind.count).sum::<u64>(), 100_000);
        let rest = taken.iter().find(|kind| kind.event_type == OTHER_TYPES).map(|kind| kind.count);
        assert_eq!(rest, Some(100_000 - KINDS as u64));
        let bytes: usize = taken.iter().filter_map(|kind| kind.sample.as_ref()).map(Vec::len).sum();
        assert!((1..=SAMPLES_BYTES + SAMPLE_BYTES).contains(&bytes), "{bytes}");
        assert!(counts.is_empty());
        counts.add("a", &event("one".to_owned(), 10), 1);
        assert!(counts.take()[0].sample.is_some(), "the next one has room again");
    }
}
