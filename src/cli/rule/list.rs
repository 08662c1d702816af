//! `oncue rule list` and `show`.

use std::process::ExitCode;

use serde::Serialize;

use crate::config::{Form, rule_form, target_text};
use crate::pattern::Json;
use crate::store::control::RuleRow;

use crate::cli::arguments::Limit;
use crate::cli::{Context, output};

/// What may be typed after `oncue rule list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only rules of this trigger
    #[arg(long)]
    trigger: Option<String>,
    /// Only rules that the nodes leave out because of an error
    #[arg(long)]
    broken: bool,
    /// Only rules that have matched nothing, as far back as usage is kept
    #[arg(long)]
    never_matched: bool,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    trigger: Option<&'a str>,
    target: String,
    enabled: bool,
    error: Option<&'a str>,
    cost: Option<i64>,
    definition: Form,
}

impl<'a> Shown<'a> {
    fn of(row: &'a RuleRow) -> Self {
        Self {
            name: &row.rule.name,
            trigger: row.rule.trigger.as_deref(),
            target: target_text(&row.rule.target),
            enabled: row.rule.enabled,
            error: row.error.as_deref(),
            cost: row.cost,
            definition: rule_form(&row.rule),
        }
    }
}

/// Lists the rules.
///
/// # Errors
/// Those of the database.
pub async fn list(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let tables = super::tables(context).await?;
    let idle = if args.never_matched { Some(context.store().await?.never_matched().await?) } else { None };
    let is_idle = |r: &&RuleRow| idle.as_ref().is_none_or(|idle| idle.binary_search(&r.rule.name).is_ok());
    let of_trigger = |r: &&RuleRow| args.trigger.is_none() || r.rule.trigger == args.trigger;
    let rows = tables.rules.iter().filter(of_trigger).filter(|r| !args.broken || r.error.is_some()).filter(is_idle);
    let rows: Vec<Shown<'_>> = args.limit.first(rows.map(Shown::of));
    context.output.list(&["name", "trigger", "target", "enabled", "cost", "error"], &rows, |row| {
        vec![
            row.name.to_owned(),
            row.trigger.unwrap_or("any").to_owned(),
            row.target.clone(),
            if row.enabled { "yes" } else { "no" }.to_owned(),
            row.cost.map_or_else(|| "-".to_owned(), |cost| cost.to_string()),
            output::dash(row.error),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the rule `name`.
///
/// # Errors
/// No such rule, those of the database.
pub async fn show(name: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let tables = super::tables(context).await?;
    let row = super::find(&tables, name)?;
    context.output.one(&Shown::of(row), |shown| text(shown, row))?;
    Ok(ExitCode::SUCCESS)
}

fn text(shown: &Shown<'_>, row: &RuleRow) -> String {
    let of = |key: &str| match shown.definition.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let fields = output::fields(&[
        ("rule", shown.name.to_owned()),
        ("trigger", shown.trigger.unwrap_or("any").to_owned()),
        ("target", shown.target.clone()),
        ("enabled", if shown.enabled { "yes" } else { "no" }.to_owned()),
        ("error", shown.error.unwrap_or_default().to_owned()),
        ("cost", shown.cost.map_or_else(String::new, |cost| format!("{cost} comparisons an event"))),
        ("ordering key", of("ordering_key")),
        ("on failure", of("on_failure")),
        ("retry", of("retry")),
        ("rate", of("rate")),
        ("input", of("input")),
    ]);
    let pattern = match row.rule.pattern.as_deref() {
        None => "every event".to_owned(),
        Some(text) => match Json::parse(text.as_bytes()) {
            Ok(json) => format!("\n{}", output::pretty(&json)),
            Err(_) => text.to_owned(),
        },
    };
    format!("{fields}pattern {}", output::printable(&pattern))
}
