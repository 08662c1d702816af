//! Ownership: what an event carries that only one node may read at a time.
//!
//! Invariant: fence and held keys never change hands; pressure and loss do, and are looked at when a delivery is about to
//! run. What is lost stays lost: who reads the source again does so under a new ownership.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

use crate::store::settle::Fence;

use super::held::HeldKeys;

/// How much its source suffers from what is not settled: the levels of the WAL guard (CONTRACT.md, "Back-pressure").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Not at all.
    #[default]
    Green,
    /// Failures are parked instead of being tried again at once.
    Amber,
    /// What would hold the source back is parked unrun.
    Red,
}

/// What a source is read under: a lease, or an assignment of a consumer group.
#[derive(Debug)]
pub struct Ownership {
    fence: Option<Arc<Fence>>,
    held: Option<Arc<HeldKeys>>,
    pressure: AtomicU8,
    lost: CancellationToken,
}

impl Ownership {
    /// A lease, whose `fence` settlements check, without pressure.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self { fence: Some(Arc::new(fence)), ..Self::assigned(None) }
    }

    /// An assignment by a consumer group; `held` are the keys that may be held, where all of them are known.
    #[must_use]
    pub fn assigned(held: Option<Arc<HeldKeys>>) -> Self {
        Self { fence: None, held, pressure: AtomicU8::new(0), lost: CancellationToken::new() }
    }

    /// What settlements check; none of an assignment.
    #[must_use]
    pub fn fence(&self) -> Option<Arc<Fence>> {
        self.fence.clone()
    }

    /// The keys that may be held, where all of them are known.
    #[must_use]
    pub fn held(&self) -> Option<Arc<HeldKeys>> {
        self.held.clone()
    }

    /// The pressure now.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::Green,
            1 => Pressure::Amber,
            _ => Pressure::Red,
        }
    }

    /// Sets the pressure.
    pub fn press(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }

    /// The source is somebody else's from now on: what has not begun does not begin.
    pub fn lose(&self) {
        self.lost.cancel();
    }

    /// Whether the source is somebody else's.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Returns once it is.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}
