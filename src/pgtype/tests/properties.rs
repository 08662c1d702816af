//! What holds for every text of every type.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{array, composite, written};
use crate::pattern::Json;
use crate::pgtype::{MAX_DEPTH, Type, json};

/// Any type, nested a few times.
fn types() -> impl Strategy<Value = Type> {
    let scalar = prop::sample::select(vec![
        Type::Boolean,
        Type::Integer,
        Type::Float,
        Type::Numeric,
        Type::Bytea,
        Type::Json,
        Type::Timestamp,
        Type::TimestampTz,
        Type::Text,
    ]);
    scalar.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(b",;".to_vec()))
                .prop_map(|(element, delimiter)| Type::Array { element: element.into(), delimiter }),
            inner.clone().prop_map(|element| Type::Vector(element.into())),
            vec(("[a\"\\\\é]{0,3}", inner.prop_map(Into::into)), 0..4).prop_map(Type::Composite),
        ]
    })
}

/// Texts that look like values, and then some.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        r#"[\[\]{}()",:;\\ tfnul0-9eE.+\-xNa]{0,40}"#.prop_map(String::into_bytes),
        any::<String>().prop_map(String::into_bytes),
        r#"\{("([a"]|\\.)*"|NULL|[0-9]{1,3})(,("([a(]|\\.)*"|NULL|[0-9]{1,3})){0,3}\}"#.prop_map(String::into_bytes),
        r#"\(("([a{]|""|\\\\)*"|[0-9]{0,3})(,("([a,]|""|\\\\)*"|[0-9]{0,3})){0,3}\)"#.prop_map(String::into_bytes),
        "[0-9]{4}-[01][0-9]-[0-3][0-9] [0-9:.+\\-]{8,16}( BC)?".prop_map(String::into_bytes),
    ]
}

/// JSON and what is nearly JSON.
fn documents() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[ \t\n\r]{0,2}(null|true|false|-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?([eE][+-]?[0-9]{1,2})?)[ \n]?",
        r#""([a é]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\ud83d\\ude00)*""#,
        "[-+0-9.eE\"\\\\u{}\\[\\],:]{0,5}",
    ];
    atom.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec(("[ab]", inner), 0..4).prop_map(|items| {
                let members: Vec<String> = items.iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

/// As `array_out` writes it.
fn array_text(elements: &[Option<String>]) -> String {
    let element = |text: &Option<String>| match text {
        None => "NULL".to_owned(),
        Some(text) => {
            let plain = !text.is_empty()
                && !text.eq_ignore_ascii_case("null")
                && !text.contains(|c: char| "{}\",\\".contains(c) || c.is_ascii_whitespace() || c == '\u{b}');
            if plain { text.clone() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
        }
    };
    format!("{{{}}}", elements.iter().map(element).collect::<Vec<_>>().join(","))
}

/// As `record_out` writes it.
fn row_text(fields: &[Option<String>]) -> String {
    let field = |text: &Option<String>| match text {
        None => String::new(),
        Some(text) => {
            let plain = !text.is_empty()
                && !text.contains(|c: char| "()\",\\".contains(c) || c.is_ascii_whitespace() || c == '\u{b}');
            if plain { text.clone() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\"")) }
        }
    };
    format!("({})", fields.iter().map(field).collect::<Vec<_>>().join(","))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn whatever_comes_one_json_value_is_appended(ty in types(), text in texts()) {
        let (json, decoded) = written(&ty, &text);
        prop_assert!(serde_json::from_str::<&RawValue>(&json).is_ok(), "{json}");
        prop_assert!(Json::parse(json.as_bytes()).is_ok(), "what rules match on: {json}");
        if !decoded {
            let raw = String::from_utf8_lossy(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&json).ok(), Some(raw.into_owned()));
        }
    }

    #[test]
    fn a_document_is_taken_if_rules_can_read_it(text in documents()) {
        let readable = Json::parse(text.as_bytes()).is_ok();
        prop_assert_eq!(json::is_value(&text, MAX_DEPTH), readable, "{}", text);
    }

    #[test]
    fn any_text_is_taken_if_rules_can_read_it(text in any::<String>()) {
        prop_assert_eq!(json::is_value(&text, MAX_DEPTH), Json::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn a_string_reads_back(text in any::<String>()) {
        let (json, decoded) = written(&Type::Text, text.as_bytes());
        prop_assert!(decoded);
        prop_assert_eq!(serde_json::from_str::<String>(&json).ok(), Some(text));
    }

    #[test]
    fn an_array_reads_back(elements in vec(prop::option::of(any::<String>()), 0..6)) {
        let (json, decoded) = written(&array(Type::Text), array_text(&elements).as_bytes());
        prop_assert!(decoded);
        prop_assert_eq!(serde_json::from_str::<Value>(&json).ok(), Some(json!(elements)));
    }

    #[test]
    fn rows_in_arrays_in_a_row_read_back(
        rows in vec(prop::option::of((prop::option::of(any::<String>()), prop::option::of(any::<i32>()))), 0..4),
        text in any::<String>(),
    ) {
        let number = |n: &Option<i32>| n.map(|n| n.to_string());
        let inner: Vec<_> =
            rows.iter().map(|row| row.as_ref().map(|(t, n)| row_text(&[t.clone(), number(n)]))).collect();
        let outer = row_text(&[Some(text.clone()), Some(array_text(&inner))]);
        let element = composite(&[("t", Type::Text), ("n", Type::Integer)]);
        let (json, decoded) = written(&composite(&[("text", Type::Text), ("rows", array(element))]), outer.as_bytes());
        prop_assert!(decoded, "{outer}");
        let rows: Vec<_> = rows.iter().map(|row| row.as_ref().map(|(t, n)| json!({ "t": t, "n": n }))).collect();
        prop_assert_eq!(serde_json::from_str::<Value>(&json).ok(), Some(json!({ "text": text, "rows": rows })));
    }

    #[test]
    fn bytes_read_back(bytes in vec(any::<u8>(), 0..2_000)) {
        let (json, decoded) = written(&Type::Bytea, format!("\\x{}", crate::function::hex(&bytes)).as_bytes());
        prop_assert!(decoded);
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, json.trim_matches('"'));
        prop_assert_eq!(decoded.ok(), Some(bytes));
    }
}
