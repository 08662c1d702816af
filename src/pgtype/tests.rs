//! What a value becomes, by table, and what holds for every text.

use super::*;

fn written(ty: &Type, text: &[u8]) -> (String, bool) {
    let mut out = Vec::new();
    let decoded = write(&mut out, ty, text);
    (String::from_utf8(out).expect("JSON is UTF-8"), decoded)
}

#[test]
fn scalars_become_what_the_server_makes_of_them() {
    let table: [(Type, &str, &str); 12] = [
        (Type::Boolean, "t", "true"),
        (Type::Integer, "9223372036854775807", "9223372036854775807"),
        (Type::Numeric, "-123.4500", "-123.4500"),
        (Type::Numeric, "NaN", "\"NaN\""),
        (Type::Float, "1e+30", "1e+30"),
        (Type::Float, "-Infinity", "\"-Infinity\""),
        (Type::Bytea, "\\x00ff10", "\"AP8Q\""),
        (Type::Json, " {\"a\": [1, 1.0]}", " {\"a\": [1, 1.0]}"),
        (Type::Timestamp, "2026-01-31 12:00:00.5", "\"2026-01-31T12:00:00.5\""),
        (Type::TimestampTz, "2026-01-31 12:00:00.5+00", "\"2026-01-31T12:00:00.5+00:00\""),
        (Type::TimestampTz, "0044-03-15 00:00:00+00 BC", "\"0044-03-15T00:00:00+00:00 BC\""),
        (Type::Text, "a\"b\\\n\u{1}é", "\"a\\\"b\\\\\\n\\u0001é\""),
    ];
    for (ty, text, json) in table {
        assert_eq!(written(&ty, text.as_bytes()), (json.to_owned(), true), "{ty:?} {text}");
    }
}
