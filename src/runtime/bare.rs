//! The floor for `oncue bench invoke`: what the engine itself costs, in a loop with nothing of Oncue around it.
//!
//! Invariant: the same engine, pool, component and host functions as `Runtime::invoke`, so that the difference between the
//! two is what Oncue adds. No timeout, no report, no semaphore per call. Nothing but the benchmark uses it.

use std::time::{Duration, Instant};

use super::host::HostState;
use super::{CallContext, LoadedFunction, Runtime, call};
use crate::event::Event;

/// What a bare run measured.
#[derive(Clone, Debug)]
pub struct BareRun {
    /// Microseconds of each call, in no order.
    pub micros: Vec<u32>,
    /// Wall time from the first call to the end of the last.
    pub elapsed: Duration,
    /// Calls whose guest trapped or refused the event.
    pub failed: usize,
}

/// Calls `function` with `event` `calls` times, spread over `threads` threads. Blocks until all are done.
#[must_use]
pub fn run(runtime: &Runtime, function: &LoadedFunction, event: &Event, calls: usize, threads: usize) -> BareRun {
    let threads = threads.clamp(1, runtime.slots() as usize);
    let share = calls.div_ceil(threads);
    let start = Instant::now();
    let parts: Vec<(Vec<u32>, usize)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| worker(function, event, share))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let elapsed = start.elapsed();
    let failed = parts.iter().map(|(_, failed)| failed).sum();
    BareRun { micros: parts.into_iter().flat_map(|(micros, _)| micros).collect(), elapsed, failed }
}

/// A reactor for each thread, because guests may wait on clocks; it is entered once for all calls.
fn worker(function: &LoadedFunction, event: &Event, calls: usize) -> (Vec<u32>, usize) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(reactor) => reactor.block_on(repeat(function, event, calls)),
        Err(_) => (Vec::new(), calls),
    }
}

async fn repeat(function: &LoadedFunction, event: &Event, calls: usize) -> (Vec<u32>, usize) {
    let context = CallContext::default();
    let mut micros = Vec::with_capacity(calls);
    let mut failed = 0;
    for _ in 0..calls {
        let start = Instant::now();
        let well = once(function, event, &context).await;
        micros.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
        failed += usize::from(!well);
    }
    (micros, failed)
}

async fn once(function: &LoadedFunction, event: &Event, context: &CallContext) -> bool {
    let limits = &function.spec.limits;
    let deadline = Instant::now() + limits.timeout();
    let state = HostState::new(&function.spec, None, context.clone(), limits.memory_bytes, deadline);
    let mut store = call::store(function.pre.engine(), state, limits);
    matches!(call::call(&function.pre, &mut store, event).await, Ok(Ok(_)))
}
