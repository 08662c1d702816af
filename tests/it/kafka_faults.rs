//! Injected errors: a cluster that refuses, moves, hangs and goes away. Nothing is lost, nothing is committed before it is
//! settled, and work goes on afterwards.

use std::time::Duration;

use rdkafka::bindings::{rd_kafka_resp_err_t as Error, rd_kafka_resp_err_t::*};
use rdkafka::mocking::MockCoordinator;
use rdkafka::types::RDKafkaApiKey as Api;
use serde_json::json;
use tokio::time::Instant;

use crate::support::broker::{Broker, Storage};
use crate::support::kafka::{BROKERS, Kafka};
use crate::support::partitions::{Group, Produced, assert_kept, ran};
use crate::support::process::Process;
use crate::support::records::Record;
use crate::support::seeded::Seeded;
use crate::support::topics::{GROUP, done, drained, launch, settings, start, workshop};
use crate::support::{Node, World, eventually, progress};

const PARTITIONS: i32 = 4;

/// A cluster with the topic, and what was produced to it.
struct Load {
    kafka: Kafka,
    seen: Group,
    count: u32,
}

impl Load {
    fn start() -> Self {
        Self { kafka: Kafka::start(&[("work", PARTITIONS)]), seen: Group::default(), count: 0 }
    }

    /// Produces so many records of forty keys; one in ten takes a moment.
    async fn produce(&mut self, records: u32) {
        let all: Vec<Produced> = (self.count..self.count + records)
            .map(|n| Produced { key: format!("k{}", n % 40), id: format!("e{n}") })
            .collect();
        let first = self.count;
        let record = |(n, record): (u32, &Produced)| {
            let what = if n % 10 == 0 { "s1" } else { "o0" };
            Record::event(&record.id, &record.key, &format!(r#"{{"do":"{what}"}}"#))
        };
        let places = self.kafka.client().produce("work", (first..).zip(&all).map(record)).await;
        self.seen.enter(all.into_iter().zip(places));
        self.count += records;
    }

    /// What is committed now is settled.
    async fn look(&mut self, world: &World, when: &str) {
        self.seen.sample(world, &self.kafka.client(), GROUP, "work", PARTITIONS).await;
        assert_kept(&self.seen.at_any_time(), when);
    }

    /// Everything is done once, in the order of its key, and committed.
    async fn end(&mut self, world: &World) {
        done(world, i64::from(self.count)).await;
        drained(&self.kafka.client(), PARTITIONS).await;
        self.look(world, "at the end").await;
        self.seen.ran = ran(world).await;
        // These functions have no effects to look for.
        self.seen.effects = self.seen.settled.iter().map(|id| (id.clone(), vec![0])).collect();
        assert_kept(&self.seen.at_the_end(), "at the end");
        assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
        assert_eq!(world.number("select count(*) from oncue.gaps").await, 0);
    }
}

/// What brokers answer now and then, and to what; each once or twice in a row.
fn refusals() -> Vec<(Api, Vec<Error>)> {
    vec![
        (Api::Fetch, vec![RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR__TRANSPORT]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_NOT_COORDINATOR]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR__TRANSPORT]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]),
        (Api::OffsetCommit, vec![RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 3]),
        (Api::Heartbeat, vec![RD_KAFKA_RESP_ERR_NOT_COORDINATOR]),
        (Api::Heartbeat, vec![RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]),
        (Api::Heartbeat, vec![RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]),
        (Api::Heartbeat, vec![RD_KAFKA_RESP_ERR__TRANSPORT; 2]),
        (Api::JoinGroup, vec![RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE]),
        (Api::SyncGroup, vec![RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR__TRANSPORT]),
        (Api::FindCoordinator, vec![RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 3]),
        (Api::OffsetFetch, vec![RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR__TRANSPORT]),
        (Api::Metadata, vec![RD_KAFKA_RESP_ERR__TRANSPORT; 2]),
        (Api::ListOffsets, vec![RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE; 2]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_broker_refuses_is_tried_again_and_nothing_is_lost() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    let began = Instant::now();
    let node = start(&world, "one", load.kafka.bus()).await;
    let mut seeded = Seeded(0x5EED_0001);
    load.produce(100).await;
    done(&world, 100).await;
    for (api, errors) in refusals() {
        load.kafka.cluster.request_errors(api, &errors);
        load.produce(60 + u32::try_from(seeded.below(60)).expect("few")).await;
        let name = format!("{api:?}: {errors:?}");
        done(&world, i64::from(load.count)).await;
        load.look(&world, &name).await;
        progress(began, &name);
        load.kafka.cluster.clear_request_errors(api);
    }
    load.end(&world).await;
    node.ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_and_leaders_may_move_and_brokers_may_go_one_by_one() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    let began = Instant::now();
    let nodes = [start(&world, "one", load.kafka.bus()).await, start(&world, "two", load.kafka.bus()).await];
    let mut seeded = Seeded(0x5EED_0002);
    for round in 0..8 {
        load.produce(300).await;
        let broker = 1 + i32::try_from(seeded.below(3)).expect("few");
        let cluster = &load.kafka.cluster;
        match round % 4 {
            0 => cluster.coordinator(MockCoordinator::Group(GROUP.to_owned()), broker).expect("it moves"),
            1 => (0..PARTITIONS).for_each(|id| {
                let leader = 1 + (broker + id) % BROKERS;
                cluster.partition_leader("work", id, Some(leader)).expect("it moves");
            }),
            2 => cluster.broker_down(broker).expect("it goes down"),
            _ => cluster.broker_round_trip_time(broker, Duration::from_millis(300)).expect("it is slow"),
        }
        progress(began, &format!("round {round}: broker {broker}"));
        load.look(&world, "while it moves").await;
        if round % 4 == 2 {
            // What it leads cannot be read until it is back.
            load.kafka.cluster.broker_up(broker).expect("it comes up");
        }
        done(&world, i64::from(load.count)).await;
        load.kafka.cluster.broker_round_trip_time(broker, Duration::ZERO).expect("it is fast");
        load.look(&world, "after the round").await;
    }
    load.end(&world).await;
    for node in nodes {
        node.ready().await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_turns_health_red_and_is_waited_for() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    let node = start(&world, "one", load.kafka.bus()).await;
    load.produce(500).await;
    eventually("it is busy", async || world.ledger("settlement = 'done'").await > 50).await;
    load.kafka.down();
    eventually("health is red", async || !node.is_ready().await).await;
    eventually("health says why", async || {
        node.component("bus/k").await.is_some_and(|(state, reason)| state == "down" && !reason.is_empty())
    })
    .await;
    let (alive, _) = node.get("/livez").await.expect("it answers");
    assert_eq!(alive, 200);
    load.kafka.up();
    eventually("health is green", async || node.is_ready().await).await;
    load.produce(500).await;
    load.end(&world).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_before_its_brokers_works_when_they_appear() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    load.produce(50).await;
    load.kafka.down();
    let node = Node::launch(settings(&world, "early", load.kafka.bus()));
    eventually("it says that it cannot read", async || {
        node.component("trigger/work").await.is_some_and(|(state, reason)| state == "error" && !reason.is_empty())
    })
    .await;
    assert_eq!(world.ledger("true").await, 0);
    load.kafka.up();
    node.ready().await;
    load.end(&world).await;
    eventually("the row says nothing any more", async || {
        world.row("select error from oncue.triggers").await == json!({ "error": null })
    })
    .await;
    node.stop().await;
}

/// F03: a process that is stopped for longer than its session, and then goes on, is a zombie: what it still has in hand may
/// run a second time, but it commits nothing for partitions that are another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_slept_through_its_session_commits_nothing_that_is_not_settled() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    let began = Instant::now();
    let sleeper = launch(&world, "sleeper", &load.kafka.client()).ready().await;
    load.produce(1_500).await;
    eventually("it is busy", async || world.ledger("settlement = 'done'").await > 100).await;
    sleeper.signal("STOP").await;
    load.look(&world, "while it sleeps").await;
    let other = launch(&world, "other", &load.kafka.client()).ready().await;
    eventually("the other one has taken over", async || {
        world.ledger("node = 'other' and settlement = 'done'").await > 100
    })
    .await;
    progress(began, "the other one has taken over");
    load.look(&world, "when the other one has taken over").await;
    sleeper.signal("CONT").await;
    load.produce(1_500).await;
    load.end(&world).await;
    progress(began, "all is done");
    for mut process in [sleeper, other] {
        process.signal("TERM").await;
        assert!(process.wait().await.success(), "{}", process.tail());
    }
}

/// The committed offsets of a group whose member lost its assignment are never moved by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_late_is_not_committed_over_the_new_owners_head() {
    let (world, mut load) = (workshop(json!({}), "").await, Load::start());
    let mut nodes: Vec<Process> = Vec::new();
    load.produce(200).await;
    for round in 0..3 {
        nodes.push(launch(&world, &format!("n{round}"), &load.kafka.client()).ready().await);
        load.produce(200).await;
        load.look(&world, "while one joins").await;
        done(&world, i64::from(load.count)).await;
    }
    let mut before = load.kafka.client().committed(GROUP, "work", PARTITIONS);
    while let Some(mut process) = nodes.pop() {
        load.produce(100).await;
        process.signal("TERM").await;
        assert!(process.wait().await.success(), "{}", process.tail());
        load.look(&world, "after one left").await;
        let now = load.kafka.client().committed(GROUP, "work", PARTITIONS);
        let back: Vec<_> = before.iter().filter(|(id, offset)| now.get(id) < Some(*offset)).collect();
        assert!(back.is_empty(), "committed offsets went back: {before:?} {now:?}");
        before = now;
    }
    let last = start(&world, "last", load.kafka.bus()).await;
    load.end(&world).await;
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_brokers_have_lost_is_committed_again() {
    let world = workshop(json!({}), "").await;
    let Some(broker) = Broker::start(&world, Storage::Sqlite, "a broker that loses positions").await else { return };
    let client = broker.client();
    client.create_topic("work", PARTITIONS).await;
    let node = start(&world, "one", broker.bus()).await;
    client.produce("work", (0..200).map(|n| Record::new(&format!("k{n}"), r#"{"do":"o0"}"#))).await;
    done(&world, 200).await;
    drained(&client, PARTITIONS).await;
    // This broker takes a commit of anybody.
    client.commit_beside(GROUP, "work", [(1, 3), (2, 0)]);
    assert!(!client.drained(GROUP, "work", PARTITIONS), "{:?}", client.committed(GROUP, "work", PARTITIONS));
    drained(&client, PARTITIONS).await;
    assert_eq!(world.number("select count(*) from oncue.ledger").await, 200, "none ran twice");
    node.stop().await;
}
