//! What a backtest found, as one document.
//!
//! Invariant: numbers only; how they are drawn is decided in `text`.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;

use super::costs::Cost;
use super::source::Reader;
use super::subject::Subject;
use super::tally::{Compared, Sample, Tally};
use super::{Args, Ended, hour_of};

/// Rules that are listed beside it.
const OVERLAP_MAX: usize = 100;

/// The document.
#[derive(Serialize)]
pub(super) struct Report {
    /// How the rule is called.
    pub(super) rule: String,
    /// As it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) since: OffsetDateTime,
    /// When it was asked.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) until: OffsetDateTime,
    /// Where the events came from.
    pub(super) sources: Vec<Source>,
    /// Whether every source was read to its end.
    pub(super) complete: bool,
    /// Why not.
    pub(super) ended: Option<String>,
    /// Events that were read.
    pub(super) events: u64,
    /// Messages that are no events.
    pub(super) rejected: u64,
    /// Events that the rule matches.
    pub(super) hits: u64,
    /// Extrapolated.
    pub(super) hits_per_day: f64,
    /// Each hour of the period.
    pub(super) hours: Vec<Hour>,
    /// Some hits, over the whole period.
    pub(super) samples: Vec<Sample>,
    /// Other rules that match the same events, the most first.
    pub(super) overlap: Vec<Overlap>,
    /// Against the rule of that name in the tables.
    pub(super) compared: Option<Compared>,
    /// By the history of its function.
    pub(super) cost: Option<Cost>,
    /// Its function, where no run of it is known.
    pub(super) never_ran: Option<String>,
    /// What else should be known.
    pub(super) warnings: Vec<String>,
}

/// A source.
#[derive(Serialize)]
pub(super) struct Source {
    /// Whose events they are.
    pub(super) trigger: String,
    /// What was read.
    pub(super) from: String,
    /// How many.
    pub(super) events: u64,
    /// What it lacks.
    pub(super) gaps: Vec<String>,
    /// Why it was not read to its end.
    pub(super) failed: Option<String>,
}

/// An hour.
#[derive(Serialize)]
pub(super) struct Hour {
    /// Its beginning.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) hour: OffsetDateTime,
    /// Events that were read.
    pub(super) events: u64,
    /// Events that the rule matches.
    pub(super) hits: u64,
}

/// Another rule.
#[derive(Serialize)]
pub(super) struct Overlap {
    /// Its name.
    pub(super) rule: String,
    /// How many of the hits it matches too.
    pub(super) hits: u64,
}

impl Report {
    /// Puts it together.
    pub(super) fn new(
        args: &Args,
        (subject, tally): (&Subject, Tally<'_>),
        (readers, ended): (Vec<Reader>, Ended),
        (hits_per_day, cost, warnings): (f64, Option<Cost>, Vec<String>),
    ) -> Self {
        let (since, until) = tally.period();
        let hour = |hour: i64| {
            let count = tally.hours.get(&hour).copied().unwrap_or_default();
            let at = OffsetDateTime::from_unix_timestamp(hour * 3_600).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            Hour { hour: at, events: count.events, hits: count.hits }
        };
        let function = subject.target().and_then(|target| match target {
            crate::rules::Target::Run { function, .. } => Some(function.clone()),
            crate::rules::Target::Publish { .. } => None,
        });
        let mut overlap: Vec<Overlap> =
            tally.overlap.iter().map(|(rule, hits)| Overlap { rule: rule.clone(), hits: *hits }).collect();
        overlap.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.rule.cmp(&b.rule)));
        overlap.truncate(OVERLAP_MAX);
        Self {
            rule: subject.name().to_owned(),
            since,
            until,
            complete: ended == Ended::Whole,
            ended: said(&ended, args),
            events: tally.read,
            rejected: tally.rejected,
            hits: tally.hits,
            hits_per_day,
            hours: (hour_of(since)..=hour_of(until)).map(hour).collect(),
            overlap,
            compared: tally.compared,
            never_ran: function.filter(|_| cost.is_none()),
            cost,
            warnings,
            sources: readers.into_iter().map(Source::of).collect(),
            samples: tally.samples.into_vec(),
        }
    }

    /// Hits by hours since 1970, and the first and the last hour.
    pub(super) fn by_hour(&self) -> (BTreeMap<i64, u64>, i64, i64) {
        let hits = self.hours.iter().map(|hour| (hour_of(hour.hour), hour.hits)).collect();
        (hits, hour_of(self.since), hour_of(self.until))
    }
}

impl Source {
    fn of(reader: Reader) -> Self {
        let from = reader.from();
        let Reader { trigger, events, gaps, failed, .. } = reader;
        Self { trigger, from, events, gaps, failed }
    }
}

fn said(ended: &Ended, args: &Args) -> Option<String> {
    match ended {
        Ended::Whole => None,
        Ended::Limit => Some(format!("it ended after {} events, the oldest first: --limit reads more", args.limit)),
        Ended::Interrupted => Some("it was interrupted".to_owned()),
        Ended::Failed(error) => Some(format!("a source could not be read to its end: {error}")),
    }
}
