//! What holds for every message and every event.

use bytes::Bytes;
use proptest::prelude::*;
use time::OffsetDateTime;

use super::super::*;
use super::{STRUCTURED, decode_with, defaults, envelope};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Text of an attribute: printable of any script, with what percent-encoding and JSON must escape over-represented.
fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let char = prop_oneof![
        proptest::char::range('!', '~'),
        proptest::sample::select(vec![' ', '"', '%', '\\', ';', '\u{feff}', '\u{202e}', '\u{2028}', 'é', '\u{1f600}']),
        any::<char>().prop_filter("no control characters", |c| !c.is_control()),
    ];
    proptest::collection::vec(char, length).prop_map(String::from_iter)
}

fn content_type() -> impl Strategy<Value = Option<String>> {
    let known = vec![
        "application/json",
        "application/vnd.a+json; charset=utf-8",
        "text/json",
        "text/plain",
        "",
        " application/json ",
        "application/octet-stream",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "Application/CloudEvents",
    ];
    proptest::option::of(prop_oneof![
        3 => proptest::sample::select(known).prop_map(str::to_owned),
        1 => text(0..20),
    ])
}

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        proptest::sample::select(vec![
            "null",
            "true",
            "0",
            "-0",
            "1e400000",
            "0.10",
            "18446744073709551616",
            r#""\ud800""#,
            r#""\u0000""#,
            r#""x""#,
            "[]",
            " 1",
            "1\n",
            "{\"a\":1,\"a\":2}",
            "{\"\":{}}",
            "[1",
            "01",
            "NaN",
            "\u{feff}1",
        ])
        .prop_map(str::to_owned),
        text(0..10).prop_map(|t| json_string_of(&t)),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", ")));
        let object = (text(0..5), inner).prop_map(|(key, value)| format!("{{{} : {value}}}", json_string_of(&key)));
        prop_oneof![list, object]
    })
}

fn json_string_of(text: &str) -> String {
    serde_json::to_string(text).expect("a str is a JSON string")
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![json_text().prop_map(Bytes::from), proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),]
}

fn extensions() -> impl Strategy<Value = Vec<(String, AttributeValue)>> {
    let value = prop_oneof![
        text(0..20).prop_map(AttributeValue::String),
        any::<bool>().prop_map(AttributeValue::Bool),
        any::<i32>().prop_map(AttributeValue::Integer),
    ];
    let others = proptest::collection::vec(("x[a-z0-9]{0,12}", value), 0..6);
    (others, proptest::option::of(0..=MAX_HOPS), any::<bool>()).prop_map(|(mut list, hops, traced)| {
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list.dedup_by(|a, b| a.0 == b.0);
        list.reverse();
        list.extend(hops.map(|hops| ("oncuehops".to_owned(), AttributeValue::String(hops.to_string()))));
        list.extend(traced.then(|| ("traceparent".to_owned(), AttributeValue::String(PARENT.to_owned()))));
        list
    })
}

fn moment() -> impl Strategy<Value = OffsetDateTime> {
    // The years 0001 to 9998, so that no offset leaves the range; offsets of whole minutes.
    (-62_135_596_800_i64..253_370_764_800, 0_u32..1_000_000_000, -1_439_i32..1_440).prop_map(
        |(seconds, nanos, minutes)| {
            let offset = time::UtcOffset::from_whole_seconds(minutes * 60).expect("less than a day");
            let utc = OffsetDateTime::from_unix_timestamp(seconds).expect("in range");
            (utc + time::Duration::nanoseconds(nanos.into())).to_offset(offset)
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let required = (text(1..20), text(1..20), text(1..20));
    let optional = (
        proptest::option::of(text(0..20)),
        proptest::option::of(moment()),
        content_type(),
        proptest::option::of(text(0..20)),
    );
    (required, optional, extensions(), payload()).prop_map(|((id, source, ty), optional, extensions, data)| {
        let (subject, time, datacontenttype, dataschema) = optional;
        Event { id, source, ty, subject, time, datacontenttype, dataschema, extensions, data }
    })
}

/// A header takes every type to text.
fn with_text_extensions(mut event: Event) -> Event {
    for (_, value) in &mut event.extensions {
        *value = AttributeValue::String(value.to_string());
    }
    event
}

fn header() -> impl Strategy<Value = (String, String)> {
    let names = vec![
        "ce-id",
        "CE-Source",
        "ce-type",
        "ce-specversion",
        "ce-subject",
        "ce-time",
        "ce-data",
        "ce-oncuehops",
        "ce-ext",
        "ce-",
        "ce",
        "content-type",
        "Content-Type",
        "traceparent",
        "ce-traceparent",
        "tracestate",
        "oncue-hops",
        "é",
        "Nats-Msg-Id",
        "id",
        "ce-datacontenttype",
    ];
    let name = prop_oneof![5 => proptest::sample::select(names).prop_map(str::to_owned), 1 => any::<String>()];
    let values = vec![
        "1.0",
        "1",
        "",
        "%",
        "%C3%A9",
        "%C0%A0",
        "\"a\\\"",
        "2026-01-01T00:00:00Z",
        "application/cloudevents+json",
        PARENT,
    ];
    let value = prop_oneof![5 => proptest::sample::select(values).prop_map(str::to_owned), 1 => any::<String>()];
    (name, value)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![text(0..10).prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..20)]
}

/// The same names with the prefix of Kafka; values are bytes, or null.
fn record_header() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
    let value = header().prop_map(|(_, value)| value.into_bytes());
    let value = proptest::option::of(prop_oneof![4 => value, 1 => bytes()]);
    (header(), value).prop_map(|((name, _), value)| (name.replacen("ce-", "ce_", 1), value))
}

fn hostile_envelope() -> impl Strategy<Value = Bytes> {
    let names = vec![
        "id",
        "source",
        "type",
        "specversion",
        "time",
        "data",
        "data_base64",
        "datacontenttype",
        "x",
        "X",
        "oncuehops",
        "",
    ];
    let member = (proptest::sample::select(names), json_text()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    proptest::collection::vec(member, 0..4).prop_map(|members| envelope(&members.join(",")).into())
}

proptest! {
    #[test]
    fn no_message_makes_decode_panic_and_every_event_it_gives_is_sound(
        headers in proptest::collection::vec(header(), 0..10),
        payload in prop_oneof![payload(), hostile_envelope()],
    ) {
        let message = Message { headers: &headers, payload: &payload };
        match decode(&message, &defaults(), &Limits::default()) {
            Ok(event) => {
                prop_assert_eq!(check(&event), Ok(()));
                prop_assert_eq!(from_structured(&to_structured(&event), &Limits::default()), Ok(event));
            }
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
    }

    #[test]
    fn no_envelope_makes_decode_panic(payload in prop_oneof![hostile_envelope(), payload()]) {
        let outcome = decode_with(STRUCTURED, &payload, &Limits::default());
        prop_assert_eq!(from_structured(&payload, &Limits::default()), outcome);
    }

    #[test]
    fn structured_mode_gives_the_event_back(event in event()) {
        prop_assert_eq!(check(&event), Ok(()));
        prop_assert_eq!(from_structured(&to_structured(&event), &Limits::STORED), Ok(event));
    }

    #[test]
    fn attributes_and_data_apart_give_the_event_back(event in event()) {
        prop_assert_eq!(from_parts(&to_attributes(&event), event.data.clone()), Ok(event));
    }

    #[test]
    fn binary_mode_gives_the_event_back_with_extensions_as_text(event in event()) {
        let (headers, payload) = to_binary(&event);
        let decoded = decode(&Message { headers: &headers, payload: &payload }, &defaults(), &Limits::default());
        prop_assert_eq!(decoded, Ok(with_text_extensions(event)));
    }

    #[test]
    fn no_record_makes_decode_panic_and_every_event_it_gives_is_sound(
        key in proptest::option::of(bytes()),
        value in proptest::option::of(prop_oneof![payload(), hostile_envelope()]),
        headers in proptest::collection::vec(record_header(), 0..10),
    ) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let record = kafka::Record { key: key.as_deref(), value: value.as_deref(), headers: &headers };
        match kafka::decode(&record, &defaults(), &Limits::default()) {
            Ok(event) => {
                prop_assert_eq!(check(&event), Ok(()));
                prop_assert_eq!(from_structured(&to_structured(&event), &Limits::STORED), Ok(event));
            }
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
    }

    #[test]
    fn a_record_gives_the_event_back_with_extensions_as_text(event in event()) {
        let out = kafka::encode(&event);
        let headers: Vec<_> = out.headers.iter().map(|(n, v)| (n.as_str(), Some(v.as_bytes()))).collect();
        let key = out.key.as_deref().map(str::as_bytes);
        let record = kafka::Record { key, value: Some(&out.value), headers: &headers };
        let decoded = kafka::decode(&record, &defaults(), &Limits::default());
        prop_assert_eq!(decoded, Ok(with_text_extensions(event)));
    }

    #[test]
    fn percent_coding_gives_the_text_back_and_never_panics(text in any::<String>()) {
        let encoded = percent::encode(&text);
        prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic()));
        let decoded = percent::decode(&encoded);
        prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        let _ = percent::decode(&text);
    }
}
