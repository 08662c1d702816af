//! Publishes what functions emit and what rules forward.
//!
//! Invariant: everything that an output says about where it came from is written here, out of a guest's reach: its id,
//! its hops, its cause. The same delivery publishes the same ids on every attempt, so that receivers can dedupe.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;

use crate::bus::Publishing;
use crate::bus::nats::NatsBus;
use crate::delivery::DeliveryId;
use crate::event::codec::{self, DecodeError};
use crate::event::{AttributeValue, CAUSE, Event, HOPS, TRACEPARENT};

/// How long one publish may take, acknowledgement included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// A bus that can be published to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The connection.
    pub bus: NatsBus,
    /// What publishing means on it.
    pub publishing: Publishing,
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
    /// The first output that was not stored. Those before it may have been: the same ids come again on the next try.
    pub async fn publish(&self, outputs: &[Output]) -> Result<(), OutputError> {
        let work = async {
            let mut acknowledgements = Vec::with_capacity(outputs.len());
            for output in outputs {
                let target = self.targets.get(&output.bus).ok_or_else(|| OutputError::NoBus(output.bus.clone()))?;
                if let Some(ack) = send(target, output).await? {
                    acknowledgements.push((output, ack));
                }
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
}

impl Outputs {
    /// Publishes each of `outputs` that can be, in order, and says of each how that went.
    pub async fn publish_each(&self, outputs: &[Output]) -> Vec<Result<(), OutputError>> {
        let deadline = tokio::time::Instant::now() + PUBLISH_TIMEOUT;
        let late =
            |output: &Output| failed(output, &format!("no acknowledgement within {} s", PUBLISH_TIMEOUT.as_secs()));
        let mut sent = Vec::with_capacity(outputs.len());
        for output in outputs {
            let sending = async {
                let target = self.targets.get(&output.bus).ok_or_else(|| OutputError::NoBus(output.bus.clone()))?;
                send(target, output).await
            };
            let ack = tokio::time::timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(late(output)));
            sent.push((output, ack));
        }
        let mut results = Vec::with_capacity(outputs.len());
        for (output, ack) in sent {
            results.push(match ack {
                Ok(Some(ack)) => match tokio::time::timeout_at(deadline, ack.into_future()).await {
                    Ok(stored) => stored.map(drop).map_err(|error| refused(output, &error)),
                    Err(_) => Err(late(output)),
                },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            });
        }
        results
    }
}

async fn send(
    target: &Target,
    output: &Output,
) -> Result<Option<async_nats::jetstream::context::PublishAckFuture>, OutputError> {
    let (pairs, payload) = codec::to_binary(&output.event);
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.as_str(), value.as_str());
    }
    match target.publishing {
        Publishing::Durable => {
            let message = PublishMessage::build().payload(payload).headers(headers).message_id(&output.message_id);
            let sent = target.bus.jetstream.send_publish(output.subject.clone(), message).await;
            sent.map(Some).map_err(|error| failed(output, &error))
        }
        Publishing::Core => {
            headers.insert("Nats-Msg-Id", output.message_id.as_str());
            let sent = target.bus.client.publish_with_headers(output.subject.clone(), headers, payload).await;
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
