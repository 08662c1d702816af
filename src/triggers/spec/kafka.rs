//! What a Kafka trigger reads, and how its records are kept in order.
//!
//! Invariant: a specification that passed `check` has topics that a cluster could have, or expressions that the client
//! reads as such; whether they exist is asked when the trigger runs.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::bus::kafka::is_topic;

use super::{SpecError, parse_time};

/// Longest name of a consumer group: what fits a log line and every broker's limit.
const GROUP_MAX: usize = 249;

/// Where a partition begins of which the group has committed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaStart {
    /// With the oldest record that it has.
    #[default]
    Earliest,
    /// With records that come after the group first saw the partition.
    Latest,
    /// With the first record at or after a time, RFC 3339.
    Time(String),
}

/// How the members of the group share the partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// The members agree: cooperative-sticky. Every broker can.
    #[default]
    Cooperative,
    /// The broker decides (KIP-848): Kafka 4.0, or 3.7 and later where it is switched on.
    Consumer,
}

/// What runs one after another, where a rule names no `ordering_key` of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaOrder {
    /// Records of one key; those without a key are not ordered.
    #[default]
    Key,
    /// Records of one partition.
    Partition,
    /// Nothing.
    None,
}

/// A Kafka trigger: topics, read by a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSpec {
    /// Topics; one that begins with `^` is an expression that names of topics match.
    pub topics: Vec<String>,
    /// The consumer group; `oncue-<trigger>` without a name.
    #[serde(default)]
    pub group: Option<String>,
    /// Where a partition begins of which the group has committed nothing.
    #[serde(default)]
    pub start: KafkaStart,
    /// How the members share the partitions.
    #[serde(default)]
    pub protocol: GroupProtocol,
    /// What runs one after another.
    #[serde(default)]
    pub ordered: KafkaOrder,
}

impl KafkaSpec {
    /// The consumer group's name for `trigger`.
    #[must_use]
    pub fn group(&self, trigger: &str) -> String {
        self.group.clone().unwrap_or_else(|| format!("oncue-{trigger}"))
    }

    /// The topics that are named, expressions left out.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str).filter(|topic| !topic.starts_with('^'))
    }

    /// Whether the topic `name` is one of them.
    #[must_use]
    pub fn reads(&self, name: &str) -> bool {
        let matches = |topic: &String| match topic.starts_with('^') {
            true => Regex::new(topic).is_ok_and(|expression| expression.is_match(name)),
            false => topic == name,
        };
        self.topics.iter().any(matches)
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.topics.is_empty() {
            return Err(SpecError(
                "topics: the list is empty; name a topic, or \"^orders\\\\..+\" for several".to_owned(),
            ));
        }
        for (at, topic) in self.topics.iter().enumerate() {
            if self.topics[..at].contains(topic) {
                return Err(SpecError(format!("topics: {topic:?} is there twice")));
            }
            if topic.starts_with('^')
                && let Err(error) = Regex::new(topic)
            {
                // The last line says what is wrong, those before show where.
                let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
                return Err(SpecError(format!("topics: {topic:?} is no expression: {why}")));
            }
            if !topic.starts_with('^') && !is_topic(topic) {
                return Err(SpecError(format!(
                    "topics: {topic:?} can be no topic: letters, digits, `.`, `_` and `-`, 249 at most; an expression \
                     begins with `^`"
                )));
            }
        }
        if let Some(group) = &self.group
            && (group.is_empty() || group.len() > GROUP_MAX || group.chars().any(char::is_control))
        {
            return Err(SpecError(format!("group: {group:?} can be no group: 1 to {GROUP_MAX} printable bytes")));
        }
        if let KafkaStart::Time(time) = &self.start {
            parse_time(time)?;
        }
        Ok(())
    }
}
