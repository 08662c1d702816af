//! Messages in flight: acknowledged when they are settled, kept alive while they run.
//!
//! Invariant: a sequence is in flight at most once in this process, however often the server sends it; the
//! acknowledgement goes to its latest delivery.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// How long the last words to the server may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// A message that is worked on.
struct Held {
    reply: Subject,
    told: Instant,
}

/// The messages of one trigger that are in flight.
pub(super) struct InFlight {
    client: Client,
    trigger: Arc<str>,
    ack_wait: Duration,
    held: Mutex<HashMap<u64, Held>>,
    identity: OnceLock<String>,
}

impl InFlight {
    /// Nothing in flight.
    pub(super) fn new(client: Client, trigger: Arc<str>, ack_wait: Duration) -> Self {
        Self { client, trigger, ack_wait, held: Mutex::default(), identity: OnceLock::new() }
    }

    /// Ties the sequences to the stream `identity`; false when they are tied to another one.
    pub(super) fn bind(&self, identity: &str) -> bool {
        self.identity.get_or_init(|| identity.to_owned()) == identity
    }

    /// The stream that the sequences belong to.
    pub(super) fn identity(&self) -> Option<String> {
        self.identity.get().cloned()
    }

    /// Puts `sequence` in flight; false when it is there already, and then its acknowledgement goes to `reply`.
    pub(super) fn enter(&self, sequence: u64, reply: Subject) -> bool {
        let held = Held { reply, told: Instant::now() };
        self.held().insert(sequence, held).is_none()
    }

    /// Acknowledges what is released and sends signs of progress, until nobody can release any more, or `quit`.
    pub(super) async fn keep(&self, released: mpsc::Receiver<u64>, quit: CancellationToken) {
        tokio::select! {
            biased;
            () = quit.cancelled() => {}
            () = self.serve(released) => {}
        }
    }

    async fn serve(&self, mut released: mpsc::Receiver<u64>) {
        let mut progress = tokio::time::interval(self.ack_wait / 3);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                sequence = released.recv() => match sequence {
                    Some(sequence) => self.ack(sequence, &mut released).await,
                    // The reader and every ticket are gone: what is left was never begun.
                    None => break,
                },
                _ = progress.tick() => self.tell_progress().await,
            }
        }
        if tokio::time::timeout(GOODBYE, self.give_back()).await.is_err() {
            tracing::warn!(trigger = %self.trigger, "the bus is away: what was not acknowledged comes again");
        }
    }

    /// Gives back what was never begun, so that others may have it now, and sees everything sent.
    async fn give_back(&self) {
        let mut abandoned: Vec<(u64, Held)> = self.held().drain().collect();
        // The server sends again in the order in which it is told: that of the stream, for the sake of ordered keys.
        abandoned.sort_by_key(|(sequence, _)| *sequence);
        for (_, held) in abandoned {
            self.send(held.reply, AckKind::Nak(None)).await;
        }
        if let Err(error) = self.client.flush().await {
            tracing::warn!(trigger = %self.trigger, %error, "the last acknowledgements may not have been sent");
        }
    }

    async fn ack(&self, first: u64, released: &mut mpsc::Receiver<u64>) {
        let mut count = 0;
        let mut next = Some(first);
        while let Some(sequence) = next {
            let held = self.held().remove(&sequence);
            if let Some(held) = held {
                self.send(held.reply, AckKind::Ack).await;
                count += 1;
            }
            next = released.try_recv().ok();
        }
        telemetry::acked(&self.trigger, count);
    }

    async fn tell_progress(&self) {
        let due: Vec<Subject> = {
            let mut held = self.held();
            let due = held.values_mut().filter(|h| h.told.elapsed() >= self.ack_wait / 3);
            due.map(|h| {
                h.told = Instant::now();
                h.reply.clone()
            })
            .collect()
        };
        for reply in due {
            self.send(reply, AckKind::Progress).await;
        }
    }

    async fn send(&self, reply: Subject, kind: AckKind) {
        if let Err(error) = self.client.publish(reply, Bytes::from(kind)).await {
            tracing::warn!(trigger = %self.trigger, %error, "an acknowledgement could not be sent; the message comes again");
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
