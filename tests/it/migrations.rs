//! The tables: made by whoever comes first, safe against illegal rows, kept for as long as they are promised.

use std::time::Duration;

use serde_json::json;

use crate::support::node::{Node, config};
use crate::support::{World, functions};

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_may_start_together_on_an_empty_database() {
    let world = World::without_tables().await;
    let names = ["one", "two", "three", "four"];
    let nodes: Vec<Node> = names.map(|name| Node::launch(config(&world, name))).into_iter().collect();
    for node in &nodes {
        node.ready().await;
    }
    let store = world.store();
    let (a, b, c) = tokio::join!(store.migrate(), store.migrate(), store.migrate());
    for again in [a, b, c] {
        again.expect("there is nothing left to do");
    }
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("the folder").count();
    let applied = world.number("select count(*) from oncue.migrations where success").await;
    assert_eq!(applied, i64::try_from(files).expect("few"));
    assert_eq!(world.number("select version from oncue.ruleset").await, 1, "nothing was written twice");
    for node in nodes {
        node.stop().await;
    }
}

const RULE: &str = "insert into oncue.rules (name, match_all, run) values ('r', true, 'f')";

#[tokio::test(flavor = "multi_thread")]
async fn illegal_rows_are_refused_by_the_constraint_that_names_the_reason() {
    let world = World::start().await;
    world.deploy("f", &functions::steered(), &functions::spec()).await;
    world.sql(RULE).await;
    let rule = |set: &str| format!("update oncue.rules set {set} where name = 'r'");
    let table = [
        ("components_digest_is_sha256_of_bytes", "insert into oncue.components (digest, bytes) values ('\\x00', 'x')".to_owned()),
        ("functions_name_is_lower_case", "insert into oncue.functions (name, current_version) values ('F', 1)".to_owned()),
        ("functions_current_version_exists", "update oncue.functions set current_version = 2".to_owned()),
        ("function_versions_spec_is_an_object", "insert into oncue.function_versions select function, 2, digest, '[]' from oncue.function_versions".to_owned()),
        ("function_versions_component_exists", "insert into oncue.function_versions values ('f', 2, '\\x01', '{}')".to_owned()),
        ("triggers_kind_is_known", "insert into oncue.triggers (name, bus, kind) values ('t', 'main', 'smtp')".to_owned()),
        ("triggers_record_is_known", "insert into oncue.triggers (name, bus, kind, record) values ('t', 'main', 'nats', 'some')".to_owned()),
        ("triggers_record_for_in_range", "insert into oncue.triggers (name, bus, kind, record_for_ms) values ('t', 'main', 'nats', 0)".to_owned()),
        ("triggers_relay_records_nothing", "insert into oncue.triggers (name, bus, kind, spec, record) values ('t', 'main', 'postgres', '{\"relay\":\"main/x\"}', 'all')".to_owned()),
        ("triggers_name_is_lower_case", "insert into oncue.triggers (name, bus, kind) values ('T t', 'main', 'nats')".to_owned()),
        ("triggers_spec_is_an_object", "insert into oncue.triggers (name, bus, kind, spec) values ('t', 'main', 'nats', '3')".to_owned()),
        ("rules_pkey", RULE.to_owned()),
        ("rules_trigger_exists", rule("trigger = 'nowhere'")),
        ("rules_run_names_a_function", rule("run = 'nobody'")),
        ("rules_run_names_a_version", rule("run_version = 7")),
        ("rules_run_or_publish", rule("publish = 'main/x'")),
        ("rules_run_or_publish", rule("run = null")),
        ("rules_publish_is_a_subject", rule("run = null, publish = 'main/x.*'")),
        ("rules_publish_is_bus_slash_subject", rule("run = null, publish = 'MAIN/x'")),
        ("rules_version_needs_run", rule("run = null, run_version = 1, publish = 'main/x'")),
        ("rules_pattern_is_an_object", rule("match_all = false, pattern = '[]'")),
        ("rules_pattern_or_match_all", rule(r#"pattern = '{"a":[1]}'"#)),
        ("rules_pattern_is_sound", rule("match_all = false, pattern = '{}'")),
        ("rules_pattern_is_sound", rule(r#"match_all = false, pattern = '{"a":[{"prefx":"x"}]}'"#)),
        ("rules_pattern_or_match_all", rule("match_all = false")),
        ("rules_on_failure_is_known", rule("on_failure = 'cry'")),
        ("rules_max_attempts_in_range", rule("retry_max_attempts = 0")),
        ("rules_retry_base_in_range", rule("retry_base_ms = 0")),
        ("rules_retry_cap_is_not_below_base", rule("retry_cap_ms = 1")),
        ("rules_rate_is_positive", rule("rate_per_second = 0")),
        ("rules_rate_key_needs_rate", rule("rate_key = '$.data.k'")),
        ("rules_batch_max_is_one", rule("batch_max = 2")),
        ("rules_name_is_lower_case", rule("name = 'Bad Name'")),
        ("ruleset_pkey", "insert into oncue.ruleset default values".to_owned()),
        ("ruleset_has_one_row", "insert into oncue.ruleset (only_row) values (false)".to_owned()),
        ("nodes_state_is_known", "insert into oncue.nodes values ('n', '0', 'lost', 1)".to_owned()),
        ("parked_claim_is_whole", "insert into oncue.parked (delivery_id, trigger, rule, event, transport_key, class, next_at, node) values (gen_random_uuid(), 't', 'r', '', '', 'c', now(), 'n')".to_owned()),
        ("dead_letters_kind_is_known", "insert into oncue.dead_letters (id, kind, trigger, rule, class, error, raw, transport_key) values (gen_random_uuid(), 'odd', 't', 'r', 'c', '', '', '')".to_owned()),
        ("dead_letters_failed_names_its_rule", "insert into oncue.dead_letters (id, kind, trigger, class, error, raw, transport_key) values (gen_random_uuid(), 'failed', 't', 'c', '', '', '')".to_owned()),
    ];
    for (constraint, statement) in table {
        assert_eq!(world.refusal(&statement).await, constraint, "{statement}");
    }
    let not_json = rule("match_all = false, pattern = '{oops'");
    assert!(world.refusal(&not_json).await.contains("invalid input syntax for type json"));
    assert_eq!(world.number("select count(*) from oncue.rules where run = 'f' and match_all").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_cannot_be_changed_and_an_epoch_cannot_fall() {
    let world = World::start().await;
    world.deploy("f", &functions::steered(), &functions::spec()).await;
    let refusal = world.refusal("update oncue.function_versions set spec = '{}'").await;
    assert!(refusal.contains("f@1 is immutable: deploy a new version"), "{refusal}");
    let store = world.store();
    let minute = Duration::from_secs(60);
    assert_eq!(store.take_lease("slot", "a", minute).await.expect("a lease"), Some(1));
    assert_eq!(store.take_lease("slot", "b", minute).await.expect("an answer"), None);
    assert_eq!(store.take_lease("slot", "a", minute).await.expect("a renewal"), Some(1));
    store.release_leases("a").await.expect("released");
    assert_eq!(store.take_lease("slot", "b", minute).await.expect("a lease"), Some(2));
    let refusal = world.refusal("update oncue.leases set epoch = 1").await;
    assert!(refusal.contains("epoch 1 is not above 2"), "{refusal}");
    let refusal = world.refusal("update oncue.leases set owner = 'c'").await;
    assert!(refusal.contains("is not above 2"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_partitions_are_dropped_and_young_rows_stay() {
    let world = World::start().await;
    let store = world.store();
    let row = |at: &str| {
        format!(
            "insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule, outcome,
                 settlement, started_at, micros, fuel, peak_memory, outputs, node)
             values (oncue.delivery_floor({at}), 1, 'e', 't', 's', 't', 'r', 'ok', 'done', now(), 1, 1, 1, 0, 'n')"
        )
    };
    // Ten days ago with a partition, yesterday and now with theirs, and a time that no partition covers.
    world.sql("select oncue.ensure_partitions((now() at time zone 'UTC')::date - 10)").await;
    for days in [10, 1, 0] {
        world.sql(&row(&format!("now() - make_interval(days => {days})"))).await;
    }
    world.sql(&row("to_timestamp(0)")).await;
    assert_eq!(world.number("select count(*) from oncue.ledger_default").await, 1);
    let done = store.maintain(Duration::from_secs(7 * 24 * 3_600)).await.expect("it is maintained");
    assert_eq!(done.dropped.len(), 3, "ledger, logs and record of that day: {done:?}");
    assert_eq!(world.ledger("true").await, 3, "the default partition goes by when a row was settled");
    let again = store.maintain(Duration::from_secs(7 * 24 * 3_600)).await.expect("it is maintained");
    assert!(again.dropped.is_empty() && again.blocked_days == 0, "{again:?}");
    let ahead = "select count(*) from pg_class where relname = 'ledger_' || to_char((now() at time zone 'UTC')::date + 2, 'YYYYMMDD')";
    assert_eq!(world.number(ahead).await, 1);
    world.sql("update oncue.ledger_default set settled_at = now() - interval '8 days'").await;
    let done = store.maintain(Duration::from_secs(7 * 24 * 3_600)).await.expect("it is maintained");
    assert_eq!((done.deleted, world.ledger("true").await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_whose_rows_are_in_the_default_partition_is_reported_and_harms_nobody() {
    let world = World::start().await;
    let tomorrow = "(now() at time zone 'UTC')::date + 1";
    world
        .sql(&format!("do $$ begin execute 'drop table oncue.ledger_' || to_char({tomorrow}, 'YYYYMMDD'); end $$"))
        .await;
    world
        .sql(&format!(
            "insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule, outcome,
                 settlement, started_at, micros, fuel, peak_memory, outputs, node)
             values (oncue.delivery_floor(({tomorrow})::timestamp at time zone 'UTC'), 1, 'e', 't', 's', 't', 'r', 'ok',
                 'done', now(), 1, 1, 1, 0, 'n')"
        ))
        .await;
    let done = world.store().maintain(Duration::from_secs(7 * 24 * 3_600)).await.expect("it is maintained");
    assert_eq!((done.blocked_days, done.dropped.len()), (1, 0));
    assert_eq!(world.row("select event_id from oncue.ledger").await, json!({ "event_id": "e" }));
}
