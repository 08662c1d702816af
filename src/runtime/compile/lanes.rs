//! Who is next: a queue in which the smallest goes first.
//!
//! Invariant: at most `width` turns are out at once, and a turn that is dropped, wherever, goes to the smallest that
//! still waits. The queue has a bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Each that waits holds the bytes of its component.
const WAITING: usize = 256;

/// Turns, and who waits for one.
#[derive(Debug)]
pub(super) struct Lane(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    arrived: u64,
    /// By size, then in the order in which they came.
    waiting: BTreeMap<(usize, u64), oneshot::Sender<Turn>>,
}

/// The right to go on, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Mutex<State>>>);

impl Lane {
    pub(super) fn new(width: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: width, arrived: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a turn; none when too many wait.
    pub(super) async fn turn(&self, size: usize) -> Option<Turn> {
        let answer = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                state.free -= 1;
                return Some(Turn(Some(Arc::clone(&self.0))));
            }
            state.waiting.retain(|_, waiting| !waiting.is_closed());
            if state.waiting.len() >= WAITING {
                return None;
            }
            let (sender, answer) = oneshot::channel();
            state.arrived += 1;
            let key = (size, state.arrived);
            state.waiting.insert(key, sender);
            answer
        };
        answer.await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(lane) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = lock(&lane);
                let next = state.waiting.pop_first();
                state.free += usize::from(next.is_none());
                next
            };
            let Some((_, waiting)) = next else { return };
            match waiting.send(Turn(Some(Arc::clone(&lane)))) {
                Ok(()) => return,
                // Who waited has left; the next one.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::{Lane, WAITING};

    #[tokio::test]
    async fn the_smallest_goes_first_and_who_leaves_is_passed_over() {
        let lane = Lane::new(1);
        let first = lane.turn(9).await.expect("it is free");
        let mut waiting: Vec<_> = [5, 3, 4].into_iter().map(|size| Box::pin(lane.turn(size))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        drop(waiting.remove(1));
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().is_none(), "5 waits for 4");
        let four = waiting[1].as_mut().now_or_never().flatten().expect("4 is the smallest that is left");
        drop(four);
        drop(waiting[0].as_mut().now_or_never().flatten().expect("then 5"));
        drop(waiting);
        drop(lane.turn(1).await.expect("nobody else is there"));
    }

    #[tokio::test]
    async fn a_turn_that_nobody_took_is_not_lost() {
        let lane = Lane::new(1);
        let first = lane.turn(1).await;
        let mut left = Box::pin(lane.turn(1));
        assert!(left.as_mut().now_or_never().is_none());
        drop(first);
        drop(left);
        assert!(lane.turn(1).now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn the_queue_has_a_bound() {
        let lane = Lane::new(1);
        let _first = lane.turn(1).await;
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(lane.turn(1))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        assert!(lane.turn(1).await.is_none());
    }
}
