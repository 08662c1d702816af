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

    /// What was committed last, if the brokers have less: they have `found`. The next commit says it again.
    pub(super) fn fell_behind(&mut self, found: Option<i64>) -> Option<i64> {
        let sent = self.sent.as_ref()?.offset;
        if found.is_some_and(|found| found >= sent) {
            return None;
        }
        self.unsent();
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MARK: Mark = Mark { timestamp: 1, key: 1, value: 1 };

    fn partition(at: i64, until: i64, tries: u32) -> Partition {
        let begin = Begin { at, until, tries, mark: (at > 0).then_some(MARK) };
        Partition::new("orders".into(), 0, begin, Ownership::assigned(None))
    }

    fn mark(offset: i64) -> Mark {
        Mark { timestamp: offset, ..MARK }
    }

    fn enter(partition: &mut Partition, offset: i64) -> (Ticket, Standing) {
        partition.enter(offset, mark(offset), Credit::none()).expect("it is the next one")
    }

    #[test]
    fn what_may_have_run_is_told_from_what_is_fresh() {
        let mut partition = partition(10, 12, 0);
        let standings: Vec<Standing> = (10..14).map(|offset| enter(&mut partition, offset).1).collect();
        assert_eq!(standings, [Standing::Known, Standing::Known, Standing::Fresh, Standing::Fresh]);
        assert!(partition.enter(11, MARK, Credit::none()).is_none(), "it was handed over");
        let mut third = self::partition(10, 12, TRIES_MAX);
        assert_eq!(enter(&mut third, 10).1, Standing::Suspect);
        assert_eq!(enter(&mut third, 12).1, Standing::Fresh);
    }

    #[test]
    fn commits_say_how_far_records_may_have_run_and_how_often_nothing_came_of_it() {
        let mut partition = partition(10, 15, 1);
        assert_eq!((partition.first(), partition.settled()), (9, 10));
        let opening = Commit { offset: 10, note: Note { until: 15 + AHEAD, tries: 2, mark: Some(MARK) } };
        assert_eq!(partition.opening(), opening);
        partition.sent(&opening);
        assert_eq!(partition.due(), None);
        let tickets: Vec<Ticket> = (10..13).map(|offset| enter(&mut partition, offset).0).collect();
        assert_eq!(partition.due(), None, "nothing is settled");
        let mut tickets = tickets.into_iter();
        tickets.next().expect("three are there").settled();
        assert_eq!(partition.take_released(), 1);
        let due = partition.due().expect("one is settled");
        assert_eq!((due.offset, due.note.tries, due.note.mark), (11, 0, Some(mark(10))));
        assert_eq!(due.note.until, 15 + AHEAD, "what ran before this assignment is not settled yet");
        let closing = partition.closing();
        assert_eq!((closing.offset, closing.note.until, closing.note.tries), (11, 15, 0));
    }

    #[test]
    fn what_an_assignment_that_is_over_settles_reaches_nobody() {
        let mut old = partition(0, 0, 0);
        let (ticket, _) = enter(&mut old, 0);
        drop(old);
        let mut new = partition(0, 2_000, 1);
        let (_kept, standing) = enter(&mut new, 0);
        ticket.settled();
        assert_eq!((new.take_released(), new.settled(), standing), (0, 0, Standing::Known));
    }

    #[test]
    fn it_is_idle_once_nothing_is_held_any_more() {
        let mut partition = partition(5, 5, 0);
        let (first, second) = (enter(&mut partition, 5).0, enter(&mut partition, 8).0);
        partition.close();
        assert!(!partition.is_idle() && partition.enter(9, MARK, Credit::none()).is_none());
        first.settled();
        assert!(!partition.is_idle());
        drop(second);
        assert!(partition.is_idle());
        assert_eq!(partition.closing().offset, 6, "what was given up is not settled");
    }

    #[test]
    fn what_the_brokers_have_forgotten_is_committed_again() {
        let mut partition = partition(10, 10, 0);
        assert_eq!(partition.fell_behind(None), None, "nothing was committed");
        let opening = partition.opening();
        partition.sent(&opening);
        assert_eq!((partition.fell_behind(Some(10)), partition.fell_behind(Some(12))), (None, None));
        assert_eq!(partition.due(), None);
        for found in [Some(9), None] {
            assert_eq!(partition.fell_behind(found), Some(10));
            let due = partition.due().expect("the brokers have less");
            assert_eq!(due.offset, 10);
            partition.sent(&due);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_committed_before_it_is_settled(
            start in 0_i64..3,
            steps in proptest::collection::vec((0_u8..3, 1_i64..4, any::<usize>()), 1..120),
        ) {
            let mut partition = partition(start, start, 0);
            let mut open: BTreeMap<i64, Ticket> = BTreeMap::new();
            let mut next = start;
            for (kind, gap, which) in steps {
                if kind < 2 {
                    let offset = next + gap - 1;
                    open.insert(offset, enter(&mut partition, offset).0);
                    next = offset + 1;
                } else if let Some(at) = which.checked_rem(open.len()) {
                    let offset = *open.keys().nth(at).expect("it is there");
                    open.remove(&offset).expect("it is there").settled();
                }
                partition.take_released();
                let lowest = open.keys().next().copied();
                if let Some(commit) = partition.due() {
                    prop_assert!(commit.offset <= lowest.unwrap_or(next), "{commit:?} of {open:?}");
                    prop_assert!(commit.note.until >= next, "{commit:?} before {next}");
                    let known = commit.note.mark.filter(|_| commit.offset > start);
                    prop_assert_eq!(known.map(|mark| mark.timestamp + 1), (commit.offset > start).then_some(commit.offset));
                    partition.sent(&commit);
                }
                prop_assert_eq!(partition.in_flight(), open.len());
            }
            drop(open);
            partition.close();
            prop_assert!(partition.is_idle());
        }
    }
}
