//! The event as the JSON document that transformers and paths see, and as the fields that patterns see.
//!
//! Invariant: attributes stand at the top under their CloudEvents names and the payload under `data` exactly when it
//! is JSON; a payload that is not JSON is not matched on, its attributes still are. [`tell`] tells what [`document`] holds.

use time::format_description::well_known::Rfc3339;

use crate::event::{AttributeValue, Event};
use crate::pattern::{Fill, Json};

/// The document of `event`.
#[must_use]
pub fn document(event: &Event) -> Json {
    let mut members = Vec::with_capacity(8 + event.extensions.len());
    let mut text = |name: &str, value: &str| members.push((name.to_owned(), Json::string(value)));
    text("specversion", "1.0");
    text("id", &event.id);
    text("source", &event.source);
    text("type", &event.ty);
    let optional = [
        ("subject", event.subject.as_deref()),
        ("datacontenttype", event.datacontenttype.as_deref()),
        ("dataschema", event.dataschema.as_deref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            text(name, value);
        }
    }
    if let Some(time) = event.time.and_then(|t| t.format(&Rfc3339).ok()) {
        text("time", &time);
    }
    for (name, value) in &event.extensions {
        let value = match value {
            AttributeValue::String(s) => Json::string(s.as_str()),
            AttributeValue::Bool(b) => Json::bool(*b),
            AttributeValue::Integer(i) => Json::integer(i64::from(*i)),
        };
        members.push((name.clone(), value));
    }
    if event.claims_json()
        && !event.data.is_empty()
        && let Ok(data) = Json::parse(&event.data)
    {
        members.push(("data".to_owned(), data));
    }
    Json::object(members)
}

/// Tells the fields of `event` that patterns want.
pub fn tell<'e>(event: &'e Event, fill: &mut Fill<'_, 'e>) {
    let texts = [("specversion", "1.0"), ("id", &event.id), ("source", &event.source), ("type", &event.ty)];
    texts.into_iter().for_each(|(name, value)| fill.text_at(name, value));
    let optional =
        [("subject", &event.subject), ("datacontenttype", &event.datacontenttype), ("dataschema", &event.dataschema)];
    for (name, value) in optional {
        if let Some(value) = value {
            fill.text_at(name, value);
        }
    }
    if let (Some(time), Some(place)) = (event.time, fill.below(fill.root(), "time"))
        && let Ok(time) = time.format(&Rfc3339)
    {
        fill.text(place, &time);
    }
    for (name, value) in &event.extensions {
        let Some(place) = fill.below(fill.root(), name) else { continue };
        match value {
            AttributeValue::String(text) => fill.text(place, text),
            AttributeValue::Bool(value) => fill.bool(place, *value),
            AttributeValue::Integer(number) => fill.integer(place, i64::from(*number)),
        }
    }
    if event.claims_json()
        && !event.data.is_empty()
        && let Some(place) = fill.below(fill.root(), "data")
    {
        // What is no JSON is not matched on.
        let _ = fill.payload(place, &event.data);
    }
}
