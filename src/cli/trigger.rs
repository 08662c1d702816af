//! `oncue trigger`: lists, shows, pauses and resumes triggers, and has change feeds read tables again.
//!
//! Invariant: a gap, which says that events are missing, is not forgotten without `--accept-gap` or `--resnapshot`.

mod backfill;
mod feed;
mod gap;
mod group;

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use crate::config::{duration_text, trigger_form};
use crate::store::control::{ControlPlane, TriggerRow};
use crate::store::feeds::Restart;
use crate::store::{Store, StoreError};
use crate::triggers::spec::TriggerSpec;

use super::arguments::Limit;
use super::{Context, output};

use self::feed::FeedFacts;
use self::group::GroupFacts;

/// What may be typed after `oncue trigger`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the triggers
    List(Limit),
    /// Show a trigger
    Show {
        /// The trigger
        name: String,
    },
    /// Read nothing more; what was read is finished
    Pause {
        /// The trigger
        name: String,
    },
    /// Read on where it stopped
    Resume {
        /// The trigger
        name: String,
        /// Go on although events between are lost
        #[arg(long)]
        accept_gap: bool,
        /// The same for a change feed, and read its tables again, so that what was missed comes as rows
        #[arg(long, conflicts_with = "accept_gap")]
        resnapshot: bool,
    },
    /// Have a change feed read the rows of a table, beside the changes that it follows
    Backfill(backfill::Args),
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    bus: &'a str,
    kind: &'a str,
    state: &'a str,
    error: Option<&'a str>,
    rules: Vec<&'a str>,
    record: &'a str,
    record_for: String,
    spec: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<FeedFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupFacts>,
}

impl<'a> Shown<'a> {
    fn of(row: &'a TriggerRow, tables: &'a ControlPlane) -> Self {
        let rules = tables.rules.iter().filter(|r| r.rule.trigger.as_ref().is_none_or(|t| *t == row.name));
        Self {
            name: &row.name,
            bus: &row.bus,
            kind: &row.kind,
            state: &row.state,
            error: row.error.as_deref(),
            rules: rules.map(|r| r.rule.name.as_str()).collect(),
            record: &row.record,
            record_for: duration_text(row.recording().keep),
            spec: TriggerSpec::parse(&row.kind, &row.spec)
                .map_or_else(|_| row.spec.clone(), |spec| trigger_form(&row.bus, &spec, &row.recording()).into()),
            feed: None,
            group: None,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Those of the database, a trigger that is not there.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the triggers")?;
    match args.command {
        Command::List(limit) => list(&limit, &tables, context)?,
        Command::Show { name } => {
            let row = find(&tables, &name)?;
            let mut shown = Shown::of(row, &tables);
            shown.feed = FeedFacts::of(row, &store, context).await?;
            shown.group = GroupFacts::of(row, &store, context).await?;
            context.output.one(&shown, text)?;
        }
        Command::Pause { name } => {
            let row = find(&tables, &name)?;
            ensure!(row.state != "gap", "{name} is in a gap and reads nothing; see `oncue trigger show {name}`");
            let before = store.set_trigger_state(&name, "paused").await?;
            tell(row, "paused", before, context)?;
        }
        Command::Resume { name, accept_gap, resnapshot } => {
            let row = find(&tables, &name)?;
            let before = resume(row, &store, accept_gap, resnapshot).await?;
            tell(row, "active", before, context)?;
        }
        Command::Backfill(args) => return backfill::run(&args, find(&tables, &args.name)?, &store, context).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the trigger active; gives the state that it had.
async fn resume(row: &TriggerRow, store: &Store, accept_gap: bool, resnapshot: bool) -> anyhow::Result<String> {
    let (name, is_feed) = (&row.name, row.kind == "postgres");
    // What is accepted is written down, so that every node goes on behind it.
    let has_gaps = is_feed || row.kind == "kafka";
    ensure!(is_feed || !resnapshot, "{name} is no change feed: --accept-gap goes on without what is missing");
    if row.state != "gap" {
        ensure!(!resnapshot, "{name} is in no gap: `oncue trigger backfill {name} --table …` reads a table again");
        return Ok(store.set_trigger_state(name, "active").await?);
    }
    let reason = row.error.as_deref().unwrap_or("no range is known");
    // Most reasons say it themselves.
    let mend = if reason.contains("oncue trigger resume") {
        String::new()
    } else {
        let again = if is_feed { "; with --resnapshot it also reads the tables again" } else { "" };
        format!("; `oncue trigger resume {name} --accept-gap` goes on without them{again}")
    };
    ensure!(accept_gap || resnapshot, "{name} is in a gap, events are missing: {reason}{mend}");
    let restart = if resnapshot { Restart::Resnapshot } else { Restart::Accept };
    Ok(if has_gaps { store.accept_gap(name, restart).await? } else { store.set_trigger_state(name, "active").await? })
}

fn find<'a>(tables: &'a ControlPlane, name: &str) -> Result<&'a TriggerRow, StoreError> {
    let missing = || StoreError::Missing { kind: "trigger", name: name.to_owned() };
    tables.triggers.iter().find(|t| t.name == name).ok_or_else(missing)
}

fn list(limit: &Limit, tables: &ControlPlane, context: &Context) -> std::io::Result<()> {
    let rows: Vec<Shown<'_>> = limit.first(tables.triggers.iter().map(|t| Shown::of(t, tables)));
    context.output.list(&["name", "bus", "kind", "source", "rules", "state", "error"], &rows, |row| {
        vec![
            row.name.to_owned(),
            row.bus.to_owned(),
            row.kind.to_owned(),
            source(&row.spec),
            row.rules.len().to_string(),
            row.state.to_owned(),
            output::dash(row.error),
        ]
    })
}

/// `APP: user.>`, `user.>`, `orders`, `public.users`, `publication NAME` or `messages >`.
fn source(spec: &Value) -> String {
    let words = |key: &str| match &spec[key] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        word => word.as_str().unwrap_or_default().to_owned(),
    };
    let what = ["subjects", "subject", "topics", "tables"].map(words).into_iter().find(|w| !w.is_empty());
    match (words("stream"), what) {
        (stream, Some(what)) if stream.is_empty() => what,
        (stream, Some(what)) => format!("{stream}: {what}"),
        (stream, None) if !stream.is_empty() => stream,
        _ if spec["publication"].is_string() => format!("publication {}", words("publication")),
        _ => format!("messages {}", words("messages")),
    }
}

#[derive(Serialize)]
struct Changed<'a> {
    name: &'a str,
    state: &'a str,
    previous_state: String,
}

fn tell(row: &TriggerRow, state: &str, previous_state: String, context: &Context) -> std::io::Result<()> {
    let changed = Changed { name: &row.name, state, previous_state };
    context.output.one(&changed, |c| format!("{} is {} (before: {})", c.name, c.state, c.previous_state))
}

fn text(shown: &Shown<'_>) -> String {
    let mut rows = vec![
        ("trigger", shown.name.to_owned()),
        ("kind", shown.kind.to_owned()),
        ("state", shown.state.to_owned()),
        ("error", shown.error.unwrap_or_default().to_owned()),
        ("rules", if shown.rules.is_empty() { "-".to_owned() } else { shown.rules.join(", ") }),
        (
            "record",
            if shown.record == "none" {
                "none".to_owned()
            } else {
                format!("{} for {}", shown.record, shown.record_for)
            },
        ),
    ];
    let spec = shown.spec.as_object();
    for (key, value) in spec.into_iter().flatten().filter(|(key, _)| !key.starts_with("record")) {
        rows.push((key, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    let mut text = output::fields(&rows);
    if let Some(feed) = &shown.feed {
        text.push_str(&feed.text());
    }
    if let Some(group) = &shown.group {
        text.push_str(&group.text());
    }
    text
}
