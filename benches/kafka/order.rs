//! What order by key gives: keys side by side beside one record after another, and what a slow key costs the others.

use anyhow::Result;

use crate::server::Server;
use crate::{median, say};

const RECORDS: usize = 10_000;
const KEYS: usize = 200;
const PERMITS: u32 = 16;
/// Records of the second scenario without the slow ones.
const FAST: usize = 1_000;
/// One in so many is of the slow key.
const SLOW_EACH: usize = 100;

/// Seconds for 10,000 records of one partition, in the order of their keys and in the partition's.
pub async fn parallel(server: &Server, rounds: usize) -> Result<()> {
    let mut figures = [const { Vec::new() }; 2];
    for round in 0..rounds {
        for (ordered, figures) in ["key", "partition"].into_iter().zip(&mut figures) {
            let topic = format!("sleep-{ordered}{round}");
            let record = |n: usize| (format!("key {}", n % KEYS), format!("{:04}", n * 7 % 6));
            figures.push(run(server, &topic, ordered, RECORDS, (0..RECORDS).map(record), "true").await?);
        }
    }
    let [side_by_side, one_by_one] = figures.map(median);
    say(&format!("{RECORDS} records of {KEYS} keys, 0 to 5 ms each, {PERMITS} permits, one partition:"));
    say(&format!(
        "by key {side_by_side:.2} s, one after another {one_by_one:.2} s: {:.1} times",
        one_by_one / side_by_side
    ));
    Ok(())
}

/// The rate of 1,000 fast records, alone and with a slow key among them.
pub async fn slow_key(server: &Server, rounds: usize) -> Result<()> {
    let mut figures = [const { Vec::new() }; 2];
    let fast = |n: usize| (format!("key {}", n % KEYS), "0001".to_owned());
    for round in 0..rounds {
        let alone = format!("fast-alone{round}");
        figures[0].push(run(server, &alone, "key", FAST, (0..FAST).map(fast), "micros < 500000").await?);
        let mixed = (0..FAST).flat_map(|n| {
            let slow = n.is_multiple_of(SLOW_EACH).then(|| ("slow".to_owned(), "1000".to_owned()));
            slow.into_iter().chain([fast(n)])
        });
        let (all, topic) = (FAST + FAST / SLOW_EACH, format!("fast-and-slow{round}"));
        figures[1].push(run(server, &topic, "key", all, mixed, "micros < 500000").await?);
    }
    let [alone, mixed] = figures.map(|seconds| FAST as f64 / median(seconds));
    say(&format!(
        "{FAST} records of 1 ms, {KEYS} keys, {PERMITS} permits, one partition; then with 1 s for each of a slow key:"
    ));
    say(&format!("alone {alone:.0}/s, beside the slow key {mixed:.0}/s: {:.2} of it", mixed / alone));
    Ok(())
}

/// Seconds that events with that condition took.
async fn run(
    server: &Server,
    topic: &str,
    ordered: &str,
    count: usize,
    records: impl Iterator<Item = (String, String)>,
    condition: &str,
) -> Result<f64> {
    server.broker.create_topic(topic, 1).await?;
    server.broker.fill(topic, records).await?;
    let node = server.node((topic, topic), ordered, ("run", "sleeper"), PERMITS).await?;
    server.wait_for(count).await?;
    let seconds = server.seconds(condition).await?;
    server.end(node).await?;
    Ok(seconds)
}
