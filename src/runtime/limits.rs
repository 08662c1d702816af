//! The limits of one instance while it grows: memory, tables, and what a component is made of.
//!
//! Invariant: the sums over all memories and tables of a store stay within the limits, and the first limit that was hit
//! is recorded, because the guest itself only sees a failed allocation and then traps with `unreachable`. Fuel, stack
//! and time are kept by the engine.

use wasmtime::ResourceLimiter;

use crate::delivery::Limit;

/// Core instances that a component may consist of (Go and Python components have more than 8).
pub(super) const CORE_INSTANCES: u32 = 64;
/// Memories that a component may have (one built on QuickJS has 3).
pub(super) const MEMORIES: u32 = 4;
/// Tables that a component may have.
pub(super) const TABLES: u32 = 8;
/// Elements of all tables together: Python's libraries have about 20,000 functions.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// A guest that goes on asking after this many refusals does not look at the answer, and is stopped.
const REFUSALS_MAX: u32 = 64;

/// A limit that was hit, and the words for it.
pub(super) type Hit = (Limit, String);

/// The limiter of one store.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_limit: u64,
    memory: u64,
    peak: u64,
    tables: usize,
    /// What the last granted growth added, to be taken back if the engine could not do it.
    granted: (u64, usize),
    refusals: u32,
    hit: Option<Hit>,
}

/// The guest went on asking for more than its limit.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {REFUSALS_MAX} refused requests for more")]
struct Insistent;

impl Limiter {
    /// A limiter that grants `memory_limit` bytes over all memories.
    pub(super) fn new(memory_limit: u64) -> Self {
        Self { memory_limit, memory: 0, peak: 0, tables: 0, granted: (0, 0), refusals: 0, hit: None }
    }

    /// The highest sum of all memories.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// The first limit that was hit.
    pub(super) fn hit(&self) -> Option<&Hit> {
        self.hit.as_ref()
    }

    fn refuse(&mut self, limit: Limit, text: impl FnOnce() -> String) -> wasmtime::Result<bool> {
        self.refusals += 1;
        self.hit.get_or_insert_with(|| (limit, text()));
        if self.refusals > REFUSALS_MAX {
            return Err(Insistent.into());
        }
        Ok(false)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let sum = self.memory.saturating_add(more);
        let limit = self.memory_limit;
        if sum > limit {
            return self.refuse(Limit::Memory, || format!("needs {sum} bytes of memory; its limit is {limit}"));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // the component's own maximum, or the node's ceiling: no growth, and no limit of ours
        }
        self.memory = sum;
        self.peak = self.peak.max(sum);
        self.granted = (more, 0);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory -= std::mem::take(&mut self.granted.0);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let sum = self.tables.saturating_add(more);
        if sum > TABLE_ELEMENTS {
            let text = || format!("needs {sum} table elements; the limit is {TABLE_ELEMENTS}");
            return self.refuse(Limit::Table, text);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.tables = sum;
        self.granted = (0, more);
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.tables -= std::mem::take(&mut self.granted.1);
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::Limiter;
    use crate::delivery::Limit;

    #[test]
    fn memories_are_summed_and_the_first_hit_is_kept() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).expect("granted"));
        assert!(!limiter.memory_growing(0, 60, None).expect("refused"));
        assert!(limiter.memory_growing(60, 100, None).expect("granted"));
        assert_eq!(limiter.peak(), 100);
        assert_eq!(limiter.hit().map(|h| h.0), Some(Limit::Memory));
    }

    #[test]
    fn a_growth_that_failed_is_given_back() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).expect("granted"));
        limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("noted");
        assert!(limiter.memory_growing(0, 100, None).expect("granted"));
        assert!(limiter.hit().is_none());
    }

    #[test]
    fn a_guest_that_never_looks_is_stopped() {
        let mut limiter = Limiter::new(100);
        let refused = (0..1_000).take_while(|_| limiter.memory_growing(0, 101, None).is_ok()).count();
        assert_eq!(refused, 64);
    }
}
