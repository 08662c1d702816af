//! Rows per second of a backlog, however it is drained.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use oncue::triggers::postgres::pgoutput::{Message, Value, decode};
use pgwire_replication::ReplicationEvent;

use crate::server::Server;
use crate::{median, say};

/// Rows of a transaction.
const TRANSACTION: usize = 10_000;
/// Rows of a group of the program that inserts: as many as the node settles at once.
const GROUP: usize = 1_000;

/// How a backlog is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `pg_recvlogical`.
    Receiver,
    /// A program that decodes each row.
    Decode,
    /// The same, which inserts one row for each in groups: what any durable record of each row costs at least.
    Insert,
    /// The node without a rule for the rows.
    NoRule,
    /// The node with one rule that matches all, and an empty function.
    OneRule,
    /// The node with 1,000 rules of which none matches, told by the type of the event alone.
    ByType,
    /// The same, told by a value in the data alone.
    ByValue,
    /// The same, half of them in each way.
    Mixed,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Receiver,
        Self::Decode,
        Self::Insert,
        Self::NoRule,
        Self::OneRule,
        Self::ByType,
        Self::ByValue,
        Self::Mixed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Receiver => "pg_recvlogical",
            Self::Decode => "decode",
            Self::Insert => "decode+insert",
            Self::NoRule => "no-rule",
            Self::OneRule => "one-rule",
            Self::ByType => "1000-by-type",
            Self::ByValue => "1000-by-value",
            Self::Mixed => "1000-mixed",
        }
    }

    /// What part of `pg_recvlogical`'s rate it should reach.
    fn aim(self) -> Option<f64> {
        match self {
            Self::Receiver | Self::Decode | Self::Insert => None,
            Self::NoRule => Some(0.8),
            Self::OneRule => Some(0.5),
            Self::ByType | Self::ByValue | Self::Mixed => Some(0.75),
        }
    }

    /// The rules that it needs besides the one on markers.
    pub fn rules(self) -> String {
        let by_type = |count: u32| {
            format!(
                r#"insert into oncue.rules (name, pattern, run) select 'type-' || n,
                   format('{{"type": ["postgres.public.other%s.insert"]}}', n)::json, 'empty' from generate_series(1, {count}) n;"#
            )
        };
        let by_value = |count: u32| {
            format!(
                r#"insert into oncue.rules (name, pattern, run) select 'value-' || n,
                   format('{{"type": ["postgres.public.load.insert"], "data": {{"after": {{"email": ["nobody.%s@example.com"]}}}}}}', n)::json,
                   'empty' from generate_series(1, {count}) n;"#
            )
        };
        match self {
            Self::OneRule => r#"insert into oncue.rules (name, pattern, run)
                values ('load', '{"type": ["postgres.public.load.insert"]}', 'empty')"#
                .to_owned(),
            Self::ByType => by_type(1_000),
            Self::ByValue => by_value(1_000),
            Self::Mixed => by_type(500) + &by_value(500),
            Self::Receiver | Self::Decode | Self::Insert | Self::NoRule => String::new(),
        }
    }
}

/// What a drain took.
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    /// Of the node's process.
    processor_seconds: Option<f64>,
}

/// The backlog: what was inserted between two markers.
struct Backlog<'a> {
    server: &'a Server,
    rows: usize,
    /// Where it ends in the log.
    end: String,
}

/// Drains the same `rows` rows in each of `kinds`, `rounds` times, turn by turn.
pub async fn measure(server: &Server, kinds: &[Kind], rows: usize, rounds: usize) -> Result<()> {
    let slot = |kind: Kind, round: usize| format!("drain_{}_{round}", kind as u8);
    for round in 0..rounds {
        for kind in kinds {
            server.slot(&slot(*kind, round)).await?;
        }
    }
    let backlog = Backlog::load(server, rows).await?;
    say(&format!("drain: {rows} rows of 7 columns in transactions of {TRANSACTION}, {rounds} rounds, medians"));
    let mut figures = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        let mut line = Vec::new();
        // Alternating: what the server does meanwhile (checkpoints, vacuum) hits all of them.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..kinds.len()).collect() } else { (0..kinds.len()).rev().collect() };
        for at in order {
            let name = slot(kinds[at], round);
            let took = backlog.drain(kinds[at], &name).await.with_context(|| kinds[at].name().to_owned())?;
            server.drop_slot(&name).await?;
            line.push(format!("{} {:.0}/s", kinds[at].name(), rows as f64 / took.seconds));
            figures[at].push(took);
        }
        say(&format!("round {}: {}", round + 1, line.join(", ")));
    }
    let seconds = |took: &[Took]| median(took.iter().map(|took| took.seconds).collect());
    let floor = kinds.iter().position(|kind| *kind == Kind::Receiver).map(|at| seconds(&figures[at]));
    for (kind, took) in kinds.iter().zip(&figures) {
        let mut line = format!("{:15} {:8.0} rows/s", kind.name(), rows as f64 / seconds(took));
        if let Some(floor) = floor {
            line += &format!("  {:.2} of pg_recvlogical", floor / seconds(took));
        }
        if let Some(aim) = kind.aim() {
            line += &format!(" (aim: {aim})");
        }
        let processor: Option<Vec<f64>> = took.iter().map(|took| took.processor_seconds).collect();
        if let Some(processor) = processor {
            line += &format!("  {:.2} µs of the node's processor time a row", median(processor) / rows as f64 * 1e6);
        }
        say(&line);
    }
    Ok(())
}

impl<'a> Backlog<'a> {
    async fn load(server: &'a Server, rows: usize) -> Result<Self> {
        server.mark().await?;
        for begin in (0..rows).step_by(TRANSACTION) {
            server.insert(TRANSACTION.min(rows - begin)).await?;
        }
        server.mark().await?;
        let mut sql = server.connect().await?;
        let end = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(&mut sql).await?;
        // Something behind it, so that its end is seen by whoever reads up to there.
        server.mark().await?;
        Ok(Self { server, rows, end })
    }

    async fn drain(&self, kind: Kind, slot: &str) -> Result<Took> {
        match kind {
            Kind::Receiver => self.receive(slot).await,
            Kind::Decode => self.decode(slot, false).await,
            Kind::Insert => self.decode(slot, true).await,
            Kind::NoRule | Kind::OneRule | Kind::ByType | Kind::ByValue | Kind::Mixed => self.node(kind, slot).await,
        }
    }

    async fn receive(&self, slot: &str) -> Result<Took> {
        let began = Instant::now();
        let status = tokio::process::Command::from(self.server.receiver(slot, &self.end)).status().await?;
        ensure!(status.success(), "pg_recvlogical ended with {status}");
        Ok(Took { seconds: began.elapsed().as_secs_f64(), processor_seconds: None })
    }

    /// The hand-written program: one task that reads, and inserts between two reads.
    async fn decode(&self, slot: &str, insert: bool) -> Result<Took> {
        let mut sql = self.server.connect().await?;
        sqlx::raw_sql("drop table if exists floor; create table floor (id text primary key, body bytea not null)")
            .execute(&mut sql)
            .await?;
        let began = Instant::now();
        let mut client = self.server.replication(slot).await?;
        let (mut ids, mut bodies) = (Vec::with_capacity(GROUP), Vec::with_capacity(GROUP));
        let mut done = 0;
        while done < self.rows {
            let event = client.recv().await?.context("the stream ended")?;
            let ReplicationEvent::XLogData { data, .. } = event else { continue };
            let Message::Insert { new, .. } = decode(&data)? else { continue };
            // The marker has one column.
            if new.len() == 1 {
                continue;
            }
            done += 1;
            if insert {
                let Some(Value::Text(id)) = new.values().next() else { continue };
                ids.push(String::from_utf8_lossy(id).into_owned());
                bodies.push(data.slice(8..));
                if ids.len() == GROUP || done == self.rows {
                    let body: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
                    sqlx::query("insert into floor select * from unnest($1::text[], $2::bytea[])")
                        .bind(&ids)
                        .bind(body)
                        .execute(&mut sql)
                        .await?;
                    ids.clear();
                    bodies.clear();
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        client.shutdown().await?;
        Ok(Took { seconds, processor_seconds: None })
    }

    /// From the beginning of the node's connection to the start of the function for the marker behind the last row, and
    /// with a rule for the rows to the settlement of the last.
    async fn node(&self, kind: Kind, slot: &str) -> Result<Took> {
        let server = self.server;
        let node = server.node().await?;
        let processor = node.processor_seconds()?;
        server.feed(slot, &kind.rules()).await?;
        if kind == Kind::OneRule {
            server.wait_for_runs("load", self.rows).await?;
        }
        server.wait_for_runs("marker", 3).await?;
        let processor_seconds = Some(node.processor_seconds()? - processor);
        let began = format!("(select backend_start from pg_stat_replication where application_name = 'oncue-{slot}')");
        let ended = match kind {
            Kind::OneRule => "(select max(settled_at) from oncue.ledger where rule = 'load')",
            _ => "(select started_at from oncue.ledger where rule = 'marker' order by started_at offset 1 limit 1)",
        };
        let seconds = server.number(&format!("select extract(epoch from {ended} - {began})")).await?;
        node.stop().await?;
        server.forget().await?;
        Ok(Took { seconds, processor_seconds })
    }
}
