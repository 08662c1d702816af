//! Under what each conjunction of a segment is put, so that few events find it that it does not match.
//!
//! Invariant: an event that a conjunction matches has what is chosen for it. What is rare is counted among the
//! conjunctions themselves: patterns ask for what events have, so what many ask for, many events have.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::evaluate;
use super::super::value::Range;
use super::feature::{self, Condition, Kind};
use super::hash;
use super::trie::Field;

/// A conjunction found together with no more than this many others is found well enough.
const FEW: u64 = 8;
/// The conditions that are looked up as one.
pub const PARTS_MAX: usize = 4;
/// The places that a conjunction may have where several conditions are looked up as one.
const PLACES_MAX: usize = 16;
/// The ways in which several conditions are looked up as one, in one segment: an event is looked up in each.
const WAYS_MAX: usize = 64;

/// What a conjunction asks for.
pub type Asked<'p> = Vec<(Field, &'p Arc<evaluate::Field>)>;

/// A way to look an event up: these kinds of these fields, as one.
pub type Way = Vec<(Field, Kind)>;

/// Where a conjunction is put.
pub enum Place<'p> {
    /// Under these hashes, by this way.
    Hash(Way, u64),
    /// With the ranges of a field.
    Range(Field, &'p Range),
}

/// Something that an event must have, in one of several forms.
struct Unit<'p> {
    field: Field,
    options: Vec<Condition<'p>>,
    weight: u64,
}

/// A conjunction on its way to its places.
struct Candidate<'p> {
    /// The rarest first.
    units: Vec<Unit<'p>>,
    chosen: Vec<usize>,
    next: usize,
    /// How many others have its places, counted once for each.
    company: u64,
}

#[derive(Default)]
struct Counts {
    hashes: HashMap<(Field, Kind, u64), u64, foldhash::fast::FixedState>,
    ranges: HashMap<Field, u64>,
}

/// The places of each conjunction; none for one that every event must be compared with.
pub fn places<'p>(conjunctions: &[Asked<'p>]) -> Vec<Vec<Place<'p>>> {
    let mut counts = Counts::default();
    conjunctions.iter().for_each(|asked| counts.add(asked));
    let mut all: Vec<Candidate<'p>> = conjunctions.iter().map(|asked| Candidate::new(asked, &counts)).collect();
    for _ in 1..PARTS_MAX {
        if !narrow(&mut all) {
            break;
        }
    }
    keep_few_ways(&mut all);
    all.iter().map(Candidate::places).collect()
}

/// Gives the candidates that have too much company one more condition where that helps. Whether any could be given one.
fn narrow(all: &mut [Candidate<'_>]) -> bool {
    let trying: Vec<(usize, usize)> =
        all.iter_mut().enumerate().filter_map(|(at, candidate)| Some((at, candidate.another()?))).collect();
    let mut counts: HashMap<u64, u64, foldhash::fast::FixedState> = HashMap::default();
    let keys: Vec<Vec<u64>> = trying.iter().map(|(at, unit)| all[*at].keys(Some(*unit))).collect();
    keys.iter().flatten().for_each(|key| *counts.entry(*key).or_default() += 1);
    for ((at, unit), keys) in trying.iter().zip(keys) {
        let company = keys.iter().filter_map(|key| counts.get(key)).sum();
        if company * 2 <= all[*at].company {
            all[*at].chosen.push(*unit);
            all[*at].company = company;
        }
    }
    !trying.is_empty()
}

/// Leaves the ways of several conditions that the most conjunctions have; the others go by one.
fn keep_few_ways(all: &mut [Candidate<'_>]) {
    let mut ways: HashMap<Way, usize> = HashMap::new();
    let several = |candidate: &&mut Candidate<'_>| candidate.chosen.len() > 1;
    for candidate in all.iter_mut().filter(several) {
        candidate.each_place(None, |way, _| *ways.entry(way.to_vec()).or_default() += 1);
    }
    if ways.len() <= WAYS_MAX {
        return;
    }
    let mut ranked: Vec<(usize, Way)> = ways.into_iter().map(|(way, count)| (count, way)).collect();
    ranked.sort_unstable_by(|left, right| right.cmp(left));
    let rare: std::collections::HashSet<Way> = ranked.drain(WAYS_MAX..).map(|(_, way)| way).collect();
    for candidate in all.iter_mut().filter(several) {
        let mut lost = false;
        candidate.each_place(None, |way, _| lost |= rare.contains(way));
        if lost {
            candidate.chosen.truncate(1);
        }
    }
}

impl Counts {
    fn add(&mut self, asked: &Asked<'_>) {
        for (field, values) in asked.iter().filter(|(_, values)| !values.absent) {
            for condition in values.tests.iter().flat_map(feature::conditions) {
                *match condition {
                    Condition::Hash(kind, hash) => self.hashes.entry((*field, kind, hash)).or_default(),
                    Condition::Range(_) => self.ranges.entry(*field).or_default(),
                } += 1;
            }
        }
    }

    /// How much company a conjunction has that is found by this.
    fn company(&self, field: Field, condition: &Condition<'_>) -> u64 {
        match condition {
            Condition::Hash(kind, hash) => self.hashes.get(&(field, *kind, *hash)).copied().unwrap_or(1),
            Condition::Range(_) => self.ranges.get(&field).copied().unwrap_or(1),
        }
    }

    /// The same, times how much likelier an event has something of this kind than a whole value.
    fn weight(&self, field: Field, condition: &Condition<'_>) -> u64 {
        let likelier = match condition {
            Condition::Hash(Kind::Equal | Kind::Folded | Kind::Piece(4..), _) => 1,
            Condition::Hash(Kind::Net4(16..) | Kind::Net6(16..), _) => 2,
            Condition::Hash(kind, _) => match kind {
                Kind::Prefix(4..) | Kind::Suffix(4..) | Kind::FoldedPrefix(4..) | Kind::FoldedSuffix(4..) => 2,
                Kind::Piece(2..) => 8,
                Kind::Present => 64,
                _ => 16,
            },
            Condition::Range(_) => 16,
        };
        self.company(field, condition).saturating_mul(likelier)
    }
}

impl<'p> Candidate<'p> {
    fn new(asked: &Asked<'p>, counts: &Counts) -> Self {
        let mut units = Vec::new();
        for (field, values) in asked.iter().filter(|(_, values)| !values.absent) {
            let unit = |mut options: Vec<Condition<'p>>| {
                // Any value has it: what else is asked for narrows nothing.
                if let Some(any) = options.iter().position(|option| matches!(option, Condition::Hash(Kind::Present, _)))
                {
                    options = vec![options.swap_remove(any)];
                }
                let weight = options.iter().map(|option| counts.weight(*field, option)).sum();
                Unit { field: *field, options, weight }
            };
            match values.tests.as_slice() {
                [test] => units.extend(feature::conditions(test).into_iter().map(|condition| unit(vec![condition]))),
                tests => {
                    let rarest = |test| {
                        let conditions = feature::conditions(test).into_iter();
                        conditions.min_by_key(|condition| counts.weight(*field, condition))
                    };
                    units.push(unit(tests.iter().filter_map(rarest).collect()));
                }
            }
        }
        units.sort_by_key(|unit| unit.weight);
        let company =
            units.first().map_or(0, |unit| unit.options.iter().map(|option| counts.company(unit.field, option)).sum());
        let chosen = if units.is_empty() { Vec::new() } else { vec![0] };
        Self { units, chosen, next: 1, company }
    }

    /// The next unit to try beside those that are chosen.
    fn another(&mut self) -> Option<usize> {
        if self.company <= FEW || !self.units.first()?.can_be_joined() {
            return None;
        }
        loop {
            let at = self.next;
            let unit = self.units.get(at)?;
            self.next += 1;
            let together: usize = self.chosen.iter().map(|chosen| self.units[*chosen].options.len()).product();
            let unlike = |chosen: &usize| self.units[*chosen].is_unlike(unit);
            let fits = together * unit.options.len() <= PLACES_MAX;
            if unit.can_be_joined() && fits && self.chosen.iter().all(unlike) {
                return Some(at);
            }
        }
    }

    /// Calls `with` with each place of the chosen units, and `another`, that are looked up by hash.
    fn each_place(&self, another: Option<usize>, mut with: impl FnMut(&Way, u64)) {
        let units: Vec<&Unit<'_>> = self.chosen.iter().copied().chain(another).map(|at| &self.units[at]).collect();
        let places: usize = units.iter().map(|unit| unit.options.len()).product();
        for place in 0..places {
            let mut rest = place;
            let mut parts = Vec::with_capacity(units.len());
            for unit in &units {
                if let Condition::Hash(kind, hash) = &unit.options[rest % unit.options.len()] {
                    parts.push(((unit.field, *kind), *hash));
                }
                rest /= unit.options.len();
            }
            // One order, so that the same conditions are one way.
            parts.sort_unstable();
            let hash = parts.iter().map(|(_, hash)| *hash).reduce(hash::join);
            if let Some(hash) = hash {
                with(&parts.into_iter().map(|(part, _)| part).collect(), hash);
            }
        }
    }

    fn keys(&self, another: Option<usize>) -> Vec<u64> {
        let mut keys = Vec::new();
        self.each_place(another, |way, hash| keys.push(hash::join(hash::value(way), hash)));
        keys
    }

    fn places(&self) -> Vec<Place<'p>> {
        let mut places = Vec::new();
        self.each_place(None, |way, hash| places.push(Place::Hash(way.clone(), hash)));
        if let [only] = self.chosen[..] {
            let unit = &self.units[only];
            let ranges = unit.options.iter().filter_map(|option| match option {
                Condition::Range(range) => Some(Place::Range(unit.field, range)),
                Condition::Hash(..) => None,
            });
            places.extend(ranges);
        }
        places
    }
}

impl Unit<'_> {
    /// Whether it can be looked up together with others: by hashes, and not of what every event has.
    fn can_be_joined(&self) -> bool {
        let joins = |option: &Condition<'_>| matches!(option, Condition::Hash(kind, _) if *kind != Kind::Present);
        self.options.len() <= PLACES_MAX && self.options.iter().all(joins)
    }

    fn kinds(&self) -> Vec<Kind> {
        let kind = |option: &Condition<'_>| match option {
            Condition::Hash(kind, _) => Some(*kind),
            Condition::Range(_) => None,
        };
        self.options.iter().filter_map(kind).collect()
    }

    /// Whether looking both up as one does not multiply the values of one field, or the pieces of two texts.
    fn is_unlike(&self, other: &Unit<'_>) -> bool {
        let pieces = |kinds: &[Kind]| kinds.iter().any(|kind| matches!(kind, Kind::Piece(_)));
        let (ours, theirs) = (self.kinds(), other.kinds());
        let same = self.field == other.field && ours.iter().any(|kind| theirs.contains(kind));
        !(same || pieces(&ours) && pieces(&theirs))
    }
}
