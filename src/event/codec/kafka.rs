//! CloudEvents Kafka protocol binding 1.0: a record's key, value and headers ↔ [`Event`].
//!
//! Invariant: as of the codec: an event that passes [`check()`](super::check()), or an error, whatever the bytes are; limits
//! come first. Attributes are `ce_` headers in UTF-8, not percent-encoded; `datacontenttype` is the header `content-type`.
//! It knows no client of Kafka: a header is a name and bytes, or null.
//!
//! A record is structured if its content type is a CloudEvent's, binary if a required attribute is among its headers, else
//! plain: its topic is the type and its key the subject, where that is text. A plain tombstone has the data `null`.

mod kept;

use bytes::Bytes;

use super::error::DecodeError;
use super::{
    CONTENT_TYPE, Defaults, Limits, Message, binary, check, claims_cloudevents, essence, finish, is_json_format,
    percent, plain, require_json_format, structured,
};
use crate::event::{AttributeValue, Event, PARTITION_KEY};

pub use self::kept::Kept;

const PREFIX: &str = "ce_";
const JSON: &str = "application/json";
const NULL: &[u8] = b"null";

/// A header: its name and its value, which may be null.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A record as it came.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The key; none if it is null.
    pub key: Option<&'a [u8]>,
    /// The value; none of a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in their order; a name may come twice.
    pub headers: &'a [Header<'a>],
}

/// A record on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event's `partitionkey`, or its subject; none without either, so that any partition will do.
    pub key: Option<String>,
    /// In their order, in UTF-8.
    pub headers: Vec<(String, String)>,
    /// The payload unchanged.
    pub value: Bytes,
}

/// Reads a record; `defaults` name what is no CloudEvent, but for its subject, which is the key.
///
/// A CloudEvent without `partitionkey` gets the record's key as such, where that is text and not its subject anyway: what
/// is forwarded to another topic keeps its key.
///
/// # Errors
/// See [`DecodeError`]. The record is then `rejected`: it is kept as a dead letter, and is settled.
pub fn decode(record: &Record<'_>, defaults: &Defaults<'_>, limits: &Limits) -> Result<Event, DecodeError> {
    let value = record.value.unwrap_or_default();
    limits.allow_payload(value)?;
    let bytes = record.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    limits.allow_headers("headers", record.headers.len(), bytes)?;
    let payload = Bytes::copy_from_slice(value);
    let is_binary = is_binary(record.headers);
    let texts = texts(record.headers, is_binary);
    let message = Message { headers: &texts, payload: &payload };
    let content_type = message.header(CONTENT_TYPE).filter(|value| claims_cloudevents(value));
    let event = match content_type {
        Some(value) => {
            require_json_format(value)?;
            keyed(structured::decode(&payload, limits)?, record)
        }
        None if is_binary => keyed(read_binary(record, &message)?, record),
        None => read_plain(record, &message, defaults),
    };
    finish(event, &texts, limits)
}

/// Writes `event` in binary mode.
///
/// Years that RFC 3339 cannot write leave `time` out; `check` refuses such events.
#[must_use]
pub fn encode(event: &Event) -> Outgoing {
    let mut headers = Vec::with_capacity(9 + event.extensions.len());
    encode_headers(event, |name, value| headers.push((name.to_owned(), value.to_owned())));
    Outgoing { key: key(event), headers, value: event.data.clone() }
}

/// Hands the headers that [`encode`] gives an event to `push`, one after another.
pub fn encode_headers(event: &Event, mut push: impl FnMut(&str, &str)) {
    let content_type = event.datacontenttype.as_deref().filter(|value| binary::is_content_type(value));
    if let Some(value) = content_type {
        push(CONTENT_TYPE, value);
    }
    let mut header = String::with_capacity(PREFIX.len() + 20);
    binary::attributes(event, |name, value| {
        if name != binary::DATACONTENTTYPE || content_type.is_none() {
            header.clear();
            header.push_str(PREFIX);
            // A valid name is unchanged by the encoding; no client can send one with a zero byte.
            percent::encode_into(name, &mut header);
            push(&header, value);
        }
    });
}

/// The key of an event: its `partitionkey`, or its subject; none without either.
#[must_use]
pub fn key(event: &Event) -> Option<String> {
    let partition_key = event.extension(PARTITION_KEY).map(ToString::to_string);
    partition_key.into_iter().chain(event.subject.clone()).find(|key| !key.is_empty())
}

/// Whether the headers mean a CloudEvent in structured mode.
#[must_use]
pub fn is_structured(headers: &[Header<'_>]) -> bool {
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE));
    let text = content_type.and_then(|(_, value)| std::str::from_utf8((*value)?).ok());
    text.is_some_and(|text| is_json_format(&essence(text)))
}

/// Whether the headers mean a CloudEvent in binary mode: any of the four required attributes is there.
#[must_use]
pub fn is_binary(headers: &[Header<'_>]) -> bool {
    headers.iter().filter_map(|(name, _)| attribute_name(name)).any(binary::is_required)
}

/// The headers whose values are text; of a message in binary mode without those of attributes.
fn texts(headers: &[Header<'_>], is_binary: bool) -> Vec<(String, String)> {
    let text = |(name, value): &Header<'_>| {
        if is_binary && attribute_name(name).is_some() {
            return None;
        }
        let value = std::str::from_utf8((*value)?).ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

fn read_binary(record: &Record<'_>, message: &Message<'_>) -> Result<Event, DecodeError> {
    let attribute = |(header, value): &Header<'_>| {
        let name = attribute_name(header)?.to_ascii_lowercase();
        // A null is no value: the attribute is absent.
        let value = (*value)?;
        let text = std::str::from_utf8(value).map(|text| (name.clone(), text.to_owned()));
        Some(text.map_err(|_| DecodeError::invalid(&name, "write it in UTF-8")))
    };
    binary::from_attributes(record.headers.iter().filter_map(attribute), message)
}

fn read_plain(record: &Record<'_>, message: &Message<'_>, defaults: &Defaults<'_>) -> Event {
    let subject = record.key.and_then(text_of).or(defaults.subject);
    let mut event = plain::decode(message, &Defaults { subject, ..*defaults });
    if record.value.is_none() {
        event.data = Bytes::from_static(NULL);
        event.datacontenttype = Some(JSON.to_owned());
    }
    event
}

/// The event with the record's key as its `partitionkey`, if nothing else of it says the same.
fn keyed(mut event: Event, record: &Record<'_>) -> Event {
    if event.extension(PARTITION_KEY).is_none()
        && let Some(key) = record.key.and_then(text_of)
        && event.subject.as_deref() != Some(key)
    {
        event.set_extension(PARTITION_KEY, AttributeValue::String(key.to_owned()));
    }
    event
}

/// A key that can be the value of an attribute.
fn text_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok().filter(|text| !text.is_empty() && check::is_text(text))
}

/// The attribute that a header carries: its name after `ce_`, in whatever case it came.
fn attribute_name(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(name)
}
