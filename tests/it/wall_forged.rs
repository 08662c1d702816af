//! The wall around published events: any login may write a logical message, and none is an event unless `oncue.publish`
//! wrote it, in that transaction and at that place.

use oncue::bus::BusConfig;
use oncue::bus::postgres::PostgresBus;
use oncue::event::{AttributeValue, Event};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::feeds::{connection_to, refused, sql};
use crate::support::process::{manifest, run};
use crate::support::{Node, World, eventually, functions};

/// What an older version of the program installed.
const OLDER: &str = include_str!("../../migrations/0008_publish.sql");

/// What an attacker writes: an event of another's source, said to be published by another.
fn forged(id: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/bank","type":"money.sent","oncuerole":"boss","data":{{"n":1}}}}"#
    )
}

/// What a holder of the key can do: a message that is signed for this transaction and this moment.
const SIGNED: &str = r#"create function signed(which int, body text) returns bytea language plpgsql as $$
    declare
        k oncue.publish_keys;
        seal text := which || '.' || pg_current_wal_insert_lsn() || '.';
        rest bytea := substr(convert_to(body, 'UTF8'), 2);
    begin
        select * into k from oncue.publish_keys where number = which;
        return convert_to('{"oncuemac":"' || seal || encode(sha256(k.outer_key || sha256(k.inner_key
            || convert_to(pg_current_xact_id()::xid::text || '.' || seal, 'UTF8') || rest)), 'hex') || '",', 'UTF8') || rest;
    end $$"#;

/// A world with a feed `users` that takes messages, and a rule that runs a function on all of it.
async fn world() -> World {
    let world = World::start().await;
    world.sql("create table users (id bigint primary key)").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({})).await;
    world.steer("all", "users", "o0").await;
    world.sql(SIGNED).await;
    world
}

/// A connection as another role.
fn as_role(world: &World, role: &str) -> PgPool {
    connection_to(&world.postgres.url().replace("postgres@", &format!("{role}@")))
}

/// The ids of the events that ran, in their order.
async fn ran(world: &World) -> Vec<String> {
    let rows = world.rows("select event_id from oncue.ledger where rule = 'all' order by event_id").await;
    rows.iter().map(|row| row["event_id"].as_str().expect("an id").to_owned()).collect()
}

async fn rejected(world: &World) -> i64 {
    world.number("select count(*) from oncue.dead_letters where kind = 'rejected' and class = 'forged'").await
}

/// Waits until the event with this id has run.
async fn runs(world: &World, id: &str) {
    eventually("the event ran", async || {
        world.ledger(&format!("rule = 'all' and settlement = 'done' and event_id = '{id}'")).await == 1
    })
    .await;
}

async fn emit(pool: &PgPool, content: &str) {
    let emit = "select pg_logical_emit_message(true, 'oncue', convert_to($1, 'UTF8'))";
    sqlx::query(emit).bind(content).execute(pool).await.expect("any login may write it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_oncue_publish_did_not_write_is_kept_and_never_runs() {
    let world = world().await;
    world.sql("create role clerk login; create table seen (m bytea); grant select on seen to clerk").await;
    let node = Node::start(&world, "one").await;
    let clerk = as_role(&world, "clerk");
    let seal = format!("1.0/1.{}", "0".repeat(64));
    let mut written = vec![
        forged("plain"),
        format!("{{\"oncuemac\":\"{seal}\",{}", &forged("invented")[1..]),
        format!("{{\"oncuemac\":\"{}\",{}", seal.replacen('1', "7", 1), &forged("unknown key")[1..]),
        format!("{{\"oncuemac\":\"\",{}", &forged("empty")[1..]),
        "no event at all".to_owned(),
    ];
    for content in &written {
        emit(&clerk, content).await;
    }
    // A copy of what was published, in a transaction of its own.
    world.sql("select oncue.publish('money.sent', '{}', source => '/bank', id => 'true')").await;
    world.sql(&format!("insert into seen select signed(1, '{}')", forged("copied"))).await;
    sql(&clerk, "select pg_logical_emit_message(true, 'oncue', m) from seen").await;
    // A copy beside its original is refused, and the original is not.
    world
        .sql(&format!(
            "do $$ declare m bytea; begin
                 m := signed(1, '{}');
                 perform pg_logical_emit_message(true, 'oncue', m), pg_logical_emit_message(true, 'oncue', m);
                 perform oncue.publish('money.sent', id => 'twice 2');
             end $$",
            forged("twice 1")
        ))
        .await;
    // A signed message outside any transaction exists whatever becomes of its writer: it is no event.
    world.sql(&format!("select pg_logical_emit_message(false, 'oncue', signed(1, '{}'))", forged("loose"))).await;
    world.sql("insert into users values (1); select oncue.publish('last', id => 'z')").await;
    runs(&world, "z").await;
    eventually("seven are kept", async || rejected(&world).await == 7).await;
    let events = ran(&world).await;
    let named: Vec<&str> = events.iter().map(String::as_str).filter(|id| !id.contains('-')).collect();
    assert_eq!(named, ["true", "twice 1", "twice 2", "z"], "and a change of a row");
    assert_eq!(events.len(), 5);
    let kept = world.rows("select convert_from(raw, 'UTF8') as raw, error from oncue.dead_letters order by raw").await;
    written.sort();
    for content in &written {
        assert!(kept.iter().any(|row| row["raw"] == *content), "{content}: {kept:?}");
    }
    assert!(kept.iter().all(|row| !row["error"].as_str().expect("text").contains("bank")), "{kept:?}");
    assert_eq!(node.metric("oncue_events_rejected_total{trigger=\"users\",class=\"forged\"}").await, Some(7.0));
    node.stop().await;
}

#[tokio::test]
async fn nobody_without_a_grant_gets_at_the_key_or_the_functions() {
    let world = World::start().await;
    // The schema is not the grant: other reasons may have opened it.
    world.sql("create role clerk login; grant usage on schema oncue to clerk; create role shop login").await;
    world.sql("select oncue.grant_publish('shop')").await;
    let (clerk, shop) = (as_role(&world, "clerk"), as_role(&world, "shop"));
    let publishing = [
        "select oncue.publish('a')",
        "select oncue.publish('a', 'k', 'i', '\\x00'::bytea)",
        "select oncue.write_event('a', null, null, null, null, null, null, null)",
    ];
    let internal = [
        "select oncue.write_message('{}')",
        "select * from oncue.publish_keys",
        "select number from oncue.publish_keys",
        "copy oncue.publish_keys to stdout",
        "do $$ begin lock table oncue.publish_keys in access exclusive mode; end $$",
        "insert into oncue.publish_keys select 9, repeat('x', 64)::bytea, repeat('x', 64)::bytea, now(), '1', null, null",
        "update oncue.publish_keys set retired_at = '0/0'",
        "delete from oncue.publish_keys",
        "truncate oncue.publish_keys",
        "create table mine (like oncue.publish_keys including all); insert into mine table oncue.publish_keys",
        "create trigger t before insert on oncue.publish_keys for each row execute function suppress_redundant_updates_trigger()",
        "select oncue.rotate_publish_key()",
        "select oncue.retire_publish_keys()",
        "select oncue.grant_publish('clerk')",
        "create or replace function oncue.write_event(type text, data jsonb, subject text, source text, id text, \
         datacontenttype text, extensions jsonb, content bytea) returns text language sql as $$ select '' $$",
        "alter function oncue.write_message(bytea) owner to clerk",
    ];
    for statement in publishing {
        let error = sqlx::raw_sql(statement).execute(&clerk).await.expect_err(statement).to_string();
        assert!(error.contains("permission denied"), "{statement}: {error}");
        sqlx::raw_sql(statement).execute(&shop).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    for statement in internal {
        for (name, pool) in [("clerk", &clerk), ("shop", &shop)] {
            let error = sqlx::raw_sql(statement).execute(pool).await.expect_err(statement).to_string();
            assert!(
                ["denied", "must be owner"].iter().any(|part| error.contains(part)),
                "{name}: {statement}: {error}"
            );
        }
    }
    // What the caller has in its way (operators, functions, tables of the same names) is not what runs as the owner.
    world.sql("grant create on database postgres to shop").await;
    sql(
        &shop,
        "create schema mine; set search_path = mine, pg_catalog, oncue;
         create table publish_keys (number int, inner_key bytea, outer_key bytea, retired_at pg_lsn);
         create function pg_logical_emit_message(boolean, text, bytea) returns pg_lsn language plpgsql
             as $$ begin raise exception 'as %: %', current_user, $3; end $$;
         create function sha256(bytea) returns bytea language plpgsql
             as $$ begin raise exception 'as %: %', current_user, $1; end $$;
         create function cat(text, text) returns text language plpgsql
             as $$ begin raise exception 'as %: %', current_user, $1; end $$;
         create operator || (leftarg = text, rightarg = text, function = cat);
         create function ne(text, text) returns boolean language plpgsql
             as $$ begin raise exception 'as %: %', current_user, $1; end $$;
         create operator !~ (leftarg = text, rightarg = text, function = ne);
         select oncue.publish('a', '{}', 's', '/x', 'i', 'application/json', '{\"x\": 1}')",
    )
    .await;
}

/// The events in the log behind the slot `published`, as they stand there, without their signatures.
async fn published(world: &World) -> Vec<Event> {
    let read = "select substring(data from 3 + 8 + 6 + 4) from pg_logical_slot_get_binary_changes('published', null, \
                null, 'proto_version', '1', 'publication_names', 'nothing', 'messages', 'true') \
                where get_byte(data, 0) = 77";
    let contents: Vec<Vec<u8>> = sqlx::query_scalar(read).fetch_all(&world.pool).await.expect("the slot is read");
    let limits = oncue::event::codec::Limits::default();
    contents.iter().map(|c| oncue::event::codec::from_structured(c, &limits).expect("an event")).collect()
}

#[tokio::test]
async fn the_database_says_who_published() {
    let world = World::start().await;
    let bus = PostgresBus::new("app", &BusConfig::postgres(world.postgres.url())).expect("the address is valid");
    bus.create_slot("published", false).await.expect("the slot is created");
    world
        .sql(
            "create publication nothing; create role shop login; create role clerk login; create role boss login;
             create role \"Tenant \"\"1\" login; grant \"Tenant \"\"1\" to shop;
             select oncue.grant_publish(r) from unnest(array['shop', 'clerk', 'boss', 'Tenant \"1']) r;
             grant create on schema public to clerk;
             create function of_boss() returns text security definer language sql
                 as $$ select oncue.publish('of.boss') $$;
             alter function of_boss() owner to boss",
        )
        .await;
    let (shop, clerk) = (as_role(&world, "shop"), as_role(&world, "clerk"));
    sql(&shop, "select oncue.publish('a', source => 'postgres/of/boss')").await;
    sql(&shop, "set role \"Tenant \"\"1\"; select oncue.publish('b'); reset role").await;
    sql(&shop, "select oncue.publish('c', 'k', 'i', '\\x00'::bytea)").await;
    // It runs with the rights of boss, and it is clerk who called it.
    sql(&clerk, "select of_boss()").await;
    for claim in [
        "select oncue.publish('a', extensions => '{\"oncuerole\": \"boss\"}')",
        "select oncue.publish('a', extensions => '{\"oncuemac\": \"x\"}')",
        "set role boss",
        "set session authorization boss",
        "select set_config('role', 'boss', false)",
        "create function f() returns text set role = 'boss' language sql as $$ select oncue.publish('a') $$; select f()",
    ] {
        sqlx::raw_sql(claim).execute(&clerk).await.expect_err(claim);
    }
    let roles = |events: &[Event]| -> Vec<(String, String)> {
        let role = |event: &Event| event.extension("oncuerole").expect("it is stamped").to_string();
        events.iter().map(|event| (event.ty.clone(), role(event))).collect()
    };
    let told = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(ty, role)| ((*ty).to_owned(), (*role).to_owned())).collect()
    };
    let mut events = published(&world).await;
    let expected = [("a", "shop"), ("b", "Tenant \"1"), ("c", "shop"), ("of.boss", "clerk")];
    assert_eq!(roles(&events), told(&expected));
    // A node publishes as its own role, whatever an event said of itself before.
    let mut event = events.remove(0);
    event.set_extension("oncuehops", AttributeValue::String("1".to_owned()));
    bus.publish([event]).await.expect("it is published");
    world.sql("select oncue.publish('d')").await;
    let events = published(&world).await;
    assert_eq!(roles(&events), told(&[("a", "postgres"), ("d", "postgres")]));
    assert_eq!((events[0].hops(), events[0].source.as_str()), (1, "postgres/of/boss"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_forged_messages_are_counted_and_the_feed_goes_on() {
    let world = world().await;
    world.sql("create role clerk login").await;
    let node = Node::start(&world, "one").await;
    let flood = "select count(pg_logical_emit_message(true, 'oncue', '{\"oncuemac\":\"' || i || '\"}'))
                 from generate_series(1, 200000) i";
    sql(&as_role(&world, "clerk"), flood).await;
    world.sql("select oncue.publish('last', id => 'z')").await;
    runs(&world, "z").await;
    let metric = "oncue_events_rejected_total{trigger=\"users\",class=\"forged\"}";
    eventually("each is counted", async || node.metric(metric).await == Some(200_000.0)).await;
    assert_eq!(rejected(&world).await, 100);
    assert_eq!(ran(&world).await, ["z"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_without_losing_an_event_and_a_retired_one_forges_nothing() {
    let world = world().await;
    let node = Node::start(&world, "one").await;
    world.sql("select oncue.publish('a', id => '1')").await;
    runs(&world, "1").await;
    // A transaction that began before the change signs with the key that it sees.
    let mut old = world.pool.begin().await.expect("a transaction");
    let isolate = "set transaction isolation level repeatable read; select count(*) from oncue.publish_keys";
    sqlx::raw_sql(isolate).execute(&mut *old).await.expect("it has its snapshot");
    assert_eq!(world.number("select oncue.rotate_publish_key()").await, 2);
    sqlx::raw_sql("select oncue.publish('a', id => '2')").execute(&mut *old).await.expect("it is published");
    old.commit().await.expect("it commits");
    world.sql("select oncue.publish('a', id => '3')").await;
    runs(&world, "2").await;
    runs(&world, "3").await;
    // The node is away while the old key is retired: what was signed with it before is believed.
    node.stop().await;
    world.sql(&format!("select pg_logical_emit_message(true, 'oncue', signed(1, '{}'))", forged("4"))).await;
    assert_eq!(world.number("select oncue.retire_publish_keys()").await, 1);
    world.sql(&format!("select pg_logical_emit_message(true, 'oncue', signed(1, '{}'))", forged("leaked"))).await;
    world.sql("select oncue.publish('a', id => '5')").await;
    let node = Node::start(&world, "one").await;
    runs(&world, "5").await;
    eventually("the leaked one is kept", async || rejected(&world).await == 1).await;
    assert_eq!(ran(&world).await, ["1", "2", "3", "4", "5"]);
    let error = world.row("select error from oncue.dead_letters").await;
    assert!(error["error"].as_str().is_some_and(|e| e.contains("retired")), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_published_is_not_lost_and_its_publishers_may_go_on() {
    let world = world().await;
    // As it was before this version.
    world
        .sql(
            "drop function oncue.publish(text, jsonb, text, text, text, text, jsonb);
             drop function oncue.publish(text, text, text, bytea, text); drop function oncue.write_message(bytea);
             drop function oncue.write_event(text, jsonb, text, text, text, text, jsonb, bytea);
             drop function oncue.rotate_publish_key(); drop function oncue.retire_publish_keys();
             drop function oncue.grant_publish(text); drop table oncue.publish_keys;
             create role shop login; create role late login; grant usage on schema oncue to shop",
        )
        .await;
    world.sql(OLDER).await;
    let node = Node::launch(crate::support::node::config(&world, "one"));
    refused(&world, &node, &["older version", "oncue migrate --bus app"]).await;
    let bus = PostgresBus::new("app", &BusConfig::postgres(world.postgres.url())).expect("the address is valid");
    // The slot is there already, as it is where a node was upgraded.
    let shop = as_role(&world, "shop");
    let mut open = shop.begin().await.expect("a transaction");
    for id in ["old", "open"] {
        let publish = format!("select oncue.publish('a', id => '{id}')");
        sqlx::raw_sql(sqlx::AssertSqlSafe(publish)).execute(&mut *open).await.expect("it is published");
        if id == "old" {
            open.commit().await.expect("it commits");
            open = shop.begin().await.expect("another transaction");
        }
    }
    bus.install_publish().await.expect("it is installed");
    open.commit().await.expect("it commits");
    sql(&shop, "select oncue.publish('a', id => 'ready')").await;
    emit(&shop, &forged("after")).await;
    runs(&world, "ready").await;
    eventually("the forged one is kept", async || rejected(&world).await == 1).await;
    assert_eq!(ran(&world).await, ["old", "open", "ready"]);
    world.sql("grant usage on schema oncue to late").await;
    bus.install_publish().await.expect("again");
    let refused = sqlx::raw_sql("select oncue.publish('a')").execute(&as_role(&world, "late")).await;
    assert!(refused.expect_err("it has no grant").to_string().contains("permission denied"));
    sql(&shop, "select oncue.publish('a', id => 'still')").await;
    runs(&world, "still").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_message_is_redriven_only_by_its_name_and_says_nothing_of_who_wrote_it() {
    let world = world().await;
    let node = Node::start(&world, "one").await;
    emit(&world.pool, &forged("x")).await;
    eventually("it is kept", async || rejected(&world).await == 1).await;
    let (manifest, _) = manifest(&world, "shop", "");
    for filter in [&["--all"][..], &["--trigger", "users"]] {
        let arguments = [&["dead-letter", "redrive", "--yes"], filter].concat();
        let said = run(&manifest, &arguments).await;
        assert!(said.code == 1 && said.out.contains("--class forged"), "{said:?}");
    }
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    node.stop().await;
    let said = run(&manifest, &["dead-letter", "redrive", "--class", "forged", "--yes"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let event = world.row("select convert_from(event, 'UTF8')::jsonb as event from oncue.parked").await;
    assert_eq!((&event["event"]["id"], &event["event"]["source"]), (&json!("x"), &json!("/bank")));
    assert_eq!(event["event"].get("oncuerole"), None, "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_key_is_told_the_grant_and_doctor_says_who_can_forge() {
    let world = World::start().await;
    world.sql("create table users (id int primary key); create role feeder login replication").await;
    world.sql("create role nosy login; grant usage on schema oncue to nosy; grant select (inner_key) on oncue.publish_keys to nosy").await;
    world.feed("users", &[], json!({})).await;
    let url = world.postgres.url().replace("postgres@", "feeder@");
    let feeder = PostgresBus::new("app", &BusConfig::postgres(&url)).expect("the address is valid");
    let grants = "grant usage on schema oncue to \"feeder\"; grant select on oncue.publish_keys to \"feeder\"; grant \
                  execute on function oncue.write_message(bytea) to \"feeder\";";
    let event = || published_by("t");
    for error in [feeder.publish_keys().await.map(drop), feeder.publish([event()]).await] {
        let error = error.expect_err("it may not").to_string();
        assert!(error.contains(grants), "{error}");
    }
    let (manifest, _) = manifest(&world, "shop", &format!("[bus.app]\nkind = \"postgres\"\nurl = \"{url}\"\n"));
    let found = findings(&manifest).await;
    assert!(
        found.iter().any(|f| f["level"] == "error" && has(f, "may not read oncue.publish_keys", grants)),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|f| has(f, "the role nosy may read", "revoke all on oncue.publish_keys from \"nosy\"")),
        "{found:#?}"
    );
    world.sql(grants).await;
    feeder.publish_keys().await.expect("now it may");
    feeder.publish([event()]).await.expect("now it may");
    world.sql("create publication everything for all tables").await;
    let found = findings(&manifest).await;
    assert!(
        found.iter().any(|f| has(f, "publication everything has oncue.publish_keys", "rotate_publish_key")),
        "{found:#?}"
    );
}

fn published_by(ty: &str) -> Event {
    let content = format!(r#"{{"specversion":"1.0","id":"i","source":"s","type":"{ty}"}}"#);
    let limits = oncue::event::codec::Limits::default();
    oncue::event::codec::from_structured(content.as_bytes(), &limits).expect("an event")
}

async fn findings(manifest: &std::path::Path) -> Vec<Value> {
    let said = run(manifest, &["doctor", "--output", "json"]).await;
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    report.as_array().or_else(|| report["findings"].as_array()).cloned().expect("a list")
}

fn has(finding: &Value, text: &str, fix: &str) -> bool {
    let finding = finding.to_string().replace("\\\"", "\"");
    finding.contains(text) && finding.contains(fix)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_whose_publication_has_the_keys_tells_nobody() {
    let world = World::start().await;
    world.sql("create table users (id int primary key); insert into users select generate_series(1, 20)").await;
    world.sql("create publication everything for table users, oncue.publish_keys").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &[], json!({ "publication": "everything", "start": "snapshot" })).await;
    let insert = "insert into oncue.rules (name, trigger, pattern, run, input)
                  select t[2], 'users', jsonb_build_object('type', jsonb_build_array(jsonb_build_object('prefix',
                      'postgres.' || t[1] || '.' || t[2] || '.'))), 'steered', '{\"do\":\"o0\"}'
                  from (values (array['oncue', 'publish_keys']), (array['public', 'users'])) v (t)";
    world.sql(insert).await;
    let node = Node::start(&world, "one").await;
    eventually("the rows are told", async || world.ledger("rule = 'users' and settlement = 'done'").await == 20).await;
    world.sql("select oncue.rotate_publish_key(); insert into users values (21)").await;
    eventually("the change is told", async || world.ledger("rule = 'users' and settlement = 'done'").await == 21).await;
    assert_eq!(world.ledger("rule = 'publish_keys'").await, 0);
    assert_eq!(
        world
            .number("select count(*) from oncue.backfills where schema_name = 'oncue' and table_name = 'publish_keys'")
            .await,
        0
    );
    node.stop().await;
}
