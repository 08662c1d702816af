//! `kill -9` under load: nothing is acknowledged before it is settled, nothing is lost, every effect is there.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::checker::{Evidence, at_any_time, at_the_end};
use crate::support::process::Process;
use crate::support::seeded::Seeded;
use crate::support::{World, eventually, eventually_within, functions, not_run, progress};

/// The kills fall at these parts of the work, each moved by up to a tenth by the seed.
const KILLS: [f64; 3] = [0.15, 0.4, 0.7];

/// A stream that forgets what was acknowledged, so that what is missing from it was.
async fn shop() -> World {
    let world = World::start().await;
    let config = stream::Config {
        name: "SIGNUPS".to_owned(),
        subjects: vec!["user.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    world.jetstream.create_stream(config).await.expect("the stream is created");
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("welcome", &functions::welcome(), &functions::spec()).await;
    world.jetstream_trigger("signups", "SIGNUPS", json!({ "ack_wait_ms": 2_000 })).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('greet', true, 'welcome')").await;
    world
}

/// The sequences that a work queue no longer has.
async fn acknowledged(world: &World, published: &BTreeSet<u64>) -> BTreeSet<u64> {
    let request = json!({ "deleted_details": true });
    let info: Value = world.jetstream.request("STREAM.INFO.SIGNUPS", &request).await.expect("the stream answers");
    let state = &info["state"];
    let first = state["first_seq"].as_u64().expect("a sequence");
    let inside = state["deleted"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    published.range(..first).copied().chain(inside).collect()
}

/// The sequences that the ledger or another table knows by the id of their event or their transport key.
async fn sequences(world: &World, query: &str) -> BTreeSet<u64> {
    let rows = world.rows(query).await;
    rows.iter().filter_map(|row| row["id"].as_str()?.rsplit('/').next()?.parse().ok()).collect()
}

/// How often each greeting was sent; the address is the sequence.
async fn effects(world: &World) -> BTreeMap<u64, usize> {
    let mail = world.jetstream.get_stream("MAIL").await.expect("the stream is there");
    let config = pull::Config { ack_policy: async_nats::jetstream::consumer::AckPolicy::None, ..Default::default() };
    let mut consumer = mail.create_consumer(config).await.expect("a consumer");
    let mut left = consumer.info().await.expect("it answers").num_pending;
    let mut found = BTreeMap::new();
    while left > 0 {
        let mut batch = consumer.fetch().max_messages(1_000).messages().await.expect("a batch");
        while let Some(message) = batch.next().await {
            let message = message.expect("a message");
            let mail: Value = serde_json::from_slice(&message.payload).expect("a mail is JSON");
            let number =
                mail["to"].as_str().and_then(|to| to.strip_prefix('u')?.strip_suffix("@example.com")?.parse().ok());
            *found.entry(number.expect("the address is a number")).or_default() += 1;
            left -= 1;
        }
    }
    found
}

/// What is there now. The order matters: what is acknowledged was settled before, and what is settled was sent before.
async fn evidence(world: &World, published: &BTreeSet<u64>) -> Evidence {
    let acknowledged = acknowledged(world, published).await;
    let done = sequences(world, "select event_id as id from oncue.ledger where settlement = 'done'").await;
    let keys = "select convert_from(transport_key, 'UTF8') as id from oncue.parked
        union all select convert_from(transport_key, 'UTF8') from oncue.dead_letters";
    let kept = sequences(world, keys).await;
    Evidence { published: published.clone(), acknowledged, done, kept, effects: effects(world).await }
}

async fn survive(messages: u64, seed: u64) {
    let began = Instant::now();
    let world = shop().await;
    let mut seeded = Seeded(seed);
    let mut node = Process::start(&world, "mortal").await;
    let published: BTreeSet<u64> = (1..=messages).collect();
    world.publish_all("user.signup", published.iter().map(|n| format!(r#"{{"email":"u{n}@example.com"}}"#))).await;
    progress(began, "all are published");
    for part in KILLS {
        let part = part + seeded.part() / 10.0;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a part of a small number")]
        let enough = (messages as f64 * part) as i64;
        eventually("enough is done", async || world.ledger("true").await >= enough).await;
        node.kill().await;
        progress(began, "killed");
        let seen = evidence(&world, &published).await;
        assert_eq!(at_any_time(&seen), Vec::new(), "after the kill at {part:.2} (seed {seed})");
        assert!(seen.done.len() < published.len(), "the kill at {part:.2} came after the end");
        node = Process::start(&world, "mortal").await;
        progress(began, &format!("started again, {} done, {} acknowledged", seen.done.len(), seen.acknowledged.len()));
    }
    let patience = std::time::Duration::from_secs(240);
    eventually_within(patience, "everything is acknowledged", async || {
        let parked = world.number("select count(*) from oncue.parked").await;
        (parked == 0 && world.stored("SIGNUPS").await == 0).then_some(())
    })
    .await;
    progress(began, "all are acknowledged");
    assert_eq!(at_the_end(&evidence(&world, &published).await), Vec::new(), "at the end (seed {seed})");
    let total = i64::try_from(messages).expect("few");
    assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, total);
    assert_eq!(world.number("select sum(runs) from oncue.usage").await, world.ledger("true").await);
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    node.signal("TERM").await;
    assert!(node.wait().await.success(), "{}", node.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_released_early_when_a_loaded_node_is_killed_three_times() {
    let (messages, seed) = match std::env::var_os("ONCUE_TEST_LONG") {
        Some(_) => (200_000, u64::from(std::process::id())),
        None => {
            not_run("200,000 messages with a new seed", "ONCUE_TEST_LONG is not set; 20,000 run instead");
            (20_000, 0x0DD_BA11)
        }
    };
    survive(messages, seed).await;
}

/// What the `n`th event asks of the function: most go well, some are parked twice, some are refused.
fn what(n: u32) -> &'static str {
    match n % 10 {
        3 => "f3",
        7 => "r0",
        _ => "e0",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_refused_and_ordered_deliveries_survive_kills_too() {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({ "ack_wait_ms": 2_000 })).await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, run, ordering_key, retry_base_ms, retry_cap_ms)
             values ('ordered', true, 'steered', '$.data.key', 20, 50), ('loose', true, 'steered', null, 20, 50)",
        )
        .await;
    let total = 2_000;
    let event = |n: u32| (format!("e{n}"), format!(r#"{{"do":"{}","key":"k{}","n":{n}}}"#, what(n), n % 50));
    world.publish_events("work", (0..total).map(event)).await;
    for part in [0.2, 0.6] {
        let node = Process::start(&world, "mortal").await;
        let settled = "select (select count(*) from oncue.ledger where settlement in ('done', 'dead'))";
        let enough = f64::from(2 * total) * part;
        eventually("enough is settled", async || {
            f64::from(u32::try_from(world.number(settled).await).expect("few")) > enough
        })
        .await;
        node.kill().await;
        // What a dead node claimed would wait for the end of its lease.
        world.sql("update oncue.parked set lease_until = now() where lease_until is not null").await;
    }
    let mut node = Process::start(&world, "mortal").await;
    eventually_within(std::time::Duration::from_secs(120), "all is settled", async || {
        let parked = world.number("select count(*) from oncue.parked").await;
        (parked == 0 && world.drained("WORK", "oncue-work").await).then_some(())
    })
    .await;
    let refused = i64::from(total / 10);
    let good = i64::from(total) - refused;
    for rule in ["ordered", "loose"] {
        let of = |what: &str| {
            format!("select count(distinct {what}) from oncue.ledger where rule = '{rule}' and settlement = ")
        };
        assert_eq!(world.number(&format!("{} 'done'", of("event_id"))).await, good, "{rule}");
        assert_eq!(world.number(&format!("{} 'dead'", of("event_id"))).await, refused, "{rule}");
        let both = "having count(*) filter (where settlement in ('done', 'dead')) <> 1";
        let twice = format!("select delivery_id from oncue.ledger where rule = '{rule}' group by delivery_id {both}");
        assert_eq!(world.rows(&twice).await, Vec::<Value>::new(), "{rule}: each delivery ended once");
    }
    let letters = world.rows("select class, count(*) from oncue.dead_letters group by class").await;
    assert_eq!(letters, vec![json!({ "class": "reject", "count": 2 * refused })]);
    assert_eq!(world.stored("MAIL").await, u64::try_from(2 * good).expect("few"), "each effect once");
    node.signal("TERM").await;
    assert!(node.wait().await.success(), "{}", node.tail());
}
