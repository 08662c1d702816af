//! Commits in the client's form, and the thread that makes them.
//!
//! Invariant: an offset goes with its note, one question is under way at a time, and no commit of an assignment that has
//! passed is begun. A commit is waited for, because the client tells nothing of one that is not, on a thread of its own,
//! because the member's must poll. Metadata that somebody else wrote and that is no text is none, and ends nothing: the client
//! itself panics on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::group::{Consumer, Group};
use super::partition::{Commit, Partition};

/// How long the brokers may take to say what is committed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be done, under which assignment.
struct Job {
    assignment: u64,
    list: TopicPartitionList,
    what: What,
}

enum What {
    Commit,
    Check,
}

/// What came of it.
pub(super) enum Made {
    /// A commit.
    Commit(KafkaResult<()>),
    /// What the brokers have, asked for under this assignment.
    Check(u64, KafkaResult<TopicPartitionList>),
}

/// Where commits go, and where their results come from.
pub(super) struct Commits {
    jobs: SyncSender<Job>,
    results: Receiver<Made>,
    is_under_way: bool,
}

/// The other end: makes the commits.
pub(super) struct Committer {
    jobs: Receiver<Job>,
    results: SyncSender<Made>,
}

/// Both ends.
pub(super) fn commits() -> (Commits, Committer) {
    let (jobs, wanted) = sync_channel(1);
    let (made, results) = sync_channel(1);
    (Commits { jobs, results, is_under_way: false }, Committer { jobs: wanted, results: made })
}

impl Commits {
    /// Whether the next one may be sent.
    pub(super) fn is_free(&self) -> bool {
        !self.is_under_way
    }

    /// Sends a commit of this assignment off, if nothing is under way.
    pub(super) fn send(&mut self, assignment: u64, list: TopicPartitionList) {
        self.begin(Job { assignment, list, what: What::Commit });
    }

    /// Asks for what is committed of the partitions of `list`, if nothing is under way.
    pub(super) fn check(&mut self, assignment: u64, list: TopicPartitionList) {
        self.begin(Job { assignment, list, what: What::Check });
    }

    fn begin(&mut self, job: Job) {
        self.is_under_way = match self.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.is_under_way,
        };
    }

    /// The result of what was under way, if it is there.
    pub(super) fn result(&mut self) -> Option<Made> {
        match self.results.try_recv() {
            Ok(result) => {
                self.is_under_way = false;
                Some(result)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

impl Committer {
    /// Commits until nobody wants anything more. Blocks.
    pub(super) fn run(self, consumer: &Consumer, group: &Group) {
        while let Ok(Job { assignment, list, what }) = self.jobs.recv() {
            let made = match what {
                What::Commit => {
                    let _under_way = group.committing();
                    // Whoever gave partitions up since has committed them: an older commit must not follow.
                    let present = group.assignment() == assignment;
                    Made::Commit(if present { consumer.commit(&list, CommitMode::Sync) } else { Err(passed()) })
                }
                What::Check => Made::Check(assignment, consumer.committed_offsets(list, ANSWER_TIMEOUT)),
            };
            if self.results.send(made).is_err() {
                return;
            }
        }
    }
}

fn passed() -> KafkaError {
    KafkaError::ConsumerCommit(RDKafkaErrorCode::RebalanceInProgress)
}

/// The list that commits these.
pub(super) fn list<'a>(commits: impl Iterator<Item = (&'a Partition, &'a Commit)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, commit) in commits {
        let mut element = list.add_partition(&partition.topic, partition.id);
        // An offset that is not negative is always taken.
        let _ = element.set_offset(Offset::Offset(commit.offset));
        element.set_metadata(commit.note.to_string());
    }
    list
}

/// The offset that an element has, if it has one.
pub(super) fn offset(element: &TopicPartitionListElem<'_>) -> Option<i64> {
    match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// The metadata of a committed offset.
pub(super) fn metadata(element: &TopicPartitionListElem<'_>) -> String {
    // It touches nothing but the client's memory, which stays as it is.
    catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}
