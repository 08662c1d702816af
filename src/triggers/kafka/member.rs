//! The member: the thread that makes all calls to the consumer but commits, which have one beside it.
//!
//! Invariant: nothing is handed over without credit, and none is held while more is waited for. What is read ahead is
//! bounded; when there is no room for more and none comes, the partitions are paused and polled all the same, so that the
//! group keeps this member. When it ends, for whatever reason, what runs is waited for within a bound, and what is settled
//! is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::dispatch::budget::Credit;
use crate::telemetry;
use crate::triggers::Failure;

use super::ahead::Ahead;
use super::commits::{self, Commits};
use super::group::{Consumer, Group, Seat};
use super::partition::Partition;
use super::positions::Positions;

/// How long a poll waits: how late a stop or a commit may be.
const POLL: Duration = Duration::from_millis(100);
/// How often settled offsets are taken in under load.
pub(super) const TAKE_EVERY: Duration = Duration::from_millis(5);
/// Records that are read or handed over before anything else is looked at.
const TURN: usize = 256;
/// How long nothing may be polled while there is no room, before partitions are paused: pausing throws away what the client
/// has read ahead, and it is fetched again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records and bytes of one part of the budget.
const CREDIT_EVENTS: u32 = 256;
const CREDIT_BYTES: u64 = 1 << 20;
/// How long what runs is waited for after a failure.
const GOODBYE: Duration = Duration::from_secs(5);

/// A member of the group.
pub(super) struct Member {
    config: ClientConfig,
    group: Arc<Group>,
    topics: Vec<String>,
}

/// A member that reads.
pub(super) struct Reading<'c> {
    pub(super) consumer: &'c Consumer,
    pub(super) group: Arc<Group>,
    /// Read, and not handed over.
    ahead: Ahead<BorrowedMessage<'c>>,
    /// Whether more could have been read at once.
    has_more: bool,
    polled: Instant,
    is_held_up: bool,
    /// How many records the metric says are read ahead.
    shown: usize,
    credit: Credit,
    /// Bytes that the credit is still good for.
    bytes: u64,
    reserving: Option<BoxFuture<'static, (Credit, u64)>>,
    positions: Positions<'c>,
    received: u64,
}

impl Member {
    pub(super) fn new(config: ClientConfig, group: Arc<Group>, topics: Vec<String>) -> Self {
        Self { config, group, topics }
    }

    /// Reads until the trigger is stopped. Blocks.
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { config, group, topics } = self;
        let seat = Seat(Arc::clone(&group));
        let consumer: Consumer = config
            .create_with_context(seat)
            .map_err(|error| Failure::Again(format!("the consumer cannot be made: {}", group.words(&error))))?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer
            .subscribe(&names)
            .map_err(|error| Failure::Again(format!("topics: cannot subscribe to {}: {error}", names.join(", "))))?;
        std::thread::scope(|threads| {
            let (commits, committer) = commits::commits();
            let (consumer, of) = (&consumer, Arc::clone(&group));
            threads.spawn(move || committer.run(consumer, &of));
            let mut reading = Reading::new(consumer, group, commits);
            let result = reading.read();
            reading.end(result.is_ok());
            result
        })
    }
}

impl<'c> Reading<'c> {
    fn new(consumer: &'c Consumer, group: Arc<Group>, commits: Commits) -> Self {
        let positions = Positions::new(consumer, Arc::clone(&group), commits);
        Self {
            consumer,
            group,
            ahead: Ahead::new(),
            has_more: false,
            polled: Instant::now(),
            is_held_up: false,
            shown: 0,
            credit: Credit::none(),
            bytes: 0,
            reserving: None,
            positions,
            received: 0,
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        let stop = self.group.context.stop.clone();
        while !stop.is_cancelled() {
            if let Some(failure) = self.group.state().failure.take() {
                return Err(failure);
            }
            self.take_settled();
            self.read_ahead()?;
            self.hand_over_ahead()?;
        }
        tracing::info!(trigger = %self.group.context.name, "trigger stopped reading");
        Ok(())
    }

    /// Reads what there is, and waits for it if nothing else is to be done. Without room, only the group is answered.
    fn read_ahead(&mut self) -> Result<(), Failure> {
        if self.group.state().paused {
            if !self.ahead.has_room() {
                return self.poll(Duration::ZERO).map(drop);
            }
            self.pause(false);
        }
        if self.ahead.is_full() {
            if self.polled.elapsed() < PATIENCE {
                return Ok(());
            }
            self.pause(true);
            return self.poll(Duration::ZERO).map(drop);
        }
        let mut wait = Duration::ZERO;
        if self.ahead.is_empty() {
            self.show();
            wait = POLL;
        }
        for _ in 0..TURN {
            self.has_more = self.poll(wait)?;
            if !self.has_more || self.ahead.is_full() {
                break;
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Whether a record came.
    fn poll(&mut self, timeout: Duration) -> Result<bool, Failure> {
        let polled = self.consumer.poll(timeout);
        self.polled = Instant::now();
        self.forget_given_up();
        match polled {
            Some(Ok(message)) => {
                let bytes = (message.payload_len() + message.key_len()).max(1) as u64;
                let slot = self.ahead.slot(message.topic(), message.partition());
                self.ahead.push(slot, bytes, message);
                return Ok(true);
            }
            Some(Err(error)) => self.complain(&error)?,
            // Others may need the credit of a trigger that is idle.
            None if !timeout.is_zero() => (self.credit, self.bytes) = (Credit::none(), 0),
            None => {}
        }
        Ok(false)
    }

    /// Forgets what was read ahead of partitions that were given up: behind it, what comes first of a partition that is given
    /// back would be taken for handed over.
    fn forget_given_up(&mut self) {
        let given_up = std::mem::take(&mut self.group.state().given_up);
        given_up.iter().for_each(|(topic, id)| self.ahead.forget(topic, *id));
    }

    /// Hands over what credit allows.
    fn hand_over_ahead(&mut self) -> Result<(), Failure> {
        let is_full = self.group.state().partitions.iter().any(Partition::is_full);
        if is_full {
            self.hold_up(true);
            let stop = self.group.context.stop.clone();
            // Only what is settled makes room.
            let _ = self.group.wait(async { tokio::time::timeout(POLL, stop.cancelled()).await });
            return Ok(());
        }
        for _ in 0..TURN {
            let next = self.ahead.next_bytes();
            let has_credit = next.is_none_or(|bytes| self.has_credit(bytes));
            self.hold_up(!has_credit);
            let Some(bytes) = next.filter(|_| has_credit) else { break };
            self.bytes = self.bytes.saturating_sub(bytes);
            // The credit first: a record that is taken out must be handed over.
            let Some(credit) = self.credit.split(bytes) else { break };
            let Some(message) = self.ahead.pop() else { break };
            self.received += u64::from(self.hand_over(&message, credit)?);
        }
        Ok(())
    }

    /// Says whether records were read and must wait.
    fn hold_up(&mut self, is_held_up: bool) {
        if std::mem::replace(&mut self.is_held_up, is_held_up) != is_held_up {
            self.group.state().held_up = is_held_up;
        }
    }

    /// Whether there is credit for a record of `bytes`, having waited for it a moment.
    fn has_credit(&mut self, bytes: u64) -> bool {
        if self.credit.events() > 0 && self.bytes >= bytes {
            return true;
        }
        // Nothing is held while more is waited for: what is held unused is what others, or this member itself, would wait
        // for for ever.
        (self.credit, self.bytes) = (Credit::none(), 0);
        let patience = if self.has_more && !self.ahead.is_full() { TAKE_EVERY } else { POLL };
        let context = &self.group.context;
        let reserving = self.reserving.get_or_insert_with(|| {
            let (context, bytes) = (context.clone(), bytes.max(CREDIT_BYTES));
            let reserve = async move {
                context.wait_for_store().await;
                (context.budget.reserve(CREDIT_EVENTS, bytes).await, bytes)
            };
            reserve.boxed()
        });
        let reserved = self.group.wait(async { tokio::time::timeout(patience, reserving).await });
        let Ok((credit, reserved)) = reserved else { return false };
        self.reserving = None;
        (self.credit, self.bytes) = (credit, reserved);
        true
    }

    /// Has the consumer read nothing, or read again.
    fn pause(&self, paused: bool) {
        let partitions = {
            let mut state = self.group.state();
            if std::mem::replace(&mut state.paused, paused) == paused {
                return;
            }
            telemetry::kafka_paused(&self.group.context.name, if paused { state.partitions.len() } else { 0 });
            assigned(&state.partitions)
        };
        let done = if paused { self.consumer.pause(&partitions) } else { self.consumer.resume(&partitions) };
        if let Err(error) = done {
            tracing::warn!(trigger = %self.group.context.name, %error, paused, "partitions could not be paused or resumed");
        }
    }

    /// Takes in what was settled, and commits when it is time.
    fn take_settled(&mut self) {
        if self.positions.are_due() {
            self.show();
            self.positions.take_settled();
        }
    }

    /// Moves the metrics: before everything that takes a while.
    fn show(&mut self) {
        let trigger = &self.group.context.name;
        let received = std::mem::take(&mut self.received);
        if received > 0 {
            telemetry::received(trigger, received);
        }
        let ahead = self.ahead.len();
        if std::mem::replace(&mut self.shown, ahead) != ahead {
            telemetry::kafka_read_ahead(trigger, ahead);
        }
    }

    /// Waits until what was handed over is settled: without a bound if the trigger was stopped, unless the node quits.
    fn end(&mut self, is_stopped: bool) {
        self.ahead.clear();
        (self.credit, self.reserving) = (Credit::none(), None);
        self.pause(true);
        let (quit, began) = (self.group.context.drain.token().quit, Instant::now());
        self.group.state().partitions.iter_mut().for_each(Partition::close);
        while !quit.is_cancelled() && (is_stopped || began.elapsed() < GOODBYE) {
            if self.group.state().partitions.iter_mut().all(Partition::is_idle) {
                break;
            }
            // What comes all the same is the next member's; what goes wrong is tried again by the next reader.
            let _: Option<Result<BorrowedMessage<'_>, KafkaError>> = self.consumer.poll(TAKE_EVERY);
            self.positions.go_on();
        }
        self.show();
    }
}

/// The partitions as the client lists them.
pub(super) fn assigned(partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, partition.id);
    }
    list
}
