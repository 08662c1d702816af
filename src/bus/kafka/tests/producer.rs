//! Publishing against the mock cluster, with the errors that it can be told to answer.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::super::*;
use crate::event::codec::kafka::Outgoing;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const PARTITIONS: i32 = 4;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(3).expect("it starts");
    cluster.create_topic("orders", PARTITIONS, 3).expect("it is made");
    cluster
}

fn bus(cluster: &Cluster, options: &[(&str, &str)]) -> KafkaBus {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = BusConfig { options, ..BusConfig::kafka(cluster.bootstrap_servers()) };
    KafkaBus::new("k", &config).expect("it is right")
}

fn record(key: Option<&str>, value: &str) -> Outgoing {
    let headers = vec![("ce_id".to_owned(), value.to_owned())];
    Outgoing { key: key.map(str::to_owned), headers, value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn publish(bus: &KafkaBus, topic: &str, record: &Outgoing) -> Result<Stored, SendFailure> {
    bus.send(topic, record, soon()).await?.wait().await
}

async fn failure(bus: &KafkaBus, topic: &str, record: &Outgoing) -> String {
    publish(bus, topic, record).await.expect_err("it cannot be stored").to_string()
}

/// Key, value and `ce_id` of everything in the topic, partition after partition.
type Read = (i32, Option<String>, Option<String>, Option<String>);

fn read(bus: &KafkaBus, count: usize) -> Vec<Read> {
    let consumer: BaseConsumer = bus.consumer("reader", "reader").create().expect("it is right");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset("orders", partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&all).expect("it is right");
    let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
    let mut found = Vec::new();
    while let Some(next) = consumer.poll(Duration::from_secs(if found.len() < count { 20 } else { 1 })) {
        let next = next.expect("a record");
        let id = next.headers().and_then(|h| text(h.try_get(0).and_then(|h| h.value)));
        found.push((next.partition(), text(next.key()), text(next.payload()), id));
    }
    found.sort_by_key(|(partition, ..)| *partition);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_key_are_stored_in_one_partition_in_their_order() {
    let cluster = cluster();
    let bus = bus(&cluster, &[]);
    let mut waiting = Vec::new();
    for n in 0..400 {
        let out = record(Some(&format!("key {}", n % 8)), &n.to_string());
        waiting.push(bus.send("orders", &out, soon()).await.expect("it is taken"));
    }
    for acknowledgement in waiting {
        acknowledgement.wait().await.expect("it is stored");
    }
    let found = read(&bus, 400);
    assert_eq!(found.len(), 400);
    for key in 0..8 {
        let of_key = || found.iter().filter(|(_, k, ..)| k.as_deref() == Some(&format!("key {key}")));
        let numbers: Vec<usize> =
            of_key().map(|(_, _, v, _)| v.as_ref().expect("a value").parse().expect("one")).collect();
        assert_eq!(numbers, (0..400).filter(|n| n % 8 == key).collect::<Vec<_>>());
        let first = of_key().next().expect("there are some").0;
        assert!(of_key().all(|(partition, ..)| *partition == first), "one partition");
    }
    assert!(found.iter().all(|(_, _, value, id)| value == id), "with their headers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_payload_is_an_empty_value_and_no_key_is_a_null_key() {
    let cluster = cluster();
    let bus = bus(&cluster, &[]);
    publish(&bus, "orders", &record(None, "")).await.expect("it is stored");
    let found = read(&bus, 1);
    assert_eq!((&found[0].1, found[0].2.as_deref()), (&None, Some("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named_with_what_makes_it() {
    let cluster = cluster();
    let bus = bus(&cluster, &[]);
    let text = failure(&bus, "orders.new", &record(None, "x")).await;
    assert!(text.starts_with("there is no topic \"orders.new\": create it with `kafka-topics.sh "), "{text}");
    let names: Vec<_> = bus.topics().await.expect("a broker answers").into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["orders"], "publishing made none");
    for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(250)] {
        let text = failure(&bus, bad, &record(None, "x")).await;
        assert!(text.contains("cannot be the name of a topic"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_says_which_limits_to_raise() {
    let cluster = cluster();
    let small = bus(&cluster, &[("message.max.bytes", "1000")]);
    let text = failure(&small, "orders", &record(None, &"x".repeat(2_000))).await;
    assert!(text.contains("Message size too large") && text.contains("`message.max.bytes`"), "{text}");
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let text = failure(&bus(&cluster, &[]), "orders", &record(None, "x")).await;
    assert!(text.contains("`max.message.bytes` of the topic orders"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_tried_again_and_store_a_record_once() {
    let cluster = cluster();
    let bus = bus(&cluster, &[("delivery.timeout.ms", "20000")]);
    let passing = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &passing);
    for n in 0..20 {
        publish(&bus, "orders", &record(Some("k"), &n.to_string())).await.expect("it is stored");
    }
    let values: Vec<_> = read(&bus, 20).into_iter().filter_map(|(_, _, value, _)| value).collect();
    assert_eq!(values, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_fails_with_the_brokers_words() {
    let cluster = cluster();
    let bus = bus(&cluster, &[]);
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let text = failure(&bus, "orders", &record(None, "x")).await;
    assert!(text.contains("Broker: Topic authorization failed"), "{text}");
    while publish(&bus, "orders", &record(None, "y")).await.is_err() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_fail_a_record_in_its_time_and_take_the_next_when_they_are_back() {
    let cluster = cluster();
    let bus = bus(&cluster, &[("delivery.timeout.ms", "4000"), ("reconnect.backoff.max.ms", "200")]);
    publish(&bus, "orders", &record(None, "before")).await.expect("it is stored");
    (1..=3).for_each(|broker| cluster.broker_down(broker).expect("it goes down"));
    let text = failure(&bus, "orders", &record(None, "while")).await;
    assert!(text.starts_with("no acknowledgement within 4000 ms: "), "{text}");
    (1..=3).for_each(|broker| cluster.broker_up(broker).expect("it comes up"));
    while publish(&bus, "orders", &record(None, "after")).await.is_err() {}
    let values: Vec<_> = read(&bus, 2).into_iter().filter_map(|(_, _, value, _)| value).collect();
    assert!(values.contains(&"before".to_owned()) && values.contains(&"after".to_owned()), "{values:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_makes_the_publisher_wait() {
    let cluster = cluster();
    let bus = bus(&cluster, &[("queue.buffering.max.messages", "10"), ("linger.ms", "20")]);
    let mut waiting = Vec::new();
    for n in 0..500 {
        waiting.push(bus.send("orders", &record(Some("k"), &n.to_string()), soon()).await.expect("it is taken"));
    }
    for acknowledgement in waiting {
        acknowledgement.wait().await.expect("it is stored");
    }
    (1..=3).for_each(|broker| cluster.broker_down(broker).expect("it goes down"));
    let deadline = Instant::now() + Duration::from_millis(100);
    let mut taken = 0;
    let full = loop {
        match bus.send("orders", &record(None, "x"), deadline).await {
            Ok(_) => taken += 1,
            Err(failure) => break failure.to_string(),
        }
    };
    // Ten in the client, and as many that wait for them.
    assert!(taken <= 20 && full.ends_with("the queue of the producer is full"), "{taken}: {full}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_failed_for_good_is_replaced() {
    let cluster = cluster();
    let bus = bus(&cluster, &[("delivery.timeout.ms", "2000")]);
    publish(&bus, "orders", &record(Some("k"), "before")).await.expect("it is stored");
    let first = bus.producer().await.expect("it is there");
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    let text = failure(&bus, "orders", &record(Some("k"), "lost its place")).await;
    assert!(!text.is_empty());
    while publish(&bus, "orders", &record(Some("k"), "after")).await.is_err() {}
    assert!(!Arc::ptr_eq(&first, &bus.producer().await.expect("it is there")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_publish_hears_so_and_makes_no_producers_without_end() {
    let cluster = cluster();
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 100];
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &refused);
    let bus = bus(&cluster, &[("delivery.timeout.ms", "1000")]);
    let first = failure(&bus, "orders", &record(None, "x")).await;
    let again = failure(&bus, "orders", &record(None, "x")).await;
    assert!(first.contains("authorization") || again.contains("authorization"), "{first} {again}");
    cluster.clear_request_errors(RDKafkaApiKey::InitProducerId);
    while publish(&bus, "orders", &record(None, "after")).await.is_err() {}
}
