//! Components for the tests, assembled in-process from the WebAssembly text of one core module.
//!
//! Invariant: nothing here needs a toolchain or a file but `functions/wit`. The offsets below are the canonical ABI's
//! layout of the records in `functions/wit/function.wit`; a change there moves them.

use bytes::Bytes;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

use crate::event::Event;
use crate::function::{FunctionSpec, Grants};

/// The parts of WASI that fixtures use, so that the files in `functions/wit` need not hold them.
const WASI: &str = r#"
package test:fixture;
world fixture {
  include oncue:function/function@0.1.0;
  import wasi:cli/stdout@0.2.0;
  import wasi:cli/exit@0.2.0;
  import wasi:clocks/monotonic-clock@0.2.0;
}
package wasi:io@0.2.0 {
  interface poll { resource pollable { block: func(); } }
  interface error { resource error; }
  interface streams {
    use error.{error};
    variant stream-error { last-operation-failed(error), closed }
    resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
  }
}
package wasi:cli@0.2.0 {
  interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }
  interface exit { exit: func(status: result); }
}
package wasi:clocks@0.2.0 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
  }
}
"#;

/// What every fixture has: 64 KiB of memory; an allocator that only goes up, and grows the memory as `malloc` does.
/// `$out` is the area for results at 1024: its first byte is the `result`, its payload is at 1032.
const PRELUDE: &str = r#"
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 8192))
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
  ;; An event at $at of type ($ty, $tylen) with $len bytes of data at $data; everything else is empty.
  (func $event (param $at i32) (param $ty i32) (param $tylen i32) (param $data i32) (param $len i32)
    (memory.fill (local.get $at) (i32.const 0) (i32.const 88))
    (i32.store offset=16 (local.get $at) (local.get $ty))
    (i32.store offset=20 (local.get $at) (local.get $tylen))
    (i32.store offset=76 (local.get $at) (local.get $data))
    (i32.store offset=80 (local.get $at) (local.get $len)))
  ;; ok with $len events at $list
  (func $ok (param $list i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1032) (local.get $list))
    (i32.store (i32.const 1036) (local.get $len))
    (i32.const 1024))
  ;; the error $case with the text ($at, $len)
  (func $err (param $case i32) (param $at i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (local.get $case))
    (i32.store (i32.const 1040) (local.get $at))
    (i32.store (i32.const 1044) (local.get $len))
    (i32.const 1024))
  (data (i32.const 16) "mail.welcome")
  (data (i32.const 32) "mail.other")
  (data (i32.const 48) "words")
"#;

/// A component whose `handle` has `body`, which gets the event's address as `$event` and gives the result's.
pub(super) fn function(body: &str) -> Bytes {
    module("", body)
}

/// A component with `items` (imports first) beside the prelude.
pub(super) fn module(items: &str, body: &str) -> Bytes {
    let text = format!(
        r#"(module {items} {PRELUDE}
             (func $handle (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32) {body}))"#
    );
    encode(&wat::parse_str(text).expect("the fixture is valid text"))
}

fn encode(core: &[u8]) -> Bytes {
    let empty = wat::parse_str("(component)").expect("an empty component is valid");
    let Ok(DecodedWasm::Component(mut resolve, _)) = wit_component::decode(&empty) else {
        panic!("an empty component decodes");
    };
    resolve.push_path("functions/wit").expect("the WIT package resolves");
    let package = resolve.push_str("fixture.wit", WASI).expect("the fixture's world resolves");
    let world = resolve.select_world(&[package], Some("fixture")).expect("the fixture's world is there");
    let mut core = core.to_vec();
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata fits");
    let mut encoder = ComponentEncoder::default().module(&core).expect("the module is valid");
    Bytes::from(encoder.encode().expect("the module fits the world"))
}

/// Grants for the types that fixtures emit.
pub(super) fn spec() -> FunctionSpec {
    let grants = Grants { publish: vec!["bus/mail.welcome".to_owned()], sql: None };
    FunctionSpec { grants, ..FunctionSpec::default() }
}

/// An event like those of the demo.
pub(super) fn event() -> Event {
    Event {
        id: "e1".to_owned(),
        source: "shop".to_owned(),
        ty: "user.signup".to_owned(),
        subject: Some("42".to_owned()),
        time: time::OffsetDateTime::from_unix_timestamp(1_700_000_000).ok(),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: vec![("region".to_owned(), "eu".to_owned().into())],
        data: Bytes::from_static(br#"{"email":"a@example.com"}"#),
    }
}
