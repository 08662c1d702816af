//! Deliveries: an event for one rule, its attempts, and the pure decision of what an outcome means.
//!
//! Invariant: the same (source time, trigger, transport key, rule, generation) gives the same `DeliveryId` on every
//! node and attempt. `settle` knows no store and no clock; its table is its test.

use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::Event;
use crate::function::sql::Statement;
use crate::retry::RetryPolicy;

/// The class of a rejected message that claims to be a published event and is not signed.
pub const FORGED: &str = "forged";

/// The identity of a delivery: a UUIDv8 (RFC 9562, section 5.8) of 48 bits of the source's own time in milliseconds
/// and a hash, so that ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub Uuid);

impl std::fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl DeliveryId {
    /// The id of `rule`'s delivery of the message `transport_key` of `trigger`, whose source gave it the time `at`.
    /// `generation` is 0 for the first and counts redrives.
    #[must_use]
    pub fn derive(at: OffsetDateTime, trigger: &str, transport_key: &[u8], rule: &str, generation: u32) -> Self {
        let mut hash = Sha256::new();
        for part in [trigger.as_bytes(), transport_key, rule.as_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(generation.to_be_bytes());
        let digest = hash.finalize();
        let millis = (at.unix_timestamp_nanos() / 1_000_000).clamp(0, (1 << 48) - 1) as u64;
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&digest[..10]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The id of the event that this delivery emitted as number `index`: the same on every attempt.
    #[must_use]
    pub fn output_id(&self, index: usize) -> String {
        format!("{}-{index}", self.0)
    }

    /// The source's time that the id carries.
    #[must_use]
    pub fn time(&self) -> OffsetDateTime {
        let bytes = self.0.as_bytes();
        let millis = bytes[..6].iter().fold(0_i64, |sum, b| (sum << 8) | i64::from(*b));
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// The limit that a run hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Linear memory.
    Memory,
    /// Table elements.
    Table,
    /// Call stack.
    Stack,
    /// Fuel.
    Fuel,
    /// Bytes of emitted events.
    OutputBytes,
    /// Number of emitted events.
    OutputEvents,
    /// Number of SQL statements.
    Statements,
    /// Instances, memories or tables of one component.
    Instances,
}

impl Limit {
    /// The name that logs, the ledger and metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Table => "table",
            Self::Stack => "stack",
            Self::Fuel => "fuel",
            Self::OutputBytes => "output_bytes",
            Self::OutputEvents => "output_events",
            Self::Statements => "statements",
            Self::Instances => "instances",
        }
    }
}

/// What a function that returned ok leaves to be done, each list in the order of its calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// The events that it emitted.
    pub events: Vec<Event>,
    /// The SQL statements that it buffered.
    pub statements: Vec<Statement>,
}

/// How one run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The function returned ok; nothing of its effects has happened yet.
    Ok(Effects),
    /// The function asked for another try, no sooner than `after`.
    Retry {
        /// Least delay that the function asked for.
        after: Option<Duration>,
        /// The function's words.
        message: String,
    },
    /// The function refused the event for good.
    Reject(String),
    /// The component trapped; the text names the trap.
    Trap(String),
    /// The call took longer than its limit.
    Timeout(Duration),
    /// A limit was hit.
    Limit(Limit, String),
    /// An emitted event had no grant or was no valid event, or a statement is none that its role may run.
    Denied(String),
    /// The outputs could not be published.
    Output(String),
    /// A statement failed when the delivery was settled.
    Sql(String),
    /// The component could not be loaded or instantiated: nothing of the function ran.
    Broken(String),
}

impl Outcome {
    /// The class that the ledger, dead letters and metrics use; a limit carries its name: `limit:memory`.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Retry { .. } => "retry",
            Self::Reject(_) => "reject",
            Self::Trap(_) => "trap",
            Self::Timeout(_) => "timeout",
            Self::Limit(Limit::Memory, _) => "limit:memory",
            Self::Limit(Limit::Table, _) => "limit:table",
            Self::Limit(Limit::Stack, _) => "limit:stack",
            Self::Limit(Limit::Fuel, _) => "limit:fuel",
            Self::Limit(Limit::OutputBytes, _) => "limit:output_bytes",
            Self::Limit(Limit::OutputEvents, _) => "limit:output_events",
            Self::Limit(Limit::Statements, _) => "limit:statements",
            Self::Limit(Limit::Instances, _) => "limit:instances",
            Self::Denied(_) => "denied",
            Self::Output(_) => "output",
            Self::Sql(_) => "sql",
            Self::Broken(_) => "broken",
        }
    }

    /// The words that go with the class; none when it went well.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Ok(_) => None,
            Self::Retry { message, .. }
            | Self::Reject(message)
            | Self::Trap(message)
            | Self::Limit(_, message)
            | Self::Denied(message)
            | Self::Output(message)
            | Self::Sql(message)
            | Self::Broken(message) => Some(message.clone()),
            Self::Timeout(limit) => Some(format!("ran longer than its limit of {} ms", limit.as_millis())),
        }
    }
}

/// A line that a function logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `trace`, `debug`, `info`, `warn`, `error`, `critical`; `stdout` and `stderr` for the standard streams.
    pub level: &'static str,
    /// The text, control characters escaped.
    pub message: String,
}

/// What one run cost and how it ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// When it began, by this node's clock.
    pub started_at: OffsetDateTime,
    /// Wall time of the call in microseconds, from instantiation to its end.
    pub micros: u64,
    /// Fuel that was used.
    pub fuel: u64,
    /// Highest linear memory in bytes.
    pub peak_memory: u64,
    /// What the function logged, up to its limit.
    pub logs: Vec<LogLine>,
    /// Bytes of log that were dropped above the limit.
    pub logs_dropped: u64,
}

/// What follows from an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The delivery is done.
    Done,
    /// Try once more now, inside the inline budget.
    Again,
    /// Keep it in Postgres and try after the delay.
    Park {
        /// Delay from now.
        after: Duration,
    },
    /// Give up: a dead letter.
    Dead,
}

/// Most attempts that run before a delivery is parked (CONTRACT: at most two tries within a second).
pub const INLINE_ATTEMPTS: u32 = 2;

/// The highest number of tries after which a trap, a limit or a timeout is a dead letter: they seldom heal.
pub const CRASH_ATTEMPTS: u32 = 5;

/// What a delivery's history was when its last outcome came in.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Attempts that ran, the last one included.
    pub attempts: u32,
    /// Attempts that ran in this process without a parking in between.
    pub inline: u32,
    /// From the first attempt to now.
    pub age: Duration,
    /// Uniform in 0.0 to 1.0.
    pub jitter: f64,
    /// Whether the delivery may be tried again at once.
    pub may_repeat_inline: bool,
}

/// What follows from `outcome`. Pure: see the table in the tests.
#[must_use]
pub fn settle(policy: &RetryPolicy, history: History, outcome: &Outcome) -> Settlement {
    let crash_policy = RetryPolicy { max_attempts: policy.max_attempts.min(CRASH_ATTEMPTS), ..*policy };
    let (policy, least) = match outcome {
        Outcome::Ok(_) => return Settlement::Done,
        Outcome::Reject(_) | Outcome::Denied(_) => return Settlement::Dead,
        Outcome::Retry { after, .. } => (policy, after.unwrap_or_default()),
        Outcome::Output(_) | Outcome::Sql(_) | Outcome::Broken(_) => (policy, Duration::ZERO),
        Outcome::Trap(_) | Outcome::Timeout(_) | Outcome::Limit(..) => (&crash_policy, Duration::ZERO),
    };
    if !policy.allows(history.attempts, history.age) {
        return Settlement::Dead;
    }
    let inline_helps =
        matches!(outcome, Outcome::Retry { after: None, .. } | Outcome::Trap(_) | Outcome::Output(_) | Outcome::Sql(_));
    if inline_helps && history.may_repeat_inline && history.inline < INLINE_ATTEMPTS {
        return Settlement::Again;
    }
    Settlement::Park { after: policy.delay(history.attempts, history.jitter).max(least) }
}
