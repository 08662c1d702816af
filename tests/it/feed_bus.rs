//! What is asked of a source Postgres: servers, slots, publications, tables and types as they are, and refusals that
//! name what mends them.

use oncue::bus::BusConfig;
use oncue::bus::postgres::{Identity, PostgresBus, SourceError, TableName};

use crate::support::{PATIENCE, World, eventually, eventually_within};

fn bus(url: &str) -> PostgresBus {
    PostgresBus::new("app", &BusConfig::postgres(url)).expect("the address is valid")
}

/// The world's address as another role.
fn as_role(world: &World, role: &str) -> String {
    world.postgres.url().replace("postgres@", &format!("{role}@"))
}

fn names(names: &[&str]) -> Vec<TableName> {
    names.iter().map(|name| name.parse().expect("a table's name")).collect()
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let world = World::without_tables().await;
    let server = bus(world.postgres.url()).fit_server().await.expect("it can be a source");
    assert!(server.version_num >= 150_000 && server.timeline == Some(1) && server.is_superuser);
    assert_eq!((server.database.as_str(), server.wal_level.as_str()), ("postgres", "logical"));
    assert_eq!(server.slot_wal_max, Some(2 << 30));
    assert_eq!((server.slots_free, server.senders_free), (32, 32));
    assert!(server.system_id.parse::<u64>().is_ok());
}

#[tokio::test]
async fn a_server_that_is_away_is_transient_and_the_error_says_where() {
    let mut world = World::without_tables().await;
    let bus = bus(world.postgres.url());
    bus.ping().await.expect("it answers");
    world.postgres.stop_immediate().await;
    let error = bus.ping().await.expect_err("it is away");
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn who_may_not_in_is_told_so_at_once() {
    let world = World::without_tables().await;
    let error = bus(&as_role(&world, "nobody_here")).ping().await.expect_err("there is no such role");
    assert!(!error.is_transient(), "{error:?}");
    assert_eq!(error.code().as_deref(), Some("28000"));
}

#[tokio::test]
async fn a_slot_is_created_seen_and_dropped() {
    let world = World::without_tables().await;
    let bus = bus(world.postgres.url());
    assert_eq!(bus.slot("oncue_users").await.expect("it answers"), None);
    let lsn = bus.create_slot("oncue_users", true).await.expect("it is created, with failover where the server can");
    let slot = bus.slot("oncue_users").await.expect("it answers").expect("it is there");
    assert_eq!((slot.plugin.as_deref(), slot.slot_type.as_str()), (Some("pgoutput"), "logical"));
    assert_eq!((slot.database.as_deref(), slot.temporary, slot.active_pid), (Some("postgres"), false, None));
    assert_eq!((slot.confirmed_flush, slot.lost()), (Some(lsn), None));
    assert_eq!(slot.wal_status.as_deref(), Some("reserved"));
    let version = bus.server().await.expect("it answers");
    assert_eq!(slot.failover, version.has_failover_slots());
    world.sql("create table t (); create table u (); select pg_switch_wal()").await;
    let later = bus.slot("oncue_users").await.expect("it answers").expect("it is there");
    assert!(later.retained > slot.retained && later.safe_wal_size.is_some_and(|size| size > 0));
    let error = bus.create_slot("oncue_users", false).await.expect_err("there is one");
    assert_eq!(error.code().as_deref(), Some("42710"));
    assert!(error.to_string().contains("pg_drop_replication_slot('oncue_users')"), "{error}");
    assert!(bus.slot("oncue_users").await.expect("it answers").is_some(), "another's slot is left alone");
    assert!(bus.drop_slot("oncue_users").await.expect("it is dropped"));
    assert!(!bus.drop_slot("oncue_users").await.expect("there is none"));
}

#[tokio::test]
async fn a_role_that_may_not_replicate_is_told_the_statement() {
    let world = World::without_tables().await;
    world.sql("create role feeder login").await;
    let bus = bus(&as_role(&world, "feeder"));
    let error = bus.create_slot("oncue_users", false).await.expect_err("it may not");
    assert_eq!(error.code().as_deref(), Some("42501"));
    assert!(error.to_string().contains("alter role \"feeder\" replication"), "{error}");
    let error = bus.fit_server().await.expect_err("it may not");
    assert!(matches!(error, SourceError::Unfit { .. }), "{error:?}");
    world.sql("alter role feeder replication").await;
    bus.create_slot("oncue_users", false).await.expect("now it may");
    let server = bus.fit_server().await.expect("now it may");
    assert!(server.can_replicate && !server.is_superuser);
}

#[tokio::test]
async fn only_a_backend_of_ours_is_ended() {
    let world = World::without_tables().await;
    let pid = |pool: sqlx::PgPool| async move {
        sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&pool).await.expect("it answers")
    };
    let options = |name: &str| {
        let options: sqlx::postgres::PgConnectOptions = world.postgres.url().parse().expect("it is valid");
        sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_lazy_with(options.application_name(name))
    };
    let (ours, others) = (options("oncue/users"), options("psql"));
    let (our_pid, other_pid) = (pid(ours.clone()).await, pid(others.clone()).await);
    let bus = bus(world.postgres.url());
    assert!(!bus.terminate_own(other_pid, "oncue/users").await.expect("it answers"));
    assert!(bus.terminate_own(our_pid, "oncue/users").await.expect("it answers"));
    eventually("the backend is gone", async || {
        world.number(&format!("select count(*) from pg_stat_activity where pid = {our_pid}")).await == 0
    })
    .await;
    assert_eq!(pid(others).await, other_pid, "the other lives");
}

#[tokio::test]
async fn a_publication_is_created_with_its_tables_and_seen_as_it_is() {
    let world = World::without_tables().await;
    world
        .sql(
            "create table users (id int primary key, plan text); create schema \"My App\";
             create table \"My App\".\"Or.der\"\"s\" (id int primary key);
             create table parts (id int, at int, primary key (id, at)) partition by range (at);
             create table parts_1 partition of parts for values from (0) to (10)",
        )
        .await;
    let bus = bus(world.postgres.url());
    assert_eq!(bus.publication("Pub \"x\"").await.expect("it answers"), None);
    let tables = names(&["users", "\"My App\".\"Or.der\"\"s\"", "parts"]);
    bus.create_publication("Pub \"x\"", &tables).await.expect("it is created");
    let publication = bus.publication("Pub \"x\"").await.expect("it answers").expect("it is there");
    assert!(!publication.all_tables && publication.via_root && publication.truncate && publication.insert);
    assert!(publication.update && publication.delete && publication.restricted.is_empty());
    assert_eq!(publication.missing(&tables), []);
    assert_eq!(publication.missing(&names(&["others"])), names(&["others"]));
    bus.create_publication("messages", &[]).await.expect("one of nothing but messages");
    bus.add_tables("messages", &names(&["users"])).await.expect("a table is added");
    world
        .sql(
            "create publication part for table users (id) where (id > 7) with (publish = 'insert');
             create publication leaves for table parts; create publication whole for all tables",
        )
        .await;
    let part = bus.publication("part").await.expect("it answers").expect("it is there");
    let [restriction] = &part.restricted[..] else { panic!("{:?}", part.restricted) };
    assert_eq!((restriction.rows.as_deref(), &restriction.columns[..]), (Some("(id > 7)"), &["id".to_owned()][..]));
    assert_eq!(restriction.row_columns, ["id"]);
    assert!(part.insert && !part.update && !part.delete && !part.truncate);
    let leaves = bus.publication("leaves").await.expect("it answers").expect("it is there");
    assert_eq!((leaves.tables.clone(), leaves.missing(&names(&["parts"]))), (names(&["parts_1"]), vec![]));
    assert!(bus.publication("whole").await.expect("it answers").expect("it is there").all_tables);
}

#[tokio::test]
async fn a_publication_that_cannot_be_created_says_what_to_run() {
    let world = World::without_tables().await;
    world.sql("create table users (id int primary key); create role feeder login; grant create on database postgres to feeder").await;
    let error =
        bus(&as_role(&world, "feeder")).create_publication("p", &names(&["users"])).await.expect_err("not its table");
    assert!(error.to_string().contains("create publication \"p\" for table \"public\".\"users\""), "{error}");
    let error = bus(world.postgres.url()).create_publication("p", &names(&["user"])).await.expect_err("no such table");
    assert_eq!(error.code().as_deref(), Some("42P01"));
    assert!(error.to_string().contains("create the table first"), "{error}");
}

#[tokio::test]
async fn tables_are_seen_with_their_keys_and_privileges() {
    let world = World::without_tables().await;
    world
        .sql(
            "create table plain (a int, b int, c text, primary key (b, a)); create table bare (a int);
             create table full_one (a int, b int); alter table full_one replica identity full;
             create table nothing (a int primary key); alter table nothing replica identity nothing;
             create table by_index (a int not null, b int not null); create unique index by_index_b on by_index (b);
             alter table by_index replica identity using index by_index_b;
             create unlogged table dusty (a int primary key); create view seen as select 1 as a;
             create table parts (a int primary key) partition by range (a);
             create table parts_1 partition of parts for values from (0) to (100);
             insert into parts select generate_series(1, 10); analyze parts; insert into plain values (1, 2); analyze plain;
             create role feeder login; grant select on plain to feeder",
        )
        .await;
    let list = ["plain", "bare", "full_one", "nothing", "by_index", "dusty", "seen", "parts", "missing", "no.where"];
    let feeder = bus(&as_role(&world, "feeder"));
    let facts = feeder.tables(&names(&list)).await.expect("it answers");
    assert_eq!(facts.iter().map(|f| f.table.clone()).collect::<Vec<_>>(), names(&list));
    let [plain, bare, full, nothing, by_index, dusty, seen, parts, missing, nowhere] = &facts[..] else {
        panic!("{facts:?}")
    };
    assert_eq!(
        (&plain.key[..], plain.identity, plain.rows),
        (&["b".to_owned(), "a".to_owned()][..], Identity::Default, Some(1))
    );
    assert!(plain.can_select && !bare.can_select && plain.is_publishable() && !plain.breaks_updates());
    assert!(bare.breaks_updates() && bare.key.is_empty() && bare.rows.is_none());
    assert_eq!((full.identity, full.identity_columns.len(), full.breaks_updates()), (Identity::Full, 2, false));
    assert!(nothing.identity == Identity::Nothing && nothing.breaks_updates() && nothing.key == ["a"]);
    assert_eq!((by_index.identity, &by_index.identity_columns[..]), (Identity::Index, &["b".to_owned()][..]));
    assert!(!dusty.is_publishable() && !seen.is_publishable() && seen.kind == 'v');
    assert!(parts.kind == 'p' && parts.is_publishable() && parts.rows == Some(10));
    assert!(missing.oid.is_none() && nowhere.oid.is_none() && !missing.is_publishable());
    let key = feeder.key_columns(plain.oid.expect("it is there")).await.expect("it answers");
    assert_eq!(key, ["b", "a"]);
    assert!(feeder.key_columns(u32::MAX).await.expect("it answers").is_empty());
}

#[tokio::test]
async fn types_come_with_what_they_are_made_of() {
    let world = World::without_tables().await;
    world
        .sql(
            "create type mood as enum ('well', 'ill'); create domain score as numeric check (value > 0);
             create type pair as (x score, \"Y y\" mood[]); create table t (p pair[])",
        )
        .await;
    let oid = world.number("select 'pair[]'::regtype::oid").await;
    let rows = bus(world.postgres.url()).types(&[u32::try_from(oid).expect("an oid")]).await.expect("it answers");
    let find = async |name: &str| {
        let oid = u32::try_from(world.number(&format!("select '{name}'::regtype::oid")).await).expect("an oid");
        rows.iter().find(|row| row.oid == oid).unwrap_or_else(|| panic!("{name}: {rows:?}"))
    };
    let (array, pair, score, moods) =
        (find("pair[]").await, find("pair").await, find("score").await, find("mood[]").await);
    assert_eq!((array.kind, array.element, array.delimiter), ('b', pair.oid, ','));
    assert_eq!(pair.attributes, [("x".to_owned(), score.oid), ("Y y".to_owned(), moods.oid)]);
    assert_eq!((score.kind, score.base), ('d', find("numeric").await.oid));
    assert_eq!((moods.element, find("mood").await.kind), (find("mood").await.oid, 'e'));
    assert_eq!(rows.len(), 6, "{rows:?}");
}

#[tokio::test]
async fn a_message_is_written_behind_the_position_before() {
    let world = World::without_tables().await;
    let bus = bus(world.postgres.url());
    let before = bus.wal_lsn().await.expect("it answers");
    bus.create_slot("s", false).await.expect("it is created");
    let at = bus.emit("oncue", b"\x00 hello").await.expect("it is written");
    assert!(at > before);
    let peek = "select count(*) from pg_logical_slot_peek_binary_changes('s', null, null, 'proto_version', '1', \
                'publication_names', 'none', 'messages', 'true') where convert_from(substr(data, 1, 1), 'UTF8') = 'M'";
    world.sql("create publication none").await;
    assert_eq!(world.number(peek).await, 1);
}

#[tokio::test]
async fn a_standby_is_refused_until_it_is_promoted() {
    let mut world = World::without_tables().await;
    let bus = bus(world.postgres.url());
    let before = bus.fit_server().await.expect("it can be a source");
    bus.install_publish().await.expect("it is installed");
    let signal = world.postgres.data_dir().join("data/standby.signal");
    std::fs::write(&signal, "").expect("the file is written");
    world.postgres.restart().await.expect("it starts as a standby");
    // A connection of before may still be told of the end.
    let server = eventually_within(PATIENCE, "it answers", async || bus.server().await.ok()).await;
    assert!(server.in_recovery && server.timeline.is_none() && server.system_id == before.system_id);
    let error = bus.fit_server().await.expect_err("it is a standby").to_string();
    assert!(error.contains("is a standby") && error.contains("pg_promote()"), "{error}");
    if server.major() < 16 {
        // Later ones decode on a standby: they wait until its primary has told what runs there, and it has none.
        bus.create_slot("s", false).await.expect_err("nothing is decoded there");
    }
    let content = br#"{"specversion":"1.0","id":"i","source":"s","type":"t"}"#;
    let event = oncue::event::codec::from_structured(content, &oncue::event::codec::Limits::default());
    let error = bus.publish([event.expect("an event")]).await.expect_err("nothing is written there");
    assert!(error.to_string().contains("recovery"), "{error}");
    let promoted = sqlx::query_scalar::<_, bool>("select pg_promote()").fetch_one(&world.pool).await;
    assert!(promoted.expect("it is promoted"));
    let after = bus.fit_server().await.expect("it can be a source again");
    assert_eq!((after.timeline, after.system_id), (Some(2), before.system_id), "a new timeline of the same server");
}
