//! The messages of one connection, taken from the transport many at a time.
//!
//! Invariant: `next` is cancel-safe and gives every message once, in order. The transport works in a task of its own,
//! which sleeps while its queue is full: taken one by one, each message would wake it.

use std::collections::VecDeque;

use futures::FutureExt as _;
use pgwire_replication::{Lsn as ClientLsn, PgWireError, ReplicationClient, ReplicationEvent};

use crate::lsn::Lsn;

/// How many are taken at a time; as many may wait in the transport's queue.
pub(super) const TAKEN_MAX: usize = 256;

/// A connection that streams.
pub(super) struct Stream {
    client: ReplicationClient,
    ready: VecDeque<Result<ReplicationEvent, PgWireError>>,
    /// How many were taken from the transport in all.
    taken: u64,
}

impl Stream {
    pub(super) fn new(client: ReplicationClient) -> Self {
        Self { client, ready: VecDeque::with_capacity(TAKEN_MAX), taken: 0 }
    }

    /// The next message; none when the server has ended the stream.
    pub(super) async fn next(&mut self) -> Result<Option<ReplicationEvent>, PgWireError> {
        if let Some(event) = self.ready.pop_front() {
            return event.map(Some);
        }
        let Some(event) = self.client.recv().await? else { return Ok(None) };
        self.taken += 1;
        self.take_ready();
        Ok(Some(event))
    }

    /// Takes what waits. Only while something does: a call of `recv` that finds the end must not be given up.
    fn take_ready(&mut self) {
        let forwarded = self.client.metrics();
        while self.ready.len() < TAKEN_MAX && self.taken < forwarded.events_forwarded() {
            let Some(Some(event)) = self.client.recv().now_or_never().map(Result::transpose) else { return };
            self.taken += 1;
            self.ready.push_back(event);
        }
    }

    /// Tells the server that everything up to `settled` may be forgotten.
    pub(super) fn tell(&self, settled: Lsn) {
        self.client.update_applied_lsn(ClientLsn::from_u64(settled.0));
    }
}
