//! Poison: messages that no client of NATS can parse, or that look like the server's own words. Each ends as a dead letter
//! with its bytes, or as the event that it is, once; nobody else notices.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use oncue::bus::{BusConfig, Secret, Tls, nats};
use oncue::dev::servers::{NatsConfig, Overrides, PrivateNats, find_nats_server};
use oncue::event::codec::DecodeError;
use oncue::event::codec::Limits;
use oncue::triggers::history::{History, Wanted};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::support::node::{Node, config};
use crate::support::process::{manifest, run};
use crate::support::raw::{Bad, Raw, bad_messages};
use crate::support::tls::certificate;
use crate::support::{World, eventually, functions};

/// Messages of one measured run.
const MANY: usize = 5_000;
/// Messages of the run that it is compared with.
const FEW: usize = 1_000;
/// Keys that they are ordered by.
const KEYS: usize = 50;

async fn door() -> World {
    let world = World::start().await;
    world.stream("DOOR", &["door.>"]).await;
    world.stream("SIDE", &["side.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("door", "DOOR", json!({})).await;
    world.jetstream_trigger("side", "SIDE", json!({})).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('all', true, 'steered')").await;
    world
}

/// Subject, header block and payload of every rejected message, with its class, trigger and error.
async fn letters(world: &World) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>, Value)> {
    let query = "select class, trigger, error, encode(raw, 'base64') as raw, convert_from(headers, 'UTF8') as headers
        from oncue.dead_letters where kind = 'rejected' order by id";
    let bytes = |text: &Value| STANDARD.decode(text.as_str().unwrap_or_default().replace('\n', "")).expect("base64");
    let mut found = Vec::new();
    for row in world.rows(query).await {
        let kept: Value = serde_json::from_str(row["headers"].as_str().unwrap_or_default()).expect("headers are JSON");
        let (subject, block) = (bytes(&kept["nats_subject"]), bytes(&kept["nats_headers"]));
        found.push((subject, block, bytes(&row["raw"]), row));
    }
    found
}

/// Every message of `bad` that is no event is a dead letter with its bytes; nothing else is.
async fn assert_rejected(world: &World, trigger: &str, bad: &[Bad]) {
    let found = letters(world).await;
    let found: Vec<_> = found.iter().filter(|(.., row)| row["trigger"] == trigger).collect();
    let expected: Vec<&Bad> = bad.iter().filter(|b| b.class.is_some()).collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for one in expected {
        let letter = found.iter().find(|(s, b, raw, _)| (s, b, raw) == (&one.subject, &one.block, &one.payload));
        let (.., row) = letter.unwrap_or_else(|| panic!("no letter of {}: {found:?}", one.subject.escape_ascii()));
        assert_eq!(row["class"].as_str(), one.class, "{row}");
        let error = row["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty() && !error.contains(['\n', '\r', '\0']), "{error:?}");
    }
}

fn events(prefix: &str, bad: &[Bad]) -> i64 {
    let count = bad.iter().filter(|b| b.class.is_none() && b.subject.starts_with(prefix.as_bytes())).count();
    i64::try_from(count).expect("few")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_no_client_can_read_are_rejected_with_their_bytes_and_disturb_nobody() {
    let world = door().await;
    let node = Node::start(&world, "one").await;
    let mut raw = Raw::connect(world.nats_server.port(), "").await;
    let bad = bad_messages("door");
    for (n, one) in bad.iter().enumerate() {
        raw.publish(one).await;
        for stream in ["door.good", "side.good"] {
            world.publish_events(stream, [(format!("{stream}-{n}"), r#"{"do":"e0"}"#.to_owned())]).await;
        }
    }
    eventually("all are acknowledged", async || {
        world.drained("DOOR", "oncue-door").await && world.drained("SIDE", "oncue-side").await
    })
    .await;
    assert_rejected(&world, "door", &bad).await;
    let good = i64::try_from(bad.len()).expect("few");
    for stream in ["door", "side"] {
        let done = format!("event_id like '{stream}.good-%' and settlement = 'done' and attempt = 1");
        assert_eq!(world.ledger(&done).await, good, "{stream}");
    }
    assert_eq!(
        world.ledger("true").await,
        2 * good + events("door", &bad),
        "what only looks like the server's word ran"
    );
    assert_eq!(world.stored("MAIL").await, u64::try_from(2 * good).expect("few"), "publishing went on");
    // Nobody's connection was lost, nobody had to begin again.
    assert_eq!(node.metric(r#"oncue_reconnects_total{bus="main"}"#).await.unwrap_or(0.0), 0.0);
    let redelivered = node.metric(r#"oncue_redelivered_total{trigger="door"}"#).await;
    assert_eq!(redelivered.unwrap_or(0.0), 0.0);
    let rejected = node.metric(r#"oncue_events_rejected_total{trigger="door",class="header_block"}"#).await;
    assert_eq!(rejected, Some(10.0), "it is counted");
    assert_eq!(node.component("trigger/door").await.map(|(state, _)| state).as_deref(), Some("active"));

    // People hear of it, and can look at the bytes.
    let (manifest, _) = manifest(&world, "look", "");
    let said = run(&manifest, &["doctor"]).await;
    assert!(said.out.contains("header_block") && said.out.contains("oncue dead-letter list"), "{said:?}");
    let id =
        world.row("select id from oncue.dead_letters where error like '%UTF-8%' and class = 'subject' limit 1").await;
    let id = id["id"].as_str().unwrap_or_default().to_owned();
    let shown = run(&manifest, &["dead-letter", "show", &id]).await;
    assert!(shown.code == 0 && shown.out.contains("(subject): base64:"), "{shown:?}");
    node.stop().await;
}

/// How long the node takes for everything that is in the stream.
async fn drain_time(world: &World, stream: &str, consumer: &str) -> Duration {
    let began = Instant::now();
    eventually("all are acknowledged", async || world.drained(stream, consumer).await).await;
    began.elapsed()
}

fn numbered(run: &str, count: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |n| (format!("{run}-{n}"), format!(r#"{{"do":"e0","key":"k{}","n":{n}}}"#, n % KEYS)))
}

/// The payloads of a stream from a sequence on, in order.
async fn payloads(world: &World, stream: &str, start_sequence: u64) -> Vec<Vec<u8>> {
    let handle = world.jetstream.get_stream(stream).await.expect("the stream is there");
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
    let consumer = handle.create_consumer(OrderedConfig { deliver_policy, ..Default::default() }).await;
    let mut consumer = consumer.expect("a consumer");
    let count = consumer.info().await.expect("it is there").num_pending;
    let messages = consumer.messages().await.expect("it sends").take(usize::try_from(count).expect("few"));
    messages.map(|message| message.expect("it sends").payload.to_vec()).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_poison_in_it_is_as_fast_as_without_and_keeps_its_order() {
    let world = door().await;
    world.sql("update oncue.rules set run = null, publish = 'main/mail.copy', ordering_key = '$.data.key'").await;
    world.sql("update oncue.triggers set state = 'paused' where name = 'door'").await;
    let node = Node::start(&world, "one").await;
    world.publish_events("door.good", numbered("plain", FEW)).await;
    world.sql("update oncue.triggers set state = 'active' where name = 'door'").await;
    let plain = drain_time(&world, "DOOR", "oncue-door").await;
    world.sql("update oncue.triggers set state = 'paused' where name = 'door'").await;
    eventually("nobody reads", async || world.consumer("DOOR", "oncue-door").await.is_some_and(|c| c.num_waiting == 0))
        .await;

    let mut raw = Raw::connect(world.nats_server.port(), "").await;
    let bad = bad_messages("door");
    let mut good: Vec<_> = numbered("mixed", MANY).collect();
    let share = MANY / bad.len();
    for one in &bad {
        raw.publish(one).await;
        world.publish_events("door.good", good.drain(..share)).await;
    }
    world.publish_events("door.good", good).await;
    world.sql("update oncue.triggers set state = 'active' where name = 'door'").await;
    let mixed = drain_time(&world, "DOOR", "oncue-door").await;
    let most = plain * u32::try_from(2 * MANY / FEW).expect("few") + Duration::from_secs(3);
    assert!(mixed < most, "{FEW} messages alone in {plain:?}, {MANY} among poison in {mixed:?}");
    assert_rejected(&world, "door", &bad).await;

    let ran = "select count(*) from (select event_id from oncue.ledger where event_id like 'mixed-%'
        and settlement = 'done' group by event_id having count(*) = 1) as once";
    assert_eq!(world.number(ran).await, i64::try_from(MANY).expect("few"), "each ran once");
    let mut last: HashMap<String, i64> = HashMap::new();
    for payload in payloads(&world, "MAIL", u64::try_from(FEW).expect("few") + 1).await {
        let data: Value = serde_json::from_slice(&payload).unwrap_or_default();
        let (Some(key), Some(n)) = (data["key"].as_str(), data["n"].as_i64()) else { continue };
        let before = last.insert(key.to_owned(), n).unwrap_or(-1);
        assert!(before < n, "{key}: {n} after {before}");
    }
    assert_eq!(last.len(), KEYS);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_rejects_what_it_can_keep_and_goes_on() {
    let world = door().await;
    world.sql("insert into oncue.triggers (name, bus, kind, spec) values ('core', 'main', 'nats', '{\"subject\":\"core.>\"}')").await;
    let node = Node::start(&world, "one").await;
    eventually("somebody listens", async || {
        world.publish_core("core.good", r#"{"do":"o0"}"#).await;
        world.ledger("trigger = 'core'").await > 0
    })
    .await;
    let mut raw = Raw::connect(world.nats_server.port(), "").await;
    let bad = bad_messages("core");
    for (n, one) in bad.iter().enumerate() {
        raw.publish(one).await;
        world.publish_core("core.good", &format!(r#"{{"do":"e0","good":{n}}}"#)).await;
        world.publish_events("side.good", [(format!("side-{n}"), r#"{"do":"o0"}"#.to_owned())]).await;
    }
    let good = u64::try_from(bad.len()).expect("few");
    eventually("each good one ran", async || world.stored("MAIL").await == good).await;
    eventually("the bad ones are kept", async || {
        world.number("select count(*) from oncue.dead_letters where trigger = 'core'").await
            == i64::try_from(bad.iter().filter(|b| b.class.is_some()).count()).expect("few")
    })
    .await;
    assert_rejected(&world, "core", &bad).await;
    eventually("the neighbour is done", async || world.drained("SIDE", "oncue-side").await).await;
    assert_eq!(node.metric(r#"oncue_reconnects_total{bus="main"}"#).await.unwrap_or(0.0), 0.0);
    assert_eq!(node.component("trigger/core").await.map(|(state, _)| state).as_deref(), Some("active"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_behind_tls_and_a_login_is_read_the_same_way() {
    let world = World::start().await;
    let file = |name: &str| certificate(name).display().to_string();
    // The attacker may publish in the clear; the node must not.
    let extra = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\" }}\nallow_non_tls: true\n\
         authorization {{ users = [ {{ user: oncue, password: hunter2 }}, {{ user: anybody, password: x, \
         permissions: {{ publish: [\"door.>\"] }} }} ] }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let program = find_nats_server(&Overrides::default()).expect("a nats-server");
    let settings = NatsConfig { extra, ..NatsConfig::new(program, world.dir.path().join("safe")) };
    let safe = PrivateNats::start(settings).await.expect("nats-server starts");
    let bus = BusConfig {
        user: Some("oncue".to_owned()),
        password: Some(Secret("hunter2".to_owned())),
        tls: Tls { required: true, ca: Some(certificate("ca.pem")), ..Tls::default() },
        ..BusConfig::nats(safe.url().replacen("nats://", "tls://", 1))
    };
    let client = nats::connect("safe", &bus).await.expect("the server lets us in");
    let stream = async_nats::jetstream::stream::Config {
        name: "DOOR".to_owned(),
        subjects: vec!["door.>".to_owned()],
        ..Default::default()
    };
    client.jetstream.create_stream(stream).await.expect("the stream is made");
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.sql("insert into oncue.triggers (name, bus, kind, spec) values ('door', 'safe', 'jetstream', '{\"stream\":\"DOOR\"}')").await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('all', true, 'steered')").await;
    let mut node_config = config(&world, "one");
    node_config.buses.insert("safe".to_owned(), bus);
    let node = Node::launch(node_config);
    node.ready().await;
    let mut raw = Raw::connect(safe.port(), r#""user":"anybody","pass":"x""#).await;
    let bad = bad_messages("door");
    for one in &bad {
        raw.publish(one).await;
        let sent = client.jetstream.publish("door.good", r#"{"do":"o0"}"#.into()).await.expect("it is sent");
        sent.await.expect("it is stored");
    }
    let good = i64::try_from(bad.len()).expect("few");
    let ran = good + events("door", &bad);
    eventually("each good one ran", async || world.ledger("settlement = 'done'").await == ran).await;
    eventually("the bad ones are kept", async || {
        letters(&world).await.len() == bad.iter().filter(|b| b.class.is_some()).count()
    })
    .await;
    assert_rejected(&world, "door", &bad).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_test_reads_past_poison() {
    let world = World::start().await;
    world.stream("DOOR", &["door.>"]).await;
    let mut raw = Raw::connect(world.nats_server.port(), "").await;
    let bad = bad_messages("door");
    for one in &bad {
        raw.publish(one).await;
        world.publish("door.good", &[], b"{}").await;
    }
    let bus = nats::connect("main", &BusConfig::nats(world.nats_server.url())).await.expect("nats-server answers");
    let wanted = Wanted { trigger: "door".to_owned(), since: OffsetDateTime::UNIX_EPOCH, limits: Limits::default() };
    let mut history = History::of_stream(("main", &bus), ("DOOR", &[]), wanted).await.expect("the stream is there");
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(message) = history.next().await.expect("it goes on") {
        let class = message.event.as_ref().map_or_else(DecodeError::class, |_| "event");
        *found.entry(class.to_owned()).or_default() += 1;
    }
    let count = |class: Option<&str>| bad.iter().filter(|b| b.class == class).count();
    let expected = [
        ("event", bad.len() + count(None)),
        ("header_block", count(Some("header_block"))),
        ("subject", count(Some("subject"))),
    ];
    assert_eq!(found, expected.map(|(class, count)| (class.to_owned(), count)).into());
}
