//! Core NATS: a subscription in a queue group, at most once.
//!
//! Invariant: memory stays bounded: what comes faster than it can be taken is dropped by the client, counted and
//! logged. There is no redelivery: what a crash interrupts is lost (CONTRACT.md, promise 2).

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::bus;
use crate::dispatch::budget::Credit;
use crate::dispatch::ticket::Ticket;
use crate::telemetry;

use super::{Context, Failure, Incoming, NatsSpec, Source};

/// How often drops are counted.
const DROP_CHECK: Duration = Duration::from_secs(5);

/// Runs the trigger until it is stopped.
pub(super) async fn run(spec: NatsSpec, source: Source, context: Context) {
    context.keep_reading(|| read(&spec, &source, &context)).await;
}

async fn read(spec: &NatsSpec, source: &Source, context: &Context) -> Result<(), Failure> {
    // A connection of its own: what the client drops is counted by connection, and a slow trigger slows no other.
    let name = format!("{} {}", source.name, context.name);
    let bus = bus::nats::connect(&name, &source.config).await.map_err(|e| Failure::Again(e.to_string()))?;
    let queue = spec.queue.clone().unwrap_or_else(|| format!("oncue-{}", context.name));
    let subscribed = bus.client.queue_subscribe(spec.subject.clone(), queue).await;
    let mut subscriber = subscribed.map_err(|e| Failure::again("cannot subscribe", e))?;
    context.reading().await;
    let mut counted = 0;
    let mut check = tokio::time::interval(DROP_CHECK);
    loop {
        // Taken before the message, so that what waits here is bounded by the subscription's capacity alone.
        let reserve = context.budget.reserve(1, bus.client.max_payload() as u64);
        tokio::pin!(reserve);
        // Drops come when messages never end and credit is short, so they are looked for first.
        let mut credit = loop {
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return finish(&mut subscriber, context).await,
                _ = check.tick() => count_drops(&bus, context, &mut counted),
                credit = &mut reserve => break credit,
            }
        };
        let message = loop {
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return finish(&mut subscriber, context).await,
                _ = check.tick() => count_drops(&bus, context, &mut counted),
                message = subscriber.next() => break message,
            }
        };
        let Some(message) = message else { return Err(Failure::Again("the connection was closed".to_owned())) };
        if let Some(part) = credit.split(message.length as u64) {
            take(message, context, part);
        }
    }
}

fn count_drops(bus: &bus::nats::NatsBus, context: &Context, counted: &mut u64) {
    let dropped = bus.dropped.load(Ordering::Relaxed);
    let new = dropped - *counted;
    if new > 0 {
        *counted = dropped;
        telemetry::slow_consumer_dropped(&context.name, new);
        tracing::error!(trigger = %context.name, dropped = new, "messages were dropped: core NATS came faster than they were run");
    }
}

/// Takes what has arrived already: it would be lost.
async fn finish(subscriber: &mut async_nats::Subscriber, context: &Context) -> Result<(), Failure> {
    if subscriber.unsubscribe().await.is_err() {
        return Ok(());
    }
    while let Some(message) = subscriber.next().await {
        let mut credit = context.budget.reserve(1, message.length as u64).await;
        if let Some(part) = credit.split(message.length as u64) {
            take(message, context, part);
        }
    }
    Ok(())
}

fn take(message: async_nats::Message, context: &Context, credit: Credit) {
    telemetry::received(&context.name, 1);
    let id = Uuid::new_v4();
    let (transport_key, at) = (id.as_bytes().to_vec(), OffsetDateTime::now_utc());
    let incoming = Incoming { message, id: id.to_string(), transport_key, at, sent: 1 };
    context.hand_over(incoming, Ticket::unowned(credit));
}
