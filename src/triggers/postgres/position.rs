//! The line of a feed: what was handed over, what is settled, and how far the slot may be told.
//!
//! Invariant: `settled` never passes the end of a transaction of which something is not settled, never moves inside a
//! transaction, and never goes back. A line lives as long as one holding of the lease, over any number of connections:
//! what the server sends again after a reconnect is recognised by its place and not handed over twice.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lsn::Lsn;
use crate::watermark::Watermark;

/// The place of a change: its transaction's commit, and its number in it.
pub(super) type Place = (Lsn, u32);

/// The line of one feed.
#[derive(Debug)]
pub(super) struct Line {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Numbers in the order in which changes were handed over and commits were seen.
    watermark: Watermark,
    next: u64,
    /// Commits that wait for what is before them: their number and the end of the transaction.
    commits: VecDeque<(u64, Lsn)>,
    settled: Lsn,
    last: Place,
    in_transaction: bool,
    /// Whether a transaction moved `settled` since it was last written down.
    worked: bool,
}

impl Line {
    /// A line on which everything up to `settled` is settled.
    pub(super) fn new(settled: Lsn) -> Self {
        let state = State {
            watermark: Watermark::new(None),
            next: 0,
            commits: VecDeque::new(),
            settled,
            last: (Lsn::ZERO, 0),
            in_transaction: false,
            worked: false,
        };
        Self { state: Mutex::new(state) }
    }

    /// A connection begins: what it sends starts outside any transaction.
    pub(super) fn connected(&self) {
        self.state().in_transaction = false;
    }

    /// A transaction begins.
    pub(super) fn begin(&self) {
        self.state().in_transaction = true;
    }

    /// Puts the change at `place` in flight and gives its number; none when it was handed over before.
    pub(super) fn enter(&self, place: Place) -> Option<u64> {
        let mut state = self.state();
        if place <= state.last {
            return None;
        }
        state.last = place;
        Some(state.enter())
    }

    /// Whether the change at `place` was handed over before; a change that is not handed over is noted all the same.
    pub(super) fn pass(&self, place: Place) -> bool {
        let mut state = self.state();
        let new = place > state.last;
        if new {
            state.last = place;
        }
        new
    }

    /// The transaction ends at `end`.
    pub(super) fn commit(&self, end: Lsn) {
        let mut state = self.state();
        state.in_transaction = false;
        if state.commits.back().is_some_and(|(_, last)| *last >= end) || end <= state.settled {
            return;
        }
        let next = state.next;
        if let Some((number, last)) = state.commits.back_mut()
            && *number + 1 == next
        {
            // Nothing lies between: they are settled together, and what waits stays as small as what is in flight.
            *last = end;
            return;
        }
        let number = state.enter();
        state.commits.push_back((number, end));
        state.settle(number);
    }

    /// The number that `enter` gave is settled.
    pub(super) fn settle(&self, number: u64) {
        self.state().settle(number);
    }

    /// The server has nothing for us up to `end`: it moves the line when nothing is under way.
    pub(super) fn idle(&self, end: Lsn) {
        let mut state = self.state();
        if !state.in_transaction && state.watermark.in_flight() == 0 && end > state.settled {
            state.settled = end;
        }
    }

    /// Every transaction that ends at or before this is settled.
    pub(super) fn settled(&self) -> Lsn {
        self.state().settled
    }

    /// Whether a transaction moved it since `rest`; idling does not count.
    pub(super) fn has_worked(&self) -> bool {
        self.state().worked
    }

    /// What it says now is about to be written down.
    pub(super) fn rest(&self) {
        self.state().worked = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        // The numbers increase, so the watermark takes each.
        let _ = self.watermark.enter(number);
        number
    }

    fn settle(&mut self, number: u64) {
        // A number is settled once: tickets tell once, commits are settled where they are entered.
        let Ok(Some(low)) = self.watermark.settle(number) else { return };
        while let Some((_, end)) = self.commits.pop_front_if(|(number, _)| *number <= low) {
            self.worked |= end > self.settled;
            self.settled = self.settled.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_commit_waits_for_every_change_before_it() {
        let line = Line::new(Lsn(100));
        line.begin();
        let first = line.enter((Lsn(110), 0)).expect("it is new");
        line.commit(Lsn(115));
        line.begin();
        let second = line.enter((Lsn(120), 0)).expect("it is new");
        line.commit(Lsn(125));
        line.settle(second);
        assert_eq!(line.settled(), Lsn(100), "the first holds the second back");
        line.settle(first);
        assert_eq!(line.settled(), Lsn(125));
    }

    #[test]
    fn nothing_moves_inside_a_transaction_and_an_idle_server_moves_it_outside() {
        let line = Line::new(Lsn(100));
        line.idle(Lsn(105));
        assert_eq!(line.settled(), Lsn(105));
        line.begin();
        line.idle(Lsn(200));
        assert_eq!(line.settled(), Lsn(105), "the server's position runs ahead of the transaction that it sends");
        let change = line.enter((Lsn(150), 0)).expect("it is new");
        line.commit(Lsn(155));
        line.idle(Lsn(200));
        assert_eq!(line.settled(), Lsn(105));
        line.settle(change);
        assert_eq!(line.settled(), Lsn(155));
        line.idle(Lsn(200));
        assert_eq!(line.settled(), Lsn(200));
    }

    #[test]
    fn what_comes_again_after_a_reconnect_is_recognised() {
        let line = Line::new(Lsn(100));
        line.begin();
        let first = line.enter((Lsn(110), 0)).expect("it is new");
        assert!(line.enter((Lsn(110), 1)).is_some());
        line.connected();
        line.begin();
        assert_eq!(line.enter((Lsn(110), 0)), None);
        assert_eq!(line.enter((Lsn(110), 1)), None);
        let third = line.enter((Lsn(110), 2)).expect("the transaction was cut off before it");
        line.commit(Lsn(115));
        line.settle(first);
        line.settle(third);
        assert_eq!(line.settled(), Lsn(100), "the second is still under way");
        line.settle(1);
        assert_eq!(line.settled(), Lsn(115));
        line.commit(Lsn(115));
        assert_eq!(line.settled(), Lsn(115));
    }

    #[test]
    fn commits_without_a_change_take_no_room() {
        let line = Line::new(Lsn(100));
        line.begin();
        let stuck = line.enter((Lsn(110), 0)).expect("it is new");
        line.commit(Lsn(115));
        for at in 0..10_000 {
            line.begin();
            line.commit(Lsn(200 + at));
        }
        assert_eq!(line.state().commits.len(), 1);
        line.settle(stuck);
        assert_eq!(line.settled(), Lsn(200 + 9_999));
    }

    proptest! {
        /// Transactions of 0 to 3 changes, settled in any order, with reconnects that send the unsettled ones again.
        #[test]
        fn the_line_never_passes_what_is_not_settled(
            sizes in proptest::collection::vec(0_u32..4, 1..20),
            order in proptest::collection::vec((any::<usize>(), any::<bool>()), 0..120),
        ) {
            let line = Line::new(Lsn(0));
            let mut open: Vec<(Lsn, u64)> = Vec::new();
            let send = |open: &mut Vec<(Lsn, u64)>, from: Lsn| {
                line.connected();
                for (at, size) in sizes.iter().enumerate() {
                    let lsn = Lsn(10 * (at as u64 + 1));
                    if Lsn(lsn.0 + 5) <= from {
                        continue;
                    }
                    line.begin();
                    open.extend((0..*size).filter_map(|n| line.enter((lsn, n))).map(|number| (lsn, number)));
                    line.idle(Lsn(1_000_000));
                    line.commit(Lsn(lsn.0 + 5));
                }
            };
            send(&mut open, Lsn(0));
            prop_assert_eq!(open.len(), sizes.iter().sum::<u32>() as usize);
            for (pick, reconnect) in order {
                if reconnect {
                    send(&mut open, line.settled());
                } else if let Some(at) = pick.checked_rem(open.len()) {
                    line.settle(open.remove(at).1);
                }
                let lowest = open.iter().map(|(lsn, _)| *lsn).min().unwrap_or(Lsn(u64::MAX));
                prop_assert!(line.settled() < lowest, "{:?} is settled, {:?} is open", line.settled(), lowest);
            }
            for (_, number) in open.drain(..) {
                line.settle(number);
            }
            let last = 10 * sizes.len() as u64 + 5;
            prop_assert!(line.settled() >= Lsn(last));
        }
    }
}
