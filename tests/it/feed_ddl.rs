//! Tables that change while they are followed: each row is told with the columns that it had when it was written.

use oncue::node::Seen;
use serde_json::{Map, Value, json};

use crate::support::feeds::users;
use crate::support::{Node, World, eventually, functions};

/// What was told: the type, and of the data what does not differ from run to run.
type Told = (String, Value);

/// What is compared of `data`.
const TOLD: [&str; 6] = ["op", "before", "after", "changed", "unchanged", "cascade"];

/// Statements that each are a transaction, and what they tell.
struct Step {
    sql: &'static str,
    told: Vec<Told>,
}

/// The next `count` events, in order; and then no more of those that are there.
async fn told(node: &mut Node, count: usize) -> Vec<Told> {
    let mut told = Vec::new();
    eventually("all are told", async || {
        while let Ok(seen) = node.seen.try_recv() {
            let Seen::Event { event, .. } = seen else { continue };
            let data: Map<String, Value> = serde_json::from_slice(&event.data).expect("data are an object");
            let kept = data.into_iter().filter(|(name, _)| TOLD.contains(&name.as_str())).collect();
            told.push((event.ty.clone(), Value::Object(kept)));
        }
        told.len() >= count
    })
    .await;
    told
}

fn insert(table: &str, after: &Value) -> Told {
    change(table, "insert", &Value::Null, after)
}

fn change(table: &str, op: &str, before: &Value, after: &Value) -> Told {
    let data = json!({ "op": op, "before": before, "after": after, "changed": [], "unchanged": [] });
    (format!("postgres.public.{table}.{op}"), data)
}

fn truncate(table: &str, cascade: bool) -> Told {
    let (ty, mut data) = change(table, "truncate", &Value::Null, &Value::Null);
    data["cascade"] = json!(cascade);
    (ty, data)
}

/// The life of a table.
fn steps() -> Vec<Step> {
    let row = |sql, table, after: Value| Step { sql, told: vec![insert(table, &after)] };
    let quiet = |sql| Step { sql, told: Vec::new() };
    vec![
        row("insert into users values (1, 'a', 'free')", "users", json!({ "id": 1, "email": "a", "plan": "free" })),
        quiet("alter table users add column age int default 7"),
        row(
            "insert into users values (2, 'b', null, 30)",
            "users",
            json!({ "id": 2, "email": "b", "plan": null, "age": 30 }),
        ),
        Step {
            sql: "update users set plan = 'pro' where id = 1",
            told: vec![change(
                "users",
                "update",
                &Value::Null,
                &json!({ "id": 1, "email": "a", "plan": "pro", "age": 7 }),
            )],
        },
        quiet("alter table users drop column plan"),
        row("insert into users values (3, 'c', 8)", "users", json!({ "id": 3, "email": "c", "age": 8 })),
        quiet("alter table users rename column email to mail"),
        row("insert into users values (4, 'd', 9)", "users", json!({ "id": 4, "mail": "d", "age": 9 })),
        // It writes the table anew, which is no change of a row.
        quiet("alter table users alter column age type text using 'age ' || age"),
        row("insert into users values (5, 'e', 'x')", "users", json!({ "id": 5, "mail": "e", "age": "x" })),
        // Both in one transaction: the second row already has the new column.
        Step {
            sql: "begin; insert into users values (6, 'f', 'y'); alter table users add column n int[];
                  insert into users values (7, 'g', 'z', '{1,null}'); commit",
            told: vec![
                insert("users", &json!({ "id": 6, "mail": "f", "age": "y" })),
                insert("users", &json!({ "id": 7, "mail": "g", "age": "z", "n": [1, null] })),
            ],
        },
        quiet("create type mood as enum ('well'); alter table users drop column n, drop column age, add mood mood"),
        row("insert into users values (8, 'h', 'well')", "users", json!({ "id": 8, "mail": "h", "mood": "well" })),
        quiet("alter type mood add value 'ill'"),
        row("insert into users values (9, 'i', 'ill')", "users", json!({ "id": 9, "mail": "i", "mood": "ill" })),
        Step { sql: "truncate users", told: vec![truncate("users", false)] },
        row("insert into users values (1, 'j', null)", "users", json!({ "id": 1, "mail": "j", "mood": null })),
        quiet(
            "drop table users; create table users (a text primary key, b numeric); alter publication oncue_users add table users",
        ),
        row("insert into users values ('k', 1.50)", "users", json!({ "a": "k", "b": 1.50 })),
        Step { sql: "delete from users", told: vec![change("users", "delete", &json!({ "a": "k" }), &Value::Null)] },
    ]
}

fn expected() -> Vec<Told> {
    steps().into_iter().flat_map(|step| step.told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_as_they_were_while_the_table_changes() {
    let world = users(json!({})).await;
    let mut node = Node::start(&world, "one").await;
    let mut seen = Vec::new();
    for step in steps() {
        world.sql(step.sql).await;
        seen.extend(told(&mut node, step.told.len()).await);
    }
    assert_eq!(seen, expected());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_as_they_were_after_the_table_has_changed() {
    let world = users(json!({})).await;
    Node::start(&world, "one").await.stop().await;
    for step in steps() {
        world.sql(step.sql).await;
    }
    let mut node = Node::start(&world, "two").await;
    assert_eq!(told(&mut node, expected().len()).await, expected());
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    node.stop().await;
}

/// A feed of all tables of the publication `all_of_it`, with its slot.
async fn published(tables: &str, publication: &str) -> World {
    let world = World::start().await;
    world.sql(tables).await;
    world.sql(&format!("create publication all_of_it {publication}")).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("all", &[], json!({ "publication": "all_of_it" })).await;
    world.steer("all", "all", "o0").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_is_told_of_each_table_that_it_empties() {
    let tables = "create table a (id int primary key); create table b (id int primary key references a);
        create table c (id int primary key)";
    let world = published(tables, "for table a, b, c").await;
    let mut node = Node::start(&world, "one").await;
    world.sql("truncate a cascade").await;
    world.sql("begin; truncate c, a, b restart identity; insert into c values (1); commit").await;
    let mut seen = told(&mut node, 6).await;
    seen[..2].sort_by(|one, two| one.0.cmp(&two.0));
    seen[2..5].sort_by(|one, two| one.0.cmp(&two.0));
    let tables = [("a", true), ("b", true), ("a", false), ("b", false), ("c", false)];
    let truncated = tables.map(|(table, cascade)| truncate(table, cascade));
    assert_eq!(seen[..5], truncated);
    assert_eq!(seen[5], insert("c", &json!({ "id": 1 })));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_followed_from_when_it_is_added_to_the_publication() {
    let world =
        published("create table a (id int primary key); create table b (id int primary key)", "for table a").await;
    let mut node = Node::start(&world, "one").await;
    world.sql("insert into a values (1)").await;
    world.sql("insert into b values (1)").await;
    world.sql("alter publication all_of_it add table b").await;
    world.sql("insert into b values (2)").await;
    world.sql("alter publication all_of_it drop table b").await;
    world.sql("insert into b values (3)").await;
    world.sql("insert into a values (2)").await;
    let row = |table: &str, id: i32| insert(table, &json!({ "id": id }));
    assert_eq!(told(&mut node, 3).await, [row("a", 1), row("b", 2), row("a", 2)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_told_as_their_table() {
    let world = World::start().await;
    world
        .sql(
            "create table users (id int primary key, plan text) partition by range (id);
             create table low partition of users for values from (0) to (100);
             create table high (plan text, id int primary key); insert into high values ('old', 100)",
        )
        .await;
    crate::support::feeds::follow_users(&world, json!({})).await;
    let mut node = Node::start(&world, "one").await;
    world.sql("insert into users values (1, 'a')").await;
    world.sql("alter table users attach partition high for values from (100) to (200)").await;
    world.sql("insert into users values (101, 'b')").await;
    world.sql("insert into high values ('c', 102)").await;
    // Over the border it is another row.
    world.sql("update users set id = 2 where id = 101").await;
    world.sql("alter table users detach partition high").await;
    world.sql("insert into high values ('d', 103)").await;
    world.sql("insert into users values (3, 'e')").await;
    let row = |id: i32, plan: &str| json!({ "id": id, "plan": plan });
    let seen = told(&mut node, 6).await;
    let expected = [
        insert("users", &row(1, "a")),
        insert("users", &row(101, "b")),
        insert("users", &row(102, "c")),
        change("users", "delete", &json!({ "id": 101 }), &Value::Null),
        insert("users", &row(2, "b")),
        insert("users", &row(3, "e")),
    ];
    assert_eq!(seen, expected);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_not_sent_is_named_and_never_null() {
    let world = World::start().await;
    world.sql("create table users (id int primary key, body text, plan text)").await;
    world.sql("alter table users alter column body set storage external").await;
    crate::support::feeds::follow_users(&world, json!({})).await;
    let mut node = Node::start(&world, "one").await;
    let body = "x".repeat(1 << 20);
    world.sql("insert into users select 1, repeat('x', 1048576), 'free'").await;
    world.sql("update users set plan = 'pro'").await;
    world.sql("update users set body = 'short'").await;
    world.sql("update users set body = repeat('x', 1048576)").await;
    world.sql("alter table users replica identity full").await;
    world.sql("update users set plan = 'free'").await;
    let seen = told(&mut node, 5).await;
    let row = |body: &str, plan: &str| json!({ "id": 1, "body": body, "plan": plan });
    let update = |after: &Value| change("users", "update", &Value::Null, after);
    assert!(seen[0] == insert("users", &row(&body, "free")), "the row came whole");
    let (ty, data) = &seen[1];
    assert_eq!(ty, "postgres.public.users.update");
    let unsent = json!({ "op": "update", "before": null, "after": { "id": 1, "plan": "pro" }, "changed": [],
        "unchanged": ["body"] });
    assert_eq!(*data, unsent);
    assert_eq!(seen[2], update(&row("short", "pro")));
    assert!(seen[3] == update(&row(&body, "pro")), "it was written anew");
    let (_, full) = &seen[4];
    assert!(full["before"] == row(&body, "pro") && full["after"] == row(&body, "free"), "the old row fills it");
    assert_eq!((&full["changed"], &full["unchanged"]), (&json!(["plan"]), &json!([])));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_are_followed_where_the_publication_allows_it() {
    let world = published("create table bare (a int, b text)", "for table bare with (publish = 'insert')").await;
    let mut node = Node::start(&world, "one").await;
    world.sql("insert into bare values (1, 'x'), (1, 'x')").await;
    world.sql("update bare set b = 'y'").await;
    let row = |b: &str| json!({ "a": 1, "b": b });
    assert_eq!(told(&mut node, 2).await, [insert("bare", &row("x")), insert("bare", &row("x"))]);
    world.sql("alter publication all_of_it set (publish = 'insert, update, delete'); alter table bare replica identity full").await;
    world.sql("update bare set b = 'z' where ctid = (select min(ctid) from bare)").await;
    world.sql("delete from bare where b = 'z'").await;
    let (ty, mut update) = change("bare", "update", &row("y"), &row("z"));
    update["changed"] = json!(["b"]);
    assert_eq!(told(&mut node, 2).await, [(ty, update), change("bare", "delete", &row("z"), &Value::Null)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subtransactions_are_told_as_far_as_they_were_kept() {
    let world = users(json!({})).await;
    let mut node = Node::start(&world, "one").await;
    let nested = "do $$ begin for i in 1..5000 loop
            begin
                insert into users values (i, 'x');
                if i % 3 = 0 then raise 'no'; end if;
            exception when raise_exception then null;
            end;
        end loop; end $$";
    world.sql(nested).await;
    let kept: Vec<i64> = (1..=5_000).filter(|i| i % 3 != 0).collect();
    let seen = told(&mut node, kept.len()).await;
    let ids: Vec<i64> = seen.iter().filter_map(|(_, data)| data["after"]["id"].as_i64()).collect();
    assert_eq!(ids, kept);
    node.stop().await;
}
