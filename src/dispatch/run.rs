//! One delivery: looked up, run, published, settled.
//!
//! Invariant: `run` returns after its record was committed, or with `Abandoned` and the ticket unreleased. Permits are
//! held only while a function runs, never while its outcome is settled.

mod attempt;
mod delivery;
mod effects;

use std::time::{Duration, Instant};

use crate::delivery::{History, Report, Settlement, settle};
use crate::event::codec;
use crate::outputs::Output;
use crate::settle::Settled;
use crate::store::settle::{AttemptRow, Next, Record};
use crate::telemetry;

use super::Inner;
use super::observe::{Seen, SeenAttempt};
use super::ownership::Pressure;

use self::attempt::{Left, Tried};
use self::delivery::Leaving;
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
    /// It was settled before, by whoever read its source then: parked, perhaps.
    Known,
    Parked,
    /// Its source is somebody else's, who runs it.
    Lost,
    /// The node quit before it was settled.
    Abandoned,
}

/// What the tries of a delivery came to.
enum Tries {
    /// This is to be settled.
    Ended(Vec<AttemptRow>, Next),
    /// It was settled together with its statements; none when the node quit before.
    Settled(Option<Settled>),
}

/// What is said of a delivery that was settled.
#[derive(Clone, Copy)]
struct Fate {
    name: &'static str,
    class: Option<&'static str>,
    due: Option<Duration>,
}

impl Fate {
    const DONE: Self = Self { name: "done", class: None, due: None };

    fn of(next: &Next) -> Self {
        let (class, due) = match next {
            Next::Done | Next::Void => (None, None),
            Next::Park { after_ms, .. } => (None, Some(Duration::from_millis(*after_ms))),
            Next::Dead { class, .. } => (Some(*class), None),
        };
        Self { name: next_name(next), class, due }
    }
}

impl Inner {
    /// Runs `delivery` to its settlement.
    pub(super) async fn run(&self, delivery: Box<Delivery>) -> Ended {
        if delivery.is_lost() {
            return Box::pin(self.abandon(delivery)).await;
        }
        if delivery.sent > 1 {
            match self.lookups.is_settled(delivery.subject.id).await {
                Some(true) => {
                    telemetry::delivered(&delivery.subject.rule, "duplicate", 1);
                    delivery.ticket.settled();
                    return Ended::Known;
                }
                Some(false) if delivery.sent > SUSPECT_AFTER => {
                    let next = delivery.park("suspect", None, Duration::ZERO, true);
                    return self.settle(delivery, Vec::new(), next).await;
                }
                Some(false) => {}
                None => return Ended::Abandoned,
            }
        }
        if delivery.is_pressed() {
            let next = delivery.park_for_pressure();
            return self.settle(delivery, Vec::new(), next).await;
        }
        match self.attempts(&delivery).await {
            Some(Tries::Ended(attempts, next)) => self.settle(delivery, attempts, next).await,
            Some(Tries::Settled(settled)) => self.left(delivery.leave().2, Fate::DONE, settled.as_ref()),
            None => Box::pin(self.abandon(delivery)).await,
        }
    }

    /// Leaves a delivery that had not begun when the node was told to stop, or its source was lost: its source, or another
    /// node, runs it.
    async fn abandon(&self, delivery: Box<Delivery>) -> Ended {
        if let Some(token) = delivery.claim {
            self.lanes.unclaimed(token);
            if let Err(error) = self.store.release_claim(delivery.id(), token, Duration::ZERO).await {
                tracing::debug!(%error, "a claim could not be given back; its lease will end");
            }
        }
        if delivery.is_lost() { Ended::Lost } else { Ended::Abandoned }
    }

    /// Parks `delivery` behind an earlier one of its key, unrun.
    pub(super) async fn hold(&self, delivery: Box<Delivery>) -> Ended {
        if delivery.sent > 1 {
            match self.lookups.is_settled(delivery.subject.id).await {
                Some(true) => {
                    delivery.ticket.settled();
                    return Ended::Known;
                }
                Some(false) => {}
                None => return Ended::Abandoned,
            }
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

    /// Tries until it is settled or there is something to settle; none when the node stops before the first try began.
    async fn attempts(&self, delivery: &Delivery) -> Option<Tries> {
        let began = Instant::now();
        let mut rows = Vec::with_capacity(1);
        loop {
            let inline = u32::try_from(rows.len()).unwrap_or(u32::MAX) + 1;
            let attempt = delivery.attempts_before + inline;
            let mut tried = match self.attempt(delivery, attempt).await {
                Ok(tried) => tried,
                Err(left) => return not_begun(delivery, rows, left),
            };
            if let Some(sql) = tried.sql.take() {
                match Box::pin(self.apply(delivery, rows.clone(), attempt, &tried, sql)).await {
                    Ok(settled) => return Some(Tries::Settled(settled)),
                    Err(refused) => tried = Tried::from(Report { outcome: refused, ..tried.report }),
                }
            }
            let Tried { report, outputs, .. } = tried;
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
            let (class, error) = (report.outcome.class(), report.outcome.message());
            rows.push(row(attempt, report, &settlement, outputs.len()));
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
            return Some(Tries::Ended(rows, next));
        }
    }

    async fn settle(&self, delivery: Box<Delivery>, attempts: Vec<AttemptRow>, next: Next) -> Ended {
        let fate = Fate::of(&next);
        let attempts_total = delivery.attempts_before + u32::try_from(attempts.len()).unwrap_or(u32::MAX);
        let recorded = delivery.recorded.clone();
        let (subject, fence, leaving) = delivery.leave();
        let claim = leaving.claim;
        let record = Record { subject, fence, attempts, claim, attempts_total, next, effects: None, recorded };
        let settled = self.settler.settle(record).await.ok();
        self.left(leaving, fate, settled.as_ref())
    }

    /// Says that a delivery was settled; none if the node quit before it was.
    fn left(&self, leaving: Leaving, fate: Fate, settled: Option<&Settled>) -> Ended {
        let Leaving { rule, claim, next_waits, ticket } = leaving;
        if let Some(token) = claim {
            self.lanes.unclaimed(token);
        }
        match settled {
            None => return Ended::Abandoned,
            Some(Settled::Fenced) => {
                // Another node reads the source now and runs it; this result must leave no trace.
                telemetry::delivered(&rule, "fenced", 1);
                return Ended::Abandoned;
            }
            Some(Settled::Duplicate) => {
                ticket.settled();
                telemetry::delivered(&rule, "duplicate", 1);
                return Ended::Known;
            }
            // Only statements are refused, and a delivery that has some is not left before they are not.
            Some(Settled::Fresh | Settled::Refused(_)) => ticket.settled(),
        }
        telemetry::delivered(&rule, fate.name, 1);
        if let Some(class) = fate.class {
            telemetry::dead_letter(&rule, class);
        }
        if next_waits {
            self.due_in(Duration::ZERO);
        }
        if let Some(due) = fate.due {
            self.due_in(due);
        }
        if fate.due.is_some() { Ended::Parked } else { Ended::Settled }
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

    fn watch(&self, delivery: &Delivery, attempt: u32, report: &Report, outputs: &[Output], settlement: &Settlement) {
        let subject = &delivery.subject;
        tracing::debug!(
            rule = subject.rule, delivery = %subject.id, attempt, outcome = report.outcome.class(), micros = report.micros, fuel = report.fuel, "attempt ended"
        );
        self.see(|| {
            Seen::Attempt(Box::new(SeenAttempt {
                delivery: subject.id.to_string(),
                event_id: subject.event_id.clone(),
                event_type: subject.event_type.clone(),
                event_subject: delivery.event.subject.clone(),
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

fn row(attempt: u32, report: Report, settlement: &Settlement, outputs: usize) -> AttemptRow {
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
        logs: report.logs,
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

/// What becomes of a delivery whose next try did not begin: one that never began is left to its source when the node
/// stops or loses it.
fn not_begun(delivery: &Delivery, mut rows: Vec<AttemptRow>, left: Left) -> Option<Tries> {
    let next = match left {
        Left::Stopped | Left::Lost if rows.is_empty() => return None,
        Left::Stopped | Left::Lost => delivery.park("stopped", None, Duration::ZERO, false),
        Left::Pressed => delivery.park_for_pressure(),
    };
    rows.last_mut().into_iter().for_each(AttemptRow::park);
    Some(Tries::Ended(rows, next))
}

fn next_name(next: &Next) -> &'static str {
    match next {
        Next::Done => "done",
        Next::Void => "void",
        Next::Park { .. } => "parked",
        Next::Dead { .. } => "dead",
    }
}
