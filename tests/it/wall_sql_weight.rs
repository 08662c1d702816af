//! The wall around guests' SQL: what a guest makes the server say, hold or wait for holds up its own function only.

use serde_json::json;

use crate::support::bureau::{bureau, end, order, routine, written};
use crate::support::process::{manifest, run};
use crate::support::{Node, World, eventually, functions};

async fn resident(node: &Node) -> f64 {
    node.metric("process_resident_memory_bytes").await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_words_is_not_held() {
    let world = bureau().await;
    world
        .sql(
            "create function shout(n int) returns int language plpgsql set client_min_messages = 'notice' as $$ begin
                 for i in 1..n loop raise notice '%', repeat('x', 1000); end loop; return n; end $$",
        )
        .await;
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good-0", 1).await;
    written(&world, "clerk", "good-0", 1).await;
    let before = resident(&node).await;
    let table: [(&str, &str, &str, &str); 5] = [
        ("error", "x select repeat('x', 60000000)::int", "sql", "22P02"),
        ("raised", "x select (repeat(E'\\u00e4', 20000000) || '\"')::json", "sql", "22P02"),
        ("notices", "x select shout(50000)", "ok", ""),
        ("row", "x select repeat('x', 60000000)", "sql", "message of"),
        ("rows", "x select repeat('x', 1000) from generate_series(1, 60000)", "ok", ""),
    ];
    for (id, line, ..) in table {
        order(&world, "clerk", id, &[line]).await;
        routine(&world, "clerk", &format!("good-{id}"), 5).await;
    }
    for (id, _, outcome, words) in table {
        let (found, error) = end(&world, id).await;
        assert!(found == outcome && error.contains(words) && error.len() <= 4_096, "{id}: {found}: {error:.200}");
    }
    written(&world, "clerk", "good-", 26).await;
    let after = resident(&node).await;
    assert!(after < before + 40e6, "resident memory was {before} and is {after}");
    node.stop().await;
}

/// Functions that sleep in their statements do not hold up one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_sleeps_holds_up_its_own_function_only() {
    let world = bureau().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.deploy(name, &functions::sql(), &json!({ "grants": { "sql": { "role": "clerk" } } })).await;
        world.stream(&name.to_uppercase(), &[name]).await;
        world.jetstream_trigger(name, &name.to_uppercase(), json!({})).await;
        let rule = format!(
            "insert into oncue.rules (name, trigger, match_all, run, retry_max_attempts) values ('{name}', '{name}', true, '{name}', 1)"
        );
        world.sql(&rule).await;
    }
    let node = Node::start(&world, "one").await;
    for name in ["a", "b", "c", "d", "e"] {
        let sleepy = (0..4).map(|n| (format!("{name}{n}"), "x select pg_sleep(1)".to_owned()));
        world.publish_events(name, sleepy).await;
    }
    eventually("some have slept", async || world.ledger("rule < 'clerk' or rule in ('d', 'e')").await >= 2).await;
    routine(&world, "mailer", "good-", 200).await;
    written(&world, "mailer", "good-", 200).await;
    let slept = world.ledger("rule in ('a', 'b', 'c', 'd', 'e')").await;
    assert!(slept < 15, "{slept} of 20 had slept when the others were done");
    // Reads have connections of their own, with the same shares.
    for name in ["a", "b", "c", "d", "e"] {
        let sleepy = (0..2).map(|n| (format!("r{name}{n}"), "q select pg_sleep(1)".to_owned()));
        world.publish_events(name, sleepy).await;
    }
    for n in 0..5 {
        order(&world, "mailer", &format!("good-read{n}"), &["q select 1", "p insert into letters (id) values ($1)"])
            .await;
    }
    written(&world, "mailer", "good-read", 5).await;
    eventually("all have slept", async || world.ledger("rule <> 'mailer'").await >= 30).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_locks_and_a_lock_that_is_held_pass_by() {
    let world = bureau().await;
    let node = Node::start(&world, "one").await;
    order(&world, "clerk", "locks", &["x select count(pg_advisory_lock(g)) from generate_series(1, 1000000) g"]).await;
    routine(&world, "mailer", "good-a", 50).await;
    let (outcome, error) = end(&world, "locks").await;
    assert!(outcome == "sql" && error.contains("out of shared memory"), "{outcome}: {error}");
    written(&world, "mailer", "good-a", 50).await;
    // Somebody holds the table: the clerk waits within its bound, the mailer does not.
    let mut holder = world.pool.begin().await.expect("a transaction");
    sqlx::query("lock table entries").execute(&mut *holder).await.expect("it is locked");
    routine(&world, "clerk", "good-b", 3).await;
    routine(&world, "mailer", "good-b", 50).await;
    written(&world, "mailer", "good-b", 50).await;
    holder.rollback().await.expect("it is free");
    eventually("what waited is done or was refused", async || {
        world.ledger("event_id like 'good-b%' and rule = 'clerk'").await >= 3
    })
    .await;
    eventually("the node says that all is well", async || node.is_ready().await).await;
    assert_eq!(world.number("select count(*) from pg_locks where locktype = 'advisory'").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_that_a_guest_takes_away_is_kept_from_outside() {
    let world: World = bureau().await;
    world.sql("update oncue.rules set retry_max_attempts = 1").await;
    let node = Node::start(&world, "one").await;
    let endless = ["x select set_config('statement_timeout', '0', false)", "x select pg_sleep(3600)"];
    order(&world, "clerk", "endless", &endless).await;
    routine(&world, "clerk", "good-", 5).await;
    let (outcome, error) = end(&world, "endless").await;
    assert!(outcome == "sql" && error.contains("57014"), "{outcome}: {error}");
    written(&world, "clerk", "good-", 5).await;
    let asleep = "select count(*) from pg_stat_activity where query like '%3600%' and state = 'active' and pid <> pg_backend_pid()";
    eventually("nobody sleeps on", async || world.number(asleep).await == 0).await;
    node.stop().await;
}

/// What `oncue doctor` prints to take from everybody can be typed as it stands, and ends what it is about; the node goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_doctor_says_to_revoke_ends_what_all_sessions_share() {
    let world = bureau().await;
    let (path, _) = manifest(&world, "shop", "");
    let doctor = async || -> Vec<serde_json::Value> {
        let said = run(&path, &["doctor", "--output", "json"]).await;
        let findings: Vec<serde_json::Value> =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        findings.into_iter().filter(|finding| finding["about"] == "sql").collect()
    };
    let before = doctor().await;
    let fix = before.iter().filter_map(|finding| finding["fix"].as_str()).find(|fix| fix.starts_with("revoke"));
    world.sql(fix.unwrap_or_else(|| panic!("{before:?}"))).await;
    let after = doctor().await;
    assert!(
        !after.iter().any(|finding| finding["fix"].as_str().is_some_and(|fix| fix.contains("revoke"))),
        "{after:?}"
    );
    assert!(
        after.iter().any(|finding| finding["text"].as_str().is_some_and(|text| text.contains("superuser"))),
        "{after:?}"
    );
    let node = Node::start(&world, "one").await;
    for (id, line) in [
        ("lock", "x select pg_advisory_lock(1)"),
        ("large", "x select lo_create(0)"),
        ("temporary", "x select 1 as n into temp t"),
    ] {
        order(&world, "clerk", id, &[line]).await;
        let (outcome, error) = end(&world, id).await;
        assert!(outcome == "denied" && error.contains("42501"), "{id}: {outcome}: {error}");
    }
    routine(&world, "clerk", "good-", 5).await;
    written(&world, "clerk", "good-", 5).await;
    node.stop().await;
}
