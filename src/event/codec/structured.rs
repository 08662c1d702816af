//! Structured mode: the event as one JSON object, `application/cloudevents+json` (CloudEvents JSON format 1.0.2).
//!
//! Invariant: for an event that passes `check`, [`from_structured`] of [`to_structured`] under [`Limits::STORED`] is the
//! event, byte for byte. `data` is never parsed into a tree: it stays the text that it was, whitespace, number forms
//! and duplicate keys included. An absent `datacontenttype` stays absent; the format implies `application/json` then.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;

use super::binary::{parse_time, require_specversion};
use super::error::DecodeError;
use super::{Limits, SPECVERSION, depth, finish};
use crate::event::{AttributeValue, Event};

const DATA: &str = "data";
const DATA_BASE64: &str = "data_base64";

/// Writes `event` as one JSON object.
///
/// `data` is embedded where the content type claims JSON and the bytes are exactly one JSON text; else `data_base64`.
/// Years that RFC 3339 cannot write leave `time` out; `check` refuses such events.
#[must_use]
pub fn to_structured(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + event.data.len() + event.data.len() / 2);
    write_attributes(event, &mut out);
    if embeds(event) {
        member(&mut out, DATA, &event.data);
    } else if !event.data.is_empty() {
        member(&mut out, DATA_BASE64, json_string(&STANDARD.encode(&event.data)).as_bytes());
    }
    out.push(b'}');
    out
}

/// Writes `event` as one JSON object without its data, which goes beside it: [`from_parts`] puts both together.
///
/// Unlike [`to_structured`] it does not look at the data.
#[must_use]
pub fn to_attributes(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_attributes(event, &mut out);
    out.push(b'}');
    out
}

/// Reads what [`to_attributes`] wrote, with the data beside it.
///
/// # Errors
/// As of [`from_structured`].
pub fn from_parts(attributes: &[u8], data: impl Into<Bytes>) -> Result<Event, DecodeError> {
    let event = from_structured(attributes, &Limits::STORED)?;
    Ok(Event { data: data.into(), ..event })
}

/// Everything but the data and the closing brace.
fn write_attributes(event: &Event, out: &mut Vec<u8>) {
    out.push(b'{');
    let time = event.time.and_then(|time| time.format(&Rfc3339).ok());
    let attributes = [
        ("specversion", Some(SPECVERSION)),
        ("id", Some(&event.id)),
        ("source", Some(&event.source)),
        ("type", Some(&event.ty)),
        ("subject", event.subject.as_deref()),
        ("time", time.as_deref()),
        ("datacontenttype", event.datacontenttype.as_deref()),
        ("dataschema", event.dataschema.as_deref()),
    ];
    for (name, value) in attributes {
        if let Some(value) = value {
            member(out, name, json_string(value).as_bytes());
        }
    }
    for (name, value) in &event.extensions {
        let text = match value {
            AttributeValue::String(value) => json_string(value),
            AttributeValue::Bool(_) | AttributeValue::Integer(_) => value.to_string(),
        };
        member(out, name, text.as_bytes());
    }
}

/// Reads what [`to_structured`] or another producer wrote.
///
/// The limits are of the envelope, which is longer than the message that the event came in: base64 adds a third,
/// escapes more. What Oncue itself stored is read with [`Limits::STORED`].
///
/// # Errors
/// Every class of [`DecodeError`] but `batch` and `unsupported_format`, which only headers can tell.
pub fn from_structured(bytes: &[u8], limits: &Limits) -> Result<Event, DecodeError> {
    limits.allow_payload(bytes)?;
    let event = decode(&Bytes::copy_from_slice(bytes), limits)?;
    finish(event, &[], limits)
}

/// Reads an envelope whose length was checked; `data` shares its memory where it can.
pub(super) fn decode(payload: &Bytes, limits: &Limits) -> Result<Event, DecodeError> {
    // The envelope is one level around the data, and the limit is the data's.
    if depth::exceeds(payload, limits.max_depth.saturating_add(1)) {
        return Err(DecodeError::TooDeep { limit: limits.max_depth });
    }
    let no_text = |error: std::str::Utf8Error| DecodeError::InvalidJson { reason: error.to_string() };
    let text = std::str::from_utf8(payload).map_err(no_text)?;
    let envelope = Envelope::parse(text, limits).map_err(|error| DecodeError::json(&error))?;
    envelope.allow(limits)?;
    let mut event = Event {
        id: envelope.required("id")?,
        source: envelope.required("source")?,
        ty: envelope.required("type")?,
        subject: envelope.string("subject")?,
        time: envelope.string("time")?.map(|time| parse_time(&time)).transpose()?,
        datacontenttype: envelope.string("datacontenttype")?,
        dataschema: envelope.string("dataschema")?,
        extensions: envelope.extensions()?,
        data: Bytes::new(),
    };
    event.data = match envelope.data(event.claims_json())? {
        Cow::Borrowed(part) => payload.slice_ref(part),
        Cow::Owned(decoded) => Bytes::from(decoded),
    };
    Ok(event)
}

/// The members of the object in their order, values as text.
struct Envelope<'a> {
    members: Vec<(String, &'a RawValue)>,
    /// How many members there were beyond those.
    skipped: usize,
}

struct EnvelopeVisitor {
    /// Most members to hold: the attributes that the limit lets pass, `data` and `data_base64`.
    most: usize,
}

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the attributes of a CloudEvent")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope { members: Vec::with_capacity(16), skipped: 0 };
        while envelope.members.len() < self.most {
            let Some(member) = map.next_entry()? else { break };
            envelope.members.push(member);
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            envelope.skipped += 1;
        }
        Ok(envelope)
    }
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str, limits: &Limits) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let envelope = json.deserialize_map(EnvelopeVisitor { most: limits.max_headers.saturating_add(2) })?;
        json.end()?;
        Ok(envelope)
    }

    /// Checks the limits, then the version, without which nothing else means anything, then for duplicates.
    fn allow(&self, limits: &Limits) -> Result<(), DecodeError> {
        let size = |(name, value): &(String, &RawValue)| name.len() + value.get().len();
        let (count, bytes) = (self.attributes().count() + self.skipped, self.attributes().map(size).sum());
        limits.allow_headers("attributes", count, bytes)?;
        let version = self.string("specversion")?.ok_or(DecodeError::MissingAttribute { name: "specversion" })?;
        require_specversion(&version)?;
        for (at, (name, _)) in self.members.iter().enumerate() {
            if self.members[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(DecodeError::duplicate(name));
            }
        }
        Ok(())
    }

    fn attributes(&self) -> impl Iterator<Item = &(String, &'a RawValue)> {
        self.members.iter().filter(|(name, _)| name != DATA && name != DATA_BASE64)
    }

    /// The JSON text of a member; the format lets `null` stand for an absent attribute.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let member = self.members.iter().find(|(n, _)| n == name);
        member.map(|(_, value)| value.get()).filter(|text| *text != "null")
    }

    fn string(&self, name: &str) -> Result<Option<String>, DecodeError> {
        self.raw(name).map(|raw| parse_string(name, raw)).transpose()
    }

    fn required(&self, name: &'static str) -> Result<String, DecodeError> {
        self.string(name)?.ok_or(DecodeError::MissingAttribute { name })
    }

    fn extensions(&self) -> Result<Vec<(String, AttributeValue)>, DecodeError> {
        let values = self.attributes().filter(|(name, value)| !is_known(name) && value.get() != "null");
        values.map(|(name, value)| Ok((name.clone(), parse_extension(name, value.get())?))).collect()
    }

    /// The payload (JSON format, section 3.1): borrowed where the text of the envelope is the payload.
    fn data(&self, claims_json: bool) -> Result<Cow<'a, [u8]>, DecodeError> {
        // Unlike an attribute, data may be `null`: that is a JSON text like any other.
        let data = self.members.iter().find(|(name, _)| name == DATA).map(|(_, value)| value.get());
        match (data, self.string(DATA_BASE64)?) {
            (Some(_), Some(_)) => Err(DecodeError::invalid(DATA, "send data or data_base64, not both")),
            (Some(data), None) if !claims_json && data.starts_with('"') => {
                Ok(Cow::Owned(parse_string(DATA, data)?.into_bytes()))
            }
            (Some(data), None) => Ok(Cow::Borrowed(data.as_bytes())),
            (None, Some(text)) => STANDARD
                .decode(&text)
                .map(Cow::Owned)
                .map_err(|_| DecodeError::invalid(DATA_BASE64, "use base64 of RFC 4648, section 4, padded")),
            (None, None) => Ok(Cow::Borrowed(&[])),
        }
    }
}

fn is_known(name: &str) -> bool {
    matches!(name, "specversion" | "id" | "source" | "type" | "subject" | "time" | "datacontenttype" | "dataschema")
}

/// A string of JSON. Lone surrogates are no text (`\ud800`), so they are refused here and kept only inside `data`.
fn parse_string(name: &str, raw: &str) -> Result<String, DecodeError> {
    serde_json::from_str(raw).map_err(|_| DecodeError::invalid(name, "send a JSON string of valid Unicode"))
}

/// The value of an extension. A number that is no 32-bit integer has no CloudEvents type: its text is kept.
fn parse_extension(name: &str, raw: &str) -> Result<AttributeValue, DecodeError> {
    match raw.as_bytes().first() {
        Some(b'"') => parse_string(name, raw).map(AttributeValue::String),
        Some(b't' | b'f') => Ok(AttributeValue::Bool(raw == "true")),
        Some(b'-' | b'0'..=b'9') => {
            Ok(raw.parse().map_or_else(|_| AttributeValue::String(raw.to_owned()), AttributeValue::Integer))
        }
        _ => Err(DecodeError::invalid(name, "send a string, an integer or a boolean; put the rest into data")),
    }
}

/// Whether the payload can stand in the envelope as it is and come out the same.
fn embeds(event: &Event) -> bool {
    if !event.claims_json() || depth::exceeds(&event.data, Limits::default().max_depth) {
        return false;
    }
    let text: Result<&RawValue, _> = serde_json::from_slice(&event.data);
    // The parser drops white space around the value.
    text.is_ok_and(|text| text.get().len() == event.data.len())
}

fn member(out: &mut Vec<u8>, name: &str, json: &[u8]) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(json_string(name).as_bytes());
    out.push(b':');
    out.extend_from_slice(json);
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a str is always a JSON string, and a String takes every write")
}
