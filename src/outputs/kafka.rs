//! Outputs to Kafka: CloudEvents in binary mode, keyed by `partitionkey` or subject.
//!
//! Invariant: a record carries the id that is the same on every attempt, whatever id the function gave its event.
//! The producer is idempotent within one attempt; another attempt, on another node perhaps, stores the record again.

use tokio::time::Instant;

use super::{Output, OutputError, Sent};
use crate::bus::kafka::{KafkaBus, SendFailure};

/// The header with what the record can be deduped by.
pub const MESSAGE_ID: &str = "oncue-message-id";

pub(super) async fn send(bus: &KafkaBus, output: &Output, deadline: Instant) -> Result<Sent, OutputError> {
    let sent = bus.send_event(&output.subject, &output.event, (MESSAGE_ID, &output.message_id), deadline).await;
    sent.map(Sent::Kafka).map_err(|failure| failed(output, &failure))
}

pub(super) fn failed(output: &Output, failure: &SendFailure) -> OutputError {
    match failure {
        SendFailure::NoTopic(_) => OutputError::NoTopic(failure.to_string()),
        _ => super::failed(output, failure),
    }
}
