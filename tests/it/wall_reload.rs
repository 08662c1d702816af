//! Notifications are hints that anybody may send: a flood of them makes no node read rules that did not change.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Node, World, eventually};

/// The least time between two reads.
const GAP: Duration = Duration::from_millis(200);

const READS: &str = "oncue_rules_reads_total";

async fn reads(node: &Node) -> f64 {
    node.metric(READS).await.expect("the rules were read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_notifications_reads_no_rules_and_a_change_among_them_is_seen() {
    let world = World::start().await;
    let node = Node::start(&world, "one").await;
    let before = reads(&node).await;
    world.sql("select count(pg_notify('oncue_ruleset', n::text)) from generate_series(1, 200000) n").await;
    eventually("every notification was taken", async || {
        node.metric("oncue_ruleset_notifications_total").await.is_some_and(|taken| taken >= 200_000.0)
    })
    .await;
    assert_eq!(reads(&node).await, before, "nothing changed");
    world.sql("select count(pg_notify('oncue_ruleset', n::text)) from generate_series(1, 50000) n").await;
    world.sql("insert into oncue.rules (name, match_all, publish) values ('all', true, 'main/out')").await;
    world.sql("select count(pg_notify('oncue_ruleset', n::text)) from generate_series(1, 50000) n").await;
    eventually("the rule is in force", async || node.metric("oncue_rules_loaded").await == Some(1.0)).await;
    eventually("every notification was taken", async || {
        node.metric("oncue_ruleset_notifications_total").await.is_some_and(|taken| taken >= 300_000.0)
    })
    .await;
    assert_eq!(reads(&node).await, before + 1.0, "one change, one read");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_real_changes_are_read_together() {
    let world = World::start().await;
    let node = Node::start(&world, "one").await;
    let (before, began) = (reads(&node).await, Instant::now());
    for n in 0..300 {
        world.sql(&format!("insert into oncue.rules (name, match_all, publish) values ('r{n}', true, 'main/o')")).await;
    }
    eventually("all are in force", async || node.metric("oncue_rules_loaded").await == Some(300.0)).await;
    let most = began.elapsed().as_secs_f64() / GAP.as_secs_f64() + 2.0;
    let more = reads(&node).await - before;
    assert!((1.0..=most).contains(&more) && more < 300.0, "{more} reads, at most {most}");
    node.stop().await;
}
