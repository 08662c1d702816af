//! How fast a topic is worked off: by a consumer written by hand, and by a node.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::timeout;

use crate::broker::settle;
use crate::server::Server;
use crate::{median, say};

const PARTITIONS: i32 = 12;
/// Records of one transaction and one commit of the hand-written consumer.
const GROUP: usize = 1_000;
/// Longest wait for a record.
const SILENCE: Duration = Duration::from_secs(60);
const BODY: &str = r#"{"email":"ada.lovelace@example.com","name":"Ada Lovelace","plan":"free","referrer":"a friend"}"#;

/// What is drained.
#[derive(Clone, Copy)]
pub struct Load {
    pub records: usize,
    pub keys: usize,
}

pub async fn measure(server: &Server, load: Load, rounds: usize) -> Result<()> {
    let Load { records, keys } = load;
    say(&format!("{records} records of {} bytes and {keys} keys, {rounds} rounds, medians", BODY.len()));
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..rounds {
        figures[0].push(floor(server, &format!("floor{round}"), load, false).await?);
        figures[1].push(floor(server, &format!("floor-output{round}"), load, true).await?);
        figures[2].push(oncue(server, &format!("route{round}"), load, ("publish", "k/mail.welcome")).await?);
        figures[3].push(oncue(server, &format!("welcome{round}"), load, ("run", "welcome")).await?);
        say(&format!("round {}: {}", round + 1, line(&figures.each_ref().map(|f| f[round]))));
    }
    let [floor, floor_output, route, welcome] = figures.map(median);
    say(&format!("median:  {}", line(&[floor, floor_output, route, welcome])));
    say(&format!("oncue route   / floor+output = {:.2}", route / floor_output));
    say(&format!("oncue welcome / floor+output = {:.2}", welcome / floor_output));
    say(&format!("oncue welcome / floor        = {:.2}", welcome / floor));
    Ok(())
}

fn line(figures: &[f64; 4]) -> String {
    let [a, b, c, d] = figures;
    format!("floor {a:.0}/s, floor+output {b:.0}/s, oncue route {c:.0}/s, oncue welcome {d:.0}/s")
}

/// A topic of its own with so many records.
async fn fill(server: &Server, topic: &str, Load { records, keys }: Load) -> Result<()> {
    server.broker.create_topic(topic, PARTITIONS).await?;
    server.broker.fill(topic, (0..records).map(|n| (format!("user-{}", n % keys), BODY.to_owned()))).await
}

/// The hand-written consumer: records per second from the first one to the last commit.
async fn floor(server: &Server, topic: &str, load: Load, with_output: bool) -> Result<f64> {
    fill(server, topic, load).await?;
    let records = load.records;
    let mut config = server.broker.config();
    config.set("group.id", topic).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    let consumer: StreamConsumer = config.create()?;
    let producer = server.broker.producer()?;
    consumer.subscribe(&[topic])?;
    let mut sql = server.connect().await?;
    sqlx::query("truncate floor").execute(&mut sql).await?;
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
        if with_output {
            output(&producer, &ids, &bodies).await?;
        }
        sqlx::query("insert into floor select * from unnest($1::text[], $2::bytea[])")
            .bind(ids)
            .bind(bodies)
            .execute(&mut sql)
            .await?;
        done += chunk.len();
        let last = if done < records { CommitMode::Async } else { CommitMode::Sync };
        consumer.commit(&consumer.position()?, last)?;
    }
    Ok(records as f64 / began.map_or(Duration::ZERO, |began| began.elapsed()).as_secs_f64())
}

/// A record for each, with an id, all acknowledged by all replicas.
async fn output(producer: &FutureProducer, ids: &[String], bodies: &[&[u8]]) -> Result<()> {
    let mut waiting = VecDeque::with_capacity(ids.len());
    for (id, body) in ids.iter().zip(bodies) {
        let header = rdkafka::message::Header { key: "id", value: Some(id) };
        let headers = OwnedHeaders::new_with_capacity(1).insert(header);
        let record = FutureRecord::to("mail.welcome").key(id).payload(*body).headers(headers);
        waiting.push_back(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    settle(&mut waiting).await
}

/// A node: records per second from the start of the first run to the last settlement, read off the ledger.
async fn oncue(server: &Server, topic: &str, load: Load, target: (&str, &str)) -> Result<f64> {
    fill(server, topic, load).await?;
    let node = server.node(topic, "key", target, 256).await?;
    server.wait_for(load.records).await?;
    let seconds = server.seconds("true").await?;
    server.end(node).await?;
    Ok(load.records as f64 / seconds)
}
