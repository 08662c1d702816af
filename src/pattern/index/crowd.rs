//! How many comparisons one event may need, whatever it is: what bounds the time of matching.
//!
//! Invariant: of the conjunctions that are found by hashes an event is compared with those of one hash of each way that
//! they are looked up in; the sum of the most that any hash has is what it may cost. An event of plain fields is meant,
//! as in [`Pattern::cost`](super::super::Pattern::cost): one with lists may need more, in proportion to them.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

use super::choose::{self, Asked, Place, Way};
use super::feature::Kind;
use super::segment::{self, Member};
use super::trie::{Field, Trie};

/// Pieces of a text that wildcards are looked up by: as many as a text of this length has.
const PIECES: u64 = 256;

/// What has been counted.
#[derive(Debug, Default)]
pub struct Load {
    ways: HashMap<Way, Places, FixedState>,
    ranges: HashMap<Field, u64>,
    always: u64,
    total: u64,
}

/// The hashes of one way.
#[derive(Debug, Default)]
struct Places {
    costs: HashMap<u64, u64, FixedState>,
    most: u64,
}

impl Places {
    /// What the way may cost, if one hash has no more than `most` and there are so many hashes.
    fn load(way: &Way, most: u64, hashes: usize) -> u64 {
        let by_pieces = way.iter().any(|(_, kind)| matches!(kind, Kind::Piece(_)));
        most * if by_pieces { PIECES.min(hashes as u64) } else { 1 }
    }
}

/// The comparisons of one conjunction.
pub fn cost(asked: &Asked<'_>) -> u64 {
    asked.iter().map(|(_, field)| field.cost()).sum::<u64>().max(1)
}

impl Load {
    /// The comparisons that one event may need with what was counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many comparisons more an event may need with a conjunction of this cost in these places.
    pub fn more(&self, cost: u64, places: &[Place<'_>]) -> u64 {
        let at = |place: &Place<'_>| match place {
            Place::Range(..) => cost,
            Place::Hash(way, hash) => match self.ways.get(way) {
                None => cost,
                Some(known) => {
                    let here = known.costs.get(hash).copied();
                    let hashes = known.costs.len() + usize::from(here.is_none());
                    let most = known.most.max(here.unwrap_or(0) + cost);
                    Places::load(way, most, hashes) - Places::load(way, known.most, known.costs.len())
                }
            },
        };
        // Wherever it is found, it is compared once.
        if places.is_empty() { cost } else { places.iter().map(at).sum::<u64>().min(cost) }
    }

    /// Counts a conjunction of this cost with its places.
    pub fn add(&mut self, cost: u64, places: &[Place<'_>]) {
        let more = self.more(cost, places);
        self.total += more;
        // What is in so many places that it costs as much as if it were in none need not be counted in each.
        if places.len() != 1 && more == cost {
            self.always += cost;
            return;
        }
        for place in places {
            match place {
                Place::Range(field, _) => *self.ranges.entry(*field).or_default() += cost,
                Place::Hash(way, hash) => {
                    if !self.ways.contains_key(way) {
                        self.ways.insert(way.clone(), Places::default());
                    }
                    let Some(known) = self.ways.get_mut(way) else { continue };
                    let here = known.costs.entry(*hash).or_default();
                    *here += cost;
                    known.most = known.most.max(*here);
                }
            }
        }
    }

    /// The comparisons that an event may need which finds these places, for the most crowded of them, and its fields.
    pub fn here(&self, places: &[Place<'_>]) -> (u64, Vec<Field>) {
        let at = |place: &Place<'_>| match place {
            Place::Range(field, _) => (self.ranges.get(field).copied().unwrap_or(0), vec![*field]),
            Place::Hash(way, hash) => {
                let costs = self.ways.get(way).and_then(|places| places.costs.get(hash));
                (costs.copied().unwrap_or(0), way.iter().map(|(field, _)| *field).collect())
            }
        };
        let (here, fields) = places.iter().map(at).max().unwrap_or_default();
        (here.max(if places.len() == 1 { 0 } else { self.always }), fields)
    }
}

/// A pattern for which there is no room among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// Its number.
    pub id: u32,
    /// The comparisons that an event may need already with those that are found by the same.
    pub here: u64,
    /// The fields that they are found by; none if every event is compared with them.
    pub fields: Vec<String>,
}

/// Those of `members`, taken one after the other, with which an event might need more than `most` comparisons in all.
pub fn crowded(members: &[Member], most: u64) -> Vec<Crowded> {
    let mut trie = Trie::default();
    let numbers: Vec<Vec<Field>> = members.iter().map(|member| segment::fields(&member.pattern, &mut trie)).collect();
    let mut asked: Vec<Asked<'_>> = Vec::new();
    for (member, numbers) in members.iter().zip(&numbers) {
        for alternative in &member.pattern.alternatives {
            asked.push(alternative.iter().map(|(field, values)| (numbers[*field], values)).collect());
        }
    }
    let places = choose::places(&asked);
    let (mut load, mut refused, mut all) = (Load::default(), Vec::new(), asked.iter().zip(&places));
    // What several ask for is compared once.
    let mut known: HashSet<&Asked<'_>, FixedState> = HashSet::default();
    for (member, numbers) in members.iter().zip(&numbers) {
        let own: Vec<_> = all.by_ref().take(member.pattern.alternatives.len()).collect();
        let new = || own.iter().filter(|(asked, _)| !known.contains(asked));
        let more: u64 = new().map(|(asked, places)| load.more(cost(asked), places)).sum();
        if load.total + more <= most {
            new().for_each(|(asked, places)| load.add(cost(asked), places));
            known.extend(own.iter().map(|(asked, _)| *asked));
            continue;
        }
        let (here, fields) = own.iter().map(|(_, places)| load.here(places)).max().unwrap_or_default();
        let name = |field: &Field| member.pattern.paths.name(numbers.iter().position(|number| number == field)?);
        refused.push(Crowded { id: member.id, here, fields: fields.iter().filter_map(name).collect() });
    }
    refused
}
