//! Where a partition begins: what the group has committed against what the partition has.
//!
//! Invariant: a position that the partition does not have, or has for other records, is a gap, and nothing but an
//! operator's word makes it a position again. Pure: who asks, asks elsewhere.

use super::note::{Mark, Note};

/// What is known of a partition when it is assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// What the group has committed, and the note beside it.
    pub(super) committed: Option<(i64, Option<Note>)>,
    /// Where it was when it was assigned last, if it ever was.
    pub(super) known: Option<i64>,
    /// The first record that the partition has.
    pub(super) low: i64,
    /// What its next record gets.
    pub(super) high: i64,
    /// Where it begins by `start`.
    pub(super) start: i64,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// The first record that is not settled.
    pub(super) at: i64,
    /// No record at or behind this has ever been handed over.
    pub(super) until: i64,
    /// How often the partition was assigned since it last got anywhere.
    pub(super) tries: u32,
    /// The record before `at`, by which the partition is known again; it still has one at that offset.
    pub(super) mark: Option<Mark>,
}

/// A range that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The first record that was not settled.
    pub(super) from: i64,
    /// Where an operator's word lets it go on.
    pub(super) to: i64,
    /// What was found.
    pub(super) reason: String,
}

/// Where the partition begins.
pub(super) fn begin(facts: &Facts) -> Result<Begin, Missing> {
    let Facts { low, high, start, .. } = *facts;
    let Some((at, note)) = facts.committed else {
        return facts.known.map_or(Ok(Begin { at: start, until: start, tries: 0, mark: None }), |known| {
            let reason = format!(
                "everything before {known} was settled, and the group has no committed offset any more: it expired, or was \
                 deleted, perhaps with the topic"
            );
            Err(Missing { from: known, to: start, reason })
        });
    };
    if let Some(missing) = missing(at, low, high) {
        return Err(missing);
    }
    // Somebody else's commit, or a broker that keeps no notes: all that there is may have run.
    let note = note.unwrap_or(Note { until: high, tries: 0, mark: None });
    let until = note.until.max(at);
    // The record before may be gone already: then it tells nothing.
    let mark = note.mark.filter(|_| at > low);
    Ok(Begin { at, until, tries: note.tries, mark })
}

/// What is missing for whoever reads on at `at`.
pub(super) fn missing(at: i64, low: i64, high: i64) -> Option<Missing> {
    if at < low {
        let reason = format!("records {at} to {} expired before they were read; the oldest is {low} now", low - 1);
        return Some(Missing { from: at, to: low, reason });
    }
    if at > high {
        let reason = format!(
            "everything before {at} is settled, but the partition ends at {high}: the topic was made anew, or its end was lost"
        );
        return Some(Missing { from: at, to: low, reason });
    }
    None
}

/// Whether the record before the committed offset is another one now.
pub(super) fn replaced(at: i64, low: i64, known: Mark, found: Mark) -> Option<Missing> {
    let reason = format!(
        "the record {} is not the one that was settled (timestamp {} and {} bytes, now {} and {}): the topic was made anew",
        at - 1,
        known.timestamp,
        known.value,
        found.timestamp,
        found.value
    );
    (known != found).then_some(Missing { from: at, to: low, reason })
}

/// Where an operator's word lets a gap go on: with all that the partition has from there.
pub(super) fn accepted(missing: &Missing) -> Begin {
    Begin { at: missing.to, until: missing.to, tries: 0, mark: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { timestamp: 5, key: 1, value: 2 };

    fn facts(committed: Option<(i64, Option<Note>)>, low: i64, high: i64) -> Facts {
        Facts { committed, known: None, low, high, start: high }
    }

    #[test]
    fn a_partition_begins_where_it_was_left_or_as_start_says() {
        let note = Note { until: 40, tries: 2, mark: Some(MARK) };
        let at = |at, until, tries, mark| Ok(Begin { at, until, tries, mark });
        let table = [
            (facts(None, 0, 100), at(100, 100, 0, None)),
            (facts(Some((20, None)), 0, 100), at(20, 100, 0, None)),
            (facts(Some((20, Some(note))), 0, 100), at(20, 40, 2, Some(MARK))),
            (facts(Some((20, Some(note))), 20, 100), at(20, 40, 2, None)),
            (facts(Some((50, Some(note))), 0, 100), at(50, 50, 2, Some(MARK))),
            (facts(Some((100, None)), 0, 100), at(100, 100, 0, None)),
            (facts(Some((100, None)), 100, 100), at(100, 100, 0, None)),
            (facts(Some((0, None)), 0, 0), at(0, 0, 0, None)),
        ];
        for (facts, expected) in table {
            assert_eq!(begin(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_a_gap_that_goes_on_where_the_partition_begins() {
        let table = [(19, 20, 100, 20), (0, 1, 1, 1), (101, 0, 100, 0), (7, 3, 5, 3)];
        for (at, low, high, to) in table {
            let missing = begin(&facts(Some((at, None)), low, high)).expect_err("it is not there");
            assert_eq!((missing.from, missing.to), (at, to), "{missing:?}");
            assert_eq!(accepted(&missing).at, to);
        }
    }

    #[test]
    fn a_committed_offset_that_is_gone_is_a_gap() {
        let facts = Facts { known: Some(7), ..facts(None, 3, 9) };
        let missing = begin(&facts).expect_err("there was one");
        assert_eq!((missing.from, accepted(&missing).at), (7, 9), "it begins by `start` once that is accepted");
    }

    #[test]
    fn another_record_at_the_same_offset_is_a_gap() {
        assert_eq!(replaced(9, 0, MARK, MARK), None);
        let other = Mark { timestamp: 6, ..MARK };
        assert_eq!(replaced(9, 2, MARK, other).map(|missing| (missing.from, missing.to)), Some((9, 2)));
    }
}
