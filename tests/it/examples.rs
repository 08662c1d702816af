//! The example functions, run on the events that their READMEs show.
//!
//! Invariant: welcome's committed component runs always; the others where they were built (`scripts/test --all` builds
//! them), and what was not run is said.

use std::path::{Path, PathBuf};

use oncue::delivery::{Effects, Outcome};
use oncue::event::codec::{self, Limits};
use oncue::function::FunctionSpec;
use oncue::runtime::{CallContext, Compiler, Runtime, RuntimeConfig};
use serde_json::{Value, json};

use crate::support::not_run;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("functions").join(name)
}

/// Runs example `name`; the emitted events as (type, subject, data), or none where it was not built.
async fn run(name: &str, grant: &str, config: &[(&str, &str)]) -> Option<Vec<(String, Option<String>, Value)>> {
    let file = folder(name).join(format!("{name}.wasm"));
    let Ok(component) = std::fs::read(&file) else {
        assert!(std::env::var_os("ONCUE_TEST_ALL").is_none(), "functions/build {name} made no component");
        not_run(&format!("example {name}"), "it was not built; scripts/test --all builds it");
        return None;
    };
    let mut spec = FunctionSpec::default();
    spec.limits.memory_bytes = 256 << 20;
    spec.limits.fuel = 20_000_000_000;
    spec.limits.timeout_ms = 20_000;
    spec.grants.publish.push(grant.to_owned());
    spec.config.extend(config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let runtime = Runtime::new(RuntimeConfig {
        slots: 2,
        compiler: Compiler::Program(env!("CARGO_BIN_EXE_oncue").into()),
        ..RuntimeConfig::default()
    })
    .expect("an engine");
    let function = runtime.load(name, component.into(), &spec).await.expect("the example loads");
    let event = std::fs::read(folder(name).join("event.json")).expect("the example's event");
    let event = codec::from_structured(&event, &Limits::default()).expect("it is an event");
    let context = CallContext { delivery_id: "d-1".to_owned(), attempt: 1, ..CallContext::default() };
    let report = runtime.invoke(&function, &event, context).await;
    let Outcome::Ok(Effects { events, .. }) = report.outcome else { panic!("{name}: {:?}", report.outcome) };
    let shown = |data: &[u8]| serde_json::from_slice(data).expect("the emitted data are JSON");
    Some(events.into_iter().map(|e| (e.ty, e.subject, shown(&e.data))).collect())
}

#[tokio::test]
async fn welcome_greets_a_new_user() {
    let events = run("welcome", "events/mail.*", &[]).await.expect("its component is committed");
    let data = json!({"to": "ada@example.com", "subject": "Welcome, Ada", "delivery": "d-1"});
    assert_eq!(events, [("mail.welcome".to_owned(), Some("ada@example.com".to_owned()), data)]);
}

#[tokio::test]
async fn order_summary_adds_up_an_order() {
    let Some(events) = run("order-summary", "events/order.*", &[("large_total", "3000")]).await else { return };
    let data = json!({"order": "A-1001", "currency": "EUR", "items": 5, "total": 3940});
    let subject = Some("A-1001".to_owned());
    let expected =
        [("order.summary".to_owned(), subject.clone(), data.clone()), ("order.large".to_owned(), subject, data)];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn enrich_adds_what_an_address_tells() {
    let Some(events) = run("enrich", "events/user.*", &[]).await else { return };
    let data =
        json!({"email": "ada@example.com", "name": "Ada", "plan": "free", "domain": "example.com", "kind": "work"});
    assert_eq!(events, [("user.enriched".to_owned(), Some("ada@example.com".to_owned()), data)]);
}

#[tokio::test]
async fn fingerprint_hashes_a_payload() {
    let Some(events) = run("fingerprint", "events/content.*", &[]).await else { return };
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(events, [("content.fingerprint".to_owned(), Some(hash.to_owned()), json!({ "sha256": hash }))]);
}
