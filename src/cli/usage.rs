//! `oncue usage`: what ran, how long and how much, and whether the sums are those of the ledger.
//!
//! Invariant: costs are computed from the sums that are shown and from nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use time::macros::date;

use crate::store::Store;
use crate::store::usage::{UsageBy, UsageCheck, UsageRow};

use super::Context;
use super::arguments::Page;

/// What may be typed after `oncue usage`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to sum by
    #[arg(long, value_enum, default_value_t = By::Function)]
    by: By,
    #[command(flatten)]
    page: Page,
    /// Prices, for a column of costs: a TOML file with per_million_runs, per_billion_fuel, per_second, currency
    #[arg(long, value_name = "FILE")]
    rates: Option<PathBuf>,
    /// Add the ledger up again and say whether the sums are the same
    #[arg(long, conflicts_with = "rates")]
    check: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    Function,
    Rule,
    Day,
    Trigger,
}

/// Prices of a unit of each kind.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rates {
    per_million_runs: f64,
    per_billion_fuel: f64,
    per_second: f64,
    currency: String,
}

/// A row with its cost.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    sums: UsageRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

/// Shows usage.
///
/// # Errors
/// Those of the database; a file of rates that cannot be read.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    if args.check {
        return check(&args, &store, context).await;
    }
    let rates = args.rates.as_deref().map(read_rates).transpose()?;
    let by = match args.by {
        By::Function => UsageBy::Function,
        By::Rule => UsageBy::Rule,
        By::Day => UsageBy::Day,
        By::Trigger => UsageBy::Trigger,
    };
    let rows = store.usage(by, args.page.since(), i64::from(args.page.limit)).await?;
    let lines: Vec<Line> =
        rows.into_iter().map(|sums| Line { cost: rates.as_ref().map(|r| r.cost(&sums)), sums }).collect();
    let mut columns = vec![by.name(), "runs", "failed", "seconds", "fuel", "emitted"];
    let cost = rates.map(|r| format!("cost {}", r.currency).trim().to_owned());
    columns.extend(cost.as_deref());
    context.output.list(&columns, &lines, cells)?;
    Ok(ExitCode::SUCCESS)
}

fn cells(line: &Line) -> Vec<String> {
    let sums = &line.sums;
    let key = if sums.key.is_empty() { "(rules that publish)" } else { &sums.key };
    let mut cells = vec![
        key.to_owned(),
        sums.runs.to_string(),
        sums.failed.to_string(),
        format!("{:.6}", sums.micros as f64 / 1e6),
        sums.fuel.to_string(),
        sums.outputs.to_string(),
    ];
    cells.extend(line.cost.map(|c| format!("{c:.6}")));
    cells
}

impl Rates {
    fn cost(&self, sums: &UsageRow) -> f64 {
        sums.runs as f64 / 1e6 * self.per_million_runs
            + sums.fuel as f64 / 1e9 * self.per_billion_fuel
            + sums.micros as f64 / 1e6 * self.per_second
    }
}

fn read_rates(path: &Path) -> anyhow::Result<Rates> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no file of rates", path.display()))
}

async fn check(args: &Args, store: &Store, context: &Context) -> anyhow::Result<ExitCode> {
    let begins = store.ledger_begins().await?.unwrap_or(date!(1970 - 01 - 01));
    let since = args.page.since().map_or(begins, |s| s.date().max(begins));
    let check = store.check_usage(since).await?;
    let exact = check.differences.is_empty();
    context.output.one(&check, |check| describe(check, &since.to_string()))?;
    Ok(if exact { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn describe(check: &UsageCheck, since: &str) -> String {
    let UsageCheck { sums, runs, differences } = check;
    if differences.is_empty() {
        return format!("{sums} sums since {since} are exactly those of {runs} ledger rows");
    }
    let mut text = format!("{} of {sums} sums since {since} differ from the ledger:\n", differences.len());
    for d in differences.iter().take(20) {
        let function = if d.function.is_empty() { String::new() } else { format!(" {}@{}", d.function, d.version) };
        text.push_str(&format!(
            "  {} {} {}{function}: runs {} summed, {} in the ledger; µs {}, {}; fuel {}, {}\n",
            d.day, d.trigger, d.rule, d.runs.0, d.runs.1, d.micros.0, d.micros.1, d.fuel.0, d.fuel.1
        ));
    }
    text.push_str("rows that retention dropped from the ledger stay in the sums: check with a later --since");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_the_sum_of_runs_fuel_and_time() {
        let rates = Rates { per_million_runs: 1.0, per_billion_fuel: 2.0, per_second: 3.0, currency: String::new() };
        let sums = UsageRow {
            key: "welcome@1".to_owned(),
            runs: 2_000_000,
            failed: 0,
            micros: 1_500_000,
            fuel: 500_000_000,
            outputs: 0,
        };
        assert!((rates.cost(&sums) - (2.0 + 1.0 + 4.5)).abs() < 1e-9);
    }
}
