//! Groups of settlements: what is new of them is settled whatever else is in them, and what was settled before changes nothing.

use oncue::delivery::{DeliveryId, LogLine};
use oncue::store::settle::{AttemptRow, Group, Next, Record, Subject};
use serde_json::json;
use time::OffsetDateTime;

use crate::support::World;

/// A delivery that is done after `attempts`, each of which has logged a line.
fn record(id: &str, attempts: u32) -> Record {
    let at = OffsetDateTime::now_utc().replace_time(time::Time::MIDNIGHT);
    let row = |attempt| AttemptRow {
        attempt,
        outcome: if attempt == attempts { "ok" } else { "retry" },
        settlement: if attempt == attempts { "done" } else { "again" },
        error: (attempt < attempts).then(|| "later".to_owned()),
        started_at: at,
        micros: 10,
        fuel: 100,
        peak_memory: 1,
        outputs: 2,
        logs: vec![LogLine { level: "info", message: format!("{id}, try {attempt}") }],
        logs_dropped: 0,
    };
    let subject = Subject {
        id: DeliveryId::derive(at, "t", id.as_bytes(), "r", 0),
        trigger: "t".to_owned(),
        rule: "r".to_owned(),
        function: Some(("f".to_owned(), 1)),
        event_id: id.to_owned(),
        event_type: "e".to_owned(),
        event_source: "test".to_owned(),
        cause: None,
        transport_key: id.as_bytes().to_vec(),
        generation: 0,
        ordering_key: None,
    };
    Record {
        subject,
        fence: None,
        attempts: (1..=attempts).map(row).collect(),
        claim: None,
        attempts_total: attempts,
        next: Next::Done,
        effects: None,
        recorded: None,
    }
}

fn group(records: Vec<Record>) -> Group {
    Group { records, ..Group::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_what_was_settled_before_settles_the_rest_and_counts_it_once() {
    let world = World::start().await;
    let store = world.store();
    let known = record("known", 1);
    let verdict = store.settle("one", &group(vec![known.clone()])).await.expect("it is settled");
    assert!(verdict.stale.is_empty());
    let (new, tried) = (record("new", 1), record("tried", 3));
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
    let twice = group(vec![record("a", 1), record("b", 1), record("a", 1)]);
    world.store().settle("one", &twice).await.expect("it is settled");
    assert_eq!((world.ledger("true").await, world.number("select sum(runs) from oncue.usage").await), (2, 2));
    assert_eq!(world.number("select count(*) from oncue.logs").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_outlived_their_ledger_do_not_hold_up_a_delivery() {
    let world = World::start().await;
    let (store, late) = (world.store(), record("late", 1));
    store.settle("one", &group(vec![late.clone()])).await.expect("it is settled");
    world.sql("delete from oncue.ledger").await;
    let verdict = store.settle("one", &group(vec![late, record("new", 1)])).await.expect("it is settled");
    assert!(verdict.stale.is_empty(), "{verdict:?}");
    assert_eq!((world.ledger("true").await, world.number("select count(*) from oncue.logs").await), (2, 2));
}
