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
