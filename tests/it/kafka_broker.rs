//! The broker of these suites itself, and the helpers on it: a suite that fails must not have its test bed to blame.

use std::collections::BTreeMap;

use crate::support::World;
use crate::support::broker::{Broker, Storage};
use crate::support::records::Record;

const PARTITIONS: i32 = 6;

fn records(count: u32) -> impl Iterator<Item = Record> {
    (0..count).map(|n| Record::event(&format!("e{n}"), &format!("k{}", n % 100), "{}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_memory_serves_what_the_suites_ask() {
    let world = World::without_tables().await;
    let Some(broker) = Broker::start(&world, Storage::Memory, "a broker in memory").await else { return };
    let client = broker.client();
    client.create_topic("work", PARTITIONS).await;
    let one_by_one = [("batch.num.messages", "1"), ("linger.ms", "0")];
    let places = client.produce_with("work", records(20_000), &one_by_one).await;
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, offset) in places {
        assert_eq!(offset, ends.insert(partition, offset).map_or(0, |before| before + 1), "in order, without gaps");
    }
    let expected: BTreeMap<i32, (i64, i64)> = ends.iter().map(|(id, last)| (*id, (0, last + 1))).collect();
    assert_eq!(client.watermarks("work", PARTITIONS), expected);
    let stored = client.records("work");
    assert_eq!(stored.len(), 20_000);
    assert!(stored.iter().all(|record| record.header("ce_id").is_some() && record.at > 0));
    assert_eq!(client.committed("group", "work", PARTITIONS), BTreeMap::new());
    client.commit("group", "work", ends.iter().map(|(id, last)| (*id, last + 1)));
    assert!(client.drained("group", "work", PARTITIONS), "{:?}", client.committed("group", "work", PARTITIONS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_file_keeps_records_and_offsets_over_a_kill() {
    let world = World::without_tables().await;
    let Some(mut broker) = Broker::start(&world, Storage::Sqlite, "a broker with a file").await else { return };
    let client = broker.client();
    client.create_topic("work", 2).await;
    let stored = client.produce("work", records(2_000)).await.len();
    client.commit("group", "work", [(0, 7)]);
    let ends = client.watermarks("work", 2);
    assert_eq!(ends.values().map(|(_, high)| high).sum::<i64>(), 2_000);
    broker.kill().await;
    broker.restart().await;
    assert_eq!((client.records("work").len(), stored), (2_000, 2_000));
    assert_eq!(client.watermarks("work", 2), ends);
    assert_eq!(client.committed("group", "work", 2), BTreeMap::from([(0, 7)]));
    client.delete_group("group").await;
    assert_eq!(client.committed("group", "work", 2), BTreeMap::new());
    client.delete_topic("work").await;
    client.create_topic("work", 2).await;
    assert_eq!(client.watermarks("work", 2), BTreeMap::from([(0, (0, 0)), (1, (0, 0))]));
}
