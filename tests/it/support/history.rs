//! The checker of change feeds: what an application committed, by its own audit trail, against what functions were run
//! for and what they did.
//!
//! A checker that cannot fail is worthless: its tests show that each broken promise is found in doctored histories.

use std::collections::{BTreeMap, BTreeSet};

/// A change that the application committed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What was changed.
    pub key: i64,
    /// The transaction.
    pub xid: i64,
    /// What was done.
    pub op: String,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was committed; of one key, in the order of the commits.
    pub audit: Vec<Change>,
    /// What functions were run for; in the order in which their effects were committed.
    pub told: Vec<Change>,
    /// Transactions that the slot still has.
    pub pending: BTreeSet<i64>,
    /// How often each delivery is done.
    pub done: BTreeMap<String, usize>,
    /// What the counter says that all effects raise.
    pub counter: usize,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// The slot no longer has it, and nothing was run for it.
    ReleasedUnsettled(Change),
    /// Nothing was run for it.
    Lost(Change),
    /// It has an effect more often than it was committed.
    TooOften(Change),
    /// Of the key, the first that does not stand where it was committed.
    OutOfOrder(Change),
    /// The delivery is done this often.
    Done(String, usize),
    /// The counter, the effects and the deliveries that are done do not agree.
    Inexact(usize, usize, usize),
}

/// What must hold at every moment: nothing is released unsettled, and effects are those of the deliveries done.
pub fn at_any_time(seen: &History) -> Vec<Broken> {
    let told: BTreeSet<&Change> = seen.told.iter().collect();
    let gone = seen.audit.iter().filter(|change| !told.contains(change) && !seen.pending.contains(&change.xid));
    gone.cloned().map(Broken::ReleasedUnsettled).chain(exact(seen)).collect()
}

/// What must hold once everything was drained: each change has its effect, once, and in the order of its key.
pub fn at_the_end(seen: &History) -> Vec<Broken> {
    let (audit, told) = (counted(&seen.audit), counted(&seen.told));
    let many = |counts: &BTreeMap<&Change, usize>, change: &Change| counts.get(change).copied().unwrap_or(0);
    let lost = audit.iter().filter(|(change, count)| many(&told, change) < **count);
    let often = told.iter().filter(|(change, count)| many(&audit, change) < **count);
    let lost = lost.map(|(change, _)| Broken::Lost((*change).clone()));
    let often = often.map(|(change, _)| Broken::TooOften((*change).clone()));
    lost.chain(often).chain(out_of_order(seen)).chain(exact(seen)).collect()
}

fn counted(changes: &[Change]) -> BTreeMap<&Change, usize> {
    let mut counts = BTreeMap::new();
    changes.iter().for_each(|change| *counts.entry(change).or_default() += 1);
    counts
}

fn by_key(changes: &[Change]) -> BTreeMap<i64, Vec<&Change>> {
    let mut keys: BTreeMap<i64, Vec<&Change>> = BTreeMap::new();
    changes.iter().for_each(|change| keys.entry(change.key).or_default().push(change));
    keys
}

/// Keys of which all was told, but not in its order.
fn out_of_order(seen: &History) -> Vec<Broken> {
    let told = by_key(&seen.told);
    let first = |(key, committed): (i64, Vec<&Change>)| {
        let of_key = told.get(&key).filter(|of_key| of_key.len() == committed.len())?;
        let at = of_key.iter().zip(&committed).find(|(told, committed)| told != committed)?;
        Some(Broken::OutOfOrder((*at.0).clone()))
    };
    by_key(&seen.audit).into_iter().filter_map(first).collect()
}

fn exact(seen: &History) -> Vec<Broken> {
    let twice = seen.done.iter().filter(|(_, count)| **count != 1);
    let mut broken: Vec<Broken> = twice.map(|(id, count)| Broken::Done(id.clone(), *count)).collect();
    let done = seen.done.values().filter(|count| **count > 0).count();
    if (seen.counter, seen.told.len()) != (done, done) {
        broken.push(Broken::Inexact(seen.counter, seen.told.len(), done));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: i64, xid: i64) -> Change {
        Change { key, xid, op: "update".to_owned() }
    }

    /// Three keys, each changed by four transactions.
    fn sound() -> History {
        let all: Vec<Change> = (0..12).map(|n| change(n % 3, n)).collect();
        History {
            audit: all.clone(),
            told: all,
            pending: BTreeSet::new(),
            done: (0..12).map(|n| (format!("d{n}"), 1)).collect(),
            counter: 12,
        }
    }

    fn doctored(alter: impl FnOnce(&mut History)) -> History {
        let mut seen = sound();
        alter(&mut seen);
        seen
    }

    #[test]
    fn a_sound_history_passes_and_so_does_another_order_of_different_keys() {
        assert_eq!(at_any_time(&sound()), []);
        assert_eq!(at_the_end(&sound()), []);
        let mixed = doctored(|seen| seen.told.sort_by_key(|change| (change.key, change.xid)));
        assert_eq!(at_the_end(&mixed), []);
    }

    #[test]
    fn every_broken_promise_is_found_at_the_end() {
        let lost = doctored(|seen| {
            seen.told.remove(4);
            seen.done.remove("d4");
            seen.counter -= 1;
        });
        let twice = doctored(|seen| {
            seen.told.push(change(0, 3));
            seen.done.insert("e".to_owned(), 1);
            seen.counter += 1;
        });
        let invented = doctored(|seen| {
            seen.told.push(change(7, 70));
            seen.done.insert("e".to_owned(), 1);
            seen.counter += 1;
        });
        let swapped = doctored(|seen| seen.told.swap(1, 4));
        let done_twice = doctored(|seen| {
            seen.done.insert("d4".to_owned(), 2);
        });
        let never_done = doctored(|seen| {
            seen.done.insert("d4".to_owned(), 0);
        });
        let raised_twice = doctored(|seen| seen.counter += 1);
        let hollow = doctored(|seen| {
            seen.done.insert("e".to_owned(), 1);
        });
        let table = [
            (lost, vec![Broken::Lost(change(1, 4))]),
            (twice, vec![Broken::TooOften(change(0, 3))]),
            (invented, vec![Broken::TooOften(change(7, 70))]),
            (swapped, vec![Broken::OutOfOrder(change(1, 4))]),
            (done_twice, vec![Broken::Done("d4".to_owned(), 2)]),
            (never_done, vec![Broken::Done("d4".to_owned(), 0), Broken::Inexact(12, 12, 11)]),
            (raised_twice, vec![Broken::Inexact(13, 12, 12)]),
            (hollow, vec![Broken::Inexact(12, 12, 13)]),
        ];
        for (seen, expected) in table {
            assert_eq!(at_the_end(&seen), expected);
        }
    }

    #[test]
    fn the_same_change_twice_in_one_transaction_must_be_told_twice() {
        let both = doctored(|seen| {
            seen.audit.push(change(2, 11));
            seen.told.push(change(2, 11));
            seen.done.insert("d12".to_owned(), 1);
            seen.counter += 1;
        });
        assert_eq!(at_the_end(&both), []);
        let once = doctored(|seen| seen.audit.push(change(2, 11)));
        assert_eq!(at_the_end(&once), [Broken::Lost(change(2, 11))]);
    }

    #[test]
    fn half_way_what_is_not_told_must_still_be_in_the_slot() {
        let half = |pending: std::ops::Range<i64>| {
            doctored(|seen| {
                seen.told.truncate(6);
                seen.done = (0..6).map(|n| (format!("d{n}"), 1)).collect();
                seen.counter = 6;
                seen.pending = pending.collect();
            })
        };
        assert_eq!(at_any_time(&half(5..12)), []);
        assert_eq!(at_any_time(&half(7..12)), [Broken::ReleasedUnsettled(change(0, 6))]);
        let inexact = History { counter: 5, ..half(6..12) };
        assert_eq!(at_any_time(&inexact), [Broken::Inexact(5, 6, 6)]);
    }
}
