//! A partition while it is assigned: what is in flight of it, and what may be committed.
//!
//! Invariant: what is to be committed is the first offset of the partition that is not settled. An assignment is known by
//! its channel: what is settled of one that is over reaches nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::dispatch::budget::Credit;
use crate::dispatch::ownership::Ownership;
use crate::dispatch::ticket::Ticket;
use crate::watermark::Watermark;

use super::note::{Mark, Note};
use super::place::Begin;

/// How far ahead of what was handed over a committed note says that records may have run.
const AHEAD: i64 = 2_000;
/// Offsets that can wait to be taken as settled: more than any budget lets be in flight.
const RELEASE_QUEUE: usize = 1 << 17;
/// A position that does not move is committed again this often: brokers forget offsets that nobody renews.
const RENEW: Duration = Duration::from_secs(3_600);
/// Records between the first that is not settled and the last that was handed over: knowing them takes memory.
const SPAN_MAX: i64 = 500_000;
/// Assignments without progress after which what may have run is not run again at once.
const TRIES_MAX: u32 = 3;

/// A partition that this member reads.
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) id: i32,
    pub(super) ownership: Arc<Ownership>,
    /// The record before the first one, to be compared with what comes.
    pub(super) verify: Option<Mark>,
    begin: Begin,
    watermark: Watermark,
    /// Of what is in flight or was settled last, by offset.
    marks: VecDeque<(i64, Mark)>,
    /// What comes next.
    next: i64,
    release: Option<mpsc::Sender<u64>>,
    released: mpsc::Receiver<u64>,
    sent: Option<Sent>,
}

/// A commit that was sent.
struct Sent {
    offset: i64,
    until: i64,
    at: Instant,
}

/// What is to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) offset: i64,
    pub(super) note: Note,
}

/// How a record stands to what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It never ran.
    Fresh,
    /// It may have run: it is looked up.
    Known,
    /// It may have run while processes died: it is not run beside others.
    Suspect,
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, id: i32, begin: Begin, ownership: Ownership) -> Self {
        let (release, released) = mpsc::channel(RELEASE_QUEUE);
        Self {
            topic,
            id,
            ownership: Arc::new(ownership),
            verify: begin.mark,
            begin,
            watermark: Watermark::new(u64::try_from(begin.at).ok().and_then(|at| at.checked_sub(1))),
            marks: VecDeque::new(),
            next: begin.at,
            release: Some(release),
            released,
            sent: None,
        }
    }

    /// The offset that reading begins with: one earlier where there is a record to compare.
    pub(super) fn first(&self) -> i64 {
        if self.verify.is_some() { self.begin.at - 1 } else { self.begin.at }
    }

    /// The first offset that was not handed over.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// The first offset that is not settled.
    pub(super) fn settled(&self) -> i64 {
        let low = self.watermark.low().and_then(|low| i64::try_from(low).ok());
        low.map_or(self.begin.at, |low| low + 1).max(self.begin.at)
    }

    /// The timestamp of the record that was handed over last.
    pub(super) fn newest(&self) -> Option<i64> {
        self.marks.back().map(|(_, mark)| mark.timestamp)
    }

    /// Whether so much was handed over behind the first record that is not settled that it must be waited for.
    pub(super) fn is_full(&self) -> bool {
        self.next - self.settled() > SPAN_MAX
    }

    pub(super) fn in_flight(&self) -> usize {
        self.watermark.in_flight()
    }

    /// Puts the record at `offset` in flight; none of one that was handed over already.
    pub(super) fn enter(&mut self, offset: i64, mark: Mark, credit: Credit) -> Option<(Ticket, Standing)> {
        let (position, release) = (u64::try_from(offset).ok()?, self.release.clone()?);
        self.watermark.enter(position).ok()?;
        self.marks.push_back((offset, mark));
        self.next = offset + 1;
        let standing = match offset < self.begin.until {
            true if self.begin.tries >= TRIES_MAX => Standing::Suspect,
            true => Standing::Known,
            false => Standing::Fresh,
        };
        Some((Ticket::new(position, release, credit), standing))
    }

    /// Takes in what was settled; how many records.
    pub(super) fn take_released(&mut self) -> u64 {
        let mut count = 0;
        while let Ok(position) = self.released.try_recv() {
            count += 1;
            self.settle(position);
        }
        count
    }

    fn settle(&mut self, position: u64) {
        if let Err(error) = self.watermark.settle(position) {
            tracing::warn!(topic = %self.topic, partition = self.id, %error, "an offset was settled twice");
            return;
        }
        let settled = self.settled();
        while self.marks.len() > 1 && self.marks.get(1).is_some_and(|(offset, _)| *offset < settled) {
            self.marks.pop_front();
        }
    }

    /// Hands nothing over any more: `is_idle` once everything that was is settled or given up.
    pub(super) fn close(&mut self) {
        self.release = None;
    }

    /// Waits until everything that was handed over is settled or given up.
    pub(super) async fn ended(&mut self) {
        self.close();
        while let Some(position) = self.released.recv().await {
            self.settle(position);
        }
    }

    /// Whether everything that was handed over is settled or given up. It hands nothing over any more.
    pub(super) fn is_idle(&mut self) -> bool {
        loop {
            match self.released.try_recv() {
                Ok(position) => self.settle(position),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// The commit that says that the partition is read from now on, before anything of it is handed over.
    pub(super) fn opening(&self) -> Commit {
        let note = Note { until: self.begin.until + AHEAD, tries: self.begin.tries + 1, mark: self.begin.mark };
        Commit { offset: self.begin.at, note }
    }

    /// What is to be committed now, if anything is.
    pub(super) fn due(&self) -> Option<Commit> {
        let (offset, ahead) = (self.settled(), self.until_now() + AHEAD);
        let Some(sent) = &self.sent else { return Some(self.commit(offset, ahead)) };
        let is_due = offset != sent.offset || self.runs_ahead() || sent.at.elapsed() > RENEW;
        is_due.then(|| self.commit(offset, ahead))
    }

    /// Whether records that were handed over come close to what the last commit said of them.
    pub(super) fn runs_ahead(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| self.next + AHEAD / 2 > sent.until)
    }

    /// The commit that gives the partition up.
    pub(super) fn closing(&self) -> Commit {
        let commit = self.commit(self.settled(), self.until_now());
        Commit { note: Note { tries: 0, ..commit.note }, ..commit }
    }

    fn until_now(&self) -> i64 {
        // What may have run before this assignment may still be unsettled.
        if self.settled() < self.begin.until { self.next.max(self.begin.until) } else { self.next }
    }

    fn commit(&self, offset: i64, until: i64) -> Commit {
        let before = self.marks.front().filter(|(at, _)| at + 1 == offset).map(|(_, mark)| *mark);
        let mark = before.or_else(|| self.begin.mark.filter(|_| offset == self.begin.at));
        let tries = if offset > self.begin.at { 0 } else { self.begin.tries + 1 };
        Commit { offset, note: Note { until: until.max(offset), tries, mark } }
    }

    /// Remembers that `commit` was sent.
    pub(super) fn sent(&mut self, commit: &Commit) {
        self.sent = Some(Sent { offset: commit.offset, until: commit.note.until, at: Instant::now() });
    }

    /// The last commit did not get through: the next one says all of it again.
    pub(super) fn unsent(&mut self) {
        self.sent = None;
    }
}
