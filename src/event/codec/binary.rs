//! Binary mode: attributes in `ce-` headers, the payload as it is.
//!
//! Invariant: for an event that passes `check`, decoding what [`to_binary`] wrote gives the event back, its extensions
//! as text (a header has no types). `datacontenttype` is written twice: as `content-type`, as the HTTP binding and
//! every other reader expects it, and as `ce-datacontenttype`, as the NATS binding does; on reading the latter wins.

use std::borrow::Cow;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{DecodeError, shown};
use super::{CE_PREFIX, CONTENT_TYPE, Message, SPECVERSION, percent};
use crate::event::{AttributeValue, Event};

/// Headers whose presence says that the message is meant as a CloudEvent.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// Whether the headers mean a CloudEvent in binary mode: any of the four required attributes is there.
#[must_use]
pub fn is_binary(headers: &[(String, String)]) -> bool {
    let required =
        |name: &str| attribute_name(name).is_some_and(|n| REQUIRED.iter().any(|r| n.eq_ignore_ascii_case(r)));
    headers.iter().any(|(name, _)| required(name))
}

/// Writes `event` in binary mode: headers, and the payload unchanged.
///
/// Values are percent-encoded, so no value can break the header block. Years that RFC 3339 cannot write leave `time`
/// out; `check` refuses such events.
#[must_use]
pub fn to_binary(event: &Event) -> (Vec<(String, String)>, Bytes) {
    let mut headers = Vec::with_capacity(9 + event.extensions.len());
    let mut push = |name: &str, value: &str| headers.push((format!("{CE_PREFIX}{name}"), percent::encode(value)));
    push("specversion", SPECVERSION);
    push("id", &event.id);
    push("source", &event.source);
    push("type", &event.ty);
    let time = event.time.and_then(|time| time.format(&Rfc3339).ok());
    let optional = [
        ("subject", event.subject.as_deref()),
        ("time", time.as_deref()),
        ("datacontenttype", event.datacontenttype.as_deref()),
        ("dataschema", event.dataschema.as_deref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            push(name, value);
        }
    }
    for (name, value) in &event.extensions {
        // A valid name is unchanged by the encoding; an invalid one must not break the header block either.
        push(&percent::encode(name), &value.to_string());
    }
    if let Some(value) = event.datacontenttype.as_deref().filter(|value| is_content_type(value)) {
        headers.push((CONTENT_TYPE.to_owned(), value.to_owned()));
    }
    (headers, event.data.clone())
}

/// Reads a message for which [`is_binary`] holds.
pub(super) fn decode(message: &Message<'_>) -> Result<Event, DecodeError> {
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
    for (header, raw) in message.headers {
        let Some(name) = attribute_name(header).map(str::to_ascii_lowercase) else { continue };
        let value = percent::decode(raw)
            .ok_or_else(|| DecodeError::invalid(&name, raw, "percent-encode the bytes of UTF-8"))?;
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
        .map_err(|_| DecodeError::invalid("time", value, "use RFC 3339, for example 2026-01-31T23:59:59Z"))
}

/// Checks the attribute `specversion`.
pub(super) fn require_specversion(value: &str) -> Result<(), DecodeError> {
    match value {
        SPECVERSION => Ok(()),
        "" => Err(DecodeError::MissingAttribute { name: "specversion" }),
        _ => Err(DecodeError::UnsupportedSpecversion { value: shown(value) }),
    }
}

fn assign(event: &mut Event, name: &str, value: Cow<'_, str>) -> Result<(), DecodeError> {
    match name {
        "specversion" => require_specversion(&value)?,
        "id" => event.id = value.into_owned(),
        "source" => event.source = value.into_owned(),
        "type" => event.ty = value.into_owned(),
        "subject" => event.subject = Some(value.into_owned()),
        "time" => event.time = Some(parse_time(&value)?),
        "datacontenttype" => event.datacontenttype = Some(value.into_owned()),
        "dataschema" => event.dataschema = Some(value.into_owned()),
        _ => event.extensions.push((name.to_owned(), AttributeValue::String(value.into_owned()))),
    }
    Ok(())
}

/// The attribute that a header carries: its name after `ce-`, in whatever case it came.
fn attribute_name(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(CE_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(CE_PREFIX).then_some(name)
}

/// Whether `value` can be a `content-type` header: visible ASCII, and not read as structured mode.
fn is_content_type(value: &str) -> bool {
    let visible = value.bytes().all(|b| matches!(b, 0x20..=0x7e));
    visible && value.trim() == value && !value.is_empty() && !super::claims_cloudevents(value)
}
