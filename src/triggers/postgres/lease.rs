//! The lease of a feed: one node follows a slot at a time.
//!
//! Invariant: a tenure is over for this process, by its own monotonic clock, before the database lets another node have
//! the lease; and what it settles later is refused there by its epoch. The slot's own exclusivity is the second lock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dispatch::ownership::Ownership;
use crate::drain::Drain;
use crate::store::feeds::Feeds;
use crate::store::settle::Fence;

/// How long a lease lasts without being renewed (CONTRACT.md, "many nodes").
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// When its holder gives up by itself: half of it, so that no clock needs to be right.
const FENCE: Duration = Duration::from_millis(7_500);
/// How often a node that waits asks again; with what the holder's last renewal left, a take-over stays under 20 s.
const ASK: Duration = Duration::from_secs(2);

/// One holding of a lease.
#[derive(Debug)]
pub(super) struct Tenure {
    /// What events carry.
    pub(super) ownership: Arc<Ownership>,
    /// What writes check.
    pub(super) fence: Arc<Fence>,
    /// Over: nothing more may be read.
    pub(super) lost: CancellationToken,
    stop: CancellationToken,
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes the lease `name`; none while another node has it. `Err` is the database's.
pub(super) async fn take(feeds: &Feeds, name: &str, drain: &Drain) -> Result<Option<Tenure>, String> {
    let asked = Instant::now();
    let fence = feeds.take(name, TTL).await.map_err(|error| error.to_string())?;
    let Some(fence) = fence else { return Ok(None) };
    let lost = CancellationToken::new();
    let stop = CancellationToken::new();
    let keeper = Keeper {
        feeds: feeds.clone(),
        fence: fence.clone(),
        lost: lost.clone(),
        stop: stop.clone(),
        finished: drain.token().finished,
    };
    // It outlives the reader: what is in flight is settled under the lease when the node drains.
    drain.spawn_service(format!("lease {name}"), keeper.keep(asked + FENCE));
    let ownership = Arc::new(Ownership::new(fence.clone()));
    Ok(Some(Tenure { ownership, fence: Arc::new(fence), lost, stop }))
}

/// How long a node that waits for a lease should wait before it asks again.
pub(super) fn pause() -> Duration {
    ASK.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

struct Keeper {
    feeds: Feeds,
    fence: Fence,
    lost: CancellationToken,
    stop: CancellationToken,
    finished: CancellationToken,
}

impl Keeper {
    async fn keep(self, mut until: Instant) {
        loop {
            let asked = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.finished.cancelled() => return,
                () = tokio::time::sleep(RENEW.min(until.saturating_duration_since(Instant::now()))) => Instant::now(),
            };
            if asked >= until {
                tracing::warn!(lease = self.fence.lease, "a lease could not be renewed in time; reading stops");
                return self.lost.cancel();
            }
            match tokio::time::timeout_at(until, self.feeds.take(&self.fence.lease, TTL)).await {
                Ok(Ok(Some(fence))) if fence == self.fence => until = asked + FENCE,
                Ok(Ok(_)) => {
                    tracing::warn!(lease = self.fence.lease, epoch = self.fence.epoch, "a lease has passed on");
                    return self.lost.cancel();
                }
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.fence.lease, %error, "a lease could not be renewed yet");
                }
                Err(_) => {}
            }
        }
    }
}
