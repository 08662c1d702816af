//! Groups of settlements: what is new of them is settled whatever else is in them, and what was settled before changes nothing.

use oncue::store::settle::{Group, Record};
use serde_json::json;

use crate::support::World;
use crate::support::settlements::record;

fn group(records: Vec<Record>) -> Group {
    Group { records, ..Group::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_what_was_settled_before_settles_the_rest_and_counts_it_once() {
    let world = World::start().await;
    let store = world.store();
    let known = record("known", "f", 1);
    let verdict = store.settle("one", &group(vec![known.clone()])).await.expect("it is settled");
    assert!(verdict.stale.is_empty());
    let (new, tried) = (record("new", "f", 1), record("tried", "f", 3));
    let mixed = group(vec![new.clone(), known.clone(), tried.clone()]);
    let verdict = store.settle("one", &mixed).await.expect("it is settled");
    assert_eq!(verdict.stale.into_iter().collect::<Vec<_>>(), [known.subject.id]);
    let verdict = store.settle("one", &mixed).await.expect("a lost answer sends it again");
    assert_eq!(verdict.stale.len(), 3);
    let usage = world.row("select runs, failed, micros, fuel, outputs from oncue.usage").await;
    assert_eq!(usage, json!({ "runs": 5, "failed": 2, "micros": 50, "fuel": 500, "outputs": 10 }));
    let rows = "select count(*)::int as rows, count(distinct (delivery_id, attempt))::int as attempts from oncue";
    for table in ["ledger", "logs"] {
        assert_eq!(world.row(&format!("{rows}.{table}")).await, json!({ "rows": 5, "attempts": 5 }), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_twice_in_a_group_is_settled_once() {
    let world = World::start().await;
    let twice = group(vec![record("a", "f", 1), record("b", "f", 1), record("a", "f", 1)]);
    world.store().settle("one", &twice).await.expect("it is settled");
    assert_eq!((world.ledger("true").await, world.number("select sum(runs) from oncue.usage").await), (2, 2));
    assert_eq!(world.number("select count(*) from oncue.logs").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_outlived_their_ledger_do_not_hold_up_a_delivery() {
    let world = World::start().await;
    let (store, late) = (world.store(), record("late", "f", 1));
    store.settle("one", &group(vec![late.clone()])).await.expect("it is settled");
    world.sql("delete from oncue.ledger").await;
    let verdict = store.settle("one", &group(vec![late, record("new", "f", 1)])).await.expect("it is settled");
    assert!(verdict.stale.is_empty(), "{verdict:?}");
    assert_eq!((world.ledger("true").await, world.number("select count(*) from oncue.logs").await), (2, 2));
}
