//! `oncue dead-letter redrive`: parks what dead letters become, the oldest event first, no faster than a rate.
//!
//! Invariant: a batch is one transaction: a letter is marked when and only when its deliveries are parked. A run that
//! is broken off leaves whole batches behind, and the next one goes on with the rest.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::output::{bytes, dash};
use crate::delivery::FORGED;
use crate::event::codec::Limits;
use crate::store::Store;
use crate::store::dead_letters::{DeadLetterRow, Redrive};

use super::plan::{Options, Planner};
use super::{Selection, shorten};

/// Letters of one transaction: their bytes are in memory once.
const BATCH: usize = 100;
/// Say how far it is after so many.
const PROGRESS: usize = 1_000;
/// Lines of a dry run.
const SHOWN: usize = 50;

/// What may be typed after `oncue dead-letter redrive`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Only show what would happen; the default where a filter selects
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Run what the rule names now, not the version that failed
    #[arg(long)]
    with_current: bool,
    /// Starts in a second
    #[arg(long, default_value = "100/s", value_name = "N/s", value_parser = rate)]
    rate: u32,
    /// Raise the limit for messages that were too large, such as 4MiB
    #[arg(long, value_name = "BYTES")]
    max_size: Option<bytesize::ByteSize>,
    /// The type of rejected messages that are no CloudEvents
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
}

/// What happens to one letter.
#[derive(Debug, Serialize)]
struct Verdict {
    id: Uuid,
    class: String,
    rule: Option<String>,
    bytes: i32,
    /// What it runs as.
    runs: Vec<String>,
    /// Why it stays.
    stays: Option<String>,
}

#[derive(Debug, Serialize)]
struct Redriven {
    dry_run: bool,
    redriven: usize,
    stay: usize,
    letters: Vec<Verdict>,
}

pub(super) async fn run(store: &Store, args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let rows = args.selection.read(store).await?;
    let planner = Planner::new(store.control_plane().await?, options(args, context)?);
    let dry_run = args.dry_run || !args.selection.is_confirmed();
    let forged = args.selection.names_forged();
    let mut run = Run { store, planner, rate: args.rate, position: 0, dry_run, forged };
    let mut result = Redriven { dry_run, redriven: 0, stay: 0, letters: Vec::new() };
    for (at, batch) in rows.chunks(BATCH).enumerate() {
        let verdicts = run.batch(batch).await.with_context(|| format!("{} were redriven before", result.redriven))?;
        result.redriven += verdicts.iter().filter(|v| v.stays.is_none()).count();
        result.stay += verdicts.iter().filter(|v| v.stays.is_some()).count();
        result.letters.extend(verdicts);
        let done = (at + 1) * BATCH;
        if done.is_multiple_of(PROGRESS) {
            context.output.note(&format!("{done} of {}", rows.len()));
        }
    }
    context.output.one(&result, |result| describe(result, args.rate))?;
    Ok(if result.stay > 0 && result.redriven == 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn options(args: &Args, context: &Context) -> anyhow::Result<Options> {
    let node = &context.config()?.node;
    let mut limits: Limits = node.limits;
    if let Some(size) = args.max_size {
        limits.max_bytes = usize::try_from(size.as_u64())?;
    }
    Ok(Options { with_current: args.with_current, limits, ty: args.ty.clone() })
}

struct Run<'a> {
    store: &'a Store,
    planner: Planner,
    rate: u32,
    /// Deliveries that were planned so far.
    position: u64,
    dry_run: bool,
    /// Whether forged messages are meant too.
    forged: bool,
}

impl Run<'_> {
    async fn batch(&mut self, rows: &[DeadLetterRow]) -> anyhow::Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(rows.len());
        let mut redrives = Vec::with_capacity(rows.len());
        for row in rows {
            let letter = self.store.dead_letter(row.id).await?;
            let mut verdict = Verdict {
                id: row.id,
                class: row.class.clone(),
                rule: row.rule.clone(),
                bytes: row.bytes,
                runs: Vec::new(),
                stays: None,
            };
            let planned = match row.class == FORGED && !self.forged {
                true => Err("it is forged: its id, or --class forged, runs it all the same".to_owned()),
                false => self.planner.plan(&letter),
            };
            match planned {
                Ok(mut deliveries) => {
                    for delivery in &mut deliveries {
                        delivery.after_ms = after_ms(self.position, self.rate);
                        self.position += 1;
                        let function = delivery.function.as_ref().map(|(f, v)| format!(" → {f}@{v}"));
                        verdict.runs.push(format!("{}{}", delivery.rule, function.unwrap_or_default()));
                    }
                    redrives.push(Redrive { id: row.id, deliveries });
                }
                Err(why) => verdict.stays = Some(why),
            }
            verdicts.push(verdict);
        }
        if !self.dry_run {
            let taken = self.store.redrive(&redrives).await?;
            for verdict in verdicts.iter_mut().filter(|v| v.stays.is_none() && !taken.contains(&v.id)) {
                verdict.stays = Some("somebody else redrove or dropped it meanwhile".to_owned());
            }
        }
        Ok(verdicts)
    }
}

fn after_ms(position: u64, rate: u32) -> i64 {
    i64::try_from(position * 1_000 / u64::from(rate)).unwrap_or(i64::MAX)
}

fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse() {
        Ok(rate @ 1..=1_000_000) => Ok(rate),
        _ => Err("it is a number of starts in a second, such as 50/s".to_owned()),
    }
}

fn describe(result: &Redriven, rate: u32) -> String {
    let mut text = String::new();
    let shown = result.letters.iter().filter(|v| result.dry_run || v.stays.is_some());
    for verdict in shown.take(SHOWN) {
        let what = match &verdict.stays {
            Some(why) => format!("stays: {}", shorten(why)),
            None => verdict.runs.join(", "),
        };
        let size = bytes(u64::from(verdict.bytes.unsigned_abs()));
        text.push_str(&format!(
            "{}  {}  {}  {size}  {what}\n",
            verdict.id,
            verdict.class,
            dash(verdict.rule.as_deref())
        ));
    }
    if result.letters.len() > SHOWN && result.dry_run {
        text.push_str(&format!("… and {} more\n", result.letters.len() - SHOWN));
    }
    let (count, stay) = (result.redriven, result.stay);
    text.push_str(&match (result.dry_run, count) {
        (true, 0) => format!("nothing would be redriven, {stay} stay"),
        (true, _) => format!("{count} would be redriven at {rate}/s, {stay} stay: add --yes to do it"),
        (false, _) => format!("redrove {count} at {rate}/s, {stay} stay; `oncue event tail` shows them run"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_spread_over_time_by_the_rate() {
        assert_eq!([0, 1, 50, 100].map(|p| after_ms(p, 50)), [0, 20, 1_000, 2_000]);
        assert_eq!((rate("50/s"), rate("7")), (Ok(50), Ok(7)));
        assert!(rate("0").is_err() && rate("1/m").is_err());
    }
}
