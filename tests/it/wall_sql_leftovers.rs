//! The wall around guests' SQL: nothing of a delivery is left on its connection for the next one.
//!
//! The worst case is an application's function that executes any text that it is given, under the caller's rights.

use serde_json::json;

use crate::support::bureau::{bureau, end, order, routine, written};
use crate::support::{Node, World, eventually, functions};

/// What an application should not have: a function that runs a text, for whoever calls it.
const RUN: &str =
    "create function run(what text) returns int language plpgsql as $$ begin execute what; return 1; end $$";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_a_delivery_made_is_gone_with_it() {
    let world = bureau().await;
    world.sql(RUN).await;
    world.sql("grant create on schema public to clerk; create schema own authorization clerk").await;
    let objects =
        "select (select count(*) from pg_class) + (select count(*) from pg_proc) + (select count(*) from pg_type)
         + (select count(*) from pg_trigger) + (select count(*) from pg_largeobject_metadata)";
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good-first", 1).await;
    written(&world, "clerk", "good-first", 1).await;
    let before = world.number(objects).await;
    let trap = "create or replace function pg_temp.trap() returns trigger language plpgsql as $t$ begin
        set constraints all deferred; insert into t values (1); insert into public.secrets values ('trapped'); return null; end $t$;
        create temp table t (n int);
        create constraint trigger trap after insert on t deferrable initially deferred for each row execute function pg_temp.trap();
        insert into t values (1)";
    let run_trap = format!("x select public.run($x$ {trap} $x$)");
    let attacks: &[(&str, &[&str], &str)] = &[
        ("into-temp", &["x select * into temp entries from public.entries"], "temporary object"),
        ("into-temp-by-name", &["x select * into pg_temp.entries from public.entries"], "temporary object"),
        ("into", &["x select * into made from entries"], "made the"),
        ("into-own", &["x select 1 as n into own.made"], "made the"),
        ("large-object", &["x select lo_create(0)"], "made the large object"),
        ("run-temp", &["x select public.run('create temp table entries (id text)')"], "temporary object"),
        (
            "run-function",
            &["x select public.run('create function own.f() returns int language sql as ''select 1''')"],
            "made the function",
        ),
        ("run-table", &["x select public.run('create table own.t (n int)')"], "made the"),
        ("run-view", &["x select public.run('create view own.v as select 1 as n')"], "made the"),
        ("run-trap", &[&run_trap], ""),
    ];
    for round in 0..3 {
        for (id, lines, _) in attacks {
            let lines = [&["p insert into public.entries (id) values ($1)"][..], lines].concat();
            order(&world, "clerk", &format!("{id}-{round}"), &lines).await;
            routine(&world, "clerk", &format!("good-{id}-{round}-"), 3).await;
        }
    }
    for round in 0..3 {
        for (id, _, words) in attacks {
            let (outcome, error) = end(&world, &format!("{id}-{round}")).await;
            assert!(outcome != "ok" && error.contains(words), "{id}: {outcome}: {error}");
            if !words.is_empty() {
                assert_eq!(outcome, "denied", "{id}: {error}");
            }
        }
    }
    written(&world, "clerk", "good-", i64::try_from(attacks.len() * 9 + 1).expect("it is small")).await;
    assert_eq!(world.number("select count(*) from entries where id not like 'good%'").await, 0);
    assert_eq!(world.number("select count(*) from secrets").await, 1);
    assert_eq!(world.number(objects).await, before, "nothing was left");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_others_make_for_a_delivery_stay() {
    let world = bureau().await;
    world
        .sql(
            "create function roomy() returns trigger language plpgsql security definer as $$ begin
                 execute format('create table if not exists public.room_%s (id text)', new.id); return new; end $$;
             create trigger roomy before insert on entries for each row execute function roomy()",
        )
        .await;
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good", 20).await;
    written(&world, "clerk", "good", 20).await;
    assert_eq!(
        world.number("select count(*) from pg_class where relname like 'room_good%' and relkind = 'r'").await,
        20
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_locks_statements_and_cursors_are_gone_with_their_delivery() {
    let world = bureau().await;
    world.sql(RUN).await;
    world.sql("create schema trap; grant usage on schema trap to public").await;
    world
        .sql(
            "create function trap.now() returns timestamptz language sql as $$ select '1970-01-01'::timestamptz $$;
             create function trap.nope(pg_catalog.oid, int) returns bool language sql as $$ select true $$;
             create operator trap.<> (leftarg = pg_catalog.oid, rightarg = int, function = trap.nope)",
        )
        .await;
    let node = Node::start(&world, "one").await;
    let settings: Vec<String> = [
        ("search_path", "trap, pg_catalog"),
        ("synchronous_commit", "off"),
        ("standard_conforming_strings", "off"),
        ("transform_null_equals", "on"),
        ("array_nulls", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "1"),
        ("client_min_messages", "debug5"),
        ("DateStyle", "German"),
        ("TimeZone", "Asia/Kathmandu"),
        ("bytea_output", "escape"),
        ("default_transaction_read_only", "on"),
        ("idle_in_transaction_session_timeout", "1"),
        ("row_security", "off"),
        ("extra_float_digits", "-15"),
        ("application_name", "oncue"),
    ]
    .iter()
    .map(|(name, value)| format!("x select set_config('{name}', '{value}', false)"))
    .collect();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let read_only = ["x select set_config('transaction_read_only', 'on', false)"];
    let locks = ["x select pg_advisory_lock(g) from generate_series(1, 100) g", "x select pg_advisory_xact_lock(200)"];
    let statements = ["x select public.run('deallocate all')"];
    let swap = ["x select public.run('deallocate all'); "];
    let mine =
        ["x select public.run('prepare s1 as select 1')", "x select public.run('prepare s2 (int) as select $1')"];
    let cursor = ["x select public.run('declare c cursor with hold for select 1')"];
    let listen = ["x select public.run('listen oncue_ruleset')"];
    for round in 0..4 {
        let all: [&[&str]; 8] = [&settings, &read_only, &locks, &statements, &swap, &mine, &cursor, &listen];
        for (place, lines) in all.iter().enumerate() {
            order(&world, "clerk", &format!("set-{place}-{round}"), lines).await;
            routine(&world, "clerk", &format!("good-{place}-{round}-"), 5).await;
        }
    }
    written(&world, "clerk", "good-", 160).await;
    assert_eq!(world.ledger("settled_at < now() - interval '1 hour'").await, 0, "our own statements see our own now()");
    for place in [0, 2] {
        assert_eq!(end(&world, &format!("set-{place}-0")).await.0, "ok");
    }
    assert_eq!(world.number("select count(*) from pg_locks where locktype = 'advisory'").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_function_of_the_role_finds_no_trace() {
    let world = bureau().await;
    world.sql("create sequence numbers; grant usage on sequence numbers to clerk").await;
    world.stream("OTHER", &["other"]).await;
    world.deploy("other", &functions::sql(), &json!({ "grants": { "sql": { "role": "clerk" } } })).await;
    world.jetstream_trigger("other", "OTHER", json!({})).await;
    world
        .sql("insert into oncue.rules (name, trigger, match_all, run, retry_max_attempts) values ('other', 'other', true, 'other', 1)")
        .await;
    let node = Node::start(&world, "one").await;
    let seen =
        "q select (select count(*) from pg_prepared_statements where statement like '%next' || 'val%') as statements,
                 (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks";
    let seen = seen.replace('\n', " ");
    for n in 0..6 {
        let write = ["x select nextval('numbers'), pg_advisory_lock(1)"];
        order(&world, "clerk", &format!("c{n}"), &write).await;
        end(&world, &format!("c{n}")).await;
        let last = ["x select lastval()"];
        order(&world, "other", &format!("l{n}"), &last).await;
        let (outcome, error) = end(&world, &format!("l{n}")).await;
        assert!(outcome == "sql" && error.contains("lastval is not yet defined"), "{outcome}: {error}");
        let look = [seen.as_str(), "r insert into public.entries (id) values ($1)"];
        order(&world, "other", &format!("o{n}"), &look).await;
        end(&world, &format!("o{n}")).await;
    }
    let rows = world.rows("select distinct id::jsonb as seen from entries").await;
    assert_eq!(rows, [json!({ "seen": { "statements": 0, "locks": 0 } })]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_the_connections_down_takes_no_row_along() {
    let world = bureau().await;
    let node = Node::start(&world, "one").await;
    let kill = "x select pg_terminate_backend(pid) from pg_stat_activity where usename = session_user";
    for n in 0..3 {
        order(&world, "clerk", &format!("kill{n}"), &["x select set_config('role', 'none', true)", kill]).await;
        routine(&world, "clerk", &format!("good-{n}-"), 20).await;
        routine(&world, "mailer", &format!("good-{n}-"), 20).await;
    }
    written(&world, "clerk", "good-", 60).await;
    written(&world, "mailer", "good-", 60).await;
    for n in 0..3 {
        let (outcome, error) = end(&world, &format!("kill{n}")).await;
        assert!(outcome == "sql" && error.contains("connection"), "{outcome}: {error}");
    }
    eventually("the node says that all is well", async || node.is_ready().await).await;
    node.stop().await;
}

/// Rows of the clerk are exact while its connections are killed from outside.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_settle_once() {
    let world: World = bureau().await;
    world.sql("update oncue.rules set retry_max_attempts = 100, retry_cap_ms = 200").await;
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good-", 2_000).await;
    let mut last = 0;
    eventually("all are done", async || {
        let done = world.ledger("settlement = 'done'").await;
        if done > last {
            last = done;
            let kill =
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename like 'oncue_guest%'";
            world.number(kill).await;
        }
        done == 2_000
    })
    .await;
    written(&world, "clerk", "good-", 2_000).await;
    assert_eq!(world.number("select sum(runs - failed) from oncue.usage").await, 2_000);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_its_shape_is_read_and_written_on() {
    let world: World = bureau().await;
    let node = Node::start(&world, "one").await;
    let lines = ["q select * from public.entries limit 1", "p insert into public.entries (id) values ($1) returning *"];
    for round in 0..4 {
        for n in 0..5 {
            order(&world, "clerk", &format!("good-{round}-{n}"), &lines).await;
        }
        written(&world, "clerk", &format!("good-{round}-"), 5).await;
        world.sql(&format!("alter table entries add column more_{round} text default 'x'")).await;
    }
    node.stop().await;
}

/// Cancels that hit anything, at any time, take no row along and leave none behind.
#[tokio::test(flavor = "multi_thread")]
async fn cancels_at_any_moment_settle_once() {
    let world: World = bureau().await;
    world.sql("update oncue.rules set retry_max_attempts = 1000, retry_base_ms = 1, retry_cap_ms = 100").await;
    world.sql("alter table entries drop constraint entries_pkey").await;
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good-", 3_000).await;
    eventually("all are done", async || {
        let cancel = "select count(pg_cancel_backend(pid)) from pg_stat_activity where usename like 'oncue_guest%' and state = 'active'";
        world.number(cancel).await;
        world.ledger("settlement = 'done'").await == 3_000
    })
    .await;
    written(&world, "clerk", "good-", 3_000).await;
    assert_eq!(world.number("select count(distinct id) from entries").await, 3_000);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_undone_is_no_cover_for_what_comes_later() {
    let world: World = bureau().await;
    world.sql(RUN).await;
    let node = Node::start(&world, "one").await;
    // The counter of the catalogs falls back to nothing about a second after it was raised.
    let none = "x select set_config('role', 'none', true)";
    for round in 0..6 {
        order(&world, "clerk", &format!("first{round}"), &["x select lo_create(0)"]).await;
        routine(&world, "clerk", &format!("good-{round}-"), 1).await;
        written(&world, "clerk", &format!("good-{round}-"), 1).await;
        world.sql("select pg_sleep(0.6)").await;
        order(&world, "clerk", &format!("second{round}"), &[none, "x select lo_create(0)"]).await;
        let (outcome, error) = end(&world, &format!("second{round}")).await;
        assert!(outcome == "denied", "{outcome}: {error}");
    }
    let alters = [
        "alter role current_user set statement_timeout = 0",
        "alter role current_user password 'known'",
        "alter default privileges grant select on tables to public",
        "alter role current_user set search_path = evil",
    ];
    for (place, what) in alters.iter().enumerate() {
        let run = format!("x select public.run($x$ {what} $x$)");
        order(&world, "clerk", &format!("alter{place}"), &[none, &run]).await;
        let (outcome, error) = end(&world, &format!("alter{place}")).await;
        assert!(outcome == "denied", "{what}: {outcome}: {error}");
    }
    assert_eq!(world.number("select count(*) from pg_largeobject_metadata").await, 0);
    let settings = "select count(*) from pg_db_role_setting s, unnest(s.setconfig) c where c like '%evil%' or c = 'statement_timeout=0'";
    assert_eq!(world.number(settings).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_of_one_delivery_is_not_in_the_statements_of_the_next() {
    let world: World = bureau().await;
    world.sql("create table days (id text, day date, word text); grant insert on days to clerk").await;
    let node = Node::start(&world, "one").await;
    let insert = "p insert into public.days values ($1, '01/02/2026', 'a\\b')";
    let set =
        "x select set_config('DateStyle', 'ISO, DMY', false), set_config('standard_conforming_strings', 'off', false)";
    for n in 0..6 {
        let lines = if n % 2 == 0 { vec![set, insert] } else { vec![insert] };
        order(&world, "clerk", &format!("d{n}"), &lines).await;
        assert_eq!(end(&world, &format!("d{n}")).await.0, "ok");
    }
    let rows = world.rows("select distinct day::text as day, word from days where id in ('d1', 'd3', 'd5')").await;
    assert_eq!(rows, [json!({ "day": "2026-01-02", "word": "a\\b" })]);
    node.stop().await;
}
