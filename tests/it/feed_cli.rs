//! Change feeds on the command line: where they are, how they go on after a gap, how a table is read again.

use std::path::{Path, PathBuf};

use oncue::bus::BusConfig;
use oncue::bus::postgres::PostgresBus;
use serde_json::{Value, json};

use crate::support::process::{Said, manifest, run};
use crate::support::{Node, World, eventually};

/// A world with a feed of one table, and a manifest that knows its bus.
async fn project() -> (World, PathBuf) {
    project_with(&[]).await
}

async fn project_with(settings: &[(&str, &str)]) -> (World, PathBuf) {
    let world = World::with_settings(settings).await;
    world.store().migrate().await.expect("the migrations apply");
    world.sql("create table users (id int primary key, plan text); create table orders (id int primary key)").await;
    let app = format!("[bus.app]\nkind = \"postgres\"\nurl = \"{}\"\n", world.postgres.url());
    let (manifest, _) = manifest(&world, "shop", &app);
    (world, manifest)
}

async fn expect(manifest: &Path, code: i32, arguments: &[&str]) -> Said {
    let said = run(manifest, arguments).await;
    assert_eq!(said.code, code, "oncue {}: {said:?}", arguments.join(" "));
    said
}

async fn data(manifest: &Path, arguments: &[&str]) -> Value {
    let said = expect(manifest, 0, &[arguments, &["--output", "json"]].concat()).await;
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {arguments:?}: {}", said.out))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_shows_where_it_is() {
    let (world, manifest) = project().await;
    world.feed("users", &["public.users"], json!({})).await;
    let list = data(&manifest, &["trigger", "list"]).await;
    assert_eq!((&list[0]["kind"], &list[0]["spec"]["tables"]), (&json!("postgres"), &json!(["public.users"])));
    let before = data(&manifest, &["trigger", "show", "users"]).await;
    assert_eq!((&before["feed"]["position"], &before["feed"]["source"]["slot"]), (&Value::Null, &Value::Null));
    let text = expect(&manifest, 0, &["trigger", "show", "users"]).await.out;
    assert!(text.contains("it never began") && text.contains("oncue_users, which is not there"), "{text}");

    let node = Node::start(&world, "one").await;
    world.sql("insert into users values (1, 'free')").await;
    eventually("the slot is read", async || {
        let shown = data(&manifest, &["trigger", "show", "users"]).await;
        shown["feed"]["source"]["slot"]["active_pid"].is_number() && shown["feed"]["node"] == "one"
    })
    .await;
    let text = expect(&manifest, 0, &["trigger", "show", "users"]).await.out;
    for part in ["settled", "followed by", "read by the backend", "of WAL", "public.users", "oncue_users"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    node.stop().await;
    // A source that is not in this manifest is a fact and no failure.
    let own = std::fs::read_to_string(&manifest).expect("the manifest is there");
    let other = manifest.with_file_name("other.toml");
    std::fs::write(&other, own.replace("[bus.app]", "[bus.elsewhere]")).expect("it is written");
    let shown = data(&other, &["trigger", "show", "users"]).await;
    assert!(shown["feed"]["source_error"].as_str().is_some_and(|e| e.contains("[bus.app]")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_accepted_in_one_of_two_ways_and_in_no_other() {
    let (world, manifest) = project().await;
    world.feed("users", &["public.users"], json!({})).await;
    world.feed("orders", &["public.orders"], json!({})).await;
    let gap = |trigger: &str| {
        format!(
            "insert into oncue.feeds (trigger, slot, publication, system_id, timeline, database, settled_lsn, read_until)
                 values ('{trigger}', 's', 'p', '1', 1, 'd', '0/1', '0/1');
             insert into oncue.gaps (trigger, from_position, reason) values ('{trigger}', '0/1', 'the slot is gone');
             update oncue.triggers set state = 'gap', error = 'the slot is gone' where name = '{trigger}'"
        )
    };
    let early = expect(&manifest, 1, &["trigger", "resume", "users", "--resnapshot"]).await;
    assert!(early.err.contains("is in no gap"), "{early:?}");
    world.sql(&gap("users")).await;
    world.sql(&gap("orders")).await;
    let refused = expect(&manifest, 1, &["trigger", "resume", "users"]).await;
    for part in ["the slot is gone", "oncue trigger resume users --accept-gap", "--resnapshot"] {
        assert!(refused.err.contains(part), "{part}: {refused:?}");
    }
    let text = expect(&manifest, 0, &["trigger", "show", "users"]).await.out;
    assert!(text.contains("0/1 to ?") && text.contains("open: the slot is gone"), "{text}");
    expect(&manifest, 0, &["trigger", "resume", "users", "--accept-gap"]).await;
    expect(&manifest, 0, &["trigger", "resume", "orders", "--resnapshot"]).await;
    let rows = world.rows("select trigger, restart from oncue.feeds order by trigger").await;
    let expected =
        [json!({ "trigger": "orders", "restart": "resnapshot" }), json!({ "trigger": "users", "restart": "accept" })];
    assert_eq!(rows, expected);
    assert_eq!(world.number("select count(*) from oncue.triggers where state = 'active' and error is null").await, 2);
    assert_eq!(world.number("select count(*) from oncue.gaps where accepted_at is null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_cannot_work_is_refused_before_it_is_asked_for() {
    let (world, manifest) = project().await;
    world.feed("users", &["public.users", "public.orders"], json!({})).await;
    world.feed("missing", &["public.nowhere"], json!({})).await;
    world.jetstream_trigger("stream", "S", json!({})).await;
    world.sql("create role reader login; grant usage on schema oncue to reader").await;
    let own = std::fs::read_to_string(&manifest).expect("the manifest is there");
    let poor = manifest.with_file_name("poor.toml");
    let (node, bus) = own.split_once("[bus.app]").expect("two parts");
    std::fs::write(&poor, format!("{node}[bus.app]{}", bus.replace("postgres@", "reader@"))).expect("it is written");
    let table: [(&Path, &[&str], &str); 7] = [
        (&manifest, &["stream", "--table", "users"], "is no change feed"),
        (&manifest, &["users"], "name one with --table: public.users, public.orders"),
        (&manifest, &["users", "--table", "public.other"], "does not follow public.other; it follows public.users"),
        (&manifest, &["missing"], "there is no table public.nowhere"),
        (&manifest, &["users", "--table", "users", "--where", "nothing > 1"], "column \"nothing\" does not exist"),
        (&manifest, &["users", "--table", "users", "--where", "true); drop table users; --"], "syntax error"),
        (&poor, &["users", "--table", "users"], "grant select on \"public\".\"users\" to \"reader\""),
    ];
    for (manifest, arguments, expected) in table {
        let said = expect(manifest, 1, &[&["trigger", "backfill"], arguments].concat()).await;
        assert!(said.err.contains(expected), "{arguments:?}: {said:?}");
    }
    expect(&manifest, 2, &["trigger", "backfill", "users", "--rate", "0"]).await;
    expect(&manifest, 2, &["trigger", "backfill", "users", "--cancel", "--table", "users"]).await;
    assert_eq!(world.number("select count(*) from oncue.backfills").await, 0);
    assert_eq!(world.number("select count(*) from users").await, 0, "the table is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_asked_for_followed_and_ended() {
    let (world, manifest) = project().await;
    world.feed("users", &["public.users"], json!({ "rows_per_second": 7 })).await;
    let asked = ["trigger", "backfill", "users", "--where", "plan = 'free'", "--detach"];
    let shown = data(&manifest, &asked).await;
    assert_eq!((&shown["state"], &shown["table"]), (&json!("waiting"), &json!("public.users")));
    let row = world.row("select filter, rows_per_second from oncue.backfills").await;
    assert_eq!(row, json!({ "filter": "plan = 'free'", "rows_per_second": 7 }));
    let ended = expect(&manifest, 0, &["trigger", "backfill", "users", "--cancel"]).await;
    assert!(ended.err.contains("ended 1 backfills"), "{ended:?}");

    // A command that follows ends when the backfill does, and says how.
    let follow = |outcome: &'static str| {
        let (world, manifest) = (&world, &manifest);
        async move {
            let command = run(manifest, &["trigger", "backfill", "users", "--rate", "100"]);
            let work = async {
                eventually("it is asked for", async || {
                    world.number("select count(*) from oncue.backfills where state = 'waiting'").await == 1
                })
                .await;
                world
                    .sql(&format!(
                        "update oncue.backfills set state = 'running', started_at = now(), rows_read = 5, \
                             rows_estimated = 50 where state = 'waiting';
                         update oncue.backfills set {outcome}, finished_at = now(), rows_read = 42 \
                             where state = 'running'"
                    ))
                    .await;
            };
            tokio::join!(command, work).0
        }
    };
    let done = follow("state = 'done'").await;
    assert!(done.code == 0 && done.out.contains("public.users done, 42 rows of about 50"), "{done:?}");
    let failed = follow("state = 'failed', error = 'permission denied'").await;
    assert!(failed.code == 1 && failed.out.contains("permission denied"), "{failed:?}");
    let text = expect(&manifest, 0, &["trigger", "show", "users"]).await.out;
    for part in ["public.users cancelled", "public.users done", "public.users failed, 42 rows"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The findings of `oncue doctor` that are not good, each as its level, what it is about, its text and its fix.
async fn findings(manifest: &Path) -> Vec<String> {
    let said = run(manifest, &["doctor", "--output", "json"]).await;
    let all: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let shown = all
        .iter()
        .map(|f| format!("{} | {} | {} | {}", text(f, "level"), text(f, "about"), text(f, "text"), text(f, "fix")));
    shown.collect()
}

fn has(findings: &[String], parts: &[&str]) -> bool {
    findings.iter().any(|finding| parts.iter().all(|part| finding.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_a_feed_lacks_and_says_the_sql() {
    let (world, manifest) = project_with(&[("max_slot_wal_keep_size", "-1")]).await;
    world
        .sql(
            "create table bare (n int); create table hidden (id int primary key); create role feeder login;
             grant usage on schema oncue to feeder; create view seen as select 1 as n;
             create table filtered (id int primary key, plan text);
             create publication filtered for table filtered where (plan = 'free')",
        )
        .await;
    world.feed("users", &["public.users"], json!({ "create": false })).await;
    world.feed("lost", &["public.nowhere", "public.seen", "public.bare", "public.hidden"], json!({})).await;
    world.feed("filtered", &["public.filtered"], json!({ "publication": "filtered" })).await;
    let found = findings(&manifest).await;
    let expected: [&[&str]; 12] = [
        &["error", "bus app", "max_slot_wal_keep_size is -1", "alter system set max_slot_wal_keep_size"],
        &[
            "error",
            "trigger users",
            "no publication",
            "create publication \"oncue_users\" for table \"public\".\"users\"",
        ],
        &["error", "trigger users", "no slot", "pg_create_logical_replication_slot('oncue_users', 'pgoutput')"],
        &["error", "trigger lost", "no table public.nowhere"],
        &["error", "trigger lost", "public.seen", "cannot be published"],
        &["error", "trigger lost", "public.bare", "alter table \"public\".\"bare\" replica identity full"],
        &["warning", "trigger lost", "the feed makes the publication", ""],
        &["error", "trigger filtered", "(plan = 'free'", "replica identity"],
        &["warning", "trigger filtered", "rows that do not meet"],
        &["warning", "bus app", "take messages", "messages = []"],
        &["ok", "bus app", "oncue.publish"],
        &["ok", "bus app", "wal_level is logical"],
    ];
    for parts in expected {
        assert!(has(&found, parts), "{parts:?}:\n{}", found.join("\n"));
    }

    // As a role that may do next to nothing.
    let own = std::fs::read_to_string(&manifest).expect("the manifest is there");
    let poor = manifest.with_file_name("poor.toml");
    let (node, bus) = own.split_once("[bus.app]").expect("two parts");
    std::fs::write(&poor, format!("{node}[bus.app]{}", bus.replace("postgres@", "feeder@"))).expect("it is written");
    let found = findings(&poor).await;
    let expected: [&[&str]; 2] = [
        &["error", "bus app", "may not replicate", "alter role \"feeder\" replication"],
        &["warning", "trigger lost", "public.hidden", "grant select on \"public\".\"hidden\" to \"feeder\""],
    ];
    for parts in expected {
        assert!(has(&found, parts), "{parts:?}:\n{}", found.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_publishing_say_what_a_server_without_a_logical_wal_needs() {
    let (world, manifest) = project_with(&[("wal_level", "replica"), ("max_replication_slots", "0")]).await;
    let found = findings(&manifest).await;
    assert!(has(&found, &["error", "bus app", "wal_level is replica", "alter system set wal_level"]), "{found:#?}");
    assert!(
        has(&found, &["warning", "bus app", "no replication slots are left", "max_replication_slots"]),
        "{found:#?}"
    );
    let said = expect(&manifest, 1, &["publish", "app/a", "{}"]).await;
    assert!(said.err.contains("nothing was published: wal_level"), "{said:?}");
    let error = world.try_sql("select oncue.publish('a')").await.expect_err("nobody would read it").to_string();
    assert!(error.contains("wal_level is replica"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_at_slots_gaps_and_backfills() {
    let (world, manifest) = project().await;
    world.feed("users", &["public.users"], json!({ "messages": [] })).await;
    let node = Node::start(&world, "one").await;
    world.sql("insert into users values (1, 'free')").await;
    eventually("the feed began", async || world.number("select count(*) from oncue.feeds").await == 1).await;
    let found = findings(&manifest).await;
    assert!(has(&found, &["ok", "trigger users", "slot oncue_users", "read by"]), "{found:#?}");
    assert!(has(&found, &["ok", "trigger users", "publication oncue_users"]), "{found:#?}");
    node.stop().await;
    let found = findings(&manifest).await;
    assert!(has(&found, &["warning", "trigger users", "nobody reads", "oncue serve"]), "{found:#?}");

    world
        .sql(
            "insert into oncue.gaps (trigger, from_position, reason) values ('users', '0/1', 'the slot is gone');
             update oncue.triggers set state = 'gap', error = 'the slot is gone';
             insert into oncue.backfills (trigger, schema_name, table_name, requested_at)
                 values ('users', 'public', 'users', now() - interval '1 hour');
             insert into oncue.backfills (trigger, schema_name, table_name, state, error, finished_at)
                 values ('users', 'public', 'users', 'failed', 'permission denied', now())",
        )
        .await;
    let bus = PostgresBus::new("app", &BusConfig::postgres(world.postgres.url())).expect("the address is valid");
    assert!(bus.drop_slot("oncue_users").await.expect("it is dropped"));
    let found = findings(&manifest).await;
    let expected: [&[&str]; 4] = [
        &["error", "trigger users", "the slot is gone", "--accept-gap", "--resnapshot"],
        &["error", "trigger users", "slot oncue_users is gone"],
        &["warning", "trigger users", "backfill of public.users", "nobody has begun", "oncue trigger resume users"],
        &["warning", "trigger users", "backfill of public.users failed", "permission denied"],
    ];
    for parts in expected {
        assert!(has(&found, parts), "{parts:?}:\n{}", found.join("\n"));
    }
}
