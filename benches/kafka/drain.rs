//! How fast a topic is worked off: by a consumer written by hand, and by a node.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::broker::settle;
use crate::server::Server;
use crate::{median, say};

/// The topic that every variant reads, each in a group of its own.
const TOPIC: &str = "work";
const PARTITIONS: i32 = 12;
/// Records of one transaction and one commit of the hand-written consumer.
const GROUP: usize = 1_000;
/// Longest wait for a record.
const SILENCE: Duration = Duration::from_secs(60);
const BODY: &str = r#"{"email":"ada.lovelace@example.com","name":"Ada Lovelace","plan":"free","referrer":"a friend"}"#;

/// The headers of what `welcome` emits, but for its id.
const ENVELOPE: &[(&str, &str)] = &[
    ("content-type", "application/json"),
    ("ce_specversion", "1.0"),
    ("ce_id", "01a2264e95b0810aa219bd484c62691e/0"),
    ("ce_source", "oncue/welcome"),
    ("ce_type", "mail.welcome"),
    ("ce_subject", "ada.lovelace@example.com"),
    ("ce_oncuehops", "1"),
    ("ce_oncuecause", "01a2264e-95b0-810a-a219-bd484c62691e"),
];

/// What is drained.
#[derive(Clone, Copy)]
pub struct Load {
    pub records: usize,
    pub keys: usize,
}

pub async fn measure(server: &Server, load: Load, rounds: usize) -> Result<()> {
    let Load { records, keys } = load;
    say(&format!("{records} records of {} bytes and {keys} keys, {rounds} rounds, medians", BODY.len()));
    fill(server, load).await?;
    let mut figures = [const { Vec::new() }; 5];
    for round in 0..rounds {
        figures[0].push(floor(server, &format!("floor{round}"), load, Effect::Row).await?);
        figures[1].push(floor(server, &format!("floor-output{round}"), load, Effect::Output).await?);
        figures[2].push(floor(server, &format!("floor-ledger{round}"), load, Effect::Ledger).await?);
        figures[3].push(oncue(server, &format!("route{round}"), load, ("publish", "k/mail.welcome")).await?);
        figures[4].push(oncue(server, &format!("welcome{round}"), load, ("run", "welcome")).await?);
        say(&format!("round {}: {}", round + 1, line(&figures.each_ref().map(|f| f[round]))));
    }
    let medians = figures.map(median);
    say(&format!("median:  {}", line(&medians)));
    let [_, output, ledger, route, welcome] = medians;
    say(&format!("oncue route   / floor+output        = {:.2}", route / output));
    say(&format!("oncue welcome / floor+output        = {:.2}", welcome / output));
    say(&format!("oncue welcome / floor+output+ledger = {:.2}", welcome / ledger));
    Ok(())
}

fn line(figures: &[f64; 5]) -> String {
    let [a, b, c, d, e] = figures;
    format!(
        "floor {a:.0}/s, floor+output {b:.0}/s, floor+output+ledger {c:.0}/s, oncue route {d:.0}/s, oncue welcome {e:.0}/s"
    )
}

async fn fill(server: &Server, Load { records, keys }: Load) -> Result<()> {
    server.broker.create_topic(TOPIC, PARTITIONS).await?;
    server.broker.fill(TOPIC, (0..records).map(|n| (format!("user-{}", n % keys), BODY.to_owned()))).await
}

/// What the hand-written consumer does with a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Inserts a row with its id and its value.
    Row,
    /// That, and it produces a record.
    Output,
    /// It produces and inserts what a node does: a record with the headers of a CloudEvent; the ledger's row, with all of its
    /// indexes, and a log line.
    Ledger,
}

/// The hand-written consumer: records per second from the first one to the last commit.
async fn floor(server: &Server, group: &str, Load { records, .. }: Load, effect: Effect) -> Result<f64> {
    let mut config = server.broker.config();
    config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    let consumer: StreamConsumer = config.create()?;
    let producer = server.broker.producer()?;
    consumer.subscribe(&[TOPIC])?;
    let mut sql = server.connect().await?;
    sqlx::raw_sql("truncate floor, floor_ledger, floor_logs").execute(&mut sql).await?;
    let mut stream = consumer.stream().ready_chunks(GROUP);
    let (mut began, mut done) = (None, 0);
    while done < records {
        let chunk = timeout(SILENCE, stream.next()).await;
        let chunk = chunk.with_context(|| format!("the hand-written consumer stands at {done} of {records}"))?;
        let chunk = chunk.context("the stream ended")?;
        // What a node is measured from, too: the group is joined and the first record is there.
        began.get_or_insert_with(Instant::now);
        let chunk: Vec<_> = chunk.into_iter().collect::<Result<_, _>>()?;
        let ids: Vec<String> = chunk.iter().map(|m| format!("{}/{}", m.partition(), m.offset())).collect();
        let bodies: Vec<&[u8]> = chunk.iter().map(|m| m.payload().unwrap_or_default()).collect();
        if effect != Effect::Row {
            output(&producer, &ids, &bodies, if effect == Effect::Ledger { ENVELOPE } else { &[] }).await?;
        }
        match effect {
            Effect::Row | Effect::Output => rows(&mut sql, &ids, &bodies).await?,
            Effect::Ledger => ledger(&mut sql, &ids, done).await?,
        }
        done += chunk.len();
        let last = if done < records { CommitMode::Async } else { CommitMode::Sync };
        consumer.commit(&consumer.position()?, last)?;
    }
    Ok(records as f64 / began.map_or(Duration::ZERO, |began| began.elapsed()).as_secs_f64())
}

async fn rows(sql: &mut PgConnection, ids: &[String], bodies: &[&[u8]]) -> Result<()> {
    let insert = "insert into floor select * from unnest($1::text[], $2::bytea[])";
    sqlx::query(insert).bind(ids).bind(bodies).execute(sql).await?;
    Ok(())
}

/// In one transaction. The keys ascend, as those of deliveries do.
async fn ledger(sql: &mut PgConnection, ids: &[String], done: usize) -> Result<()> {
    let keys: Vec<Uuid> = (done..).take(ids.len()).map(|n| Uuid::from_u128(n as u128)).collect();
    let mut tx = sql.begin().await?;
    let insert = "insert into floor_ledger select delivery, 1, event, 'bench', 'oncue/trigger/bench', 'bench', 'bench',
        'welcome', 1, 'ok', 'done', null, now(), 50, 1000, 1114112, 1, null, 'bench', now()
        from unnest($1::uuid[], $2::text[]) as t (delivery, event)";
    sqlx::query(insert).bind(&keys).bind(ids).execute(&mut *tx).await?;
    let insert = "insert into floor_logs select delivery, 1, 'welcome', $2, 0 from unnest($1::uuid[]) as t (delivery)";
    let lines = r#"[["info","welcome mail for ada.lovelace@example.com"]]"#;
    sqlx::query(insert).bind(&keys).bind(lines).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// A record for each, with an id and the headers of `envelope`, all acknowledged by all replicas.
async fn output(
    producer: &FutureProducer,
    ids: &[String],
    bodies: &[&[u8]],
    envelope: &[(&'static str, &'static str)],
) -> Result<()> {
    let mut waiting = VecDeque::with_capacity(ids.len());
    for (id, body) in ids.iter().zip(bodies) {
        let header = Header { key: "id", value: Some(id) };
        let headers = OwnedHeaders::new_with_capacity(1 + envelope.len()).insert(header);
        let headers =
            envelope.iter().fold(headers, |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::to("mail.welcome").key(id).payload(*body).headers(headers);
        waiting.push_back(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    settle(&mut waiting).await
}

/// A node: records per second from the start of the first run to the last settlement, read off the ledger.
async fn oncue(server: &Server, group: &str, load: Load, target: (&str, &str)) -> Result<f64> {
    let node = server.node((TOPIC, group), "key", target, 256).await?;
    server.wait_for(load.records).await?;
    let seconds = server.seconds("true").await?;
    server.end(node).await?;
    Ok(load.records as f64 / seconds)
}
