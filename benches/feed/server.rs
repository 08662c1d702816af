//! The private Postgres, what is in it, and the node as a child process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oncue::dev::servers::{Overrides, PostgresConfig, PrivatePostgres, find_postgres};
use oncue::store::{Config, Store};
use pgwire_replication::{ReplicationClient, ReplicationConfig, TlsConfig};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::{Child, Command};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

use crate::BUS;

/// Publication of the tables.
pub const PUBLICATION: &str = "bench";

/// Most that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(900);

/// Rows of 7 columns, and a table whose rows mark where a load begins and ends.
const TABLES: &str = "
    create table load (id bigint primary key, email text not null, name text, balance numeric, created_at timestamptz,
        meta jsonb, active bool);
    create table marker (id bigint primary key generated always as identity);
    create publication bench for table load, marker;";

/// Says ok and emits nothing.
const EMPTY: &str = r#"(module
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 8192))
  (func (export "cabi_realloc") (param $old i32) (param $oldlen i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $len)))
    (local.get $at))
  (func (export "oncue:function/handler@0.1.0#handle") (param $event i32) (result i32)
    (i32.store (i32.const 1032) (i32.const 2048))
    (i32.const 1024)))"#;

/// The server, with the tables and the function `empty`.
pub struct Server {
    postgres: PrivatePostgres,
    bin: PathBuf,
    home: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("oncue-feed").tempdir()?;
        allow_entry(home.path())?;
        let bin = find_postgres(&Overrides::default())?;
        // Slots keep what they have not read until their turn comes.
        let settings = [("max_replication_slots", "100"), ("max_slot_wal_keep_size", "100GB"), ("max_wal_size", "4GB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let config = PostgresConfig { settings, ..PostgresConfig::new(bin.clone(), home.path().join("pg")) };
        let postgres = PrivatePostgres::start(config).await?;
        let store = Store::connect_lazy(&Config::new(postgres.url()))?;
        store.migrate().await?;
        store.close().await;
        let server = Self { postgres, bin, home };
        server.sql(TABLES).await?;
        server.deploy().await?;
        Ok(server)
    }

    pub async fn stop(self) {
        self.postgres.stop().await;
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(self.postgres.url()).await?)
    }

    pub async fn sql(&self, statements: &str) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await?;
        Ok(())
    }

    /// The number that a query gives.
    pub async fn number(&self, query: &str) -> Result<f64> {
        let text = format!("select ({query})::float8");
        let number: Option<f64> = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut self.connect().await?).await?;
        number.with_context(|| format!("{query} gave null"))
    }

    /// Asks until `query` gives at least `enough`. Seldom and over one connection: looking must not cost.
    pub async fn wait_for(&self, query: &str, enough: f64) -> Result<()> {
        let mut connection = self.connect().await?;
        let text = format!("select coalesce(({query})::float8, 0)");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let number: f64 = sqlx::query_scalar(AssertSqlSafe(text.clone())).fetch_one(&mut connection).await?;
            if number >= enough {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{query} is {number}, not {enough}, after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn deploy(&self) -> Result<()> {
        let mut sql = self.connect().await?;
        let mut tx = sql.begin().await?;
        let insert = "insert into oncue.components (digest, bytes) values (sha256($1), $1)";
        let component = component(EMPTY)?;
        sqlx::query(insert).bind(&component).execute(&mut *tx).await?;
        let insert = "insert into oncue.functions (name, current_version) values ('empty', 1)";
        sqlx::query(insert).execute(&mut *tx).await?;
        let insert = "insert into oncue.function_versions (function, version, digest, spec) values ('empty', 1, sha256($1), '{}')";
        sqlx::query(insert).bind(&component).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn slot(&self, name: &str) -> Result<()> {
        self.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')")).await
    }

    pub async fn drop_slot(&self, name: &str) -> Result<()> {
        // Its connection may take a moment to end.
        self.wait_for(
            &format!("select count(*) from pg_replication_slots where slot_name = '{name}' and not active"),
            1.0,
        )
        .await?;
        self.sql(&format!("select pg_drop_replication_slot('{name}')")).await
    }

    /// Inserts `rows` rows after those that are there.
    pub async fn insert(&self, rows: usize) -> Result<()> {
        let insert = "
            insert into load select n, 'someone.somewhere.' || n || '@example.com', 'Someone Somewhere', n % 10000 / 100.0,
                now(), '{\"plan\": \"free\", \"tags\": [\"a\", \"b\"]}', n % 2 = 0
            from generate_series((select coalesce(max(id), 0) + 1 from load),
                                 (select coalesce(max(id), 0) + $1 from load)) n";
        sqlx::query(insert).bind(i64::try_from(rows)?).execute(&mut self.connect().await?).await?;
        Ok(())
    }

    /// Inserts a row that tells that everything before it was read.
    pub async fn mark(&self) -> Result<()> {
        self.sql("insert into marker default values").await
    }

    /// Adds the feed `name` on the slot of that name, with a rule on markers and what `rules` adds, in one transaction.
    pub async fn feed(&self, name: &str, rules: &str) -> Result<()> {
        self.sql(&format!(
            r#"begin;
               insert into oncue.triggers (name, bus, kind, spec) values ('{name}', '{BUS}', 'postgres',
                   '{{"tables": ["public.load", "public.marker"], "slot": "{name}", "publication": "{PUBLICATION}"}}');
               insert into oncue.rules (name, pattern, run)
                   values ('marker', '{{"type": ["postgres.public.marker.insert"]}}', 'empty');
               {rules};
               commit"#
        ))
        .await
    }

    /// Waits until the node has run the function for `runs` events of the rule.
    pub async fn wait_for_runs(&self, rule: &str, runs: usize) -> Result<()> {
        let query = format!("select sum(runs - failed) from oncue.usage where rule = '{rule}'");
        self.wait_for(&query, runs as f64).await
    }

    /// Forgets all feeds, their rules and what was settled.
    pub async fn forget(&self) -> Result<()> {
        self.sql(
            "delete from oncue.rules; delete from oncue.triggers;
             truncate oncue.ledger, oncue.usage, oncue.logs, oncue.unmatched",
        )
        .await
    }

    /// Starts a node and waits until it could read.
    pub async fn node(&self) -> Result<Node> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node").arg(self.postgres.url()).arg(self.home.path().join("components"));
        let child = command.stdin(Stdio::piped()).kill_on_drop(true).spawn()?;
        let running = "select count(*) from oncue.nodes where node = 'bench' and state = 'running'";
        self.wait_for(running, 1.0).await?;
        Ok(Node { child })
    }

    /// `pg_recvlogical` on `slot` until `end`.
    pub fn receiver(&self, slot: &str, end: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.bin.join("pg_recvlogical"));
        let port = self.postgres.port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres", "--no-loop", "--start"]);
        command.args(["--slot", slot, "--endpos", end, "-P", "pgoutput", "-f", "/dev/null", "-o", "proto_version=1"]);
        command.arg("-o").arg(format!("publication_names={PUBLICATION}")).args(["-o", "messages=true"]);
        command
    }

    /// What a hand-written program reads `slot` with.
    pub async fn replication(&self, slot: &str) -> Result<ReplicationClient> {
        let mut config = ReplicationConfig::new("127.0.0.1", "postgres", "", "postgres", slot, PUBLICATION);
        config.port = self.postgres.port();
        config.tls = TlsConfig::default();
        config.buffer_events = 512;
        let mut client = ReplicationClient::connect(config).await?;
        client.wait_started().await?;
        Ok(client)
    }
}

/// A node in a process of its own.
pub struct Node {
    child: Child,
}

impl Node {
    /// Ends it in good order.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<PathBuf> {
        Ok(Path::new("/proc").join(self.child.id().context("the node has ended")?.to_string()).join(file))
    }

    /// User and system time so far, from the 14th and 15th field of `stat` (proc(5)), in ticks of 10 ms.
    pub fn processor_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(self.proc("stat")?)?;
        let fields: Vec<&str> = stat.rsplit(')').next().context("stat has a name")?.split_whitespace().collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat is short")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// Kilobytes that `status` says under `name`.
    pub fn kilobytes(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(self.proc("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line in status")?;
        Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
    }

    /// Begins anew to watch for the most memory.
    pub fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(self.proc("clear_refs")?, "5")?)
    }
}

/// The component of a core module.
fn component(text: &str) -> Result<Vec<u8>> {
    let mut core = wat::parse_str(text)?;
    let DecodedWasm::Component(mut resolve, _) = wit_component::decode(&wat::parse_str("(component)")?)? else {
        anyhow::bail!("an empty component decodes");
    };
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/functions/wit"))?;
    let world = resolve.select_world(&[package], Some("function"))?;
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&core)?.encode()
}

/// The private Postgres may run as another user, who must be able to enter.
fn allow_entry(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
