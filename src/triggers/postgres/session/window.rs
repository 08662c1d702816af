//! The window of a chunk: from its low mark to its high mark, what changed is noted and takes precedence.
//!
//! Invariant: at the high mark every row of the chunk is either handed over or superseded by a change that was streamed
//! since the low mark; where that cannot be known, the chunk is read again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use crate::dispatch::ticket::Ticket;
use crate::event::Event;
use crate::function::hex;
use crate::triggers::Failure;

use super::super::change::{Change, Op, Table};
use super::super::pgoutput::{Old, Tuple, Value};
use super::super::snapshot::{Announced, Handed, KeyedRow, ReadChunk, key_of};
use super::Session;
use super::hand_over::Identity;

/// Transactions whose numbers are remembered: more than can be between their commit record and their being visible.
const RECENT: usize = 10_000;

/// Keys that are noted in one window; with more of them the chunk is read again.
const CHANGED_MAX: usize = 100_000;

/// What changed since the low mark.
pub(super) struct Window {
    announced: Announced,
    changed: HashSet<Vec<u8>>,
    /// A key could not be told, or all rows went.
    unclear: bool,
}

/// The transactions that were streamed last.
#[derive(Default)]
pub(super) struct Recent {
    xids: VecDeque<u32>,
}

impl Recent {
    pub(super) fn push(&mut self, xid: u32) {
        if self.xids.len() == RECENT {
            self.xids.pop_front();
        }
        self.xids.push_back(xid);
    }

    /// Whether any of `in_progress` (64 bits with their epoch) was streamed.
    fn has_any(&self, in_progress: &[u64]) -> bool {
        let low = |xid: &u64| u32::try_from(xid & u64::from(u32::MAX)).unwrap_or(0);
        let invisible: HashSet<u32> = in_progress.iter().map(low).collect();
        !invisible.is_empty() && self.xids.iter().any(|xid| invisible.contains(xid))
    }
}

impl Window {
    /// Notes the keys that a change of `table` touches.
    fn note(&mut self, table: &Table, change: &Change<'_>) {
        let (old, new) = match change {
            Change::Insert(new) | Change::Read(new) => (None, Some(*new)),
            Change::Update { old, new } => (*old, Some(*new)),
            Change::Delete(old) => (Some(*old), None),
            Change::Truncate { .. } => {
                self.unclear = true;
                return;
            }
        };
        let old_key = old.map(|old: Old<'_>| self.key(table, old.tuple));
        let new_key = new.map(|new| self.key(table, new));
        // An update whose key was stored out of line and not touched tells it nowhere.
        self.unclear |= [&old_key, &new_key].into_iter().any(|key| matches!(key, Some(None)));
        self.unclear |= self.changed.len() >= CHANGED_MAX;
        if self.unclear {
            return;
        }
        self.changed.extend([old_key, new_key].into_iter().flatten().flatten());
    }

    fn key(&self, table: &Table, tuple: Tuple<'_>) -> Option<Vec<u8>> {
        let values: Vec<Value<'_>> = tuple.values().collect();
        key_of(self.announced.key.iter().map(|name| {
            let at = table.columns.iter().position(|column| column.name == *name)?;
            match values.get(at)? {
                Value::Text(text) => Some(*text),
                Value::Null | Value::Unchanged | Value::Binary(_) => None,
            }
        }))
    }
}

impl Session<'_> {
    /// Notes a change for the window that is open, if it is of its table.
    pub(super) fn note(&mut self, relation: u32, change: &Change<'_>) {
        let Some(window) = &mut self.window else { return };
        if let Some(known) = self.relations.get(relation)
            && known.family.contains(&window.announced.table)
        {
            window.note(&known.table, change);
        }
    }

    /// Takes a mark that was written by this feed, or by an earlier holder of its lease.
    pub(super) async fn mark(&mut self, content: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(content);
        let Some((side, nonce)) = text.split_once(' ') else { return Ok(()) };
        let Ok(nonce) = Uuid::parse_str(nonce) else { return Ok(()) };
        match side {
            "low" => {
                // Anybody can write a mark that was never announced: it does not end the window of one that was.
                if let Some(announced) = self.meeting.announced(nonce) {
                    self.window = Some(Window { announced, changed: HashSet::new(), unclear: false });
                }
                Ok(())
            }
            "high" => match (self.meeting.take(nonce), self.window.take()) {
                (Some(chunk), Some(window)) if window.announced.nonce == nonce => self.chunk(chunk, &window).await,
                (Some(chunk), _) => {
                    tell(chunk.handed, Handed::Again);
                    Ok(())
                }
                (None, _) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    async fn chunk(&mut self, chunk: ReadChunk, window: &Window) -> Result<(), Failure> {
        // In the window or before it: a commit that the rows do not show and that came as changes already.
        if window.unclear || self.recent.has_any(&chunk.in_progress) {
            tell(chunk.handed, Handed::Again);
            return Ok(());
        }
        let (name, dispatcher) = (&self.follower.context.name, &self.follower.context.dispatcher);
        let listened = self.relay.is_some() || dispatcher.listens(name, chunk.table.event_type(Op::Read));
        let (mut events, mut superseded) = (0, 0);
        for keyed in &chunk.rows {
            if window.changed.contains(&keyed.key) {
                superseded += 1;
                continue;
            }
            self.received += 1;
            let event = self.read_event(&chunk, keyed, events)?;
            if !listened {
                self.follower.context.dispatcher.unmatched(&self.follower.context.name, &event, 1);
                continue;
            }
            let Some(credit) = self.credit(event.size()).await else { return Ok(()) };
            let key = [chunk.backfill.as_bytes().as_slice(), &keyed.key].concat();
            let identity = Identity { at: chunk.at, key, sent: chunk.sent };
            self.deliver(event, identity, Ticket::new(events, chunk.release.clone(), credit)).await;
            events += 1;
        }
        tell(chunk.handed, Handed::Over { events, superseded });
        Ok(())
    }

    /// The event of a row that was read; the same row of the same backfill has the same id however often it is read.
    fn read_event(&self, chunk: &ReadChunk, keyed: &KeyedRow, number: u64) -> Result<Arc<Event>, Failure> {
        let Some(open) = &self.transaction else {
            return Err(Failure::Again("a mark came outside a transaction".to_owned()));
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let change = Change::Read(keyed.row.tuple());
        let event = chunk.table.event(&change, &open.facts, number, &self.origin);
        let event = event.map_err(|error| Failure::Again(error.to_string()))?;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&keyed.key);
        let id = format!("{}-{}-{}", self.origin.system, chunk.backfill.simple(), hex(&digest[..12]));
        Ok(Arc::new(Event { id, ..event }))
    }
}

/// The reader of rows may be gone with its connection.
fn tell(handed: tokio::sync::oneshot::Sender<Handed>, what: Handed) {
    let _ = handed.send(what);
}
