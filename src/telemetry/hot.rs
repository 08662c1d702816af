//! Handles of the metrics that every event moves, kept by each thread: looking one up in the registry costs more than
//! moving it.
//!
//! Invariant: a thread keeps a bounded number of them; what is moved is the registry's own metric. Handles that are made
//! before the recorder is there move nothing, so it is set up first.

use std::cell::RefCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use metrics::{Counter, Histogram};

/// Handles that a thread keeps of one kind; then it begins anew.
const KEPT: usize = 4_096;

/// By metric and class, then by label.
struct Handles<T> {
    by_kind: HashMap<(&'static str, &'static str), HashMap<String, T, RandomState>, RandomState>,
    len: usize,
}

thread_local! {
    static COUNTERS: RefCell<Handles<Counter>> = RefCell::new(Handles::new());
    static HISTOGRAMS: RefCell<Handles<Histogram>> = RefCell::new(Handles::new());
}

impl<T> Handles<T> {
    fn new() -> Self {
        Self { by_kind: HashMap::with_hasher(RandomState::default()), len: 0 }
    }

    fn get(&mut self, metric: &'static str, class: &'static str, label: &str, make: impl FnOnce(String) -> T) -> &T {
        let kind = (metric, class);
        let is_kept = self.by_kind.get(&kind).is_some_and(|labels| labels.contains_key(label));
        if !is_kept && self.len == KEPT {
            *self = Self::new();
        }
        let labels = self.by_kind.entry(kind).or_default();
        if !is_kept {
            labels.insert(label.to_owned(), make(label.to_owned()));
            self.len += 1;
        }
        labels.get(label).expect("it is kept by now")
    }
}

/// Moves the counter of `label` by `by`; `make` gives it.
pub(super) fn count(
    metric: &'static str,
    class: &'static str,
    label: &str,
    by: u64,
    make: impl FnOnce(String) -> Counter,
) {
    COUNTERS.with_borrow_mut(|handles| handles.get(metric, class, label, make).increment(by));
}

/// Records seconds in the histogram of `label`; `make` gives it.
pub(super) fn record(metric: &'static str, label: &str, seconds: f64, make: impl FnOnce(String) -> Histogram) {
    HISTOGRAMS.with_borrow_mut(|handles| handles.get(metric, "", label, make).record(seconds));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_no_more_than_so_many() {
        let mut handles: Handles<String> = Handles::new();
        for n in 0..3 * KEPT {
            let label = format!("rule-{n}");
            assert_eq!(handles.get("m", "done", &label, |label| label), &label);
            assert_eq!(handles.get("m", "done", &label, |_| panic!("it is kept")), &label);
            assert!(handles.len <= KEPT);
        }
        assert_eq!(handles.get("m", "dead", "rule-0", |label| format!("dead {label}")), "dead rule-0");
    }
}
