//! What matching needs besides the patterns: room that is used again for every event.
//!
//! Invariant: nothing of one event is seen by the next. It grows to what the largest event so far needed and then
//! allocates nothing.

use std::ops::Range;

use super::table::Table;
use super::verify::Room;

/// The room. One for each thread; it serves any index.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) table: Table,
    room: Room,
    marks: Vec<u32>,
    epoch: u32,
    parts: Vec<Hashes>,
    hashes: Vec<u64>,
    folded: String,
}

/// Where the hashes of one part of an event are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hashes {
    epoch: u32,
    /// The first.
    pub start: usize,
    end: usize,
}

impl Hashes {
    /// How many there are.
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Where they are.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

impl Scratch {
    /// Makes room for the next event: so many marks and parts, all of them unset.
    pub(super) fn next(&mut self, marks: usize, parts: usize) {
        self.hashes.clear();
        if self.marks.len() < marks {
            self.marks.resize(marks, 0);
        }
        if self.parts.len() < parts {
            self.parts.resize(parts, Hashes::default());
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.marks.fill(0);
            self.parts.fill(Hashes::default());
            self.epoch = 1;
        }
    }

    /// The table, and the room to search in what it holds; `found` takes the numbers that match.
    pub(super) fn search<'a>(&'a mut self, found: &'a mut Vec<u32>) -> (&'a Table, Search<'a>) {
        let Self { table, room, marks, epoch, parts, hashes, folded } = self;
        let search = Search { room, marks, epoch: *epoch, parts, hashes, folded, found, first_mark: 0, first_part: 0 };
        (table, search)
    }
}

/// The room of one event.
#[derive(Debug)]
pub struct Search<'a> {
    room: &'a mut Room,
    marks: &'a mut [u32],
    epoch: u32,
    parts: &'a mut [Hashes],
    hashes: &'a mut Vec<u64>,
    folded: &'a mut String,
    found: &'a mut Vec<u32>,
    /// Where the marks and parts of the segment at hand begin.
    first_mark: usize,
    first_part: usize,
}

impl Search<'_> {
    /// Goes on to the next segment, after one with so many marks and parts.
    pub fn after(&mut self, marks: usize, parts: usize) {
        self.first_mark += marks;
        self.first_part += parts;
    }

    /// Sets a mark; whether it was not set.
    #[inline]
    pub fn mark(&mut self, mark: u32) -> bool {
        let mark = &mut self.marks[self.first_mark + mark as usize];
        std::mem::replace(mark, self.epoch) != self.epoch
    }

    /// The hashes of a part; `compute` is asked for them once for each event.
    #[inline]
    pub fn hashes(&mut self, part: u32, compute: impl FnOnce(&mut String, &mut Vec<u64>)) -> Hashes {
        let known = &mut self.parts[self.first_part + part as usize];
        if known.epoch != self.epoch {
            let start = self.hashes.len();
            compute(self.folded, self.hashes);
            *known = Hashes { epoch: self.epoch, start, end: self.hashes.len() };
        }
        *known
    }

    /// The hash at this place.
    #[inline]
    pub fn hash(&self, at: usize) -> u64 {
        self.hashes[at]
    }

    /// Room to look at arrays in.
    pub fn room(&mut self) -> &mut Room {
        self.room
    }

    /// Takes the number of a pattern that matches.
    pub fn matched(&mut self, id: u32) {
        self.found.push(id);
    }
}
