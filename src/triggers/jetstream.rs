//! JetStream: a durable pull consumer, read no faster than credits allow, acknowledged only behind settled events.
//!
//! Invariant: a message is acknowledged after everything about it was committed, and by its latest delivery. A stream
//! that was recreated is a gap. Acknowledgements are pipelined plain ones: one that is lost costs a lookup in the
//! ledger when the message comes again (CONTRACT.md, "When is what released").

mod bind;
mod in_flight;
mod pull;

use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::bus::nats::NatsBus;
use crate::dispatch::ticket::Ticket;
use crate::telemetry;

use self::bind::Bound;
use self::in_flight::InFlight;
use self::pull::{Pulled, Puller};
use super::{Context, Failure, Incoming, JetStreamSpec, NoticeKind};

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
        let reconnects = self.bus.state.borrow().reconnects;
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
        self.context.reading().await;
        let result = self.pull(bound, reconnects).await;
        if result.is_ok() {
            tracing::info!(trigger = %self.context.name, "trigger stopped reading");
        }
        result
    }

    async fn pull(&self, bound: Bound, reconnects: u64) -> Result<(), Failure> {
        let mut puller = Puller::open(&self.bus.client, bound.consumer, self.context.budget.clone()).await?;
        let stream = Stream { identity: bound.identity, known_until: bound.known_until };
        let mut state = self.bus.state.clone();
        loop {
            let pulled = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => break,
                pulled = puller.next(&self.context) => pulled?,
                // The server may have forgotten what it was asked for; its silence would tell only after seconds.
                Ok(_) = state.wait_for(|state| state.reconnects > reconnects) => {
                    return Err(Failure::Again("the connection was lost and made again".to_owned()));
                }
            };
            self.take(pulled, &stream);
        }
        // What the server has sent already is taken too: it would wait for its AckWait otherwise.
        let mut rest = puller.close().await;
        while let Some(pulled) = rest.next().await {
            self.take(pulled, &stream);
        }
        Ok(())
    }

    fn take(&self, pulled: Pulled, stream: &Stream) {
        let Pulled { message, credit } = pulled;
        let (sequence, sent, at, pending) = match message.info() {
            Ok(info) => {
                (info.stream_sequence, u32::try_from(info.delivered).unwrap_or(1), info.published, info.pending)
            }
            Err(error) => {
                tracing::warn!(trigger = %self.context.name, %error, "a message without JetStream's reply subject was ignored");
                return;
            }
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
        let Some(reply) = message.reply.clone() else { return };
        if !self.in_flight.enter(sequence, reply) {
            // It is being worked on; its acknowledgement now goes to this latest delivery.
            return;
        }
        let id = format!("{}/{}/{sequence}", self.spec.stream, stream.identity);
        let transport_key = id.as_bytes().to_vec();
        let ticket = Ticket::new(sequence, self.release.clone(), credit);
        let incoming = Incoming { message: message.message, id, transport_key, at, sent };
        self.context.hand_over(incoming, ticket);
    }
}
