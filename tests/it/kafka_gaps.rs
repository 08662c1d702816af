//! Gaps: what a topic no longer has, or a group no longer knows, halts the trigger until somebody accepts it. It never
//! goes on somewhere else by itself.

use rdkafka::bindings::rd_kafka_resp_err_t;
use serde_json::{Value, json};

use crate::support::broker::{Broker, Storage};
use crate::support::kafka::Kafka;
use crate::support::process::{manifest, run};
use crate::support::records::{Client, Record};
use crate::support::topics::{GROUP, done, drained, refused, section, settings, start, state, workshop};
use crate::support::{Node, World, eventually};

const ACCEPT: &str = "oncue trigger resume work --accept-gap";

fn records(from: u32, to: u32) -> impl Iterator<Item = Record> {
    (from..to).map(|n| Record::event(&format!("e{n}"), &format!("k{}", n % 10), r#"{"do":"o0"}"#))
}

/// Waits until the trigger is halted by what `words` say, everywhere where it is told.
async fn halted(world: &World, node: &Node, client: &Client, words: &[&str]) {
    eventually("the trigger is halted", async || state(world).await.0 == "gap").await;
    let (_, error) = state(world).await;
    assert!(error.contains(ACCEPT) && words.iter().all(|word| error.contains(word)), "{error}");
    eventually("health shows it", async || {
        node.component("trigger/work").await.is_some_and(|(state, why)| state == "gap" && why.contains(ACCEPT))
    })
    .await;
    assert!(!node.is_ready().await);
    let (manifest, _) = manifest(world, "operator", &section(client));
    let shown = run(&manifest, &["trigger", "show", "work"]).await;
    assert!(shown.code == 0 && shown.out.contains("gap") && shown.out.contains("--accept-gap"), "{shown:?}");
    let refused = run(&manifest, &["trigger", "resume", "work"]).await;
    assert!(refused.code == 1 && refused.err.contains("--accept-gap"), "{refused:?}");
}

/// The halt outlives the node, and nothing was moved meanwhile.
async fn stays_halted(world: &World, client: &Client, node: Node, bus: oncue::bus::BusConfig) -> Node {
    let before = client.committed(GROUP, "work", 1);
    node.stop().await;
    let node = Node::launch(settings(world, "later", bus));
    halted(world, &node, client, &[]).await;
    assert_eq!(client.committed(GROUP, "work", 1), before, "nothing is reset by itself");
    node
}

/// Accepts the gap, as an operator does.
async fn accept(world: &World, node: &Node, client: &Client) {
    let (manifest, _) = manifest(world, "operator", &section(client));
    let said = run(&manifest, &["trigger", "resume", "work", "--accept-gap"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    node.ready().await;
    // The row is written after health is green.
    eventually("the row says so", async || state(world).await == ("active".to_owned(), String::new())).await;
}

async fn ran(world: &World, id: &str) -> i64 {
    world.ledger(&format!("event_id = '{id}' and settlement = 'done'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_retention_took_are_a_gap_that_halts_the_trigger() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let (client, node) = (kafka.client(), start(&world, "one", kafka.bus()).await);
    client.produce("work", records(0, 10)).await;
    done(&world, 10).await;
    node.stop().await;
    // The mock cluster keeps the last five megabytes of a partition.
    let large =
        |n: u32| Record::event(&format!("large{n}"), "k", &format!(r#"{{"do":"o0","pad":"{}"}}"#, "x".repeat(100_000)));
    client.produce("work", (0..120).map(large)).await;
    let (low, high) = client.watermarks("work", 1)[&0];
    assert!(low > 10 && low < high, "retention took some: {low} {high}");
    let node = Node::launch(settings(&world, "two", kafka.bus()));
    halted(&world, &node, &client, &["work", "10", &low.to_string()]).await;
    assert_eq!(world.ledger("true").await, 10, "nothing was skipped silently");
    let node = stays_halted(&world, &client, node, kafka.bus()).await;
    accept(&world, &node, &client).await;
    // Only what is gone is missing.
    done(&world, 10 + high - low).await;
    drained(&client, 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_offset_beyond_the_end_is_a_gap() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let (client, node) = (kafka.client(), start(&world, "one", kafka.bus()).await);
    client.produce("work", records(0, 10)).await;
    done(&world, 10).await;
    node.stop().await;
    // A topic that lost its end, or one that was made again and is shorter, looks like this.
    client.commit(GROUP, "work", [(0, 1_000)]);
    client.produce("work", records(10, 20)).await;
    let node = Node::launch(settings(&world, "two", kafka.bus()));
    halted(&world, &node, &client, &["work", "1000", "20"]).await;
    assert_eq!(world.ledger("true").await, 10);
    let node = stays_halted(&world, &client, node, kafka.bus()).await;
    accept(&world, &node, &client).await;
    client.produce("work", records(20, 25)).await;
    eventually("new records run", async || ran(&world, "e24").await == 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_same_address_is_a_gap() {
    let (world, first) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", first.bus()).await;
    first.client().produce("work", records(0, 10)).await;
    done(&world, 10).await;
    node.stop().await;
    // Both at once, for their identities come from their places in memory.
    let second = Kafka::start(&[("work", 1)]);
    drop(first);
    second.client().produce("work", records(10, 15)).await;
    let node = Node::launch(settings(&world, "two", second.bus()));
    halted(&world, &node, &second.client(), &["work"]).await;
    assert_eq!(world.ledger("true").await, 10);
    accept(&world, &node, &second.client()).await;
    done(&world, 15).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_offsets_that_are_gone_are_a_gap_and_never_a_silent_start() {
    let world = workshop(json!({ "start": "latest" }), "").await;
    let Some(broker) = Broker::start(&world, Storage::Sqlite, "committed offsets that are gone").await else { return };
    let client = broker.client();
    client.create_topic("work", 1).await;
    let node = start(&world, "one", broker.bus()).await;
    eventually("the first records are new ones", async || {
        client.produce("work", records(0, 1)).await;
        world.ledger("settlement = 'done'").await > 0
    })
    .await;
    drained(&client, 1).await;
    node.stop().await;
    let before = world.ledger("true").await;
    client.produce("work", records(100, 110)).await;
    client.delete_group(GROUP).await;
    let node = Node::launch(settings(&world, "two", broker.bus()));
    halted(&world, &node, &client, &["work"]).await;
    assert_eq!(world.ledger("true").await, before, "the ten are neither skipped nor run by guess");
    accept(&world, &node, &client).await;
    client.produce("work", records(110, 111)).await;
    eventually("new records run", async || ran(&world, "e110").await == 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_a_gap() {
    let world = workshop(json!({}), "").await;
    let Some(broker) = Broker::start(&world, Storage::Sqlite, "a topic that was made anew").await else { return };
    let client = broker.client();
    client.create_topic("work", 1).await;
    let node = start(&world, "one", broker.bus()).await;
    client.produce("work", records(0, 100)).await;
    done(&world, 100).await;
    drained(&client, 1).await;
    node.stop().await;
    client.delete_topic("work").await;
    client.create_topic("work", 1).await;
    client.produce("work", records(100, 105)).await;
    let node = Node::launch(settings(&world, "two", broker.bus()));
    halted(&world, &node, &client, &["work"]).await;
    assert_eq!(world.ledger("true").await, 100);
    accept(&world, &node, &client).await;
    done(&world, 105).await;
    let rows: Vec<Value> = world.rows("select event_id from oncue.ledger where event_id = 'e104'").await;
    assert_eq!(rows.len(), 1);
    node.stop().await;
}

/// The mock cluster deletes no topics; it can say that there is none. (tansu can, but answers a fetch from a topic that it
/// deleted with a leader for no topic, which librdkafka 2.12 does not survive.)
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_disappears_under_the_trigger_is_told_and_read_on_when_it_is_back() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let (client, node) = (kafka.client(), start(&world, "one", kafka.bus()).await);
    client.produce("work", records(0, 50)).await;
    done(&world, 50).await;
    drained(&client, 1).await;
    let gone = |error| kafka.cluster.topic_error("work", error).expect("it is set");
    gone(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    refused(&world, &node, &["there is no topic work"]).await;
    gone(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    node.ready().await;
    client.produce("work", records(50, 60)).await;
    done(&world, 60).await;
    drained(&client, 1).await;
    node.stop().await;
}
