//! The WAL guard: what waits too long is put aside before the source loses what is behind it.

use serde_json::json;

use crate::support::{Node, World, eventually, functions};

#[tokio::test(flavor = "multi_thread")]
async fn under_pressure_what_waits_is_parked_unrun_and_the_slot_moves_on() {
    let world = World::with_settings(&[("max_slot_wal_keep_size", "96MB"), ("checkpoint_timeout", "1h")]).await;
    world.store().migrate().await.expect("the migrations apply");
    world.sql("create table jobs (id bigint primary key); create table noise (t text)").await;
    world.sql("alter table noise alter column t set storage external").await;
    let mut spec = functions::spec();
    spec["limits"] = json!({ "concurrency": 1, "timeout_ms": 30_000 });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.feed("jobs", &["public.jobs"], json!({})).await;
    // Nine seconds each, one at a time: minutes of work for one commit.
    world.steer("slow", "jobs", "z9").await;
    let node = Node::start(&world, "one").await;
    world.sql("insert into jobs select generate_series(1, 40)").await;
    eventually("the first is running", async || node.metric("oncue_in_flight_events").await.is_some_and(|n| n > 30.0))
        .await;
    let before = world.number("select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots").await;
    // 70 of 96 MB: above 60 %, and the slot is not lost yet.
    for _ in 0..7 {
        world.sql("insert into noise select repeat('x', 1000000) from generate_series(1, 10)").await;
    }
    eventually("what waits is parked", async || {
        world.number("select count(*) from oncue.parked where class = 'wal_pressure' and attempts = 0").await > 30
    })
    .await;
    assert_eq!(node.metric("oncue_wal_pressure{trigger=\"jobs\"}").await, Some(2.0));
    eventually("the slot moves on", async || {
        world.number("select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots").await
            > before + (40 << 20)
    })
    .await;
    eventually("the pressure is over", async || {
        node.metric("oncue_wal_pressure{trigger=\"jobs\"}").await.is_some_and(|level| level < 2.0)
    })
    .await;
    assert_eq!(world.number("select count(*) from oncue.triggers where state = 'gap'").await, 0);
    node.quit().await;
}
