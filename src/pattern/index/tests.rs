//! The index against the plain evaluator: random patterns, random events, changes in between, threads.

mod front;
mod threads;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::properties::{any_json, any_pattern, tangled_event, written};
use super::super::{Json, Pattern};
use super::*;

/// The numbers of the patterns that match, as the evaluator says.
pub fn evaluated<'p>(patterns: impl IntoIterator<Item = (&'p u32, &'p Arc<Pattern>)>, event: &Json) -> Vec<u32> {
    patterns.into_iter().filter(|(_, pattern)| pattern.matches(event)).map(|(id, _)| *id).collect()
}

/// The same, as the index says; each number once.
pub fn found(index: &Index, event: &str, scratch: &mut Scratch) -> Vec<u32> {
    let mut found = Vec::new();
    index.find_in_json(event.as_bytes(), scratch, &mut found).unwrap_or_else(|_| panic!("{event} is JSON"));
    found.sort_unstable();
    found
}

/// Texts, numbers and addresses that the values of [`any_values`] tell apart.
const SCALARS: [&str; 24] = [
    "null",
    "true",
    "false",
    "1",
    "1.0",
    "10e-1",
    "2",
    "-0",
    "0",
    "1.5",
    "123456789012345678901234567890123456789012.5",
    "\"\"",
    "\"a\"",
    "\"ab\"",
    "\"abcab\"",
    "\"ABCAB\"",
    "\"Straße\"",
    "\"STRAßE\"",
    "\"com.acme.order.paid\"",
    "\"com.acme.order.new\"",
    "\"10.0.0.1\"",
    "\"10.1.2.3\"",
    "\"fe80::1\"",
    "\"a\\u0062\\ud83d\\ude00\"",
];

/// What a field may be asked to be, each in a list of its own or with others.
const VALUES: [&str; 42] = [
    "null",
    "true",
    "1",
    "1e0",
    "1.5",
    "\"a\"",
    "\"ab\"",
    "\"abcab\"",
    "\"com.acme.order.paid\"",
    "123456789012345678901234567890123456789012.50",
    r#"{"prefix":"a"}"#,
    r#"{"prefix":""}"#,
    r#"{"prefix":"com.acme.order."}"#,
    r#"{"suffix":"b"}"#,
    r#"{"suffix":".paid"}"#,
    r#"{"equals-ignore-case":"abcAB"}"#,
    r#"{"equals-ignore-case":"strasse"}"#,
    r#"{"equals-ignore-case":"straße"}"#,
    r#"{"prefix":{"equals-ignore-case":"STR"}}"#,
    r#"{"suffix":{"equals-ignore-case":"aB"}}"#,
    r#"{"wildcard":"a*"}"#,
    r#"{"wildcard":"*b"}"#,
    r#"{"wildcard":"*bc*"}"#,
    r#"{"wildcard":"a*c*b"}"#,
    r#"{"wildcard":"*"}"#,
    r#"{"wildcard":"com.*.order.*"}"#,
    r#"{"wildcard":"*order*paid*"}"#,
    r#"{"numeric":["=",1]}"#,
    r#"{"numeric":[">",1]}"#,
    r#"{"numeric":["<=",1]}"#,
    r#"{"numeric":[">=",1,"<",2]}"#,
    r#"{"numeric":[">",0,"<",1e30]}"#,
    r#"{"cidr":"10.0.0.0/8"}"#,
    r#"{"cidr":"10.0.0.0/24"}"#,
    r#"{"cidr":"::/0"}"#,
    r#"{"exists":true}"#,
    r#"{"exists":false}"#,
    r#"{"exists":false}"#,
    r#"{"anything-but":"a"}"#,
    r#"{"anything-but":[1,2]}"#,
    r#"{"anything-but":{"prefix":"a"}}"#,
    r#"{"anything-but":{"wildcard":"*c*"}}"#,
];

/// Keys of events and patterns, one of them below another in some.
const KEYS: [&str; 6] = ["type", "data.a", "data.b", "data.a.c", "data.list.x", "data.list.y"];

fn any_values() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(VALUES.to_vec()), 1..4)
        .prop_map(|values| format!("[{}]", values.join(",")))
}

fn any_fields() -> impl Strategy<Value = String> {
    prop::collection::btree_map(prop::sample::select(KEYS.to_vec()), any_values(), 1..4).prop_map(|fields| {
        let members: Vec<String> = fields.iter().map(|(key, values)| format!("\"{key}\":{values}")).collect();
        members.join(",")
    })
}

/// A pattern over [`KEYS`] that is always sound.
pub fn sound_pattern() -> impl Strategy<Value = Arc<Pattern>> {
    let text = prop_oneof![
        3 => any_fields().prop_map(|fields| format!("{{{fields}}}")),
        1 => (any_fields(), any_fields(), any_fields())
            .prop_map(|(all, one, two)| format!(r#"{{{all},"$or":[{{{one}}},{{{two}}}]}}"#)),
    ];
    let parsed =
        text.prop_map(|text| Arc::new(Pattern::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))));
    prop_oneof![30 => parsed, 1 => Just(Arc::new(Pattern::match_all()))]
}

/// An event over [`KEYS`], with arrays.
pub fn fitting_event() -> impl Strategy<Value = String> {
    let scalar = || prop::sample::select(SCALARS.to_vec()).prop_map(str::to_owned);
    let scalars = || prop_oneof![3 => scalar(), 1 => prop::collection::vec(scalar(), 0..4).prop_map(|all| format!("[{}]", all.join(",")))];
    let a = prop_oneof![2 => scalars(), 1 => scalars().prop_map(|c| format!(r#"{{"c":{c}}}"#)), 1 => (scalars(), scalars()).prop_map(|(a, c)| format!(r#"[{a},{{"c":{c}}}]"#))];
    let item = (prop::option::of(scalars()), prop::option::of(scalars())).prop_map(|(x, y)| {
        let members = [("x", x), ("y", y)].into_iter().filter_map(|(key, value)| Some(format!("\"{key}\":{}", value?)));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    });
    let list = prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(",")));
    (prop::option::of(scalar()), prop::option::of(a), prop::option::of(scalars()), prop::option::of(list)).prop_map(
        |(ty, a, b, list)| {
            let data = [("a", a), ("b", b), ("list", list)];
            let data = data.into_iter().filter_map(|(key, value)| Some(format!("\"{key}\":{}", value?)));
            let data = format!("{{{}}}", data.collect::<Vec<_>>().join(" ,\n"));
            ty.map_or_else(|| format!(r#"{{"data":{data}}}"#), |ty| format!(r#"{{"type":{ty},"data":{data}}}"#))
        },
    )
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn any_patterns_are_found_as_evaluated(patterns in prop::collection::vec(any_pattern(), 1..12), event in any_json()) {
        let parsed = patterns.iter().filter_map(|text| Pattern::parse(text).ok()).map(Arc::new);
        let patterns: BTreeMap<u32, Arc<Pattern>> = (0..).step_by(7).zip(parsed).collect();
        let index = Index::new(patterns.clone());
        prop_assert_eq!(found(&index, &written(&event), &mut Scratch::default()), evaluated(&patterns, &event));
    }

    #[test]
    fn tangled_arrays_are_found_as_evaluated(
        patterns in prop::collection::vec(any_pattern(), 1..6),
        fields in prop::collection::vec(prop::collection::btree_map("[ab](\\.[ab]){0,2}", prop::collection::vec("0|1|2|\\{\"exists\":false\\}", 1..3), 1..4), 1..6),
        events in prop::collection::vec(tangled_event(), 1..4),
    ) {
        let tangled = fields.iter().map(|fields| {
            let members: Vec<String> = fields.iter().map(|(path, values)| format!("\"{path}\":[{}]", values.join(","))).collect();
            format!("{{{}}}", members.join(","))
        });
        let parsed = patterns.iter().cloned().chain(tangled).filter_map(|text| Pattern::parse(&text).ok()).map(Arc::new);
        let patterns: BTreeMap<u32, Arc<Pattern>> = (0..).zip(parsed).collect();
        let (index, mut scratch) = (Index::new(patterns.clone()), Scratch::default());
        for event in events {
            prop_assert_eq!(found(&index, &written(&event), &mut scratch), evaluated(&patterns, &event), "{}", written(&event));
        }
    }

    #[test]
    fn sound_patterns_are_found_as_evaluated(
        patterns in prop::collection::vec(sound_pattern(), 1..60),
        events in prop::collection::vec(fitting_event(), 1..6),
    ) {
        let patterns: BTreeMap<u32, Arc<Pattern>> = (3..).zip(patterns).collect();
        let (index, mut scratch) = (Index::new(patterns.clone()), Scratch::default());
        for event in events {
            let parsed = Json::parse(event.as_bytes()).expect("the generator makes JSON");
            prop_assert_eq!(found(&index, &event, &mut scratch), evaluated(&patterns, &parsed), "{}", event);
        }
    }
}

/// What is done to an index between two events.
#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(u32, Option<Arc<Pattern>>)>),
    Merge,
    /// Changes that come while a merge is under way.
    MergeAnd(Vec<(u32, Option<Arc<Pattern>>)>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let change = || prop::collection::vec((0_u32..90, prop::option::weighted(0.7, sound_pattern())), 1..8);
    prop_oneof![6 => change().prop_map(Step::Change), 1 => Just(Step::Merge), 1 => change().prop_map(Step::MergeAnd)]
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn a_changed_index_finds_what_a_new_one_would(
        steps in prop::collection::vec((any_step(), fitting_event()), 1..50),
    ) {
        let (mut index, mut patterns, mut scratch) = (Index::default(), BTreeMap::new(), Scratch::default());
        for (step, event) in steps {
            if let Step::Change(changes) | Step::MergeAnd(changes) = &step {
                for (id, pattern) in changes.clone() {
                    match pattern {
                        Some(pattern) => patterns.insert(id, pattern),
                        None => patterns.remove(&id),
                    };
                }
            }
            index = match step {
                Step::Change(changes) => index.with(changes),
                Step::Merge => index.merged(),
                Step::MergeAnd(changes) => index.merged().with(index.with(changes).changes_since(&index)),
            };
            prop_assert_eq!(index.len(), patterns.len());
            prop_assert!(patterns.iter().all(|(id, pattern)| index.get(*id).is_some_and(|got| Arc::ptr_eq(got, pattern))));
            let parsed = Json::parse(event.as_bytes()).expect("the generator makes JSON");
            prop_assert_eq!(found(&index, &event, &mut scratch), evaluated(&patterns, &parsed), "{}", event);
        }
    }
}

#[test]
fn what_would_cost_an_event_too_much_is_told_last_come_first() {
    let pattern = |text: String| Arc::new(Pattern::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")));
    let same = |n: u32| (n, pattern(format!(r#"{{"type":["order"],"data":{{"n":[{{"anything-but":[{n}]}}]}}}}"#)));
    let index = Index::new((0..100).map(same).chain([(200, pattern(r#"{"type":["other"]}"#.to_owned()))]));
    assert_eq!(index.load(), 200);
    assert_eq!(index.crowded(200, &[]), []);
    let refused = index.crowded(190, &[3]);
    let ids: Vec<u32> = refused.iter().map(|crowded| crowded.id).collect();
    assert_eq!(ids, [96, 97, 98, 99, 3]);
    assert_eq!(refused[0].here, 190);
    assert_eq!(refused[0].fields, ["type"]);
    let always = Index::new((0..10).map(|n| (n, pattern(format!(r#"{{"a{n}":[{{"exists":false}}]}}"#)))));
    assert_eq!(
        always.crowded(8, &[]).iter().map(|crowded| (crowded.here, crowded.fields.len())).collect::<Vec<_>>(),
        [(8, 0); 2]
    );
    // Ranges that no number is in together count together: how many numbers an event has is not known.
    let ranges =
        Index::new((0..10).map(|n| (n, pattern(format!(r#"{{"a":[{{"numeric":[">=",{n},"<",{}]}}]}}"#, n + 1)))));
    assert_eq!(ranges.load(), 10);
}
