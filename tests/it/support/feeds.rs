//! What the suites of change feeds share: a world with a feed, and what is asked of it.

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::{Node, World, eventually, functions};

/// The table, and what every rule of these suites runs.
pub const USERS: &str = "create table users (id bigint primary key, email text not null, plan text)";

/// A world with a table of users, a feed of it named `users`, and a rule that takes all that it tells.
pub async fn users(spec: Value) -> World {
    let world = World::start().await;
    world.sql(USERS).await;
    follow_users(&world, spec).await;
    world
}

/// Adds the feed and the rule to a world.
pub async fn follow_users(world: &World, spec: Value) {
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], spec).await;
    world.steer("all", "users", "o0").await;
}

/// Inserts users with these keys, each in a transaction of its own.
pub async fn insert(world: &World, keys: impl IntoIterator<Item = i64>) {
    for id in keys {
        world.sql(&format!("insert into users values ({id}, 'u{id}@x', 'free')")).await;
    }
}

/// Waits until as many deliveries are done.
pub async fn done(world: &World, count: i64) {
    eventually("all are done", async || {
        world.try_rows("select from oncue.ledger where settlement = 'done'").await.is_ok_and(|rows| {
            let seen = i64::try_from(rows.len()).expect("few");
            assert!(seen <= count, "{seen} are done, not {count}");
            seen == count
        })
    })
    .await;
}

/// Waits until the slot was told all that is written now.
pub async fn told(world: &World) {
    let end = world.row("select pg_current_wal_flush_lsn()::text as lsn").await;
    let end = end["lsn"].as_str().unwrap_or_default().to_owned();
    eventually("the slot follows", async || {
        world.number(&format!("select count(*) from pg_replication_slots where confirmed_flush_lsn >= '{end}'")).await
            == 1
    })
    .await;
}

/// State and error of the trigger `users`.
pub async fn state(world: &World) -> (String, String) {
    let rows = world.try_rows("select state, error from oncue.triggers where name = 'users'").await.unwrap_or_default();
    let text = |key: &str| rows.first().and_then(|r| r[key].as_str()).unwrap_or_default().to_owned();
    (text("state"), text("error"))
}

/// Waits until the trigger says in its row and in health that it cannot read, with all of `words`.
pub async fn refused(world: &World, node: &Node, words: &[&str]) {
    let mut seen = (String::new(), String::new());
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    while !(seen.0 == "active" && words.iter().all(|word| seen.1.contains(word))) {
        assert!(tokio::time::Instant::now() < deadline, "the row never said {words:?}: {seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        seen = state(world).await;
    }
    eventually("health says why", async || {
        node.component("trigger/users")
            .await
            .is_some_and(|(state, reason)| state == "error" && words.iter().all(|word| reason.contains(word)))
    })
    .await;
    assert!(!node.is_ready().await);
}

/// A pool of one connection to a server.
pub fn connection_to(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(1).connect_lazy(url).expect("the address is valid")
}

/// Runs statements on a server, as `psql` would.
pub async fn sql(pool: &PgPool, statements: &str) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(pool).await {
        panic!("{error}: {statements}");
    }
}
