//! The event: one CloudEvents 1.0 envelope with its payload as bytes.
//!
//! Invariant: an `Event` has a non-empty `id`, `source` and `type`; whatever could not get them was rejected by the
//! codec. The payload is never parsed here: what reads it as JSON is the rule engine.

pub mod codec;
pub mod subject;

use bytes::Bytes;
use time::OffsetDateTime;

/// The value of a CloudEvents extension attribute (CloudEvents 1.0, section "Type System").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Text; every attribute that came in a message header is text.
    String(String),
    /// A JSON boolean of structured mode.
    Bool(bool),
    /// A JSON integer of structured mode, -2^31 to 2^31 - 1.
    Integer(i32),
}

impl std::fmt::Display for AttributeValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::String(s) => f.write_str(s),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Integer(i) => write!(f, "{i}"),
        }
    }
}

impl From<String> for AttributeValue {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique together with `source`; chosen by the producer.
    pub id: String,
    /// Where it comes from: a URI reference.
    pub source: String,
    /// What happened, for example `user.signup`.
    pub ty: String,
    /// What it happened to.
    pub subject: Option<String>,
    /// When it happened, as the producer says.
    pub time: Option<OffsetDateTime>,
    /// Media type of `data`.
    pub datacontenttype: Option<String>,
    /// The schema that `data` follows: a URI.
    pub dataschema: Option<String>,
    /// Extension attributes, in the order they came; names are lower-case letters and digits.
    pub extensions: Vec<(String, AttributeValue)>,
    /// The payload as it came.
    pub data: Bytes,
}

/// The extension that counts how many functions and rules an event has passed through. Written by the host only.
pub const HOPS: &str = "oncuehops";
/// The extension that names the delivery that emitted an event. Written by the host only.
pub const CAUSE: &str = "oncuecause";
/// The extension that names the database role that published an event in its transaction. Written by the database only.
pub const ROLE: &str = "oncuerole";
/// The attribute that holds the signature of such an event in the log; no event that was read has it.
pub const SIGNATURE: &str = "oncuemac";
/// The key that decides the order and the partition of an event (CloudEvents extension "Partitioning").
pub const PARTITION_KEY: &str = "partitionkey";
/// W3C trace context, carried through (CloudEvents extension "Distributed Tracing").
pub const TRACEPARENT: &str = "traceparent";

impl Event {
    /// The extension attribute `name`, if it is there.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&AttributeValue> {
        self.extensions.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Sets the extension attribute `name`, replacing what was there.
    pub fn set_extension(&mut self, name: &str, value: AttributeValue) {
        match self.extensions.iter_mut().find(|(n, _)| n == name) {
            Some((_, slot)) => *slot = value,
            None => self.extensions.push((name.to_owned(), value)),
        }
    }

    /// Takes the extension attribute `name` away, if it is there.
    pub fn remove_extension(&mut self, name: &str) {
        self.extensions.retain(|(n, _)| n != name);
    }

    /// How many functions and rules the event has passed through; 0 when the attribute is absent or no number.
    #[must_use]
    pub fn hops(&self) -> u32 {
        match self.extension(HOPS) {
            Some(AttributeValue::Integer(n)) => u32::try_from(*n).unwrap_or(0),
            Some(AttributeValue::String(s)) => s.parse().unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether the payload says that it is JSON: no content type, `application/json`, `text/json` or `…+json`.
    #[must_use]
    pub fn claims_json(&self) -> bool {
        let Some(media) = &self.datacontenttype else { return true };
        let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence.ends_with("/json") || essence.ends_with("+json")
    }

    /// Bytes that the event holds, for the budget: payload and attributes.
    #[must_use]
    pub fn size(&self) -> usize {
        let value = |v: &AttributeValue| if let AttributeValue::String(text) = v { text.len() } else { 4 };
        let extensions: usize = self.extensions.iter().map(|(n, v)| n.len() + value(v)).sum();
        let optional: usize =
            [&self.subject, &self.datacontenttype, &self.dataschema].into_iter().flatten().map(String::len).sum();
        self.data.len() + self.id.len() + self.source.len() + self.ty.len() + extensions + optional + size_of::<Self>()
    }
}
