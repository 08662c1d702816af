//! JetStream, end to end: a node beside a hand-written consumer with the same durable effect, in one run.
//!
//! `cargo bench --bench jetstream -- [MESSAGES] [ROUNDS] [only-welcome | recording]` starts a private Postgres (fsync on) and a private
//! nats-server, and prints messages per second of
//!   floor         a consumer that pulls, inserts one row for each message in groups, and acks
//!   floor+output  the same, which also publishes one message for each and waits until it is stored
//!   oncue route   a rule without code: match, publish, settle
//!   oncue welcome the welcome function, which emits one event: match, run, publish, settle
//!   oncue crowd   the same with 9,999 other rules on the same type, none of which matches
//! and the ratio of each to its floor; then the latency publish → function start → settled at a low rate. With the word
//! `recording` it prints instead what `record` costs: the welcome function without and with it, and events that no rule
//! matches without and with it, and the bytes that one recorded event takes on disk.
//! It times whole runs on the machine it runs on: quote ratios from one run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use futures::StreamExt as _;
use oncue::bus::BusConfig;
use oncue::dev::servers::{
    NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, find_nats_server, find_postgres,
};
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig};
use oncue::store::{Config, Store};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BODY: &str = r#"{"email":"ada.lovelace@example.com","name":"Ada Lovelace","plan":"free","referrer":"a friend"}"#;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes `--bench`; what is left are our own words.
    let words: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let messages = words.first().copied().unwrap_or(30_000);
    let rounds = words.get(1).copied().unwrap_or(3);
    let bench = Bench::start().await?;
    if std::env::args().any(|word| word == "only-welcome") {
        // For a profiler.
        say(&format!("oncue welcome {:.0}/s", bench.oncue("welcome", messages).await?));
        return bench.stop().await;
    }
    if std::env::args().any(|word| word == "recording") {
        bench.recording(messages, rounds).await?;
        return bench.stop().await;
    }
    say(&format!("{messages} messages of {} bytes, {rounds} rounds, medians", BODY.len()));
    let mut figures = [const { Vec::new() }; 5];
    for round in 0..rounds {
        figures[0].push(bench.floor(messages, false).await?);
        figures[1].push(bench.floor(messages, true).await?);
        figures[2].push(bench.oncue("route", messages).await?);
        figures[3].push(bench.oncue("welcome", messages).await?);
        figures[4].push(bench.oncue("crowd", messages).await?);
        say(&format!("round {}: {}", round + 1, line(&figures.each_ref().map(|f| f[round]))));
    }
    let [floor, floor_output, route, welcome, crowd] = figures.map(median);
    say(&format!("median:  {}", line(&[floor, floor_output, route, welcome, crowd])));
    say(&format!("oncue route   / floor+output = {:.2}", route / floor_output));
    say(&format!("oncue welcome / floor+output = {:.2}", welcome / floor_output));
    say(&format!("oncue welcome / floor        = {:.2}", welcome / floor));
    say(&format!("oncue crowd   / welcome      = {:.2}", crowd / welcome));
    bench.latency().await?;
    bench.stop().await
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

fn line(figures: &[f64; 5]) -> String {
    let [a, b, c, d, e] = figures;
    format!("floor {a:.0}/s, floor+output {b:.0}/s, oncue route {c:.0}/s, oncue welcome {d:.0}/s, oncue crowd {e:.0}/s")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

struct Bench {
    postgres: PrivatePostgres,
    nats: PrivateNats,
    jetstream: jetstream::Context,
    store: Store,
    _home: tempfile::TempDir,
}

struct RunningNode {
    drain: Drain,
    task: JoinHandle<Result<()>>,
}

impl Bench {
    async fn start() -> Result<Self> {
        let overrides = Overrides::default();
        let home = tempfile::Builder::new().prefix("oncue-bench").tempdir()?;
        allow_entry(home.path())?;
        let postgres =
            PrivatePostgres::start(PostgresConfig::new(find_postgres(&overrides)?, home.path().join("pg"))).await?;
        let nats = PrivateNats::start(NatsConfig::new(find_nats_server(&overrides)?, home.path().join("nats"))).await?;
        let client = async_nats::connect(nats.url()).await?;
        let store = Store::connect_lazy(&Config::new(postgres.url()))?;
        store.migrate().await?;
        let mut sql = PgConnection::connect(postgres.url()).await?;
        sqlx::query("create table floor (id text primary key, body bytea not null)").execute(&mut sql).await?;
        let bench = Self { postgres, nats, jetstream: jetstream::new(client), store, _home: home };
        bench.stream("OUT", "mail.>").await?;
        bench.deploy(&mut sql).await?;
        Ok(bench)
    }

    async fn stop(self) -> Result<()> {
        self.store.close().await;
        self.nats.stop().await;
        self.postgres.stop().await;
        Ok(())
    }

    async fn stream(&self, name: &str, subject: &str) -> Result<()> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            duplicate_window: Duration::from_secs(10),
            ..stream::Config::default()
        };
        self.jetstream.create_stream(config).await?;
        Ok(())
    }

    async fn deploy(&self, sql: &mut PgConnection) -> Result<()> {
        let component = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/welcome/welcome.wasm"))
            .context("functions/welcome/welcome.wasm")?;
        let mut tx = sql.begin().await?;
        sqlx::query("insert into oncue.components (digest, bytes) values (sha256($1), $1)")
            .bind(&component)
            .execute(&mut *tx)
            .await?;
        sqlx::query("insert into oncue.functions (name, current_version) values ('welcome', 1)")
            .execute(&mut *tx)
            .await?;
        let spec = serde_json::json!({"grants": {"publish": ["events/mail.*"]}});
        sqlx::query("insert into oncue.function_versions (function, version, digest, spec) values ('welcome', 1, sha256($1), $2)")
            .bind(&component)
            .bind(spec)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A stream of its own with `messages` in it.
    async fn fill(&self, name: &str, messages: usize) -> Result<()> {
        self.stream(name, &format!("{name}.>")).await?;
        let mut acks = Vec::with_capacity(1_000);
        for n in 0..messages {
            acks.push(self.publish(name, n).await?);
            if acks.len() == 1_000 {
                for ack in acks.drain(..) {
                    ack.await?;
                }
            }
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    async fn publish(&self, stream: &str, n: usize) -> Result<jetstream::context::PublishAckFuture> {
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", format!("{stream}-{n}").as_str());
        headers.insert("ce-source", "/bench");
        headers.insert("ce-type", "user.signup");
        headers.insert("content-type", "application/json");
        let message = PublishMessage::build().headers(headers).payload(BODY.into());
        Ok(self.jetstream.send_publish(format!("{stream}.signup"), message).await?)
    }

    /// The hand-written consumer: messages per second from the first pull to the last ack.
    async fn floor(&self, messages: usize, with_output: bool) -> Result<f64> {
        let name = format!("FLOOR{}", u8::from(with_output));
        self.fill(&name, messages).await?;
        let stream = self.jetstream.get_stream(&name).await?;
        let config = pull::Config {
            durable_name: Some("floor".to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 20_000,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let mut sql = PgConnection::connect(self.postgres.url()).await?;
        sqlx::query("truncate floor").execute(&mut sql).await?;
        let began = Instant::now();
        let mut stream = consumer.stream().max_messages_per_batch(1_000).messages().await?.ready_chunks(1_000);
        let mut done = 0;
        while done < messages {
            let chunk: Vec<_> =
                stream.next().await.context("the stream ended")?.into_iter().collect::<Result<_, _>>()?;
            if with_output {
                self.output(&chunk).await?;
            }
            let ids: Vec<String> = chunk
                .iter()
                .map(|m| m.info().map(|i| i.stream_sequence.to_string()))
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::from_boxed)?;
            let bodies: Vec<&[u8]> = chunk.iter().map(|m| &m.payload[..]).collect();
            sqlx::query("insert into floor select * from unnest($1::text[], $2::bytea[])")
                .bind(ids)
                .bind(bodies)
                .execute(&mut sql)
                .await?;
            for message in &chunk {
                message.ack().await.map_err(anyhow::Error::from_boxed)?;
            }
            done += chunk.len();
        }
        let rate = messages as f64 / began.elapsed().as_secs_f64();
        self.jetstream.delete_stream(&name).await?;
        Ok(rate)
    }

    async fn output(&self, chunk: &[jetstream::Message]) -> Result<()> {
        let mut acks = Vec::with_capacity(chunk.len());
        for message in chunk {
            let id = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
            let output = PublishMessage::build().message_id(format!("floor-{id}")).payload(message.payload.clone());
            acks.push(self.jetstream.send_publish("mail.welcome", output).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    async fn node(&self, rule: &str, stream: &str, record: &str) -> Result<RunningNode> {
        let mut sql = PgConnection::connect(self.postgres.url()).await?;
        let spec = serde_json::json!({"stream": stream, "start": "all"});
        let insert = "insert into oncue.triggers (name, bus, kind, spec, record)
                      values ('bench', 'events', 'jetstream', $1, $2)";
        sqlx::query(insert).bind(spec).bind(record).execute(&mut sql).await?;
        let (target, value) = match rule {
            "welcome" | "crowd" => ("run", "welcome"),
            _ => ("publish", "events/mail.routed"),
        };
        // Events that no rule matches are read, too, to the field that fails.
        let plan = if rule == "nothing" { "none" } else { "free" };
        let insert = format!(
            "insert into oncue.rules (name, trigger, pattern, {target})
             values ('bench', 'bench', '{{\"type\":[\"user.signup\"],\"data\":{{\"plan\":[\"{plan}\"]}}}}', $1)"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert)).bind(value).execute(&mut sql).await?;
        if rule == "crowd" {
            let others = "insert into oncue.rules (name, trigger, pattern, run)
                 select 'other-' || n, 'bench', format('{\"type\":[\"user.signup\"],\"data\":{\"email\":[\"user%s@example.com\"]}}', n)::json,
                     'welcome' from generate_series(1, 9999) n";
            sqlx::query(others).execute(&mut sql).await?;
        }
        let mut config = NodeConfig::new("bench", self.postgres.url());
        config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
        config.buses.insert("events".to_owned(), BusConfig::nats(self.nats.url()));
        let drain = Drain::new();
        // The benchmark awaits the node itself: it is no part of one.
        #[allow(clippy::disallowed_methods)]
        let task = tokio::spawn(node::run(config, drain.clone(), None));
        Ok(RunningNode { drain, task })
    }

    async fn end(&self, node: RunningNode, stream: &str) -> Result<()> {
        node.drain.stop_reading();
        node.task.await??;
        let mut sql = PgConnection::connect(self.postgres.url()).await?;
        for statement in [
            "delete from oncue.rules",
            "delete from oncue.triggers",
            "truncate oncue.ledger, oncue.usage, oncue.logs, oncue.recorded, oncue.unmatched",
        ] {
            sqlx::query(statement).execute(&mut sql).await?;
        }
        self.jetstream.delete_stream(stream).await?;
        Ok(())
    }

    /// Waits until as many deliveries are done. Looks seldom and over one connection: looking must not cost.
    async fn wait_for(&self, messages: usize) -> Result<()> {
        let mut sql = PgConnection::connect(self.postgres.url()).await?;
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let done: i64 = sqlx::query_scalar("select coalesce(sum(runs - failed), 0)::bigint from oncue.usage")
                .fetch_one(&mut sql)
                .await?;
            if done >= i64::try_from(messages)? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{done} of {messages} done in 300 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Oncue: messages per second from the first settlement's group to the last, read off the ledger.
    async fn oncue(&self, rule: &str, messages: usize) -> Result<f64> {
        self.oncue_with(rule, messages, "none").await
    }

    async fn oncue_with(&self, rule: &str, messages: usize, record: &str) -> Result<f64> {
        let stream = format!("BENCH{rule}");
        self.fill(&stream, messages).await?;
        let node = self.node(rule, &stream, record).await?;
        self.wait_for(messages).await?;
        let mut sql = PgConnection::connect(self.postgres.url()).await?;
        let seconds: f64 = sqlx::query_scalar(
            "select extract(epoch from max(settled_at) - min(started_at))::float8 from oncue.ledger",
        )
        .fetch_one(&mut sql)
        .await?;
        if record != "none" {
            let bytes: f64 = sqlx::query_scalar(
                "select (sum(pg_total_relation_size(inhrelid)) / (select count(*) from oncue.recorded))::float8
                 from pg_inherits where inhparent = 'oncue.recorded'::regclass",
            )
            .fetch_one(&mut sql)
            .await?;
            say(&format!("{bytes:.0} bytes on disk for a recorded event"));
        }
        self.end(node, &stream).await?;
        Ok(messages as f64 / seconds)
    }

    /// Events that no rule matches: messages per second from the first pull until the consumer has acknowledged all.
    async fn unmatched(&self, messages: usize, record: &str) -> Result<f64> {
        self.fill("NOTHING", messages).await?;
        let node = self.node("nothing", "NOTHING", record).await?;
        let stream = self.jetstream.get_stream("NOTHING").await?;
        while stream.consumer_info("oncue-bench").await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let began = Instant::now();
        let deadline = began + Duration::from_secs(300);
        loop {
            let info = stream.consumer_info("oncue-bench").await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "{} of {messages} wait after 300 s", info.num_pending);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let rate = messages as f64 / began.elapsed().as_secs_f64();
        self.end(node, "NOTHING").await?;
        Ok(rate)
    }

    /// What recording costs.
    async fn recording(&self, messages: usize, rounds: usize) -> Result<()> {
        let mut figures = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            figures[0].push(self.oncue_with("welcome", messages, "none").await?);
            figures[1].push(self.oncue_with("welcome", messages, "matched").await?);
            figures[2].push(self.unmatched(messages, "none").await?);
            figures[3].push(self.unmatched(messages, "all").await?);
        }
        let [none, matched, passed, all] = figures.map(median);
        say(&format!("{messages} messages of {} bytes, {rounds} rounds, medians", BODY.len()));
        say(&format!("welcome, record = none {none:.0}/s, matched {matched:.0}/s: {:.2}", matched / none));
        say(&format!("no rule matches, record = none {passed:.0}/s, all {all:.0}/s: {:.2}", all / passed));
        Ok(())
    }

    /// 1,000 messages at 200 a second: publish → start of the function → settled.
    async fn latency(&self) -> Result<()> {
        self.stream("LATENCY", "LATENCY.>").await?;
        let node = self.node("welcome", "LATENCY", "none").await?;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        for n in 0..1_200 {
            tick.tick().await;
            self.publish("LATENCY", n).await?.await?;
        }
        self.wait_for(1_200).await?;
        // The id of a delivery begins with the time at which the server stored the message, in milliseconds.
        let percentiles: Vec<(String, f64, f64)> = sqlx::query_as(
            "with times as (
                 select to_timestamp(('x' || left(replace(delivery_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) as stored,
                        started_at, settled_at from oncue.ledger order by settled_at offset 200)
             select 'publish → start', percentile_cont(0.5) within group (order by extract(epoch from started_at - stored) * 1000)::float8,
                    percentile_cont(0.99) within group (order by extract(epoch from started_at - stored) * 1000)::float8 from times
             union all
             select 'publish → settled', percentile_cont(0.5) within group (order by extract(epoch from settled_at - stored) * 1000)::float8,
                    percentile_cont(0.99) within group (order by extract(epoch from settled_at - stored) * 1000)::float8 from times",
        )
        .fetch_all(&mut PgConnection::connect(self.postgres.url()).await?)
        .await?;
        for (what, p50, p99) in percentiles {
            say(&format!("{what}: p50 {p50:.1} ms, p99 {p99:.1} ms (±1 ms: the server's time has milliseconds)"));
        }
        self.end(node, "LATENCY").await
    }
}

/// The private Postgres may run as another user, who must be able to enter.
fn allow_entry(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
