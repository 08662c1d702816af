//! What the runtime promises, each promise with a guest that tries to break it.
//!
//! Invariant: no test depends on how fast the machine is; the only time bounds are generous ones that prove an end.

mod load;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fixtures::{event, function, module, spec};
use super::{CallContext, Compiler, LoadError, Runtime, RuntimeConfig, bare};
use crate::delivery::{Effects, Limit, Outcome, Report};
use crate::function::FunctionSpec;

const EMIT: &str = r#"(import "oncue:function/emitter@0.1.0" "emit" (func $emit (param i32 i32)))"#;
const LOG: &str = r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
const OK: &str = "(call $ok (i32.const 0) (i32.const 0))";

/// Compiled in this process: the program that runs is the tests'.
fn settings() -> RuntimeConfig {
    RuntimeConfig { compiler: Compiler::InProcess, ..RuntimeConfig::default() }
}

fn runtime() -> Runtime {
    Runtime::new(RuntimeConfig { slots: 8, ..settings() }).expect("the runtime starts")
}

fn limited(change: impl FnOnce(&mut FunctionSpec)) -> FunctionSpec {
    let mut spec = spec();
    change(&mut spec);
    spec
}

fn context() -> CallContext {
    CallContext { delivery_id: "d1".to_owned(), attempt: 1, function: "welcome".to_owned(), ..CallContext::default() }
}

async fn run_with(component: Bytes, spec: &FunctionSpec) -> Report {
    let runtime = runtime();
    let function = runtime.load("welcome", component, spec).await.expect("the fixture loads");
    let report = runtime.invoke(&function, &event(), context()).await;
    assert_eq!(runtime.in_use(), 0);
    report
}

async fn run(component: Bytes) -> Report {
    run_with(component, &spec()).await
}

async fn refused(bytes: impl Into<Bytes>) -> LoadError {
    runtime().load("bad", bytes.into(), &spec()).await.expect_err("the component is refused")
}

#[tokio::test]
async fn emitted_events_come_before_returned_ones() {
    let component = module(
        EMIT,
        "(call $event (i32.const 2048) (i32.const 16) (i32.const 12) (i32.const 48) (i32.const 5))
         (call $emit (i32.const 2048) (i32.const 1024))
         (call $event (i32.const 2048) (i32.const 16) (i32.const 12) (i32.const 48) (i32.const 2))
         (call $ok (i32.const 2048) (i32.const 1))",
    );
    let report = run(component).await;
    let Outcome::Ok(Effects { events, .. }) = &report.outcome else { panic!("{report:?}") };
    let data: Vec<&[u8]> = events.iter().map(|event| &event.data[..]).collect();
    assert_eq!(data, [b"words".as_slice(), b"wo"]);
    assert_eq!((events[0].ty.as_str(), events[0].source.as_str()), ("mail.welcome", "oncue/welcome"));
    assert!(events[0].id.is_empty());
    assert!(report.fuel > 0 && report.peak_memory == 64 << 10, "{report:?}");
}

#[tokio::test]
async fn the_guest_sees_the_event() {
    // Gives the event's data back as the text of a rejection.
    let body =
        "(call $err (i32.const 2) (i32.load offset=76 (local.get $event)) (i32.load offset=80 (local.get $event)))";
    assert_eq!(run(function(body)).await.outcome, Outcome::Reject(r#"{"email":"a@example.com"}"#.to_owned()));
}

#[tokio::test]
async fn the_guest_s_refusals_keep_their_class() {
    let words = "words".to_owned();
    let retry = run(function("(call $err (i32.const 0) (i32.const 48) (i32.const 5))")).await;
    assert_eq!(retry.outcome, Outcome::Retry { after: None, message: words.clone() });
    let later = "(drop (call $err (i32.const 1) (i32.const 0) (i32.const 0)))
        (i64.store (i32.const 1040) (i64.const 1500))
        (i32.store (i32.const 1048) (i32.const 48)) (i32.store (i32.const 1052) (i32.const 5)) (i32.const 1024)";
    let after = Some(Duration::from_millis(1500));
    assert_eq!(run(function(later)).await.outcome, Outcome::Retry { after, message: words });
}

#[tokio::test]
async fn traps_are_named() {
    for (body, name) in [
        ("unreachable", "unreachable"),
        ("(i32.div_u (i32.const 1) (i32.sub (local.get $event) (local.get $event)))", "divide by zero"),
        ("(i32.load (i32.const -8))", "out of bounds memory access"),
        ("(call $ok (i32.const -16) (i32.const 1))", "out of bounds of memory"),
    ] {
        let outcome = run(function(body)).await.outcome;
        assert!(matches!(&outcome, Outcome::Trap(text) if text.contains(name)), "{name}: {outcome:?}");
    }
    let outcome = run(function("unreachable")).await.outcome;
    assert!(matches!(&outcome, Outcome::Trap(text) if text.contains("handle")), "no frame: {outcome:?}");
}

#[tokio::test]
async fn an_exit_is_a_trap_with_its_status() {
    let component = module(
        r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
        "(call $exit (i32.const 1)) unreachable",
    );
    let outcome = run(component).await.outcome;
    assert!(matches!(&outcome, Outcome::Trap(text) if text.contains("exited with status 1")), "{outcome:?}");
}

#[tokio::test]
async fn an_endless_loop_times_out_while_its_neighbour_runs() {
    let spec = limited(|spec| {
        spec.limits.timeout_ms = 200;
        spec.limits.fuel = u64::MAX;
    });
    let runtime = runtime();
    let endless = runtime.load("endless", function("(loop $l (br $l)) unreachable"), &spec).await.expect("loads");
    let quick = runtime.load("quick", function(OK), &spec).await.expect("loads");
    let (event, context) = (event(), context());
    let start = Instant::now();
    // One thread runs both: the neighbour only gets on because the loop yields.
    let (slow, calls) = tokio::join!(runtime.invoke(&endless, &event, context.clone()), async {
        let mut calls = 0;
        while calls < 20 {
            assert_eq!(runtime.invoke(&quick, &event, context.clone()).await.outcome, Outcome::Ok(Effects::default()));
            tokio::task::yield_now().await;
            calls += 1;
        }
        calls
    });
    assert_eq!(slow.outcome, Outcome::Timeout(Duration::from_millis(200)));
    assert_eq!(calls, 20);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_guest_that_sleeps_for_ever_times_out() {
    let component = module(
        r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $sleep (param i64) (result i32)))
           (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#,
        "(call $block (call $sleep (i64.const 1000000000000000))) unreachable",
    );
    let report = run_with(component, &limited(|spec| spec.limits.timeout_ms = 100)).await;
    assert_eq!(report.outcome, Outcome::Timeout(Duration::from_millis(100)));
    assert!(report.micros < 5_000_000);
}

#[tokio::test]
async fn memory_is_limited_by_name() {
    let spec = limited(|spec| spec.limits.memory_bytes = 4 << 20);
    // As an allocator does: unreachable when there is no more.
    let polite = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let insistent = "(loop $l (drop (memory.grow (i32.const 1))) (br $l)) unreachable";
    for body in [polite, insistent] {
        let report = run_with(function(body), &spec).await;
        assert!(matches!(report.outcome, Outcome::Limit(Limit::Memory, _)), "{report:?}");
        assert_eq!(report.peak_memory, 4 << 20);
    }
}

#[tokio::test]
async fn a_component_that_starts_above_its_memory_limit_is_refused() {
    let spec = limited(|spec| spec.limits.memory_bytes = 32 << 10);
    let error = runtime().load("big", function(OK), &spec).await.expect_err("refused");
    assert!(matches!(error, LoadError::Memory { needed: 65_536, limit: 32_768 }), "{error}");
}

#[tokio::test]
async fn tables_are_limited_by_name() {
    let component = module(
        "(table $t 1 funcref)",
        "(if (i32.eq (table.grow $t (ref.null func) (i32.const 10000000)) (i32.const -1)) (then unreachable)) unreachable",
    );
    let outcome = run(component).await.outcome;
    assert!(matches!(outcome, Outcome::Limit(Limit::Table, _)), "{outcome:?}");
}

#[tokio::test]
async fn endless_recursion_hits_the_stack_limit() {
    let outcome = run(function("(call $handle (local.get $event))")).await.outcome;
    assert!(matches!(outcome, Outcome::Limit(Limit::Stack, _)), "{outcome:?}");
}

#[tokio::test]
async fn a_loop_without_fuel_hits_the_fuel_limit() {
    let spec = limited(|spec| spec.limits.fuel = 10_000);
    let report = run_with(function("(loop $l (br $l)) unreachable"), &spec).await;
    assert!(matches!(report.outcome, Outcome::Limit(Limit::Fuel, _)), "{report:?}");
    assert_eq!(report.fuel, 10_000);
}

#[tokio::test]
async fn too_much_output_releases_nothing() {
    let big = "(drop (memory.grow (i32.const 200)))
        (call $event (i32.const 2048) (i32.const 16) (i32.const 12) (i32.const 8192) (i32.const 10485760))
        (call $ok (i32.const 2048) (i32.const 1))";
    let outcome = run(function(big)).await.outcome;
    assert!(matches!(outcome, Outcome::Limit(Limit::OutputBytes, _)), "{outcome:?}");
    let storm = "(local $n i32)
        (call $event (i32.const 2048) (i32.const 16) (i32.const 12) (i32.const 48) (i32.const 5))
        (loop $l (call $emit (i32.const 2048) (i32.const 1024))
          (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))
        (call $ok (i32.const 0) (i32.const 0))";
    let outcome = run(module(EMIT, storm)).await.outcome;
    assert!(matches!(outcome, Outcome::Limit(Limit::OutputEvents, _)), "{outcome:?}");
}

#[tokio::test]
async fn an_event_that_is_not_granted_is_denied_by_name() {
    let returned = "(call $event (i32.const 2048) (i32.const 32) (i32.const 10) (i32.const 48) (i32.const 5))
        (call $ok (i32.const 2048) (i32.const 1))";
    let outcome = run(function(returned)).await.outcome;
    assert!(matches!(&outcome, Outcome::Denied(text) if text.contains("bus/mail.other")), "{outcome:?}");
    // Passes the text of emit's error on as a rejection.
    let emitted = "(call $event (i32.const 2048) (i32.const 32) (i32.const 10) (i32.const 48) (i32.const 5))
        (call $emit (i32.const 2048) (i32.const 3072))
        (call $err (i32.const 2) (i32.load (i32.const 3076)) (i32.load (i32.const 3080)))";
    let outcome = run(module(EMIT, emitted)).await.outcome;
    assert!(matches!(&outcome, Outcome::Reject(text) if text.contains("bus/mail.other")), "{outcome:?}");
}

#[tokio::test]
async fn state_does_not_leak_between_calls() {
    // Rejects with "words" if its global or its memory (old, fresh and grown) was written by an earlier call.
    let body =
        "(if (i32.or (global.get $seen) (i32.or (i32.load (i32.const 60000)) (i32.ne (memory.size) (i32.const 1))))
          (then (return (call $err (i32.const 2) (i32.const 48) (i32.const 5)))))
        (global.set $seen (i32.const 1))
        (i32.store (i32.const 60000) (i32.const 1))
        (drop (memory.grow (i32.const 4)))
        (if (i32.load (i32.const 200000)) (then (return (call $err (i32.const 2) (i32.const 48) (i32.const 5)))))
        (memory.fill (i32.const 65536) (i32.const 7) (i32.const 262144))
        (call $ok (i32.const 0) (i32.const 0))";
    let runtime = Runtime::new(RuntimeConfig { slots: 1, ..settings() }).expect("starts");
    let component = module("(global $seen (mut i32) (i32.const 0))", body);
    let one = runtime.load("one", component.clone(), &spec()).await.expect("loads");
    let two = runtime.load("two", component, &spec()).await.expect("loads");
    for _ in 0..50 {
        for function in [&one, &two] {
            assert_eq!(runtime.invoke(function, &event(), context()).await.outcome, Outcome::Ok(Effects::default()));
        }
    }
}

#[tokio::test]
async fn a_log_flood_is_capped_and_cannot_forge_lines() {
    let component = module(
        &format!(r#"{LOG} (data (i32.const 64) "\1b[31mred\nlevel=error forged")"#),
        "(local $n i32)
         (loop $l
           (call $log (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 27))
           (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 20000))))
         (call $ok (i32.const 0) (i32.const 0))",
    );
    let report = run(component).await;
    assert_eq!(report.outcome, Outcome::Ok(Effects::default()));
    let kept: usize = report.logs.iter().map(|line| line.message.len()).sum();
    assert!(kept <= 16 << 10 && kept > 8 << 10, "{kept}");
    assert!(report.logs_dropped > 400_000, "{}", report.logs_dropped);
    assert_eq!(report.logs[0].level, "warn");
    assert_eq!(report.logs[0].message, "\\u{1b}[31mred\\nlevel=error forged");
}

#[tokio::test]
async fn standard_output_becomes_log_lines() {
    let component = module(
        r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
           (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
             (func $write (param i32 i32 i32 i32)))
           (data (i32.const 64) "one\ntwo\ff\nthree")"#,
        "(call $write (call $stdout) (i32.const 64) (i32.const 14) (i32.const 1024))
         (call $ok (i32.const 0) (i32.const 0))",
    );
    let report = run(component).await;
    let lines: Vec<_> = report.logs.iter().map(|line| (line.level, line.message.as_str())).collect();
    assert_eq!(lines, [("stdout", "one"), ("stdout", "two\u{fffd}"), ("stdout", "three")]);
}

#[tokio::test]
async fn configuration_and_context_are_readable() {
    // Rejects with the value of the key "words", then with the delivery id.
    let config = module(
        r#"(import "wasi:config/store@0.2.0-rc.1" "get" (func $get (param i32 i32 i32)))"#,
        "(call $get (i32.const 48) (i32.const 5) (i32.const 2048))
         (call $err (i32.const 2) (i32.load (i32.const 2056)) (i32.load (i32.const 2060)))",
    );
    let spec = limited(|spec| drop(spec.config.insert("words".to_owned(), "value".to_owned())));
    assert_eq!(run_with(config, &spec).await.outcome, Outcome::Reject("value".to_owned()));
    let context = module(
        r#"(import "oncue:function/context@0.1.0" "get" (func $get (param i32)))"#,
        "(call $get (i32.const 2048))
         (call $err (i32.const 2) (i32.load (i32.const 2048)) (i32.load (i32.const 2052)))",
    );
    assert_eq!(run(context).await.outcome, Outcome::Reject("d1".to_owned()));
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_its_slot_back() {
    let runtime = Runtime::new(RuntimeConfig { slots: 1, ..settings() }).expect("starts");
    let spec = limited(|spec| spec.limits.fuel = u64::MAX);
    let endless = runtime.load("endless", function("(loop $l (br $l)) unreachable"), &spec).await.expect("loads");
    let (event, context) = (event(), context());
    for _ in 0..5 {
        // The first yield of the guest lets the other branch end, and that drops the call.
        tokio::select! {
            biased;
            report = runtime.invoke(&endless, &event, context.clone()) => panic!("{report:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(runtime.in_use(), 0);
    }
}

#[tokio::test]
async fn more_calls_than_slots_wait() {
    let runtime = Runtime::new(RuntimeConfig { slots: 2, ..settings() }).expect("starts");
    let function = runtime.load("welcome", function(OK), &spec()).await.expect("loads");
    let (event, context) = (event(), context());
    let calls = (0..100).map(|_| runtime.invoke(&function, &event, context.clone()));
    for report in futures::future::join_all(calls).await {
        assert_eq!(report.outcome, Outcome::Ok(Effects::default()));
    }
}

#[tokio::test]
async fn smaller_profiles_run_the_same() {
    use super::engine::Profile;
    let profiles = [Profile::Full, Profile::Compact, Profile::OnDemand];
    for (profile, explicit_bounds_checks) in profiles.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let config = RuntimeConfig { slots: 8, explicit_bounds_checks, ..settings() };
        let engine = super::engine::with_profile(&config, profile).expect("starts");
        let mut linker = wasmtime::component::Linker::new(&engine);
        super::host::link(&mut linker).expect("links");
        let component = wasmtime::component::Component::new(&engine, function(OK)).expect("compiles");
        let pre = super::component::link(&linker, &component, &spec().limits).expect("links");
        let deadline = Instant::now() + Duration::from_secs(60);
        let state = super::HostState::new(&spec().into(), None, context(), 1 << 20, deadline);
        let mut store = super::call::store(&engine, state, &spec().limits);
        assert!(super::call::call(&pre, &mut store, &event()).await.expect("runs").is_ok(), "{profile:?}");
    }
}

#[tokio::test]
async fn thousands_of_calls_leave_no_memory_behind() {
    let body = "(drop (memory.grow (i32.const 16))) (memory.fill (i32.const 65536) (i32.const 1) (i32.const 1048576))
        (call $ok (i32.const 0) (i32.const 0))";
    let runtime = runtime();
    let function = runtime.load("welcome", function(body), &spec()).await.expect("loads");
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    };
    let mut after_warm_up = 0;
    for call in 0..3_000 {
        runtime.invoke(&function, &event(), context()).await;
        if call == 500 {
            after_warm_up = resident();
        }
    }
    // Other tests run in this process meanwhile; 2,500 calls that kept their megabyte would be 2.5 GB.
    assert!(resident() < after_warm_up + (512 << 20));
}

#[test]
fn the_epoch_thread_ends_with_the_runtime() {
    let runtime = runtime();
    let weak = runtime.0.engine.weak();
    drop(runtime);
    // The thread holds the engine only while it counts, for far less than a tick.
    let start = Instant::now();
    while weak.upgrade().is_some() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn the_bare_loop_runs_what_invoke_runs() {
    let runtime = runtime();
    let function = runtime.load("welcome", function(OK), &spec()).await.expect("loads");
    let run = bare::run(&runtime, &function, &event(), 10, 2);
    assert_eq!((run.micros.len(), run.failed), (10, 0));
}
