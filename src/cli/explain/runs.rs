//! What became of an event's deliveries, and what keeps a rule that matches from running.
//!
//! Invariant: each note says what one row says; without a row of a run, it says that none is known.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::cli::output::moment;
use crate::store::control::{ControlPlane, RuleRow};
use crate::store::events::{DeadState, LedgerRow, ParkedState};
use crate::store::{Store, StoreError};

/// Attempts that are read of one event.
const ROWS_MAX: i64 = 1_000;

/// What is known of an event's deliveries.
#[derive(Debug, Default)]
pub struct Runs {
    ledger: Vec<LedgerRow>,
    parked: Vec<ParkedState>,
    dead: Vec<DeadState>,
}

/// Reads what is known of the event `id`.
///
/// # Errors
/// Those of the database.
pub async fn read(store: &Store, id: &str) -> Result<Runs, StoreError> {
    let ledger = store.ledger_of_event(id, ROWS_MAX).await?;
    let deliveries: Vec<Uuid> = ledger.iter().map(|row| row.delivery_id).collect();
    let parked = store.parked_states(&deliveries).await?;
    let dead = store.dead_states(&deliveries, id).await?;
    Ok(Runs { ledger, parked, dead })
}

/// Why the rule of `row`, whose pattern matches, ran or did not.
#[must_use]
pub fn notes(
    row: &RuleRow,
    (trigger, came): (Option<&str>, Option<OffsetDateTime>),
    tables: &ControlPlane,
    runs: &Runs,
) -> Vec<String> {
    let ran = runs.of(&row.rule.name);
    let mut notes: Vec<String> = obstacles(row, trigger, tables);
    let first = runs.ledger.iter().map(|row| row.started_at).chain(came).min();
    if ran.is_empty() && first.is_some_and(|first| row.created_at > first) {
        notes.push(format!("the rule was made at {}, after the event had come", moment(row.created_at)));
    }
    if ran.is_empty() && notes.is_empty() {
        notes.push(match (trigger, runs.ledger.is_empty()) {
            (None, true) => "it would run".to_owned(),
            _ => {
                let rate = row.rule.rate.as_ref().map_or_else(String::new, |rate| {
                    format!(" (its rate lets {} start in a second, so that it may wait)", rate.per_second)
                });
                format!(
                    "no run of it is known: it has not been settled yet{rate}, the rule was changed after the event had come, or \
                     retention dropped it"
                )
            }
        });
    }
    notes.extend(ran);
    notes
}

/// What keeps a rule from running now.
fn obstacles(row: &RuleRow, trigger: Option<&str>, tables: &ControlPlane) -> Vec<String> {
    let name = &row.rule.name;
    let mut found = Vec::new();
    if !row.rule.enabled {
        found.push(format!("the rule is disabled: `oncue rule enable {name}`"));
    }
    if let Some(error) = &row.error {
        found.push(format!("the nodes leave the rule out: {error}"));
    }
    match (&row.rule.trigger, trigger) {
        (Some(own), Some(trigger)) if own != trigger => {
            found.push(format!("the rule sees only events of the trigger {own}; this one came in by {trigger}"));
        }
        _ => {}
    }
    let trigger = trigger.or(row.rule.trigger.as_deref());
    let trigger = trigger.and_then(|name| tables.triggers.iter().find(|t| t.name == name));
    if let Some(trigger) = trigger.filter(|t| t.state != "active") {
        found.push(format!(
            "the trigger {0} is in the state {1}: `oncue trigger show {0}`",
            trigger.name, trigger.state
        ));
    }
    found
}

impl Runs {
    /// What became of each delivery of `rule`.
    fn of(&self, rule: &str) -> Vec<String> {
        let mut last: BTreeMap<Uuid, &LedgerRow> = BTreeMap::new();
        for row in self.ledger.iter().filter(|row| row.rule == rule) {
            last.insert(row.delivery_id, row);
        }
        let settled = last.values().map(|row| {
            let error = row.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!(
                "try {} at {} on {}: {}, {}{error} (delivery {})",
                row.attempt,
                moment(row.started_at),
                row.node,
                row.outcome,
                row.settlement,
                row.delivery_id
            )
        });
        let parked = self.parked.iter().filter(|parked| parked.rule == rule).map(|parked| {
            let why = if parked.class == "held" { "behind an earlier delivery of its key" } else { &parked.class };
            format!("parked ({why}), due {}", moment(parked.next_at))
        });
        let dead = self.dead.iter().filter(|dead| dead.rule.as_deref() == Some(rule));
        let dead = dead
            .map(|dead| format!("dead letter ({}), {}: `oncue dead-letter show {}`", dead.class, dead.state, dead.id));
        settled.chain(parked).chain(dead).collect()
    }
}
