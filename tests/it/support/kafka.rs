//! librdkafka's mock cluster: three brokers with real listeners inside the test's process.
//!
//! It keeps about 5 MB of a partition, knows neither TLS nor SASL nor the admin protocol, and forgets all with the test.

use oncue::bus::BusConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::records::Client;

pub use super::records::Stored;

/// Brokers of the cluster, and copies of each partition.
pub const BROKERS: i32 = 3;

/// A cluster for one test.
pub struct Kafka {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
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

    /// Its clients.
    pub fn client(&self) -> Client {
        Client::new(self.cluster.bootstrap_servers())
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
        self.client().records(topic)
    }
}
