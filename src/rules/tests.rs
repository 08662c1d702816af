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

/// What is done to a set between two events.
#[derive(Clone, Debug)]
enum Step {
    Put(usize, Option<&'static str>, String, bool),
    Remove(usize),
    Deploy(u32),
    Merge,
}

fn any_step() -> impl Strategy<Value = Step> {
    let trigger = prop::sample::select(vec![None, Some("one"), Some("two")]);
    // Some do not compile.
    let pattern = prop_oneof![9 => any_pattern(), 1 => Just(r#"{"type":[{"wildcard":"**"}]}"#.to_owned())];
    prop_oneof![
        8 => (0_usize..20, trigger, pattern, prop::bool::weighted(0.8)).prop_map(|(n, t, p, e)| Step::Put(n, t, p, e)),
        3 => (0_usize..20).prop_map(Step::Remove),
        1 => (1_u32..3).prop_map(Step::Deploy),
        1 => Just(Step::Merge),
    ]
}

fn an_event(ty: &str, data: &'static str) -> Arc<Event> {
    Arc::new(Event {
        id: "1".to_owned(),
        source: "a".to_owned(),
        ty: ty.to_owned(),
        subject: None,
        time: None,
        datacontenttype: None,
        dataschema: None,
        extensions: Vec::new(),
        data: Bytes::from_static(data.as_bytes()),
    })
}

fn told(set: &RuleSet, event: &Arc<Event>) -> Vec<(String, Option<u32>)> {
    set.plan("one", event).iter().map(|p| (p.rule.rule.name.clone(), p.rule.version)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_set_plans_what_a_new_one_does(steps in prop::collection::vec(any_step(), 1..40)) {
        let (mut set, _) = RuleSet::compile(0, Vec::new(), &HashMap::new());
        let (mut rows, mut current) = (std::collections::BTreeMap::new(), HashMap::new());
        for (version, step) in (1..).zip(steps) {
            let mut changes = Changes::default();
            match step {
                Step::Put(number, trigger, pattern, enabled) => {
                    let mut rule = Rule { enabled, ..rule((trigger, pattern), number) };
                    if number % 2 == 0 {
                        rule.target = Target::Run { function: "f".to_owned(), version: None };
                    }
                    rows.insert(rule.name.clone(), rule.clone());
                    changes.rules.push(rule);
                }
                Step::Remove(number) => {
                    let name = format!("rule-{number}");
                    rows.remove(&name);
                    changes.gone.push(name);
                }
                Step::Deploy(version) => drop(current.insert("f".to_owned(), version)),
                Step::Merge => set = set.merged(),
            }
            let (changed, mut left_out) = set.with(version, changes, &current);
            set = changed;
            let (new, mut refused) = RuleSet::compile(version, rows.values().cloned().collect(), &current);
            left_out.sort_by(|left, right| left.0.cmp(&right.0));
            refused.sort_by(|left, right| left.0.cmp(&right.0));
            prop_assert_eq!(left_out, refused);
            prop_assert_eq!((set.version, set.len()), (new.version, new.len()));
            for (ty, data) in [("a", r#"{"a":"a"}"#), ("b", r#"{"a":[{"b":"a"},{"b":["b"],"c":"a"}]}"#), ("a.b", "no JSON")] {
                let event = an_event(ty, data);
                prop_assert_eq!(told(&set, &event), told(&new, &event));
                prop_assert_eq!(set.listens("one", ty), new.listens("one", ty));
            }
        }
    }
}

#[test]
fn rules_that_crowd_one_place_are_left_out_and_come_in_when_there_is_room() {
    let row = |number: u32| {
        // The wildcards make each of them expensive.
        let parts: Vec<String> =
            (0..30).map(|n| format!("{{\"wildcard\":\"*{n}*{number}*a*b*c*d*e*f*g*h*\"}}")).collect();
        let pattern = format!(
            r#"{{"type":["t"],"data":{{"a":[{{"anything-but":{{"wildcard":["*{number}*"]}}}}],"b":[{},{{"exists":true}}]}}}}"#,
            parts.join(",")
        );
        Rule { name: format!("rule-{number:04}"), ..rule((None, pattern), 1) }
    };
    let (set, refused) = RuleSet::compile(1, (0..400).map(row).collect(), &HashMap::new());
    let cost = set.rules().next().expect("some are in").cost();
    let room = usize::try_from(crate::pattern::EVENT_COST_MAX / cost).expect("a few");
    assert_eq!((set.len(), refused.len()), (room, 400 - room));
    assert_eq!(refused[0].0, format!("rule-{room:04}"));
    let message = refused[0].1.to_string();
    assert!(
        message
            .starts_with("pattern: there is no room among the other rules: those that ask for the same of type take "),
        "{message}"
    );
    let gone = Changes { gone: vec!["rule-0000".to_owned(), "rule-0001".to_owned()], rules: Vec::new() };
    let (set, refused) = set.with(2, gone, &HashMap::new());
    assert_eq!((set.len(), refused.len()), (room, 398 - room));
}
