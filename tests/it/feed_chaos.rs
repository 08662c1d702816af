//! Chaos: an application writes from eight connections while the node that follows it is killed again and again and
//! Postgres crashes; its own audit trail against what functions were run for and what they did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::feeds::told;
use crate::support::history::{Change, History, at_any_time, at_the_end};
use crate::support::process::Process;
use crate::support::seeded::Seeded;
use crate::support::{World, eventually, eventually_within, functions, not_run, progress};

const CONNECTIONS: u64 = 8;
const KEYS: u64 = 40;

/// The application: each change of an item and each thing published raises the item's count and is written down in the
/// same transaction; the count's row lock makes its order that of the commits.
const APPLICATION: &str = "
    create table items (id bigint primary key, note text);
    create table counts (id bigint primary key, n bigint not null);
    create table audit (id bigint, n bigint, xid bigint, op text, primary key (id, n));
    create function note_down(key bigint, op text) returns bigint language plpgsql as $$
        declare count bigint; xid bigint := pg_current_xact_id()::text::bigint % 4294967296;
        begin
            insert into counts values (key, 1) on conflict (id) do update set n = counts.n + 1 returning n into count;
            insert into audit values (key, count, xid, op);
            return xid;
        end $$;
    create function audited() returns trigger language plpgsql as $$
        begin
            perform note_down(coalesce(new.id, old.id), lower(tg_op));
            return null;
        end $$;
    create trigger audited after insert or update or delete on items for each row execute function audited();
    create function publish(key bigint) returns void language plpgsql as $$
        begin
            perform oncue.publish('item.seen', jsonb_build_object('key', key, 'op', 'publish',
                'xid', note_down(key, 'publish')), subject => key::text);
        end $$;
    create role clerk nologin;
    create table counter (n bigint not null); insert into counter values (0);
    create table told (nr bigint generated always as identity, data jsonb);
    create function count_up() returns trigger language plpgsql as $$
        begin update counter set n = n + 1; return null; end $$;
    create trigger counted after insert on told for each row execute function count_up();
    grant select, insert, update on told, counter to clerk";

/// A statement of the application.
fn statement(seeded: &mut Seeded) -> String {
    let key = seeded.below(KEYS);
    match seeded.below(10) {
        0..3 => format!("insert into items values ({key}, 'new') on conflict do nothing"),
        3..6 => format!("update items set note = 'n{}' where id = {key}", seeded.below(1_000)),
        6 => format!("delete from items where id = {key}"),
        7 => format!(
            "savepoint s; update items set note = 'undone' where id = {key}; select publish({key}); rollback to s"
        ),
        _ => format!("select publish({key})"),
    }
}

/// One transaction of the application.
fn transaction(seeded: &mut Seeded) -> String {
    let count = 1 + seeded.below(4);
    let body: Vec<String> = (0..count).map(|_| statement(seeded)).collect();
    let end = if seeded.below(7) == 0 { "rollback" } else { "commit" };
    format!("begin; {}; {end}", body.join("; "))
}

/// Writes until told to stop; what fails is rolled back, and a connection that is gone is made again.
async fn write(pool: PgPool, mut seeded: Seeded, stop: Arc<AtomicBool>) -> u64 {
    let mut transactions = 0;
    while !stop.load(Ordering::Relaxed) {
        let statements = transaction(&mut seeded);
        let pause = Duration::from_millis(10 + seeded.below(60));
        if let Ok(mut connection) = pool.acquire().await {
            transactions += 1;
            if sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *connection).await.is_err() {
                // Deadlocks and crashes: the transaction is open or the connection broken.
                drop(connection.detach());
            }
        }
        tokio::time::sleep(pause).await;
    }
    transactions
}

async fn shop() -> World {
    let world = World::start().await;
    world.sql(APPLICATION).await;
    let spec = json!({ "grants": { "publish": ["main/mail.welcome"], "sql": { "role": "clerk" } } });
    world.deploy("clerk", &functions::sql(), &spec).await;
    world.feed("items", &["public.items"], json!({})).await;
    let rule = "insert into oncue.rules (name, trigger, match_all, run, ordering_key, retry_base_ms, retry_cap_ms)
        values ('tell', 'items', true, 'clerk', '$.subject', 20, 200)";
    world.sql(rule).await;
    world
}

fn change(row: &Value) -> Change {
    let number = |value: &Value| value.as_i64().expect("a number");
    let op = row["op"].as_str().expect("a word").to_owned();
    Change { key: number(&row["key"]), xid: number(&row["xid"]), op }
}

/// Transactions that the slot still has, once nobody reads from it.
async fn pending(world: &World) -> BTreeSet<i64> {
    let peek = "select distinct xid::text::bigint as xid from pg_logical_slot_peek_binary_changes('oncue_items', null,
        null, 'proto_version', '1', 'publication_names', 'oncue_items', 'messages', 'true')";
    let rows = eventually_within(Duration::from_secs(30), "the slot is free", async || world.try_rows(peek).await.ok());
    rows.await.iter().filter_map(|row| row["xid"].as_i64()).collect()
}

/// The audit first, then the slot, then the effects: what moved meanwhile is seen at least once.
async fn history(world: &World, with_slot: bool) -> History {
    let audit = world.rows("select id as key, xid, op from audit order by id, n").await;
    let pending = if with_slot { pending(world).await } else { BTreeSet::new() };
    let seen = world
        .row(
            "select (select n from counter) as counter,
                 (select coalesce(jsonb_agg(jsonb_build_object('op', data -> 'op', 'xid', data -> 'xid', 'key',
                      coalesce(data -> 'key', nullif(data #> '{after,id}', 'null'), data #> '{before,id}'))
                      order by nr), '[]') from told) as told,
                 (select coalesce(jsonb_object_agg(id, n), '{}') from (select delivery_id as id,
                      count(*) filter (where settlement = 'done') as n from oncue.ledger group by 1) l) as done",
        )
        .await;
    let count = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok()).expect("a count");
    let done: BTreeMap<String, usize> =
        seen["done"].as_object().expect("an object").iter().map(|(id, n)| (id.clone(), count(n))).collect();
    History {
        audit: audit.iter().map(change).collect(),
        told: seen["told"].as_array().expect("a list").iter().map(change).collect(),
        pending,
        // A delivery that was only tried so far is no claim that it was done.
        done: if with_slot { done.into_iter().filter(|(_, n)| *n > 0).collect() } else { done },
        counter: count(&seen["counter"]),
    }
}

/// What the slot was told is what the tables say is settled.
async fn told_ahead(world: &World) -> i64 {
    world
        .number(
            "select count(*) from pg_replication_slots s, oncue.feeds f where s.confirmed_flush_lsn > f.settled_lsn",
        )
        .await
}

async fn survive(load: Duration, seed: u64) {
    let began = Instant::now();
    let mut world = shop().await;
    let mut seeded = Seeded(seed);
    let mut node = Process::start_with_feed(&world, "mortal").await;
    let stop = Arc::new(AtomicBool::new(false));
    let pool =
        PgPoolOptions::new().max_connections(8).connect_lazy(world.postgres.url()).expect("the address is valid");
    let mut writers = JoinSet::new();
    for n in 1..=CONNECTIONS {
        writers.spawn(write(pool.clone(), Seeded(seed ^ (n << 40)), Arc::clone(&stop)));
    }
    let (mut kills, mut crashes) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < load {
        tokio::time::sleep(Duration::from_millis(1_500 + seeded.below(2_500))).await;
        let part = started.elapsed().as_secs_f64() / load.as_secs_f64();
        if part > 0.35 * f64::from(crashes + 1) && crashes < 2 {
            world.postgres.stop_immediate().await;
            world.postgres.restart().await.expect("Postgres comes back");
            eventually("it answers", async || world.try_sql("select 1").await.is_ok()).await;
            crashes += 1;
            progress(began, "Postgres crashed and came back");
            continue;
        }
        node.kill().await;
        kills += 1;
        assert_eq!(told_ahead(&world).await, 0, "seed {seed}");
        let seen = history(&world, true).await;
        progress(began, &format!("killed; {} committed, {} told", seen.audit.len(), seen.told.len()));
        assert_eq!(at_any_time(&seen), [], "after kill {kills}, seed {seed}");
        node = Process::launch_with_feed(&world, "mortal");
    }
    stop.store(true, Ordering::Relaxed);
    let mut transactions = 0;
    while let Some(ended) = writers.join_next().await {
        transactions += ended.expect("it does not panic");
    }
    assert!(kills >= 3 && crashes == 2, "{kills} kills, {crashes} crashes");
    let committed = world.number("select count(*) from audit").await;
    progress(began, &format!("{transactions} transactions, {committed} changes"));
    eventually_within(Duration::from_secs(120), "all is told", async || {
        let open = world.number("select count(*) from oncue.parked").await;
        (open == 0 && world.number("select count(*) from told").await >= committed).then_some(())
    })
    .await;
    told(&world).await;
    progress(began, "all is told");
    assert_eq!(at_the_end(&history(&world, false).await), [], "seed {seed}");
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    assert_eq!(world.number("select count(*) from oncue.gaps").await, 0);
    node.signal("TERM").await;
    assert!(node.wait().await.success(), "{}", node.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_told_once_and_in_order_whatever_dies() {
    let (load, seed) = match std::env::var_os("ONCUE_TEST_LONG") {
        Some(_) => (Duration::from_secs(300), u64::from(std::process::id()) << 8 | 1),
        None => {
            not_run("five minutes of load with a new seed", "ONCUE_TEST_LONG is not set; 25 s run instead");
            (Duration::from_secs(25), 0x5EED_C0DE)
        }
    };
    survive(load, seed).await;
}
