//! Commits in the client's form.
//!
//! Invariant: an offset goes with its note. Metadata that somebody else wrote and that is no text is none, and ends nothing:
//! the client itself panics on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::partition::{Commit, Partition};

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
