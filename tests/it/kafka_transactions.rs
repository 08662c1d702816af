//! Topics that transactions were written to: the records that end them take offsets and are no events.
//!
//! The cluster of these tests knows no aborted transactions: to leave their records out is librdkafka's, told by a broker.

use std::time::Duration;

use serde_json::json;

use crate::support::batches::{Batch, Marker};
use crate::support::kafka::Kafka;
use crate::support::records::Record;
use crate::support::topics::{GROUP, done, start, workshop};
use crate::support::{eventually, eventually_within, not_run};

const WORK: &str = r#"{"do":"o0"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn control_records_are_passed_over_and_nothing_waits_for_them() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let (client, servers) = (kafka.client(), kafka.cluster.bootstrap_servers());
    let marker = async |marker| Batch::marker(marker).produce(&servers, "work", 0).await;
    let committed = |offset: i64| {
        let client = client.clone();
        async move || client.committed(GROUP, "work", 1).get(&0) == Some(&offset)
    };
    // A topic that begins with one, and transactions of two records.
    assert_eq!(marker(Marker::Abort).await, 0);
    for round in 0..20 {
        let transaction = Batch::transactional(&[("a", WORK), ("b", WORK)]);
        assert_eq!(transaction.produce(&servers, "work", 0).await, 1 + round * 3);
        marker(if round % 2 == 0 { Marker::Commit } else { Marker::Abort }).await;
    }
    let node = start(&world, "one", kafka.bus()).await;
    done(&world, 40).await;
    // The last record is at 59, and the marker behind it is all that is left.
    eventually("what is settled is committed", committed(60)).await;
    assert_eq!(client.watermarks("work", 1)[&0], (0, 61));
    node.stop().await;
    // Whoever reads on begins between a record and a marker.
    for _ in 0..5 {
        marker(Marker::Commit).await;
    }
    let node = start(&world, "one", kafka.bus()).await;
    client.produce("work", [Record::new("c", WORK)]).await;
    done(&world, 41).await;
    eventually("what is settled is committed", committed(67)).await;
    marker(Marker::Commit).await;
    node.stop().await;
    let node = start(&world, "one", kafka.bus()).await;
    client.produce("work", [Record::new("c", WORK)]).await;
    done(&world, 42).await;
    eventually("what is settled is committed", committed(69)).await;
    assert!(node.is_ready().await);
    let trigger = world.row("select state, error from oncue.triggers").await;
    assert_eq!(trigger, json!({ "state": "active", "error": null }));
    for (what, table) in [("no letter", "dead_letters"), ("no gap", "gaps"), ("nothing parked", "parked")] {
        assert_eq!(world.number(&format!("select count(*) from oncue.{table}")).await, 0, "{what}");
    }
    assert_eq!(world.number("select count(*) from oncue.ledger").await, 42, "none ran twice");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_ends_with_a_control_record_is_behind_by_nothing() {
    if std::env::var_os("ONCUE_TEST_ALL").is_none() {
        return not_run("the lag of a partition that ends with a control record", "it takes 70 s: scripts/test --all");
    }
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let servers = kafka.cluster.bootstrap_servers();
    Batch::transactional(&[("a", WORK)]).produce(&servers, "work", 0).await;
    Batch::marker(Marker::Commit).produce(&servers, "work", 0).await;
    let node = start(&world, "one", kafka.bus()).await;
    done(&world, 1).await;
    let lag = async || node.metric(r#"oncue_kafka_lag_records{trigger="work",topic="work",partition="0"}"#).await;
    eventually("the control record counts at first", async || lag().await == Some(1.0)).await;
    // Whether it is a record is asked when none has come for a minute.
    let patience = Duration::from_secs(120);
    eventually_within(patience, "it counts no more", async || (lag().await == Some(0.0)).then_some(())).await;
    assert!(node.is_ready().await);
    Batch::transactional(&[("a", WORK)]).produce(&servers, "work", 0).await;
    done(&world, 2).await;
    node.stop().await;
}
