//! Failures: two tries at once, then parked and retried by any node, then a dead letter that keeps everything.

use oncue::delivery::DeliveryId;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{Node, World, eventually, functions};

/// A stream of work and the rule `work`, with `columns` as further assignments.
async fn workshop(columns: &str) -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql("insert into oncue.rules (name, match_all, run, retry_base_ms) values ('work', true, 'steered', 50)")
        .await;
    if !columns.is_empty() {
        world.sql(&format!("update oncue.rules set {columns}")).await;
    }
    world
}

async fn work(world: &World, id: &str, what: &str) {
    let events = [(id.to_owned(), format!(r#"{{"do":"{what}"}}"#))];
    world.publish_events("work", events).await;
}

/// The attempts of an event: number, outcome, settlement.
async fn attempts(world: &World, id: &str) -> Vec<(i64, String, String)> {
    let query =
        format!("select attempt, outcome, settlement from oncue.ledger where event_id = '{id}' order by attempt");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = world.rows(&query).await;
    rows.iter().map(|r| (r["attempt"].as_i64().unwrap_or(0), text(&r["outcome"]), text(&r["settlement"]))).collect()
}

fn history(steps: &[(&str, &str)]) -> Vec<(i64, String, String)> {
    let numbered = (1..).zip(steps);
    numbered.map(|(n, (outcome, settlement))| (n, (*outcome).to_owned(), (*settlement).to_owned())).collect()
}

async fn parked(world: &World) -> i64 {
    world.number("select count(*) from oncue.parked").await
}

/// Parks an event of the rule `work` as a node that is gone would have left it; `columns` are further assignments.
async fn leave(world: &World, id: &str, what: &str, columns: &str) -> DeliveryId {
    let now = OffsetDateTime::now_utc();
    let delivery = DeliveryId::derive(now, "work", id.as_bytes(), "work", 0);
    let event =
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"test","type":"work","data":{{"do":"{what}"}}}}"#);
    world
        .sql(&format!(
            "insert into oncue.parked (delivery_id, trigger, rule, function, version, event, transport_key, class, next_at)
             values ('{delivery}', 'work', 'work', 'steered', 1, convert_to('{event}', 'UTF8'), '{id}', 'test', now());
             update oncue.parked set {columns} where delivery_id = '{delivery}'"
        ))
        .await;
    delivery
}

const DIED: &str = "token = gen_random_uuid(), node = 'ghost', lease_until = now() - interval '1 second'";

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_twice_at_once_then_parked_and_retried_with_jitter() {
    let world = workshop("").await;
    let nodes = [Node::start(&world, "one").await, Node::start(&world, "two").await];
    let count = 40;
    world.publish_events("work", (0..count).map(|n| (format!("e{n}"), r#"{"do":"f3"}"#.to_owned()))).await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == count).await;
    let expected = history(&[("retry", "again"), ("retry", "parked"), ("retry", "parked"), ("ok", "done")]);
    for n in 0..count {
        assert_eq!(attempts(&world, &format!("e{n}")).await, expected, "e{n}");
    }
    assert_eq!(parked(&world).await, 0);
    assert_eq!(world.stored("MAIL").await, 40);
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_parked_another_one_retries() {
    let world = workshop("retry_base_ms = 3600000, retry_cap_ms = 3600000").await;
    let one = Node::start(&world, "one").await;
    let count = 40;
    world.publish_events("work", (0..count).map(|n| (format!("e{n}"), r#"{"do":"f2"}"#.to_owned()))).await;
    eventually("all are parked", async || parked(&world).await == count).await;
    one.stop().await;
    let spread = "select count(distinct date_trunc('minute', next_at)) from oncue.parked";
    assert!(world.number(spread).await > 10, "full jitter spreads them over the hour");
    let two = Node::start(&world, "two").await;
    world.sql("update oncue.parked set next_at = now()").await;
    eventually("all are done", async || world.ledger("settlement = 'done' and node = 'two'").await == count).await;
    assert_eq!((parked(&world).await, world.ledger("true").await), (0, 3 * count));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_good_becomes_a_dead_letter_with_its_attempts_and_bytes() {
    let world = workshop("retry_max_attempts = 4").await;
    let node = Node::start(&world, "one").await;
    work(&world, "stubborn", "f9").await;
    eventually("it is dead", async || world.number("select count(*) from oncue.dead_letters").await == 1).await;
    let letter = world.row("select *, convert_from(raw, 'UTF8') as text from oncue.dead_letters").await;
    let expected = history(&[("retry", "again"), ("retry", "parked"), ("retry", "parked"), ("retry", "dead")]);
    assert_eq!(attempts(&world, "stubborn").await, expected);
    for (column, value) in [
        ("kind", "failed"),
        ("class", "retry"),
        ("error", "words"),
        ("event_id", "stubborn"),
        ("event_type", "work"),
        ("rule", "work"),
        ("trigger", "work"),
        ("function", "steered"),
        ("state", "dead"),
    ] {
        assert_eq!(letter[column], value, "{column}");
    }
    let tries = letter["attempts"].as_array().expect("a list");
    assert_eq!(tries.len(), 4, "{tries:?}");
    for (number, attempt) in (1..).zip(tries) {
        assert_eq!((attempt["attempt"].as_i64(), &attempt["outcome"]), (Some(number), &json!("retry")));
        assert!(attempt["node"] == "one" && attempt["started_at"].is_string() && attempt["micros"].is_number());
    }
    let event: Value = serde_json::from_str(letter["text"].as_str().expect("text")).expect("structured mode");
    assert_eq!((&event["id"], &event["data"]["do"]), (&json!("stubborn"), &json!("f9")));
    let digest = world.row("select encode(digest, 'hex') as hex from oncue.dead_letters").await;
    assert_eq!(digest["hex"], oncue::function::hex(&oncue::runtime::digest(&functions::steered())));
    assert_eq!((parked(&world).await, world.stored("MAIL").await), (0, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_dead_letter_at_once() {
    let world = workshop("").await;
    let node = Node::start(&world, "one").await;
    work(&world, "refused", "r0").await;
    eventually("it is dead", async || world.number("select count(*) from oncue.dead_letters").await == 1).await;
    assert_eq!(attempts(&world, "refused").await, history(&[("reject", "dead")]));
    eventually("it is acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_asks_for_time_gets_it() {
    let world = workshop("").await;
    let node = Node::start(&world, "one").await;
    work(&world, "later", "a2").await;
    eventually("it is done", async || world.ledger("settlement = 'done'").await == 1).await;
    assert_eq!(attempts(&world, "later").await, history(&[("retry", "parked"), ("ok", "done")]));
    let query = "select extract(epoch from b.started_at - a.settled_at)::float8 as seconds
        from oncue.ledger a join oncue.ledger b using (delivery_id) where a.attempt = 1 and b.attempt = 2";
    let waited = world.row(query).await["seconds"].as_f64().expect("a number");
    assert!((2.0..20.0).contains(&waited), "{waited}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_a_dead_node_is_taken_over_and_three_deaths_are_a_dead_letter() {
    let world = workshop("").await;
    leave(&world, "orphan", "e0", DIED).await;
    leave(&world, "killer", "e0", &format!("{DIED}, deaths = 2")).await;
    let node = Node::start(&world, "one").await;
    eventually("the orphan is done", async || world.ledger("event_id = 'orphan' and settlement = 'done'").await == 1)
        .await;
    eventually("the killer is dead", async || {
        world.number("select count(*) from oncue.dead_letters where class = 'crash' and event_id = 'killer'").await == 1
    })
    .await;
    assert_eq!(world.ledger("event_id = 'killer'").await, 0, "it did not run again");
    assert_eq!(parked(&world).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_after_its_claim_was_taken_over_changes_nothing() {
    let world = workshop("").await;
    let delivery = leave(&world, "slow", "s9", "attempts = 3").await;
    let node = Node::start(&world, "one").await;
    let row = format!("select token, node, deaths from oncue.parked where delivery_id = '{delivery}'");
    eventually("it is claimed", async || world.row(&row).await["node"] == "one").await;
    world
        .sql("update oncue.parked set token = gen_random_uuid(), node = 'thief', lease_until = now() + interval '1 hour'")
        .await;
    let stolen = world.row(&row).await;
    eventually("the late result is dropped", async || {
        node.metric(r#"oncue_deliveries_total{rule="work",outcome="duplicate"}"#).await == Some(1.0)
    })
    .await;
    assert_eq!((world.row(&row).await, world.ledger("true").await), (stolen, 0));
    world.sql("update oncue.parked set lease_until = now() - interval '1 second'").await;
    eventually("it is done", async || world.ledger("settlement = 'done' and attempt = 4").await == 1).await;
    assert_eq!(world.stored("MAIL").await, 1, "the same ids: the effect is there once");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_delivery_of_a_deleted_rule_is_void() {
    let world = workshop("retry_base_ms = 3600000, retry_cap_ms = 3600000").await;
    let node = Node::start(&world, "one").await;
    work(&world, "homeless", "f9").await;
    eventually("it is parked", async || parked(&world).await == 1).await;
    world.sql("delete from oncue.rules; update oncue.parked set next_at = now()").await;
    eventually("it is gone", async || parked(&world).await == 0).await;
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    assert_eq!(attempts(&world, "homeless").await, history(&[("retry", "again"), ("retry", "parked")]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_delivery_runs_the_version_that_it_was_matched_with() {
    let world = workshop("retry_base_ms = 3600000, retry_cap_ms = 3600000").await;
    let node = Node::start(&world, "one").await;
    work(&world, "pinned", "f2").await;
    eventually("it is parked", async || parked(&world).await == 1).await;
    world.deploy("steered", &functions::welcome(), &functions::spec()).await;
    world.sql("update oncue.parked set next_at = now()").await;
    eventually("it is done", async || world.ledger("settlement = 'done'").await == 1).await;
    assert_eq!(world.row("select version from oncue.ledger where attempt = 3").await, json!({ "version": 1 }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_no_stream_stores_is_parked_until_one_does() {
    let world = workshop("").await;
    world.jetstream.delete_stream("MAIL").await.expect("it is deleted");
    let node = Node::start(&world, "one").await;
    work(&world, "mailed", "e0").await;
    eventually("it is parked", async || {
        world.number("select count(*) from oncue.parked where class = 'output' and error like '%mail.welcome%'").await
            == 1
    })
    .await;
    world.stream("MAIL", &["mail.>"]).await;
    eventually("it is done", async || world.ledger("settlement = 'done'").await == 1).await;
    assert_eq!(world.stored("MAIL").await, 1);
    node.stop().await;
}
