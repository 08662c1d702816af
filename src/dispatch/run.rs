//! One delivery: looked up, run, published, settled.
//!
//! Invariant: `run` returns after its record was committed, or with `Abandoned` and the ticket unreleased. Permits are
//! held only while a function runs, never while its outcome is settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::{DeliveryId, History, Outcome, Report, Settlement, settle};
use crate::event::{AttributeValue, CAUSE, Event, codec};
use crate::outputs::Output;
use crate::rules::{CompiledRule, Planned, RuleSet, Target};
use crate::runtime::CallContext;
use crate::settle::Settled;
use crate::store::parked::Claim;
use crate::store::settle::{AttemptRow, Next, Record, Subject};
use crate::telemetry;

use super::functions::Version;
use super::lanes::LaneKey;
use super::observe::{Seen, SeenAttempt};
use super::ticket::Ticket;
use super::{Inner, holding_key, target_name};

/// A message that its source has sent this often without ever being settled may be what kills nodes: it is parked
/// first, and claimed alone.
const SUSPECT_AFTER: u32 = 3;

/// Process deaths after which a delivery is a dead letter.
const DEATHS_MAX: u32 = 3;

/// How long after its start a delivery may be tried again without being parked.
const INLINE_BUDGET: Duration = Duration::from_secs(1);

/// A delivery on its way.
#[derive(Debug)]
pub(super) struct Delivery {
    subject: Subject,
    rule: Arc<CompiledRule>,
    event: Arc<Event>,
    ordering_key: Option<String>,
    rate_key: Option<String>,
    attempts_before: u32,
    age_before: Duration,
    sent: u32,
    /// The token of its claim, when it was parked.
    pub(super) claim: Option<Uuid>,
    ticket: Ticket,
}

/// How a delivery left the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Settled,
    Parked,
    /// The node quit before it was settled.
    Abandoned,
}

/// Why a claim cannot run.
#[derive(Debug)]
pub(super) enum NotRunnable {
    /// Its rule is there and does not compile, or is not loaded yet: later.
    RuleHeld,
    /// It is settled without a run.
    Settle(Box<Record>),
}

fn cause(event: &Event) -> Option<Uuid> {
    match event.extension(CAUSE)? {
        AttributeValue::String(text) => Uuid::parse_str(text).ok(),
        _ => None,
    }
}

impl Delivery {
    /// A delivery that a source sent.
    pub(super) fn first(
        id: DeliveryId,
        trigger: &str,
        planned: Planned,
        transport_key: Vec<u8>,
        sent: u32,
        ticket: Ticket,
    ) -> Self {
        let subject = Subject {
            id,
            trigger: trigger.to_owned(),
            rule: planned.rule.rule.name.clone(),
            function: target_name(&planned),
            event_id: planned.event.id.clone(),
            event_type: planned.event.ty.clone(),
            event_source: planned.event.source.clone(),
            cause: cause(&planned.event),
            transport_key,
            generation: 0,
            ordering_key: holding_key(&planned),
        };
        let Planned { rule, event, ordering_key, rate_key } = planned;
        let (attempts_before, age_before, claim) = (0, Duration::ZERO, None);
        Self { subject, rule, event, ordering_key, rate_key, attempts_before, age_before, sent, claim, ticket }
    }

    /// A delivery that was parked. It runs the version that it was matched with, by the rule's present policy.
    pub(super) fn claimed(claim: &Claim, rules: &RuleSet, ticket: Ticket) -> Result<Self, NotRunnable> {
        let decoded = codec::from_structured(&claim.event, &codec::Limits::STORED);
        let subject = |event: Option<&Event>| Subject {
            id: claim.id,
            trigger: claim.trigger.clone(),
            rule: claim.rule.clone(),
            function: claim.function.clone(),
            event_id: event.map_or_else(String::new, |e| e.id.clone()),
            event_type: event.map_or_else(String::new, |e| e.ty.clone()),
            event_source: event.map_or_else(String::new, |e| e.source.clone()),
            cause: event.and_then(cause),
            transport_key: claim.transport_key.clone(),
            generation: claim.generation,
            ordering_key: claim.ordering_key.clone(),
        };
        let settled = |next, event| {
            let attempts = Vec::new();
            let record = Record { subject: subject(event), attempts, claim: Some(claim.token), attempts_total: claim.attempts, next };
            NotRunnable::Settle(Box::new(record))
        };
        let dead = |class, error: String| Next::Dead { class, error, event: claim.event.clone(), digest: None };
        let event = decoded.map_err(|error| settled(dead("unreadable", error.to_string()), None))?;
        if claim.deaths >= DEATHS_MAX {
            let error = format!("{} processes died while it ran", claim.deaths);
            return Err(settled(dead("crash", error), Some(&event)));
        }
        if !claim.rule_exists {
            return Err(settled(Next::Void, Some(&event)));
        }
        let rule = rules.rule(&claim.rule).cloned().ok_or(NotRunnable::RuleHeld)?;
        Ok(Self {
            subject: subject(Some(&event)),
            rule,
            event: Arc::new(event),
            ordering_key: claim.ordering_key.clone(),
            rate_key: None,
            attempts_before: claim.attempts,
            age_before: claim.age,
            sent: 1,
            claim: Some(claim.token),
            ticket,
        })
    }

    /// The lane that it runs in; none for an unordered one.
    pub(super) fn lane(&self) -> Option<LaneKey> {
        self.ordering_key.as_ref().map(|key| (self.subject.rule.clone(), key.clone()))
    }

    /// Whether it waits behind a parked one of its key.
    pub(super) fn holds_key(&self) -> bool {
        self.subject.ordering_key.is_some()
    }

    fn park(&self, class: &'static str, error: Option<String>, after: Duration, suspect: bool) -> Next {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Next::Park { after_ms, class, error, event: codec::to_structured(&self.event), suspect }
    }
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
        let (attempts, next) = self.attempts(&delivery).await;
        self.settle(delivery, attempts, next).await
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

    async fn attempts(&self, delivery: &Delivery) -> (Vec<AttemptRow>, Next) {
        let began = Instant::now();
        let mut rows = Vec::with_capacity(1);
        loop {
            let inline = u32::try_from(rows.len()).unwrap_or(u32::MAX) + 1;
            let attempt = delivery.attempts_before + inline;
            let (report, outputs) = self.attempt(delivery, attempt).await;
            let history = History {
                attempts: attempt,
                inline,
                age: delivery.age_before + began.elapsed(),
                jitter: rand::random(),
                may_repeat_inline: delivery.claim.is_none() && began.elapsed() < INLINE_BUDGET,
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
            return (rows, next);
        }
    }

    async fn settle(&self, delivery: Delivery, attempts: Vec<AttemptRow>, next: Next) -> Ended {
        let Delivery { subject, claim, ticket, attempts_before, .. } = delivery;
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
        let held_key = subject.ordering_key.is_some();
        let settled = self.settler.settle(Record { subject, attempts, claim, attempts_total, next }).await;
        if let Some(token) = claim {
            self.lanes.unclaimed(token);
        }
        let Ok(settled) = settled else { return Ended::Abandoned };
        ticket.settled();
        if settled == Settled::Duplicate {
            telemetry::delivered(&rule, "duplicate", 1);
            return Ended::Settled;
        }
        telemetry::delivered(&rule, name, 1);
        if let Some(class) = class {
            telemetry::dead_letter(&rule, class);
        }
        // What was held behind this delivery is due now; a parked one is due later.
        if due.is_some() || (claim.is_some() && held_key) {
            self.due_in(due.unwrap_or_default());
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

    async fn attempt(&self, delivery: &Delivery, attempt: u32) -> (Report, Vec<Output>) {
        if let Some(rate) = &delivery.rule.rule.rate {
            self.rates.wait(&delivery.subject.rule, rate, delivery.rate_key.as_deref()).await;
        }
        match (&delivery.subject.function, &delivery.rule.rule.target) {
            (Some((name, version)), _) => self.invoke(delivery, attempt, name, *version).await,
            (None, Target::Publish { bus, subject }) => self.forward(delivery, bus, subject).await,
            (None, Target::Run { function, .. }) => {
                let text = format!("the rule runs \"{function}\" now, but the delivery was parked to be published");
                (broken(Outcome::Denied(text)), Vec::new())
            }
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

    async fn invoke(&self, delivery: &Delivery, attempt: u32, name: &str, version: u32) -> (Report, Vec<Output>) {
        let Some(entry) = self.functions.version(name, version) else {
            let text = format!("function {name}@{version} is not there: `oncue function show {name}` lists its versions");
            return (broken(Outcome::Broken(text)), Vec::new());
        };
        let loaded = match self.functions.load(&entry).await {
            Ok(loaded) => loaded,
            Err(error) => return (broken(Outcome::Broken(error)), Vec::new()),
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
            let _function = entry.permits.acquire().await;
            let _node = self.permits.acquire().await;
            self.functions.runtime().invoke(&loaded, &delivery.event, &context).await
        };
        telemetry::ran(name, report.outcome.class(), Duration::from_micros(report.micros), report.fuel);
        let outputs = match &mut report.outcome {
            Outcome::Ok(events) => address(delivery, &entry, std::mem::take(events)),
            _ => return (report, Vec::new()),
        };
        let published = match &outputs {
            Ok(outputs) if outputs.is_empty() => Ok(()),
            Ok(outputs) => self.outputs.publish(outputs).await.map_err(|e| Outcome::Output(e.to_string())),
            Err(text) => Err(Outcome::Denied(text.clone())),
        };
        match published {
            Ok(()) => (report, outputs.unwrap_or_default()),
            Err(outcome) => (Report { outcome, ..report }, Vec::new()),
        }
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
        let bus = version.spec.grants.bus_for(&event.ty).ok_or_else(|| {
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
