//! Publishes what functions emit and what rules forward.
//!
//! Invariant: everything that an output says about where it came from is written here, out of a guest's reach: its id,
//! its hops, its cause. The same delivery publishes the same ids on every attempt, so that receivers can dedupe. What
//! one delivery publishes to a Postgres is one transaction.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;

use crate::bus::Publishing;
use crate::bus::nats::NatsBus;
use crate::bus::postgres::{PostgresBus, SourceError};
use crate::delivery::DeliveryId;
use crate::event::codec::{self, DecodeError};
use crate::event::{AttributeValue, CAUSE, Event, HOPS, TRACEPARENT};

/// How long one publish may take, acknowledgement included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of events that the outbox's relay writes in one transaction of a Postgres.
const TRANSACTION_BYTES: usize = 4 << 20;

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
    /// The subject.
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
    /// The event breaks a rule of CloudEvents, or it went through too many functions and rules.
    pub fn new(
        delivery: DeliveryId,
        index: usize,
        parent: &Event,
        target: (String, String),
        mut event: Event,
    ) -> Result<Self, DecodeError> {
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

    /// Publishes `outputs` in order; returns when every one is stored (or sent, on a bus that publishes by core NATS).
    ///
    /// # Errors
    /// The first output that was not stored. Others may have been: the same ids come again on the next try.
    pub async fn publish(&self, outputs: &[Output]) -> Result<(), OutputError> {
        let work = async {
            let mut acknowledgements = Vec::with_capacity(outputs.len());
            let mut transactions = Transactions::default();
            for output in outputs {
                match self.target(output)? {
                    Target::Nats { bus, publishing } => {
                        if let Some(ack) = send(bus, *publishing, output).await? {
                            acknowledgements.push((output, ack));
                        }
                    }
                    Target::Postgres(bus) => transactions.add(bus, output),
                }
            }
            for (bus, outputs) in transactions.whole {
                commit(bus, &outputs).await.map_err(|error| failed(outputs[0], &error))?;
            }
            for (output, ack) in acknowledgements {
                ack.await.map_err(|error| refused(output, &error))?;
            }
            Ok(())
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, work).await {
            Ok(result) => result,
            Err(_) => Err(OutputError::Failed {
                subject: outputs.first().map(|o| o.subject.clone()).unwrap_or_default(),
                message: format!("no acknowledgement within {} s", PUBLISH_TIMEOUT.as_secs()),
            }),
        }
    }

    /// Publishes each of `outputs` that can be, in order, and says of each how that went.
    pub async fn publish_each(&self, outputs: &[Output]) -> Vec<Result<(), OutputError>> {
        let deadline = tokio::time::Instant::now() + PUBLISH_TIMEOUT;
        let late =
            |output: &Output| failed(output, &format!("no acknowledgement within {} s", PUBLISH_TIMEOUT.as_secs()));
        let mut transactions = Transactions::default();
        let mut sent = Vec::with_capacity(outputs.len());
        for output in outputs {
            let sending = async {
                match self.target(output)? {
                    Target::Nats { bus, publishing } => send(bus, *publishing, output).await,
                    Target::Postgres(bus) => {
                        transactions.add(bus, output);
                        Ok(None)
                    }
                }
            };
            let ack = tokio::time::timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(late(output)));
            sent.push((output, ack));
        }
        let mut uncommitted: HashMap<&str, String> = HashMap::new();
        for (bus, outputs) in transactions.split() {
            let error = match tokio::time::timeout_at(deadline, commit(bus, &outputs)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs()),
            };
            uncommitted.extend(outputs.iter().map(|output| (output.message_id.as_str(), error.clone())));
        }
        let mut results = Vec::with_capacity(outputs.len());
        for (output, ack) in sent {
            results.push(match ack {
                Ok(Some(ack)) => match tokio::time::timeout_at(deadline, ack.into_future()).await {
                    Ok(stored) => stored.map(drop).map_err(|error| refused(output, &error)),
                    Err(_) => Err(late(output)),
                },
                Ok(None) => match uncommitted.remove(output.message_id.as_str()) {
                    Some(error) => Err(failed(output, &error)),
                    None => Ok(()),
                },
                Err(error) => Err(error),
            });
        }
        results
    }

    fn target(&self, output: &Output) -> Result<&Target, OutputError> {
        self.targets.get(&output.bus).ok_or_else(|| OutputError::NoBus(output.bus.clone()))
    }
}

/// Outputs to Postgres buses, by bus.
#[derive(Default)]
struct Transactions<'a> {
    whole: Vec<(&'a PostgresBus, Vec<&'a Output>)>,
}

impl<'a> Transactions<'a> {
    fn add(&mut self, bus: &'a PostgresBus, output: &'a Output) {
        match self.whole.iter_mut().find(|(known, _)| known.name() == bus.name()) {
            Some((_, outputs)) => outputs.push(output),
            None => self.whole.push((bus, vec![output])),
        }
    }

    /// In parts of a bounded size, each with one output at least.
    fn split(self) -> Vec<(&'a PostgresBus, Vec<&'a Output>)> {
        let mut parts: Vec<(&'a PostgresBus, Vec<&'a Output>)> = Vec::new();
        for (bus, outputs) in self.whole {
            let mut bytes = usize::MAX;
            for output in outputs {
                bytes = bytes.saturating_add(output.event.size());
                match parts.last_mut() {
                    Some((_, part)) if bytes <= TRANSACTION_BYTES => part.push(output),
                    _ => {
                        bytes = output.event.size();
                        parts.push((bus, vec![output]));
                    }
                }
            }
        }
        parts
    }
}

/// Writes logical messages in one transaction. A Postgres has no subjects: what grants and rules name after the bus is
/// the event's type there, so that a function publishes no other types than it may.
async fn commit(bus: &PostgresBus, outputs: &[&Output]) -> Result<(), SourceError> {
    let event = |output: &&Output| codec::to_structured(&Event { ty: output.subject.clone(), ..output.event.clone() });
    bus.publish(&outputs.iter().map(event).collect::<Vec<_>>()).await
}

async fn send(
    bus: &NatsBus,
    publishing: Publishing,
    output: &Output,
) -> Result<Option<async_nats::jetstream::context::PublishAckFuture>, OutputError> {
    let (pairs, payload) = codec::to_binary(&output.event);
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.as_str(), value.as_str());
    }
    match publishing {
        Publishing::Durable => {
            let message = PublishMessage::build().payload(payload).headers(headers).message_id(&output.message_id);
            let sent = bus.jetstream.send_publish(output.subject.clone(), message).await;
            sent.map(Some).map_err(|error| failed(output, &error))
        }
        Publishing::Core => {
            headers.insert("Nats-Msg-Id", output.message_id.as_str());
            let sent = bus.client.publish_with_headers(output.subject.clone(), headers, payload).await;
            sent.map(|()| None).map_err(|error| failed(output, &error))
        }
    }
}

fn refused(output: &Output, error: &PublishError) -> OutputError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => OutputError::NoStream(output.subject.clone()),
        _ => failed(output, error),
    }
}

fn failed(output: &Output, error: &dyn std::fmt::Display) -> OutputError {
    OutputError::Failed { subject: output.subject.clone(), message: error.to_string() }
}
