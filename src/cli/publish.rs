//! `oncue publish`: one event, or many, onto a bus.
//!
//! Invariant: a message counts as published when a stream or a topic has stored it (but for `--core`), or when its
//! transaction is committed. The payload goes out byte for byte as it was given; it is only read to see whether it is JSON.

mod batch;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use crate::bus::kafka::{self, KafkaBus};
use crate::bus::nats;
use crate::bus::postgres::PostgresBus;
use crate::bus::send::{self, Outgoing, SendError, Stored};
use crate::bus::{BusConfig, BusKind, Publishing};
use crate::event::subject;

use super::Context;
use super::arguments::key_value;

use self::batch::Batch;

/// Events of one transaction of a Postgres bus, and their bytes.
const TRANSACTION: (usize, usize) = (1_000, 4 << 20);

/// What may be typed after `oncue publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A subject of the only bus, or BUS/SUBJECT; of a Kafka bus BUS/TOPIC, of a Postgres bus BUS/TYPE
    topic: String,
    /// The payload: JSON, @FILE, or - for stdin
    #[arg(allow_hyphen_values = true)]
    payload: String,
    /// The event's type [default: the subject]
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
    /// The event's id; a stream stores an id once in its duplicate window [default: a random UUID]
    #[arg(long)]
    id: Option<String>,
    /// Where the event comes from
    #[arg(long, default_value = "oncue/cli")]
    source: String,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// An extension attribute; repeatable
    #[arg(long = "ext", value_name = "NAME=VALUE", value_parser = key_value)]
    extensions: Vec<(String, String)>,
    /// A message header; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = key_value)]
    headers: Vec<(String, String)>,
    /// The key of a Kafka record: one key, one partition, one order [default: `--subject`]
    #[arg(long)]
    key: Option<String>,
    /// Send the payload as it is, without CloudEvents headers
    #[arg(long, conflicts_with_all = ["ty", "source", "subject", "extensions"])]
    raw: bool,
    /// Publish by core NATS: at most once, nothing is stored
    #[arg(long)]
    core: bool,
    /// Publish this many; with more than one the ids end in -1, -2, …
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Each line of the payload is one event
    #[arg(long, conflicts_with_all = ["count", "raw"])]
    lines: bool,
}

/// What was published.
#[derive(Debug, Default, Serialize)]
struct Published {
    bus: String,
    subject: String,
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<u64>,
    stream: Option<String>,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    /// Where the last record of a topic is.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    count: u64,
    duplicates: u64,
    seconds: f64,
}

/// Publishes.
///
/// # Errors
/// A payload that is no JSON, no such bus, a server that is not there, a subject that no stream stores.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (bus, config, subject) = resolve(&args.topic, context)?;
    let batch = Batch::new(&args, &subject, config.kind)?;
    let mut published = Published { bus, subject, id: batch.id.clone(), ..Published::default() };
    let begin = Instant::now();
    match config.kind {
        BusKind::Nats => to_nats(&args, config, &batch, &mut published).await?,
        BusKind::Kafka => to_kafka(config, &batch, &mut published).await?,
        BusKind::Postgres => to_postgres(config, &batch, &mut published).await?,
    }
    published.seconds = begin.elapsed().as_secs_f64();
    context.output.one(&published, describe)?;
    Ok(ExitCode::SUCCESS)
}

async fn to_nats(args: &Args, config: &BusConfig, batch: &Batch, published: &mut Published) -> anyhow::Result<()> {
    let bus = nats::connect(&published.bus, config).await?;
    let messages = (1..=batch.total()).map(|n| batch.message(n));
    if args.core || config.publish == Publishing::Core {
        published.count = send::core(&bus, messages).await?;
        return Ok(());
    }
    let note = |_: &Outgoing, stored: Stored| {
        published.first_sequence.get_or_insert(stored.sequence);
        published.last_sequence = Some(stored.sequence);
        published.stream = Some(stored.stream);
        published.count += 1;
        published.duplicates += u64::from(stored.duplicate);
    };
    match send::store(&bus, messages, note).await {
        Err(error @ SendError::NoStream(_)) => Err(error).context(
            "nothing was published: give a JetStream trigger this subject and `create_stream = true` and run \
             `oncue apply`, or create a stream with `nats stream add`, or publish with --core, which stores nothing",
        ),
        Err(error) => Err(error).with_context(|| format!("published {} of the messages", published.count)),
        Ok(()) => Ok(()),
    }
}

async fn to_kafka(config: &BusConfig, batch: &Batch, published: &mut Published) -> anyhow::Result<()> {
    let bus = KafkaBus::new(&published.bus, config)?;
    let topic = published.subject.clone();
    let records = (1..=batch.total()).map(|n| batch.record(n));
    let note = |stored: kafka::Stored| {
        (published.partition, published.offset) = (Some(stored.partition), Some(stored.offset));
        published.count += 1;
    };
    let sent = send::append(&bus, &topic, records, note).await;
    sent.with_context(|| format!("published {} of {} records", published.count, batch.total()))
}

/// Writes logical messages, as `oncue.publish` does, many in one transaction.
async fn to_postgres(config: &BusConfig, batch: &Batch, published: &mut Published) -> anyhow::Result<()> {
    let bus = PostgresBus::new(&published.bus, config)?;
    let mut events = Vec::new();
    let mut bytes = 0;
    for n in 1..=batch.total() {
        let event = batch.event(n);
        bytes += event.size();
        events.push(event);
        if n == batch.total() || events.len() == TRANSACTION.0 || bytes >= TRANSACTION.1 {
            let count = events.len() as u64;
            let written = bus.publish(std::mem::take(&mut events)).await;
            written.with_context(|| format!("published {} of {} events", published.count, batch.total()))?;
            published.count += count;
            *published.transactions.get_or_insert(0) += 1;
            bytes = 0;
        }
    }
    Ok(())
}

/// The bus and the subject that `topic` names.
fn resolve<'a>(topic: &str, context: &'a Context) -> anyhow::Result<(String, &'a BusConfig, String)> {
    let buses = &context.config()?.buses;
    let known = || buses.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (name, subject) = match topic.split_once('/') {
        Some((bus, subject)) => (bus.to_owned(), subject),
        None => match buses.len() {
            0 => bail!(
                "no bus is named: set NATS_URL or KAFKA_BROKERS, or add a section [bus.NAME] to oncue.toml, or run `oncue dev`"
            ),
            1 => (known(), topic),
            _ => bail!("there are several buses ({}): write BUS/{topic}", known()),
        },
    };
    let config = buses.get(&name).with_context(|| format!("there is no bus \"{name}\"; there is {}", known()))?;
    check_subject(subject)?;
    Ok((name, config, subject.to_owned()))
}

fn check_subject(subject: &str) -> anyhow::Result<()> {
    subject::check(subject)
        .map_err(|error| anyhow!("\"{}\" cannot be published to: it {error}", subject::shown(subject)))
}

fn describe(published: &Published) -> String {
    let Published { bus, subject, count, duplicates, seconds, .. } = published;
    let id = published.id.as_deref().map(|id| format!(" as {id}")).unwrap_or_default();
    let rate = *count as f64 / seconds.max(1e-6);
    if let (Some(partition), Some(offset)) = (published.partition, published.offset) {
        return match count {
            1 => format!("published to {bus}/{subject}{id}: partition {partition}, offset {offset}"),
            _ => format!("published {count} to {bus}/{subject}{id}-N: {seconds:.2} s, {rate:.0}/s"),
        };
    }
    if let Some(transactions) = published.transactions {
        let many = if *count > 1 { "-N" } else { "" };
        return format!("published {count} to {bus}/{subject}{id}{many}: {transactions} transactions, {seconds:.2} s");
    }
    match (&published.stream, published.first_sequence, published.last_sequence) {
        (Some(stream), Some(first), Some(last)) if *count > 1 => format!(
            "published {count} to {bus}/{subject}{id}-N: stream {stream}, sequences {first} to {last}, \
             {duplicates} duplicates, {seconds:.2} s, {rate:.0}/s"
        ),
        (Some(stream), Some(sequence), _) => {
            let duplicate = if *duplicates > 0 { ", duplicate: the stream had it already" } else { "" };
            format!("published to {bus}/{subject}{id}: stream {stream}, sequence {sequence}{duplicate}")
        }
        _ => format!("sent {count} to {bus}/{subject}{id} by core NATS: nothing says whether anybody listened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_to_publish_to_has_no_wildcards() {
        let table =
            [("user.signup", true), ("a", true), ("a.*", false), ("a.>", false), ("a..b", false), ("a b", false)];
        for (subject, good) in table {
            assert_eq!(check_subject(subject).is_ok(), good, "{subject}");
        }
    }
}
