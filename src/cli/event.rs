//! `oncue event`: what happened to events, from the ledger.
//!
//! Invariant: reads only. A list goes from the newest event to the oldest, by the time that the source gave.

use std::process::ExitCode;

use crate::delivery::DeliveryId;
use crate::store::Store;
use crate::store::events::{EventFilter, LedgerRow};

use super::Context;
use super::arguments::Page;
use super::output::{micros, moment};

mod show;
mod tail;
mod tree;
mod unmatched;

/// What may be typed after `oncue event`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The newest attempts
    List {
        /// The events that no rule matched instead: how many of each trigger and type a day, with a sample
        #[arg(long, conflicts_with_all = ["rule", "function", "outcome"])]
        unmatched: bool,
        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        filter: Filter,
    },
    /// An event, its deliveries and what they caused
    Show(show::Args),
    /// Follow the ledger, one line for each attempt
    Tail(tail::Args),
}

/// Which attempts.
#[derive(Clone, Debug, clap::Args)]
struct Filter {
    /// Events of this type
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
    /// Events of this trigger
    #[arg(long)]
    trigger: Option<String>,
    /// Deliveries of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Runs of this function
    #[arg(long)]
    function: Option<String>,
    /// ok, retry, reject, trap, timeout, limit:memory, …
    #[arg(long)]
    outcome: Option<String>,
}

impl Filter {
    fn to_store(&self, page: Option<&Page>) -> EventFilter {
        EventFilter {
            since: page.and_then(Page::since),
            event_type: self.ty.clone(),
            trigger: self.trigger.clone(),
            rule: self.rule.clone(),
            function: self.function.clone(),
            outcome: self.outcome.clone(),
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Those of the database; an event that is not there.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    match args.verb {
        Verb::List { unmatched: true, page, filter } => unmatched::list(&store, &page, &filter, context).await,
        Verb::List { unmatched: false, page, filter } => list(&store, &page, &filter, context).await,
        Verb::Show(args) => show::run(&store, &args, context).await,
        Verb::Tail(args) => tail::run(&store, &args, context).await,
    }
}

async fn list(store: &Store, page: &Page, filter: &Filter, context: &Context) -> anyhow::Result<ExitCode> {
    let rows = store.ledger(&filter.to_store(Some(page)), i64::from(page.limit)).await?;
    let columns =
        ["time", "event", "type", "trigger", "rule", "function", "try", "outcome", "settled", "took", "fuel", "node"];
    context.output.list(&columns, &rows, cells)?;
    Ok(ExitCode::SUCCESS)
}

fn cells(row: &LedgerRow) -> Vec<String> {
    vec![
        moment(DeliveryId(row.delivery_id).time()),
        row.event_id.clone(),
        row.event_type.clone(),
        row.trigger.clone(),
        row.rule.clone(),
        target(row),
        row.attempt.to_string(),
        row.outcome.clone(),
        row.settlement.clone(),
        micros(row.micros.unsigned_abs()),
        row.fuel.to_string(),
        row.node.clone(),
    ]
}

/// `rule → welcome@3`; the rule alone if it publishes.
fn path(row: &LedgerRow) -> String {
    match target(row).as_str() {
        "-" => row.rule.clone(),
        function => format!("{} → {function}", row.rule),
    }
}

/// `welcome@3`; `-` for a rule that publishes.
fn target(row: &LedgerRow) -> String {
    match (&row.function, row.version) {
        (Some(function), Some(version)) => format!("{function}@{version}"),
        _ => "-".to_owned(),
    }
}
