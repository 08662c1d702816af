//! Kafka, end to end: a node beside a hand-written consumer with the same durable effect, in one run.
//!
//! `cargo bench --bench kafka -- [RECORDS] [ROUNDS] [KEYS] [drain] [parallel] [slow-key]` starts a private Postgres (fsync on) and
//! a private broker (tansu in memory, from `scripts/kafka-broker`; with `KAFKA_BROKERS` the brokers at that address), and
//! prints medians of
//!   drain     records per second of a topic of 12 partitions and 1,000 keys (of one key, a record waits until the one before
//!             it is settled), from the first to the last settled
//!     floor         a consumer that inserts a row for each record in groups, and commits its offsets
//!     floor+output  the same, which also produces a record for each and waits until all of them are acknowledged
//!     floor+output+ledger  it produces and inserts what a node does: a CloudEvent with its headers; the ledger's row with its
//!                   indexes, and a log line
//!     oncue route   a rule without code: match, produce, settle, commit
//!     oncue welcome the welcome function, which emits one event: match, run, produce, settle, commit
//!   parallel  10,000 records of 200 keys in one partition and a function that sleeps 0 to 5 ms, with 16 permits: keys side
//!             by side, beside one record after another
//!   slow-key  1,000 fast records a second time, with a key among them whose records take 1 s each: the fast ones' rate
//! Without one of these words it does all three. Quote ratios from one run: the machine's load changes.

mod broker;
mod drain;
mod order;
mod server;

use anyhow::Result;

use self::server::Server;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes `--bench`; what is left are our own words.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let records = numbers.first().copied().unwrap_or(60_000);
    let rounds = numbers.get(1).copied().unwrap_or(3);
    let keys = numbers.get(2).copied().unwrap_or(1_000);
    let named: Vec<&str> = words.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();
    let wants = |part: &str| named.is_empty() || named.contains(&part);
    let server = Server::start().await?;
    if wants("drain") {
        drain::measure(&server, drain::Load { records, keys }, rounds).await?;
    }
    if wants("parallel") {
        order::parallel(&server, rounds).await?;
    }
    if wants("slow-key") {
        order::slow_key(&server, rounds).await?;
    }
    server.stop().await
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
