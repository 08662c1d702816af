//! `oncue rule backtest`: a rule on the events of the last hours, from the record, from a stream, from a topic.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oncue::bus::kafka::KafkaBus;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::support::kafka::Kafka;
use crate::support::process::{Said, manifest, run, spawn};
use crate::support::{Node, World, eventually, functions};

const GREET: &str = r#"insert into oncue.rules (name, trigger, pattern, run) values
    ('greet', 'users', '{"type":["user.signup"]}', 'steered')"#;
const PRO: &str = r#"{"type":["user.signup"],"data":{"plan":["pro"]}}"#;

/// A world with a stream of users, a trigger that records `record`, a rule for signups, and a manifest.
async fn shop(record: &str) -> (World, PathBuf) {
    let world = World::start().await;
    world.stream("USERS", &["user.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("users", "USERS", json!({})).await;
    world.sql(&format!("update oncue.triggers set record = '{record}'; {GREET}")).await;
    let (manifest, _) = manifest(&world, "shop", "");
    (world, manifest)
}

async fn backtest(manifest: &Path, code: i32, arguments: &[&str]) -> Said {
    let said = run(manifest, &[&["rule", "backtest"], arguments].concat()).await;
    assert_eq!(said.code, code, "oncue rule backtest {}: {said:?}", arguments.join(" "));
    said
}

async fn report(manifest: &Path, arguments: &[&str]) -> Value {
    let said = backtest(manifest, 0, &[arguments, &["--output", "json"]].concat()).await;
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {arguments:?}: {}", said.out))
}

fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.dir.path().join(name);
    std::fs::write(&path, text).expect("it is written");
    path.to_string_lossy().into_owned()
}

fn signup(n: u32) -> (String, String) {
    let plan = if n.is_multiple_of(3) { "pro" } else { "free" };
    (format!("e{n}"), format!(r#"{{"do":"o0","plan":"{plan}"}}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_tried_on_what_its_trigger_recorded() {
    let (world, manifest) = shop("all").await;
    let node = Node::start(&world, "one").await;
    world.publish_events("user.signup", (0..30).map(signup)).await;
    world.publish_events("user.left", (30..50).map(signup)).await;
    eventually("all are settled", async || world.drained("USERS", "oncue-users").await).await;
    node.stop().await;

    let known = report(&manifest, &["greet"]).await;
    assert_eq!(
        (&known["events"], &known["hits"], &known["complete"]),
        (&json!(50), &json!(30), &json!(true)),
        "{known}"
    );
    assert_eq!(known["sources"][0]["from"], "the record");
    let hours: u64 = known["hours"].as_array().expect("hours").iter().filter_map(|h| h["hits"].as_u64()).sum();
    assert_eq!((hours, known["samples"].as_array().map(Vec::len)), (30, Some(10)));
    let cost = &known["cost"];
    assert_eq!(
        (&cost["function"], &cost["version"], &cost["runs"]),
        (&json!("steered"), &json!(1), &json!(30)),
        "{cost}"
    );
    let per_day = known["hits_per_day"].as_f64().expect("a number");
    let (fuel, day) = (cost["fuel_per_run"].as_f64(), cost["fuel_per_day"].as_f64());
    let (fuel, day) = fuel.zip(day).expect("numbers");
    assert!(per_day >= 30.0 && fuel > 0.0 && (day - fuel * per_day).abs() < 1.0, "{known}");

    // A rule that is not there yet, in every form that a file may have.
    let pattern = file(&world, "pattern.json", PRO);
    let rule = format!("name = \"vip\"\ntrigger = \"users\"\npattern = '{PRO}'\nrun = \"nobody\"\n");
    let (toml, whole) = (file(&world, "vip.toml", &rule), file(&world, "all.toml", &format!("[[rule]]\n{rule}")));
    let as_json = json!({ "name": "vip", "trigger": "users", "pattern": PRO, "publish": "main/vip" }).to_string();
    let as_json = file(&world, "vip.json", &as_json);
    let forms = [
        vec!["--file", &pattern],
        vec!["--pattern", PRO],
        vec!["--file", &toml],
        vec!["vip", "--file", &whole],
        vec!["--file", &as_json],
    ];
    for form in forms {
        let tried = report(&manifest, &form).await;
        assert_eq!((&tried["events"], &tried["hits"]), (&json!(50), &json!(10)), "{form:?}: {tried}");
        assert_eq!(tried["overlap"], json!([{ "rule": "greet", "hits": 10 }]), "{form:?}");
        assert_eq!(tried["cost"], Value::Null, "{form:?}");
    }
    // The rule that is there, changed: what it gains and what it loses.
    let changed = r#"{"$or":[{"type":["user.signup"],"data":{"plan":["free"]}},{"type":["user.left"]}]}"#;
    let changed = file(&world, "greet.toml", &format!("name = \"greet\"\npattern = '{changed}'\nrun = \"steered\"\n"));
    let tried = report(&manifest, &["--file", &changed]).await;
    assert_eq!(tried["compared"], json!({ "same": 20, "more": 20, "fewer": 10 }), "{tried}");
    assert_eq!(tried["overlap"], json!([]), "it is not beside itself");

    let text = backtest(&manifest, 0, &["--file", &toml]).await.out;
    for part in [
        "vip: 10 hits (20.0 %) on 50 events",
        "users from the record: 50 events",
        "█ is 10 an hour",
        "10 of them",
        "e27",
        "greet  10    100.0 %",
        "no run of nobody is known",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!((world.ledger("true").await, world.stored("USERS").await), (30, 50), "nothing ran and nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_died_is_read_where_nothing_is_recorded() {
    let (world, manifest) = shop("none").await;
    world.sql("insert into oncue.rules (name, trigger, match_all, run) values ('too', 'users', true, 'steered')").await;
    let node = Node::start(&world, "one").await;
    let payload = |what: &str| format!(r#"{{"do":"{what}","plan":"pro"}}"#);
    world.publish_events("user.signup", [("dead".to_owned(), payload("r0")), ("done".to_owned(), payload("o0"))]).await;
    world.publish_events("user.left", [("parked".to_owned(), payload("f9"))]).await;
    eventually("all are settled", async || world.drained("USERS", "oncue-users").await).await;
    node.stop().await;
    let tried = report(&manifest, &["--pattern", r#"{"data":{"plan":["pro"]}}"#, "--source", "recorded"]).await;
    assert_eq!((&tried["events"], &tried["hits"]), (&json!(2), &json!(2)), "one for each event: {tried}");
    assert_eq!(tried["sources"][0]["from"], "the record, with 2 parked and dead ones");
    assert!(tried["sources"][0]["gaps"][0].as_str().is_some_and(|g| g.contains("users records nothing")), "{tried}");
    // One that is recorded and dead is read once.
    world.sql("update oncue.triggers set record = 'matched'").await;
    let node = Node::start(&world, "two").await;
    world.publish_events("user.signup", [("both".to_owned(), payload("r0"))]).await;
    eventually("it died", async || world.number("select count(*) from oncue.dead_letters").await == 4).await;
    node.stop().await;
    assert_eq!(world.number("select count(*) from oncue.recorded").await, 1);
    let tried = report(&manifest, &["greet", "--source", "recorded"]).await;
    assert_eq!(tried["events"], 3, "{tried}");
    assert_eq!(tried["sources"][0]["from"], "the record, with 2 parked and dead ones");
    let gaps = tried["sources"][0]["gaps"].to_string();
    assert!(gaps.contains("begins at") && gaps.contains("records only what a rule matched"), "{gaps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_samples_and_the_limit_are_right_over_days() {
    let (world, manifest) = shop("all").await;
    // Half an hour past each of the last 72 hours, as many events as the hour is far away, and some of shapes that nobody likes.
    world
        .sql(
            r#"insert into oncue.recorded (trigger, id, event_id, event_type, matched, transport_key, attributes, data)
               select 'users', (left(oncue.delivery_floor(date_trunc('hour', now()) - make_interval(hours => h, mins => -30))::text, 24)
                                || lpad(to_hex(h * 1000 + n), 12, '0'))::uuid,
                      h || '-' || n, 'user.signup', true, '',
                      convert_to(format('{"specversion":"1.0","id":"%s-%s","source":"s","type":"user.signup"}', h, n), 'UTF8'),
                      case n % 4 when 0 then '\x00ff00'::bytea when 1 then convert_to(repeat('[', 100000), 'UTF8')
                           when 2 then convert_to('{"a":"' || repeat('x', 1000) || '"}', 'UTF8') else '' end
               from generate_series(1, 72) h, generate_series(1, h) n"#,
        )
        .await;
    let sum: i64 = (1..=72).sum();
    let tried = report(&manifest, &["greet", "--since", "80h"]).await;
    assert_eq!((&tried["events"], &tried["hits"]), (&json!(sum), &json!(sum)), "{}", tried["sources"]);
    let hits: Vec<u64> = tried["hours"].as_array().expect("hours").iter().filter_map(|h| h["hits"].as_u64()).collect();
    let expected: Vec<u64> = (1..=72).rev().collect();
    let begin = hits.iter().position(|hits| *hits == 72).expect("the first hour");
    assert_eq!(hits[begin..begin + 72], expected, "{hits:?}");
    let samples = tried["samples"].as_array().expect("samples");
    // Two a day or so, whatever the time of the day: the oldest event is the first, and the last is one of the newest tenth.
    let taken: Vec<i64> = samples.iter().filter_map(|s| s["id"].as_str()?.split_once('-')?.0.parse().ok()).collect();
    assert!(taken.len() == 10 && taken[0] == 72 && taken[9] <= 26, "they are spread over the days: {samples:?}");
    assert!(taken.windows(2).all(|pair| pair[0] > pair[1]), "the oldest first, and of different hours: {taken:?}");
    // The last day only.
    let day = report(&manifest, &["greet", "--since", "24h"]).await;
    let last: i64 = (1..=24).sum();
    let read = day["events"].as_i64().expect("a number");
    assert!((last - 24..=last).contains(&read), "{read} of {last}");
    let said = backtest(&manifest, 1, &["greet", "--since", "80h", "--limit", "100"]).await.out;
    assert!(said.contains("NOT COMPLETE: it ended after 100 events, the oldest first: --limit reads more"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_from_a_time_on_and_its_consumers_are_left_alone() {
    let (world, manifest) = shop("none").await;
    let node = Node::start(&world, "one").await;
    world.publish_events("user.signup", (0..30).map(signup)).await;
    world.publish_events("user.left", (30..50).map(signup)).await;
    world.publish("user.x", &[("ce-specversion", "1.0"), ("ce-type", "user.signup"), ("ce-id", "")], b"{}").await;
    eventually("all are settled", async || world.drained("USERS", "oncue-users").await).await;
    node.stop().await;
    let before = world.consumer("USERS", "oncue-users").await.expect("it is there");
    let tried = report(&manifest, &["greet"]).await;
    assert_eq!(tried["sources"][0]["from"], "the stream USERS");
    assert_eq!((&tried["events"], &tried["hits"], &tried["rejected"]), (&json!(50), &json!(30), &json!(1)), "{tried}");
    assert_eq!((&tried["complete"], &tried["sources"][0]["gaps"]), (&json!(true), &json!([])));
    assert!(tried["warnings"].to_string().contains("1 messages are no events"), "{tried}");
    let after = world.consumer("USERS", "oncue-users").await.expect("it is there");
    assert_eq!((after.ack_floor, after.delivered), (before.ack_floor, before.delivered));
    assert_eq!(world.stored("USERS").await, 51);

    // What the trigger does not take is not read; what is gone is said.
    world.sql(r#"update oncue.triggers set spec = '{"stream":"USERS","subjects":["user.left"]}'"#).await;
    let tried = report(&manifest, &["--pattern", r#"{"type":[{"prefix":"user"}]}"#]).await;
    assert_eq!((&tried["events"], &tried["hits"]), (&json!(20), &json!(20)), "{tried}");
    let stream = world.jetstream.get_stream("USERS").await.expect("it is there");
    stream.purge().sequence(41).await.expect("it is purged");
    let tried = report(&manifest, &["greet", "--from", "main/USERS"]).await;
    assert_eq!(tried["events"], 10, "{tried}");
    let gaps = tried["sources"][0]["gaps"].to_string();
    assert!(gaps.contains("the stream USERS begins at") && gaps.contains("(sequence 41)"), "{gaps}");
    stream.purge().await.expect("it is purged");
    let said = backtest(&manifest, 0, &["greet"]).await.out;
    assert!(said.contains("0 hits on 0 events") && said.contains("is empty: its 51 messages are gone"), "{said}");
    world.jetstream.delete_stream("USERS").await.expect("it is deleted");
    let said = backtest(&manifest, 1, &["greet"]).await.err;
    assert!(said.contains("bus \"main\" has no stream \"USERS\""), "{said}");
}

/// Sends records with these times, in milliseconds since 1970.
fn produce(kafka: &Kafka, topic: &str, records: &[(i32, i64, &str, &[u8])]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.cluster.bootstrap_servers()).create().expect("a producer");
    for (partition, millis, key, value) in records {
        let record = BaseRecord::to(topic).partition(*partition).timestamp(*millis).key(*key).payload(*value);
        producer.send(record).expect("it is queued");
    }
    producer.flush(Duration::from_secs(10)).expect("all are stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_from_a_time_on_and_no_group_commits() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("orders", 3), ("empty", 1)]));
    let bus = format!("[bus.kafka]\nkind = \"kafka\"\nurl = \"{}\"\n", kafka.cluster.bootstrap_servers());
    let (manifest, _) = manifest(&world, "shop", &bus);
    let now = i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).expect("now");
    let hour = 3_600_000;
    let records: Vec<(i32, i64, &str, &[u8])> = vec![
        (0, now - 30 * hour, "old", b"{\"total\":1}"),
        (0, now - 3 * hour, "a", b"{\"total\":50}"),
        (0, now - 2 * hour, "b", b"{\"total\":5}"),
        (1, now - 40 * hour, "older", b"{\"total\":70}"),
        (1, now - 41 * hour, "oldest", b"{\"total\":70}"),
        (2, now - hour, "c", b"{\"total\":70}"),
        (2, now - hour, "d", b"\x00\xff"),
        (2, now - hour, "e", b"{\"total\":10}"),
    ];
    produce(&kafka, "orders", &records);
    let pattern = r#"{"type":["orders"],"data":{"total":[{"numeric":[">=",10]}]}}"#;
    let tried = report(&manifest, &["--pattern", pattern, "--from", "kafka/orders"]).await;
    assert_eq!((&tried["events"], &tried["hits"], &tried["complete"]), (&json!(5), &json!(3), &json!(true)), "{tried}");
    assert_eq!(tried["sources"][0]["from"], "the topic orders");
    let subjects: std::collections::BTreeSet<&str> =
        tried["samples"].as_array().expect("samples").iter().filter_map(|s| s["subject"].as_str()).collect();
    assert_eq!(subjects, ["a", "c", "e"].into());
    let hours: Vec<u64> = tried["hours"].as_array().expect("hours").iter().filter_map(|h| h["hits"].as_u64()).collect();
    assert_eq!(hours.iter().filter(|hits| **hits > 0).copied().collect::<Vec<_>>(), [1, 2], "{hours:?}");
    let week = report(&manifest, &["--pattern", pattern, "--from", "kafka/orders", "--since", "7d"]).await;
    assert_eq!((&week["events"], &week["hits"]), (&json!(8), &json!(5)), "{week}");
    // Other sources beside it, and one that has nothing.
    world.stream("USERS", &["user.>"]).await;
    world.publish("user.signup", &[], b"{\"total\":100}").await;
    let any = r#"{"data":{"total":[{"numeric":[">=",10]}]}}"#;
    let both = ["--pattern", any, "--from", "kafka/orders", "--from", "main/USERS", "--from", "kafka/empty"];
    let tried = report(&manifest, &both).await;
    assert_eq!((&tried["events"], &tried["hits"]), (&json!(6), &json!(4)), "{tried}");

    // The topics of a trigger, named or by an expression.
    world
        .sql(
            r#"insert into oncue.triggers (name, bus, kind, spec) values
               ('orders', 'kafka', 'kafka', '{"topics":["orders"]}'),
               ('several', 'kafka', 'kafka', '{"topics":["^(ord|emp).*"]}')"#,
        )
        .await;
    let tried = report(&manifest, &["--pattern", pattern]).await;
    let of = |n: usize| (tried["sources"][n]["from"].clone(), tried["sources"][n]["events"].clone());
    assert_eq!((of(0), of(1)), ((json!("the topic orders"), json!(5)), (json!("the topics empty, orders"), json!(5))));
    assert_eq!(tried["hits"], 6, "{tried}");
    let sample = &tried["samples"][0];
    let id = sample["id"].as_str().expect("a text");
    assert!(id.contains("/orders/") && !id.starts_with('/'), "as the trigger names it: {id}");

    let bus = KafkaBus::new("kafka", &kafka.bus()).expect("a bus");
    let topic = bus.topic("orders").await.expect("it answers").expect("it is there");
    for group in ["oncue-backtest", "oncue-orders", "oncue-several"] {
        let progress = bus.progress(group, &topic, None).await.expect("it answers");
        assert!(progress.iter().all(|partition| partition.committed.is_none()), "{group} committed: {progress:?}");
    }

    let said = backtest(&manifest, 1, &["--pattern", pattern, "--from", "kafka/nowhere"]).await.err;
    assert!(said.contains("bus \"kafka\" has no topic \"nowhere\""), "{said}");
    kafka.down();
    let said = backtest(&manifest, 1, &["--pattern", pattern, "--from", "kafka/orders"]).await.err;
    assert!(said.contains("bus \"kafka\": failed to look at the topic orders"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_would_match_what_it_causes_is_told() {
    let world = World::start().await;
    world.stream("ALL", &["user.>", "mail.>"]).await;
    let spec = json!({ "grants": { "publish": ["main/mail.*"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.jetstream_trigger("all", "ALL", json!({})).await;
    world.sql("update oncue.triggers set record = 'all'").await;
    let (manifest, _) = manifest(&world, "shop", "");
    let rule = |pattern: &str, target: &str| {
        let text = format!("name = \"new\"\ntrigger = \"all\"\npattern = '{pattern}'\n{target}\n");
        file(&world, "new.toml", &text)
    };
    let run = "run = \"steered\"";
    for (pattern, target, warned) in [
        (
            r#"{"type":["mail.welcome"]}"#,
            run,
            Some("steered may publish main/mail.welcome, which comes in by the trigger all"),
        ),
        (r#"{"type":[{"prefix":"mail."}]}"#, run, Some("steered may publish main/mail.x")),
        (r#"{"data":{"n":[1]}}"#, run, Some("steered may publish main/mail.x")),
        (r#"{"type":["user.signup"]}"#, run, None),
        (
            r#"{"type":["user.signup"]}"#,
            "publish = \"main/user.copy\"",
            Some("it publishes to main/user.copy, which the trigger all reads"),
        ),
        (r#"{"type":["user.signup"]}"#, "publish = \"other/user.copy\"", None),
    ] {
        let warnings = report(&manifest, &["--file", &rule(pattern, target)]).await["warnings"].clone();
        let warnings: Vec<&str> = warnings.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        match warned {
            Some(words) => {
                assert!(warnings.len() == 1 && warnings[0].contains(words), "{pattern} {target}: {warnings:?}");
            }
            None => assert!(warnings.is_empty(), "{pattern} {target}: {warnings:?}"),
        }
    }
    // What a function emitted is seen among the hits.
    world
        .sql(r#"insert into oncue.rules (name, pattern, run) values ('echo', '{"type":[{"prefix":"user"}]}', 'steered')"#)
        .await;
    let node = Node::start(&world, "one").await;
    world.publish("user.signup", &[], br#"{"n":1}"#).await;
    eventually("the echo is recorded", async || {
        world.number("select count(*) from oncue.recorded where event_type = 'mail.welcome'").await == 1
    })
    .await;
    node.stop().await;
    let warnings = report(&manifest, &["--file", &rule(r#"{"data":{"n":[1]}}"#, run)]).await["warnings"].to_string();
    assert!(warnings.contains("events that runs of steered emitted are among the hits (1 of them)"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tried_is_refused_with_what_to_do() {
    let (world, manifest) = shop("none").await;
    let bad_pattern = file(&world, "bad.json", r#"{"type":[{"prefx":"a"}]}"#);
    let bad_rule = file(&world, "bad.toml", "name = \"r\"\npattern = '{\"type\":\"a\"}'\nrun = \"steered\"\n");
    let two = "[[rule]]\nname = \"a\"\nmatch_all = true\nrun = \"f\"\n[[rule]]\nname = \"b\"\nmatch_all = true\nrun = \"f\"\n";
    let two = file(&world, "two.toml", two);
    let unknown_key = file(&world, "key.toml", "name = \"r\"\nmatch_all = true\nrun = \"f\"\ntrigge = \"users\"\n");
    let text = world.dir.path().join("latin1.json");
    std::fs::write(&text, b"{\"type\":[\"\xe9\"]}").expect("it is written");
    let latin1 = text.to_string_lossy().into_owned();
    let empty = file(&world, "empty.json", "{}");
    let table: [(&[&str], i32, &str); 19] = [
        (&["nobody"], 1, "there is no rule \"nobody\""),
        (&[], 2, "required arguments were not provided"),
        (&["--file", "/nowhere"], 1, "failed to read /nowhere"),
        (&["--file", &bad_pattern], 1, "/type/0: unknown operator \"prefx\"; did you mean \"prefix\"?"),
        (&["--file", &bad_rule], 1, "pattern: /type: expected a list or an object, got a string"),
        (&["--file", &two], 1, "two.toml has 2 rules: name one of them: a, b"),
        (&["c", "--file", &two], 1, "two.toml has no rule \"c\"; it has a, b"),
        (&["--file", &unknown_key], 1, "did you mean `trigger`?"),
        (&["--file", &latin1], 1, "latin1.json is not UTF-8"),
        (&["--file", &empty], 1, "{} matches everything"),
        (&["--pattern", "{oops"], 1, "the pattern is not JSON"),
        (&["greet", "--trigger", "nowhere"], 1, "there is no trigger \"nowhere\""),
        (&["greet", "--since", "0s"], 2, "it is a duration from 1m to 366d"),
        (&["greet", "--since=-1h"], 2, "invalid value '-1h' for '--since <DURATION>'"),
        (&["greet", "--since", "1000000000y"], 2, "--since"),
        (&["greet", "--since", "2years"], 2, "it is a duration from 1m to 366d"),
        (&["greet", "--limit", "0"], 2, "0 is not in 1..=1000000000"),
        (&["greet", "--from", "USERS"], 2, "it is a bus and its stream or topic, such as events/APP"),
        (&["greet", "--from", "elsewhere/USERS"], 1, "there is no bus \"elsewhere\" in"),
    ];
    for (arguments, code, words) in table {
        let said = backtest(&manifest, code, arguments).await;
        assert!(said.err.contains(words) && said.out.is_empty(), "{arguments:?}: {said:?}");
    }
    world.sql("update oncue.triggers set bus = 'gone'").await;
    let said = backtest(&manifest, 1, &["greet"]).await.err;
    assert!(
        said.contains("there is no bus \"gone\" in") && said.contains("add a section [bus.gone] (there is main)"),
        "{said}"
    );
    world.sql("update oncue.triggers set kind = 'nats', spec = '{\"subject\":\"user.>\"}'").await;
    let said = backtest(&manifest, 1, &["greet", "--source", "bus"]).await.err;
    assert!(said.contains("the bus of users keeps no events") && said.contains("record = \"all\""), "{said}");
    let said = backtest(&manifest, 0, &["greet"]).await.out;
    assert!(
        said.contains("greet: 0 hits on 0 events") && said.contains("users records nothing: set `record"),
        "{said}"
    );
    world.sql("delete from oncue.rules; delete from oncue.triggers").await;
    let said = backtest(&manifest, 1, &["--pattern", PRO]).await.err;
    assert!(said.contains("there is no trigger: `oncue apply`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_with_what_was_found_so_far() {
    let (world, manifest) = shop("all").await;
    world
        .sql(
            r#"insert into oncue.recorded (trigger, id, event_id, event_type, matched, transport_key, attributes, data)
               select 'users', (left(oncue.delivery_floor(now() - interval '1 hour')::text, 24) || lpad(to_hex(n), 12, '0'))::uuid,
                      n::text, 'user.signup', true, '',
                      convert_to(format('{"specversion":"1.0","id":"%s","source":"s","type":"user.signup"}', n), 'UTF8'), ''
               from generate_series(1, 400000) n"#,
        )
        .await;
    let mut child = spawn(&manifest, &["rule", "backtest", "greet", "--output", "json"]);
    let mut stderr = child.stderr.take().expect("it is piped");
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("events, ") {
        let mut part = [0; 256];
        let count = stderr.read(&mut part).await.expect("it can be read");
        assert!(count > 0, "it ended before it told how far it is: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&part[..count]);
    }
    let pid = child.id().expect("it runs").to_string();
    let sent = tokio::process::Command::new("sh").args(["-c", "kill -s INT \"$1\"", "sh", &pid]).status().await;
    assert!(sent.expect("a shell").success(), "the signal is sent");
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let events = report["events"].as_u64().expect("a number");
    assert!((500..400_000).contains(&events), "{events}");
    assert_eq!((&report["complete"], &report["ended"]), (&json!(false), &json!("it was interrupted")));
}
