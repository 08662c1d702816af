//! The group as this member sees it: what it is assigned, what it gives up.
//!
//! Invariant: a partition is read only from a position that was compared with what the partition has; before it is given
//! up, what runs is waited for, within a bound, and what is settled is committed, unless the assignment is lost already.
//! Calls come from the thread that polls, but for `look`; the state is not locked over anything that waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::bus::kafka::{Callbacks, KafkaBus, words};
use crate::dispatch::held::HeldKeys;
use crate::dispatch::ownership::Ownership;
use crate::store::groups::{GroupKey, KnownPartition};
use crate::telemetry;
use crate::triggers::spec::{KafkaOrder, KafkaStart, parse_time};
use crate::triggers::{Context, Failure, KafkaSpec};

use super::partition::Partition;
use super::place::{self, Begin, Facts, Missing};
use super::{commits, note::Note};

/// How long a question to the brokers may take while partitions are assigned.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what runs is waited for before its partition is given up: less than any member waits for a rebalance.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the tables are asked for parked keys.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The group, seen by one consumer: the context of its calls.
pub(super) struct Group {
    pub(super) context: Context,
    pub(super) cluster: String,
    pub(super) ordered: KafkaOrder,
    pub(super) name: String,
    start: KafkaStart,
    bus: String,
    callbacks: Callbacks,
    runtime: Handle,
    state: Mutex<State>,
    /// How often partitions were given up.
    assignments: AtomicU64,
    /// Held while a commit is made: one of partitions that were given up since it was written is not made.
    committing: Mutex<()>,
}

/// What the thread that polls and the watch share.
#[derive(Default)]
pub(super) struct State {
    pub(super) partitions: Vec<Partition>,
    /// What was given up since the member last asked: what it read of these comes again, to whom they are given next.
    pub(super) given_up: Vec<(Arc<str>, i32)>,
    /// Why reading must end.
    pub(super) failure: Option<Failure>,
    /// Whether nothing is to be read.
    pub(super) paused: bool,
    /// Whether records were read that may not be handed over now.
    pub(super) held_up: bool,
    /// Whether the group has given this member anything yet, nothing included.
    pub(super) joined: bool,
    /// What the client complained of, and nothing has shown to be over.
    pub(super) trouble: Option<String>,
    /// What the log and the trigger's row last said of it, and when they complained.
    pub(super) told: Option<(Option<Instant>, String)>,
}

/// This member's place in the group, as its consumer holds it.
pub(super) struct Seat(pub(super) Arc<Group>);

pub(super) type Consumer = BaseConsumer<Seat>;

impl Group {
    pub(super) fn new(bus: &KafkaBus, spec: &KafkaSpec, context: Context, cluster: &str) -> Self {
        Self {
            name: spec.group(&context.name),
            context,
            cluster: cluster.to_owned(),
            ordered: spec.ordered,
            start: spec.start.clone(),
            bus: bus.name().to_owned(),
            callbacks: bus.callbacks(),
            runtime: Handle::current(),
            state: Mutex::default(),
            assignments: AtomicU64::default(),
            committing: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the present assignment. Under `committing`, one that passes is lost.
    pub(super) fn assignment(&self) -> u64 {
        self.assignments.load(Ordering::Acquire)
    }

    /// Waits until no commit is under way; none begins as long as what this gives is held.
    pub(super) fn committing(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was to be committed is not to be committed any more.
    fn pass(&self) {
        self.assignments.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits on the thread that polls.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// What the client complained of last, or the error itself.
    pub(super) fn words(&self, error: &KafkaError) -> String {
        let last = self.callbacks.last_error();
        let words = words(error);
        last.map_or_else(|| words.clone(), |last| if last.contains(&words) { last } else { format!("{words}: {last}") })
    }

    pub(super) fn answered(&self) {
        self.callbacks.forget_error();
    }

    fn failed(&self, action: &str, error: &KafkaError) -> Failure {
        Failure::Again(format!("bus \"{}\": cannot {action}: {}", self.bus, self.words(error)))
    }

    /// Takes over the partitions of `list`.
    fn assign(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let placed = self.place(consumer, list);
        let mut assigned = TopicPartitionList::with_capacity(list.count());
        match placed {
            Ok(partitions) => {
                for partition in &partitions {
                    let first = Offset::Offset(partition.first());
                    // An offset that is not negative is always taken.
                    let _ = assigned.add_partition_offset(&partition.topic, partition.id, first);
                }
                let mut state = self.state();
                state.joined = true;
                state.partitions.extend(partitions);
            }
            Err(failure) => {
                // The protocol wants an answer all the same; nothing is handed over of these.
                assigned = list.clone();
                self.state().failure.get_or_insert(failure);
            }
        }
        let is_cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let answer = if is_cooperative { consumer.incremental_assign(&assigned) } else { consumer.assign(&assigned) };
        // A partition that was given up while it was paused is paused still when it comes back.
        let paused = self.state().paused;
        let read = || if paused { consumer.pause(&assigned) } else { consumer.resume(&assigned) };
        let answer = answer.and_then(|()| if assigned.count() > 0 { read() } else { Ok(()) });
        if let Err(error) = answer {
            let failure = self.failed("take over partitions", &error);
            self.state().failure.get_or_insert(failure);
        }
    }

    /// Where the partitions of `list` begin; that is committed before anything is read.
    fn place(&self, consumer: &Consumer, list: &TopicPartitionList) -> Result<Vec<Partition>, Failure> {
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let facts = self.facts(consumer, list)?;
        let mut begins = Vec::with_capacity(facts.len());
        let (mut missing, mut passed) = (Vec::new(), Vec::new());
        for (topic, id, facts) in facts {
            match place::begin(&facts) {
                Ok(begin) => begins.push((topic, id, begin)),
                Err(gap) => match self.accepted(&topic, id, &gap)? {
                    Some(begin) => {
                        passed.push(position(&topic, id, gap.from));
                        begins.push((topic, id, begin));
                    }
                    None => missing.push((topic, id, gap)),
                },
            }
        }
        if !missing.is_empty() {
            return Err(self.halt(&missing));
        }
        let held = self.held();
        let new = |(topic, id, begin): (String, i32, Begin)| {
            Partition::new(topic.into(), id, begin, Ownership::assigned(held.clone()))
        };
        let mut partitions: Vec<Partition> = begins.into_iter().map(new).collect();
        let opening: Vec<_> = partitions.iter().map(Partition::opening).collect();
        // Without it records may run twice after a crash, and a new partition's `start` is asked for again.
        match consumer.commit(&commits::list(partitions.iter().zip(&opening)), CommitMode::Sync) {
            Ok(()) => {
                self.remember(&partitions)?;
                partitions.iter_mut().zip(&opening).for_each(|(partition, commit)| partition.sent(commit));
            }
            Err(error) => tracing::debug!(trigger = %self.context.name, %error, "positions could not be written ahead"),
        }
        for from in passed {
            let applied = self.wait(self.context.groups.apply_gap(&self.context.name, &from));
            applied.map_err(|error| Failure::again("cannot write down that a gap was passed", error))?;
        }
        Ok(partitions)
    }

    /// Remembers that these have a position.
    fn remember(&self, partitions: &[Partition]) -> Result<(), Failure> {
        let known =
            |p: &Partition| KnownPartition { topic: p.topic.to_string(), partition: p.id, position: p.settled() };
        let known: Vec<KnownPartition> = partitions.iter().map(known).collect();
        let remembered = self.wait(self.context.groups.remember_partitions(self.key(), &known));
        remembered.map_err(|error| Failure::again("cannot write down which partitions are read", error))
    }

    fn key(&self) -> GroupKey<'_> {
        GroupKey { trigger: &self.context.name, cluster: &self.cluster, group: &self.name }
    }

    fn facts(&self, consumer: &Consumer, list: &TopicPartitionList) -> Result<Vec<(String, i32, Facts)>, Failure> {
        let mut asked = TopicPartitionList::with_capacity(list.count());
        for element in list.elements() {
            asked.add_partition(element.topic(), element.partition());
        }
        let committed = consumer.committed_offsets(asked.clone(), ANSWER_TIMEOUT);
        let committed = committed.map_err(|e| self.failed("ask what the group has committed", &e))?;
        let since = self.since(consumer, asked)?;
        let known = self.wait(self.context.groups.known_partitions(self.key()));
        let known = known.map_err(|error| Failure::again("cannot ask which partitions were read", error))?;
        let mut facts = Vec::with_capacity(list.count());
        for element in committed.elements() {
            let (topic, id) = (element.topic(), element.partition());
            element.error().map_err(|e| self.failed("ask what the group has committed", &e))?;
            let ends = consumer.fetch_watermarks(topic, id, ANSWER_TIMEOUT);
            let (low, high) = ends.map_err(|e| self.failed(&format!("ask for the ends of {topic}/{id}"), &e))?;
            let of_time = since.as_ref().and_then(|since| offset_in(since, topic, id));
            let start = match self.start {
                KafkaStart::Earliest => low,
                KafkaStart::Latest => high,
                KafkaStart::Time(_) => of_time.unwrap_or(high).max(low),
            };
            let committed = commits::offset(&element).map(|at| (at, Note::read(&commits::metadata(&element))));
            let known = known.iter().find(|k| k.partition == id && k.topic == topic).map(|k| k.position);
            facts.push((topic.to_owned(), id, Facts { committed, known, low, high, start }));
        }
        Ok(facts)
    }

    /// The first offsets at or after the time of `start`, if it is one.
    fn since(&self, consumer: &Consumer, mut asked: TopicPartitionList) -> Result<Option<TopicPartitionList>, Failure> {
        let KafkaStart::Time(time) = &self.start else { return Ok(None) };
        let time = parse_time(time).map_err(|error| Failure::Again(error.to_string()))?;
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).max(0);
        let found = asked.set_all_offsets(Offset::Offset(millis)).and_then(|()| {
            // The answer stands in the list that was asked.
            consumer.offsets_for_times(asked, ANSWER_TIMEOUT)
        });
        found.map(Some).map_err(|e| self.failed("ask for the offsets of `start`", &e))
    }

    /// The keys that are parked, as far as they can be known by heart.
    fn held(&self) -> Option<Arc<HeldKeys>> {
        let asked = self.context.groups.parked_keys(&self.context.name);
        let keys = self.wait(async { tokio::time::timeout(STORE_TIMEOUT, asked).await }).ok()?.ok()??;
        let held = HeldKeys::default();
        held.extend(keys);
        Some(Arc::new(held))
    }

    fn accepted(&self, topic: &str, id: i32, missing: &Missing) -> Result<Option<Begin>, Failure> {
        let from = position(topic, id, missing.from);
        let accepted = self.wait(self.context.groups.is_accepted(&self.context.name, &from));
        let accepted = accepted.map_err(|error| Failure::again("cannot ask whether a gap was accepted", error))?;
        Ok(accepted.then(|| place::accepted(missing)))
    }

    /// Records what is missing and gives the reason to halt.
    pub(super) fn halt(&self, missing: &[(String, i32, Missing)]) -> Failure {
        let name = &self.context.name;
        let mut texts = Vec::with_capacity(missing.len());
        for (topic, id, gap) in missing {
            let (from, to) = (position(topic, *id, gap.from), position(topic, *id, gap.to));
            let record = self.context.groups.record_gap(name, Some(&from), Some(&to), &gap.reason);
            if let Err(error) = self.wait(record) {
                return Failure::again("cannot record a gap", error);
            }
            texts.push(format!("{topic}/{id}: {}", gap.reason));
        }
        let fix = format!("`oncue trigger resume {name} --accept-gap` goes on with what the topic still has");
        Failure::Gap(format!("{}; {fix}", texts.join("; ")))
    }

    /// Gives the partitions of `list` up.
    fn revoke(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let is_lost = consumer.assignment_lost();
        let mut given: Vec<Partition> = {
            let mut state = self.state();
            let is_given = |p: &mut Partition| list.find_partition(&p.topic, p.id).is_some();
            let given: Vec<Partition> = state.partitions.extract_if(.., is_given).collect();
            state.given_up.extend(given.iter().map(|p| (Arc::clone(&p.topic), p.id)));
            given
        };
        // What waits for its turn is the next member's.
        given.iter().for_each(|partition| partition.ownership.lose());
        if is_lost {
            self.pass();
            tracing::warn!(trigger = %self.context.name, partitions = given.len(), "an assignment was lost; its records come again");
        } else {
            self.wait(async {
                let ended = futures::future::join_all(given.iter_mut().map(Partition::ended));
                // What runs longer is looked up by the next member, and settles nothing here.
                let _ = tokio::time::timeout(PATIENCE, ended).await;
            });
            let closing: Vec<_> = given.iter().map(Partition::closing).collect();
            let commits = commits::list(given.iter().zip(&closing));
            let _none_under_way = self.committing();
            self.pass();
            let committed = if given.is_empty() { Ok(()) } else { consumer.commit(&commits, CommitMode::Sync) };
            if let Err(error) = committed {
                tracing::warn!(trigger = %self.context.name, %error, "the last commit failed; records come again");
            }
        }
        for partition in &given {
            telemetry::kafka_lag(&self.context.name, &partition.topic, partition.id, 0, 0.0);
        }
        let is_cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let answer = if is_cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() };
        if let Err(error) = answer {
            let failure = self.failed("give partitions up", &error);
            self.state().failure.get_or_insert(failure);
        }
    }
}

/// A place in a partition as gaps and messages name it.
pub(super) fn position(topic: &str, id: i32, offset: i64) -> String {
    format!("{topic}/{id}@{offset}")
}

fn offset_in(list: &TopicPartitionList, topic: &str, id: i32) -> Option<i64> {
    commits::offset(&list.find_partition(topic, id)?)
}

impl ClientContext for Seat {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.callbacks.log(level, facility, text);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.callbacks.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.callbacks.generate_oauth_token(config)
    }
}

impl ConsumerContext for Seat {
    fn rebalance(&self, consumer: &Consumer, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let Self(group) = self;
        let (trigger, count) = (&group.context.name, list.count());
        telemetry::kafka_rebalanced(trigger);
        if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            group.assign(consumer, list);
            tracing::info!(%trigger, group = group.name, partitions = count, "partitions assigned");
        } else {
            group.revoke(consumer, list);
            tracing::info!(%trigger, group = group.name, partitions = count, "partitions given up");
        }
    }
}
