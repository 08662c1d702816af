//! What can be asked of a cluster beside its topics.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{Offset, TopicPartitionList};

use super::super::*;
use crate::event::codec::kafka::Outgoing;

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_progress_is_what_it_committed_between_what_the_partition_has() {
    let cluster = MockCluster::new(3).expect("it starts");
    cluster.create_topic("orders", 2, 3).expect("it is made");
    let bus = KafkaBus::new("k", &BusConfig::kafka(cluster.bootstrap_servers())).expect("it is right");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut high = [0, 0];
    for n in 0..40 {
        let record = Outgoing { key: Some(n.to_string()), headers: Vec::new(), value: "x".into() };
        let sent = bus.send("orders", &record, deadline).await.expect("it is taken");
        high[usize::try_from(sent.wait().await.expect("it is stored").partition).expect("0 or 1")] += 1;
    }
    let consumer: BaseConsumer = bus.consumer("readers", "test").create().expect("a consumer");
    let mut committed = TopicPartitionList::new();
    committed.add_partition_offset("orders", 1, Offset::Offset(3)).expect("an offset");
    consumer.commit(&committed, CommitMode::Sync).expect("it is committed");

    let topic = bus.topic("orders").await.expect("a broker answers").expect("it is there");
    let progress = bus.progress("readers", &topic, None).await.expect("a broker answers");
    let of = |partition: i32, committed, high| Progress { partition, committed, low: 0, high, young: None };
    assert_eq!(progress, [of(0, None, high[0]), of(1, Some(3), high[1])]);
    let lags: Vec<u64> = progress.iter().map(Progress::lag).collect();
    assert_eq!(lags, [u64::try_from(high[0]).expect("no less than 0"), u64::try_from(high[1] - 3).expect("above 3")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brokers_do_not_say_is_none() {
    let cluster = MockCluster::new(2).expect("it starts");
    cluster.create_topic("orders", 1, 1).expect("it is made");
    let bus = KafkaBus::new("k", &BusConfig::kafka(cluster.bootstrap_servers())).expect("it is right");
    let brokers = bus.broker_list().await.expect("a broker answers");
    assert_eq!(brokers.iter().map(|b| b.id).collect::<Vec<_>>(), [1, 2]);
    assert!(brokers.iter().all(|b| cluster.bootstrap_servers().contains(&format!("{}:{}", b.host, b.port))));
    assert_eq!(bus.topic_settings("orders").await.expect("a client"), None);
    assert_eq!(bus.group("readers").await.expect("a client"), None);
}
