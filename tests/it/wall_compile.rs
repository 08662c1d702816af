//! Bombs for the compiler: each is refused with words, or done within its bounds, in a process of its own, and neither the
//! node nor the component that is deployed after it notices.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue::function::FunctionSpec;
use oncue::runtime::{Compiler, LoadError, LoadedFunction, Runtime, RuntimeConfig};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::node::{self, Node};
use crate::support::process::{self, Process, manifest};
use crate::support::{World, eventually, functions};

const TIMEOUT: Duration = Duration::from_secs(4);
/// Far above what each takes, far below what an endless one would.
const ENDS: Duration = Duration::from_secs(60);

/// How a component begins.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_oncue"))
}

fn settings(compile_timeout: Duration) -> RuntimeConfig {
    RuntimeConfig { slots: 2, compiler: Compiler::Program(program()), compile_timeout, ..RuntimeConfig::default() }
}

async fn load(runtime: &Runtime, bytes: Vec<u8>) -> Result<Arc<LoadedFunction>, LoadError> {
    runtime.load("bomb", bytes.into(), &FunctionSpec::default()).await
}

/// A whole function whose `handle` has `body`, beside `items`.
fn function(items: &str, body: &str) -> Vec<u8> {
    functions::component(&format!(
        r#"(module (memory (export "memory") 1) {items}
             (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
             (func (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32) {body} (i32.const 1024)))"#
    ))
}

/// Loops within loops that all change all locals: the compiler carries each local through each of them.
fn slow(seed: u32) -> Vec<u8> {
    const LOOPS: usize = 1_500;
    const LOCALS: usize = 3_000;
    let mut body = format!("(local {}) i32.const {seed} drop ", "i64 ".repeat(LOCALS));
    for _ in 0..LOOPS {
        body.push_str("loop ");
    }
    for n in 1..=LOCALS {
        write!(body, "local.get {n} i64.const {n} i64.add local.set {n} ").expect("a string takes it");
    }
    for n in 1..=LOOPS {
        write!(body, "local.get {n} i32.wrap_i64 br_if 0 end ").expect("a string takes it");
    }
    function("", &body)
}

fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the text is valid")
}

/// A section of a component.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], leb(content.len()), content.to_vec()].concat()
}

/// Components within components.
fn nested(levels: usize) -> Vec<u8> {
    let wrap = |inner: Vec<u8>| [COMPONENT.to_vec(), section(4, &inner)].concat();
    (0..levels).fold(COMPONENT.to_vec(), |inner, _| wrap(inner))
}

/// A good component with a custom section of so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let mut content = vec![1, b'x'];
    content.resize(bytes, 0);
    [function("", ""), section(0, &content)].concat()
}

/// Types that double with each line, as those of the handler.
fn types() -> Vec<u8> {
    let mut types = "(type $t0 (tuple u64 u64))".to_owned();
    for n in 1..64 {
        let before = n - 1;
        write!(types, "(type $t{n} (tuple $t{before} $t{before}))").expect("a string takes it");
    }
    text(&format!(
        r#"(component {types} (core module $m (func (export "f"))) (core instance $i (instantiate $m))
             (func $f (canon lift (core func $i "f"))) (instance $h (export "handle" (func $f)))
             (export "oncue:function/handler@0.1.0" (instance $h)))"#
    ))
}

/// The number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
    bytes
}

/// A section of so many of the same.
fn many(id: u8, count: usize, item: &[u8]) -> Vec<u8> {
    section(id, &[leb(count), item.repeat(count)].concat())
}

/// A component of one module with this section.
fn core(content: &[u8]) -> Vec<u8> {
    let module = [b"\0asm\x01\0\0\0", content].concat();
    [COMPONENT.to_vec(), section(1, &module)].concat()
}

/// What is refused before anything compiles, and by which words.
fn too_much() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    // One body: its size, one group of locals of the type i32, the end.
    let locals = [vec![1], leb(100_000), vec![0x7f, 0x0b]].concat();
    let code = section(10, &[vec![1], leb(locals.len()), locals].concat());
    let locals = [many(1, 1, b"\x60\0\0"), many(3, 1, b"\0"), code].concat();
    let forbidden = text(r#"(component (import "wasi:http/types@0.2.0" (instance)))"#);
    let forbidden = [forbidden, section(1, &[b"\0asm\x01\0\0\0".to_vec(), locals.clone()].concat())].concat();
    vec![
        ("nested components", nested(1_000), "levels of components within components"),
        ("imports", [COMPONENT.to_vec(), many(10, 99_000, b"\0\x01a\x01\0")].concat(), "99000 imports"),
        ("imports of a module", core(&many(2, 99_000, b"\x01a\x01b\0\0")), "99000 imports"),
        ("functions", core(&many(3, 1_000_000, b"\0")), "1000000 functions"),
        ("locals", core(&locals), "locals in one function"),
        ("types", core(&many(1, 150_000, b"\x60\0\0")), "150000 types"),
        ("a large custom section", padded(100 << 20), "the limit is 67108864"),
        ("a forbidden import", forbidden, "imports wasi:http/types@0.2.0, which is not granted"),
    ]
}

/// What the compiler gets. What becomes of it is its own matter, within the bounds.
fn for_the_compiler() -> Vec<(&'static str, Vec<u8>, bool)> {
    const DEEP: usize = 100_000;
    let blocks = format!("{}{}", "block ".repeat(DEEP), "end ".repeat(DEEP));
    let targets: String = (0..1_000).map(|n| format!("{n} ")).collect();
    let tables = format!("local.get $event br_table {targets} ");
    let branches = format!("{}{}{}", "block ".repeat(1_000), tables, "end ".repeat(1_000));
    vec![
        ("nested blocks", function("", &blocks), false),
        ("branch tables", function("", &branches.repeat(100)), false),
        ("a custom section", padded(20 << 20), false),
        ("types that double", types(), true),
        ("locals carried through loops", slow(0), true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_refused_with_words_or_done_within_its_bounds() {
    let runtime = Runtime::new(settings(TIMEOUT)).expect("it starts");
    for (name, bytes, words) in too_much() {
        let begun = Instant::now();
        let error = load(&runtime, bytes).await.expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(begun.elapsed() < TIMEOUT * 4, "{name} was not compiled, and took {:?}", begun.elapsed());
    }
    for (name, bytes, refused) in for_the_compiler() {
        let (begun, size) = (Instant::now(), bytes.len());
        let loaded = load(&runtime, bytes).await;
        let took = begun.elapsed();
        assert!(took < ENDS, "{name}: {took:?}");
        match loaded {
            Ok(_) => assert!(!refused, "{name} compiles in {took:?}"),
            Err(error) => assert!(!error.is_transient(), "{name} of {size} bytes: {error}"),
        }
    }
    load(&runtime, functions::steered()).await.expect("a good one loads after them");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_time_of_a_compilation_end_it_by_name() {
    let small = RuntimeConfig { compile_memory_bytes: 160 << 20, ..settings(ENDS) };
    let error = load(&Runtime::new(small).expect("it starts"), slow(1)).await.expect_err("it has not the memory");
    assert!(matches!(error, LoadError::CompileMemory { .. }), "{error}");
    let short = settings(Duration::from_millis(300));
    let error = load(&Runtime::new(short).expect("it starts"), slow(1)).await.expect_err("it has not the time");
    assert!(matches!(error, LoadError::CompileTimeout { .. }), "{error}");
    for (program, words) in [("/nowhere/oncue", "cannot start"), ("/bin/false", "does not compile")] {
        let other = RuntimeConfig { compiler: Compiler::Program(program.into()), ..settings(TIMEOUT) };
        let error = load(&Runtime::new(other).expect("it starts"), function("", "")).await.expect_err("no compiler");
        assert!(error.is_transient() && error.to_string().contains(words), "{program}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_component_does_not_wait_for_two_bombs() {
    let runtime = Runtime::new(settings(ENDS * 2)).expect("it starts");
    let mut bombs = JoinSet::new();
    for seed in [2, 3] {
        let (runtime, bomb) = (runtime.clone(), slow(seed));
        bombs.spawn(async move { load(&runtime, bomb).await.map(drop) });
    }
    let us = std::process::id();
    eventually("a bomb compiles", async || !compilers(us).is_empty()).await;
    let begun = Instant::now();
    load(&runtime, functions::steered()).await.expect("it loads");
    let took = begun.elapsed();
    assert!(bombs.try_join_next().is_none(), "both bombs still compile");
    assert!(took < ENDS, "{took:?}");
    drop(bombs);
    eventually("nobody compiles for those who left", async || compilers(us).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_in_the_table_are_quarantined_and_hold_up_nobody() {
    let world = World::start().await;
    world.stream("WORK", &["work.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    let rows = [("deep", nested(1_000)), ("slow", slow(4)), ("twin", slow(5)), ("types", types())];
    for (name, bytes) in rows {
        world.deploy(name, &bytes, &json!({})).await;
        let rule = format!(
            "insert into oncue.rules (name, pattern, run) values ('{name}', '{{\"type\":[\"work.{name}\"]}}', '{name}')"
        );
        world.sql(&rule).await;
    }
    world.jetstream_trigger("work", "WORK", json!({})).await;
    let mut config = node::config(&world, "one");
    config.runtime.cache_dir = None;
    config.runtime.compile_timeout = TIMEOUT;
    let node = Node::launch(config);
    node.ready().await;
    world.deploy("good", &functions::steered(), &functions::spec()).await;
    world
        .sql(r#"insert into oncue.rules (name, pattern, run) values ('good', '{"type":["work.good"]}', 'good')"#)
        .await;
    let mut sent = 0;
    eventually("the good one ran", async || {
        // Until the rule is loaded, nothing matches.
        sent += 1;
        world.publish_events("work.good", [(format!("g{sent}"), r#"{"do":"e0"}"#.to_owned())]).await;
        world.ledger("rule = 'good' and settlement = 'done'").await > 0
    })
    .await;
    eventually("each bomb is named", async || {
        world.number("select count(*) from oncue.rules where name <> 'good' and error is not null").await == 4
    })
    .await;
    let rows = world.rows("select name, error from oncue.rules where name <> 'good'").await;
    let words = [("deep", "too complex"), ("slow", "compiling"), ("twin", "compiling"), ("types", "@1")];
    for (name, words) in words {
        let row = rows.iter().find(|row| row["name"] == name).expect("it is there");
        assert!(row["error"].as_str().is_some_and(|error| error.contains(words)), "{row}");
    }
    assert!(node.is_ready().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_node_is_the_end_of_what_it_compiles() {
    let world = World::start().await;
    world.deploy("slow", &slow(6), &json!({})).await;
    world.sql(r#"insert into oncue.rules (name, pattern, run) values ('slow', '{"type":["work"]}', 'slow')"#).await;
    for signal in ["KILL", "TERM"] {
        let mut process = Process::launch(&world, "one").ready().await;
        let node = process.pid();
        let mut workers = Vec::new();
        eventually("it compiles", async || {
            workers = compilers(node);
            !workers.is_empty()
        })
        .await;
        process.signal(signal).await;
        let begun = Instant::now();
        process.wait().await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{signal}: the drain waits for no compiler");
        eventually("no compiler is left", async || workers.iter().all(|pid| !is_compiler(*pid))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_refuses_before_it_compiles() {
    let world = World::start().await;
    let (manifest, _) = manifest(&world, "shop", "");
    for (name, bytes, words) in
        too_much().into_iter().filter(|(name, ..)| matches!(*name, "a forbidden import" | "locals"))
    {
        let file = world.dir.path().join("bomb.wasm");
        std::fs::write(&file, bytes).expect("written");
        let said = process::run(&manifest, &["function", "deploy", "bomb", "bomb.wasm"]).await;
        assert_eq!(said.code, 1, "{name}: {said:?}");
        assert!(said.err.contains(words), "{name}: {said:?}");
    }
    assert_eq!(world.number("select count(*) from oncue.functions").await, 0);
    let good = world.dir.path().join("good.wasm");
    std::fs::write(good, functions::steered()).expect("written");
    let said = process::run(&manifest, &["function", "deploy", "good", "good.wasm"]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

/// The processes that compile for the process `parent`.
fn compilers(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let of_parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after.split(' ').nth(1).is_some_and(|ppid| ppid == parent.to_string())
    };
    pids.filter(of_parent).filter(|pid| is_compiler(*pid)).collect()
}

fn is_compiler(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("compile-worker")
}
