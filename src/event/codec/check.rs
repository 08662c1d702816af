//! The rules that every event obeys, however it came: by header, by envelope or from a function.
//!
//! Invariant: an event that passes can be written in both modes and read back as it was. It does not look at the
//! payload. URIs are not parsed: `source` and `dataschema` are identifiers here, never fetched.

use time::{OffsetDateTime, UtcOffset};

use super::MAX_HOPS;
use super::error::DecodeError;
use crate::event::{AttributeValue, Event, HOPS, TRACEPARENT};

/// Longest name of an extension attribute. CloudEvents recommends 20; real ones are longer.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// Longest value of an attribute: what HTTP servers commonly take as one header.
pub(super) const MAX_VALUE_BYTES: usize = 8 * 1024;
/// The other half of W3C trace context, meaningless without `traceparent`.
pub(super) const TRACESTATE: &str = "tracestate";

const CORE: [&str; 9] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"];

/// Checks the attributes of an event that a function emits, or that was just decoded.
///
/// # Errors
/// `missing_attribute`, `invalid_attribute`, `duplicate_attribute` or `hop_limit`, naming the first attribute at fault.
pub fn check(event: &Event) -> Result<(), DecodeError> {
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.ty)] {
        if value.is_empty() {
            return Err(DecodeError::MissingAttribute { name });
        }
        text(name, value)?;
    }
    let optional =
        [("subject", &event.subject), ("datacontenttype", &event.datacontenttype), ("dataschema", &event.dataschema)];
    for (name, value) in optional {
        value.as_deref().map_or(Ok(()), |value| text(name, value))?;
    }
    if event.time.is_some_and(|time| !writable(time)) {
        return Err(DecodeError::invalid("time", "use a time in the years 0000 to 9999 UTC"));
    }
    for (at, (name, value)) in event.extensions.iter().enumerate() {
        extension(name, value)?;
        if event.extensions[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(DecodeError::duplicate(name));
        }
    }
    hops(event)
}

/// Whether `name` may be the name of an extension attribute.
pub(super) fn is_extension_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) && !CORE.contains(&name)
}

/// Whether `value` may be the value of an attribute.
pub(super) fn is_text(value: &str) -> bool {
    value.len() <= MAX_VALUE_BYTES && !value.contains(char::is_control)
}

/// Drops trace context that no tracer could read: a bad trace id must not lose an event.
pub(super) fn drop_bad_trace(event: &mut Event) {
    let usable = |value: &AttributeValue| matches!(value, AttributeValue::String(s) if is_traceparent(s));
    if !event.extension(TRACEPARENT).is_some_and(usable) {
        event.extensions.retain(|(name, _)| name != TRACEPARENT && name != TRACESTATE);
    }
}

/// The shape that W3C Trace Context, section 3.2, gives `traceparent`.
pub(super) fn is_traceparent(value: &str) -> bool {
    let hex =
        |part: &str, len: usize| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = |part: &str, len: usize| hex(part, len) && part.bytes().any(|b| b != b'0');
    let mut parts = value.splitn(5, '-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    // Later versions may append fields; version 00 has none, and ff is forbidden.
    let tail_allowed = version != "00" || parts.next().is_none();
    hex(version, 2) && version != "ff" && known(trace, 32) && known(parent, 16) && hex(flags, 2) && tail_allowed
}

fn text(name: &str, value: &str) -> Result<(), DecodeError> {
    if is_text(value) {
        return Ok(());
    }
    Err(DecodeError::invalid(name, "at most 8192 bytes, without control characters or line breaks"))
}

fn extension(name: &str, value: &AttributeValue) -> Result<(), DecodeError> {
    if !is_extension_name(name) {
        let fix = "name it with 1 to 64 of a-z and 0-9, and not like an attribute of CloudEvents itself";
        return Err(DecodeError::invalid(name, fix));
    }
    match value {
        AttributeValue::String(value) => text(name, value),
        AttributeValue::Bool(_) | AttributeValue::Integer(_) => Ok(()),
    }
}

/// Whether RFC 3339 can write `time`, in its own offset and in UTC: what reads it may convert it without a panic.
pub(super) fn writable(time: OffsetDateTime) -> bool {
    let years = 0..=9999;
    let utc = time.checked_to_offset(UtcOffset::UTC);
    years.contains(&time.year()) && utc.is_some_and(|utc| years.contains(&utc.year()))
}

fn hops(event: &Event) -> Result<(), DecodeError> {
    let Some(value) = event.extension(HOPS) else { return Ok(()) };
    let value_text = value.to_string();
    let is_count = !value_text.is_empty() && value_text.bytes().all(|b| b.is_ascii_digit());
    if !is_count {
        return Err(DecodeError::invalid(HOPS, "leave it to Oncue, which counts from 0"));
    }
    // Digits that no u32 holds are above the limit as well.
    match value_text.parse::<u32>() {
        Ok(count) if count <= MAX_HOPS => Ok(()),
        _ => Err(DecodeError::HopLimit { limit: MAX_HOPS }),
    }
}
