//! Patterns that were put in order together and never change again.
//!
//! Invariant: [`Segment::find`] gives each member that matches, perhaps more than once, and no other. What it does for one event is bounded
//! by the event, by the ways that the members are looked up in, and by how many share a place.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::super::value::Scalar;
use super::super::{Decimal, Pattern};
use super::buckets::{Buckets, Found, UNMARKED};
use super::choose::{self, Asked, Place, Way};
use super::crowd::{self, Load};
use super::feature::{self, Kind};
use super::hash;
use super::ranges::Ranges;
use super::scratch::{Hashes, Search};
use super::table::View;
use super::trie::{Field, ROOT, Trie};
use super::verify::{Builder, Checks, Owner};

/// A conjunction of more comparisons than this is not looked at twice for one event.
const LONG: u64 = 16;

/// A pattern with the number that it is known by.
#[derive(Clone, Debug)]
pub struct Member {
    /// The caller's number.
    pub id: u32,
    /// The pattern.
    pub pattern: Arc<Pattern>,
}

/// Patterns in order.
#[derive(Debug, Default)]
pub struct Segment {
    /// By number.
    members: Vec<Member>,
    conjunctions: usize,
    checks: Checks,
    ways: Vec<Lookup>,
    /// The kinds of fields that any way has.
    parts: Vec<(Field, Kind)>,
    /// The first parts of ways, in order, each with where its ways begin.
    pivots: Vec<(Field, u32)>,
    buckets: Buckets,
    ranges: Vec<(Field, Ranges)>,
    /// Conjunctions that every event is compared with.
    always: Vec<u32>,
    marks: u32,
    /// The comparisons that one event may need.
    load: u64,
}

/// A way, as the parts that it consists of.
#[derive(Debug)]
struct Lookup {
    parts: Vec<u32>,
    seed: u64,
    /// The conjunctions that are found by it, to go through where an event has more combinations than there are of them.
    all: Vec<u32>,
}

/// The fields of a pattern as the trie numbers them, added where they are new.
pub fn fields(pattern: &Pattern, trie: &mut Trie) -> Vec<Field> {
    let mut numbers = vec![ROOT; pattern.paths.below_root() + 1];
    for (parent, key, child) in pattern.paths.steps() {
        numbers[child] = trie.add(numbers[parent], key);
    }
    numbers
}

impl Segment {
    /// Puts patterns in order; their fields are added to `trie`.
    pub fn new(mut members: Vec<Member>, trie: &mut Trie) -> Self {
        members.sort_unstable_by_key(|member| member.id);
        let numbers: Vec<Vec<Field>> = members.iter().map(|member| fields(&member.pattern, trie)).collect();
        // What several patterns ask for is compared once.
        let mut known: HashMap<Asked<'_>, usize, FixedState> = HashMap::default();
        let mut owners: Vec<Vec<Owner>> = Vec::with_capacity(members.len());
        let mut asked: Vec<Asked<'_>> = Vec::with_capacity(members.len());
        for (at, (member, numbers)) in members.iter().zip(&numbers).enumerate() {
            for alternative in &member.pattern.alternatives {
                let fields: Asked<'_> = alternative.iter().map(|(field, values)| (numbers[*field], values)).collect();
                let place = *known.entry(fields).or_insert_with_key(|fields| {
                    asked.push(fields.clone());
                    owners.push(Vec::new());
                    asked.len() - 1
                });
                owners[place].push(Owner { id: member.id, member: at as u32 });
            }
        }
        asked.iter().flatten().for_each(|(field, _)| trie.name(*field));
        let mut segment = Self::default();
        segment.put(&owners, &asked, &choose::places(&asked));
        drop(known);
        segment.members = members;
        segment
    }

    fn put(&mut self, owners: &[Vec<Owner>], asked: &[Asked<'_>], places: &[Vec<Place<'_>>]) {
        let mut ways = Ways::default();
        let (mut checks, mut load) = (Builder::default(), Load::default());
        let (mut postings, mut ranges) = (Vec::new(), HashMap::<Field, Vec<_>>::new());
        for ((owners, asked), places) in owners.iter().zip(asked).zip(places) {
            // Looked at once: what may be found by many values, and what takes long to look at.
            let many = places.len() > 1 || matches!(places[..], [Place::Range(..)]);
            let cost = crowd::cost(asked);
            load.add(cost, places);
            let tried = if many || cost > LONG { self.mark() } else { UNMARKED };
            let at = checks.add(owners, asked, tried);
            if places.is_empty() {
                self.always.push(at);
            }
            for place in places {
                match place {
                    Place::Hash(way, hash) => {
                        let way = ways.number(way);
                        postings.push((way, *hash, at));
                    }
                    Place::Range(field, range) => ranges.entry(*field).or_default().push((*range, at)),
                }
            }
        }
        self.conjunctions = asked.len();
        self.load = load.total();
        self.checks = checks.finish();
        self.ranges = ranges.into_iter().map(|(field, ranges)| (field, Ranges::new(&ranges))).collect();
        let places = ways.order(self);
        for (way, _, conjunction) in &postings {
            let all = &mut self.ways[places[*way as usize] as usize].all;
            if all.last() != Some(conjunction) {
                all.push(*conjunction);
            }
        }
        let key = |(way, hash, at): (u32, u64, u32)| (self.ways[places[way as usize] as usize].key(hash), at);
        let postings = postings.into_iter().map(key).collect();
        let mut marks = self.marks;
        self.buckets = Buckets::new(postings, || {
            marks += 1;
            marks - 1
        });
        self.marks = marks;
    }

    fn mark(&mut self) -> u32 {
        self.marks += 1;
        self.marks - 1
    }

    /// The members, by number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many conjunctions the members have.
    pub fn conjunctions(&self) -> usize {
        self.conjunctions
    }

    /// The comparisons that one event may need.
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The marks that it needs room for.
    pub fn marks(&self) -> usize {
        self.marks as usize
    }

    /// The kinds of fields that it needs room for.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Finds the members that match the event and that `alive` holds for.
    pub fn find(&self, view: View<'_>, search: &mut Search<'_>, alive: impl Fn(u32) -> bool) {
        let mut look = Look { segment: self, view, search, alive };
        self.always.iter().for_each(|conjunction| look.at(*conjunction));
        for (field, ranges) in &self.ranges {
            for (_, value) in view.values(*field) {
                if let Scalar::Number(text) = value {
                    ranges.find(&Decimal::parse(text)).for_each(|conjunction| look.at(conjunction));
                }
            }
        }
        let present = view.table().present();
        if self.pivots.len() <= present.len() * 4 {
            let present = (0..self.pivots.len()).filter(|at| view.table().has(self.pivots[*at].0));
            present.for_each(|pivot| look.up(pivot));
        } else {
            for field in present {
                if let Ok(pivot) = self.pivots.binary_search_by_key(field, |(field, _)| *field) {
                    look.up(pivot);
                }
            }
        }
    }
}

/// The ways of a segment that is being made.
#[derive(Default)]
struct Ways {
    numbers: HashMap<Way, u32>,
}

impl Ways {
    fn number(&mut self, way: &Way) -> u32 {
        if let Some(number) = self.numbers.get(way) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(way.clone(), number);
        number
    }

    /// Gives them to the segment by their first fields; their places there, by number.
    fn order(self, segment: &mut Segment) -> Vec<u32> {
        let mut places = vec![0; self.numbers.len()];
        let mut ways: Vec<(Way, u32)> = self.numbers.into_iter().collect();
        ways.sort_unstable();
        let mut parts: HashMap<(Field, Kind), u32> = HashMap::new();
        for (place, (way, number)) in ways.iter().enumerate() {
            places[*number as usize] = place as u32;
            let mut part = |part: &(Field, Kind)| {
                *parts.entry(*part).or_insert_with(|| {
                    segment.parts.push(*part);
                    segment.parts.len() as u32 - 1
                })
            };
            let lookup = Lookup { parts: way.iter().map(&mut part).collect(), seed: hash::value(way), all: Vec::new() };
            let pivot = way[0].0;
            if segment.pivots.last().is_none_or(|(field, _)| *field != pivot) {
                segment.pivots.push((pivot, place as u32));
            }
            segment.ways.push(lookup);
        }
        places
    }
}

impl Lookup {
    fn key(&self, hash: u64) -> u64 {
        hash::join(self.seed, hash)
    }
}

/// One event on its way through one segment.
struct Look<'a, 's, A> {
    segment: &'a Segment,
    view: View<'a>,
    search: &'a mut Search<'s>,
    alive: A,
}

impl<A: Fn(u32) -> bool> Look<'_, '_, A> {
    /// Looks up in the ways that begin with this pivot's field.
    fn up(&mut self, pivot: usize) {
        let segment = self.segment;
        let start = segment.pivots[pivot].1 as usize;
        let end = segment.pivots.get(pivot + 1).map_or(segment.ways.len(), |(_, start)| *start as usize);
        for way in &segment.ways[start..end] {
            match way.parts[..] {
                [part] => {
                    let hashes = self.hashes(part);
                    for at in hashes.range() {
                        self.found(way.key(self.search.hash(at)));
                    }
                }
                _ => self.joined(way),
            }
        }
    }

    /// The hashes of one part.
    fn hashes(&mut self, part: u32) -> Hashes {
        let (field, kind) = self.segment.parts[part as usize];
        self.search.hashes(part, |folded, hashes| {
            for (_, value) in self.view.values(field) {
                feature::each_hash(kind, value, folded, |hash| hashes.push(hash));
            }
        })
    }

    /// Looks up each combination of the hashes of the parts.
    fn joined(&mut self, way: &Lookup) {
        let mut parts = [Hashes::default(); choose::PARTS_MAX];
        let mut combinations = 1_usize;
        for (at, part) in way.parts.iter().enumerate() {
            if !self.view.table().has(self.segment.parts[*part as usize].0) {
                return;
            }
            parts[at] = self.hashes(*part);
            combinations = combinations.saturating_mul(parts[at].len());
        }
        if combinations > way.all.len().max(64) {
            return way.all.iter().for_each(|conjunction| self.at(*conjunction));
        }
        let parts = &parts[..way.parts.len()];
        for combination in 0..combinations {
            let mut rest = combination;
            let mut key = 0;
            for (at, hashes) in parts.iter().enumerate() {
                let hash = self.search.hash(hashes.start + rest % hashes.len());
                rest /= hashes.len();
                key = if at == 0 { hash } else { hash::join(key, hash) };
            }
            self.found(way.key(key));
        }
    }

    #[inline]
    fn found(&mut self, key: u64) {
        match self.segment.buckets.find(key) {
            Found::None => {}
            Found::One(conjunction) => self.at(conjunction),
            Found::Many(mark, conjunctions) => {
                if self.search.mark(mark) {
                    conjunctions.iter().for_each(|conjunction| self.at(*conjunction));
                }
            }
        }
    }

    /// Looks at a conjunction that was found.
    fn at(&mut self, conjunction: u32) {
        let segment = self.segment;
        let Some(head) = segment.checks.head(conjunction) else { return };
        let new = head.tried == UNMARKED || self.search.mark(head.tried);
        if new && segment.checks.pass(conjunction, head, self.view, self.search.room()) {
            let others = segment.checks.others(head);
            for owner in std::iter::once(&head.owner).chain(others).filter(|owner| (self.alive)(owner.member)) {
                self.search.matched(owner.id);
            }
        }
    }
}
