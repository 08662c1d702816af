//! Whoever may publish names the types of events: a million of them cost a bounded number of rows.

use oncue::store::settle::{Group, OTHER_TYPES, Unmatched};

use crate::support::World;

/// What is counted apart for a trigger and a day.
const TYPES: i64 = 1_000;

fn group(trigger: &str, types: impl Iterator<Item = String>) -> Group {
    let unmatched = |event_type| Unmatched {
        trigger: trigger.to_owned(),
        event_type,
        count: 1,
        sample: Some(br#"{"id":"1"}"#.to_vec()),
    };
    Group { unmatched: types.map(unmatched).collect(), ..Group::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_types_is_counted_in_a_bounded_number_of_rows() {
    let world = World::start().await;
    let store = world.store();
    store.settle("one", &group("a", ["known".to_owned()].into_iter())).await.expect("it is counted");
    for round in 0..50 {
        let new = (0..999).map(|n| format!("type.{round}.{n}")).chain(["known".to_owned()]);
        store.settle("one", &group("a", new)).await.expect("they are counted");
    }
    assert_eq!(world.number("select count(*) from oncue.unmatched").await, TYPES + 1, "the rest is one row");
    assert_eq!(world.number("select sum(count) from oncue.unmatched").await, 50_001, "each was counted once");
    let of = |event_type: &str| format!("select sum(count) from oncue.unmatched where event_type = '{event_type}'");
    assert_eq!(world.number(&of("known")).await, 51, "what was known goes on");
    assert_eq!(world.number(&of(OTHER_TYPES)).await, 50_001 - 51 - (TYPES - 1));
    store.settle("one", &group("b", ["its.own".to_owned()].into_iter())).await.expect("it is counted");
    assert_eq!(world.number(&of("its.own")).await, 1, "another trigger has room of its own");
    // Yesterday's rows leave room for today's.
    world.sql("update oncue.unmatched set day = day - 1").await;
    store.settle("one", &group("a", ["today".to_owned()].into_iter())).await.expect("it is counted");
    assert_eq!(world.number(&of("today")).await, 1);
}
