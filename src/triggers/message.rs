//! Messages of NATS on their way to the dispatcher: where JetStream has them, what event they are, what is kept of one that
//! is none.
//!
//! Invariant: every message becomes an arrival or a `Rejected` with all of its bytes, whatever a publisher wrote: header
//! blocks that are none, subjects that are no text, status lines that only a server should send.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::bus::nats::Message;
use crate::delivery::DeliveryId;
use crate::dispatch::Arrival;
use crate::dispatch::ticket::Ticket;
use crate::event::Event;
use crate::event::codec::{self, DecodeError, Defaults, nats};
use crate::store::settle::Rejected;

use super::Context;

/// How a message of a stream is told from what the server says of a pull: only a delivery is answered to.
const ACK_PREFIX: &str = "$JS.ACK.";

/// A message on its way.
pub(super) struct Incoming {
    pub(super) message: Message,
    /// The id of an event that brings none.
    pub(super) id: String,
    pub(super) transport_key: Vec<u8>,
    pub(super) at: OffsetDateTime,
    pub(super) sent: u32,
}

/// What the reply subject of a delivery says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) delivered: u32,
    pub(super) published: OffsetDateTime,
    pub(super) pending: u64,
}

/// Whether a stream delivers the message, and not the server says something. The status line tells nothing: anybody may
/// publish one.
pub(super) fn is_delivery(message: &Message) -> bool {
    message.reply.starts_with(ACK_PREFIX.as_bytes())
}

/// Reads the reply subject of a delivery: stream, consumer, how often it was delivered, its sequence in the stream, that in
/// the consumer, when it was published, how many wait. Newer servers put domain and account before them.
pub(super) fn place(reply: &str) -> Option<Place> {
    let tokens: Vec<&str> = reply.strip_prefix(ACK_PREFIX)?.split('.').collect();
    let skip = match tokens.len() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let number = |at: usize| tokens.get(skip + at)?.parse::<u64>().ok();
    let published = OffsetDateTime::from_unix_timestamp_nanos(i128::from(number(3)?)).ok()?;
    let delivered = u32::try_from(number(0)?).unwrap_or(u32::MAX);
    Some(Place { sequence: number(1)?, delivered, published, pending: number(4)? })
}

impl Context {
    /// Decodes the message and hands it over, or keeps it as a dead letter when it is no event.
    pub(super) fn hand_over(&self, incoming: Incoming, ticket: Ticket) {
        let Incoming { message, id, transport_key, at, sent } = incoming;
        match decode(&message, (&self.name, &id, at), &self.limits) {
            Ok(event) => {
                let trigger = Arc::clone(&self.name);
                let event = Arc::new(event);
                let arrival = Arrival { trigger, event, at, transport_key, sent, ownership: None, key: None, ticket };
                self.dispatcher.accept(arrival);
            }
            Err(error) => {
                let rejected = Rejected {
                    id: DeliveryId::derive(at, &self.name, &transport_key, "", 0),
                    trigger: self.name.to_string(),
                    class: error.class(),
                    error: error.to_string(),
                    headers: kept_headers(&message, &self.limits),
                    raw: message.payload.into(),
                    transport_key,
                    fence: None,
                };
                let dispatcher = self.dispatcher.clone();
                self.drain.spawn("reject", async move { dispatcher.reject(rejected, ticket).await });
            }
        }
    }
}

/// The event of a message: what it does not say itself, its trigger, its id and its time say.
pub(super) fn decode(
    message: &Message,
    (trigger, id, at): (&str, &str, OffsetDateTime),
    limits: &codec::Limits,
) -> Result<Event, DecodeError> {
    if message.passed_over > 0 {
        return Err(DecodeError::NotKept { bytes: message.passed_over });
    }
    let block = nats::parse(&message.headers, limits)?;
    let subject = std::str::from_utf8(&message.subject).map_err(|_| DecodeError::Subject)?;
    let source = format!("oncue/trigger/{trigger}");
    let defaults = Defaults { ty: subject, source: &source, id, subject: None, time: Some(at) };
    codec::decode(&codec::Message { headers: &block.headers, payload: &message.payload }, &defaults, limits)
}

/// Headers as a dead letter keeps them: as they came, and the subject, which redriving a plain message needs. What cannot be
/// read is kept byte for byte.
fn kept_headers(message: &Message, limits: &codec::Limits) -> Vec<u8> {
    match (nats::parse(&message.headers, limits), std::str::from_utf8(&message.subject)) {
        (Ok(block), Ok(subject)) => {
            let mut headers = block.headers;
            headers.push(("Nats-Subject".to_owned(), subject.to_owned()));
            serde_json::json!(headers).to_string().into_bytes()
        }
        _ => nats::Kept::new(&message.subject, &message.headers).to_json(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_subject_says_where_a_message_is() {
        let table = [
            ("$JS.ACK.S.c.3.17.4.1700000000000000000.5", Some((17, 3, 5))),
            ("$JS.ACK._.hash.S.c.1.18.4.1700000000000000000.0", Some((18, 1, 0))),
            ("$JS.ACK.hub.hash.S.c.1.18.4.1700000000000000000.0.token", Some((18, 1, 0))),
            ("$JS.ACK.S.c.1.x.4.1700000000000000000.0", None),
            ("$JS.ACK.S.c.1", None),
            ("_INBOX.x.1", None),
            ("", None),
        ];
        for (reply, expected) in table {
            let found = place(reply).map(|p| (p.sequence, p.delivered, p.pending));
            assert_eq!(found, expected, "{reply}");
        }
    }
}
