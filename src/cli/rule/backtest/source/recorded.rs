//! The record of a trigger, and after it what waits or died of its events where they are not recorded.
//!
//! Invariant: an event is read once, however many deliveries of it are kept: the id that it has in the record, or would
//! have, tells it. A page of events is held at a time.

use std::collections::{HashSet, VecDeque};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::DeliveryId;
use crate::event::codec;
use crate::store::Store;

use super::Taken;

/// Most rows of one page.
const PAGE: i64 = 500;

/// The record of one trigger.
pub(super) struct RecordReader {
    store: Store,
    trigger: String,
    since: OffsetDateTime,
    page: VecDeque<Taken>,
    stage: Stage,
    /// Events beside the record, by the id that they would have in it.
    beside: HashSet<Uuid>,
}

/// What is read next: what is behind the row with that id.
enum Stage {
    Record(Option<Uuid>),
    Kept(Option<Uuid>),
    End,
}

impl RecordReader {
    pub(super) fn new(store: &Store, trigger: &str, since: OffsetDateTime) -> Self {
        let (store, trigger) = (store.clone(), trigger.to_owned());
        Self { store, trigger, since, page: VecDeque::new(), stage: Stage::Record(None), beside: HashSet::new() }
    }

    /// How many were read beside the record.
    pub(super) fn beside(&self) -> usize {
        self.beside.len()
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Taken>> {
        while self.page.is_empty() {
            match self.stage {
                Stage::Record(after) => self.read_record(after).await?,
                Stage::Kept(after) => self.read_kept(after).await?,
                Stage::End => return Ok(None),
            }
        }
        Ok(self.page.pop_front())
    }

    async fn read_record(&mut self, after: Option<Uuid>) -> anyhow::Result<()> {
        let rows = self.store.recorded_events(&self.trigger, self.since, after, PAGE).await?;
        self.stage = rows.last().map_or(Stage::Kept(None), |row| Stage::Record(Some(row.id)));
        self.page = rows
            .into_iter()
            .map(|row| {
                let event = codec::from_parts(&row.attributes, row.data).map_err(|error| error.to_string());
                Taken { at: DeliveryId(row.id).time(), event }
            })
            .collect();
        Ok(())
    }

    async fn read_kept(&mut self, after: Option<Uuid>) -> anyhow::Result<()> {
        let rows = self.store.kept_since(&self.trigger, self.since, after, PAGE).await?;
        self.stage = rows.last().map_or(Stage::End, |row| Stage::Kept(Some(row.delivery_id)));
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let at = DeliveryId(row.delivery_id).time();
            let id = DeliveryId::derive(at, &self.trigger, &row.transport_key, "", 0);
            found.push((id.0, Taken { at, event: row.kept.read().map_err(|error| error.to_string()) }));
        }
        let ids: Vec<Uuid> = found.iter().map(|(id, _)| *id).collect();
        let recorded = self.store.recorded_of(&self.trigger, &ids).await?;
        found.retain(|(id, _)| !recorded.contains(id) && self.beside.insert(*id));
        self.page = found.into_iter().map(|(_, taken)| taken).collect();
        Ok(())
    }
}
