//! What librdkafka has to say, as records of our own log.
//!
//! Invariant: nothing of it goes to standard error by itself, and a client that repeats itself (a broker that is away is
//! tried again for ever) gets one record of a kind in a window, with the number of those left out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel as Level;

/// How long a kind of record stays silent after one of it.
const WINDOW: Duration = Duration::from_secs(30);
/// Kinds that are told apart: librdkafka has some dozens of facilities.
const KINDS: usize = 64;

/// The log of one client.
#[derive(Debug)]
pub(super) struct ClientLog {
    bus: String,
    said: Mutex<HashMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u64,
}

impl ClientLog {
    pub(super) fn new(bus: &str) -> Self {
        Self { bus: bus.to_owned(), said: Mutex::new(HashMap::new()) }
    }

    /// Writes a line of the facility `facility`: `FAIL`, `REQTMOUT`, `CONFWARN`, ….
    pub(super) fn line(&self, level: Level, facility: &str, text: &str) {
        let bus = &self.bus;
        if matches!(level, Level::Debug) {
            // Only somebody who asked for them gets these.
            tracing::debug!(target: "librdkafka", bus, facility, text, "librdkafka");
            return;
        }
        let Some(left_out) = self.may_say(facility, Instant::now()) else { return };
        match level {
            Level::Emerg | Level::Alert | Level::Critical => {
                tracing::error!(target: "librdkafka", bus, facility, text, left_out, "librdkafka");
            }
            // It calls a lost connection an error and makes it again by itself.
            Level::Error | Level::Warning => {
                tracing::warn!(target: "librdkafka", bus, facility, text, left_out, "librdkafka");
            }
            _ => tracing::info!(target: "librdkafka", bus, facility, text, left_out, "librdkafka"),
        }
    }

    /// Whether a record of this kind is due, and how many were left out since the last one.
    fn may_say(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = said.get_mut(kind) {
            if now.saturating_duration_since(last.at) < WINDOW {
                last.left_out += 1;
                return None;
            }
            return Some(std::mem::replace(last, Said { at: now, left_out: 0 }).left_out);
        }
        if said.len() == KINDS {
            said.clear();
        }
        said.insert(kind.to_owned(), Said { at: now, left_out: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_repeats_itself_is_heard_once_in_a_window() {
        let log = ClientLog::new("events");
        let begin = Instant::now();
        assert_eq!(log.may_say("FAIL", begin), Some(0));
        assert_eq!(log.may_say("FAIL", begin + WINDOW / 2), None);
        assert_eq!(log.may_say("REQTMOUT", begin + WINDOW / 2), Some(0), "another kind");
        assert_eq!(log.may_say("FAIL", begin + WINDOW - Duration::from_millis(1)), None);
        assert_eq!(log.may_say("FAIL", begin + WINDOW), Some(2), "with what was left out");
    }

    #[test]
    fn the_kinds_that_are_remembered_are_bounded() {
        let log = ClientLog::new("events");
        for kind in 0..10 * KINDS {
            log.may_say(&kind.to_string(), Instant::now());
        }
        assert!(log.said.lock().expect("nobody panicked").len() <= KINDS);
    }
}
