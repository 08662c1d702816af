//! What only records of Kafka have: keys, null values, values that are bytes.

use super::super::kafka::{Header, Record, decode, encode, is_binary, is_structured};
use super::super::*;
use super::defaults;
use crate::event::PARTITION_KEY;

const BINARY: &[Header<'static>] =
    &[("ce_specversion", Some(b"1.0")), ("ce_id", Some(b"1")), ("ce_source", Some(b"/s")), ("ce_type", Some(b"t"))];
const STRUCTURED: &[Header<'static>] = &[("content-type", Some(b"application/cloudevents+json; charset=UTF-8"))];

fn read(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> Result<Event, DecodeError> {
    decode(&Record { key, value, headers }, &defaults(), &Limits::default())
}

fn class(value: Option<&[u8]>, headers: &[Header<'_>]) -> &'static str {
    read(None, value, headers).map_or_else(|error| error.class(), |_| "ok")
}

fn with<'a>(headers: &[Header<'a>], more: &[Header<'a>]) -> Vec<Header<'a>> {
    [headers, more].concat()
}

#[test]
fn a_plain_record_is_named_by_its_topic_and_its_key() {
    let headers: &[Header<'_>] = &[
        ("Trace-Id", Some(b"abc")),
        ("content-type", Some(b"text/plain")),
        ("binary", Some(b"\xff\xfe")),
        ("null", None),
        ("trace_id", Some(b"the second of its name")),
    ];
    let event = read(Some(b"user-1"), Some(b"hello"), headers).expect("a plain record is an event");
    assert_eq!((event.ty.as_str(), event.id.as_str()), ("orders.new", "key-1"));
    assert_eq!((event.subject.as_deref(), event.datacontenttype.as_deref()), (Some("user-1"), Some("text/plain")));
    assert_eq!(event.extensions, [("traceid".to_owned(), AttributeValue::String("abc".to_owned()))]);
    assert_eq!(event.data, "hello");
}

#[test]
fn a_key_that_is_no_text_is_no_subject_and_no_partitionkey() {
    let long = vec![b'k'; 8_193];
    let table: [(Option<&[u8]>, Option<&str>); 7] = [
        (None, None),
        (Some(b""), None),
        (Some(b"k"), Some("k")),
        (Some("\u{20ac}".as_bytes()), Some("\u{20ac}")),
        (Some(b"\xff"), None),
        (Some(b"a\nb"), None),
        (Some(&long), None),
    ];
    for (key, expected) in table {
        let plain = read(key, Some(b"{}"), &[]).expect("an event");
        assert_eq!((plain.subject.as_deref(), plain.extension(PARTITION_KEY)), (expected, None), "{key:?}");
        let binary = read(key, Some(b"{}"), BINARY).expect("an event");
        let partition_key = expected.map(|key| AttributeValue::String(key.to_owned()));
        assert_eq!((binary.subject.as_deref(), binary.extension(PARTITION_KEY)), (None, partition_key.as_ref()));
    }
    let own = with(BINARY, &[("ce_partitionkey", Some(b"mine"))]);
    let event = read(Some(b"k"), Some(b"{}"), &own).expect("an event");
    assert_eq!(event.extension(PARTITION_KEY), Some(&AttributeValue::String("mine".to_owned())), "its own stays");
}

#[test]
fn a_tombstone_has_null_data_and_an_empty_value_has_none() {
    let avro: &[Header<'_>] = &[("content-type", Some(b"application/avro"))];
    let tombstone = read(Some(b"k"), None, avro).expect("an event");
    assert_eq!((&tombstone.data[..], tombstone.datacontenttype.as_deref()), (&b"null"[..], Some("application/json")));
    let empty = read(Some(b"k"), Some(b""), avro).expect("an event");
    assert_eq!((&empty.data[..], empty.datacontenttype.as_deref()), (&b""[..], Some("application/avro")));
    let binary = read(Some(b"k"), None, BINARY).expect("an event");
    assert_eq!(&binary.data[..], b"", "a CloudEvent without data");
    assert_eq!(class(None, STRUCTURED), "invalid_json");
}

#[test]
fn attributes_are_utf_8_as_it_is_and_not_percent_encoded() {
    let headers = with(BINARY, &[("CE_Subject", Some("100%25 \u{20ac} \"x\"".as_bytes())), ("ce_ext", None)]);
    let event = read(None, Some(b"{}"), &headers).expect("an event");
    assert_eq!((event.subject.as_deref(), event.extensions.len()), (Some("100%25 \u{20ac} \"x\""), 0));
}

#[test]
fn hostile_headers_are_errors_of_a_stable_class() {
    let long = vec![b'v'; 65_536];
    let names: Vec<_> = (0..1_000).map(|n| format!("h{n}")).collect();
    let many: Vec<Header<'_>> = names.iter().map(|name| (name.as_str(), Some(&b"v"[..]))).collect();
    let ce_names: Vec<_> = (0..1_000).map(|n| format!("ce_h{n}")).collect();
    let ce_many: Vec<Header<'_>> = ce_names.iter().map(|name| (name.as_str(), Some(&b"v"[..]))).collect();
    let table = [
        ("M31 1,000 headers", many, "headers"),
        ("M31 1,000 attributes", with(BINARY, &ce_many), "headers"),
        ("M31 a header of 64 KiB", vec![("h", Some(&long[..]))], "headers"),
        ("M22 an attribute above 8 KiB", with(BINARY, &[("ce_x", Some(&long[..8_193]))]), "invalid_attribute"),
        ("M25 a duplicate ce_id", with(BINARY, &[("ce_id", Some(b"2"))]), "duplicate_attribute"),
        ("M25 the same ce_id again", with(BINARY, &[("CE_ID", Some(b"1"))]), "duplicate_attribute"),
        (
            "M20 a null ce_id",
            with(&BINARY[2..], &[("ce_specversion", Some(b"1.0")), ("ce_id", None)]),
            "missing_attribute",
        ),
        ("M01 an attribute that is no UTF-8", with(BINARY, &[("ce_x", Some(b"\xed\xa0\x80"))]), "invalid_attribute"),
        ("M18 a control character", with(BINARY, &[("ce_x", Some(b"\x1b[31m"))]), "invalid_attribute"),
        ("M22 a name in upper case", with(BINARY, &[("ce_X", Some(b"v"))]), "ok"),
        ("M22 an empty name", with(BINARY, &[("ce_", Some(b"v"))]), "invalid_attribute"),
        ("M29 a batch", vec![("content-type", Some(b"application/cloudevents-batch+json"))], "batch"),
        ("another format", vec![("content-type", Some(b"application/cloudevents+avro"))], "unsupported_format"),
        ("M30 a forged hop count", with(BINARY, &[("ce_oncuehops", Some(b"-1"))]), "invalid_attribute"),
        ("M30 too many hops", with(BINARY, &[("ce_oncuehops", Some(b"999"))]), "hop_limit"),
        ("a content type that is no text", vec![("content-type", Some(b"\xff"))], "ok"),
    ];
    for (case, headers, expected) in table {
        assert_eq!(class(Some(b"{}"), &headers), expected, "{case}");
    }
}

#[test]
fn the_limit_of_a_payload_holds_before_anything_is_copied() {
    let large = vec![b'1'; (1 << 20) + 1];
    for headers in [&[][..], BINARY, STRUCTURED] {
        assert_eq!(class(Some(&large), headers), "too_large");
    }
}

#[test]
fn an_event_is_written_as_the_binding_says_and_keyed_by_partitionkey_or_subject() {
    let mut event = read(None, Some(b"{}"), BINARY).expect("an event");
    assert_eq!(encode(&event).key, None);
    event.subject = Some("Euro \u{20ac} 100%".to_owned());
    event.datacontenttype = Some("application/json".to_owned());
    let out = encode(&event);
    let expected = [
        ("content-type", "application/json"),
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "/s"),
        ("ce_type", "t"),
        ("ce_subject", "Euro \u{20ac} 100%"),
    ];
    assert_eq!(out.headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!((out.key.as_deref(), &out.value[..]), (Some("Euro \u{20ac} 100%"), &b"{}"[..]));
    event.set_extension(PARTITION_KEY, AttributeValue::Integer(7));
    assert_eq!(encode(&event).key.as_deref(), Some("7"));
    event.set_extension(PARTITION_KEY, AttributeValue::String(String::new()));
    assert_eq!(encode(&event).key, event.subject, "an empty key is none");
}

#[test]
fn the_mode_is_seen_from_the_headers_alone() {
    let table: [(&[Header<'_>], bool, bool); 5] = [
        (BINARY, false, true),
        (STRUCTURED, true, false),
        (&[("ce_id", Some(b"1"))], false, true),
        (&[("ce_ext", Some(b"1"))], false, false),
        (&[("content-type", None)], false, false),
    ];
    for (headers, structured, binary) in table {
        assert_eq!((is_structured(headers), is_binary(headers)), (structured, binary), "{headers:?}");
    }
}
