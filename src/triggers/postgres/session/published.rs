//! Messages that are published events: the signature is checked first, and what has none is kept as a dead letter.
//!
//! Invariant: nothing of a message that is not believed becomes an event. However many forged ones come, few are kept and
//! logged, the rest is counted, and the stream goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bus::postgres::{Forgery, Keys, MARK_PREFIX, PUBLISH_PREFIX, Standing};
use crate::delivery::FORGED;
use crate::event::{Event, ROLE, SIGNATURE, codec};
use crate::function::subject_matches;
use crate::lsn::Lsn;
use crate::telemetry;
use crate::triggers::Failure;

use super::super::Follower;
use super::super::position::Place;
use super::Session;
use super::hand_over::EVENT_BYTES_MAX;

/// Forged messages that are kept in a [`WINDOW`].
const KEPT_MAX: u32 = 100;
/// Their bytes.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// How long until more are kept, and the rest is told.
const WINDOW: Duration = Duration::from_secs(60);
/// How often in a second keys are read again because of messages whose key is not known: anybody can write such a
/// message.
const READS_MAX: u32 = 10;

/// A logical message of a transaction.
pub(super) struct Message {
    /// Its end in the log.
    pub(super) lsn: Lsn,
    pub(super) prefix: String,
    pub(super) content: Bytes,
}

/// What published events are checked with.
pub(super) struct Seals {
    keys: Keys,
    /// Since when readings are counted, and how many there were.
    reads: (Instant, u32),
    gate: Gate,
}

/// How many forged messages are kept.
struct Gate {
    since: Instant,
    kept: u32,
    bytes: usize,
    /// Those beyond: not kept.
    more: u64,
}

impl Follower {
    /// The keys of the source; none are needed by a trigger that takes no messages.
    pub(super) async fn seals(&self) -> Result<Seals, Failure> {
        let keys = match self.spec.messages.is_empty() {
            true => Keys::none(),
            false => self.bus.publish_keys().await.map_err(|e| Failure::Again(e.to_string()))?,
        };
        let gate = Gate { since: Instant::now(), kept: 0, bytes: 0, more: 0 };
        Ok(Seals { keys, reads: (Instant::now(), 0), gate })
    }
}

impl Session<'_> {
    /// A message that was written in the transaction: an event, a mark, or somebody else's.
    pub(super) async fn published(&mut self, place: Place, message: Message) -> Result<(), Failure> {
        match message.prefix.as_str() {
            PUBLISH_PREFIX if !self.follower.spec.messages.is_empty() => {}
            MARK_PREFIX => return self.mark(&message.content).await,
            _ => return Ok(()),
        }
        let sealed = match self.check(&message).await? {
            Ok(sealed) => sealed,
            Err(forgery) => return self.forged(place, &message.content, forgery).await,
        };
        let mut event = match self.decode(&message.content) {
            Ok(event) => event,
            Err(error) => return self.reject(place, error.class(), error.to_string(), &message.content).await,
        };
        if !self.takes(&event) {
            return Ok(());
        }
        event.remove_extension(SIGNATURE);
        if sealed.is_none() {
            // Nobody vouches for it.
            event.remove_extension(ROLE);
        }
        self.received += 1;
        if event.time.is_none() {
            event.time = self.transaction.as_ref().map(|open| open.facts.commit_time);
        }
        self.hand_over(place, Arc::new(event), &message.content).await
    }

    fn decode(&self, content: &[u8]) -> Result<Event, codec::DecodeError> {
        let limits = codec::Limits { max_bytes: EVENT_BYTES_MAX, ..self.follower.context.limits };
        codec::from_structured(content, &limits)
    }

    fn takes(&self, event: &Event) -> bool {
        self.follower.spec.messages.iter().any(|pattern| subject_matches(pattern, &event.ty))
    }

    /// Whether the message is believed: none where no signature was needed.
    async fn check(&mut self, message: &Message) -> Result<Result<Option<Lsn>, Forgery>, Failure> {
        let Some(open) = &self.transaction else { return Ok(Err(Forgery::Unsigned)) };
        let at = Standing { xid: open.facts.xid, lsn: message.lsn, after: open.sealed };
        let mut checked = self.seals.keys.check(&message.content, at);
        let unknown = matches!(checked, Err(Forgery::UnknownKey(_)));
        if unknown && self.seals.keys.is_stale(message.lsn) && self.seals.may_read() {
            self.seals.keys = self.follower.bus.publish_keys().await.map_err(|e| Failure::Again(e.to_string()))?;
            checked = self.seals.keys.check(&message.content, at);
        }
        if let (Ok(Some(sealed)), Some(open)) = (checked, self.transaction.as_mut()) {
            open.sealed = sealed;
        }
        Ok(checked)
    }

    /// Keeps a message that is not believed, or only counts it.
    async fn forged(&mut self, place: Place, content: &Bytes, forgery: Forgery) -> Result<(), Failure> {
        if self.seals.gate.admits(content.len()) {
            // One that no rule of this trigger could have seen is another trigger's to keep.
            if content.len() <= EVENT_BYTES_MAX && self.decode(content).is_ok_and(|event| !self.takes(&event)) {
                return Ok(());
            }
            self.seals.gate.keep(content.len());
            return self.reject(place, FORGED, forgery.to_string(), content).await;
        }
        if self.held.line.pass(place) {
            telemetry::rejected(&self.follower.context.name, FORGED);
            self.seals.gate.more += 1;
            if self.seals.gate.more == 1 {
                let trigger = &self.follower.context.name;
                tracing::warn!(%trigger, kept = self.seals.gate.kept, "forged messages: more of them are only counted");
            }
        }
        Ok(())
    }

    /// Says how many were not kept, once a minute.
    pub(super) fn tell_forged(&mut self) {
        let trigger = &self.follower.context.name;
        if let Some(more) = self.seals.gate.turn() {
            tracing::warn!(%trigger, more, window_seconds = WINDOW.as_secs(), "forged messages were not kept");
        }
    }
}

impl Seals {
    /// Whether keys may be read once more in this second.
    fn may_read(&mut self) -> bool {
        if self.reads.0.elapsed() >= Duration::from_secs(1) {
            self.reads = (Instant::now(), 0);
        }
        self.reads.1 += 1;
        self.reads.1 <= READS_MAX
    }
}

impl Gate {
    /// Whether one more of `bytes` can be kept.
    fn admits(&self, bytes: usize) -> bool {
        self.kept < KEPT_MAX && self.bytes.saturating_add(bytes) <= KEPT_BYTES_MAX
    }

    fn keep(&mut self, bytes: usize) {
        self.kept += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Begins the next window when it is time; gives how many were not kept in the last one, if any.
    fn turn(&mut self) -> Option<u64> {
        if self.since.elapsed() < WINDOW {
            return None;
        }
        let more = self.more;
        *self = Self { since: Instant::now(), kept: 0, bytes: 0, more: 0 };
        (more > 0).then_some(more)
    }
}
