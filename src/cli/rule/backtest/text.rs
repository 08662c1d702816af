//! A report for people.
//!
//! Invariant: what came from events is made printable here.

use crate::cli::output::{micros, moment, printable, table};

use super::chart::chart;
use super::costs::Cost;
use super::report::Report;

/// Other rules that are shown.
const OVERLAP_SHOWN: usize = 10;

/// The report as text.
pub(super) fn text(report: &Report) -> String {
    let mut parts = vec![head(report)];
    if report.hits > 0 {
        let (hits, first, last) = report.by_hour();
        parts.push(format!("hits by the hour\n{}", chart(&hits, first, last).join("\n")));
        parts.push(samples(report));
        parts.push(overlap(report));
    }
    let tail = [compared(report), cost(report), warnings(report)];
    parts.extend(tail.into_iter().flatten());
    parts.join("\n\n")
}

fn head(report: &Report) -> String {
    let Report { rule, events, hits, .. } = report;
    let share = if *events > 0 { format!(" ({:.1} %)", *hits as f64 * 100.0 / *events as f64) } else { String::new() };
    let mut lines = vec![format!("{rule}: {hits} hits{share} on {events} events since {}", moment(report.since))];
    if let Some(ended) = &report.ended {
        lines.push(format!("NOT COMPLETE: {ended}"));
    }
    for source in &report.sources {
        lines.push(format!("  {} from {}: {} events", source.trigger, source.from, source.events));
        lines.extend(source.gaps.iter().map(|gap| format!("    {gap}")));
        lines.extend(source.failed.iter().map(|failed| format!("    {failed}")));
    }
    printable(&lines.join("\n"))
}

fn samples(report: &Report) -> String {
    let rows = report.samples.iter().map(|sample| {
        let subject = sample.subject.clone().unwrap_or_else(|| "-".to_owned());
        vec![moment(sample.at), sample.trigger.clone(), sample.ty.clone(), sample.id.clone(), subject]
    });
    let count = report.samples.len();
    format!("{count} of them\n{}", table(&["time", "trigger", "type", "event", "subject"], rows))
}

fn overlap(report: &Report) -> String {
    if report.overlap.is_empty() {
        return "no other rule matches any of them".to_owned();
    }
    let rows = report.overlap.iter().take(OVERLAP_SHOWN).map(|other| {
        vec![
            other.rule.clone(),
            other.hits.to_string(),
            format!("{:.1} %", other.hits as f64 * 100.0 / report.hits as f64),
        ]
    });
    let more = match report.overlap.len().saturating_sub(OVERLAP_SHOWN) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    format!("other rules that match the same events\n{}{more}", table(&["rule", "hits", "share"], rows))
}

fn compared(report: &Report) -> Option<String> {
    let compared = report.compared?;
    Some(format!(
        "against the rule of that name as it is: both match {} events, only the new one {}, only the old one {}",
        compared.same, compared.more, compared.fewer
    ))
}

fn cost(report: &Report) -> Option<String> {
    let per_day = format!("{:.0} hits a day", report.hits_per_day);
    let Some(Cost { function, version, runs, fuel_per_run, micros_per_run, fuel_per_day, micros_per_day }) =
        &report.cost
    else {
        let function = report.never_ran.as_ref()?;
        return Some(printable(&format!(
            "cost: {per_day}; no run of {function} is known, so that nothing can be said of its cost"
        )));
    };
    let which = version.map_or_else(|| format!("{function}, any version,"), |version| format!("{function}@{version}"));
    let took = |value: f64| micros(value.round() as u64);
    Some(printable(&format!(
        "cost: {per_day}; {which} took {fuel_per_run:.0} fuel and {} a run ({runs} runs): {fuel_per_day:.0} fuel and {} a day",
        took(*micros_per_run),
        took(*micros_per_day)
    )))
}

fn warnings(report: &Report) -> Option<String> {
    let lines: Vec<String> = report.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    (!lines.is_empty()).then(|| printable(&lines.join("\n")))
}
