//! What is recorded of a trigger's events: as much as it is told to, byte for byte, for as long as it is told to.

use std::time::Duration;

use oncue::event::Event;
use oncue::event::codec;
use serde_json::{Value, json};

use crate::support::process::{Process, manifest, run};
use crate::support::{Node, World, eventually, functions};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A world with a stream of users, a trigger on it that records `record`, and a rule for signups.
async fn world(record: &str) -> World {
    let world = World::start().await;
    world.stream("USERS", &["user.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("users", "USERS", json!({})).await;
    world.sql(&format!("update oncue.triggers set record = '{record}'")).await;
    world
        .sql(
            r#"insert into oncue.rules (name, trigger, pattern, run) values
               ('greet', 'users', '{"type":["user.signup"]}', 'steered'),
               ('count', 'users', '{"type":[{"prefix":"user.sign"}]}', 'steered')"#,
        )
        .await;
    world
}

/// Everything that is recorded, in the order of the sources' times.
async fn recorded(world: &World) -> Vec<(bool, Event)> {
    let since = time::OffsetDateTime::UNIX_EPOCH;
    let rows = world.store().recorded_events("users", since, None, 1_000).await.expect("the record is read");
    let event = |attributes: &[u8], data: Vec<u8>| codec::from_parts(attributes, data).expect("it was written here");
    rows.into_iter().map(|row| (row.matched, event(&row.attributes, row.data))).collect()
}

async fn acknowledged(world: &World) {
    eventually("all are acknowledged", async || world.drained("USERS", "oncue-users").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_records_what_its_row_says() {
    let mut in_all = 0;
    for (record, expected) in [("none", 0), ("matched", 20), ("all", 30)] {
        let world = world(record).await;
        let node = Node::start(&world, "one").await;
        world.publish_all("user.signup", (0..20).map(|n| format!(r#"{{"do":"o0","n":{n}}}"#))).await;
        world.publish_all("user.left", (0..10).map(|n| format!(r#"{{"n":{n}}}"#))).await;
        acknowledged(&world).await;
        eventually("what no rule matched is counted", async || {
            world.number("select coalesce(sum(count), 0) from oncue.unmatched").await == 10
        })
        .await;
        // An event is recorded once, though two rules matched it.
        assert_eq!(world.ledger("true").await, 40, "{record}");
        let events = recorded(&world).await;
        assert_eq!(events.len(), expected, "{record}");
        assert!(events.iter().all(|(matched, event)| *matched == (event.ty == "user.signup")), "{record}: {events:?}");
        let counted = node.metric("oncue_recorded_total{trigger=\"users\"}").await.unwrap_or_default();
        in_all += expected;
        assert_eq!(counted as usize, in_all, "{record}: the metric is this process's");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_any_shape_is_recorded_byte_for_byte() {
    let world = world("all").await;
    let node = Node::start(&world, "one").await;
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let payloads: [(&str, Vec<u8>); 8] = [
        ("application/octet-stream", b"\x00\x00a\x00".to_vec()),
        ("application/octet-stream", b"\xff\xfe\x80".to_vec()),
        ("application/json", b" {\"a\" : 1.00,\t\"a\":\"\\u0000\\ud800\"} \n".to_vec()),
        ("application/json", b"{\"broken".to_vec()),
        ("application/json", deep.into_bytes()),
        ("application/json", format!("\"{}\"", "x".repeat((1 << 20) - 2_000)).into_bytes()),
        ("text/plain; charset=utf-8", "grüezi\u{0}".as_bytes().to_vec()),
        ("application/json", Vec::new()),
    ];
    for (n, (content_type, payload)) in payloads.iter().enumerate() {
        let (id, subject) = (format!("e\"{n}"), "é".repeat(n));
        let attributes = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "a b"), ("ce-type", "user.odd")];
        let more = [("content-type", *content_type), ("ce-tenant", "ac\"me"), ("ce-subject", &subject)];
        let all = [&attributes[..], if n > 0 { &more[..] } else { &more[..2] }].concat();
        world.publish("user.x", &all, payload).await;
    }
    acknowledged(&world).await;
    let events = recorded(&world).await;
    assert_eq!(events.len(), payloads.len());
    for (n, (content_type, payload)) in payloads.iter().enumerate() {
        let id = format!("e\"{n}");
        let (_, event) = events.iter().find(|(_, event)| event.id == id).expect("it is there");
        assert_eq!(event.data, payload.as_slice(), "{n}");
        assert_eq!((event.ty.as_str(), event.source.as_str()), ("user.odd", "a b"));
        assert_eq!(event.datacontenttype.as_deref(), Some(*content_type));
        assert_eq!(event.subject.as_deref().map_or(0, |s| s.chars().count()), n);
        let tenant = event.extension("tenant").map(ToString::to_string);
        assert_eq!(tenant.as_deref(), Some("ac\"me"));
    }
    let said = run(&manifest(&world, "shop", "").0, &["explain", "e\"3", "greet"]).await;
    assert!(said.code == 0 && said.out.contains("got \"user.odd\""), "an event of the record is explained: {said:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_the_longest_id_is_settled_recorded_and_found() {
    let world = world("all").await;
    let node = Node::start(&world, "one").await;
    // Nothing that an index could make shorter.
    let id: String = (0..256_u32)
        .map(|n| format!("{:032x}", u128::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)))
        .collect();
    assert_eq!(id.len(), 8_192);
    let headers = [("ce-specversion", "1.0"), ("ce-source", "s"), ("ce-type", "user.signup"), ("ce-id", id.as_str())];
    world.publish("user.x", &headers, br#"{"do":"o0"}"#).await;
    acknowledged(&world).await;
    assert_eq!((world.ledger("settlement = 'done'").await, recorded(&world).await.len()), (2, 1));
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    let rows = world.store().ledger_of_event(&id, 10).await.expect("the ledger is read");
    assert_eq!(rows.len(), 2);
    let said = run(&manifest(&world, "shop", "").0, &["explain", &id, "greet"]).await;
    assert!(said.code == 0 && said.out.contains("greet matches") && said.out.contains("ok, done"), "{said:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_is_recorded_once_and_one_that_fails_as_well() {
    let world = world("all").await;
    let node = Node::start(&world, "one").await;
    world.publish("user.signup", &[], br#"{"do":"r0"}"#).await;
    world.publish("user.signup", &[], br#"{"do":"f9"}"#).await;
    world.publish("user.left", &[], b"{}").await;
    acknowledged(&world).await;
    node.stop().await;
    let before = recorded(&world).await;
    assert_eq!(before.len(), 3);
    // A consumer that is gone is made anew, and reads everything again.
    world.jetstream.delete_consumer_from_stream("oncue-users", "USERS").await.expect("it is deleted");
    let node = Node::start(&world, "two").await;
    world.publish("user.left", &[], b"{}").await;
    acknowledged(&world).await;
    let after = recorded(&world).await;
    assert_eq!((after.len(), &after[..3]), (4, &before[..]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_row_is_followed_and_a_feed_makes_what_only_the_record_wants() {
    let world = World::start().await;
    world.sql("create table users (id bigint primary key)").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({})).await;
    let pattern = r#"{"type":["postgres.public.users.delete"]}"#;
    world.sql(&format!("insert into oncue.rules (name, pattern, run) values ('gone', '{pattern}', 'steered')")).await;
    let node = Process::start_with_feed(&world, "one").await;
    world.sql("insert into users values (1)").await;
    eventually("it is counted", async || world.number("select count(*) from oncue.unmatched").await == 1).await;
    assert_eq!(recorded(&world).await.len(), 0);
    world.sql("update oncue.triggers set record = 'all'").await;
    let (manifest, _) = manifest(&world, "shop", "");
    let mut n = 1;
    eventually("it is recorded", async || {
        n += 1;
        world.sql(&format!("insert into users values ({n})")).await;
        !recorded(&world).await.is_empty()
    })
    .await;
    let (matched, event) = recorded(&world).await.remove(0);
    let data: Value = serde_json::from_slice(&event.data).expect("JSON");
    assert!(!matched && event.ty == "postgres.public.users.insert" && data["after"]["id"].is_number(), "{event:?}");
    let said = run(&manifest, &["trigger", "show", "users"]).await;
    assert!(said.code == 0 && said.out.contains("record   all for 7days"), "{said:?}");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_says_what_is_recorded_and_the_tables_say_it_back() {
    let world = World::start().await;
    let text = "[trigger.users]\nbus = \"main\"\nsubject = \"user.>\"\nrecord = \"matched\"\nrecord_for = \"36h\"\n";
    let (path, _) = manifest(&world, "shop", text);
    assert_eq!(run(&path, &["apply"]).await.code, 0);
    let row = world.row("select record, record_for_ms from oncue.triggers").await;
    assert_eq!(row, json!({ "record": "matched", "record_for_ms": 36 * 3_600_000 }));
    let shown: Value = serde_json::from_str(&run(&path, &["trigger", "show", "users", "--output", "json"]).await.out)
        .expect("a document");
    assert_eq!((&shown["record"], &shown["record_for"]), (&json!("matched"), &json!("1day 12h")));
    let exported = run(&path, &["export"]).await.out;
    assert!(exported.contains("record = \"matched\"\nrecord_for = \"1day 12h\""), "{exported}");
    // The address of the database comes from the environment: an export holds no secret.
    std::fs::write(&path, exported.replace("${NODE_DATABASE}", world.postgres.url())).expect("it is written");
    let plan = run(&path, &["plan"]).await;
    assert!(plan.code == 0 && plan.out.contains("1 unchanged"), "{plan:?}");
    let (wrong, _) = manifest(&world, "wrong", &text.replace("matched", "everything"));
    let said = run(&wrong, &["plan"]).await;
    assert!(said.code == 1 && said.err.contains("trigger.users.record: \"everything\" is unknown"), "{said:?}");
    let (changed, _) = manifest(&world, "changed", &text.replace("36h", "2h"));
    let plan = run(&changed, &["plan"]).await;
    assert!(plan.out.contains("record_for") && plan.out.contains("2h"), "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_kept_as_long_as_its_trigger_says_and_no_longer() {
    let world = World::start().await;
    world
        .sql(
            "insert into oncue.triggers (name, bus, kind, spec, record, record_for_ms) values
                 ('short', 'main', 'nats', '{\"subject\":\"a\"}', 'all', 3600000),
                 ('long', 'main', 'nats', '{\"subject\":\"b\"}', 'all', 3 * 86400000);
             select oncue.ensure_partitions((now() at time zone 'UTC')::date - 5)",
        )
        .await;
    // Minutes ago by the source, minutes ago recorded.
    let rows = [(1, 1), (120, 120), (120, 1), (5 * 1_440, 5 * 1_440), (10 * 1_440, 10 * 1_440), (10 * 1_440, 1)];
    for trigger in ["short", "long", "gone"] {
        for (n, (source, recorded)) in rows.iter().enumerate() {
            // Ids must differ.
            let source = format!("now() - interval '{source} minutes {n} seconds'");
            world
                .sql(&format!(
                    "insert into oncue.recorded (trigger, id, event_id, event_type, matched, transport_key, attributes,
                         data, recorded_at)
                     values ('{trigger}', oncue.delivery_floor({source}), 'e{n}-{recorded}', 't', true, '', '',
                         '', now() - interval '{recorded} minutes')"
                ))
                .await;
        }
    }
    let done = world.store().maintain(30 * DAY).await.expect("it is maintained");
    assert!(done.dropped.iter().any(|name| name.starts_with("recorded_")), "{done:?}");
    let left =
        "select trigger, array_agg(event_id order by event_id) as events from oncue.recorded group by 1 order by 1";
    let left = world.rows(left).await;
    let expected = [
        json!({ "trigger": "gone", "events": ["e0-1", "e1-120", "e2-1", "e5-1"] }),
        json!({ "trigger": "long", "events": ["e0-1", "e1-120", "e2-1", "e5-1"] }),
        json!({ "trigger": "short", "events": ["e0-1", "e2-1", "e5-1"] }),
    ];
    assert_eq!(left, expected);
}
