//! Dispatch: an event that arrived → its deliveries → runs → settlements.
//!
//! Invariant: every delivery of an event ends settled or the event's ticket is dropped unreleased, so that its source
//! sends it again. Deliveries of one ordering key run one after another, each after the one before was settled. What
//! an outcome means is decided in `delivery`; when it is durable, in `settle`.

pub mod budget;
pub mod functions;
pub mod held;
mod lanes;
mod lookups;
mod observe;
pub mod ownership;
mod rates;
mod recording;
mod run;
pub mod ticket;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc};

use crate::delivery::DeliveryId;
use crate::drain::Drain;
use crate::event::Event;
use crate::outputs::{Output, Outputs};
use crate::pattern::Fill;
use crate::rules::{OnFailure, Planned, RuleSet, Target};
use crate::runtime::Runtime;
use crate::settle::{Settled, Settler};
use crate::store::Store;
use crate::store::outbox::OutboxKey;
use crate::store::parked::Claim;
use crate::store::recorded::What;
use crate::store::settle::{Recorded, Rejected};
use crate::telemetry;

use self::functions::Functions;
use self::lanes::Lanes;
use self::lookups::Lookups;
pub use self::observe::{Observer, Seen, SeenAttempt};
use self::ownership::Ownership;
use self::rates::Rates;
use self::recording::Recordings;
use self::run::Delivery;
use self::ticket::Ticket;

/// What a dispatcher works with.
#[derive(Debug)]
pub struct Parts {
    /// Runs at once on the node.
    pub concurrency: u32,
    /// The tables.
    pub store: Store,
    /// The sandbox.
    pub runtime: Runtime,
    /// Where outcomes go.
    pub settler: Settler,
    /// Where emitted events go.
    pub outputs: Outputs,
    /// Who publishes those that were committed to the outbox.
    pub outbox: mpsc::Sender<Vec<(OutboxKey, Output)>>,
    /// Spawns.
    pub drain: Drain,
    /// Sees everything, for `oncue dev`.
    pub observer: Option<Observer>,
}

/// An event that a trigger read.
#[derive(Debug)]
pub struct Arrival {
    /// The trigger.
    pub trigger: Arc<str>,
    /// The event.
    pub event: Arc<Event>,
    /// The source's own time of the message: it is part of the delivery's id.
    pub at: OffsetDateTime,
    /// What names the message at its source for ever.
    pub transport_key: Vec<u8>,
    /// How often the source has sent it, this time included.
    pub sent: u32,
    /// What it was read under, where only one node may read.
    pub ownership: Option<Arc<Ownership>>,
    /// What orders it where its rule names no key that it has.
    pub key: Option<String>,
    /// Released when everything about the event is settled.
    pub ticket: Ticket,
}

/// Runs deliveries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

/// What tasks are called of which there are thousands.
#[derive(Debug)]
struct Names {
    lane: Arc<str>,
    delivery: Arc<str>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settler: Settler,
    outputs: Outputs,
    outbox: mpsc::Sender<Vec<(OutboxKey, Output)>>,
    drain: Drain,
    names: Names,
    functions: Functions,
    permits: Arc<Semaphore>,
    rates: Rates,
    lanes: Lanes,
    lookups: Lookups,
    rules: ArcSwap<RuleSet>,
    recordings: Recordings,
    observer: Option<Observer>,
    /// Told when a delivery was parked and when it is due.
    parked: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
}

impl Dispatcher {
    /// A dispatcher without rules. To be called on an executor.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { concurrency, store, runtime, settler, outputs, outbox, drain, observer } = parts;
        let (lookups, answers) = Lookups::new(store.clone());
        drain.spawn_service("lookups", answers.run(drain.token().finished));
        Self {
            inner: Arc::new(Inner {
                functions: Functions::new(runtime, store.clone()),
                permits: Arc::new(Semaphore::new(concurrency as usize)),
                rates: Rates::default(),
                lanes: Lanes::default(),
                lookups,
                rules: ArcSwap::from_pointee(RuleSet::default()),
                recordings: Recordings::default(),
                parked: tokio::sync::watch::channel(None).0,
                store,
                settler,
                outputs,
                outbox,
                drain,
                names: Names { lane: "lane".into(), delivery: "delivery".into() },
                observer,
            }),
        }
    }

    /// The functions that deliveries can run.
    #[must_use]
    pub fn functions(&self) -> &Functions {
        &self.inner.functions
    }

    /// Where emitted events go.
    #[must_use]
    pub fn outputs(&self) -> &Outputs {
        &self.inner.outputs
    }

    /// The settler.
    #[must_use]
    pub fn settler(&self) -> &Settler {
        &self.inner.settler
    }

    /// The rules that events are matched against now.
    #[must_use]
    pub fn rules(&self) -> Arc<RuleSet> {
        self.inner.rules.load_full()
    }

    /// Matches later events against `rules`.
    pub fn set_rules(&self, rules: RuleSet) {
        self.inner.rates.keep(&rules);
        self.inner.rules.store(Arc::new(rules));
    }

    /// Records of later events what `recordings` say of their triggers; a trigger without one records nothing.
    pub fn set_recordings(&self, recordings: HashMap<String, What>) {
        self.inner.recordings.set(recordings);
    }

    /// When the next delivery that this node parked is due.
    #[must_use]
    pub fn parked(&self) -> tokio::sync::watch::Receiver<Option<tokio::time::Instant>> {
        self.inner.parked.subscribe()
    }

    /// Tells that a parked delivery is due in `ms` (now, if that is negative); none says nothing.
    pub fn due_in_ms(&self, ms: Option<i64>) {
        if let Some(ms) = ms {
            self.inner.due_in(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        }
    }

    /// Forgets the due time `seen`, because it was acted on; a sooner or later one that came meanwhile stays.
    pub fn forget_due(&self, seen: Option<tokio::time::Instant>) {
        self.inner.parked.send_if_modified(|due| {
            if *due == seen {
                *due = None;
            }
            false
        });
    }

    /// Takes an event: matches it and starts its deliveries. Returns when they are on their way, not when they are
    /// done; to be called in the order in which events of a partition came.
    pub fn accept(&self, arrival: Arrival) {
        let Arrival { trigger, event, at, transport_key, sent, ownership, key, ticket } = arrival;
        let planned = self.inner.rules.load().plan(&trigger, &event);
        self.inner.see(|| Seen::Event {
            trigger: trigger.to_string(),
            event: Arc::clone(&event),
            matched: planned.iter().map(|p| p.rule.rule.name.clone()).collect(),
            count: 1,
        });
        if planned.is_empty() {
            telemetry::unmatched(&trigger, 1);
            self.inner.settler.unmatched(&trigger, &event, 1);
            match self.inner.recordings.of(&trigger) {
                What::All => self.record(recording::recorded(&trigger, &event, at, transport_key, false), ticket),
                What::Matched | What::None => ticket.settled(),
            }
            return;
        }
        telemetry::matched(&trigger, 1);
        // One delivery brings it, whichever: what is settled of it is settled for the event.
        let mut recorded = match self.inner.recordings.of(&trigger) {
            What::None => None,
            _ => Some(Arc::new(recording::recorded(&trigger, &event, at, transport_key.clone(), true))),
        };
        for mut planned in planned {
            if planned.ordering_key.is_none() {
                planned.ordering_key.clone_from(&key);
            }
            let id = DeliveryId::derive(at, &trigger, &transport_key, &planned.rule.rule.name, 0);
            let delivery = Delivery::first(id, &trigger, planned, transport_key.clone(), sent, ticket.share());
            self.start(delivery.owned(ownership.clone()).recording(recorded.take()));
        }
        ticket.settled();
    }

    /// Whether any rule can want an event of `ty` of `trigger`, or it is recorded: else its source need not make one.
    #[must_use]
    pub fn listens(&self, trigger: &str, ty: &str) -> bool {
        self.inner.observer.is_some()
            || self.inner.recordings.of(trigger) == What::All
            || self.inner.rules.load().listens(trigger, ty)
    }

    /// Whether any rule wants an event of `trigger` whose fields `tell` tells, or it is recorded: else its source need not make
    /// one.
    #[must_use]
    pub fn wants<'e>(&self, trigger: &str, tell: impl FnOnce(&mut Fill<'_, 'e>)) -> bool {
        self.inner.observer.is_some()
            || self.inner.recordings.of(trigger) == What::All
            || self.inner.rules.load().wants(trigger, tell)
    }

    /// Counts `count` events of the type of `sample` that no rule can want.
    pub fn unmatched(&self, trigger: &str, sample: &Arc<Event>, count: u64) {
        telemetry::unmatched(trigger, count);
        self.inner.see(|| Seen::Event {
            trigger: trigger.to_owned(),
            event: Arc::clone(sample),
            matched: Vec::new(),
            count,
        });
        self.inner.settler.unmatched(trigger, sample, count);
    }

    /// Records an event that no rule matched; its ticket is settled when it is.
    fn record(&self, recorded: Recorded, ticket: Ticket) {
        let inner = Arc::clone(&self.inner);
        self.inner.drain.spawn("record", async move {
            if inner.settler.record(recorded).await.is_ok() {
                ticket.settled();
            }
        });
    }

    /// Keeps a message that could not become an event.
    pub async fn reject(&self, rejected: Rejected, ticket: Ticket) {
        telemetry::rejected(&rejected.trigger, rejected.class);
        tracing::warn!(trigger = rejected.trigger, class = rejected.class, error = rejected.error, "message rejected");
        self.inner.see(|| Seen::Rejected {
            trigger: rejected.trigger.clone(),
            class: rejected.class,
            error: rejected.error.clone(),
        });
        if matches!(self.inner.settler.reject(rejected).await, Ok(Settled::Fresh | Settled::Duplicate)) {
            ticket.settled();
        }
    }

    /// Runs a parked delivery that this node claimed. `credit` is held until it is settled.
    pub async fn retry(&self, claim: Claim, credit: budget::Credit) {
        match Delivery::claimed(&claim, &self.inner.rules.load(), Ticket::unowned(credit)) {
            Ok(delivery) => self.start(delivery),
            Err(run::NotRunnable::RuleHeld) => {
                let pause = Duration::from_secs(15);
                if let Err(error) = self.inner.store.release_claim(claim.id, claim.token, pause).await {
                    tracing::warn!(delivery = %claim.id, %error, "a claim could not be given back; its lease will end");
                }
            }
            Err(run::NotRunnable::Settle(record)) => self.inner.finish(*record).await,
        }
    }

    /// Tokens of the claims whose deliveries run here.
    #[must_use]
    pub fn claims(&self) -> Vec<uuid::Uuid> {
        self.inner.lanes.claims()
    }

    fn start(&self, delivery: Box<Delivery>) {
        let inner = Arc::clone(&self.inner);
        match delivery.lane() {
            Some(key) if delivery.claim.is_none() => {
                if let Some(first) = self.inner.lanes.enter(&key, delivery) {
                    let run = Box::pin(inner.run_lane(key, first));
                    self.inner.drain.spawn(Arc::clone(&self.inner.names.lane), run);
                }
            }
            _ => {
                if let Some(token) = delivery.claim {
                    self.inner.lanes.claimed(token);
                }
                // Boxed at once: the task moves it several times on its way into the executor.
                let run = Box::pin(async move { inner.run(delivery).await });
                self.inner.drain.spawn(Arc::clone(&self.inner.names.delivery), async move {
                    run.await;
                });
            }
        }
    }
}

/// What a rule's target is called where a subject is shown.
fn target_name(planned: &Planned) -> Option<(String, u32)> {
    match (&planned.rule.rule.target, planned.rule.version) {
        (Target::Run { function, .. }, Some(version)) => Some((function.clone(), version)),
        _ => None,
    }
}

/// The key that later deliveries wait for while this one is parked.
fn holding_key(planned: &Planned) -> Option<String> {
    match planned.rule.rule.on_failure {
        OnFailure::ParkKey => planned.ordering_key.clone(),
        OnFailure::Skip => None,
    }
}
