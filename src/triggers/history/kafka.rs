//! Kafka topics from a time on, decoded as a trigger decodes them.
//!
//! Invariant: a record whose own time is before the wanted one is passed over: offsets are found by time, and times in a
//! partition need not rise.

use time::OffsetDateTime;

use crate::bus::kafka::{Cut, KafkaBus, Reading, RecordAt};
use crate::event::Event;
use crate::event::codec::kafka::{Record, decode};
use crate::event::codec::{DecodeError, Defaults};

use super::{History, HistoryError, Message, Source, Wanted};

/// Topics that are being read.
#[derive(Debug)]
pub(super) struct TopicHistory {
    reading: Reading<Message>,
    since: OffsetDateTime,
}

/// Opens the topics `names`.
pub(super) async fn open(
    bus: &KafkaBus,
    names: &[String],
    group: &str,
    wanted: Wanted,
) -> Result<History, HistoryError> {
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let found = bus.topic(name).await?;
        let missing = || HistoryError::NoTopic { bus: bus.name().to_owned(), topic: name.clone() };
        topics.push(found.ok_or_else(missing)?);
    }
    // As the trigger has it in the ids of its events.
    let cluster = bus.cluster_id().await?.unwrap_or_default();
    let since = wanted.since;
    let millis = i64::try_from(since.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let reading = bus.read_since(topics, group, millis, move |record| read(record, &cluster, &wanted)).await?;
    let gap = |Cut { topic, partition, low }: &Cut| {
        format!("{topic}/{partition} begins at the offset {low}: what came before is gone")
    };
    let gaps = reading.cut.iter().map(gap).collect();
    Ok(History { expected: reading.expected, gaps, source: Source::Topics(TopicHistory { reading, since }) })
}

impl TopicHistory {
    pub(super) async fn next(&mut self) -> Result<Option<Message>, HistoryError> {
        loop {
            match self.reading.next().await.transpose()? {
                Some(message) if message.at < self.since => {}
                message => return Ok(message),
            }
        }
    }
}

fn read(record: &RecordAt<'_>, cluster: &str, wanted: &Wanted) -> Message {
    let time = record.millis.and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok());
    // A record without a time came before there were any: it is as old as can be wanted.
    Message { at: time.unwrap_or(wanted.since), event: event(record, cluster, time, wanted) }
}

fn event(
    record: &RecordAt<'_>,
    cluster: &str,
    time: Option<OffsetDateTime>,
    wanted: &Wanted,
) -> Result<Event, DecodeError> {
    let source = format!("oncue/trigger/{}", wanted.trigger);
    let id = format!("{cluster}/{}/{}/{}", record.topic, record.partition, record.offset);
    let defaults = Defaults { ty: record.topic, source: &source, id: &id, subject: None, time };
    let headers = record.headers()?;
    let record = Record { key: record.key(), value: record.value(), headers: &headers };
    decode(&record, &defaults, &wanted.limits)
}
