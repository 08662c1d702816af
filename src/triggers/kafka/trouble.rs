//! What a poll may complain of.
//!
//! Invariant: the consumer is given up for what it does not get over by itself; everything else is shown and waited for. A
//! position that the partition does not have is never reset.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::health::TriggerState;
use crate::triggers::{Failure, NoticeKind};

use super::group::Group;
use super::member::Reading;
use super::place;

/// How often the log and the trigger's row say what is wrong while that changes: a client that cannot connect complains of
/// each broker in turn.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a question to the brokers may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing is read.
pub(super) enum Trouble {
    /// The group has given this member nothing yet, as it is after each start.
    Joining(String),
    /// Something is wrong.
    Complaint(String),
}

impl Reading<'_> {
    /// Takes in what a poll complained of.
    pub(super) fn complain(&self, error: &KafkaError) -> Result<(), Failure> {
        let code = match error {
            KafkaError::MessageConsumption(code) => *code,
            KafkaError::MessageConsumptionFatal(_) => return Err(Failure::Again(self.group.words(error))),
            KafkaError::PartitionEOF(_) => return Ok(()),
            _ => return Err(Failure::Again(error.to_string())),
        };
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => Err(self.out_of_range(error)),
            Code::PollExceeded => {
                tracing::warn!(trigger = %self.group.context.name, "the group gave this member up: its thread was held up");
                Ok(())
            }
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidGroupId
            | Code::InconsistentGroupProtocol
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature => Err(Failure::Again(self.group.words(error))),
            Code::BadMessage | Code::BadCompression => {
                let (name, group, words) = (&self.group.context.name, &self.group.name, self.group.words(error));
                self.group.trouble(format!(
                    "{words}: its partition waits, and nothing is passed over; to leave a damaged batch out: `oncue trigger pause \
                     {name}`, kafka-consumer-groups.sh --reset-offsets --group {group} --topic TOPIC:PARTITION --to-offset NEXT \
                     --execute, `oncue trigger resume {name}`"
                ));
                Ok(())
            }
            // The watch says which.
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => Ok(()),
            _ => {
                self.group.trouble(self.group.words(error));
                Ok(())
            }
        }
    }

    /// A position was out of range: which, and what is missing.
    fn out_of_range(&self, error: &KafkaError) -> Failure {
        let read: Vec<_> =
            self.group.state().partitions.iter().map(|p| (p.topic.to_string(), p.id, p.next())).collect();
        let mut missing = Vec::new();
        for (topic, id, next) in read {
            match self.consumer.fetch_watermarks(&topic, id, ANSWER_TIMEOUT) {
                Ok((low, high)) => missing.extend(place::missing(next, low, high).map(|gap| (topic, id, gap))),
                Err(error) => return Failure::again("cannot ask for the ends of a partition", error),
            }
        }
        // What is settled says where the gap begins; the position is where reading stopped.
        if missing.is_empty() { Failure::Again(self.group.words(error)) } else { self.group.halt(&missing) }
    }
}

impl Group {
    /// Shows what the client gets over by itself: in health at once, in the log and the trigger's row once for each text.
    pub(super) fn trouble(&self, text: String) {
        self.wait(self.show_trouble(Trouble::Complaint(text)));
    }

    /// Likewise.
    pub(super) async fn show_trouble(&self, trouble: Trouble) {
        let (Trouble::Joining(text) | Trouble::Complaint(text)) = &trouble;
        let is_told = {
            let mut state = self.state();
            state.trouble = Some(text.clone());
            let is_told = state.told.as_ref().is_some_and(|(complained, told)| {
                told == text || complained.is_some_and(|at| at.elapsed() < TELL_EVERY)
            });
            if !is_told {
                let complained = matches!(trouble, Trouble::Complaint(_)).then(Instant::now);
                state.told = Some((complained, text.clone()));
            }
            is_told
        };
        self.context.health.trigger(&self.context.name, TriggerState::Error, Some(text));
        if is_told {
            return;
        }
        match &trouble {
            Trouble::Joining(text) => tracing::info!(trigger = %self.context.name, "{text}"),
            Trouble::Complaint(error) => {
                tracing::warn!(trigger = %self.context.name, error, "trigger cannot read; the client tries again by itself");
            }
        }
        self.context.notice(NoticeKind::Failed(text.clone())).await;
    }
}
