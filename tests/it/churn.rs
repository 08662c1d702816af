//! Churn: nodes come and go, rules and triggers change, all under load; each event is run once by one version of the rules.

use std::time::Duration;

use serde_json::json;

use crate::support::{Node, World, eventually, eventually_within, functions};

async fn workshop() -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    let spec = json!({ "limits": { "timeout_ms": 20_000 }, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({ "ack_wait_ms": 2_000 })).await;
    world
}

fn events(from: u64, to: u64) -> impl Iterator<Item = (String, String)> {
    (from..to).map(|n| (format!("e{n}"), r#"{"do":"e0"}"#.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_nodes_under_load_repeats_nothing() {
    let world = workshop().await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(Node::start(&world, name).await);
    }
    let mut sent = 0;
    for round in 0..6 {
        world.publish_events("work", events(sent, sent + 500)).await;
        sent += 500;
        nodes.remove(0).stop().await;
        nodes.push(Node::start(&world, &format!("next-{round}")).await);
    }
    let total = i64::try_from(sent).expect("few");
    eventually("all are done", async || world.ledger("settlement = 'done'").await == total).await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!((world.ledger("true").await, world.stored("MAIL").await), (total, sent), "once each");
    let runs = r#"oncue_runs_total{function="steered",outcome="ok"}"#;
    assert_eq!(
        nodes[0].metric(runs).await,
        Some(f64::from(u32::try_from(sent).expect("few"))),
        "no run was for nothing"
    );
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_replaced_by_those_that_live() {
    let world = workshop().await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    let (one, two) = (Node::start(&world, "one").await, Node::start(&world, "two").await);
    world.publish_events("work", events(0, 2_000)).await;
    eventually("they are busy", async || world.ledger("true").await > 100).await;
    one.quit().await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 2_000).await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.stored("MAIL").await, 2_000, "each effect once");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_matched_against_one_version_of_the_rules_however_often_they_change() {
    let world = workshop().await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, run, enabled) values
             ('day', true, 'steered', true), ('night', true, 'steered', false)",
        )
        .await;
    let nodes = [Node::start(&world, "one").await, Node::start(&world, "two").await];
    for round in 0..60 {
        // Exactly one of the two is on at any time.
        world.sql("update oncue.rules set enabled = not enabled").await;
        world.publish_events("work", events(round * 50, round * 50 + 50)).await;
    }
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    let counts = world.row("select count(*) as n, count(distinct event_id) as events from oncue.ledger").await;
    assert_eq!(counts, json!({ "n": 3_000, "events": 3_000 }), "none was matched by both or by neither");
    assert!(world.ledger("rule = 'day'").await > 100 && world.ledger("rule = 'night'").await > 100);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_is_changed_under_load_loses_and_repeats_nothing() {
    let world = workshop().await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    let node = Node::start(&world, "one").await;
    for round in 0..10 {
        world.publish_events("work", events(round * 200, round * 200 + 200)).await;
        let change = match round % 3 {
            0 => format!("spec = spec || '{{\"max_ack_pending\": {}}}'", 1_000 + round),
            1 => "state = 'paused'".to_owned(),
            _ => "state = 'active'".to_owned(),
        };
        world.sql(&format!("update oncue.triggers set {change}")).await;
    }
    world.sql("update oncue.triggers set state = 'active'").await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 2_000).await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!((world.ledger("true").await, world.stored("MAIL").await), (2_000, 2_000), "once each");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_stops_slowly_does_not_keep_others_from_starting() {
    let world = workshop().await;
    world.stream("OTHER", &["other"]).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", [("slow".to_owned(), r#"{"do":"z9"}"#.to_owned())]).await;
    eventually("the slow one runs", async || {
        world.consumer("WORK", "oncue-work").await.is_some_and(|info| info.num_ack_pending == 1)
    })
    .await;
    world.sql("update oncue.triggers set state = 'paused'").await;
    world.jetstream_trigger("other", "OTHER", json!({})).await;
    world.publish_events("other", [("quick".to_owned(), r#"{"do":"o0"}"#.to_owned())]).await;
    eventually_within(Duration::from_secs(4), "the other trigger runs", async || {
        (world.ledger("event_id = 'quick'").await == 1).then_some(())
    })
    .await;
    assert_eq!(world.ledger("event_id = 'slow'").await, 0, "the slow one still runs");
    eventually("the slow one is done", async || world.ledger("event_id = 'slow' and settlement = 'done'").await == 1)
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_postgres_may_be_cut_at_any_moment() {
    let world = workshop().await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, run, retry_base_ms, retry_cap_ms, ordering_key) values
             ('work', true, 'steered', 20, 50, null), ('ordered', true, 'steered', 20, 50, '$.data.key')",
        )
        .await;
    let nodes = [Node::start(&world, "one").await, Node::start(&world, "two").await];
    let what = |n: u32| if n % 10 == 3 { "f3" } else { "e0" };
    let event = |n: u32| (format!("e{n}"), format!(r#"{{"do":"{}","key":"k{}"}}"#, what(n), n % 30));
    for round in 0..40 {
        world.publish_events("work", (round * 50..round * 50 + 50).map(event)).await;
        // A commit under way may or may not have happened: the node cannot know.
        let cutting = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'oncue'";
        // Nodes whose connections were cut just now may have none yet.
        eventually("connections are cut", async || !world.rows(cutting).await.is_empty()).await;
    }
    eventually("all are done", async || {
        world.number("select count(*) from oncue.parked").await == 0
            && world.ledger("settlement = 'done'").await >= 4_000
    })
    .await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.ledger("settlement = 'done'").await, 4_000, "each delivery is done once");
    assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, 4_000);
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    assert_eq!(world.number("select sum(runs) from oncue.usage").await, world.ledger("true").await);
    assert_eq!(world.stored("MAIL").await, 4_000, "each effect once");
    for node in nodes {
        node.ready().await;
        node.stop().await;
    }
}
