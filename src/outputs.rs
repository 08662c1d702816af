//! Publishes what functions emit and what rules forward.
//!
//! Invariant: everything that an output says about where it came from is written here, out of a guest's reach: its id,
//! its hops, its cause. The same delivery publishes the same ids on every attempt, so that receivers can dedupe. What
//! one delivery publishes to a Postgres is one transaction.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bus::Publishing;
use crate::bus::kafka::{ClusterError, KafkaBus};
use crate::bus::nats::NatsBus;
use crate::bus::postgres::PostgresBus;
use crate::delivery::DeliveryId;
use crate::event::codec::{self, DecodeError};
use crate::event::{AttributeValue, CAUSE, Event, HOPS, TRACEPARENT, subject};

mod kafka;
mod nats;
mod postgres;

use self::postgres::Transactions;

/// How long one publish may take, acknowledgement included, where the bus says nothing else.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// What a bus that gives up by itself gets beyond its own limit, so that its words are heard and not ours.
const GRACE: Duration = Duration::from_secs(1);

/// A bus that can be published to.
#[derive(Clone, Debug)]
pub enum Target {
    /// NATS.
    Nats {
        /// The connection.
        bus: NatsBus,
        /// What publishing means on it.
        publishing: Publishing,
    },
    /// Kafka: every in-sync replica acknowledges.
    Kafka(KafkaBus),
    /// Postgres: logical messages that change feeds read.
    Postgres(PostgresBus),
}

/// The buses of a node, by name.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    targets: HashMap<String, Target>,
}

/// Why an output was not published.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The bus is not in the node's configuration.
    #[error("there is no bus \"{0}\" in the node's configuration")]
    NoBus(String),
    /// No stream stores the subject.
    #[error("no stream stores subject \"{0}\": create one, or set publish = \"core\" on the bus")]
    NoStream(String),
    /// There is no such topic.
    #[error("{0}")]
    NoTopic(String),
    /// The server did not take it in time.
    #[error("publishing to \"{subject}\" failed: {message}")]
    Failed {
        /// The subject.
        subject: String,
        /// Why.
        message: String,
    },
}

/// An event on its way out.
#[derive(Clone, Debug)]
pub struct Output {
    /// The bus.
    pub bus: String,
    /// The subject; on Kafka the topic, on Postgres the type.
    pub subject: String,
    /// The event, complete.
    pub event: Event,
    /// What the server dedupes by.
    pub message_id: String,
}

impl Output {
    /// The `index`th output of `delivery`, which was caused by `parent`, to `target`: a bus and a subject.
    ///
    /// # Errors
    /// The subject is none that may be published to, the event breaks a rule of CloudEvents, or it went through too many
    /// functions and rules.
    pub fn new(
        delivery: DeliveryId,
        index: usize,
        parent: &Event,
        target: (String, String),
        mut event: Event,
    ) -> Result<Self, DecodeError> {
        // Whoever wrote the rule, the row or the type: an event must not reach a server's own subjects.
        subject::check(&target.1).map_err(|problem| DecodeError::Unpublishable { problem })?;
        let message_id = delivery.output_id(index);
        if event.id.is_empty() {
            event.id.clone_from(&message_id);
        }
        event.set_extension(HOPS, AttributeValue::String((parent.hops() + 1).to_string()));
        event.set_extension(CAUSE, AttributeValue::String(delivery.to_string()));
        if event.extension(TRACEPARENT).is_none()
            && let Some(trace) = parent.extension(TRACEPARENT)
        {
            event.set_extension(TRACEPARENT, trace.clone());
        }
        codec::check(&event)?;
        let (bus, subject) = target;
        Ok(Self { bus, subject, event, message_id })
    }
}

impl Outputs {
    /// Publishes to `targets`.
    #[must_use]
    pub fn new(targets: HashMap<String, Target>) -> Self {
        Self { targets }
    }

    /// Has `bus` ready for the first event that is published to it, as far as that takes a while.
    ///
    /// # Errors
    /// The bus cannot be used as it is configured.
    pub async fn warm(&self, bus: &str) -> Result<(), ClusterError> {
        match self.targets.get(bus) {
            Some(Target::Kafka(bus)) => bus.warm().await,
            _ => Ok(()),
        }
    }

    /// Publishes `outputs` in order; returns when every one is stored (or sent, on a bus that publishes by core NATS).
    ///
    /// # Errors
    /// The first output that was not stored. Others may have been: the same ids come again on the next try.
    pub async fn publish(&self, outputs: &[Output]) -> Result<(), OutputError> {
        let patience = self.patience(outputs);
        let deadline = Instant::now() + patience;
        let work = async {
            let mut sent = Vec::with_capacity(outputs.len());
            let mut transactions = Transactions::default();
            for output in outputs {
                sent.push((output, self.send(output, &mut transactions, deadline).await?));
            }
            if !transactions.is_empty() {
                // In a box: it takes 15 KB, which whoever publishes elsewhere would hold until the answer.
                Box::pin(transactions.commit()).await?;
            }
            for (output, sent) in sent {
                sent.stored(output).await?;
            }
            Ok(())
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(OutputError::Failed {
                subject: outputs.first().map(|o| o.subject.clone()).unwrap_or_default(),
                message: silence(patience),
            }),
        }
    }

    /// Publishes each of `outputs` that can be, in order, and says of each how that went.
    pub async fn publish_each(&self, outputs: &[Output]) -> Vec<Result<(), OutputError>> {
        let patience = self.patience(outputs);
        let deadline = Instant::now() + patience;
        let late = |output: &Output| failed(output, &silence(patience));
        let mut transactions = Transactions::default();
        let mut sent = Vec::with_capacity(outputs.len());
        for output in outputs {
            let sending = self.send(output, &mut transactions, deadline);
            let result = tokio::time::timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(late(output)));
            sent.push((output, result));
        }
        let mut uncommitted = transactions.commit_each(deadline, patience).await;
        let mut results = Vec::with_capacity(outputs.len());
        for (output, sent) in sent {
            results.push(match sent {
                Ok(Sent::Committed) => match uncommitted.remove(output.message_id.as_str()) {
                    Some(error) => Err(failed(output, &error)),
                    None => Ok(()),
                },
                Ok(sent) => {
                    let stored = tokio::time::timeout_at(deadline, sent.stored(output)).await;
                    stored.unwrap_or_else(|_| Err(late(output)))
                }
                Err(error) => Err(error),
            });
        }
        results
    }

    async fn send<'a>(
        &'a self,
        output: &'a Output,
        transactions: &mut Transactions<'a>,
        deadline: Instant,
    ) -> Result<Sent, OutputError> {
        // Behind every other check: a row of the outbox or of `parked` may be older than they are.
        subject::check(&output.subject).map_err(|problem| failed(output, &format!("the subject {problem}")))?;
        match self.target(output)? {
            Target::Nats { bus, publishing } => nats::send(bus, *publishing, output).await,
            Target::Kafka(bus) => kafka::send(bus, output, deadline).await,
            Target::Postgres(bus) => {
                transactions.add(bus, output);
                Ok(Sent::Committed)
            }
        }
    }

    /// How long these may take.
    fn patience(&self, outputs: &[Output]) -> Duration {
        let of = |output: &Output| match self.targets.get(&output.bus) {
            Some(Target::Kafka(bus)) => bus.delivery_timeout() + GRACE,
            _ => PUBLISH_TIMEOUT,
        };
        outputs.iter().map(of).max().unwrap_or(PUBLISH_TIMEOUT)
    }

    fn target(&self, output: &Output) -> Result<&Target, OutputError> {
        self.targets.get(&output.bus).ok_or_else(|| OutputError::NoBus(output.bus.clone()))
    }
}

/// An output on its way.
enum Sent {
    /// The server has it, or nothing will say so.
    Done,
    /// It is part of a transaction that is still to be committed.
    Committed,
    /// A stream acknowledges it.
    Nats(async_nats::jetstream::context::PublishAckFuture),
    /// A topic acknowledges it.
    Kafka(crate::bus::kafka::Acknowledgement),
}

impl Sent {
    /// Waits until it is stored.
    async fn stored(self, output: &Output) -> Result<(), OutputError> {
        match self {
            Self::Done | Self::Committed => Ok(()),
            Self::Nats(ack) => ack.await.map(drop).map_err(|error| nats::refused(output, &error)),
            Self::Kafka(ack) => ack.wait().await.map(drop).map_err(|failure| kafka::failed(output, &failure)),
        }
    }
}

fn silence(patience: Duration) -> String {
    format!("no acknowledgement within {} s", patience.as_secs())
}

fn failed(output: &Output, error: &dyn std::fmt::Display) -> OutputError {
    OutputError::Failed { subject: output.subject.clone(), message: error.to_string() }
}
