//! Failures of records: parked at once, the partition moves on, given up after their attempts, redriven, done.

use serde_json::{Value, json};

use crate::support::functions;
use crate::support::kafka::Kafka;
use crate::support::process::{manifest, run};
use crate::support::records::Record;
use crate::support::topics::{done, drained, section, start, workshop};
use crate::support::{Node, World, eventually};

async fn letters(world: &World) -> i64 {
    world.number("select count(*) from oncue.dead_letters where state = 'dead'").await
}

/// Tries what is parked and not held now, and waits until it was tried.
async fn try_again(world: &World) {
    let tries = "select count(*) from oncue.ledger where settlement in ('parked', 'dead')";
    let before = world.number(tries).await;
    world.sql("update oncue.parked set next_at = now() where class = 'retry'").await;
    eventually("it was tried", async || world.number(tries).await > before).await;
}

async fn knows_the_rules(world: &World, node: &Node) {
    eventually("the node knows the new version", async || {
        let known = node.metric("oncue_ruleset_version").await;
        known == Some(f64::from(i32::try_from(world.number("select version from oncue.ruleset").await).expect("few")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_always_fails_is_parked_given_up_and_redriven_while_the_partition_moves_on() {
    let columns = "retry_base_ms = 3600000, retry_cap_ms = 3600000, retry_max_attempts = 4";
    let (world, kafka) = (workshop(json!({}), columns).await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let record = |id: &str, key: &str, what: &str| {
        Record::event(id, key, &format!(r#"{{"do":"{what}","email":"ada@example.com","name":"Ada"}}"#))
    };
    let rest = (1..100).map(|n| record(&format!("e{n}"), &format!("k{}", n % 10), "o0"));
    let last = record("after", "bad", "o0");
    kafka.client().produce("work", [record("bad", "bad", "f9")].into_iter().chain(rest).chain([last])).await;
    done(&world, 99).await;
    // It waits with what comes after it of its key, and all of the partition is committed.
    drained(&kafka.client(), 1).await;
    let parked = world.rows("select class, count(*) from oncue.parked group by class order by class").await;
    assert_eq!(parked, [json!({ "class": "held", "count": 1 }), json!({ "class": "retry", "count": 1 })]);
    try_again(&world).await;
    try_again(&world).await;
    eventually("it is given up", async || letters(&world).await == 1).await;
    // Its key goes on without it.
    done(&world, 100).await;
    let letter = "select id, event_id, class, jsonb_array_length(attempts) as tries from oncue.dead_letters";
    let letter = world.row(letter).await;
    assert_eq!((&letter["event_id"], &letter["class"], &letter["tries"]), (&json!("bad"), &json!("retry"), &json!(4)));

    world.deploy("steered", &functions::welcome(), &functions::spec()).await;
    knows_the_rules(&world, &node).await;
    let (manifest, _) = manifest(&world, "operator", &section(&kafka.client()));
    let id = letter["id"].as_str().expect("an id");
    let said = run(&manifest, &["dead-letter", "redrive", id, "--with-current"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    done(&world, 101).await;
    assert_eq!((letters(&world).await, world.number("select count(*) from oncue.parked").await), (0, 0));
    let ran = world.row("select event_id from oncue.ledger where settlement = 'done' and version = 2").await;
    assert_eq!(ran["event_id"], "bad");
    assert_eq!(world.stored("MAIL").await, 1, "its effect is there");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_refused_trap_or_run_too_long_are_given_up_and_hold_up_nobody() {
    let world = workshop(json!({}), "retry_max_attempts = 2").await;
    let kafka = Kafka::start(&[("work", 1)]);
    let limits = json!({ "limits": { "timeout_ms": 300, "memory_bytes": 4 << 20 } });
    world.deploy("steered", &functions::steered(), &limits).await;
    let node = start(&world, "one", kafka.bus()).await;
    let bad = ["r0", "t0", "l0", "m0", "d0", "b0"];
    let records = (0..60).map(|n| {
        let what = if n % 10 == 0 { bad[n / 10] } else { "o0" };
        Record::event(&format!("e{n}"), &format!("k{}", n % 20), &format!(r#"{{"do":"{what}"}}"#))
    });
    kafka.client().produce("work", records).await;
    done(&world, 54).await;
    eventually("the bad ones are given up", async || letters(&world).await == 6).await;
    drained(&kafka.client(), 1).await;
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    let dead: Vec<Value> = world.rows("select event_id from oncue.dead_letters order by event_id").await;
    let ids: Vec<Value> = ["e0", "e10", "e20", "e30", "e40", "e50"].map(|id| json!({ "event_id": id })).into();
    assert_eq!(dead, ids);
    node.stop().await;
}
