//! Outputs to NATS.
//!
//! Invariant: a stream dedupes by the message id, which is the same on every attempt.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;

use super::{Output, OutputError, Sent, failed};
use crate::bus::Publishing;
use crate::bus::nats::NatsBus;
use crate::event::codec;

pub(super) async fn send(bus: &NatsBus, publishing: Publishing, output: &Output) -> Result<Sent, OutputError> {
    let (pairs, payload) = codec::to_binary(&output.event);
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.as_str(), value.as_str());
    }
    match publishing {
        Publishing::Durable => {
            let message = PublishMessage::build().payload(payload).headers(headers).message_id(&output.message_id);
            let sent = bus.jetstream.send_publish(output.subject.clone(), message).await;
            sent.map(Sent::Nats).map_err(|error| failed(output, &error))
        }
        Publishing::Core => {
            headers.insert("Nats-Msg-Id", output.message_id.as_str());
            let sent = bus.client.publish_with_headers(output.subject.clone(), headers, payload).await;
            sent.map(|()| Sent::Done).map_err(|error| failed(output, &error))
        }
    }
}

pub(super) fn refused(output: &Output, error: &PublishError) -> OutputError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => OutputError::NoStream(output.subject.clone()),
        _ => failed(output, error),
    }
}
