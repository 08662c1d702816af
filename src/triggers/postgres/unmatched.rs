//! Counts of changes that no rule can want, so that they cost nothing but the counting.
//!
//! Invariant: every change is counted once, under its type, and one of each type is kept as a sample.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatch::Dispatcher;
use crate::event::Event;

use super::change::Op;

/// How often counts are handed over.
const FLUSH: Duration = Duration::from_secs(1);

/// The counts since they were last handed over.
pub(super) struct Unmatched {
    counts: HashMap<(u32, Op), (u64, Arc<Event>)>,
    flushed: Instant,
}

impl Unmatched {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { counts: HashMap::new(), flushed: Instant::now() }
    }

    /// Counts a change of `relation`; `sample` makes an event of it, and is called for the first of its kind.
    pub(super) fn count<E>(
        &mut self,
        relation: u32,
        op: Op,
        sample: impl FnOnce() -> Result<Event, E>,
    ) -> Result<(), E> {
        if let Some((count, _)) = self.counts.get_mut(&(relation, op)) {
            *count += 1;
            return Ok(());
        }
        let sample = Arc::new(sample()?);
        self.counts.insert((relation, op), (1, sample));
        Ok(())
    }

    /// When the counts are due; none while there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.counts.is_empty()).then(|| self.flushed + FLUSH)
    }

    /// Hands the counts over.
    pub(super) fn flush(&mut self, trigger: &str, dispatcher: &Dispatcher) {
        self.flushed = Instant::now();
        for (_, (count, sample)) in self.counts.drain() {
            dispatcher.unmatched(trigger, &sample, count);
        }
    }
}
