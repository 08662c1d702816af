//! Triggers: subscriptions on buses, kept running until they are told to stop.
//!
//! Invariant: a trigger gives up only on a gap: any other failure is told to health and tried again with backoff, for
//! ever. Triggers know the dispatcher and their bus; they see neither the store nor the runtime nor each other.

pub mod history;
mod jetstream;
mod kafka;
mod message;
mod nats;
pub mod postgres;
pub mod spec;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bus::{BusConfig, Connection};
use crate::dispatch::Dispatcher;
use crate::dispatch::budget::Budget;
use crate::drain::Drain;
use crate::event::codec;
use crate::health::{Health, TriggerState};
use crate::store::feeds::Feeds;
use crate::store::groups::Groups;

pub use self::spec::{FeedStart, JetStreamSpec, KafkaSpec, NatsSpec, PostgresSpec, SpecError, Start, TriggerSpec};

/// Longest wait between two tries to start reading.
const RETRY_CAP: Duration = Duration::from_secs(10);

/// A bus that a trigger reads from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The bus's name.
    pub name: String,
    /// Its configuration, for triggers that need a connection of their own.
    pub config: BusConfig,
    /// The shared connection.
    pub bus: Connection,
}

/// What a trigger works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The trigger's name.
    pub name: Arc<str>,
    /// Where events go.
    pub dispatcher: Dispatcher,
    /// What may be in flight.
    pub budget: Budget,
    /// What a message may cost.
    pub limits: codec::Limits,
    /// Where its state is shown.
    pub health: Health,
    /// Spawns.
    pub drain: Drain,
    /// Stop reading; what is in flight is still settled and acknowledged.
    pub stop: CancellationToken,
    /// False while nothing can be settled: nothing is read then.
    pub store_up: watch::Receiver<bool>,
    /// The identity of the source that the trigger was bound to before, if it ever was.
    pub identity: Option<String>,
    /// What must be remembered about it.
    pub notices: mpsc::Sender<Notice>,
    /// The positions and leases of change feeds.
    pub feeds: Feeds,
    /// What consumer groups may see of the tables.
    pub groups: Groups,
    /// How many backfills of any feed are open.
    pub backfills: watch::Receiver<i64>,
    /// Whether what is missing at the source is made without asking: `oncue dev`.
    pub dev: bool,
}

/// What a trigger found out about its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The trigger.
    pub trigger: Arc<str>,
    /// What it is.
    pub kind: NoticeKind,
}

/// Kinds of notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// It was bound to a source with this identity.
    Bound(String),
    /// It reads, so what was wrong before is over.
    Reading,
    /// It cannot read.
    Failed(String),
    /// The source no longer has what was not read: it halts.
    Gap(String),
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Try again.
    #[error("{0}")]
    Again(String),
    /// Messages wait and nothing comes: try again, and say so.
    #[error("{0}")]
    Stalled(String),
    /// Halt.
    #[error("{0}")]
    Gap(String),
}

impl Failure {
    fn again(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Again(format!("{what}: {error}"))
    }
}

/// Runs the trigger of `spec` until `context.stop`, or until a gap.
pub async fn run(spec: TriggerSpec, source: Source, context: Context) {
    match (spec, source.bus.clone()) {
        // In a box: what it needs to bind a consumer would make the futures of all kinds as large.
        (TriggerSpec::JetStream(spec), Connection::Nats(bus)) => Box::pin(jetstream::run(spec, bus, context)).await,
        (TriggerSpec::Nats(spec), Connection::Nats(bus)) => nats::run(spec, bus, context).await,
        (TriggerSpec::Kafka(spec), Connection::Kafka(bus)) => kafka::run(spec, bus, context).await,
        (TriggerSpec::Postgres(spec), Connection::Postgres(bus)) => postgres::run(spec, bus, context).await,
        (spec, _) => {
            let text = wrong_bus(&spec, &source.name);
            context.health.trigger(&context.name, TriggerState::Error, Some(&text));
            context.notice(NoticeKind::Failed(text)).await;
        }
    }
}

/// What is told of a trigger that is on a bus of another kind.
#[must_use]
pub fn wrong_bus(spec: &TriggerSpec, bus: &str) -> String {
    format!(
        "bus: a trigger of the kind {} cannot be on \"{bus}\", which is no bus of the kind {}",
        spec.kind(),
        spec.bus_kind().name()
    )
}

impl Context {
    /// Calls `read` until it says that it was stopped, with backoff and with its state in health.
    async fn keep_reading<F, R>(&self, mut read: R)
    where
        R: FnMut() -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let mut tries = 0_u32;
        let mut told = String::new();
        loop {
            let began = tokio::time::Instant::now();
            let Err(failure) = read().await else { return };
            if began.elapsed() > RETRY_CAP {
                tries = 0;
            }
            tries += 1;
            let text = failure.to_string();
            let state = match failure {
                Failure::Again(_) => TriggerState::Error,
                Failure::Stalled(_) => TriggerState::Stalled,
                Failure::Gap(_) => TriggerState::Gap,
            };
            self.health.trigger(&self.name, state, Some(&text));
            if state == TriggerState::Gap {
                tracing::error!(trigger = %self.name, error = text, "trigger halted: its source has a gap");
                self.notice(NoticeKind::Gap(text)).await;
                return;
            }
            if tries == 1 || tries.is_multiple_of(10) || text != told {
                tracing::warn!(trigger = %self.name, error = text, tries, "trigger cannot read; trying again");
                told.clone_from(&text);
                self.notice(NoticeKind::Failed(text)).await;
            }
            let pause = Duration::from_millis(100).saturating_mul(1 << tries.min(8)).min(RETRY_CAP);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn reading(&self) {
        self.health.trigger(&self.name, TriggerState::Active, None);
        self.notice(NoticeKind::Reading).await;
    }

    async fn notice(&self, kind: NoticeKind) {
        // Nobody listens any more when the node quits.
        let _ = self.notices.send(Notice { trigger: Arc::clone(&self.name), kind }).await;
    }

    /// Waits until what is read can be settled.
    async fn wait_for_store(&self) {
        let mut up = self.store_up.clone();
        // The settler is gone when the node quits: reading ends by `stop` then.
        let _ = up.wait_for(|up| *up).await;
    }
}
