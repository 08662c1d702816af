//! Rules and triggers are rows: a change is in force on every node within two seconds, whole or not at all.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Node, World, eventually, functions};

/// CONTRACT.md, "Drain, rule changes, many nodes": nodes follow changes within 2 s.
const CONTRACT: Duration = Duration::from_secs(2);

const ANY: &str = r#"'{"type":["probe"]}'"#;

/// Two nodes that share a core NATS subject, and a function that does nothing.
async fn two_nodes() -> (World, [Node; 2]) {
    let world = World::start().await;
    world.deploy("nothing", &functions::steered(), &functions::spec()).await;
    world
        .sql(r#"insert into oncue.triggers (name, bus, kind, spec) values ('probes', 'main', 'nats', '{"subject":"probe"}')"#)
        .await;
    let nodes = [Node::start(&world, "one").await, Node::start(&world, "two").await];
    (world, nodes)
}

async fn probe(world: &World) {
    world.nats.publish("probe", r#"{"do":"o0"}"#.into()).await.expect("it is sent");
    world.nats.flush().await.expect("it arrives");
}

/// Sends events until each node has matched one against exactly `rules`; panics when that takes too long.
async fn both_match(world: &World, nodes: &mut [Node; 2], rules: &[&str]) {
    let began = Instant::now();
    let mut waiting = vec![true, true];
    nodes.iter_mut().for_each(|node| drop(node.events()));
    while waiting.contains(&true) {
        probe(world).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        for (node, waits) in nodes.iter_mut().zip(&mut waiting) {
            *waits &= !node.events().iter().any(|(_, matched)| matched == rules);
        }
        assert!(
            began.elapsed() < CONTRACT,
            "not within {CONTRACT:?}: both nodes match {rules:?}; waiting: {waiting:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_in_force_on_two_nodes_within_two_seconds_of_its_commit() {
    let (world, mut nodes) = two_nodes().await;
    both_match(&world, &mut nodes, &[]).await;
    world.sql(&format!("insert into oncue.rules (name, pattern, run) values ('a', {ANY}, 'nothing')")).await;
    both_match(&world, &mut nodes, &["a"]).await;
    world.sql(r#"update oncue.rules set pattern = '{"type":["other"]}' where name = 'a'"#).await;
    both_match(&world, &mut nodes, &[]).await;
    world.sql("update oncue.rules set pattern = null, match_all = true where name = 'a'").await;
    both_match(&world, &mut nodes, &["a"]).await;
    world.sql("update oncue.rules set name = 'b' where name = 'a'").await;
    both_match(&world, &mut nodes, &["b"]).await;
    world.sql("update oncue.rules set enabled = false").await;
    both_match(&world, &mut nodes, &[]).await;
    world.sql("update oncue.rules set enabled = true").await;
    both_match(&world, &mut nodes, &["b"]).await;
    world.sql("delete from oncue.rules").await;
    both_match(&world, &mut nodes, &[]).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_when_the_notification_is_lost_or_its_connection_dies() {
    let (world, mut nodes) = two_nodes().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'";
    let killed = world.rows(kill).await;
    assert_eq!(
        killed.len(),
        2,
        "both nodes listen: {:?}",
        world.rows("select application_name, query from pg_stat_activity").await
    );
    world.sql(&format!("insert into oncue.rules (name, pattern, run) values ('a', {ANY}, 'nothing')")).await;
    both_match(&world, &mut nodes, &["a"]).await;
    // As a replica no trigger of the tables fires: nobody is notified, and only the version tells.
    world
        .sql(&format!(
            "set session_replication_role = replica;
             insert into oncue.rules (name, pattern, run) values ('b', {ANY}, 'nothing');
             update oncue.ruleset set version = version + 1;
             reset session_replication_role"
        ))
        .await;
    both_match(&world, &mut nodes, &["a", "b"]).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_one_transaction_appear_together() {
    let (world, mut nodes) = two_nodes().await;
    let rows: Vec<String> = (0..10).map(|n| format!("('r{n}', true, 'nothing')")).collect();
    probe(&world).await;
    world.sql(&format!("insert into oncue.rules (name, match_all, run) values {}", rows.join(", "))).await;
    let names: Vec<String> = (0..10).map(|n| format!("r{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut counts = [0, 0];
    let began = Instant::now();
    while counts.iter().any(|count| *count < 20) {
        probe(&world).await;
        for (node, count) in nodes.iter_mut().zip(&mut counts) {
            for (_, matched) in node.events() {
                assert!(matched.is_empty() || matched == names, "a part of the transaction: {matched:?}");
                *count += u32::from(!matched.is_empty());
            }
        }
        assert!(began.elapsed() < CONTRACT * 5, "both nodes match ten rules: {counts:?}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pattern_is_quarantined_with_its_pointer_and_the_others_go_on() {
    let (world, mut nodes) = two_nodes().await;
    world
        .sql(&format!(
            r#"insert into oncue.rules (name, pattern, run) values
               ('bad', '{{"type":["probe"],"data":{{"n":[{{"wildcard":"a**"}}]}}}}', 'nothing'),
               ('good', {ANY}, 'nothing')"#
        ))
        .await;
    both_match(&world, &mut nodes, &["good"]).await;
    let error = async || world.row("select error from oncue.rules where name = 'bad'").await["error"].clone();
    eventually("the error is in the row", async || error().await.is_string()).await;
    let text = error().await.as_str().unwrap_or_default().to_owned();
    assert!(
        text.contains("/data/n/0/wildcard") && text.contains("write `*` for `**`"),
        "pointer and suggestion: {text}"
    );
    assert_eq!(world.row("select error from oncue.rules where name = 'good'").await, json!({ "error": null }));
    world.sql(r#"update oncue.rules set pattern = '{"type":["probe"]}' where name = 'bad'"#).await;
    both_match(&world, &mut nodes, &["bad", "good"]).await;
    eventually("the error is gone", async || error().await.is_null()).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_whose_component_cannot_run_says_so_and_loses_nothing() {
    let (world, mut nodes) = two_nodes().await;
    world.deploy("garbage", b"this is no component", &functions::spec()).await;
    world
        .sql(&format!(
            "insert into oncue.rules (name, pattern, run) values ('bad', {ANY}, 'garbage'), ('good', {ANY}, 'nothing')"
        ))
        .await;
    both_match(&world, &mut nodes, &["bad", "good"]).await;
    eventually("the error is in the row", async || {
        let row = world.row("select error from oncue.rules where name = 'bad'").await;
        row["error"].as_str().is_some_and(|text| text.contains("garbage@1"))
    })
    .await;
    let done = "rule = 'good' and settlement = 'done'";
    eventually("the neighbour runs", async || world.ledger(done).await > 0).await;
    eventually("the event waits", async || {
        world.number("select count(*) from oncue.parked where rule = 'bad' and class = 'broken'").await > 0
    })
    .await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_started_changed_and_stopped_by_its_row() {
    let (world, mut nodes) = two_nodes().await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('all', true, 'nothing')").await;
    both_match(&world, &mut nodes, &["all"]).await;
    world.sql(r#"update oncue.triggers set spec = '{"subject":"elsewhere"}'"#).await;
    eventually("nobody listens any more", async || {
        nodes.iter_mut().for_each(|node| drop(node.events()));
        probe(&world).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        nodes.iter_mut().all(|node| node.events().is_empty())
    })
    .await;
    world.sql(r#"update oncue.triggers set spec = '{"subject":"probe"}'"#).await;
    both_match(&world, &mut nodes, &["all"]).await;
    world.sql(r#"update oncue.triggers set spec = '{"topic":"probe"}'"#).await;
    eventually("the error is in the row", async || {
        let row = world.row("select error from oncue.triggers").await;
        row["error"].as_str().is_some_and(|text| text.contains("topic"))
    })
    .await;
    eventually("health shows it", async || !nodes[0].is_ready().await && !nodes[1].is_ready().await).await;
    world.sql(r#"update oncue.triggers set spec = '{"subject":"probe"}'"#).await;
    both_match(&world, &mut nodes, &["all"]).await;
    for node in nodes {
        node.ready().await;
        node.stop().await;
    }
}
