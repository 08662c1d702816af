//! Looks at a NATS server and its streams, and creates a stream that is wanted: for `oncue doctor` and `oncue dev`.
//!
//! Invariant: nothing is deleted, and nothing that exists is changed but the subjects of a stream that the caller names.
//! What a fact means is decided by the caller.

use std::time::Duration;

use async_nats::jetstream::context::{ConsumerInfoErrorKind, CreateStreamErrorKind, StreamsErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use futures::TryStreamExt as _;

use super::nats::NatsBus;

/// The server that a connection ended at.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `2.12.1`.
    pub version: String,
    /// Whether JetStream is on for this account; otherwise why it is not.
    pub jetstream: Result<(), String>,
    /// Largest payload, bytes.
    pub max_payload: usize,
    /// Round trip.
    pub round_trip: Duration,
}

/// A stream.
#[derive(Clone, Debug)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// Subjects that it stores; empty for mirrors.
    pub subjects: Vec<String>,
    /// Copies.
    pub replicas: usize,
    /// Whether it is on disk.
    pub file: bool,
    /// How long a message id is remembered.
    pub duplicate_window: Duration,
    /// Messages in it.
    pub messages: u64,
    /// Whether an acknowledged message is removed, so that two consumers cannot both have it.
    pub removes_acknowledged: bool,
    /// Longest life of a message; zero for ever.
    pub max_age: Duration,
}

/// A durable consumer.
#[derive(Clone, Debug)]
pub struct ConsumerFacts {
    /// Not delivered yet.
    pub pending: u64,
    /// Delivered and not acknowledged.
    pub ack_pending: usize,
    /// Most of them.
    pub ack_pending_max: i64,
    /// Those that were delivered more than once.
    pub redelivered: usize,
    /// How long the server waits for an acknowledgement.
    pub ack_wait: Duration,
    /// Tries before the server gives a message up; -1 for ever.
    pub max_deliver: i64,
    /// Whether each message is acknowledged.
    pub explicit_ack: bool,
    /// Subjects that it takes; empty for all.
    pub filters: Vec<String>,
    /// Pull requests that wait: 0 when no node reads.
    pub waiting: usize,
}

/// Why a look at the server failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}: {message}")]
pub struct InspectError {
    action: String,
    message: String,
}

impl InspectError {
    fn new(action: impl Into<String>, error: &impl ToString) -> Self {
        Self { action: action.into(), message: error.to_string() }
    }
}

/// The server's version, limits, and whether JetStream is on.
///
/// # Errors
/// It does not answer.
pub async fn server(bus: &NatsBus) -> Result<ServerFacts, InspectError> {
    let begin = tokio::time::Instant::now();
    let flush = tokio::time::timeout(Duration::from_secs(5), bus.client.flush()).await;
    flush.map_err(|_| InspectError::new("reach the server", &"no answer within 5 s"))?.map_err(|e| {
        let message = e.to_string();
        InspectError::new("reach the server", &message)
    })?;
    let round_trip = begin.elapsed();
    let info = bus.client.server_info();
    let account = bus.jetstream.query_account().await;
    Ok(ServerFacts {
        version: info.version,
        jetstream: account.map(drop).map_err(|e| e.to_string()),
        max_payload: info.max_payload,
        round_trip,
    })
}

/// All streams of the account, by name.
///
/// # Errors
/// JetStream does not answer.
pub async fn streams(bus: &NatsBus) -> Result<Vec<StreamFacts>, InspectError> {
    let all: Result<Vec<stream::Info>, async_nats::error::Error<StreamsErrorKind>> =
        bus.jetstream.streams().try_collect().await;
    let all = all.map_err(|e| InspectError::new("list the streams", &e))?;
    let mut streams: Vec<StreamFacts> = all.into_iter().map(stream_facts).collect();
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(streams)
}

fn stream_facts(info: stream::Info) -> StreamFacts {
    let config = info.config;
    StreamFacts {
        name: config.name,
        subjects: config.subjects,
        replicas: config.num_replicas,
        file: config.storage == stream::StorageType::File,
        duplicate_window: config.duplicate_window,
        messages: info.state.messages,
        removes_acknowledged: config.retention != stream::RetentionPolicy::Limits,
        max_age: config.max_age,
    }
}

/// The durable consumer `name` of `stream`; none if there is none.
///
/// # Errors
/// JetStream does not answer, or there is no such stream.
pub async fn consumer(bus: &NatsBus, stream: &str, name: &str) -> Result<Option<ConsumerFacts>, InspectError> {
    let action = || format!("look at the consumer {name} of the stream {stream}");
    let found = bus.jetstream.get_stream_no_info(stream).await.map_err(|e| InspectError::new(action(), &e))?;
    let info = match found.consumer_info(name).await {
        Ok(info) => info,
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(InspectError::new(action(), &error)),
    };
    let config = info.config;
    let filters = match (config.filter_subjects.is_empty(), config.filter_subject.is_empty()) {
        (true, false) => vec![config.filter_subject],
        _ => config.filter_subjects,
    };
    Ok(Some(ConsumerFacts {
        pending: info.num_pending,
        ack_pending: info.num_ack_pending,
        ack_pending_max: config.max_ack_pending,
        redelivered: info.num_redelivered,
        ack_wait: config.ack_wait,
        max_deliver: config.max_deliver,
        explicit_ack: config.ack_policy == jetstream::consumer::AckPolicy::Explicit,
        filters,
        waiting: info.num_waiting,
    }))
}

/// Creates the stream `name` on disk, one copy, its messages kept for `max_age` or for ever; false if a stream of that
/// name is there.
///
/// # Errors
/// The server refuses, for example because another stream has one of the subjects.
pub async fn create_stream(
    bus: &NatsBus,
    name: &str,
    subjects: Vec<String>,
    max_age: Option<Duration>,
) -> Result<bool, InspectError> {
    let max_age = max_age.unwrap_or_default();
    let config = stream::Config { name: name.to_owned(), subjects, max_age, ..stream::Config::default() };
    match bus.jetstream.create_stream(config).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(false),
            _ => Err(InspectError::new(format!("create the stream {name}"), &error)),
        },
    }
}

/// Gives the stream `name` other subjects and keeps everything else of it: for a stream that `oncue dev` made.
///
/// # Errors
/// There is no such stream, or the server refuses.
pub async fn set_subjects(bus: &NatsBus, name: &str, subjects: Vec<String>) -> Result<(), InspectError> {
    let action = || format!("give the stream {name} other subjects");
    let stream = bus.jetstream.get_stream(name).await.map_err(|e| InspectError::new(action(), &e))?;
    let config = stream::Config { subjects, ..stream.cached_info().config.clone() };
    bus.jetstream.update_stream(config).await.map(drop).map_err(|e| InspectError::new(action(), &e))
}

/// Whether every subject that `narrow` matches is matched by `wide` too. Both are NATS subjects, wildcards allowed.
#[must_use]
pub fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", Some(_)) => return true,
            (_, None | Some(">")) => return false,
            ("*", Some(_)) => {}
            (exact, Some(other)) if exact == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

/// Whether one subject can match both. Two streams of an account may not.
#[must_use]
pub fn overlaps(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_covers_what_it_stores_whole() {
        let table = [
            ("user.>", "user.signup", true),
            ("user.>", "user.*", true),
            ("user.>", "user.>", true),
            ("user.*", "user.>", false),
            ("user.*", "user.a.b", false),
            ("user.>", "user", false),
            (">", "a", true),
            ("mail.*", "mail.welcome", true),
            ("mail.welcome", "mail.*", false),
            ("mail", "mail", true),
        ];
        for (wide, narrow, expected) in table {
            assert_eq!(covers(wide, narrow), expected, "{wide} covers {narrow}");
        }
    }

    #[test]
    fn subjects_overlap_when_one_message_fits_both() {
        let table = [("user.>", "user.a", true), ("a.*", "*.b", true), ("a.b", "a.c", false), ("a.>", "a", false)];
        for (a, b, expected) in table {
            assert_eq!((overlaps(a, b), overlaps(b, a)), (expected, expected), "{a} and {b}");
        }
    }
}
