//! The record of a trigger, and beside it what waits or died of its events where they are not recorded.
//!
//! Invariant: an event is read once, however many deliveries of it are kept: the id that it has in the record, or would
//! have, tells it. At most so many of those that are kept beside the record are held at a time.

use std::collections::{BTreeMap, VecDeque};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::DeliveryId;
use crate::event::codec;
use crate::store::Store;
use crate::store::recorded::RecordedRow;

use super::Taken;

/// Rows of one page: of a mebibyte each they still fit.
const PAGE: i64 = 200;
/// Most events beside the record.
const KEPT_MAX: i64 = 2_000;

/// The record of one trigger.
pub(super) struct RecordReader {
    store: Store,
    trigger: String,
    since: OffsetDateTime,
    after: Option<Uuid>,
    page: VecDeque<RecordedRow>,
    /// Whether there may be another page.
    more: bool,
    /// What is parked or dead, by its id in the record, and not yet found there.
    kept: BTreeMap<Uuid, Taken>,
}

impl RecordReader {
    pub(super) async fn open(store: &Store, trigger: &str, since: OffsetDateTime) -> anyhow::Result<Self> {
        let mut kept = BTreeMap::new();
        for row in store.kept_since(trigger, since, KEPT_MAX).await? {
            let at = DeliveryId(row.delivery_id).time();
            let id = DeliveryId::derive(at, trigger, &row.transport_key, "", 0);
            kept.insert(id.0, Taken { at, event: row.kept.read().map_err(|error| error.to_string()) });
        }
        let ids: Vec<Uuid> = kept.keys().copied().collect();
        for known in store.recorded_of(trigger, &ids).await? {
            kept.remove(&known);
        }
        let (store, trigger) = (store.clone(), trigger.to_owned());
        Ok(Self { store, trigger, since, after: None, page: VecDeque::new(), more: true, kept })
    }

    /// How many are read beside the record.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Taken>> {
        if self.page.is_empty() && self.more {
            let page = self.store.recorded_events(&self.trigger, self.since, self.after, PAGE).await?;
            self.more = page.len() == PAGE as usize;
            self.after = page.last().map(|row| row.id).or(self.after);
            self.page = page.into();
        }
        let Some(row) = self.page.pop_front() else { return Ok(self.kept.pop_first().map(|(_, taken)| taken)) };
        let event = codec::from_parts(&row.attributes, row.data).map_err(|error| error.to_string());
        Ok(Some(Taken { at: DeliveryId(row.id).time(), event }))
    }
}
