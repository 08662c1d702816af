//! Sends messages by hand: `oncue publish`. What functions emit goes through `outputs`.
//!
//! Invariant: a message that `store` gave back is in a stream, a record that `append` gave back in a topic; they go out in
//! their order, and at most `WINDOW` of them are unacknowledged. Nothing here knows CloudEvents.

use std::collections::VecDeque;
use std::str::FromStr as _;
use std::time::Duration;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use super::kafka::{self, Acknowledgement, KafkaBus, SendFailure};
use super::nats::NatsBus;
use crate::event::codec::kafka::Outgoing as Record;

/// Below the client's own bound of unacknowledged messages, and enough to hide a round trip of 10 ms at 50,000/s.
const WINDOW: usize = 512;

/// How long the server may take for one acknowledgement or flush.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where it goes.
    pub subject: String,
    /// Name and value, in their order.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub payload: Bytes,
    /// What the stream dedupes by.
    pub message_id: Option<String>,
}

/// Where a stream put a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The stream.
    pub stream: String,
    /// The message's number in it.
    pub sequence: u64,
    /// Whether a message with the same id was there already.
    pub duplicate: bool,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No stream stores the subject.
    #[error("no stream stores the subject \"{0}\"")]
    NoStream(String),
    /// A header that NATS cannot carry.
    #[error("header {name:?} cannot be sent: {message}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The server did not take it.
    #[error("failed to publish to \"{subject}\": {message}")]
    Failed {
        /// The subject.
        subject: String,
        /// Why.
        message: String,
    },
}

/// Publishes `messages` and waits until each is stored; `each` hears of them in order.
///
/// # Errors
/// The first message that was not stored; those before it are.
pub async fn store(
    bus: &NatsBus,
    messages: impl Iterator<Item = Outgoing>,
    mut each: impl FnMut(&Outgoing, Stored),
) -> Result<(), SendError> {
    let mut waiting: VecDeque<(Outgoing, PublishAckFuture)> = VecDeque::with_capacity(WINDOW);
    for message in messages {
        if waiting.len() == WINDOW
            && let Some((first, ack)) = waiting.pop_front()
        {
            each(&first, acknowledged(&first, ack).await?);
        }
        let mut out = PublishMessage::build().payload(message.payload.clone()).headers(headers(&message)?);
        if let Some(id) = &message.message_id {
            out = out.message_id(id);
        }
        let sent = bus.jetstream.send_publish(message.subject.clone(), out).await;
        let ack = sent.map_err(|error| failed(&message, &error))?;
        waiting.push_back((message, ack));
    }
    for (message, ack) in waiting {
        each(&message, acknowledged(&message, ack).await?);
    }
    Ok(())
}

/// Publishes `records` to `topic` and waits until each is stored; `each` hears of them in order.
///
/// # Errors
/// The first record that was not stored; those before it are.
pub async fn append(
    bus: &KafkaBus,
    topic: &str,
    records: impl Iterator<Item = Record>,
    mut each: impl FnMut(kafka::Stored),
) -> Result<(), SendFailure> {
    let mut waiting: VecDeque<Acknowledgement> = VecDeque::with_capacity(WINDOW);
    for record in records {
        if waiting.len() == WINDOW
            && let Some(first) = waiting.pop_front()
        {
            each(first.wait().await?);
        }
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        waiting.push_back(bus.send(topic, &record, deadline).await?);
    }
    for acknowledgement in waiting {
        each(acknowledgement.wait().await?);
    }
    Ok(())
}

/// Publishes `messages` by core NATS and waits until the server has read them: at most once, nobody may be listening.
///
/// # Errors
/// The connection did not take them.
pub async fn core(bus: &NatsBus, messages: impl Iterator<Item = Outgoing>) -> Result<u64, SendError> {
    let mut sent = 0;
    let mut last = String::new();
    for message in messages {
        let subject = Subject::from(message.subject.clone());
        let out = bus.client.publish_with_headers(subject, headers(&message)?, message.payload.clone()).await;
        out.map_err(|error| failed(&message, &error))?;
        last.clone_from(&message.subject);
        sent += 1;
    }
    let failed = |message: String| SendError::Failed { subject: last.clone(), message };
    match tokio::time::timeout(ANSWER_TIMEOUT, bus.client.flush()).await {
        Ok(flushed) => flushed.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("the server did not answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
    Ok(sent)
}

async fn acknowledged(message: &Outgoing, ack: PublishAckFuture) -> Result<Stored, SendError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, ack.into_future()).await {
        Ok(Ok(ack)) => Ok(Stored { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate }),
        Ok(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => {
            Err(SendError::NoStream(message.subject.clone()))
        }
        Ok(Err(error)) => Err(failed(message, &error)),
        Err(_) => Err(failed(message, &format!("no acknowledgement within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}

/// The client's own conversion panics on a name or value that it cannot send.
fn headers(message: &Outgoing) -> Result<HeaderMap, SendError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        let fail = |message: String| SendError::Header { name: name.clone(), message };
        let key = HeaderName::from_str(name).map_err(|e| fail(e.to_string()))?;
        headers.append(key, HeaderValue::from_str(value).map_err(|e| fail(e.to_string()))?);
    }
    Ok(headers)
}

fn failed(message: &Outgoing, error: &impl ToString) -> SendError {
    SendError::Failed { subject: message.subject.clone(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_nats_cannot_carry_is_an_error_and_no_panic() {
        let table = [("ce-id", "1", true), ("ce id:", "1", false), ("ce-id", "a\r\nb: c", false)];
        for (name, value, good) in table {
            let message = Outgoing {
                subject: "a".to_owned(),
                headers: vec![(name.to_owned(), value.to_owned())],
                payload: Bytes::new(),
                message_id: None,
            };
            assert_eq!(headers(&message).is_ok(), good, "{name}: {value:?}");
        }
    }
}
