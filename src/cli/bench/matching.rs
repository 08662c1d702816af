//! `oncue bench match`: JSON bytes in, rule numbers out.
//!
//! Invariant: every event is matched as it stands, from its bytes; the best of several rounds counts, because what
//! disturbs a round only ever makes it slower.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::pattern::{Index, Json, Pattern, Scratch};

use super::clock;
use super::updates::{self, Updates};
use crate::cli::match_offline::{each_line, read_rules};
use crate::cli::{Context, output};

/// What may be typed after `oncue bench match`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rules, one JSON object a line, as `oncue match` takes them; those that are not valid are left out
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Events, one JSON object a line; each is matched as it stands
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// Threads that match at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Rounds over all events, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Compare each event's matches with those of the plain evaluator, which takes its time; exit with 1 if any differ
    #[arg(long)]
    check: bool,
}

/// What was measured. Times of matching are of one thread on its processor.
#[derive(Debug, Serialize)]
struct Report {
    rules: usize,
    rules_not_valid: usize,
    events: usize,
    bytes_per_event: usize,
    matches: usize,
    matches_per_event: f64,
    events_per_second: f64,
    ns_per_event: f64,
    threads: u16,
    /// All threads together, by the clock on the wall.
    events_per_second_together: f64,
    parse_seconds: f64,
    index_seconds: f64,
    memory_bytes: Option<u64>,
    comparisons_at_most: u64,
    updates: Option<Updates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_that_differ: Option<usize>,
}

/// Measures.
///
/// # Errors
/// A file that cannot be read, a line that is not what it should be, no valid rule, no event.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let events = read_events(&args.events)?;
    let before = clock::memory();
    let (parsing, rules) = clock::timed(|| read_rules(&args.rules));
    let rules = rules?;
    let all = rules.len();
    let patterns = (0..).zip(rules).filter_map(|(number, rule)| Some((number, rule.pattern.ok()?)));
    let patterns: Vec<(u32, Arc<Pattern>)> = patterns.collect();
    if patterns.is_empty() {
        bail!("{} holds no valid rule", args.rules.display());
    }
    let (indexing, index) = clock::timed(|| Index::new(patterns.iter().map(|(id, p)| (*id, Arc::clone(p)))));
    let memory = clock::memory().zip(before).map(|(after, before)| after.saturating_sub(before));
    let rounds = together(&index, &events, args);
    let best = rounds.iter().map(|round| round.ran).min().unwrap_or_default().as_secs_f64();
    let clock = rounds.iter().map(|round| round.clock).min().unwrap_or_default().as_secs_f64();
    let count = events.len() as f64;
    let matches = rounds.first().map_or(0, |round| round.matches);
    let report = Report {
        rules: patterns.len(),
        rules_not_valid: all - patterns.len(),
        events: events.len(),
        bytes_per_event: events.iter().map(Vec::len).sum::<usize>() / events.len(),
        matches,
        matches_per_event: matches as f64 / count,
        events_per_second: count / best,
        ns_per_event: best * 1e9 / count,
        threads: args.threads,
        events_per_second_together: count * f64::from(args.threads) / clock,
        parse_seconds: parsing.as_secs_f64(),
        index_seconds: indexing.as_secs_f64(),
        memory_bytes: memory,
        comparisons_at_most: index.load(),
        updates: updates::measure(&index, &patterns),
        events_that_differ: args.check.then(|| differing(&index, &patterns, &events)),
    };
    context.output.one(&report, text)?;
    Ok(if report.events_that_differ.is_none_or(|events| events == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_events(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut events = Vec::new();
    each_line(path, |_, line| {
        Json::parse(line).context("the event is not JSON")?;
        events.push(line.to_vec());
        Ok(())
    })?;
    if events.is_empty() {
        bail!("{} holds no event", path.display());
    }
    Ok(events)
}

/// One round of one thread.
struct Round {
    ran: Duration,
    clock: Duration,
    matches: usize,
}

/// The rounds of all threads.
fn together(index: &Index, events: &[Vec<u8>], args: &Args) -> Vec<Round> {
    thread::scope(|scope| {
        let work = (0..args.threads).map(|_| scope.spawn(|| rounds(index, events, args.rounds)));
        let work: Vec<_> = work.collect();
        work.into_iter().flat_map(|work| work.join().expect("matching does not panic")).collect()
    })
}

fn rounds(index: &Index, events: &[Vec<u8>], rounds: u16) -> Vec<Round> {
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    let mut round = || {
        let begun = Instant::now();
        let (ran, matches) = clock::timed(|| {
            let mut matches = 0;
            for event in events {
                // All of them are JSON: they were read.
                let _ = index.find_in_json(event, &mut scratch, &mut found);
                matches += found.len();
            }
            matches
        });
        Round { ran, clock: begun.elapsed(), matches }
    };
    (0..rounds).map(|_| round()).collect()
}

/// How many events match other rules than the plain evaluator says.
fn differing(index: &Index, patterns: &[(u32, Arc<Pattern>)], events: &[Vec<u8>]) -> usize {
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    let differs = |event: &&Vec<u8>| {
        let told = index.find_in_json(event, &mut scratch, &mut found);
        let Ok(document) = Json::parse(event) else { return told.is_ok() };
        let wanted = patterns.iter().filter(|(_, pattern)| pattern.matches(&document)).map(|(id, _)| id);
        !wanted.eq(&found)
    };
    events.iter().filter(differs).count()
}

fn text(report: &Report) -> String {
    let millis = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let mut rows = vec![
        ("rules", format!("{} ({} not valid)", report.rules, report.rules_not_valid)),
        ("events", format!("{} of {} bytes", report.events, report.bytes_per_event)),
        ("matches", format!("{} ({:.3} an event)", report.matches, report.matches_per_event)),
        ("one thread", format!("{:.0} events/s ({:.0} ns an event)", report.events_per_second, report.ns_per_event)),
        ("together", format!("{:.0} events/s ({} threads)", report.events_per_second_together, report.threads)),
        ("load", format!("{} to parse, {} to index", millis(report.parse_seconds), millis(report.index_seconds))),
        ("memory", report.memory_bytes.map_or_else(|| "not known".to_owned(), output::bytes)),
        ("at most", format!("{} comparisons an event", report.comparisons_at_most)),
    ];
    if let Some(updates) = &report.updates {
        rows.extend(updates.rows());
    }
    if let Some(events) = report.events_that_differ {
        rows.push(("check", format!("{events} of {} events differ from the evaluator", report.events)));
    }
    output::fields(&rows)
}
