//! `oncue dead-letter`: looks at deliveries that were given up, drives them again, drops them.
//!
//! Invariant: a command that selects by a filter changes nothing without `--yes`; what it would do is shown first.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::FORGED;
use crate::store::Store;
use crate::store::dead_letters::{DeadLetterFilter, DeadLetterRow};

use super::Context;
use super::arguments::Page;
use super::output::{bytes, dash, moment};

mod drop;
mod plan;
mod redrive;
mod show;

/// Most dead letters that one command takes; run it again for more.
const SELECTION_MAX: i64 = 100_000;

/// What may be typed after `oncue dead-letter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The newest dead letters
    List {
        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        filter: Filter,
        /// dead, redriven, dropped or all
        #[arg(long, default_value = "dead", value_parser = ["dead", "redriven", "dropped", "all"])]
        state: String,
    },
    /// Everything that was kept of one
    Show(show::Args),
    /// Run them again
    Redrive(redrive::Args),
    /// Give them up; their bytes stay until retention
    Drop(drop::Args),
}

/// Which dead letters.
#[derive(Clone, Debug, clap::Args)]
struct Filter {
    /// Deliveries of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Messages of this trigger
    #[arg(long)]
    trigger: Option<String>,
    /// Those that died of this: reject, trap, timeout, limit, limit:memory, …
    #[arg(long)]
    class: Option<String>,
    /// Runs of this function
    #[arg(long)]
    function: Option<String>,
}

/// Which dead letters a change is for: some by their ids, or a filter, or all.
#[derive(Clone, Debug, clap::Args)]
struct Selection {
    /// Dead letters, by id
    #[arg(value_name = "ID", conflicts_with_all = ["rule", "trigger", "class", "function", "since", "all"])]
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// Those that died since then, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// All dead letters
    #[arg(long)]
    all: bool,
    /// Do it, where a filter selects
    #[arg(long, short)]
    yes: bool,
}

impl Filter {
    fn to_store(&self, state: Option<&str>, since: Option<OffsetDateTime>) -> DeadLetterFilter {
        DeadLetterFilter {
            ids: None,
            state: state.map(str::to_owned),
            rule: self.rule.clone(),
            trigger: self.trigger.clone(),
            class: self.class.clone(),
            function: self.function.clone(),
            since,
        }
    }

    fn is_empty(&self) -> bool {
        [&self.rule, &self.trigger, &self.class, &self.function].iter().all(|f| f.is_none())
    }
}

impl Selection {
    /// The dead letters that are meant and still dead, the oldest event first.
    async fn read(&self, store: &Store) -> anyhow::Result<Vec<DeadLetterRow>> {
        let something = !self.ids.is_empty() || !self.filter.is_empty() || self.since.is_some() || self.all;
        ensure!(something, "nothing is selected: name ids, or a filter (--rule, --class, --since, …), or --all");
        let since = self.since.map(|age| OffsetDateTime::now_utc() - age);
        let mut filter = self.filter.to_store(Some("dead"), since);
        filter.ids = (!self.ids.is_empty()).then(|| self.ids.clone());
        let rows = store.dead_letters(&filter, true, SELECTION_MAX).await?;
        if let Some(missing) = self.ids.iter().find(|id| !rows.iter().any(|r| r.id == **id)) {
            let letter = store.dead_letter(*missing).await?;
            anyhow::bail!("dead letter {missing} is {} already", letter.row.state);
        }
        Ok(rows)
    }

    /// Whether forged messages are meant: no wider filter takes them.
    fn names_forged(&self) -> bool {
        !self.ids.is_empty() || self.filter.class.as_deref() == Some(FORGED)
    }

    /// Whether the change may be made without being shown first.
    fn is_confirmed(&self) -> bool {
        self.yes || !self.ids.is_empty()
    }
}

/// Runs the verb.
///
/// # Errors
/// Those of the database; a dead letter that is not there.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    match args.verb {
        Verb::List { page, filter, state } => {
            let state = Some(state.as_str()).filter(|s| *s != "all");
            let rows = store.dead_letters(&filter.to_store(state, page.since()), false, i64::from(page.limit)).await?;
            let columns =
                ["id", "died", "state", "class", "trigger", "rule", "function", "tries", "event", "bytes", "error"];
            context.output.list(&columns, &rows, cells)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Show(args) => show::run(&store, &args, context).await,
        Verb::Redrive(args) => Box::pin(redrive::run(&store, &args, context)).await,
        Verb::Drop(args) => drop::run(&store, &args, context).await,
    }
}

fn cells(row: &DeadLetterRow) -> Vec<String> {
    vec![
        row.id.to_string(),
        moment(row.dead_at),
        row.state.clone(),
        row.class.clone(),
        row.trigger.clone(),
        dash(row.rule.as_deref()),
        target(row),
        row.tries.to_string(),
        dash(row.event_type.as_deref()),
        bytes(u64::from(row.bytes.unsigned_abs())),
        shorten(&row.error),
    ]
}

/// `welcome@3`, or `-`.
fn target(row: &DeadLetterRow) -> String {
    match (&row.function, row.version) {
        (Some(function), Some(version)) => format!("{function}@{version}"),
        _ => "-".to_owned(),
    }
}

/// The beginning of the first line.
fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let short: String = line.chars().take(80).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
