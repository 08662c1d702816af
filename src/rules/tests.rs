//! Planning with the index against the evaluation of every rule.

use bytes::Bytes;
use proptest::prelude::*;

use std::collections::HashMap;

use super::*;

fn rule((trigger, pattern): (Option<&str>, String), number: usize) -> Rule {
    Rule {
        name: format!("rule-{number}"),
        trigger: trigger.map(str::to_owned),
        pattern: Some(pattern),
        target: Target::Publish { bus: "bus".to_owned(), subject: "subject".to_owned() },
        input: None,
        ordering_key: (number.is_multiple_of(3)).then(|| "$.data.a".to_owned()),
        on_failure: OnFailure::default(),
        retry: RetryPolicy::default(),
        rate: None,
        enabled: true,
    }
}

/// What a pattern says of a field.
fn any_field() -> impl Strategy<Value = String> {
    let values = [
        r#""a""#,
        r#""b""#,
        r#""a.b""#,
        "null",
        "1",
        r#"{"prefix":"a"}"#,
        r#"{"suffix":"b"}"#,
        r#"{"exists":true}"#,
        r#"{"exists":false}"#,
        r#"{"anything-but":"a"}"#,
        r#"{"anything-but":["b","a.b"]}"#,
        r#"{"wildcard":"a*"}"#,
        r#"{"equals-ignore-case":"A"}"#,
    ];
    prop::collection::vec(prop::sample::select(values.to_vec()), 1..4)
        .prop_map(|values| format!("[{}]", values.join(",")))
}

fn any_pattern() -> impl Strategy<Value = String> {
    let field = || any_field().boxed();
    prop_oneof![
        field().prop_map(|ty| format!(r#"{{"type":{ty}}}"#)),
        (field(), field()).prop_map(|(ty, a)| format!(r#"{{"type":{ty},"data":{{"a":{a}}}}}"#)),
        field().prop_map(|a| format!(r#"{{"data":{{"a":{a}}}}}"#)),
        (field(), field()).prop_map(|(ty, b)| format!(r#"{{"type":{ty},"data":{{"a":{{"b":{b}}}}}}}"#)),
        (field(), field()).prop_map(|(a, b)| format!(r#"{{"data.a":{a},"data.a.b":{b}}}"#)),
        field().prop_map(|source| format!(r#"{{"source":{source}}}"#)),
        (field(), field()).prop_map(|(ty, below)| format!(r#"{{"type":{ty},"type.a":{below}}}"#)),
        (field(), field()).prop_map(|(one, two)| format!(r#"{{"$or":[{{"type":{one}}},{{"type":{two}}}]}}"#)),
        (field(), field()).prop_map(|(one, a)| format!(r#"{{"$or":[{{"type":{one}}},{{"data":{{"a":{a}}}}}]}}"#)),
        (field(), field(), field())
            .prop_map(|(ty, one, a)| format!(r#"{{"type":{ty},"$or":[{{"type":{one}}},{{"data":{{"a":{a}}}}}]}}"#)),
    ]
}

/// Payloads, with arrays, keys with dots and what is no JSON.
const DATA: [&str; 8] = [
    "",
    r#"{"a":"a"}"#,
    r#"{"a":["b",1]}"#,
    r#"{"a":{"b":null}}"#,
    r#"{"a":[{"b":"a"},{"b":["b"],"c":"a"}]}"#,
    r#"{"a.b":"b","a":"a"}"#,
    "[]",
    "no JSON",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_leaves_out_no_rule_that_matches(
        rules in prop::collection::vec((prop::sample::select(vec![None, Some("one"), Some("two")]), any_pattern()), 0..12),
        ty in prop::sample::select(vec!["a", "b", "a.b", "A", "c"]),
        data in prop::sample::select(DATA.to_vec()),
    ) {
        let rules = rules.into_iter().enumerate().map(|(number, parts)| rule(parts, number)).collect();
        let (set, _) = RuleSet::compile(1, rules, &HashMap::new());
        let event = Arc::new(Event {
            id: "1".to_owned(),
            source: "a".to_owned(),
            ty: ty.to_owned(),
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Vec::new(),
            data: Bytes::from_static(data.as_bytes()),
        });
        let document = document(&event);
        let mut rules: Vec<&Arc<CompiledRule>> = set.rules().collect();
        rules.sort_by_key(|rule| &rule.rule.name);
        let expected: Vec<(&str, Option<String>)> = rules
            .into_iter()
            .filter(|rule| rule.matches("one", &document))
            .map(|rule| (rule.rule.name.as_str(), rule.ordering.as_ref().and_then(|path| key_text(path, &document))))
            .collect();
        let planned = set.plan("one", &event);
        let planned: Vec<(&str, Option<String>)> =
            planned.iter().map(|p| (p.rule.rule.name.as_str(), p.ordering_key.clone())).collect();
        prop_assert_eq!(&planned, &expected);
        prop_assert!(planned.is_empty() || set.listens("one", ty));
    }
}
