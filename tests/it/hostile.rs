//! Functions that misbehave: each ends in its named outcome, and its neighbour does not notice.

use serde_json::json;

use crate::support::{Node, World, eventually, functions};

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_function_ends_in_its_named_outcome_while_its_neighbour_goes_on() {
    let world = World::start().await;
    world.stream("WORK", &["work.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    // The default fuel would end the loop by another name before its time is up.
    let limits = json!({ "timeout_ms": 500, "memory_bytes": 32 << 20, "fuel": i64::MAX });
    let spec = json!({ "limits": limits, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("hostile", &functions::steered(), &spec).await;
    world.deploy("good", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql(
            r#"insert into oncue.rules (name, pattern, run, retry_max_attempts) values
               ('hostile', '{"type":["work.hostile"]}', 'hostile', 1), ('good', '{"type":["work.good"]}', 'good', 12)"#,
        )
        .await;
    let node = Node::start(&world, "one").await;
    let table = [
        ("loop", "l0", "timeout"),
        ("memory", "m0", "limit:memory"),
        ("recursion", "d0", "limit:stack"),
        ("trap", "t0", "trap"),
        ("output", "b0", "limit:output_bytes"),
    ];
    for round in 0..4 {
        let hostile = table.iter().map(|(id, what, _)| (format!("{id}-{round}"), format!(r#"{{"do":"{what}"}}"#)));
        world.publish_events("work.hostile", hostile).await;
        let good = (0..50).map(|n| (format!("good-{round}-{n}"), r#"{"do":"e0"}"#.to_owned()));
        world.publish_events("work.good", good).await;
    }
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    for (id, _, outcome) in table {
        let condition = format!("event_id like '{id}-%' and rule = 'hostile' and settlement = 'dead'");
        let rows = world.rows(&format!("select outcome, error from oncue.ledger where {condition}")).await;
        assert_eq!(rows.len(), 4, "{id}");
        assert!(rows.iter().all(|row| row["outcome"] == outcome && row["error"].is_string()), "{id}: {rows:?}");
        let letters =
            format!("select count(*) from oncue.dead_letters where class = '{outcome}' and event_id like '{id}-%'");
        assert_eq!(world.number(&letters).await, 4, "{id}");
    }
    assert_eq!(world.ledger("rule = 'good' and settlement = 'done'").await, 200);
    assert_eq!(world.stored("MAIL").await, 200, "nothing of a hostile function was published");
    assert!(node.is_ready().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_no_subject_cannot_break_into_the_connection() {
    let world = World::start().await;
    world.stream("WORK", &["work.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.stream("EVIL", &["evil.>"]).await;
    world.deploy("steered", &functions::steered(), &json!({ "grants": { "publish": ["main/mail.>"] } })).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('all', true, 'steered')").await;
    let node = Node::start(&world, "one").await;
    let long = format!("mail.{}", "x".repeat(6_000));
    let types = [
        "mail.a b",
        "mail.a\r\nPUB evil.x 2\r\nhi\r\n",
        "mail.a\nPUB evil.x 2\nhi\n",
        "mail.\t",
        "mail.>",
        "mail.*",
        "mail..x",
        "mail.",
        "mail.\0",
        "evil.x",
        long.as_str(),
    ];
    for (n, ty) in types.iter().enumerate() {
        let data = format!(r#"{{"do":"y0","t":"{ty}"}}"#);
        world.publish_events("work.bad", [(format!("bad-{n}"), data)]).await;
        world.publish_events("work.good", [(format!("good-{n}"), r#"{"do":"e0"}"#.to_owned())]).await;
    }
    eventually("all are acknowledged", async || world.drained("WORK", "oncue-work").await).await;
    let good = i64::try_from(types.len()).expect("few");
    eventually("the good ones are done", async || {
        world.ledger("event_id like 'good-%' and settlement = 'done'").await == good
    })
    .await;
    assert_eq!(world.stored("EVIL").await, 0, "nothing was smuggled");
    assert_eq!(node.metric(r#"oncue_reconnects_total{bus="main"}"#).await, None, "the connection held");
    let bad =
        world.rows("select event_id, outcome, settlement, error from oncue.ledger where event_id like 'bad-%'").await;
    let odd: Vec<_> = bad.iter().filter(|row| row["settlement"] != "dead").collect();
    assert!(odd.is_empty(), "for good: a type does not get better by waiting: {odd:?}");
    node.stop().await;
}
