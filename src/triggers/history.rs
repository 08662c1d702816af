//! What a bus still has of the past, read again as events: for trying rules on it.
//!
//! Invariant: reading leaves no trace at the source: no acknowledgement, no commit, no group, no durable consumer, and a
//! trigger's own position stays where it is. It reads to where the source was when it was opened, and ends. What the
//! source no longer has is said.

mod jetstream;
mod kafka;

use std::time::Duration;

use time::OffsetDateTime;

use crate::bus::kafka::{ClusterError, KafkaBus};
use crate::bus::nats::NatsBus;
use crate::event::Event;
use crate::event::codec::{DecodeError, Limits};

use self::jetstream::StreamHistory;
use self::kafka::TopicHistory;

/// How long a source may be silent while there is more to read.
const SILENCE: Duration = Duration::from_secs(10);

/// From when, and how messages become events.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The trigger that would read them.
    pub trigger: String,
    /// Messages that their source gave this time or a later one.
    pub since: OffsetDateTime,
    /// What a message may cost.
    pub limits: Limits,
}

/// A message that was read.
#[derive(Debug)]
pub struct Message {
    /// Its source's time.
    pub at: OffsetDateTime,
    /// The event, or why it is none.
    pub event: Result<Event, DecodeError>,
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// There is no such stream.
    #[error("bus \"{bus}\" has no stream \"{stream}\": {message}; `nats stream ls` lists those that there are")]
    NoStream {
        /// The bus.
        bus: String,
        /// The stream.
        stream: String,
        /// The server's words.
        message: String,
    },
    /// There is no such topic.
    #[error("bus \"{bus}\" has no topic \"{topic}\"; `kafka-topics.sh --list` lists those that there are")]
    NoTopic {
        /// The bus.
        bus: String,
        /// The topic.
        topic: String,
    },
    /// The server refuses or does not answer.
    #[error("bus \"{bus}\": failed to {action}: {message}")]
    Nats {
        /// The bus.
        bus: String,
        /// What was being done.
        action: String,
        /// The client's words.
        message: String,
    },
    /// A Kafka cluster refuses or does not answer.
    #[error(transparent)]
    Kafka(#[from] ClusterError),
    /// There is more, and it does not come.
    #[error("bus \"{bus}\": {place} sent nothing for {} s, though there is more to read", SILENCE.as_secs())]
    Silent {
        /// The bus.
        bus: String,
        /// Stream or topics.
        place: String,
    },
}

/// A source that is being read.
#[derive(Debug)]
pub struct History {
    /// About how many messages there are.
    pub expected: u64,
    /// What the source no longer has of what was wanted, in words.
    pub gaps: Vec<String>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Stream(Box<StreamHistory>),
    Topics(TopicHistory),
}

impl History {
    /// Opens the stream `name` of `bus`.
    ///
    /// # Errors
    /// `NoStream`, or that the server does not answer.
    pub async fn of_stream(
        (bus_name, bus): (&str, &NatsBus),
        (name, subjects): (&str, &[String]),
        wanted: Wanted,
    ) -> Result<Self, HistoryError> {
        jetstream::open(bus_name, bus, (name, subjects), wanted).await
    }

    /// Opens the topics `names`; `group` may read them, and is not joined.
    ///
    /// # Errors
    /// `NoTopic`, or that no broker answers.
    pub async fn of_topics(
        bus: &KafkaBus,
        names: &[String],
        group: &str,
        wanted: Wanted,
    ) -> Result<Self, HistoryError> {
        kafka::open(bus, names, group, wanted).await
    }

    /// The next message; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// The source does not answer any more.
    pub async fn next(&mut self) -> Result<Option<Message>, HistoryError> {
        match &mut self.source {
            Source::Stream(stream) => stream.next().await,
            Source::Topics(topics) => topics.next().await,
        }
    }
}
