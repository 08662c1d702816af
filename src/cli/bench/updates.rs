//! How long it takes to add, change or delete one rule.
//!
//! Invariant: the change is in the index that the next event is matched against when the time is taken. Merging is not
//! part of it: a node does that beside.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::pattern::{Index, Live, Pattern};

use super::clock;

/// Changes of each kind.
const CHANGES: u32 = 500;

/// Times of one kind of change, in microseconds.
#[derive(Debug, Serialize)]
struct Micros {
    median: f64,
    p99: f64,
}

/// Times of all kinds.
#[derive(Debug, Serialize)]
pub(super) struct Updates {
    add_us: Micros,
    change_us: Micros,
    delete_us: Micros,
    /// The longest merge of segments, beside the path of events.
    merge_ms: f64,
}

impl Updates {
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let of = |times: &Micros| format!("{:.1} µs (99 % within {:.1})", times.median, times.p99);
        vec![
            ("add one", of(&self.add_us)),
            ("change one", of(&self.change_us)),
            ("delete one", of(&self.delete_us)),
            ("merge", format!("{:.1} ms at most, beside", self.merge_ms)),
        ]
    }
}

fn micros(mut times: Vec<Duration>) -> Micros {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    Micros { median: at(50), p99: at(99) }
}

/// Changes single patterns of a copy of the index; none if there are none.
pub(super) fn measure(index: &Index, patterns: &[(u32, Arc<Pattern>)]) -> Option<Updates> {
    let (last, _) = patterns.last()?;
    let live = Live::new(index.clone());
    let mut merging = Duration::ZERO;
    let mut change = |id: u32, pattern: Option<Arc<Pattern>>| {
        let (time, wants_merge) = clock::timed(|| live.change([(id, pattern)]));
        if wants_merge {
            merging = merging.max(clock::timed(|| live.merge()).0);
        }
        time
    };
    // Patterns from all over the set, under numbers that are new, and then under those that they have.
    let some = |n: u32| &patterns[n as usize * 7919 % patterns.len()];
    let other = |n: u32| Some(Arc::clone(&some(n + 1).1));
    let added = (1..=CHANGES).map(|n| change(last + n, other(n))).collect();
    let changed = (0..CHANGES).map(|n| change(some(n).0, other(n))).collect();
    let deleted = (1..=CHANGES).map(|n| change(last + n, None)).collect();
    Some(Updates {
        add_us: micros(added),
        change_us: micros(changed),
        delete_us: micros(deleted),
        merge_ms: merging.as_secs_f64() * 1e3,
    })
}
