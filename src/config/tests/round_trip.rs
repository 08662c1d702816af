//! The round trip from a manifest to rows and back, and the plan between them.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::super::*;
use super::parse;
use crate::store::control::{ControlPlane, FunctionVersion, RuleRow, TriggerRow};

const WHOLE: &str = r#"
[node]
health = "off"   # nothing to see

[bus.events]
kind = "nats"
url = "${NATS_URL}"

[bus.app]
kind = "postgres"
url = "${DATABASE_URL}"
accept_unbounded_wal = true

[trigger.all]
bus = "events"
stream = "APP"
subjects = ["user.>", "order.*"]
durable = "d"
start = { sequence = 7 }
ack_wait = "1m 30s"
max_ack_pending = 5
create_stream = true

[trigger.core]
bus = "events"
subject = "user.*"
queue = "q"
record = "all"
record_for = "90m"

[trigger.users]
bus = "app"
tables = ["public.users", "shop.\"Orders\""]
messages = []
publication = "p"
slot = "s"
create = true
start = "snapshot"
relay = "events/db"
chunk_rows = 10
rows_per_second = 100
failover = true

[trigger.messages]
bus = "app"
messages = [">"]

[trigger.published]
bus = "app"
publication = "q"

[function.welcome]
component = "w.wasm"
build = { command = "make \"x\"", watch = ["src/**"] }
limits = { timeout = "250ms", memory = "1000000B", fuel = 5, concurrency = 2, output = "1KiB", output_events = 3, log = "0B" }
grants = { publish = ["events/mail.*"], sql = { role = "Mail er" } }
config = { KEY = "v\n'\"", "a b" = "", "q\"\u007f" = "\u0000\u0085" }

[[rule]]
name = "first"
trigger = "all"
pattern = '{"type": ["a'"]}'
run = "welcome@1"
input = '{"x":"<$.data.x>"}'
ordering_key = "$.data.id"
on_failure = "skip"
retry = { max_attempts = 3, base = "2s", cap = "20s", max_age = "1h" }
rate = { per_second = 5, key = "$.data.t" }
enabled = false

[[rule]]
name = "second"
match_all = true
publish = "events/copy"
"#;

/// The tables as they are after the manifest was applied.
fn tables_of(config: &Config) -> ControlPlane {
    let functions = config.manifest.functions.values().map(|f| FunctionVersion {
        function: f.name.clone(),
        version: 1,
        digest: vec![7; 32],
        spec: f.spec.clone(),
        current: true,
        created_at: OffsetDateTime::UNIX_EPOCH,
    });
    let triggers = config.manifest.triggers.values().map(|t| TriggerRow {
        name: t.name.clone(),
        bus: t.bus.clone(),
        kind: t.spec.kind().to_owned(),
        spec: t.spec.to_json(),
        state: "active".to_owned(),
        error: None,
        identity: None,
        record: t.recording.what.name().to_owned(),
        record_for_ms: i64::try_from(t.recording.keep.as_millis()).expect("days"),
    });
    let rules = config.manifest.rules.iter().map(|r| RuleRow {
        rule: r.rule.clone(),
        error: None,
        cost: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
    });
    ControlPlane {
        version: 1,
        functions: functions.collect(),
        triggers: triggers.collect(),
        rules: rules.collect(),
        snapshot: String::new(),
        unreadable: Vec::new(),
    }
}

#[test]
fn an_exported_manifest_reads_as_the_same_rows() {
    let config = parse(&WHOLE.replace("a'", "a")).expect("the manifest is right");
    let tables = tables_of(&config);
    let exported = export(&tables, &config);
    let again = parse(&exported.text).unwrap_or_else(|e| panic!("{e}\n{}", exported.text));
    let rows = tables_of(&again);
    assert_eq!((&rows.triggers, &rows.rules), (&tables.triggers, &tables.rules), "{}", exported.text);
    assert_eq!(again.manifest.functions["welcome"].spec, config.manifest.functions["welcome"].spec);
    assert_eq!(again.manifest.functions["welcome"].build, config.manifest.functions["welcome"].build);
    assert_eq!(again.buses, config.buses);
    assert!(exported.text.contains("health = \"off\"   # nothing to see"), "connections are kept word for word");
    assert_eq!(export(&rows, &again), exported, "a second export changes nothing");
}

#[test]
fn what_was_applied_needs_no_change() {
    let config = parse(&WHOLE.replace("a'", "a")).expect("the manifest is right");
    let digests = BTreeMap::from([("welcome".to_owned(), vec![7; 32])]);
    let plan = Plan::new(&config.manifest, &digests, &tables_of(&config), true);
    assert_eq!((plan.changes, plan.unchanged), (Vec::new(), 8));
}

#[test]
fn a_plan_names_what_differs_and_keeps_what_it_was_not_asked_to_delete() {
    let config = parse(&WHOLE.replace("a'", "a")).expect("the manifest is right");
    let mut tables = tables_of(&config);
    tables.rules[0].rule.retry.max_attempts = 12;
    tables.rules[1].rule.name = "unnamed".to_owned();
    tables.functions[0].spec.limits.fuel = 9;
    let digests = BTreeMap::from([("welcome".to_owned(), vec![7; 32])]);
    let plan = Plan::new(&config.manifest, &digests, &tables, false);
    let shown: Vec<String> = plan
        .changes
        .iter()
        .map(|c| {
            format!(
                "{:?} {} {:?} {:?}",
                c.action,
                c.name,
                c.version,
                c.fields.iter().map(|f| &f.field).collect::<Vec<_>>()
            )
        })
        .collect();
    let expected = [
        "Change welcome Some(2) [\"limits.fuel\"]",
        "Change first None [\"retry.max_attempts\"]",
        "Create second None [\"match_all\", \"publish\"]",
        "Keep unnamed None []",
    ];
    assert_eq!(shown, expected);
}
