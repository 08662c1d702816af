//! What the suites of Kafka do as clients of a cluster, be it the mock cluster or a broker: topics, records, and what a
//! group has committed, asked from outside.
//!
//! librdkafka answers by blocking: the tests that use this have several threads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::block_in_place;

/// Longer than any answer of a broker on this machine.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a poll waits.
const POLL: Duration = Duration::from_millis(50);
/// Unacknowledged records of one producer.
const WINDOW: usize = 5_000;

/// A record that is to be produced.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Chosen by the key without one.
    pub partition: Option<i32>,
    /// Milliseconds since 1970; now without one.
    pub timestamp: Option<i64>,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub partition: i32,
    /// Milliseconds since 1970.
    pub at: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, String)>,
}

/// Clients of the cluster that begins with these brokers.
#[derive(Clone, Debug)]
pub struct Client {
    pub servers: String,
    /// How they log in, as properties of librdkafka.
    pub login: Vec<(&'static str, String)>,
}

impl Record {
    /// A plain record.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    /// A CloudEvent in binary mode.
    pub fn event(id: &str, key: &str, data: &str) -> Self {
        let attributes = [("specversion", "1.0"), ("source", "test"), ("type", "test.record"), ("id", id)];
        let attributes = attributes.map(|(name, value)| (format!("ce_{name}"), value));
        let headers = attributes.into_iter().chain([("content-type".to_owned(), "application/json")]);
        let headers = headers.map(|(name, value)| (name, Some(value.as_bytes().to_vec()))).collect();
        Self { headers, ..Self::new(key, data) }
    }

    /// The same in this partition.
    pub fn in_partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }
}

impl Stored {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// Clients that do not log in.
    pub fn new(servers: String) -> Self {
        Self { servers, login: Vec::new() }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        for (key, value) in &self.login {
            config.set(*key, value);
        }
        config
    }

    /// Adds a topic.
    pub async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = self.admin().create_topics([&topic], &options()).await.expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// Deletes a topic with all that is in it.
    pub async fn delete_topic(&self, name: &str) {
        let gone = self.admin().delete_topics(&[name], &options()).await.expect("the broker answers");
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    }

    /// Deletes a group that has no members, with its committed offsets.
    pub async fn delete_group(&self, name: &str) {
        let gone = self.admin().delete_groups(&[name], &options()).await.expect("the broker answers");
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin client")
    }

    /// Produces records in their order, each once, and gives partition and offset of each when all are stored.
    pub async fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Vec<(i32, i64)> {
        self.produce_with(topic, records, &[]).await
    }

    /// The same with more settings of the producer.
    pub async fn produce_with(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
        settings: &[(&str, &str)],
    ) -> Vec<(i32, i64)> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("message.max.bytes", "8000000");
        config.set("partitioner", "murmur2_random").set("queue.buffering.max.kbytes", "1048576");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        let producer: FutureProducer = config.create().expect("a producer");
        let (mut stored, mut waiting) = (Vec::new(), Vec::new());
        for record in records {
            waiting.push(record.send(&producer, topic));
            if waiting.len() == WINDOW {
                settle(&mut waiting, &mut stored).await;
            }
        }
        settle(&mut waiting, &mut stored).await;
        block_in_place(|| drop(producer));
        stored
    }

    /// What `group` has committed of a topic: the next record of a partition that is to be read. Partitions without a
    /// committed offset are left out.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
        block_in_place(|| {
            let mut asked = TopicPartitionList::new();
            for id in 0..partitions {
                asked.add_partition(topic, id);
            }
            let answer = self.member(group).committed_offsets(asked, ANSWER).expect("a broker answers");
            let of = |entry: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match entry.offset() {
                Offset::Offset(offset) => Some((entry.partition(), offset)),
                _ => None,
            };
            answer.elements().iter().filter_map(of).collect()
        })
    }

    /// Commits for `group`, as somebody with a tool would: as its only member for a moment.
    pub fn commit(&self, group: &str, topic: &str, offsets: impl IntoIterator<Item = (i32, i64)>) {
        block_in_place(|| {
            let list = positions(topic, offsets);
            let member = self.member(group);
            member.subscribe(&[topic]).expect("it is subscribed");
            let deadline = Instant::now() + ANSWER;
            while member.assignment().expect("it is known").count() == 0 {
                assert!(Instant::now() < deadline, "the group {group} has other members");
                // There is nothing to be done with records.
                drop(member.poll(POLL));
            }
            member.commit(&list, CommitMode::Sync).expect("it is committed");
        });
    }

    /// Commits for `group` beside its members, as somebody would whom the broker should not believe.
    pub fn commit_beside(&self, group: &str, topic: &str, offsets: impl IntoIterator<Item = (i32, i64)>) {
        block_in_place(|| {
            let list = positions(topic, offsets);
            self.member(group).commit(&list, CommitMode::Sync).expect("it is committed");
        });
    }

    /// A client that has the group's name and joins it not.
    fn member(&self, group: &str) -> BaseConsumer {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false").set("session.timeout.ms", "6000");
        config.create().expect("a consumer")
    }

    /// The first offset that each partition still has, and the one that its next record gets.
    pub fn watermarks(&self, topic: &str, partitions: i32) -> BTreeMap<i32, (i64, i64)> {
        block_in_place(|| {
            let consumer = self.member("nobody");
            let ask = |id| (id, consumer.fetch_watermarks(topic, id, ANSWER).expect("a broker answers"));
            (0..partitions).map(ask).collect()
        })
    }

    /// Whether the group has committed everything that a topic has.
    pub fn drained(&self, group: &str, topic: &str, partitions: i32) -> bool {
        let committed = self.committed(group, topic, partitions);
        let ends = self.watermarks(topic, partitions);
        ends.into_iter().all(|(id, (low, high))| low == high || committed.get(&id) == Some(&high))
    }

    /// Everything in a topic, partition after partition.
    pub fn records(&self, topic: &str) -> Vec<Stored> {
        block_in_place(|| self.read(topic))
    }

    fn read(&self, topic: &str) -> Vec<Stored> {
        let mut config = self.config();
        config.set("group.id", "reader of the test").set("enable.auto.commit", "false");
        // A broker with a file asks for each record by itself: large answers take it longer than anybody waits.
        config.set("max.partition.fetch.bytes", "65536");
        let consumer: BaseConsumer = config.set("enable.partition.eof", "true").create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).expect("a broker answers");
        let mut assigned = TopicPartitionList::new();
        let mut left: BTreeSet<i32> = metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
        for partition in &left {
            assigned.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assigned).expect("it is assigned");
        let mut records = Vec::new();
        while !left.is_empty() {
            match consumer.poll(ANSWER).expect("it comes") {
                Ok(record) => records.push(Stored::from(&record)),
                Err(KafkaError::PartitionEOF(partition)) => {
                    left.remove(&partition);
                }
                // Leaders that have just moved; librdkafka asks the next one.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure) => {}
                Err(error) => panic!("{topic} is read: {error}"),
            }
        }
        records.sort_by_key(|record| record.partition);
        records
    }
}

impl From<&BorrowedMessage<'_>> for Stored {
    fn from(record: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|h| (h.key.to_owned(), text(h.value).unwrap_or_default())).collect();
        let at = record.timestamp().to_millis().unwrap_or_default();
        Self { partition: record.partition(), at, key: text(record.key()), value: text(record.payload()), headers }
    }
}

impl Record {
    fn send(&self, producer: &FutureProducer, topic: &str) -> DeliveryFuture {
        let mut record: FutureRecord<'_, Vec<u8>, Vec<u8>> = FutureRecord::to(topic);
        (record.key, record.payload) = (self.key.as_ref(), self.value.as_ref());
        (record.partition, record.timestamp) = (self.partition, self.timestamp);
        if !self.headers.is_empty() {
            let empty = OwnedHeaders::new_with_capacity(self.headers.len());
            let add = |headers: OwnedHeaders, (key, value): &(String, Option<Vec<u8>>)| {
                headers.insert(Header { key, value: value.as_ref() })
            };
            record.headers = Some(self.headers.iter().fold(empty, add));
        }
        producer.send_result(record).unwrap_or_else(|(error, _)| panic!("it is sent: {error}"))
    }
}

fn positions(topic: &str, offsets: impl IntoIterator<Item = (i32, i64)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    }
    list
}

async fn settle(waiting: &mut Vec<DeliveryFuture>, stored: &mut Vec<(i32, i64)>) {
    for delivery in waiting.drain(..) {
        let delivery =
            delivery.await.expect("the producer lives").unwrap_or_else(|(error, _)| panic!("stored: {error}"));
        stored.push((delivery.partition, delivery.offset));
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER))
}
