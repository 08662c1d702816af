//! A JetStream stream from a time on: an ordered consumer that lives in the server's memory and goes by itself.
//!
//! Invariant: nothing is acknowledged. The end is the stream's last sequence when it was opened, whatever comes meanwhile.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Info, Stream};
use futures::StreamExt as _;
use time::format_description::well_known::Rfc3339;

use crate::bus::nats::NatsBus;
use crate::triggers::{decode, headers};

use super::{History, HistoryError, Message, SILENCE, Source, Wanted};

/// A stream that is being read.
pub(super) struct StreamHistory {
    bus: String,
    stream: String,
    /// As the trigger's message ids have it.
    identity: String,
    wanted: Wanted,
    /// None when there is nothing more.
    messages: Option<Ordered>,
    last: u64,
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
        consume(&stream, subjects, &wanted).await.map_err(|error| failed("read", error))?
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

async fn consume(stream: &Stream, subjects: &[String], wanted: &Wanted) -> Result<(u64, Option<Ordered>), String> {
    let (filter_subject, filter_subjects) = match subjects {
        [one] => (one.clone(), Vec::new()),
        many => (String::new(), many.to_vec()),
    };
    let config = OrderedConfig {
        description: Some("oncue backtest".to_owned()),
        deliver_policy: DeliverPolicy::ByStartTime { start_time: wanted.since },
        filter_subject,
        filter_subjects,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
    let expected = consumer.cached_info().num_pending;
    if expected == 0 {
        return Ok((0, None));
    }
    let messages = consumer.messages().await.map_err(|error| error.to_string())?;
    Ok((expected, Some(messages)))
}

impl StreamHistory {
    pub(super) async fn next(&mut self) -> Result<Option<Message>, HistoryError> {
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let message = match tokio::time::timeout(SILENCE, messages.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(self.failed(error.to_string())),
            Ok(None) => return Ok(None),
            Err(_) => {
                let place = format!("the stream {}", self.stream);
                return Err(HistoryError::Silent { bus: self.bus.clone(), place });
            }
        };
        let info = message.info().map_err(|error| self.failed(error.to_string()))?;
        let (sequence, at, pending) = (info.stream_sequence, info.published, info.pending);
        if sequence >= self.last || pending == 0 {
            self.messages = None;
        }
        if sequence > self.last {
            // It came after the beginning.
            return Ok(None);
        }
        let id = format!("{}/{}/{sequence}", self.stream, self.identity);
        let (message, _) = message.split();
        let headers = headers(message.headers.as_ref());
        let event = decode(&message, &headers, (&self.wanted.trigger, &id, at), &self.wanted.limits);
        Ok(Some(Message { at, event }))
    }

    fn failed(&self, message: String) -> HistoryError {
        HistoryError::Nats { bus: self.bus.clone(), action: format!("read the stream {}", self.stream), message }
    }
}
