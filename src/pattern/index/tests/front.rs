//! The front ends: JSON text against `Json::parse`, columns against JSON.

use proptest::prelude::*;

use super::*;

fn accepts(bytes: &[u8]) -> bool {
    let mut found = Vec::new();
    let index =
        Index::new([(0, Arc::new(Pattern::parse(r#"{"a":{"b":[1]},"b":[{"exists":true}]}"#).expect("a pattern")))]);
    index.find_in_json(bytes, &mut Scratch::default(), &mut found).is_ok()
}

/// Texts of which some are JSON.
#[rustfmt::skip]
const TEXTS: [&str; 65] = [
    "", " ", "null", "nul", "nulll", "true ", "\u{feff}1", "01", "-", "-0", "1.", ".1", "1e", "1e+", "1E-07", "-01", "1.5e300",
    "{}", "{ }", "[ ]", "[,]", "[1,]", "{,}", "{\"a\":1,}", "{\"a\" :\n1}", "{\"a\"}", "{a:1}", "{\"a\":1 \"b\":2}", "[1 2]",
    "[1]]", "{\"b\":[1}", "{\"b\":{]}", "\"\\u00e9\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83d\\u0041\"",
    "\"\\x\"", "\"\\u12g4\"", "\"\\u123\"", "\"\n\"", "\"\u{7f}\"", "\"unended", "\"ends in a backslash\\", "1\u{0}", "\u{a0}1",
    "{\"b\":\"\\ud800\"}", "{\"b\":[\"\\udc00\"]}", "{\"\\ud800\":1}", "/**/1", "NaN", "Infinity", "'a'", "\"0123456789abcdef\\",
    "\"0123456789abcde\\\"f\"", "\"0123456789abcdef0123456789abcdef", "{\"a\":{\"b\":1}}x", "\t\r\n 1", "\u{c}1", "1 \u{0}",
    "{\"a\":1}\u{0}", "[1}", "{\"a\":1]", "{\"\\u0061\":{\"b\":1}}", "\"\u{1}\"",
];

#[test]
fn texts_are_taken_and_refused_as_the_parser_does() {
    let deep = |open: &str, close: &str, times: usize| format!("{}1{}", open.repeat(times), close.repeat(times));
    let mut texts: Vec<String> = TEXTS.map(str::to_owned).into();
    for times in [126, 127, 128, 129, 130] {
        let objects = ["{\"a\":", "{\"b\":", "{\"c\":"];
        texts.extend(objects.map(|open| deep(open, "}", times)));
        texts.extend([deep("[", "]", times), deep("[{\"b\":", "}]", times / 2)]);
        texts.push(format!("{{\"b\":{}}}", deep("[", "]", times)));
    }
    for text in texts {
        assert_eq!(accepts(text.as_bytes()), Json::parse(text.as_bytes()).is_ok(), "{text}");
    }
    let invalid: [&[u8]; 5] =
        [b"\"\xff\"", b"\"\xed\xa0\x80\"", b"{\"b\":\"\xc0\x80\"}", b"\xff", b"[\"\xf0\x9f\x98\"]"];
    for bytes in invalid {
        assert!(!accepts(bytes) && Json::parse(bytes).is_err(), "{bytes:?}");
    }
    assert!(accepts(b"\"\xc3\xa9\""));
}

/// JSON with a few bytes of it changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (
        any::<prop::sample::Index>(),
        prop_oneof![any::<u8>(), prop::sample::select(b"{}[],:\"\\0e. \nutn".to_vec())],
        0..3,
    );
    (any_json(), prop::collection::vec(change, 0..3)).prop_map(|(json, changes)| {
        let mut bytes = written(&json).into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    })
}

/// Tells an object's members one by one, and of those only the lists as JSON.
fn tell(fill: &mut Fill<'_, '_>, place: Place, json: &Json) {
    match json {
        Json::Null => fill.null(place),
        Json::Bool(value) => fill.bool(place, *value),
        Json::Number(text) => fill.number(place, text),
        Json::String(text) => fill.text(place, text),
        Json::Array(_) => fill.json(place, written(json).as_bytes()).expect("it is JSON"),
        Json::Object(members) => {
            for (key, value) in members {
                if let Some(below) = fill.below(place, key) {
                    tell(fill, below, value);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(config(800))]

    #[test]
    fn bytes_are_taken_and_refused_as_the_parser_does(bytes in damaged()) {
        prop_assert_eq!(accepts(&bytes), Json::parse(&bytes).is_ok(), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn almost_json_is_taken_and_refused_as_the_parser_does(text in "[\\[\\]{}:,\"ab\\\\u0-9dDeE.+\\- ]{0,24}") {
        prop_assert_eq!(accepts(text.as_bytes()), Json::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn strings_of_escapes_are_taken_and_refused_as_the_parser_does(text in "\"([a-zé\u{1}\u{1f}😀]|\\\\[\"/bfnrtux\\\\]|\\\\u[dD][89a-fA-F][0-9a-f]{2}|\\\\u00[0-9a-f]{2}){0,12}\"") {
        prop_assert_eq!(accepts(text.as_bytes()), Json::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn lanes_answer_as_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..200), digits in "[0-9]{0,150}[^0-9]?[0-9]{0,70}", at in 0_usize..200) {
        let first = |bytes: &[u8], is: fn(&u8) -> bool| {
            let rest = bytes.get(at..).unwrap_or_default();
            at + rest.iter().position(is).unwrap_or(rest.len())
        };
        for bytes in [&bytes, digits.as_bytes(), b"0123456789abcdef\"\\\x1f\x20\x80\xff\x00/:"] {
            let mut lanes = lanes::Lanes::new(bytes);
            prop_assert_eq!(lanes.special(at), first(bytes, |byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\'));
            prop_assert_eq!(lanes.digits(at), first(bytes, |byte| !byte.is_ascii_digit()));
        }
    }

    #[test]
    fn columns_are_found_as_the_object_that_they_make(
        patterns in prop::collection::vec(any_pattern(), 1..8),
        event in prop_oneof![any_json(), fitting_event().prop_map(|text| Json::parse(text.as_bytes()).expect("JSON"))],
        sound in prop::collection::vec(sound_pattern(), 1..8),
    ) {
        let parsed = patterns.iter().filter_map(|text| Pattern::parse(text).ok()).map(Arc::new);
        let index = Index::new((0..).zip(parsed.chain(sound)));
        let (mut told, mut scratch) = (Vec::new(), Scratch::default());
        index.find(|fill| tell(fill, fill.root(), &event), &mut scratch, &mut told);
        told.sort_unstable();
        prop_assert_eq!(told, found(&index, &written(&event), &mut scratch));
    }
}

#[test]
fn what_is_no_json_leaves_nothing_behind() {
    let pattern = |text: &str| Arc::new(Pattern::parse(text).expect("a pattern"));
    let index = Index::new([
        (0, pattern(r#"{"data":{"a":[1]}}"#)),
        (1, pattern(r#"{"type":["t"],"data.a":[{"exists":false}]}"#)),
    ]);
    let mut found = Vec::new();
    let data = |fill: &mut Fill<'_, 'static>, json: &'static [u8]| {
        fill.text_at("type", "t");
        fill.below(fill.root(), "data").map(|place| fill.payload(place, json))
    };
    index.find(
        |fill| assert_eq!(data(fill, br#"{"a":1,"b":"#), Some(Err(NotJson))),
        &mut Scratch::default(),
        &mut found,
    );
    assert_eq!(found, [1]);
}

#[test]
fn short_texts_are_what_their_words_say() {
    for text in
        ["", "a", "ab", "abc", "abcd", "abcde", "abcdefg", "abcdefgh", "é", "éa", "abcdefghijklmno", "0123456789abcdef"]
    {
        assert_eq!(hash::words(text.as_bytes()).text(), text);
    }
}
