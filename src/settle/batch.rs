//! A group on its way to the database, and who waits for what of it.
//!
//! Invariant: whoever waits for a part of a batch is answered exactly once, after the transaction that decided about that
//! part, or hears that the settler ended.

use tokio::sync::oneshot;

use crate::delivery::DeliveryId;
use crate::store::settle::{Group, Next, Record, Recorded, Refusal, Rejected, Verdict};
use crate::telemetry;

use super::Settled;

pub(super) enum Item {
    Record(Box<Record>, oneshot::Sender<Settled>),
    Rejected(Box<Rejected>, oneshot::Sender<Settled>),
    Recorded(Box<Recorded>, oneshot::Sender<Settled>),
}

#[derive(Default)]
pub(super) struct Batch {
    pub(super) group: Group,
    waiting: Vec<oneshot::Sender<Settled>>,
    rejected_waiting: Vec<oneshot::Sender<Settled>>,
    recorded_waiting: Vec<oneshot::Sender<Settled>>,
    pub(super) bytes: usize,
}

impl Verdict {
    fn of(&mut self, id: DeliveryId) -> Settled {
        if let Some(refusal) = self.refused.remove(&id) {
            return Settled::Refused(refusal);
        }
        match id {
            id if self.fenced.contains(&id) => Settled::Fenced,
            id if self.stale.contains(&id) => Settled::Duplicate,
            _ => Settled::Fresh,
        }
    }
}

impl Batch {
    pub(super) fn single(item: Item) -> Self {
        let mut batch = Self::default();
        batch.push(item);
        batch
    }

    pub(super) fn push(&mut self, item: Item) {
        match item {
            Item::Record(record, done) => {
                self.bytes += size(&record);
                self.group.records.push(*record);
                self.waiting.push(done);
            }
            Item::Rejected(rejected, done) => {
                self.bytes += rejected.raw.len();
                self.group.rejected.push(*rejected);
                self.rejected_waiting.push(done);
            }
            Item::Recorded(recorded, done) => {
                self.bytes += recorded.event.size();
                self.group.recorded.push(*recorded);
                self.recorded_waiting.push(done);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.rejected_waiting.len() + self.recorded_waiting.len()
    }

    /// Tells everybody what became of theirs; gives what is left for another transaction.
    pub(super) fn answer(self, mut verdict: Verdict) -> Self {
        let mut left = Self::default();
        for (record, done) in self.group.records.into_iter().zip(self.waiting) {
            if verdict.left.contains(&record.subject.id) {
                left.push(Item::Record(Box::new(record), done));
            } else {
                let settled = verdict.of(record.subject.id);
                if let (Some(recorded), Settled::Fresh) = (&record.recorded, &settled) {
                    telemetry::recorded(&recorded.trigger);
                }
                // Whoever waited may be gone: the node is quitting.
                let _ = done.send(settled);
            }
        }
        for (rejected, done) in self.group.rejected.iter().zip(self.rejected_waiting) {
            let _ = done.send(verdict.of(rejected.id));
        }
        self.group.recorded.iter().for_each(|recorded| telemetry::recorded(&recorded.trigger));
        // No rule wanted these: whatever became of them, they are settled.
        for done in self.recorded_waiting {
            let _ = done.send(Settled::Fresh);
        }
        left
    }

    /// Tells everybody that the database does not take theirs.
    pub(super) fn refuse(self, words: &str) {
        for done in self.waiting.into_iter().chain(self.rejected_waiting).chain(self.recorded_waiting) {
            let _ = done.send(Settled::Refused(Refusal { permanent: false, words: words.to_owned() }));
        }
    }

    /// Its parts, and a batch of what nobody waits for.
    pub(super) fn apart(self) -> (impl Iterator<Item = Item>, Self) {
        let Group { records, rejected, unmatched, recorded } = self.group;
        let records = records.into_iter().zip(self.waiting).map(|(r, done)| Item::Record(Box::new(r), done));
        let rejected =
            rejected.into_iter().zip(self.rejected_waiting).map(|(r, done)| Item::Rejected(Box::new(r), done));
        let recorded =
            recorded.into_iter().zip(self.recorded_waiting).map(|(r, done)| Item::Recorded(Box::new(r), done));
        (
            records.chain(rejected).chain(recorded),
            Self { group: Group { unmatched, ..Group::default() }, ..Self::default() },
        )
    }
}

fn size(record: &Record) -> usize {
    let event = match &record.next {
        Next::Park { event, .. } | Next::Dead { event, .. } => event.len(),
        Next::Done | Next::Void => 0,
    };
    let effects = record.effects.as_ref().map_or(0, |effects| {
        let statements: usize = effects.statements.iter().map(crate::function::sql::Statement::size).sum();
        statements + effects.outbox.iter().map(|row| row.event.len()).sum::<usize>()
    });
    let recorded = record.recorded.as_ref().map_or(0, |recorded| recorded.event.size());
    event + effects + recorded + record.attempts.iter().flat_map(|a| &a.logs).map(|l| l.message.len()).sum::<usize>()
}
