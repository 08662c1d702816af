//! The watch beside a member: lag, stalls, topics that are not there, and the word that all is well again.
//!
//! Invariant: it reads nothing and makes no call to the consumer. That brokers answer is what makes a trigger that was in
//! trouble active again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::bus::kafka::KafkaBus;
use crate::health::TriggerState;
use crate::telemetry;
use crate::triggers::{Failure, KafkaSpec};

use super::group::Group;
use super::trouble::Trouble;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// And as long as not all is well.
const EVERY_IN_TROUBLE: Duration = Duration::from_millis(500);
/// How long records may wait without one coming.
const STALL: Duration = Duration::from_secs(60);

/// A partition when it was looked at.
struct Seen {
    topic: Arc<str>,
    id: i32,
    next: i64,
    settled: i64,
    in_flight: usize,
    newest: Option<i64>,
}

/// The watch.
pub(super) struct Watch {
    bus: KafkaBus,
    spec: KafkaSpec,
    group: Arc<Group>,
    /// Since when the next record of a partition has been the same.
    moved: HashMap<(Arc<str>, i32), (i64, Instant)>,
    /// Partitions that have no record between what comes next and their end: only ends of transactions, say.
    void: HashMap<(Arc<str>, i32), (i64, i64)>,
    is_well: bool,
}

impl Watch {
    pub(super) fn new(bus: KafkaBus, spec: KafkaSpec, group: Arc<Group>) -> Self {
        Self { bus, spec, group, moved: HashMap::new(), void: HashMap::new(), is_well: false }
    }

    /// Looks until the trigger is stopped.
    pub(super) async fn run(mut self) {
        let stop = self.group.context.stop.clone();
        loop {
            let trouble = tokio::select! {
                () = stop.cancelled() => return,
                trouble = self.look() => trouble,
            };
            let is_well = trouble.is_none();
            self.tell(trouble).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(if is_well { EVERY } else { EVERY_IN_TROUBLE }) => {}
                () = self.troubled() => {}
            }
        }
    }

    /// Returns once the client complains.
    async fn troubled(&self) {
        while self.is_well && self.group.state().trouble.is_none() {
            tokio::time::sleep(EVERY_IN_TROUBLE).await;
        }
        if !self.is_well {
            std::future::pending::<()>().await;
        }
    }

    /// What is not well, if anything.
    async fn look(&mut self) -> Option<Trouble> {
        if let Some(text) = self.missing_topic().await {
            return Some(Trouble::Complaint(text));
        }
        let (seen, joined, held_up) = {
            let state = self.group.state();
            let seen = state.partitions.iter().map(|p| Seen {
                topic: Arc::clone(&p.topic),
                id: p.id,
                next: p.next(),
                settled: p.settled(),
                in_flight: p.in_flight(),
                newest: p.newest(),
            });
            (seen.collect::<Vec<_>>(), state.joined, state.paused || state.held_up)
        };
        if !joined {
            return Some(Trouble::Joining(format!("joining the group {}", self.group.name)));
        }
        let mut total = 0;
        for partition in &seen {
            let high = match self.bus.watermarks(&partition.topic, partition.id).await {
                Ok((_, high)) => high,
                Err(error) => return Some(Trouble::Complaint(error.to_string())),
            };
            total += self.show(partition, high);
            if self.waits(partition, high, held_up) {
                self.stalled(partition, high).await;
            }
        }
        telemetry::trigger_lag(&self.group.context.name, total);
        let is_read = |(topic, id): &(Arc<str>, i32)| seen.iter().any(|s| s.topic == *topic && s.id == *id);
        self.moved.retain(|partition, _| is_read(partition));
        self.void.retain(|partition, _| is_read(partition));
        None
    }

    /// Shows the lag of a partition, in records, and gives it.
    fn show(&self, seen: &Seen, high: i64) -> u64 {
        let is_void = self.void.get(&(Arc::clone(&seen.topic), seen.id)) == Some(&(seen.settled, high));
        let lag = if is_void { 0 } else { u64::try_from(high - seen.settled).unwrap_or(0) };
        let seconds = if lag == 0 { 0.0 } else { seen.newest.map_or(0.0, age) };
        telemetry::kafka_lag(&self.group.context.name, &seen.topic, seen.id, lag, seconds);
        lag
    }

    /// Whether something has stood at the end of a partition for long, and nothing came.
    fn waits(&mut self, seen: &Seen, high: i64, held_up: bool) -> bool {
        let now = Instant::now();
        let (next, since) = self.moved.entry((Arc::clone(&seen.topic), seen.id)).or_insert((seen.next, now));
        // What is in flight may be all that the budget allows.
        if *next != seen.next || high <= seen.next || held_up || seen.in_flight > 0 {
            (*next, *since) = (seen.next, now);
        }
        let waits = since.elapsed() > STALL;
        if waits {
            *since = now;
        }
        waits
    }

    /// Has the member begin anew if what waits is a record: the end of a transaction, say, is none.
    async fn stalled(&mut self, seen: &Seen, high: i64) {
        let Seen { topic, id, next, .. } = seen;
        match self.bus.has_record(topic, *id, *next).await {
            Ok(true) => {}
            Ok(false) => {
                self.void.insert((Arc::clone(topic), *id), (*next, high));
                return;
            }
            Err(_) => return,
        }
        let text = format!("{} records of {topic}/{id} wait and none came for {} s", high - next, STALL.as_secs());
        self.group.state().failure.get_or_insert(Failure::Stalled(text));
    }

    /// A topic that is named and not there.
    async fn missing_topic(&self) -> Option<String> {
        for name in self.spec.names() {
            match self.bus.topic(name).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let server = self.bus.brokers().split(',').next().unwrap_or_default().trim().to_owned();
                    return Some(format!(
                        "topics: there is no topic {name} on bus \"{}\"; it is read as soon as there is one: \
                         kafka-topics.sh --bootstrap-server {server} --create --topic {name} --partitions 12",
                        self.bus.name()
                    ));
                }
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    }

    async fn tell(&mut self, trouble: Option<Trouble>) {
        if let Some(trouble) = trouble {
            self.is_well = false;
            self.group.show_trouble(trouble).await;
            return;
        }
        let (had_trouble, has_partitions) = {
            let mut state = self.group.state();
            state.told = None;
            (state.trouble.take().is_some(), !state.partitions.is_empty())
        };
        self.group.answered();
        let context = &self.group.context;
        if had_trouble || !std::mem::replace(&mut self.is_well, true) {
            context.reading().await;
        }
        let state = if has_partitions { TriggerState::Active } else { TriggerState::Standby };
        context.health.trigger(&context.name, state, None);
    }
}

/// Seconds from a timestamp in milliseconds to now.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn age(timestamp: i64) -> f64 {
    let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    (now - i128::from(timestamp)).max(0) as f64 / 1e3
}
