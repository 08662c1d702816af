//! What can go wrong between Oncue and a Kafka cluster, and what mends it.
//!
//! Invariant: an error says what was being done to which bus and repeats the broker's or the client's words; it never
//! holds the value of an option, which may be a secret.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A mistake in the configuration of a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key: `url`, `mechanism`, `options.acks`, ….
    pub key: String,
    /// What is wrong, without a value that may be secret.
    pub message: String,
    /// What to do; empty where the message says it.
    pub fix: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// Why a cluster could not be asked or written to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The configuration has a mistake.
    #[error("bus \"{bus}\": {mistake}")]
    Config {
        /// The bus.
        bus: String,
        /// Which.
        mistake: Mistake,
    },
    /// librdkafka refuses the configuration as a whole.
    #[error("bus \"{bus}\": the client cannot be made: {message}; correct [bus.{bus}]")]
    Client {
        /// The bus.
        bus: String,
        /// The client's words.
        message: String,
    },
    /// No broker answered.
    #[error("bus \"{bus}\": failed to {action} at {brokers}: {message}")]
    Unreachable {
        /// The bus.
        bus: String,
        /// What was being done.
        action: String,
        /// Where.
        brokers: String,
        /// The client's words, and its last error, which says more.
        message: String,
    },
    /// A broker refused.
    #[error("bus \"{bus}\": failed to {action}: {message}")]
    Refused {
        /// The bus.
        bus: String,
        /// What was being done.
        action: String,
        /// The broker's words.
        message: String,
    },
}

impl ClusterError {
    /// Whether the same call may go through later without anything being changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The code of an error, where there is one.
pub(super) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    }
}

/// Whether `error` says that no broker answered, and not that one refused.
pub(super) fn is_silence(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let silent = [
        Code::AllBrokersDown,
        Code::BrokerTransportFailure,
        Code::OperationTimedOut,
        Code::RequestTimedOut,
        Code::Resolve,
        Code::SSL,
        Code::TimedOutQueue,
    ];
    code(error).is_some_and(|code| silent.contains(&code))
}

/// The client's own words: the code's text where there is a code, since the wrapper says only what kind of call it was.
#[must_use]
pub fn words(error: &KafkaError) -> String {
    match (error, code(error)) {
        // Its text repeats the value.
        (KafkaError::ClientConfig(_, _, key, _), _) => format!("the value of `{key}` is not valid"),
        (KafkaError::ClientCreation(text), _) => text.clone(),
        (_, Some(code)) => code.to_string(),
        (_, None) => error.to_string(),
    }
}
