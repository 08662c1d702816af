//! Templates by example, and that their output is JSON whatever the event.

use proptest::prelude::*;

use super::*;

const EVENT: &str = r#"{"type":"user.signup","n":1.50,"none":null,"data":{"id":7,"name":"a\"b\n","tags":["x",{"y":2}]},
    "odd key":1,"a.b":2,"dup":1,"dup":2,"'":3,"a>b":4}"#;

fn fill(template: &str) -> String {
    let transformer = Transformer::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    let event = Json::parse(EVENT.as_bytes()).expect("JSON");
    String::from_utf8(transformer.apply(&event)).expect("UTF-8")
}

#[test]
fn placeholders_insert_values_outside_strings_and_text_inside() {
    let table = [
        (r#"{"id": <$.data.id>, "t":"<$.type>"}"#, r#"{"id": 7, "t":"user.signup"}"#),
        (r#"{"name":<$.data.name>,"hi":"hi <$.data.name>!"}"#, r#"{"name":"a\"b\n","hi":"hi a\"b\n!"}"#),
        (r#"{"tags":<$.data.tags>,"text":"<$.data.tags>"}"#, r#"{"tags":["x",{"y":2}],"text":"[\"x\",{\"y\":2}]"}"#),
        (r#"[<$.n>,"<$.n>"]"#, r#"[1.50,"1.50"]"#),
        (r#"[<$.missing.x>,"<$.missing.x>"]"#, r#"[null,""]"#),
        (r#"[<$.none>,"<$.none>"]"#, r#"[null,"null"]"#),
        (r#"[<$.data.tags[1].y>,<$.data.tags[9]>,<$.data[0]>]"#, "[2,null,null]"),
        (r#"[<$['odd key']>,<$["a.b"]>,<$['\'']>,<$['a>b']>]"#, "[1,2,3,4]"),
        (r#""<$['odd key']><$[\"a.b\"]>""#, r#""12""#),
        ("<$.dup>", "2"),
        (r#""<$.type> by <$.data.id>""#, r#""user.signup by 7""#),
        (r#"{"a":"1 < 2 <b> \\<$.type> \u003c"}"#, r#"{"a":"1 < 2 <b> <$.type> <"}"#),
        (r#"{"a":"\u00e9\/"}"#, r#"{"a":"\u00e9\/"}"#),
    ];
    for (template, wanted) in table {
        assert_eq!(fill(template), wanted, "{template}");
    }
    assert_eq!(Json::parse(fill("<$>").as_bytes()).map(|json| json.get("n").is_some()), Ok(true));
}

#[test]
fn the_examples_in_the_guide_hold() {
    let guide = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rules.md"));
    let section =
        guide.split("\n## Templates\n").nth(1).and_then(|rest| rest.split("\nOutside").next()).expect("a section");
    let code = |cell: &str| cell.split('`').nth(1).map(str::to_owned);
    let mut rows = section.lines().filter(|line| line.starts_with("| ")).map(|line| {
        let (template, output) = line.split_once(" | ").expect("two cells");
        (code(template), code(output))
    });
    let (_, event) = rows.next().expect("a header");
    let event = Json::parse(event.expect("an event").as_bytes()).expect("JSON");
    let mut held = 0;
    for row in rows {
        if let (Some(template), Some(output)) = row {
            let transformer = Transformer::parse(&template).unwrap_or_else(|error| panic!("{template}: {error}"));
            assert_eq!(String::from_utf8_lossy(&transformer.apply(&event)), output, "{template}");
            held += 1;
        }
    }
    assert!(held >= 6, "{held} rows");
}

#[test]
fn a_bad_template_is_refused_with_the_place() {
    let table = [
        (
            "",
            "the template is not JSON with its placeholders filled in: unexpected end of file, a value was expected at line 1, column 1",
        ),
        (
            "{\n \"a\": <$.x>,}",
            "the template is not JSON with its placeholders filled in: trailing commas are not allowed at line 2, column 13",
        ),
        ("1<$.x>", "the template is not JSON"),
        ("<$.x><$.y>", "the template is not JSON"),
        ("{<$.x>:1}", "the template is not JSON"),
        (r#"{"<$.x>" : 1}"#, "a placeholder cannot be in an object's key at line 1, column 2"),
        (r#"{"a":<name>}"#, "a placeholder is a path: write <$.name> for the event's `name` at line 1, column 6"),
        (r#"{"a":<$.x}"#, "a placeholder is not closed with `>` at line 1, column 6"),
        (r#"{"a":"x <$.y"}"#, "a placeholder is not closed with `>` at line 1, column 6"),
        (r#"{"a":"<aws.events.event>"}"#, "the aws. variables are not supported"),
        (
            r#"{"a":<$.x..y>}"#,
            "path \"$.x..y\": one value only: `*` and `..` are not supported at line 1, column 6 (byte 5)",
        ),
        (r#"{"a":<$.x.*>}"#, "path \"$.x.*\": one value only"),
        (r#"{"a":<$x>}"#, "path \"$x\": expected `.name`, `[0]` or `['name']` at \"x\""),
        (r#"{"a":<$.odd key>}"#, "path \"$.odd key\": write a key with ' ' in it as ['…']"),
        (r#"{"a":<$[-1]>}"#, "path \"$[-1]\": expected an index or a key in quotes after `[`"),
        (r#"{"a":<$[99999999999999999999]>}"#, "path \"$[99999999999999999999]\": index"),
        (r#"{"a":<$['x'>}"#, "path \"$['x'\": a `]` is missing"),
        (r#"{"a":"b}"#, "the template is not JSON"),
    ];
    for (template, wanted) in table {
        let got = Transformer::parse(template).map(drop).expect_err(template).to_string();
        assert!(got.starts_with(wanted), "{template}\n  wanted {wanted}\n  got    {got}");
    }
    let many = format!("[{}]", vec!["<$>"; PLACEHOLDERS_MAX + 1].join(","));
    assert_eq!(Transformer::parse(&many).map(drop), Err(TransformError::TooManyPlaceholders(PLACEHOLDERS_MAX + 1)));
    assert!(matches!(Transformer::parse(&" ".repeat(TEMPLATE_BYTES_MAX + 1)), Err(TransformError::TooLong(_))));
}

/// Text that is often a template.
fn any_template() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<$.a>"),
        Just("<$.b[0]>"),
        Just("<$>"),
        Just("<$['\"']>"),
        Just("\"<$.a>\""),
        Just("\"x<$.a> \\\\<$.b\""),
        Just("\""),
        Just("\\"),
        Just("<"),
        Just(">"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("\"a\":"),
        Just(","),
        Just("1"),
        Just("null"),
        Just("\\u003c"),
        Just("é"),
        Just(" "),
    ];
    prop_oneof![
        prop::collection::vec(piece.clone(), 0..10).prop_map(|pieces| pieces.concat()),
        prop::collection::vec(piece, 1..4).prop_map(|pieces| format!("{{\"k\":[{}]}}", pieces.join(","))),
    ]
}

fn any_event() -> impl Strategy<Value = Json> {
    let leaf =
        prop_oneof![Just(Json::Null), any::<String>().prop_map(Json::String), any::<i64>().prop_map(Json::integer)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec(("[ab\"]", inner), 0..4).prop_map(Json::Object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_accepted_template_always_makes_json(template in any_template(), event in any_event()) {
        if let Ok(transformer) = Transformer::parse(&template) {
            let out = transformer.apply(&event);
            prop_assert!(Json::parse(&out).is_ok(), "{} made {}", template, String::from_utf8_lossy(&out));
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok() || template.contains('1'));
        }
    }

    #[test]
    fn parsing_never_panics(text in any::<String>(), path in "\\$[.\\[\\]'\"\\\\a0*é]{0,8}") {
        let _ = Transformer::parse(&text);
        let _ = Transformer::parse(&format!("\"<{text}>\""));
        let _ = Transformer::parse(&format!("<{path}>"));
        if let Ok(path) = Path::parse(&path) {
            path.select(&Json::Null);
        }
    }
}
