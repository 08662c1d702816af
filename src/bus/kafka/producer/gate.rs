//! When records go to the client: at once while nothing is on its way, else together once that has arrived.
//!
//! librdkafka's idempotent producer has one batch of a partition on its way. What waits behind it for longer than `linger.ms`
//! keeps the thread of its broker awake, which asks in a loop whether it may send by now (`rd_kafka_toppar_producer_serve`:
//! `next_wakeup` lies in the past). With 12 partitions that was a tenth of a busy machine. So records wait here instead, which
//! costs nothing, and leave in larger batches. Where nothing is on its way, none waits.
//!
//! Invariant: records leave in the order in which they came. What waits is bounded, in number, bytes and time: a partition that
//! cannot be written holds up the others for a few times as long as records take as a rule.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many times as long as a record takes as a rule what is on its way is waited for.
const PATIENCE: u32 = 4;
/// At least, and at most.
const HOLD_MIN: Duration = Duration::from_millis(20);
const HOLD_MAX: Duration = Duration::from_millis(250);
/// How many records it takes until what they take is the rule.
const MEMORY: u32 = 256;
/// Most records that leave together: no more than the client takes in while its first ones wait for others, by which time the
/// batch of their partition leaves.
const GROUP_MAX: usize = 4_000;
/// Most records that wait, and most bytes.
const WAITING_MAX: usize = 1 << 14;
const BYTES_MAX: usize = 4 << 20;

/// Records that wait, and how many are on their way.
#[derive(Debug)]
pub(super) struct Gate<R> {
    /// While this lasts, records join those that left last: the client waits for others as well.
    linger: Duration,
    /// Most records that wait.
    most: usize,
    waiting: VecDeque<(usize, R)>,
    bytes: usize,
    /// Those that left last together, if any did, how many they are, and how many of them are on their way.
    group: Option<Group>,
    size: usize,
    on_way: usize,
    /// How long a record takes as a rule.
    usual: Duration,
}

/// What left together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    number: u64,
    left: Instant,
}

/// Why a record cannot leave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped<E> {
    /// There is no room for it now.
    Full(E),
    /// Never.
    Failed(E),
}

impl Group {
    fn since(self, now: Instant) -> Duration {
        now.saturating_duration_since(self.left)
    }
}

impl<R> Gate<R> {
    /// A gate before a client that has records wait for others for `linger`; at most `most` wait before it.
    pub(super) fn new(linger: Duration, most: usize) -> Self {
        Self {
            linger,
            most: most.min(WAITING_MAX),
            waiting: VecDeque::new(),
            bytes: 0,
            group: None,
            size: 0,
            on_way: 0,
            usual: Duration::ZERO,
        }
    }

    /// Takes a record of `bytes`: it leaves by `send` now, or waits. `fail` hears of what waited and can never leave.
    ///
    /// # Errors
    /// The record, if it can neither leave nor wait.
    pub(super) fn put<E>(
        &mut self,
        now: Instant,
        (bytes, mut record): (usize, R),
        mut send: impl FnMut(R, Group) -> Result<(), (R, Stopped<E>)>,
        fail: impl FnMut(R, E),
    ) -> Result<(), (R, Stopped<E>)> {
        let is_full = self.waiting.len() >= self.most || self.bytes >= BYTES_MAX;
        if is_full || self.is_open(now) {
            match self.release_some(now, is_full, &mut send, fail) {
                None if self.waiting.is_empty() => match self.leave(now, record, &mut send) {
                    Err((back, Stopped::Full(_))) if !is_full => record = back,
                    left => return left,
                },
                // Behind those that cannot leave.
                Some(stopped) if is_full => return Err((record, stopped)),
                None | Some(_) => {}
            }
        }
        self.bytes += bytes;
        self.waiting.push_back((bytes, record));
        Ok(())
    }

    /// Lets those that wait leave, as many as go together, in their order. `fail` hears of what can never leave.
    pub(super) fn release<E>(
        &mut self,
        now: Instant,
        send: impl FnMut(R, Group) -> Result<(), (R, Stopped<E>)>,
        fail: impl FnMut(R, E),
    ) {
        self.release_some(now, false, send, fail);
    }

    /// As `release`; the first leaves in any case, if it `must`. Gives what stops the rest.
    fn release_some<E>(
        &mut self,
        now: Instant,
        mut must: bool,
        mut send: impl FnMut(R, Group) -> Result<(), (R, Stopped<E>)>,
        mut fail: impl FnMut(R, E),
    ) -> Option<Stopped<E>> {
        while must || self.is_open(now) {
            let Some((bytes, record)) = self.waiting.pop_front() else { break };
            self.bytes -= bytes;
            match self.leave(now, record, &mut send) {
                Ok(()) => must = false,
                Err((record, Stopped::Failed(error))) => fail(record, error),
                Err((record, full)) => {
                    self.bytes += bytes;
                    self.waiting.push_front((bytes, record));
                    return Some(full);
                }
            }
        }
        None
    }

    /// A record of `group` is stored, or has failed: whether others wait that may leave now.
    pub(super) fn arrived(&mut self, now: Instant, group: Group, is_stored: bool) -> bool {
        if is_stored {
            self.usual = (self.usual * (MEMORY - 1) + group.since(now)) / MEMORY;
        }
        if self.group == Some(group) {
            self.on_way = self.on_way.saturating_sub(1);
        }
        self.is_due(now)
    }

    /// Whether records wait that may leave now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.is_open(now)
    }

    fn is_open(&self, now: Instant) -> bool {
        let Some(group) = self.group.filter(|_| self.on_way > 0) else { return true };
        let hold = (self.usual * PATIENCE).clamp(HOLD_MIN, HOLD_MAX);
        self.is_joined(group, now) || group.since(now) >= hold
    }

    fn is_joined(&self, group: Group, now: Instant) -> bool {
        group.since(now) < self.linger && self.size < GROUP_MAX
    }

    fn leave<E>(
        &mut self,
        now: Instant,
        record: R,
        send: &mut impl FnMut(R, Group) -> Result<(), (R, Stopped<E>)>,
    ) -> Result<(), (R, Stopped<E>)> {
        // What another group has on its way still is not waited for any longer.
        let joined = self.group.filter(|group| self.on_way > 0 && self.is_joined(*group, now));
        let number = self.group.map_or(0, |group| group.number.wrapping_add(1));
        let group = joined.unwrap_or(Group { number, left: now });
        send(record, group)?;
        if joined.is_none() {
            (self.group, self.size, self.on_way) = (Some(group), 0, 0);
        }
        self.size += 1;
        self.on_way += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINGER: Duration = Duration::from_millis(1);

    /// A client: what left, with its group, and whether it has room.
    #[derive(Default)]
    struct Client {
        left: Vec<(u32, Group)>,
        is_full: bool,
    }

    impl Client {
        fn put(&mut self, gate: &mut Gate<u32>, now: Instant, record: u32) -> bool {
            gate.put(now, (1, record), |record, group| self.take(record, group), |_, ()| ()).is_ok()
        }

        fn release(&mut self, gate: &mut Gate<u32>, now: Instant) {
            gate.release(now, |record, group| self.take(record, group), |_, ()| ());
        }

        fn take(&mut self, record: u32, group: Group) -> Result<(), (u32, Stopped<()>)> {
            if self.is_full {
                return Err((record, Stopped::Full(())));
            }
            self.left.push((record, group));
            Ok(())
        }

        fn records(&self) -> Vec<u32> {
            self.left.iter().map(|(record, _)| *record).collect()
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_comes_while_something_is_on_its_way_leaves_together_when_that_has_arrived() {
        let (mut gate, mut client, start) = (Gate::new(LINGER, 5_000), Client::default(), Instant::now());
        // The first two are one group: the client waits for others that long.
        assert!(client.put(&mut gate, start, 1) && client.put(&mut gate, start, 2));
        assert!(client.put(&mut gate, start + ms(2), 3) && client.put(&mut gate, start + ms(3), 4));
        assert_eq!(client.records(), [1, 2]);
        let group = client.left[0].1;
        assert_eq!(client.left[1].1, group);
        assert!(!gate.arrived(start + ms(4), group, true), "the other is on its way");
        assert!(gate.arrived(start + ms(4), group, true));
        client.release(&mut gate, start + ms(4));
        assert_eq!(client.records(), [1, 2, 3, 4]);
        assert_eq!(client.left[2].1, client.left[3].1);
        assert_ne!(client.left[2].1, group);
        assert!(!gate.arrived(start + ms(5), group, true), "nothing waits");
    }

    #[test]
    fn what_does_not_arrive_is_waited_for_only_so_long() {
        let (mut gate, mut client, start) = (Gate::new(LINGER, 5_000), Client::default(), Instant::now());
        client.put(&mut gate, start, 1);
        client.put(&mut gate, start + ms(2), 2);
        assert!(!gate.is_due(start + HOLD_MIN - ms(1)) && gate.is_due(start + HOLD_MIN));
        client.put(&mut gate, start + HOLD_MIN, 3);
        assert_eq!(client.records(), [1, 2, 3]);
        // The first one is another group's.
        assert_eq!(gate.on_way, 2);
        gate.arrived(start + ms(50), client.left[0].1, true);
        assert_eq!(gate.on_way, 2);
    }

    #[test]
    fn it_is_more_patient_where_everything_takes_longer_and_failures_do_not_count() {
        let (mut gate, start) = (Gate::<u32>::new(LINGER, 5_000), Instant::now());
        let group = Group { number: 0, left: start };
        let many = |gate: &mut Gate<u32>, after: u64, is_stored: bool| {
            for _ in 0..2_000 {
                let _ = gate.arrived(start + ms(after), group, is_stored);
            }
        };
        many(&mut gate, 5_000, false);
        assert_eq!(gate.usual, Duration::ZERO);
        many(&mut gate, 30, true);
        assert!((ms(29)..=ms(30)).contains(&gate.usual), "{:?}", gate.usual);
        (gate.group, gate.on_way) = (Some(group), 1);
        assert!(!gate.is_open(start + ms(100)) && gate.is_open(start + ms(120)));
        many(&mut gate, 5_000, true);
        gate.on_way = 1;
        assert!(!gate.is_open(start + HOLD_MAX - ms(1)) && gate.is_open(start + HOLD_MAX));
    }

    #[test]
    fn what_cannot_leave_waits_up_to_a_bound_and_what_never_can_is_told() {
        let (mut gate, mut client, start) = (Gate::new(LINGER, 5_000), Client::default(), Instant::now());
        client.is_full = true;
        let taken = (0..10_000).take_while(|n| client.put(&mut gate, start, *n)).count();
        assert_eq!(taken, 5_000);
        let mut large = Gate::new(LINGER, 5_000);
        let mut put = |bytes| large.put(start, (bytes, 0), |r, _| Err((r, Stopped::Full(()))), |_, ()| ()).is_ok();
        assert!(put(BYTES_MAX - 1) && put(BYTES_MAX) && !put(1));
        client.is_full = false;
        client.put(&mut gate, start, 10_000);
        assert_eq!((client.records().len(), gate.waiting.len()), (GROUP_MAX, 5_001 - GROUP_MAX), "no more go together");
        assert!(client.left.iter().all(|(_, group)| *group == client.left[0].1));
        let mut failed = Vec::new();
        let mut gate = Gate::new(LINGER, 5_000);
        for n in 0..3 {
            let _ = gate.put(start, (1, n), |r, _| Err((r, Stopped::Full(()))), |_, ()| ());
        }
        gate.release(
            start,
            |r, _| if r == 1 { Err((r, Stopped::Failed("no"))) } else { Ok(()) },
            |r, e| failed.push((r, e)),
        );
        assert_eq!((failed, gate.waiting.len(), gate.on_way), (vec![(1, "no")], 0, 2));
    }

    proptest! {
        #[test]
        fn records_leave_once_and_in_order(steps in proptest::collection::vec((0_u8..6, 0_u64..40), 1..200)) {
            let (mut gate, mut client, mut now) = (Gate::new(LINGER, 5_000), Client::default(), Instant::now());
            let (mut next, mut arrived) = (0, 0);
            for (step, pause) in steps {
                now += ms(pause);
                match step {
                    0..=2 => {
                        prop_assert!(client.put(&mut gate, now, next));
                        next += 1;
                    }
                    3 if arrived < client.left.len() => {
                        let due = gate.arrived(now, client.left[arrived].1, pause % 2 == 0);
                        arrived += 1;
                        if due {
                            client.release(&mut gate, now);
                        }
                    }
                    4 => client.is_full = !client.is_full,
                    _ if gate.is_due(now) => client.release(&mut gate, now),
                    _ => {}
                }
                prop_assert_eq!(client.records(), (0..client.left.len() as u32).collect::<Vec<_>>());
                prop_assert_eq!(client.left.len() + gate.waiting.len(), next as usize);
                prop_assert!(gate.on_way <= client.left.len() - arrived);
            }
            client.is_full = false;
            client.release(&mut gate, now + HOLD_MAX);
            prop_assert_eq!(client.left.len(), next as usize);
        }
    }
}
