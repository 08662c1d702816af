//! The checker of consumer groups: what was produced, against what the group has committed, what the database knows of
//! it, when it ran and what it did.
//!
//! A checker that cannot fail is worthless: its tests show that each broken promise is found in doctored data.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::AssertSqlSafe;

use super::World;
use super::records::Client;

/// Effects are repeated only if the first one fell this shortly before a fault, in milliseconds: what is done is committed
/// within a second, and a loaded machine is late.
const BEFORE: i64 = 5_000;
/// Or this shortly after it: until its members know, a group of six seconds' patience has two owners of a partition.
const AFTER: i64 = 20_000;

/// A record that was produced.
#[derive(Clone, Debug)]
pub struct Produced {
    pub key: String,
    /// The event's id.
    pub id: String,
}

/// When an event ran, in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Its first attempt began.
    pub began: i64,
    /// It was settled for good.
    pub ended: i64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// By partition and offset.
    pub produced: BTreeMap<(i32, i64), Produced>,
    /// By partition: what the group has committed.
    pub committed: BTreeMap<i32, i64>,
    /// Events that are done, parked or dead.
    pub settled: HashSet<String>,
    /// By event.
    pub ran: HashMap<String, Ran>,
    /// By event: when its effect was produced, in milliseconds since 1970, in this order.
    pub effects: HashMap<String, Vec<i64>>,
    /// When something was killed, stopped or started, or the group shared its partitions out anew, in milliseconds since
    /// 1970.
    pub faults: Vec<i64>,
    /// Events whose effect was not acknowledged in time at least once, so that it was produced again.
    pub unacknowledged: HashSet<String>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// The group has committed more than this record, and nothing in the database knows of it.
    CommittedUnsettled(i32, i64),
    /// Never settled.
    Lost(String),
    /// Began before the record before it of the same key was settled for good.
    Overtook(String),
    /// Done without its effect.
    NoEffect(String),
    /// Its effect is there several times, and no fault was near.
    Repeated(String),
    /// Something was done that nobody asked for.
    Invented(String),
}

impl Group {
    /// Enters what was produced: each record, and where it is stored.
    pub fn enter(&mut self, records: impl IntoIterator<Item = (Produced, (i32, i64))>) {
        self.produced.extend(records.into_iter().map(|(record, place)| (place, record)));
    }

    /// What must hold at every moment: nothing is committed before it is settled.
    pub fn at_any_time(&self) -> Vec<Broken> {
        let behind = |(partition, offset): &(i32, i64)| self.committed.get(partition).is_some_and(|next| offset < next);
        let early = self.produced.iter().filter(|(place, record)| behind(place) && !self.settled.contains(&record.id));
        let known: HashSet<&String> = self.produced.values().map(|record| &record.id).collect();
        let invented = self.settled.iter().chain(self.effects.keys()).filter(|id| !known.contains(id));
        let mut broken: Vec<Broken> = early.map(|((p, offset), _)| Broken::CommittedUnsettled(*p, *offset)).collect();
        broken.extend(invented.cloned().map(Broken::Invented));
        broken.sort();
        broken.dedup();
        broken
    }

    /// What must hold once everything was drained: all is settled, in the order of its key, with its effect, and only
    /// faults repeated one.
    pub fn at_the_end(&self) -> Vec<Broken> {
        let ids = || self.produced.values().map(|record| &record.id);
        let lost = ids().filter(|id| !self.settled.contains(*id)).cloned().map(Broken::Lost);
        let hollow = ids().filter(|id| self.settled.contains(*id) && !self.effects.contains_key(*id));
        // An effect that was stored and not acknowledged in time is tried again: what was stored then stays.
        let told = self.effects.iter().filter(|(id, _)| !self.unacknowledged.contains(*id));
        let repeated = told.filter(|(_, times)| times.windows(2).any(|pair| !self.near_a_fault(pair[0])));
        let mut broken = self.at_any_time();
        broken.extend(lost.chain(hollow.cloned().map(Broken::NoEffect)));
        broken.extend(repeated.map(|(id, _)| Broken::Repeated(id.clone())).chain(self.overtakers()));
        broken.sort();
        broken
    }

    /// How many effects are there more than once.
    pub fn repeated(&self) -> usize {
        self.effects.values().filter(|times| times.len() > 1).count()
    }

    fn near_a_fault(&self, time: i64) -> bool {
        self.faults.iter().any(|fault| (fault - BEFORE..fault + AFTER).contains(&time))
    }

    fn overtakers(&self) -> impl Iterator<Item = Broken> {
        let mut before: HashMap<&str, Ran> = HashMap::new();
        // The map goes through each partition, and so through each key, in the order of the offsets.
        self.produced.values().filter_map(move |record| {
            let ran = *self.ran.get(&record.id)?;
            let earlier = before.insert(&record.key, ran)?;
            (ran.began < earlier.ended).then(|| Broken::Overtook(record.id.clone()))
        })
    }

    /// Asks the brokers what `group` has committed, and then the database what it knows: what was committed was settled
    /// before.
    pub async fn sample(&mut self, world: &World, client: &Client, group: &str, topic: &str, partitions: i32) {
        self.committed = client.committed(group, topic, partitions);
        self.settled = settled(world).await;
    }
}

/// Ends the test if anything is broken.
///
/// # Panics
/// With the first of it.
pub fn assert_kept(broken: &[Broken], when: &str) {
    let first = &broken[..broken.len().min(10)];
    assert!(broken.is_empty(), "{when}: {} promises are broken: {first:?}", broken.len());
}

/// Events that the database knows as settled; only those that were made events have an id.
pub async fn settled(world: &World) -> HashSet<String> {
    // What is held behind a parked one of its key was not tried yet: the ledger does not know it.
    let query = "select event_id from oncue.ledger where settlement <> 'again'
        union select convert_from(event, 'UTF8')::jsonb ->> 'id' from oncue.parked
        union select event_id from oncue.dead_letters where event_id is not null";
    let rows = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&world.pool).await;
    rows.expect("Postgres answers").into_iter().collect()
}

/// When each event ran.
pub async fn ran(world: &World) -> HashMap<String, Ran> {
    let micros = |expression: &str| format!("(extract(epoch from {expression}) * 1000000)::bigint");
    let (began, ended) = (micros("min(started_at)"), micros("max(settled_at)"));
    let query = format!("select event_id, {began}, {ended} from oncue.ledger group by event_id");
    let rows: Result<Vec<(String, i64, i64)>, _> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(&world.pool).await;
    rows.expect("Postgres answers").into_iter().map(|(id, began, ended)| (id, Ran { began, ended })).collect()
}

/// Events whose effect failed at least once.
pub async fn unacknowledged(world: &World) -> HashSet<String> {
    let query = "select distinct event_id from oncue.ledger where outcome = 'output'";
    let rows = sqlx::query_scalar(query).fetch_all(&world.pool).await;
    rows.expect("Postgres answers").into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two partitions of 50 records of five keys each; each took a millisecond, and there was a fault at 100 s.
    fn sound() -> Group {
        let mut group = Group::default();
        for n in 0..100_i64 {
            let (partition, offset) = (i32::try_from(n % 2).expect("few"), n / 2);
            let (key, id) = (format!("p{partition} k{}", offset % 5), format!("e{n}"));
            group.enter([(Produced { key, id: id.clone() }, (partition, offset))]);
            group.ran.insert(id.clone(), Ran { began: n * 1_000, ended: n * 1_000 + 999 });
            group.effects.insert(id.clone(), vec![n]);
            group.settled.insert(id);
        }
        group.committed = BTreeMap::from([(0, 50), (1, 50)]);
        group.faults = vec![100_000];
        group
    }

    fn doctored(change: impl FnOnce(&mut Group)) -> Group {
        let mut seen = sound();
        change(&mut seen);
        seen
    }

    #[test]
    fn sound_data_pass() {
        assert_eq!(sound().at_any_time(), []);
        assert_eq!(sound().at_the_end(), []);
    }

    #[test]
    fn every_broken_promise_is_found() {
        let lost = doctored(|seen| {
            seen.settled.remove("e14");
            seen.effects.remove("e14");
            seen.ran.remove("e14");
        });
        let hollow = doctored(|seen| {
            seen.effects.remove("e14");
        });
        let repeated = doctored(|seen| {
            seen.effects.insert("e14".to_owned(), vec![14, 15]);
        });
        let invented = doctored(|seen| {
            seen.settled.insert("e700".to_owned());
        });
        // Record 24 is the one after 14 of the first partition's key 2.
        let moved = |id: &str, began, ended| {
            doctored(|seen| {
                seen.ran.insert(id.to_owned(), Ran { began, ended });
            })
        };
        let (overtook, late) = (moved("e24", 14_500, 24_000), moved("e14", 14_000, 24_001));
        let table = [
            (lost, vec![Broken::CommittedUnsettled(0, 7), Broken::Lost("e14".to_owned())]),
            (hollow, vec![Broken::NoEffect("e14".to_owned())]),
            (repeated, vec![Broken::Repeated("e14".to_owned())]),
            (invented, vec![Broken::Invented("e700".to_owned())]),
            (overtook, vec![Broken::Overtook("e24".to_owned())]),
            (late, vec![Broken::Overtook("e24".to_owned())]),
        ];
        for (seen, expected) in table {
            assert_eq!(seen.at_the_end(), expected);
        }
    }

    #[test]
    fn an_effect_may_be_repeated_near_a_fault_only() {
        let again = |first: i64| {
            doctored(|seen| {
                seen.effects.insert("e14".to_owned(), vec![first, 500_000]);
            })
        };
        assert_eq!((again(96_000).at_the_end(), again(110_000).at_the_end()), (vec![], vec![]));
        assert_eq!(again(96_000).repeated(), 1);
        for first in [90_000, 125_000] {
            assert_eq!(again(first).at_the_end(), [Broken::Repeated("e14".to_owned())]);
        }
        let late = Group { unacknowledged: ["e14".to_owned()].into(), ..again(90_000) };
        assert_eq!(late.at_the_end(), []);
    }

    #[test]
    fn half_way_only_early_commits_are_broken() {
        let half = |committed: i64| {
            doctored(|seen| {
                seen.settled.retain(|id| id[1..].parse::<i64>().is_ok_and(|n| n < 42));
                seen.effects.clear();
                seen.committed = BTreeMap::from([(0, committed)]);
            })
        };
        assert_eq!(half(21).at_any_time(), []);
        assert_eq!(half(22).at_any_time(), [Broken::CommittedUnsettled(0, 21)]);
    }
}
