//! Pulls: requests for messages, each covered by credit, with heartbeats and a watch for stalls.
//!
//! Invariant: the server is never asked for more than the credit that is held. A pull that falls silent is an error,
//! and so is a consumer that has messages and sends none. What the server says is told from what somebody published by the
//! reply subject, never by a status line. The client's own batches are not used: they take no notice of missed heartbeats,
//! and its stream asks for messages by itself.

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull::Config};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::Instant;

use crate::bus::nats::{Message, NatsBus, ReadError, Reader};
use crate::dispatch::budget::{Budget, Credit};
use crate::event::codec::Limits;
use crate::event::codec::nats::{Block, parse};
use crate::telemetry;
use crate::triggers::message::is_delivery;
use crate::triggers::{Context, Failure};

/// How long the server keeps a request.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it is there while a request waits.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the server may be silent: two heartbeats and some.
const SILENCE: Duration = Duration::from_secs(12);
/// How often an idle consumer is asked whether messages wait.
const STALL_CHECK: Duration = Duration::from_secs(30);
/// Messages of the first request, and of one after an idle time.
const BATCH_MIN: u32 = 32;
/// Messages of one request under load.
const BATCH_MAX: u32 = 1_000;
/// Bytes that a request asks for beside the server's largest message, for each message of its batch.
const BYTES_PER_MESSAGE: u64 = 8 << 10;

/// What a message may be longer than the server takes now: at first, and at most.
const LARGER_MIN: u64 = 1 << 20;
const LARGER_MAX: u64 = 64 << 20;

/// What a server says of a pull.
const HEARTBEAT_STATUS: u16 = 100;
const NO_MESSAGES: u16 = 404;
const TIMED_OUT: u16 = 408;
const CONFLICT: u16 = 409;

/// How many messages an ended request still asked for (nats-server sends it with every such status).
const PENDING: &str = "Nats-Pending-Messages";

/// A message and the credit for it.
pub(super) struct Pulled {
    pub(super) message: Message,
    pub(super) credit: Credit,
}

/// The pulls of one consumer.
pub(super) struct Puller {
    reader: Reader,
    /// Where requests go.
    next: String,
    consumer: Consumer<Config>,
    budget: Budget,
    inbox: String,
    /// For what was asked and has not come. One for all requests: the server serves them in turns.
    credit: Credit,
    reserving: Option<BoxFuture<'static, Credit>>,
    numbers: u64,
    batch: u32,
    asked_and_came: u32,
    /// Bytes to ask for beside the usual ones: for a message that was stored when the server took larger ones.
    larger: u64,
    came_since_request: bool,
    heard: Instant,
    checked: Instant,
    received_since_check: bool,
}

enum Step {
    Message(Result<Option<Message>, ReadError>),
    Credit(Credit),
    Tick,
}

impl Puller {
    /// Opens a connection and the inbox of `consumer`'s pulls.
    pub(super) async fn open(bus: &NatsBus, context: &Context, consumer: Consumer<Config>) -> Result<Self, Failure> {
        let reader = Reader::open(bus, &format!("trigger {}", context.name)).await;
        let mut reader = reader.map_err(|error| Failure::Again(error.to_string()))?;
        let inbox = bus.client.new_inbox();
        reader.subscribe(&format!("{inbox}.*"), None);
        let info = consumer.cached_info();
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", info.stream_name, info.name);
        let now = Instant::now();
        Ok(Self {
            reader,
            next,
            consumer,
            budget: context.budget.clone(),
            inbox,
            credit: Credit::none(),
            reserving: None,
            numbers: 0,
            batch: BATCH_MIN,
            asked_and_came: 0,
            larger: 0,
            came_since_request: false,
            heard: now,
            checked: now,
            received_since_check: false,
        })
    }

    /// The next message, with its credit. Cancel-safe.
    pub(super) async fn next(&mut self, context: &Context) -> Result<Pulled, Failure> {
        loop {
            if self.wants_more() && self.reserving.is_none() {
                let (budget, batch) = (self.budget.clone(), self.batch);
                let bytes = self.bytes();
                let context = context.clone();
                let reserve = async move {
                    context.wait_for_store().await;
                    budget.reserve(batch, bytes).await
                };
                self.reserving = Some(reserve.boxed());
            }
            match self.step().await {
                Step::Message(Err(error)) => return Err(Failure::Again(error.to_string())),
                Step::Message(Ok(None)) => return Err(Failure::Again("the connection was closed".to_owned())),
                Step::Message(Ok(Some(message))) => {
                    self.heard = Instant::now();
                    if let Some(pulled) = self.receive(message)? {
                        return Ok(pulled);
                    }
                }
                Step::Credit(credit) => self.request(credit),
                Step::Tick => self.check(context).await?,
            }
        }
    }

    async fn step(&mut self) -> Step {
        let tick = (self.heard + SILENCE).min(self.checked + STALL_CHECK);
        let reserving = async {
            match &mut self.reserving {
                Some(reserving) => reserving.await,
                None => std::future::pending().await,
            }
        };
        let step = tokio::select! {
            biased;
            credit = reserving => Step::Credit(credit),
            message = self.reader.next() => Step::Message(message),
            () = tokio::time::sleep_until(tick) => Step::Tick,
        };
        if matches!(step, Step::Credit(_)) {
            self.reserving = None;
        }
        step
    }

    /// Bytes of one request: its largest message fits, whatever that is.
    fn bytes(&self) -> u64 {
        self.reader.max_payload() as u64 + u64::from(self.batch) * BYTES_PER_MESSAGE + self.larger
    }

    fn wants_more(&self) -> bool {
        self.credit.events() <= self.batch as usize / 2
    }

    fn request(&mut self, credit: Credit) {
        let request = json!({
            "batch": credit.events(),
            "expires": EXPIRES.as_nanos() as u64,
            "max_bytes": self.bytes(),
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        self.numbers += 1;
        self.came_since_request = false;
        let inbox = format!("{}.{}", self.inbox, self.numbers);
        if self.credit.events() == 0 {
            self.heard = Instant::now();
        }
        self.credit.merge(credit);
        self.reader.request(&self.next, &inbox, &request.to_string());
    }

    fn receive(&mut self, message: Message) -> Result<Option<Pulled>, Failure> {
        if is_delivery(&message) {
            return Ok(self.take(message));
        }
        let said = parse(&message.headers, &Limits::default()).unwrap_or_default();
        match said.status {
            Some(HEARTBEAT_STATUS) => Ok(None),
            Some(TIMED_OUT | NO_MESSAGES) => {
                self.ended(&said);
                (self.batch, self.asked_and_came) = (BATCH_MIN, 0);
                Ok(None)
            }
            Some(status) => self.refused(&said, status),
            None => {
                // Somebody knows the inbox. The server's own word never looks so.
                tracing::debug!("a message that is neither a delivery nor the server's word was ignored");
                Ok(None)
            }
        }
    }

    fn refused(&mut self, said: &Block, status: u16) -> Result<Option<Pulled>, Failure> {
        let lower = said.description.to_ascii_lowercase();
        // The request is used up by bytes: the next message belongs to the next request.
        if status == CONFLICT && ["message size exceeds maxbytes", "batch completed"].contains(&lower.as_str()) {
            self.ended(said);
            if lower.contains("maxbytes") && !self.came_since_request {
                // Not even one fitted: the server would say so for ever.
                self.larger = (self.larger * 2).clamp(LARGER_MIN, LARGER_MAX);
            }
            return Ok(None);
        }
        Err(Failure::Again(format!("the server ended a pull: {status} {}", said.description)))
    }

    fn take(&mut self, message: Message) -> Option<Pulled> {
        self.received_since_check = true;
        (self.came_since_request, self.larger) = (true, 0);
        let Some(credit) = self.credit.split(message.length().max(1) as u64) else {
            tracing::warn!("the server sent more than was asked for; what was dropped comes again");
            return None;
        };
        self.asked_and_came += 1;
        if self.asked_and_came >= self.batch {
            // A whole batch came before the server ran out of messages: the next one is larger.
            self.asked_and_came = 0;
            self.batch = self.batch.saturating_mul(2).min(BATCH_MAX);
        }
        Some(Pulled { message, credit })
    }

    /// A request ended: what it still asked for will not come.
    fn ended(&mut self, said: &Block) {
        let pending = said.header(PENDING).and_then(|pending| pending.parse().ok());
        self.credit.give_back(pending.unwrap_or(0));
    }

    async fn check(&mut self, context: &Context) -> Result<(), Failure> {
        let silent = self.heard.elapsed() >= SILENCE;
        if silent && self.credit.events() > 0 {
            return Err(Failure::Again(format!("the server was silent for {} s", SILENCE.as_secs())));
        }
        if silent {
            // Nothing was asked for: the budget is used up, or nothing can be settled.
            self.heard = Instant::now();
        }
        if self.checked.elapsed() < STALL_CHECK {
            return Ok(());
        }
        self.checked = Instant::now();
        let received = std::mem::take(&mut self.received_since_check);
        let asked = self.credit.events() > 0;
        let info = self.consumer.info().await.map_err(|e| Failure::again("cannot ask after the consumer", e))?;
        telemetry::trigger_lag(&context.name, info.num_pending);
        let full = i64::try_from(info.num_ack_pending).unwrap_or(i64::MAX) >= info.config.max_ack_pending;
        if asked && !received && info.num_pending > 0 && !full {
            let text = format!("{} messages wait and none came for {} s", info.num_pending, STALL_CHECK.as_secs());
            return Err(Failure::Stalled(text));
        }
        Ok(())
    }

    /// Asks for nothing more and gives what the server has sent already.
    pub(super) fn close(mut self) -> BoxStream<'static, Pulled> {
        self.reserving = None;
        self.reader.finish();
        futures::stream::unfold(self, |mut puller| async move {
            loop {
                let message = tokio::time::timeout(SILENCE, puller.reader.next()).await.ok()?.ok()??;
                if let Some(pulled) = puller.receive(message).ok().flatten() {
                    return Some((pulled, puller));
                }
            }
        })
        .boxed()
    }
}
