//! Commits in the client's form, and the thread that makes them.
//!
//! Invariant: an offset goes with its note, one commit is under way at a time, and none of an assignment that has passed. A commit is waited for, because the client
//! tells nothing of one that is not, on a thread of its own, because the member's must poll. Metadata that somebody else wrote
//! and that is no text is none, and ends nothing: the client itself panics on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::group::{Consumer, Group};
use super::partition::{Commit, Partition};

/// Where commits go, and where their results come from.
pub(super) struct Commits {
    lists: SyncSender<(u64, TopicPartitionList)>,
    results: Receiver<KafkaResult<()>>,
    is_under_way: bool,
}

/// The other end: makes the commits.
pub(super) struct Committer {
    lists: Receiver<(u64, TopicPartitionList)>,
    results: SyncSender<KafkaResult<()>>,
}

/// Both ends.
pub(super) fn commits() -> (Commits, Committer) {
    let (lists, wanted) = sync_channel(1);
    let (made, results) = sync_channel(1);
    (Commits { lists, results, is_under_way: false }, Committer { lists: wanted, results: made })
}

impl Commits {
    /// Whether the next one may be sent.
    pub(super) fn is_free(&self) -> bool {
        !self.is_under_way
    }

    /// Sends a commit of this assignment off, if none is under way.
    pub(super) fn send(&mut self, assignment: u64, list: TopicPartitionList) {
        self.is_under_way = match self.lists.try_send((assignment, list)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.is_under_way,
        };
    }

    /// The result of the one that was under way, if it is there.
    pub(super) fn result(&mut self) -> Option<KafkaResult<()>> {
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
        while let Ok((assignment, list)) = self.lists.recv() {
            let result = {
                let present = group.assignment();
                // Whoever gave partitions up since has committed them: an older commit must not follow.
                if *present == assignment { consumer.commit(&list, CommitMode::Sync) } else { Err(passed()) }
            };
            if self.results.send(result).is_err() {
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

/// The metadata of a committed offset.
pub(super) fn metadata(element: &TopicPartitionListElem<'_>) -> String {
    // It touches nothing but the client's memory, which stays as it is.
    catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}
