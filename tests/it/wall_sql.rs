//! The wall around guests' SQL: whatever a statement says, it has the rights of its role, or of nobody.
//!
//! Each attack is written as an attacker would: the function executes the text in its event.

use crate::support::bureau::{bureau, end, order, routine, written};
use crate::support::{Node, World, not_run};

/// What must hold after every attack.
async fn nothing_was_touched(world: &World) {
    assert_eq!(world.number("select count(*) from secrets where word = 'swordfish'").await, 1);
    assert_eq!(world.number("select count(*) from secrets").await, 1);
    assert_eq!(world.number("select count(*) from letters where id not like 'good%'").await, 0);
    assert_eq!(world.number("select count(*) from oncue.functions").await, 2);
    assert_eq!(world.number("select count(*) from pg_roles where rolsuper").await, 1);
    assert_eq!(world.number("select count(*) from oncue.ledger where rule not in ('clerk', 'mailer')").await, 0);
    let owned = "select count(*) from pg_shdepend where refclassid = 'pg_authid'::regclass and deptype = 'o'
         and refobjid in (select oid from pg_roles where rolname like 'oncue_guest%' or rolname in ('clerk', 'mailer'))";
    assert_eq!(world.number(owned).await, 0, "no guest owns anything");
}

/// Runs each attack for the clerk, with rows of both functions before, between and after them.
async fn attack(world: &World, attacks: &[(&str, &[&str], &str, &str)]) {
    routine(world, "mailer", "good-before", 10).await;
    for (id, lines, ..) in attacks {
        order(world, "clerk", id, lines).await;
        routine(world, "clerk", &format!("good-{id}/"), 2).await;
    }
    routine(world, "mailer", "good-after", 10).await;
    for (id, _, outcome, words) in attacks {
        let (found, error) = end(world, id).await;
        assert!(found == *outcome && error.contains(words), "{id}: {found}: {error}");
        assert!(error.len() <= 4_096, "{id}: an error is short");
        written(world, "clerk", &format!("good-{id}/"), 2).await;
    }
    written(world, "mailer", "good-", 20).await;
    nothing_was_touched(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_leaves_its_role_ends_where_nothing_is_allowed() {
    let world = bureau().await;
    let node = Node::start(&world, "one").await;
    let none = "x select set_config('role', 'none', true)";
    let denied = "SQLSTATE 42501";
    let settle = "x select oncue.guest_settle('\\x00', 'one', null, null, '[]', null, null, null)";
    let attacks: &[(&str, &[&str], &str, &str)] = &[
        ("become-mailer", &["x select set_config('role', 'mailer', true)"], "denied", denied),
        ("become-owner", &["x select set_config('role', 'postgres', false)"], "denied", denied),
        ("become-session", &["x select set_config('session_authorization', 'postgres', false)"], "denied", denied),
        ("mail", &[none, "p insert into letters (id) values ($1)"], "denied", denied),
        ("secrets", &[none, "x insert into secrets values ('x')"], "denied", denied),
        ("entries", &[none, "p insert into entries (id) values ($1)"], "denied", denied),
        ("passwords", &[none, "x select * from oncue.guests"], "denied", denied),
        ("key", &[none, "x select * from oncue.guest_key"], "denied", denied),
        ("forge", &[none, settle], "denied", "SQLSTATE 42501"),
        (
            "forge-null",
            &[none, "x select oncue.guest_settle(null, null, null, null, null, null, null, null)"],
            "denied",
            "SQLSTATE 42501",
        ),
        ("make", &[none, "x select oncue.make_guest('postgres')"], "denied", denied),
        ("ledger", &[none, "x delete from oncue.ledger"], "denied", denied),
        ("rules", &[none, "x update oncue.rules set run = 'clerk'"], "denied", denied),
        ("files", &[none, "x select pg_read_file('/etc/passwd')"], "denied", denied),
        ("objects", &[none, "x select lo_import('/etc/passwd')"], "denied", denied),
        (
            "kill",
            &[none, "x select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'"],
            "denied",
            "SQLSTATE 42501",
        ),
        ("reload", &["x select pg_reload_conf()"], "denied", denied),
        ("slot", &[none, "x select pg_create_logical_replication_slot('s', 'pgoutput')"], "denied", denied),
        ("xml", &["x select query_to_xml('select * from secrets', true, false, '')"], "denied", denied),
        (
            "xml-write",
            &["x select query_to_xml('insert into entries (id) values (''xml'')', true, false, '')"],
            "sql",
            "SQLSTATE 0A000",
        ),
        ("schema", &["x select schema_to_xml('oncue', true, false, '')"], "denied", denied),
        ("old-helper", &["x select from pg_temp.oncue_guest_1('x', '{}', '{}', 'write')"], "sql", "SQLSTATE 3F000"),
        ("replication", &["x select set_config('session_replication_role', 'replica', false)"], "denied", denied),
    ];
    attack(&world, attacks).await;
    node.stop().await;
}

/// Texts that are no statement which reads or writes rows, or are several.
const NOT_TAKEN: &[&str] = &[
    "create table t ()",
    "create temp table t ()",
    "create function f() returns int language sql as 'select 1'",
    "create trigger t after insert on entries execute function f()",
    "create rule r as on insert to entries do nothing",
    "create domain d as int",
    "create cast (int as text) with function f(int)",
    "create schema s",
    "drop table entries",
    "alter table entries disable trigger all",
    "truncate entries",
    "grant select on entries to public",
    "do 'begin end'",
    "call f()",
    "copy entries to stdout",
    "copy entries to program 'true'",
    "listen x",
    "notify x",
    "unlisten *",
    "set role none",
    "reset role",
    "reset all",
    "set session authorization postgres",
    "begin",
    "commit",
    "rollback",
    "savepoint effects",
    "release savepoint effects",
    "rollback to savepoint effects",
    "prepare x as select 1",
    "execute x",
    "deallocate all",
    "declare c cursor for select 1",
    "fetch c",
    "close c",
    "explain analyze insert into entries values ('explained')",
    "vacuum",
    "analyze",
    "lock entries",
    "load 'x'",
    "discard all",
    "checkpoint",
    "set constraints all deferred",
    "prepare transaction 'x'",
    "security label on table entries is ''",
    "alter role clerk superuser",
    "create role x",
    "set transaction isolation level serializable",
    "show all",
    "select 1; select 2",
    "select 1; commit",
    "insert into entries (id) values ('a'); drop table entries",
    ";",
    "",
];

#[tokio::test(flavor = "multi_thread")]
async fn only_one_statement_that_reads_or_writes_rows_is_taken() {
    let world = bureau().await;
    world.sql("grant create on schema public to clerk").await;
    let node = Node::start(&world, "one").await;
    for (place, text) in NOT_TAKEN.iter().enumerate() {
        order(
            &world,
            "clerk",
            &format!("no{place}"),
            &["p insert into entries (id) values ($1)", &format!("x {text}")],
        )
        .await;
    }
    routine(&world, "clerk", "good", 20).await;
    for (place, text) in NOT_TAKEN.iter().enumerate() {
        let (outcome, error) = end(&world, &format!("no{place}")).await;
        assert!(outcome == "denied" && error.contains("42601"), "{text}: {outcome}: {error}");
    }
    written(&world, "clerk", "good", 20).await;
    assert_eq!(world.number("select count(*) from entries").await, 20);
    nothing_was_touched(&world).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_have_no_more_rights_than_writes() {
    let world = bureau().await;
    let node = Node::start(&world, "one").await;
    let table = [
        ("q select * from secrets", "permission denied"),
        ("q select set_config('role', 'mailer', true)", "permission denied"),
        ("q select * from oncue.guests", "permission denied"),
        ("q select * from (select set_config('role', 'none', true)) s, secrets", "permission denied"),
        ("q select set_config('transaction_read_only', 'off', true)", "read-write mode"),
        ("q select oncue.guest_settle('\\x00', 'one', null, null, '[]', null, null, null)", "permission denied"),
        ("q select 1) as q; delete from entries; select (1", "multiple commands"),
        ("q select repeat('x', 20000000) as x", "message of"),
        ("q select 1 as x) as q union all select repeat('x', 2000000) from (select 1 as y", "more than 1048576 bytes"),
        (
            "q select g from generate_series(1, 200000) g) as q union all select g::text from generate_series(1, 200000) g union all select x from (select 'x' as x",
            "more than 1000 rows",
        ),
    ];
    for (place, (line, _)) in table.iter().enumerate() {
        order(&world, "clerk", &format!("read{place}"), &[line]).await;
    }
    for (place, (line, words)) in table.iter().enumerate() {
        let (outcome, error) = end(&world, &format!("read{place}")).await;
        assert!(outcome == "reject" && error.contains(words), "{line}: {outcome}: {error}");
    }
    for n in 0..5 {
        order(
            &world,
            "clerk",
            &format!("good{n}"),
            &["q select current_user", "p insert into entries (id) values ($1)"],
        )
        .await;
    }
    written(&world, "clerk", "good", 5).await;
    nothing_was_touched(&world).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_policies_and_actions_of_keys_hold() {
    let world = bureau().await;
    world
        .sql(
            "create table accounts (id int primary key, holder text);
             create table bookings (account int references accounts on delete cascade);
             alter table accounts enable row level security;
             create policy own on accounts using (holder = 'clerk');
             insert into accounts values (1, 'clerk'), (2, 'mailer'); insert into bookings values (1), (2);
             grant select, update, delete on accounts to clerk",
        )
        .await;
    let node = Node::start(&world, "one").await;
    let attacks: &[(&str, &[&str], &str, &str)] = &[
        ("rls", &["x update accounts set holder = 'clerk'", "x delete from accounts where id = 2"], "ok", ""),
        (
            "rls-off",
            &["x select set_config('row_security', 'off', true)", "x delete from accounts"],
            "denied",
            "row-level",
        ),
        ("bookings", &["x delete from bookings"], "denied", "permission denied"),
    ];
    attack(&world, attacks).await;
    assert_eq!(world.number("select count(*) from accounts").await, 2, "another's row is out of reach");
    assert_eq!(world.number("select count(*) from bookings").await, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_or_a_role_that_may_too_much_is_refused() {
    let world = bureau().await;
    world.sql("update oncue.rules set retry_max_attempts = 1").await;
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "good", 1).await;
    written(&world, "clerk", "good", 1).await;
    node.stop().await;
    let login = "(select login from oncue.guests where role = 'clerk')";
    let alter = |what: &str| format!("do $$ begin execute format('alter role %I {what}', {login}); end $$");
    let table = [
        ("superuser", alter("superuser"), alter("nosuperuser"), "is a superuser"),
        ("bypass", alter("bypassrls"), alter("nobypassrls"), "has bypassrls"),
        ("replication", alter("replication"), alter("noreplication"), "has replication"),
        (
            "roles",
            "alter role clerk createrole".to_owned(),
            "alter role clerk nocreaterole".to_owned(),
            "clerk has createrole",
        ),
        (
            "reader",
            "grant pg_read_all_data to clerk".to_owned(),
            "revoke pg_read_all_data from clerk".to_owned(),
            "pg_read_all_data",
        ),
        (
            "owner",
            "grant postgres to clerk".to_owned(),
            "revoke postgres from clerk".to_owned(),
            "postgres is a superuser",
        ),
        (
            "keys",
            "grant select on oncue.guest_key to clerk".to_owned(),
            "revoke select on oncue.guest_key from clerk".to_owned(),
            "may read keys or passwords",
        ),
        (
            "things",
            format!(
                "do $$ begin execute format('create table owned (); alter table owned owner to %I', {login}); end $$"
            ),
            "drop table owned".to_owned(),
            "owns objects",
        ),
    ];
    for (id, before, after, words) in table {
        world.sql(&before).await;
        let node = Node::start(&world, id).await;
        order(&world, "clerk", id, &["p insert into public.entries (id) values ($1)"]).await;
        let (outcome, error) = end(&world, id).await;
        assert!(
            outcome == "denied" && error.contains(words) && error.contains("not fit for guests"),
            "{id}: {outcome}: {error}"
        );
        world.sql(&after).await;
        node.stop().await;
    }
    let node = Node::start(&world, "one").await;
    routine(&world, "clerk", "again", 3).await;
    written(&world, "clerk", "again", 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dblink_to_the_same_server_does_not_become_anybody_else() {
    let world = bureau().await;
    if world.try_sql("create extension dblink").await.is_err() {
        not_run("dblink", "this Postgres has no contrib modules");
        return;
    }
    let node = Node::start(&world, "one").await;
    let port = world.number("select setting from pg_settings where name = 'port'").await;
    let line = format!(
        "x select * from dblink('host=127.0.0.1 port={port} user=postgres dbname=postgres', 'insert into secrets values (1) returning 1') as t (n int)"
    );
    order(&world, "clerk", "dblink", &[&line]).await;
    let (outcome, error) = end(&world, "dblink").await;
    assert!(outcome == "sql" && error.contains("2F003"), "{outcome}: {error}");
    nothing_was_touched(&world).await;
    node.stop().await;
}
