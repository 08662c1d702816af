//! What a trigger subscribes to, as the manifest and the `triggers.spec` column say it.
//!
//! Invariant: a `TriggerSpec` that `parse` gave has every field that its kind needs. Connects to nothing.

mod kafka;
mod postgres;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bus::BusKind;
use crate::event::subject::{self, SubjectError};

pub use self::kafka::{GroupProtocol, KafkaOrder, KafkaSpec, KafkaStart};
pub use self::postgres::{FeedStart, PostgresSpec};

/// Where a new JetStream consumer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest message of the stream.
    #[default]
    All,
    /// With messages that come after the consumer was created.
    New,
    /// With the first message at or after a time, RFC 3339.
    Time(String),
    /// With a sequence of the stream.
    Sequence(u64),
}

/// A JetStream trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JetStreamSpec {
    /// The stream.
    pub stream: String,
    /// Subjects of the stream to take; all without any.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// The durable consumer, created if it is not there; `oncue-<trigger>` without a name.
    #[serde(default)]
    pub durable: Option<String>,
    /// Where a consumer that is created begins.
    #[serde(default)]
    pub start: Start,
    /// How long the server waits for an acknowledgement or a sign of progress, in milliseconds.
    #[serde(default = "ack_wait_ms")]
    pub ack_wait_ms: u64,
    /// Most messages that are delivered and not acknowledged.
    #[serde(default = "max_ack_pending")]
    pub max_ack_pending: i64,
    /// Create the stream with `subjects` if it is not there.
    #[serde(default)]
    pub create_stream: bool,
}

/// A core NATS trigger: at most once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSpec {
    /// The subject, wildcards allowed.
    pub subject: String,
    /// The queue group that shares messages over nodes; `oncue-<trigger>` without a name.
    #[serde(default)]
    pub queue: Option<String>,
}

/// What a trigger subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TriggerSpec {
    /// A JetStream stream.
    JetStream(JetStreamSpec),
    /// A core NATS subject.
    Nats(NatsSpec),
    /// Topics of a Kafka cluster.
    Kafka(KafkaSpec),
    /// A Postgres publication.
    Postgres(PostgresSpec),
}

fn ack_wait_ms() -> u64 {
    30_000
}

fn max_ack_pending() -> i64 {
    20_000
}

/// Why a trigger's specification was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(String);

impl TriggerSpec {
    /// The name of the kind in `triggers.kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JetStream(_) => "jetstream",
            Self::Nats(_) => "nats",
            Self::Kafka(_) => "kafka",
            Self::Postgres(_) => "postgres",
        }
    }

    /// The kind of bus that it can be on.
    #[must_use]
    pub fn bus_kind(&self) -> BusKind {
        match self {
            Self::JetStream(_) | Self::Nats(_) => BusKind::Nats,
            Self::Kafka(_) => BusKind::Kafka,
            Self::Postgres(_) => BusKind::Postgres,
        }
    }

    /// The `triggers.spec` column.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::JetStream(spec) => serde_json::json!(spec),
            Self::Nats(spec) => serde_json::json!(spec),
            Self::Kafka(spec) => serde_json::json!(spec),
            Self::Postgres(spec) => serde_json::json!(spec),
        }
    }

    /// Reads the columns `kind` and `spec`.
    ///
    /// # Errors
    /// A kind that this program does not have, an unknown or missing field, a value that the bus would refuse.
    pub fn parse(kind: &str, spec: &serde_json::Value) -> Result<Self, SpecError> {
        let fail = |e: serde_json::Error| SpecError(format!("spec: {e}"));
        let parsed = match kind {
            "jetstream" => Self::JetStream(JetStreamSpec::deserialize(spec).map_err(fail)?),
            "nats" => Self::Nats(NatsSpec::deserialize(spec).map_err(fail)?),
            "kafka" => Self::Kafka(KafkaSpec::deserialize(spec).map_err(fail)?),
            "postgres" => Self::Postgres(PostgresSpec::deserialize(spec).map_err(fail)?),
            other => {
                return Err(SpecError(format!(
                    "kind: \"{other}\" is not supported by this version; it is jetstream, nats, kafka or postgres"
                )));
            }
        };
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), SpecError> {
        match self {
            Self::JetStream(spec) => {
                check_name("stream", &spec.stream)?;
                spec.durable.as_deref().map_or(Ok(()), |d| check_name("durable", d))?;
                spec.subjects.iter().try_for_each(|s| check_subject("subjects", s, subject::check_pattern))?;
                if let Start::Time(time) = &spec.start {
                    parse_time(time)?;
                }
                if !(1_000..=3_600_000).contains(&spec.ack_wait_ms) {
                    return Err(SpecError(format!("ack_wait_ms: {} is not in 1000 to 3600000", spec.ack_wait_ms)));
                }
                if spec.max_ack_pending < 1 {
                    return Err(SpecError(format!("max_ack_pending: {} is not above 0", spec.max_ack_pending)));
                }
                if spec.create_stream && spec.subjects.is_empty() {
                    return Err(SpecError("subjects: a stream can only be created with subjects".to_owned()));
                }
                Ok(())
            }
            Self::Nats(spec) => {
                check_subject("subject", &spec.subject, subject::check_pattern)?;
                // It stands in the same protocol line.
                spec.queue.as_deref().map_or(Ok(()), |queue| check_subject("queue", queue, subject::check))
            }
            Self::Kafka(spec) => spec.check(),
            Self::Postgres(spec) => spec.check(),
        }
    }
}

impl JetStreamSpec {
    /// The durable consumer's name for `trigger`.
    #[must_use]
    pub fn durable(&self, trigger: &str) -> String {
        self.durable.clone().unwrap_or_else(|| format!("oncue-{trigger}"))
    }

    /// How long the server waits for an acknowledgement.
    #[must_use]
    pub fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms)
    }
}

/// Parses the RFC 3339 time of `Start::Time`.
///
/// # Errors
/// The text and the form that is wanted.
pub fn parse_time(text: &str) -> Result<time::OffsetDateTime, SpecError> {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_err(|e| SpecError(format!("start: \"{text}\" is no time such as 2026-01-31T12:00:00Z: {e}")))
}

fn check_name(field: &str, name: &str) -> Result<(), SpecError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    match name.chars().find(|c| bad(*c)) {
        Some(c) => {
            let name = subject::shown(name);
            Err(SpecError(format!("{field}: \"{name}\" holds {c:?}, which NATS does not allow in a name")))
        }
        None if name.chars().count() > subject::TOKEN_MAX => {
            Err(SpecError(format!("{field}: \"{}\" has more than 255 characters", subject::shown(name))))
        }
        None if name.is_empty() => Err(SpecError(format!("{field}: the name is empty"))),
        None => Ok(()),
    }
}

fn check_subject(field: &str, text: &str, check: impl Fn(&str) -> Result<(), SubjectError>) -> Result<(), SpecError> {
    check(text).map_err(|problem| SpecError(format!("{field}: \"{}\" {problem}", subject::shown(text))))
}
