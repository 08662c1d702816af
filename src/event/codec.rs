//! CloudEvents 1.0 on the wire: message headers and payload ↔ [`Event`]. Records of Kafka: [`kafka`]; header blocks of
//! NATS: [`nats`].
//!
//! Invariant: [`decode`] gives an event that passes [`check()`], or an error; no bytes make it panic, recurse or hold
//! more than a small multiple of the message. Limits are checked before anything is parsed.
//!
//! What a message is: structured mode if its content type is `application/cloudevents+json` (or without `+json`, as
//! some SDKs write it); binary mode if a required attribute is among its `ce-` headers; else plain, and the transport
//! names it. It does not: unpack batches, inflate compressed payloads, look into a payload without headers for an
//! envelope, or judge whether a payload that claims JSON is JSON (it only bounds its depth; the bytes are kept).

mod binary;
mod check;
mod depth;
mod error;
pub mod kafka;
pub mod nats;
mod percent;
mod plain;
mod structured;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::event::{AttributeValue, Event, TRACEPARENT};

pub use binary::{is_binary, to_binary};
pub use check::check;
pub use error::DecodeError;
pub use structured::{from_parts, from_structured, to_attributes, to_structured};

/// An event that went through more functions than this is a loop. Real chains are short, and a loop that feeds
/// itself twice per step has grown to 65,536 events by then.
pub const MAX_HOPS: u32 = 16;

/// Headers in their order, name and value; a name may come twice.
pub type Pairs = Vec<(String, String)>;

const SPECVERSION: &str = "1.0";
const CE_PREFIX: &str = "ce-";
const CONTENT_TYPE: &str = "content-type";

/// What a message may cost before it is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the payload as it came; in structured mode that is the whole envelope. NATS's own default is 1 MiB.
    pub max_bytes: usize,
    /// Nested arrays and objects of a payload that claims JSON. Parsers commonly stop at 128.
    pub max_depth: usize,
    /// Headers of a message, and attributes of an envelope.
    pub max_headers: usize,
    /// Names and values of them together, in bytes.
    pub max_header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_depth: 128, max_headers: 64, max_header_bytes: 64 << 10 }
    }
}

/// What came from a bus.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Headers in their order, name and value; a name may come twice.
    pub headers: &'a [(String, String)],
    /// The payload.
    pub payload: &'a Bytes,
}

/// What the transport knows of a message that is no CloudEvent.
#[derive(Clone, Copy, Debug)]
pub struct Defaults<'a> {
    /// The type: the NATS subject or the Kafka topic.
    pub ty: &'a str,
    /// The source: `oncue/trigger/<name>`.
    pub source: &'a str,
    /// The id: the transport key.
    pub id: &'a str,
    /// The subject, if the transport has one, such as a record key.
    pub subject: Option<&'a str>,
    /// The source's own timestamp.
    pub time: Option<OffsetDateTime>,
}

/// Reads a message; `defaults` are used only for one that is no CloudEvent.
///
/// Trace context in the message's own headers is taken over by a CloudEvent that carries none; trace context that is
/// not shaped as W3C says is dropped.
///
/// # Errors
/// See [`DecodeError`]. The message is then `rejected`: it is kept as a dead letter, and is settled.
pub fn decode(message: &Message<'_>, defaults: &Defaults<'_>, limits: &Limits) -> Result<Event, DecodeError> {
    limits.allow_payload(message.payload)?;
    let header_bytes = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    limits.allow_headers("headers", message.headers.len(), header_bytes)?;

    let content_type = message.header(CONTENT_TYPE).filter(|value| claims_cloudevents(value));
    let event = match content_type {
        Some(value) => {
            require_json_format(value)?;
            structured::decode(message.payload, limits)?
        }
        None if is_binary(message.headers) => binary::decode(message)?,
        None => plain::decode(message, defaults),
    };
    finish(event, message.headers, limits)
}

/// Whether the headers mean a CloudEvent in structured mode: its content type is that of the JSON format.
#[must_use]
pub fn is_structured(headers: &[(String, String)]) -> bool {
    header(headers, CONTENT_TYPE).is_some_and(|value| is_json_format(&essence(value)))
}

impl Limits {
    /// For what Oncue wrote itself: an event that was let in once is never refused when it comes back from the store,
    /// though escaping made it longer or an operator lowered a limit since.
    pub const STORED: Self =
        Self { max_bytes: usize::MAX, max_depth: usize::MAX, max_headers: usize::MAX, max_header_bytes: usize::MAX };

    fn allow_payload(&self, payload: &[u8]) -> Result<(), DecodeError> {
        if payload.len() > self.max_bytes {
            return Err(DecodeError::TooLarge { bytes: payload.len(), limit: self.max_bytes });
        }
        Ok(())
    }

    fn allow_headers(&self, what: &'static str, count: usize, bytes: usize) -> Result<(), DecodeError> {
        let counts = [(count, "max_headers", self.max_headers), (bytes, "max_header_bytes", self.max_header_bytes)];
        for (got, name, limit) in counts {
            if got > limit {
                return Err(DecodeError::Headers { what, got, name, limit });
            }
        }
        Ok(())
    }
}

impl Message<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        header(self.headers, name)
    }
}

/// The first header of that name, in any case.
fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn claims_cloudevents(content_type: &str) -> bool {
    essence(content_type).starts_with("application/cloudevents")
}

fn is_json_format(essence: &str) -> bool {
    matches!(essence, "application/cloudevents+json" | "application/cloudevents")
}

fn require_json_format(content_type: &str) -> Result<(), DecodeError> {
    let essence = essence(content_type);
    if is_json_format(&essence) {
        Ok(())
    } else if essence.starts_with("application/cloudevents-batch") {
        Err(DecodeError::Batch)
    } else {
        Err(DecodeError::UnsupportedFormat)
    }
}

/// What every mode ends with.
fn finish(mut event: Event, headers: &[(String, String)], limits: &Limits) -> Result<Event, DecodeError> {
    check::drop_bad_trace(&mut event);
    carry_trace(headers, &mut event);
    check(&event)?;
    if event.claims_json() && depth::exceeds(&event.data, limits.max_depth) {
        return Err(DecodeError::TooDeep { limit: limits.max_depth });
    }
    Ok(event)
}

/// Takes the transport's trace context for an event that has none of its own.
fn carry_trace(headers: &[(String, String)], event: &mut Event) {
    if event.extension(TRACEPARENT).is_some() {
        return;
    }
    let parent = header(headers, TRACEPARENT).filter(|value| check::is_traceparent(value));
    let Some(parent) = parent else { return };
    event.set_extension(TRACEPARENT, AttributeValue::String(parent.to_owned()));
    if let Some(state) = header(headers, check::TRACESTATE).filter(|value| check::is_text(value)) {
        event.set_extension(check::TRACESTATE, AttributeValue::String(state.to_owned()));
    }
}
