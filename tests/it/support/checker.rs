//! The checker of the delivery contract: what was published against ledger, acknowledgements and effects.
//!
//! A checker that cannot fail is worthless: its tests show that each broken promise is found in doctored data.

use std::collections::{BTreeMap, BTreeSet};

/// What was seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Sequences that the server took, all of which must be worked on.
    pub published: BTreeSet<u64>,
    /// Sequences that the server regards as acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// Sequences with a `done` row in the ledger.
    pub done: BTreeSet<u64>,
    /// Sequences that are parked or dead: settled, but not done.
    pub kept: BTreeSet<u64>,
    /// How often the effect of a sequence is there.
    pub effects: BTreeMap<u64, usize>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// Acknowledged, and nothing in the database knows of it.
    AcknowledgedUnsettled(u64),
    /// Never done.
    NotDone(u64),
    /// Done without its effect.
    EffectMissing(u64),
    /// Its effect is there several times.
    EffectTwice(u64),
    /// Something was done that nobody asked for.
    Invented(u64),
}

/// What must hold at every moment: nothing is released before it is settled, and no done row is without its effect.
pub fn at_any_time(seen: &Evidence) -> Vec<Broken> {
    let settled: BTreeSet<u64> = seen.done.union(&seen.kept).copied().collect();
    let early = seen.acknowledged.difference(&settled).map(|s| Broken::AcknowledgedUnsettled(*s));
    let hollow = seen.done.iter().filter(|s| !seen.effects.contains_key(s)).map(|s| Broken::EffectMissing(*s));
    early.chain(hollow).chain(always(seen)).collect()
}

/// What must hold once everything was drained: all is done, with its effect, once.
pub fn at_the_end(seen: &Evidence) -> Vec<Broken> {
    let undone = seen.published.difference(&seen.done).map(|s| Broken::NotDone(*s));
    let mut broken: Vec<Broken> = undone.chain(at_any_time(seen)).collect();
    let lost = seen.published.iter().filter(|s| !seen.effects.contains_key(s)).map(|s| Broken::EffectMissing(*s));
    broken.extend(lost);
    broken.sort();
    broken.dedup();
    broken
}

fn always(seen: &Evidence) -> impl Iterator<Item = Broken> {
    let twice = seen.effects.iter().filter(|(_, count)| **count > 1).map(|(s, _)| Broken::EffectTwice(*s));
    let all = seen.done.iter().chain(seen.effects.keys());
    let invented: BTreeSet<u64> = all.filter(|s| !seen.published.contains(s)).copied().collect();
    twice.chain(invented.into_iter().map(Broken::Invented))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Evidence {
        let all: BTreeSet<u64> = (1..=100).collect();
        Evidence {
            published: all.clone(),
            acknowledged: all.clone(),
            done: all.clone(),
            kept: BTreeSet::new(),
            effects: all.into_iter().map(|s| (s, 1)).collect(),
        }
    }

    fn doctored(change: impl FnOnce(&mut Evidence)) -> Evidence {
        let mut seen = sound();
        change(&mut seen);
        seen
    }

    #[test]
    fn sound_evidence_passes() {
        assert_eq!(at_any_time(&sound()), Vec::new());
        assert_eq!(at_the_end(&sound()), Vec::new());
    }

    #[test]
    fn every_broken_promise_is_found() {
        let table = [
            (
                doctored(|s| {
                    s.done.remove(&7);
                }),
                vec![Broken::AcknowledgedUnsettled(7), Broken::NotDone(7)],
            ),
            (
                doctored(|s| {
                    s.effects.remove(&7);
                }),
                vec![Broken::EffectMissing(7)],
            ),
            (
                doctored(|s| {
                    s.effects.insert(7, 2);
                }),
                vec![Broken::EffectTwice(7)],
            ),
            (
                doctored(|s| {
                    s.effects.insert(700, 1);
                }),
                vec![Broken::Invented(700)],
            ),
            (
                doctored(|s| {
                    s.done.remove(&7);
                    s.effects.remove(&7);
                    s.acknowledged.remove(&7);
                }),
                vec![Broken::NotDone(7), Broken::EffectMissing(7)],
            ),
        ];
        for (seen, expected) in table {
            assert_eq!(at_the_end(&seen), expected);
        }
    }

    #[test]
    fn half_way_only_early_releases_and_hollow_rows_are_broken() {
        let half = doctored(|s| {
            s.acknowledged.retain(|n| *n <= 40);
            s.done.retain(|n| *n <= 50);
            s.effects.retain(|n, _| *n <= 60);
        });
        assert_eq!(at_any_time(&half), Vec::new());
        let early = Evidence { acknowledged: (1..=51).collect(), ..half.clone() };
        assert_eq!(at_any_time(&early), vec![Broken::AcknowledgedUnsettled(51)]);
        let parked = Evidence { kept: [51].into(), ..early };
        assert_eq!(at_any_time(&parked), Vec::new());
        let hollow = Evidence { effects: (1..50).map(|n| (n, 1)).collect(), ..half };
        assert_eq!(at_any_time(&hollow), vec![Broken::EffectMissing(50)]);
    }
}
