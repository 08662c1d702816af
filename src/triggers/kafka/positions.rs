//! Positions: what was settled is taken in, and the brokers are told of it.
//!
//! Invariant: what is committed is settled. What the brokers have refused or lost is said again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use crate::telemetry;

use super::commits::{self, Commits, Made};
use super::group::{Consumer, Group};
use super::member::{TAKE_EVERY, assigned};
use super::partition::{Commit, Partition};

/// How often positions are committed, unless that many records were settled before.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const COMMIT_RECORDS: u64 = 1_000;
/// How often the brokers are asked whether they still have what was committed, while nothing is.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long commits may be refused before the log says so, and how often it does.
const REFUSED_MAX: Duration = Duration::from_secs(10);

/// The positions of the partitions that a member reads.
pub(super) struct Positions<'c> {
    consumer: &'c Consumer,
    group: Arc<Group>,
    commits: Commits,
    taken: Instant,
    committed: Instant,
    /// When there was something to commit.
    sent: Instant,
    checked: Instant,
    /// Since when every commit was refused.
    refused: Option<Instant>,
    /// Records since the last commit.
    settled: u64,
}

impl<'c> Positions<'c> {
    pub(super) fn new(consumer: &'c Consumer, group: Arc<Group>, commits: Commits) -> Self {
        let now = Instant::now();
        Self {
            consumer,
            group,
            commits,
            taken: now,
            committed: now,
            sent: now,
            checked: now,
            refused: None,
            settled: 0,
        }
    }

    /// Whether it is time to take in what was settled.
    pub(super) fn are_due(&self) -> bool {
        self.taken.elapsed() >= TAKE_EVERY
    }

    /// Takes in what was settled, and commits when it is time.
    pub(super) fn take_settled(&mut self) {
        self.taken = Instant::now();
        let (settled, runs_ahead) = {
            let mut state = self.group.state();
            let settled: u64 = state.partitions.iter_mut().map(Partition::take_released).sum();
            (settled, state.partitions.iter().any(Partition::runs_ahead))
        };
        self.settled += settled;
        self.learn();
        if self.settled >= COMMIT_RECORDS || runs_ahead || self.committed.elapsed() >= COMMIT_EVERY {
            self.commit();
        }
        // What is committed later says more than what would be asked for now.
        if self.sent.elapsed() >= CHECK_EVERY && self.checked.elapsed() >= CHECK_EVERY {
            self.check();
        }
    }

    /// Commits when it is time, where others take in what was settled.
    pub(super) fn go_on(&mut self) {
        self.learn();
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.commit();
        }
    }

    /// Takes in what became of the commit, or the question, that was under way.
    fn learn(&mut self) {
        match self.commits.result() {
            None => {}
            Some(Made::Commit(Ok(()))) => {
                self.refused = None;
                telemetry::kafka_committed(&self.group.context.name);
            }
            Some(Made::Commit(Err(error))) => self.refused(&error),
            Some(Made::Check(assignment, Ok(found))) if assignment == self.group.assignment() => self.compare(&found),
            // The next one tells.
            Some(Made::Check(..)) => {}
        }
    }

    fn refused(&mut self, error: &KafkaError) {
        let trigger = &self.group.context.name;
        telemetry::kafka_commit_refused(trigger);
        self.group.state().partitions.iter_mut().for_each(Partition::unsent);
        // One or two are what a rebalance takes.
        let now = Instant::now();
        if now.duration_since(*self.refused.get_or_insert(now)) < REFUSED_MAX {
            tracing::debug!(%trigger, %error, "a commit was refused; the next one says it again");
            return;
        }
        self.refused = Some(now);
        let error = self.group.words(error);
        tracing::warn!(%trigger, error, "commits are refused; whoever reads on looks up what was settled meanwhile");
    }

    /// Has committed again what the brokers have lost: an unclean election, or a late commit of a member that was given up
    /// and that a broker took all the same.
    fn compare(&self, found: &TopicPartitionList) {
        for element in found.elements() {
            let (topic, id) = (element.topic(), element.partition());
            let brokers_have = match element.error() {
                Ok(()) => commits::offset(&element),
                Err(_) => continue,
            };
            let mut state = self.group.state();
            let partition = state.partitions.iter_mut().find(|p| p.id == id && *p.topic == *topic);
            if let Some(committed) = partition.and_then(|partition| partition.fell_behind(brokers_have)) {
                let trigger = &self.group.context.name;
                tracing::warn!(
                    %trigger, topic, partition = id, committed, ?brokers_have,
                    "the brokers have lost a position; it is committed again"
                );
            }
        }
    }

    /// Asks the brokers what they have.
    fn check(&mut self) {
        if !self.commits.is_free() || self.consumer.assignment_lost() {
            return;
        }
        self.checked = Instant::now();
        let assignment = self.group.assignment();
        let list = assigned(&self.group.state().partitions);
        if list.count() > 0 {
            self.commits.check(assignment, list);
        }
    }

    fn commit(&mut self) {
        // A consumer that has lost its assignment is about to be told so.
        if !self.commits.is_free() || self.consumer.assignment_lost() {
            return;
        }
        let assignment = self.group.assignment();
        let list = {
            let mut state = self.group.state();
            let due = |partition: &mut Partition| -> Option<Commit> {
                let commit = partition.due()?;
                partition.sent(&commit);
                Some(commit)
            };
            let due: Vec<Option<Commit>> = state.partitions.iter_mut().map(due).collect();
            let due = state.partitions.iter().zip(&due).filter_map(|(p, commit)| Some((p, commit.as_ref()?)));
            commits::list(due)
        };
        (self.settled, self.committed) = (0, Instant::now());
        if list.count() > 0 {
            self.sent = Instant::now();
            self.commits.send(assignment, list);
        }
    }
}
