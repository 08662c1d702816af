//! Relays a feed's events to a stream, so that many nodes run what one slot decodes.
//!
//! Invariant: an event is settled when the stream has stored it; events are sent in the order of the log, and one that
//! was sent before has the same message id, so that the stream's duplicate window drops it. What the bus refuses again
//! and again becomes a dead letter; while the bus is away, or no stream takes the subject, the feed waits and says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::dispatch::Dispatcher;
use crate::dispatch::ticket::Ticket;
use crate::event::Event;
use crate::event::subject::{self, SubjectError};
use crate::health::{Health, TriggerState};
use crate::outputs::{Output, OutputError, Outputs};
use crate::store::settle::Rejected;
use crate::telemetry;

/// Events that are sent before the first is acknowledged.
const BATCH: usize = 256;
/// Events that wait to be sent; their credits bound their bytes.
pub(super) const QUEUE: usize = 4_096;
/// How often the bus may refuse the event at the head, alone, before it is a dead letter.
const REFUSALS: u32 = 5;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// An event on its way to the stream.
pub(super) struct Relayed {
    pub(super) output: Output,
    pub(super) ticket: Ticket,
    /// What a dead letter of it needs.
    pub(super) rejected: Rejected,
}

/// Where a feed relays to.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) bus: String,
    pub(super) prefix: String,
}

impl Route {
    /// `event` as it is sent: to the subject of its type below the prefix, under its own id. Whoever may publish chose its
    /// type: one that is no subject is refused before it is sent, because it would hold up those behind it.
    pub(super) fn output(&self, event: &Event) -> Result<Output, SubjectError> {
        let subject = format!("{}.{}", self.prefix, event.ty);
        subject::check(&subject)?;
        Ok(Output { bus: self.bus.clone(), subject, message_id: event.id.clone(), event: event.clone() })
    }
}

/// The task that sends.
pub(super) struct Relay {
    pub(super) trigger: Arc<str>,
    pub(super) outputs: Outputs,
    pub(super) dispatcher: Dispatcher,
    pub(super) health: Health,
}

impl Relay {
    /// Sends what comes until nobody sends any more. Dropped in mid-way, it leaves what was not stored unsettled.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Relayed>) {
        let mut waiting: VecDeque<Relayed> = VecDeque::with_capacity(BATCH);
        loop {
            if waiting.is_empty() {
                let Some(first) = queue.recv().await else { return };
                waiting.push_back(first);
            }
            while waiting.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                waiting.push_back(next);
            }
            self.send(&mut waiting).await;
        }
    }

    async fn send(&self, waiting: &mut VecDeque<Relayed>) {
        let outputs: Vec<Output> = waiting.iter().map(|relayed| relayed.output.clone()).collect();
        if self.outputs.publish(&outputs).await.is_ok() {
            telemetry::matched(&self.trigger, outputs.len() as u64);
            waiting.drain(..).for_each(|relayed| relayed.ticket.settled());
            return;
        }
        // One after another, so that the one that is refused is known.
        let mut tries = 0_u32;
        while let Some(head) = waiting.pop_front() {
            match self.outputs.publish(std::slice::from_ref(&head.output)).await {
                Ok(()) => {
                    tries = 0;
                    telemetry::matched(&self.trigger, 1);
                    head.ticket.settled();
                }
                Err(error) => {
                    tries += 1;
                    if tries >= REFUSALS && is_refusal(&error) {
                        tries = 0;
                        self.bury(head, &error).await;
                        continue;
                    }
                    waiting.push_front(head);
                    self.wait(tries, &error).await;
                }
            }
        }
        self.health.trigger(&self.trigger, TriggerState::Active, None);
    }

    async fn wait(&self, tries: u32, error: &OutputError) {
        let text = format!("cannot relay: {error}");
        if tries == 1 || tries.is_multiple_of(20) {
            tracing::warn!(trigger = %self.trigger, %error, tries, "a feed cannot relay; trying again");
        }
        self.health.trigger(&self.trigger, TriggerState::Error, Some(&text));
        tokio::time::sleep(Duration::from_millis(100).saturating_mul(1 << tries.min(6)).min(PAUSE_MAX)).await;
    }

    async fn bury(&self, head: Relayed, error: &OutputError) {
        let Relayed { rejected, ticket, .. } = head;
        self.dispatcher.reject(Rejected { error: error.to_string(), ..rejected }, ticket).await;
    }
}

/// Whether the bus answered and did not take it; a stream that is missing, or silence, may pass.
fn is_refusal(error: &OutputError) -> bool {
    match error {
        OutputError::Failed { message, .. } => !message.starts_with("no acknowledgement"),
        _ => false,
    }
}
