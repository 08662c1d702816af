//! The engine: its settings, the pool of instances, and the clock that cuts endless guests.
//!
//! Invariant: one engine per runtime; its epoch moves every tick from a thread of its own for as long as the engine
//! lives, whatever the reactor does. Which component runs in it is not decided here.

use std::num::NonZeroUsize;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use super::compile::Order;
use super::limits::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};
use super::{RuntimeConfig, RuntimeError};

/// Memory of a slot that is zeroed in place instead of given back, where `pagemap_scan` must stay off: about what a
/// small function touches. More than that is slower than giving it back.
const KEEP_RESIDENT: usize = 128 << 10;
/// The same for tables. Without it each table of a component costs an `madvise` a call: two for a Rust component, and a
/// call of `functions/welcome` goes from 13 to 22 us.
const TABLE_KEEP_RESIDENT: usize = 128 << 10;
/// Bytes that the bookkeeping of one core instance may take: a Go or Python component needs megabytes.
const CORE_INSTANCE_BYTES: usize = 4 << 20;
/// Guard behind a memory whose reservation is small; every access is checked there anyway.
const SMALL_GUARD: u64 = 64 << 10;
/// Frames of a trap's backtrace. A backtrace costs 60 to 80 us a trap, and the first frames say where it was.
const BACKTRACE_FRAMES: usize = 8;

/// How much address space the pool takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Every memory has 4 GiB reserved, so that guards replace bounds checks.
    Full,
    /// Every memory has its ceiling reserved, and there are fewer slots: for hosts with `ulimit -v`.
    Compact,
    /// No pool; memory is mapped for each call.
    OnDemand,
}

impl Profile {
    const ALL: [Self; 3] = [Self::Full, Self::Compact, Self::OnDemand];

    /// As a compiler is told it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Compact => "compact",
            Self::OnDemand => "on-demand",
        }
    }

    /// The profile of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Instances at once.
    pub(super) fn slots(self, config: &RuntimeConfig) -> u32 {
        match self {
            Self::Full => config.slots.max(1),
            Self::Compact | Self::OnDemand => config.slots.clamp(1, 16),
        }
    }
}

/// The engine with the largest profile that this host can give, and that profile.
pub(super) fn build(config: &RuntimeConfig) -> Result<(Engine, Profile), RuntimeError> {
    match with_profile(config, Profile::Full) {
        Ok(engine) => return Ok((engine, Profile::Full)),
        Err(error) => tracing::warn!(
            error = %format_args!("{error:#}"),
            "cannot reserve the address space of the instance pool; trying less (see ulimit -v)"
        ),
    }
    if let Ok(engine) = with_profile(config, Profile::Compact) {
        return Ok((engine, Profile::Compact));
    }
    let engine = with_profile(config, Profile::OnDemand).map_err(RuntimeError::Engine)?;
    Ok((engine, Profile::OnDemand))
}

/// An engine with the given profile.
pub(super) fn with_profile(config: &RuntimeConfig, profile: Profile) -> wasmtime::Result<Engine> {
    let mut settings = tuned(profile, config.memory_ceiling, config.explicit_bounds_checks);
    settings.allocation_strategy(match profile {
        Profile::OnDemand => InstanceAllocationStrategy::OnDemand,
        Profile::Full | Profile::Compact => InstanceAllocationStrategy::Pooling(pool(config, profile.slots(config))?),
    });
    Engine::new(&settings)
}

/// An engine that compiles for one with the order's profile and reserves nothing.
pub(super) fn compiler(order: &Order) -> wasmtime::Result<Engine> {
    let mut settings = tuned(order.profile, order.memory_ceiling, order.explicit_bounds_checks);
    settings.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&settings)
}

/// Everything that compiled code depends on.
fn tuned(profile: Profile, memory_ceiling: u64, explicit_bounds_checks: bool) -> Config {
    let mut settings = settings();
    if explicit_bounds_checks {
        check_bounds(&mut settings, memory_ceiling);
    }
    let guard = if explicit_bounds_checks { 0 } else { SMALL_GUARD };
    match profile {
        Profile::Full => {}
        Profile::Compact => {
            settings.memory_reservation(memory_ceiling).memory_guard_size(guard);
        }
        Profile::OnDemand => {
            settings.memory_reservation(0).memory_reservation_for_growth(1 << 20).memory_guard_size(guard);
        }
    }
    settings
}

fn settings() -> Config {
    let mut settings = Config::new();
    settings
        .strategy(Strategy::Cranelift)
        // A huge component takes one core for its compilation, not all of them: events go on meanwhile.
        .parallel_compilation(false)
        // Bookkeeping of the component model's async: 18.6 -> 10.7 us a call without it, and nothing uses it.
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_features(WasmFeatures::THREADS | WasmFeatures::MEMORY64 | WasmFeatures::RELAXED_SIMD, false)
        .wasm_features(WasmFeatures::GC | WasmFeatures::GC_TYPES | WasmFeatures::FUNCTION_REFERENCES, false);
    settings
}

/// Checks in the code instead of guard pages behind the memory, so that no call changes page protections.
///
/// Measured, p50 of the bare loop on one thread, and `mprotect` calls of 4,000 calls:
///
/// | guest | guards | checks |
/// |---|---|---|
/// | does nothing | 6 us, 331 | 6 us, 329 |
/// | grows its memory twice, as a stock allocator does | 12 us, 12,333 | 7 us, 335 |
/// | `functions/welcome` (its allocator never grows) | 13 us, 398 | 13 us, 607 |
/// | 200,000 loads and stores | 225 us | 279 us |
///
/// The three `mprotect`s a call serialise on the process's memory map, so their price rises with the threads (how far
/// needs idle cores to measure, and these were not). Guards are the default all the same: the checks cost a quarter of
/// the time of guests that work on memory, as every interpreter does; the engine drops its Spectre mitigation of memory
/// accesses with them; and a guest that does not grow, as the examples show, has nothing to gain.
fn check_bounds(settings: &mut Config, memory_ceiling: u64) {
    settings.signals_based_traps(false).memory_guard_size(0).memory_reservation(memory_ceiling);
}

fn pool(config: &RuntimeConfig, slots: u32) -> wasmtime::Result<PoolingAllocationConfig> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES))
        .total_memories(slots.saturating_mul(MEMORIES))
        .total_tables(slots.saturating_mul(TABLES))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_core_instance_size(CORE_INSTANCE_BYTES)
        .max_component_instance_size(CORE_INSTANCE_BYTES)
        .table_elements(TABLE_ELEMENTS)
        // Memory protection keys are off: the crate is built without them.
        .max_memory_size(usize::try_from(config.memory_ceiling)?);
    // Measured: `functions/welcome` 17 -> 13 us, a guest that grows its memory 17 -> 12 us.
    if config.pagemap_scan && swap_is_off() {
        pool.pagemap_scan(Enabled::Auto);
    }
    // With `pagemap_scan` this is how much of what was touched is zeroed in place.
    pool.linear_memory_keep_resident(KEEP_RESIDENT).table_keep_resident(TABLE_KEEP_RESIDENT);
    Ok(pool)
}

/// Whether this host has no swap. With `pagemap_scan`, a dirty page that was swapped out is neither reset nor dropped, so
/// the next instance would read it (bytecodealliance/wasmtime#14357). What cannot be read counts as swap.
fn swap_is_off() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() <= 1)
}

/// Starts the thread that moves the epoch. A task would not do: it would not run while guests hold every worker of the
/// reactor. The thread ends within a tick after the last engine is gone.
pub(super) fn start_ticker(engine: &Engine, tick: Duration) -> Result<(), RuntimeError> {
    let engine = engine.weak();
    let tick = tick.max(Duration::from_millis(1));
    std::thread::Builder::new()
        .name("oncue-epoch".to_owned())
        .spawn(move || run_ticker(&engine, tick))
        .map_err(RuntimeError::Ticker)?;
    Ok(())
}

fn run_ticker(engine: &EngineWeak, tick: Duration) {
    while let Some(engine) = engine.upgrade() {
        engine.increment_epoch();
        drop(engine);
        std::thread::sleep(tick);
    }
}
