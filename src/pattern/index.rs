//! The index: many patterns, and which of them an event matches.
//!
//! Invariant: an [`Index`] never changes; what it finds is what the plain evaluator says of each of its patterns. A
//! changed copy shares all but what changed: patterns are put in order in segments, a change makes a new last one, which
//! is small, and strikes out what it replaces in the others. Patterns go by numbers that the caller gives.

mod buckets;
mod choose;
mod crowd;
mod feature;
mod fill;
mod hash;
mod lanes;
mod live;
mod ranges;
mod scan;
mod scratch;
mod segment;
mod table;
mod tokens;
mod trie;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::crowd::Crowded;
pub use self::fill::{Fill, Place};
pub use self::live::Live;
pub use self::scratch::Scratch;
pub use self::tokens::NotJson;

use self::segment::{Member, Segment};
use self::table::View;
use self::trie::Trie;
use super::Pattern;

/// The comparisons that one event of plain fields may need with all patterns: around a millisecond. Whoever keeps an
/// index sees to it, with [`Index::load`] and [`Index::crowded`].
pub const EVENT_COST_MAX: u64 = 100_000;

/// The patterns of the last segment: it is made anew for each change.
const LAST_PATTERNS: usize = 32;
/// Its conjunctions.
const LAST_CONJUNCTIONS: usize = 64;
/// A segment is merged into the one before it unless that is so many times as large.
const MERGE_RATIO: usize = 4;
/// Segments that are left alone, however small: an event is looked up in each.
const SEGMENTS_FEW: usize = 3;
/// Fields that are told apart from those that were there before: looking one up takes two steps.
const RECENT_FIELDS: usize = 256;

/// Patterns by number.
#[derive(Clone, Debug, Default)]
pub struct Index {
    trie: Trie,
    /// In the order in which they were made.
    layers: Vec<Layer>,
}

/// A change of one pattern: it is this from now on, or gone.
pub type Change = (u32, Option<Arc<Pattern>>);

/// A segment without the patterns that were struck out.
#[derive(Clone, Debug)]
struct Layer {
    segment: Arc<Segment>,
    /// By place in the segment; none while all are there.
    struck: Option<Arc<Vec<u64>>>,
    alive: usize,
}

impl Index {
    /// These patterns, each with its number.
    pub fn new(patterns: impl IntoIterator<Item = (u32, Arc<Pattern>)>) -> Self {
        let patterns: BTreeMap<u32, Arc<Pattern>> = patterns.into_iter().collect();
        let members = patterns.into_iter().map(|(id, pattern)| Member { id, pattern }).collect();
        let mut trie = Trie::default();
        let layer = Layer::new(members, &mut trie);
        trie.settle();
        Self { trie, layers: vec![layer] }
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.alive).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pattern of this number.
    pub fn get(&self, id: u32) -> Option<&Arc<Pattern>> {
        self.layers.iter().rev().find_map(|layer| Some(&layer.segment.members()[layer.place(id)?].pattern))
    }

    /// Makes `found` the numbers of the patterns that the JSON text matches, each once, the lowest first.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn find_in_json(&self, json: &[u8], scratch: &mut Scratch, found: &mut Vec<u32>) -> Result<(), NotJson> {
        let mut valid = Ok(());
        self.find(|fill| valid = fill.payload(fill.root(), json), scratch, found);
        valid
    }

    /// Makes `found` the numbers of the patterns that the event matches, each once, the lowest first; `tell` tells
    /// the event's fields.
    pub fn find<'e>(&self, tell: impl FnOnce(&mut Fill<'_, 'e>), scratch: &mut Scratch, found: &mut Vec<u32>) {
        let sum = |of: fn(&Segment) -> usize| self.layers.iter().map(|layer| of(&layer.segment)).sum();
        scratch.next(sum(Segment::marks), sum(Segment::parts));
        scratch.table.clear(self.trie.len());
        let mut fill = Fill::new(&self.trie, &mut scratch.table);
        tell(&mut fill);
        let payload = fill.payload_text();
        scratch.table.link();
        found.clear();
        let (table, mut search) = scratch.search(found);
        let view = View::new(table, payload);
        for layer in &self.layers {
            match &layer.struck {
                None => layer.segment.find(view, &mut search, |_| true),
                Some(struck) => layer.segment.find(view, &mut search, |place| !is_struck(struck, place)),
            }
            search.after(layer.segment.marks(), layer.segment.parts());
        }
        found.sort_unstable();
        found.dedup();
    }

    /// How many comparisons one event of plain fields may need, whatever it is.
    pub fn load(&self) -> u64 {
        self.layers.iter().map(|layer| layer.segment.load()).sum()
    }

    /// The patterns for which there is no room, if one event is to need no more than `most` comparisons in all, the
    /// `last` of them being those that came last. It takes time in proportion to all patterns, so ask [`Index::load`]
    /// first.
    pub fn crowded(&self, most: u64, last: &[u32]) -> Vec<Crowded> {
        let (late, mut members): (Vec<Member>, Vec<Member>) =
            self.layers.iter().flat_map(Layer::members).partition(|member| last.contains(&member.id));
        members.sort_by_key(|member| member.id);
        members.extend(late);
        crowd::crowded(&members, most)
    }

    /// The index with these changes, the last of a number deciding. It takes time in proportion to them.
    pub fn with(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let changes: BTreeMap<u32, Option<Arc<Pattern>>> = changes.into_iter().collect();
        let mut changed = self.clone();
        for id in changes.keys() {
            changed.strike(*id);
        }
        let added = changes.into_iter().filter_map(|(id, pattern)| Some(Member { id, pattern: pattern? }));
        let added: Vec<Member> = added.collect();
        if !added.is_empty() {
            changed.add(added);
        }
        changed
    }

    fn strike(&mut self, id: u32) {
        if let Some((layer, place)) = self.layers.iter_mut().find_map(|layer| layer.place(id).map(|at| (layer, at))) {
            layer.strike(place);
        }
    }

    fn add(&mut self, mut added: Vec<Member>) {
        // The first layer may be small too, and is then made anew like any other.
        let small = |layer: &&Layer| {
            let full = layer.segment.conjunctions() >= LAST_CONJUNCTIONS;
            !full && layer.alive + added.len() <= LAST_PATTERNS
        };
        if let Some(last) = self.layers.last().filter(small) {
            added.extend(last.members());
            self.layers.pop();
        }
        self.layers.push(Layer::new(added, &mut self.trie));
    }

    /// Whether merging its segments makes it faster.
    pub fn wants_merge(&self) -> bool {
        let first = self.merge_from();
        let tail = first + 1 < self.layers.len() && self.layers.len() > SEGMENTS_FEW;
        tail || self.trie.recent() > RECENT_FIELDS || self.has_many_struck()
    }

    fn has_many_struck(&self) -> bool {
        let all: usize = self.layers.iter().map(|layer| layer.segment.members().len()).sum();
        let struck = all - self.len();
        struck > LAST_PATTERNS && struck * MERGE_RATIO > all
    }

    /// The first layer that is merged with those after it.
    fn merge_from(&self) -> usize {
        let mut first = self.layers.len().saturating_sub(1);
        let mut size = self.layers.last().map_or(0, |layer| layer.alive);
        while first > 0 && self.layers[first - 1].alive <= size * MERGE_RATIO {
            first -= 1;
            size += self.layers[first].alive;
        }
        first
    }

    /// The same index in fewer segments. It takes time in proportion to what is merged, at most to all patterns.
    pub fn merged(&self) -> Self {
        let first = self.merge_from();
        if first == 0 || self.trie.recent() > RECENT_FIELDS || self.has_many_struck() {
            let all = self.layers.iter().flat_map(Layer::members);
            return Self::new(all.map(|member| (member.id, member.pattern)));
        }
        let mut merged = self.clone();
        let members = merged.layers.drain(first..).flat_map(|layer| layer.members().collect::<Vec<_>>()).collect();
        merged.layers.push(Layer::new(members, &mut merged.trie));
        merged
    }

    /// What changed since `before`.
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut touched: Vec<u32> = Vec::new();
        for (these, others) in [(self, before), (before, self)] {
            for layer in &these.layers {
                let other = others.layers.iter().find(|other| Arc::ptr_eq(&other.segment, &layer.segment));
                touched.extend(layer.members().map(|member| member.id).filter(|id| match other {
                    None => true,
                    Some(other) if same(&layer.struck, &other.struck) => false,
                    Some(other) => other.place(*id).is_none(),
                }));
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let change = |id: u32| {
            let (is, was) = (self.get(id), before.get(id));
            let same = matches!((is, was), (Some(is), Some(was)) if Arc::ptr_eq(is, was));
            (!same && (is.is_some() || was.is_some())).then(|| (id, is.cloned()))
        };
        touched.into_iter().filter_map(change).collect()
    }
}

fn same(left: &Option<Arc<Vec<u64>>>, right: &Option<Arc<Vec<u64>>>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => Arc::ptr_eq(left, right),
        _ => false,
    }
}

fn is_struck(struck: &[u64], place: u32) -> bool {
    struck[place as usize / 64] >> (place % 64) & 1 == 1
}

impl Layer {
    fn new(members: Vec<Member>, trie: &mut Trie) -> Self {
        let segment = Arc::new(Segment::new(members, trie));
        Self { struck: None, alive: segment.members().len(), segment }
    }

    /// Where the pattern of this number is, unless it is struck out.
    fn place(&self, id: u32) -> Option<usize> {
        let place = self.segment.members().binary_search_by_key(&id, |member| member.id).ok()?;
        let there = self.struck.as_ref().is_none_or(|struck| !is_struck(struck, place as u32));
        there.then_some(place)
    }

    fn strike(&mut self, place: usize) {
        let words = self.segment.members().len().div_ceil(64);
        let struck = self.struck.get_or_insert_with(|| Arc::new(vec![0; words]));
        Arc::make_mut(struck)[place / 64] |= 1 << (place % 64);
        self.alive -= 1;
    }

    /// Those that are not struck out.
    fn members(&self) -> impl Iterator<Item = Member> {
        let there =
            |(place, _): &(usize, &Member)| self.struck.as_ref().is_none_or(|struck| !is_struck(struck, *place as u32));
        self.segment.members().iter().enumerate().filter(there).map(|(_, member)| member.clone())
    }
}
