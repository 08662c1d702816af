//! A JetStream stream from a time on: a consumer that lives in the server's memory and goes by itself.
//!
//! Invariant: nothing is acknowledged. The end is the stream's last sequence when it was opened, whatever comes meanwhile.
//! It is read as a trigger reads it: no bytes of a message end it.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Info, Stream};
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use crate::bus::nats::{NatsBus, Reader};
use crate::triggers::message::{decode, is_delivery, place};

use super::{History, HistoryError, Message, SILENCE, Source, Wanted};

/// How long the server keeps the consumer when nobody reads.
const KEPT: Duration = Duration::from_secs(60);
/// Messages that are asked for at once.
const BATCH: u64 = 500;

/// A stream that is being read.
pub(super) struct StreamHistory {
    bus: String,
    stream: String,
    /// As the trigger's message ids have it.
    identity: String,
    wanted: Wanted,
    /// None when there is nothing more.
    messages: Option<Messages>,
    last: u64,
}

/// A connection and what is asked of the consumer.
struct Messages {
    reader: Reader,
    next: String,
    inbox: String,
    /// Asked for and not there yet.
    asked: u64,
}

impl Messages {
    /// The next delivery; none when the connection ends.
    async fn next(&mut self) -> Result<Option<crate::bus::nats::Message>, String> {
        loop {
            if self.asked == 0 {
                let request = json!({ "batch": BATCH, "expires": KEPT.as_secs() * 1_000_000_000 });
                self.reader.request(&self.next, &self.inbox, &request.to_string());
                self.asked = BATCH;
            }
            let Some(message) = self.reader.next().await.map_err(|error| error.to_string())? else { return Ok(None) };
            if is_delivery(&message) {
                self.asked -= 1;
                return Ok(Some(message));
            }
            // The server ended the request.
            self.asked = 0;
        }
    }
}

impl std::fmt::Debug for StreamHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamHistory").field("stream", &self.stream).field("last", &self.last).finish_non_exhaustive()
    }
}

/// Opens the stream `name`.
pub(super) async fn open(
    bus_name: &str,
    bus: &NatsBus,
    (name, subjects): (&str, &[String]),
    wanted: Wanted,
) -> Result<History, HistoryError> {
    let failed = |action: &str, message: String| HistoryError::Nats {
        bus: bus_name.to_owned(),
        action: format!("{action} the stream {name}"),
        message,
    };
    let stream = match bus.jetstream.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::InvalidStreamName
            | GetStreamErrorKind::JetStream(_) => {
                let (bus, stream) = (bus_name.to_owned(), name.to_owned());
                return Err(HistoryError::NoStream { bus, stream, message: error.to_string() });
            }
            GetStreamErrorKind::Request => return Err(failed("look at", error.to_string())),
        },
    };
    let info = stream.cached_info();
    let (identity, last) = (info.created.unix_timestamp_nanos().to_string(), info.state.last_sequence);
    let gaps = gap(info, &wanted).into_iter().collect();
    let (expected, messages) = if info.state.messages == 0 {
        (0, None)
    } else {
        consume(bus, &stream, subjects, &wanted).await.map_err(|error| failed("read", error))?
    };
    let (bus, stream) = (bus_name.to_owned(), name.to_owned());
    let history = StreamHistory { bus, stream, identity, wanted, messages, last };
    Ok(History { expected, gaps, source: Source::Stream(Box::new(history)) })
}

/// What is gone of what was wanted.
fn gap(info: &Info, wanted: &Wanted) -> Option<String> {
    let (name, state) = (&info.config.name, &info.state);
    if state.messages == 0 && state.last_sequence > 0 {
        return Some(format!("the stream {name} is empty: its {} messages are gone", state.last_sequence));
    }
    // What was taken out between is not told by these numbers.
    let begins = state.first_sequence > 1 && state.first_timestamp > wanted.since;
    begins.then(|| {
        let first = state.first_timestamp.format(&Rfc3339).unwrap_or_default();
        format!("the stream {name} begins at {first} (sequence {}): what came before is gone", state.first_sequence)
    })
}

async fn consume(
    bus: &NatsBus,
    stream: &Stream,
    subjects: &[String],
    wanted: &Wanted,
) -> Result<(u64, Option<Messages>), String> {
    let (filter_subject, filter_subjects) = match subjects {
        [one] => (one.clone(), Vec::new()),
        many => (String::new(), many.to_vec()),
    };
    let config = Config {
        description: Some("oncue backtest".to_owned()),
        deliver_policy: DeliverPolicy::ByStartTime { start_time: wanted.since },
        ack_policy: AckPolicy::None,
        inactive_threshold: KEPT,
        memory_storage: true,
        num_replicas: 1,
        filter_subject,
        filter_subjects,
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
    let info = consumer.cached_info();
    if info.num_pending == 0 {
        return Ok((0, None));
    }
    let mut reader = Reader::open(bus, "backtest").await.map_err(|error| error.to_string())?;
    let inbox = bus.client.new_inbox();
    reader.subscribe(&inbox, None);
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", info.stream_name, info.name);
    Ok((info.num_pending, Some(Messages { reader, next, inbox, asked: 0 })))
}

impl StreamHistory {
    pub(super) async fn next(&mut self) -> Result<Option<Message>, HistoryError> {
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let message = match tokio::time::timeout(SILENCE, messages.next()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => {
                let place = format!("the stream {}", self.stream);
                return Err(HistoryError::Silent { bus: self.bus.clone(), place });
            }
        };
        let reply = std::str::from_utf8(&message.reply).unwrap_or_default();
        let place = place(reply).ok_or_else(|| self.failed("the server names no place of a message".to_owned()))?;
        let (sequence, at, pending) = (place.sequence, place.published, place.pending);
        if sequence >= self.last || pending == 0 {
            self.messages = None;
        }
        if sequence > self.last {
            // It came after the beginning.
            return Ok(None);
        }
        let id = format!("{}/{}/{sequence}", self.stream, self.identity);
        let event = decode(&message, (&self.wanted.trigger, &id, at), &self.wanted.limits);
        Ok(Some(Message { at, event }))
    }

    fn failed(&self, message: String) -> HistoryError {
        HistoryError::Nats { bus: self.bus.clone(), action: format!("read the stream {}", self.stream), message }
    }
}
