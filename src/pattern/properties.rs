//! Properties of the language, on random patterns and events, against brute force.
//!
//! Invariant: what is compared against here is written from the definition, tries everything, and shares no code with
//! what it checks.

use proptest::prelude::*;

use super::*;

/// Any JSON, over few keys so that patterns meet events, with dots and duplicates.
pub fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        (-3_i64..4).prop_map(Json::integer),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,40})?".prop_map(Json::Number),
        "[ab*\\\\]{0,3}".prop_map(Json::String),
        any::<String>().prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop_oneof!["[ab]", Just("a.b".to_owned()), Just("$or".to_owned()), "[a-z-]{1,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::vec((key, inner), 0..5).prop_map(Json::Object),
        ]
    })
}

pub fn written(json: &Json) -> String {
    let mut out = Vec::new();
    json.write(&mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// One value of a pattern, mostly well-formed.
fn any_value() -> impl Strategy<Value = String> {
    let word = "[ab]{0,3}";
    prop_oneof![
        any_json().prop_map(|json| written(&json)),
        (-3_i64..4).prop_map(|number| number.to_string()),
        word.prop_map(|word| format!("\"{word}\"")),
        ("prefix|suffix|equals-ignore-case|wildcard|exactly", "[ab*]{0,4}")
            .prop_map(|(name, text)| format!("{{\"{name}\":\"{text}\"}}")),
        ("prefix|suffix", word)
            .prop_map(|(name, text)| format!("{{\"{name}\":{{\"equals-ignore-case\":\"{text}\"}}}}")),
        ("<=|>=|=|<|>", -3_i64..4).prop_map(|(sign, number)| format!("{{\"numeric\":[\"{sign}\",{number}]}}")),
        any::<bool>().prop_map(|exists| format!("{{\"exists\":{exists}}}")),
        "[0-9.]{0,3}[0-9.:/]{3,9}".prop_map(|text| format!("{{\"cidr\":\"{text}\"}}")),
        word.prop_map(|word| format!("{{\"anything-but\":\"{word}\"}}")),
        ("prefix|suffix|wildcard", "[ab*]{1,4}")
            .prop_map(|(name, text)| format!("{{\"anything-but\":{{\"{name}\":[\"{text}\"]}}}}")),
    ]
}

/// A pattern, mostly well-formed.
pub fn any_pattern() -> impl Strategy<Value = String> {
    let leaf = prop::collection::vec(any_value(), 1..4).prop_map(|values| format!("[{}]", values.join(",")));
    let object = |inner: BoxedStrategy<String>| {
        prop::collection::vec(("[ab]|a\\.b", inner), 1..4).prop_map(|members| {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        })
    };
    let fields = leaf.prop_recursive(3, 16, 3, move |inner| {
        let plain = object(inner.boxed()).boxed();
        let or = prop::collection::vec(plain.clone(), 2..4).prop_map(|all| format!("{{\"$or\":[{}]}}", all.join(",")));
        prop_oneof![plain, or]
    });
    object(fields.boxed())
}

/// Whether a pointer names a value, any of those of a duplicated key.
fn leads_somewhere(json: &Json, pointer: &str) -> bool {
    let Some(rest) = pointer.strip_prefix('/') else {
        return pointer.is_empty();
    };
    let (step, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let key = step.replace("~1", "/").replace("~0", "~");
    match json {
        Json::Object(members) => members.iter().any(|(name, value)| *name == key && leads_somewhere(value, rest)),
        Json::Array(items) => {
            step.parse::<usize>().is_ok_and(|at| items.get(at).is_some_and(|item| leads_somewhere(item, rest)))
        }
        _ => false,
    }
}

/// A wildcard that tries every split at each star.
fn naive_wildcard(wildcard: &[char], text: &[char]) -> bool {
    match (wildcard, text) {
        ([], _) => text.is_empty(),
        (['*', rest @ ..], _) => (0..=text.len()).any(|skip| naive_wildcard(rest, &text[skip..])),
        (['\\', literal, rest @ ..], [first, text @ ..]) | ([literal, rest @ ..], [first, text @ ..]) => {
            literal == first && naive_wildcard(rest, text)
        }
        _ => false,
    }
}

/// A number as text, and times 10^12 as an integer.
fn any_number() -> impl Strategy<Value = (String, i128)> {
    (-2_000_i128..2_000, -12_i32..9, 0_usize..4, 0..3).prop_map(|(digits, exponent, zeros, form)| {
        let scaled = digits * 10_i128.pow(u32::try_from(exponent + 12).expect("not negative"));
        let sign = if digits < 0 { "-" } else { "" };
        let padding = "0".repeat(zeros);
        let text = match form {
            0 => format!("{digits}e{exponent}"),
            1 => format!("{digits}.0{padding}E{exponent:+}"),
            _ => {
                let (whole, part) = (scaled.abs() / 10_i128.pow(12), scaled.abs() % 10_i128.pow(12));
                format!("{sign}{whole}.{part:012}{padding}")
            }
        };
        (text, scaled)
    })
}

/// A scalar of an event: its joined path, the elements that it lies in (array, element), its text.
#[derive(Debug)]
struct Leaf {
    path: String,
    within: Vec<((usize, String), usize)>,
    text: String,
}

/// All scalars of an event. An array is known by the element that holds it and its path.
fn flatten(json: &Json, path: &str, within: &[((usize, String), usize)], next: &mut usize, leaves: &mut Vec<Leaf>) {
    match json {
        Json::Object(members) => {
            for (key, value) in members {
                let below = if path == "^" { format!("^{key}") } else { format!("{path}.{key}") };
                flatten(value, &below, within, next, leaves);
            }
        }
        Json::Array(items) => {
            for item in items {
                let mut deeper = within.to_vec();
                if matches!(item, Json::Array(_) | Json::Object(_)) {
                    *next += 1;
                    deeper.push(((within.last().map_or(0, |(_, element)| *element), path.to_owned()), *next));
                }
                flatten(item, path, &deeper, next, leaves);
            }
        }
        scalar => leaves.push(Leaf { path: path.to_owned(), within: within.to_vec(), text: written(scalar) }),
    }
}

fn compatible(chosen: &[&Leaf], leaf: &Leaf) -> bool {
    let inside = |leaf: &Leaf| leaf.within.clone();
    chosen
        .iter()
        .flat_map(|leaf| inside(leaf))
        .all(|(array, element)| leaf.within.iter().all(|(other, at)| *other != array || *at == element))
}

/// Tries every leaf for every field, `null` in a field's list standing for its absence.
fn brute_force<'a>(
    fields: &[(String, Vec<String>)],
    leaves: &'a [Leaf],
    chosen: &mut Vec<&'a Leaf>,
    absent: &mut Vec<&'a str>,
    names: &'a [String],
) -> bool {
    let Some(((path, values), rest)) = fields.split_first() else {
        return !leaves.iter().any(|leaf| absent.contains(&leaf.path.as_str()) && compatible(chosen, leaf));
    };
    for leaf in leaves {
        if leaf.path == *path && values.contains(&leaf.text) && compatible(chosen, leaf) {
            chosen.push(leaf);
            let found = brute_force(rest, leaves, chosen, absent, names);
            chosen.pop();
            if found {
                return true;
            }
        }
    }
    if !values.iter().any(|value| value == "null") {
        return false;
    }
    absent.extend(names.iter().find(|name| *name == path).map(String::as_str));
    let found = brute_force(rest, leaves, chosen, absent, names);
    absent.pop();
    found
}

/// Small events, arrays at every turn.
pub fn tangled_event() -> impl Strategy<Value = Json> {
    let leaf = (0_i64..3).prop_map(Json::integer);
    let event = leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![4 => "[ab]", 1 => Just("a.b".to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec((key, inner), 1..4).prop_map(Json::Object),
        ]
    });
    prop::collection::vec(("[ab]", event), 1..3).prop_map(Json::Object)
}

/// Fields by path, each with its values; `null` stands for absence.
fn tangled_fields() -> impl Strategy<Value = std::collections::BTreeMap<String, Vec<String>>> {
    prop::collection::btree_map("[ab](\\.[ab]){0,2}", prop::collection::vec("0|1|2|null", 1..3), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Json::parse(&bytes);
        let _ = Pattern::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn parsing_never_panics_on_almost_json(text in "[\\[\\]{}:,\"a\\\\u0-9eE.+-]{0,24}") {
        let ours = Json::parse(text.as_bytes());
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} and {:?}", ours, theirs);
    }

    #[test]
    fn json_survives_writing_and_reading(json in any_json()) {
        let text = written(&json);
        let again = Json::parse(text.as_bytes());
        prop_assert_eq!(again.map(|json| written(&json)), Ok(text));
    }

    #[test]
    fn an_accepted_pattern_matches_anything_without_panicking(pattern in any_pattern(), event in any_json()) {
        match Pattern::parse(&pattern) {
            Ok(pattern) => {
                let _ = pattern.matches(&event);
                prop_assert!(pattern.cost() > 0 && pattern.cost() <= COST_MAX);
            }
            Err(error) => {
                let json = Json::parse(pattern.as_bytes()).expect("the generator makes JSON");
                prop_assert!(leads_somewhere(&json, &error.pointer), "{} in {}", error, pattern);
            }
        }
    }

    #[test]
    fn a_wildcard_is_as_if_every_split_were_tried(wildcard in "([ab]|\\*|\\\\[*\\\\]){0,7}", text in "[ab*\\\\]{0,8}") {
        let characters = |text: &str| text.chars().collect::<Vec<_>>();
        match Wildcard::parse(&wildcard) {
            Ok(parsed) => prop_assert_eq!(parsed.matches(&text), naive_wildcard(&characters(&wildcard), &characters(&text))),
            Err(error) => prop_assert_eq!(error, wildcard::WildcardError::TwoStars),
        }
    }

    #[test]
    fn decimals_compare_as_integers_of_one_scale((left, scaled_left) in any_number(), (right, scaled_right) in any_number()) {
        prop_assert_eq!(Decimal::parse(&left).cmp(&Decimal::parse(&right)), scaled_left.cmp(&scaled_right), "{} and {}", left, right);
        let pattern = format!(r#"{{"a":[{{"numeric":["<=",{right}]}}]}}"#);
        let event = Json::object(vec![("a".to_owned(), Json::Number(left))]);
        prop_assert_eq!(Pattern::parse(&pattern).map(|pattern| pattern.matches(&event)), Ok(scaled_left <= scaled_right));
    }

    #[test]
    fn arrays_match_as_if_every_choice_were_tried(event in tangled_event(), fields in tangled_fields()) {
        let members: Vec<String> = fields
            .iter()
            .map(|(path, values)| format!("\"{path}\":[{}]", values.join(",").replace("null", "{\"exists\":false}")))
            .collect();
        let pattern = Pattern::parse(&format!("{{{}}}", members.join(","))).expect("a pattern");
        let mut leaves = Vec::new();
        flatten(&event, "^", &[], &mut 0, &mut leaves);
        let fields: Vec<_> = fields.into_iter().map(|(path, values)| (format!("^{path}"), values)).collect();
        let names: Vec<String> = fields.iter().map(|(path, _)| path.clone()).collect();
        let wanted = brute_force(&fields, &leaves, &mut Vec::new(), &mut Vec::new(), &names);
        prop_assert_eq!(pattern.matches(&event), wanted, "{:?} on {}", fields, written(&event));
    }
}
