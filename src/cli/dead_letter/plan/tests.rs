//! What letters become.

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Options, Planner};
use crate::delivery::DeliveryId;
use crate::event::codec::Limits;
use crate::event::codec::kafka::{Header, Kept, Record};
use crate::function::FunctionSpec;
use crate::retry::RetryPolicy;
use crate::rules::{OnFailure, Rule, Target};
use crate::store::control::{ControlPlane, FunctionVersion, RuleRow, TriggerRow};
use crate::store::dead_letters::{DeadLetter, DeadLetterRow};

fn rule(name: &str, pattern: &str) -> RuleRow {
    let rule = Rule {
        name: name.to_owned(),
        trigger: None,
        pattern: Some(pattern.to_owned()),
        target: Target::Run { function: "welcome".to_owned(), version: None },
        input: None,
        ordering_key: Some("$.data.id".to_owned()),
        on_failure: OnFailure::ParkKey,
        retry: RetryPolicy::default(),
        rate: None,
        enabled: true,
    };
    RuleRow { rule, error: None, cost: None, created_at: OffsetDateTime::UNIX_EPOCH }
}

fn control() -> ControlPlane {
    let version = |version| FunctionVersion {
        function: "welcome".to_owned(),
        version,
        digest: Vec::new(),
        spec: FunctionSpec::default(),
        current: version == 2,
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    ControlPlane {
        version: 1,
        functions: vec![version(1), version(2)],
        triggers: vec![TriggerRow {
            name: "signups".to_owned(),
            bus: "events".to_owned(),
            kind: "nats".to_owned(),
            spec: json!({"subject": "user.*"}),
            state: "active".to_owned(),
            error: None,
            identity: None,
            record: "none".to_owned(),
            record_for_ms: 0,
        }],
        rules: vec![rule("first", r#"{"type":["user.signup"]}"#), rule("second", r#"{"type":["user.signup"]}"#)],
        snapshot: String::new(),
        unreadable: Vec::new(),
    }
}

fn letter(rule: Option<&str>, version: Option<i32>, raw: &[u8], headers: &str) -> DeadLetter {
    let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).expect("a time in range");
    let row = DeadLetterRow {
        id: DeliveryId::derive(at, "signups", b"APP/1/7", rule.unwrap_or_default(), 0).0,
        kind: if rule.is_some() { "failed" } else { "rejected" }.to_owned(),
        trigger: "signups".to_owned(),
        rule: rule.map(str::to_owned),
        function: version.map(|_| "welcome".to_owned()),
        version,
        event_id: None,
        event_type: None,
        class: "trap".to_owned(),
        error: "unreachable".to_owned(),
        tries: 1,
        bytes: 0,
        dead_at: at,
        state: "dead".to_owned(),
        redriven_as: None,
    };
    DeadLetter {
        row,
        digest: None,
        raw: raw.to_vec(),
        headers: headers.as_bytes().to_vec(),
        transport_key: b"APP/1/7".to_vec(),
        generation: 0,
        ordering_key: None,
        attempts: json!([]),
    }
}

/// The rule, and the function with its version.
type Run = (String, Option<(String, i32)>);

fn plan(letter: &DeadLetter, options: Options) -> Result<Vec<Run>, String> {
    let planned = Planner::new(control(), options).plan(letter)?;
    Ok(planned.into_iter().map(|d| (d.rule, d.function)).collect())
}

#[test]
fn a_failed_delivery_runs_its_pinned_version_or_the_current_one() {
    let pinned = letter(Some("first"), Some(1), b"{}", "[]");
    let run = |version| Ok(vec![("first".to_owned(), Some(("welcome".to_owned(), version)))]);
    assert_eq!(plan(&pinned, Options::default()), run(1));
    assert_eq!(plan(&pinned, Options { with_current: true, ..Options::default() }), run(2));
    let gone = plan(&letter(Some("first"), Some(9), b"{}", "[]"), Options::default());
    assert!(gone.expect_err("the version is gone").contains("--with-current"));
    let gone = plan(&letter(Some("third"), Some(1), b"{}", "[]"), Options::default());
    assert!(gone.expect_err("the rule is gone").contains("rule third is gone"));
}

#[test]
fn a_redrive_has_a_new_id_with_the_old_time() {
    let old = letter(Some("first"), Some(1), b"{}", "[]");
    let planner = Planner::new(control(), Options::default());
    let ids: Vec<Uuid> = (0..2).flat_map(|_| planner.plan(&old).expect("it can run")).map(|d| d.delivery_id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], old.row.id);
    assert_eq!(DeliveryId(ids[0]).time(), DeliveryId(old.row.id).time());
}

#[test]
fn a_rejected_message_is_decoded_again_and_runs_for_each_rule_that_matches() {
    let headers = r#"[["ce-id","1"],["ce-source","/a"],["ce-type","user.signup"],["ce-specversion","1.0"]]"#;
    let message = letter(None, None, br#"{"id":7}"#, headers);
    let small = Limits { max_bytes: 4, ..Limits::default() };
    let still = plan(&message, Options { limits: small, ..Options::default() });
    assert!(still.expect_err("it is too large").contains("still cannot be decoded"));
    let rules: Vec<String> =
        plan(&message, Options::default()).expect("it can be decoded").into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, ["first", "second"]);
}

#[test]
fn a_rejected_record_is_decoded_again_with_its_key_and_its_topic_as_type() {
    let headers: &[Header<'_>] = &[("x", Some(b"\xff"))];
    let record = |topic| Kept::new(&Record { key: Some(b"k"), value: None, headers }, topic, 0, 7).to_json();
    let message = |topic| letter(None, None, b"", &String::from_utf8(record(topic)).expect("JSON is text"));
    assert_eq!(plan(&message("user.signup"), Options::default()).map(|p| p.len()), Ok(2));
    let other = plan(&message("user.other"), Options::default());
    assert!(other.expect_err("no rule").contains("no rule matches"));
    let named = Options { ty: Some("user.signup".to_owned()), ..Options::default() };
    assert_eq!(plan(&message("user.other"), named).map(|p| p.len()), Ok(2));
}

#[test]
fn a_plain_message_needs_a_type() {
    let message = |headers| letter(None, None, b"{}", headers);
    assert!(plan(&message("[]"), Options::default()).expect_err("no type").contains("--type"));
    let named = Options { ty: Some("user.signup".to_owned()), ..Options::default() };
    assert_eq!(plan(&message("[]"), named).map(|p| p.len()), Ok(2));
    assert_eq!(plan(&message(r#"[["Nats-Subject","user.signup"]]"#), Options::default()).map(|p| p.len()), Ok(2));
    let other = plan(&message(r#"[["Nats-Subject","user.other"]]"#), Options::default());
    assert!(other.expect_err("no rule").contains("no rule matches"));
}
