//! SIGTERM: reading stops, what runs is settled and committed, and nothing of it is read again.

use serde_json::json;
use tokio::time::timeout;

use crate::support::kafka::Kafka;
use crate::support::node::get;
use crate::support::process::Process;
use crate::support::records::Record;
use crate::support::topics::{GROUP, done, drained, launch, workshop};
use crate::support::{PATIENCE, World, eventually, functions};

/// A world whose function's events go to a topic: there is nobody who drops a second one.
async fn shop(partitions: i32) -> (World, Kafka) {
    let world = workshop(json!({}), "").await;
    let spec = json!({ "grants": { "publish": ["k/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    (world, Kafka::start(&[("work", partitions), ("mail.welcome", 1)]))
}

fn records(what: fn(u32) -> &'static str, count: u32) -> impl Iterator<Item = Record> {
    (0..count)
        .map(move |n| Record::event(&format!("e{n}"), &format!("k{}", n % 30), &format!(r#"{{"do":"{}"}}"#, what(n))))
}

async fn end(mut process: Process) {
    process.signal("TERM").await;
    let status = timeout(PATIENCE, process.wait()).await.expect("it ends");
    assert!(status.success(), "{status}: {}", process.tail());
}

async fn metric(process: &Process, name: &str) -> f64 {
    let (_, metrics) = get(process.health, "/metrics").await.expect("metrics");
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.filter_map(|value| value.parse::<f64>().ok()).sum()
}

/// Each event ran once, with its effect.
async fn once(world: &World, kafka: &Kafka, total: i64) {
    assert_eq!(world.ledger("true").await, total, "one attempt each");
    assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, total);
    let effects = kafka.records("mail.welcome").len();
    assert_eq!(i64::try_from(effects).expect("few"), total, "each effect once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_done_everything_commits_it_all_and_the_next_one_reads_nothing() {
    let (world, kafka) = shop(4).await;
    let client = kafka.client();
    client.produce("work", records(|_| "e0", 1_000)).await;
    let node = launch(&world, "one", &client).ready().await;
    done(&world, 1_000).await;
    // At once: what was settled in the last second is committed by the drain.
    end(node).await;
    assert!(client.drained(GROUP, "work", 4), "{:?}", client.committed(GROUP, "work", 4));
    let next = launch(&world, "two", &client).ready().await;
    client.produce("work", records(|_| "e0", 100)).await;
    // The same ids, other offsets: they are other events.
    done(&world, 1_100).await;
    assert_eq!(metric(&next, r#"oncue_events_received_total{trigger="work"}"#).await, 100.0);
    once(&world, &kafka, 1_100).await;
    drained(&client, 4).await;
    end(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_node_that_is_told_to_stop_exits_cleanly_and_repeats_nothing() {
    let (world, kafka) = shop(4).await;
    let client = kafka.client();
    let what = |n: u32| if n.is_multiple_of(3) { "s2" } else { "e0" };
    client.produce("work", records(what, 3_000)).await;
    let node = launch(&world, "one", &client).ready().await;
    eventually("it is busy", async || world.ledger("true").await > 300).await;
    end(node).await;
    let first = world.ledger("true").await;
    assert!(first < 3_000, "it was told under load");
    let committed: i64 = client.committed(GROUP, "work", 4).values().sum();
    assert!(committed > 0 && committed <= first, "{committed} committed, {first} settled");
    assert_eq!(world.number("select count(*) from oncue.parked where token is not null").await, 0);
    let row = world.row("select state from oncue.nodes where node = 'one'").await;
    assert_eq!(row, json!({ "state": "stopped" }));

    let next = launch(&world, "two", &client).ready().await;
    done(&world, 3_000).await;
    drained(&client, 4).await;
    // What was settled above the watermark of its partition is read again, is known, and does not run.
    once(&world, &kafka, 3_000).await;
    end(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_nodes_under_load_repeats_nothing() {
    let (world, kafka) = shop(6).await;
    let client = kafka.client();
    let mut nodes = Vec::new();
    for n in 0..3 {
        nodes.push(launch(&world, &format!("n{n}"), &client));
    }
    let what = |n: u32| if n.is_multiple_of(5) { "s1" } else { "e0" };
    client.produce("work", records(what, 4_000)).await;
    for n in 0..3 {
        let enough = 500 * (i64::from(n) + 1);
        eventually("it goes on", async || world.ledger("settlement = 'done'").await > enough).await;
        end(nodes.remove(0)).await;
        nodes.push(launch(&world, &format!("n{n}"), &client));
    }
    done(&world, 4_000).await;
    drained(&client, 6).await;
    once(&world, &kafka, 4_000).await;
    for node in nodes {
        end(node.ready().await).await;
    }
}
