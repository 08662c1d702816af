//! Positions in flight → the low watermark that may be released upstream.
//!
//! Invariant: [`Watermark::low`] never passes a position that was entered and is not settled, and it never goes back.
//! One `Watermark` is one line of positions (a Kafka partition, a slot, a stream): after a rebalance or a rewind, start
//! a new one. It does not know what a position means, does no I/O, and holds no more than the span from the lowest
//! unsettled position to the last one entered; the budget of events in flight bounds that span.

use std::collections::VecDeque;

/// Tracks the positions of one source that are in flight.
///
/// Positions are entered in strictly increasing order, gaps allowed (a compacted topic, a filtered stream), and
/// settled in any order.
#[derive(Clone, Debug)]
pub struct Watermark {
    /// From the lowest unsettled position on, in order; so the first one is never settled.
    span: VecDeque<Entry>,
    in_flight: usize,
    low: Option<u64>,
    /// The last position entered, or the start: what the next one must exceed.
    last: Option<u64>,
}

/// A position was entered that is not above all earlier ones: the source went back, or sent it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position} is not above {last}, the last one entered")]
pub struct OutOfOrder {
    /// The position refused.
    pub position: u64,
    /// The last one entered, or the start.
    pub last: u64,
}

/// A position was settled that is not in flight: never entered, or settled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position} is not in flight: it was never entered, or is settled already")]
pub struct NotInFlight {
    /// The position refused.
    pub position: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    settled: bool,
}

impl Watermark {
    /// A line whose positions up to and including `start` are released already; `None` if none is.
    #[must_use]
    pub fn new(start: Option<u64>) -> Self {
        Self { span: VecDeque::new(), in_flight: 0, low: start, last: start }
    }

    /// Puts `position` in flight.
    ///
    /// # Errors
    /// [`OutOfOrder`] if it is not above every earlier one and the start; nothing changes then.
    pub fn enter(&mut self, position: u64) -> Result<(), OutOfOrder> {
        if let Some(last) = self.last.filter(|last| position <= *last) {
            return Err(OutOfOrder { position, last });
        }
        self.last = Some(position);
        self.span.push_back(Entry { position, settled: false });
        self.in_flight += 1;
        Ok(())
    }

    /// Settles `position`; the new low watermark if that moved it.
    ///
    /// # Errors
    /// [`NotInFlight`] if it was never entered or is settled already; nothing changes then.
    pub fn settle(&mut self, position: u64) -> Result<Option<u64>, NotInFlight> {
        let found = self.span.binary_search_by_key(&position, |entry| entry.position).ok();
        let entry = found.and_then(|at| self.span.get_mut(at)).filter(|entry| !entry.settled);
        entry.ok_or(NotInFlight { position })?.settled = true;
        self.in_flight -= 1;

        let before = self.low;
        while let Some(done) = self.span.pop_front_if(|entry| entry.settled) {
            self.low = Some(done.position);
        }
        Ok(self.low.filter(|_| self.low != before))
    }

    /// The highest position such that it and all entered before it are settled; the start, or `None`, before that.
    #[must_use]
    pub fn low(&self) -> Option<u64> {
        self.low
    }

    /// How many positions are entered and not settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The position that holds the low watermark back, if any is in flight.
    #[must_use]
    pub fn lowest_unsettled(&self) -> Option<u64> {
        self.span.front().map(|entry| entry.position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The definition of the low watermark, word for word: position → settled.
    struct Model {
        start: Option<u64>,
        entered: BTreeMap<u64, bool>,
    }

    impl Model {
        fn low(&self) -> Option<u64> {
            let settled = self.entered.iter().take_while(|(_, settled)| **settled);
            settled.map(|(position, _)| *position).last().or(self.start)
        }

        fn unsettled(&self) -> Vec<u64> {
            let open = self.entered.iter().filter(|(_, settled)| !**settled);
            open.map(|(position, _)| *position).collect()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Enter the last position plus this; 0 is out of order.
        Enter(u64),
        /// Settle the position in flight with this index, modulo their number.
        Settle(usize),
        /// Settle this position, whatever it is.
        SettleAny(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..4).prop_map(Step::Enter),
            4 => any::<usize>().prop_map(Step::Settle),
            1 => (0_u64..80).prop_map(Step::SettleAny),
        ]
    }

    fn apply(step: &Step, watermark: &mut Watermark, model: &mut Model) -> Result<(), TestCaseError> {
        let low_before = watermark.low();
        let position = match *step {
            Step::Enter(gap) => {
                let last = model.entered.keys().next_back().copied().or(model.start);
                let position = last.unwrap_or(0) + gap;
                let expected = if last.is_some_and(|last| position <= last) {
                    Err(OutOfOrder { position, last: last.unwrap_or(0) })
                } else {
                    model.entered.insert(position, false);
                    Ok(())
                };
                prop_assert_eq!(watermark.enter(position), expected);
                return Ok(());
            }
            Step::Settle(index) => {
                let open = model.unsettled();
                let Some(at) = index.checked_rem(open.len()) else { return Ok(()) };
                open[at]
            }
            Step::SettleAny(position) => position,
        };
        let known = model.entered.get(&position) == Some(&false);
        if known {
            model.entered.insert(position, true);
        }
        let moved = model.low().filter(|low| Some(*low) != low_before);
        let expected = if known { Ok(moved) } else { Err(NotInFlight { position }) };
        prop_assert_eq!(watermark.settle(position), expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn any_interleaving_agrees_with_the_definition(
            start in proptest::option::of(0_u64..5),
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut watermark = Watermark::new(start);
            let mut model = Model { start, entered: BTreeMap::new() };
            for step in &steps {
                let before = watermark.low();
                apply(step, &mut watermark, &mut model)?;
                let open = model.unsettled();
                prop_assert_eq!(watermark.low(), model.low());
                prop_assert_eq!(watermark.in_flight(), open.len());
                prop_assert_eq!(watermark.lowest_unsettled(), open.first().copied());
                prop_assert!(watermark.low() >= before, "the low watermark went back");
                let passed = open.first().is_some_and(|open| watermark.low() >= Some(*open));
                prop_assert!(!passed, "the low watermark passed an unsettled position");
                let last = model.entered.keys().next_back().copied().unwrap_or(0);
                let span = model.entered.range(open.first().copied().unwrap_or(last + 1)..).count();
                prop_assert_eq!(watermark.span.len(), span, "memory beyond the span in flight");
            }
            for position in model.unsettled() {
                watermark.settle(position).expect("it is in flight");
            }
            let last = model.entered.keys().next_back().copied().or(start);
            prop_assert_eq!(watermark.low(), last, "all settled, low is not the last entered");
            prop_assert_eq!(watermark.in_flight(), 0);
        }
    }

    #[test]
    fn a_position_that_stays_open_holds_the_rest_back() {
        let mut watermark = Watermark::new(None);
        for position in [10, 20, 30] {
            watermark.enter(position).expect("it increases");
        }
        assert_eq!(watermark.settle(30), Ok(None));
        assert_eq!(watermark.settle(20), Ok(None));
        assert_eq!((watermark.low(), watermark.lowest_unsettled()), (None, Some(10)));
        assert_eq!(watermark.settle(10), Ok(Some(30)));
        assert_eq!((watermark.in_flight(), watermark.lowest_unsettled()), (0, None));
    }

    #[test]
    fn the_ends_of_the_range_are_positions_like_any_other() {
        let mut watermark = Watermark::new(None);
        watermark.enter(0).expect("nothing is before it");
        watermark.enter(u64::MAX).expect("it increases");
        assert_eq!(watermark.settle(0), Ok(Some(0)));
        assert_eq!(watermark.settle(u64::MAX), Ok(Some(u64::MAX)));
        let refused = OutOfOrder { position: u64::MAX, last: u64::MAX };
        assert_eq!(watermark.enter(u64::MAX), Err(refused));
    }

    #[test]
    fn settling_twice_or_the_unknown_is_reported_and_changes_nothing() {
        let mut watermark = Watermark::new(Some(5));
        watermark.enter(7).expect("it increases");
        watermark.enter(9).expect("it increases");
        assert_eq!(watermark.settle(9), Ok(None));
        for position in [5, 8, 9, 10] {
            assert_eq!(watermark.settle(position), Err(NotInFlight { position }));
        }
        assert_eq!((watermark.low(), watermark.in_flight()), (Some(5), 1));
        assert_eq!(watermark.settle(7), Ok(Some(9)));
    }
}
