//! Pulls: requests for messages, each covered by credit, with heartbeats and a watch for stalls.
//!
//! Invariant: the server is never asked for more than the credit that is held. A pull that falls silent is an error,
//! and so is a consumer that has messages and sends none. The client's own batches are not used: they take no notice
//! of missed heartbeats, and its stream asks for messages by itself.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{
    Consumer,
    pull::{BatchConfig, Config},
};
use async_nats::{Client, StatusCode, Subject, Subscriber};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use crate::dispatch::budget::{Budget, Credit};
use crate::telemetry;
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

/// How many messages an ended request still asked for (nats-server sends it with every such status).
const PENDING: &str = "Nats-Pending-Messages";

/// A message and the credit for it.
pub(super) struct Pulled {
    pub(super) message: Message,
    pub(super) credit: Credit,
}

/// The pulls of one consumer.
pub(super) struct Puller {
    client: Client,
    consumer: Consumer<Config>,
    budget: Budget,
    inbox: String,
    subscriber: Subscriber,
    /// For what was asked and has not come. One for all requests: the server serves them in turns.
    credit: Credit,
    reserving: Option<BoxFuture<'static, Credit>>,
    numbers: u64,
    batch: u32,
    asked_and_came: u32,
    heard: Instant,
    checked: Instant,
    received_since_check: bool,
}

enum Step {
    Message(Option<async_nats::Message>),
    Credit(Credit),
    Tick,
}

impl Puller {
    /// Opens the inbox of `consumer`'s pulls.
    pub(super) async fn open(client: &Client, consumer: Consumer<Config>, budget: Budget) -> Result<Self, Failure> {
        let inbox = client.new_inbox();
        let subscriber =
            client.subscribe(format!("{inbox}.*")).await.map_err(|e| Failure::again("cannot open an inbox", e))?;
        let now = Instant::now();
        Ok(Self {
            client: client.clone(),
            consumer,
            budget,
            inbox,
            subscriber,
            credit: Credit::none(),
            reserving: None,
            numbers: 0,
            batch: BATCH_MIN,
            asked_and_came: 0,
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
                Step::Message(None) => return Err(Failure::Again("the connection was closed".to_owned())),
                Step::Message(Some(message)) => {
                    self.heard = Instant::now();
                    if let Some(pulled) = self.receive(message)? {
                        return Ok(pulled);
                    }
                }
                Step::Credit(credit) => self.request(credit).await?,
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
            message = self.subscriber.next() => Step::Message(message),
            () = tokio::time::sleep_until(tick) => Step::Tick,
        };
        if matches!(step, Step::Credit(_)) {
            self.reserving = None;
        }
        step
    }

    /// Bytes of one request: its largest message fits, whatever that is.
    fn bytes(&self) -> u64 {
        self.client.max_payload() as u64 + u64::from(self.batch) * BYTES_PER_MESSAGE
    }

    fn wants_more(&self) -> bool {
        self.credit.events() <= self.batch as usize / 2
    }

    async fn request(&mut self, credit: Credit) -> Result<(), Failure> {
        let batch = BatchConfig {
            batch: credit.events(),
            expires: Some(EXPIRES),
            max_bytes: usize::try_from(self.bytes()).unwrap_or(usize::MAX),
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        self.numbers += 1;
        let inbox = Subject::from(format!("{}.{}", self.inbox, self.numbers));
        if self.credit.events() == 0 {
            self.heard = Instant::now();
        }
        self.credit.merge(credit);
        self.consumer.request_batch(batch, inbox).await.map_err(|e| Failure::again("cannot ask for messages", e))
    }

    fn receive(&mut self, message: async_nats::Message) -> Result<Option<Pulled>, Failure> {
        match message.status {
            None | Some(StatusCode::OK) => Ok(self.take(message)),
            Some(StatusCode::IDLE_HEARTBEAT) => Ok(None),
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                self.ended(&message);
                (self.batch, self.asked_and_came) = (BATCH_MIN, 0);
                Ok(None)
            }
            Some(status) => self.refused(&message, status),
        }
    }

    fn refused(&mut self, message: &async_nats::Message, status: StatusCode) -> Result<Option<Pulled>, Failure> {
        let text = message.description.clone().unwrap_or_default();
        let lower = text.to_ascii_lowercase();
        // The request is used up by bytes: the next message belongs to the next request.
        if status == StatusCode::REQUEST_TERMINATED
            && ["message size exceeds maxbytes", "batch completed"].contains(&lower.as_str())
        {
            self.ended(message);
            return Ok(None);
        }
        Err(Failure::Again(format!("the server ended a pull: {status} {text}")))
    }

    fn take(&mut self, message: async_nats::Message) -> Option<Pulled> {
        self.received_since_check = true;
        let Some(credit) = self.credit.split(message.length.max(1) as u64) else {
            tracing::warn!("the server sent more than was asked for; what was dropped comes again");
            return None;
        };
        self.asked_and_came += 1;
        if self.asked_and_came >= self.batch {
            // A whole batch came before the server ran out of messages: the next one is larger.
            self.asked_and_came = 0;
            self.batch = self.batch.saturating_mul(2).min(BATCH_MAX);
        }
        let context = self.consumer_context();
        Some(Pulled { message: Message { message, context }, credit })
    }

    fn consumer_context(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.client.clone())
    }

    /// A request ended: what it still asked for will not come.
    fn ended(&mut self, message: &async_nats::Message) {
        let pending = message.headers.as_ref().and_then(|h| h.get(PENDING)).and_then(|p| p.as_str().parse().ok());
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
    pub(super) async fn close(mut self) -> BoxStream<'static, Pulled> {
        self.reserving = None;
        // Everything that the server sent before it saw this comes before the end of the subscription.
        if self.subscriber.unsubscribe().await.is_err() || self.client.flush().await.is_err() {
            return futures::stream::empty().boxed();
        }
        futures::stream::unfold(self, |mut puller| async move {
            loop {
                let message = puller.subscriber.next().await?;
                if let Some(pulled) = puller.receive(message).ok().flatten() {
                    return Some((pulled, puller));
                }
            }
        })
        .boxed()
    }
}
