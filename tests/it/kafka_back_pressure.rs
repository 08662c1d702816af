//! Back-pressure: more records than the budget holds, and more than may be read ahead.

use serde_json::json;
use sqlx::{Postgres, Transaction};

use crate::support::kafka::Kafka;
use crate::support::node::Node;
use crate::support::records::Record;
use crate::support::topics::{done, drained, settings, workshop};
use crate::support::{World, eventually};

const PAUSED: &str = "oncue_kafka_paused_partitions{trigger=\"work\"}";
const AHEAD: &str = "oncue_kafka_read_ahead_records{trigger=\"work\"}";

/// Nothing is settled while this is held.
async fn hold(world: &World) -> Transaction<'static, Postgres> {
    let mut holder = world.pool.begin().await.expect("a transaction");
    sqlx::query("lock table oncue.ledger in exclusive mode").execute(&mut *holder).await.expect("a lock");
    holder
}

/// A record of partition `partition` with a value of more than `size` bytes.
fn record(id: &str, key: &str, partition: i32, size: usize) -> Record {
    let data = format!(r#"{{"do":"o0","filler":"{}"}}"#, "x".repeat(size));
    Record::event(id, key, &data).in_partition(partition)
}

/// A member that held unused credit while it waited for more would wait for itself: of small records the bytes, of large
/// ones the events.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_through_a_small_budget() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let small = (0..3_000).map(|n| record(&format!("k {n}"), &format!("k{}", n % 50), 0, 0));
    let large = (3_000..3_060).map(|n| record(&format!("l {n}"), &format!("l{n}"), 0, 60_000));
    kafka.client().produce("work", small.chain(large)).await;
    let mut config = settings(&world, "one", kafka.bus());
    (config.budget_events, config.budget_bytes) = (600, 2 << 20);
    let node = Node::launch(config);
    done(&world, 3_060).await;
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

/// Brokers send many records of one partition, then many of the next: what waits for the budget is taken from all of them.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_take_turns_when_they_wait_for_the_budget() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 3)]));
    let mut config = settings(&world, "one", kafka.bus());
    config.budget_events = 30;
    let node = Node::launch(config);
    kafka.client().produce("work", [record("first", "first", 0, 0)]).await;
    done(&world, 1).await;
    let holder = hold(&world).await;
    let each = 400;
    for partition in 0..3 {
        let of_it = (0..each).map(|n| record(&format!("p{partition} {n}"), &format!("{partition}/{n}"), partition, 0));
        kafka.client().produce("work", of_it).await;
    }
    let all = f64::from(3 * each - 30);
    eventually("all are read ahead", async || node.metric(AHEAD).await == Some(all)).await;
    holder.rollback().await.expect("the lock is given back");
    done(&world, 1 + 3 * i64::from(each)).await;
    let halfway = "select min(runs)::bigint from (
        select split_part(event_id, ' ', 1) as key, count(*) as runs from (
            select event_id from oncue.ledger where event_id like 'p%' order by started_at limit 600
        ) first group by 1) by_key";
    // The thirty that were in flight before may be of one partition.
    let least = world.number(halfway).await;
    assert!(least >= 170, "when half was run, {least} of the {each} of one partition were");
    drained(&kafka.client(), 3).await;
    eventually("nothing waits", async || node.metric(AHEAD).await == Some(0.0)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_can_take_no_more_pauses_and_answers_its_group() {
    let partitions = 6;
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", partitions)]));
    let small = |name: &str| {
        let mut config = settings(&world, name, kafka.bus());
        config.budget_bytes = 2 << 20;
        Node::launch(config)
    };
    let one = small("one");
    kafka.client().produce("work", [record("first", "first", 0, 0)]).await;
    done(&world, 1).await;
    let holder = hold(&world).await;
    // 23 MB are more than the budget and what is read ahead together.
    let count = 390;
    let large = (1..=count).map(|n| record(&format!("k {n}"), &format!("k{n}"), n % partitions, 60_000));
    kafka.client().produce("work", large).await;
    eventually("all partitions are paused", async || one.metric(PAUSED).await == Some(f64::from(partitions))).await;
    let two = small("two");
    eventually("the other member has partitions", async || {
        two.component("trigger/work").await.is_some_and(|(state, _)| state == "active")
    })
    .await;
    holder.rollback().await.expect("the lock is given back");
    done(&world, 1 + i64::from(count)).await;
    eventually("reading goes on", async || one.metric(PAUSED).await == Some(0.0)).await;
    drained(&kafka.client(), partitions).await;
    one.stop().await;
    two.stop().await;
}
