//! The golden cases of `tests/data/events`, the inputs too large for a file, and the properties.

mod golden;
mod kafka;
mod properties;

use bytes::Bytes;

use super::*;

fn defaults() -> Defaults<'static> {
    Defaults { ty: "orders.new", source: "oncue/trigger/t", id: "key-1", subject: None, time: None }
}

fn decode_with(headers: &[(&str, &str)], payload: &[u8], limits: &Limits) -> Result<Event, DecodeError> {
    let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let payload = Bytes::copy_from_slice(payload);
    decode(&Message { headers: &headers, payload: &payload }, &defaults(), limits)
}

fn class_of(headers: &[(&str, &str)], payload: &[u8]) -> &'static str {
    decode_with(headers, payload, &Limits::default()).map_or_else(|error| error.class(), |_| "ok")
}

/// An envelope with `members` after the required attributes.
fn envelope(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{members}}}"#)
}

const STRUCTURED: &[(&str, &str)] = &[("content-type", "application/cloudevents+json")];
const BINARY: &[(&str, &str)] = &[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

#[test]
fn nesting_is_bounded_in_every_mode_without_recursion() {
    let nested = [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")];
    let table = [(128, "ok"), (129, "too_deep"), (1_000, "too_deep"), (10_000, "too_deep"), (1_000_000, "too_deep")];
    let limits = Limits { max_bytes: 64 << 20, ..Limits::default() };
    for (open, close) in nested {
        for (levels, expected) in table {
            let pairs = levels / open.matches(['[', '{']).count();
            let odd = if pairs * open.matches(['[', '{']).count() < levels { ("[", "]") } else { ("", "") };
            let data = format!("{}{}1{}{}", odd.0, open.repeat(pairs), close.repeat(pairs), odd.1);
            let whole = envelope(&format!(r#""data":{data}"#));
            let unclosed = format!("{}{}", odd.0, open.repeat(pairs));
            for (headers, payload) in [(&[][..], &data), (&[][..], &unclosed), (BINARY, &data), (STRUCTURED, &whole)] {
                let class = decode_with(headers, payload.as_bytes(), &limits).map_or_else(|e| e.class(), |_| "ok");
                assert_eq!(class, expected, "{levels} levels of {open}");
            }
        }
    }
}

#[test]
fn brackets_in_strings_and_in_payloads_that_claim_no_json_are_not_nesting() {
    let brackets = "[".repeat(1_000);
    let escaped = format!(r#"{{"a":"\"{brackets}\\"}}"#);
    let text = &[("content-type", "text/plain")];
    let prose = format!("Hello {brackets}");
    let bare = format!(r#"{{"a":"{brackets}"}}"#);
    for (headers, payload) in [(&[][..], &escaped), (text, &brackets), (&[][..], &prose), (&[][..], &bare)] {
        assert_eq!(class_of(headers, payload.as_bytes()), "ok", "{headers:?}");
    }
}

#[test]
fn siblings_do_not_add_to_the_depth() {
    for (levels, expected) in [(128, "ok"), (129, "too_deep")] {
        let siblings = "[],{},".repeat(500);
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        let data = format!("{open}{siblings}[]{close}");
        assert_eq!(class_of(&[], data.as_bytes()), expected, "{levels} levels");
    }
}

#[test]
fn a_payload_is_refused_by_its_first_byte_too_many() {
    for (length, expected) in
        [(1 << 20, "ok"), ((1 << 20) - 1, "ok"), ((1 << 20) + 1, "too_large"), (64 << 20, "too_large")]
    {
        assert_eq!(class_of(&[], &vec![b'1'; length]), expected, "{length} bytes, plain");
        let padding = " ".repeat(length - envelope(r#""data":1"#).len());
        let whole = envelope(&format!(r#""data":{padding}1"#));
        assert_eq!(class_of(STRUCTURED, whole.as_bytes()), expected, "{length} bytes, structured");
    }
}

#[test]
fn a_large_payload_of_any_shape_is_kept_as_it_came() {
    let limits = Limits { max_bytes: 32 << 20, ..Limits::default() };
    let keys: Vec<_> = (0..100_000).map(|n| format!(r#""k{n}":{n}"#)).collect();
    let shapes = [
        format!("{{{}}}", keys.join(",")),
        format!(r#"{{"{}":1}}"#, "k".repeat(1_000_000)),
        format!("[{}1]", "1,".repeat(999_999)),
        format!(r#""{}""#, "x".repeat(10_000_000)),
        format!(r#""{}""#, r"\n".repeat(5_000_000)),
        "9".repeat(10_000),
    ];
    for data in shapes {
        let whole = envelope(&format!(r#""data":{data}"#));
        let plain = decode_with(&[], data.as_bytes(), &limits).expect("a plain payload is kept");
        let structured = decode_with(STRUCTURED, whole.as_bytes(), &limits).expect("the data is JSON");
        assert!(plain.data == data.as_bytes() && structured.data == data.as_bytes());
    }
}

#[test]
fn too_many_headers_or_attributes_are_refused() {
    let header = |n: usize, size: usize| (format!("x-{n}"), "v".repeat(size));
    let table =
        [(64, 1, "ok"), (65, 1, "headers"), (1_000, 1, "headers"), (1, 65_536, "headers"), (8, 8_192, "headers")];
    for (count, size, expected) in table {
        let headers: Vec<_> = (0..count).map(|n| header(n, size)).collect();
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(class_of(&headers, b""), expected, "{count} headers of {size} bytes");
    }
    for (count, size, expected) in [
        (60, 1, "ok"),
        (61, 1, "headers"),
        (100_000, 1, "headers"),
        (1, 8_193, "invalid_attribute"),
        (1, 70_000, "headers"),
    ] {
        let limits = Limits { max_bytes: 8 << 20, ..Limits::default() };
        let members: Vec<_> = (0..count).map(|n| format!(r#""x{n}":"{}""#, "v".repeat(size))).collect();
        let payload = envelope(&members.join(","));
        let class = decode_with(STRUCTURED, payload.as_bytes(), &limits).map_or_else(|e| e.class(), |_| "ok");
        assert_eq!(class, expected, "{count} attributes of {size} bytes");
    }
}

#[test]
fn members_beyond_the_limit_are_counted_and_never_lost() {
    let limits = Limits { max_headers: 10_000, ..Limits::default() };
    let members: Vec<_> = (0..5_000).map(|n| format!(r#""x{n}":{n}"#)).collect();
    let event = decode_with(STRUCTURED, envelope(&members.join(",")).as_bytes(), &limits).expect("the limit is raised");
    assert_eq!(event.extensions.len(), 5_000);
    let repeated = vec![r#""data":1"#; 100].join(",");
    assert_eq!(class_of(STRUCTURED, envelope(&repeated).as_bytes()), "duplicate_attribute");
    let last = format!(r#"{repeated},"late":1"#);
    assert_eq!(class_of(STRUCTURED, envelope(&last).as_bytes()), "duplicate_attribute");
}

#[test]
fn what_was_let_in_is_read_back_from_the_store_though_it_grew() {
    let headers: Vec<_> = (0..7).map(|n| (format!("x{n}"), "\\".repeat(8_192))).collect();
    let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let limits = Limits { max_depth: 1_000, ..Limits::default() };
    let nested = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for payload in [vec![0xff; 1 << 20], nested.into_bytes()] {
        let event = decode_with(&headers, &payload, &limits).expect("it keeps the limits");
        let written = to_structured(&event);
        assert!(from_structured(&written, &limits).is_err(), "escapes made it longer than a message may be");
        assert!(from_structured(&written, &Limits::STORED) == Ok(event));
    }
}

#[test]
fn an_envelope_cut_at_any_byte_is_no_json() {
    let whole = envelope(
        r#""time":"2026-01-31T23:59:59.5Z","subject":"a\"b\u00e9","ext":-12,"flag":true,"data":{"a":[1,2.5e3,null]}"#,
    );
    assert_eq!(class_of(STRUCTURED, whole.as_bytes()), "ok");
    for length in 0..whole.len() {
        assert_eq!(class_of(STRUCTURED, &whole.as_bytes()[..length]), "invalid_json", "cut at {length}");
        assert_eq!(class_of(BINARY, &whole.as_bytes()[..length]), "ok", "the payload is not judged");
    }
}

#[test]
fn an_error_is_one_short_line_whatever_the_value_was() {
    let value = format!("2026\u{1b}[31m\r\n{}", "x".repeat(5_000));
    let error = decode_with(&[BINARY, &[("ce-time", &value)]].concat(), b"", &Limits::default())
        .expect_err("that is no time")
        .to_string();
    assert_eq!(error, "attribute time is invalid: use RFC 3339, for example 2026-01-31T23:59:59Z");
}

#[test]
fn structured_data_shares_the_memory_of_the_message() {
    let payload = Bytes::from(envelope(r#""data":{"a": 1}"#));
    let headers = [("content-type".to_owned(), "application/cloudevents+json".to_owned())];
    let event = decode(&Message { headers: &headers, payload: &payload }, &defaults(), &Limits::default())
        .expect("it is a CloudEvent");
    assert!(payload.as_ptr_range().contains(&event.data.as_ptr()));
}

#[test]
fn binary_headers_are_the_ones_of_the_binding() {
    let mut event = decode_with(BINARY, b"{}", &Limits::default()).expect("it is a CloudEvent");
    event.subject = Some("Euro \u{20ac} \u{1f600} 100%".to_owned());
    event.datacontenttype = Some("application/json; charset=utf-8".to_owned());
    let (headers, payload) = to_binary(&event);
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25"),
        ("ce-datacontenttype", "application/json;%20charset=utf-8"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    assert_eq!(headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(payload, "{}");
    assert!(is_binary(&headers) && !is_structured(&headers));
}

#[test]
fn an_unchecked_event_cannot_break_the_header_block() {
    let mut event = decode_with(BINARY, b"", &Limits::default()).expect("it is a CloudEvent");
    event.datacontenttype = Some("text/plain\r\nce-id: 2".to_owned());
    event.set_extension("a\r\nce-id: 3", AttributeValue::String("\r\n\r\n".to_owned()));
    let (headers, _) = to_binary(&event);
    let clean = |text: &str| text.bytes().all(|b| matches!(b, 0x20..=0x7e));
    assert!(headers.iter().all(|(name, value)| clean(name) && clean(value)), "{headers:?}");
    assert_eq!(check(&event).map_err(|error| error.class()), Err("invalid_attribute"));
}
