//! What a function may use: limits, grants and configuration of one immutable version.
//!
//! Invariant: a `Limits` that was validated has no zero and no value above the node's ceiling. This file knows
//! neither the sandbox that enforces limits nor the table that stores them.

pub mod sql;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one run, and how many runs may go on at once on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest time of one call in milliseconds, host calls included.
    pub timeout_ms: u64,
    /// Linear memory of one instance in bytes.
    pub memory_bytes: u64,
    /// Units of fuel for one call: about one per WebAssembly instruction.
    pub fuel: u64,
    /// Runs at once on one node.
    pub concurrency: u32,
    /// Sum of the bytes of all emitted events of one call.
    pub output_bytes: u64,
    /// Emitted events of one call.
    pub output_events: u32,
    /// Bytes of log kept of one call; the rest is counted and dropped.
    pub log_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 5_000,
            memory_bytes: 64 << 20,
            fuel: 1_000_000_000,
            concurrency: 64,
            output_bytes: 4 << 20,
            output_events: 1_000,
            log_bytes: 16 << 10,
        }
    }
}

impl Limits {
    /// Longest time of one call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// What a function may reach. What is not granted is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// `bus/subject` patterns that the function may publish to; `*` is one token, a last `>` the rest.
    pub publish: Vec<String>,
    /// SQL in the database of the control plane; none: no SQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlGrant>,
}

/// How a function may use SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlGrant {
    /// The role that its statements run under.
    pub role: String,
}

/// Everything about a function version but its component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionSpec {
    /// Limits of one run.
    pub limits: Limits,
    /// What the function may reach.
    pub grants: Grants,
    /// Values that the function reads through `wasi:config/store`.
    pub config: BTreeMap<String, String>,
}

impl Grants {
    /// The buses that may be published to.
    pub fn buses(&self) -> impl Iterator<Item = &str> {
        self.publish.iter().filter_map(|grant| grant.split_once('/').map(|(bus, _)| bus))
    }

    /// The bus that `subject` may be published to: that of the first grant whose pattern matches.
    #[must_use]
    pub fn bus_for(&self, subject: &str) -> Option<&str> {
        self.publish.iter().find_map(|grant| {
            let (bus, pattern) = grant.split_once('/')?;
            subject_matches(pattern, subject).then_some(bus)
        })
    }
}

/// Whether `subject` matches a NATS subject pattern: `*` is exactly one token, a last `>` one or more tokens.
#[must_use]
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if !token.is_empty() => {}
            (exact, Some(token)) if exact == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Lower-case hexadecimal digits of `bytes`: how a component's digest is shown.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
