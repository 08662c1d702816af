//! What is loaded and what is refused, and what is kept of it.
//!
//! Invariant: whatever is refused is refused by the name of its fault.

use std::time::Duration;

use crate::delivery::Outcome;
use crate::runtime::cache::FOLDER;
use crate::runtime::fixtures::{event, function, spec};
use crate::runtime::{LoadError, Runtime, RuntimeConfig};

use super::{OK, context, refused, runtime, settings};

#[tokio::test]
async fn what_is_no_component_is_refused_by_kind() {
    let good = function(OK);
    let core = wat::parse_str("(module)").expect("valid");
    let mut garbage = good.to_vec();
    garbage[8..].fill(0xa5);
    assert!(matches!(refused("hello").await, LoadError::NotWasm));
    assert!(matches!(refused("").await, LoadError::NotWasm));
    assert!(matches!(refused(core).await, LoadError::CoreModule));
    assert!(matches!(refused(good.slice(..6)).await, LoadError::Truncated(_)));
    assert!(matches!(refused(good.slice(..good.len() / 2)).await, LoadError::Truncated(_)));
    let error = refused(garbage).await;
    assert!(matches!(error, LoadError::Corrupt(_) | LoadError::Truncated(_)), "{error:?}");
    let machine_code = runtime().0.engine.precompile_component(&good).expect("compiles");
    assert!(matches!(refused(machine_code).await, LoadError::Precompiled));
    let empty = wat::parse_str("(component)").expect("valid");
    assert!(matches!(refused(empty).await, LoadError::NoHandler(_)));
    let runtime = Runtime::new(RuntimeConfig { max_component_bytes: 100, ..settings() }).expect("starts");
    assert!(matches!(runtime.inspect(good, &spec()).await, Err(LoadError::TooLarge { limit: 100, .. })));
}

#[tokio::test]
async fn truncation_anywhere_is_refused_and_never_panics() {
    let good = function(OK);
    let runtime = runtime();
    for end in (0..good.len()).step_by(41) {
        assert!(runtime.load("cut", good.slice(..end), &spec()).await.is_err(), "{end}");
    }
}

#[tokio::test]
async fn an_unknown_import_is_refused_by_name() {
    for name in [
        "wasi:http/outgoing-handler@0.2.3",
        "wasi:sockets/tcp@0.2.0",
        "acme:secrets/store",
        "wasi:clocks/wall-clock@0.3.0",
    ] {
        let text = format!(r#"(component (import "{name}" (instance (export "f" (func)))))"#);
        let error = refused(wat::parse_str(text).expect("valid")).await;
        assert!(error.to_string().contains(&format!("imports {name}, which is not granted")), "{error}");
    }
}

#[tokio::test]
async fn a_handler_of_other_types_is_refused() {
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $h (export "handle" (func $f)))
        (export "oncue:function/handler@0.1.0" (instance $h)))"#;
    assert!(matches!(refused(wat::parse_str(text).expect("valid")).await, LoadError::NoHandler(_)));
}

#[tokio::test]
async fn too_many_instances_are_refused() {
    let instances = "(core instance (instantiate $m))".repeat(80);
    let text = format!(r#"(component (core module $m) {instances})"#);
    let error = refused(wat::parse_str(text).expect("valid")).await;
    assert!(matches!(error, LoadError::TooComplex(_)), "{error:?}");
}

#[tokio::test]
async fn compiled_components_are_kept_and_damaged_ones_are_not_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || RuntimeConfig { slots: 2, cache_dir: Some(dir.path().join("cache")), ..settings() };
    let load = async |expected: bool| {
        // A new runtime each time, as after a restart.
        let runtime = Runtime::new(config()).expect("starts");
        let function = runtime.load("welcome", function(OK), &spec()).await.expect("loads");
        assert_eq!(function.was_cached(), expected);
        assert_eq!(
            runtime.invoke(&function, &event(), context()).await.outcome,
            Outcome::Ok(crate::delivery::Effects::default())
        );
    };
    load(false).await;
    load(true).await;
    let file = || {
        let mut files = std::fs::read_dir(dir.path().join("cache").join(FOLDER)).expect("readable");
        files.next().expect("one file").expect("readable").path()
    };
    let whole = std::fs::read(file()).expect("readable");
    for damage in [0, 20, 60, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[damage] ^= 1;
        std::fs::write(file(), bytes).expect("written");
        load(false).await;
        load(true).await;
    }
    std::fs::write(file(), &whole[..whole.len() / 2]).expect("written");
    load(false).await;
    // Written by others: not ours any more, whatever it holds.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(file(), open).expect("set");
    load(false).await;
    load(true).await;
}

#[tokio::test]
async fn the_cache_keeps_its_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache_dir = Some(dir.path().to_owned());
    let config = RuntimeConfig { slots: 2, cache_dir, cache_bytes_max: 1, ..settings() };
    let runtime = Runtime::new(config).expect("starts");
    runtime.load("welcome", function(OK), &spec()).await.expect("loads");
    assert_eq!(std::fs::read_dir(dir.path().join(FOLDER)).expect("readable").count(), 0);
}

#[tokio::test]
async fn a_compilation_that_is_too_late_is_refused() {
    let config = RuntimeConfig { slots: 2, compile_timeout: Duration::ZERO, ..settings() };
    let error = Runtime::new(config).expect("starts").load("slow", function(OK), &spec()).await.expect_err("too late");
    assert!(matches!(error, LoadError::CompileTimeout { .. }), "{error}");
}
