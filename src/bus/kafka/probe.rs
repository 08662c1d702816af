//! A client that asks a cluster for facts, and writes nothing.
//!
//! Invariant: every question has a limit and is asked on a thread for blocking calls; asking about a topic never creates
//! it. It is no idempotent producer: an account that may only read can ask.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataTopic};
use rdkafka::producer::{Producer as _, ThreadedProducer};

use super::aside::Aside;
use super::error::{is_silence, words};
use super::{ANSWER_TIMEOUT, BrokerFacts, Callbacks, ClusterError, GroupFacts, KafkaBus};

/// Asked for to see whether brokers answer: nearly every cluster has it, and one that does not answers too.
const USUAL_TOPIC: &str = "__consumer_offsets";

/// The client. Its own thread serves its logs, errors and tokens.
pub(super) struct Probe {
    client: Aside<ThreadedProducer<Callbacks>>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its name.
    pub name: String,
    /// By number.
    pub partitions: Vec<PartitionFacts>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// From 0.
    pub id: i32,
    /// The broker that leads it; none while there is no leader.
    pub leader: Option<i32>,
    /// The brokers that have a copy.
    pub replicas: Vec<i32>,
    /// Those of them that keep up.
    pub in_sync: Vec<i32>,
}

impl Probe {
    pub(super) fn new(config: &ClientConfig, callbacks: Callbacks) -> KafkaResult<Self> {
        Ok(Self { client: Aside::new(config.create_with_context(callbacks)?) })
    }

    pub(super) fn brokers(&self) -> KafkaResult<Vec<BrokerFacts>> {
        let metadata = self.metadata(Some(USUAL_TOPIC))?;
        let facts = |broker: &MetadataBroker| BrokerFacts {
            id: broker.id(),
            host: broker.host().to_owned(),
            port: u16::try_from(broker.port()).unwrap_or(0),
        };
        let mut brokers: Vec<_> = metadata.brokers().iter().map(facts).collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(brokers)
    }

    /// The group `name`; none if there is no such group, or the brokers do not say.
    pub(super) fn group(&self, name: &str) -> Option<GroupFacts> {
        let list = self.client.client().fetch_group_list(Some(name), ANSWER_TIMEOUT).ok()?;
        let group = list.groups().iter().find(|group| group.name() == name)?;
        Some(GroupFacts { state: group.state().to_owned(), members: group.members().len() })
    }

    pub(super) fn offsets(&self, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
        self.client.client().fetch_watermarks(topic, partition, ANSWER_TIMEOUT)
    }

    fn metadata(&self, topic: Option<&str>) -> KafkaResult<Metadata> {
        self.client.client().fetch_metadata(topic, ANSWER_TIMEOUT)
    }
}

impl KafkaBus {
    /// Whether a broker answers, and how fast.
    ///
    /// # Errors
    /// `Unreachable` with the reason, or `Refused`.
    pub async fn ping(&self) -> Result<Duration, ClusterError> {
        self.ask("reach a broker", |probe| {
            let begin = Instant::now();
            probe.metadata(Some(USUAL_TOPIC)).map(|_| begin.elapsed())
        })
        .await
    }

    /// The topic `name`; none if there is none.
    ///
    /// # Errors
    /// No broker answers, or the account may not see it.
    pub async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, ClusterError> {
        let topic = name.to_owned();
        let found = self
            .ask(&format!("look at the topic {name}"), move |probe| {
                let metadata = probe.metadata(Some(&topic))?;
                let found = metadata.topics().iter().find(|t| t.name() == topic);
                match found.map(|t| (t, t.error().map(RDKafkaErrorCode::from))) {
                    None | Some((_, Some(RDKafkaErrorCode::UnknownTopicOrPartition))) => Ok(None),
                    Some((_, Some(code))) => Err(KafkaError::MetadataFetch(code)),
                    Some((topic, None)) => Ok(Some(facts(topic))),
                }
            })
            .await?;
        Ok(found)
    }

    /// All topics that the account may see, by name.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn topics(&self) -> Result<Vec<TopicFacts>, ClusterError> {
        self.ask("list the topics", |probe| {
            let metadata = probe.metadata(None)?;
            let mut topics: Vec<_> = metadata.topics().iter().filter(|t| t.error().is_none()).map(facts).collect();
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(topics)
        })
        .await
    }

    /// The first offset that a partition still has, and the one that its next record gets.
    ///
    /// # Errors
    /// No broker answers, or there is no such partition.
    pub async fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), ClusterError> {
        let action = format!("ask for the offsets of {topic}/{partition}");
        let topic = topic.to_owned();
        self.ask(&action, move |probe| probe.offsets(&topic, partition)).await
    }

    /// The identity of the cluster; none if its brokers do not say.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn cluster_id(&self) -> Result<Option<String>, ClusterError> {
        self.ask("ask for the cluster's id", |probe| {
            // Without an answer it would be none, too.
            probe.metadata(Some(USUAL_TOPIC))?;
            Ok(probe.client.client().fetch_cluster_id(ANSWER_TIMEOUT))
        })
        .await
    }

    /// Asks on a thread for blocking calls.
    pub(super) async fn ask<T, F>(&self, action: &str, question: F) -> Result<T, ClusterError>
    where
        T: Send + 'static,
        F: FnOnce(&Probe) -> KafkaResult<T> + Send + 'static,
    {
        let bus = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Making the client reads certificates and starts threads.
            let probe = bus.probe()?;
            let answer = question(&probe);
            if answer.is_ok() {
                probe.client.context().forget_error();
            }
            Ok(answer.map_err(|error| (error, probe.client.context().last_error())))
        });
        let answered = match asked.await {
            Ok(answered) => answered?,
            Err(error) => return Err(self.refused(action, error.to_string())),
        };
        answered.map_err(|(error, last)| self.failed(action, &error, last))
    }

    /// What `error` means; `last` is what the client complained of before.
    pub(super) fn failed(&self, action: &str, error: &KafkaError, last: Option<String>) -> ClusterError {
        if !is_silence(error) {
            return self.refused(action, words(error));
        }
        let message = last.unwrap_or_else(|| words(error));
        let (bus, action, brokers) = (self.name().to_owned(), action.to_owned(), self.brokers().to_owned());
        ClusterError::Unreachable { bus, action, brokers, message }
    }

    pub(super) fn refused(&self, action: &str, message: String) -> ClusterError {
        ClusterError::Refused { bus: self.name().to_owned(), action: action.to_owned(), message }
    }
}

fn facts(topic: &MetadataTopic) -> TopicFacts {
    let partition = |p: &rdkafka::metadata::MetadataPartition| PartitionFacts {
        id: p.id(),
        leader: Some(p.leader()).filter(|id| *id >= 0),
        replicas: p.replicas().to_vec(),
        in_sync: p.isr().to_vec(),
    };
    let mut partitions: Vec<_> = topic.partitions().iter().map(partition).collect();
    partitions.sort_by_key(|p| p.id);
    TopicFacts { name: topic.name().to_owned(), partitions }
}
