//! The language by example: what matches, what is refused, and what the refusal says.

use super::*;

fn matches(pattern: &str, event: &str) -> bool {
    let pattern = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    pattern.matches(&Json::parse(event.as_bytes()).unwrap_or_else(|error| panic!("{event}: {error}")))
}

fn refusal(pattern: &str) -> String {
    match Pattern::parse(pattern) {
        Ok(_) => panic!("{pattern} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_operator_matches_what_it_says() {
    // pattern for the field `a`, values that match, values that do not
    let table: &[(&str, &[&str], &[&str])] = &[
        (r#""x""#, &[r#""x""#, r#"["y","x"]"#], &[r#""X""#, "1", "null", "[]", "{}"]),
        ("true", &["true"], &["false", r#""true""#, "1"]),
        ("null", &["null"], &[r#""null""#, "0", "[]"]),
        ("35", &["35", "35.0", "3.5e1", "350E-1", "35.000e0"], &["35.1", "-35", r#""35""#]),
        ("0", &["0", "-0", "0.0", "0e999999999999", "-0.0E-7"], &["1e-400", "false"]),
        ("9007199254740993", &["9007199254740993"], &["9007199254740992", "9007199254740994"]),
        ("1e400000", &["1e400000", "10e399999"], &["1e400001", "1"]),
        (r#"{"exactly":"x"}"#, &[r#""x""#], &[r#""xx""#]),
        (r#"{"prefix":"ab"}"#, &[r#""ab""#, r#""abc""#], &[r#""xab""#, r#""AB""#, "1"]),
        (r#"{"prefix":{"equals-ignore-case":"aÉ"}}"#, &[r#""AÉx""#, r#""aé""#], &[r#""a""#, r#""xaé""#]),
        (r#"{"suffix":"ab"}"#, &[r#""ab""#, r#""xab""#], &[r#""abx""#, "1"]),
        (r#"{"suffix":{"equals-ignore-case":"éB"}}"#, &[r#""xÉb""#], &[r#""b""#]),
        (r#"{"equals-ignore-case":"Straße"}"#, &[r#""STRAßE""#, r#""straẞe""#], &[r#""STRASSE""#]),
        (r#"{"equals-ignore-case":"kΣ"}"#, &[r#""Kς""#, r#""kσ""#], &[r#""k""#, r#""kσσ""#]),
        (r#"{"wildcard":"a*b*c"}"#, &[r#""abc""#, r#""a-b-b-c""#], &[r#""ac""#, r#""abcd""#, "1"]),
        (r#"{"wildcard":"\\*\\\\*"}"#, &[r#""*\\""#, r#""*\\x""#], &[r#""x\\""#]),
        (r#"{"wildcard":"aba*aba"}"#, &[r#""abaaba""#], &[r#""aba""#, r#""ababa""#]),
        (r#"{"numeric":[">",0,"<=",5]}"#, &["5", "0.1", "1e-400"], &["0", "5.000000000000000000001", r#""3""#]),
        (r#"{"numeric":["=",3.018e2]}"#, &["301.8"], &["301.80000000000000001"]),
        (r#"{"numeric":["<",-1]}"#, &["-1.5", "-1e999"], &["-1", "0"]),
        (r#"{"cidr":"10.0.0.0/8"}"#, &[r#""10.255.0.1""#], &[r#""11.0.0.0""#, r#""::ffff:10.0.0.1""#, r#""10.0.0""#]),
        (r#"{"cidr":"2001:db8::/32"}"#, &[r#""2001:DB8::1""#], &[r#""2001:db9::1""#, r#""10.0.0.1""#]),
        (r#"{"cidr":"10.0.0.1"}"#, &[r#""10.0.0.1""#], &[r#""10.0.0.2""#]),
        (r#"{"exists":true}"#, &["1", "null", r#""""#, "[[0]]"], &["[]", "{}", r#"{"b":1}"#]),
        (r#"{"exists":false}"#, &["[]", "{}", r#"{"b":1}"#], &["1", "null", "[1]"]),
        (r#"{"anything-but":"x"}"#, &[r#""y""#, "1", "null", r#"["x","y"]"#], &[r#""x""#, "[]", "{}"]),
        (r#"{"anything-but":["x","y"]}"#, &[r#""z""#], &[r#""x""#, r#""y""#]),
        (r#"{"anything-but":[1,2.0]}"#, &["3", r#""1""#], &["1.0", "2"]),
        (r#"{"anything-but":null}"#, &["0"], &["null"]),
        (r#"{"anything-but":{"prefix":["a","b"]}}"#, &[r#""c""#, "1"], &[r#""ax""#, r#""b""#]),
        (r#"{"anything-but":{"suffix":"a"}}"#, &[r#""ab""#], &[r#""ba""#]),
        (r#"{"anything-but":{"wildcard":["*a*","*b"]}}"#, &[r#""bc""#], &[r#""xax""#, r#""cb""#]),
        (r#"{"anything-but":{"equals-ignore-case":["A","b"]}}"#, &[r#""c""#], &[r#""a""#, r#""B""#]),
    ];
    for (value, yes, no) in table {
        let pattern = format!(r#"{{"a":[{value}]}}"#);
        for (events, wanted) in [(yes, true), (no, false)] {
            for event in *events {
                assert_eq!(matches(&pattern, &format!(r#"{{"a":{event}}}"#)), wanted, "{pattern} on {event}");
            }
        }
        let absent = value.contains(r#""exists":false"#);
        assert_eq!(matches(&pattern, r#"{"b":1}"#), absent, "{pattern} on an event without the field");
    }
}

#[test]
fn the_examples_in_the_guide_hold() {
    let guide = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rules.md"));
    let section = guide.split("\n## Values\n").nth(1).and_then(|rest| rest.split("\n- ").next()).expect("a section");
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<Vec<String>> = row.trim_matches('|').split(" | ").map(code).collect();
        let [values, yes, no] = cells.as_slice() else { panic!("{row} has not three cells") };
        let pattern = format!(r#"{{"a":[{}]}}"#, values.join(","));
        for (events, wanted) in [(yes, true), (no, false)] {
            for event in events {
                assert_eq!(matches(&pattern, &format!(r#"{{"a":{event}}}"#)), wanted, "{pattern} on {event}");
            }
        }
        rows += 1;
    }
    assert!(rows >= 18, "{rows} rows");
    for pattern in guide.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        assert_eq!(Pattern::parse(pattern).map(drop), Ok(()), "{pattern}");
    }
}

#[test]
fn fields_are_anded_values_are_ored_and_or_is_expanded_at_any_depth() {
    let pattern = r#"{"a":["x","y"],"d":{"n":[1],"$or":[{"p":[1]},{"q":[2],"$or":[{"r":[3]},{"s":[4]}]}]}}"#;
    assert!(matches(pattern, r#"{"a":"y","d":{"n":1,"p":1}}"#));
    assert!(matches(pattern, r#"{"a":"x","d":{"n":1,"q":2,"s":4}}"#));
    assert!(!matches(pattern, r#"{"a":"x","d":{"n":1,"q":2}}"#));
    assert!(!matches(pattern, r#"{"a":"x","d":{"p":1}}"#));
    assert_eq!(Pattern::parse(pattern).map(|pattern| pattern.cost()), Ok(4 + 5 + 5));
}

#[test]
fn fields_below_one_array_match_in_one_element() {
    let pattern = r#"{"m":{"name":["cpu"],"space":["es"]}}"#;
    assert!(matches(pattern, r#"{"m":[{"name":"x"},{"name":"cpu","space":"es"}]}"#));
    assert!(!matches(pattern, r#"{"m":[{"name":"cpu","space":"ec2"},{"name":"x","space":"es"}]}"#));
    let pattern = r#"{"a":{"x":[1],"b":{"y":[2],"z":[{"exists":false}]}}}"#;
    assert!(matches(pattern, r#"{"a":[{"x":1,"b":[{"y":2,"z":3},{"y":2}]}]}"#));
    assert!(!matches(pattern, r#"{"a":[{"x":1,"b":[{"y":2,"z":3}]},{"b":{"y":2}}]}"#));
    let optional = r#"{"a":{"x":[1],"y":[2,{"exists":false}]}}"#;
    assert!(matches(optional, r#"{"a":[{"x":1,"y":3},{"x":1}]}"#));
    assert!(!matches(optional, r#"{"a":[{"x":1,"y":3},{"y":2}]}"#));
    // Many optional fields, half of them in the one element and half in the other.
    let fields: Vec<String> = (0..40).map(|at| format!(r#""f{at}":[1,{{"exists":false}}]"#)).collect();
    let half = |odd: usize| (0..20).map(|at| format!(r#""f{}":1"#, at * 2 + odd)).collect::<Vec<_>>().join(",");
    let pattern = format!(r#"{{"a":{{{}}}}}"#, fields.join(","));
    assert!(matches(&pattern, &format!(r#"{{"a":[{{{},"f1":2}},{{{}}}]}}"#, half(0), half(1))));
    assert!(!matches(&pattern, &format!(r#"{{"a":[{{{},"f1":2}},{{{},"f0":2}}]}}"#, half(0), half(1))));
}

#[test]
fn dots_join_keys_and_every_duplicate_is_seen() {
    assert!(matches(r#"{"a.b":[1]}"#, r#"{"a":{"b":1}}"#));
    assert!(matches(r#"{"a":{"b":[1]}}"#, r#"{"a.b":1}"#));
    assert!(matches(r#"{"":[1],"$":[2],"*":[3],"__proto__":[4]}"#, r#"{"":1,"$":2,"*":3,"__proto__":4}"#));
    assert!(!matches(r#"{"a":{"":[1]}}"#, r#"{"a":1}"#));
    for wanted in ["1", "2"] {
        assert!(matches(&format!(r#"{{"a":[{wanted}]}}"#), r#"{"a":1,"a":2}"#));
    }
    // Within the pattern the last one counts, as in the engine that the dialect comes from.
    assert!(!matches(r#"{"a":[1],"a":[2]}"#, r#"{"a":1}"#));
}

#[test]
fn patterns_are_shared_between_threads() {
    fn shared<T: Clone + std::fmt::Debug + Send + Sync>() {}
    shared::<Pattern>();
    shared::<crate::transform::Transformer>();
}

#[test]
fn match_all_matches_everything() {
    for event in ["{}", "[]", "1", r#"{"a":[{"b":null}]}"#] {
        assert!(Pattern::match_all().matches(&Json::parse(event.as_bytes()).expect("JSON")), "{event}");
    }
}

#[test]
fn refusals_point_at_the_mistake_and_say_what_was_meant() {
    let table = [
        ("{}", "{} matches everything; set match_all = true instead"),
        ("null", "a pattern is an object, not null"),
        (r#"{"a":"x"}"#, r#"/a: expected a list or an object, got a string; wrap the value in a list: ["x"]"#),
        (
            r#"{"a":{"prefix":"x"}}"#,
            r#"/a/prefix: expected a list or an object, got a string; an operator stands in a list: [{"prefix": …}]"#,
        ),
        (
            r#"{"a":{"numeric":[">",1]}}"#,
            r#"/a/numeric: the operator "numeric" is used as a field; an operator stands in a list: [{"numeric": …}]"#,
        ),
        (
            r#"{"a":[]}"#,
            r#"/a: an empty list matches nothing; write [{"exists": false}] for a field that must be absent"#,
        ),
        (r#"{"a":{}}"#, r#"/a: an empty object asks for nothing; write [{"exists": true}] for any value"#),
        (r#"{"a":[["x"]]}"#, "/a/0: a list inside a list; write its values into the outer list"),
        (
            r#"{"data":{"after":{"plan":[{"prefx":"x"}]}}}"#,
            r#"/data/after/plan/0: unknown operator "prefx"; did you mean "prefix"?"#,
        ),
        (r#"{"a":["x",{"not":"y"}]}"#, r#"/a/1: unknown operator "not"; did you mean "anything-but"?"#),
        (
            r#"{"a":[{"equals_ignore_case":"y"}]}"#,
            r#"/a/0: unknown operator "equals_ignore_case"; did you mean "equals-ignore-case"?"#,
        ),
        (r#"{"a":[{"frobnicate":1}]}"#, r#"/a/0: unknown operator "frobnicate""#),
        (r#"{"a/b~c":[{"prefix":3}]}"#, "/a~1b~0c/0/prefix: expected a string, got a number"),
        (r#"{"a":[{"wildcard":"a**b"}]}"#, r"/a/0/wildcard: two stars in a row in "),
        (r#"{"a":[{"wildcard":"a\\"}]}"#, r#"/a/0/wildcard: "a\" ends in a lone backslash"#),
        (
            r#"{"a":[{"numeric":[">",30,"<",1]}]}"#,
            "/a/0/numeric: no number is > 30 and < 1; a range needs its lower bound below its upper bound",
        ),
        (r#"{"a":[{"numeric":["<",1,">",0]}]}"#, r#"/a/0/numeric/0: "<" is not expected here"#),
        (r#"{"a":[{"numeric":["=","4"]}]}"#, "/a/0/numeric/1: expected a number, got a string; write 4 without quotes"),
        (r#"{"a":[{"numeric":["==",4]}]}"#, r#"/a/0/numeric/0: unknown comparison "=="; did you mean "="?"#),
        (r#"{"a":[{"numeric":["<",1e309]}]}"#, r#"/a/0/numeric/1: "1e309" is beyond the range of a double"#),
        (r#"{"a":[{"numeric":[]}]}"#, "/a/0/numeric: an empty list of comparisons"),
        (r#"{"a":[{"cidr":"10.0.0.0/33"}]}"#, r#"/a/0/cidr: "10.0.0.0/33" is not a network"#),
        (r#"{"a":[{"exists":"true"}]}"#, "/a/0/exists: expected true or false, got a string"),
        (r#"{"a":[{"anything-but":["x",1]}]}"#, "/a/0/anything-but/1: strings and numbers in one anything-but"),
        (r#"{"a":[{"anything-but":[]}]}"#, "/a/0/anything-but: an empty list excludes nothing"),
        (r#"{"a":[{"anything-but":{"prefix":["b",""]}}]}"#, "/a/0/anything-but/prefix/1: every string starts and ends"),
        (
            r#"{"a":[{"anything-but":{"sufix":"b"}}]}"#,
            r#"/a/0/anything-but: unknown operator "sufix"; did you mean "suffix"?"#,
        ),
        (r#"{"$or":[{"a":[1]}]}"#, "/$or: $or needs at least two patterns, got 1"),
        (r#"{"$or":[{"a":[1]},{}]}"#, "/$or/1: an empty pattern makes the whole $or match"),
        (r#"{"x":{"$or":[{"a":[1]},[1]]}}"#, "/x/$or/1: expected a pattern, got a list"),
        (r#"{"$OR":[{"a":[1]},{"b":[1]}]}"#, r#"/$OR: unknown operator "$OR"; did you mean "$or"?"#),
        ("{\"a\":[\n1,]}", "the pattern is not JSON: trailing commas are not allowed at line 2, column 3 (byte 9)"),
    ];
    for (pattern, wanted) in table {
        let got = refusal(pattern);
        assert!(got.starts_with(wanted), "{pattern}\n  wanted {wanted}\n  got    {got}");
    }
}

#[test]
fn a_refusal_cannot_forge_a_line_or_move_the_cursor() {
    let table = [
        "{\"a\\n\\u001b[2J\":[{\"\\u202e\\r\":1}]}",
        // JSON takes these as they are, and what was probably meant repeats them.
        "{\"a\":\"\u{7f}\u{9b}2J\u{202e}\"}",
        "{\"prefix\":\"\u{7f}\"}",
        "{\"a\":[{\"numeric\":[\"\u{9b}\",1]}]}",
    ];
    for pattern in table {
        let got = refusal(pattern);
        assert!(got.chars().all(|character| !character.is_control() && character != '\u{202e}'), "{got:?}");
    }
}

#[test]
fn what_is_too_large_is_refused_with_the_number() {
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let or = |count: usize, field: &str| format!("\"$or\":[{}]", list(count, &|at| format!("{{\"{field}\":[{at}]}}")));
    let wide = list(9_000, &|at| at.to_string());
    let table = [
        (format!("{{{}}}", or(10_000, "a")), "/$or: the pattern has 10000 alternatives once $or is expanded"),
        (
            format!("{{{},\"x\":{{{},\"y\":{{{}}}}}}}", or(100, "a"), or(100, "b"), or(100, "c")),
            "/x/$or: the pattern has 10000 alternatives",
        ),
        (format!("{{\"a\":[{}]}}", list(10_001, &|at| at.to_string())), "the pattern has 10001 values; at most 10000"),
        (format!("{{\"a\":[{wide}],{}}}", or(12, "b")), "an event may need 108012 comparisons; at most 100000"),
        (
            format!("{{\"a\":[{{\"wildcard\":\"{}b\"}}]}}", "*a".repeat(100)),
            "/a/0/wildcard: the wildcard has 100 stars",
        ),
        (
            format!("{}[1]{}", "{\"a\":".repeat(1_000), "}".repeat(1_000)),
            "the pattern is not JSON: nested deeper than 128",
        ),
        (format!("{{\"a\":[\"{}\"]}}", "x".repeat(1 << 20)), "the pattern has 1048586 bytes; at most 1048576"),
    ];
    for (pattern, wanted) in table {
        let got = refusal(&pattern);
        assert!(got.starts_with(wanted), "wanted {wanted}\n  got {got}");
    }
}

#[test]
fn json_is_strict_and_its_errors_say_where() {
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Json::parse(deep(MAX_DEPTH).as_bytes()).is_ok());
    let refused: &[&[u8]] = &[
        b"",
        b" ",
        b"{}{}",
        b"\xEF\xBB\xBF{}",
        b"\xFF\xFE{\0}\0",
        b"\"\xC3\"",
        b"\"\xED\xA0\x80\"",
        b"\"a\0b\"",
        b"\"\\ud800\"",
        b"[1,]",
        b"{\"a\":1,}",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"NaN",
        b"-Infinity",
        b"nul",
        b"'a'",
        b"{a:1}",
        b"[1 2]",
        b"\x0b1",
        deep(MAX_DEPTH + 1).leak().as_bytes(),
        "[".repeat(1_000_000).leak().as_bytes(),
        "{\"a\":".repeat(1_000_000).leak().as_bytes(),
    ];
    for bytes in refused {
        assert!(Json::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
    let error = Json::parse("{\n \"é\": tru}".as_bytes()).expect_err("not JSON");
    assert_eq!((error.line, error.column, error.offset), (2, 7, 9));
}

#[test]
fn json_is_written_as_it_was_read() {
    let text = r#"{"a":1.50e+3,"a":[-0,null,true],"":"é\"\\\n\u0001/😀"}"#;
    let json = Json::parse(text.as_bytes()).expect("JSON");
    let mut written = Vec::new();
    json.write(&mut written);
    assert_eq!(String::from_utf8_lossy(&written), text);
    assert!(matches!(json.get("a"), Some(Json::Array(_))), "the last duplicate wins");
    let built = Json::object(vec![
        ("s".to_owned(), Json::string("x")),
        ("b".to_owned(), Json::bool(false)),
        ("i".to_owned(), Json::integer(i64::MIN)),
        ("n".to_owned(), Json::null()),
    ]);
    written.clear();
    built.write(&mut written);
    assert_eq!(written, br#"{"s":"x","b":false,"i":-9223372036854775808,"n":null}"#);
}

#[test]
fn hostile_wildcards_and_events_stay_cheap() {
    let started = std::time::Instant::now();
    let wildcard = format!(r#"{{"a":[{{"wildcard":"{}b"}}]}}"#, "*a".repeat(32));
    assert!(!matches(&wildcard.replace("*ab", "ab"), &format!(r#"{{"a":"{}"}}"#, "a".repeat(1 << 20))));
    // Fields that each may lie in either of two arrays: the tangle that a search could drown in.
    let fields: Vec<String> = (0..20).map(|at| format!(r#""b.c.f{at}":[1,{{"exists":false}}]"#)).collect();
    let twos = (0..20).map(|at| format!(r#""f{at}":2"#)).collect::<Vec<_>>().join(",");
    let element = format!(r#"{{"b":[{{"c":{{{twos}}}}}],"b.c":[{{{twos}}}]}}"#);
    let event = format!(r#"{{"a":[{}]}}"#, vec![element; 20].join(","));
    assert!(!matches(&format!(r#"{{"a":{{{}}}}}"#, fields.join(",")), &event));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
