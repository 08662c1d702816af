//! Order by key: keys of one partition run side by side, each in its order, and a slow one holds up only itself.

use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::records::Record;
use crate::support::topics::{GROUP, done, drained, start, workshop};
use crate::support::{World, eventually};

/// Pairs of attempts of different events that ran at the same time.
const OVERLAPS: &str = "with runs as (
        select event_id, split_part(event_id, ' ', 1) as key, started_at as began,
            started_at + micros * interval '1 microsecond' as ended from oncue.ledger
    ) select a.event_id as one, b.event_id as other, a.key = b.key as same
    from runs a join runs b on a.event_id < b.event_id and a.began < b.ended and b.began < a.ended";

/// Events in the order of their offsets that began before one before it of `key` was settled for good.
fn overtakers(key: &str) -> String {
    format!(
        "with ends as (
             select event_id, split_part(event_id, ' ', 1) as key, split_part(event_id, ' ', 2)::int as n,
                 min(started_at) as began, max(settled_at) as ended from oncue.ledger group by event_id
         ), pairs as (
             select event_id, began, lag(ended) over (partition by {key} order by n) as before from ends
         ) select event_id from pairs where began < before"
    )
}

/// A record whose id is its key and its place in the partition.
fn record(key: &str, n: usize, what: &str) -> Record {
    Record::event(&format!("{key} {n}"), key, &format!(r#"{{"do":"{what}","n":{n}}}"#)).in_partition(0)
}

async fn none(world: &World, query: &str) {
    let found = world.rows(query).await;
    assert!(found.is_empty(), "{} rows: {:?}", found.len(), found.iter().take(5).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_partition_run_side_by_side_and_each_in_its_order() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let (keys, total) = (20, 600);
    // Some sleep, some fail once, some are parked twice and hold back their key.
    let what = |n: usize| match n % 97 {
        0..10 => "s1",
        10..15 => "f1",
        15 => "f3",
        _ => "o0",
    };
    let records = (0..total).map(|n| record(&format!("k{}", n * 31 % keys), n, what(n)));
    kafka.client().produce("work", records).await;
    done(&world, i64::try_from(total).expect("few")).await;
    none(&world, &overtakers("key")).await;
    let overlaps = format!(
        "select count(*) filter (where not same) as other, count(*) filter (where same) as same
        from ({OVERLAPS}) o"
    );
    let overlaps = world.row(&overlaps).await;
    assert!(overlaps["other"].as_i64().is_some_and(|pairs| pairs > 20), "keys run side by side: {overlaps}");
    assert_eq!(overlaps["same"], 0, "no key overlaps itself");
    assert!(world.ledger("settlement = 'parked'").await > 0, "some were parked");
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_key_holds_up_only_itself_and_the_commit() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    // The first record warms the function up, so that the slow ones begin before the fast ones are through.
    kafka.client().produce("work", [record("first", 0, "o0")]).await;
    done(&world, 1).await;
    let slow = |n: usize| n % 250 == 1 && n < 1_000;
    let records =
        (1..=1_004).map(|n| if slow(n) { record("slow", n, "z5") } else { record(&format!("k{}", n % 50), n, "o0") });
    kafka.client().produce("work", records).await;
    eventually("all the fast ones are done", async || {
        world.ledger("event_id like 'k%' and settlement = 'done'").await == 1_000
    })
    .await;
    let slow_ones = world.ledger("event_id like 'slow%' and settlement = 'done'").await;
    assert!(slow_ones < 4, "a thousand fast ones waited for {slow_ones} slow ones");
    let committed = kafka.client().committed(GROUP, "work", 1);
    let next = committed.get(&0).copied().unwrap_or(0);
    let first_unsettled = 1 + 250 * slow_ones;
    assert!(next <= first_unsettled + 250, "{next} is committed, and {slow_ones} slow ones were done a moment ago");
    done(&world, 1_005).await;
    none(&world, &overtakers("key")).await;
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_key_are_unordered_and_run_side_by_side() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let keyless = |n| Record { key: None, ..record("none", n, "s6") };
    kafka.client().produce("work", (0..40).map(keyless)).await;
    done(&world, 40).await;
    let pairs = world.number(&format!("select count(*) from ({OVERLAPS}) o")).await;
    assert!(pairs > 20, "{pairs} pairs ran at the same time");
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_in_order_runs_one_record_after_another_whatever_its_key() {
    let (world, kafka) = (workshop(json!({ "ordered": "partition" }), "").await, Kafka::start(&[("work", 2)]));
    let node = start(&world, "one", kafka.bus()).await;
    let what = |n: usize| match n {
        20 => "f3",
        n if n % 10 == 0 => "s1",
        _ => "o0",
    };
    let of = |partition: i32| {
        (0..100).map(move |n| {
            let key = format!("k{}", n % 7);
            // The id's first word is the partition.
            let mut record = record(&format!("p{partition}"), n, what(n)).in_partition(partition);
            record.key = (n % 5 > 0).then(|| key.into_bytes());
            record
        })
    };
    kafka.client().produce("work", of(0).chain(of(1))).await;
    done(&world, 200).await;
    none(&world, &overtakers("key")).await;
    none(&world, &format!("select * from ({OVERLAPS}) o where same")).await;
    drained(&kafka.client(), 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_order_records_of_one_key_run_side_by_side() {
    let (world, kafka) = (workshop(json!({ "ordered": "none" }), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    kafka.client().produce("work", (0..40).map(|n| record("k", n, "s6"))).await;
    done(&world, 40).await;
    let pairs = world.number(&format!("select count(*) from ({OVERLAPS}) o where same")).await;
    assert!(pairs > 20, "{pairs} pairs ran at the same time");
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_order_by_something_else_than_the_key() {
    let columns = "ordering_key = '$.data.user'";
    let (world, kafka) = (workshop(json!({ "ordered": "none" }), columns).await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let users = 4;
    let record = |n: usize| {
        let (user, what) = (format!("u{}", n % users), if n.is_multiple_of(9) { "s1" } else { "o0" });
        // Each record has a key of its own; the id's first word is the user.
        let data = format!(r#"{{"do":"{what}","user":"{user}"}}"#);
        Record::event(&format!("{user} {n}"), &format!("key {n}"), &data)
    };
    kafka.client().produce("work", (0..200).map(record)).await;
    done(&world, 200).await;
    none(&world, &overtakers("key")).await;
    none(&world, &format!("select * from ({OVERLAPS}) o where same")).await;
    drained(&kafka.client(), 1).await;
    node.stop().await;
}

/// Two topics of one trigger have lanes of their own.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_in_two_topics_is_two_keys() {
    let world = workshop(json!({ "topics": ["work", "other"] }), "").await;
    let kafka = Kafka::start(&[("work", 1), ("other", 1)]);
    let node = start(&world, "one", kafka.bus()).await;
    kafka.client().produce("work", [record("k", 0, "z9"), record("k", 1, "o0")]).await;
    eventually("it runs", async || node.metric("oncue_in_flight_events").await.is_some_and(|events| events > 0.0))
        .await;
    kafka.client().produce("other", [record("other", 2, "o0")]).await;
    done(&world, 3).await;
    let order: Vec<Value> = world.rows("select event_id from oncue.ledger order by settled_at").await;
    assert_eq!(order[0]["event_id"], "other 2", "{order:?}");
    node.stop().await;
}
