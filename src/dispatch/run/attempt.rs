//! One attempt: permits, the run, and what becomes of what it emitted.
//!
//! Invariant: permits are held only while the function runs. Events of a run without statements are published here,
//! before anything is settled; those of a run with statements go the way of its statements.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use time::OffsetDateTime;

use crate::delivery::{Effects, Outcome, Report};
use crate::event::Event;
use crate::function::sql::Statement;
use crate::outputs::{Output, OutputError};
use crate::rules::Target;
use crate::runtime::CallContext;
use crate::telemetry;

use super::Delivery;
use crate::dispatch::Inner;
use crate::dispatch::functions::Version;

/// What an attempt came to.
pub(super) struct Tried {
    pub(super) report: Report,
    /// What was published; with statements, what will be.
    pub(super) outputs: Vec<Output>,
    /// What is still to be done.
    pub(super) sql: Option<Sql>,
}

/// Why a try did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The node stops.
    Stopped,
    /// Its source is somebody else's.
    Lost,
    /// It waited, and its source is about to lose what is behind it.
    Pressed,
}

/// Statements, and the role that they run under.
pub(super) struct Sql {
    pub(super) role: String,
    pub(super) statements: Vec<Statement>,
}

impl From<Report> for Tried {
    fn from(report: Report) -> Self {
        Self { report, outputs: Vec::new(), sql: None }
    }
}

impl From<Outcome> for Tried {
    fn from(outcome: Outcome) -> Self {
        Self::from(not_run(outcome))
    }
}

impl Inner {
    pub(super) fn version(&self, delivery: &Delivery) -> Option<Arc<Version>> {
        let (name, version) = delivery.subject.function.as_ref()?;
        self.functions.version(name, *version)
    }

    /// One try, if it comes to that.
    pub(super) async fn attempt(&self, delivery: &Delivery, attempt: u32) -> Result<Tried, Left> {
        if let Some(rate) = &delivery.rule.rule.rate {
            let mut turn = Box::pin(self.rates.wait(&delivery.subject.rule, rate, delivery.rate_key.as_deref()));
            self.in_turn(delivery, turn.as_mut()).await?;
        }
        let done = match (&delivery.subject.function, &delivery.rule.rule.target) {
            (Some((name, version)), _) => return self.invoke(delivery, attempt, name, *version).await,
            (None, Target::Publish { bus, subject }) => self.forward(delivery, bus, subject).await,
            (None, Target::Run { function, .. }) => {
                let text = format!("the rule runs \"{function}\" now, but the delivery was parked to be published");
                Tried::from(Outcome::Denied(text))
            }
        };
        Ok(done)
    }

    /// Waits for `turn`, unless the node stops, or the source is lost or suffers too much from what waits.
    async fn in_turn<T>(&self, delivery: &Delivery, mut turn: Pin<&mut impl Future<Output = T>>) -> Result<T, Left> {
        // Mostly it is there at once, and to be told of the end of a node costs locks that all deliveries want.
        if !self.drain.stop_reading_token().is_cancelled()
            && let Some(turn) = turn.as_mut().now_or_never()
        {
            return if delivery.is_lost() { Err(Left::Lost) } else { Ok(turn) };
        }
        Box::pin(self.in_late_turn(delivery, turn)).await
    }

    async fn in_late_turn<T>(&self, delivery: &Delivery, turn: Pin<&mut impl Future<Output = T>>) -> Result<T, Left> {
        tokio::select! {
            biased;
            () = self.drain.stop_reading_token().cancelled() => Err(Left::Stopped),
            turn = turn => if delivery.is_lost() { Err(Left::Lost) } else { Ok(turn) },
            () = delivery.lost() => Err(Left::Lost),
            () = delivery.pressed() => Err(Left::Pressed),
        }
    }

    async fn forward(&self, delivery: &Delivery, bus: &str, subject: &str) -> Tried {
        let (started_at, began) = (OffsetDateTime::now_utc(), Instant::now());
        let target = (bus.to_owned(), subject.to_owned());
        let output = Output::new(delivery.subject.id, 0, &delivery.event, target, Event::clone(&delivery.event));
        let (outcome, outputs) = match output {
            Ok(output) => match self.publish(std::slice::from_ref(&output)).await {
                Ok(()) => (Outcome::Ok(Effects::default()), vec![output]),
                Err(error) => (Outcome::Output(error.to_string()), Vec::new()),
            },
            Err(error) => (Outcome::Denied(error.to_string()), Vec::new()),
        };
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Tried { report: Report { started_at, micros, ..not_run(outcome) }, outputs, sql: None }
    }

    async fn invoke(&self, delivery: &Delivery, attempt: u32, name: &str, version: u32) -> Result<Tried, Left> {
        let Some(entry) = self.functions.version(name, version) else {
            let text =
                format!("function {name}@{version} is not there: `oncue function show {name}` lists its versions");
            return Ok(Tried::from(Outcome::Broken(text)));
        };
        let loaded = match self.in_turn(delivery, pin!(self.functions.load(&entry))).await? {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Tried::from(Outcome::Broken(error))),
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
            let _function = self.in_turn(delivery, pin!(entry.permits.acquire())).await?;
            let _node = self.in_turn(delivery, pin!(self.permits.acquire())).await?;
            // In a box that is gone when it returns: a delivery that waits for others to settle holds none of it.
            Box::pin(self.functions.runtime().invoke(&loaded, &delivery.event, context)).await
        };
        telemetry::ran(name, report.outcome.class(), Duration::from_micros(report.micros), report.fuel);
        let Outcome::Ok(effects) = &mut report.outcome else { return Ok(Tried::from(report)) };
        match self.emit(delivery, &entry, std::mem::take(effects)).await {
            Ok((outputs, sql)) => Ok(Tried { report, outputs, sql }),
            Err(outcome) => Ok(Tried::from(Report { outcome, ..report })),
        }
    }

    /// In a box: thousands of deliveries wait at a time, and hardly one of them publishes just then.
    fn publish<'a>(&'a self, outputs: &'a [Output]) -> BoxFuture<'a, Result<(), OutputError>> {
        Box::pin(self.outputs.publish(outputs))
    }

    /// Publishes what was emitted; where there are statements too, nothing is published before they are committed.
    async fn emit(
        &self,
        delivery: &Delivery,
        version: &Version,
        effects: Effects,
    ) -> Result<(Vec<Output>, Option<Sql>), Outcome> {
        let outputs = address(delivery, version, effects.events).map_err(Outcome::Denied)?;
        if !effects.statements.is_empty() {
            let grant = version.spec.grants.sql.as_ref();
            let grant = grant.ok_or_else(|| Outcome::Denied("SQL is not granted".to_owned()))?;
            return Ok((outputs, Some(Sql { role: grant.role.clone(), statements: effects.statements })));
        }
        if !outputs.is_empty() {
            self.publish(&outputs).await.map_err(|error| Outcome::Output(error.to_string()))?;
        }
        Ok((outputs, None))
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

fn not_run(outcome: Outcome) -> Report {
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
