//! Triggers on topics: what is read, in which order it runs, and what is committed.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::node::{self, Node};
use crate::support::{World, eventually, functions};

const ANSWER: Duration = Duration::from_secs(10);

/// A node `name` with the cluster as its bus `kafka`.
fn launch(world: &World, kafka: &Kafka, name: &str) -> Node {
    let mut config = node::config(world, name);
    config.buses.insert("kafka".to_owned(), kafka.bus());
    Node::launch(config)
}

async fn start(world: &World, kafka: &Kafka, name: &str) -> Node {
    let node = launch(world, kafka, name);
    node.ready().await;
    node
}

async fn trigger(world: &World, name: &str, spec: Value) {
    let insert =
        format!("insert into oncue.triggers (name, bus, kind, spec) values ('{name}', 'kafka', 'kafka', '{spec}')");
    world.sql(&insert).await;
}

/// The tables with a trigger on `orders` and a rule that runs the steered function.
async fn world(more: Value) -> World {
    let world = World::start().await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    let mut spec = json!({ "topics": ["orders"] });
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
    trigger(&world, "orders", spec).await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, run, retry_base_ms, retry_cap_ms)
             values ('work', 'orders', true, 'steered', 100, 200)",
        )
        .await;
    world
}

struct Producer(FutureProducer);

impl Producer {
    fn new(kafka: &Kafka) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.cluster.bootstrap_servers()).set("enable.idempotence", "true");
        Self(config.create().expect("a producer"))
    }

    /// Sends to partition 0 and waits until it is stored; the offset.
    async fn send(&self, topic: &str, partition: i32, key: Option<&str>, value: &str) -> i64 {
        let record = FutureRecord { partition: Some(partition), ..FutureRecord::to(topic).payload(value) };
        let record = match key {
            Some(key) => record.key(key),
            None => record,
        };
        let headers = OwnedHeaders::new().insert(Header { key: "origin", value: Some("test") });
        self.0.send(record.headers(headers), ANSWER).await.expect("it is stored").offset
    }
}

/// What `group` has committed of a partition.
fn committed(kafka: &Kafka, group: &str, topic: &str, partition: i32) -> Option<i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.cluster.bootstrap_servers()).set("group.id", group);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, partition);
    let answer = consumer.committed_offsets(asked, ANSWER).expect("a broker answers");
    match answer.find_partition(topic, partition).expect("it was asked for").offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

async fn done(world: &World, count: i64) {
    eventually("all are done", async || world.ledger("settlement = 'done'").await >= count).await;
    assert_eq!(world.ledger("settlement = 'done'").await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_run_in_the_order_of_their_keys_and_are_committed() {
    let (world, kafka) = (world(json!({})).await, Kafka::start(&[("orders", 4)]));
    let producer = Producer::new(&kafka);
    let node = start(&world, &kafka, "one").await;
    for n in 0..200 {
        let (key, what) = (n % 20, if n % 37 == 0 { "s1" } else { "o0" });
        let value = format!(r#"{{"do":"{what}","n":{n}}}"#);
        producer.send("orders", key % 4, Some(&format!("user-{key}")), &value).await;
    }
    done(&world, 200).await;
    let overtaken = "with runs as (
            select event_id, split_part(event_id, '/', 3) as partition, split_part(event_id, '/', 4)::int as place,
                started_at, settled_at from oncue.ledger),
        pairs as (select a.event_id from runs a join runs b on a.partition = b.partition and a.place < b.place
            and (b.place - a.place) % 5 = 0 where b.started_at < a.settled_at)
        select * from pairs";
    assert_eq!(world.rows(overtaken).await, Vec::<Value>::new(), "of one key, one after another");
    let sample = world.row("select event_type, event_source from oncue.ledger limit 1").await;
    assert_eq!(sample, json!({ "event_type": "orders", "event_source": "oncue/trigger/orders" }));
    eventually("all is committed", async || {
        (0..4).all(|partition| committed(&kafka, "oncue-orders", "orders", partition) == Some(50))
    })
    .await;
    let lag = r#"oncue_kafka_lag_records{trigger="orders",topic="orders",partition="0"}"#;
    eventually("the lag is told", async || node.metric(lag).await == Some(0.0)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leaves_nothing_to_be_read_again() {
    let (world, kafka) = (world(json!({})).await, Kafka::start(&[("orders", 2)]));
    let producer = Producer::new(&kafka);
    let mut node = start(&world, &kafka, "one").await;
    for n in 0..50 {
        producer.send("orders", n % 2, Some(&format!("k{n}")), r#"{"do":"s1","n":0}"#).await;
    }
    eventually("some are done", async || world.ledger("settlement = 'done'").await > 5).await;
    node.stop().await;
    let before = world.ledger("true").await;
    node = start(&world, &kafka, "one").await;
    done(&world, 50).await;
    assert!(before <= 50);
    assert_eq!(world.ledger("attempt > 1").await, 0);
    assert_eq!(node.metric(r#"oncue_deliveries_total{rule="work",outcome="duplicate"}"#).await.unwrap_or(0.0), 0.0);
    node.stop().await;
}
