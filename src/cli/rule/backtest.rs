//! `oncue rule backtest`: what a rule would have matched, on events that came already.
//!
//! Invariant: nothing is run, published, acknowledged or written. The verdict on each event is that of a node: the same
//! decoding, the same document, the same rules. What is held does not grow with the events. What a source no longer has, and
//! whatever else makes the answer less than whole, is said.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use time::OffsetDateTime;

use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::store::Store;
use crate::store::control::ControlPlane;

mod chart;
mod costs;
mod loops;
mod report;
mod samples;
mod source;
mod subject;
mod tally;
mod text;

use report::Report;
use source::{Reader, Taken};
use subject::Subject;
use tally::Tally;

/// How often progress is told, in events.
const TOLD_EVERY: u64 = 500;

/// The longest period: what `record_for` can be.
const PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
const PERIOD_MIN: Duration = Duration::from_secs(60);

/// What may be typed after `oncue rule backtest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rule; with --file, the rule of that name in the file
    #[arg(required_unless_present_any = ["file", "pattern"])]
    name: Option<String>,
    /// A file with the rule: TOML with the keys of `[[rule]]` or a whole manifest, JSON with the same keys, or a pattern
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A pattern instead of a rule
    #[arg(long, value_name = "JSON", conflicts_with_all = ["name", "file"])]
    pattern: Option<String>,
    /// Only events of this trigger, whatever the rule says
    #[arg(long)]
    trigger: Option<String>,
    /// How far back, from 1m to 366d, such as 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = period)]
    since: Duration,
    /// Where the events are read from [default: the record of triggers that record all, else the bus where it keeps events]
    #[arg(long, value_enum)]
    source: Option<SourceKind>,
    /// Read this JetStream stream or Kafka topic instead, whether a trigger reads it or not; repeatable
    #[arg(long, value_name = "BUS/NAME", conflicts_with = "source", value_parser = bus_and_name)]
    from: Vec<(String, String)>,
    /// Most events that are read
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    limit: u64,
}

/// Where events are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SourceKind {
    /// What the trigger records, and what of its events is parked or dead
    Recorded,
    /// The stream or the topics that the trigger reads
    Bus,
}

/// How the reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// Everything was read.
    Whole,
    /// As much as may be.
    Limit,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// A source failed.
    Failed(String),
}

fn period(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (PERIOD_MIN..=PERIOD_MAX).contains(&period) {
        return Ok(period);
    }
    Err("it is a duration from 1m to 366d, such as 24h".to_owned())
}

fn bus_and_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((bus, name)) if !bus.is_empty() && !name.is_empty() => Ok((bus.to_owned(), name.to_owned())),
        _ => Err("it is a bus and its stream or topic, such as events/APP".to_owned()),
    }
}

/// Tries the rule. The exit code is 1 if not everything was read.
///
/// # Errors
/// No such rule, trigger, stream or topic; a rule with a mistake; a bus or a database that does not answer.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the rules")?;
    let subject = subject::read(&args, &tables)?;
    // This machine's clock need not agree.
    let until = store.database_now().await?;
    let since = until - args.since;
    let mut readers = source::open(&args, &subject, &tables, (&store, context), since).await?;
    let mut tally = Tally::new(&subject, &tables, since, until);
    let ended = read(&mut readers, &mut tally, &args, context).await;
    let report = finish(&args, (&subject, tally), (readers, ended), (&tables, &store)).await?;
    context.output.one(&report, text::text)?;
    Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Reads every source to its end, unless something ends it before.
async fn read(readers: &mut [Reader], tally: &mut Tally<'_>, args: &Args, context: &Context) -> Ended {
    let mut progress = Progress::new(context.output);
    let expected: u64 = readers.iter().map(|reader| reader.expected).sum();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut ended = Ended::Whole;
    'sources: for reader in readers.iter_mut() {
        loop {
            let taken = tokio::select! {
                biased;
                _ = &mut interrupted => { ended = Ended::Interrupted; break 'sources; }
                taken = reader.next() => taken,
            };
            match taken {
                Ok(None) => break,
                Ok(Some(taken)) => take(reader, tally, taken),
                Err(error) => {
                    reader.failed = Some(format!("{error:#}"));
                    ended = Ended::Failed(format!("{error:#}"));
                    break;
                }
            }
            if tally.read >= args.limit {
                ended = Ended::Limit;
                break 'sources;
            }
            if tally.read.is_multiple_of(TOLD_EVERY) {
                let of = if expected > 0 { format!(" of about {expected}") } else { String::new() };
                progress.show(&format!("read {}{of} events, {} hits", tally.read, tally.hits));
            }
        }
    }
    progress.end();
    ended
}

fn take(reader: &mut Reader, tally: &mut Tally<'_>, taken: Taken) {
    match taken.event {
        Ok(event) => {
            reader.events += 1;
            tally.take(&reader.trigger, taken.at, &Arc::new(event));
        }
        Err(error) => tally.reject(error),
    }
}

async fn finish(
    args: &Args,
    (subject, tally): (&Subject, Tally<'_>),
    (readers, ended): (Vec<Reader>, Ended),
    (tables, store): (&ControlPlane, &Store),
) -> anyhow::Result<Report> {
    let hits_per_day = tally.hits_per_day(&ended, readers.iter().any(|reader| !reader.gaps.is_empty()));
    let cost = costs::estimate(subject, hits_per_day, tables, store).await?;
    let mut warnings = loops::warnings(subject, &tally, tables, store).await?;
    if tally.rejected > 0 {
        let why = tally.rejection.as_deref().unwrap_or_default();
        warnings
            .push(format!("{} messages are no events and would be rejected, the first because: {why}", tally.rejected));
    }
    Ok(Report::new(args, (subject, tally), (readers, ended), (hits_per_day, cost, warnings)))
}

/// The hour of a moment, counted from 1970.
fn hour_of(at: OffsetDateTime) -> i64 {
    at.unix_timestamp().div_euclid(3_600)
}
