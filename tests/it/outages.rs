//! Outages: what is away is waited for, health says so, and work resumes by itself with nothing lost.

use serde_json::json;

use crate::support::node::{Node, config};
use crate::support::{World, eventually, eventually_within, functions};

async fn workshop(trigger: serde_json::Value) -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", trigger).await;
    world
        .sql("insert into oncue.rules (name, match_all, run, retry_base_ms, retry_cap_ms) values ('work', true, 'steered', 100, 500)")
        .await;
    world
}

fn events(from: u64, to: u64) -> impl Iterator<Item = (String, String)> {
    (from..to).map(|n| (format!("e{n}"), format!(r#"{{"do":"e0","n":{n}}}"#)))
}

/// Waits until the first `total` events are done, acknowledged, and each has its effect once.
async fn all_done(world: &World, total: u64) {
    let rows = i64::try_from(total).expect("few");
    eventually("all are done", async || {
        let query = "select count(distinct event_id) as n from oncue.ledger where settlement = 'done'";
        world.try_rows(query).await.is_ok_and(|found| found[0]["n"] == json!(rows))
    })
    .await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.stored("MAIL").await, total, "each effect once");
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
}

async fn red(node: &Node, component: &str) -> String {
    let mut reason = String::new();
    eventually("health is red", async || {
        let seen = node.component(component).await;
        let Some((state, why)) = seen else { return false };
        reason = format!("{state}: {why}");
        !node.is_ready().await
    })
    .await;
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_crash_under_load_and_come_back() {
    let mut world = workshop(json!({ "ack_wait_ms": 5_000 })).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(0, 2_000)).await;
    eventually("it is busy", async || world.ledger("true").await > 200).await;
    world.postgres.stop_immediate().await;
    world.publish_events("work", events(2_000, 3_000)).await;
    let reason = red(&node, "store").await;
    assert!(reason.starts_with("down"), "{reason}");
    let waiting = world.consumer("WORK", "oncue-work").await.expect("it answers");
    assert!(waiting.num_pending + u64::try_from(waiting.num_ack_pending).expect("few") > 0, "nothing is acknowledged");
    world.postgres.restart().await.expect("Postgres comes back");
    node.ready().await;
    all_done(&world, 3_000).await;
    let up = node.metric("oncue_store_up").await;
    assert_eq!(up, Some(1.0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_changed_while_postgres_was_away_is_in_force_after_it_came_back() {
    let mut world = workshop(json!({})).await;
    let node = Node::start(&world, "one").await;
    world.postgres.restart().await.expect("Postgres comes back");
    world.sql("update oncue.rules set name = 'renamed'").await;
    world.publish_events("work", events(0, 1)).await;
    eventually("health is green", async || node.is_ready().await).await;
    eventually("later events match the new rule", async || {
        world.publish_events("work", [("later".to_owned(), r#"{"do":"o0"}"#.to_owned())]).await;
        world.ledger("rule = 'renamed'").await > 0
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_be_killed_under_load_and_come_back() {
    let mut world = workshop(json!({ "ack_wait_ms": 3_000 })).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(0, 3_000)).await;
    eventually("it is busy", async || world.ledger("true").await > 200).await;
    world.nats_server.stop_immediate().await;
    eventually("health shows it", async || {
        node.component("bus/main").await.is_some_and(|(state, reason)| state == "down" && !reason.is_empty())
    })
    .await;
    world.nats_server.restart().await.expect("nats-server comes back");
    eventually("the bus is up", async || node.component("bus/main").await.is_some_and(|(state, _)| state == "up"))
        .await;
    world.publish_events("work", events(3_000, 3_500)).await;
    all_done(&world, 3_500).await;
    node.ready().await;
    assert_eq!(node.metric(r#"oncue_reconnects_total{bus="main"}"#).await, Some(1.0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_be_killed_again_and_again() {
    let mut world = workshop(json!({ "ack_wait_ms": 2_000 })).await;
    let node = Node::start(&world, "one").await;
    for round in 0..6 {
        world.publish_events("work", events(round * 400, round * 400 + 400)).await;
        let enough = i64::try_from(round).expect("few") * 400 + 50;
        // Reading goes on as soon as the connection is there again, not only when the server was silent for long.
        let soon = std::time::Duration::from_secs(8);
        eventually_within(soon, "it is busy", async || {
            (world.ledger("settlement = 'done'").await > enough).then_some(())
        })
        .await;
        world.nats_server.stop_immediate().await;
        world.nats_server.restart().await.expect("nats-server comes back");
        eventually("the test is connected again", async || world.consumer("WORK", "oncue-work").await.is_some()).await;
    }
    all_done(&world, 2_400).await;
    node.ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_hangs_is_waited_for() {
    let world = workshop(json!({ "ack_wait_ms": 3_000 })).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(0, 2_000)).await;
    eventually("it is busy", async || world.ledger("true").await > 100).await;
    signal("STOP", world.nats_server.pid()).await;
    // Longer than a publication may take, so that outputs fail and are parked.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    signal("CONT", world.nats_server.pid()).await;
    all_done(&world, 2_000).await;
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    node.ready().await;
    node.stop().await;
}

async fn signal(name: &str, pid: u32) {
    let kill = tokio::process::Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status().await;
    assert!(kill.expect("a shell").success(), "{name} is sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_survives_restarts_of_nats() {
    let mut world = workshop(json!({ "ack_wait_ms": 3_000 })).await;
    let node = Node::start(&world, "one").await;
    for round in 0..3 {
        world.nats_server.restart().await.expect("nats-server comes back");
        eventually("the test is connected again", async || world.consumer("WORK", "oncue-work").await.is_some()).await;
        world.publish_events("work", events(round * 10, round * 10 + 10)).await;
        all_done(&world, round * 10 + 10).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_before_its_servers_works_when_they_appear() {
    let mut world = workshop(json!({})).await;
    world.publish_events("work", events(0, 50)).await;
    world.postgres.stop_immediate().await;
    world.nats_server.stop_immediate().await;
    let node = Node::launch(config(&world, "early"));
    let reason = red(&node, "store").await;
    assert!(reason.starts_with("down"), "{reason}");
    let (alive, _) = node.get("/livez").await.expect("it answers");
    assert_eq!(alive, 200);
    world.postgres.restart().await.expect("Postgres comes back");
    eventually("the trigger waits for NATS", async || {
        node.component("trigger/work").await.is_some_and(|(state, reason)| state == "error" && !reason.is_empty())
    })
    .await;
    world.nats_server.restart().await.expect("nats-server comes back");
    node.ready().await;
    all_done(&world, 50).await;
    let row = world.row("select error from oncue.triggers").await;
    assert_eq!(row, json!({ "error": null }), "what was wrong is over");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_is_made_again_without_loss_or_second_runs() {
    let world = workshop(json!({})).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(0, 500)).await;
    all_done(&world, 500).await;
    let stream = world.jetstream.get_stream("WORK").await.expect("the stream is there");
    stream.delete_consumer("oncue-work").await.expect("it is deleted");
    world.publish_events("work", events(500, 600)).await;
    eventually("the rest is done", async || {
        world.number("select count(distinct event_id) from oncue.ledger where settlement = 'done'").await == 600
    })
    .await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.ledger("true").await, 600, "nothing ran again");
    assert_eq!(world.number("select sum(runs) from oncue.usage").await, 600);
    node.ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_new_messages_that_is_deleted_never_skips_silently() {
    let world = workshop(json!({ "start": "new" })).await;
    world.publish_events("work", events(0, 5)).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(5, 15)).await;
    eventually("the new ones are done", async || world.ledger("settlement = 'done'").await == 10).await;
    node.stop().await;
    world.publish_events("work", events(15, 20)).await;
    let stream = world.jetstream.get_stream("WORK").await.expect("the stream is there");
    stream.delete_consumer("oncue-work").await.expect("it is deleted");
    let node = Node::start_unready(&world, "two").await;
    // Either it goes on where it was, or it says that there is a gap: it never forgets the five.
    eventually("it goes on, or halts with a gap", async || {
        let state = world.row("select state, error from oncue.triggers").await;
        world.ledger("settlement = 'done'").await == 15 || (state["state"] == "gap" && state["error"].is_string())
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_recreated_is_a_gap_that_halts_the_trigger_until_it_is_accepted() {
    let world = workshop(json!({})).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", events(0, 20)).await;
    all_done(&world, 20).await;
    world.jetstream.delete_stream("WORK").await.expect("it is deleted");
    world.stream("WORK", &["work"]).await;
    world.publish_events("work", events(100, 105)).await;
    eventually("the trigger is halted", async || world.row("select state from oncue.triggers").await["state"] == "gap")
        .await;
    let row = world.row("select error from oncue.triggers").await;
    let error = row["error"].as_str().unwrap_or_default();
    assert!(error.contains("recreated") && error.contains("oncue trigger resume work --accept-gap"), "{error}");
    let reason = red(&node, "trigger/work").await;
    assert!(reason.starts_with("gap") && reason.contains("--accept-gap"), "{reason}");
    assert_eq!(world.ledger("true").await, 20, "nothing of the new stream was read");
    node.stop().await;

    // The halt is remembered by a node that starts later.
    let node = Node::start_unready(&world, "two").await;
    let reason = red(&node, "trigger/work").await;
    assert!(reason.starts_with("gap"), "{reason}");
    world.sql("update oncue.triggers set state = 'active', identity = null, error = null").await;
    node.ready().await;
    eventually("the new stream is read", async || world.ledger("settlement = 'done'").await == 25).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_on_a_stream_that_is_not_there_waits_for_it() {
    let world = workshop(json!({})).await;
    world.jetstream.delete_stream("WORK").await.expect("it is deleted");
    let node = Node::start_unready(&world, "one").await;
    let reason = red(&node, "trigger/work").await;
    assert!(reason.contains("WORK") || reason.contains("starting"), "{reason}");
    eventually("the row says why", async || {
        let row = world.row("select error from oncue.triggers").await;
        row["error"]
            .as_str()
            .is_some_and(|text| text.contains("cannot open stream \"WORK\"") && text.contains("create_stream"))
    })
    .await;
    world.stream("WORK", &["work"]).await;
    world.publish_events("work", events(0, 10)).await;
    node.ready().await;
    all_done(&world, 10).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_is_run_at_most_once_and_what_it_drops_is_counted() {
    let world = workshop(json!({})).await;
    world
        .sql(
            r#"delete from oncue.triggers;
               insert into oncue.triggers (name, bus, kind, spec) values ('core', 'main', 'nats', '{"subject":"core.>"}')"#,
        )
        .await;
    let mut settings = config(&world, "one");
    settings.budget_events = 10;
    let node = Node::launch(settings);
    node.ready().await;
    for n in 0..20 {
        world.nats.publish(format!("core.{n}"), r#"{"do":"e0"}"#.into()).await.expect("it is sent");
    }
    world.nats.flush().await.expect("it is sent");
    eventually("all are done", async || world.ledger("settlement = 'done' and trigger = 'core'").await == 20).await;
    // Slow ones fill the small budget; then more come than the client holds.
    for n in 0..100_000 {
        let what = if n < 50 { r#"{"do":"s9"}"# } else { "0" };
        world.nats.publish("core.flood", what.into()).await.expect("it is sent");
    }
    world.nats.flush().await.expect("it is sent");
    eventually("drops are counted", async || {
        node.metric(r#"oncue_slow_consumer_drops_total{trigger="core"}"#).await.is_some_and(|drops| drops > 0.0)
    })
    .await;
    node.quit().await;
}
