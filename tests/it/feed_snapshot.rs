//! Snapshots and backfills: every row is told, none stale, beside a stream that goes on.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Node, World, eventually};

/// A table with `rows` rows and a rule that publishes every change of it, each key in its order, to the stream `OUT`.
async fn items(rows: u32, feed: Value) -> World {
    let world = World::start().await;
    world.stream("OUT", &["out.>"]).await;
    world.sql("create table items (id bigint primary key, n bigint not null default 0, note text)").await;
    world.sql(&format!("insert into items select i, 0, repeat('x', 50) from generate_series(1, {rows}) i")).await;
    world.feed("items", &["public.items"], feed).await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, publish, ordering_key) values
                 ('out', 'items', true, 'main/out.items', '$.subject')",
        )
        .await;
    world
}

/// The data of what was published, in its order.
async fn told(world: &World) -> Vec<Value> {
    let messages = world.messages("OUT").await;
    messages.iter().map(|message| serde_json::from_slice(&message.payload).expect("it is JSON")).collect()
}

/// Whether the last that was told of each row is what the table holds.
async fn check_last(world: &World) {
    let mut last: HashMap<i64, Option<i64>> = HashMap::new();
    for data in told(world).await {
        let row = if data["op"] == "delete" { &data["before"] } else { &data["after"] };
        let id = row["id"].as_i64().expect("a key");
        let n = (data["op"] != "delete").then(|| row["n"].as_i64().expect("a number"));
        let before = last.insert(id, n);
        if let (Some(Some(before)), Some(n)) = (before, n) {
            assert!(n >= before, "row {id} went back from {before} to {n}: {data}");
        }
    }
    last.retain(|_, n| n.is_some());
    let rows = world.rows("select id, n from items order by id").await;
    assert_eq!(rows.len(), last.len(), "as many rows are told as there are");
    for row in rows {
        let id = row["id"].as_i64().expect("a key");
        assert_eq!(last.get(&id).copied().flatten(), row["n"].as_i64(), "row {id}");
    }
}

async fn done(world: &World) -> bool {
    world.number("select count(*) from oncue.backfills where state = 'done'").await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_tells_every_row_and_none_stale_while_rows_change() {
    let world = items(4_000, json!({ "start": "snapshot", "chunk_rows": 250 })).await;
    let node = Node::start(&world, "one").await;
    let mut writers = JoinSet::new();
    for writer in 0..4_i64 {
        let pool = world.pool.clone();
        writers.spawn(async move {
            for n in 0..150_i64 {
                let id = (n * 7 + writer) * 13 % 4_000 + 1;
                let update = sqlx::query("update items set n = n + 1 where id = $1").bind(id);
                update.execute(&pool).await.expect("the row is there");
                if n % 30 == 0 {
                    let gone = sqlx::query("delete from items where id = $1").bind(2_000 + n + writer);
                    gone.execute(&pool).await.expect("the row goes");
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer does not panic");
    }
    eventually("the table is read", async || done(&world).await).await;
    let last = world.number("select (pg_current_wal_lsn() - '0/0')::bigint").await;
    world.sql("insert into items values (999999, 0, 'last')").await;
    eventually("what was written is settled", async || {
        world.number("select (settled_lsn - '0/0')::bigint from oncue.feeds").await > last
    })
    .await;
    let facts = world.row("select rows_read, rows_superseded, chunks from oncue.backfills").await;
    assert!(facts["rows_read"].as_i64().expect("a count") > 3_000, "{facts}");
    node.stop().await;
    check_last(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_read_and_the_change_after_it_come_in_order() {
    let world = items(1_000, json!({ "start": "snapshot", "chunk_rows": 100 })).await;
    let node = Node::start(&world, "one").await;
    for n in 0..200 {
        world.sql(&format!("update items set n = n + 1 where id = {}", n * 37 % 1_000 + 1)).await;
    }
    eventually("the table is read", async || done(&world).await).await;
    world.sql("insert into items values (5000, 0, 'last')").await;
    eventually("the last is told", async || {
        world.number("select count(*) from oncue.ledger where event_type = 'postgres.public.items.insert'").await == 1
    })
    .await;
    eventually("all is settled", async || {
        world
            .number("select (f.settled_lsn >= (select max(settled_lsn) from oncue.feeds))::int from oncue.feeds f")
            .await
            == 1
            && world.number("select count(*) from oncue.parked").await == 0
    })
    .await;
    node.stop().await;
    check_last(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_on_after_a_crash_where_it_was() {
    let world = items(3_000, json!({ "start": "snapshot", "chunk_rows": 100 })).await;
    for name in ["one", "two", "three"] {
        let node = Node::start(&world, name).await;
        let before = world.number("select coalesce(max(chunks), 0) from oncue.backfills").await;
        eventually("some chunks are read", async || {
            world.number("select coalesce(max(chunks), 0) from oncue.backfills").await > before + 3
                || done(&world).await
        })
        .await;
        node.quit().await;
        // A killed process leaves its lease behind; the next node need not wait for its end here.
        world.sql("update oncue.leases set expires_at = now() - interval '1 s' where name like 'feed %'").await;
    }
    let node = Node::start(&world, "four").await;
    eventually("the table is read", async || done(&world).await).await;
    node.stop().await;
    check_last(&world).await;
    assert_eq!(world.number("select count(distinct event_id) from oncue.ledger").await, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_reads_what_its_filter_says_and_a_bad_one_says_why() {
    let world = items(500, json!({})).await;
    let node = Node::start(&world, "one").await;
    let ask = |table: &str, filter: &str| {
        format!(
            "insert into oncue.backfills (trigger, schema_name, table_name, filter) values ('items', 'public', '{table}', {filter})"
        )
    };
    world.sql(&ask("items", "'id % 10 = 0 -- every tenth'")).await;
    eventually("the rows are read", async || done(&world).await).await;
    assert_eq!(world.ledger("settlement = 'done'").await, 50);
    world.sql("create table plain (n int)").await;
    world.sql(&ask("items", "'no_such_column = 1'")).await;
    world.sql(&ask("plain", "null")).await;
    world.sql(&ask("missing", "null")).await;
    eventually("all three failed", async || {
        world.number("select count(*) from oncue.backfills where state = 'failed'").await == 3
    })
    .await;
    let errors = world.rows("select table_name, error from oncue.backfills where state = 'failed'").await;
    let error = |table: &str| {
        errors.iter().find(|e| e["table_name"] == table).map(|e| e["error"].to_string()).unwrap_or_default()
    };
    assert!(error("items").contains("no_such_column"), "{errors:?}");
    assert!(error("plain").contains("has no primary key") && error("plain").contains("alter table"), "{errors:?}");
    assert!(error("missing").contains("there is no table"), "{errors:?}");
    // The feed goes on.
    world.sql("insert into items values (9000, 1, null)").await;
    eventually("a change is told", async || world.ledger("event_type like '%insert'").await == 1).await;
    node.stop().await;
}
