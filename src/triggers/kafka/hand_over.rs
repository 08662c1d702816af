//! From a record to an event that the dispatcher takes.
//!
//! Invariant: a record goes to the dispatcher once for each assignment, in the order of its partition, or is kept as a dead
//! letter. What names it for ever is cluster, topic, partition and offset.

use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::bus::kafka::headers;
use crate::delivery::DeliveryId;
use crate::dispatch::Arrival;
use crate::dispatch::budget::Credit;
use crate::dispatch::ownership::Ownership;
use crate::dispatch::ticket::Ticket;
use crate::event::Event;
use crate::event::codec::kafka::{self as codec, Kept, Record};
use crate::event::codec::{DecodeError, Defaults};
use crate::function::hex;
use crate::store::settle::Rejected;
use crate::telemetry;
use crate::triggers::Failure;
use crate::triggers::spec::KafkaOrder;

use super::member::Reading;
use super::note::Mark;
use super::partition::Standing;
use super::place;

/// Longest key that orders as it is; a longer one orders by its hash.
const KEY_MAX: usize = 256;
/// As often as a record that may have killed processes counts as sent: the dispatcher parks it before it runs.
const SUSPECT_SENT: u32 = 4;

/// A record that is in flight.
struct Entered {
    topic: Arc<str>,
    ownership: Arc<Ownership>,
    ticket: Ticket,
    standing: Standing,
}

impl Reading<'_> {
    /// Hands a record over; false of one that was only compared, or is another member's by now.
    pub(super) fn hand_over(&self, message: &BorrowedMessage<'_>, credit: Credit) -> Result<bool, Failure> {
        let Some(entered) = self.enter(message, credit)? else { return Ok(false) };
        let group = &self.group;
        let (topic, partition, offset) = (&entered.topic, message.partition(), message.offset());
        let id = format!("{}/{topic}/{partition}/{offset}", group.cluster);
        let time = time_of(message.timestamp());
        let at = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let source = format!("oncue/trigger/{}", group.context.name);
        let defaults = Defaults { ty: topic, source: &source, id: &id, subject: None, time };
        let read = headers(message).and_then(|headers| {
            let record = Record { key: message.key(), value: message.payload(), headers: &headers };
            codec::decode(&record, &defaults, &group.context.limits)
        });
        if entered.standing != Standing::Fresh {
            telemetry::redelivered(&group.context.name, 1);
        }
        match read {
            Ok(event) => self.accept(event, message, entered, at, id),
            Err(error) => self.reject(&error, message, entered, at, &id),
        }
        Ok(true)
    }

    fn accept(&self, event: Event, message: &BorrowedMessage<'_>, entered: Entered, at: OffsetDateTime, id: String) {
        let sent = match entered.standing {
            Standing::Fresh => 1,
            Standing::Known => 2,
            Standing::Suspect => SUSPECT_SENT,
        };
        let key = match self.group.ordered {
            KafkaOrder::Key => message.key().map(|key| lane(&entered.topic, key)),
            KafkaOrder::Partition => Some(format!("{}/{}", entered.topic, message.partition())),
            KafkaOrder::None => None,
        };
        self.group.context.dispatcher.accept(Arrival {
            trigger: Arc::clone(&self.group.context.name),
            event: Arc::new(event),
            at,
            transport_key: id.into_bytes(),
            sent,
            ownership: Some(entered.ownership),
            key,
            ticket: entered.ticket,
        });
    }

    fn reject(
        &self,
        error: &DecodeError,
        message: &BorrowedMessage<'_>,
        entered: Entered,
        at: OffsetDateTime,
        id: &str,
    ) {
        let headers = headers(message).unwrap_or_default();
        let record = Record { key: message.key(), value: message.payload(), headers: &headers };
        let context = &self.group.context;
        let rejected = Rejected {
            id: DeliveryId::derive(at, &context.name, id.as_bytes(), "", 0),
            trigger: context.name.to_string(),
            class: error.class(),
            error: error.to_string(),
            raw: message.payload().unwrap_or_default().to_vec(),
            headers: Kept::new(&record, &entered.topic, message.partition(), message.offset()).to_json(),
            transport_key: id.as_bytes().to_vec(),
            fence: None,
        };
        let (dispatcher, ticket) = (context.dispatcher.clone(), entered.ticket);
        context.drain.spawn("reject", async move { dispatcher.reject(rejected, ticket).await });
    }

    /// Puts the record in flight; none of one that is not to be handed over.
    fn enter(&self, message: &BorrowedMessage<'_>, credit: Credit) -> Result<Option<Entered>, Failure> {
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        let mark = Mark {
            timestamp: message.timestamp().to_millis().unwrap_or(-1),
            key: length(message.key()),
            value: length(message.payload()),
        };
        let (id, offset) = (message.partition(), message.offset());
        let replaced = {
            let mut state = self.group.state();
            let found = state.partitions.iter_mut().find(|p| p.id == id && *p.topic == *message.topic());
            // It was given up while the record waited.
            let Some(partition) = found else { return Ok(None) };
            let known = partition.verify.take();
            match known.filter(|_| offset < partition.next()) {
                None => {
                    let (topic, ownership) = (Arc::clone(&partition.topic), Arc::clone(&partition.ownership));
                    let entered = partition.enter(offset, mark, credit);
                    return Ok(entered.map(|(ticket, standing)| Entered { topic, ownership, ticket, standing }));
                }
                Some(known) => (Arc::clone(&partition.topic), partition.next(), known),
            }
        };
        let (topic, next, known) = replaced;
        // What the partition begins with now is asked for only where it is needed.
        match place::replaced(next, 0, known, mark) {
            Some(missing) => Err(self.group.halt(&[(topic.to_string(), id, missing)])),
            None => Ok(None),
        }
    }
}

/// What orders the records of `key` in `topic`.
fn lane(topic: &str, key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if text.len() <= KEY_MAX && !text.chars().any(char::is_control) => format!("{topic}/{text}"),
        _ => format!("{topic}/#{}", hex(&Sha256::digest(key)[..16])),
    }
}

/// The time of a record; none without one, or of one that no calendar has.
fn time_of(timestamp: Timestamp) -> Option<OffsetDateTime> {
    let millis = timestamp.to_millis().filter(|millis| *millis >= 0)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_whatever_bytes_they_are() {
        let lanes = [&b""[..], b"a", b"#a", b"\xff", b"\xfe", b"a\0", b"a\n", &[b'x'; 257], &[b'x'; 258]];
        let lanes: std::collections::BTreeSet<String> = lanes.iter().map(|key| lane("orders", key)).collect();
        assert_eq!(lanes.len(), 9, "{lanes:?}");
        assert!(lanes.contains("orders/a") && lanes.iter().all(|lane| lane.len() < 300), "{lanes:?}");
    }

    #[test]
    fn a_time_that_no_calendar_has_is_none() {
        let year = |timestamp| time_of(timestamp).map(OffsetDateTime::year);
        assert_eq!(year(Timestamp::CreateTime(-1)), None);
        assert_eq!(year(Timestamp::NotAvailable), None);
        assert_eq!(year(Timestamp::LogAppendTime(0)), Some(1970));
        assert_eq!(year(Timestamp::CreateTime(i64::MAX)), None);
        assert_eq!(year(Timestamp::CreateTime(253_402_300_799_000)), Some(9999));
    }
}
