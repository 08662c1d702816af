//! A delivery on its way: from a source's event or from a claim, and what its rows say.
//!
//! Invariant: a delivery from a claim runs the function version that it was parked with. Nothing here runs or waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::delivery::DeliveryId;
use crate::dispatch::held::HeldKeys;
use crate::dispatch::lanes::LaneKey;
use crate::dispatch::ownership::{Ownership, Pressure};
use crate::dispatch::ticket::Ticket;
use crate::dispatch::{holding_key, target_name};
use crate::event::{AttributeValue, CAUSE, Event, codec};
use crate::rules::{CompiledRule, Planned, RuleSet};
use crate::store::parked::Claim;
use crate::store::settle::{Fence, Next, Record, Recorded, Subject};

/// Process deaths after which a delivery is a dead letter.
const DEATHS_MAX: u32 = 3;

/// How long a delivery may wait for its turn while its source is under pressure.
const PATIENCE: Duration = Duration::from_millis(250);

/// When what was parked for pressure is tried.
const PRESSURE_PAUSE: Duration = Duration::from_secs(10);

/// A delivery on its way.
#[derive(Debug)]
pub(in crate::dispatch) struct Delivery {
    pub(super) subject: Subject,
    pub(super) rule: Arc<CompiledRule>,
    pub(super) event: Arc<Event>,
    ordering_key: Option<String>,
    pub(super) rate_key: Option<String>,
    pub(super) attempts_before: u32,
    pub(super) age_before: Duration,
    pub(super) sent: u32,
    /// Whether it is run alone because it may kill the node.
    pub(super) suspect: bool,
    /// The token of its claim, when it was parked.
    pub(in crate::dispatch) claim: Option<Uuid>,
    /// What its event was read under, where only one node may read.
    pub(in crate::dispatch) ownership: Option<Arc<Ownership>>,
    /// Its event, where this delivery brings it to the record.
    pub(super) recorded: Option<Arc<Recorded>>,
    /// When it came.
    since: Instant,
    pub(super) ticket: Ticket,
}

/// What is left of a delivery while it is settled.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) rule: String,
    pub(super) claim: Option<Uuid>,
    /// Whether others wait for its end.
    pub(super) next_waits: bool,
    pub(super) ticket: Ticket,
}

/// Why a claim cannot run.
#[derive(Debug)]
pub(in crate::dispatch) enum NotRunnable {
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
    pub(in crate::dispatch) fn first(
        id: DeliveryId,
        trigger: &str,
        planned: Planned,
        transport_key: Vec<u8>,
        sent: u32,
        ticket: Ticket,
    ) -> Box<Self> {
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
        Box::new(Self {
            subject,
            rule,
            event,
            ordering_key,
            rate_key,
            attempts_before,
            age_before,
            sent,
            suspect: false,
            claim,
            ownership: None,
            recorded: None,
            since: Instant::now(),
            ticket,
        })
    }

    /// Ties it to what its event was read under.
    pub(in crate::dispatch) fn owned(mut self: Box<Self>, ownership: Option<Arc<Ownership>>) -> Box<Self> {
        self.ownership = ownership;
        self
    }

    /// Has it bring its event to the record when it is settled.
    pub(in crate::dispatch) fn recording(mut self: Box<Self>, recorded: Option<Arc<Recorded>>) -> Box<Self> {
        self.recorded = recorded;
        self
    }

    /// A delivery that was parked. It runs the version that it was matched with, by the rule's present policy.
    pub(in crate::dispatch) fn claimed(
        claim: &Claim,
        rules: &RuleSet,
        ticket: Ticket,
    ) -> Result<Box<Self>, NotRunnable> {
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
            let record = Record {
                subject: subject(event),
                fence: None,
                attempts,
                claim: Some(claim.token),
                attempts_total: claim.attempts,
                next,
                effects: None,
                recorded: None,
            };
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
        Ok(Box::new(Self {
            subject: subject(Some(&event)),
            rule,
            event: Arc::new(event),
            ordering_key: claim.ordering_key.clone(),
            rate_key: None,
            attempts_before: claim.attempts,
            age_before: claim.age,
            sent: 1,
            suspect: claim.suspect,
            claim: Some(claim.token),
            ownership: None,
            recorded: None,
            since: Instant::now(),
            ticket,
        }))
    }

    /// What it is called.
    pub(super) fn id(&self) -> DeliveryId {
        self.subject.id
    }

    /// The lane that it runs in; none for an unordered one.
    pub(in crate::dispatch) fn lane(&self) -> Option<LaneKey> {
        self.ordering_key.as_ref().map(|key| (self.subject.rule.clone(), key.clone()))
    }

    /// Whether it waits behind a parked one of its key.
    pub(in crate::dispatch) fn holds_key(&self) -> bool {
        self.subject.ordering_key.is_some()
    }

    /// Takes it apart: what its rows say, and what is left to do when they are written.
    pub(super) fn leave(self) -> (Subject, Option<Arc<Fence>>, Leaving) {
        let Self { subject, claim, suspect, ownership, ticket, .. } = self;
        // What waits until this one has ended: later ones of its key, and the next suspect.
        let next_waits = claim.is_some() && (subject.ordering_key.is_some() || suspect);
        let leaving = Leaving { rule: subject.rule.clone(), claim, next_waits, ticket };
        (subject, ownership.and_then(|o| o.fence()), leaving)
    }

    /// The keys that may be held, where all of them are known.
    pub(in crate::dispatch) fn held(&self) -> Option<Arc<HeldKeys>> {
        self.ownership.as_ref()?.held()
    }

    /// Whether somebody else reads its source now.
    pub(super) fn is_lost(&self) -> bool {
        self.ownership.as_ref().is_some_and(|o| o.is_lost())
    }

    /// Returns once it `is_lost`.
    pub(super) async fn lost(&self) {
        match &self.ownership {
            Some(ownership) => ownership.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Whether it has waited, and its source is about to lose what is behind it.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressure() == Pressure::Red && self.since.elapsed() >= PATIENCE
    }

    /// Returns once it `is_pressed`.
    pub(super) async fn pressed(&self) {
        if self.ownership.as_ref().and_then(|o| o.fence()).is_none() {
            std::future::pending::<()>().await;
        }
        while !self.is_pressed() {
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Parks it unrun, so that its source may move on.
    pub(super) fn park_for_pressure(&self) -> Next {
        let error = "its source keeps more WAL than is safe, and it had to wait for its turn".to_owned();
        self.park("wal_pressure", Some(error), PRESSURE_PAUSE, false)
    }

    /// How much its source suffers from what is not settled.
    pub(super) fn pressure(&self) -> Pressure {
        self.ownership.as_ref().map_or(Pressure::Green, |o| o.pressure())
    }

    pub(super) fn park(&self, class: &'static str, error: Option<String>, after: Duration, suspect: bool) -> Next {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Next::Park { after_ms, class, error, event: codec::to_structured(&self.event), suspect }
    }
}
