//! SIGTERM: reading stops, what runs is settled and acknowledged, nothing of it comes again.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::support::process::Process;
use crate::support::{PATIENCE, World, eventually, functions};

async fn workshop() -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    let limits = json!({ "timeout_ms": 60_000, "fuel": i64::MAX, "concurrency": 64 });
    let spec = json!({ "limits": limits, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({ "ack_wait_ms": 2_000 })).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_node_that_is_told_to_stop_exits_cleanly_and_repeats_nothing() {
    let world = workshop().await;
    let mut node = Process::start(&world, "one").await;
    let total = 4_000;
    let what = |n: u32| if n.is_multiple_of(3) { "s2" } else { "e0" };
    world.publish_events("work", (0..total).map(|n| (format!("e{n}"), format!(r#"{{"do":"{}"}}"#, what(n))))).await;
    eventually("it is busy", async || world.ledger("true").await > 500).await;
    node.signal("TERM").await;
    let status = timeout(PATIENCE, node.wait()).await.expect("it ends");
    assert!(status.success(), "{status}: {}", node.tail());
    let first = world.ledger("true").await;
    assert!(first < i64::from(total), "it was told under load");
    let row = world.row("select state from oncue.nodes where node = 'one'").await;
    assert_eq!(row, json!({ "state": "stopped" }));
    assert_eq!(world.number("select count(*) from oncue.leases where expires_at > now()").await, 0);
    assert_eq!(world.number("select count(*) from oncue.parked where token is not null").await, 0);
    let info = world.consumer("WORK", "oncue-work").await.expect("it is there");
    let settled = u64::try_from(first).expect("few");
    let acknowledged = info.delivered.stream_sequence - u64::try_from(info.num_ack_pending).expect("few");
    assert_eq!(acknowledged, settled, "everything that was settled is acknowledged");

    let node = Process::start(&world, "two").await;
    eventually("the rest is done", async || world.ledger("settlement = 'done'").await == i64::from(total)).await;
    eventually("all is acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    assert_eq!(world.ledger("true").await, i64::from(total), "one attempt each");
    assert_eq!(world.stored("MAIL").await, u64::from(total));
    let duplicates = world.ledger("attempt > 1").await;
    assert_eq!(duplicates, 0);
    let (_, metrics) = crate::support::node::get(node.health, "/metrics").await.expect("metrics");
    let duplicate = r#"oncue_deliveries_total{rule="work",outcome="duplicate"}"#;
    assert!(!metrics.contains(duplicate), "what was settled came again: {metrics}");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_node_at_once() {
    let world = workshop().await;
    let mut node = Process::start(&world, "one").await;
    // The first one loads the function: the second one begins as soon as it is read.
    world.publish_events("work", [("first".to_owned(), r#"{"do":"o0"}"#.to_owned())]).await;
    eventually("the function is loaded", async || world.ledger("true").await == 1).await;
    world.publish_events("work", [("forever".to_owned(), r#"{"do":"l0"}"#.to_owned())]).await;
    eventually("it runs", async || {
        world.consumer("WORK", "oncue-work").await.is_some_and(|info| info.num_ack_pending == 1)
    })
    .await;
    node.signal("TERM").await;
    let draining =
        async || crate::support::node::get(node.health, "/readyz").await.is_some_and(|(status, _)| status == 503);
    eventually("it drains", draining).await;
    assert!(timeout(Duration::from_secs(2), node.wait()).await.is_err(), "it waits for what runs");
    node.signal("TERM").await;
    timeout(Duration::from_secs(10), node.wait()).await.expect("the second signal ends it");
    assert_eq!(world.ledger("event_id = 'forever'").await, 0);
}
