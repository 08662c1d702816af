//! The main job: an event on JetStream runs a function, is settled in Postgres, then acknowledged.

use async_nats::jetstream::message::StreamMessage;
use oncue::delivery::DeliveryId;
use serde_json::{Value, json};

use crate::support::{Node, World, eventually, functions};

/// A stream of signups, a stream of mails, and the rule `greet` between them.
async fn shop() -> World {
    let world = World::start().await;
    world.stream("SIGNUPS", &["user.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("welcome", &functions::welcome(), &functions::spec()).await;
    world.jetstream_trigger("signups", "SIGNUPS", json!({})).await;
    world
        .sql(r#"insert into oncue.rules (name, pattern, run) values ('greet', '{"type":["user.signup"]}', 'welcome')"#)
        .await;
    world
}

fn header(message: &StreamMessage, name: &str) -> String {
    message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signup_is_greeted_settled_and_then_acknowledged() {
    let world = shop().await;
    let node = Node::start(&world, "one").await;
    world.publish_all("user.signup", (0..20).map(|n| format!(r#"{{"email":"u{n}@example.com"}}"#))).await;
    eventually("all are acknowledged", async || world.drained("SIGNUPS", "oncue-signups").await).await;
    let info = world.consumer("SIGNUPS", "oncue-signups").await.expect("the consumer is there");
    assert_eq!((info.ack_floor.stream_sequence, info.num_redelivered), (20, 0));
    assert_eq!(world.ledger("true").await, 20, "one attempt each");
    let row = world.row("select * from oncue.ledger order by delivery_id limit 1").await;
    for (column, value) in [
        ("attempt", json!(1)),
        ("event_type", json!("user.signup")),
        ("event_source", json!("oncue/trigger/signups")),
        ("trigger", json!("signups")),
        ("rule", json!("greet")),
        ("function", json!("welcome")),
        ("version", json!(1)),
        ("outcome", json!("ok")),
        ("settlement", json!("done")),
        ("error", Value::Null),
        ("outputs", json!(1)),
        ("cause", Value::Null),
        ("node", json!("one")),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
    assert!(row["event_id"].as_str().is_some_and(|id| id.starts_with("SIGNUPS/")), "{row}");
    assert_eq!(world.ledger("micros > 0 and fuel > 0 and peak_memory > 0").await, 20);
    assert_eq!(world.stored("MAIL").await, 20);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_emits_carries_its_cause_and_deterministic_ids() {
    let world = shop().await;
    let node = Node::start(&world, "one").await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let payload = br#"{"email":"ada@example.com","name":"Ada"}"#;
    world.publish("user.signup", &[("traceparent", trace)], payload).await;
    eventually("it is settled", async || world.ledger("settlement = 'done'").await == 1).await;
    let mail = world.messages("MAIL").await.remove(0);
    let row = world.row("select delivery_id from oncue.ledger").await;
    let delivery = row["delivery_id"].as_str().expect("an id").to_owned();
    let id = DeliveryId(delivery.parse().expect("a UUID"));
    for (name, value) in [
        ("Nats-Msg-Id", id.output_id(0)),
        ("ce-id", id.output_id(0)),
        ("ce-source", "oncue/welcome".to_owned()),
        ("ce-type", "mail.welcome".to_owned()),
        ("ce-specversion", "1.0".to_owned()),
        ("ce-subject", "ada@example.com".to_owned()),
        ("ce-oncuecause", delivery.clone()),
        ("ce-oncuehops", "1".to_owned()),
        ("ce-traceparent", trace.to_owned()),
        ("content-type", "application/json".to_owned()),
    ] {
        assert_eq!(header(&mail, name), value, "{name}");
    }
    let body: Value = serde_json::from_slice(&mail.payload).expect("the mail is JSON");
    assert_eq!(body, json!({ "to": "ada@example.com", "subject": "Welcome, Ada", "delivery": delivery }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_the_sum_of_the_ledger_and_logs_are_kept() {
    let world = shop().await;
    let node = Node::start(&world, "one").await;
    world.publish_all("user.signup", (0..50).map(|n| format!(r#"{{"email":"u{n}@example.com"}}"#))).await;
    world.publish_all("user.signup", (0..5).map(|_| "{}".to_owned())).await;
    eventually("all are acknowledged", async || world.drained("SIGNUPS", "oncue-signups").await).await;
    let sums = "select trigger, rule, function, version, runs, failed, micros, fuel, outputs from oncue.usage";
    let ledger = "select trigger, rule, function, version, count(*) as runs,
        count(*) filter (where outcome <> 'ok') as failed, sum(micros)::bigint as micros, sum(fuel)::bigint as fuel,
        sum(outputs) as outputs from oncue.ledger group by 1, 2, 3, 4";
    let usage = world.row(sums).await;
    assert_eq!(usage, world.row(ledger).await);
    assert_eq!((&usage["runs"], &usage["failed"], &usage["outputs"]), (&json!(55), &json!(5), &json!(50)));
    let logs = world.rows("select lines from oncue.logs where function = 'welcome'").await;
    assert_eq!(logs.len(), 50, "those without an address were not greeted");
    assert!(logs[0]["lines"].as_str().is_some_and(|l| l.contains("greeting the user of event SIGNUPS/")), "{logs:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_rule_matches_is_counted_with_a_sample_and_acknowledged() {
    let world = shop().await;
    let node = Node::start(&world, "one").await;
    world.publish_all("user.left", (0..3).map(|n| format!(r#"{{"n":{n}}}"#))).await;
    world.publish("user.moved", &[], b"elsewhere").await;
    eventually("they are acknowledged", async || world.drained("SIGNUPS", "oncue-signups").await).await;
    let counts = "select event_type, count, trigger from oncue.unmatched order by event_type";
    let expected = vec![
        json!({ "event_type": "user.left", "count": 3, "trigger": "signups" }),
        json!({ "event_type": "user.moved", "count": 1, "trigger": "signups" }),
    ];
    eventually("they are counted", async || world.rows(counts).await == expected).await;
    let query = "select convert_from(sample, 'UTF8') as sample from oncue.unmatched where event_type = 'user.left'";
    let row = world.row(query).await;
    let sample: Value = serde_json::from_str(row["sample"].as_str().expect("text")).expect("structured mode");
    assert_eq!((&sample["type"], sample["data"]["n"].is_number()), (&json!("user.left"), true), "{sample}");
    assert_eq!(world.ledger("true").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_binary_and_structured_messages_become_the_same_kind_of_event() {
    let world = shop().await;
    let mut node = Node::start(&world, "one").await;
    let data = r#"{"email":"a@example.com"}"#;
    world.publish("user.signup", &[], data.as_bytes()).await;
    let binary = [("ce-specversion", "1.0"), ("ce-id", "b-1"), ("ce-source", "shop%20one"), ("ce-type", "user.signup")];
    world.publish("user.x", &binary, data.as_bytes()).await;
    let envelope = format!(r#"{{"specversion":"1.0","id":"s-1","source":"shop","type":"user.signup","data":{data}}}"#);
    world.publish("user.x", &[("content-type", "application/cloudevents+json")], envelope.as_bytes()).await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 3).await;
    let query = "select event_id, event_source, event_type from oncue.ledger order by event_id collate \"C\"";
    let rows = world.rows(query).await;
    assert!(rows[0]["event_id"].as_str().is_some_and(|id| id.starts_with("SIGNUPS/")), "{rows:?}");
    assert_eq!(rows[0]["event_source"], "oncue/trigger/signups");
    assert_eq!(rows[1], json!({ "event_id": "b-1", "event_source": "shop one", "event_type": "user.signup" }));
    assert_eq!(rows[2], json!({ "event_id": "s-1", "event_source": "shop", "event_type": "user.signup" }));
    let seen = node.events();
    assert!(seen.len() == 3 && seen.iter().all(|(_, matched)| matched == &["greet"]), "{seen:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_publish_without_a_function_and_a_template_makes_the_payload() {
    let world = shop().await;
    world
        .sql(
            r#"delete from oncue.rules;
               insert into oncue.rules (name, trigger, pattern, input, publish) values
               ('forward', 'signups', '{"type":["user.signup"]}', '{"to":"<$.data.email>","was":<$.data>}', 'main/mail.raw')"#,
        )
        .await;
    let node = Node::start(&world, "one").await;
    let headers = [("ce-specversion", "1.0"), ("ce-id", "b-1"), ("ce-source", "shop"), ("ce-type", "user.signup")];
    let more = [("ce-tenant", "acme"), ("ce-oncuecause", "forged")];
    world.publish("user.x", &[&headers[..], &more].concat(), br#"{"email":"a@example.com","n":1.50}"#).await;
    eventually("it is settled", async || world.ledger("settlement = 'done'").await == 1).await;
    let mail = world.messages("MAIL").await.remove(0);
    let row = world.row("select delivery_id, function, version, outputs from oncue.ledger").await;
    assert_eq!((&row["function"], &row["version"], &row["outputs"]), (&Value::Null, &Value::Null, &json!(1)));
    let delivery = row["delivery_id"].as_str().expect("an id");
    for (name, value) in [
        ("ce-id", "b-1"),
        ("ce-source", "shop"),
        ("ce-type", "user.signup"),
        ("ce-tenant", "acme"),
        ("ce-oncuecause", delivery),
        ("ce-oncuehops", "1"),
    ] {
        assert_eq!(header(&mail, name), value, "{name}");
    }
    assert_eq!(mail.payload, r#"{"to":"a@example.com","was":{"email":"a@example.com","n":1.50}}"#);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_runs_every_rule_that_matches_it_and_each_fails_for_itself() {
    let world = shop().await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, run, retry_base_ms, retry_cap_ms) values
             ('echo', true, 'steered', 3600000, 3600000), ('echo-again', true, 'steered', 3600000, 3600000)",
        )
        .await;
    let node = Node::start(&world, "one").await;
    world.publish("user.signup", &[], br#"{"do":"f2","email":"a@example.com"}"#).await;
    eventually("it is acknowledged", async || world.drained("SIGNUPS", "oncue-signups").await).await;
    let query = "select rule, settlement from oncue.ledger order by rule, attempt";
    let rows = world.rows(query).await;
    let row = |rule: &str, settlement: &str| json!({ "rule": rule, "settlement": settlement });
    let expected = vec![
        row("echo", "again"),
        row("echo", "parked"),
        row("echo-again", "again"),
        row("echo-again", "parked"),
        row("greet", "done"),
    ];
    assert_eq!(rows, expected);
    assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, 3);
    node.stop().await;
}
