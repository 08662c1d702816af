//! The checked-in cases: a message, and the event or the error that it is.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;

use super::super::*;
use super::defaults;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows; starts with the number in the list of hostile input, if it has one.
    case: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The payload, if it is text.
    #[serde(default)]
    text: String,
    /// The payload in base64, if it is not.
    base64: Option<String>,
    /// The event, absent attributes left out, `data` as text or `data_base64`.
    event: Option<Value>,
    /// Or the class of the error,
    error: Option<String>,
    /// and a part of its text.
    #[serde(default)]
    says: String,
}

#[test]
fn every_golden_message_is_the_event_or_the_error_of_its_case() {
    let mut count = 0;
    for file in ["plain", "binary", "structured"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/events/{file}.json"));
        let text = std::fs::read_to_string(&path).expect("the golden file is checked in");
        let cases: Vec<Case> = serde_json::from_str(&text).expect("the golden file is a list of cases");
        for case in &cases {
            assert_eq!(case.event.is_some(), case.error.is_none(), "{file}: {}: event or error", case.case);
            verify(file, case);
        }
        count += cases.len();
    }
    assert!(count > 100, "only {count} cases");
}

/// The binding differs in the names of headers, and in that values are written as they are.
#[test]
fn every_golden_message_is_the_same_as_a_record_of_kafka() {
    let mut count = 0;
    for file in ["plain", "binary", "structured"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/events/{file}.json"));
        let text = std::fs::read_to_string(&path).expect("the golden file is checked in");
        let cases: Vec<Case> = serde_json::from_str(&text).expect("the golden file is a list of cases");
        let encoded = |case: &&Case| case.headers.iter().any(|(_, v)| v.contains('%') || v.starts_with('"'));
        for case in cases.iter().filter(|case| !encoded(case)) {
            verify_record(file, case);
            count += 1;
        }
    }
    assert!(count > 100, "only {count} cases");
}

fn verify_record(file: &str, case: &Case) {
    let title = format!("{file}: {}", case.case);
    let value = case
        .base64
        .as_ref()
        .map_or_else(|| case.text.clone().into_bytes(), |base64| STANDARD.decode(base64).expect("the case is base64"));
    let name = |name: &str| match name.split_at_checked(3) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("ce-") => format!("{}_{rest}", &prefix[..2]),
        _ => name.to_owned(),
    };
    let headers: Vec<_> = case.headers.iter().map(|(n, v)| (name(n), v.as_bytes())).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), Some(*value))).collect();
    let record = kafka::Record { key: None, value: Some(&value), headers: &headers };
    match kafka::decode(&record, &defaults(), &Limits::default()) {
        Ok(event) => assert_eq!(Some(to_json(&event)), case.event, "{title}: expected {:?}", case.error),
        Err(error) => assert_eq!(Some(error.class()), case.error.as_deref(), "{title}: {error}"),
    }
}

fn verify(file: &str, case: &Case) {
    let title = format!("{file}: {}", case.case);
    let payload = case.base64.as_ref().map_or_else(
        || Bytes::copy_from_slice(case.text.as_bytes()),
        |base64| STANDARD.decode(base64).expect("the case is base64").into(),
    );
    let message = Message { headers: &case.headers, payload: &payload };
    match decode(&message, &defaults(), &Limits::default()) {
        Ok(event) => {
            assert_eq!(Some(to_json(&event)), case.event, "{title}: expected {:?}", case.error);
            let written = to_structured(&event);
            assert_eq!(from_structured(&written, &Limits::default()), Ok(event), "{title}: structured and back");
        }
        Err(error) => {
            assert_eq!(Some(error.class()), case.error.as_deref(), "{title}: {error}");
            assert!(error.to_string().contains(&case.says), "{title}: {error}");
        }
    }
}

fn to_json(event: &Event) -> Value {
    let mut out = Map::new();
    out.insert("id".to_owned(), json!(event.id));
    out.insert("source".to_owned(), json!(event.source));
    out.insert("type".to_owned(), json!(event.ty));
    let time = event.time.map(|time| time.format(&Rfc3339).expect("a decoded time can be written"));
    let optional = [
        ("subject", event.subject.clone()),
        ("time", time),
        ("datacontenttype", event.datacontenttype.clone()),
        ("dataschema", event.dataschema.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            out.insert(name.to_owned(), json!(value));
        }
    }
    for (name, value) in &event.extensions {
        let value = match value {
            AttributeValue::String(value) => json!(value),
            AttributeValue::Bool(value) => json!(value),
            AttributeValue::Integer(value) => json!(value),
        };
        out.insert(name.clone(), value);
    }
    match std::str::from_utf8(&event.data) {
        Ok("") => {}
        Ok(text) => drop(out.insert("data".to_owned(), json!(text))),
        Err(_) => drop(out.insert("data_base64".to_owned(), json!(STANDARD.encode(&event.data)))),
    }
    Value::Object(out)
}
