//! A node that has nothing to do: queries to Postgres and share of a core over a minute, with two rules.
//!
//! `cargo bench --bench idle -- [SECONDS]`. Statements are counted in the server's log; processor time is that of this
//! process, the node and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use oncue::bus::BusConfig;
use oncue::dev::servers::{
    NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, find_nats_server, find_postgres,
};
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig};
use oncue::store::{Config, Store};
use sqlx::{Connection as _, PgConnection};

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(60_u64);
    let overrides = Overrides::default();
    let home = tempfile::Builder::new().prefix("oncue-idle").tempdir()?;
    allow_entry(home.path())?;
    let postgres =
        PrivatePostgres::start(PostgresConfig::new(find_postgres(&overrides)?, home.path().join("pg"))).await?;
    let nats = PrivateNats::start(NatsConfig::new(find_nats_server(&overrides)?, home.path().join("nats"))).await?;
    let store = Store::connect_lazy(&Config::new(postgres.url()))?;
    store.migrate().await?;
    store.close().await;
    let mut sql = PgConnection::connect(postgres.url()).await?;
    sqlx::raw_sql(
        r#"insert into oncue.triggers (name, bus, kind, spec) values
               ('idle', 'events', 'jetstream', '{"stream": "IDLE", "subjects": ["idle.>"], "create_stream": true}');
           insert into oncue.rules (name, trigger, pattern, publish) values
               ('one', 'idle', '{"type": ["a"]}', 'events/idle.out'), ('two', 'idle', '{"type": ["b"]}', 'events/idle.out');"#,
    )
    .execute(&mut sql)
    .await?;
    let mut config = NodeConfig::new("idle", postgres.url());
    config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
    config.buses.insert("events".to_owned(), BusConfig::nats(nats.url()));
    let drain = Drain::new();
    // The benchmark awaits the node itself: it is no part of one.
    #[allow(clippy::disallowed_methods)]
    let node = tokio::spawn(node::run(config, drain.clone(), None));
    tokio::time::sleep(Duration::from_secs(5)).await;
    for setting in ["log_line_prefix = '%a '", "log_min_duration_statement = 0"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("alter system set {setting}"))).execute(&mut sql).await?;
    }
    sqlx::query("select pg_reload_conf()").execute(&mut sql).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = (statements(&postgres.log())?, processor_seconds()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = (statements(&postgres.log())?, processor_seconds()?);
    let rate = (after.0 - before.0) as f64 / seconds as f64;
    say(&format!("statements per second: {rate:.2} (aim: under 1)"));
    say(&format!("share of a core: {:.2} % (aim: under 1 %)", (after.1 - before.1) / seconds as f64 * 100.0));
    drain.stop_reading();
    node.await??;
    drop(sql);
    nats.stop().await;
    postgres.stop().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

/// Statements of the node in the server's log so far.
fn statements(log: &Path) -> Result<usize> {
    let run = |line: &&str| line.starts_with("oncue ") && (line.contains(" execute ") || line.contains(" statement: "));
    Ok(std::fs::read_to_string(log)?.lines().filter(run).count())
}

/// User and system time of this process, from the 14th and 15th field of its `stat` (proc(5)), in ticks of 10 ms.
fn processor_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat has a name")?.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// The private Postgres may run as another user, who must be able to enter.
fn allow_entry(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
