//! Which triggers record which of their events.
//!
//! Invariant: a trigger that records nothing costs one look at an empty map, and no lock.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use time::OffsetDateTime;

use crate::delivery::DeliveryId;
use crate::event::Event;
use crate::store::recorded::What;
use crate::store::settle::Recorded;

/// What the triggers' rows say, those that record nothing left out.
#[derive(Debug, Default)]
pub(super) struct Recordings {
    by_trigger: ArcSwap<HashMap<String, What>>,
}

impl Recordings {
    /// From now on.
    pub(super) fn set(&self, mut recordings: HashMap<String, What>) {
        recordings.retain(|_, recording| *recording != What::None);
        self.by_trigger.store(Arc::new(recordings));
    }

    /// What `trigger` records.
    pub(super) fn of(&self, trigger: &str) -> What {
        let recordings = self.by_trigger.load();
        if recordings.is_empty() {
            return What::None;
        }
        recordings.get(trigger).copied().unwrap_or_default()
    }
}

/// An event for the record. Its id is that of a delivery for no rule: the same however often the event comes.
pub(super) fn recorded(
    trigger: &Arc<str>,
    event: &Arc<Event>,
    at: OffsetDateTime,
    transport_key: Vec<u8>,
    matched: bool,
) -> Recorded {
    let id = DeliveryId::derive(at, trigger, &transport_key, "", 0);
    Recorded { id, trigger: Arc::clone(trigger), transport_key, matched, event: Arc::clone(event) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_without_a_row_records_nothing() {
        let recordings = Recordings::default();
        assert_eq!(recordings.of("a"), What::None);
        let said = [("a", What::All), ("b", What::Matched), ("c", What::None)];
        recordings.set(said.map(|(name, recording)| (name.to_owned(), recording)).into());
        let table = [("a", What::All), ("b", What::Matched), ("c", What::None), ("d", What::None)];
        for (trigger, recording) in table {
            assert_eq!(recordings.of(trigger), recording, "{trigger}");
        }
    }
}
