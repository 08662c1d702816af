//! Faults around a feed: nodes that die, sleep or lose their connections, and rows that kill whoever works on them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::feeds::{done, insert, told, users};
use crate::support::node::get;
use crate::support::process::Process;
use crate::support::{Node, World, eventually, eventually_within, functions};

/// More than a lease lasts and the asking for it takes.
const TAKE_OVER: Duration = Duration::from_secs(60);

const CUT_READER: &str = "select pg_terminate_backend(pid) from pg_stat_replication";

/// No delivery was done twice, whatever node did it, and none is missing.
async fn once_each(world: &World, count: i64) {
    let twice = "select delivery_id from oncue.ledger group by delivery_id
        having count(*) filter (where settlement = 'done') <> 1";
    assert_eq!(world.rows(twice).await, Vec::<Value>::new());
    assert_eq!(world.number("select count(distinct event_id) from oncue.ledger").await, count);
}

async fn epoch(world: &World) -> i64 {
    world.number("select epoch from oncue.leases where name = 'feed users'").await
}

/// What `/readyz` of a process says of the trigger.
async fn trigger(process: &Process) -> String {
    let Some((_, body)) = get(process.health, "/readyz").await else { return String::new() };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let components = answer["components"].as_array().cloned().unwrap_or_default();
    let found = components.iter().find(|c| c["component"] == "trigger/users");
    found.and_then(|c| c["state"].as_str()).unwrap_or_default().to_owned()
}

/// The value of a metric of a process.
async fn metric(process: &Process, labelled: &str) -> Option<f64> {
    let (_, body) = get(process.health, "/metrics").await?;
    body.lines().find_map(|line| line.strip_prefix(labelled)?.strip_prefix(' '))?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_told_only_what_is_written_down_even_by_a_new_connection() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    told(&world).await;
    let mut holder = world.pool.begin().await.expect("a transaction");
    sqlx::query("select from oncue.feeds for update").execute(&mut *holder).await.expect("the row is held");
    insert(&world, [2]).await;
    done(&world, 2).await;
    let reader = world.number("select pid from pg_stat_replication").await;
    world.sql(CUT_READER).await;
    eventually("a new connection has told where it is", async || {
        let query =
            format!("select count(*) from pg_stat_replication where pid <> {reader} and reply_time is not null");
        world.number(&query).await == 1
    })
    .await;
    let told =
        world.number("select count(*) from pg_stat_replication r, oncue.feeds f where r.flush_lsn > f.settled_lsn");
    assert_eq!(told.await, 0, "the slot was told what is not written down");
    node.quit().await;
    holder.rollback().await.expect("the row is free");
    let node = Node::start(&world, "one").await;
    insert(&world, [3]).await;
    done(&world, 3).await;
    once_each(&world, 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_stands_by_and_follows_when_the_first_is_drained() {
    let world = users(json!({})).await;
    let one = Node::start(&world, "one").await;
    insert(&world, [1]).await;
    done(&world, 1).await;
    let two = Node::start(&world, "two").await;
    let standing = two.component("trigger/users").await.map(|(state, _)| state);
    assert_eq!(standing.as_deref(), Some("standby"));
    let before = epoch(&world).await;
    insert(&world, 2..100).await;
    one.stop().await;
    insert(&world, [100]).await;
    done(&world, 100).await;
    assert!(epoch(&world).await > before);
    assert_eq!(world.ledger("true").await, 100, "a drained node replays nothing");
    assert!(world.ledger("node = 'two'").await > 0);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_is_followed_by_the_one_that_stood_by() {
    let world = users(json!({})).await;
    let one = Process::start_with_feed(&world, "one").await;
    insert(&world, 1..=50).await;
    done(&world, 50).await;
    let two = Process::launch_with_feed(&world, "two");
    eventually("the second stands by", async || trigger(&two).await == "standby").await;
    let before = epoch(&world).await;
    insert(&world, 51..=100).await;
    one.kill().await;
    insert(&world, 101..=150).await;
    eventually_within(TAKE_OVER, "the second follows", async || {
        (world.ledger("settlement = 'done'").await >= 150).then_some(())
    })
    .await;
    once_each(&world, 150).await;
    assert!(epoch(&world).await > before);
    drop(two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_longer_than_its_lease_settles_nothing_any_more() {
    let world = users(json!({})).await;
    world.stream("MAIL", &["mail.>"]).await;
    let spec = json!({ "limits": { "timeout_ms": 20_000 }, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.sql(r#"update oncue.rules set input = '{"do":"z1"}'"#).await;
    let one = Process::start_with_feed(&world, "one").await;
    insert(&world, [0]).await;
    done(&world, 1).await;
    let two = Process::launch_with_feed(&world, "two");
    eventually("the second stands by", async || trigger(&two).await == "standby").await;
    let before = epoch(&world).await;
    insert(&world, 1..=20).await;
    eventually("the first has all in hand", async || metric(&one, "oncue_in_flight_events").await == Some(20.0)).await;
    one.signal("STOP").await;
    eventually_within(TAKE_OVER, "the second has done them", async || {
        (world.ledger("settlement = 'done' and node = 'two'").await == 20).then_some(())
    })
    .await;
    one.signal("CONT").await;
    eventually("the first knows", async || trigger(&one).await == "standby").await;
    let fenced = r#"oncue_deliveries_total{rule="all",outcome="fenced"}"#;
    eventually("its results were refused", async || metric(&one, fenced).await == Some(20.0)).await;
    once_each(&world, 21).await;
    assert_eq!(world.ledger("node = 'one'").await, 1, "nothing of what it held was settled by it");
    assert!(epoch(&world).await > before);
    one.kill().await;
    insert(&world, [21]).await;
    done(&world, 22).await;
    drop(two);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_may_be_cut_at_any_moment() {
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    let (mut cut, mut rounds) = (0, 0);
    while rounds < 30 || cut <= 10 {
        insert(&world, rounds * 20..rounds * 20 + 20).await;
        rounds += 1;
        assert!(rounds < 1_000, "only {cut} connections were cut");
        cut += world.rows(CUT_READER).await.len();
        let cutting = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'oncue'";
        cut += world.rows(cutting).await.len();
    }
    let count = rounds * 20;
    done(&world, count).await;
    once_each(&world, count).await;
    told(&world).await;
    node.ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_crash_under_load_and_come_back() {
    let mut world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    for round in 0..3 {
        insert(&world, round * 200..round * 200 + 200).await;
        world
            .sql(&format!("insert into users select -n, 'x' from generate_series({0} + 1, {0} + 500) n", round * 500))
            .await;
        world.postgres.stop_immediate().await;
        world.postgres.restart().await.expect("Postgres comes back");
        eventually("it answers", async || world.try_sql("select 1").await.is_ok()).await;
    }
    done(&world, 2_100).await;
    once_each(&world, 2_100).await;
    told(&world).await;
    node.ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_kills_whoever_works_on_it_is_set_aside_and_the_rest_goes_on() {
    let world = users(json!({})).await;
    // The function takes 9 s for it, and the node is killed meanwhile.
    world.sql(r#"update oncue.rules set pattern = '{"data":{"after":{"plan":["free"]}}}', match_all = false"#).await;
    let insert_rule = "insert into oncue.rules (name, trigger, pattern, run, input) values ('poison', 'users',
        '{\"data\":{\"after\":{\"plan\":[\"poison\"]}}}', 'steered', '{\"do\":\"z9\"}')";
    world.sql(insert_rule).await;
    let spec = json!({ "limits": { "timeout_ms": 20_000 }, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.sql("create publication oncue_users for table users").await;
    world.sql("select pg_create_logical_replication_slot('oncue_users', 'pgoutput')").await;
    world.sql("insert into users values (0, 'x', 'poison')").await;
    let (mut kills, mut expected) = (0, 0);
    loop {
        let process = Process::start_with_feed(&world, "mortal").await;
        let parked = "select count(*) from oncue.parked where suspect and rule = 'poison'";
        // What comes behind it is done all the same.
        insert(&world, expected + 1..=expected + 10).await;
        expected += 10;
        eventually("the others are done", async || world.ledger("settlement = 'done'").await == expected).await;
        if world.number(parked).await == 1 {
            process.kill().await;
            break;
        }
        eventually("it is begun", async || metric(&process, "oncue_in_flight_events").await == Some(1.0)).await;
        process.kill().await;
        kills += 1;
        assert!(kills <= 5, "it is not set aside");
    }
    assert_eq!(kills, 3, "it was laid at its door after three deaths");
    // Alone, it kills three more; then it is given up.
    let mut process = Process::start_with_feed(&world, "mortal").await;
    let letters = "select count(*) from oncue.dead_letters where rule = 'poison'";
    let claimed = "select count(*) from oncue.parked where token is not null and lease_until > now()";
    while world.number(letters).await == 0 {
        eventually("it is claimed or given up", async || {
            world.number(letters).await == 1 || world.number(claimed).await == 1
        })
        .await;
        if world.number(letters).await == 1 {
            break;
        }
        process.kill().await;
        kills += 1;
        assert!(kills <= 9, "it is not given up");
        world.sql("update oncue.parked set lease_until = now() where lease_until is not null").await;
        process = Process::start_with_feed(&world, "mortal").await;
    }
    insert(&world, [expected + 1]).await;
    eventually("the next is done", async || world.ledger("settlement = 'done'").await == expected + 1).await;
    told(&world).await;
    process.kill().await;
}
