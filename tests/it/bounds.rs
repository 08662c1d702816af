//! Bounds: what may run or wait at once, and how long, without anything being stuck or sent twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::node::{Node, config};
use crate::support::process::Process;
use crate::support::{World, eventually, functions};

async fn workshop(limits: Value, trigger: Value) -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    let spec = json!({ "limits": limits, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.jetstream_trigger("work", "WORK", trigger).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('work', true, 'steered')").await;
    world
}

fn many(count: usize, what: &str) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |n| (format!("e{n}"), format!(r#"{{"do":"{what}"}}"#)))
}

/// The most attempts of the ledger that ran at the same time.
const AT_ONCE: &str = "select max(n) from (
    select (select count(*) from oncue.ledger b where b.started_at <= a.started_at
            and b.started_at + b.micros * interval '1 microsecond' > a.started_at) as n from oncue.ledger a) as counts";

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_outlasts_the_wait_for_its_acknowledgement_runs_once() {
    let world = workshop(json!({ "timeout_ms": 20_000 }), json!({ "ack_wait_ms": 1_000 })).await;
    let node = Node::start(&world, "one").await;
    let other = Node::start(&world, "two").await;
    world.publish_events("work", many(20, "z4")).await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 20).await;
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    let info = world.consumer("WORK", "oncue-work").await.expect("it is there");
    assert_eq!(info.delivered.consumer_sequence, 20, "each was delivered once");
    assert_eq!((world.ledger("true").await, world.stored("MAIL").await), (20, 20));
    node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_bounds_still_get_through() {
    let world = workshop(json!({ "concurrency": 1 }), json!({ "max_ack_pending": 1, "ack_wait_ms": 1_000 })).await;
    let mut settings = config(&world, "one");
    settings.concurrency = 1;
    settings.budget_events = 1;
    settings.budget_bytes = 1 << 20;
    settings.settle.group_count = 1;
    settings.store.connections = 2;
    let node = Node::launch(settings);
    node.ready().await;
    world.publish_events("work", many(100, "e0").chain(many(3, "s4"))).await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 103).await;
    assert_eq!(world.number(AT_ONCE).await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_a_function_runs_at_once_than_its_limit_says() {
    let world = workshop(json!({ "concurrency": 3 }), json!({})).await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", many(30, "s2")).await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 30).await;
    let at_once = world.number(AT_ONCE).await;
    assert!((2..=3).contains(&at_once), "{at_once}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_spreads_starts_and_does_not_hold_up_a_drain() {
    let world = workshop(json!({}), json!({ "ack_wait_ms": 2_000 })).await;
    world.sql("update oncue.rules set rate_per_second = 10").await;
    let node = Node::start(&world, "one").await;
    world.publish_events("work", many(200, "o0")).await;
    eventually("some are done", async || world.ledger("true").await >= 25).await;
    let query = "select extract(epoch from max(started_at) - min(started_at))::float8 as seconds, count(*) as n from oncue.ledger";
    let row = world.row(query).await;
    let (seconds, count) = (row["seconds"].as_f64().expect("a number"), row["n"].as_f64().expect("a number"));
    assert!(count <= seconds.mul_add(10.0, 12.0), "ten a second and a burst of ten: {row}");
    let began = Instant::now();
    node.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "what waits for its rate is given back: {:?}", began.elapsed());
    world.sql("update oncue.rules set rate_per_second = null").await;
    let node = Node::start(&world, "two").await;
    eventually("the rest is done", async || world.ledger("settlement = 'done'").await == 200).await;
    assert_eq!(world.ledger("true").await, 200, "once each");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_flow_within_a_small_budget_of_bytes() {
    let world = workshop(json!({}), json!({})).await;
    let mut settings = config(&world, "one");
    settings.budget_bytes = 2 << 20;
    let node = Node::launch(settings);
    node.ready().await;
    let large = format!(r#"{{"do":"o0","filler":"{}"}}"#, "x".repeat(900 << 10));
    for n in 0..30 {
        world.publish_events("work", [(format!("e{n}"), large.clone())]).await;
        let bytes = node.metric("oncue_in_flight_bytes").await.unwrap_or_default();
        assert!(bytes <= f64::from(2 << 20), "{bytes}");
    }
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 30).await;
    node.stop().await;
}

/// How long a node is watched while it has nothing to do.
const IDLE: Duration = Duration::from_secs(20);

/// The statements of nodes that Postgres logged, but for those of retention: they come once an hour, and when a node starts.
fn statements(log: &str) -> Vec<&str> {
    let is_statement = |line: &&str| line.contains(" execute ") || line.contains(" statement: ");
    let run = |line: &&str| line.starts_with("oncue ") && is_statement(line) && !line.contains(": delete from oncue.");
    log.lines().filter(run).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_hardly_asks_and_hardly_computes() {
    let world = workshop(json!({}), json!({})).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('second', true, 'steered')").await;
    let node = Process::start(&world, "idle").await;
    world.publish_events("work", many(10, "o0")).await;
    eventually("it has done its work", async || world.ledger("settlement = 'done'").await == 20).await;
    eventually("all is acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    for setting in ["log_line_prefix = '%a '", "log_min_duration_statement = 0"] {
        world.sql(&format!("alter system set {setting}")).await;
    }
    world.sql("select pg_reload_conf()").await;
    let log = || std::fs::read_to_string(world.postgres.log()).expect("the log is text");
    eventually("statements are logged", async || !statements(&log()).is_empty()).await;
    let (before, ticks) = (log().len(), node.cpu_ticks());
    tokio::time::sleep(IDLE).await;
    let (asked, ticks) = (log().split_off(before), node.cpu_ticks() - ticks);
    let asked = statements(&asked);
    assert!(asked.len() < usize::try_from(IDLE.as_secs()).expect("few"), "{} in {IDLE:?}: {asked:#?}", asked.len());
    // A hundred ticks a second; the test build may take three times what the real one takes.
    assert!(ticks <= 3 * IDLE.as_secs(), "{ticks} ticks of 10 ms in {IDLE:?}");
    node.kill().await;
}
