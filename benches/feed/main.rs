//! Change feeds: a node beside `pg_recvlogical` and beside hand-written programs on the same WAL, in one run.
//!
//! `cargo bench --bench feed -- [ROWS] [ROUNDS] [latency] [drain] [memory] [KIND…]` starts a private Postgres (fsync on)
//! and prints
//!   latency  insert → function started, over 1,000 commits of one row, beside a program that decodes a second slot
//!   drain    rows per second of transactions of 10,000 rows, each kind of drain on a slot of its own made before the
//!            load: `pg_recvlogical` to /dev/null; a program that decodes; one that decodes and inserts a row for each;
//!            the node without a rule, with one and an empty function, and with 1,000 of which none matches
//!   memory   the most that one transaction of as many rows adds to the node's resident memory
//! Without one of these words it does all three. The kinds of drain have names (`drain.rs`): with some, only they run.
//! The node is a process of its own, this program again. Quote ratios from one run: the machine's load changes.

mod drain;
mod latency;
mod memory;
mod server;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use oncue::bus::BusConfig;
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig};

use self::drain::Kind;
use self::server::Server;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The bus of the node.
const BUS: &str = "app";

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes `--bench`; what is left are our own words.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, url, cache] = &words[..]
        && word == "node"
    {
        return run_node(url, cache.into()).await;
    }
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let rows = numbers.first().copied().unwrap_or(100_000);
    let rounds = numbers.get(1).copied().unwrap_or(3);
    let named: Vec<&str> = words.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| named.contains(&kind.name())).collect();
    let wants = |part: &str| named.is_empty() || named.contains(&part);
    let server = Server::start().await?;
    if wants("latency") {
        latency::measure(&server).await?;
    }
    if wants("drain") || !kinds.is_empty() {
        let kinds = if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds };
        drain::measure(&server, &kinds, rows, rounds).await?;
    }
    if wants("memory") {
        memory::measure(&server, rows).await?;
    }
    server.stop().await;
    Ok(())
}

/// The node, in a process of its own until its standard input ends.
async fn run_node(url: &str, cache: PathBuf) -> Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(std::io::stderr).init();
    let mut config = NodeConfig::new("bench", url);
    config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
    config.buses.insert(BUS.to_owned(), BusConfig::postgres(url));
    config.runtime.cache_dir = Some(cache);
    let drain = Drain::new();
    let stop = drain.clone();
    drain.spawn_service("standard input", async move {
        // Its end is what is waited for, also when it cannot be read.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
        stop.stop_reading();
    });
    node::run(config, drain, None).await.context("the node")
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
