//! Effects: functions that write one row by SQL, beside the same rows written by one call inside the server.
//!
//! `cargo bench --bench effects -- [MESSAGES] [ROUNDS]` starts a private Postgres (fsync on) and a private nats-server, and prints
//! rows per second of
//!   floor   one call in the server: for each row a subtransaction with the row and a row like the ledger's, a commit every 250
//!   oncue   a function that executes one `insert` for each message: match, run, execute, settle
//! and the ratio; then, for messages that come alone, the time from the publish until their row is seen.
//! It times whole runs on the machine it runs on: quote ratios from one run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use oncue::bus::BusConfig;
use oncue::dev::servers::{
    NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, find_nats_server, find_postgres,
};
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig};
use oncue::store::{Config, Store};
use sqlx::{Connection as _, PgConnection};

#[path = "../tests/it/support/functions.rs"]
#[allow(dead_code, reason = "the tests need the other functions")]
mod functions;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const TABLES: &str = "
    create role clerk nologin;
    create table effects (id text primary key);
    grant insert on effects to clerk;
    create table floor (id text primary key);
    create table floor_ledger (like oncue.ledger including all);
    create procedure floor(count int) language plpgsql as $$
    begin
        for n in 1..count loop
            begin
                insert into floor values ('floor-' || n);
                insert into floor_ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function,
                    version, outcome, settlement, started_at, micros, fuel, peak_memory, outputs, node)
                values (gen_random_uuid(), 1, 'floor-' || n, 'work', '/bench', 'bench', 'bench', 'clerk', 1, 'ok', 'done', now(),
                    100, 1000, 65536, 0, 'bench');
            exception when unique_violation then
                null;
            end;
            if n % 250 = 0 then commit; end if;
        end loop;
    end $$;";

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes `--bench`; what is left are our own words.
    let words: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let messages = words.first().copied().unwrap_or(20_000);
    let rounds = words.get(1).copied().unwrap_or(3);
    let bench = Bench::start().await?;
    let (mut floors, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        floors.push(bench.floor(messages).await?);
        ours.push(bench.oncue(&format!("ROUND{round}"), messages).await?);
        say(&format!("round {}: floor {:.0}/s, oncue {:.0}/s", round + 1, floors[round], ours[round]));
    }
    let (floor, oncue) = (median(floors), median(ours));
    say(&format!(
        "median of {rounds} rounds of {messages}: floor {floor:.0}/s, oncue {oncue:.0}/s, {:.2}",
        oncue / floor
    ));
    let mut alone = bench.alone(300).await?;
    alone.sort_by(f64::total_cmp);
    let at = |share: usize| alone[(alone.len() - 1) * share / 100];
    say(&format!("alone, publish → row: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", at(50), at(90), at(99)));
    bench.stop().await
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

struct Bench {
    postgres: PrivatePostgres,
    nats: PrivateNats,
    jetstream: jetstream::Context,
    _home: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let overrides = Overrides::default();
        let home = tempfile::Builder::new().prefix("oncue-bench").tempdir()?;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
        let postgres =
            PrivatePostgres::start(PostgresConfig::new(find_postgres(&overrides)?, home.path().join("pg"))).await?;
        let nats = PrivateNats::start(NatsConfig::new(find_nats_server(&overrides)?, home.path().join("nats"))).await?;
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await?);
        let store = Store::connect_lazy(&Config::new(postgres.url()))?;
        store.migrate().await?;
        store.close().await;
        let bench = Self { postgres, nats, jetstream, _home: home };
        let mut sql = bench.sql().await?;
        sqlx::raw_sql(TABLES).execute(&mut sql).await?;
        let component = functions::sql();
        for statement in [
            "insert into oncue.components (digest, bytes) values (sha256($1), $1)",
            "insert into oncue.functions (name, current_version) select 'clerk', 1 where $1::bytea is not null",
            "insert into oncue.function_versions (function, version, digest, spec)
             values ('clerk', 1, sha256($1), '{\"grants\":{\"sql\":{\"role\":\"clerk\"}}}')",
        ] {
            // A function and its version name each other.
            sqlx::query("set session_replication_role = replica").execute(&mut sql).await?;
            sqlx::query(statement).bind(&component).execute(&mut sql).await?;
        }
        Ok(bench)
    }

    async fn stop(self) -> Result<()> {
        self.nats.stop().await;
        self.postgres.stop().await;
        Ok(())
    }

    async fn sql(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(self.postgres.url()).await?)
    }

    async fn floor(&self, rows: usize) -> Result<f64> {
        let mut sql = self.sql().await?;
        sqlx::raw_sql("truncate floor, floor_ledger").execute(&mut sql).await?;
        let began = Instant::now();
        sqlx::query("call floor($1)").bind(i32::try_from(rows)?).execute(&mut sql).await?;
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    }

    async fn publish(&self, stream: &str, n: usize) -> Result<jetstream::context::PublishAckFuture> {
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", format!("{stream}-{n}").as_str());
        headers.insert("ce-source", "/bench");
        headers.insert("ce-type", "work");
        let line = "p insert into public.effects (id) values ($1)";
        let message = PublishMessage::build().headers(headers).payload(line.into());
        Ok(self.jetstream.send_publish(format!("{stream}.work"), message).await?)
    }

    async fn node(&self, stream: &str) -> Result<(Drain, tokio::task::JoinHandle<Result<()>>)> {
        let mut sql = self.sql().await?;
        let spec = serde_json::json!({"stream": stream, "start": "all"});
        sqlx::query("insert into oncue.triggers (name, bus, kind, spec) values ('bench', 'events', 'jetstream', $1)")
            .bind(spec)
            .execute(&mut sql)
            .await?;
        sqlx::query("insert into oncue.rules (name, trigger, match_all, run) values ('bench', 'bench', true, 'clerk')")
            .execute(&mut sql)
            .await?;
        let mut config = NodeConfig::new("bench", self.postgres.url());
        config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
        config.buses.insert("events".to_owned(), BusConfig::nats(self.nats.url()));
        let drain = Drain::new();
        // The benchmark awaits the node itself: it is no part of one.
        #[allow(clippy::disallowed_methods)]
        let task = tokio::spawn(node::run(config, drain.clone(), None));
        Ok((drain, task))
    }

    async fn stream(&self, name: &str) -> Result<()> {
        let subjects = vec![format!("{name}.>")];
        let config = stream::Config { name: name.to_owned(), subjects, ..stream::Config::default() };
        self.jetstream.create_stream(config).await?;
        Ok(())
    }

    async fn end(&self, stream: &str, node: (Drain, tokio::task::JoinHandle<Result<()>>)) -> Result<()> {
        node.0.stop_reading();
        node.1.await.context("the node's task")??;
        let clean = "delete from oncue.rules; delete from oncue.triggers; truncate oncue.ledger, oncue.usage, effects";
        sqlx::raw_sql(clean).execute(&mut self.sql().await?).await?;
        self.jetstream.delete_stream(stream).await?;
        Ok(())
    }

    /// Rows a second from the first run's start to the last settlement.
    async fn oncue(&self, stream: &str, messages: usize) -> Result<f64> {
        self.stream(stream).await?;
        let mut acks = Vec::with_capacity(1_000);
        for n in 0..messages {
            acks.push(self.publish(stream, n).await?);
            if acks.len() == 1_000 || n + 1 == messages {
                for ack in acks.drain(..) {
                    ack.await?;
                }
            }
        }
        let node = self.node(stream).await?;
        let mut sql = self.sql().await?;
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let done: i64 = sqlx::query_scalar("select coalesce(sum(runs - failed), 0)::bigint from oncue.usage")
                .fetch_one(&mut sql)
                .await?;
            if done >= i64::try_from(messages)? {
                break;
            }
            ensure!(Instant::now() < deadline, "{done} of {messages} done in 300 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let rows: i64 = sqlx::query_scalar("select count(*) from effects").fetch_one(&mut sql).await?;
        ensure!(rows == i64::try_from(messages)?, "{rows} rows of {messages} messages");
        let seconds: f64 = sqlx::query_scalar(
            "select extract(epoch from max(settled_at) - min(started_at))::float8 from oncue.ledger",
        )
        .fetch_one(&mut sql)
        .await?;
        self.end(stream, node).await?;
        Ok(messages as f64 / seconds)
    }

    /// Milliseconds from each publish until the row is seen, one message at a time.
    async fn alone(&self, messages: usize) -> Result<Vec<f64>> {
        self.stream("ALONE").await?;
        let node = self.node("ALONE").await?;
        let mut sql = self.sql().await?;
        let mut took = Vec::with_capacity(messages);
        for n in 0..messages + 20 {
            let began = Instant::now();
            self.publish("ALONE", n).await?.await?;
            loop {
                let seen: bool = sqlx::query_scalar("select exists (select from effects where id = $1)")
                    .bind(format!("ALONE-{n}"))
                    .fetch_one(&mut sql)
                    .await?;
                if seen {
                    break;
                }
                ensure!(began.elapsed() < Duration::from_secs(60), "no row of message {n} within 60 s");
            }
            // The first ones connect and compile.
            if n >= 20 {
                took.push(began.elapsed().as_secs_f64() * 1_000.0);
            }
        }
        self.end("ALONE", node).await?;
        Ok(took)
    }
}
