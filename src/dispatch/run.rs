//! One delivery: looked up, run, published, settled.
//!
//! Invariant: `run` returns after its record was committed, or with `Abandoned` and the ticket unreleased. Permits are
//! held only while a function runs, never while its outcome is settled.

mod delivery;

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::delivery::{DeliveryId, History, Outcome, Report, Settlement, settle};
use crate::event::{Event, codec};
use crate::outputs::Output;
use crate::rules::Target;
use crate::runtime::CallContext;
use crate::settle::Settled;
use crate::store::settle::{AttemptRow, Next, Record};
use crate::telemetry;

use super::Inner;
use super::functions::Version;
use super::observe::{Seen, SeenAttempt};
use super::ownership::Pressure;

pub(super) use self::delivery::{Delivery, NotRunnable};

/// A message that its source has sent this often without ever being settled may be what kills nodes: it is parked
/// first, and claimed alone.
const SUSPECT_AFTER: u32 = 3;

/// How long after its start a delivery may be tried again without being parked.
const INLINE_BUDGET: Duration = Duration::from_secs(1);

/// How a delivery left the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Settled,
    Parked,
    /// The node quit before it was settled.
    Abandoned,
}

impl Inner {
    /// Runs `delivery` to its settlement.
    pub(super) async fn run(&self, delivery: Delivery) -> Ended {
        if delivery.sent > 1 {
            match self.is_settled(delivery.subject.id).await {
                Some(true) => {
                    telemetry::delivered(&delivery.subject.rule, "duplicate", 1);
                    delivery.ticket.settled();
                    return Ended::Settled;
                }
                Some(false) if delivery.sent > SUSPECT_AFTER => {
                    let next = delivery.park("suspect", None, Duration::ZERO, true);
                    return self.settle(delivery, Vec::new(), next).await;
                }
                Some(false) => {}
                None => return Ended::Abandoned,
            }
        }
        match self.attempts(&delivery).await {
            Some((attempts, next)) => self.settle(delivery, attempts, next).await,
            None => self.abandon(delivery).await,
        }
    }

    /// Leaves a delivery that had not begun when the node was told to stop: its source, or another node, runs it.
    async fn abandon(&self, delivery: Delivery) -> Ended {
        if let Some(token) = delivery.claim {
            self.lanes.unclaimed(token);
            if let Err(error) = self.store.release_claim(delivery.id(), token, Duration::ZERO).await {
                tracing::debug!(%error, "a claim could not be given back; its lease will end");
            }
        }
        Ended::Abandoned
    }

    /// Parks `delivery` behind an earlier one of its key, unrun.
    pub(super) async fn hold(&self, delivery: Delivery) -> Ended {
        if delivery.sent > 1 && self.is_settled(delivery.subject.id).await != Some(false) {
            delivery.ticket.settled();
            return Ended::Settled;
        }
        let next = delivery.park("held", None, Duration::ZERO, false);
        self.settle(delivery, Vec::new(), next).await
    }

    /// Commits `record` of a claim that did not run.
    pub(super) async fn finish(&self, record: Record) {
        let (rule, class) = (record.subject.rule.clone(), next_name(&record.next));
        if self.settler.settle(record).await.is_ok() {
            telemetry::delivered(&rule, class, 1);
        }
    }

    async fn is_settled(&self, id: DeliveryId) -> Option<bool> {
        let quit = self.drain.token().quit;
        let mut pause = Duration::from_millis(100);
        loop {
            match self.store.settled(&[id]).await {
                Ok(settled) => return Some(settled.contains(&id)),
                Err(error) => tracing::debug!(%error, delivery = %id, "cannot look up a delivery yet"),
            }
            tokio::select! {
                () = quit.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
            }
        }
    }

    /// Tries until there is something to settle; none when the node stops before the first try began.
    async fn attempts(&self, delivery: &Delivery) -> Option<(Vec<AttemptRow>, Next)> {
        let began = Instant::now();
        let mut rows = Vec::with_capacity(1);
        loop {
            let inline = u32::try_from(rows.len()).unwrap_or(u32::MAX) + 1;
            let attempt = delivery.attempts_before + inline;
            let Some((report, outputs)) = self.attempt(delivery, attempt).await else {
                let last = rows.last_mut()?;
                // A try failed and the node stops before the next: what is due later is tried elsewhere.
                AttemptRow::park(last);
                return Some((rows, delivery.park("stopped", None, Duration::ZERO, false)));
            };
            let history = History {
                attempts: attempt,
                inline,
                age: delivery.age_before + began.elapsed(),
                jitter: rand::random(),
                may_repeat_inline: delivery.claim.is_none()
                    && delivery.pressure() == Pressure::Green
                    && began.elapsed() < INLINE_BUDGET,
            };
            let settlement = settle(&delivery.rule.rule.retry, history, &report.outcome);
            self.watch(delivery, attempt, &report, &outputs, &settlement);
            rows.push(row(attempt, &report, &settlement, outputs.len()));
            let (class, error) = (report.outcome.class(), report.outcome.message());
            let next = match settlement {
                Settlement::Again => continue,
                Settlement::Done => Next::Done,
                Settlement::Park { after } => delivery.park(class, error, after, false),
                Settlement::Dead => Next::Dead {
                    class,
                    error: error.unwrap_or_default(),
                    event: codec::to_structured(&delivery.event),
                    digest: self.version(delivery).map(|v| v.digest.clone()),
                },
            };
            return Some((rows, next));
        }
    }

    async fn settle(&self, delivery: Delivery, attempts: Vec<AttemptRow>, next: Next) -> Ended {
        let Delivery { subject, claim, suspect, ownership, ticket, attempts_before, .. } = delivery;
        let attempts_total = attempts_before + u32::try_from(attempts.len()).unwrap_or(u32::MAX);
        let due = match &next {
            Next::Park { after_ms, .. } => Some(Duration::from_millis(*after_ms)),
            _ => None,
        };
        let (rule, name) = (subject.rule.clone(), next_name(&next));
        let class = match &next {
            Next::Dead { class, .. } => Some(*class),
            _ => None,
        };
        // What waits until this one has ended: later ones of its key, and the next suspect.
        let next_waits = claim.is_some() && (subject.ordering_key.is_some() || suspect);
        let fence = ownership.map(|o| o.fence());
        let settled = self.settler.settle(Record { subject, fence, attempts, claim, attempts_total, next }).await;
        if let Some(token) = claim {
            self.lanes.unclaimed(token);
        }
        let Ok(settled) = settled else { return Ended::Abandoned };
        if settled == Settled::Fenced {
            // Another node reads the source now and runs it; this result must leave no trace.
            telemetry::delivered(&rule, "fenced", 1);
            return Ended::Abandoned;
        }
        ticket.settled();
        if settled == Settled::Duplicate {
            telemetry::delivered(&rule, "duplicate", 1);
            return Ended::Settled;
        }
        telemetry::delivered(&rule, name, 1);
        if let Some(class) = class {
            telemetry::dead_letter(&rule, class);
        }
        if next_waits {
            self.due_in(Duration::ZERO);
        }
        if let Some(due) = due {
            self.due_in(due);
        }
        if due.is_some() { Ended::Parked } else { Ended::Settled }
    }

    pub(super) fn due_in(&self, after: Duration) {
        let due = tokio::time::Instant::now() + after;
        self.parked.send_if_modified(|next| {
            let sooner = next.is_none_or(|next| due < next);
            if sooner {
                *next = Some(due);
            }
            sooner
        });
    }

    fn version(&self, delivery: &Delivery) -> Option<Arc<Version>> {
        let (name, version) = delivery.subject.function.as_ref()?;
        self.functions.version(name, *version)
    }

    /// One try; none when the node stops before it began.
    async fn attempt(&self, delivery: &Delivery, attempt: u32) -> Option<(Report, Vec<Output>)> {
        if let Some(rate) = &delivery.rule.rule.rate {
            let turn = self.rates.wait(&delivery.subject.rule, rate, delivery.rate_key.as_deref());
            self.unless_stopped(turn).await?;
        }
        let done = match (&delivery.subject.function, &delivery.rule.rule.target) {
            (Some((name, version)), _) => return self.invoke(delivery, attempt, name, *version).await,
            (None, Target::Publish { bus, subject }) => self.forward(delivery, bus, subject).await,
            (None, Target::Run { function, .. }) => {
                let text = format!("the rule runs \"{function}\" now, but the delivery was parked to be published");
                (broken(Outcome::Denied(text)), Vec::new())
            }
        };
        Some(done)
    }

    async fn unless_stopped<T>(&self, turn: impl Future<Output = T>) -> Option<T> {
        let stop = self.drain.token().stop_reading;
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            turn = turn => Some(turn),
        }
    }

    async fn forward(&self, delivery: &Delivery, bus: &str, subject: &str) -> (Report, Vec<Output>) {
        let (started_at, began) = (OffsetDateTime::now_utc(), Instant::now());
        let target = (bus.to_owned(), subject.to_owned());
        let output = Output::new(delivery.subject.id, 0, &delivery.event, target, Event::clone(&delivery.event));
        let (outcome, outputs) = match output {
            Ok(output) => match self.outputs.publish(std::slice::from_ref(&output)).await {
                Ok(()) => (Outcome::Ok(Vec::new()), vec![output]),
                Err(error) => (Outcome::Output(error.to_string()), Vec::new()),
            },
            Err(error) => (Outcome::Denied(error.to_string()), Vec::new()),
        };
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        (Report { started_at, micros, ..broken(outcome) }, outputs)
    }

    async fn invoke(
        &self,
        delivery: &Delivery,
        attempt: u32,
        name: &str,
        version: u32,
    ) -> Option<(Report, Vec<Output>)> {
        let Some(entry) = self.functions.version(name, version) else {
            let text =
                format!("function {name}@{version} is not there: `oncue function show {name}` lists its versions");
            return Some((broken(Outcome::Broken(text)), Vec::new()));
        };
        let loaded = match self.unless_stopped(self.functions.load(&entry)).await? {
            Ok(loaded) => loaded,
            Err(error) => return Some((broken(Outcome::Broken(error)), Vec::new())),
        };
        let context = CallContext {
            delivery_id: delivery.subject.id.to_string(),
            attempt,
            rule: delivery.subject.rule.clone(),
            trigger: delivery.subject.trigger.clone(),
            function: name.to_owned(),
            version,
        };
        let mut report = {
            // The function's permit first: a slow function's queue must not take the node's permits.
            let _function = self.unless_stopped(entry.permits.acquire()).await?;
            let _node = self.unless_stopped(self.permits.acquire()).await?;
            self.functions.runtime().invoke(&loaded, &delivery.event, &context).await
        };
        telemetry::ran(name, report.outcome.class(), Duration::from_micros(report.micros), report.fuel);
        let Outcome::Ok(events) = &mut report.outcome else { return Some((report, Vec::new())) };
        match self.publish(delivery, &entry, std::mem::take(events)).await {
            Ok(outputs) => Some((report, outputs)),
            Err(outcome) => Some((Report { outcome, ..report }, Vec::new())),
        }
    }

    async fn publish(
        &self,
        delivery: &Delivery,
        version: &Version,
        events: Vec<Event>,
    ) -> Result<Vec<Output>, Outcome> {
        let outputs = address(delivery, version, events).map_err(Outcome::Denied)?;
        if !outputs.is_empty() {
            self.outputs.publish(&outputs).await.map_err(|error| Outcome::Output(error.to_string()))?;
        }
        Ok(outputs)
    }

    fn watch(&self, delivery: &Delivery, attempt: u32, report: &Report, outputs: &[Output], settlement: &Settlement) {
        let subject = &delivery.subject;
        tracing::debug!(
            event.id = subject.event_id, rule = subject.rule, delivery = %subject.id, attempt,
            outcome = report.outcome.class(), micros = report.micros, fuel = report.fuel, "attempt ended"
        );
        self.see(|| {
            Seen::Attempt(Box::new(SeenAttempt {
                delivery: subject.id.to_string(),
                event_id: subject.event_id.clone(),
                event_type: subject.event_type.clone(),
                trigger: subject.trigger.clone(),
                rule: subject.rule.clone(),
                function: subject.function.clone(),
                attempt,
                outcome: report.outcome.class(),
                message: report.outcome.message(),
                micros: report.micros,
                fuel: report.fuel,
                peak_memory: report.peak_memory,
                outputs: outputs.iter().map(|o| format!("{}/{}", o.bus, o.subject)).collect(),
                settlement: settlement_name(settlement),
                retry_in: match settlement {
                    Settlement::Park { after } => Some(*after),
                    _ => None,
                },
                logs: report.logs.clone(),
            }))
        });
    }
}

/// Gives every emitted event the bus that its grant names.
fn address(delivery: &Delivery, version: &Version, events: Vec<Event>) -> Result<Vec<Output>, String> {
    let route = |(index, event): (usize, Event)| {
        let bus =
            version.spec.grants.bus_for(&event.ty).ok_or_else(|| {
                format!("publishing \"{0}\" is not granted: add \"BUS/{0}\" to grants.publish", event.ty)
            })?;
        let target = (bus.to_owned(), event.ty.clone());
        Output::new(delivery.subject.id, index, &delivery.event, target, event).map_err(|error| error.to_string())
    };
    events.into_iter().enumerate().map(route).collect()
}

fn broken(outcome: Outcome) -> Report {
    Report {
        outcome,
        started_at: OffsetDateTime::now_utc(),
        micros: 0,
        fuel: 0,
        peak_memory: 0,
        logs: Vec::new(),
        logs_dropped: 0,
    }
}

fn row(attempt: u32, report: &Report, settlement: &Settlement, outputs: usize) -> AttemptRow {
    AttemptRow {
        attempt,
        outcome: report.outcome.class(),
        settlement: settlement_name(settlement),
        error: report.outcome.message(),
        started_at: report.started_at,
        micros: report.micros,
        fuel: report.fuel,
        peak_memory: report.peak_memory,
        outputs: u32::try_from(outputs).unwrap_or(u32::MAX),
        logs: report.logs.clone(),
        logs_dropped: report.logs_dropped,
    }
}

fn settlement_name(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Done => "done",
        Settlement::Again => "again",
        Settlement::Park { .. } => "parked",
        Settlement::Dead => "dead",
    }
}

fn next_name(next: &Next) -> &'static str {
    match next {
        Next::Done => "done",
        Next::Void => "void",
        Next::Park { .. } => "parked",
        Next::Dead { .. } => "dead",
    }
}
