//! The shared producer of a bus: idempotent, acks=all, made when something is first published, or is to be.
//!
//! Invariant: an acknowledgement means that every in-sync replica has the record. A full queue makes the publisher wait,
//! not fail; what is not acknowledged in `delivery.timeout.ms` has failed, and whoever sent it hears why. A producer that
//! lost its place in the sequence is replaced by a new one; what it held has failed by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tokio::sync::oneshot;

use super::error::{code, words};
use super::settings::{Role, linger, producer_queue};
use super::{ClusterError, KafkaBus};
use crate::event::Event;
use crate::event::codec::kafka::Outgoing;

mod client;
mod gate;

pub(super) use self::client::Producer;
use self::client::Ready;

/// Least life of a producer before it is replaced: one that may not publish at all would be replaced without end.
const RENEWAL: Duration = Duration::from_secs(1);
/// Longest pause before a full queue is tried again.
const FULL_PAUSE_MAX: Duration = Duration::from_millis(32);
/// Longest name of a topic (Kafka's `Topic.MAX_NAME_LENGTH`).
const TOPIC_MAX: usize = 249;

/// Where a topic put a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The partition.
    pub partition: i32,
    /// The record's number in it.
    pub offset: i64,
}

/// Why a record was not published.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// No cluster would take the name.
    #[error("{0:?} cannot be the name of a topic: it is 1 to 249 of a-z, A-Z, 0-9, ., _ and -")]
    Name(String),
    /// There is no such topic.
    #[error(
        "there is no topic \"{0}\": create it with \
         `kafka-topics.sh --bootstrap-server BROKER --create --topic {0} --partitions N --replication-factor 3`"
    )]
    NoTopic(String),
    /// It is larger than the client or the topic takes.
    #[error(
        "{message}: raise `message.max.bytes` in the bus's `options`, and `max.message.bytes` of the topic {topic}"
    )]
    TooLarge {
        /// The topic.
        topic: String,
        /// The client's or the broker's words.
        message: String,
    },
    /// Nobody acknowledged it in time. It may be stored all the same.
    #[error("no acknowledgement within {} ms: {message}", waited.as_millis())]
    Silence {
        /// How long was waited.
        waited: Duration,
        /// What the client complained of.
        message: String,
    },
    /// A broker refused.
    #[error("{0}")]
    Refused(String),
    /// There is no producer.
    #[error(transparent)]
    Client(#[from] ClusterError),
}

/// A record that waits for its acknowledgement.
#[derive(Debug)]
pub struct Acknowledgement {
    topic: Arc<str>,
    producer: Arc<Producer>,
    bus: KafkaBus,
    report: oneshot::Receiver<KafkaResult<Stored>>,
}

impl KafkaBus {
    /// How long a record may take to be acknowledged: `delivery.timeout.ms`.
    #[must_use]
    pub fn delivery_timeout(&self) -> Duration {
        self.inner.delivery_timeout
    }

    /// Sends a record to `topic`; it is stored when the acknowledgement says so. Records that are sent one after another
    /// with one key are stored in that order. Waits while the queue is full, until `deadline` at most.
    ///
    /// # Errors
    /// The client did not take it.
    pub async fn send(
        &self,
        topic: &str,
        record: &Outgoing,
        deadline: tokio::time::Instant,
    ) -> Result<Acknowledgement, SendFailure> {
        self.take(topic, deadline, |topic| Ready::new(topic, record)).await
    }

    /// Sends `event` to `topic` in binary mode, with one more header. Else as [`send`](Self::send).
    ///
    /// # Errors
    /// The client did not take it.
    pub async fn send_event(
        &self,
        topic: &str,
        event: &Event,
        header: (&str, &str),
        deadline: tokio::time::Instant,
    ) -> Result<Acknowledgement, SendFailure> {
        self.take(topic, deadline, |topic| Ready::of_event(topic, event, header)).await
    }

    async fn take(
        &self,
        topic: &str,
        deadline: tokio::time::Instant,
        ready: impl FnOnce(&Arc<str>) -> (Box<Ready>, oneshot::Receiver<KafkaResult<Stored>>),
    ) -> Result<Acknowledgement, SendFailure> {
        if !is_topic(topic) {
            return Err(SendFailure::Name(topic.to_owned()));
        }
        let (began, mut pause) = (Instant::now(), Duration::from_millis(1));
        let topic: Arc<str> = topic.into();
        let (mut ready, report) = ready(&topic);
        loop {
            let producer = self.producer().await?;
            let error = match producer.send(ready) {
                Ok(()) => return Ok(Acknowledgement { topic, producer, bus: self.clone(), report }),
                Err((back, error)) => {
                    ready = back;
                    error
                }
            };
            match code(&error) {
                Some(RDKafkaErrorCode::QueueFull) => {
                    if tokio::time::Instant::now() + pause >= deadline {
                        let message = "the queue of the producer is full".to_owned();
                        return Err(SendFailure::Silence { waited: began.elapsed(), message });
                    }
                    // Nothing tells of room: a record leaves the queue a moment after its report.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(FULL_PAUSE_MAX);
                }
                // Nothing was sent: a new producer can.
                Some(RDKafkaErrorCode::Fatal) if self.replace(&producer) => {}
                _ => return Err(self.failure(&topic, &producer, &error)),
            }
        }
    }

    /// Makes the producer, if there is none, so that it is ready when something is published: librdkafka takes half a second
    /// before the first record of an idempotent producer may leave.
    ///
    /// # Errors
    /// Certificates cannot be read, say. Whether brokers answer is not waited for.
    pub async fn warm(&self) -> Result<(), ClusterError> {
        self.producer().await.map(drop)
    }

    /// The shared producer, made anew if there is none.
    pub(super) async fn producer(&self) -> Result<Arc<Producer>, ClusterError> {
        let there = || self.inner.producer.load_full();
        if let Some(producer) = there() {
            return Ok(producer);
        }
        let _turn = self.inner.making.lock().await;
        if let Some(producer) = there() {
            return Ok(producer);
        }
        let bus = self.clone();
        // Making the client reads certificates and starts threads.
        let made = tokio::task::spawn_blocking(move || {
            let config = bus.client(Role::Producer, &format!("oncue-{}", bus.name()));
            let waits = (linger(&bus.inner.config), producer_queue(&bus.inner.config));
            Producer::new(&config, bus.callbacks(), waits).map_err(|e| bus.unmade(&e))
        });
        let made = made.await.unwrap_or_else(|error| Err(self.refused("make a producer", error.to_string())))?;
        let made = Arc::new(made);
        self.inner.producer.store(Some(Arc::clone(&made)));
        Ok(made)
    }

    /// Takes a producer that is of no use any more out of service. False if it is too young for that.
    fn replace(&self, producer: &Arc<Producer>) -> bool {
        if producer.age() < RENEWAL {
            return false;
        }
        let producer = Some(Arc::clone(producer));
        let held = self.inner.producer.compare_and_swap(&producer, None);
        if held.as_ref().map(Arc::as_ptr) == producer.as_ref().map(Arc::as_ptr) {
            tracing::warn!(bus = self.name(), "the producer failed for good; making a new one");
        }
        true
    }

    fn failure(&self, topic: &str, producer: &Arc<Producer>, error: &KafkaError) -> SendFailure {
        use RDKafkaErrorCode as Code;
        let topic = topic.to_owned();
        match code(error) {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => SendFailure::NoTopic(topic),
            Some(Code::InvalidTopic) => SendFailure::Name(topic),
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
                SendFailure::TooLarge { topic, message: words(error) }
            }
            Some(Code::MessageTimedOut | Code::TimedOutQueue) => {
                let message = producer.last_error().unwrap_or_else(|| words(error));
                SendFailure::Silence { waited: self.delivery_timeout(), message }
            }
            // What is queued when a producer fails for good is purged: it is told what for.
            Some(Code::Fatal | Code::PurgeQueue | Code::PurgeInflight) => {
                let fatal = producer.fatal_error();
                SendFailure::Refused(fatal.map_or_else(|| words(error), |(code, text)| format!("{code}: {text}")))
            }
            _ => SendFailure::Refused(words(error)),
        }
    }
}

impl Acknowledgement {
    /// Waits for it.
    ///
    /// # Errors
    /// The record was not stored, or nobody says that it was.
    pub async fn wait(self) -> Result<Stored, SendFailure> {
        let Self { topic, producer, bus, report } = self;
        let error = match report.await {
            Ok(Ok(stored)) => return Ok(stored),
            Ok(Err(error)) => error,
            Err(_) => return Err(SendFailure::Refused("the producer was closed".to_owned())),
        };
        let failure = bus.failure(&topic, &producer, &error);
        if producer.fatal_error().is_some() {
            bus.replace(&producer);
        }
        Err(failure)
    }
}

/// Whether a cluster would take `name` for a topic.
#[must_use]
pub fn is_topic(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= TOPIC_MAX && name.chars().all(plain) && !matches!(name, "." | "..")
}
