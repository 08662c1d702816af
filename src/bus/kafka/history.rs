//! Reads topics from a time on to where they end now: for trying rules on what was.
//!
//! Invariant: partitions are assigned by hand: no group is joined, nothing is committed and no position is stored. Each
//! partition is read to the end that it had when the reading began. Reading ends when nobody takes the records any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::{ANSWER_TIMEOUT, Callbacks, ClusterError, KafkaBus, TopicFacts, error};

/// Records that wait to be taken.
const QUEUE: usize = 256;
/// How often it is looked whether anybody still takes them.
const POLL: Duration = Duration::from_millis(100);
/// How long nothing may come of a partition whose end was told before it is at its end: what is left are marks of
/// transactions. Some brokers tell the end between two answers.
const GRACE: Duration = Duration::from_secs(1);
/// What is said of brokers that send nothing.
const SILENT: RDKafkaErrorCode = RDKafkaErrorCode::OperationTimedOut;
/// How long brokers may send nothing while there is more.
const SILENCE: Duration = Duration::from_secs(10);

/// A record where it is.
#[derive(Debug)]
pub struct RecordAt<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since 1970, as its producer or the broker said; none of very old ones.
    pub millis: Option<i64>,
    /// The record itself; its headers are read by [`super::headers`].
    record: &'a BorrowedMessage<'a>,
}

impl<'a> RecordAt<'a> {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key()
    }

    /// Its value; none of a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.record.payload()
    }

    /// Its headers.
    ///
    /// # Errors
    /// One whose name is no text.
    pub fn headers(&self) -> Result<Vec<crate::event::codec::kafka::Header<'a>>, crate::event::codec::DecodeError> {
        super::headers(self.record)
    }
}

/// Topics that are being read.
#[derive(Debug)]
pub struct Reading<T> {
    /// About how many records there are: offsets have gaps.
    pub expected: u64,
    /// Partitions that no longer have their beginning.
    pub cut: Vec<Cut>,
    records: mpsc::Receiver<Result<T, ClusterError>>,
}

impl<T> Reading<T> {
    /// The next record; none at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<T, ClusterError>> {
        self.records.recv().await
    }
}

/// A partition that no longer has its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset that it still has.
    pub low: i64,
}

/// What is to be read of one topic: from where, up to which offset.
#[derive(Debug)]
struct Part {
    topic: String,
    /// By partition: the first offset, and the one behind the last.
    ranges: BTreeMap<i32, (i64, i64)>,
    /// Partitions whose end was told, and when.
    told: BTreeMap<i32, Instant>,
}

impl KafkaBus {
    /// Reads `topics` from the first records of `since` (milliseconds since 1970) on, one topic after another; `read`
    /// makes what is given of a record. `group` may read them: it is named to the brokers and not joined.
    ///
    /// # Errors
    /// No client can be made, or no broker says where to begin.
    pub async fn read_since<T, F>(
        &self,
        topics: Vec<TopicFacts>,
        group: &str,
        since: i64,
        read: F,
    ) -> Result<Reading<T>, ClusterError>
    where
        T: Send + 'static,
        F: Fn(&RecordAt<'_>) -> T + Send + 'static,
    {
        let (records, queue) = mpsc::channel(QUEUE);
        let (opened, beginning) = tokio::sync::oneshot::channel();
        let (bus, group) = (self.clone(), group.to_owned());
        // It reads until it is done or the queue is dropped: nobody need wait for it.
        let reader = tokio::task::spawn_blocking(move || {
            let begun = Consumer::new(&bus, &group).and_then(|consumer| {
                let plan = consumer.plan(&topics, since);
                plan.map(|(parts, cut)| (consumer, parts, cut)).map_err(|e| bus.failed("find where to begin", &e, None))
            });
            match begun {
                Ok((consumer, parts, cut)) => {
                    let count = |(from, to): &(i64, i64)| u64::try_from(to - from).unwrap_or(0);
                    let expected = parts.iter().flat_map(|part| part.ranges.values()).map(count).sum();
                    if opened.send(Ok((expected, cut))).is_ok()
                        && let Err(error) = consumer.read(parts, &records, &read)
                    {
                        let failed = bus.failed("read records", &error, consumer.client.context().last_error());
                        let _ = records.blocking_send(Err(failed));
                    }
                }
                Err(error) => _ = opened.send(Err(error)),
            }
        });
        match beginning.await {
            Ok(begun) => begun.map(|(expected, cut)| Reading { expected, cut, records: queue }),
            // It ended without a word.
            Err(_) => Err(self.refused("read records", reader.await.err().map_or_else(String::new, |e| e.to_string()))),
        }
    }
}

struct Consumer {
    client: BaseConsumer<Callbacks>,
}

impl Consumer {
    fn new(bus: &KafkaBus, group: &str) -> Result<Self, ClusterError> {
        let mut config = bus.consumer(group, &format!("oncue-{}-history", bus.name()));
        config.set("enable.partition.eof", "true");
        let client: BaseConsumer<Callbacks> =
            config.create_with_context(bus.callbacks()).map_err(|error| bus.unmade(&error))?;
        // Where logins go by token, it is asked for here; there are no records to come.
        let _ = client.poll(POLL);
        Ok(Self { client })
    }

    /// What there is to read, and which partitions lack their beginning.
    fn plan(&self, topics: &[TopicFacts], since: i64) -> KafkaResult<(Vec<Part>, Vec<Cut>)> {
        let (mut parts, mut cut) = (Vec::new(), Vec::new());
        for topic in topics {
            let mut asked = TopicPartitionList::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                asked.add_partition_offset(&topic.name, partition.id, Offset::Offset(since.max(0)))?;
            }
            let found = self.client.offsets_for_times(asked, ANSWER_TIMEOUT)?;
            let mut ranges = BTreeMap::new();
            for element in found.elements() {
                element.error()?;
                let (low, high) = self.client.fetch_watermarks(&topic.name, element.partition(), ANSWER_TIMEOUT)?;
                let from = match element.offset() {
                    Offset::Offset(from) => from.max(low),
                    // No record is that young, or the broker does not know the times of its records: the newest one tells.
                    _ if self.newest(&topic.name, element.partition(), (low, high))?.is_some_and(|at| at >= since) => {
                        low
                    }
                    _ => continue,
                };
                if from == low && low > 0 {
                    cut.push(Cut { topic: topic.name.clone(), partition: element.partition(), low });
                }
                if from < high {
                    ranges.insert(element.partition(), (from, high));
                }
            }
            parts.push(Part { topic: topic.name.clone(), ranges, told: BTreeMap::new() });
        }
        Ok((parts, cut))
    }

    /// The time of the last record of a partition, if it has one with a time.
    fn newest(&self, topic: &str, partition: i32, (low, high): (i64, i64)) -> KafkaResult<Option<i64>> {
        if low >= high {
            return Ok(None);
        }
        let mut assigned = TopicPartitionList::with_capacity(1);
        assigned.add_partition_offset(topic, partition, Offset::Offset(high - 1))?;
        self.client.assign(&assigned)?;
        let (begin, mut at_end) = (Instant::now(), None::<Instant>);
        while begin.elapsed() < ANSWER_TIMEOUT && at_end.is_none_or(|told| told.elapsed() < GRACE) {
            match self.client.poll(POLL) {
                Some(Ok(record)) if record.topic() == topic && record.partition() == partition => {
                    return Ok(record.timestamp().to_millis());
                }
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => at_end = Some(Instant::now()),
                Some(Err(error)) if !error::is_silence(&error) && !matches!(error, KafkaError::PartitionEOF(_)) => {
                    return Err(error);
                }
                Some(Ok(_) | Err(_)) | None => {}
            }
        }
        Ok(None)
    }

    fn read<T>(
        &self,
        parts: Vec<Part>,
        records: &mpsc::Sender<Result<T, ClusterError>>,
        read: &impl Fn(&RecordAt<'_>) -> T,
    ) -> KafkaResult<()> {
        for mut part in parts {
            let mut assigned = TopicPartitionList::with_capacity(part.ranges.len());
            for (partition, (from, _)) in &part.ranges {
                assigned.add_partition_offset(&part.topic, *partition, Offset::Offset(*from))?;
            }
            self.client.assign(&assigned)?;
            let mut heard = Instant::now();
            while !part.ranges.is_empty() && !records.is_closed() {
                match self.client.poll(POLL) {
                    Some(Ok(record)) => {
                        heard = Instant::now();
                        if let Some(at) = part.take(&record)
                            && records.blocking_send(Ok(read(&at))).is_err()
                        {
                            return Ok(());
                        }
                    }
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        heard = Instant::now();
                        part.told.insert(partition, heard);
                    }
                    // What passes, passes; what does not is silence.
                    Some(Err(error)) if !error::is_silence(&error) => return Err(error),
                    _ if heard.elapsed() >= SILENCE => return Err(KafkaError::MessageConsumption(SILENT)),
                    _ => part.give_up(),
                }
            }
        }
        Ok(())
    }
}

impl Part {
    /// A record, if it is one that is wanted.
    fn take<'a>(&'a mut self, record: &'a BorrowedMessage<'a>) -> Option<RecordAt<'a>> {
        let (partition, offset) = (record.partition(), record.offset());
        // What comes late of an assignment before is not of this one.
        let (from, end) = self.ranges.get(&partition).copied().filter(|_| record.topic() == self.topic)?;
        self.told.remove(&partition);
        if offset + 1 >= end {
            self.ranges.remove(&partition);
        }
        let millis = record.timestamp().to_millis().filter(|millis| *millis >= 0);
        let at = RecordAt { topic: &self.topic, partition, offset, millis, record };
        (from..end).contains(&offset).then_some(at)
    }

    /// Leaves the partitions whose end was told and of which nothing has come since. Only to be asked while nothing waits.
    fn give_up(&mut self) {
        let told = &self.told;
        self.ranges.retain(|partition, _| told.get(partition).is_none_or(|told| told.elapsed() < GRACE));
    }
}
