//! Records that were read and not handed over: a queue for each partition, taken from in turns.
//!
//! Invariant: the records of a partition leave in the order in which they came. Brokers send thousands of one partition,
//! then thousands of the next; taken in turns, records of all partitions are in flight, and so of more keys at a time.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

/// Records and bytes that are read ahead, about: what is read before anything else is looked at comes on top.
const RECORDS_MAX: usize = 50_000;
const BYTES_MAX: u64 = 16 << 20;

/// A partition: which of the topics that were seen, and its number.
pub(super) type Slot = (usize, i32);

/// Records of partitions.
pub(super) struct Ahead<T> {
    topics: Vec<String>,
    /// None of these is empty.
    queues: HashMap<Slot, VecDeque<(u64, T)>, RandomState>,
    /// Whose turn it is, each once.
    turns: VecDeque<Slot>,
    records: usize,
    bytes: u64,
}

impl<T> Ahead<T> {
    /// Nothing.
    pub(super) fn new() -> Self {
        let queues = HashMap::with_hasher(RandomState::default());
        Self { topics: Vec::new(), queues, turns: VecDeque::new(), records: 0, bytes: 0 }
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.records
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether no more is to be read.
    pub(super) fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Whether there is room for much.
    pub(super) fn has_room(&self) -> bool {
        self.records < RECORDS_MAX / 2 && self.bytes < BYTES_MAX / 2
    }

    /// The place of a partition, which it keeps.
    pub(super) fn slot(&mut self, topic: &str, partition: i32) -> Slot {
        let known = self.topics.iter().position(|known| known == topic);
        let topic = known.unwrap_or_else(|| {
            self.topics.push(topic.to_owned());
            self.topics.len() - 1
        });
        (topic, partition)
    }

    /// Puts a record of `bytes` behind the others of its partition.
    pub(super) fn push(&mut self, slot: Slot, bytes: u64, record: T) {
        let queue = self.queues.entry(slot).or_default();
        if queue.is_empty() {
            self.turns.push_back(slot);
        }
        queue.push_back((bytes, record));
        (self.records, self.bytes) = (self.records + 1, self.bytes + bytes);
    }

    /// The bytes of the record that is next.
    pub(super) fn next_bytes(&self) -> Option<u64> {
        let queue = self.queues.get(self.turns.front()?)?;
        queue.front().map(|(bytes, _)| *bytes)
    }

    /// Takes the record that is next.
    pub(super) fn pop(&mut self) -> Option<T> {
        let turn = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&turn)?;
        let (bytes, record) = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&turn);
        } else {
            self.turns.push_back(turn);
        }
        (self.records, self.bytes) = (self.records - 1, self.bytes - bytes);
        Some(record)
    }

    /// Forgets the records of a partition.
    pub(super) fn forget(&mut self, topic: &str, partition: i32) {
        let slot = self.slot(topic, partition);
        let Some(queue) = self.queues.remove(&slot) else { return };
        self.turns.retain(|turn| *turn != slot);
        self.records -= queue.len();
        self.bytes -= queue.iter().map(|(bytes, _)| bytes).sum::<u64>();
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partitions_take_turns() {
        let mut ahead = Ahead::new();
        let records = [("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 1, 4), ("b", 0, 5), ("b", 0, 6)];
        for (topic, partition, record) in records {
            let slot = ahead.slot(topic, partition);
            ahead.push(slot, 10, record);
        }
        assert_eq!((ahead.next_bytes(), ahead.bytes, ahead.records), (Some(10), 60, 6));
        let taken: Vec<i32> = std::iter::from_fn(|| ahead.pop()).collect();
        assert_eq!(taken, [1, 4, 5, 2, 6, 3]);
        assert!(ahead.is_empty() && ahead.next_bytes().is_none() && ahead.bytes == 0);
    }

    #[test]
    fn it_is_full_by_records_and_by_bytes() {
        let mut many = Ahead::new();
        let slot = many.slot("a", 0);
        (0..RECORDS_MAX).for_each(|n| many.push(slot, 1, n));
        let mut large = Ahead::new();
        let slot = large.slot("a", 0);
        large.push(slot, BYTES_MAX, 0);
        assert!(many.is_full() && large.is_full() && !many.has_room() && !large.has_room());
        many.forget("a", 0);
        large.clear();
        assert!(many.has_room() && large.has_room() && many.is_empty() && large.is_empty());
    }

    proptest! {
        #[test]
        fn the_order_of_a_partition_is_kept(steps in proptest::collection::vec((0_u8..8, 0_i32..3), 1..200)) {
            let mut ahead = Ahead::new();
            let mut model: BTreeMap<i32, VecDeque<(i32, usize)>> = BTreeMap::new();
            for (n, (step, partition)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        ahead.forget("t", partition);
                        model.remove(&partition);
                    }
                    1..=3 => {
                        if let Some((partition, n)) = ahead.pop() {
                            let first = model.get_mut(&partition).and_then(VecDeque::pop_front);
                            prop_assert_eq!(first, Some((partition, n)));
                        } else {
                            prop_assert!(model.values().all(VecDeque::is_empty));
                        }
                    }
                    _ => {
                        let slot = ahead.slot("t", partition);
                        ahead.push(slot, 3, (partition, n));
                        model.entry(partition).or_default().push_back((partition, n));
                    }
                }
                let held: usize = model.values().map(VecDeque::len).sum();
                prop_assert_eq!((ahead.records, ahead.bytes), (held, 3 * held as u64));
                prop_assert_eq!(ahead.turns.len(), ahead.queues.len());
            }
        }
    }
}
