//! One call: a fresh instance, bounded in time, fuel, memory and output, and the outcome that it comes to.
//!
//! Invariant: whatever the guest does, the call ends by its deadline (give or take a tick) with exactly one outcome, and
//! nothing of its instance is used again. The deadline is armed when the instance is made, not while waiting for a slot.
//!
//! Two clocks keep the deadline: epochs reach a guest that computes, a timer reaches one that waits in the host. Both
//! end in `Outcome::Timeout`.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use wasmtime::{Engine, Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::host::{HostState, wit};
use super::logs;
use super::{CallContext, LoadedFunction};
use crate::delivery::{Limit, Outcome, Report};
use crate::event::Event;
use crate::function::Limits;

/// Bytes of a function's own words that are kept (CONTRACT: error texts are at most 4 KiB, escaped).
const MESSAGE_BYTES: usize = 4 << 10;
/// Longest time of a call, whatever its limit says, so that no sum of times overflows.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest delay that a function can ask for: far above the age at which a delivery is given up.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Frames of a trap that the outcome names.
const FRAMES_SHOWN: usize = 3;
/// What one host call may hand over beside the call's output limit: a log line, a key, attributes.
const HOSTCALL_BYTES: usize = 1 << 20;
/// What the host holds for one event of a returned list beside its text.
const EVENT_BYTES: usize = 512;
/// Handles that a guest may hold at once.
const HANDLES_MAX: usize = 10_000;

/// The deadline passed while the guest computed.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed")]
struct DeadlinePassed;

/// Runs `function` once. `ceiling` is the most memory that any instance gets.
pub(super) async fn run(function: &LoadedFunction, event: &Event, context: CallContext, ceiling: u64) -> Report {
    let started_at = OffsetDateTime::now_utc();
    let start = Instant::now();
    let limits = &function.spec.limits;
    let deadline = start + limits.timeout().min(TIMEOUT_MAX);
    let memory = limits.memory_bytes.min(ceiling);
    let mut store = store(
        function.pre.engine(),
        HostState::new(&function.spec, function.reader.clone(), context, memory, deadline),
        limits,
    );
    // The timer is only registered when the call waits for something, so that a plain call does not pay for it.
    let ended = tokio::time::timeout_at(deadline.into(), call(&function.pre, &mut store, event)).await;
    let fuel = limits.fuel - store.get_fuel().unwrap_or(0).min(limits.fuel);
    let state = store.into_data();
    let peak_memory = state.limiter.peak();
    let (logs, logs_dropped) = state.logs.take();
    let outcome = match ended {
        Err(_) => Outcome::Timeout(limits.timeout()),
        Ok(Err(failure)) => failure.outcome(limits, &state),
        Ok(Ok(Err(error))) => refusal(error),
        Ok(Ok(Ok(returned))) => state.outputs.finish(returned),
    };
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Report { outcome, started_at, micros, fuel, peak_memory, logs, logs_dropped }
}

/// A store with every limit set.
pub(super) fn store(engine: &Engine, state: HostState, limits: &Limits) -> Store<HostState> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    // Fails only for an engine without fuel, and `engine::settings` has it on.
    drop(store.set_fuel(limits.fuel));
    let events = (limits.output_events as usize).saturating_mul(EVENT_BYTES);
    let output = usize::try_from(limits.output_bytes).unwrap_or(usize::MAX);
    store.set_hostcall_fuel(output.saturating_add(events).saturating_add(HOSTCALL_BYTES));
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store
}

/// At each tick a guest that computes either is over its deadline or lets the reactor go on. The yield is tokio's own: it
/// lets the reactor look at its timers and sockets before the guest goes on, which a plain wake-up would not.
#[allow(clippy::needless_pass_by_value)] // the signature is the engine's
fn on_tick(store: StoreContextMut<'_, HostState>) -> wasmtime::Result<UpdateDeadline> {
    if Instant::now() >= store.data().deadline {
        return Err(DeadlinePassed.into());
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

type Returned = Result<Vec<wit::Event>, wit::Error>;

/// Instantiates and calls.
pub(super) async fn call(
    pre: &wit::FunctionPre<HostState>,
    store: &mut Store<HostState>,
    event: &Event,
) -> Result<Returned, Failure> {
    let function = pre.instantiate_async(&mut *store).await.map_err(Failure::Instantiate)?;
    let values: Vec<String> = event.extensions.iter().map(|(_, value)| value.to_string()).collect();
    let names = event.extensions.iter().map(|(name, _)| name.as_str());
    let extensions: Vec<(&str, &str)> = names.zip(values.iter().map(String::as_str)).collect();
    let event = wit::EventParam {
        id: &event.id,
        source: &event.source,
        type_: &event.ty,
        subject: event.subject.as_deref(),
        time: event.time.and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000).ok()),
        content_type: event.datacontenttype.as_deref(),
        extensions: &extensions,
        data: &event.data,
    };
    function.oncue_function_handler().call_handle(store, event).await.map_err(Failure::Call)
}

/// The engine ended the call.
#[derive(Debug)]
pub(super) enum Failure {
    /// While the instance was made.
    Instantiate(wasmtime::Error),
    /// While `handle` ran.
    Call(wasmtime::Error),
}

impl Failure {
    fn outcome(&self, limits: &Limits, state: &HostState) -> Outcome {
        let (Self::Instantiate(error) | Self::Call(error)) = self;
        let trap = error.downcast_ref::<Trap>();
        if error.is::<DeadlinePassed>() {
            return Outcome::Timeout(limits.timeout());
        }
        match trap {
            Some(Trap::StackOverflow) => return Outcome::Limit(Limit::Stack, describe(error)),
            Some(Trap::OutOfFuel) => {
                return Outcome::Limit(Limit::Fuel, format!("used its {} units of fuel", limits.fuel));
            }
            _ => {}
        }
        // A guest that gets no memory traps or exits in its own way: what counts is that it was refused.
        if let Some((limit, text)) = state.limiter.hit() {
            return Outcome::Limit(*limit, format!("{text}; then: {}", describe(error)));
        }
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Outcome::Trap(format!("exited with status {} instead of returning", exit.0));
        }
        let text = format!("{:#}", error.root_cause());
        // The engine names these two only in words.
        if text.contains("allocated for hostcalls") {
            let text = "handed the host more bytes in one call than its output limit allows".to_owned();
            return Outcome::Limit(Limit::OutputBytes, text);
        }
        if text.contains("resource limit exceeded") {
            return Outcome::Limit(Limit::Instances, bounded(&text));
        }
        match self {
            Self::Instantiate(error) if trap.is_none() => Outcome::Broken(describe(error)),
            _ => Outcome::Trap(describe(error)),
        }
    }
}

/// The trap's name and the functions that it happened in, innermost first.
fn describe(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    let names: Vec<&str> = frames.iter().take(FRAMES_SHOWN).map(|f| f.func_name().unwrap_or("?")).collect();
    if !names.is_empty() {
        text.push_str(" in ");
        text.push_str(&names.join(" < "));
    }
    bounded(&text)
}

/// The words of a function that refused its event.
fn refusal(error: wit::Error) -> Outcome {
    match error {
        wit::Error::Retry(message) => Outcome::Retry { after: None, message: bounded(&message) },
        wit::Error::RetryAfter((millis, message)) => {
            let after = Duration::from_millis(millis).min(RETRY_AFTER_MAX);
            Outcome::Retry { after: Some(after), message: bounded(&message) }
        }
        wit::Error::Reject(message) => Outcome::Reject(bounded(&message)),
    }
}

fn bounded(text: &str) -> String {
    logs::escape(text, MESSAGE_BYTES).0
}
