//! Effects exactly once: what functions do by SQL is settled with their ledger row, under their role, or not at all.

use std::collections::BTreeMap;

use oncue::function::sql::{Statement, Value as Param};
use oncue::store::settle::{Effects, Group, Record};
use serde_json::{Value, json};

use crate::support::{Node, World, eventually, functions, settlements};

/// A stream of work, the function `clerk` with SQL under the role `clerk`, and tables that it may and may not touch.
async fn office(spec: Value) -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world
        .sql(
            "create role clerk nologin;
             create table entries (id text primary key, who text default current_user, note text);
             create table numbers (n int not null constraint numbers_are_small check (n < 10),
                                   parent int constraint parent_exists references numbers (n) deferrable initially deferred,
                                   unique (n));
             create table secrets (word text);
             insert into secrets values ('swordfish');
             grant select, insert, update, delete on entries, numbers to clerk",
        )
        .await;
    world.deploy("clerk", &functions::sql(), &spec).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, match_all, run, retry_base_ms, retry_max_attempts)
             values ('work', true, 'clerk', 50, 3)",
        )
        .await;
    world
}

fn granted() -> Value {
    json!({ "grants": { "publish": ["main/mail.welcome"], "sql": { "role": "clerk" } } })
}

async fn work(world: &World, id: &str, lines: &[&str]) {
    world.publish_events("work", [(id.to_owned(), lines.join("\n"))]).await;
}

/// Waits until the event `id` was given up, and gives the class and the words.
async fn death(world: &World, id: &str) -> (String, String) {
    let query = format!("select class, error from oncue.dead_letters where event_id = '{id}'");
    eventually(&format!("{id} is given up"), async || !world.rows(&query).await.is_empty()).await;
    let letter = world.row(&query).await;
    (letter["class"].as_str().unwrap_or_default().to_owned(), letter["error"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the node runs by what the tables say now.
async fn loaded(world: &World, node: &Node) {
    eventually("the node has loaded the tables", async || {
        let version = world.row("select version::float8 from oncue.ruleset").await["version"].as_f64();
        node.metric("oncue_ruleset_version").await == version
    })
    .await;
}

async fn done(world: &World, count: i64) {
    eventually("all are done", async || world.ledger("settlement = 'done'").await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_run_under_the_role_and_events_follow_the_commit() {
    let world = office(granted()).await;
    world.sql("insert into entries values ('before', 'somebody', 'a')").await;
    let node = Node::start(&world, "one").await;
    let lines = [
        "p insert into entries (id) values ($1)",
        "q select count(*) as n, current_user as who from entries -- its own row is not there",
        "r update entries set note = $1 where id <> 'before'",
        "e {\"to\":\"ada\"}",
    ];
    work(&world, "first", &lines).await;
    done(&world, 1).await;
    let entry = world.row("select who, note::jsonb as seen from entries where id = 'first'").await;
    assert_eq!(entry, json!({ "who": "clerk", "seen": { "n": 1, "who": "clerk" } }));
    eventually("the event is published", async || world.stored("MAIL").await == 1).await;
    let mail = world.messages("MAIL").await.remove(0);
    let delivery = world.row("select delivery_id from oncue.ledger").await["delivery_id"].clone();
    let id = format!("{}-0", delivery.as_str().expect("an id"));
    let header = |name: &str| mail.headers.get(name).map(ToString::to_string);
    assert_eq!((header("ce-id"), header("Nats-Msg-Id")), (Some(id.clone()), Some(id)));
    eventually("the outbox is empty", async || world.number("select count(*) from oncue.outbox").await == 0).await;
    assert_eq!(world.row("select outputs from oncue.ledger").await, json!({ "outputs": 1 }));
    let left = "select count(*) from pg_stat_activity a where application_name like 'oncue%' and state like 'idle in%'";
    eventually("no transaction is left open", async || world.number(left).await == 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_fails_fails_its_delivery_alone() {
    let world = office(granted()).await;
    let node = Node::start(&world, "one").await;
    let good = |n: usize| (format!("good{n}"), "p insert into entries (id) values ($1)".to_owned());
    let table = [
        ("privilege", "x insert into secrets values ('x')", "denied", "permission denied for table secrets"),
        ("syntax", "x insert in entries", "denied", "syntax error"),
        ("commit", "x commit", "denied", "syntax error"),
        ("setrole", "x set role postgres", "denied", "syntax error"),
        ("copy", "x copy entries to program 'true'", "denied", "syntax error"),
        ("two", "x delete from entries; delete from entries", "denied", "multiple commands"),
        ("owner", "x select set_config('session_authorization', 'postgres', false)", "denied", "permission denied"),
        ("missing", "x insert into nothing values (1)", "sql", "relation \"nothing\" does not exist"),
        ("check", "x insert into numbers values (11)", "sql", "numbers_are_small"),
        ("deferred", "x insert into numbers values (1, 2)", "sql", "parent_exists"),
        ("zero", "x insert into numbers select 1 / 0", "sql", "division by zero"),
        ("null", "x insert into entries values ('n', null, $1)", "denied", "takes 1 values and got 0"),
    ];
    let bad = table.iter().map(|(id, statement, ..)| {
        // What ran before in the same delivery is undone with it.
        ((*id).to_owned(), format!("p insert into entries (id) values ($1)\n{statement}\ne never"))
    });
    let mut events: Vec<(String, String)> = (0..300).map(good).collect();
    for (place, event) in bad.enumerate() {
        events.insert(place * 20, event);
    }
    world.publish_events("work", events).await;
    for (id, _, class, words) in table {
        let (found, error) = death(&world, id).await;
        assert!(
            found == class && error.contains(words) && error.contains("statement 2 of 2"),
            "{id}: {found}: {error}"
        );
    }
    done(&world, 300).await;
    assert_eq!(world.number("select count(*) from entries where id like 'good%' and who = 'clerk'").await, 300);
    assert_eq!(world.number("select count(*) from entries where id not like 'good%'").await, 0);
    assert_eq!(world.number("select count(*) from numbers").await, 0);
    assert_eq!((world.stored("MAIL").await, world.number("select count(*) from oncue.outbox").await), (0, 0));
    assert_eq!(world.ledger("outcome = 'sql'").await, 4 * 3, "what may heal is tried again by the rule's policy");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_sets_is_gone_with_its_delivery() {
    let world = office(granted()).await;
    world
        .sql(
            "create schema trap authorization clerk; grant usage on schema trap to public;
              create function trap.now() returns timestamptz language sql as $$ select '1970-01-01'::timestamptz $$;
              grant execute on function pg_advisory_lock(bigint) to clerk",
        )
        .await;
    let node = Node::start(&world, "one").await;
    let lines = [
        "x select set_config('search_path', 'trap, pg_catalog', false), set_config('statement_timeout', '0', false)",
        "x select pg_advisory_lock(1), set_config('lock_timeout', '1', false)",
        "p insert into public.entries (id) values ($1)",
    ];
    let names: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    for name in &names {
        work(&world, name, &lines).await;
    }
    done(&world, 40).await;
    assert_eq!(world.ledger("settled_at < now() - interval '1 hour'").await, 0, "our own statements see our own now()");
    assert_eq!(world.number("select count(*) from pg_locks where locktype = 'advisory'").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_that_can_be_put_off_are_checked_at_the_end_of_each_delivery() {
    let world = office(granted()).await;
    let node = Node::start(&world, "one").await;
    let pair = |n: i32| {
        let lines = [
            format!("x insert into numbers values ({n}, {})", n + 1),
            format!("x insert into numbers values ({})", n + 1),
        ];
        (format!("pair{n}"), lines.join("\n"))
    };
    world.publish_events("work", [pair(1), pair(3), pair(5)]).await;
    done(&world, 3).await;
    assert_eq!(world.number("select count(*) from numbers").await, 6);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_read_only_bounded_and_under_the_role() {
    let world = office(granted()).await;
    let node = Node::start(&world, "one").await;
    let peek = "q select set_config('role', 'none', true), query_to_xml('select * from secrets', true, false, '') as x";
    let long = format!("q select repeat('x', {}) as x from generate_series(1, 3)", 600 << 10);
    let escape = "q select 1 as x) as q union all select repeat('x', 2000000) from (select 1 as y";
    let table = [
        ("secret", "q select * from secrets", "permission denied"),
        ("peek", peek, "permission denied for table secrets"),
        ("write", "q insert into entries (id) values ('x') returning id", "syntax error"),
        ("cte", "q with w as (insert into entries (id) values ('x') returning id) select * from w", "at the top level"),
        ("lock", "q select * from entries for update", "read-only"),
        ("next", "q select nextval('oncue.outbox_seq_seq')", "permission denied"),
        ("two", "q select 1) as q; delete from entries; select (1", "multiple commands"),
        ("rows", "q select * from generate_series(1, 1001)", "more than 1000 rows"),
        ("bytes", &long, "more than 1048576 bytes"),
        ("escape", escape, "more than 1048576 bytes"),
        ("comment", "q select 1 /* never closed", "unterminated"),
        ("slow", "q select pg_sleep(60)", "statement timeout"),
    ];
    for (id, statement, _) in &table {
        work(&world, id, &[statement]).await;
    }
    for (id, _, words) in table {
        let (class, error) = if id == "slow" { slow(&world).await } else { death(&world, id).await };
        assert!(class == "reject" && error.contains(words), "{id}: {class}: {error}");
    }
    for n in 0..20 {
        work(&world, &format!("again{n}"), &["q select 1 as one", "p insert into entries (id) values ($1)"]).await;
    }
    done(&world, 20).await;
    node.stop().await;
}

/// The read's own bound and the call's deadline are the same five seconds here: either may end it.
async fn slow(world: &World) -> (String, String) {
    let query = "select outcome, error from oncue.ledger where event_id = 'slow' order by attempt limit 1";
    eventually("the slow one has ended", async || !world.rows(query).await.is_empty()).await;
    let row = world.row(query).await;
    assert!(row["outcome"] == "reject" || row["outcome"] == "timeout", "{row}");
    ("reject".to_owned(), "statement timeout".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_grant_or_the_role_the_words_say_what_to_do() {
    let world = office(json!({})).await;
    let node = Node::start(&world, "one").await;
    work(&world, "read", &["q select 1"]).await;
    work(&world, "written", &["x select 1"]).await;
    for id in ["read", "written"] {
        let (class, error) = death(&world, id).await;
        assert!(class == "reject" && error.contains("grants = { sql = { role ="), "{id}: {error}");
    }
    let spec = json!({ "grants": { "sql": { "role": "Nobody \"here\"" } } });
    world.deploy("clerk", &functions::sql(), &spec).await;
    loaded(&world, &node).await;
    work(&world, "later", &["x select 1"]).await;
    let (class, error) = death(&world, "later").await;
    let fix = "create role \"Nobody \"\"here\"\"\" nologin;";
    assert!(class == "denied" && error.contains(fix), "{class}: {error}");
    // What the words say mends it, quotes and all; and a read needs no more.
    world.sql("create role \"Nobody \"\"here\"\"\" nologin; grant insert on entries to \"Nobody \"\"here\"\"\"").await;
    work(&world, "mended", &["q select 1", "p insert into entries (id) values ($1)"]).await;
    done(&world, 1).await;
    assert_eq!(world.row("select who from entries").await, json!({ "who": "Nobody \"here\"" }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_heals_is_retried_from_its_claim_and_counts_once() {
    let world = office(granted()).await;
    world.sql("update oncue.rules set retry_max_attempts = 50, retry_cap_ms = 200").await;
    let node = Node::start(&world, "one").await;
    let lines = ["p insert into later (id) values ($1)", "p insert into entries (id) values ($1)", "e {}"];
    for n in 0..5 {
        work(&world, &format!("e{n}"), &lines).await;
    }
    eventually("all are parked", async || {
        world.number("select count(*) from oncue.parked where class = 'sql' and error like '%later%'").await == 5
    })
    .await;
    assert_eq!(world.number("select count(*) from entries").await, 0);
    world.sql("create table later (id text primary key); grant insert on later to clerk").await;
    done(&world, 5).await;
    assert_eq!(world.number("select count(*) from later natural join entries").await, 5);
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    eventually("the events are published", async || world.stored("MAIL").await == 5).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_take_too_long_or_end_the_connection_hold_nobody_up_for_ever() {
    let world = office(granted()).await;
    world.sql("update oncue.rules set retry_max_attempts = 1").await;
    world
        .sql(
            "create function hang_up() returns bool language sql security definer
              as $$ select pg_terminate_backend(pg_backend_pid()) $$",
        )
        .await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('plain', true, 'steered')").await;
    let node = Node::start(&world, "one").await;
    work(&world, "slow", &["x select pg_sleep(60)"]).await;
    work(&world, "fatal", &["x select hang_up()"]).await;
    for n in 0..10 {
        work(&world, &format!("e{n}"), &["p insert into entries (id) values ($1)"]).await;
    }
    eventually("the others have no statements and do not wait", async || {
        world.ledger("rule = 'plain' and settlement = 'done'").await == 12
    })
    .await;
    let (class, error) = death(&world, "slow").await;
    assert!(class == "sql" && error.contains("57014"), "{class}: {error}");
    let (class, error) = death(&world, "fatal").await;
    assert!(class == "sql" && error.contains("while a function's statements ran"), "{class}: {error}");
    eventually("the rest is done", async || world.number("select count(*) from entries").await == 10).await;
    eventually("the node says that all is well", async || node.is_ready().await).await;
    node.stop().await;
}

/// A delivery that adds `id` to the entries.
fn record(id: &str) -> Record {
    let text =
        "insert into entries (id, note) values ($1, 'x') on conflict (id) do update set note = entries.note || 'x'";
    let statement = Statement { text: text.to_owned(), params: vec![Param::Text(id.to_owned())] };
    let effects = Effects { role: "clerk".to_owned(), statements: vec![statement], outbox: Vec::new() };
    Record { effects: Some(Box::new(effects)), ..settlements::record(id, "clerk", 1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_sent_again_or_by_two_nodes_at_once_has_its_effects_once() {
    let world = office(granted()).await;
    let records: Vec<Record> = (0..30).map(|n| record(&format!("e{n}"))).collect();
    let mut twice = records.clone();
    twice.extend(records.clone());
    let group = |records: Vec<Record>| Group { records, ..Group::default() };
    let (one, two) = (world.guests(), world.guests());
    let backwards = group(records.iter().rev().cloned().collect());
    let (first, second) = (group(twice), group(records));
    let (a, b, c) = tokio::join!(one.settle("one", &first), two.settle("two", &second), two.settle("two", &backwards));
    // Those that could not be settled because of each other are settled when they are sent again.
    for verdict in [&a, &b, &c] {
        let verdict = verdict.as_ref().expect("it is settled");
        assert!(verdict.refused.values().all(|refusal| !refusal.permanent), "{verdict:?}");
    }
    for group in [&first, &second, &backwards] {
        one.settle("one", group).await.expect("it is settled");
    }
    let again = one.settle("one", &second).await.expect("it is settled");
    assert_eq!((again.stale.len(), again.refused.len(), again.left.len()), (30, 0, 0), "the rest is a duplicate");
    let notes = world.rows("select note, count(*) from entries group by note").await;
    assert_eq!(notes, [json!({ "note": "x", "count": 30 })]);
    assert_eq!((world.ledger("true").await, world.number("select sum(runs) from oncue.usage").await), (30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_waits_in_the_outbox_and_holds_up_nothing() {
    let world = office(json!({
        "grants": { "publish": ["gone/mail.welcome"], "sql": { "role": "clerk" } }
    }))
    .await;
    let node = Node::start(&world, "one").await;
    work(&world, "nowhere", &["p insert into entries (id) values ($1)", "e {}"]).await;
    done(&world, 1).await;
    let waiting = "select bus, attempts > 0 as tried, error from oncue.outbox";
    eventually("it was tried", async || world.row(waiting).await["tried"] == true).await;
    assert!(world.row(waiting).await["error"].as_str().is_some_and(|e| e.contains("no bus \"gone\"")));
    world.deploy("clerk", &functions::sql(), &granted()).await;
    world.jetstream.delete_stream("MAIL").await.expect("it is deleted");
    loaded(&world, &node).await;
    work(&world, "unstored", &["p insert into entries (id) values ($1)", "e {}"]).await;
    eventually("it was tried", async || {
        world.number("select count(*) from oncue.outbox where bus = 'main' and error like '%no stream%'").await == 1
    })
    .await;
    world.stream("MAIL", &["mail.>"]).await;
    work(&world, "stored", &["p insert into entries (id) values ($1)", "e {}"]).await;
    eventually("what can be published is", async || {
        world.number("select count(*) from oncue.outbox where bus = 'main'").await == 0
    })
    .await;
    assert_eq!(world.stored("MAIL").await, 2);
    let metric = "oncue_outbox_pending";
    eventually("the metric says so", async || node.metric(metric).await == Some(1.0)).await;
    // Another node takes over what this one had in hand, when its lease has ended.
    node.stop().await;
    world.sql("update oncue.outbox set bus = 'main', next_at = now()").await;
    let two = Node::start(&world, "two").await;
    eventually("it is taken over", async || world.number("select count(*) from oncue.outbox").await == 0).await;
    assert_eq!(world.stored("MAIL").await, 3);
    let ids: BTreeMap<String, usize> = world.messages("MAIL").await.iter().fold(BTreeMap::new(), |mut ids, message| {
        *ids.entry(message.headers.get("ce-id").map(ToString::to_string).unwrap_or_default()).or_default() += 1;
        ids
    });
    assert!(ids.values().all(|count| *count == 1), "{ids:?}");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_books_each_payment_once_with_the_tables_of_its_readme() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/functions/ledger-entry");
    let readme = std::fs::read_to_string(format!("{folder}/README.md")).expect("it is there");
    let tables = readme.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    let component = std::fs::read(format!("{folder}/ledger-entry.wasm")).expect("the component is committed");
    let world = World::start().await;
    world.stream("PAYMENTS", &["payment.received"]).await;
    world.stream("LEDGER", &["ledger.>"]).await;
    world.sql(tables).await;
    let spec = json!({ "grants": { "publish": ["main/ledger.*"], "sql": { "role": "bookkeeper" } } });
    world.deploy("ledger-entry", &component, &spec).await;
    world.jetstream_trigger("payments", "PAYMENTS", json!({})).await;
    world
        .sql("insert into oncue.rules (name, match_all, run, retry_max_attempts) values ('book', true, 'ledger-entry', 1)")
        .await;
    let node = Node::start(&world, "one").await;
    let pay = |n: i32| (format!("p{n}"), format!(r#"{{"account":"ada","amount":{n}}}"#));
    let others =
        [("overdrawn", r#"{"account":"ada","amount":-1000000}"#), ("nobody", r#"{"account":"bob","amount":1}"#)];
    let others = others.map(|(id, data)| (id.to_owned(), data.to_owned()));
    world.publish_events("payment.received", (1..=100).map(pay).chain(others)).await;
    done(&world, 100).await;
    let (class, error) = death(&world, "overdrawn").await;
    assert!(class == "sql" && error.contains("balance_is_not_negative"), "{class}: {error}");
    assert_eq!(death(&world, "nobody").await, ("reject".to_owned(), "there is no account bob".to_owned()));
    assert_eq!(world.row("select balance from accounts").await, json!({ "balance": 5050 }));
    assert_eq!(
        world.number("select count(*) from entries e join oncue.ledger l on l.delivery_id = e.delivery").await,
        100
    );
    eventually("every event is published", async || world.stored("LEDGER").await == 100).await;
    node.stop().await;
}
