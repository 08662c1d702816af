//! The tree of what an event caused: its deliveries, their attempts, the events that they emitted, and so on.
//!
//! Invariant: at most `ROWS_MAX` attempts and `DEPTH_MAX` generations are read; a tree that was cut says so. A delivery
//! has one place in the tree, so that a loop of causes ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use uuid::Uuid;

use crate::event::codec::MAX_HOPS;
use crate::store::events::{DeadState, LedgerRow, LogRow, ParkedState};
use crate::store::{Store, StoreError};

/// More than that is read with `event list`.
const ROWS_MAX: i64 = 1_000;
/// An event ends there anyway; one more shows the one that was refused.
const DEPTH_MAX: u32 = MAX_HOPS + 1;

/// An event and its deliveries.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct EventNode {
    pub(super) id: String,
    pub(super) ty: String,
    pub(super) source: String,
    pub(super) deliveries: Vec<DeliveryNode>,
}

/// A delivery, its attempts, and the events that it emitted which a rule matched.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct DeliveryNode {
    pub(super) id: Uuid,
    pub(super) rule: String,
    pub(super) state: &'static str,
    pub(super) attempts: Vec<LedgerRow>,
    pub(super) logs: Vec<LogRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parked: Option<ParkedState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dead: Option<DeadState>,
    pub(super) emitted: Vec<EventNode>,
}

/// What was found of an event.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Tree {
    pub(super) events: Vec<EventNode>,
    /// Whether there is more than was read.
    pub(super) cut: bool,
}

#[derive(Default)]
struct Facts {
    /// Attempts by delivery.
    attempts: BTreeMap<Uuid, Vec<LedgerRow>>,
    /// Deliveries by the one that emitted their event.
    children: HashMap<Uuid, Vec<Uuid>>,
    parked: HashMap<Uuid, ParkedState>,
    dead: BTreeMap<Uuid, DeadState>,
    logs: HashMap<Uuid, Vec<LogRow>>,
    cut: bool,
}

/// Reads the tree of the event or delivery `id`; empty when nothing is known of it.
pub(super) async fn read(store: &Store, id: &str) -> Result<Tree, StoreError> {
    let mut facts = Facts::default();
    let mut rows = store.ledger_of_event(id, ROWS_MAX).await?;
    let mut dead = store.dead_states(&[], id).await?;
    if let (true, Ok(delivery)) = (rows.is_empty() && dead.is_empty(), Uuid::parse_str(id)) {
        rows = store.ledger_of_deliveries(&[delivery], ROWS_MAX).await?;
        dead = store.dead_states(&[delivery], "").await?;
        let parked = store.parked_states(&[delivery]).await?;
        facts.parked.extend(parked.into_iter().map(|p| (p.delivery_id, p)));
    }
    let mut roots: BTreeSet<Uuid> = rows.iter().map(|r| r.delivery_id).collect();
    roots.extend(facts.parked.keys());
    roots.extend(dead.iter().flat_map(|d| [Some(d.id), d.redriven_as]).flatten());
    facts.dead.extend(dead.into_iter().map(|d| (d.id, d)));
    let unread: Vec<Uuid> = roots.iter().filter(|id| !rows.iter().any(|r| r.delivery_id == **id)).copied().collect();
    rows.extend(store.ledger_of_deliveries(&unread, ROWS_MAX).await?);
    descend(store, &mut facts, rows, &roots).await?;
    let mut placed = BTreeSet::new();
    let events = facts.events(&roots.into_iter().collect::<Vec<_>>(), &mut placed);
    Ok(Tree { events, cut: facts.cut })
}

/// Reads what `rows` caused, generation by generation.
async fn descend(
    store: &Store,
    facts: &mut Facts,
    rows: Vec<LedgerRow>,
    roots: &BTreeSet<Uuid>,
) -> Result<(), StoreError> {
    let mut level: Vec<Uuid> = roots.iter().copied().collect();
    let mut rows = rows;
    let mut left = ROWS_MAX;
    for _ in 0..DEPTH_MAX {
        left -= i64::try_from(rows.len()).unwrap_or(i64::MAX);
        facts.take(rows);
        facts.states(store, &level).await?;
        if level.is_empty() || left <= 0 {
            facts.cut = left <= 0;
            return Ok(());
        }
        rows = store.ledger_caused_by(&level, left).await?;
        rows.retain(|r| !facts.attempts.contains_key(&r.delivery_id));
        let next: BTreeSet<Uuid> = rows.iter().map(|r| r.delivery_id).collect();
        level = next.into_iter().collect();
    }
    facts.cut = true;
    Ok(())
}

impl Facts {
    fn take(&mut self, rows: Vec<LedgerRow>) {
        for row in rows {
            let of_delivery = self.attempts.entry(row.delivery_id).or_default();
            if let (true, Some(cause)) = (of_delivery.is_empty(), row.cause) {
                self.children.entry(cause).or_default().push(row.delivery_id);
            }
            of_delivery.push(row);
        }
    }

    async fn states(&mut self, store: &Store, deliveries: &[Uuid]) -> Result<(), StoreError> {
        let parked = store.parked_states(deliveries).await?;
        self.parked.extend(parked.into_iter().map(|p| (p.delivery_id, p)));
        let dead = store.dead_states(deliveries, "").await?;
        self.dead.extend(dead.into_iter().map(|d| (d.id, d)));
        for log in store.logs_of(deliveries).await? {
            self.logs.entry(log.delivery_id).or_default().push(log);
        }
        Ok(())
    }

    /// The events of `deliveries`, each once.
    fn events(&mut self, deliveries: &[Uuid], placed: &mut BTreeSet<Uuid>) -> Vec<EventNode> {
        let mut events: Vec<EventNode> = Vec::new();
        for id in deliveries {
            if !placed.insert(*id) {
                continue;
            }
            let attempts = self.attempts.remove(id).unwrap_or_default();
            let (event, ty, source) = match attempts.first() {
                Some(row) => (row.event_id.clone(), row.event_type.clone(), row.event_source.clone()),
                None => Default::default(),
            };
            let node = self.delivery(*id, attempts, placed);
            // A delivery that has not run yet belongs to the event before it.
            match events.iter_mut().find(|e| e.id == event || event.is_empty()) {
                Some(known) => known.deliveries.push(node),
                None => events.push(EventNode { id: event, ty, source, deliveries: vec![node] }),
            }
        }
        events
    }

    fn delivery(&mut self, id: Uuid, attempts: Vec<LedgerRow>, placed: &mut BTreeSet<Uuid>) -> DeliveryNode {
        let parked = self.parked.remove(&id);
        let dead = self.dead.remove(&id);
        let children = self.children.remove(&id).unwrap_or_default();
        let rule = attempts.first().map(|r| r.rule.clone());
        let rule = rule.or_else(|| parked.as_ref().map(|p| p.rule.clone()));
        let rule = rule.or_else(|| dead.as_ref().and_then(|d| d.rule.clone())).unwrap_or_default();
        DeliveryNode {
            id,
            rule,
            state: state(&attempts, parked.as_ref(), dead.as_ref()),
            logs: self.logs.remove(&id).unwrap_or_default(),
            attempts,
            parked,
            dead,
            emitted: self.events(&children, placed),
        }
    }
}

fn state(attempts: &[LedgerRow], parked: Option<&ParkedState>, dead: Option<&DeadState>) -> &'static str {
    match (attempts.last().map(|a| a.settlement.as_str()), parked, dead) {
        (Some("done"), _, _) => "done",
        (_, Some(parked), _) if parked.node.is_some() => "running",
        (_, Some(_), _) => "parked",
        (_, _, Some(dead)) => match dead.state.as_str() {
            "redriven" => "redriven",
            "dropped" => "dropped",
            _ => "dead",
        },
        (Some("void"), _, _) => "void",
        _ => "unknown",
    }
}
