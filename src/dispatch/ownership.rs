//! Ownership: what an event carries that only one node may read at a time.
//!
//! Invariant: the fence never changes; pressure does, and is looked at when a delivery is about to run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::settle::Fence;

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

/// The lease that a source is read under.
#[derive(Debug)]
pub struct Ownership {
    fence: Arc<Fence>,
    pressure: AtomicU8,
}

impl Ownership {
    /// That of `fence`, without pressure.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self { fence: Arc::new(fence), pressure: AtomicU8::new(0) }
    }

    /// What settlements check.
    #[must_use]
    pub fn fence(&self) -> Arc<Fence> {
        Arc::clone(&self.fence)
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
}
