//! Order: deliveries of one key run one after another, and a parked one holds back its own key only.

use serde_json::{Value, json};

use crate::support::{Node, World, eventually, functions};

async fn ordered(on_failure: &str) -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql(&format!(
            "insert into oncue.rules (name, match_all, run, ordering_key, on_failure, retry_base_ms, retry_cap_ms)
             values ('work', true, 'steered', '$.data.key', '{on_failure}', 100, 200)"
        ))
        .await;
    world
}

fn event(key: usize, n: usize, what: &str) -> (String, String) {
    (format!("k{key:02}-{n:03}"), format!(r#"{{"do":"{what}","key":"k{key:02}","n":{n}}}"#))
}

/// Pairs of neighbours of one key of which the later one started before the earlier one was settled for good.
const OVERTAKEN: &str = "with ends as (
        select event_id, split_part(event_id, '-', 1) as key, min(started_at) as began, max(settled_at) as ended,
            string_agg(node || ': ' || settlement, ', ' order by attempt) as history
        from oncue.ledger group by event_id
    ), pairs as (
        select event_id, began, history, lag(ended) over earlier as before, lag(history) over earlier as history_before
        from ends window earlier as (partition by key order by event_id)
    ) select * from pairs where began < before";

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_key_start_only_after_the_one_before_was_settled() {
    let world = ordered("park_key").await;
    let node = Node::start(&world, "one").await;
    let (keys, each) = (50, 40);
    // Some sleep, some fail once, some are parked twice.
    let what = |key: usize, n: usize| match (key * 31 + n * 17) % 97 {
        0..5 => "s1",
        5..10 => "f1",
        10 => "f3",
        _ => "o0",
    };
    let all = (0..each).flat_map(|n| (0..keys).map(move |key| event(key, n, what(key, n))));
    world.publish_events("work", all).await;
    let total = i64::try_from(keys * each).expect("few");
    eventually("all are done", async || world.ledger("settlement = 'done'").await == total).await;
    let overtaken = world.rows(OVERTAKEN).await;
    assert!(overtaken.is_empty(), "{} pairs: {:?}", overtaken.len(), overtaken.iter().take(5).collect::<Vec<_>>());
    assert!(world.ledger("settlement = 'parked'").await > 10, "some were parked");
    assert_eq!(world.ledger("settlement = 'done'").await, total, "each is done once");
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_head_holds_back_its_own_key_until_it_is_done() {
    let world = ordered("park_key").await;
    world.sql("update oncue.rules set retry_base_ms = 3600000, retry_cap_ms = 3600000").await;
    let node = Node::start(&world, "one").await;
    let heads = (0..5).map(|key| event(key, 0, if key == 3 { "f2" } else { "o0" }));
    let rest = (1..10).flat_map(|n| (0..5).map(move |key| event(key, n, "o0")));
    world.publish_events("work", heads.chain(rest)).await;
    eventually("the other keys are done", async || world.ledger("settlement = 'done'").await == 40).await;
    eventually("the position moves on", async || world.drained("WORK", "oncue-work").await).await;
    let waiting = "select class, count(*) from oncue.parked where ordering_key = 'k03' group by class order by class";
    let expected = vec![json!({ "class": "held", "count": 9 }), json!({ "class": "retry", "count": 1 })];
    assert_eq!(world.rows(waiting).await, expected);
    assert_eq!(world.ledger("event_id like 'k03%' and settlement = 'done'").await, 0);
    world.sql("update oncue.parked set next_at = now() where class = 'retry'").await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 50).await;
    assert_eq!(world.rows(OVERTAKEN).await, Vec::<Value>::new());
    let order =
        "select event_id from oncue.ledger where event_id like 'k03%' and settlement = 'done' order by started_at";
    let order: Vec<String> =
        world.rows(order).await.iter().map(|r| r["event_id"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(order, (0..10).map(|n| format!("k03-{n:03}")).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_while_the_held_ones_run_do_not_overtake_them() {
    let world = ordered("park_key").await;
    let node = Node::start(&world, "one").await;
    // The head is parked for a moment; while the held ones run, more of the key come in all the time.
    for n in 0..60 {
        let what = if n % 20 == 0 { "f3" } else { "o0" };
        world.publish_events("work", (0..4).map(|key| event(key, n, what))).await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 240).await;
    assert_eq!(world.rows(OVERTAKEN).await, Vec::<Value>::new());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_skip_later_events_of_the_key_pass_a_parked_one() {
    let world = ordered("skip").await;
    world.sql("update oncue.rules set retry_base_ms = 3600000, retry_cap_ms = 3600000").await;
    let node = Node::start(&world, "one").await;
    let all = (0..10).map(|n| event(0, n, if n == 0 { "f2" } else { "o0" }));
    world.publish_events("work", all).await;
    eventually("the later ones are done", async || world.ledger("settlement = 'done'").await == 9).await;
    assert_eq!(world.number("select count(*) from oncue.parked where class = 'retry'").await, 1);
    world.sql("update oncue.parked set next_at = now()").await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 10).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_keeps_the_order_of_each_key() {
    let world = ordered("park_key").await;
    let node = Node::start(&world, "one").await;
    let all = (0..60).flat_map(|n| (0..20).map(move |key| event(key, n, if n % 7 == 0 { "s1" } else { "o0" })));
    world.publish_events("work", all).await;
    eventually("it is busy", async || world.ledger("settlement = 'done'").await > 100).await;
    node.stop().await;
    let first = world.ledger("settlement = 'done'").await;
    assert!(first < 1_100, "it was told under load");
    let node = Node::start(&world, "two").await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 1_200).await;
    // The server sends the one message that it could not deliver when the subscription ended before those that were
    // given back: it may overtake, no other.
    let overtaken = world.rows(OVERTAKEN).await;
    assert!(overtaken.len() <= 1, "{} pairs: {:?}", overtaken.len(), overtaken.iter().take(5).collect::<Vec<_>>());
    node.stop().await;
}
