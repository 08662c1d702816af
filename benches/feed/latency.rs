//! Insert → function started, beside a program that decodes a second slot of the same publication.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oncue::triggers::postgres::pgoutput::{Message, decode};
use pgwire_replication::ReplicationEvent;
use sqlx::Connection as _;
use time::OffsetDateTime;

use crate::drain::Kind;
use crate::say;
use crate::server::Server;

/// Commits before those that count.
const WARM_UP: usize = 200;
const COMMITS: usize = 1_000;
/// Time between two commits.
const PACE: Duration = Duration::from_millis(5);

/// Commits single rows at a low rate, and prints how long the function and the program waited for each.
pub async fn measure(server: &Server) -> Result<()> {
    server.slot("node").await?;
    server.slot("program").await?;
    let node = server.node().await?;
    server.feed("node", &Kind::OneRule.rules()).await?;
    server.mark().await?;
    server.wait_for_runs("marker", 1).await?;
    let (committed, decoded) = tokio::try_join!(commit(server), follow(server))?;
    server.wait_for_runs("load", WARM_UP + COMMITS).await?;
    // In the order of the commits: an event's id has the position of its transaction's commit in the middle.
    let started: Vec<OffsetDateTime> = sqlx::query_scalar(
        "select started_at from oncue.ledger where rule = 'load' order by split_part(event_id, '-', 2)::pg_lsn",
    )
    .fetch_all(&mut server.connect().await?)
    .await?;
    say(&format!("latency: {COMMITS} commits of one row, one each {PACE:?}, from before the commit is sent"));
    let program = percentiles(&committed, &decoded)?;
    let node_took = percentiles(&committed, &started)?;
    for (what, (p50, p99)) in [("a program decodes", program), ("the function starts", node_took)] {
        say(&format!("{what:20} p50 {p50:.2} ms, p99 {p99:.2} ms"));
    }
    say(&format!("difference           p50 {:.2} ms (aim: p50 under 5 ms in all)", node_took.0 - program.0));
    node.stop().await?;
    server.forget().await?;
    server.drop_slot("node").await?;
    server.drop_slot("program").await?;
    server.sql("truncate load").await
}

/// When each commit was about to be sent.
async fn commit(server: &Server) -> Result<Vec<OffsetDateTime>> {
    let mut sql = server.connect().await?;
    let mut pace = tokio::time::interval(PACE);
    let mut committed = Vec::with_capacity(WARM_UP + COMMITS);
    for n in 0..WARM_UP + COMMITS {
        pace.tick().await;
        let mut tx = sql.begin().await?;
        sqlx::query(
            "insert into load values ($1, 'someone@example.com', 'Someone Somewhere', 12.34, now(), '{\"plan\": \"free\"}', true)",
        )
        .bind(i64::try_from(n)?)
        .execute(&mut *tx)
        .await?;
        committed.push(OffsetDateTime::now_utc());
        tx.commit().await?;
    }
    Ok(committed)
}

/// When a hand-written program had decoded each row.
async fn follow(server: &Server) -> Result<Vec<OffsetDateTime>> {
    let mut client = server.replication("program").await?;
    let mut decoded = Vec::with_capacity(WARM_UP + COMMITS);
    while decoded.len() < WARM_UP + COMMITS {
        let event = client.recv().await?.context("the stream ended")?;
        let ReplicationEvent::XLogData { data, .. } = event else { continue };
        // The marker has one column.
        if let Message::Insert { new, .. } = decode(&data)?
            && new.len() > 1
        {
            decoded.push(OffsetDateTime::now_utc());
        }
    }
    client.shutdown().await?;
    Ok(decoded)
}

/// Of what lies between two rows of times, in milliseconds.
fn percentiles(from: &[OffsetDateTime], to: &[OffsetDateTime]) -> Result<(f64, f64)> {
    ensure!(from.len() == to.len(), "{} commits and {} times", from.len(), to.len());
    let mut took: Vec<f64> =
        from.iter().zip(to).skip(WARM_UP).map(|(from, to)| (*to - *from).as_seconds_f64() * 1_000.0).collect();
    took.sort_by(f64::total_cmp);
    Ok((took[took.len() / 2], took[took.len() * 99 / 100]))
}
