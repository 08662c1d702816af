//! Change feeds: a Postgres publication followed through logical replication, one node at a time.
//!
//! Invariant: the slot is told only what is settled and written down; whatever the slot no longer has is a gap, which
//! halts the feed. One connection comes and goes, the holding of the lease and its line of positions stay: what the
//! server sends again is recognised. Nothing here runs a function or decides what a row means.

mod bind;
pub mod change;
mod compare;
mod connect;
mod guard;
mod keeper;
mod lease;
pub mod pgoutput;
mod position;
mod relations;
mod relay;
mod session;
mod snapshot;
mod stream;
mod unmatched;

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::bus::postgres::PostgresBus;
use crate::health::TriggerState;
use crate::lsn::Lsn;
use crate::store::StoreError;
use crate::store::feeds::Feeds;

use self::lease::Tenure;
use self::position::Line;
use super::{Context, Failure, PostgresSpec};

/// Positions that can wait for the keeper: more than any budget lets be in flight.
const RELEASE_QUEUE: usize = 1 << 17;

/// A feed: what it follows and what it works with.
struct Follower {
    spec: PostgresSpec,
    bus: PostgresBus,
    feeds: Feeds,
    context: Context,
    /// Kept from one connection to the next.
    holding: Mutex<Option<Holding>>,
}

/// The lease held, and what goes with it.
struct Holding {
    tenure: Arc<Tenure>,
    line: Arc<Line>,
    /// What commits up to here may have been started before this holding: the ledger is asked.
    resent_until: Lsn,
    /// How often the feed was held before without getting anywhere.
    futile: u32,
    /// Where settled positions go; the keeper ends when nobody has one any more.
    release: mpsc::Sender<u64>,
    /// Up to where the slot may be told.
    written: watch::Receiver<Lsn>,
    keeper: JoinHandle<()>,
}

/// Runs the trigger until it is stopped and what it read is settled.
pub(super) async fn run(spec: PostgresSpec, bus: PostgresBus, context: Context) {
    let feeds = context.feeds.clone();
    let follower = Follower { spec, bus, feeds, context, holding: Mutex::new(None) };
    follower.context.keep_reading(|| Box::pin(follower.follow())).await;
    let holding = follower.holding.lock().await.take();
    if let Some(holding) = holding {
        follower.let_go(holding).await;
    }
}

impl Follower {
    /// Holds the lease, binds the slot and follows it: returns when stopped.
    async fn follow(&self) -> Result<(), Failure> {
        let mut holding = self.holding.lock().await;
        if let Some(old) = holding.take_if(|held| held.tenure.lost.is_cancelled()) {
            // What is in flight is settled by nobody: the next holding reads it again.
            old.keeper.abort();
        }
        let tenure = match holding.as_ref() {
            Some(held) => Arc::clone(&held.tenure),
            None => match self.wait_for_lease().await? {
                Some(tenure) => Arc::new(tenure),
                None => return Ok(()),
            },
        };
        let bound = self.bind(&tenure).await?;
        let held = match holding.as_mut() {
            Some(held) => held,
            None => holding.insert(self.hold(tenure, &bound).await?),
        };
        let guard = guard::watch(self, held, &bound);
        let meeting = snapshot::Meeting::default();
        tokio::select! {
            ended = self.session(held, &bound, &meeting) => ended,
            failure = guard => Err(failure),
            failure = snapshot::run(self, held, &meeting) => Err(failure),
        }
    }

    /// The lease's name, for a trigger that is followed once in the whole installation.
    fn lease_name(&self) -> String {
        format!("feed {}", self.context.name)
    }

    /// Waits until this node has the lease; none when it was told to stop.
    async fn wait_for_lease(&self) -> Result<Option<Tenure>, Failure> {
        let name = self.lease_name();
        let mut waiting = false;
        loop {
            if let Some(tenure) = lease::take(&self.feeds, &name, &self.context.drain).await.map_err(Failure::Again)? {
                tracing::info!(trigger = %self.context.name, epoch = tenure.fence.epoch, "this node follows the feed");
                return Ok(Some(tenure));
            }
            if !waiting {
                waiting = true;
                self.context.health.trigger(&self.context.name, TriggerState::Standby, None);
                tracing::info!(trigger = %self.context.name, "another node follows the feed; standing by");
            }
            tokio::select! {
                () = self.context.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(lease::pause()) => {}
            }
        }
    }

    /// Starts a line at what the feed has settled, with the task that keeps it.
    async fn hold(&self, tenure: Arc<Tenure>, bound: &bind::Bound) -> Result<Holding, Failure> {
        let name = &self.context.name;
        let futile = self.feeds.count_holding(name, &tenure.fence).await.map_err(|e| store_failure(&e))?;
        let line = Arc::new(Line::new(bound.feed.settled_lsn));
        let (release, released) = mpsc::channel(RELEASE_QUEUE);
        let (writer, written) = watch::channel(bound.feed.settled_lsn);
        let keeper = keeper::Keeper {
            trigger: Arc::clone(name),
            feeds: self.feeds.clone(),
            tenure: Arc::clone(&tenure),
            line: Arc::clone(&line),
            written: writer,
            quit: self.context.drain.token().quit,
        };
        let task = format!("positions of trigger {name}");
        let keeper = self.context.drain.spawn(task, keeper.keep(released));
        Ok(Holding { tenure, line, resent_until: bound.feed.read_until, futile, release, written, keeper })
    }

    /// Waits until what was read is settled and written down, then lets the next node have the lease at once.
    async fn let_go(&self, holding: Holding) {
        let Holding { release, keeper, tenure, .. } = holding;
        drop(release);
        // It ends when the last event in flight is settled or dropped; a panic is told by the drain.
        let _ = keeper.await;
        drop(tenure);
        if let Err(error) = self.feeds.release(&self.context.name, &self.lease_name()).await {
            tracing::debug!(trigger = %self.context.name, %error, "a lease could not be released; it will end");
        }
    }
}

/// The store is away: nothing is lost, and it is tried again.
fn store_failure(error: &StoreError) -> Failure {
    Failure::again("cannot read or write the position of the feed", error)
}
