//! What is counted while events go by.
//!
//! Invariant: what is held is bounded by the rules, the hours of the period and the constants here, not by the events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::{AttributeValue, CAUSE, Event};
use crate::rules::{self, CompiledRule, RuleSet};
use crate::store::control::ControlPlane;

use super::samples::Samples;
use super::subject::Subject;
use super::{Ended, hour_of};

/// Samples that are shown.
const SAMPLES: usize = 10;
/// Deliveries that are looked up, of those that emitted a hit.
const CAUSES_MAX: usize = 1_000;
/// Characters of an attribute in a sample.
const SHOWN_CHARS: usize = 200;

/// A hit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Its source's time.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
    /// Where it came in.
    pub(super) trigger: String,
    /// The event's `type`.
    #[serde(rename = "type")]
    pub(super) ty: String,
    /// The event's `id`.
    pub(super) id: String,
    /// The event's `subject`.
    pub(super) subject: Option<String>,
}

/// An hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hour {
    pub(super) events: u64,
    pub(super) hits: u64,
}

/// How the rule differs from the one of its name that the tables have.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Compared {
    /// Events that both match.
    pub(super) same: u64,
    /// Events that only the new one matches.
    pub(super) more: u64,
    /// Events that only the old one matches.
    pub(super) fewer: u64,
}

/// What is known so far.
pub(super) struct Tally<'a> {
    subject: &'a Subject,
    others: RuleSet,
    since: OffsetDateTime,
    until: OffsetDateTime,
    /// Events.
    pub(super) read: u64,
    /// Those of them that the rule matches.
    pub(super) hits: u64,
    /// Messages that are none.
    pub(super) rejected: u64,
    /// Why the first of them is none.
    pub(super) rejection: Option<String>,
    /// The first and the last time of an event.
    pub(super) span: Option<(OffsetDateTime, OffsetDateTime)>,
    /// By hours since 1970.
    pub(super) hours: BTreeMap<i64, Hour>,
    /// Some hits.
    pub(super) samples: Samples<Sample>,
    /// Other rules that match the same events, and how many.
    pub(super) overlap: HashMap<String, u64>,
    /// Against the rule as it is.
    pub(super) compared: Option<Compared>,
    /// Deliveries that emitted hits.
    pub(super) causes: BTreeSet<Uuid>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        subject: &'a Subject,
        tables: &ControlPlane,
        since: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Self {
        let mut current = HashMap::new();
        for version in tables.functions.iter().filter(|v| v.current) {
            current.insert(version.function.clone(), version.version);
        }
        let is_other = |name: &str| !(subject.is_rule && name == subject.name());
        let others = tables.rules.iter().map(|row| row.rule.clone()).filter(|rule| is_other(&rule.name)).collect();
        // Those that do not compile match nothing on a node either.
        let (others, _) = RuleSet::compile(tables.version, others, &current);
        Self {
            subject,
            others,
            since,
            until,
            read: 0,
            hits: 0,
            rejected: 0,
            rejection: None,
            span: None,
            hours: BTreeMap::new(),
            samples: Samples::new(SAMPLES),
            overlap: HashMap::new(),
            compared: subject.before.is_some().then(Compared::default),
            causes: BTreeSet::new(),
        }
    }

    /// Counts an event that came in by `trigger`.
    pub(super) fn take(&mut self, trigger: &str, at: OffsetDateTime, event: &Arc<Event>) {
        let document = rules::document(event);
        let matches = |rule: &CompiledRule| rule.matches(trigger, &document);
        let hit = matches(&self.subject.rule);
        self.read += 1;
        self.span = Some(self.span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        // A source's clock may be ahead, or a producer's word be anything: the period has so many hours and no more.
        let hour = self.hours.entry(hour_of(at.clamp(self.since, self.until))).or_default();
        hour.events += 1;
        hour.hits += u64::from(hit);
        if let (Some(before), Some(compared)) = (&self.subject.before, &mut self.compared) {
            let counter = match (hit, matches(before)) {
                (true, true) => &mut compared.same,
                (true, false) => &mut compared.more,
                (false, true) => &mut compared.fewer,
                (false, false) => return,
            };
            *counter += 1;
        }
        if hit {
            self.hit(trigger, at, event);
        }
    }

    fn hit(&mut self, trigger: &str, at: OffsetDateTime, event: &Arc<Event>) {
        self.hits += 1;
        let short = |text: &str| text.chars().take(SHOWN_CHARS).collect::<String>();
        self.samples.offer(|| Sample {
            at,
            trigger: trigger.to_owned(),
            ty: short(&event.ty),
            id: short(&event.id),
            subject: event.subject.as_deref().map(short),
        });
        for planned in self.others.plan(trigger, event) {
            *self.overlap.entry(planned.rule.rule.name.clone()).or_default() += 1;
        }
        if let Some(AttributeValue::String(cause)) = event.extension(CAUSE)
            && self.causes.len() < CAUSES_MAX
        {
            self.causes.extend(Uuid::parse_str(cause));
        }
    }

    /// Counts a message that is no event.
    pub(super) fn reject(&mut self, why: String) {
        self.rejected += 1;
        self.rejection.get_or_insert(why);
    }

    /// From when to when.
    pub(super) fn period(&self) -> (OffsetDateTime, OffsetDateTime) {
        (self.since, self.until)
    }

    /// How many hits a day has, by the part of the period that was seen.
    pub(super) fn hits_per_day(&self, ended: &Ended, begins_late: bool) -> f64 {
        let Some((first, last)) = self.span else { return 0.0 };
        let begin = if begins_late { first.max(self.since) } else { self.since };
        let end = if *ended == Ended::Whole { self.until } else { last.min(self.until) };
        // Of a few seconds nothing is known of a day: what was seen counts as of an hour, or of the period.
        let least = (self.until - self.since).as_seconds_f64().min(3_600.0);
        let seconds = (end - begin).as_seconds_f64().max(least);
        self.hits as f64 * 86_400.0 / seconds
    }
}
