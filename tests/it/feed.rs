//! Change feeds: committed rows become events, in order, once, and the slot follows what is settled.

use serde_json::{Value, json};

use crate::support::{Node, World, eventually, functions};

async fn users() -> World {
    let world = World::start().await;
    world.sql("create table users (id bigint primary key, email text not null, plan text)").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({})).await;
    world.steer("all", "users", "o0").await;
    world
}

/// Types and subjects in the order of the log.
async fn settled(world: &World) -> Vec<Value> {
    world.rows("select event_type, event_id from oncue.ledger where settlement = 'done' order by delivery_id").await
}

#[tokio::test(flavor = "multi_thread")]
async fn inserts_updates_and_deletes_run_a_function_each_and_the_slot_follows() {
    let world = users().await;
    let node = Node::start(&world, "one").await;
    world.sql("insert into users values (1, 'a@x', 'free'), (2, 'b@x', null)").await;
    world.sql("update users set plan = 'pro' where id = 1").await;
    world.sql("begin; insert into users values (9, 'z', null); rollback").await;
    world.sql("delete from users where id = 2").await;
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 4).await;
    let types: Vec<String> =
        settled(&world).await.iter().map(|r| r["event_type"].as_str().unwrap_or_default().to_owned()).collect();
    let count = |op: &str| types.iter().filter(|ty| **ty == format!("postgres.public.users.{op}")).count();
    assert_eq!((count("insert"), count("update"), count("delete")), (2, 1, 1), "{types:?}");
    let settled = world.number("select (pg_current_wal_lsn() - '0/0')::bigint").await;
    eventually("the slot follows", async || {
        world.number("select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots").await
            >= settled - 100_000
            && world
                .number(
                    "select (s.confirmed_flush_lsn <= f.settled_lsn)::int from pg_replication_slots s, oncue.feeds f",
                )
                .await
                == 1
    })
    .await;
    node.stop().await;
    let node = Node::start(&world, "two").await;
    world.sql("insert into users values (3, 'c@x', 'free')").await;
    eventually("the fifth is done", async || world.ledger("settlement = 'done'").await == 5).await;
    assert_eq!(world.ledger("true").await, 5, "a drained node replays nothing");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stores_every_event_in_order_and_another_trigger_runs_them() {
    let world = World::start().await;
    world.stream("CHANGES", &["changes.>"]).await;
    world.sql("create table users (id bigint primary key, email text)").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({ "relay": "main/changes", "start": "snapshot" })).await;
    world.jetstream_trigger("changes", "CHANGES", json!({})).await;
    world.steer("all", "changes", "o0").await;
    world.sql("insert into users select i, 'old' from generate_series(1, 100) i").await;
    let node = Node::start(&world, "one").await;
    eventually("the table is read", async || world.ledger("event_type like '%.read'").await == 100).await;
    for n in 0..50 {
        world
            .sql(&format!(
                "insert into users values ({n} + 1000, 'x'); update users set email = 'y' where id = {n} + 1000"
            ))
            .await;
    }
    eventually("all are done", async || world.ledger("settlement = 'done'").await == 200).await;
    node.stop().await;
    let messages = world.messages("CHANGES").await;
    assert_eq!(messages.len(), 200, "each is stored once");
    let places: Vec<(String, u64)> = messages
        .iter()
        .filter(|message| !message.subject.ends_with(".read"))
        .map(|message| {
            let data: Value = serde_json::from_slice(&message.payload).expect("it is JSON");
            (format!("{:0>20}", data["commit_lsn"].as_str().unwrap_or_default()), data["ordinal"].as_u64().unwrap_or(0))
        })
        .collect();
    assert!(places.is_sorted(), "they stand in the order of the log");
    let subject = messages.last().map(|message| message.subject.to_string());
    assert_eq!(subject.as_deref(), Some("changes.postgres.public.users.update"));
}
