//! The cache of compiled components touches nothing but its own.

use std::error::Error as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oncue::function::FunctionSpec;
use oncue::runtime::{Compiler, Runtime, RuntimeConfig, RuntimeError};

use crate::support::functions;

const OWN: &str = "oncue-components";

fn config(dir: &Path, cache_bytes_max: u64) -> RuntimeConfig {
    let compiler = Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
    RuntimeConfig { slots: 2, compiler, cache_dir: Some(dir.to_owned()), cache_bytes_max, ..RuntimeConfig::default() }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

/// A function unlike those of other numbers.
fn numbered(n: usize) -> Vec<u8> {
    functions::component(&format!(
        r#"(module (memory (export "memory") 1)
             (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
             (func (export "oncue:function/handler@0.1.0#handle") (param i32) (result i32) (i32.const {n})))"#
    ))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is a folder");
    let mut names: Vec<_> = entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beside_the_cache_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let database = dir.path().join("main.db");
    std::fs::write(&database, vec![7; 1 << 20]).expect("written");
    std::fs::create_dir(dir.path().join("wal")).expect("made");
    set_mode(dir.path(), 0o755);
    let runtime = Runtime::new(config(dir.path(), 1)).expect("it starts");
    runtime.load("one", numbered(1).into(), &FunctionSpec::default()).await.expect("it loads");
    assert_eq!(std::fs::read(&database).expect("it is there").len(), 1 << 20, "nothing of it was removed");
    assert_eq!(mode(dir.path()), 0o755, "the operator's folder is as it was");
    assert_eq!(names(dir.path()), ["main.db", OWN, "wal"]);
    assert_eq!(mode(&dir.path().join(OWN)), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_anything_else_is_refused_with_words() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = dir.path().join(OWN);
    let refused = |name: &str| {
        let error = Runtime::new(config(dir.path(), 1)).expect_err("refused");
        assert!(matches!(error, RuntimeError::CacheDir { .. }), "{error}");
        let text = format!("{error}: {}", error.source().expect("it has a cause"));
        assert!(text.contains("cache_dir") && text.contains(name), "{text}");
    };
    std::fs::create_dir(&own).expect("made");
    set_mode(&own, 0o755);
    for name in ["main.db", "x.compiled", ".hidden"] {
        std::fs::write(own.join(name), "mine").expect("written");
        refused(name);
        assert_eq!((names(&own), mode(&own)), (vec![name.to_owned()], 0o755), "nothing was changed");
        std::fs::remove_file(own.join(name)).expect("removed");
    }
    std::fs::remove_dir(&own).expect("removed");
    std::os::unix::fs::symlink("/tmp", &own).expect("linked");
    refused("no folder");
    std::fs::remove_file(&own).expect("removed");
    Runtime::new(config(dir.path(), 1)).expect("a folder of its own is none that is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_stays_within_its_bound() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = dir.path().join(OWN);
    let sizes = || names(&own).iter().map(|name| mode_len(&own.join(name))).collect::<Vec<_>>();
    let unbounded = Runtime::new(config(dir.path(), u64::MAX)).expect("it starts");
    unbounded.load("one", numbered(0).into(), &FunctionSpec::default()).await.expect("it loads");
    let one = sizes()[0];
    let bounded = Runtime::new(config(dir.path(), one * 5 / 2)).expect("it starts");
    for n in 1..6 {
        bounded.load("one", numbered(n).into(), &FunctionSpec::default()).await.expect("it loads");
        assert!(sizes().iter().sum::<u64>() <= one * 5 / 2, "{:?}", sizes());
    }
    assert_eq!(sizes().len(), 2);
    drop(Runtime::new(config(dir.path(), one)).expect("a smaller bound holds from the start"));
    assert_eq!(sizes().len(), 1);
}

fn mode_len(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it is there").len()
}
