//! What a change feed follows.
//!
//! Invariant: the names that it gives for a slot and a publication are ones that Postgres takes, whatever the trigger
//! is called. Two triggers have two, unless their names differ in `-` and `_` only: the second then finds the slot taken.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bus::postgres::{IDENTIFIER_MAX, TableName};
use crate::event::subject;
use crate::function::hex;

use super::{SpecError, check_subject};

/// Most rows of one chunk of a snapshot: a chunk is held in memory.
const CHUNK_ROWS_MAX: u32 = 100_000;

/// Where a new feed begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedStart {
    /// With changes that are committed after its slot was created.
    #[default]
    Now,
    /// With the rows that are there, and the changes of them.
    Snapshot,
}

/// A Postgres trigger: the changes of tables, and messages published in transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSpec {
    /// Tables to take, as in `public.users`; all of the publication without any.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Types of published messages to take, as subject patterns; none with an empty list.
    #[serde(default = "all_messages")]
    pub messages: Vec<String>,
    /// The publication; `oncue_<trigger>` without a name.
    #[serde(default)]
    pub publication: Option<String>,
    /// The replication slot; `oncue_<trigger>` without a name.
    #[serde(default)]
    pub slot: Option<String>,
    /// Create publication and slot where they are not there.
    #[serde(default)]
    pub create: bool,
    /// Where a new feed begins.
    #[serde(default)]
    pub start: FeedStart,
    /// Hand events on to a bus and a subject prefix instead of matching them here.
    #[serde(default)]
    pub relay: Option<String>,
    /// Rows of one chunk of a snapshot.
    #[serde(default = "chunk_rows")]
    pub chunk_rows: u32,
    /// Most rows a second of snapshots and backfills; no limit without.
    #[serde(default)]
    pub rows_per_second: Option<u32>,
    /// Create the slot so that it is copied to standbys, on servers that can.
    #[serde(default)]
    pub failover: bool,
}

fn all_messages() -> Vec<String> {
    vec![">".to_owned()]
}

fn chunk_rows() -> u32 {
    1_000
}

impl Default for PostgresSpec {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            messages: all_messages(),
            publication: None,
            slot: None,
            create: false,
            start: FeedStart::Now,
            relay: None,
            chunk_rows: chunk_rows(),
            rows_per_second: None,
            failover: false,
        }
    }
}

impl PostgresSpec {
    /// The publication's name for `trigger`.
    #[must_use]
    pub fn publication(&self, trigger: &str) -> String {
        self.publication.clone().unwrap_or_else(|| default_name(trigger))
    }

    /// The slot's name for `trigger`.
    #[must_use]
    pub fn slot(&self, trigger: &str) -> String {
        self.slot.clone().unwrap_or_else(|| default_name(trigger))
    }

    /// Whether it takes published messages and no table's changes.
    #[must_use]
    pub fn follows_messages_only(&self) -> bool {
        self.tables.is_empty() && self.publication.is_none()
    }

    /// Bus and subject prefix of `relay`.
    #[must_use]
    pub fn relay(&self) -> Option<(&str, &str)> {
        self.relay.as_deref()?.split_once('/')
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        for table in &self.tables {
            table.parse::<TableName>().map_err(|error| SpecError(format!("tables: {error}")))?;
        }
        self.messages.iter().try_for_each(|pattern| check_subject("messages", pattern, subject::check_pattern))?;
        if self.follows_messages_only() && self.messages.is_empty() {
            return Err(SpecError("tables: the trigger takes neither tables nor messages".to_owned()));
        }
        if let Some(publication) = &self.publication {
            check_identifier("publication", publication)?;
        }
        if let Some(slot) = &self.slot {
            let is_slot = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            check_identifier("slot", slot)?;
            if !slot.chars().all(is_slot) {
                return Err(SpecError(format!("slot: {slot:?} is no slot's name: it has a-z, 0-9 and _ only")));
            }
        }
        if let Some(relay) = &self.relay {
            check_relay(relay)?;
        }
        if !(1..=CHUNK_ROWS_MAX).contains(&self.chunk_rows) {
            return Err(SpecError(format!("chunk_rows: {} is not in 1 to {CHUNK_ROWS_MAX}", self.chunk_rows)));
        }
        if self.rows_per_second == Some(0) {
            return Err(SpecError("rows_per_second: 0 would never end; leave it out for no limit".to_owned()));
        }
        Ok(())
    }
}

/// `oncue_<trigger>` with the characters that a slot may have; a long one ends in a digest instead of being cut.
fn default_name(trigger: &str) -> String {
    let name = format!("oncue_{}", trigger.replace('-', "_"));
    if name.len() <= IDENTIFIER_MAX {
        return name;
    }
    let digest = hex(&Sha256::digest(trigger.as_bytes())[..4]);
    let kept: String = name.chars().take(IDENTIFIER_MAX - 9).collect();
    format!("{kept}_{digest}")
}

fn check_identifier(field: &str, name: &str) -> Result<(), SpecError> {
    match name.len() {
        0 => Err(SpecError(format!("{field}: the name is empty"))),
        length if length > IDENTIFIER_MAX => {
            Err(SpecError(format!("{field}: {name:?} has {length} bytes, more than the {IDENTIFIER_MAX} of Postgres")))
        }
        _ if name.chars().any(char::is_control) => {
            Err(SpecError(format!("{field}: {name:?} holds a control character")))
        }
        _ => Ok(()),
    }
}

fn check_relay(relay: &str) -> Result<(), SpecError> {
    let form = "is no bus and subject prefix, as in \"events/db\"";
    let Some((bus, prefix)) = relay.split_once('/').filter(|(bus, _)| !bus.is_empty()) else {
        return Err(SpecError(format!("relay: {relay:?} {form}")));
    };
    if bus.contains(char::is_whitespace) {
        return Err(SpecError(format!("relay: {relay:?} {form}")));
    }
    check_subject("relay", prefix, subject::check)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::triggers::spec::TriggerSpec;

    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_comes_back_as_it_was() {
        let spec = TriggerSpec::parse("postgres", &json!({ "tables": ["public.users"] })).expect("it is right");
        let expected = PostgresSpec { tables: vec!["public.users".to_owned()], ..PostgresSpec::default() };
        assert_eq!(spec, TriggerSpec::Postgres(expected));
        assert_eq!(TriggerSpec::parse(spec.kind(), &spec.to_json()), Ok(spec));
    }

    #[test]
    fn mistakes_name_their_field() {
        let table = [
            (json!({ "tables": ["a b"] }), "tables: \"a b\""),
            (json!({ "tables": ["a"], "messages": ["a..b"] }), "messages: \"a..b\" has an empty token"),
            (json!({ "messages": [] }), "tables: "),
            (json!({ "tables": ["a"], "slot": "Slot" }), "slot: \"Slot\""),
            (json!({ "tables": ["a"], "slot": "s".repeat(64) }), "slot: "),
            (json!({ "tables": ["a"], "publication": "" }), "publication: "),
            (json!({ "tables": ["a"], "relay": "events" }), "relay: "),
            (json!({ "tables": ["a"], "relay": "events/db.>" }), "relay: "),
            (json!({ "tables": ["a"], "chunk_rows": 0 }), "chunk_rows: "),
            (json!({ "tables": ["a"], "rows_per_second": 0 }), "rows_per_second: "),
            (json!({ "tables": ["a"], "start": "all" }), "spec: "),
            (json!({ "table": ["a"] }), "spec: unknown field `table`"),
        ];
        for (spec, expected) in table {
            let error = TriggerSpec::parse("postgres", &spec).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn a_slot_has_a_name_that_postgres_takes_whatever_the_trigger_is_called() {
        let spec = PostgresSpec::default();
        assert_eq!(spec.slot("users"), "oncue_users");
        assert_eq!(spec.slot("new-users"), "oncue_new_users");
        let (long, other) = ("x".repeat(63), format!("{}y", "x".repeat(62)));
        let names = [&long, &other].map(|trigger| spec.slot(trigger));
        for name in &names {
            assert!(name.len() <= 63, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        }
        assert_ne!(names[0], names[1]);
    }
}
