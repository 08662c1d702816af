//! Outputs to Postgres: logical messages, one transaction for each bus.
//!
//! Invariant: what one delivery publishes to a bus is there whole or not at all. The outbox's relay, which publishes for
//! many deliveries, makes its transactions no larger than a bound.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Output, OutputError, failed};
use crate::bus::postgres::{PostgresBus, SourceError};
use crate::event::Event;

/// Bytes of events that the outbox's relay writes in one transaction of a Postgres.
const TRANSACTION_BYTES: usize = 4 << 20;

/// Outputs to Postgres buses, by bus.
#[derive(Default)]
pub(super) struct Transactions<'a> {
    whole: Vec<(&'a PostgresBus, Vec<&'a Output>)>,
}

impl<'a> Transactions<'a> {
    pub(super) fn add(&mut self, bus: &'a PostgresBus, output: &'a Output) {
        match self.whole.iter_mut().find(|(known, _)| known.name() == bus.name()) {
            Some((_, outputs)) => outputs.push(output),
            None => self.whole.push((bus, vec![output])),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// Commits one transaction for each bus.
    pub(super) async fn commit(self) -> Result<(), OutputError> {
        for (bus, outputs) in self.whole {
            commit(bus, &outputs).await.map_err(|error| failed(outputs[0], &error))?;
        }
        Ok(())
    }

    /// Commits what can be until `deadline`; gives the errors of the others by their message ids.
    pub(super) async fn commit_each(self, deadline: Instant, patience: Duration) -> HashMap<&'a str, String> {
        let mut uncommitted = HashMap::new();
        for (bus, outputs) in self.split() {
            let error = match tokio::time::timeout_at(deadline, commit(bus, &outputs)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", patience.as_secs()),
            };
            uncommitted.extend(outputs.iter().map(|output| (output.message_id.as_str(), error.clone())));
        }
        uncommitted
    }

    /// In parts of a bounded size, each with one output at least.
    fn split(self) -> Vec<(&'a PostgresBus, Vec<&'a Output>)> {
        let mut parts: Vec<(&'a PostgresBus, Vec<&'a Output>)> = Vec::new();
        for (bus, outputs) in self.whole {
            let mut bytes = usize::MAX;
            for output in outputs {
                bytes = bytes.saturating_add(output.event.size());
                match parts.last_mut() {
                    Some((_, part)) if bytes <= TRANSACTION_BYTES => part.push(output),
                    _ => {
                        bytes = output.event.size();
                        parts.push((bus, vec![output]));
                    }
                }
            }
        }
        parts
    }
}

/// Writes logical messages in one transaction. A Postgres has no subjects: what grants and rules name after the bus is
/// the event's type there, so that a function publishes no other types than it may.
async fn commit(bus: &PostgresBus, outputs: &[&Output]) -> Result<(), SourceError> {
    bus.publish(outputs.iter().map(|output| Event { ty: output.subject.clone(), ..output.event.clone() })).await
}
