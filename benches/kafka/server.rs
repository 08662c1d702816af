//! The private Postgres, the functions in it, and the node.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oncue::bus::BusConfig;
use oncue::dev::servers::{Overrides, PostgresConfig, PrivatePostgres, find_postgres};
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig};
use oncue::store::{Config, Store};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

use crate::broker::Broker;

/// Most that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sleeps as many milliseconds as the four digits at the beginning of its event's data say, and emits nothing.
const SLEEPER: &str = r#"(module
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 8192))
  (func (export "cabi_realloc") (param $old i32) (param $oldlen i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (local.get $at))
  (func $digit (param $at i32) (result i64)
    (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
  (func (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32)
    (local $data i32) (local $ms i64) (local $n i32)
    (local.set $data (i32.load offset=76 (local.get $event)))
    (loop $digits
      (local.set $ms (i64.add (i64.mul (local.get $ms) (i64.const 10))
        (call $digit (i32.add (local.get $data) (local.get $n)))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $digits (i32.lt_u (local.get $n) (i32.const 4))))
    (if (i64.gt_u (local.get $ms) (i64.const 0)) (then
      (call $block (call $timer (i64.mul (local.get $ms) (i64.const 1000000))))))
    (i32.store (i32.const 1032) (i32.const 2048))
    (i32.const 1024)))"#;

/// The part of WASI that it uses.
const WASI: &str = r#"
package bench:sleeper;
world sleeper {
  include oncue:function/function@0.1.0;
  import wasi:clocks/monotonic-clock@0.2.0;
}
package wasi:io@0.2.0 {
  interface poll { resource pollable { block: func(); } }
}
package wasi:clocks@0.2.0 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
  }
}
"#;

/// Postgres, brokers, and what is in them.
pub struct Server {
    postgres: PrivatePostgres,
    pub broker: Broker,
    home: tempfile::TempDir,
}

/// A node in this process.
pub struct Node {
    drain: Drain,
    task: JoinHandle<Result<()>>,
}

impl Server {
    pub async fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("oncue-kafka").tempdir()?;
        allow_entry(home.path())?;
        let bin = find_postgres(&Overrides::default())?;
        let postgres = PrivatePostgres::start(PostgresConfig::new(bin, home.path().join("pg"))).await?;
        let broker = Broker::start(home.path()).await?;
        let store = Store::connect_lazy(&Config::new(postgres.url()))?;
        store.migrate().await?;
        store.close().await;
        let server = Self { postgres, broker, home };
        server.sql("create table floor (id text primary key, body bytea not null)").await?;
        let copies = "create table floor_ledger (like oncue.ledger including all);
            create table floor_logs (like oncue.logs including all)";
        server.sql(copies).await?;
        let welcome = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/welcome/welcome.wasm");
        let welcome = std::fs::read(welcome).context("functions/welcome/welcome.wasm")?;
        server.deploy("welcome", &welcome, &json!({ "grants": { "publish": ["k/mail.*"] } })).await?;
        let limits = json!({ "limits": { "timeout_ms": 60_000, "concurrency": 10_000 } });
        server.deploy("sleeper", &component(SLEEPER)?, &limits).await?;
        server.broker.create_topic("mail.welcome", 12).await?;
        Ok(server)
    }

    pub async fn stop(self) -> Result<()> {
        self.postgres.stop().await;
        Ok(())
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(self.postgres.url()).await?)
    }

    pub async fn sql(&self, statements: &str) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut self.connect().await?).await?;
        Ok(())
    }

    /// The number that a query gives.
    pub async fn number(&self, query: &str) -> Result<f64> {
        let text = format!("select ({query})::float8");
        let number: Option<f64> = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut self.connect().await?).await?;
        number.with_context(|| format!("{query} gave null"))
    }

    async fn deploy(&self, name: &str, component: &[u8], spec: &Value) -> Result<()> {
        let mut sql = self.connect().await?;
        let mut tx = sql.begin().await?;
        let insert = "insert into oncue.components (digest, bytes) values (sha256($1), $1)";
        sqlx::query(insert).bind(component).execute(&mut *tx).await?;
        let insert = "insert into oncue.functions (name, current_version) values ($1, 1)";
        sqlx::query(insert).bind(name).execute(&mut *tx).await?;
        let insert =
            "insert into oncue.function_versions (function, version, digest, spec) values ($1, 1, sha256($2), $3)";
        sqlx::query(insert).bind(name).bind(component).bind(spec).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Adds a trigger on `topic` for `group` with `ordered`, and a rule whose column `target` is `value`; starts a node with so
    /// many permits.
    pub async fn node(
        &self,
        (topic, group): (&str, &str),
        ordered: &str,
        target: (&str, &str),
        permits: u32,
    ) -> Result<Node> {
        let spec = json!({ "topics": [topic], "group": group, "start": "earliest", "ordered": ordered });
        let mut sql = self.connect().await?;
        let insert = "insert into oncue.triggers (name, bus, kind, spec) values ('bench', 'k', 'kafka', $1)";
        sqlx::query(insert).bind(spec).execute(&mut sql).await?;
        let (column, value) = target;
        let insert = format!(
            "insert into oncue.rules (name, trigger, pattern, {column}) values ('bench', 'bench', '{{\"type\":[\"{topic}\"]}}', $1)"
        );
        sqlx::query(AssertSqlSafe(insert)).bind(value).execute(&mut sql).await?;
        let mut config = NodeConfig::new("bench", self.postgres.url());
        config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
        config.buses.insert("k".to_owned(), BusConfig::kafka(self.broker.servers()));
        config.concurrency = permits;
        config.runtime.cache_dir = Some(self.home.path().join("components"));
        let drain = Drain::new();
        // The benchmark awaits the node itself: it is no part of one.
        #[allow(clippy::disallowed_methods)]
        let task = tokio::spawn(node::run(config, drain.clone(), None));
        Ok(Node { drain, task })
    }

    /// Waits until so many deliveries are done. Looks seldom and over one connection: looking must not cost.
    pub async fn wait_for(&self, records: usize) -> Result<()> {
        let mut sql = self.connect().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done: i64 = sqlx::query_scalar("select coalesce(sum(runs - failed), 0)::bigint from oncue.usage")
                .fetch_one(&mut sql)
                .await?;
            if done >= i64::try_from(records)? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{done} of {records} done after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Seconds from the start of the first run to the last settlement, of events with that condition.
    pub async fn seconds(&self, condition: &str) -> Result<f64> {
        let query =
            format!("select extract(epoch from max(settled_at) - min(started_at)) from oncue.ledger where {condition}");
        self.number(&query).await
    }

    /// Drains the node and forgets trigger, rule and ledger.
    pub async fn end(&self, node: Node) -> Result<()> {
        node.drain.stop_reading();
        node.task.await??;
        self.sql("delete from oncue.rules; delete from oncue.triggers; truncate oncue.ledger, oncue.usage, oncue.logs")
            .await
    }
}

/// The component of a core module.
fn component(text: &str) -> Result<Vec<u8>> {
    let mut core = wat::parse_str(text)?;
    let DecodedWasm::Component(mut resolve, _) = wit_component::decode(&wat::parse_str("(component)")?)? else {
        anyhow::bail!("an empty component decodes");
    };
    resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/functions/wit"))?;
    let package = resolve.push_str("sleeper.wit", WASI)?;
    let world = resolve.select_world(&[package], Some("sleeper"))?;
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&core)?.encode()
}

/// The private Postgres may run as another user, who must be able to enter.
fn allow_entry(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
