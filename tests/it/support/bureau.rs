//! Two functions that run the statements that their events hold, each under a role of its own, and what neither may touch.

use serde_json::json;

use super::{World, eventually, functions};

/// The streams `clerk` and `mailer` feed the functions of these names, whose roles have these names, too. Both tables of theirs
/// say who wrote a row; `secrets` is nobody's.
pub async fn bureau() -> World {
    let world = World::start().await;
    world
        .sql(
            "create role clerk nologin; create role mailer nologin;
             create table entries (id text primary key, who text default current_user, login text default session_user);
             create table letters (id text primary key, who text default current_user, login text default session_user);
             create table secrets (word text);
             insert into secrets values ('swordfish');
             grant select, insert, update, delete on entries to clerk;
             grant select, insert, update, delete on letters to mailer",
        )
        .await;
    for name in ["clerk", "mailer"] {
        world.stream(&name.to_uppercase(), &[name]).await;
        world.deploy(name, &functions::sql(), &json!({ "grants": { "sql": { "role": name } } })).await;
        world.jetstream_trigger(name, &name.to_uppercase(), json!({})).await;
        let rule = format!(
            "insert into oncue.rules (name, trigger, match_all, run, retry_base_ms, retry_max_attempts)
             values ('{name}', '{name}', true, '{name}', 50, 2)"
        );
        world.sql(&rule).await;
    }
    world
}

/// Has `function` run `lines` for the event `id`.
pub async fn order(world: &World, function: &str, id: &str, lines: &[&str]) {
    world.publish_events(function, [(id.to_owned(), lines.join("\n"))]).await;
}

/// Has `function` write a row for each of `count` events, whose ids begin with `prefix`.
pub async fn routine(world: &World, function: &str, prefix: &str, count: usize) {
    let table = if function == "clerk" { "entries" } else { "letters" };
    let line = format!("p insert into public.{table} (id) values ($1)");
    let events = (0..count).map(|n| (format!("{prefix}{n}"), line.clone()));
    world.publish_events(function, events).await;
}

/// Waits until the event `id` is done or given up, and gives the last outcome and its words.
pub async fn end(world: &World, id: &str) -> (String, String) {
    let query = format!(
        "select outcome, coalesce(error, '') as error from oncue.ledger where event_id = '{id}'
         and settlement in ('done', 'dead') order by attempt desc limit 1"
    );
    eventually(&format!("{id} has ended"), async || !world.rows(&query).await.is_empty()).await;
    let row = world.row(&query).await;
    (row["outcome"].as_str().unwrap_or_default().to_owned(), row["error"].as_str().unwrap_or_default().to_owned())
}

/// Waits until `count` rows that `function` wrote for events whose ids begin with `prefix` are there, each once and under
/// its role.
pub async fn written(world: &World, function: &str, prefix: &str, count: i64) {
    let table = if function == "clerk" { "entries" } else { "letters" };
    let done = format!("rule = '{function}' and event_id like '{prefix}%' and settlement = 'done'");
    eventually(&format!("{prefix} is done"), async || world.ledger(&done).await == count).await;
    let rows = format!(
        "select count(*) from {table} where id like '{prefix}%' and who = '{function}' and login like 'oncue_guest_%_{function}'"
    );
    assert_eq!(world.number(&rows).await, count, "every row is there, and the role's");
}
