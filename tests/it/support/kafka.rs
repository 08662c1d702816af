//! librdkafka's mock cluster: three brokers with real listeners inside the test's process.
//!
//! It keeps about 5 MB of a partition, knows neither TLS nor SASL nor the admin protocol, and forgets all with the test.

use std::time::Duration;

use oncue::bus::BusConfig;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};

/// Brokers of the cluster, and copies of each partition.
const BROKERS: i32 = 3;
/// Longer than any answer of a broker in this process.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster for one test.
pub struct Kafka {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub partition: i32,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, String)>,
}

impl Stored {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Kafka {
    /// A cluster with these topics and their numbers of partitions.
    pub fn start(topics: &[(&str, i32)]) -> Self {
        let kafka = Self { cluster: MockCluster::new(BROKERS).expect("it starts") };
        topics.iter().for_each(|(name, partitions)| kafka.topic(name, *partitions));
        kafka
    }

    /// Adds a topic.
    pub fn topic(&self, name: &str, partitions: i32) {
        self.cluster.create_topic(name, partitions, BROKERS).expect("the topic is made");
    }

    /// The bus that it is. A rebalance of this cluster takes as long as a session but for a second.
    pub fn bus(&self) -> BusConfig {
        let options = [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "300")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        BusConfig { options, ..BusConfig::kafka(self.cluster.bootstrap_servers()) }
    }

    /// Cuts every broker off.
    pub fn down(&self) {
        (1..=BROKERS).for_each(|broker| self.cluster.broker_down(broker).expect("it goes down"));
    }

    /// Brings every broker back.
    pub fn up(&self) {
        (1..=BROKERS).for_each(|broker| self.cluster.broker_up(broker).expect("it comes up"));
    }

    /// Everything in a topic, partition after partition.
    pub fn records(&self, topic: &str) -> Vec<Stored> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader of the test")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).expect("a broker answers");
        let (mut assigned, mut count) = (TopicPartitionList::new(), 0);
        for partition in metadata.topics()[0].partitions() {
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), ANSWER).expect("a broker answers");
            count += high - low;
            assigned.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assigned).expect("it is assigned");
        let mut records = Vec::new();
        while (records.len() as i64) < count {
            let record = consumer.poll(ANSWER).expect("it comes").expect("a record");
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
            let headers = headers.map(|h| (h.key.to_owned(), text(h.value).unwrap_or_default())).collect();
            let (key, value) = (text(record.key()), text(record.payload()));
            records.push(Stored { partition: record.partition(), key, value, headers });
        }
        records.sort_by_key(|record| record.partition);
        records
    }
}
