//! Sources that cannot be followed: each is a definite state that names what mends it, is tried again slowly, and goes
//! on by itself once it is mended.

use std::path::Path;

use oncue::bus::BusConfig;
use serde_json::{Value, json};

use crate::support::feeds::{USERS, done, follow_users, insert, refused, state, users};
use crate::support::node::config;
use crate::support::{Node, World, eventually};

/// A node that reads the world's server as another role.
fn launch_as(world: &World, role: &str, accept_unbounded_wal: bool) -> Node {
    let mut settings = config(world, "one");
    let url = world.postgres.url().replace("postgres@", &format!("{role}@"));
    settings.buses.insert("app".to_owned(), BusConfig { accept_unbounded_wal, ..BusConfig::postgres(url) });
    Node::launch(settings)
}

/// Shows that the feed runs once what was wrong was mended.
async fn works(world: &World, node: Node) {
    node.ready().await;
    insert(world, [1]).await;
    done(world, 1).await;
    assert_eq!(state(world).await, ("active".to_owned(), String::new()));
    node.stop().await;
}

/// A world whose feed exists, with the table and settings given.
async fn world_with(settings: &[(&str, &str)], table: &str, spec: Value) -> World {
    let world = World::with_settings(settings).await;
    world.store().migrate().await.expect("the migrations apply");
    world.sql(table).await;
    follow_users(&world, spec).await;
    world
}

/// Lines of the server's log that hold `text`.
fn lines(log: &Path, text: &str) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_there_is_named_and_asked_for_slowly() {
    let logged = [("log_statement", "all"), ("log_line_prefix", "%u|%a|")];
    let world = world_with(&logged, "create role feeder superuser login", json!({})).await;
    let node = launch_as(&world, "feeder", false);
    refused(
        &world,
        &node,
        &["there is no table public.users on bus", "create it, or mend `tables` of [trigger.users]"],
    )
    .await;
    let log = world.postgres.log();
    eventually("it was tried four times", async || lines(&log, "from pg_replication_slots s") >= 4).await;
    let tries = lines(&log, "from pg_replication_slots s");
    let statements = lines(&log, "feeder|");
    assert!(statements < 20 * tries, "{statements} statements in {tries} tries");
    assert_eq!(world.number("select count(*) from pg_replication_slots").await, 0, "nothing was made");
    assert_eq!(world.number("select count(*) from pg_publication").await, 0);
    world.sql(USERS).await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_replicate_is_told_the_statement() {
    let world = users(json!({})).await;
    world.sql("create role feeder login").await;
    let node = launch_as(&world, "feeder", false);
    refused(&world, &node, &["alter role \"feeder\" replication"]).await;
    world.sql("alter role feeder replication").await;
    // Still it may not make a publication of a table that is another's.
    refused(&world, &node, &["create publication \"oncue_users\" for table \"public\".\"users\""]).await;
    world.sql("create publication oncue_users for table users").await;
    // Nor may it tell events that were published from forged ones.
    refused(&world, &node, &["grant select on oncue.publish_keys to \"feeder\""]).await;
    world.sql("grant usage on schema oncue to feeder; grant select on oncue.publish_keys to feeder").await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_updates_would_break_is_not_published() {
    let world = world_with(&[], "create table users (id bigint, email text, plan text)", json!({})).await;
    let node = Node::start_unready(&world, "one").await;
    refused(&world, &node, &["no primary key and no replica identity", "replica identity full"]).await;
    insert(&world, [0]).await;
    world.sql("update users set plan = 'pro'").await;
    assert_eq!(world.number("select count(*) from pg_publication").await, 0);
    world.sql("alter table users replica identity full").await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_without_the_table_is_told_the_statement() {
    let world = users(json!({})).await;
    world.sql("create table others (id bigint primary key); create publication oncue_users for table others").await;
    let node = Node::start_unready(&world, "one").await;
    refused(&world, &node, &["alter publication \"oncue_users\" add table \"public\".\"users\""]).await;
    world.sql("alter publication oncue_users add table users").await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_or_taken_out_is_noticed_though_the_stream_says_nothing() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    world.sql("alter table users rename to people").await;
    refused(&world, &node, &["there is no table public.users on bus", "mend `tables` of [trigger.users]"]).await;
    world.sql("alter table people rename to users").await;
    node.ready().await;
    world.sql("alter publication oncue_users drop table users").await;
    refused(&world, &node, &["alter publication \"oncue_users\" add table \"public\".\"users\""]).await;
    world.sql("alter publication oncue_users add table users").await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_not_made_without_being_asked_for() {
    let world = users(json!({ "create": false })).await;
    let node = Node::start_unready(&world, "one").await;
    refused(&world, &node, &["create publication \"oncue_users\"", "set create = true on [trigger.users]"]).await;
    world.sql("create publication oncue_users for table users").await;
    refused(&world, &node, &["pg_create_logical_replication_slot('oncue_users', 'pgoutput')"]).await;
    world.sql("select pg_create_logical_replication_slot('oncue_users', 'pgoutput')").await;
    works(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_logical_wal_is_told_the_statement() {
    let world = world_with(&[("wal_level", "replica")], USERS, json!({})).await;
    let node = Node::start_unready(&world, "one").await;
    refused(&world, &node, &["alter system set wal_level = logical", "restart"]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_could_fill_the_disk_is_refused_until_that_is_accepted() {
    let world = world_with(&[("max_slot_wal_keep_size", "-1")], USERS, json!({})).await;
    let node = Node::start_unready(&world, "one").await;
    let words = ["alter system set max_slot_wal_keep_size", "accept_unbounded_wal = true on [bus.app]"];
    refused(&world, &node, &words).await;
    assert_eq!(world.number("select count(*) from pg_replication_slots").await, 0, "nothing was made");
    node.stop().await;
    works(&world, launch_as(&world, "postgres", true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_that_was_never_read_is_told_how_to_go() {
    let settings = [("max_slot_wal_keep_size", "16MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let world = world_with(&settings, USERS, json!({})).await;
    world.sql("select pg_create_logical_replication_slot('oncue_users', 'pgoutput')").await;
    for _ in 0..4 {
        world
            .sql("create table much as select repeat('x', 1000) from generate_series(1, 20000); drop table much")
            .await;
        world.sql("select pg_switch_wal()").await;
        world.sql("checkpoint").await;
    }
    let node = Node::start_unready(&world, "one").await;
    refused(&world, &node, &["select pg_drop_replication_slot('oncue_users')"]).await;
    world.sql("select pg_drop_replication_slot('oncue_users')").await;
    works(&world, node).await;
}
