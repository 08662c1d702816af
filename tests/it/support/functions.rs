//! Functions for the tests: the committed `welcome`, and one made on the spot that does what the event's data say.

use serde_json::{Value, json};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

/// The parts of WASI that the steered function uses.
const WASI: &str = r#"
package test:fixture;
world fixture {
  include oncue:function/function@0.1.0;
  import wasi:clocks/monotonic-clock@0.2.0;
}
package wasi:io@0.2.0 {
  interface poll { resource pollable { block: func(); } }
}
package wasi:clocks@0.2.0 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
  }
}
"#;

/// Does what `{"do":"XN",…}` says, where X is a letter and N a digit; anything else is echoed. The offsets are the
/// canonical ABI's layout of `functions/wit/function.wit`.
///
/// `e` echoes the data in a `mail.welcome` event · `o` ok, no output · `f` retry up to and including attempt N, then
/// echo · `a` on the first attempt retry after N seconds, then echo · `r` reject · `s` sleep N × 50 ms, then echo ·
/// `z` sleep N seconds, then echo · `t` trap · `l` loop for ever · `m` take memory for ever · `d` recurse for ever ·
/// `b` return 10 MB · `y` emit an event of the type that stands between the 16 first bytes and the two last ones.
const STEERED: &str = r#"(module
  (import "oncue:function/context@0.1.0" "get" (func $context (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 8192))
  (data (i32.const 16) "mail.welcome")
  (data (i32.const 48) "words")
  (func $alloc (export "cabi_realloc") (param $old i32) (param $oldlen i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow
        (i32.add (i32.const 1) (i32.div_u (local.get $len) (i32.const 65536))))))
      unreachable)
    (local.get $at))
  (func $ok (param $len i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1032) (i32.const 2048))
    (i32.store (i32.const 1036) (local.get $len))
    (i32.const 1024))
  (func $err (param $case i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (local.get $case))
    (i32.store (i32.const 1040) (i32.const 48))
    (i32.store (i32.const 1044) (i32.const 5))
    (i32.const 1024))
  (func $later (param $seconds i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (i32.const 1))
    (i64.store (i32.const 1040) (i64.mul (i64.extend_i32_u (local.get $seconds)) (i64.const 1000)))
    (i32.store (i32.const 1048) (i32.const 48))
    (i32.store (i32.const 1052) (i32.const 5))
    (i32.const 1024))
  (func $echo (param $data i32) (param $len i32) (result i32)
    (memory.fill (i32.const 2048) (i32.const 0) (i32.const 88))
    (i32.store offset=16 (i32.const 2048) (i32.const 16))
    (i32.store offset=20 (i32.const 2048) (i32.const 12))
    (i32.store offset=76 (i32.const 2048) (local.get $data))
    (i32.store offset=80 (i32.const 2048) (local.get $len))
    (call $ok (i32.const 1)))
  (func $attempt (result i32)
    (call $context (i32.const 4096))
    (i32.load offset=8 (i32.const 4096)))
  (func $is (param $letter i32) (param $data i32) (result i32)
    (i32.eq (local.get $letter) (i32.load8_u offset=7 (local.get $data))))
  (func $handle (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32)
    (local $data i32) (local $len i32) (local $n i32)
    (local.set $data (i32.load offset=76 (local.get $event)))
    (local.set $len (i32.load offset=80 (local.get $event)))
    (if (i32.lt_u (local.get $len) (i32.const 10)) (then (return (call $echo (local.get $data) (local.get $len)))))
    (if (i32.ne (i32.load offset=2 (local.get $data)) (i32.const 0x3a226f64)) ;; do":
      (then (return (call $echo (local.get $data) (local.get $len)))))
    (local.set $n (i32.sub (i32.load8_u offset=8 (local.get $data)) (i32.const 48)))
    (if (call $is (i32.const 0x6f) (local.get $data)) (then (return (call $ok (i32.const 0)))))
    (if (call $is (i32.const 0x66) (local.get $data)) (then
      (if (i32.le_u (call $attempt) (local.get $n)) (then (return (call $err (i32.const 0)))))))
    (if (call $is (i32.const 0x61) (local.get $data)) (then
      (if (i32.eq (call $attempt) (i32.const 1)) (then (return (call $later (local.get $n)))))))
    (if (call $is (i32.const 0x72) (local.get $data)) (then (return (call $err (i32.const 2)))))
    (if (call $is (i32.const 0x73) (local.get $data)) (then
      (call $block (call $timer (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 50000000))))))
    (if (call $is (i32.const 0x7a) (local.get $data)) (then
      (call $block (call $timer (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 1000000000))))))
    (if (call $is (i32.const 0x79) (local.get $data)) (then
      (drop (call $echo (local.get $data) (local.get $len)))
      (i32.store offset=16 (i32.const 2048) (i32.add (local.get $data) (i32.const 16)))
      (i32.store offset=20 (i32.const 2048) (i32.sub (local.get $len) (i32.const 18)))
      (return (i32.const 1024))))
    (if (call $is (i32.const 0x74) (local.get $data)) (then (unreachable)))
    (if (call $is (i32.const 0x6c) (local.get $data)) (then (loop $l (br $l))))
    (if (call $is (i32.const 0x6d) (local.get $data)) (then (loop $l (drop (memory.grow (i32.const 1))) (br $l))))
    (if (call $is (i32.const 0x64) (local.get $data)) (then (return (call $handle (local.get $event)))))
    (if (call $is (i32.const 0x62) (local.get $data)) (then
      (drop (memory.grow (i32.const 200)))
      (return (call $echo (i32.const 8192) (i32.const 10485760)))))
    (call $echo (local.get $data) (local.get $len))))"#;

/// Does what the lines of the event's data say, each a letter, a blank and a text:
///
/// `x` execute the statement · `p` the same with the event's id as `$1` · `r` the same with the first row of the last
/// query as `$1` · `q` query · `e` emit a `mail.welcome` event with the text as its data. A line that is a JSON object is
/// inserted into the table `told`. An error that a call gives is a
/// rejection with its words.
const SQL: &str = r#"(module
  (import "oncue:function/sql@0.1.0" "query" (func $query (param i32 i32 i32 i32 i32)))
  (import "oncue:function/sql@0.1.0" "execute" (func $execute (param i32 i32 i32 i32 i32)))
  (import "oncue:function/emitter@0.1.0" "emit" (func $emit (param i32 i32)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 8192))
  (global $row (mut i32) (i32.const 0))
  (global $rowlen (mut i32) (i32.const 0))
  (data (i32.const 16) "mail.welcome")
  (data (i32.const 64) "insert into told (data) values ($1::jsonb)")
  (func $alloc (export "cabi_realloc") (param $old i32) (param $oldlen i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow
        (i32.add (i32.const 1) (i32.div_u (local.get $len) (i32.const 65536))))))
      unreachable)
    (local.get $at))
  ;; the one value at 1600 is the text ($at, $len)
  (func $value (param $at i32) (param $len i32)
    (memory.fill (i32.const 1600) (i32.const 0) (i32.const 16))
    (i32.store8 (i32.const 1600) (i32.const 4))
    (i32.store (i32.const 1608) (local.get $at))
    (i32.store (i32.const 1612) (local.get $len)))
  (func $line (param $event i32) (param $op i32) (param $at i32) (param $len i32)
    (if (i32.eq (local.get $op) (i32.const 0x78)) (then ;; x
      (call $execute (local.get $at) (local.get $len) (i32.const 1600) (i32.const 0) (i32.const 1664))))
    (if (i32.eq (local.get $op) (i32.const 0x70)) (then ;; p
      (call $value (i32.load (local.get $event)) (i32.load offset=4 (local.get $event)))
      (call $execute (local.get $at) (local.get $len) (i32.const 1600) (i32.const 1) (i32.const 1664))))
    (if (i32.eq (local.get $op) (i32.const 0x72)) (then ;; r
      (call $value (global.get $row) (global.get $rowlen))
      (call $execute (local.get $at) (local.get $len) (i32.const 1600) (i32.const 1) (i32.const 1664))))
    (if (i32.eq (local.get $op) (i32.const 0x7b)) (then ;; {
      (call $value (i32.sub (local.get $at) (i32.const 2)) (i32.add (local.get $len) (i32.const 2)))
      (call $execute (i32.const 64) (i32.const 42) (i32.const 1600) (i32.const 1) (i32.const 1664))))
    (if (i32.eq (local.get $op) (i32.const 0x71)) (then ;; q
      (call $query (local.get $at) (local.get $len) (i32.const 1600) (i32.const 0) (i32.const 1664))
      (if (i32.eqz (i32.load8_u (i32.const 1664))) (then
        (if (i32.load (i32.const 1672)) (then
          (global.set $row (i32.load (i32.load (i32.const 1668))))
          (global.set $rowlen (i32.load offset=4 (i32.load (i32.const 1668))))))))))
    (if (i32.eq (local.get $op) (i32.const 0x65)) (then ;; e
      (memory.fill (i32.const 2048) (i32.const 0) (i32.const 88))
      (i32.store offset=16 (i32.const 2048) (i32.const 16))
      (i32.store offset=20 (i32.const 2048) (i32.const 12))
      (i32.store offset=76 (i32.const 2048) (local.get $at))
      (i32.store offset=80 (i32.const 2048) (local.get $len))
      (call $emit (i32.const 2048) (i32.const 1664)))))
  (func $handle (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32)
    (local $at i32) (local $end i32) (local $eol i32)
    (local.set $at (i32.load offset=76 (local.get $event)))
    (local.set $end (i32.add (local.get $at) (i32.load offset=80 (local.get $event))))
    (block $done
      (loop $lines
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $eol (local.get $at))
        (block $found (loop $scan
          (br_if $found (i32.ge_u (local.get $eol) (local.get $end)))
          (br_if $found (i32.eq (i32.load8_u (local.get $eol)) (i32.const 10)))
          (local.set $eol (i32.add (local.get $eol) (i32.const 1)))
          (br $scan)))
        (call $line (local.get $event) (i32.load8_u (local.get $at)) (i32.add (local.get $at) (i32.const 2))
          (i32.sub (i32.sub (local.get $eol) (local.get $at)) (i32.const 2)))
        (if (i32.load8_u (i32.const 1664)) (then
          (i32.store8 (i32.const 1024) (i32.const 1))
          (i32.store8 (i32.const 1032) (i32.const 2))
          (i32.store (i32.const 1040) (i32.load (i32.const 1668)))
          (i32.store (i32.const 1044) (i32.load (i32.const 1672)))
          (return (i32.const 1024))))
        (local.set $at (i32.add (local.get $eol) (i32.const 1)))
        (br $lines)))
    (i32.store8 (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1032) (i32.const 2048))
    (i32.store (i32.const 1036) (i32.const 0))
    (i32.const 1024)))"#;

/// The function that runs the statements that its events hold.
pub fn sql() -> Vec<u8> {
    component(SQL)
}

/// The function that does what its events say.
pub fn steered() -> Vec<u8> {
    component(STEERED)
}

/// The committed example.
pub fn welcome() -> Vec<u8> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/functions/welcome/welcome.wasm");
    std::fs::read(file).expect("the component is committed")
}

/// What both may do: publish `mail.welcome` on the bus `main`.
pub fn spec() -> Value {
    json!({ "grants": { "publish": ["main/mail.welcome"] } })
}

/// A component of the core module `text`, for the world of functions.
pub fn component(text: &str) -> Vec<u8> {
    let mut core = wat::parse_str(text).expect("the text is valid");
    let empty = wat::parse_str("(component)").expect("an empty component is valid");
    let Ok(DecodedWasm::Component(mut resolve, _)) = wit_component::decode(&empty) else {
        panic!("an empty component decodes");
    };
    resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/functions/wit")).expect("the WIT package resolves");
    let package = resolve.push_str("fixture.wit", WASI).expect("the fixture's world resolves");
    let world = resolve.select_world(&[package], Some("fixture")).expect("the fixture's world is there");
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata fits");
    let mut encoder = ComponentEncoder::default().module(&core).expect("the module is valid");
    encoder.encode().expect("the module fits the world")
}
