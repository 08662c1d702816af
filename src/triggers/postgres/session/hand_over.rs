//! From a change to the dispatcher: credit, place, ticket.
//!
//! Invariant: nothing is entered into the line before its credit is there, and what is entered goes to the dispatcher at
//! once, so that a stop in between leaves no hole.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::delivery::{DeliveryId, FORGED};
use crate::dispatch::Arrival;
use crate::dispatch::budget::Credit;
use crate::dispatch::ticket::Ticket;
use crate::event::Event;
use crate::store::settle::Rejected;
use crate::triggers::Failure;

use super::super::pgoutput;
use super::super::position::Place;
use super::super::relay::Relayed;
use super::Session;

/// The largest row that becomes an event: above it, a dead letter. Functions have 64 MiB of memory by default.
pub(super) const EVENT_BYTES_MAX: usize = 16 << 20;

/// What names an event at its source for ever, and how often it may have been sent.
pub(super) struct Identity {
    pub(super) at: OffsetDateTime,
    pub(super) key: Vec<u8>,
    pub(super) sent: u32,
}

impl Session<'_> {
    /// Hands an event over; `raw` is the message that it came in.
    pub(super) async fn hand_over(&mut self, place: Place, event: Arc<Event>, raw: &Bytes) -> Result<(), Failure> {
        if event.size() > EVENT_BYTES_MAX {
            let error = format!("the event has {} bytes; at most {EVENT_BYTES_MAX}", event.size());
            return self.reject(place, "too_large", error, raw).await;
        }
        let Some(credit) = self.credit(event.size() + raw.len()).await else { return Ok(()) };
        let Some(open) = &self.transaction else { return Ok(()) };
        let identity = Identity { at: open.facts.commit_time, key: self.transport_key(place), sent: open.sent };
        let Some(number) = self.held.line.enter(place) else { return Ok(()) };
        self.deliver(event, identity, Ticket::new(number, self.release.clone(), credit)).await;
        Ok(())
    }

    /// Gives an event that was entered to the dispatcher, or to the relay.
    pub(super) async fn deliver(&self, event: Arc<Event>, identity: Identity, ticket: Ticket) {
        let context = &self.follower.context;
        if let Some((route, queue)) = &self.relay {
            let rejected = self.rejected(&identity, "relay", String::new(), event.data.to_vec());
            match route.output(&event) {
                // The other end goes with the connection; what was not sent comes again.
                Ok(output) => drop(queue.send(Relayed { output, ticket, rejected }).await),
                Err(problem) => {
                    let error = format!("it cannot be relayed: its type {problem}");
                    let rejected = Rejected { class: "unpublishable", error, ..rejected };
                    let dispatcher = context.dispatcher.clone();
                    context.drain.spawn("reject", async move { dispatcher.reject(rejected, ticket).await });
                }
            }
            return;
        }
        let Identity { at, key, sent } = identity;
        let arrival = Arrival {
            trigger: Arc::clone(&context.name),
            event,
            at,
            transport_key: key,
            sent,
            ownership: Some(Arc::clone(&self.held.tenure.ownership)),
            key: None,
            ticket,
        };
        context.dispatcher.accept(arrival);
    }

    /// Keeps a message that could not become an event.
    pub(super) async fn reject(
        &mut self,
        place: Place,
        class: &'static str,
        error: String,
        raw: &Bytes,
    ) -> Result<(), Failure> {
        let Some(credit) = self.credit(raw.len()).await else { return Ok(()) };
        let Some(number) = self.held.line.enter(place) else { return Ok(()) };
        let ticket = Ticket::new(number, self.release.clone(), credit);
        let at = self.transaction.as_ref().map_or(OffsetDateTime::UNIX_EPOCH, |open| open.facts.commit_time);
        let identity = Identity { at, key: self.transport_key(place), sent: 1 };
        let rejected = self.rejected(&identity, class, error, raw.to_vec());
        let context = &self.follower.context;
        let dispatcher = context.dispatcher.clone();
        context.drain.spawn("reject", async move { dispatcher.reject(rejected, ticket).await });
        Ok(())
    }

    fn rejected(&self, identity: &Identity, class: &'static str, error: String, raw: Vec<u8>) -> Rejected {
        let name = &self.follower.context.name;
        let headers = self.transaction.as_ref().map(|open| {
            let (lsn, xid) = (open.facts.commit_lsn.to_string(), open.facts.xid.to_string());
            let mut headers = vec![("Postgres-Lsn", lsn), ("Postgres-Xid", xid)];
            // What came as an event can be redriven as one.
            if class == FORGED {
                headers.push(("Content-Type", "application/cloudevents+json".to_owned()));
            }
            serde_json::json!(headers)
        });
        Rejected {
            id: DeliveryId::derive(identity.at, name, &identity.key, "", 0),
            trigger: name.to_string(),
            class,
            error,
            raw,
            headers: headers.unwrap_or_else(|| serde_json::json!([])).to_string().into_bytes(),
            transport_key: identity.key.clone(),
            fence: self.held.tenure.ownership.fence(),
        }
    }

    /// Keeps a message that no decoder understands. A relation that cannot be read would make nonsense of its rows.
    pub(super) async fn undecodable(&mut self, raw: &Bytes, error: &pgoutput::DecodeError) -> Result<(), Failure> {
        let is_row = raw.first().is_some_and(|tag| b"IUDT".contains(tag));
        match self.transaction.as_mut() {
            Some(open) if is_row => {
                let place = open.place();
                self.reject(place, "undecodable", error.to_string(), raw).await
            }
            _ => Err(Failure::Again(format!("the replication stream cannot be decoded: {error}"))),
        }
    }

    /// Waits for room; none when the trigger is told to stop or the lease is lost meanwhile.
    pub(super) async fn credit(&self, bytes: usize) -> Option<Credit> {
        let context = &self.follower.context;
        context.wait_for_store().await;
        tokio::select! {
            biased;
            () = context.stop.cancelled() => None,
            () = self.held.tenure.lost.cancelled() => None,
            credit = context.budget.reserve(1, bytes as u64) => Some(credit),
        }
    }

    fn transport_key(&self, place: Place) -> Vec<u8> {
        format!("{}/{}/{}/{}", self.origin.system, self.database, place.0, place.1).into_bytes()
    }
}
