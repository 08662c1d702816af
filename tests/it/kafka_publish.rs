//! What functions, rules and the outbox publish to topics, and what people publish by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::support::kafka::{Kafka, Stored};
use crate::support::node::{self, Node};
use crate::support::process::{manifest, run};
use crate::support::{World, eventually, functions};

/// A node with the cluster as its bus `kafka`.
async fn start(world: &World, kafka: &Kafka) -> Node {
    let mut config = node::config(world, "one");
    config.buses.insert("kafka".to_owned(), kafka.bus());
    let node = Node::launch(config);
    node.ready().await;
    node
}

async fn done(world: &World, rule: &str, count: i64) {
    let condition = format!("rule = '{rule}' and settlement = 'done'");
    eventually("all are done", async || world.ledger(&condition).await == count).await;
}

fn distinct<'a>(records: &'a [Stored], header: &str) -> BTreeSet<&'a str> {
    records.iter().filter_map(|record| record.header(header)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_forwards_events_to_a_topic_with_their_keys_and_their_order() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("orders", 4)]));
    world.stream("SHOP", &["shop.>"]).await;
    world.jetstream_trigger("shop", "SHOP", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, publish, ordering_key)
             values ('forward', 'shop', true, 'kafka/orders', '$.subject')",
        )
        .await;
    let node = start(&world, &kafka).await;
    for n in 0..40 {
        let (id, subject) = (format!("id-{n}"), format!("user {}", n % 5));
        let attributes = [("ce-specversion", "1.0"), ("ce-source", "test"), ("ce-type", "shop.order"), ("ce-id", &id)];
        let headers = [&attributes[..], &[("ce-subject", &subject)]].concat();
        world.publish("shop.order", &headers, format!("{{\"n\":{n}}}").as_bytes()).await;
    }
    done(&world, "forward", 40).await;
    let records = kafka.records("orders");
    assert_eq!(records.len(), 40);
    assert_eq!((distinct(&records, "ce_id").len(), distinct(&records, "oncue-message-id").len()), (40, 40));
    for user in 0..5 {
        let key = format!("user {user}");
        let of_key: Vec<&Stored> = records.iter().filter(|r| r.key.as_ref() == Some(&key)).collect();
        let ids: Vec<&str> = of_key.iter().filter_map(|r| r.header("ce_id")).collect();
        let expected: Vec<String> = (0..40).filter(|n| n % 5 == user).map(|n| format!("id-{n}")).collect();
        assert_eq!(ids, expected, "in their order");
        assert!(of_key.iter().all(|r| r.partition == of_key[0].partition), "in one partition");
    }
    let first = &records[0];
    assert_eq!((first.header("ce_specversion"), first.header("ce_oncuehops")), (Some("1.0"), Some("1")));
    assert!(first.header("ce_oncuecause").is_some() && first.header("ce_type") == Some("shop.order"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_publishes_to_the_topics_that_it_was_granted() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("mail.welcome", 1)]));
    world.stream("WORK", &["work.>"]).await;
    let spec = json!({ "grants": { "publish": ["kafka/mail.*"] } });
    world.deploy("welcome", &functions::welcome(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql("insert into oncue.rules (name, trigger, match_all, run) values ('greet', 'work', true, 'welcome')")
        .await;
    let node = start(&world, &kafka).await;
    let signup = |n: u32| (format!("u{n}"), format!(r#"{{"email":"u{n}@example.com","name":"U","plan":"free"}}"#));
    world.publish_events("work.signup", (0..20).map(signup)).await;
    done(&world, "greet", 20).await;
    let records = kafka.records("mail.welcome");
    assert_eq!((records.len(), distinct(&records, "ce_id").len()), (20, 20));
    assert!(records.iter().all(|record| record.header("content-type") == Some("application/json")), "{records:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emitted_beside_sql_goes_to_the_topic_after_the_commit() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("mail.welcome", 1)]));
    world.stream("WORK", &["work"]).await;
    world
        .sql("create role clerk nologin; create table entries (id text primary key); grant insert on entries to clerk")
        .await;
    let spec = json!({ "grants": { "publish": ["kafka/mail.welcome"], "sql": { "role": "clerk" } } });
    world.deploy("clerk", &functions::sql(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'clerk')").await;
    let node = start(&world, &kafka).await;
    let lines = "p insert into entries (id) values ($1)\ne {\"to\":\"ada\"}".to_owned();
    world.publish_events("work", (0..10).map(|n| (format!("e{n}"), lines.clone()))).await;
    done(&world, "work", 10).await;
    eventually("the outbox is empty", async || world.number("select count(*) from oncue.outbox").await == 0).await;
    let records = kafka.records("mail.welcome");
    assert_eq!((records.len(), distinct(&records, "ce_id").len()), (10, 10));
    assert_eq!(world.number("select count(*) from entries").await, 10);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_parks_the_delivery_until_somebody_makes_it() {
    let (world, kafka) = (World::start().await, Kafka::start(&[]));
    world.stream("WORK", &["work"]).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, publish, retry_base_ms, retry_cap_ms, retry_max_attempts)
             values ('forward', true, 'kafka/late', 100, 500, 100)",
        )
        .await;
    let node = start(&world, &kafka).await;
    world.publish_events("work", [("one".to_owned(), "{}".to_owned())]).await;
    let told = "select count(*) from oncue.parked where error like '%there is no topic \"late\": create it with%'";
    eventually("it is parked with what to do", async || world.number(told).await == 1).await;
    kafka.topic("late", 1);
    done(&world, "forward", 1).await;
    assert_eq!(kafka.records("late").len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_lose_nothing_and_health_says_so() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("orders", 2)]));
    world.stream("WORK", &["work"]).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, publish, retry_base_ms, retry_cap_ms, retry_max_attempts)
             values ('forward', true, 'kafka/orders', 100, 500, 100)",
        )
        .await;
    let node = start(&world, &kafka).await;
    let event = |n: u32| (format!("e{n}"), "{}".to_owned());
    world.publish_events("work", (0..10).map(event)).await;
    done(&world, "forward", 10).await;
    kafka.down();
    world.publish_events("work", (10..20).map(event)).await;
    eventually("they are parked", async || world.number("select count(*) from oncue.parked").await == 10).await;
    eventually("the bus is down", async || node.component("bus/kafka").await.is_some_and(|(state, _)| state == "down"))
        .await;
    kafka.up();
    done(&world, "forward", 20).await;
    eventually("the bus is up", async || node.component("bus/kafka").await.is_some_and(|(state, _)| state == "up"))
        .await;
    assert_eq!(distinct(&kafka.records("orders"), "ce_id").len(), 20);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_published_by_hand() {
    let (world, kafka) = (World::without_tables().await, Kafka::start(&[("orders", 4)]));
    let bus = format!("[bus.kafka]\nkind = \"kafka\"\nurl = \"{}\"\n", kafka.cluster.bootstrap_servers());
    let (manifest, _) = manifest(&world, "shop", &bus);
    let said = run(&manifest, &["publish", "kafka/orders", r#"{"n":1}"#, "--id", "one", "--key", "k"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("published to kafka/orders as one: partition "), "{said:?}");
    let many = ["publish", "kafka/orders", "{}", "--count", "1000", "--id", "many", "--output", "json"];
    let said = run(&manifest, &many).await;
    assert!(said.code == 0 && said.out.contains("\"count\": 1000"), "{said:?}");
    let said = run(&manifest, &["publish", "kafka/orders", "as it is", "--raw", "--header", "a=b"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let records = kafka.records("orders");
    assert_eq!((records.len(), distinct(&records, "ce_id").len()), (1_002, 1_001));
    let one = records.iter().find(|r| r.header("ce_id") == Some("one")).expect("it is there");
    assert_eq!((one.key.as_deref(), one.header("ce_partitionkey")), (Some("k"), Some("k")));
    let raw = records.iter().find(|r| r.header("ce_id").is_none()).expect("it is there");
    assert_eq!((raw.value.as_deref(), raw.header("a")), (Some("as it is"), Some("b")));
    let said = run(&manifest, &["publish", "kafka/nowhere", "{}"]).await;
    assert!(said.code == 1 && said.err.contains("kafka-topics.sh"), "{said:?}");
    kafka.down();
    let began = std::time::Instant::now();
    let said = run(&manifest, &["publish", "kafka/orders", "{}"]).await;
    assert!(said.code == 1 && said.err.contains("no acknowledgement within"), "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "it ends");
}
