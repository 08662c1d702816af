//! `kill -9` under load: nothing is acknowledged before it is settled, nothing is lost, every effect is there.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::support::checker::{Evidence, at_any_time, at_the_end};
use crate::support::process::Process;
use crate::support::{World, eventually, eventually_within, functions, not_run};

/// The kills fall at these parts of the work, each moved by up to a tenth by the seed.
const KILLS: [f64; 3] = [0.15, 0.4, 0.7];

/// A small generator, so that a run can be repeated (Marsaglia's xorshift).
struct Seeded(u64);

impl Seeded {
    fn part(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).expect("half of the bits")) / f64::from(u32::MAX)
    }
}

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
    let world = shop().await;
    let mut seeded = Seeded(seed);
    let mut node = Process::start(&world, "mortal").await;
    let published: BTreeSet<u64> = (1..=messages).collect();
    world.publish_all("user.signup", published.iter().map(|n| format!(r#"{{"email":"u{n}@example.com"}}"#))).await;
    for part in KILLS {
        let part = part + seeded.part() / 10.0;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a part of a small number")]
        let enough = (messages as f64 * part) as i64;
        eventually("enough is done", async || world.ledger("true").await >= enough).await;
        node.kill().await;
        let seen = evidence(&world, &published).await;
        assert_eq!(at_any_time(&seen), Vec::new(), "after the kill at {part:.2} (seed {seed})");
        assert!(seen.done.len() < published.len(), "the kill at {part:.2} came after the end");
        node = Process::start(&world, "mortal").await;
    }
    let patience = std::time::Duration::from_secs(240);
    eventually_within(patience, "everything is acknowledged", async || {
        let parked = world.number("select count(*) from oncue.parked").await;
        (parked == 0 && world.stored("SIGNUPS").await == 0).then_some(())
    })
    .await;
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
