//! The event as the JSON document that patterns, transformers and paths see.
//!
//! Invariant: attributes stand at the top under their CloudEvents names and the payload under `data` exactly when it
//! is JSON; a payload that is not JSON is not matched on, its attributes still are.

use time::format_description::well_known::Rfc3339;

use crate::event::{AttributeValue, Event};
use crate::pattern::Json;

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
