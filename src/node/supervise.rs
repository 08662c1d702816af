//! The triggers of a node: started, stopped and changed as their rows say.
//!
//! Invariant: a trigger's row and its task agree within a reload. A row that cannot run (unknown kind, unknown bus) has
//! its reason in `triggers.error` and in health, and stops no other.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::health::TriggerState;
use crate::store::control::{ControlPlane, TriggerRow};
use crate::store::feeds::Feeds;
use crate::store::groups::Groups;
use crate::triggers::{self, Context, Notice, NoticeKind, TriggerSpec};

use super::Shared;

struct Running {
    row: TriggerRow,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs the triggers of the newest control plane until reading stops, then waits for them.
pub(super) async fn supervise(
    shared: Shared,
    mut planes: watch::Receiver<Option<ControlPlane>>,
    notices: mpsc::Sender<Notice>,
) {
    let stop = shared.drain.token().stop_reading;
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        let rows = planes.borrow_and_update().as_ref().map(|plane| plane.triggers.clone());
        if let Some(rows) = rows {
            // Before they read: what comes is recorded from the first event on.
            let recordings = rows.iter().map(|row| (row.name.clone(), row.recording().what));
            shared.dispatcher.set_recordings(recordings.collect());
            reconcile(&shared, &rows, &mut running, &notices).await;
            shared.health.rules_loaded();
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = planes.changed() => if changed.is_err() { break },
        }
    }
    for (name, trigger) in running {
        if let Err(error) = trigger.task.await {
            tracing::error!(trigger = name, %error, "a trigger ended badly");
        }
    }
}

async fn reconcile(
    shared: &Shared,
    rows: &[TriggerRow],
    running: &mut HashMap<String, Running>,
    notices: &mpsc::Sender<Notice>,
) {
    let gone: Vec<String> = running
        .iter()
        // A trigger that has halted ran to its end; a row that is active (still, or again) starts it anew.
        .filter(|(name, r)| r.task.is_finished() || !rows.iter().any(|row| row.name == **name && same(row, &r.row)))
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        let Some(trigger) = running.remove(&name) else { continue };
        trigger.stop.cancel();
        // The next one of that name must not read before this one stopped.
        if let Err(error) = trigger.task.await {
            tracing::error!(trigger = name, %error, "a trigger ended badly");
        }
        shared.health.forget_trigger(&name);
    }
    for row in rows {
        if running.contains_key(&row.name) {
            continue;
        }
        match start(shared, row, notices) {
            Ok(Some(started)) => drop(running.insert(row.name.clone(), started)),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(trigger = row.name, error, "trigger cannot run");
                shared.health.trigger(&row.name, TriggerState::Error, Some(&error));
                remember_error(shared, &row.name, Some(&error)).await;
            }
        }
    }
}

/// Whether a running trigger need not be touched.
fn same(now: &TriggerRow, running: &TriggerRow) -> bool {
    now.state == "active" && now.bus == running.bus && now.kind == running.kind && now.spec == running.spec
}

fn start(shared: &Shared, row: &TriggerRow, notices: &mpsc::Sender<Notice>) -> Result<Option<Running>, String> {
    let state = match row.state.as_str() {
        "active" => TriggerState::Active,
        "gap" => TriggerState::Gap,
        _ => TriggerState::Paused,
    };
    if state != TriggerState::Active {
        shared.health.trigger(&row.name, state, row.error.as_deref());
        return Ok(None);
    }
    let spec = TriggerSpec::parse(&row.kind, &row.spec).map_err(|error| error.to_string())?;
    let source = shared
        .sources
        .get(&row.bus)
        .cloned()
        .ok_or_else(|| format!("bus: there is no [bus.{}] in this node's configuration", row.bus))?;
    if spec.bus_kind() != source.config.kind {
        return Err(triggers::wrong_bus(&spec, &row.bus));
    }
    shared.health.trigger(&row.name, TriggerState::Error, Some("starting"));
    let stop = shared.drain.token().stop_reading.child_token();
    let context = Context {
        name: Arc::from(row.name.as_str()),
        dispatcher: shared.dispatcher.clone(),
        budget: shared.budget.clone(),
        limits: shared.limits,
        health: shared.health.clone(),
        drain: shared.drain.clone(),
        stop: stop.clone(),
        store_up: shared.dispatcher.settler().store_up(),
        identity: row.identity.clone(),
        notices: notices.clone(),
        feeds: Feeds::new(shared.store.clone(), shared.name.clone()),
        groups: Groups::new(shared.store.clone()),
        backfills: shared.backfills.subscribe(),
        dev: shared.dev,
    };
    let task = shared.drain.spawn(format!("trigger {}", row.name), triggers::run(spec, source, context));
    Ok(Some(Running { row: row.clone(), stop, task }))
}

/// Writes down what triggers found out.
pub(super) async fn remember(shared: Shared, mut notices: mpsc::Receiver<Notice>) {
    let finished = shared.drain.token().finished;
    loop {
        let notice = tokio::select! {
            () = finished.cancelled() => return,
            notice = notices.recv() => notice,
        };
        let Some(Notice { trigger, kind }) = notice else { return };
        let written = match kind {
            NoticeKind::Bound(identity) => shared.store.set_trigger_identity(&trigger, &identity).await,
            NoticeKind::Gap(error) => shared.store.set_trigger_gap(&trigger, &error).await,
            NoticeKind::Reading => {
                remember_error(&shared, &trigger, None).await;
                continue;
            }
            NoticeKind::Failed(error) => {
                remember_error(&shared, &trigger, Some(&error)).await;
                continue;
            }
        };
        if let Err(error) = written {
            tracing::warn!(%trigger, %error, "cannot write down what a trigger found out");
        }
    }
}

async fn remember_error(shared: &Shared, trigger: &str, error: Option<&str>) {
    if let Err(error) = shared.store.set_trigger_error(trigger, error).await {
        tracing::debug!(trigger, %error, "cannot write a trigger's error");
    }
}
