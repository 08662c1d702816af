//! How guests' connections are shared out: a function has a part of them at most, those that were slow together a quarter, and
//! these with those of which nothing is known yet a half.
//!
//! Invariant: however many functions are slow, and however slow they are, half of the connections are for those that were
//! quick the last time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What takes longer than this is slow.
const SLOW: Duration = Duration::from_millis(500);
/// How long it is remembered how a function was.
const SLOW_FOR: Duration = Duration::from_secs(30);
const QUICK_FOR: Duration = Duration::from_secs(600);
/// Functions that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// How a function was the last time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Quick,
    Slow,
    Unknown,
}

/// Connections for one purpose.
pub(super) struct Shares {
    all: Arc<Semaphore>,
    /// For those that are not known to be quick.
    doubtful: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    each: usize,
    functions: Mutex<HashMap<String, Weak<Semaphore>>>,
    /// How each was, and until when that is remembered.
    paces: Mutex<HashMap<String, (Pace, Instant)>>,
}

/// The right to use one connection.
pub(super) struct Share {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Shares {
    /// `count` connections, `each` of which a function may have at once.
    pub(super) fn new(count: usize, each: usize) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.max(1)));
        Self {
            all: permits(count),
            doubtful: permits(count / 2),
            slow: permits(count / 4),
            each,
            functions: Mutex::default(),
            paces: Mutex::default(),
        }
    }

    /// Waits for a connection that `function` may use. `None` if the node quits.
    pub(super) async fn take(&self, function: &str) -> Option<Share> {
        let own = self.of(function).acquire_owned().await.ok()?;
        loop {
            let pace = self.pace(function);
            let queues: &[&Arc<Semaphore>] = match pace {
                Pace::Quick => &[&self.all],
                Pace::Unknown => &[&self.doubtful, &self.all],
                Pace::Slow => &[&self.slow, &self.doubtful, &self.all],
            };
            let mut permits = Vec::with_capacity(4);
            for queue in queues {
                permits.push(Arc::clone(queue).acquire_owned().await.ok()?);
            }
            // Found to be slow while it waited among the others: it waits among its own.
            if pace == Pace::Slow || self.pace(function) != Pace::Slow {
                permits.push(own);
                return Some(Share { _permits: permits });
            }
        }
    }

    /// Remembers how long `function` had its connection.
    pub(super) fn took(&self, function: &str, time: Duration) {
        let (pace, remembered) = if time < SLOW { (Pace::Quick, QUICK_FOR) } else { (Pace::Slow, SLOW_FOR) };
        let now = Instant::now();
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        match paces.get_mut(function) {
            // Slow ones are for a while, whatever they do in between.
            Some((Pace::Slow, until)) if pace == Pace::Quick && *until > now => {}
            Some(known) => *known = (pace, now + remembered),
            None => {
                if paces.len() >= REMEMBERED_MAX {
                    paces.retain(|_, (_, until)| *until > now);
                }
                if paces.len() < REMEMBERED_MAX {
                    paces.insert(function.to_owned(), (pace, now + remembered));
                }
            }
        }
    }

    fn pace(&self, function: &str) -> Pace {
        let paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.get(function).filter(|(_, until)| *until > Instant::now()).map_or(Pace::Unknown, |(pace, _)| *pace)
    }

    fn of(&self, function: &str) -> Arc<Semaphore> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = functions.get(function).and_then(Weak::upgrade) {
            return known;
        }
        if functions.len() >= REMEMBERED_MAX {
            functions.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let made = Arc::new(Semaphore::new(self.each));
        functions.insert(function.to_owned(), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::Shares;

    #[test]
    fn slow_functions_leave_half_to_the_others() {
        let shares = Shares::new(4, 2);
        let take = |function: &str| shares.take(function).now_or_never().flatten();
        ["a", "b"].iter().for_each(|function| shares.took(function, Duration::from_secs(2)));
        shares.took("quick", Duration::ZERO);
        let slow = take("a");
        assert!(slow.is_some() && take("b").is_none(), "the slow ones have a quarter");
        let new = take("new");
        assert!(new.is_some() && take("newer").is_none(), "with those that nothing is known of, a half");
        let quick: Vec<_> = [take("quick"), take("quick"), take("quick")].into_iter().flatten().collect();
        assert_eq!(quick.len(), 2, "a function has its share");
        drop((slow, new));
        assert!(take("quick").is_none(), "of its own, not of all");
        drop(quick);
        assert!(take("quick").is_some());
    }
}
