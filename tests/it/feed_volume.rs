//! Much at once: one statement or one transaction of many rows, each told once, with no more in flight than the budget.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::feeds::{told, users};
use crate::support::node::config;
use crate::support::{Node, World, eventually, eventually_within, not_run, progress};

/// A debug build runs some thousand deliveries in a second.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(240);

/// A function runs for the paying users only; all others are counted.
async fn only_pro(world: &World) {
    world.sql(r#"update oncue.rules set match_all = false, pattern = '{"data":{"after":{"plan":["pro"]}}}'"#).await;
}

async fn unmatched(world: &World) -> i64 {
    world.number("select coalesce(sum(count), 0) from oncue.unmatched").await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_copy_is_an_event_of_its_own() {
    let (rows, part) = match std::env::var_os("ONCUE_TEST_LONG") {
        Some(_) => (100_000, 1),
        None => {
            not_run("a function for each of 100,000 rows", "ONCUE_TEST_LONG is not set; it runs for each tenth");
            (100_000, 10)
        }
    };
    let began = Instant::now();
    let world = users(json!({})).await;
    only_pro(&world).await;
    let node = Node::start(&world, "one").await;
    let mut copy = world.pool.acquire().await.expect("a connection");
    let mut copy = copy.copy_in_raw("copy users from stdin").await.expect("it takes rows");
    let plan = |n: i64| if n % part == 0 { "pro" } else { "free" };
    let text: String = (1..=rows).map(|n| format!("{n}\tu{n}@x\t{}\n", plan(n))).collect();
    copy.send(text.into_bytes()).await.expect("the rows are sent");
    copy.finish().await.expect("they are committed");
    progress(began, "copied");
    eventually_within(PATIENCE, "all are done or counted", async || {
        (world.ledger("settlement = 'done'").await + unmatched(&world).await >= rows).then_some(())
    })
    .await;
    progress(began, "done");
    let run = rows / part;
    let counts = "select count(*) as rows, count(distinct delivery_id) as deliveries,
        count(distinct event_id) as events from oncue.ledger";
    assert_eq!(world.row(counts).await, json!({ "rows": run, "deliveries": run, "events": run }));
    assert_eq!(unmatched(&world).await, rows - run);
    told(&world).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_larger_than_the_budget_flows_through_it() {
    let world = users(json!({})).await;
    only_pro(&world).await;
    let mut settings = config(&world, "one");
    settings.budget_events = 100;
    let node = Node::launch(settings);
    node.ready().await;
    world
        .sql("insert into users select n, 'x', case when n % 100 = 0 then 'pro' else 'free' end from generate_series(1, 200000) n")
        .await;
    let mut most = 0.0_f64;
    eventually_within(PATIENCE, "all are done or counted", async || {
        most = most.max(node.metric("oncue_in_flight_events").await.unwrap_or_default());
        let told = world.ledger("settlement = 'done'").await + unmatched(&world).await;
        assert!(told <= 200_000, "{told} of 200,000");
        (told == 200_000).then_some(())
    })
    .await;
    assert!(most > 0.0 && most <= 100.0, "{most} in flight");
    assert_eq!(world.ledger("true").await, 2_000);
    told(&world).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_drained_inside_a_large_transaction_repeats_nothing_and_loses_nothing() {
    let began = Instant::now();
    let world = users(json!({})).await;
    let node = Node::start(&world, "one").await;
    world.sql("insert into users select n, 'x', 'free' from generate_series(1, 30000) n").await;
    eventually("it is under way", async || world.ledger("true").await > 500).await;
    node.stop().await;
    let before = world.ledger("true").await;
    progress(began, &format!("drained, {before} done"));
    assert!(before < 30_000, "the drain came after the end");
    assert_eq!(
        world
            .number(
                "select count(*) from oncue.feeds f, pg_replication_slots s where s.confirmed_flush_lsn > f.settled_lsn"
            )
            .await,
        0
    );
    let node = Node::start(&world, "two").await;
    eventually_within(PATIENCE, "all are done", async || {
        (world.ledger("settlement = 'done'").await >= 30_000).then_some(())
    })
    .await;
    progress(began, "done");
    told(&world).await;
    let twice = "select delivery_id from oncue.ledger group by delivery_id having count(*) <> 1";
    assert_eq!(world.rows(twice).await, Vec::<Value>::new());
    assert_eq!(world.ledger("true").await, 30_000);
    node.stop().await;
}
