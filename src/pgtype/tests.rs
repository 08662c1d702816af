//! What a value becomes, by table.

mod properties;

use super::*;

pub(super) fn written(ty: &Type, text: &[u8]) -> (String, bool) {
    let mut out = b"before".to_vec();
    let decoded = write(&mut out, ty, text);
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    (text.strip_prefix("before").expect("what was there stays").to_owned(), decoded)
}

pub(super) fn array(element: Type) -> Type {
    Type::Array { element: Arc::new(element), delimiter: b',' }
}

pub(super) fn composite(attributes: &[(&str, Type)]) -> Type {
    Type::Composite(attributes.iter().map(|(name, ty)| ((*name).to_owned(), Arc::new(ty.clone()))).collect())
}

fn assert_decodes(ty: &Type, table: &[(&str, &str)]) {
    for (text, json) in table {
        assert_eq!(written(ty, text.as_bytes()), ((*json).to_owned(), true), "{ty:?} of {text}");
    }
}

fn assert_stays_text(ty: &Type, table: &[&str]) {
    for text in table {
        let expected = serde_json::to_string(text).expect("a string");
        assert_eq!(written(ty, text.as_bytes()), (expected, false), "{ty:?} of {text}");
    }
}

#[test]
fn booleans_and_integers_are_what_they_are() {
    assert_decodes(&Type::Boolean, &[("t", "true"), ("f", "false")]);
    assert_stays_text(&Type::Boolean, &["", "true", "T", "1"]);
    let integers = ["0", "-1", "9007199254740993", "-9223372036854775808", "9223372036854775807"];
    assert_decodes(&Type::Integer, &integers.map(|text| (text, text)));
    assert_stays_text(&Type::Integer, &["", "-", "01", "+1", "1.0", "1e3", " 1", "0x1", "--1", "NaN", "１"]);
}

#[test]
fn numbers_keep_their_digits_and_others_become_strings() {
    let numbers =
        ["0", "-0", "0.00", "-123.4500", "1e+30", "2.2250738585072014e-308", "12345678901234567890.123456789"];
    let names = [("NaN", "\"NaN\""), ("Infinity", "\"Infinity\""), ("-Infinity", "\"-Infinity\"")];
    let longest = format!("{}.{}", "9".repeat(131_072), "1".repeat(16_383));
    for ty in [Type::Float, Type::Numeric] {
        assert_decodes(&ty, &numbers.map(|text| (text, text)));
        assert_decodes(&ty, &names);
        assert_decodes(&ty, &[(&longest, &longest)]);
        assert_stays_text(
            &ty,
            &["", "-", ".5", "1.", "01", "00", "1e", "1e+", "+1", "nan", "inf", "1,5", "-NaN", "1 "],
        );
    }
}

#[test]
fn bytes_are_base64() {
    let table = [("\\x", "\"\""), ("\\x00", "\"AA==\""), ("\\x00ff", "\"AP8=\""), ("\\x00FF10", "\"AP8Q\"")];
    assert_decodes(&Type::Bytea, &table);
    assert_stays_text(&Type::Bytea, &["", "00", "\\x0", "\\xzz", "\\X00", "abc\\000", "\\x00 "]);
    let long: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (json, decoded) = written(&Type::Bytea, format!("\\x{}", crate::function::hex(&long)).as_bytes());
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &long);
    assert_eq!((json, decoded), (format!("\"{encoded}\""), true));
}

#[test]
fn timestamps_have_the_form_that_the_servers_own_json_has() {
    let plain = [
        ("2026-01-31 12:00:00", "\"2026-01-31T12:00:00\""),
        ("2026-01-31 12:00:00.5", "\"2026-01-31T12:00:00.5\""),
        ("0044-03-15 00:00:00.000001 BC", "\"0044-03-15T00:00:00.000001 BC\""),
        ("294276-12-31 23:59:59.999999", "\"294276-12-31T23:59:59.999999\""),
        ("infinity", "\"infinity\""),
        ("-infinity", "\"-infinity\""),
    ];
    assert_decodes(&Type::Timestamp, &plain);
    let zoned = [
        ("2026-01-31 12:00:00.5+00", "\"2026-01-31T12:00:00.5+00:00\""),
        ("2026-01-31 12:00:00-03:30", "\"2026-01-31T12:00:00-03:30\""),
        ("1883-11-18 12:03:57-04:56:02", "\"1883-11-18T12:03:57-04:56:02\""),
        ("4713-11-24 00:00:00+00 BC", "\"4713-11-24T00:00:00+00:00 BC\""),
        ("infinity", "\"infinity\""),
    ];
    assert_decodes(&Type::TimestampTz, &zoned);
    let neither = [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "Sat Jan 31 12:00:00 2026",
        "31/01/2026 12:00:00",
        "26-01-31 12:00:00",
        "2026-01-31 12:00",
        "2026-01-31 12:00:00.",
        "2026-01-31 12:00:00.1234567",
        "2026-01-31 12:00:00 AD",
        "2026-01-31 12:00:00+0",
        "2026-01-31 12:00:00 +00",
        "2026-01-31 12:00:00\"x",
    ];
    for ty in [Type::Timestamp, Type::TimestampTz] {
        assert_stays_text(&ty, &neither);
    }
    assert_stays_text(&Type::Timestamp, &["2026-01-31 12:00:00+00"]);
    assert_stays_text(&Type::TimestampTz, &["2026-01-31 12:00:00"]);
}

#[test]
fn text_is_escaped_as_json_demands_and_no_more() {
    let table = [
        ("", r#""""#),
        ("a/b é 漢 \u{1f600} \u{7f}\u{80}\u{2028}", "\"a/b é 漢 \u{1f600} \u{7f}\u{80}\u{2028}\""),
        ("\"\\\n\r\t\u{8}\u{c}", r#""\"\\\n\r\t\b\f""#),
        ("\u{1}x\u{1f}", r#""\u0001x\u001f""#),
    ];
    assert_decodes(&Type::Text, &table);
    assert_eq!(written(&Type::Text, b"a\xffb"), ("\"a\u{fffd}b\"".to_owned(), false));
}

#[test]
fn documents_are_embedded_as_they_stand() {
    let documents = [
        "null",
        " {\"a\" : 1,\"a\":1.0e5}\n",
        r#"[true,false,null,-0,"\u00e9\ud83d\ude00\/",{}, [ ] ]"#,
        r#""\u0000""#,
        "123456789012345678901234567890.5",
    ];
    assert_decodes(&Type::Json, &documents.map(|text| (text, text)));
    let broken = [
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "[1 2]",
        "1 2",
        "01",
        "nul",
        "nulll",
        "'a'",
        "\"\u{1}\"",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\n\"",
        "\"\\udc00\"",
        "[1]]",
        "{]",
        "[}",
        "\u{feff}1",
        "NaN",
        "[1",
        "{\"a\":1",
        "\"\\",
    ];
    assert_stays_text(&Type::Json, &broken);
    assert_eq!(written(&Type::Json, b"\"\xff\""), (serde_json::to_string("\"\u{fffd}\"").expect("text"), false));
}

#[test]
fn arrays_nest_quote_and_have_holes() {
    let integers = [
        ("{}", "[]"),
        ("{1}", "[1]"),
        ("{1,NULL,-3}", "[1,null,-3]"),
        ("{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        ("{{{1}},{{2}}}", "[[[1]],[[2]]]"),
        ("[0:1]={1,2}", "[1,2]"),
        ("[-5:-4][2:2]={{1},{2}}", "[[1],[2]]"),
    ];
    assert_decodes(&array(Type::Integer), &integers);
    let texts = [
        (r#"{a,"b c","",NULL,"NULL",null}"#, r#"["a","b c","",null,"NULL",null]"#),
        (r#"{"a\"b\\","{x}",","}"#, r#"["a\"b\\","{x}",","]"#),
        ("{\"é\n\"}", "[\"é\\n\"]"),
        ("{a b}", "[\"a b\"]"),
    ];
    assert_decodes(&array(Type::Text), &texts);
    assert_decodes(&array(Type::Json), &[(r#"{"{\"a\": [1, \"x\"]}",NULL,1}"#, r#"[{"a": [1, "x"]},null,1]"#)]);
    assert_decodes(&array(Type::Bytea), &[(r#"{"\\x00ff"}"#, r#"["AP8="]"#)]);
    assert_decodes(&array(array(Type::Integer)), &[(r#"{"{1,2}","{}"}"#, "[[1,2],[]]")]);
    let boxes = Type::Array { element: Arc::new(Type::Text), delimiter: b';' };
    assert_decodes(&boxes, &[("{(1,1),(0,0);(2,2),(1,1)}", r#"["(1,1),(0,0)","(2,2),(1,1)"]"#)]);
    let broken = [
        "", "1", "{", "}", "{1", "{1,}", "{,1}", "{1,,2}", "{1}}", "{{1}", "{1}x", "{1}{2}", "{\"1", "{\"1\\",
        "{\"1\"2}", "{1{2}}", "{{1}2}", "[0:1]{1}", "[0:1={1}", "[a]={1}", "[0:1]=", "{x}", "{a\"b}", "{1;2}",
        "{NULLS}",
    ];
    assert_stays_text(&array(Type::Integer), &broken);
}

#[test]
fn vectors_of_the_catalogues_have_spaces() {
    let vector = Type::Vector(Arc::new(Type::Integer));
    assert_decodes(&vector, &[("", "[]"), ("1", "[1]"), ("1 -2 3", "[1,-2,3]")]);
    assert_stays_text(&vector, &[" ", "1  2", "1,2", "a"]);
}

#[test]
fn composites_become_objects() {
    let pair = composite(&[("n", Type::Integer), ("t\"", Type::Text)]);
    let table = [
        ("(1,a)", r#"{"n":1,"t\"":"a"}"#),
        ("(,)", r#"{"n":null,"t\"":null}"#),
        (r#"(1,"")"#, r#"{"n":1,"t\"":""}"#),
        (r#"(1,"a ""b"" \\, (c)")"#, r#"{"n":1,"t\"":"a \"b\" \\, (c)"}"#),
        (r#"(1,"a\"b")"#, r#"{"n":1,"t\"":"a\"b"}"#),
        ("(1, a )", r#"{"n":1,"t\"":" a "}"#),
    ];
    assert_decodes(&pair, &table);
    let broken = [
        "",
        "()",
        "(1)",
        "(1,a",
        "1,a)",
        "(1,a,b)",
        "(1,a)x",
        "(1,\"a)",
        "(1,\"a\"b)",
        "(x,a)",
        "(1,a\\)",
        "(1,(a))",
        "(1,\"a\\",
        "(1,a,)",
    ];
    assert_stays_text(&pair, &broken);
    assert_decodes(&composite(&[]), &[("()", "{}")]);
    assert_stays_text(&composite(&[]), &["(,)", "(a)", "("]);
    assert_decodes(&composite(&[("a", Type::Text)]), &[("()", r#"{"a":null}"#), ("(x)", r#"{"a":"x"}"#)]);

    let deep = composite(&[("p", pair.clone()), ("ps", array(pair)), ("j", Type::Json)]);
    let text = r#"("(1,""a """"q"""""")","{""(1,a)"",NULL,""(2,\\""b,c\\"")""}","{""k"": [1]}")"#;
    let json = r#"{"p":{"n":1,"t\"":"a \"q\""},"ps":[{"n":1,"t\"":"a"},null,{"n":2,"t\"":"b,c"}],"j":{"k": [1]}}"#;
    assert_decodes(&deep, &[(text, json)]);
}

#[test]
fn one_bad_part_leaves_the_whole_value_as_text() {
    assert_stays_text(&array(Type::Json), &["{1,x}"]);
    assert_stays_text(&composite(&[("a", Type::Boolean)]), &["(maybe)"]);
    let mut text = b"{a,\xff}".to_vec();
    assert_eq!(written(&array(Type::Text), &text), ("\"{a,\u{fffd}}\"".to_owned(), false));
    text[3] = b'"';
    assert!(!written(&array(Type::Text), &text).1);
}

#[test]
fn what_nests_too_deep_is_text() {
    let document = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(written(&Type::Json, document(MAX_DEPTH).as_bytes()).1);
    assert!(!written(&Type::Json, document(MAX_DEPTH + 1).as_bytes()).1);
    assert!(!written(&Type::Json, "[".repeat(1_000_000).as_bytes()).1);
    let braces = |depth: usize| format!("{}{}", "{".repeat(depth), "}".repeat(depth));
    assert!(written(&array(Type::Integer), braces(MAX_DEPTH).as_bytes()).1);
    assert!(!written(&array(Type::Integer), braces(MAX_DEPTH + 1).as_bytes()).1);
    assert!(!written(&array(Type::Integer), braces(1_000_000).as_bytes()).1);

    // In layers: what stands within a value counts with what stands around it.
    let around = composite(&[("a", Type::Json)]);
    let row = |depth: usize| format!("({})", document(depth));
    assert!(written(&around, row(MAX_DEPTH - 1).as_bytes()).1);
    assert!(!written(&around, row(MAX_DEPTH).as_bytes()).1);

    let nested = |depth: usize| (0..depth).fold(Type::Integer, |ty, _| composite(&[("a", ty)]));
    assert!(!written(&nested(100_000 / 1_000), b"(x)").1);
    let mut text = "7".to_owned();
    for _ in 0..3 {
        text = format!("(\"{}\")", text.replace('\\', "\\\\").replace('"', "\"\""));
    }
    assert_decodes(&nested(3), &[(&text, r#"{"a":{"a":{"a":7}}}"#)]);
}

#[test]
fn every_server_has_these_types() {
    let types = Types::new();
    let name = |oid| types.get(oid).expect("it is built in");
    assert_eq!(*name(20), Type::Integer);
    assert_eq!(*name(1231), array(Type::Numeric));
    assert_eq!(*name(1020), Type::Array { element: Arc::new(Type::Text), delimiter: b';' }, "boxes");
    assert_eq!(*name(22), Type::Vector(Arc::new(Type::Integer)));
    assert_eq!(types.get(16_384), None);
    assert_eq!(types.missing([20, 1231, 16_384, 0]), [0, 16_384]);
}

fn row(oid: u32, kind: char) -> TypeRow {
    TypeRow { oid, kind, element: 0, base: 0, delimiter: ',', attributes: Vec::new() }
}

#[test]
fn a_type_is_known_once_all_that_it_is_made_of_is() {
    let mut types = Types::new();
    let attributes = vec![("n".to_owned(), 23), ("moods".to_owned(), 20_002)];
    types.learn([TypeRow { attributes, ..row(20_003, 'c') }, TypeRow { base: 20_003, ..row(20_004, 'd') }]);
    assert_eq!(types.get(20_004), None);
    assert_eq!(types.missing([20_004]), [20_002], "what it is made of in the end");
    types.learn([TypeRow { element: 20_001, ..row(20_002, 'b') }]);
    assert_eq!(types.missing([20_004, 20_003]), [20_001]);
    types.learn([row(20_001, 'e')]);
    assert_eq!(types.missing([20_004, 20_003]), [] as [u32; 0]);
    let expected = composite(&[("n", Type::Integer), ("moods", array(Type::Text))]);
    assert_eq!(types.get(20_004).as_deref(), Some(&expected));
    assert_eq!(types.get(20_003).as_deref(), Some(&expected));
}

#[test]
fn a_type_that_changed_is_learnt_anew() {
    let mut types = Types::new();
    let attributes = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 25)).collect();
    types.learn([TypeRow { attributes: attributes(&["a"]), ..row(20_001, 'c') }]);
    types.learn([TypeRow { element: 20_001, ..row(20_002, 'b') }]);
    types.learn([TypeRow { attributes: attributes(&["a", "b"]), ..row(20_001, 'c') }]);
    let changed = composite(&[("a", Type::Text), ("b", Type::Text)]);
    assert_eq!(types.get(20_002).as_deref(), Some(&array(changed)), "and with it what is made of it");
}

#[test]
fn every_kind_of_type_has_its_meaning() {
    let mut types = Types::new();
    types.learn([row(1, 'b'), row(2, 'e'), row(3, 'r'), row(4, 'm'), row(5, 'p'), row(6, '?')]);
    for oid in 1..=4 {
        assert_eq!(types.get(oid).as_deref(), Some(&Type::Text));
    }
    assert_eq!((types.get(5), types.get(6)), (None, None), "no column has such a type");
    assert_eq!(types.missing([5, 6]), [] as [u32; 0], "asking again would not help");
}

#[test]
fn a_catalogue_that_goes_in_circles_leaves_its_types_unknown() {
    let mut types = Types::new();
    let both = vec![("x".to_owned(), 20_001), ("y".to_owned(), 20_002)];
    types.learn([
        TypeRow { attributes: both.clone(), ..row(20_001, 'c') },
        TypeRow { attributes: both, ..row(20_002, 'c') },
        TypeRow { base: 20_003, ..row(20_003, 'd') },
    ]);
    for oid in 20_001..=20_003 {
        assert_eq!(types.get(oid), None);
        assert_eq!(types.missing([oid]), [] as [u32; 0]);
    }
}
