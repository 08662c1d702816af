//! What a dispatcher shows to whoever watches: the lines of `oncue dev`.
//!
//! Invariant: watching never slows work down: what the watcher does not take in time is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::delivery::LogLine;
use crate::event::Event;

use super::Inner;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Seen {
    /// An event came and was matched.
    Event {
        /// The trigger.
        trigger: String,
        /// The event.
        event: Arc<Event>,
        /// The rules that matched.
        matched: Vec<String>,
        /// How many events like it came: more than one where those that nobody wants are counted together.
        count: u64,
    },
    /// An attempt ended.
    Attempt(Box<SeenAttempt>),
    /// A message could not become an event.
    Rejected {
        /// The trigger.
        trigger: String,
        /// Why.
        class: &'static str,
        /// In words.
        error: String,
    },
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct SeenAttempt {
    /// The delivery.
    pub delivery: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// What it is about: the key of the row, of a change.
    pub event_subject: Option<String>,
    /// The trigger.
    pub trigger: String,
    /// The rule.
    pub rule: String,
    /// Function and version; none for a rule that publishes.
    pub function: Option<(String, u32)>,
    /// Counted from 1.
    pub attempt: u32,
    /// The outcome's class.
    pub outcome: &'static str,
    /// The outcome's words.
    pub message: Option<String>,
    /// How long it took.
    pub micros: u64,
    /// What it used.
    pub fuel: u64,
    /// Its highest memory in bytes.
    pub peak_memory: u64,
    /// Subjects that it published to, with their bus.
    pub outputs: Vec<String>,
    /// `done`, `again`, `parked` or `dead`.
    pub settlement: &'static str,
    /// When a parked one is tried again.
    pub retry_in: Option<Duration>,
    /// What it logged.
    pub logs: Vec<LogLine>,
}

/// Where a dispatcher sends what it sees.
pub type Observer = mpsc::Sender<Seen>;

impl Inner {
    pub(super) fn see(&self, seen: impl FnOnce() -> Seen) {
        if let Some(observer) = &self.observer {
            // A watcher that is slow or gone misses it.
            let _ = observer.try_send(seen());
        }
    }
}
