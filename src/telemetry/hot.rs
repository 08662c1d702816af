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
    kinds: Vec<Kind<T>>,
    len: usize,
}

/// A metric and a class, told by where they stand in the program: a few dozen, and each found sooner than it is hashed. One
/// that stands there twice is two.
struct Kind<T> {
    metric: &'static str,
    class: &'static str,
    places: HashMap<String, usize, RandomState>,
    handles: Vec<T>,
}

thread_local! {
    static COUNTERS: RefCell<Handles<Counter>> = const { RefCell::new(Handles::new()) };
    static HISTOGRAMS: RefCell<Handles<Histogram>> = const { RefCell::new(Handles::new()) };
}

impl<T> Kind<T> {
    fn is(&self, metric: &'static str, class: &'static str) -> bool {
        std::ptr::eq(self.metric, metric) && std::ptr::eq(self.class, class)
    }
}

impl<T> Handles<T> {
    const fn new() -> Self {
        Self { kinds: Vec::new(), len: 0 }
    }

    fn get(&mut self, metric: &'static str, class: &'static str, label: &str, make: impl FnOnce(String) -> T) -> &T {
        let found = self.kinds.iter().position(|kind| kind.is(metric, class));
        let place = found.and_then(|at| Some((at, *self.kinds[at].places.get(label)?)));
        let (at, place) = place.unwrap_or_else(|| self.keep(metric, class, label, make));
        &self.kinds[at].handles[place]
    }

    #[cold]
    fn keep(
        &mut self,
        metric: &'static str,
        class: &'static str,
        label: &str,
        make: impl FnOnce(String) -> T,
    ) -> (usize, usize) {
        if self.len == KEPT {
            *self = Self::new();
        }
        self.len += 1;
        let found = self.kinds.iter().position(|kind| kind.is(metric, class));
        let at = found.unwrap_or_else(|| {
            let places = HashMap::with_hasher(RandomState::default());
            self.kinds.push(Kind { metric, class, places, handles: Vec::new() });
            self.kinds.len() - 1
        });
        let Kind { places, handles, .. } = &mut self.kinds[at];
        let place = handles.len();
        handles.push(make(label.to_owned()));
        places.insert(label.to_owned(), place);
        (at, place)
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
