//! A table from hashes to the conjunctions that are found by them.
//!
//! Invariant: it never changes once it is built. A hash that nothing is found by is almost always told by one bit of a
//! filter that fits into the processor's caches when the table does not.

/// No mark.
pub const UNMARKED: u32 = u32::MAX;

/// The table.
#[derive(Debug, Default)]
pub struct Buckets {
    filter: Box<[u64]>,
    filter_shift: u32,
    slots: Box<[Slot]>,
    postings: Box<[u32]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    /// The conjunction if there is one, else where the postings begin: their mark and then they.
    start: u32,
    /// How many there are.
    len: u32,
}

/// What is found by a hash.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing.
    None,
    /// A conjunction.
    One(u32),
    /// Several, and the mark that says that they were seen.
    Many(u32, &'a [u32]),
}

impl Buckets {
    /// The table of these hashes and conjunctions, which are sorted and put in order; `mark` gives marks for those that
    /// share a hash.
    pub fn new(mut postings: Vec<(u64, u32)>, mut mark: impl FnMut() -> u32) -> Self {
        postings.sort_unstable();
        postings.dedup();
        let keys = postings.chunk_by(|(left, _), (right, _)| left == right).count();
        if keys == 0 {
            return Self::default();
        }
        let filter_bits = (keys * 16).next_power_of_two().max(64);
        let mut filter = vec![0_u64; filter_bits / 64];
        let filter_shift = 64 - filter_bits.trailing_zeros();
        let mut slots = vec![Slot::default(); (keys * 2).next_power_of_two()];
        let mut all = Vec::new();
        for bucket in postings.chunk_by(|(left, _), (right, _)| left == right) {
            let (key, first) = bucket[0];
            let len = bucket.len() as u32;
            let start = match len {
                1 => first,
                _ => {
                    let start = all.len() as u32;
                    all.push(mark());
                    all.extend(bucket.iter().map(|(_, conjunction)| *conjunction));
                    start
                }
            };
            let bit = (key >> filter_shift) as usize;
            filter[bit / 64] |= 1 << (bit % 64);
            let mask = slots.len() - 1;
            let mut at = key as usize & mask;
            while slots[at].len != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = Slot { key, start, len };
        }
        Self { filter: filter.into(), filter_shift, slots: slots.into(), postings: all.into() }
    }

    /// What is found by `key`.
    #[inline]
    pub fn find(&self, key: u64) -> Found<'_> {
        let bit = (key >> self.filter_shift) as usize;
        match self.filter.get(bit / 64) {
            Some(word) if word & (1 << (bit % 64)) != 0 => self.find_slot(key),
            _ => Found::None,
        }
    }

    fn find_slot(&self, key: u64) -> Found<'_> {
        let mask = self.slots.len() - 1;
        let mut at = key as usize & mask;
        loop {
            let slot = &self.slots[at];
            match slot.len {
                0 => return Found::None,
                1 if slot.key == key => return Found::One(slot.start),
                len if slot.key == key => {
                    let start = slot.start as usize;
                    return Found::Many(self.postings[start], &self.postings[start + 1..=start + len as usize]);
                }
                _ => at = (at + 1) & mask,
            }
        }
    }
}
