//! Gaps: whatever a slot no longer has halts its feed, with the range and the way out, until an operator accepts it.

use oncue::bus::BusConfig;
use oncue::store::feeds::Restart;
use serde_json::{Value, json};

use crate::support::feeds::{connection_to, done, follow_users, insert, sql, state, users};
use crate::support::node::config;
use crate::support::world::start_postgres_with;
use crate::support::{Node, World, eventually};

/// Drops the slot while it is read: its reader is ended as often as it comes back.
const DROP_ACTIVE: &str = "do $$ begin
    for i in 1..2000 loop
        begin
            perform pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null;
            perform pg_drop_replication_slot('oncue_users');
            return;
        exception when object_in_use then perform pg_sleep(0.001);
        end;
    end loop;
    raise 'the slot could not be dropped';
end $$";

/// Waits until the trigger is halted by what `words` say, shows it everywhere, and gives the gap.
async fn halted(world: &World, node: &Node, words: &str) -> Value {
    eventually("the trigger is halted", async || state(world).await.0 == "gap").await;
    let (_, error) = state(world).await;
    let ways = ["oncue trigger resume users --accept-gap", "oncue trigger resume users --resnapshot"];
    assert!(error.contains(words) && ways.iter().all(|way| error.contains(way)), "{error}");
    eventually("health shows it", async || {
        node.component("trigger/users").await.is_some_and(|(state, why)| state == "gap" && why.contains(ways[0]))
    })
    .await;
    eventually("the node is not ready", async || !node.is_ready().await).await;
    let gap = world.row("select from_position, to_position, reason from oncue.gaps where accepted_at is null").await;
    // The last position may have been written after the gap was found.
    let known = "select count(*) from oncue.gaps, oncue.feeds where from_position::pg_lsn <= settled_lsn";
    assert_eq!(world.number(known).await, 1, "{gap}");
    assert!(gap["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{gap}");
    gap
}

/// Shows that the halt outlives the node and that nothing was moved or made by itself.
async fn stays_halted(world: &World, node: Node) -> Node {
    let look = "select (select jsonb_agg(jsonb_build_array(slot_name, confirmed_flush_lsn)) from pg_replication_slots)
        as slots, (select jsonb_agg(pubname) from pg_publication) as publications, to_jsonb(f) as feed
        from oncue.feeds f";
    let before = world.row(look).await;
    node.stop().await;
    let node = Node::start_unready(world, "later").await;
    halted(world, &node, "").await;
    assert_eq!(world.row(look).await, before, "nothing is reset by itself");
    node
}

/// Accepts the gap: new changes run, and everything is well.
async fn goes_on(world: &World, node: &Node, key: i64, total: i64) {
    let before = world.store().accept_gap("users", Restart::Accept).await.expect("it is accepted");
    assert_eq!(before, "gap");
    node.ready().await;
    insert(world, [key]).await;
    done(world, total).await;
    assert_eq!(state(world).await, ("active".to_owned(), String::new()));
    let gaps = world.row("select count(*), count(accepted_at) as accepted from oncue.gaps").await;
    assert_eq!(gaps, json!({ "count": 1, "accepted": 1 }));
}

/// A feed that has settled one change and whose node was drained.
async fn drained(spec: Value) -> World {
    let world = users(spec).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    node.stop().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_and_made_again_is_a_gap() {
    let world = drained(json!({})).await;
    insert(&world, [2]).await;
    world.sql("select pg_drop_replication_slot('oncue_users')").await;
    world.sql("select pg_create_logical_replication_slot('oncue_users', 'pgoutput')").await;
    insert(&world, [3]).await;
    let node = Node::start_unready(&world, "two").await;
    let gap = halted(&world, &node, "dropped and made again").await;
    let at = world.row("select confirmed_flush_lsn::text as at from pg_replication_slots").await;
    assert_eq!(gap["to_position"], at["at"]);
    let node = stays_halted(&world, node).await;
    // What the new slot has is not lost: the third change runs, only the second is missing.
    goes_on(&world, &node, 4, 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_dropped_under_a_reader_is_a_gap() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    world.sql(DROP_ACTIVE).await;
    halted(&world, &node, "is gone").await;
    insert(&world, [2]).await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_moved_past_what_is_settled_is_a_gap() {
    let world = drained(json!({})).await;
    insert(&world, [2]).await;
    world.sql("select pg_replication_slot_advance('oncue_users', pg_current_wal_lsn())").await;
    let node = Node::start_unready(&world, "two").await;
    let gap = halted(&world, &node, "it was moved").await;
    assert!(gap["to_position"].is_string(), "{gap}");
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_kept_too_much_is_a_gap_and_is_replaced_when_that_is_accepted() {
    let settings = [
        ("max_slot_wal_keep_size", "16MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "32MB"),
        ("wal_level", "logical"),
    ];
    let world = World::with_settings(&settings).await;
    world.store().migrate().await.expect("the migrations apply");
    world.sql(crate::support::feeds::USERS).await;
    follow_users(&world, json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    node.stop().await;
    for _ in 0..4 {
        world
            .sql("create table much as select repeat('x', 1000) from generate_series(1, 20000); drop table much")
            .await;
        world.sql("select pg_switch_wal()").await;
        world.sql("checkpoint").await;
    }
    assert_eq!(world.row("select wal_status from pg_replication_slots").await, json!({ "wal_status": "lost" }));
    let node = Node::start_unready(&world, "two").await;
    halted(&world, &node, "the server has removed WAL that was not read").await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 2, 2).await;
    assert_eq!(world.row("select wal_status from pg_replication_slots").await, json!({ "wal_status": "reserved" }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_dropped_in_mid_stream_is_a_gap() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    world.sql("drop publication oncue_users").await;
    insert(&world, [2]).await;
    halted(&world, &node, "publication \"oncue_users\"").await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_dropped_and_made_again_is_a_gap() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    world.sql("drop publication oncue_users").await;
    insert(&world, [2]).await;
    world.sql("create publication oncue_users for table users").await;
    insert(&world, [3]).await;
    halted(&world, &node, "publication \"oncue_users\"").await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 4, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_dropped_while_nobody_read_is_a_gap() {
    let world = drained(json!({})).await;
    insert(&world, [2]).await;
    world.sql("drop publication oncue_users").await;
    let node = Node::start_unready(&world, "two").await;
    halted(&world, &node, "the publication \"oncue_users\" was dropped").await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_made_again_while_nobody_read_is_a_gap() {
    let world = drained(json!({})).await;
    world.sql("drop publication oncue_users").await;
    insert(&world, [2]).await;
    world.sql("create publication oncue_users for table users").await;
    let node = Node::start_unready(&world, "two").await;
    halted(&world, &node, "publication \"oncue_users\"").await;
    let node = stays_halted(&world, node).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_slot_in_the_trigger_is_a_gap() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    world.sql(r#"update oncue.triggers set spec = spec || '{"slot": "another"}'"#).await;
    halted(&world, &node, "the trigger names the slot \"another\" now").await;
    insert(&world, [2]).await;
    goes_on(&world, &node, 3, 2).await;
    node.stop().await;
}

/// A feed whose source is not the node's own database; `apart`: the second source is no copy of the first.
async fn moved_to_another_server(apart: bool, words: &str) {
    let world = World::start().await;
    let dir = world.dir.path();
    let first = start_postgres_with(&dir.join("first"), &[], true).await;
    let second = start_postgres_with(&dir.join("second"), &[], !apart).await;
    let (one, two) = (connection_to(first.url()), connection_to(second.url()));
    sql(&two, crate::support::feeds::USERS).await;
    sql(&two, "create publication oncue_users for table users").await;
    sql(&two, "select pg_create_logical_replication_slot('oncue_users', 'pgoutput')").await;
    // The first is further than the second will be.
    sql(&one, crate::support::feeds::USERS).await;
    sql(&one, "create table much as select repeat('x', 1000) from generate_series(1, 3000)").await;
    follow_users(&world, json!({})).await;
    let on = |url: &str, name: &str| {
        let mut settings = config(&world, name);
        settings.buses.insert("app".to_owned(), BusConfig::postgres(url));
        settings
    };
    let node = Node::launch(on(first.url(), "one"));
    node.ready().await;
    sql(&one, "insert into users values (1, 'a@x', null)").await;
    done(&world, 1).await;
    node.stop().await;
    sql(&two, "insert into users values (2, 'b@x', null)").await;
    let node = Node::launch(on(second.url(), "two"));
    halted(&world, &node, words).await;
    assert_eq!(world.ledger("true").await, 1);
    world.store().accept_gap("users", Restart::Accept).await.expect("it is accepted");
    node.ready().await;
    sql(&two, "insert into users values (3, 'c@x', null)").await;
    done(&world, 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_with_a_slot_of_the_same_name_is_a_gap() {
    moved_to_another_server(true, "the server is another one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_set_back_is_a_gap() {
    // Made from one template, they have one system identifier, as a server has that was restored from a backup.
    moved_to_another_server(false, "was set back").await;
}
