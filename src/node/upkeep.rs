//! Upkeep: the node's sign of life, its gauges, and the partitions of the ledger.
//!
//! Invariant: partitions are looked after by one node at a time (a lease); everything here may fail and is done again.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::store::cluster::Beat;
use crate::telemetry;

use super::Shared;

/// How often the node says that it is there.
const BEAT: Duration = Duration::from_secs(10);
/// How often partitions are looked after.
const MAINTAIN: Duration = Duration::from_secs(3_600);
/// How often it is tried again when that failed.
const MAINTAIN_RETRY: Duration = Duration::from_secs(60);
/// How often the gauges of what is in flight are set.
const GAUGES: Duration = Duration::from_secs(2);
/// The lease of whoever looks after the partitions.
const LEASE: &str = "maintenance";

/// Works until the node has finished.
pub(super) async fn run(shared: Shared) {
    let token = shared.drain.token();
    let mut beat = interval(BEAT);
    let mut gauges = interval(GAUGES);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut maintain_at = Instant::now();
    loop {
        tokio::select! {
            () = token.finished.cancelled() => return,
            _ = beat.tick() => {
                let state = if token.stop_reading.is_cancelled() { "draining" } else { "running" };
                tell(&shared, state).await;
                if maintain_at <= Instant::now() {
                    maintain_at = Instant::now() + if maintain(&shared).await { MAINTAIN } else { MAINTAIN_RETRY };
                }
            }
            () = shared.reloaded.notified() => tell(&shared, "running").await,
            _ = gauges.tick() => {
                let (events, bytes) = shared.budget.in_flight();
                telemetry::in_flight(events, bytes);
            }
        }
    }
}

async fn tell(shared: &Shared, state: &str) {
    let beat = Beat { node: &shared.name, state, ruleset_version: shared.dispatcher.rules().version };
    if let Err(error) = shared.store.beat(&beat).await {
        tracing::debug!(%error, "cannot tell that this node is there");
        return;
    }
    match shared.store.parked_summary().await {
        Ok(summary) => {
            telemetry::parked(summary.count.unsigned_abs());
            telemetry::outbox(summary.outbox.unsigned_abs(), summary.outbox_seconds);
        }
        Err(error) => tracing::debug!(%error, "cannot count what is parked"),
    }
}

async fn maintain(shared: &Shared) -> bool {
    let leased = shared.store.take_lease(LEASE, &shared.name, MAINTAIN).await;
    let done = match leased {
        Ok(Some(_)) => shared.store.maintain(shared.retention).await,
        Ok(None) => return true,
        Err(error) => Err(error),
    };
    match done {
        Ok(done) if done.blocked_days > 0 => {
            tracing::warn!(days = done.blocked_days, "no partition for days whose rows are in the default one");
        }
        Ok(done) if !done.dropped.is_empty() || done.deleted > 0 => {
            tracing::info!(dropped = done.dropped.len(), deleted = done.deleted, "old history removed");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot look after the partitions of the ledger");
            return false;
        }
    }
    true
}

/// Shows in health and metrics whether outcomes can be settled.
pub(super) async fn watch_store(shared: Shared) {
    let finished = shared.drain.token().finished;
    let mut up = shared.dispatcher.settler().store_up();
    loop {
        let now = *up.borrow_and_update();
        telemetry::store_up(now);
        if now {
            shared.health.store_up();
        } else {
            shared.health.store_down("outcomes cannot be settled");
        }
        tokio::select! {
            () = finished.cancelled() => return,
            changed = up.changed() => if changed.is_err() { return },
        }
    }
}
