//! Whether a rule would match what it causes itself.
//!
//! Invariant: what was seen is said as a fact, what grants and subjects allow as a possibility. A stream without subjects of
//! its own trigger may store anything.

use std::collections::BTreeSet;

use crate::event::codec::MAX_HOPS;
use crate::function::{Grants, subject_matches};
use crate::pattern::Pattern;
use crate::rules::Target;
use crate::store::control::{ControlPlane, TriggerRow};
use crate::store::{Store, StoreError};
use crate::triggers::spec::TriggerSpec;

use super::subject::Subject;
use super::tally::Tally;

/// Ledger rows that are read of the deliveries that emitted hits.
const ROWS_MAX: i64 = 10_000;

/// What is said of a loop.
pub(super) async fn warnings(
    subject: &Subject,
    tally: &Tally<'_>,
    tables: &ControlPlane,
    store: &Store,
) -> Result<Vec<String>, StoreError> {
    let mut warnings: Vec<String> = seen(subject, tally, store).await?.into_iter().collect();
    let possible = match subject.target() {
        None => None,
        Some(Target::Run { function, version }) => {
            let is_it = |v: &u32, current: bool| version.map_or(current, |wanted| wanted == *v);
            let found = tables.functions.iter().find(|v| v.function == *function && is_it(&v.version, v.current));
            let emitted = store.emitted_types(function).await?;
            found.and_then(|found| by_grants(subject, function, &found.spec.grants, &emitted, tables))
        }
        Some(Target::Publish { bus, subject: topic }) => {
            let reads = triggers(subject, tables).find(|row| row.bus == *bus && covers(row, topic));
            reads
                .map(|row| format!("it publishes to {bus}/{topic}, which the trigger {} reads: {}", row.name, ending()))
        }
    };
    warnings.extend(possible);
    Ok(warnings)
}

fn ending() -> String {
    format!("a loop, in which each event comes back until it has passed {MAX_HOPS} functions and rules")
}

/// Hits that the rule's function, or the rule, emitted.
async fn seen(subject: &Subject, tally: &Tally<'_>, store: &Store) -> Result<Option<String>, StoreError> {
    let Some(target) = subject.target() else { return Ok(None) };
    let causes: Vec<_> = tally.causes.iter().copied().collect();
    if causes.is_empty() {
        return Ok(None);
    }
    let rows = store.ledger_of_deliveries(&causes, ROWS_MAX).await?;
    let own = rows.iter().filter(|row| match target {
        Target::Run { function, .. } => row.function.as_ref() == Some(function),
        Target::Publish { .. } => row.rule == subject.name(),
    });
    let own: BTreeSet<_> = own.map(|row| row.delivery_id).collect();
    let who = match target {
        Target::Run { function, .. } => format!("runs of {function}"),
        Target::Publish { .. } => "the rule itself".to_owned(),
    };
    Ok((!own.is_empty())
        .then(|| format!("events that {who} emitted are among the hits ({} of them): {}", own.len(), ending())))
}

/// The first type that the function may publish, that comes in again, and that the rule may match.
fn by_grants(
    subject: &Subject,
    function: &str,
    grants: &Grants,
    emitted: &[String],
    tables: &ControlPlane,
) -> Option<String> {
    let pattern = match &subject.rule.rule.pattern {
        Some(text) => Pattern::parse(text).ok()?,
        None => Pattern::match_all(),
    };
    let listed = pattern.texts("type").into_iter().flatten().map(str::to_owned);
    let granted = grants.publish.iter().filter_map(|grant| Some(example(grant.split_once('/')?.1)));
    let types: Vec<String> = emitted.iter().cloned().chain(listed).chain(granted).collect();
    let matching = types.iter().filter(|ty| pattern.allows_text("type", ty));
    let reached = |ty: &&String| {
        let bus = grants.bus_for(ty)?;
        triggers(subject, tables).find(|row| row.bus == bus && covers(row, ty)).map(|row| (bus, row))
    };
    let (ty, (bus, row)) = matching.filter_map(|ty| Some((ty, reached(&ty)?))).next()?;
    let was = if emitted.contains(ty) { "published" } else { "may publish" };
    Some(format!(
        "{function} {was} {bus}/{ty}, which comes in by the trigger {} and may match this rule: {}",
        row.name,
        ending()
    ))
}

/// A subject that `pattern` allows.
fn example(pattern: &str) -> String {
    pattern.split('.').map(|token| if matches!(token, "*" | ">") { "x" } else { token }).collect::<Vec<_>>().join(".")
}

fn triggers<'a>(subject: &'a Subject, tables: &'a ControlPlane) -> impl Iterator<Item = &'a TriggerRow> {
    tables.triggers.iter().filter(|row| subject.trigger().is_none_or(|name| name == row.name))
}

/// Whether what is published to `topic` of its bus comes in by the trigger.
fn covers(row: &TriggerRow, topic: &str) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| subject_matches(pattern, topic));
    match TriggerSpec::parse(&row.kind, &row.spec) {
        Ok(TriggerSpec::JetStream(spec)) => spec.subjects.is_empty() || any(&spec.subjects),
        Ok(TriggerSpec::Kafka(spec)) => spec.reads(topic),
        Ok(TriggerSpec::Nats(spec)) => subject_matches(&spec.subject, topic),
        Ok(TriggerSpec::Postgres(spec)) => spec.relay.is_none() && any(&spec.messages),
        // It does not run either.
        Err(_) => false,
    }
}
