//! Follows the control plane: every change becomes a new immutable rule set within two seconds.
//!
//! Invariant: a load never fails as a whole: what does not compile is left out and its error is written to its row.
//! LISTEN tells of changes at once; the version is polled as well, because a notification can be missed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::rules::{RuleSet, Target};
use crate::store::StoreError;
use crate::store::control::ControlPlane;
use crate::store::listen::Changes;
use crate::telemetry;

use super::{Shared, outbox};

/// How often the version is asked for: below the two seconds in which a change must be seen.
const POLL: Duration = Duration::from_millis(1_800);

/// Loads the control plane and follows it until the node has finished.
pub(super) async fn follow(shared: Shared, planes: watch::Sender<Option<ControlPlane>>) {
    let finished = shared.drain.token().finished;
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut changes: Option<Changes> = None;
    let mut loaded: Option<i64> = None;
    loop {
        if changes.is_none() {
            // Listen first, then load: nothing falls between.
            changes = shared.store.changes().await.ok();
            loaded = None;
        }
        if loaded.is_none() {
            loaded = match load(&shared, &planes).await {
                Ok(version) => Some(version),
                Err(error) => {
                    tracing::warn!(%error, "cannot load the rules; matching against those that are loaded");
                    None
                }
            };
        }
        let told = async {
            match &mut changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = finished.cancelled() => return,
            told = told => {
                loaded = None;
                if told.is_err() {
                    changes = None;
                    poll.tick().await;
                }
            }
            _ = poll.tick() => match shared.store.pulse().await {
                Ok(pulse) => {
                    if loaded != Some(pulse.ruleset_version) {
                        loaded = None;
                    }
                    shared.dispatcher.due_in_ms(pulse.next_due_ms);
                    outbox::due_in_ms(&shared, pulse.outbox_due_ms);
                    shared.backfills.send_replace(pulse.open_backfills);
                }
                Err(error) => tracing::debug!(%error, "cannot ask for the version of the rules"),
            },
        }
    }
}

async fn load(shared: &Shared, planes: &watch::Sender<Option<ControlPlane>>) -> Result<i64, StoreError> {
    let plane = shared.store.control_plane().await?;
    let version = plane.version;
    shared.dispatcher.functions().refresh(&plane);
    let current: HashMap<String, u32> =
        plane.functions.iter().filter(|f| f.current).map(|f| (f.function.clone(), f.version)).collect();
    let rules = plane.rules.iter().map(|row| row.rule.clone()).collect();
    let (set, refused) = RuleSet::compile(version, rules, &current);
    let mut errors: Vec<(String, String)> =
        refused.into_iter().map(|(name, error)| (name, error.to_string())).collect();
    name_unreadable(&plane, &mut errors);
    for (rule, error) in &errors {
        tracing::warn!(rule, error, "rule quarantined");
    }
    telemetry::rules_loaded(set.len(), errors.len(), version);
    tracing::info!(version, rules = set.len(), quarantined = errors.len(), "rules loaded");
    shared.dispatcher.set_rules(set);
    planes.send_replace(Some(plane));
    shared.store.set_rule_errors(&with_broken(shared, errors.clone())).await?;
    warm(shared, errors);
    shared.reloaded.notify_one();
    Ok(version)
}

/// Says of rules whose function version is there and cannot be read what is wrong with it.
fn name_unreadable(plane: &ControlPlane, errors: &mut [(String, String)]) {
    for (name, error) in errors {
        let rule = plane.rules.iter().find(|row| row.rule.name == *name);
        let Some(Target::Run { function, .. }) = rule.map(|row| &row.rule.target) else { continue };
        if let Some((_, version, why)) = plane.unreadable.iter().find(|(f, ..)| f == function) {
            *error = format!("run: the spec of {function}@{version} cannot be read: {why}; deploy it again");
        }
    }
}

/// Loads the functions that the rules run, off the event path, and tells what cannot be loaded.
fn warm(shared: &Shared, errors: Vec<(String, String)>) {
    let task = shared.clone();
    shared.drain.spawn("function loading", async move {
        let rules = task.dispatcher.rules();
        let functions = task.dispatcher.functions();
        for rule in rules.rules() {
            let (Target::Run { function, .. }, Some(version)) = (&rule.rule.target, rule.version) else { continue };
            let Some(version) = functions.version(function, version) else { continue };
            if task.drain.token().stop_reading.is_cancelled() {
                return;
            }
            if let Err(error) = functions.load(&version).await {
                tracing::error!(rule = rule.rule.name, function, error, "the function of a rule cannot be loaded");
            }
        }
        if task.dispatcher.rules().version == rules.version
            && let Err(error) = task.store.set_rule_errors(&with_broken(&task, errors)).await
        {
            tracing::warn!(%error, "cannot write the errors of the rules");
        }
    });
}

/// `errors`, and those of rules whose function is known not to load.
fn with_broken(shared: &Shared, mut errors: Vec<(String, String)>) -> Vec<(String, String)> {
    for rule in shared.dispatcher.rules().rules() {
        let (Target::Run { function, .. }, Some(version)) = (&rule.rule.target, rule.version) else { continue };
        let known = shared.dispatcher.functions().version(function, version).and_then(|v| v.error());
        if let Some(error) = known {
            errors.push((rule.rule.name.clone(), format!("run: {function}@{version}: {error}")));
        }
    }
    errors
}
