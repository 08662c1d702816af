//! Looks at brokers, topics' settings and consumer groups: for `oncue doctor`.
//!
//! Invariant: nothing is changed, no group is joined and every question has a limit. What a fact means is decided by the
//! caller; what a broker will not say is none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::aside::Aside;
use super::error::is_silence;
use super::probe::Probe;
use super::settings::Role;
use super::{ANSWER_TIMEOUT, Callbacks, ClusterError, KafkaBus, Mechanism, TopicFacts};

/// Long enough to read a token from a file.
const TOKEN_PAUSE: Duration = Duration::from_millis(100);

/// A broker as the cluster names it to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerFacts {
    /// Its number.
    pub id: i32,
    /// The host that clients connect to: what `advertised.listeners` says.
    pub host: String,
    /// And the port.
    pub port: u16,
}

/// Settings of a topic, its own or the brokers'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSettings(BTreeMap<String, String>);

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead`.
    pub state: String,
    /// Its members.
    pub members: usize,
}

/// How far a group has come in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: i32,
    /// What is committed: the next record to be read. None before the first commit.
    pub committed: Option<i64>,
    /// The first record that the partition still has.
    pub low: i64,
    /// What its next record gets.
    pub high: i64,
    /// The first record that is younger than the age that was asked for, if it was.
    pub young: Option<i64>,
}

impl FromIterator<(String, String)> for TopicSettings {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(settings: T) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl TopicSettings {
    /// A setting as the brokers write it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// A setting that is a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }
}

impl Progress {
    /// Records that were not settled.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let from = self.committed.unwrap_or(self.low).max(self.low);
        u64::try_from(self.high - from).unwrap_or(0)
    }
}

impl KafkaBus {
    /// The brokers of the cluster, by number.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn broker_list(&self) -> Result<Vec<BrokerFacts>, ClusterError> {
        self.ask("list the brokers", Probe::brokers).await
    }

    /// The settings of a topic; none if the brokers do not say.
    ///
    /// # Errors
    /// No client can be made.
    pub async fn topic_settings(&self, topic: &str) -> Result<Option<TopicSettings>, ClusterError> {
        if self.logs_in_by_token() {
            // The admin client never asks for a token.
            return Ok(None);
        }
        let bus = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let config = bus.client(Role::Probe, &format!("oncue-{}-admin", bus.name()));
            config.create_with_context(bus.callbacks()).map(Aside::new).map_err(|error| bus.unmade(&error))
        });
        let admin: Aside<AdminClient<Callbacks>> =
            made.await.unwrap_or_else(|error| Err(self.refused("make an admin client", error.to_string())))?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let Ok(resources) = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await else {
            return Ok(None);
        };
        let entries = resources.into_iter().flatten().flat_map(|resource| resource.entries);
        let settings: TopicSettings = entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        Ok(Some(settings).filter(|settings| !settings.0.is_empty()))
    }

    fn logs_in_by_token(&self) -> bool {
        self.inner.config.mechanism == Some(Mechanism::OauthBearer)
    }

    /// The consumer group `name`; none if the brokers do not say.
    ///
    /// # Errors
    /// No client can be made.
    pub async fn group(&self, name: &str) -> Result<Option<GroupFacts>, ClusterError> {
        let group = name.to_owned();
        self.ask(&format!("look at the group {name}"), move |probe| Ok(probe.group(&group))).await
    }

    /// How far `group` has come in the partitions of `topic`. With `age` also what is younger than that.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn progress(
        &self,
        group: &str,
        topic: &TopicFacts,
        age: Option<Duration>,
    ) -> Result<Vec<Progress>, ClusterError> {
        let action = format!("ask how far the group {group} has come in {}", topic.name);
        let (bus, topic, group) = (self.clone(), topic.clone(), group.to_owned());
        self.ask(&action, move |probe| {
            // It has the group's name to ask for its offsets, and joins it not.
            let consumer: BaseConsumer<Callbacks> =
                bus.consumer(&group, "oncue-doctor").create_with_context(bus.callbacks())?;
            if bus.logs_in_by_token() {
                // It asks for the token here; there are no records to come.
                let _ = consumer.poll(TOKEN_PAUSE);
            }
            progress(&consumer, probe, &topic, age)
        })
        .await
    }
}

impl KafkaBus {
    /// Whether a consumer that begins at `offset` of a partition gets a record: what stands there may be none that is read,
    /// the end of a transaction, say. No group is joined.
    ///
    /// # Errors
    /// No client can be made, or the brokers refuse.
    pub async fn has_record(&self, topic: &str, partition: i32, offset: i64) -> Result<bool, ClusterError> {
        let action = format!("look for a record at {topic}/{partition}@{offset}");
        let (bus, topic) = (self.clone(), topic.to_owned());
        self.ask(&action, move |_| {
            // A consumer has to have a group's name to be polled; it is none's member.
            let consumer: BaseConsumer<Callbacks> =
                bus.consumer("oncue-look", "oncue-look").create_with_context(bus.callbacks())?;
            let mut place = TopicPartitionList::with_capacity(1);
            place.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            consumer.assign(&place)?;
            let began = std::time::Instant::now();
            while let Some(left) = ANSWER_TIMEOUT.checked_sub(began.elapsed()) {
                match consumer.poll(left) {
                    Some(Ok(_)) => return Ok(true),
                    Some(Err(error)) if !is_silence(&error) => return Err(error),
                    Some(Err(_)) | None => {}
                }
            }
            Ok(false)
        })
        .await
    }
}

fn progress(
    consumer: &BaseConsumer<Callbacks>,
    probe: &Probe,
    topic: &TopicFacts,
    age: Option<Duration>,
) -> KafkaResult<Vec<Progress>> {
    let mut asked = TopicPartitionList::with_capacity(topic.partitions.len());
    for partition in &topic.partitions {
        asked.add_partition(&topic.name, partition.id);
    }
    let committed = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
    let young = age.map(|age| young(consumer, topic, age)).transpose()?;
    let offset_in = |list: &TopicPartitionList, id: i32| match list.find_partition(&topic.name, id)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    let of = |partition: &super::PartitionFacts| {
        let (low, high) = probe.offsets(&topic.name, partition.id)?;
        let young = young.as_ref().and_then(|list| offset_in(list, partition.id));
        Ok(Progress { partition: partition.id, committed: offset_in(&committed, partition.id), low, high, young })
    };
    topic.partitions.iter().map(of).collect()
}

fn young(consumer: &BaseConsumer<Callbacks>, topic: &TopicFacts, age: Duration) -> KafkaResult<TopicPartitionList> {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age);
    let at = i64::try_from(then.as_millis()).unwrap_or(i64::MAX);
    let mut asked = TopicPartitionList::with_capacity(topic.partitions.len());
    for partition in &topic.partitions {
        asked.add_partition_offset(&topic.name, partition.id, Offset::Offset(at))?;
    }
    consumer.offsets_for_times(asked, ANSWER_TIMEOUT)
}
