//! `kill -9` of nodes whose functions write by SQL: the sum in their table is exact, and each event gets out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::process::Process;
use crate::support::{World, eventually, eventually_within, functions, not_run, progress};

/// What runs for each event: the counter that all share, one of its own, and an event.
const LINES: &str = "x update counter set n = n + 1\n\
                     p insert into entries (id) values ($1)\n\
                     e counted";

async fn bank() -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world
        .sql(
            "create role clerk nologin;
             create table counter (n bigint not null); insert into counter values (0);
             create table entries (nr bigint generated always as identity, id text not null);
             grant select, insert, update on counter, entries to clerk",
        )
        .await;
    let spec = json!({ "grants": { "publish": ["main/mail.welcome"], "sql": { "role": "clerk" } } });
    world.deploy("clerk", &functions::sql(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({ "ack_wait_ms": 2_000 })).await;
    world.sql("insert into oncue.rules (name, match_all, run, retry_base_ms) values ('work', true, 'clerk', 50)").await;
    world
}

async fn survive(messages: u32, kills: u32) {
    let began = Instant::now();
    let world = bank().await;
    let mut node = Process::start(&world, "mortal").await;
    world.publish_events("work", (0..messages).map(|n| (format!("e{n}"), LINES.to_owned()))).await;
    progress(began, "all are published");
    for kill in 1..=kills {
        let enough = i64::from(messages) * i64::from(kill) / i64::from(kills + 1);
        let patience = Duration::from_secs(240);
        eventually_within(patience, "enough is done", async || {
            (world.ledger("settlement = 'done'").await >= enough).then_some(())
        })
        .await;
        node.kill().await;
        let both = "select (select n from counter) - (select count(*) from oncue.ledger where settlement = 'done')";
        assert_eq!(world.number(both).await, 0, "at any time the table and the ledger say the same");
        progress(began, &format!("killed, {} done", world.ledger("settlement = 'done'").await));
        // What a dead node had in hand would wait for the end of its lease.
        world.sql("update oncue.outbox set next_at = now()").await;
        node = Process::start(&world, "mortal").await;
    }
    eventually_within(Duration::from_secs(300), "all is settled", async || {
        let parked = world.number("select count(*) from oncue.parked").await;
        (parked == 0 && world.drained("WORK", "oncue-work").await).then_some(())
    })
    .await;
    progress(began, "all are settled");
    let total = i64::from(messages);
    assert_eq!(world.number("select n from counter").await, total, "the sum is exact");
    assert_eq!(world.number("select count(*) from entries").await, total);
    assert_eq!(world.number("select count(distinct id) from entries").await, total);
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    eventually("the outbox is empty", async || world.number("select count(*) from oncue.outbox").await == 0).await;
    let ids = world.rows("select delivery_id from oncue.ledger where settlement = 'done'").await;
    let expected: BTreeSet<String> =
        ids.iter().filter_map(|row| Some(format!("{}-0", row["delivery_id"].as_str()?))).collect();
    assert_eq!(published(&world).await, expected, "every event and no other");
    node.signal("TERM").await;
    assert!(node.wait().await.success(), "{}", node.tail());
}

/// The ids of the events in the stream.
async fn published(world: &World) -> BTreeSet<String> {
    use async_nats::jetstream::consumer::{AckPolicy, pull};
    use futures::StreamExt as _;
    let mail = world.jetstream.get_stream("MAIL").await.expect("the stream is there");
    let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
    let mut consumer = mail.create_consumer(config).await.expect("a consumer");
    let mut left = consumer.info().await.expect("it answers").num_pending;
    let mut ids = BTreeSet::new();
    while left > 0 {
        let mut batch = consumer.fetch().max_messages(1_000).messages().await.expect("a batch");
        while let Some(message) = batch.next().await {
            let message = message.expect("a message");
            let id = message.headers.as_ref().and_then(|h| h.get("ce-id")).map(ToString::to_string);
            ids.insert(id.expect("it has an id"));
            left -= 1;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_is_exact_and_each_event_gets_out_when_the_node_is_killed_again_and_again() {
    let (messages, kills) = match std::env::var_os("ONCUE_TEST_LONG") {
        Some(_) => (10_000, 5),
        None => {
            not_run("10,000 deliveries and 5 kills", "ONCUE_TEST_LONG is not set; 3,000 and 3 run instead");
            (3_000, 3)
        }
    };
    survive(messages, kills).await;
}
