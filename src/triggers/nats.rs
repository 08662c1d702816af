//! Core NATS: a subscription in a queue group, at most once.
//!
//! Invariant: memory stays bounded: what comes faster than it can be taken is dropped here, counted and logged. There is no
//! redelivery: what a crash interrupts is lost (CONTRACT.md, promise 2). A message that is no event is rejected with its
//! bytes like everywhere else.

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::bus::nats::{Message, NatsBus, ReadError, Reader};
use crate::dispatch::budget::Credit;
use crate::dispatch::ticket::Ticket;
use crate::telemetry;

use super::message::Incoming;
use super::{Context, Failure, NatsSpec};

/// How often drops are told.
const DROP_CHECK: Duration = Duration::from_secs(5);
/// Messages that wait for credit at most.
const WAITING_MAX: usize = 65_536;
/// Their bytes at most.
const WAITING_BYTES: usize = 64 << 20;
/// Messages that credit is asked for at once.
const BATCH: usize = 256;

/// Runs the trigger until it is stopped.
pub(super) async fn run(spec: NatsSpec, bus: NatsBus, context: Context) {
    // It outlives a connection: what came through one that was lost is still handed over.
    let waiting = Mutex::new(Waiting::default());
    context.keep_reading(|| read(&spec, &bus, &context, &waiting)).await;
    waiting.into_inner().finish(&context).await;
}

async fn read(spec: &NatsSpec, bus: &NatsBus, context: &Context, waiting: &Mutex<Waiting>) -> Result<(), Failure> {
    let mut waiting = waiting.lock().await;
    let reader = Reader::open(bus, &format!("trigger {}", context.name)).await;
    let mut reader = reader.map_err(|error| Failure::Again(error.to_string()))?;
    let queue = spec.queue.clone().unwrap_or_else(|| format!("oncue-{}", context.name));
    reader.subscribe(&spec.subject, Some(&queue));
    context.reading().await;
    let mut check = tokio::time::interval(DROP_CHECK);
    loop {
        tokio::select! {
            biased;
            () = context.stop.cancelled() => break,
            // Drops come when messages never end and credit is short, so they are looked for first.
            _ = check.tick() => waiting.tell_drops(context),
            credit = waiting.credit(context) => waiting.hand_over(credit, context),
            message = reader.next() => match message {
                Ok(Some(message)) => waiting.push(message),
                Ok(None) => return Err(Failure::Again("the connection was closed".to_owned())),
                Err(error) => return Err(Failure::Again(error.to_string())),
            },
        }
    }
    reader.finish();
    while let Ok(Some(message)) = next(&mut reader).await {
        waiting.push(message);
    }
    Ok(())
}

/// What comes after the end was asked for; it is not waited for for ever.
async fn next(reader: &mut Reader) -> Result<Option<Message>, ReadError> {
    tokio::time::timeout(DROP_CHECK, reader.next()).await.unwrap_or(Ok(None))
}

/// Messages that came and wait for credit.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    dropped: u64,
    reserving: Option<BoxFuture<'static, Credit>>,
}

impl Waiting {
    fn push(&mut self, message: Message) {
        let length = message.length();
        if self.messages.len() >= WAITING_MAX || self.bytes + length > WAITING_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += length;
        self.messages.push_back(message);
    }

    /// Credit for the first messages; for ever while there are none. Cancel-safe.
    async fn credit(&mut self, context: &Context) -> Credit {
        if self.messages.is_empty() {
            return std::future::pending().await;
        }
        let reserving = self.reserving.get_or_insert_with(|| {
            let first = self.messages.iter().take(BATCH);
            let (count, bytes) = first.fold((0, 0), |(n, bytes), m| (n + 1, bytes + m.length() as u64));
            let budget = context.budget.clone();
            async move { budget.reserve(count, bytes).await }.boxed()
        });
        let credit = reserving.await;
        self.reserving = None;
        credit
    }

    fn hand_over(&mut self, mut credit: Credit, context: &Context) {
        while let Some(message) = self.messages.front() {
            let Some(part) = credit.split(message.length() as u64) else { return };
            let Some(message) = self.messages.pop_front() else { return };
            self.bytes -= message.length();
            take(message, context, part);
        }
    }

    /// Hands over everything.
    async fn finish(&mut self, context: &Context) {
        while !self.messages.is_empty() {
            let credit = self.credit(context).await;
            self.hand_over(credit, context);
        }
        self.tell_drops(context);
    }

    fn tell_drops(&mut self, context: &Context) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            telemetry::slow_consumer_dropped(&context.name, dropped);
            tracing::error!(trigger = %context.name, dropped, "messages were dropped: core NATS came faster than they were run");
        }
    }
}

fn take(message: Message, context: &Context, credit: Credit) {
    telemetry::received(&context.name, 1);
    let id = Uuid::new_v4();
    let (transport_key, at) = (id.as_bytes().to_vec(), OffsetDateTime::now_utc());
    let incoming = Incoming { message, id: id.to_string(), transport_key, at, sent: 1 };
    context.hand_over(incoming, Ticket::unowned(credit));
}
