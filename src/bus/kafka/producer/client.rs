//! The producer's client: its thread, its callbacks, and the gate before it.
//!
//! Invariant: every record that is taken gets one report, of the client or of what kept it from it. What waits at the gate
//! goes on by whoever comes next, by the report of the last record that is on its way, or by the thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::statistics::Statistics;
use tokio::sync::oneshot;

use super::Stored;
use super::gate::{Gate, Group, Stopped};
use crate::bus::kafka::Callbacks;
use crate::bus::kafka::aside::Aside;
use crate::bus::kafka::error::code;
use crate::event::Event;
use crate::event::codec::kafka::{self as codec, Outgoing};

/// How long the thread waits for a report before it looks whether anything is due, or it is to end.
const POLL: Duration = Duration::from_millis(100);

type Client = BaseProducer<Reports>;
type Waits = oneshot::Sender<KafkaResult<Stored>>;

/// A record that can leave.
pub(super) struct Ready {
    topic: Arc<str>,
    key: Option<String>,
    value: Bytes,
    headers: OwnedHeaders,
    waits: Waits,
}

/// A producer and its thread.
pub(in crate::bus::kafka) struct Producer {
    inside: Aside<Polled>,
    made: Instant,
}

/// A client and the thread that takes its reports.
struct Polled {
    client: Arc<Client>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The producer's callbacks: each record's report goes to whoever waits for it.
struct Reports {
    callbacks: Callbacks,
    gate: Mutex<Gate<Box<Ready>>>,
    /// What lets go on what waits.
    client: OnceLock<Weak<Client>>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Ready {
    /// `record` for `topic`, and where its report comes.
    pub(super) fn new(topic: &Arc<str>, record: &Outgoing) -> (Box<Self>, oneshot::Receiver<KafkaResult<Stored>>) {
        let (waits, report) = oneshot::channel();
        let none = OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record.headers.iter().fold(none, |headers, (name, value)| with(headers, name, value));
        let (topic, key, value) = (Arc::clone(topic), record.key.clone(), record.value.clone());
        (Box::new(Self { topic, key, value, headers, waits }), report)
    }

    /// `event` for `topic` in binary mode, with one more header, and where its report comes.
    pub(super) fn of_event(
        topic: &Arc<str>,
        event: &Event,
        (name, value): (&str, &str),
    ) -> (Box<Self>, oneshot::Receiver<KafkaResult<Stored>>) {
        let (waits, report) = oneshot::channel();
        let mut headers = Some(OwnedHeaders::new_with_capacity(10 + event.extensions.len()));
        let mut push = |name: &str, value: &str| headers = headers.take().map(|headers| with(headers, name, value));
        codec::encode_headers(event, &mut push);
        push(name, value);
        let headers = headers.unwrap_or_default();
        let (topic, key, value) = (Arc::clone(topic), codec::key(event), event.data.clone());
        (Box::new(Self { topic, key, value, headers, waits }), report)
    }

    fn size(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, String::len)
    }

    /// Hands it to the client's queue.
    #[allow(clippy::boxed_local, reason = "it comes in a box and goes back in one")]
    fn leave(self: Box<Self>, group: Group, client: &Client) -> Result<(), (Box<Self>, Stopped<KafkaError>)> {
        let Self { topic, key, value, headers, waits } = *self;
        // An empty payload is an empty value and never a null one, which would delete the key in a compacted topic.
        let out = BaseRecord::with_opaque_to(&topic, Box::new((waits, group))).payload(&value[..]).headers(headers);
        let sent = client.send(BaseRecord { key: key.as_deref(), ..out });
        let Err((error, BaseRecord { headers, delivery_opaque, .. })) = sent else { return Ok(()) };
        let (waits, _) = *delivery_opaque;
        let headers = headers.unwrap_or_default();
        let stopped = match code(&error) {
            Some(RDKafkaErrorCode::QueueFull) => Stopped::Full(error),
            _ => Stopped::Failed(error),
        };
        Err((Box::new(Self { topic, key, value, headers, waits }), stopped))
    }

    #[allow(clippy::boxed_local, reason = "it comes in a box")]
    fn fail(self: Box<Self>, error: KafkaError) {
        // Whoever sent it may have given up.
        let _ = self.waits.send(Err(error));
    }
}

fn with(headers: OwnedHeaders, name: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key: name, value: Some(value) })
}

impl Producer {
    /// A client of this configuration, of which a record waits for others for `linger` and that queues so many records.
    pub(super) fn new(
        config: &ClientConfig,
        callbacks: Callbacks,
        (linger, queue): (Duration, usize),
    ) -> KafkaResult<Self> {
        let reports = Reports { callbacks, gate: Mutex::new(Gate::new(linger, queue)), client: OnceLock::new() };
        let client: Arc<Client> = Arc::new(config.create_with_context(reports)?);
        client.context().client.get_or_init(|| Arc::downgrade(&client));
        let is_ending = Arc::new(AtomicBool::new(false));
        let (polled, ends) = (Arc::clone(&client), Arc::clone(&is_ending));
        let thread = std::thread::Builder::new().name("oncue-producer".to_owned()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                polled.poll(POLL);
                polled.context().release_due(&polled);
            }
        });
        let thread = thread.map_err(|error| KafkaError::ClientCreation(format!("no thread: {error}")))?;
        Ok(Self { inside: Aside::new(Polled { client, is_ending, thread: Some(thread) }), made: Instant::now() })
    }

    /// Takes the record, which leaves when the gate lets it.
    pub(super) fn send(&self, record: Box<Ready>) -> Result<(), (Box<Ready>, KafkaError)> {
        let client = &*self.inside.client;
        let taken = client.context().gate().put(
            Instant::now(),
            (record.size(), record),
            |record, group| record.leave(group, client),
            Ready::fail,
        );
        taken.map_err(|(record, Stopped::Full(error) | Stopped::Failed(error))| (record, error))
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// Why it is of no use any more, if it is not.
    pub(super) fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.inside.client.client().fatal_error()
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.inside.client.context().callbacks.last_error()
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Reports {
    fn gate(&self) -> MutexGuard<'_, Gate<Box<Ready>>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go on what has waited for long enough.
    fn release_due(&self, client: &Client) {
        let (mut gate, now) = (self.gate(), Instant::now());
        if gate.is_due(now) {
            gate.release(now, |record, group| record.leave(group, client), Ready::fail);
        }
    }

    /// A record is not on its way any more: others may be.
    fn arrived(&self, group: Group, is_stored: bool) {
        let (mut gate, now) = (self.gate(), Instant::now());
        if gate.arrived(now, group, is_stored)
            && let Some(client) = self.client.get().and_then(Weak::upgrade)
        {
            gate.release(now, |record, group| record.leave(group, &client), Ready::fail);
        }
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.callbacks.log(level, facility, text);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.callbacks.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.callbacks.generate_oauth_token(config)
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<(Waits, Group)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (waits, group) = *opaque;
        let report = match result {
            Ok(record) => Ok(Stored { partition: record.partition(), offset: record.offset() }),
            Err((error, _)) => Err(error.clone()),
        };
        let is_stored = report.is_ok();
        if is_stored {
            self.callbacks.forget_error();
        }
        // Whoever sent it may have given up.
        let _ = waits.send(report);
        self.arrived(group, is_stored);
    }
}
