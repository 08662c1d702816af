//! JetStream: a durable pull consumer, read no faster than credits allow, acknowledged only behind settled events.
//!
//! Invariant: a message is acknowledged after everything about it was committed, and by its latest delivery. Whatever bytes
//! it has, it is handed over: it is read through a connection of its own that no bytes break (`bus::nats::Reader`), and
//! acknowledged on the bus's. A stream that was recreated is a gap. Acknowledgements are pipelined plain ones: one that is lost costs a lookup in the
//! ledger when the message comes again (CONTRACT.md, "When is what released").

mod bind;
mod in_flight;
mod pull;

use std::sync::Arc;

use async_nats::Subject;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::bus::nats::NatsBus;
use crate::dispatch::ticket::Ticket;
use crate::telemetry;

use self::in_flight::InFlight;
use self::pull::{Pulled, Puller};
use super::message::{Incoming, Place, place};
use super::{Context, Failure, JetStreamSpec, NoticeKind};

/// Positions that can wait for the acknowledger: more than any budget lets be in flight.
const RELEASE_QUEUE: usize = 1 << 17;

/// The lag is told with every message whose count of pending ones is a multiple of this: the last one's always is.
const LAG_EVERY: u64 = 64;

/// Runs the trigger until it is stopped; what is in flight then is still acknowledged when it is settled.
pub(super) async fn run(spec: JetStreamSpec, bus: NatsBus, context: Context) {
    let (release, released) = mpsc::channel(RELEASE_QUEUE);
    let in_flight = Arc::new(InFlight::new(bus.client.clone(), Arc::clone(&context.name), spec.ack_wait()));
    let (keeper, quit) = (Arc::clone(&in_flight), context.drain.token().quit);
    // It outlives the reader: what is in flight is still acknowledged when the trigger was paused or changed.
    context.drain.spawn(format!("acks of trigger {}", context.name), async move {
        keeper.keep(released, quit).await;
    });
    let reader = Reader { spec, bus, context, in_flight, release };
    reader.context.keep_reading(|| reader.read()).await;
}

/// The stream that is read.
struct Stream {
    identity: String,
    /// Messages up to this sequence may have been settled though the consumer says that it never sent them.
    known_until: u64,
}

struct Reader {
    spec: JetStreamSpec,
    bus: NatsBus,
    context: Context,
    in_flight: Arc<InFlight>,
    release: mpsc::Sender<u64>,
}

impl Reader {
    /// Binds the consumer and reads it until stopped.
    async fn read(&self) -> Result<(), Failure> {
        let known = self.context.identity.is_some() || self.in_flight.identity().is_some();
        let bound = bind::bind(&self.bus.jetstream, &self.spec, &self.context.name, known).await?;
        if let Some(known) = self.context.identity.as_ref().filter(|known| **known != bound.identity) {
            return Err(bind::recreated(&self.spec.stream, known, &bound.identity, &self.context.name));
        }
        if self.in_flight.bind(&bound.identity) {
            self.context.notice(NoticeKind::Bound(bound.identity.clone())).await;
        } else {
            // Another stream of the same name, while this process runs.
            let known = self.in_flight.identity().unwrap_or_default();
            return Err(bind::recreated(&self.spec.stream, &known, &bound.identity, &self.context.name));
        }
        let mut puller = Puller::open(&self.bus, &self.context, bound.consumer).await?;
        let stream = Stream { identity: bound.identity, known_until: bound.known_until };
        self.context.reading().await;
        let result = self.pull(&mut puller, &stream).await;
        if result.is_ok() {
            // What the server has sent already is taken too: it would wait for its AckWait otherwise.
            let mut rest = puller.close();
            while let Some(pulled) = rest.next().await {
                self.take(pulled, &stream);
            }
        }
        if result.is_ok() {
            tracing::info!(trigger = %self.context.name, "trigger stopped reading");
        }
        result
    }

    async fn pull(&self, puller: &mut Puller, stream: &Stream) -> Result<(), Failure> {
        loop {
            let pulled = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Ok(()),
                pulled = puller.next(&self.context) => pulled?,
            };
            self.take(pulled, stream);
        }
    }

    fn take(&self, pulled: Pulled, stream: &Stream) {
        let Pulled { message, credit } = pulled;
        let reply = std::str::from_utf8(&message.reply).unwrap_or_default();
        let Some(Place { sequence, delivered: sent, published: at, pending }) = place(reply) else {
            tracing::warn!(trigger = %self.context.name, "a message without JetStream's reply subject was ignored");
            return;
        };
        // A consumer that was made anew counts from one again.
        let sent = if sequence <= stream.known_until { sent.max(2) } else { sent };
        telemetry::received(&self.context.name, 1);
        if pending.is_multiple_of(LAG_EVERY) {
            telemetry::trigger_lag(&self.context.name, pending);
        }
        if sent > 1 {
            telemetry::redelivered(&self.context.name, 1);
        }
        if !self.in_flight.enter(sequence, Subject::from(reply)) {
            // It is being worked on; its acknowledgement now goes to this latest delivery.
            return;
        }
        let id = format!("{}/{}/{sequence}", self.spec.stream, stream.identity);
        let transport_key = id.as_bytes().to_vec();
        let ticket = Ticket::new(sequence, self.release.clone(), credit);
        let incoming = Incoming { message, id, transport_key, at, sent };
        self.context.hand_over(incoming, ticket);
    }
}
