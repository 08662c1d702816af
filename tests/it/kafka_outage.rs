//! A broker that dies under load and comes back: no loss, no exit, health red and then green.

use std::time::Duration;

use serde_json::json;

use crate::support::broker::{Broker, Storage};
use crate::support::node::get;
use crate::support::partitions::{Group, Produced, assert_kept, ran};
use crate::support::process::Process;
use crate::support::records::{Client, Record};
use crate::support::topics::{GROUP, drained_within, launch, workshop};
use crate::support::{PATIENCE, World, eventually, eventually_within, not_run};

const PARTITIONS: i32 = 4;

async fn produce(client: &Client, seen: &mut Group, from: u32, to: u32) {
    let all: Vec<Produced> =
        (from..to).map(|n| Produced { key: format!("k{}", n % 100), id: format!("e{n}") }).collect();
    let record = |record: &Produced| Record::event(&record.id, &record.key, r#"{"do":"o0"}"#);
    let places = client.produce("work", all.iter().map(record)).await;
    seen.enter(all.into_iter().zip(places));
}

async fn is_ready(node: &Process) -> bool {
    get(node.health, "/readyz").await.is_some_and(|(status, _)| status == 200)
}

/// How long the broker is away in each round.
fn outages() -> Vec<Duration> {
    if std::env::var_os("ONCUE_TEST_LONG").is_some() {
        return vec![Duration::ZERO, Duration::from_secs(30), Duration::from_secs(90)];
    }
    not_run("an outage of 30 s", "ONCUE_TEST_LONG is not set; the broker comes back as soon as health is red");
    vec![Duration::ZERO; 3]
}

async fn done(world: &World) -> i64 {
    world.ledger("settlement = 'done'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_under_load_and_comes_back_costs_nothing_but_time() {
    let world = workshop(json!({}), "").await;
    let Some(mut broker) = Broker::start(&world, Storage::Sqlite, "a broker that is killed under load").await else {
        return;
    };
    let client = broker.client();
    client.create_topic("work", PARTITIONS).await;
    let (mut seen, mut count) = (Group::default(), 0);
    let mut node = launch(&world, "one", &client).ready().await;
    for away in outages() {
        produce(&client, &mut seen, count, count + 3_000).await;
        let enough = i64::from(count) + 200;
        count += 3_000;
        eventually("it is busy", async || done(&world).await > enough).await;
        broker.kill().await;
        eventually("health is red", async || !is_ready(&node).await).await;
        tokio::time::sleep(away).await;
        broker.restart().await;
        seen.sample(&world, &client, GROUP, "work", PARTITIONS).await;
        assert_kept(&seen.at_any_time(), "after a kill");
        eventually("health is green", async || is_ready(&node).await).await;
        // It works again, not only when the next records come.
        eventually_within(PATIENCE * 2, "all are done", async || {
            (done(&world).await == i64::from(count)).then_some(())
        })
        .await;
    }
    drained_within(PATIENCE, &client, PARTITIONS).await;
    seen.sample(&world, &client, GROUP, "work", PARTITIONS).await;
    seen.ran = ran(&world).await;
    // These functions have no effects to look for.
    seen.effects = seen.settled.iter().map(|id| (id.clone(), vec![0])).collect();
    assert_kept(&seen.at_the_end(), "at the end");
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    node.signal("TERM").await;
    assert!(node.wait().await.success(), "{}", node.tail());
}
