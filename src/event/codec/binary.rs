//! Binary mode: attributes in `ce-` headers, the payload as it is.
//!
//! Invariant: for an event that passes `check`, decoding what [`to_binary`] wrote gives the event back, its extensions
//! as text (a header has no types). `datacontenttype` is written twice: as `content-type`, as the HTTP binding and
//! every other reader expects it, and as `ce-datacontenttype`, as the NATS binding does; on reading the latter wins.

use std::borrow::Cow;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::DecodeError;
use super::{CE_PREFIX, CONTENT_TYPE, Message, SPECVERSION, percent};
use crate::event::{AttributeValue, Event};

/// Headers whose presence says that the message is meant as a CloudEvent.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// The attribute that has a header of its own.
pub(super) const DATACONTENTTYPE: &str = "datacontenttype";

/// Whether the headers mean a CloudEvent in binary mode: any of the four required attributes is there.
#[must_use]
pub fn is_binary(headers: &[(String, String)]) -> bool {
    headers.iter().filter_map(|(name, _)| attribute_name(name)).any(is_required)
}

/// Whether `name` is one of the four required attributes, in whatever case.
pub(super) fn is_required(name: &str) -> bool {
    REQUIRED.iter().any(|required| name.eq_ignore_ascii_case(required))
}

/// Writes `event` in binary mode: headers, and the payload unchanged.
///
/// Values are percent-encoded, so no value can break the header block. Years that RFC 3339 cannot write leave `time`
/// out; `check` refuses such events.
#[must_use]
pub fn to_binary(event: &Event) -> (Vec<(String, String)>, Bytes) {
    let mut headers = Vec::with_capacity(9 + event.extensions.len());
    attributes(event, |name, value| {
        // A valid name is unchanged by the encoding; an invalid one must not break the header block either.
        headers.push((format!("{CE_PREFIX}{}", percent::encode(name)), percent::encode(value)));
    });
    if let Some(value) = event.datacontenttype.as_deref().filter(|value| is_content_type(value)) {
        headers.push((CONTENT_TYPE.to_owned(), value.to_owned()));
    }
    (headers, event.data.clone())
}

/// Every attribute of `event` as text, in the order in which they are written.
pub(super) fn attributes(event: &Event, mut push: impl FnMut(&str, &str)) {
    push("specversion", SPECVERSION);
    push("id", &event.id);
    push("source", &event.source);
    push("type", &event.ty);
    let time = event.time.and_then(|time| time.format(&Rfc3339).ok());
    let optional = [
        ("subject", event.subject.as_deref()),
        ("time", time.as_deref()),
        (DATACONTENTTYPE, event.datacontenttype.as_deref()),
        ("dataschema", event.dataschema.as_deref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            push(name, value);
        }
    }
    for (name, value) in &event.extensions {
        match value {
            AttributeValue::String(text) => push(name, text),
            value => push(name, &value.to_string()),
        }
    }
}

/// Reads a message for which [`is_binary`] holds.
pub(super) fn decode(message: &Message<'_>) -> Result<Event, DecodeError> {
    let attribute = |(header, raw): &'_ (String, String)| {
        let name = attribute_name(header)?.to_ascii_lowercase();
        let value = percent::decode(raw)
            .ok_or_else(|| DecodeError::invalid(&name, "percent-encode the bytes of UTF-8"))
            .map(Cow::into_owned);
        Some(value.map(|value| (name, value)))
    };
    from_attributes(message.headers.iter().filter_map(attribute), message)
}

/// The event of a message in binary mode: its attributes in lower case, decoded, in their order.
pub(super) fn from_attributes(
    attributes: impl Iterator<Item = Result<(String, String), DecodeError>>,
    message: &Message<'_>,
) -> Result<Event, DecodeError> {
    let mut event = Event {
        id: String::new(),
        source: String::new(),
        ty: String::new(),
        subject: None,
        time: None,
        datacontenttype: None,
        dataschema: None,
        extensions: Vec::new(),
        data: message.payload.clone(),
    };
    let mut seen = Vec::with_capacity(message.headers.len());
    for attribute in attributes {
        let (name, value) = attribute?;
        assign(&mut event, &name, value)?;
        if seen.contains(&name) {
            return Err(DecodeError::duplicate(&name));
        }
        seen.push(name);
    }
    if !seen.iter().any(|name| name == "specversion") {
        return Err(DecodeError::MissingAttribute { name: "specversion" });
    }
    if event.datacontenttype.is_none() {
        event.datacontenttype = message.header(CONTENT_TYPE).map(str::to_owned);
    }
    Ok(event)
}

/// Parses the attribute `time`.
pub(super) fn parse_time(value: &str) -> Result<OffsetDateTime, DecodeError> {
    OffsetDateTime::parse(value, &Rfc3339)
        .map_err(|_| DecodeError::invalid("time", "use RFC 3339, for example 2026-01-31T23:59:59Z"))
}

/// Checks the attribute `specversion`.
pub(super) fn require_specversion(value: &str) -> Result<(), DecodeError> {
    match value {
        SPECVERSION => Ok(()),
        "" => Err(DecodeError::MissingAttribute { name: "specversion" }),
        _ => Err(DecodeError::UnsupportedSpecversion),
    }
}

fn assign(event: &mut Event, name: &str, value: String) -> Result<(), DecodeError> {
    match name {
        "specversion" => require_specversion(&value)?,
        "id" => event.id = value,
        "source" => event.source = value,
        "type" => event.ty = value,
        "subject" => event.subject = Some(value),
        "time" => event.time = Some(parse_time(&value)?),
        DATACONTENTTYPE => event.datacontenttype = Some(value),
        "dataschema" => event.dataschema = Some(value),
        _ => event.extensions.push((name.to_owned(), AttributeValue::String(value))),
    }
    Ok(())
}

/// The attribute that a header carries: its name after `ce-`, in whatever case it came.
fn attribute_name(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(CE_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(CE_PREFIX).then_some(name)
}

/// Whether `value` can be a `content-type` header: visible ASCII, and not read as structured mode.
pub(super) fn is_content_type(value: &str) -> bool {
    let visible = value.bytes().all(|b| matches!(b, 0x20..=0x7e));
    visible && value.trim() == value && !value.is_empty() && !super::claims_cloudevents(value)
}
