//! The node's budget of events and bytes in flight, taken before anything is read.
//!
//! Invariant: the events and bytes out never exceed the budget; what was taken comes back when its credit is dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this size, so that a budget of terabytes fits a semaphore.
const UNIT: u64 = 1 << 10;

/// The budget. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    events_max: u32,
    bytes_max: u32,
}

/// A part of the budget: given back when it is dropped.
#[derive(Debug)]
pub struct Credit {
    events: Option<OwnedSemaphorePermit>,
    bytes: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `events` and `bytes`.
    #[must_use]
    pub fn new(events: u32, bytes: u64) -> Self {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3).min(u32::MAX >> 3);
        Self {
            events: Arc::new(Semaphore::new(events as usize)),
            bytes: Arc::new(Semaphore::new(units as usize)),
            events_max: events,
            bytes_max: units,
        }
    }

    /// Waits until there is room for one event and `bytes` (or all the budget, if that is less), then takes as many as
    /// `events` and the bytes. Cancel-safe: what was not given is not taken.
    ///
    /// # Panics
    /// Never: the semaphores are never closed.
    pub async fn reserve(&self, events: u32, bytes: u64) -> Credit {
        let units = units(bytes).min(self.bytes_max);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(units).await;
        let first = Arc::clone(&self.events).acquire_owned().await;
        let mut first = first.expect("the semaphore is never closed");
        let more = (events.max(1) - 1).min(u32::try_from(self.events.available_permits()).unwrap_or(u32::MAX));
        if more > 0
            && let Ok(rest) = Arc::clone(&self.events).try_acquire_many_owned(more)
        {
            first.merge(rest);
        }
        Credit { events: Some(first), bytes: Some(bytes.expect("the semaphore is never closed")) }
    }

    /// Events and bytes that are out.
    #[must_use]
    pub fn in_flight(&self) -> (u64, u64) {
        let out = |max: u32, semaphore: &Semaphore| u64::from(max) - semaphore.available_permits() as u64;
        (out(self.events_max, &self.events), out(self.bytes_max, &self.bytes) * UNIT)
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3)
}

impl Credit {
    /// Events that the credit is for.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes the part for one event of `bytes` out; none when the credit is used up. A part may hold fewer bytes than
    /// asked for when the credit has no more. With the last event the bytes that are left go back.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        let event = self.events.as_mut()?.split(1)?;
        let has = self.bytes.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let bytes = self.bytes.as_mut().and_then(|b| b.split(has.min(units(bytes) as usize)));
        if self.events() == 0 {
            self.bytes = None;
        }
        Some(Self { events: Some(event), bytes })
    }

    /// Adds `other` to this credit.
    pub fn merge(&mut self, other: Self) {
        join(&mut self.events, other.events);
        join(&mut self.bytes, other.bytes);
    }

    /// Gives back `events` of them; when none is left, the bytes too.
    pub fn give_back(&mut self, events: usize) {
        let surplus = self.events().min(events);
        drop(self.events.as_mut().and_then(|e| e.split(surplus)));
        if self.events() == 0 {
            self.bytes = None;
        }
    }

    /// A credit for nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { events: None, bytes: None }
    }
}

fn join(into: &mut Option<OwnedSemaphorePermit>, other: Option<OwnedSemaphorePermit>) {
    match (into.as_mut(), other) {
        (Some(permit), Some(other)) => permit.merge(other),
        (None, other) => *into = other,
        (Some(_), None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[tokio::test]
    async fn what_is_taken_comes_back() {
        let budget = Budget::new(10, 100 << 10);
        let mut credit = budget.reserve(8, 50 << 10).await;
        assert_eq!(credit.events(), 8);
        assert_eq!(budget.in_flight(), (8, 50 << 10));
        let one = credit.split(20 << 10).expect("eight are left");
        let rest = budget.reserve(8, 1 << 10).await;
        assert_eq!(rest.events(), 2, "no more than there are");
        drop(credit);
        assert_eq!(budget.in_flight(), (3, 21 << 10));
        drop((one, rest));
        assert_eq!(budget.in_flight(), (0, 0));
    }

    #[tokio::test]
    async fn a_credit_that_is_used_up_gives_no_more() {
        let budget = Budget::new(2, 4 << 10);
        let mut credit = budget.reserve(2, 4 << 10).await;
        let parts = [credit.split(3 << 10), credit.split(3 << 10), credit.split(1)];
        assert!(parts[0].is_some() && parts[1].is_some() && parts[2].is_none());
        assert_eq!(budget.in_flight(), (2, 4 << 10));
    }

    #[tokio::test]
    async fn the_last_event_gives_back_the_bytes_that_are_left() {
        let budget = Budget::new(2, 8 << 10);
        let mut credit = budget.reserve(2, 8 << 10).await;
        let first = credit.split(1 << 10);
        assert_eq!(budget.in_flight(), (2, 8 << 10));
        let last = credit.split(1 << 10);
        assert_eq!(budget.in_flight(), (2, 2 << 10));
        drop((first, last));
        assert_eq!(budget.in_flight(), (0, 0));
    }

    #[tokio::test]
    async fn credits_join_and_are_given_back_in_part() {
        let budget = Budget::new(10, 10 << 10);
        let mut credit = super::Credit::none();
        credit.merge(budget.reserve(4, 2 << 10).await);
        credit.merge(budget.reserve(4, 2 << 10).await);
        assert_eq!((credit.events(), budget.in_flight()), (8, (8, 4 << 10)));
        credit.give_back(5);
        assert_eq!(budget.in_flight(), (3, 4 << 10));
        credit.give_back(9);
        assert_eq!(budget.in_flight(), (0, 0), "the bytes go with the last event");
    }
}
